"""In what the two wires differ when messages are popped: how many may be asked for, how long a pop waits, whether its
messages outlive the assignment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from rocketmq_py.consumer.flow_control import MIB
from rocketmq_py.consumer.message_puller import BROKER_SUSPEND_MAX_TIME_MILLIS
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.model.config import (
    DEFAULT_POP_INVISIBLE_TIME,
    MAX_POP_INVISIBLE_TIME,
    MIN_POP_INVISIBLE_TIME,
    ConsumerConfig,
)
from rocketmq_py.model.retry_policy import ConsumerTerms

RECEIVE_BATCH_MAX = 32
"""A server gives no more messages at once, whatever is asked for."""


class PopTerms(Protocol):
    """Asked before every pop, on any thread.

    Attributes:
        timeout_slack_ms: how long after the end of a poll its answer may come.
    """

    timeout_slack_ms: int

    def room(self, queue: PopProcessQueue) -> tuple[int, str]:
        """How many messages may be asked for; with 0 also what is exceeded."""
        ...

    @property
    def poll_ms(self) -> int:
        """How long a pop may wait for messages."""
        ...

    @property
    def invisible_ms(self) -> int:
        """For how long nobody else gets what is popped."""
        ...


class RemotingPopTerms:
    """Source: the checks at the head of DefaultMQPushConsumerImpl.popMessage."""

    timeout_slack_ms = 10_000
    poll_ms: ClassVar[int] = BROKER_SUSPEND_MAX_TIME_MILLIS

    def __init__(self, config: ConsumerConfig) -> None:
        self._config = config

    def room(self, queue: PopProcessQueue) -> tuple[int, str]:
        """See ``PopTerms.room``."""
        waiting, limit = queue.wait_ack_msg_count, self._config.pop_threshold_for_queue
        if waiting > limit:
            return 0, f"{waiting} messages are not settled, the limit is {limit}"
        return self._config.pop_batch_nums, ""

    @property
    def invisible_ms(self) -> int:
        """See ``PopTerms.invisible_ms``."""
        invisible_ms = self._config.pop_invisible_time
        if not MIN_POP_INVISIBLE_TIME <= invisible_ms <= MAX_POP_INVISIBLE_TIME:  # changed since the start
            return DEFAULT_POP_INVISIBLE_TIME
        return invisible_ms


class GrpcPopTerms:
    """Limits of count and bytes per topic and broker, checked before each receive.

    Source: ProcessQueueImpl.isCacheFull, receiveMessage of the Java gRPC client, where the limits are divided by the
    number of queues.

    Args:
        terms: what the server decides now.
    """

    invisible_ms: ClassVar[int] = (
        DEFAULT_POP_INVISIBLE_TIME  # a proxy that renews by itself says 60 s whatever is asked
    )

    def __init__(self, config: ConsumerConfig, terms: Callable[[], ConsumerTerms]) -> None:
        self._config = config
        self._terms = terms
        self.timeout_slack_ms = config.mq_client_api_timeout

    def room(self, queue: PopProcessQueue) -> tuple[int, str]:
        """See ``PopTerms.room``. Behaviour: GC-03."""
        count, limit = queue.wait_ack_msg_count, self._config.pull_threshold_for_queue
        if count >= limit:
            return 0, f"{count} messages are not settled, the limit (pull_threshold_for_queue) is {limit}"
        size, limit_bytes = queue.wait_ack_bytes, self._config.pull_threshold_size_for_queue * MIB
        if size >= limit_bytes:
            return 0, f"{size} bytes are not settled, the limit (pull_threshold_size_for_queue) is {limit_bytes}"
        batch = min(self._terms().receive_batch_size, self._config.pull_batch_size, RECEIVE_BATCH_MAX)
        return min(batch, limit - count), ""

    @property
    def poll_ms(self) -> int:
        """See ``PopTerms.poll_ms``."""
        return self._terms().long_polling_ms
