"""Frames: any command survives the way, however the stream is cut; whatever is no frame is refused."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.errors import ConfigError, ProtocolError
from rocketmq_py.model.codes import VERSION, RequestCode
from rocketmq_py.remoting.frame import (
    FRAME_MAX_BYTES,
    FrameReader,
    RemotingCommand,
    SerializeType,
    decode,
    encode,
    encode_request,
)
from tests.wire.samples import commands, texts


def feed(reader: FrameReader, data: bytes) -> list[RemotingCommand]:
    """Hand bytes over as a socket does: as many at once as there is room for."""
    found = []
    while data:
        room = reader.get_buffer()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        reader.received(count)
        data = data[count:]
        found += list(reader)
    return found


def json_frame(header: object, body: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">ii", 4 + len(raw) + len(body), len(raw)) + raw + body


def binary_frame(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">iBBH", 4 + len(header) + len(body), 1, 0, len(header)) + header + body


HEADER = {"code": 0, "opaque": 1}
NO_INT32: list[object] = ["1", 1.0, True, [1], {}, 2**31, -(2**31) - 1]
NO_TEXT: list[object] = [1, True, [], {}]
NO_LANGUAGE: list[object] = [None, 1.5, True, [], {}]
NO_OBJECT: list[object] = ["x", 1, True, [], [["a", "b"]]]
NO_FIELD: list[object] = [[], {}, [1]]


# Round trips.


@given(commands)
def test_a_command_survives_the_way_with_a_json_header(command: RemotingCommand) -> None:
    assert decode(encode(command)[4:]) == command


@given(commands)
def test_a_command_survives_the_way_with_a_binary_header_but_for_empty_texts(command: RemotingCommand) -> None:
    command.code = command.code & 0x7FFF
    command.remark = command.remark or None
    found = decode(encode(command, SerializeType.ROCKETMQ)[4:])
    command.ext_fields = {name: value for name, value in command.ext_fields.items() if name and value}
    assert found == command


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.dictionaries(texts, texts), st.binary(), st.booleans())
def test_a_request_carries_this_clients_language_and_version(
    code: int, opaque: int, fields: dict[str, str], body: bytes, oneway: bool
) -> None:
    command = decode(encode_request(code, opaque, fields, body, oneway)[4:])
    assert command == RemotingCommand(code, opaque, 2 if oneway else 0, None, fields, body, "PYTHON", VERSION)
    assert (command.is_oneway, command.is_response) == (oneway, False)


def test_a_request_code_may_be_an_enum_member() -> None:
    assert decode(encode_request(RequestCode.HEART_BEAT, 1, {})[4:]).code == 34


@given(st.lists(commands, max_size=5), st.data())
def test_commands_come_out_the_same_however_the_stream_is_cut(sent: list[RemotingCommand], data: Any) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += feed(reader, stream[start:end])
    assert found == sent
    assert reader.next_frame() is None


def test_a_command_split_at_every_byte_comes_out_whole() -> None:
    command = RemotingCommand(0, 7, 1, "FOUND", {"nextBeginOffset": "5"}, b"body")
    for serialize_type in SerializeType:
        frame = encode(command, serialize_type)
        for cut in range(len(frame)):
            reader = FrameReader()
            assert feed(reader, frame[:cut]) == []
            assert feed(reader, frame[cut:]) == [command]


def test_a_body_outlives_the_buffer_it_came_in() -> None:
    reader = FrameReader()
    [first] = feed(reader, encode(RemotingCommand(0, 1, body=b"a" * 1000)))
    for number in range(2, 1000):
        feed(reader, encode(RemotingCommand(0, number, body=b"b" * 1000)))
    assert first.body == b"a" * 1000


# What the reader's buffer does.


def test_byte_by_byte_moves_what_waits_only_a_few_times() -> None:
    size = 600_000
    frame = encode(RemotingCommand(0, 1, body=bytes(size)))
    reader = FrameReader()
    room, moves = 0, 0
    found = []
    for byte in frame:
        buffer = reader.get_buffer()
        moves += len(buffer) > room
        room = len(buffer)
        buffer[0] = byte
        reader.received(1)
        found += list(reader)
        room -= 1
    assert [len(command.body) for command in found] == [size]
    assert moves < 8


def test_a_huge_frame_passes_and_its_memory_is_given_back() -> None:
    reader = FrameReader()
    at_rest = len(reader.get_buffer())
    command = RemotingCommand(0, 1)
    command.body = bytes(FRAME_MAX_BYTES - len(encode(command)))
    small = encode(RemotingCommand(0, 2))
    found = feed(reader, encode(command) + small)
    assert [(each.opaque, len(each.body)) for each in found] == [(1, len(command.body)), (2, 0)]
    assert len(reader.get_buffer()) == at_rest


def test_frames_of_the_largest_size_follow_one_another_at_odd_places() -> None:
    reader = FrameReader(frame_max_bytes=200_000)
    frames = [encode(RemotingCommand(0, number, body=bytes(size))) for number, size in enumerate([5, 199_900, 17] * 5)]
    stream = b"".join(frames)
    found = [
        command.opaque for start in range(0, len(stream), 777) for command in feed(reader, stream[start : start + 777])
    ]
    assert found == list(range(len(frames)))


@pytest.mark.parametrize("length", [2**31 - 1, FRAME_MAX_BYTES - 3, 3, 0, -1, -(2**31)])
def test_an_impossible_length_is_refused_as_soon_as_it_is_known(length: int) -> None:
    reader = FrameReader()
    assert feed(reader, length.to_bytes(4, "big", signed=True)[:3]) == []
    with pytest.raises(ProtocolError, match=f"a frame of {length} bytes is announced"):
        feed(reader, length.to_bytes(4, "big", signed=True)[3:])


def test_a_length_that_is_only_announced_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        reader = FrameReader()
        feed(reader, (FRAME_MAX_BYTES - 4).to_bytes(4, "big") + bytes(1_000))
        assert reader.next_frame() is None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_more_bytes_than_there_was_room_for_cannot_have_been_received() -> None:
    reader = FrameReader()
    with pytest.raises(ValueError, match="do not fit"):
        reader.received(len(reader.get_buffer()) + 1)


def test_a_command_larger_than_a_frame_may_be_is_not_sent() -> None:
    with pytest.raises(ConfigError, match="servers accept at most 16777216"):
        encode_request(10, 1, {}, bytes(FRAME_MAX_BYTES))


# What servers accept, and so may reach an embedded one.


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({**HEADER, "unknown": {"deep": [1]}}, RemotingCommand(0, 1, language="JAVA", version=0)),
        ({**HEADER, "remark": None, "extFields": None}, RemotingCommand(0, 1, language="JAVA", version=0)),
        ({**HEADER, "language": 3}, RemotingCommand(0, 1, language="PYTHON", version=0)),
        ({**HEADER, "language": "pYthOn"}, RemotingCommand(0, 1, language="PYTHON", version=0)),
        ({**HEADER, "language": "COBOL"}, RemotingCommand(0, 1, language="OTHER", version=0)),
        ({**HEADER, "language": 99}, RemotingCommand(0, 1, language="OTHER", version=0)),
        (
            {**HEADER, "extFields": {"i": 5, "l": 2**40, "f": 1.5, "t": True, "n": None, "s": "x"}},
            RemotingCommand(
                0, 1, ext_fields={"i": "5", "l": "1099511627776", "f": "1.5", "t": "true", "s": "x"},
                language="JAVA", version=0,
            ),
        ),
        (
            b"{code:0,'opaque':1,extFields:{7:'x'}}",
            RemotingCommand(0, 1, ext_fields={"7": "x"}, language="JAVA", version=0),
        ),
    ],
)  # fmt: skip
def test_a_header_is_read_with_tolerance(header: object, expected: RemotingCommand) -> None:
    assert decode(json_frame(header)[4:]) == expected


def test_an_empty_text_in_a_binary_header_is_none() -> None:
    header = struct.pack(">hBhiii", 0, 99, 5, 1, 1, 0) + struct.pack(">i", 7) + struct.pack(">H1si", 1, b"k", 0)
    assert decode(binary_frame(header)[4:]) == RemotingCommand(0, 1, 1, None, {}, b"", "OTHER", 5)


# What is refused.


@pytest.mark.parametrize(
    "header",
    [
        b"", b"[]", b"null", b"5", b'"x"', b"{", b"\xff", b"{}", b'{"code":0}', b'{"opaque":1}',
        b'{"code":NaN,"opaque":1}', b"[" * 100_000, b'{"code":' + b"[" * 900 + b"]" * 900 + b',"opaque":1}',
        b'{"code":' + b"9" * 5_000 + b',"opaque":1}', '{"code":0,"opaque":1}'.encode("utf-16"),
        *[
            json.dumps({**HEADER, name: value}).encode()
            for name in ("code", "opaque", "flag", "version")
            for value in NO_INT32
        ],
        *[json.dumps({**HEADER, "remark": value}).encode() for value in NO_TEXT],
        *[json.dumps({**HEADER, "language": value}).encode() for value in NO_LANGUAGE],
        *[json.dumps({**HEADER, "extFields": value}).encode() for value in NO_OBJECT],
        *[json.dumps({**HEADER, "extFields": {"a": value}}).encode() for value in NO_FIELD],
        b'{"code":0,"opaque":1,"x":[' + b"1," * 600_000 + b"1]}",
        b'{"code":0,"opaque":1,"extFields":{{"topic":"t","brokerName":"b","queueId":0}:"x"}}',
    ],
)  # fmt: skip
def test_a_malformed_json_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(json_frame(header)[4:])


WORDS = struct.pack(">hBhii", 0, 3, 513, 1, 1)


@pytest.mark.parametrize(
    "header",
    [
        b"", WORDS, WORDS[:-1],
        WORDS + struct.pack(">i", -1),
        WORDS + struct.pack(">i", 2**31 - 1),
        WORDS + struct.pack(">i1si", 1, b"\xff", 0),
        WORDS + struct.pack(">ii", 0, -1),
        WORDS + struct.pack(">ii", 0, 1),
        WORDS + struct.pack(">iix", 0, 0),
        WORDS + struct.pack(">iiH", 0, 2, 1),
        WORDS + struct.pack(">iiH1s", 0, 3, 1, b"k"),
        WORDS + struct.pack(">iiH1si", 0, 7, 1, b"k", -1),
        WORDS + struct.pack(">iiH1si", 0, 7, 1, b"k", 2**31 - 1),
        WORDS + struct.pack(">iiH1si1s", 0, 8, 1, b"k", 1, b"\xff"),
        WORDS + struct.pack(">iiH1si", 0, 7, 65_535, b"k", 0),
    ],
)  # fmt: skip
def test_a_malformed_binary_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(binary_frame(header)[4:])


@pytest.mark.parametrize("frame", [b"", b"\0", b"\0\0\0", b"\0\0\0\1", b"\0\xff\xff\xff{}", b"\2\0\0\0", b"\xff\0\0\0"])
def test_a_frame_without_a_header_that_fits_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(frame)


@pytest.mark.parametrize(
    "command",
    [
        RemotingCommand(1, 1, version=32_768),
        RemotingCommand(-32_769, 1),
        RemotingCommand(1, 2**31),
        RemotingCommand(1, 1, ext_fields={"k" * 65_536: "v"}),
    ],
)
def test_what_a_binary_header_cannot_hold_is_not_sent(command: RemotingCommand) -> None:
    with pytest.raises(ConfigError, match="does not fit a binary header"):
        encode(command, SerializeType.ROCKETMQ)


def test_half_a_surrogate_pair_becomes_a_question_mark_in_a_binary_header_as_in_java() -> None:
    assert decode(encode(RemotingCommand(1, 1, remark="\ud800!"), SerializeType.ROCKETMQ)[4:]).remark == "?!"


def test_a_command_shown_tells_its_fields_but_not_its_body() -> None:
    shown = repr(RemotingCommand.response(5, 1, "broken"))
    assert "response code=1 opaque=5 remark='broken'" in shown
    shown = repr(RemotingCommand(11, 6, ext_fields={"topic": "t" * 9_999}, body=b"secret"))
    assert "request code=11" in shown
    assert "body=6 bytes" in shown
    assert "secret" not in shown
    assert len(shown) < 1_000
    assert "oneway request" in repr(RemotingCommand(40, 1, 2))
