"""Calls a concurrent listener and turns its answers into commits and retries.

The way of a message here: ``submit_consume_request`` (pull thread) -> pool -> ``_consume`` (consume thread, calls the
listener) -> ``_settle`` or, when something failed, ``_process_consume_result`` -> offset store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import repeat

from rocketmq_py.consumer.consumer_stats_manager import NOTED_MSGS_BITS, GroupStats, TopicStats
from rocketmq_py.consumer.hooks import ConsumeMessageHook
from rocketmq_py.consumer.listener_caller import ConcurrentListenerCaller, batches
from rocketmq_py.consumer.offset_store import OffsetStore
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.send_back import FIRST_RETRY_DELAY_LEVEL, SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.consumer.status_acknowledger import Acknowledge
from rocketmq_py.model.config import ConsumerConfig, MessageModel
from rocketmq_py.model.listener import ConsumeConcurrently
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import MAX_ACK_INDEX, ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus
from rocketmq_py.model.running_info import ConsumeMessageDirectlyResult
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

RESUBMIT_DELAY_MS = 5_000
"""A message that could not be sent back is consumed again after this."""

EXPIRED_PER_SWEEP_MAX = 16
"""Messages of one queue that one expiry sweep sends back."""

STUCK_HEAD_SWEEP_INTERVAL_MS = 10_000
STUCK_HEAD_WARNING_MS = 30_000
"""A lowest message that a listener has had for longer is reported: it holds its queue's commit back."""

_log = logging.getLogger(__name__)

_MINUTE_MS = 60_000

_SUCCESS = ConsumeConcurrentlyStatus.CONSUME_SUCCESS  # to ask an enum class for a member takes as long as a call

# Messages, their window, their queue, their topic's statistics.
ConsumeRequest = tuple[Sequence[MessageExt], ProcessQueue, MessageQueue, TopicStats]


class ConsumeMessageConcurrentlyService:
    """Source: ConsumeMessageConcurrentlyService. Started and shut down by ``DefaultMQPushConsumer``.

    Args:
        windows: the queues owned now, for the sweeps.
    """

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        listener: ConsumeConcurrently,
        runtime: Runtime,
        offset_store: OffsetStore,
        send_back: SendMessageBack,
        hooks: Sequence[ConsumeMessageHook],
        counters: ConsumerCounters,
        stats: GroupStats,
        windows: Callable[[], Iterable[tuple[MessageQueue, ProcessQueue]]],
    ) -> None:
        self._group = group
        self._config = config
        self._caller = ConcurrentListenerCaller(
            group=group, config=config, listener=listener, runtime=runtime, hooks=hooks, counters=counters
        )
        self._call = self._caller.call
        self._offset_store = offset_store
        self._send_back = send_back
        self._counters = counters
        self._stats = stats
        self._now_ms = runtime.clock.monotonic_ms
        self._windows = windows
        self.acknowledge: Acknowledge | None = None  # while a broker wants to hear of every message; any thread sets it
        self._consume_timeout_ms = config.consume_timeout * _MINUTE_MS
        self._broadcasting = config.message_model is MessageModel.BROADCASTING
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._pool = runtime.worker_pool(
            f"ConsumeMessageThread_{group[:100]}_", config.consume_thread_min, self._consume
        )
        self._backlog = self._pool.backlog
        self._scheduler = runtime.scheduler(f"ConsumeMessageScheduledThread_{group[:100]}")
        self._cleaner = runtime.scheduler(f"CleanExpireMsgScheduledThread_{group[:100]}")

    def start(self) -> None:
        """Begin the sweeps."""
        self._cleaner.schedule_at_fixed_rate(
            self._consume_timeout_ms, self._consume_timeout_ms, self.clean_expired_messages
        )
        self._scheduler.schedule_at_fixed_rate(
            STUCK_HEAD_SWEEP_INTERVAL_MS, STUCK_HEAD_SWEEP_INTERVAL_MS, self.report_stuck_heads
        )

    def update_core_pool_size(self, size: int) -> None:
        """Have so many consume threads. Source: updateCorePoolSize, whose checks the consumer makes."""
        self._pool.resize(size)

    def shutdown(self, await_ms: int) -> bool:
        """Take no more, wait for what is cached, then forget it: it stays uncommitted and comes again elsewhere.

        Returns:
            True when every cached message was consumed.
        """
        self._scheduler.shutdown()
        try:
            return self._pool.shutdown(await_ms)
        finally:
            self._cleaner.shutdown()

    def submit_consume_request(
        self, msgs: list[MessageExt], queue: ProcessQueue, mq: MessageQueue, dispatch: bool = True
    ) -> None:
        """Hand messages to the consume threads in batches of ``consume_message_batch_max_size``.

        ``dispatch``, whether an orderly task must be started, means nothing here.

        Every batch is handed over by itself, so that a slow one holds up no other. After ``shutdown`` nothing is taken.

        Behaviour: CC-01. Source: ConsumeMessageConcurrentlyService.submitConsumeRequest.
        """
        queue.settle = partial(self._settle, queue, mq)
        pieces = batches(msgs, self._config.consume_message_batch_max_size)
        self._pool.submit_all(list(zip(pieces, repeat(queue), repeat(mq), repeat(self._stats[mq.topic]))))

    def _consume(self, request: ConsumeRequest) -> None:
        """Source: ConsumeRequest.run, processConsumeResult. Hot: runs once per batch, per message at batch size 1.

        What nearly always happens, a success of the whole batch, makes no further call than it must: each costs a
        hundredth of the time of a message. The window is told of it at once when nothing else waits, otherwise with
        what else of the queue is finished until somebody looks at the window, the next pull at the latest: one by one
        it would cost more than the rest together. Behaviour: CC-02, CC-07, CC-17, ST-05.
        """
        msgs, queue, mq, stats = request
        if queue.dropped:
            _log.info("group %s: queue %s was taken away, %s messages are not consumed", self._group, mq, len(msgs))
            return
        context = ConsumeConcurrentlyContext(mq)
        begin_ms = queue.begin_consume(msgs)
        status = self._call(msgs, mq, context)
        if queue.dropped:
            stats.inc_consume_rt(self._now_ms() - begin_ms)
            _log.warning(
                "group %s: queue %s was taken away while %s messages were consumed; they come again elsewhere",
                self._group, mq, len(msgs),
            )  # fmt: skip
            return
        if status is not _SUCCESS or context.ack_index is not MAX_ACK_INDEX:
            self._process_consume_result(status, context, request, begin_ms)
            return
        queue.finished.extend(msgs)
        stats.note_success(self._now_ms() - begin_ms << NOTED_MSGS_BITS | len(msgs))
        if not self._backlog() and not queue.dropped:
            queue.settle()

    def _settle(self, queue: ProcessQueue, mq: MessageQueue) -> None:
        """Tell the window what is finished, and the store how far it is; also when the queue was taken away since.

        Two threads may do it at once: each sees what the other has not removed yet as unfinished.

        Behaviour: CC-17. Source: the end of ConsumeMessageConcurrentlyService.processConsumeResult.
        """
        finished: list[MessageExt] = []
        note, take = finished.append, queue.finished.popleft
        with suppress(IndexError):
            while True:
                note(take())
        if finished and (offset := queue.remove_message(finished)) >= 0:
            self._offset_store.update_offset(mq, offset, increase_only=True)
        self._acknowledge(mq, finished)

    def _acknowledge(self, mq: MessageQueue, msgs: Sequence[MessageExt]) -> None:
        acknowledge = self.acknowledge
        if acknowledge is not None and msgs:
            acknowledge(mq, msgs)

    def _process_consume_result(
        self,
        status: ConsumeConcurrentlyStatus | None,
        context: ConsumeConcurrentlyContext,
        request: ConsumeRequest,
        begin_ms: int,
    ) -> None:
        """Source: ConsumeMessageConcurrentlyService.processConsumeResult. Behaviour: CC-03 to CC-06, ST-05."""
        msgs, queue, mq, stats = request
        failed = self._caller.failed_indexes(status, context, len(msgs))
        self._count(stats, begin_ms, len(msgs), len(failed))
        self._acknowledge(mq, [msg for index, msg in enumerate(msgs) if index not in failed])
        if failed and self._broadcasting:
            self._drop_failed(msgs[failed[0]], len(failed), mq)
        elif failed and (not_sent_back := self._send_back_failed([msgs[index] for index in failed], queue, context)):
            # By identity: messages have no equality. What stays in the window holds the commit back.
            kept = {id(msg) for msg in not_sent_back}
            msgs = [msg for msg in msgs if id(msg) not in kept]
            self._scheduler.schedule(RESUBMIT_DELAY_MS, lambda: self.submit_consume_request(not_sent_back, queue, mq))
        offset = queue.remove_message(msgs)
        if offset >= 0 and not queue.dropped:
            self._offset_store.update_offset(mq, offset, increase_only=True)

    def _count(self, stats: TopicStats, begin_ms: int, size: int, failed: int) -> None:
        stats.inc_consume_rt(self._now_ms() - begin_ms)
        if failed < size:
            stats.inc_consume_ok_tps(size - failed)
        stats.inc_consume_failed_tps(failed)

    def _drop_failed(self, first: MessageExt, count: int, mq: MessageQueue) -> None:
        """Broadcasting has no retry topic: what fails is passed over. Behaviour: CC-16."""
        self._counters.count(Event.BROADCAST_DROPPED, count)
        self._warnings.warning(
            ("dropped", mq),
            "group %s: %s messages from offset %s of %s failed; broadcasting consumers do not retry, they are passed "
            "over", self._group, count, first.queue_offset, mq,
        )  # fmt: skip

    def _send_back_failed(
        self, failed: Sequence[MessageExt], queue: ProcessQueue, context: ConsumeConcurrentlyContext
    ) -> list[MessageExt]:
        """Send failed messages back; returns those for which that failed too, their count raised by one."""
        delay_level = context.delay_level_when_next_consume
        not_sent_back = []
        for msg in failed:
            if not queue.contains_message(msg):
                _log.info("message %s expired meanwhile and was sent back already", msg.msg_id)
            elif self._send_back.send(msg, delay_level):
                self._counters.count(Event.SENT_BACK)
            else:
                self._counters.count(Event.SEND_BACK_FAILED)
                msg._reconsume_times += 1
                not_sent_back.append(msg)
        return not_sent_back

    def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
        """Have the listener consume one message that an operator chose; blocks as long as the listener does.

        Changes no window, no offset and no statistics, and calls no hook.

        Behaviour: OP-04. Source: ConsumeMessageConcurrentlyService.consumeMessageDirectly.
        """
        context = ConsumeConcurrentlyContext(MessageQueue(msg.topic, msg.broker_name, msg.queue_id))
        outcome = self._caller.call_directly(msg, context)
        return ConsumeMessageDirectlyResult(order=False, auto_commit=True, **outcome._asdict())

    def clean_expired_messages(self) -> None:
        """Send messages back that a listener has had for longer than the consume timeout, lowest first.

        Looks only at each window's lowest message, again after each one sent back: what lies behind a message that has
        not expired is not looked at. Runs every ``consume_timeout`` minutes, so real expiry is one to two of them.

        Behaviour: CC-08. Source: ProcessQueue.cleanExpiredMsg.
        """
        for mq, queue in self._windows():
            head = queue.head()
            for _ in range(min(head.behind + 1 if head else 0, EXPIRED_PER_SWEEP_MAX)):
                queue.settle()  # sending back takes its time: what is finished meanwhile must not come again
                head = queue.head()
                if head is None or head.consuming_ms is None or head.consuming_ms <= self._consume_timeout_ms:
                    break
                if not self._broadcasting and not self._send_back.send(head.message, FIRST_RETRY_DELAY_LEVEL):
                    break  # the next sweep tries again; Java tries up to 16 times at once (deviations)
                self._counters.count(Event.EXPIRED)
                _log.warning(
                    "group %s: %s of %s expired and was %s", self._group, head.message.msg_id, mq,
                    "passed over" if self._broadcasting else "sent back",
                )  # fmt: skip
                queue.remove_head(head.message)

    def report_stuck_heads(self) -> None:
        """Warn of windows whose lowest message has been in a listener for long. Behaviour: CC-09. Not in Java."""
        for mq, queue in self._windows():
            head = queue.head()
            if head is not None and head.consuming_ms is not None and head.consuming_ms > STUCK_HEAD_WARNING_MS:
                self._counters.count(Event.STUCK_HEAD)
                self._warnings.warning(
                    ("stuck head", mq),
                    "group %s: offset %s of %s has been in the listener for %s s and holds the commit back, "
                    "%s messages wait behind it",
                    self._group, head.message.queue_offset, mq, head.consuming_ms // 1000, head.behind,
                )  # fmt: skip
