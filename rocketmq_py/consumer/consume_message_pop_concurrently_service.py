"""Calls a concurrent listener with popped messages and turns its answers into acknowledgements and delays.

The way of a message here: ``submit_pop_consume_request`` (the wire's thread) -> pool -> ``_consume`` (consume thread,
calls the listener) -> ``_process_consume_result`` -> ``PopSettlement``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.hooks import ConsumeMessageHook
from rocketmq_py.consumer.listener_caller import ConcurrentListenerCaller, batches
from rocketmq_py.consumer.pop_consume_timeouts import PopConsumeTimeouts
from rocketmq_py.consumer.pop_failures import PopFailures
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_settlement import Settlement
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.listener import ConsumeConcurrently
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

GIVE_BACK_MS = 1_000
"""At the end of a consumer, for giving back what could not be consumed."""

_log = logging.getLogger(__name__)

# Messages, their queue's counter, their queue, when their lease ends (monotonic ms), how long it is.
PopConsumeRequest = tuple[Sequence[MessageExt], PopProcessQueue, MessageQueue, int, int]


class ConsumeMessagePopConcurrentlyService:
    """Source: ConsumeMessagePopConcurrentlyService. Made and shut down by ``DefaultMQPushConsumer``."""

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        listener: ConsumeConcurrently,
        runtime: Runtime,
        settlement: Settlement,
        failures: PopFailures,
        hooks: Sequence[ConsumeMessageHook],
        counters: ConsumerCounters,
        stats: GroupStats,
        timeouts: PopConsumeTimeouts | None = None,
    ) -> None:
        self._group = group
        self._config = config
        self._caller = ConcurrentListenerCaller(
            group=group, config=config, listener=listener, runtime=runtime, hooks=hooks, counters=counters
        )
        self._clock = runtime.clock
        self._settlement = settlement
        self._failures = failures
        self._timeouts = timeouts
        self._drain_ends_ms: int | None = None
        self._gave_back = False
        self._counters = counters
        self._stats = stats
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._pool = runtime.worker_pool(
            f"ConsumeMessagePopThread_{group[:100]}_", config.consume_thread_min, self._consume
        )

    def update_core_pool_size(self, size: int) -> None:
        """Have so many consume threads. Source: updateCorePoolSize, whose checks the consumer makes."""
        self._pool.resize(size)

    def shutdown(self, await_ms: int) -> bool:
        """Take no more, wait for what is cached, then forget it: it comes again when its invisible time has passed.

        Where the server renews leases by itself it is given back.

        Returns:
            True when every cached message was consumed.
        """
        if not self._failures.outlives_drop:
            return self._pool.shutdown(await_ms)
        self._drain_ends_ms = self._clock.monotonic_ms() + await_ms
        return self._pool.shutdown(await_ms + GIVE_BACK_MS) and not self._gave_back

    def submit_pop_consume_request(self, msgs: list[MessageExt], queue: PopProcessQueue, mq: MessageQueue) -> None:
        """Hand messages to the consume threads in batches of ``consume_message_batch_max_size``.

        After ``shutdown`` nothing is taken. Behaviour: PO-03.

        Source: ConsumeMessagePopConcurrentlyService.submitPopConsumeRequest.
        """
        now_ms = self._clock.monotonic_ms()
        for batch in batches(msgs, self._config.consume_message_batch_max_size):
            invisible_ms = self._failures.lease_ms(batch[0])
            taken = self._pool.submit((batch, queue, mq, now_ms + invisible_ms, invisible_ms))
            if not taken and self._failures.outlives_drop:
                for msg in batch:
                    self._failures.give_back(msg, mq, queue)

    def _consume(self, request: PopConsumeRequest) -> None:
        """Source: ConsumeRequest.run. Behaviour: PO-04 to PO-06, PO-34."""
        msgs, queue, mq, lease_ends_ms, invisible_ms = request
        outlives_drop = self._failures.outlives_drop
        if queue.dropped and not outlives_drop:
            _log.info("group %s: queue %s was taken away, %s messages are not consumed", self._group, mq, len(msgs))
            return
        if self._drain_ends_ms is not None and self._clock.monotonic_ms() >= self._drain_ends_ms:
            self._gave_back = True
            for msg in msgs:
                self._failures.give_back(msg, mq, queue)
            return
        if self._clock.monotonic_ms() >= lease_ends_ms:
            self._report_timed_out(request, "before they could be consumed")
            return
        context = ConsumeConcurrentlyContext(mq)
        begin_ms = self._clock.monotonic_ms()
        running = None if self._timeouts is None else self._timeouts.begin(msgs, mq, queue)
        status = self._caller.call(msgs, mq, context, invisible_ms)
        self._stats[mq.topic].inc_consume_rt(self._clock.monotonic_ms() - begin_ms)
        if running is not None and not running.end():
            return  # it took too long: the messages come again already
        if queue.dropped and not outlives_drop:
            queue.dec_found_msg(-len(msgs), -sum(len(msg.body) for msg in msgs))
            _log.warning(
                "group %s: queue %s was taken away while %s messages were consumed; they come again",
                self._group, mq, len(msgs),
            )  # fmt: skip
        elif self._clock.monotonic_ms() >= lease_ends_ms:
            self._report_timed_out(request, "while the listener had them")
        else:
            self._process_consume_result(status, context, request)

    def _report_timed_out(self, request: PopConsumeRequest, when: str) -> None:
        msgs, queue, mq, _, invisible_ms = request
        queue.dec_found_msg(-len(msgs), -sum(len(msg.body) for msg in msgs))
        self._counters.count(Event.POP_TIMED_OUT, len(msgs))
        self._warnings.warning(
            ("timed out", when),
            "group %s: the invisible time (%s ms) of %s messages of %s passed %s; they come again. Raise "
            "pop_invisible_time or lower pop_threshold_for_queue if the listener is that slow",
            self._group, invisible_ms, len(msgs), mq, when,
        )  # fmt: skip

    def _process_consume_result(
        self, status: ConsumeConcurrentlyStatus | None, context: ConsumeConcurrentlyContext, request: PopConsumeRequest
    ) -> None:
        """Source: ConsumeMessagePopConcurrentlyService.processConsumeResult. Behaviour: PO-07, PO-08."""
        msgs, queue, mq = request[:3]
        failed = self._caller.failed_indexes(status, context, len(msgs))
        stats = self._stats[mq.topic]
        if status is ConsumeConcurrentlyStatus.CONSUME_SUCCESS:
            stats.inc_consume_ok_tps(len(msgs) - len(failed))
        stats.inc_consume_failed_tps(len(failed))
        again = set(failed)
        delay_level = self._delay_level(context) if again else 0
        for index, msg in enumerate(msgs):
            if index in again:
                self._failures.again_later(msg, mq, queue, delay_level)
            else:
                self._settlement.ack(msg, mq.topic, queue)

    def _delay_level(self, context: ConsumeConcurrentlyContext) -> int:
        level: object = context.delay_level_when_next_consume
        if isinstance(level, int):
            return level
        self._warnings.warning(
            "delay level",
            "group %s: the listener set delay_level_when_next_consume to %r, which is no integer; it counts as 0",
            self._group, level,
        )  # fmt: skip
        return 0
