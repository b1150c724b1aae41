"""What the broker asks of its clients, over the connections that they made.

Source: Broker2Client, and ``invokeSync``, ``invokeOneway`` of NettyRemotingAbstract, here without a thread that waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rocketmq_py.broker.channel import Channel
from rocketmq_py.broker.loop import Loop
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.remoting.frame import ONEWAY_FLAG, RemotingCommand

CALL_TIMEOUT_MS = 10_000
"""How long an answer is awaited. Source: Broker2Client.callClient."""

CALLS_MAX = 10_000
"""Answers that are awaited at a time."""

Answered = Callable[[RemotingCommand | None, str], None]
"""``answered(answer, reason)``: the client's answer, or None and why there will be none."""

TIMED_OUT = "no answer in time"
CLOSED = "its connection has ended"


_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Call:
    channel: Channel
    answered: Answered


class Broker2Client:
    """Owner of the calls that await an answer; on the loop's thread only."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._calls: dict[int, _Call] = {}
        self._opaque = 0

    def invoke_oneway(self, channel: Channel, code: int, fields: Mapping[str, object], body: bytes = b"") -> None:
        """Tell a client something."""
        channel.write(self._request(code, fields, body, ONEWAY_FLAG))

    def invoke(
        self,
        channel: Channel,
        code: int,
        fields: Mapping[str, object],
        body: bytes,
        answered: Answered,
        timeout_ms: int = CALL_TIMEOUT_MS,
    ) -> None:
        """Ask a client something; ``answered`` is called once, later.

        Raises:
            BrokerError: too many answers are awaited.
        """
        if len(self._calls) >= CALLS_MAX:
            raise BrokerError(ResponseCode.SYSTEM_BUSY, f"{CALLS_MAX} answers of clients are awaited, try again")
        request = self._request(code, fields, body, 0)
        call = self._calls[request.opaque] = _Call(channel, answered)
        self._loop.call_later(timeout_ms, lambda: self._end(request.opaque, call, TIMED_OUT))
        channel.write(request)

    def _request(self, code: int, fields: Mapping[str, object], body: bytes, flag: int) -> RemotingCommand:
        self._opaque = (self._opaque + 1) & 0x7FFFFFFF
        texts = {name: str(value) for name, value in fields.items()}
        return RemotingCommand(code, self._opaque, flag, ext_fields=texts, body=body)

    def on_response(self, channel: Channel, response: RemotingCommand) -> None:
        """An answer came; one that nobody awaits from this client is for nobody."""
        call = self._calls.get(response.opaque)
        if call is not None and call.channel is channel:
            del self._calls[response.opaque]
            self._tell(call, response, "")

    def channel_closed(self, channel: Channel) -> None:
        """End the calls of a connection that has ended."""
        for opaque, call in [(opaque, call) for opaque, call in self._calls.items() if call.channel is channel]:
            self._end(opaque, call, CLOSED)

    def _end(self, opaque: int, call: _Call, reason: str) -> None:
        if self._calls.get(opaque) is call:
            del self._calls[opaque]
            self._tell(call, None, reason)

    @staticmethod
    def _tell(call: _Call, answer: RemotingCommand | None, reason: str) -> None:
        try:
            call.answered(answer, reason)
        except Exception:  # noqa: BLE001 - border: what one client answers must not stop the others
            _log.exception("handling an answer of %s failed", call.channel.remote_address)
