"""A client's connection as the broker sees it, and how requests are answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from rocketmq_py.errors import BrokerError, StoreError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand


class Channel(Protocol):
    """One connection; on the loop's thread only. Writing to one that has ended does nothing."""

    @property
    def remote_address(self) -> str:
        """``host:port`` of the client."""
        ...

    @property
    def remote_host(self) -> bytes:
        """The same, packed as on the wire."""
        ...

    def write(self, command: RemotingCommand) -> None:
        """Send a command; what the client does not read yet waits in memory, and then it is not read either."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")

Handler = Callable[[Channel, RemotingCommand], RemotingCommand | None]
"""Answers a request; None when the answer comes later or never. Raises ``BrokerError`` to refuse."""


def success(request: RemotingCommand, fields: Mapping[str, object] | None = None, body: bytes = b"") -> RemotingCommand:
    """The answer that all went well."""
    answer = RemotingCommand.response(request.opaque, ResponseCode.SUCCESS)
    if fields:
        answer.ext_fields = {name: str(value) for name, value in fields.items()}
    answer.body = body
    return answer


def refusal(request: RemotingCommand, code: int, remark: str) -> RemotingCommand:
    """The answer that something is wrong."""
    return RemotingCommand.response(request.opaque, code, remark)


def held_bytes(request: RemotingCommand) -> int:
    """What a request that waits has in memory, roughly, its sender's connection left out."""
    return 1_000 + sum([len(name) + len(value) for name, value in request.ext_fields.items()]) + len(request.body)


def answer_when_stored(
    channel: Channel, request: RemotingCommand, answer: RemotingCommand
) -> Callable[[StoreError | None], None]:
    """What to call when a change is on the disk: sends the answer, or the error."""

    def stored(error: StoreError | None) -> None:
        if not request.is_oneway:
            channel.write(answer if error is None else refusal(request, ResponseCode.SYSTEM_ERROR, str(error)))

    return stored


def when_all(count: int, stored: Callable[[StoreError | None], None]) -> Callable[[StoreError | None], None]:
    """What to call ``count`` times for ``stored`` to be called once, with the first error if there was one.

    With a count of 0 it is called at once.
    """
    left, first = count, None

    def one(error: StoreError | None) -> None:
        nonlocal left, first
        left -= 1
        first = first or error
        if left == 0:
            stored(first)

    if count == 0:
        stored(None)
    return one


def required(request: RemotingCommand, name: str) -> str:
    """A field that must be there and not empty."""
    value = request.ext_fields.get(name)
    if not value:
        raise BrokerError(ResponseCode.SYSTEM_ERROR, f"the custom field <{name}> is null")
    return value


def integer(request: RemotingCommand, name: str, default: int | None = None, bits: int = 64) -> int:
    """A field that must be an integer of so many bits."""
    text = request.ext_fields.get(name)
    if text is None and default is not None:
        return default
    value = int(text) if text is not None and _INTEGER.fullmatch(text) else 1 << bits
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise BrokerError(ResponseCode.SYSTEM_ERROR, f"the custom field <{name}> is no integer: {text!r:.100}")
    return value
