"""Messages of the two protocols into one another. Source: GrpcConverter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from rocketmq_py.errors import ProtocolError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model import names
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.message import RESERVED_PROPERTIES, MessageConst, unpack_host
from rocketmq_py.model.subscription import SQL92, TAG
from rocketmq_py.remoting.message_codec import StoredMessage, create_message_id, decode_stored

SHARDING_KEY = "__SHARDINGKEY"
PRIORITY = "_SYS_MSG_PRIORITY_"
LITE_TOPIC = "__LITE_TOPIC"
TRACE_CONTEXT = "TRACE_CONTEXT"
BORN_HOST = "__BORNHOST"
BORN_TIMESTAMP = "BORN_TIMESTAMP"
CHECK_IMMUNITY_TIME_IN_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS"
DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC"
DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID"

HIDDEN_PROPERTIES = RESERVED_PROPERTIES | frozenset(
    f"ORIGIN_GROUP INNER_MULTI_QUEUE_OFFSET INNER_MULTI_DISPATCH TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS TIMER_ROLL_TIMES "
    f"TIMER_OUT_MS TIMER_DEL_UNIQKEY TIMER_DELAY_LEVEL {MessageConst.TRANSACTION_ID} {SHARDING_KEY} {PRIORITY} "
    f"{LITE_TOPIC} {TRACE_CONTEXT} {BORN_HOST} {BORN_TIMESTAMP}".split()
)
"""What no user sets or sees. Upstream shows and takes some of these."""

_DELAYS = (
    MessageConst.DELAY_TIME_LEVEL,
    MessageConst.TIMER_DELIVER_MS,
    MessageConst.TIMER_DELAY_SEC,
    MessageConst.TIMER_DELAY_MS,
)
_NO_DELAY = frozenset({"0", "-1"})  # what dead letters carry


_MOMENT_MAX_MS = 253_402_300_799_999  # the year 9999: what a Timestamp may say


def ms_of(time: Duration | Timestamp) -> int:
    """A time in milliseconds, whatever it says: the library's own conversion raises on what it calls not valid."""
    return time.seconds * 1_000 + time.nanos // 1_000_000


def set_moment(moment: Timestamp, wall_ms: int) -> None:
    """Write a moment; stored messages may hold any number."""
    moment.FromMilliseconds(min(max(wall_ms, 0), _MOMENT_MAX_MS))


def expression_type(filter_type: pb.FilterType) -> str:
    """The remoting protocol's name of a kind of filter. Source: buildExpressionType."""
    return SQL92 if filter_type == pb.SQL else TAG


def message_type(properties: Mapping[str, str]) -> pb.MessageType:
    """Kind of a message, by what it carries. Source: buildSystemProperties, parseFromMessageProperty."""
    if properties.get(MessageConst.TRANSACTION_PREPARED) == "true":
        return pb.TRANSACTION
    if any(properties.get(name, "0") not in _NO_DELAY for name in _DELAYS):
        return pb.DELAY
    if SHARDING_KEY in properties:
        return pb.FIFO
    if PRIORITY in properties:
        return pb.PRIORITY
    return pb.NORMAL


def split(body: bytes) -> Iterator[bytes]:
    """The stored messages that lie back to back.

    Raises:
        ProtocolError: one claims a size that cannot be.
    """
    position = 0
    while position < len(body):
        size = int.from_bytes(body[position : position + 4], "big")
        if not 4 < size <= len(body) - position:
            raise ProtocolError(f"a stored message claims {size} bytes, {len(body) - position} are there")
        yield body[position : position + size]
        position += size


def message_of(
    stored: StoredMessage, *, topic: str | None = None, receipt_handle: str = "", reconsume_times: int | None = None
) -> pb.Message:
    """A stored message as consumers get it, its body as it is stored. Source: GrpcConverter.buildMessage.

    Args:
        stored: the message.
        topic: the one it is shown with; None: where it lies.
        receipt_handle: by which it is acknowledged.
        reconsume_times: failed deliveries so far; None: as stored.
    """
    head, properties = stored.head, stored.properties
    message = pb.Message(topic=pb.Resource(name=topic or stored.topic), body=stored.body)
    for name, value in properties.items():
        if name not in HIDDEN_PROPERTIES:
            message.user_properties[name] = value
    system = message.system_properties
    if (tag := properties.get(MessageConst.TAGS)) is not None:
        system.tag = tag
    system.keys.extend((properties.get(MessageConst.KEYS) or "").split())
    system.message_id = message_id(stored)
    system.body_digest.type = pb.MD5
    system.body_digest.checksum = hashlib.md5(stored.body, usedforsecurity=False).hexdigest().upper()
    # There is but one kind of compression in this protocol: consumers look at the first bytes.
    system.body_encoding = pb.GZIP if head.sys_flag & MessageSysFlag.COMPRESSED else pb.IDENTITY
    system.message_type = message_type(properties)
    set_moment(system.born_timestamp, head.born_timestamp)
    system.born_host = properties.get(BORN_HOST) or "{}:{}".format(*unpack_host(head.born_host))
    set_moment(system.store_timestamp, head.store_timestamp)
    system.store_host = "{}:{}".format(*unpack_host(head.store_host))
    if (due := _number(properties.get(MessageConst.TIMER_DELIVER_MS))) is not None:
        set_moment(system.delivery_timestamp, due)
    if (message_group := properties.get(SHARDING_KEY)) is not None:
        system.message_group = message_group
    if (priority := _number(properties.get(PRIORITY))) is not None:
        system.priority = min(priority, 2**31 - 1)
    if (trace_context := properties.get(TRACE_CONTEXT)) is not None:
        system.trace_context = trace_context
    if receipt_handle:
        system.receipt_handle = receipt_handle
    system.queue_id = head.queue_id
    system.queue_offset = head.queue_offset
    attempt = (head.reconsume_times if reconsume_times is None else reconsume_times) + 1
    system.delivery_attempt = min(max(attempt, 1), 2**31 - 1)
    # Upstream tells only what carries the first two, which nothing there writes.
    is_dead = stored.topic.startswith(names.DLQ_GROUP_TOPIC_PREFIX)
    origin = properties.get(DLQ_ORIGIN_TOPIC) or (properties.get(MessageConst.RETRY_TOPIC) if is_dead else None)
    if origin is not None:
        group = stored.topic.removeprefix(names.DLQ_GROUP_TOPIC_PREFIX)
        origin = names.normal_topic(group, origin) or origin  # it may have failed before
        system.dead_letter_queue.topic = origin
        system.dead_letter_queue.message_id = properties.get(DLQ_ORIGIN_MESSAGE_ID) or system.message_id
    return message


def message_id(stored: StoredMessage) -> str:
    """The id that its producer gave it; of old producers' messages the broker's own."""
    given = stored.properties.get(MessageConst.UNIQ_KEY)
    return given or create_message_id(unpack_host(stored.head.store_host), stored.head.commit_log_offset)


def decoded(data: bytes, **more: object) -> pb.Message:
    """``message_of`` the bytes of one stored message."""
    return message_of(decode_stored(data), **more)  # type: ignore[arg-type]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None
