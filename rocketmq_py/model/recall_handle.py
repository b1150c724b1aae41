"""By what a message that waits for its moment is recalled. Source: RecallMessageHandle."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.extra_info import long_of

_VERSION = "v1"
_FIELDS = 5


class RecallHandle(NamedTuple):
    """What a broker needs to find the message. ``deliver_ms`` is wall ms."""

    topic: str
    broker_name: str
    deliver_ms: int
    uniq_key: str

    @classmethod
    def parse(cls, text: str) -> RecallHandle:
        """Read a handle; a moment that is no number is -1, as upstream has it.

        Raises:
            ProtocolError: it is none.
        """
        try:
            version, *fields = (
                base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode().split(" ")
            )
        except (binascii.Error, ValueError):
            raise ProtocolError("recall handle is invalid") from None
        if version != _VERSION or len(fields) < _FIELDS - 1:
            raise ProtocolError("recall handle is invalid")
        topic, broker_name, moment, uniq_key = fields[: _FIELDS - 1]
        try:
            deliver_ms = long_of(moment)
        except ValueError:
            deliver_ms = -1
        return cls(topic, broker_name, deliver_ms, uniq_key)

    def __str__(self) -> str:
        """The handle as it travels."""
        return base64.urlsafe_b64encode(" ".join((_VERSION, *map(str, self))).encode()).decode()
