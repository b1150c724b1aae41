"""Calls a listener with messages of a group that consumes in order, one message group after the other.

Messages of the same message group never overtake one another, not even one that fails: it is tried again here, after
the server's back-off, while other message groups go on; when it has failed too often it goes to the dead-letter queue,
and only then the next one is consumed. Nothing is put off at the server: there a message put off holds back the whole
queue, and brings back everything behind it, what is acknowledged too.

Source: FifoConsumeService, ProcessQueueImpl.eraseFifoMessage of the Java gRPC client, with its accelerator for message
groups. Upstream's class of this name is unfinished.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.hooks import ConsumeMessageHook
from rocketmq_py.consumer.listener_caller import ConcurrentListenerCaller, ListenerCaller
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.receipt_settlement import RENEW_MAX_MS, ReceiptSettlement
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.delay_level import DEFAULT_DELAY_LEVELS, parse_delay_levels
from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly, check_listener
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import (
    DELAY_TO_DLQ,
    SUSPEND_AS_CONFIGURED,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
)
from rocketmq_py.model.retry_policy import ConsumerTerms
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex, Runtime, Scheduler

_LEVELS_MS = parse_delay_levels(DEFAULT_DELAY_LEVELS)

_log = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """What a listener's answer means.

    Attributes:
        done: so many of the batch, from its begin, are consumed; the rest failed.
        delay_ms: when the rest is tried again; None: the server's back-off says.
        dead: the rest is not to be tried again.
    """

    done: int
    delay_ms: int | None = None
    dead: bool = False


class _Caller(Protocol):
    def __call__(self, msgs: Sequence[MessageExt], mq: MessageQueue) -> Verdict: ...


class _Entry(NamedTuple):
    msg: MessageExt
    queue: PopProcessQueue
    mq: MessageQueue
    lease_ends_ms: int


_Key = tuple[str, str, str]  # topic, broker, message group


class ConsumeMessagePopOrderlyService:
    """Owner of what waits of each message group. Lock: ``_lock`` guards it; the listener is called without it.

    A message group is in the table while something of it waits, is in the listener, or is to be tried again; exactly
    one of pool, timer and dead-letter request has its turn then.

    Args:
        terms: what the server decides now.
        max_attempts: deliveries of a message now, tries here counted.
    """

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        listener: MessageListenerConcurrently | MessageListenerOrderly,
        runtime: Runtime,
        scheduler: Scheduler,
        settlement: ReceiptSettlement,
        terms: Callable[[], ConsumerTerms],
        max_attempts: Callable[[], int],
        hooks: Sequence[ConsumeMessageHook],
        counters: ConsumerCounters,
        stats: GroupStats,
    ) -> None:
        self._group = group
        self._config = config
        self._clock = runtime.clock
        self._scheduler = scheduler
        self._settlement = settlement
        self._terms = terms
        self._max_attempts = max_attempts
        self._counters = counters
        self._stats = stats
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._call: _Caller
        consume = check_listener(listener)
        if isinstance(listener, MessageListenerOrderly):
            self._call = _OrderlyVerdicts(
                ListenerCaller(
                    group=group, config=config, listener=consume,
                    none_means=ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT, runtime=runtime, hooks=hooks,
                    counters=counters,
                ),
                self._warnings,
                group,
            )  # fmt: skip
        else:
            self._call = _ConcurrentVerdicts(
                ConcurrentListenerCaller(
                    group=group, config=config, listener=consume, runtime=runtime, hooks=hooks, counters=counters
                )
            )
        self._lock = Mutex()
        self._waiting: dict[_Key, deque[_Entry]] = {}
        self._drain_ends_ms: int | None = None
        self._pool = runtime.worker_pool(
            f"ConsumeMessagePopThread_{group[:100]}_", config.consume_thread_min, self._consume
        )

    def update_core_pool_size(self, size: int) -> None:
        """Have so many consume threads."""
        self._pool.resize(size)

    def shutdown(self, await_ms: int) -> bool:
        """Take no more, wait for what is cached, forget it then: the server gives it to others when the client leaves.

        Returns:
            True when every cached message was consumed.
        """
        self._drain_ends_ms = self._clock.monotonic_ms() + await_ms
        finished = self._pool.shutdown(await_ms)
        with self._lock:
            return finished and not self._waiting

    def submit_pop_consume_request(self, msgs: list[MessageExt], queue: PopProcessQueue, mq: MessageQueue) -> None:
        """Put messages behind those of their message groups that wait already.

        One that waits and comes again, because the server took it for lost, takes the place of the older: only its
        receipt is good.
        """
        lease_ends_ms = self._clock.monotonic_ms() + RENEW_MAX_MS
        begun: list[_Key] = []
        replaced: list[_Entry] = []
        with self._lock:
            for msg in msgs:
                entry = _Entry(msg, queue, mq, lease_ends_ms)
                key = _key(msg, mq)
                waiting = self._waiting.get(key)
                if waiting is None:
                    waiting = self._waiting[key] = deque()
                    begun.append(key)
                place = next((at for at, old in enumerate(waiting) if _same(old.msg, msg)), None)
                if place is None:
                    waiting.append(entry)
                else:
                    replaced.append(waiting[place])
                    msg._reconsume_times = max(msg.reconsume_times, waiting[place].msg.reconsume_times)
                    waiting[place] = entry
        for old in replaced:
            old.queue.ack(len(old.msg.body))
        for key in begun:
            self._pool.submit(key)

    def _consume(self, key: _Key) -> None:
        """One batch of a message group, then the next turn of the group; after ``shutdown`` the whole group."""
        while (batch := self._taken(key)) and self._process(key, batch):
            with self._lock:
                if not self._waiting[key]:
                    del self._waiting[key]
                    return
            if self._pool.submit(key):
                return
            if self._drain_ends_ms is not None and self._clock.monotonic_ms() >= self._drain_ends_ms:
                return

    def _taken(self, key: _Key) -> list[_Entry]:
        """The next messages of a group, all of one queue."""
        batch: list[_Entry] = []
        with self._lock:
            waiting = self._waiting[key]
            while waiting and len(batch) < self._config.consume_message_batch_max_size:
                if batch and (waiting[0].mq, waiting[0].queue) != (batch[0].mq, batch[0].queue):
                    break
                batch.append(waiting.popleft())
        return batch

    def _process(self, key: _Key, batch: list[_Entry]) -> bool:
        """Hand a batch to the listener; whether the group may go on at once. Behaviour: GC-14 to GC-16."""
        mq, queue = batch[0].mq, batch[0].queue
        now_ms = self._clock.monotonic_ms()
        live = [entry for entry in batch if now_ms < entry.lease_ends_ms]
        for entry in batch:
            if now_ms >= entry.lease_ends_ms:
                self._counters.count(Event.POP_TIMED_OUT)
                _log.warning("group %s: the receipt of %r ran out, it comes again", self._group, entry.msg)
                queue.ack(len(entry.msg.body))
        if not live:
            return True
        msgs = [entry.msg for entry in live]
        verdict = self._call(msgs, mq)
        stats = self._stats[mq.topic]
        stats.inc_consume_rt(self._clock.monotonic_ms() - now_ms)
        stats.inc_consume_ok_tps(verdict.done)
        stats.inc_consume_failed_tps(len(msgs) - verdict.done)
        for msg in msgs[: verdict.done]:
            self._settlement.ack(msg, mq.topic, queue)
        failed = live[verdict.done :]
        if not failed:
            return True
        limit = self._max_attempts()
        dead = [entry for entry in failed if verdict.dead or entry.msg.reconsume_times + 1 >= limit]
        again = [entry for entry in failed if entry not in dead]
        attempt = failed[0].msg.reconsume_times + 1
        delay_ms = self._terms().retry.delay_ms(attempt) if verdict.delay_ms is None else verdict.delay_ms
        for entry in again:
            entry.msg._reconsume_times += 1
        with self._lock:
            self._waiting[key].extendleft(reversed(again))
        if dead:
            self._give_up(key, dead, limit, delay_ms if again else 0)
        else:
            self._scheduler.schedule(delay_ms, lambda: self._resume(key))
        return False

    def _give_up(self, key: _Key, dead: list[_Entry], limit: int, delay_ms: int) -> None:
        """Forward to the dead-letter queue, one after the other; then the group goes on."""
        entry, rest = dead[0], dead[1:]
        self._counters.count(Event.POP_GIVEN_UP)
        self._warnings.warning(
            "given up", "group %s: %r failed too often, it goes to the dead-letter queue", self._group, entry.msg
        )

        def then() -> None:
            if rest:
                self._scheduler.schedule(0, lambda: self._give_up(key, rest, limit, delay_ms))
            else:
                self._scheduler.schedule(delay_ms, lambda: self._resume(key))

        self._settlement.forward_to_dead_letter_queue(
            entry.msg, entry.mq.topic, entry.msg.reconsume_times + 1, limit, entry.queue, then
        )

    def _resume(self, key: _Key) -> None:
        with self._lock:
            if not self._waiting[key]:
                del self._waiting[key]
                return
        self._pool.submit(key)


def _key(msg: MessageExt, mq: MessageQueue) -> _Key:
    """Messages without a message group keep the order of their queue."""
    group = msg.get_property(MessageConst.SHARDING_KEY)
    return (mq.topic, mq.broker_name, f"queue {msg.queue_id}" if group is None else f"group {group}")


def _same(one: MessageExt, other: MessageExt) -> bool:
    return (one.queue_id, one.queue_offset) == (other.queue_id, other.queue_offset)


class _OrderlyVerdicts:
    def __init__(
        self,
        caller: ListenerCaller[ConsumeOrderlyContext, ConsumeOrderlyStatus],
        warnings: RateLimitedLog,
        group: str,
    ) -> None:
        self._caller = caller
        self._warnings = warnings
        self._group = group

    def __call__(self, msgs: Sequence[MessageExt], mq: MessageQueue) -> Verdict:
        context = ConsumeOrderlyContext(MessageQueue(mq.topic, mq.broker_name, msgs[0].queue_id))
        status = self._caller.call(msgs, context.message_queue, context)
        if status in {ConsumeOrderlyStatus.SUCCESS, ConsumeOrderlyStatus.COMMIT}:
            if not context.auto_commit:
                self._warnings.warning(
                    "auto_commit",
                    "group %s: auto_commit=False has no effect with endpoints: %s acknowledges its messages",
                    self._group, status.value,
                )  # fmt: skip
            return Verdict(len(msgs))
        wish: object = context.suspend_current_queue_time_millis
        if isinstance(wish, int) and wish != SUSPEND_AS_CONFIGURED:
            return Verdict(0, min(max(wish, 10), 30_000))
        return Verdict(0)


class _ConcurrentVerdicts:
    def __init__(self, caller: ConcurrentListenerCaller) -> None:
        self._caller = caller

    def __call__(self, msgs: Sequence[MessageExt], mq: MessageQueue) -> Verdict:
        context = ConsumeConcurrentlyContext(MessageQueue(mq.topic, mq.broker_name, msgs[0].queue_id))
        status: ConsumeConcurrentlyStatus | None = self._caller.call(msgs, context.message_queue, context)
        failed = self._caller.failed_indexes(status, context, len(msgs))
        done = min(failed, default=len(msgs))  # behind one that failed everything comes again, in order
        level: object = context.delay_level_when_next_consume
        if not isinstance(level, int) or level == 0:
            return Verdict(done)
        if level <= DELAY_TO_DLQ:
            return Verdict(done, dead=True)
        return Verdict(done, _LEVELS_MS[min(level, len(_LEVELS_MS)) - 1])
