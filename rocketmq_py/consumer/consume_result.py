"""What a concurrent listener's answer means, without doing it.

Source: ConsumeMessageConcurrentlyService.processConsumeResult.
"""

from __future__ import annotations

from enum import Enum

from rocketmq_py.model.results import ConsumeConcurrentlyStatus


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


def return_type(
    status: ConsumeConcurrentlyStatus | None, raised: bool, took_ms: int, timeout_ms: int
) -> ConsumeReturnType:
    """How the call ended, first match wins: an answer that came too late is TIME_OUT even if it was success."""
    if status is None:
        return ConsumeReturnType.EXCEPTION if raised else ConsumeReturnType.RETURNNULL
    if took_ms >= timeout_ms:
        return ConsumeReturnType.TIME_OUT
    if status is ConsumeConcurrentlyStatus.RECONSUME_LATER:
        return ConsumeReturnType.FAILED
    return ConsumeReturnType.SUCCESS
