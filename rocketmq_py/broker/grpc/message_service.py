"""The broker, asked from inside: every RPC becomes requests as a proxy sends them. Source: LocalMessageService."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from rocketmq_py.broker.channel import Channel
from rocketmq_py.broker.grpc.context import ProxyContext
from rocketmq_py.remoting.frame import RemotingCommand

Answered = Callable[[RemotingCommand], None]


class Broker(Protocol):
    """Who answers: ``broker_controller.BrokerController``."""

    def on_request(self, channel: Channel, request: RemotingCommand, *, trusted: bool = False) -> None:
        """Answer by ``channel.write``, now or later."""
        ...

    def on_close(self, channel: Channel) -> None:
        """Nobody waits at this channel any more."""
        ...


class Call:
    """One request: the channel to which its answer is written, satisfying ``broker.channel.Channel``."""

    def __init__(self, broker: Broker, context: ProxyContext, answered: Answered) -> None:
        self._broker = broker
        self._answered: Answered | None = answered
        self.remote_address = context.remote_address
        self.remote_host = context.remote_host

    def write(self, command: RemotingCommand) -> None:
        """The answer; what else the broker has to say is for connections that last."""
        answered = self._answered
        if command.is_response and answered is not None:
            self._answered = None
            answered(command)

    def close(self) -> None:
        """Nothing to close."""

    def cancel(self) -> None:
        """Stop waiting: a request that is held is forgotten. An answer that is under way comes all the same."""
        if self._answered is not None:
            self._broker.on_close(self)


class LocalMessageService:
    """Asks the broker. On the loop's thread only."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def ask(
        self,
        context: ProxyContext,
        code: int,
        fields: Mapping[str, object],
        answered: Answered,
        *,
        body: bytes = b"",
    ) -> Call:
        """Make a request; ``answered`` is called with the answer, perhaps before this returns."""
        call = Call(self._broker, context, answered)
        texts = {name: str(value) for name, value in fields.items()}
        self._broker.on_request(call, RemotingCommand(code, 0, 0, None, texts, body), trusted=True)
        return call
