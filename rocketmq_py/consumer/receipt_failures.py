"""What becomes of messages that came by the gRPC wire and failed: the server's back-off, then the dead-letter queue.

Source: ProcessQueueImpl.eraseMessage, nackMessage, discardMessage, discardFifoMessage of the Java gRPC client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.receipt_settlement import RENEW_MAX_MS, ReceiptSettlement
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.delay_level import DEFAULT_DELAY_LEVELS, parse_delay_levels
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.retry_policy import ConsumerTerms
from rocketmq_py.rate_limited_log import RateLimitedLog

_LEVELS_MS = parse_delay_levels(DEFAULT_DELAY_LEVELS)

_log = logging.getLogger(__name__)


class ReceiptFailures:
    """Satisfies ``PopFailures``.

    Args:
        terms: what the server decides now.
    """

    outlives_drop: ClassVar[bool] = True

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        clock: Clock,
        settlement: ReceiptSettlement,
        terms: Callable[[], ConsumerTerms],
        counters: ConsumerCounters,
    ) -> None:
        self._group = group
        self._config = config
        self._settlement = settlement
        self._terms = terms
        self._counters = counters
        self._warnings = RateLimitedLog(clock, _log)

    @property
    def max_attempts(self) -> int:
        """Deliveries of a message: the server's limit, or the user's if that is lower."""
        times = self._config.max_reconsume_times
        servers = self._terms().retry.max_attempts
        return servers if times == -1 else min(servers, times + 1)

    def lease_ms(self, first: MessageExt) -> int:
        """The server renews the lease, for so long."""
        return RENEW_MAX_MS

    def again_later(self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue, delay_level: int) -> None:
        """See ``PopFailures.again_later``. Behaviour: GC-05, GC-06."""
        attempt = msg.reconsume_times + 1
        if delay_level < 0 or (self._config.max_reconsume_times != -1 and attempt >= self.max_attempts):
            self._counters.count(Event.SENT_BACK)
            self._settlement.forward_to_dead_letter_queue(msg, mq.topic, attempt, self.max_attempts, queue)
            return
        delay_ms = self._terms().retry.delay_ms(attempt)
        if delay_level > 0:
            delay_ms = _LEVELS_MS[min(delay_level, len(_LEVELS_MS)) - 1]
        self._settlement.change_invisible_duration(msg, mq.topic, delay_ms, queue)

    def give_back(self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue) -> None:
        """See ``PopFailures.give_back``: others get it at once, and it counts as no attempt. Behaviour: GC-09."""
        self._settlement.change_invisible_duration(msg, mq.topic, 0, queue, suspend=True)

    def too_often(self, msg: MessageExt) -> bool:
        """See ``PopFailures.too_often``."""
        return msg.reconsume_times >= self.max_attempts

    def give_up(self, msg: MessageExt, mq: MessageQueue) -> None:
        """See ``PopFailures.give_up``."""
        self._counters.count(Event.POP_GIVEN_UP)
        _log.warning("group %s: %r came too often, it goes to the dead-letter queue", self._group, msg)
        self._settlement.forward_to_dead_letter_queue(
            msg, mq.topic, msg.reconsume_times + 1, self.max_attempts, queue=None
        )

    def corrupted(self, msg: MessageExt, mq: MessageQueue, error: Exception) -> None:
        """See ``PopFailures.corrupted``: the listener never gets it. Behaviour: GC-08."""
        self._counters.count(Event.CORRUPTED)
        self._warnings.warning(
            ("corrupted", mq.topic),
            "group %s: message %s (queue %s offset %s of %s) is not consumed: %s",
            self._group, msg.msg_id, msg.queue_id, msg.queue_offset, mq.topic, error,
        )  # fmt: skip
        terms = self._terms()
        attempt = msg.reconsume_times + 1
        if terms.fifo:
            self._settlement.forward_to_dead_letter_queue(msg, mq.topic, attempt, self.max_attempts)
        else:
            self._settlement.change_invisible_duration(msg, mq.topic, terms.retry.delay_ms(attempt))
