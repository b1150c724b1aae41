"""A consumer that asks for messages when it likes, and says itself what became of each. By gRPC only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from rocketmq_py.client_instance import FORKED
from rocketmq_py.errors import ConfigError, IllegalStateError
from rocketmq_py.model import names
from rocketmq_py.model.config import ClientConfig, check_names, check_range
from rocketmq_py.model.life_cycle import StartedByWith
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.settings import ClientSettings
from rocketmq_py.model.subscription import SUB_ALL, MessageSelector, SubscriptionData, build_selected
from rocketmq_py.runtime import Mutex, Runtime, ThreadRuntime

if TYPE_CHECKING:
    from rocketmq_py.grpc_v2.simple_client import SimpleClient

RECEIVE_MAX = 32
INVISIBLE_MIN_MS = 10_000
INVISIBLE_MAX_MS = 12 * 3_600_000


class SimpleConsumer(ClientConfig, StartedByWith):
    """Receives, acknowledges, and puts off messages; no listener, no threads of its own that consume.

    Args:
        consumer_group: name of the group; its members share the messages.
        **settings: see ``ClientConfig``; ``endpoints`` is needed.

    Raises:
        ConfigError: there is no such setting.

    Source: SimpleConsumer, SimpleConsumerImpl of the Java gRPC client.
    """

    __slots__ = ("_client", "_closed", "_lock", "_runtime", "_subscriptions", "group")

    def __init__(self, consumer_group: str, **settings: Unpack[ClientSettings]) -> None:
        check_names(ClientConfig, settings)
        super().__init__(**settings)
        self.group = consumer_group
        self._runtime: Runtime = ThreadRuntime()
        self._lock = Mutex()  # guards the three below
        self._client: SimpleClient | None = None
        self._closed = False
        self._subscriptions: dict[str, SubscriptionData] = {}

    def subscribe(self, topic: str, expression: str | MessageSelector | None = SUB_ALL) -> None:
        """Receive a topic, or by another expression; also while running.

        Args:
            topic: its name.
            expression: ``*`` or None for everything, tags separated by ``||``, or a ``MessageSelector``.

        Raises:
            ConfigError: the name or the expression is not legal.
        """
        names.check_topic(topic)
        full = self.with_namespace(topic)
        if not isinstance(expression, MessageSelector):
            expression = MessageSelector.by_tag(expression)
        subscription = build_selected(full, expression, self._runtime.clock.wall_ms())
        with self._lock:
            self._subscriptions[full] = subscription
            client = self._client
        if client is not None:
            client.client.sync_settings()

    def unsubscribe(self, topic: str) -> None:
        """Receive a topic no more."""
        with self._lock:
            self._subscriptions.pop(self.with_namespace(topic), None)
            client = self._client
        if client is not None:
            client.client.sync_settings()

    def start(self) -> None:
        """Connect and let the server know.

        Raises:
            ConfigError: a setting is out of range, or there are no ``endpoints``.
            IllegalStateError: started before.
            RocketMQError: the server cannot be reached, or refuses this client.
        """
        names.check_group(self.with_namespace(self.group))
        self.check_client()
        if self.endpoints is None:
            raise ConfigError("a SimpleConsumer speaks gRPC: give endpoints='host:port', the gRPC port of a proxy")
        if self.rpc_hook is not None:
            raise ConfigError("endpoints: rpc_hook cannot work on the gRPC wire: there are no remoting commands")
        if self.namespace_v2 is not None:
            raise ConfigError("endpoints: namespace_v2 cannot work on the gRPC wire: remoting requests name it")
        from rocketmq_py.grpc_v2.simple_client import SimpleClient

        with self._lock:
            if self._client is not None or self._closed:
                raise IllegalStateError("a SimpleConsumer is started once: make a new one")
        client = SimpleClient(self.with_namespace(self.group), self, self._runtime, self._current)
        with self._lock:
            taken = self._client is None and not self._closed
            if taken:
                self._client = client
        if not taken:
            client.close()
            raise IllegalStateError("the consumer was started or shut down meanwhile")

    def _current(self) -> list[SubscriptionData]:
        with self._lock:
            return list(self._subscriptions.values())

    def receive(
        self, max_message_num: int, invisible_duration_ms: int, *, await_duration_ms: int = 20_000
    ) -> list[MessageExt]:
        """Wait for messages; of several topics and brokers one is asked at a time, in turn.

        Args:
            max_message_num: 1..32.
            invisible_duration_ms: how long nobody else gets them, 10,000 to 43,200,000. What is not acknowledged by
                then comes again.
            await_duration_ms: how long to wait while there are none; a proxy takes 5,000 to 20,000.

        Returns:
            The messages; none when none came.

        Raises:
            ConfigError: a number is out of range.
            IllegalStateError: not started, or nothing is subscribed.
            RocketMQError: the server refused, or did not answer.
        """
        check_range("max_message_num", max_message_num, 1, RECEIVE_MAX)
        check_range("invisible_duration_ms", invisible_duration_ms, INVISIBLE_MIN_MS, INVISIBLE_MAX_MS)
        check_range("await_duration_ms", await_duration_ms, 1, INVISIBLE_MAX_MS)
        msgs = self._started().receive(max_message_num, invisible_duration_ms, await_duration_ms)
        if self.namespace:
            for msg in msgs:
                msg._topic = names.without_namespace(self.namespace, msg.topic)
        return msgs

    def ack(self, msg: MessageExt) -> None:
        """A message is consumed.

        Raises:
            ConfigError: it is no message of ``receive``.
            BrokerError: its invisible time has passed (code 40013), or the server refused otherwise.
            TransportError: no answer; it may have been carried out.
        """
        client = self._started()
        client.ack(self.with_namespace(_received(msg).topic), msg)

    def change_invisible_duration(self, msg: MessageExt, invisible_duration_ms: int) -> None:
        """Have a message come again so much later from now, 0 to 43,200,000 ms; until then it can be acknowledged.

        Raises:
            ConfigError: it is no message of ``receive``, or the time is out of range.
            BrokerError: its invisible time has passed (code 40013), or the server refused otherwise.
            TransportError: no answer.
        """
        check_range("invisible_duration_ms", invisible_duration_ms, 0, INVISIBLE_MAX_MS)
        client = self._started()
        client.change_invisible_duration(self.with_namespace(_received(msg).topic), msg, invisible_duration_ms)

    def shutdown(self) -> None:
        """Leave. Messages received and not acknowledged can be acknowledged no more. May be called twice."""
        with self._lock:
            client, self._client = self._client, None
            self._closed = True
        if client is not None and not client.client.forked:
            client.close()

    def _started(self) -> SimpleClient:
        with self._lock:
            client = self._client
        if client is None:
            raise IllegalStateError("the consumer is not started" if not self._closed else "the consumer was shut down")
        if client.client.forked:
            raise IllegalStateError(FORKED.format("consumer"))
        return client

    def __repr__(self) -> str:
        state = "running" if self._client is not None else "shut down" if self._closed else "not started"
        return f"<SimpleConsumer {self.group} {state} {sorted(self._subscriptions)}>"


def _received(msg: object) -> MessageExt:
    if not isinstance(msg, MessageExt):
        raise ConfigError(f"give a message that receive() returned, one at a time, not {type(msg).__name__}")
    return msg
