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
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_settlement import PopSettlement
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.listener import ConsumeConcurrently
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

POP_DELAY_LEVEL = (10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200)
"""Seconds until a failed message comes again, by how often it came again already. Not the broker's delay levels."""

GIVE_UP_AGE_MS = POP_DELAY_LEVEL[-1] * 1_000 * 2
"""A message that failed too often is given up once it is older than this."""

_log = logging.getLogger(__name__)

# Messages, their queue's counter, their queue, when their lease ends (monotonic ms), how long it is.
PopConsumeRequest = tuple[list[MessageExt], PopProcessQueue, MessageQueue, int, int]


class ConsumeMessagePopConcurrentlyService:
    """Source: ConsumeMessagePopConcurrentlyService. Made and shut down by ``DefaultMQPushConsumer``."""

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        listener: ConsumeConcurrently,
        runtime: Runtime,
        settlement: PopSettlement,
        send_back: SendMessageBack,
        hooks: Sequence[ConsumeMessageHook],
        counters: ConsumerCounters,
        stats: GroupStats,
    ) -> None:
        self._group = group
        self._config = config
        self._caller = ConcurrentListenerCaller(
            group=group, config=config, listener=listener, runtime=runtime, hooks=hooks, counters=counters
        )
        self._clock = runtime.clock
        self._settlement = settlement
        self._send_back = send_back
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

        Returns:
            True when every cached message was consumed.
        """
        return self._pool.shutdown(await_ms)

    def submit_pop_consume_request(self, msgs: list[MessageExt], queue: PopProcessQueue, mq: MessageQueue) -> None:
        """Hand messages to the consume threads in batches of ``consume_message_batch_max_size``.

        After ``shutdown`` nothing is taken. Behaviour: PO-03.

        Source: ConsumeMessagePopConcurrentlyService.submitPopConsumeRequest.
        """
        now_ms = self._clock.monotonic_ms()
        for batch in batches(msgs, self._config.consume_message_batch_max_size):
            invisible_ms = self._invisible_ms(batch[0])
            self._pool.submit((batch, queue, mq, now_ms + invisible_ms, invisible_ms))

    def _invisible_ms(self, first: MessageExt) -> int:
        """Length of a batch's lease, by the receipt of its first message; 0 when that cannot be read.

        The lease counts from the arrival, by this machine's clock: Java compares its own clock with the broker's, and
        consumes nothing at all where they differ by more than the invisible time (deviations).
        """
        try:
            receipt = ExtraInfo.parse(first.get_property(MessageConst.POP_CK))
        except ProtocolError as error:
            self._warnings.warning("receipt", "group %s: %s; it is not consumed", self._group, error)
            return 0
        return receipt.invisible_time if receipt.pop_time > 0 and receipt.invisible_time > 0 else 0

    def _consume(self, request: PopConsumeRequest) -> None:
        """Source: ConsumeRequest.run. Behaviour: PO-04 to PO-06, PO-34."""
        msgs, queue, mq, lease_ends_ms, invisible_ms = request
        if queue.dropped:
            _log.info("group %s: queue %s was taken away, %s messages are not consumed", self._group, mq, len(msgs))
            return
        if self._clock.monotonic_ms() >= lease_ends_ms:
            self._report_timed_out(request, "before they could be consumed")
            return
        context = ConsumeConcurrentlyContext(mq)
        begin_ms = self._clock.monotonic_ms()
        status = self._caller.call(msgs, mq, context, invisible_ms)
        self._stats[mq.topic].inc_consume_rt(self._clock.monotonic_ms() - begin_ms)
        if queue.dropped:
            queue.dec_found_msg(-len(msgs))
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
        queue.dec_found_msg(-len(msgs))
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
        """Source: ConsumeMessagePopConcurrentlyService.processConsumeResult. Behaviour: PO-07 to PO-11."""
        msgs, queue, mq = request[:3]
        failed = self._caller.failed_indexes(status, context, len(msgs))
        stats = self._stats[mq.topic]
        if status is ConsumeConcurrentlyStatus.CONSUME_SUCCESS:
            stats.inc_consume_ok_tps(len(msgs) - len(failed))
        stats.inc_consume_failed_tps(len(failed))
        again = set(failed)
        for index, msg in enumerate(msgs):
            queue.ack()
            if index in again:
                self._again_later(msg, mq, context)
            else:
                self._settlement.ack(msg, mq.topic)

    def _again_later(self, msg: MessageExt, mq: MessageQueue, context: ConsumeConcurrentlyContext) -> None:
        delay_level = self._delay_level(context)
        if delay_level < 0 and self._send_back.send(msg, delay_level):
            self._counters.count(Event.SENT_BACK)
            self._settlement.ack(msg, mq.topic)
        elif msg.reconsume_times >= self._config.effective_max_reconsume_times():
            self._check_need_ack_or_delay(msg, mq)
        else:
            self._change_pop_invisible_time(msg, mq, delay_level if delay_level > 0 else msg.reconsume_times)

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

    def _check_need_ack_or_delay(self, msg: MessageExt, mq: MessageQueue) -> None:
        """What failed too often is given up when it is old, and else put off by its age.

        Source: ConsumeMessagePopConcurrentlyService.checkNeedAckOrDelay.
        """
        age_ms = self._clock.wall_ms() - msg.born_timestamp
        if age_ms > GIVE_UP_AGE_MS:
            self._counters.count(Event.POP_GIVEN_UP)
            self._warnings.warning(
                "given up",
                "group %s: message %s (keys %s) failed %s times in %s minutes, it is given up",
                self._group, msg.msg_id, msg.keys, msg.reconsume_times + 1, age_ms // 60_000,
            )  # fmt: skip
            self._settlement.ack(msg, mq.topic)
        else:
            self._change_pop_invisible_time(msg, mq, sum(age_ms >= seconds * 1_000 for seconds in POP_DELAY_LEVEL))

    def _change_pop_invisible_time(self, msg: MessageExt, mq: MessageQueue, delay_level: int) -> None:
        """Have a message come again after the table's delay; a level beyond its ends counts as the end."""
        seconds = POP_DELAY_LEVEL[min(max(delay_level, 0), len(POP_DELAY_LEVEL) - 1)]
        self._settlement.change_invisible_time(msg, mq.topic, seconds * 1_000)
