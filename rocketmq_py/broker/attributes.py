"""Attributes of topics and groups, and how they are changed.

Source: AttributeParser, AttributeUtil, TopicAttributes, SubscriptionGroupAttributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode


class _Attribute(NamedTuple):
    changeable: bool
    values: tuple[str, ...]  # none: a time in ms, -1 for no limit
    legal: str = ""  # in words, where it is not the values


# Batch queues and compaction are upstream's, not this broker's.
MESSAGE_TYPE = "message.type"
"""The only kind of messages that a topic takes; clients of the gRPC protocol are held to it."""

PRIORITY_FACTOR = "priority.factor"
"""Of a group: how many of 100 pops look at higher priorities first, the others at each queue in turn."""

OF_TOPICS = {
    "queue.type": _Attribute(False, ("SimpleCQ",)),
    "cleanup.policy": _Attribute(False, ("DELETE",)),
    MESSAGE_TYPE: _Attribute(True, ("UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "MIXED")),
    "reserve.time": _Attribute(True, ()),
    "message.status": _Attribute(True, ("true", "false")),  # this broker's own: see message_status_manager
}
OF_GROUPS = {
    PRIORITY_FACTOR: _Attribute(True, tuple(map(str, range(101))), "0 to 100")
}  # no lite topics: see java-map.md
_TIME = re.compile(r"-1|[0-9]{1,18}", re.ASCII)


def modification_of(attributes: Mapping[str, str]) -> str:
    """``+key=value,-key``, where a configuration has the signs in its keys."""
    return ",".join([f"{key}={value}" if key.startswith("+") else key for key, value in attributes.items()])


def altered(
    current: Mapping[str, str] | None, modification: str, known: Mapping[str, _Attribute] = OF_TOPICS
) -> dict[str, str]:
    """Attributes after ``+key=value,-key``; ``current`` is None when the topic or group is being created.

    Raises:
        BrokerError: it is malformed, or names what is not there or cannot be changed.
    """
    result = dict(current or {})
    seen = set()
    for change in modification.split(",") if modification else []:
        name, equals, value = change.strip().partition("=")
        sign, key = name[:1], name[1:]
        if not key or key in seen or sign not in {"+", "-"} or (sign == "+") != bool(equals):
            raise _refusal(f"wrong format of attributes: {modification!r:.200}, it is +key=value,-key")
        seen.add(key)
        attribute = known.get(key)
        if attribute is None:
            raise _refusal(f"unsupported key: {key:.100}")
        if current is not None and not attribute.changeable:
            raise _refusal(f"attempt to update an unchangeable attribute. key: {key}")
        if sign == "+":
            if not (value in attribute.values if attribute.values else _TIME.fullmatch(value)):
                legal = attribute.legal or ", ".join(attribute.values) or "-1 or milliseconds"
                raise _refusal(f"{key}={value:.100} is not possible here, possible are: {legal}")
            result[key] = value
        elif current is None:
            raise _refusal(f"only add attribute is supported while creating topic. key: {key}")
        elif key not in result:
            raise _refusal(f"attempt to delete a nonexistent key: {key}")
        else:
            del result[key]
    return result


def _refusal(remark: str) -> BrokerError:
    return BrokerError(ResponseCode.SYSTEM_ERROR, remark)
