"""What must hold of every history of a message's status."""

from __future__ import annotations

from rocketmq_py.model.message_status import MessageStatus, step
from rocketmq_py.remoting.message_status_bodies import GroupStatus


def check_history(told: GroupStatus) -> set[MessageStatus]:
    """Each change is legal, and the last one leads to how the message stands; the statuses that it ever had."""
    status, attempt = MessageStatus.WAIT_CONSUMER, 0
    for change in told.history:
        status, attempt = step(status, attempt, change.status)
        assert (status, attempt) == (change.status, change.attempt), told
    assert (status, attempt) == (told.status, told.attempt), told
    return {change.status for change in told.history}
