"""Stored messages, batches and message ids, as bytes and back.

``decode_messages`` is the hottest loop of the package: every message pulled goes through it. About 1 us per message
(``benchmarks/test_decode_benchmark.py``); what makes it fast is one ``struct`` call per message for what every
message is asked for, a topic that is decoded once, and a head and properties that stay bytes until somebody reads them.

Source: MessageDecoder, MessageVersion, MessageExtEncoder, PullAPIWrapper.processPullResult.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from rocketmq_py.errors import ConfigError, ProtocolError
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.compression import MAX_DECOMPRESSED_BYTES, decompress
from rocketmq_py.model.message import (
    HEAD_LAYOUTS,
    SYS_FLAG_LOW_BYTE,
    V6_HOSTS,
    MessageExt,
    MessageHead,
    PullBounds,
    format_properties,
    pack_host,
    parse_properties,
    unpack_host,
    v6_hosts,
)

PROPERTIES_MAX_BYTES = 32_767

_TOPIC_V1_MAX_BYTES = 127
_TOPIC_CACHE_COUNT = 1_024

_MAGIC_V1 = -626_843_481  # topic length in 1 byte
_MAGIC_V2 = -626_843_477  # topic length in 2 bytes

_NEED_UNWRAP = 0x40
_INNER_BATCH = 0x80
_NOT_PLAIN = MessageSysFlag.COMPRESSED | _INNER_BATCH

_BODY_SIZE = struct.Struct(">I")  # behind the head; unsigned, so that a negative one points far behind the end

# What every message is asked for: size, magic, queue offset, sys flag, attempts, the body's size; where the body is.
_HEAD_READERS = {
    v6: (struct.Struct(f">ii12xq8xi{layout.size - 52}xi8xI").unpack_from, layout.size + _BODY_SIZE.size)
    for v6, layout in HEAD_LAYOUTS.items()
}
_QUEUE_AND_OFFSET = struct.Struct(">12xi4xq")

_BATCH_HEAD = struct.Struct(">iiiiI")  # size, magic 0, CRC 0, flag, length of the body
_BYTE = struct.Struct(">B")
_SHORT = struct.Struct(">H")


class BatchPart(NamedTuple):
    """One message of a batch; the topic is the batch's."""

    body: bytes
    flag: int
    properties: Mapping[str, str]


def decode_messages(
    body: bytes, bounds: PullBounds | None = None, max_decompressed_bytes: int = MAX_DECOMPRESSED_BYTES
) -> list[MessageExt]:
    """Read the stored messages that lie back to back in the reply to a pull; bodies are decompressed.

    A message that a broker stored as an inner batch comes out as the messages in it.

    Deviation: Java stops at the first message it cannot read and drops that one and all behind it, while the next pull
    starts behind them: they are lost. Here that is an error, be it a broken message or one cut short at the end (frames
    arrive whole, so no honest broker sends one), and the queue stays where it is.

    Args:
        body: of the reply; the messages copy what they need of it.
        bounds: shared by all messages.
        max_decompressed_bytes: what all bodies together may decompress to.

    Raises:
        ProtocolError: a message is malformed, cut short, or does not decompress; names its queue and offset.
        MissingExtraError: a body is compressed by a library that is not installed.
    """
    messages: list[MessageExt] = []
    append = messages.append
    new = MessageExt.__new__
    readers = _HEAD_READERS
    position, total = 0, len(body)
    raw_topic, topic = b"", ""
    try:
        while position < total:
            unpack, head_size = readers[body[position + SYS_FLAG_LOW_BYTE] & V6_HOSTS]
            size, magic, queue_offset, sys_flag, reconsume_times, body_size = unpack(body, position)
            # A length that lies makes an index run out of the body, or the parts' sum differ from the size.
            start = position + head_size
            end = start + body_size
            message = new(MessageExt)
            message._head = body[position:start]
            message.body = body[start:end]
            if magic == _MAGIC_V1:
                start = end + 1
                end = start + body[end]
            elif magic == _MAGIC_V2:
                start = end + 2
                end = start + (body[end] << 8 | body[end + 1])
            else:
                raise ProtocolError(f"has the unknown magic {magic & 0xFFFFFFFF:#x}")  # noqa: TRY301 - the place is added
            raw = body[start:end]
            if raw != raw_topic:
                raw_topic, topic = raw, _topic(raw)
            message._topic = topic
            start = end + 2
            end = start + (body[end] << 8 | body[end + 1])
            message._raw_properties = body[start:end]
            if end != position + size or end > total:
                raise ProtocolError(  # noqa: TRY301
                    f"claims {size} bytes, its parts have {end - position}, {total - position} are there"
                )
            message.queue_offset = queue_offset
            message._reconsume_times = reconsume_times
            message._properties = None
            message._bounds = bounds
            if sys_flag & _NOT_PLAIN:
                max_decompressed_bytes -= _decompress_body(message, max_decompressed_bytes)
                messages += _unwrapped(message)
            else:
                append(message)
            position = end
    except (IndexError, struct.error):
        raise ProtocolError(f"{_place(body, position)} is cut short") from None
    except ProtocolError as error:
        raise ProtocolError(f"{_place(body, position)} {error}") from None
    return messages


class StoredMessage(NamedTuple):
    """A message as it is stored: nothing is decompressed."""

    head: MessageHead
    topic: str
    body: bytes
    properties: dict[str, str]


def decode_stored(data: bytes) -> StoredMessage:
    """Read one stored message, its body as it is.

    Raises:
        ProtocolError: it is malformed.
    """
    try:
        head = MessageHead.unpack(data)
        size_start = HEAD_LAYOUTS[head.sys_flag & V6_HOSTS].size
        body_start = size_start + _BODY_SIZE.size
        body_end = body_start + _BODY_SIZE.unpack_from(data, size_start)[0]
        topic_start = body_end + 1 + (head.magic == _MAGIC_V2)
        topic_end = topic_start + int.from_bytes(data[body_end:topic_start], "big")
        properties_start = topic_end + 2
        return StoredMessage(
            head,
            data[topic_start:topic_end].decode(),
            data[body_start:body_end],
            parse_properties(data[properties_start:]),
        )
    except (IndexError, ValueError, struct.error):
        raise ProtocolError(f"{_place(data, 0)} is malformed") from None


def encode_message(message: MessageExt) -> bytes:
    """Write a message as a broker stores it; body and system flag go out as they are, the CRC is the body's.

    Raises:
        ConfigError: topic or properties are too long, or a number does not fit.
    """
    head = message.head._replace(queue_offset=message.queue_offset, reconsume_times=message.reconsume_times)
    try:
        return encode_stored(head, message.topic, message.body, format_properties(message.properties))
    except struct.error as error:
        raise ConfigError(f"{message!r} cannot be stored: {error}") from None


def encode_stored(head: MessageHead, topic: str, body: bytes, properties: str) -> bytes:
    """Write a message as a broker stores it; size, magic and CRC of the head are set here, as are the hosts' flags.

    Raises:
        ConfigError: the properties are too long.
        struct.error: the topic is too long, or a number does not fit.
    """
    v6 = v6_hosts(head.born_host, head.store_host)
    layout = HEAD_LAYOUTS[v6]
    raw_topic = topic.encode()
    is_v1 = len(raw_topic) <= _TOPIC_V1_MAX_BYTES
    topic_size = _BYTE.pack(len(raw_topic)) if is_v1 else _SHORT.pack(len(raw_topic))
    tail = b"".join((_BODY_SIZE.pack(len(body)), body, topic_size, raw_topic, _packed_properties(properties)))
    packed = layout.pack(
        layout.size + len(tail), _MAGIC_V1 if is_v1 else _MAGIC_V2, crc32(body), *head[3:7],
        head.sys_flag & ~V6_HOSTS | v6, *head[8:],
    )  # fmt: skip
    return packed + tail


def encode_batch(parts: Iterable[tuple[bytes, int, Mapping[str, str]]]) -> bytes:
    """Write the body of SEND_BATCH_MESSAGE; each part is (body, flag, properties) or a ``BatchPart``.

    Raises:
        ConfigError: a part's properties are too long or its flag has more than 32 bits.

    Source: MessageDecoder.encodeMessages.
    """
    pieces: list[bytes] = []
    for body, flag, properties in parts:
        raw_properties = _packed_properties(format_properties(properties))
        size = _BATCH_HEAD.size + len(body) + len(raw_properties)
        try:
            pieces += (_BATCH_HEAD.pack(size, 0, 0, flag, len(body)), body, raw_properties)
        except struct.error:
            raise ConfigError(f"the flag {flag} of a message does not fit 32 bits") from None
    return b"".join(pieces)


def decode_batch(data: bytes) -> list[BatchPart]:
    """Undo ``encode_batch``.

    Raises:
        ProtocolError: a part is malformed or cut short.

    Source: MessageDecoder.decodeMessages.
    """
    parts: list[BatchPart] = []
    position = 0
    try:
        while position < len(data):
            size, _, _, flag, body_size = _BATCH_HEAD.unpack_from(data, position)
            start = position + _BATCH_HEAD.size
            end = start + body_size
            body = data[start:end]
            start = end + 2
            end = start + (data[end] << 8 | data[end + 1])
            if end != position + size or end > len(data):
                raise ProtocolError(
                    f"a batch's part at byte {position} claims {size} bytes, its parts have {end - position}, "
                    f"{len(data) - position} are there"
                )
            parts.append(BatchPart(body, flag, parse_properties(data[start:end])))
            position = end
    except (IndexError, struct.error):
        raise ProtocolError(f"a batch of {len(data)} bytes is cut short in the part at byte {position}") from None
    return parts


def create_message_id(host: tuple[str, int], offset: int) -> str:
    """Id of a message by the broker that stored it and its physical offset. Source: MessageDecoder.createMessageId."""
    return (pack_host(host) + offset.to_bytes(8, "big", signed=True)).hex().upper()


def decode_message_id(text: str) -> tuple[str, int, int]:
    """Address and port of the broker and physical offset, out of an id by ``create_message_id``.

    The ids that producers give (``UNIQ_KEY``) look alike: of one of those this makes nonsense.

    Raises:
        ProtocolError: it is not 32 (IPv4) or 56 (IPv6) hex digits.
    """
    try:
        raw = binascii.unhexlify(text)
    except ValueError:
        raw = b""
    if len(raw) not in {16, 28}:
        raise ProtocolError(f"{text!r:.100} is not the id of a stored message: that has 32 or 56 hex digits")
    host, port = unpack_host(raw[:-8])
    return host, port, int.from_bytes(raw[-8:], "big", signed=True)


def crc32(data: bytes) -> int:
    """The checksum that brokers store with a body, without its highest bit. Source: UtilAll.crc32."""
    return zlib.crc32(data) & 0x7FFFFFFF


def _decompress_body(message: MessageExt, max_bytes: int) -> int:
    """Put the decompressed body into a message; its size."""
    head = message.head
    if not head.sys_flag & MessageSysFlag.COMPRESSED or not message.body:
        return 0
    message.body = decompress(message.body, head.sys_flag, max_bytes)
    message._head = head._replace(sys_flag=head.sys_flag & ~MessageSysFlag.COMPRESSED)
    return len(message.body)


def _unwrapped(message: MessageExt) -> list[MessageExt]:
    """The messages in an inner batch, the message itself when it is none. Source: MessageDecoder.decodeMessage."""
    head = message.head
    if not head.sys_flag & _NEED_UNWRAP or not head.sys_flag & _INNER_BATCH:
        return [message]
    inner_messages: list[MessageExt] = []
    for number, part in enumerate(decode_batch(message.body)):
        inner = MessageExt.__new__(MessageExt)
        inner.body = part.body
        inner.queue_offset = message.queue_offset + number
        inner._topic = message.topic
        inner._raw_properties = b""
        inner._properties = dict(part.properties)
        inner._bounds = message._bounds
        inner._reconsume_times = 0
        inner._head = head._replace(flag=part.flag, queue_offset=inner.queue_offset, reconsume_times=0)
        inner_messages.append(inner)
    return inner_messages


@lru_cache(_TOPIC_CACHE_COUNT)
def _topic(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"has a topic that is not UTF-8: {raw!r}") from None


def _packed_properties(properties: str) -> bytes:
    raw = properties.encode()
    if len(raw) > PROPERTIES_MAX_BYTES:
        raise ConfigError(f"the properties of a message have {len(raw)} bytes, the limit is {PROPERTIES_MAX_BYTES}")
    return _SHORT.pack(len(raw)) + raw


def _place(body: bytes, position: int) -> str:
    place = f"the stored message at byte {position} of {len(body)}"
    if len(body) - position >= _QUEUE_AND_OFFSET.size:
        queue_id, offset = _QUEUE_AND_OFFSET.unpack_from(body, position)
        place += f" (queue {queue_id}, offset {offset})"
    return place
