"""Stored messages, batches, ids, compression: any message survives the way, nothing is lost in silence."""

from __future__ import annotations

import builtins
import itertools
import struct
import sys
import tracemalloc
import zlib
from typing import Any

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.errors import ConfigError, MissingExtraError, ProtocolError
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.compression import compress, decompress
from rocketmq_py.model.message import MessageExt, PullBounds
from rocketmq_py.remoting.message_codec import (
    BatchPart,
    crc32,
    create_message_id,
    decode_batch,
    decode_message_id,
    decode_messages,
    encode_batch,
    encode_message,
)
from tests.wire.samples import INT_MAX, LONG_MAX, facts, hosts, int32, messages, properties, stored

COMPRESSIONS = [MessageSysFlag.COMPRESSION_LZ4, MessageSysFlag.COMPRESSION_ZSTD, MessageSysFlag.COMPRESSION_ZLIB]

# Where the parts of a stored message with IPv4 hosts begin.
QUEUE_ID, QUEUE_OFFSET, BODY_SIZE, BODY = 12, 20, 84, 88


# Round trips.


@given(st.lists(messages, max_size=6))
def test_messages_survive_the_way_whatever_their_hosts_and_topics(sent: list[MessageExt]) -> None:
    stream = b"".join(map(encode_message, sent))
    found = decode_messages(stream)
    assert list(map(facts, found)) == list(map(facts, sent))
    assert [message.head.store_size for message in found] == [len(encode_message(message)) for message in sent]
    assert [message.head.body_crc for message in found] == [crc32(message.body) for message in sent]
    assert b"".join(map(encode_message, found)) == stream


@given(st.binary(max_size=2_000), st.sampled_from(COMPRESSIONS))
def test_a_compressed_body_arrives_decompressed_and_without_its_mark(body: bytes, compression: int) -> None:
    sys_flag = MessageSysFlag.COMPRESSED | compression | 0x8
    [message] = decode_messages(stored(compress(body, compression), sys_flag=sys_flag))
    assert message.body == body
    assert message.sys_flag == compression | 0x8
    assert message.head.sys_flag == compression | 0x8


@given(st.lists(st.builds(BatchPart, st.binary(max_size=100), int32, properties), max_size=5))
def test_a_batch_survives_the_way(parts: list[BatchPart]) -> None:
    assert decode_batch(encode_batch(parts)) == parts


@given(hosts, st.integers(-(2**63), LONG_MAX))
def test_a_message_id_survives_the_way(host: tuple[str, int], offset: int) -> None:
    text = create_message_id(host, offset)
    assert decode_message_id(text) == (*host, offset)
    assert text == text.upper()
    assert MessageExt(store_host=host, commit_log_offset=offset).offset_msg_id == text


def test_messages_share_the_bounds_of_their_pull() -> None:
    bounds = PullBounds(3, 99, "broker-a")
    first, second = decode_messages(stored() * 2, bounds)
    assert first.broker_name == second.broker_name == "broker-a"
    assert first.get_property("MAX_OFFSET") == "99"
    assert dict(first.properties) == {"TAGS": "TagA", "MIN_OFFSET": "3", "MAX_OFFSET": "99"}


def test_a_reply_without_messages_has_none() -> None:
    assert decode_messages(b"") == []


def test_topics_that_alternate_are_told_apart() -> None:
    topics = ["a", "bb", "a", "%RETRY%" + "g" * 150, "bb"]
    found = decode_messages(b"".join(stored(topic=topic) for topic in topics))
    assert [message.topic for message in found] == topics


def test_the_same_topic_is_one_text_in_all_replies() -> None:
    [first], [second] = decode_messages(stored(topic="same")), decode_messages(stored(topic="same"))
    assert first.topic is second.topic


def test_an_empty_body_is_not_decompressed_as_in_java() -> None:
    [message] = decode_messages(stored(b"", sys_flag=MessageSysFlag.COMPRESSED))
    assert message.body == b""


@pytest.mark.behaviour("PL-19")
def test_a_compressed_inner_batch_is_decompressed_and_unwrapped() -> None:
    parts = [BatchPart(b"one", 1, {"TAGS": "a"}), BatchPart(b"two", 2, {})]
    body = compress(encode_batch(parts), MessageSysFlag.COMPRESSION_ZLIB)
    sys_flag = 0xC0 | MessageSysFlag.COMPRESSED | MessageSysFlag.COMPRESSION_ZLIB
    found = decode_messages(stored() + stored(body, sys_flag=sys_flag, queue_offset=43, reconsume_times=3))
    assert [(message.queue_offset, message.body, message.flag, message.tags) for message in found] == [
        (42, b"hello", 0, "TagA"),
        (43, b"one", 1, "a"),
        (44, b"two", 2, None),
    ]
    assert {message.reconsume_times for message in found} == {0}


def test_an_inner_batch_that_is_not_to_be_unwrapped_stays_whole() -> None:
    [message] = decode_messages(stored(b"whole", sys_flag=0x80))
    assert message.body == b"whole"


# Nothing is lost in silence: where Java stops and drops the rest, this is an error.


@pytest.mark.parametrize(("born", "store"), list(itertools.product(["1.2.3.4", "::1"], repeat=2)))
def test_a_reply_cut_short_at_any_byte_is_an_error(born: str, store: str) -> None:
    hosts: dict[str, Any] = {"born_host": (born, 1), "store_host": (store, 2)}
    whole = stored(topic="first", **hosts)
    stream = whole + stored(topic="second", **hosts)
    for cut in range(1, len(stream)):
        if cut != len(whole):
            with pytest.raises(ProtocolError, match="stored message at byte"):
                decode_messages(stream[:cut])


def test_the_error_names_the_queue_and_offset_of_the_message() -> None:
    first = stored()
    with pytest.raises(
        ProtocolError, match=rf"at byte {len(first)} of \d+ \(queue 5, offset 77\) claims 111 bytes, .* 110 are there"
    ):
        decode_messages(first + stored(queue_id=5, queue_offset=77)[:-1])
    with pytest.raises(ProtocolError, match=rf"at byte {len(first)} of \d+ \(queue 5, offset 77\) is cut short"):
        decode_messages(first + stored(queue_id=5, queue_offset=77)[:80])
    with pytest.raises(ProtocolError, match=rf"at byte {len(first)} of {len(first) + 27} is cut short"):
        decode_messages(first + first[:27])


def with_int(message: bytes, at: int, value: int) -> bytes:
    return message[:at] + struct.pack(">i", value) + message[at + 4 :]


@pytest.mark.parametrize("delta", [-200, -1, 1, 4, 2**31 - 200, -(2**31) + 200])
@pytest.mark.parametrize("field", [0, BODY_SIZE])
def test_a_length_that_lies_is_an_error(field: int, delta: int) -> None:
    message = stored()
    (honest,) = struct.unpack_from(">i", message, field)
    lying = with_int(message, field, honest + delta)
    for stream in (lying, lying + stored(), stored() + lying):
        with pytest.raises(ProtocolError, match="stored message at byte"):
            decode_messages(stream)


@pytest.mark.parametrize("value", [0, 4, 6, 127, 255])
@pytest.mark.parametrize("at", [BODY + 5, BODY + 5 + 1 + 5, BODY + 5 + 1 + 5 + 1])
def test_a_length_of_topic_or_properties_that_lies_is_an_error(at: int, value: int) -> None:
    message = stored()
    if message[at] == value:
        return
    lying = message[:at] + bytes([value]) + message[at + 1 :]
    with pytest.raises(ProtocolError, match="stored message at byte 0"):
        decode_messages(lying + stored())


@pytest.mark.parametrize("magic", [0, -1, -875_286_124, -626_843_480])
def test_an_unknown_magic_is_an_error(magic: int) -> None:
    with pytest.raises(ProtocolError, match=f"has the unknown magic {magic & 0xFFFFFFFF:#x}"):
        decode_messages(with_int(stored(), 4, magic))


def test_a_topic_that_is_not_utf8_is_an_error() -> None:
    with pytest.raises(ProtocolError, match=r"queue 2, offset 42\) has a topic that is not UTF-8"):
        decode_messages(stored().replace(b"topic", b"\xff\xfe\xff\xfe\xff"))


def test_a_length_that_lies_takes_no_memory() -> None:
    lies = [
        with_int(stored(), BODY_SIZE, INT_MAX),
        with_int(with_int(stored(), 0, INT_MAX), BODY_SIZE, INT_MAX - 100),
        with_int(encode_batch([(b"x", 0, {})]), 16, INT_MAX),
    ]
    tracemalloc.start()
    try:
        for lie in lies:
            with pytest.raises(ProtocolError):
                decode_messages(lie)
            with pytest.raises(ProtocolError):
                decode_batch(lie)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Compression.


@pytest.mark.parametrize("compression", [0, *COMPRESSIONS])
@pytest.mark.parametrize("damage", ["garbage", "cut", "nothing but a start"])
def test_a_damaged_compressed_body_is_an_error(compression: int, damage: str) -> None:
    whole = compress(b"hello " * 500, compression or MessageSysFlag.COMPRESSION_ZLIB)
    body = {"garbage": b"garbage " * 10, "cut": whole[:-1], "nothing but a start": whole[:3]}[damage]
    with pytest.raises(ProtocolError, match=r"queue 2, offset 42\) has a (compressed )?body that"):
        decode_messages(stored(body, sys_flag=MessageSysFlag.COMPRESSED | compression))


@pytest.mark.parametrize("compression", [0x400, 0x500, 0x600, 0x700])
def test_an_unknown_type_of_compression_is_an_error(compression: int) -> None:
    with pytest.raises(ProtocolError, match="unknown compression type"):
        decode_messages(stored(b"x", sys_flag=MessageSysFlag.COMPRESSED | compression))
    with pytest.raises(ConfigError):
        compress(b"x", compression)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_body_may_decompress_to_exactly_the_limit(compression: int) -> None:
    body = bytes(100_000)
    packed = compress(body, compression)
    assert decompress(packed, compression, len(body)) == body
    with pytest.raises(ProtocolError, match=f"decompresses to more than {len(body) - 1}"):
        decompress(packed, compression, len(body) - 1)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_limit_counts_for_all_bodies_of_a_reply(compression: int) -> None:
    message = stored(compress(bytes(1_000), compression), sys_flag=MessageSysFlag.COMPRESSED | compression)
    assert len(decode_messages(message * 10, max_decompressed_bytes=10_000)) == 10
    with pytest.raises(ProtocolError, match="decompresses to more than 999"):
        decode_messages(message * 10, max_decompressed_bytes=9_999)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb_takes_no_more_memory_than_the_limit_allows(compression: int) -> None:
    bomb = compress(bytes(64 * 2**20), compression)
    limit = 2**20
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="decompresses to more than"):
            decompress(bomb, compression, limit)
        # lz4 works in blocks of up to 4 MiB and makes room for more than it needs.
        assert tracemalloc.get_traced_memory()[1] < limit + 12 * 2**20
    finally:
        tracemalloc.stop()


def test_a_body_of_honest_size_decompresses_in_every_form_that_producers_write() -> None:
    body = b"".join(b"order %d;" % number for number in range(400_000))
    for packed, compression in [
        (zlib.compress(body, 9), MessageSysFlag.COMPRESSION_ZLIB),
        (lz4.frame.compress(body, block_linked=True, content_checksum=True), MessageSysFlag.COMPRESSION_LZ4),
        (lz4.frame.compress(body, block_size=7, store_size=False), MessageSysFlag.COMPRESSION_LZ4),
        (zstandard.ZstdCompressor(write_content_size=False).compress(body), MessageSysFlag.COMPRESSION_ZSTD),
    ]:
        assert decompress(packed, compression) == body


@pytest.mark.parametrize(
    ("compression", "library"),
    [(MessageSysFlag.COMPRESSION_LZ4, "lz4"), (MessageSysFlag.COMPRESSION_ZSTD, "zstandard")],
)
def test_a_missing_library_is_one_line_that_says_what_to_install(
    compression: int, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = stored(compress(b"x", compression), sys_flag=MessageSysFlag.COMPRESSED | compression)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)  # what import raises ImportError for
    for action in (lambda: decode_messages(message), lambda: compress(b"x", compression)):
        with pytest.raises(MissingExtraError, match=rf"{library} is not installed: pip install 'rocketmq-py\[compr"):
            action()


# What is not sent.


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": "t" * 65_536},
        {"properties": {"name": "v" * 32_767}},
        {"queue_id": 2**31},
        {"queue_offset": 2**63},
        {"flag": -(2**31) - 1},
    ],
)
def test_a_message_that_does_not_fit_is_not_stored(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        stored(**fields)


def test_a_part_that_does_not_fit_a_batch_is_not_sent() -> None:
    with pytest.raises(ConfigError, match="properties of a message have 32771 bytes"):
        encode_batch([(b"x", 0, {"n": "v" * 32_768})])
    with pytest.raises(ConfigError, match="flag 2147483648"):
        encode_batch([(b"x", 2**31, {})])


def test_a_batch_cut_short_at_any_byte_is_an_error() -> None:
    first = encode_batch([(b"one", 1, {"a": "b"})])
    for cut in range(1, len(first)):
        with pytest.raises(ProtocolError, match=f"part at byte {len(first)}"):
            decode_batch(first + first[:cut])


@pytest.mark.parametrize(
    "text",
    ["", "7F", "7F00000100002A9F000000000E87D31", "7F00000100002A9F 00000000E87D31D", "X" * 32, "é" * 32, "0" * 40],
)
def test_a_text_that_is_no_message_id_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="is not the id of a stored message"):
        decode_message_id(text)


def test_nothing_optional_is_imported_for_plain_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = stored()

    def refuse(name: str, *arguments: object) -> object:
        raise AssertionError(f"import of {name}")

    monkeypatch.setattr(builtins, "__import__", refuse)
    found = decode_messages(plain)
    monkeypatch.undo()
    assert len(found) == 1
