"""Messages on their way out: checked, copied, and several as one batch.

Source: Validators.checkMessage, MessageBatch.
"""

from __future__ import annotations

from collections.abc import Sequence

from rocketmq_py.clock import Clock
from rocketmq_py.errors import ConfigError
from rocketmq_py.model import names
from rocketmq_py.model.message import Message, MessageConst, format_properties
from rocketmq_py.model.unique_id import create_uniq_id
from rocketmq_py.remoting.message_codec import PROPERTIES_MAX_BYTES, encode_batch


class OutgoingMessage(Message):
    """A message, or an encoded batch, on its way out: a copy of the user's.

    Attributes:
        properties: of the message, or of the batch as a whole; the unique id is added when it is missing.
        msg_ids: ids of a batch's messages; empty for a single message.
    """

    __slots__ = ("msg_ids",)

    def __init__(
        self, topic: str, body: bytes, flag: int, properties: dict[str, str], msg_ids: Sequence[str] = ()
    ) -> None:
        # Not the checks of a user's message: the properties are complete.
        self.topic = topic
        self.body = body
        self.flag = flag
        self.properties = properties
        self.msg_ids = msg_ids

    @property
    def is_batch(self) -> bool:
        """Whether the body is an encoded batch."""
        return bool(self.msg_ids)


def outgoing_single(message: Message, max_message_size: int) -> OutgoingMessage:
    """A copy of one message.

    Raises:
        ConfigError: no broker would take it.
    """
    _check(message, max_message_size)
    return OutgoingMessage(message.topic, message.body, message.flag, dict(message.properties))


def outgoing_batch(messages: Sequence[Message], max_message_size: int, clock: Clock) -> OutgoingMessage:
    """Several messages as one, each with a unique id.

    Raises:
        ConfigError: they cannot be stored together.

    Source: MessageBatch.generateFromList, DefaultMQProducer.batch.
    """
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
        _check(message, max_message_size)
        if message.topic != first.topic or message.wait_store_msg_ok != first.wait_store_msg_ok:
            raise ConfigError("all messages of a batch must have the same topic and wait_store_msg_ok")
        delayed = message.delay_time_level or message.is_timer
        if delayed or message.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
            raise ConfigError("delayed messages and messages to retry topics cannot be sent in a batch")
        ids.append(message.properties.get(MessageConst.UNIQ_KEY) or create_uniq_id(clock))
        parts.append((message.body, message.flag, {**message.properties, MessageConst.UNIQ_KEY: ids[-1]}))
    body = encode_batch(parts)
    if len(body) > max_message_size:
        raise ConfigError(f"the batch has {len(body)} bytes, the limit is {max_message_size}: split it")
    properties = {MessageConst.WAIT_STORE_MSG_OK: first.properties[MessageConst.WAIT_STORE_MSG_OK]}
    return OutgoingMessage(first.topic, body, first.flag, properties, ids)


def _check(message: Message, max_message_size: int) -> None:
    names.check_topic(message.topic)
    if not message.body:
        raise ConfigError("the body of a message is empty: brokers refuse that")
    if len(message.body) > max_message_size:
        raise ConfigError(f"the body has {len(message.body)} bytes, the limit is {max_message_size}")
    size = len(format_properties(message.properties).encode())
    if size > PROPERTIES_MAX_BYTES:
        raise ConfigError(f"the properties have {size} bytes, the limit is {PROPERTIES_MAX_BYTES}")
