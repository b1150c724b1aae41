"""Whether a queue may be pulled now, and if not, when to look again.

Source: the checks at the head of DefaultMQPushConsumerImpl.pullMessage, in their order.
"""

from __future__ import annotations

from enum import Enum

from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.model.config import ConsumerConfig

MIB = 1024 * 1024

PULL_TIME_DELAY_MILLS_WHEN_CACHE_FLOW_CONTROL = 50
PULL_TIME_DELAY_MILLS_WHEN_BROKER_FLOW_CONTROL = 20
PULL_TIME_DELAY_MILLS_WHEN_SUSPEND = 1_000


class Limit(Enum):
    """Which limit holds a pull back."""

    COUNT = "messages cached"
    SIZE = "MiB cached"
    SPAN = "offsets spanned"


def exceeded_limit(queue: ProcessQueue, config: ConsumerConfig, orderly: bool = False) -> tuple[Limit, int, int] | None:
    """The first limit that the queue's window is above, with its value and the limit; None: pull.

    The span counts for concurrent consumption only. All comparisons are strict, sizes are whole MiB, so a window may
    exceed a limit by what one pull brings.
    """
    count = queue.msg_count
    if count > config.pull_threshold_for_queue:
        return Limit.COUNT, count, config.pull_threshold_for_queue
    size_mib = queue.msg_size // MIB
    if size_mib > config.pull_threshold_size_for_queue:
        return Limit.SIZE, size_mib, config.pull_threshold_size_for_queue
    if orderly:
        return None
    # The span of a window with few messages can still be large: it is what one stuck message holds up.
    span = queue.max_span
    if span > config.consume_concurrently_max_span:
        return Limit.SPAN, span, config.consume_concurrently_max_span
    return None
