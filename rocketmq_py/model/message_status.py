"""What has become of a message for a group: seven statuses, and every change between them that is legal.

Rules: a status is changed only by ``step``, which refuses what ``TRANSITIONS`` does not have. What happens to a message
is a ``Fact``; ``PATHS`` says which changes a fact means in each status. A fact often proves earlier ones: what is sent
back was delivered. A fact that a status has no path for says nothing new, or comes too late, and changes nothing: the
acknowledgement of a message that was sent back meanwhile, say, which will come again in any case.

Not in Java, which must guess: ``TrackType`` out of committed offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from rocketmq_py.errors import IllegalStateError


class MessageStatus(Enum):
    """Status of one message for one group; the values are stored and shown."""

    WAIT_CONSUMER = "W"
    """Stored, not yet given to the group."""
    TO_CONSUMER_PROCESS = "TCP"
    """In a reply that is being written."""
    TO_CONSUMER_SUCCESS = "TCS"
    """The reply was written."""
    TO_CONSUMER_FAILED = "TCF"
    """The connection ended before the reply was written."""
    CONSUMER_LATER = "CL"
    """Sent back, put off, or its invisible time ran out: it comes again."""
    CONSUMER_SUCCESS = "CS"
    """Acknowledged, or the committed offset passed it while it was delivered and not sent back."""
    CONSUMER_FAILED = "CF"
    """In the dead-letter queue."""


W = MessageStatus.WAIT_CONSUMER
TCP = MessageStatus.TO_CONSUMER_PROCESS
TCS = MessageStatus.TO_CONSUMER_SUCCESS
TCF = MessageStatus.TO_CONSUMER_FAILED
CL = MessageStatus.CONSUMER_LATER
CS = MessageStatus.CONSUMER_SUCCESS
CF = MessageStatus.CONSUMER_FAILED

TRANSITIONS: Mapping[tuple[MessageStatus, MessageStatus], str] = {
    (W, TCP): "first delivery begins",
    (TCP, TCS): "reply written",
    (TCP, TCF): "connection ended",
    (TCF, TCP): "next try",
    (TCS, TCP): "given again, its member is gone",
    (TCS, CS): "acknowledged, or passed by the committed offset",
    (TCS, CL): "sent back, put off, or invisible for too long",
    (TCS, CF): "dead letter",
    (CL, TCP): "next attempt",
    (CL, CS): "acknowledged by its receipt after it was put off",
    (CL, CF): "dead letter after all",
    (CS, TCP): "given once more, the offset went back",
    (CS, CL): "sent back after the offset had passed it",
    (CS, CF): "dead letter after the offset had passed it",
    (CF, TCP): "given once more",
}
"""Every legal change, and what causes it."""


class Fact(Enum):
    """What can happen to a message of a group, as the broker learns it."""

    GIVEN = "put into a reply"
    WRITTEN = "the reply was written"
    BROKEN = "the connection ended before that, or the broker did"
    SENT_BACK = "sent back or put off by its consumer"
    INVISIBLE_NO_MORE = "its invisible time ran out"
    DEAD = "put into the dead-letter queue"
    ACKNOWLEDGED = "acknowledged by its consumer"
    SETTLED = "acknowledged by the receipt of a pop"
    PASSED = "the committed offset passed it"


PATHS: Mapping[Fact, Mapping[MessageStatus, tuple[MessageStatus, ...]]] = {
    Fact.GIVEN: {status: (TCP,) for status in MessageStatus if status is not TCP},
    Fact.WRITTEN: {TCP: (TCS,), TCF: (TCP, TCS)},
    Fact.BROKEN: {TCP: (TCF,)},
    Fact.SENT_BACK: {W: (TCP, TCS, CL), TCP: (TCS, CL), TCF: (TCP, TCS, CL), TCS: (CL,), CS: (CL,)},
    Fact.INVISIBLE_NO_MORE: {TCS: (CL,)},
    Fact.DEAD: {W: (TCP, TCS, CF), TCP: (TCS, CF), TCF: (TCP, TCS, CF), TCS: (CF,), CL: (CF,), CS: (CF,)},
    Fact.ACKNOWLEDGED: {W: (TCP, TCS, CS), TCP: (TCS, CS), TCF: (TCP, TCS, CS), TCS: (CS,)},
    Fact.SETTLED: {W: (TCP, TCS, CS), TCP: (TCS, CS), TCF: (TCP, TCS, CS), TCS: (CS,), CL: (CS,)},
    Fact.PASSED: {TCS: (CS,)},
}
"""Which changes a fact means, by the status it meets; a status that is missing stays."""

_ATTEMPT_BEGINS = frozenset({W, CL, CS, CF})


def step(status: MessageStatus, attempt: int, following: MessageStatus) -> tuple[MessageStatus, int]:
    """Change a status; the attempt counts deliveries from 1, those that follow on a failed one not.

    Raises:
        IllegalStateError: the change is none of ``TRANSITIONS``.
    """
    if (status, following) not in TRANSITIONS:
        raise IllegalStateError(f"a message's status cannot change from {status.value} to {following.value}")
    return following, attempt + (following is TCP and status in _ATTEMPT_BEGINS)
