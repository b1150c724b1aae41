"""Finds listeners that have had popped messages for too long, and has the messages come again elsewhere.

Where a server renews leases by itself, nothing else would: a listener that hangs would keep its messages for hours.

Source: ConsumeMessageConcurrentlyService.cleanExpireMsg, in its sense; the Java gRPC client has no such limit.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from rocketmq_py.consumer.pop_failures import PopFailures
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.runtime import Mutex, Runtime, Scheduler

SWEEP_MS = 10_000

_MINUTE_MS = 60_000

_log = logging.getLogger(__name__)


class Running:
    """A batch that a listener has."""

    __slots__ = ("_owner", "begin_ms", "mq", "msgs", "number", "queue")

    def __init__(
        self, owner: PopConsumeTimeouts, number: int, msgs: Sequence[MessageExt], mq: MessageQueue,
        queue: PopProcessQueue, begin_ms: int,
    ) -> None:  # fmt: skip
        self._owner = owner
        self.number = number
        self.msgs = msgs
        self.mq = mq
        self.queue = queue
        self.begin_ms = begin_ms

    def end(self) -> bool:
        """The listener answered; False: too late, the batch was given away."""
        return self._owner.end(self)


class PopConsumeTimeouts:
    """Owner of the table of batches that listeners have. Lock: ``_lock`` guards it.

    ``begin`` and ``end`` on consume threads, the sweep on the scheduler's.
    """

    def __init__(
        self, group: str, config: ConsumerConfig, runtime: Runtime, scheduler: Scheduler, failures: PopFailures,
        counters: ConsumerCounters,
    ) -> None:  # fmt: skip
        self._group = group
        self._config = config
        self._now_ms = runtime.clock.monotonic_ms
        self._failures = failures
        self._counters = counters
        self._lock = Mutex()
        self._running: dict[int, Running] = {}
        self._numbers = itertools.count()
        scheduler.schedule_at_fixed_rate(SWEEP_MS, SWEEP_MS, self._sweep)

    def begin(self, msgs: Sequence[MessageExt], mq: MessageQueue, queue: PopProcessQueue) -> Running:
        """A listener is about to get these messages."""
        running = Running(self, next(self._numbers), msgs, mq, queue, self._now_ms())
        with self._lock:
            self._running[running.number] = running
        return running

    def end(self, running: Running) -> bool:
        """See ``Running.end``."""
        with self._lock:
            return self._running.pop(running.number, None) is not None

    def _sweep(self) -> None:
        """Behaviour: GC-07."""
        timeout_ms = self._config.consume_timeout * _MINUTE_MS
        now_ms = self._now_ms()
        with self._lock:
            overdue = [each for each in self._running.values() if now_ms - each.begin_ms >= timeout_ms]
            for each in overdue:
                del self._running[each.number]
        for each in overdue:
            self._counters.count(Event.EXPIRED, len(each.msgs))
            _log.warning(
                "group %s: a listener has had %s messages of %s from offset %s for more than %s minutes "
                "(consume_timeout); they come again, its answer will not count",
                self._group, len(each.msgs), each.mq, each.msgs[0].queue_offset, self._config.consume_timeout,
            )  # fmt: skip
            for msg in each.msgs:
                self._failures.again_later(msg, each.mq, each.queue, 0)
