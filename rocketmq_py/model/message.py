"""Messages: what a producer sends and what a listener gets.

``MessageExt`` is made on the hot path (one per message pulled), so it keeps what the wire gave it and translates when
asked: the fixed-size part of the record and the properties stay bytes until somebody reads one of them, ids and hosts
are computed on access.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.codes import MessageSysFlag


class MessageConst:
    """Names of properties with a meaning. Source: MessageConst."""

    KEYS = "KEYS"
    TAGS = "TAGS"
    WAIT_STORE_MSG_OK = "WAIT"
    DELAY_TIME_LEVEL = "DELAY"
    RETRY_TOPIC = "RETRY_TOPIC"
    REAL_TOPIC = "REAL_TOPIC"
    REAL_QUEUE_ID = "REAL_QID"
    TRANSACTION_PREPARED = "TRAN_MSG"
    MIN_OFFSET = "MIN_OFFSET"
    MAX_OFFSET = "MAX_OFFSET"
    ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID"
    RECONSUME_TIME = "RECONSUME_TIME"
    MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES"
    UNIQ_KEY = "UNIQ_KEY"
    INSTANCE_ID = "INSTANCE_ID"
    POP_CK = "POP_CK"
    FIRST_POP_TIME = "1ST_POP_TIME"
    CLUSTER = "CLUSTER"
    MSG_REGION = "MSG_REGION"
    TRACE_SWITCH = "TRACE_ON"
    TIMER_DELIVER_MS = "TIMER_DELIVER_MS"
    TIMER_DELAY_SEC = "TIMER_DELAY_SEC"
    TIMER_DELAY_MS = "TIMER_DELAY_MS"
    TIMER_OUT_MS = "TIMER_OUT_MS"
    TIMER_ENQUEUE_MS = "TIMER_ENQUEUE_MS"
    TIMER_DEQUEUE_MS = "TIMER_DEQUEUE_MS"
    PRODUCER_GROUP = "PGROUP"
    TRANSACTION_ID = "__transactionId__"
    TRANSACTION_PREPARED_QUEUE_OFFSET = "TRAN_PREPARED_QUEUE_OFFSET"
    TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES"
    CHECK_IMMUNITY_TIME_IN_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS"
    CORRELATION_ID = "CORRELATION_ID"
    MESSAGE_REPLY_TO_CLIENT = "REPLY_TO_CLIENT"
    MESSAGE_TTL = "TTL"
    MESSAGE_TYPE = "MSG_TYPE"
    REPLY_MESSAGE_ARRIVE_TIME = "ARRIVE_TIME"
    PUSH_REPLY_TIME = "PUSH_REPLY_TIME"
    SHARDING_KEY = "__SHARDINGKEY"
    PRIORITY = "_SYS_MSG_PRIORITY_"
    TRACE_CONTEXT = "TRACE_CONTEXT"
    DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC"
    DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID"


TIMER_PROPERTIES = frozenset({MessageConst.TIMER_DELIVER_MS, MessageConst.TIMER_DELAY_SEC, MessageConst.TIMER_DELAY_MS})

NAME_VALUE_SEPARATOR = "\x01"
PROPERTY_SEPARATOR = "\x02"

# What a producer's user may not set, because brokers and clients read it. Source: MessageConst.STRING_HASH_SET.
RESERVED_PROPERTIES = frozenset(
    "KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET MAX_OFFSET BUYER_ID "
    "ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME MSG_REGION TRACE_ON UNIQ_KEY "
    "EXTEND_UNIQ_INFO MAX_RECONSUME_TIMES CONSUME_START_TIME TRAN_PREPARED_QUEUE_OFFSET TRANSACTION_CHECK_TIMES "
    "CHECK_IMMUNITY_TIME_IN_SECONDS INSTANCE_ID CORRELATION_ID REPLY_TO_CLIENT TTL ARRIVE_TIME PUSH_REPLY_TIME CLUSTER "
    "MSG_TYPE POP_CK POP_CK_OFFSET 1ST_POP_TIME TIMER_DELIVER_MS TIMER_DELAY_SEC TIMER_DELAY_MS INNER_NUM INNER_BASE "
    "__SHARDINGKEY DUP_INFO DLQ_ORIGIN_TOPIC DLQ_ORIGIN_MESSAGE_ID __CRC32#".split()
)


class Message:
    """A message to send.

    Args:
        topic: where to; letters, digits, ``%|_-``, at most 127 characters.
        body: the payload, not empty; text is the caller's to encode.
        tags: one tag that consumers may select by.
        keys: business keys, one or several, by which operators find the message.
        properties: further properties; names that RocketMQ reads itself are refused.
        flag: an integer for the user's own use.
        delay_time_level: 0 at once, else the broker's delay level 1..18.
        delay_time_sec: deliver so many seconds after it was stored; 0 at once. Brokers allow 3 days by default.
        delay_time_ms: the same in ms; brokers round to a second by default.
        deliver_time_ms: deliver at this moment, ms since 1970; 0, or a moment past, at once.
        message_group: messages of one group keep their order where a topic and a consumer group are made for it (FIFO);
            the proxy chooses their queue by it, so ``endpoints`` are needed; a producer with ``namesrv_addr`` warns,
            and needs a selector.
        priority: of topics whose messages have one, higher ones first when they are popped; from 0. It is the number of
            the queue, or the last one if there are fewer; brokers before 5.5 do not know it.
        wait_store_msg_ok: whether the broker answers only after its configured flush and replication.

    Raises:
        ConfigError: a property name is reserved, a name or value is empty or holds U+0001 or U+0002, a time
            or level is negative or no integer, or more than one kind of delay is given.
    """

    __slots__ = ("body", "flag", "properties", "topic")

    body: bytes
    flag: int
    properties: dict[str, str]
    topic: str

    def __init__(
        self,
        topic: str,
        body: bytes,
        *,
        tags: str | None = None,
        keys: str | Iterable[str] | None = None,
        properties: Mapping[str, str] | None = None,
        flag: int = 0,
        delay_time_level: int = 0,
        delay_time_sec: int = 0,
        delay_time_ms: int = 0,
        deliver_time_ms: int = 0,
        message_group: str | None = None,
        priority: int | None = None,
        wait_store_msg_ok: bool = True,
    ) -> None:
        if not isinstance(body, bytes | bytearray | memoryview):
            hint = ": encode text first" if isinstance(body, str) else ""
            raise ConfigError(f"the body of a message is bytes, not {type(body).__name__}{hint}")
        self.topic = topic
        self.body = bytes(body)
        self.flag = flag
        self.properties = {}
        for name, value in (properties or {}).items():
            self.put_user_property(name, value)
        if tags:
            self.properties[MessageConst.TAGS] = _checked("tags", tags)
        if keys:
            several = [keys] if isinstance(keys, str) else list(keys) if isinstance(keys, Iterable) else [keys]
            if not all(isinstance(key, str) for key in several):
                raise ConfigError(f"keys are a str or several of them, not {keys!r}")
            self.properties[MessageConst.KEYS] = _checked("keys", " ".join(several))
        if isinstance(delay_time_level, bool) or not isinstance(delay_time_level, int) or delay_time_level < 0:
            raise ConfigError(f"delay_time_level is an integer from 0, not {delay_time_level!r}")
        if delay_time_level:
            self.properties[MessageConst.DELAY_TIME_LEVEL] = str(delay_time_level)
        self._set_timer(MessageConst.TIMER_DELAY_SEC, delay_time_sec)
        self._set_timer(MessageConst.TIMER_DELAY_MS, delay_time_ms)
        self._set_timer(MessageConst.TIMER_DELIVER_MS, deliver_time_ms)
        if sum(map(bool, (delay_time_level, delay_time_sec, delay_time_ms, deliver_time_ms))) > 1:
            raise ConfigError("give one of delay_time_level, delay_time_sec, delay_time_ms and deliver_time_ms")
        if message_group is not None:
            self.properties[MessageConst.SHARDING_KEY] = _checked("message_group", message_group)
        if priority is not None:
            if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority < 2**31:
                raise ConfigError(f"priority is an integer from 0, not {priority!r}")
            self.properties[MessageConst.PRIORITY] = str(priority)
        self.properties[MessageConst.WAIT_STORE_MSG_OK] = "true" if wait_store_msg_ok else "false"

    def put_user_property(self, name: str, value: str) -> None:
        """Set a property of the user's own. Source: Message.putUserProperty.

        Raises:
            ConfigError: the name is reserved, or name or value is empty or holds a separator.
        """
        if name in RESERVED_PROPERTIES:
            raise ConfigError(f"the property {name!r} is used by RocketMQ itself: choose another name")
        self.properties[_checked("a property's name", name)] = _checked(f"property {name!r}", value)

    @property
    def tags(self) -> str | None:
        """The tag, or None."""
        return self.properties.get(MessageConst.TAGS)

    @property
    def keys(self) -> str | None:
        """Business keys, separated by spaces, or None."""
        return self.properties.get(MessageConst.KEYS)

    @property
    def wait_store_msg_ok(self) -> bool:
        """Whether a send waits for the broker's flush and replication."""
        return self.properties.get(MessageConst.WAIT_STORE_MSG_OK, "true") == "true"

    @property
    def delay_time_level(self) -> int:
        """The broker's delay level, 0 for none."""
        return int(self.properties.get(MessageConst.DELAY_TIME_LEVEL, "0"))

    @property
    def is_timer(self) -> bool:
        """Whether it is to be delivered after a time or at a moment of its own."""
        return not TIMER_PROPERTIES.isdisjoint(self.properties)

    @property
    def transaction_id(self) -> str | None:
        """Id of the transaction it is sent in, known once it was sent; else None. Source: Message.getTransactionId."""
        if self.properties.get(MessageConst.TRANSACTION_PREPARED) != "true":
            return None
        return self.properties.get(MessageConst.UNIQ_KEY)

    def get_property(self, name: str) -> str | None:
        """One property, or None."""
        return self.properties.get(name)

    def _set_timer(self, name: str, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise ConfigError(f"the time of {name} is an integer from 0, not {value!r}")
        if value:
            self.properties[name] = str(value)

    def __repr__(self) -> str:
        return f"Message(topic={self.topic!r}, body={len(self.body)} bytes, properties={self.properties!r})"


def _checked(what: str, text: str) -> str:
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{what} is not a text or is empty")
    if NAME_VALUE_SEPARATOR in text or PROPERTY_SEPARATOR in text:
        raise ConfigError(f"{what} holds U+0001 or U+0002, by which the protocol separates properties")
    return text


class MessageHead(NamedTuple):
    """The fixed-size fields of a stored message, in the order of the wire.

    Hosts are packed as the wire has them: 4 or 16 bytes of address, then the port as a 4-byte integer.
    """

    store_size: int
    magic: int
    body_crc: int
    queue_id: int
    flag: int
    queue_offset: int
    commit_log_offset: int
    sys_flag: int
    born_timestamp: int
    born_host: bytes
    store_timestamp: int
    store_host: bytes
    reconsume_times: int
    prepared_transaction_offset: int

    @classmethod
    def unpack(cls, record: bytes) -> MessageHead:
        """Read the beginning of a stored message.

        Raises:
            struct.error, IndexError: it is cut short.
        """
        return cls._make(HEAD_LAYOUTS[record[SYS_FLAG_LOW_BYTE] & V6_HOSTS].unpack_from(record))


V6_HOSTS = MessageSysFlag.BORNHOST_V6 | MessageSysFlag.STOREHOST_V6
SYS_FLAG_LOW_BYTE = 39

HEAD_LAYOUTS = {
    v6: struct.Struct(
        f">iiiiiqqiq{20 if v6 & MessageSysFlag.BORNHOST_V6 else 8}sq{20 if v6 & MessageSysFlag.STOREHOST_V6 else 8}siq"
    )
    for v6 in (0, MessageSysFlag.BORNHOST_V6, MessageSysFlag.STOREHOST_V6, V6_HOSTS)
}
"""The fields of ``MessageHead`` by the sys flag's bits of ``V6_HOSTS``."""


class PullBounds(NamedTuple):
    """What a pull tells about the queue; its messages share it instead of carrying three properties each."""

    min_offset: int
    max_offset: int
    broker_name: str


class MessageExt:
    """A received message. Read only: the consume services alone restore its topic and count its attempts.

    Keyword construction is for tests and tools; messages from the wire are made by ``remoting.message_codec``.

    Attributes:
        body: the payload, decompressed.
        topic: the topic as subscribed (a retried message shows its original topic).
        queue_offset: place in its queue, from 0; of a retried message in the retry topic's queue. ``msg_id`` stays the
            same in every delivery, this does not.
        reconsume_times: failed deliveries so far, from 0.
    """

    __slots__ = (
        "_bounds",
        "_consume_start_ms",
        "_head",
        "_properties",
        "_raw_properties",
        "_reconsume_times",
        "_topic",
        "body",
        "queue_offset",
    )

    body: bytes
    queue_offset: int
    _topic: str
    _head: bytes | MessageHead  # bytes until somebody asks
    _raw_properties: bytes
    _properties: dict[str, str] | None
    _reconsume_times: int
    _bounds: PullBounds | None
    _consume_start_ms: int  # monotonic, set when a listener gets it. Java: the property CONSUME_START_TIME

    def __init__(
        self,
        *,
        topic: str = "",
        body: bytes = b"",
        queue_id: int = 0,
        queue_offset: int = 0,
        properties: Mapping[str, str] | None = None,
        tags: str | None = None,
        keys: str | None = None,
        flag: int = 0,
        sys_flag: int = 0,
        commit_log_offset: int = 0,
        born_timestamp: int = 0,
        store_timestamp: int = 0,
        born_host: tuple[str, int] = ("0.0.0.0", 0),  # noqa: S104 - a value, nothing is bound
        store_host: tuple[str, int] = ("0.0.0.0", 0),  # noqa: S104
        reconsume_times: int = 0,
        prepared_transaction_offset: int = 0,
        body_crc: int = 0,
        store_size: int = 0,
        broker_name: str = "",
    ) -> None:
        self.body = body
        self.queue_offset = queue_offset
        self._topic = topic
        self._properties = dict(properties or {})
        if tags:
            self._properties[MessageConst.TAGS] = tags
        if keys:
            self._properties[MessageConst.KEYS] = keys
        self._raw_properties = b""
        self._reconsume_times = reconsume_times
        self._bounds = PullBounds(-1, -1, broker_name) if broker_name else None
        packed_born, packed_store = pack_host(born_host), pack_host(store_host)
        sys_flag |= v6_hosts(packed_born, packed_store)
        self._head = MessageHead(
            store_size, 0, body_crc, queue_id, flag, queue_offset, commit_log_offset, sys_flag, born_timestamp,
            packed_born, store_timestamp, packed_store, reconsume_times, prepared_transaction_offset,
        )  # fmt: skip

    @property
    def topic(self) -> str:
        """Topic as subscribed; for a retried message the original one, not the retry topic."""
        return self._topic

    @property
    def reconsume_times(self) -> int:
        """Failed deliveries of this message so far, from 0."""
        return self._reconsume_times

    @property
    def head(self) -> MessageHead:
        """All fixed-size fields at once, as stored."""
        head = self._head
        if isinstance(head, bytes):
            head = self._head = MessageHead.unpack(head)
        return head

    @property
    def queue_id(self) -> int:
        """Number of the queue within its broker and topic, from 0; of a retried message that of the retry topic."""
        return self.head.queue_id

    @property
    def flag(self) -> int:
        """The integer that the sender set for its own use."""
        return self.head.flag

    @property
    def commit_log_offset(self) -> int:
        """Physical offset of the stored message in bytes; names the message in a send-back."""
        return self.head.commit_log_offset

    @property
    def sys_flag(self) -> int:
        """Bits of ``MessageSysFlag``; the compression bit is off, because the body is decompressed."""
        return self.head.sys_flag

    @property
    def born_timestamp(self) -> int:
        """When the producer sent it, ms since 1970 by its clock."""
        return self.head.born_timestamp

    @property
    def store_timestamp(self) -> int:
        """When the broker stored it, ms since 1970 by its clock."""
        return self.head.store_timestamp

    @property
    def born_host(self) -> tuple[str, int]:
        """Address and port of the producer."""
        return unpack_host(self.head.born_host)

    @property
    def store_host(self) -> tuple[str, int]:
        """Address and port of the broker."""
        return unpack_host(self.head.store_host)

    @property
    def prepared_transaction_offset(self) -> int:
        """Physical offset of the half message it was committed from, 0 for none."""
        return self.head.prepared_transaction_offset

    @property
    def broker_name(self) -> str:
        """Name of the broker it was pulled from, empty when it did not come by a pull."""
        return self._bounds.broker_name if self._bounds is not None else ""

    def get_property(self, name: str) -> str | None:
        """One property, or None. ``MIN_OFFSET`` and ``MAX_OFFSET`` tell the queue's bounds at the time of the pull."""
        if self._bounds is not None and self._bounds.max_offset >= 0:
            if name == MessageConst.MAX_OFFSET:
                return str(self._bounds.max_offset)
            if name == MessageConst.MIN_OFFSET:
                return str(self._bounds.min_offset)
        return self._parsed_properties().get(name)

    @property
    def properties(self) -> Mapping[str, str]:
        """All properties, read only."""
        properties = self._parsed_properties()
        if self._bounds is not None and self._bounds.max_offset >= 0:
            bounds = {
                MessageConst.MIN_OFFSET: str(self._bounds.min_offset),
                MessageConst.MAX_OFFSET: str(self._bounds.max_offset),
            }
            properties = {**properties, **bounds}
        return MappingProxyType(properties)

    @property
    def tags(self) -> str | None:
        """The tag, or None."""
        return self._parsed_properties().get(MessageConst.TAGS)

    @property
    def keys(self) -> str | None:
        """Business keys, separated by spaces, or None."""
        return self._parsed_properties().get(MessageConst.KEYS)

    @property
    def msg_id(self) -> str:
        """The producer's id (``UNIQ_KEY``), the same in every redelivery; without one ``offset_msg_id``."""
        return self._parsed_properties().get(MessageConst.UNIQ_KEY) or self.offset_msg_id

    @property
    def offset_msg_id(self) -> str:
        """The broker's id: store host and physical offset as upper-case hex. Source: MessageDecoder.createMessageId."""
        return (self.head.store_host + self.commit_log_offset.to_bytes(8, "big", signed=True)).hex().upper()

    @property
    def transaction_id(self) -> str | None:
        """Id of the transaction it was sent in, or None. Source: PullAPIWrapper.processPullResult."""
        properties = self._parsed_properties()
        return self.msg_id if properties.get(MessageConst.TRANSACTION_PREPARED) == "true" else None

    def _parsed_properties(self) -> dict[str, str]:
        if self._properties is None:
            self._properties = parse_properties(self._raw_properties)
        return self._properties

    def __repr__(self) -> str:
        return (
            f"MessageExt(topic={self.topic!r}, queue_id={self.queue_id}, queue_offset={self.queue_offset}, "
            f"msg_id={self.msg_id!r}, tags={self.tags!r}, keys={self.keys!r}, "
            f"reconsume_times={self.reconsume_times}, body={len(self.body)} bytes)"
        )


def parse_properties(raw: bytes) -> dict[str, str]:
    """Read ``name U+0001 value U+0002`` repeated; pieces without a name or value are skipped.

    Bytes that are not UTF-8 become U+FFFD, as in Java: a producer's mistake must not hold a queue.

    Source: MessageDecoder.string2messageProperties.
    """
    properties: dict[str, str] = {}
    for piece in raw.decode(errors="replace").split(PROPERTY_SEPARATOR):
        name, separator, value = piece.partition(NAME_VALUE_SEPARATOR)
        if separator and name and value:
            properties[name] = value
    return properties


def format_properties(properties: Mapping[str, str]) -> str:
    """Write what ``parse_properties`` reads. Source: MessageDecoder.messageProperties2String."""
    return "".join(
        f"{name}{NAME_VALUE_SEPARATOR}{value}{PROPERTY_SEPARATOR}" for name, value in properties.items() if value
    )


def v6_hosts(born_host: bytes, store_host: bytes) -> int:
    """The sys flag's bits of ``V6_HOSTS`` for these packed hosts."""
    return (MessageSysFlag.BORNHOST_V6 if len(born_host) == 20 else 0) | (
        MessageSysFlag.STOREHOST_V6 if len(store_host) == 20 else 0
    )


def pack_host(host: tuple[str, int]) -> bytes:
    """4 or 16 bytes of address, then the port as a 4-byte integer."""
    address, port = host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address) + port.to_bytes(4, "big")


def unpack_host(packed: bytes) -> tuple[str, int]:
    """Undo ``pack_host``."""
    family = socket.AF_INET6 if len(packed) == 20 else socket.AF_INET
    return socket.inet_ntop(family, packed[:-4]), int.from_bytes(packed[-4:], "big")
