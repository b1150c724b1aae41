"""Frames: the unit of the remoting protocol, with both kinds of header.

A frame is its length (4 bytes, not counting themselves), the kind of header (1), the header's length (3), the header
and the body. Nothing here reads a socket: bytes in, commands out, and back.

Source: RemotingCommand, RocketMQSerializable, NettyDecoder.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from json.encoder import encode_basestring_ascii
from typing import Any

from rocketmq_py.errors import ConfigError, ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.model.codes import VERSION

FRAME_MAX_BYTES = 16 * 1024 * 1024
"""Largest frame, its length field included. Source: com.rocketmq.remoting.frameMaxLength."""

_PLAIN_HEADER_BYTES = 64 * 1024
_HEADER_MARKS_MAX = 100_000
"""Quotes and opening brackets in a large header. The longest honest one is the answer to a batch of small messages, a
text of all their ids; a few MiB of ``[[],[],`` would become a hundred MiB of lists."""
_HEADER_COMMAS_MAX = 500_000
"""The same: that text has one for each message."""

LANGUAGES = tuple("JAVA CPP DOTNET PYTHON DELPHI ERLANG RUBY OTHER HTTP GO PHP OMS RUST NODE_JS".split())
"""Names of ``language``; a name's index is its number in binary headers. Source: LanguageCode."""

_LANGUAGE_NUMBERS = {name: number for number, name in enumerate(LANGUAGES)}
_OWN_LANGUAGE = "PYTHON"
_UNKNOWN_LANGUAGE = "OTHER"

_CREDENTIALS = frozenset({"SecurityToken", "Signature"})
"""Fields that no log shows."""

_RESPONSE_FLAG = 1
ONEWAY_FLAG = 2

_BINARY_CODE_MAX = 32_767
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1

RESTING_BYTES = 256 * 1024
"""Several replies to pulls arrive in one read."""

_HTTP = int.from_bytes(b"HTTP", "big")  # how an HTTP server's answer begins
_TLS = (0x1503, 0x1603)  # how records of TLS begin: an alert, a handshake
_LENGTHS = struct.Struct(">II")  # of the frame; the header's kind and length in one integer
_BINARY_HEAD = struct.Struct(">hBhii")  # code, language, version, opaque, flag
_SHORT = struct.Struct(">H")
_INT = struct.Struct(">I")


class SerializeType(IntEnum):
    """Kind of header; a server answers in its own kind, whatever it was asked in."""

    JSON = 0
    ROCKETMQ = 1


@dataclass(slots=True, repr=False)
class RemotingCommand:
    """A request or a response.

    Attributes:
        code: of a request what it asks for, of a response what it says.
        opaque: number that a response repeats. Each side counts its own: look at ``is_response`` first.
        flag: bit 0 response, bit 1 oneway.
        remark: words for people; brokers leave odd ones even in successes, so it never tells an error.
        ext_fields: the fields of the request or response, all text.
        body: empty when there is none: the protocol does not tell the two apart.
        language: one of ``LANGUAGES``.
        version: the sender's ``MQVersion`` ordinal.
        written: not sent: a server calls it once, with whether all of the command was handed to the system.
    """

    code: int
    opaque: int = 0
    flag: int = 0
    remark: str | None = None
    ext_fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    language: str = _OWN_LANGUAGE
    version: int = VERSION
    written: Callable[[bool], None] | None = field(default=None, compare=False)

    @classmethod
    def response(cls, opaque: int, code: int, remark: str | None = None) -> RemotingCommand:
        """The answer to the request with this ``opaque``."""
        return cls(code, opaque, _RESPONSE_FLAG, remark)

    def offset(self, name: str, lowest: int = 0) -> int:
        """A field that must be an offset: an integer from ``lowest`` that fits into 64 bits.

        Raises:
            ProtocolError: it is missing or is none.
        """
        value = self.integer(name)
        if not lowest <= value < 2**63:
            raise ProtocolError(f"the field {name} is no offset: {self.ext_fields[name]:.100}")
        return value

    def integer(self, name: str) -> int:
        """A field that must be an integer.

        Raises:
            ProtocolError: it is missing or is none.
        """
        try:
            return int(self.ext_fields[name])
        except (KeyError, ValueError):
            raise ProtocolError(f"the field {name} is no integer: {self.ext_fields.get(name)!r:.100}") from None

    @property
    def is_response(self) -> bool:
        """Whether it answers a request of this side."""
        return bool(self.flag & _RESPONSE_FLAG)

    @property
    def is_oneway(self) -> bool:
        """Whether nobody awaits an answer."""
        return bool(self.flag & ONEWAY_FLAG)

    def __repr__(self) -> str:
        kind = "response" if self.is_response else "oneway request" if self.is_oneway else "request"
        shown = {name: "***" if name in _CREDENTIALS else value for name, value in self.ext_fields.items()}
        return (
            f"<RemotingCommand {kind} code={self.code} opaque={self.opaque} remark={self.remark!r:.200} "
            f"ext_fields={shown!r:.500} body={len(self.body)} bytes, {self.language} version {self.version}>"
        )


def encode_request(
    code: int,
    opaque: int,
    ext_fields: Mapping[str, str],
    body: bytes = b"",
    oneway: bool = False,
    remark: str | None = None,
) -> bytes:
    """A whole request frame with a JSON header.

    Raises:
        ConfigError: it is larger than a frame may be.
    """
    return _json_frame(code, opaque, ONEWAY_FLAG if oneway else 0, ext_fields, body, remark)


def encode(command: RemotingCommand, serialize_type: SerializeType = SerializeType.JSON) -> bytes:
    """A whole frame.

    A binary header cannot tell empty texts from missing ones, nor carry codes above 32,767 (those of pop).

    Raises:
        ConfigError: it is larger than a frame may be, or a value does not fit a binary header.
    """
    if serialize_type is SerializeType.ROCKETMQ:
        return _framed(serialize_type, _binary_header(command), command.body)
    return _json_frame(
        command.code, command.opaque, command.flag, command.ext_fields, command.body, command.remark,
        command.language, command.version,
    )  # fmt: skip


def decode(frame: bytes | memoryview) -> RemotingCommand:
    """Read a frame without its length field; the body is copied out of it.

    Raises:
        ProtocolError: it is malformed.
    """
    if len(frame) < 4:
        raise ProtocolError(f"a frame of {len(frame)} bytes has no room for the length of its header")
    header_end = 4 + int.from_bytes(frame[1:4], "big")
    if header_end > len(frame):
        raise ProtocolError(f"a frame of {len(frame)} bytes cannot hold a header of {header_end - 4} bytes")
    header = bytes(frame[4:header_end])
    serialize_type = frame[0]
    if serialize_type == SerializeType.JSON:
        command = _decode_json_header(header)
    elif serialize_type == SerializeType.ROCKETMQ:
        command = _decode_binary_header(header)
    else:
        raise ProtocolError(f"unknown kind of header {serialize_type}")
    command.body = bytes(frame[header_end:])
    return command


_NO_BUFFER = memoryview(bytearray())


class FrameReader:
    """Cuts a stream into commands.

    The buffer grows with the bytes that really arrived, not with the length that a peer announces, and is given back
    after a huge frame.

    Usage: fill ``get_buffer()``, report it with ``received(n)``, take commands with ``next_frame()`` until it gives
    None; only then ask for the buffer again. After a ``ProtocolError`` the stream is lost: close the connection.

    Args:
        frame_max_bytes: largest frame accepted, its length field included.
        resting_bytes: size of the buffer while no large frame comes.
    """

    _KEPT_BYTES = 1024 * 1024  # replies to pulls mostly fit: a buffer of this size is not given back
    _ROOM_BYTES = 32 * 1024  # least room offered to the socket

    def __init__(self, frame_max_bytes: int = FRAME_MAX_BYTES, resting_bytes: int = RESTING_BYTES) -> None:
        self._frame_max_bytes = frame_max_bytes
        self._resting_bytes = resting_bytes
        self._start = 0  # of what has not been taken yet
        self._end = 0  # of what has arrived
        self._view = memoryview(bytearray(resting_bytes))

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; of any size above 0. Valid until the next call."""
        waiting, capacity = self._end - self._start, len(self._view)
        if capacity == 0 or (capacity > self._KEPT_BYTES and waiting <= self._resting_bytes // 2):
            self._move_to(memoryview(bytearray(self._resting_bytes)))
        elif waiting == 0:
            self._start = self._end = 0
        elif capacity - self._end < self._ROOM_BYTES:
            if waiting <= capacity // 2:
                # Moved at most once per half a buffer received: byte by byte costs no more than all at once.
                self._move_to(self._view)
            else:
                self._move_to(memoryview(bytearray(min(capacity * 2, self._frame_max_bytes + self._ROOM_BYTES))))
        return self._view[self._end :]

    @property
    def buffer_bytes(self) -> int:
        """Size of the buffer."""
        return len(self._view)

    def rest(self) -> None:
        """Give the buffer back if nothing waits in it; the next ``get_buffer`` makes one."""
        if self._start == self._end:
            self._view, self._start, self._end = _NO_BUFFER, 0, 0

    def received(self, count: int) -> None:
        """Note that ``count`` bytes were put into the buffer."""
        if not 0 <= count <= len(self._view) - self._end:
            raise ValueError(f"{count} bytes do not fit the buffer given")
        self._end += count

    def next_frame(self) -> RemotingCommand | None:
        """The next complete command, None when more bytes are needed.

        Raises:
            ProtocolError: the length is impossible (known from the first 4 bytes on) or the frame malformed.
        """
        start = self._start + 4
        if start > self._end:
            return None
        length = int.from_bytes(self._view[start - 4 : start], "big", signed=True)
        if not 4 <= length <= self._frame_max_bytes - 4:
            hint = "; it speaks HTTP: is it another service?" if length == _HTTP else ""
            if length >> 16 in _TLS:
                hint = "; these are bytes of TLS: must the client's use_tls be set, or not?"
            raise ProtocolError(
                f"a frame of {length} bytes is announced; possible are 4 to {self._frame_max_bytes - 4}{hint}"
            )
        end = start + length
        if end > self._end:
            return None
        self._start = end
        return decode(self._view[start:end])

    def __iter__(self) -> Iterator[RemotingCommand]:
        while (command := self.next_frame()) is not None:
            yield command

    def _move_to(self, view: memoryview) -> None:
        waiting = self._end - self._start
        view[:waiting] = self._view[self._start : self._end]
        self._view, self._start, self._end = view, 0, waiting


def _framed(serialize_type: SerializeType, header: bytes, body: bytes) -> bytes:
    length = 4 + len(header) + len(body)
    if length > FRAME_MAX_BYTES - 4:
        raise ConfigError(f"a command of {length + 4} bytes: servers accept at most {FRAME_MAX_BYTES}")
    return b"".join((_LENGTHS.pack(length, serialize_type << 24 | len(header)), header, body))


def _json_frame(
    code: int, opaque: int, flag: int, ext_fields: Mapping[str, str], body: bytes, remark: str | None = None,
    language: str = _OWN_LANGUAGE, version: int = VERSION,
) -> bytes:  # fmt: skip
    # Put together by hand: one request goes out per pull, and this takes half of json.dumps' time.
    quoted = encode_basestring_ascii
    header = f'{{"code":{code:d},"flag":{flag},"language":{quoted(language)},"opaque":{opaque},"version":{version}'
    if ext_fields:
        fields = ",".join([f"{quoted(name)}:{quoted(value)}" for name, value in ext_fields.items()])
        header += f',"extFields":{{{fields}}}'
    if remark is not None:
        header += f',"remark":{quoted(remark)}'
    return _framed(SerializeType.JSON, f"{header}}}".encode("ascii"), body)


def _decode_json_header(header: bytes) -> RemotingCommand:
    if len(header) > _PLAIN_HEADER_BYTES and (
        sum(header.count(mark) for mark in (b'"', b"[", b"{")) > _HEADER_MARKS_MAX
        or header.count(b",") > _HEADER_COMMAS_MAX
    ):
        raise ProtocolError(f"a header of {len(header)} bytes that would be too many objects")
    fields = fastjson.loads(header, fastjson.MAX_REQUEST_CHARACTERS, fastjson.MAX_REQUEST_TOKENS)  # of answers, too
    if type(fields) is not dict:
        raise ProtocolError(f"the header is no JSON object but {type(fields).__name__}")
    remark = fields.get("remark")
    if remark is not None and type(remark) is not str:
        raise ProtocolError(f"the header's remark is no text but {type(remark).__name__}")
    return RemotingCommand(
        _integer(fields, "code"), _integer(fields, "opaque"), _integer(fields, "flag", 0), remark,
        _texts(fields.get("extFields")), b"", _language(fields.get("language", "JAVA")), _integer(fields, "version", 0),
    )  # fmt: skip


def _integer(fields: dict[Any, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not _INT_MIN <= value <= _INT_MAX:
        raise ProtocolError(f"the header's {name} is missing or no 32-bit integer ({type(value).__name__})")
    return value


def _texts(fields: object) -> dict[str, str]:
    """Java sends texts only; its servers take numbers and booleans as well, so other clients may send them."""
    if fields is None:
        return {}
    if type(fields) is not dict:
        raise ProtocolError(f"the header's extFields are no object but {type(fields).__name__}")
    for name, value in fields.items():
        if type(name) is not str or type(value) is not str:
            return {_text(name): _text(value) for name, value in fields.items() if value is not None}
    return fields


def _text(value: object) -> str:
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int or type(value) is float:
        return str(value)
    raise ProtocolError(f"extFields of the header hold {type(value).__name__} where text should be")


def _language(value: object) -> str:
    if type(value) is str:
        return _known_language(value.upper())
    if type(value) is int:
        return LANGUAGES[value] if 0 <= value < len(LANGUAGES) else _UNKNOWN_LANGUAGE
    raise ProtocolError(f"the header's language is {type(value).__name__}")


def _known_language(name: str) -> str:
    return name if name in _LANGUAGE_NUMBERS else _UNKNOWN_LANGUAGE


def _binary_header(command: RemotingCommand) -> bytes:
    if command.code > _BINARY_CODE_MAX:  # Java sends the lower half of it, which is another request's code
        raise ConfigError(f"code {command.code} does not fit the 16 bits of a binary header: use a JSON header")
    language = _LANGUAGE_NUMBERS[_known_language(command.language)]
    remark = _utf8(command.remark or "")
    try:
        head = _BINARY_HEAD.pack(command.code, language, command.version, command.opaque, command.flag)
        pieces: list[bytes] = []
        for name, value in command.ext_fields.items():
            raw_name, raw_value = _utf8(name), _utf8(value)
            pieces += (_SHORT.pack(len(raw_name)), raw_name, _INT.pack(len(raw_value)), raw_value)
    except struct.error as error:
        raise ConfigError(f"{command!r} does not fit a binary header: {error}") from None
    fields = b"".join(pieces)
    return b"".join((head, _INT.pack(len(remark)), remark, _INT.pack(len(fields)), fields))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # as Java: half a surrogate pair becomes a question mark


def _decode_binary_header(header: bytes) -> RemotingCommand:
    fields = _BinaryFields(header)
    code, language, version, opaque, flag = fields.unpack(_BINARY_HEAD)
    remark = fields.text(_INT) or None
    (length,) = fields.unpack(_INT)
    if length != len(header) - fields.at:
        raise ProtocolError(f"the header's extFields claim {length} bytes of {len(header) - fields.at}")
    ext_fields: dict[str, str] = {}
    while fields.at < len(header):
        name, value = fields.text(_SHORT), fields.text(_INT)
        if name and value:  # empty is Java's null here
            ext_fields[name] = value
    return RemotingCommand(code, opaque, flag, remark, ext_fields, b"", _language(language), version)


class _BinaryFields:
    """Reads one field of a binary header after the other."""

    def __init__(self, header: bytes) -> None:
        self._header = header
        self.at = 0

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        try:
            values = layout.unpack_from(self._header, self.at)
        except struct.error:
            raise ProtocolError(f"a binary header of {len(self._header)} bytes is cut short at {self.at}") from None
        self.at += layout.size
        return values

    def text(self, length_layout: struct.Struct) -> str:
        (length,) = self.unpack(length_layout)
        start, self.at = self.at, self.at + length
        if self.at > len(self._header):
            raise ProtocolError(f"a text of {length} bytes does not fit a binary header of {len(self._header)} bytes")
        try:
            return self._header[start : self.at].decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"a text in a binary header is not UTF-8: {error}") from None
