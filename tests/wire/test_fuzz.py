"""A broken or lying peer costs a ProtocolError: nothing else comes out, nothing hangs, its word takes no memory."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import FrameReader, decode, encode
from rocketmq_py.remoting.message_codec import decode_batch, decode_message_id, decode_messages
from tests.wire.samples import golden_bytes, stored

FRAMES = golden_bytes("command")
MESSAGES = golden_bytes("message")
BATCHES = golden_bytes("batch")
BODIES = golden_bytes("json")

Readers = list[Callable[[bytes], object]]


def read_stream(data: bytes) -> None:
    """What a connection does with what arrives."""
    reader = FrameReader(frame_max_bytes=100_000)
    while data:
        room = reader.get_buffer()
        count = min(len(room), len(data), 1_000)
        room[:count] = data[:count]
        reader.received(count)
        data = data[count:]
        for command in reader:
            encode(command)
            repr(command)


def read_messages(data: bytes) -> None:
    for message in decode_messages(data, max_decompressed_bytes=1_000_000):
        repr(message)
        assert message.head.store_size > 0
        assert message.born_host
        assert message.offset_msg_id


EVERYTHING: Readers = [
    read_stream,
    decode,
    read_messages,
    decode_batch,
    fastjson.loads,
    bodies.parse_topic_route,
    bodies.parse_consumer_id_list,
    lambda data: decode_message_id(data.hex()),
]


def survives(readers: Readers, data: bytes) -> None:
    for read in readers:
        with contextlib.suppress(ProtocolError):
            read(data)


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of the originals with some bytes set, removed, inserted or repeated."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "number", "cut", "remove", "insert", "repeat"])):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":  # lengths are such
                size = draw(st.sampled_from([1, 2, 4]))
                value = draw(st.sampled_from([0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
                data[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "big")
            case "cut":
                del data[at:]
            case "remove":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


json_like = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", ":", ",", '"', "'", "\\", "\\u", "d83d", "\\ud83d", "\\ude80", "1", "-", ".5", "e9",
         "null", "true", "NaN", " ", "a", "é", '"a"', "{1:", '{"a":', '{"topic":"t","queueId":1,"brokerName":"b"}',
         "\x00", "\n"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@given(st.binary(max_size=500))
@example(b"\0\0\0\0")
def test_random_bytes(data: bytes) -> None:
    survives(EVERYTHING, data)


@given(st.binary(max_size=200), st.sampled_from([0, 1]), st.integers(0, 200))
def test_random_headers_and_bodies_in_frames_of_the_right_length(data: bytes, kind: int, header_size: int) -> None:
    frame = bytes((kind,)) + min(header_size, len(data)).to_bytes(3, "big") + data
    survives([read_stream], len(frame).to_bytes(4, "big") + frame)


@given(mutated(FRAMES))
def test_frames_of_java_with_damage(data: bytes) -> None:
    survives([read_stream, lambda frame: decode(frame[4:])], data)


@given(st.lists(mutated(MESSAGES) | st.sampled_from(MESSAGES), min_size=1, max_size=3).map(b"".join))
def test_messages_of_java_with_damage(data: bytes) -> None:
    survives([read_messages], data)


@given(mutated(BATCHES))
def test_batches_of_java_with_damage(data: bytes) -> None:
    survives([decode_batch], data)


@given(mutated(BODIES))
def test_json_bodies_of_java_with_damage(data: bytes) -> None:
    survives([fastjson.loads, bodies.parse_topic_route, bodies.parse_consumer_id_list], data)


@given(json_like)
def test_texts_that_look_like_json(text: str) -> None:
    survives([fastjson.loads], text.encode())
    with contextlib.suppress(ProtocolError):
        json.dumps(repr(fastjson.loads(text)), ensure_ascii=False).encode()  # what is read can be logged


@pytest.mark.parametrize("number", range(len(FRAMES)))
def test_every_frame_cut_at_every_byte(number: int) -> None:
    frame = FRAMES[number]
    for cut in range(len(frame)):
        read_stream(frame[:cut])  # incomplete, and so no error
        survives([decode], frame[4:cut])


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_every_message_with_every_byte_damaged(number: int) -> None:
    message = MESSAGES[number]
    for at in range(len(message)):
        for bits in (0x01, 0x80, 0xFF):
            survives([read_messages], message[:at] + bytes((message[at] ^ bits,)) + message[at + 1 :])


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(ProtocolError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [2**31 - 1, 2**31, 2**32 - 1, 2**24 - 1, 99_000])
def test_no_length_anywhere_takes_memory_on_its_word(value: int) -> None:
    word = value.to_bytes(4, "big")
    cases: list[tuple[Callable[[bytes], Any], bytes]] = [
        (read_stream, FRAMES[0]), (read_stream, FRAMES[1]), (decode, FRAMES[0][4:]), (decode, FRAMES[1][4:]),
        (decode_messages, stored()), (decode_batch, BATCHES[0]),
    ]  # fmt: skip
    for read, data in cases:
        for at in range(min(len(data) - 4, 150)):
            lie = data[:at] + word + data[at + 4 :]
            assert peak_bytes(lambda read=read, lie=lie: read(lie)) < 2**20  # type: ignore[misc]
