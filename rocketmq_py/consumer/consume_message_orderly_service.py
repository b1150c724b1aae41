"""Calls an orderly listener: one batch of a queue after the other, in the order of offsets, under the broker's lock.

A queue has at most one task under way. It is started when a pull brings something and none is (``ProcessQueue`` says
so), takes batch after batch, and ends when nothing is left. What cannot go on now (no lock, a message that failed, 60 s
of one queue without a break) ends the task too, and a timer starts it again; no thread waits.

Source: ConsumeMessageOrderlyService.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rocketmq_py.consumer.consume_result import OrderlyAction, orderly_action
from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.hooks import ConsumeMessageHook
from rocketmq_py.consumer.listener_caller import ListenerCaller
from rocketmq_py.consumer.message_queue_lock import MessageQueueLock
from rocketmq_py.consumer.offset_store import NO_OFFSET, OffsetStore
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.queue_locks import QueueLocks
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.consumer.status_acknowledger import Acknowledge
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.listener import ConsumeOrderly
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import SUSPEND_AS_CONFIGURED, ConsumeOrderlyContext, ConsumeOrderlyStatus
from rocketmq_py.model.running_info import ConsumeMessageDirectlyResult
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

REBALANCE_LOCK_INTERVAL_MS = 20_000
FIRST_LOCK_DELAY_MS = 1_000
"""How often locks are renewed, and when for the first time. See ``queue_locks`` for the other two times."""

MAX_TIME_CONSUME_CONTINUOUSLY_MS = 60_000
"""A task that has consumed one queue for longer lets others have its thread."""

LOCK_LATER_MS = 100
LOCK_LATER_IN_LOOP_MS = 10
CONSUME_SOON_MS = 10
LOCK_REFUSED_MS = 3_000
QUEUE_BUSY_MS = 100
"""An older window of the queue is still in its listener."""
CONSUME_LOCK_WAIT_MS = 1_000
SUSPEND_MIN_MS, SUSPEND_MAX_MS = 10, 30_000

_log = logging.getLogger(__name__)

ConsumeRequest = tuple[ProcessQueue, MessageQueue]


class ConsumeMessageOrderlyService:
    """Started and shut down by ``DefaultMQPushConsumer``.

    Threads: tasks run on the pool; renewing and taking locks, which ask brokers, each have a timer of their own, so
    that a broker that is down delays neither the renewal of other locks nor the queues that wait a moment.

    Args:
        locks: None: the group is broadcasting, nobody else consumes these queues.
    """

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        listener: ConsumeOrderly,
        runtime: Runtime,
        offset_store: OffsetStore,
        send_back: SendMessageBack,
        hooks: Sequence[ConsumeMessageHook],
        counters: ConsumerCounters,
        stats: GroupStats,
        locks: QueueLocks | None,
    ) -> None:
        self._group = group
        self._config = config
        self._max_reconsume_times = config.effective_max_reconsume_times(orderly=True)
        self._caller = ListenerCaller(
            group=group,
            config=config,
            listener=listener,
            none_means=ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT,
            runtime=runtime,
            hooks=hooks,
            counters=counters,
        )
        self._offset_store = offset_store
        self._send_back = send_back
        self._counters = counters
        self._stats = stats
        self._locks = locks
        self.acknowledge: Acknowledge | None = None  # while a broker wants to hear of every message; any thread sets it
        self._now_ms = runtime.clock.monotonic_ms
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._message_queue_lock = MessageQueueLock(runtime)
        self._pool = runtime.worker_pool(
            f"ConsumeMessageThread_{group[:100]}_", config.consume_thread_min, self._consume
        )
        self._scheduler = runtime.scheduler(f"ConsumeMessageScheduledThread_{group[:100]}")
        self._renewer = runtime.scheduler(f"LockMQPeriodicallyThread_{group[:100]}")
        self._locker = runtime.scheduler(f"TryLockLaterThread_{group[:100]}")

    def start(self) -> None:
        """Begin to renew locks."""
        if self._locks is not None:
            self._renewer.schedule_at_fixed_rate(FIRST_LOCK_DELAY_MS, REBALANCE_LOCK_INTERVAL_MS, self._locks.lock_all)

    def update_core_pool_size(self, size: int) -> None:
        """Have so many consume threads. Source: updateCorePoolSize, whose checks the consumer makes."""
        self._pool.resize(size)

    def shutdown(self, await_ms: int) -> bool:
        """Start no more calls of the listener, wait for those under way; the rest comes again elsewhere.

        Locks are renewed while it waits, and given back later, once offsets are committed. Behaviour: OR-12.

        Returns:
            True when no call was still running after ``await_ms``.
        """
        self._locker.shutdown()
        self._scheduler.shutdown()
        try:
            return self._pool.shutdown(await_ms)
        finally:
            self._renewer.shutdown()  # not before: what is waited for must keep its lock to be committed

    def submit_consume_request(
        self, msgs: list[MessageExt], queue: ProcessQueue, mq: MessageQueue, dispatch: bool
    ) -> None:
        """Start a task for a queue when ``dispatch`` says that none is under way; the messages wait in the window.

        Behaviour: OR-02. Source: submitConsumeRequest.
        """
        if dispatch:
            self._pool.submit((queue, mq))

    def _consume(self, request: ConsumeRequest) -> None:
        """Source: ConsumeRequest.run. Behaviour: OR-03."""
        queue, mq = request
        if queue.dropped:
            _log.warning("group %s: queue %s was taken away, it is not consumed here any more", self._group, mq)
            return
        alone = self._message_queue_lock.fetch_lock_object(mq)
        if not alone.acquire(0):
            self._submit_later(queue, mq, QUEUE_BUSY_MS)
            return
        try:
            if self._holds_lock(queue):
                self._consume_continuously(queue, mq)
            else:
                self._try_lock_later_and_reconsume(queue, mq, LOCK_LATER_MS)
        finally:
            alone.release()

    def _consume_continuously(self, queue: ProcessQueue, mq: MessageQueue) -> None:
        """Source: the loop in ConsumeRequest.run. Behaviour: OR-04, OR-05."""
        began_ms = self._now_ms()
        goes_on = True
        while goes_on:
            if queue.dropped:
                _log.warning("group %s: queue %s was taken away, it is not consumed here any more", self._group, mq)
                return
            if not self._holds_lock(queue):
                self._try_lock_later_and_reconsume(queue, mq, LOCK_LATER_IN_LOOP_MS)
                return
            if self._now_ms() - began_ms > MAX_TIME_CONSUME_CONTINUOUSLY_MS:
                self._submit_later(queue, mq, CONSUME_SOON_MS)
                return
            msgs = queue.take_messages(self._config.consume_message_batch_max_size)
            goes_on = bool(msgs) and self._consume_batch(queue, mq, msgs)

    def _consume_batch(self, queue: ProcessQueue, mq: MessageQueue, msgs: Sequence[MessageExt]) -> bool:
        """Whether the task goes on with the next batch."""
        if not queue.consume_lock.acquire(CONSUME_LOCK_WAIT_MS):
            # Rebalance is giving the queue away, which does not take so long; should it not be, nothing is lost.
            queue.make_message_to_consume_again(msgs)
            self._submit_later(queue, mq, QUEUE_BUSY_MS)
            return False
        try:
            if queue.dropped:
                return False
            context = ConsumeOrderlyContext(mq)
            begin_ms = self._now_ms()
            status = self._caller.call(msgs, mq, context)
            self._stats[mq.topic].inc_consume_rt(self._now_ms() - begin_ms)
            if not self._holds_lock(queue):
                self._forget_late_result(queue, mq, msgs)
                return False
            return self._process_consume_result(queue, mq, msgs, status, context)
        finally:
            queue.consume_lock.release()

    def _forget_late_result(self, queue: ProcessQueue, mq: MessageQueue, msgs: Sequence[MessageExt]) -> None:
        """The lock ran out while the listener was at work: another member may have the queue. Behaviour: OR-06.

        Not in Java, which commits (deviations).
        """
        self._counters.count(Event.LATE_RESULT, len(msgs))
        _log.warning(
            "group %s: the listener returned for offset %s of %s after the lock had run out; nothing is committed, the "
            "messages come again", self._group, msgs[0].queue_offset, mq,
        )  # fmt: skip
        queue.make_message_to_consume_again(msgs)
        self._try_lock_later_and_reconsume(queue, mq, LOCK_LATER_IN_LOOP_MS)

    def _process_consume_result(
        self,
        queue: ProcessQueue,
        mq: MessageQueue,
        msgs: Sequence[MessageExt],
        status: ConsumeOrderlyStatus | None,
        context: ConsumeOrderlyContext,
    ) -> bool:
        """Source: processConsumeResult. Behaviour: OR-07, OR-08, ST-08."""
        auto_commit = context.auto_commit
        action = orderly_action(status, auto_commit)
        if auto_commit and status in (ConsumeOrderlyStatus.COMMIT, ConsumeOrderlyStatus.ROLLBACK):
            self._warnings.warning(
                ("auto commit", status),
                "group %s: the listener answered %s with auto_commit on, which is taken as SUCCESS: set "
                "context.auto_commit = False in the same call", self._group, status,
            )  # fmt: skip
        if action is OrderlyAction.AGAIN:
            self._stats[mq.topic].inc_consume_failed_tps(len(msgs))
        elif auto_commit or status is ConsumeOrderlyStatus.SUCCESS:
            self._stats[mq.topic].inc_consume_ok_tps(len(msgs))
        goes_on = True
        commits = action is OrderlyAction.COMMIT
        if action is OrderlyAction.ROLLBACK:
            queue.rollback()
            goes_on = False
        elif action is OrderlyAction.AGAIN:
            again = self._check_reconsume_times(msgs)
            queue.make_message_to_consume_again(again)
            goes_on = not again
            commits = goes_on and auto_commit
        if not goes_on:
            self._submit_later(queue, mq, self._suspend_ms(context))
        offset = queue.commit() if commits else NO_OFFSET
        if offset >= 0 and (not queue.dropped or queue.giving_up):
            self._offset_store.update_offset(mq, offset, increase_only=False)
            acknowledge = self.acknowledge
            if acknowledge is not None and action is OrderlyAction.COMMIT:
                acknowledge(mq, msgs)
        return goes_on

    def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
        """Have the listener consume one message that an operator chose; blocks as long as the listener does.

        Takes no lock and changes no window, no offset and no statistics, and calls no hook.

        Behaviour: OP-04. Source: ConsumeMessageOrderlyService.consumeMessageDirectly.
        """
        context = ConsumeOrderlyContext(MessageQueue(msg.topic, msg.broker_name, msg.queue_id))
        outcome = self._caller.call_directly(msg, context)
        return ConsumeMessageDirectlyResult(order=True, auto_commit=context.auto_commit, **outcome._asdict())

    def _check_reconsume_times(self, msgs: Sequence[MessageExt]) -> list[MessageExt]:
        """Send messages that failed too often to the retry topic; returns those that come again here, counts raised.

        Source: checkReconsumeTimes, which lets all come again when one does, those just sent too (deviations).
        Behaviour: OR-09.
        """
        again = []
        for msg in msgs:
            if msg.reconsume_times >= self._max_reconsume_times:
                if self._send_back.send_as_normal_message(msg):
                    self._counters.count(Event.SENT_BACK)
                    continue
                self._counters.count(Event.SEND_BACK_FAILED)
            msg._reconsume_times += 1
            again.append(msg)
        return again

    def _suspend_ms(self, context: ConsumeOrderlyContext) -> int:
        asked: object = context.suspend_current_queue_time_millis
        if not isinstance(asked, int) or asked == SUSPEND_AS_CONFIGURED:
            return self._config.suspend_current_queue_time_millis
        return asked

    def _submit_later(self, queue: ProcessQueue, mq: MessageQueue, delay_ms: int) -> None:
        """Start the task again after a while, 10 ms to 30 s. Source: submitConsumeRequestLater. Behaviour: OR-10."""
        delay_ms = min(max(delay_ms, SUSPEND_MIN_MS), SUSPEND_MAX_MS)
        self._scheduler.schedule(delay_ms, lambda: self._submit(queue, mq))

    def _submit(self, queue: ProcessQueue, mq: MessageQueue) -> None:
        self._pool.submit((queue, mq))

    def _try_lock_later_and_reconsume(self, queue: ProcessQueue, mq: MessageQueue, delay_ms: int) -> None:
        """Source: tryLockLaterAndReconsume: again and again, until the lock is held or the queue is taken away.

        Behaviour: OR-11.
        """

        def try_lock() -> None:
            locked = self._locks is not None and not queue.dropped and self._locks.lock_one(mq)
            self._submit_later(queue, mq, CONSUME_SOON_MS if locked else LOCK_REFUSED_MS)

        self._locker.schedule(delay_ms, try_lock)

    def _holds_lock(self, queue: ProcessQueue) -> bool:
        return self._locks is None or queue.holds_lock
