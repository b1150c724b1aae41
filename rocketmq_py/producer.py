"""The producer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from rocketmq_py.client_instance import MQClientInstance, process_clients
from rocketmq_py.errors import ConfigError, IllegalStateError
from rocketmq_py.model import names
from rocketmq_py.model.config import INT_MAX, ProducerConfig, check_names, check_range
from rocketmq_py.model.message import Message, MessageConst, format_properties
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import SendResult
from rocketmq_py.model.unique_id import create_uniq_id
from rocketmq_py.remoting.message_codec import encode_batch
from rocketmq_py.remoting.message_sender import OutgoingMessage
from rocketmq_py.runtime import Mutex, Runtime, ThreadRuntime

PROPERTIES_MAX_BYTES = 32_767
"""What the two-byte length in a stored message allows."""

Selector = Callable[[Sequence[MessageQueue], Message, Any], MessageQueue]
"""Chooses a message's queue: ``selector(queues, message, arg)``. Source: MessageQueueSelector."""


class DefaultMQProducer(ProducerConfig):
    """Sends messages. Settings are attributes and keywords, see ``ProducerConfig``; they take effect at ``start``.

    Args:
        producer_group: name of the group.
        **settings: see ``ProducerConfig``.

    Raises:
        ConfigError: there is no such setting.

    Source: DefaultMQProducer, DefaultMQProducerImpl.
    """

    __slots__ = ("_client", "_closed", "_lock", "_runtime", "group")

    def __init__(self, producer_group: str, **settings: Any) -> None:
        check_names(ProducerConfig, settings)
        super().__init__(**settings)
        self.group = producer_group
        self._runtime: Runtime = ThreadRuntime()
        self._lock = Mutex()  # guards the two below
        self._client: MQClientInstance | None = None
        self._closed = False

    def start(self) -> None:
        """Make ready to send; connects to nothing yet.

        Raises:
            ConfigError: a setting is out of range, or there is no name server.
            IllegalStateError: started before, or the group has a producer in this client already.
        """
        self.check_producer(self.group)
        with self._lock:
            if self._client is not None or self._closed:
                raise IllegalStateError("a producer is started once: make a new one")
            client = process_clients.acquire(self)
            if client.register_producer(self.group):
                self._client = client
                return
        process_clients.release(client)
        raise IllegalStateError(
            f"the producer group {self.group} has a producer in client {client.client_id} already: "
            "use another group or another instance_name"
        )

    def shutdown(self) -> None:
        """Leave. May be called twice and before ``start``; sends under way fail."""
        with self._lock:
            client, self._client = self._client, None
            self._closed = True
        if client is not None:
            client.unregister_producer(self.group)
            process_clients.release(client)

    def send(
        self,
        message: Message | Sequence[Message],
        *,
        selector: Selector | None = None,
        arg: Any = None,
        timeout_ms: int | None = None,
    ) -> SendResult:
        """Send and wait until a broker stored it.

        Args:
            message: one, or several of one topic that are stored together, in order, in one queue.
            selector: chooses the queue, ``selector(queues, message, arg)``; then no other queue is tried. Default:
                queues in turn, another broker when one fails.
            arg: handed to the selector, for example an order number.
            timeout_ms: for this send with all its attempts; default ``send_msg_timeout``.

        Raises:
            ConfigError: the message cannot be sent as it is: empty, too large, illegal topic, unlike batch members.
            BrokerError: it was refused.
            TransportError: no answer; it may be stored all the same.
            IllegalStateError: the producer is not started.
        """
        client = self._started()
        if timeout_ms is None:
            timeout_ms = self.send_msg_timeout
        check_range("timeout_ms", timeout_ms, 1, INT_MAX)
        is_batch = not isinstance(message, Message)
        outgoing = self._batch(message) if is_batch else self._single(message)  # type: ignore[arg-type]
        client.note_published_topic(self.group, outgoing.topic)
        queue = None
        if selector is not None:
            if is_batch:
                raise ConfigError("a batch goes to one queue as a whole: give the selector a single message")
            queue = self._selected(client, selector, message, arg)  # type: ignore[arg-type]
        return client.sender.send(
            self.group,
            outgoing,
            timeout_ms,
            retries=0 if selector else self.retry_times_when_send_failed,
            queue=queue,
            compress_over_bytes=self.compress_msg_body_over_howmuch,
            new_topic_queues=self.default_topic_queue_nums,
        )

    def fetch_publish_message_queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be sent to; asks a name server if they are not known."""
        client = self._started()
        names.check_topic(topic)
        return client.sender.publish_queues(topic, self.default_topic_queue_nums)

    def __enter__(self) -> Self:
        """``start``."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """``shutdown``."""
        self.shutdown()

    def __repr__(self) -> str:
        state = "running" if self._client is not None else "shut down" if self._closed else "not started"
        return f"<DefaultMQProducer {self.group} {state}>"

    def _started(self) -> MQClientInstance:
        client = self._client
        if client is None:
            raise IllegalStateError("the producer is not started" if not self._closed else "the producer was shut down")
        return client

    def _single(self, message: Message) -> OutgoingMessage:
        self._check(message)
        return OutgoingMessage(message.topic, message.body, message.flag, dict(message.properties))

    def _batch(self, messages: Sequence[Message]) -> OutgoingMessage:
        """Source: MessageBatch.generateFromList, DefaultMQProducer.batch."""
        if not isinstance(messages, list | tuple):
            raise ConfigError(
                f"send takes a Message or a list of them, not {type(messages).__name__}; "
                "to forward a MessageExt make a Message(msg.topic, msg.body, ...)"
            )
        if not messages:
            raise ConfigError("a batch needs at least one message")
        first: Message = messages[0]
        ids, parts = [], []
        for message in messages:
            if not isinstance(message, Message):
                raise ConfigError(f"a batch consists of Message objects, not {type(message).__name__}")
            self._check(message)
            if message.topic != first.topic or message.wait_store_msg_ok != first.wait_store_msg_ok:
                raise ConfigError("all messages of a batch must have the same topic and wait_store_msg_ok")
            if message.delay_time_level or message.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
                raise ConfigError("delayed messages and messages to retry topics cannot be sent in a batch")
            ids.append(message.properties.get(MessageConst.UNIQ_KEY) or create_uniq_id(self._runtime.clock))
            parts.append((message.body, message.flag, {**message.properties, MessageConst.UNIQ_KEY: ids[-1]}))
        body = encode_batch(parts)
        if len(body) > self.max_message_size:
            raise ConfigError(f"the batch has {len(body)} bytes, the limit is {self.max_message_size}: split it")
        properties = {MessageConst.WAIT_STORE_MSG_OK: first.properties[MessageConst.WAIT_STORE_MSG_OK]}
        return OutgoingMessage(first.topic, body, first.flag, properties, ids)

    def _check(self, message: Message) -> None:
        """Source: Validators.checkMessage."""
        names.check_topic(message.topic)
        if not message.body:
            raise ConfigError("the body of a message is empty: brokers refuse that")
        if len(message.body) > self.max_message_size:
            raise ConfigError(f"the body has {len(message.body)} bytes, the limit is {self.max_message_size}")
        size = len(format_properties(message.properties).encode())
        if size > PROPERTIES_MAX_BYTES:
            raise ConfigError(f"the properties have {size} bytes, the limit is {PROPERTIES_MAX_BYTES}")

    def _selected(self, client: MQClientInstance, selector: Selector, message: Message, arg: object) -> MessageQueue:
        queues = client.sender.publish_queues(message.topic, self.default_topic_queue_nums)
        queue = selector(queues, message, arg)
        if queue not in queues:
            raise ConfigError(f"the selector chose {queue!r}, which is none of the {len(queues)} queues it was given")
        return queue
