"""Fields of JSON bodies with their types checked: what comes out can be relied on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from rocketmq_py.errors import ProtocolError

T = TypeVar("T")


def checked(value: object, kind: type[T], what: str) -> T:
    """A value that must be of this type exactly: True is no int."""
    if type(value) is not kind:
        raise ProtocolError(f"{what} is {type(value).__name__} where {kind.__name__} should be")
    return value


def as_object(value: object, what: str) -> dict[Any, Any]:
    """A value that must be a JSON object."""
    return checked(value, dict, what)


def field(fields: Mapping[Any, Any], name: str, kind: type[T]) -> T:
    """A field that must be there."""
    return checked(fields.get(name), kind, name)


def int32(value: object, what: str) -> int:
    """A Java int. Larger ones may be chosen to have all the same hash: sets of many of them take minutes."""
    number = checked(value, int, what)
    if not -(2**31) <= number < 2**31:
        raise ProtocolError(f"{what} is no 32-bit integer")
    return number
