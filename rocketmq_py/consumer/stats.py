"""Counters of rare events, for whoever looks after a consumer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum

from rocketmq_py.runtime import Mutex


class Event(Enum):
    """What is counted."""

    FLOW_CONTROLLED = "pulls held back because a window was full"
    STUCK_HEAD = "sightings of a window whose lowest message has been in a listener for long"
    EXPIRED = "messages sent back because a listener had them longer than the consume timeout"
    SENT_BACK = "failed messages sent back to be retried"
    SEND_BACK_FAILED = "failed messages that could not be sent back and are retried locally"
    PULL_FAILED = "pulls that ended in an error"
    OFFSET_ILLEGAL = "pulls whose offset the broker does not have"
    UNKNOWN_RESULT = "listener answers that are no status"
    BROADCAST_DROPPED = "failed messages of broadcasting consumers, which do not retry"
    LATE_RESULT = "orderly batches whose answer came after the broker's lock had run out; they come again"
    LOCK_LOST = "orderly queues that another member consumed on while the broker's lock had run out here"
    TRACE_LOST = "trace contexts, two per listener call, that were discarded or could not be sent"
    POP_TIMED_OUT = "popped messages whose invisible time passed before they were consumed or settled"
    POP_GIVEN_UP = "popped messages acknowledged because they failed too often for too long"
    STATUS_ACK_LOST = "consumed messages that a broker which keeps statuses could not be told of explicitly"
    SETTLE_FAILED = "acknowledgements and delays of popped messages that failed"
    CORRUPTED = "messages whose bodies could not be read or did not fit their digest"


class ConsumerCounters:
    """One counter per ``Event``, from 0. Any thread may count."""

    def __init__(self) -> None:
        self._lock = Mutex()
        self._counts: Counter[Event] = Counter()

    def count(self, event: Event, times: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[event] += times

    def snapshot(self) -> Mapping[Event, int]:
        """All counters now."""
        with self._lock:
            return {event: self._counts[event] for event in Event}
