"""What a listener's answer means, without doing it.

Source: processConsumeResult of ConsumeMessageConcurrentlyService and ConsumeMessageOrderlyService.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, ConsumeOrderlyStatus


class ConsumeReturnType(Enum):
    """How a listener call ended, as hooks are told. Source: ConsumeReturnType."""

    SUCCESS = "SUCCESS"
    TIME_OUT = "TIME_OUT"
    EXCEPTION = "EXCEPTION"
    RETURNNULL = "RETURNNULL"
    FAILED = "FAILED"


def failed_indexes(status: ConsumeConcurrentlyStatus, ack_index: int, size: int) -> range:
    """Which messages of a batch of ``size`` must come again.

    The ack index is one way to make such a set. With CONSUME_SUCCESS it names the last good message (inclusive; more
    than there are: all); with RECONSUME_LATER it is ignored and all failed.

    Deviation: an ack index below -1 counts as -1; in Java it is an index error and the messages hang until they expire.
    """
    if status is ConsumeConcurrentlyStatus.RECONSUME_LATER:
        return range(size)
    return range(min(max(ack_index, -1) + 1, size), size)


def come_again(
    status: ConsumeConcurrentlyStatus | None, context: ConsumeConcurrentlyContext, size: int
) -> Sequence[int]:
    """Which messages of a batch of ``size`` must come again, ascending, by all that a listener said.

    Raises:
        ConfigError: it said something that is no place in the batch; what is wrong here must not lose a message.
    """
    if status is not ConsumeConcurrentlyStatus.CONSUME_SUCCESS:
        return range(size)
    failed = context.failed_indexes
    if failed is not None:
        if failed and max(failed) >= size:
            raise ConfigError(f"the listener set failed_indexes to message {max(failed)} of a batch of {size}, from 0")
        return sorted(failed)
    ack_index: object = context.ack_index
    if not isinstance(ack_index, int):
        raise ConfigError(f"the listener set ack_index to {ack_index!r}, which is no integer")
    return failed_indexes(status, ack_index, size)


class OrderlyAction(Enum):
    """What becomes of the messages that an orderly listener was given."""

    COMMIT = "everything taken so far is done"
    KEEP = "they stay taken until a later COMMIT or ROLLBACK"
    ROLLBACK = "everything taken so far comes again, after a while"
    AGAIN = "these come again after a while, or go to the retry topic when they failed too often"


def orderly_action(status: ConsumeOrderlyStatus | None, auto_commit: bool) -> OrderlyAction:
    """The table of ConsumeMessageOrderlyService.processConsumeResult; None, no status, counts as SUSPEND."""
    if status is None or status is ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT:
        return OrderlyAction.AGAIN
    if auto_commit or status is ConsumeOrderlyStatus.COMMIT:
        return OrderlyAction.COMMIT
    return OrderlyAction.KEEP if status is ConsumeOrderlyStatus.SUCCESS else OrderlyAction.ROLLBACK


_FAILED = (ConsumeConcurrentlyStatus.RECONSUME_LATER, ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT)


def return_type(
    status: ConsumeConcurrentlyStatus | ConsumeOrderlyStatus | None, raised: bool, took_ms: int, timeout_ms: int
) -> ConsumeReturnType:
    """How the call ended, first match wins: an answer that came too late is TIME_OUT even if it was success."""
    if status is None:
        return ConsumeReturnType.EXCEPTION if raised else ConsumeReturnType.RETURNNULL
    if took_ms >= timeout_ms:
        return ConsumeReturnType.TIME_OUT
    return ConsumeReturnType.FAILED if status in _FAILED else ConsumeReturnType.SUCCESS
