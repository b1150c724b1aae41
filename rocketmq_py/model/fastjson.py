"""JSON as fastjson peers write it, on the wire and in files, which is not always JSON.

Java's ``Map<Long, ...>`` comes with bare integer keys, ``Map<MessageQueue, ...>`` with whole objects as keys:
``{{"brokerName":"a","queueId":0,"topic":"t"}:4}``. Peers also parse MessageQueue keys from that form only.

Nearly everything is plain JSON, for which the standard library is many times faster; what it refuses gets a second try
by the parser below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, NoReturn

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.message_queue import MessageQueue

MAX_DEPTH = 100
"""Nesting that the tolerant parser follows; real bodies need less than ten."""

MAX_TOLERANT_CHARACTERS = 2 * 1024 * 1024
"""Text that the tolerant parser takes on, about a second's work: it may run on the thread that reads all connections.
Room for the consume stats, which have object keys, of some 10,000 queues."""

MAX_REQUEST_BYTES = 2 * 1024 * 1024
"""Body of a request that is JSON: reading 15 MB takes the better part of a second."""

MAX_REQUEST_CHARACTERS = 256 * 1024
MAX_REQUEST_TOKENS = 20_000
"""The same of what servers read: the parser holds up all their clients. Clients write standard JSON, but for a few
escapes, and for offsets by queue when they answer: room for those of 1,000 queues."""

_MESSAGE_QUEUE_FIELDS = {"brokerName": str, "queueId": int, "topic": str}


def loads(
    text: str | bytes, max_characters: int = MAX_TOLERANT_CHARACTERS, max_tokens: int = MAX_TOLERANT_CHARACTERS
) -> Any:
    r"""Read JSON, or what fastjson writes in its place.

    Beyond JSON: keys that are integers of 64 bits (``int``), bare names, or objects (a ``MessageQueue`` when it is one,
    else a tuple of (name, value) sorted by name); strings in single quotes; the escapes ``\v``, ``\F``, ``\'``,
    ``\0``..``\7``, ``\x41``. Less than ``json.loads``: no NaN and Infinity (fastjson writes null for them). Half of a
    surrogate pair, which could not be logged or sent, becomes U+FFFD.

    Args:
        text: UTF-8, if it is bytes.
        max_characters: what the tolerant parser takes on.
        max_tokens: the same.

    Raises:
        ProtocolError: it is neither, or too long to find out.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"JSON is not UTF-8: {error}") from None
    try:
        if "\\ud" not in text and "\\uD" not in text:  # the standard parser lets half a surrogate pair pass
            return _standard(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > max_characters:
        raise ProtocolError(
            f"malformed JSON: {len(text)} characters that are not standard JSON are too many to look into"
        )
    try:
        return _Parser(text, max_tokens).parse()
    except (ValueError, RecursionError) as error:  # more digits than Python converts; a caller deep in its own stack
        raise ProtocolError(f"malformed JSON: {error}") from None


def loads_request(text: str | bytes) -> Any:
    """``loads`` for servers: up to their bounds only."""
    if len(text) > MAX_REQUEST_BYTES:
        raise ProtocolError(f"JSON of {len(text)} bytes, {MAX_REQUEST_BYTES} are read")
    return loads(text, MAX_REQUEST_CHARACTERS, MAX_REQUEST_TOKENS)


def dumps(value: object) -> bytes:
    """Write JSON without spaces, in ASCII, as fastjson does: integer keys bare, ``MessageQueue`` keys as objects."""
    return _written(value).encode("ascii")


def _written(value: object) -> str:
    match value:
        case str():
            return encode_basestring_ascii(value)
        case bool():
            return "true" if value else "false"
        case int():
            return int.__repr__(value)
        case None | float():
            return json.dumps(value, allow_nan=False)
        case MessageQueue():
            broker_name, topic = map(encode_basestring_ascii, (value.broker_name, value.topic))
            return f'{{"brokerName":{broker_name},"queueId":{value.queue_id:d},"topic":{topic}}}'
        case Mapping():
            return "{" + ",".join([f"{_written_key(key)}:{_written(each)}" for key, each in value.items()]) + "}"
        case list() | tuple():
            return "[" + ",".join([_written(each) for each in value]) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _written_key(key: object) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int | MessageQueue):
        raise TypeError(f"{type(key).__name__} cannot be a key in JSON")
    return _written(key)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_standard = json.JSONDecoder(parse_constant=_no_constant).decode

# Possessive quantifiers: a hostile text must not make the matcher step back over what it has read.
_TOKEN = re.compile(
    r"""[ \t\r\n]*+(?:
        (?P<mark>[{}\[\]:,])
      | (?P<number>-?[0-9]++(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+)
      | "(?P<text>[^"\\]*+(?:\\.[^"\\]*+)*+)"
      | '(?P<quoted>[^'\\]*+(?:\\.[^'\\]*+)*+)'
      | (?P<name>[A-Za-z_$][A-Za-z0-9_$]*+)
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_INTEGER = re.compile(r"-?[0-9]+")
_ESCAPE = re.compile(r"((?:\\u[0-9a-fA-F]{4})++)|\\x([0-9a-fA-F]{2})|\\(.)", re.DOTALL)
_CONSTANTS = {"true": True, "false": False, "null": None}
_ESCAPED = {
    **{character: character for character in "\"'\\/"},
    **dict(zip("btnvfFr", "\b\t\n\v\f\f\r", strict=True)),
    **{str(code): chr(code) for code in range(8)},
}


class _Parser:
    """Recursive descent over ``_TOKEN``; a token's kind is its group's name, of a mark the mark itself."""

    def __init__(self, text: str, max_tokens: int) -> None:
        self._text = text
        self._at = 0
        self._tokens_left = max_tokens

    def parse(self) -> Any:
        value = self._value(*self._take(), 0)
        kind, _ = self._take()
        if kind != "end":
            raise self._refusal(f"{kind} after the end")
        return value

    def _take(self) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._refusal("something that is no JSON")
        self._at = match.end()
        self._tokens_left -= 1
        if self._tokens_left < 0:
            raise ProtocolError("malformed JSON: too many parts that are not standard JSON")
        kind = match.lastgroup or ""
        token: str = match[kind]
        return (token if kind == "mark" else kind), token

    def _value(self, kind: str, token: str, depth: int) -> Any:
        if kind in {"text", "quoted"}:
            return self._unescaped(token)
        if kind == "number":
            return int(token) if _INTEGER.fullmatch(token) else float(token)
        if kind == "{":
            return self._object(depth + 1)
        if kind == "[":
            return self._array(depth + 1)
        if kind == "name" and token in _CONSTANTS:
            return _CONSTANTS[token]
        raise self._refusal(f"{kind} where a value should be")

    def _object(self, depth: int) -> dict[Any, Any]:
        self._check(depth)
        result: dict[Any, Any] = {}
        kind, token = self._take()
        if kind == "}":
            return result
        while True:
            key = self._key(kind, token, depth)
            kind, token = self._take()
            if kind != ":":
                raise self._refusal(f"{kind} where a colon should be")
            result[key] = self._value(*self._take(), depth)
            kind, token = self._take()
            if kind == "}":
                return result
            if kind != ",":
                raise self._refusal(f"{kind} where a comma or brace should be")
            kind, token = self._take()

    def _array(self, depth: int) -> list[Any]:
        self._check(depth)
        result: list[Any] = []
        kind, token = self._take()
        if kind == "]":
            return result
        while True:
            result.append(self._value(kind, token, depth))
            kind, token = self._take()
            if kind == "]":
                return result
            if kind != ",":
                raise self._refusal(f"{kind} where a comma or bracket should be")
            kind, token = self._take()

    def _key(self, kind: str, token: str, depth: int) -> Any:
        if kind in {"text", "quoted"}:
            return self._unescaped(token)
        if kind == "name":
            return token
        if kind == "number" and _INTEGER.fullmatch(token):
            return self._long(int(token))
        if kind == "{":
            return self._frozen(self._object(depth + 1))
        raise self._refusal(f"{kind} where a key should be")

    def _frozen(self, key: dict[Any, Any]) -> MessageQueue | tuple[tuple[Any, Any], ...]:
        for value in key.values():
            if isinstance(value, int):
                self._long(value)
        if {name: type(value) for name, value in key.items()} == _MESSAGE_QUEUE_FIELDS:
            return MessageQueue(key["topic"], key["brokerName"], key["queueId"])
        if any(isinstance(value, dict | list) for value in key.values()):
            raise self._refusal("nested values in a key")
        return tuple(sorted(key.items(), key=lambda item: str(item[0])))

    def _long(self, key: int) -> int:
        # Multiples of 2**61 - 1 have all the same hash: a dictionary of a hundred thousand of them takes minutes.
        if not -(2**63) <= key < 2**63:
            raise self._refusal("a key that is no 64-bit integer")
        return key

    def _unescaped(self, token: str) -> str:
        return _ESCAPE.sub(self._escaped, token) if "\\" in token else token

    def _escaped(self, match: re.Match[str]) -> str:
        units, code, character = match.groups()
        if units:
            return bytes.fromhex(units.replace("\\u", "")).decode("utf-16-be", "replace")
        if code:
            return chr(int(code, 16))
        if character not in _ESCAPED:
            raise self._refusal("an unknown escape")
        return _ESCAPED[character]

    def _check(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._refusal(f"more than {MAX_DEPTH} levels")

    def _refusal(self, what: str) -> ProtocolError:
        return ProtocolError(f"malformed JSON: {what} before character {self._at} of {len(self._text)}")
