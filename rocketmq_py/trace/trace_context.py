"""What is traced, as values. Source: TraceType, TraceBean, TraceContext."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class TraceType(Enum):
    """What a record tells of."""

    SUB_BEFORE = "SubBefore"
    SUB_AFTER = "SubAfter"


@dataclass(frozen=True, slots=True)
class TraceBean:
    """One message.

    Attributes:
        topic: as subscribed; records of one topic are sent together.
        msg_id: the producer's id.
        keys: business keys, separated by spaces, or None.
        retry_times: failed deliveries before this one.
    """

    topic: str
    msg_id: str
    keys: str | None
    retry_times: int


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One listener call, before or after.

    Attributes:
        timestamp: ms since 1970.
        region_id: what the broker wrote into the messages; contexts without one are not sent.
        group_name: the consumer's group.
        request_id: the same before and after.
        trace_beans: the messages.
        cost_time: after the call, ms per message.
        success: after the call, whether the listener answered CONSUME_SUCCESS.
        context_code: after the call, the place of its ``ConsumeReturnType`` in that enum, from 0.
    """

    trace_type: TraceType
    timestamp: int
    region_id: str | None
    group_name: str
    request_id: str
    trace_beans: Sequence[TraceBean]
    cost_time: int = 0
    success: bool = True
    context_code: int = 0
