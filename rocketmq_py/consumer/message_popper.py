"""Keeps one pop request per assigned queue going round: checks, pop, answer, next pop.

Source: DefaultMQPushConsumerImpl.popMessage and its PopCallback, processPopResult. Every way through here begins the
next pop of the queue exactly once, or ends it for good because the queue was dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.flow_control import (
    PULL_TIME_DELAY_MILLS_WHEN_BROKER_FLOW_CONTROL,
    PULL_TIME_DELAY_MILLS_WHEN_CACHE_FLOW_CONTROL,
    PULL_TIME_DELAY_MILLS_WHEN_SUSPEND,
)
from rocketmq_py.consumer.hooks import FilterMessageHook, run_filter
from rocketmq_py.consumer.message_puller import wanted
from rocketmq_py.consumer.pop_failures import PopFailures
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_settlement import Settlement
from rocketmq_py.consumer.pop_terms import PopTerms
from rocketmq_py.consumer.ports import PopSource, PullDispatch
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.config import ConsumeFromWhere, ConsumerConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeInitMode, PopResult, PopStatus
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

HASTY_ANSWER_MS = 1_000
"""A broker that answers "nothing" sooner than this does not hold pops; it is not asked again at once."""

_log = logging.getLogger(__name__)


class PopRequest:
    """A pop that circulates for an assigned queue. Source: PopRequest.

    Attributes:
        name: tells it apart from all others, also those of other members; "" where nobody reads it.
        attempts: pops of it that brought messages.
    """

    __slots__ = ("attempts", "init_mode", "mq", "name", "pop_process_queue")

    def __init__(
        self, mq: MessageQueue, pop_process_queue: PopProcessQueue, init_mode: ConsumeInitMode, name: str = ""
    ) -> None:
        self.mq = mq
        self.pop_process_queue = pop_process_queue
        self.init_mode = init_mode
        self.name = name
        self.attempts = 0

    @property
    def attempt(self) -> str:
        """Names the next pop: the same until one has brought messages, as the Java gRPC client has it."""
        return f"{self.name}@{self.attempts}" if self.name else ""

    def __repr__(self) -> str:
        return f"<PopRequest {self.mq}>"


class ConsumePopped(Protocol):
    """Takes popped messages. Source: ConsumeMessageService.submitPopConsumeRequest."""

    def __call__(self, msgs: list[MessageExt], queue: PopProcessQueue, mq: MessageQueue) -> None:
        """Hand messages over; must not block."""
        ...


class MessagePopper:
    """Pops for one consumer.

    Threads: first and delayed pops run on the pull thread, the rest on the wire's thread that brings the answer.

    Args:
        subscription: what the user wants of a topic, None when it is not subscribed (any more).
        consume: takes popped messages.
        filter_hooks: look at what the tag filter let through; the list may grow.
    """

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        runtime: Runtime,
        broker: PopSource,
        dispatch: PullDispatch,
        counters: ConsumerCounters,
        stats: GroupStats,
        subscription: Callable[[str], SubscriptionData | None],
        settlement: Settlement,
        failures: PopFailures,
        terms: PopTerms,
        consume: ConsumePopped,
        filter_hooks: Sequence[FilterMessageHook] = (),
    ) -> None:
        self._group = group
        self._config = config
        self._broker = broker
        self._dispatch = dispatch
        self._counters = counters
        self._stats = stats
        self._subscription = subscription
        self._settlement = settlement
        self._failures = failures
        self._terms = terms
        self._consume = consume
        self._filter_hooks = filter_hooks
        self._now_ms = runtime.clock.monotonic_ms
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self.running = False
        self.paused = False

    def execute_pop_pull_request_later(self, request: PopRequest, delay_ms: int) -> None:
        """Pop after ``delay_ms``, on the pull thread."""
        self._dispatch.execute_later(delay_ms, lambda: self.pop_message(request))

    def pop_message(self, request: PopRequest) -> None:
        """Pop, or decide why not now. Never blocks. Behaviour: PO-14 to PO-17.

        Source: DefaultMQPushConsumerImpl.popMessage.
        """
        queue, config = request.pop_process_queue, self._config
        if queue.dropped and queue.loop_ends():
            _log.info("group %s: %s was taken away, its pops end", self._group, request.mq)
            return
        queue.last_pop_timestamp = self._now_ms()
        if not self.running:
            self.execute_pop_pull_request_later(request, config.pull_time_delay_mills_when_exception)
            return
        if self.paused:
            self.execute_pop_pull_request_later(request, PULL_TIME_DELAY_MILLS_WHEN_SUSPEND)
            return
        room, exceeded = self._terms.room(queue)
        if room < 1:
            self.execute_pop_pull_request_later(request, PULL_TIME_DELAY_MILLS_WHEN_CACHE_FLOW_CONTROL)
            self._counters.count(Event.FLOW_CONTROLLED)
            self._warnings.warning(
                "flow control",
                "group %s: consumption is slower than the pop, %s is held back: %s", self._group, request.mq, exceeded,
            )  # fmt: skip
            return
        subscription = self._subscription(request.mq.topic)
        if subscription is None:
            self.execute_pop_pull_request_later(request, config.pull_time_delay_mills_when_exception)
            self._warnings.warning(
                ("no subscription", request.mq.topic), "group %s: no subscription to %s", self._group, request.mq.topic
            )
            return
        self._pop(request, subscription, room)

    def _pop(self, request: PopRequest, subscription: SubscriptionData, room: int) -> None:
        asked_ms = self._now_ms()
        poll_ms = self._terms.poll_ms
        self._broker.pop_message(
            PopCall(
                group=self._group,
                mq=request.mq,
                subscription=subscription,
                max_nums=room,
                invisible_ms=self._terms.invisible_ms,
                init_mode=request.init_mode,
                poll_ms=poll_ms,
                timeout_ms=poll_ms + self._terms.timeout_slack_ms,
                attempt=request.attempt,
            ),
            lambda result: self.on_result(request, result, subscription, asked_ms),
            lambda error: self.on_error(request, error),
        )

    def on_result(self, request: PopRequest, result: PopResult, subscription: SubscriptionData, asked_ms: int) -> None:
        """The broker answered. Behaviour: PO-18 to PO-20. Source: PopCallback.onSuccess."""
        if result.status is PopStatus.FOUND:
            self._on_found(request, result, subscription, asked_ms)
        elif result.status is PopStatus.POLLING_FULL or self._now_ms() - asked_ms < HASTY_ANSWER_MS:
            self.execute_pop_pull_request_later(request, self._config.pull_time_delay_mills_when_exception)
        else:
            self.pop_message(request)

    def _on_found(self, request: PopRequest, result: PopResult, subscription: SubscriptionData, asked_ms: int) -> None:
        """Behaviour: PO-34, GC-04."""
        queue = request.pop_process_queue
        request.attempts += 1
        for msg, error in result.corrupted:
            self._failures.corrupted(msg, request.mq, error)
        stats = self._stats[request.mq.topic]
        stats.inc_pull_rt(self._now_ms() - asked_ms)
        # By the newest subscription, as pulls are filtered.
        msgs = self._settled(request.mq, result.messages, self._subscription(request.mq.topic) or subscription)
        if not msgs:
            self.pop_message(request)
            return
        stats.inc_pull_tps(len(msgs))
        queue.inc_found_msg(len(msgs), sum(len(msg.body) for msg in msgs))
        self._consume(msgs, queue, request.mq)
        if self._config.pull_interval > 0:
            self.execute_pop_pull_request_later(request, self._config.pull_interval)
        else:
            self.pop_message(request)

    def _settled(self, mq: MessageQueue, msgs: list[MessageExt], subscription: SubscriptionData) -> list[MessageExt]:
        """What is to be consumed; the rest is acknowledged: messages nobody wants and those that failed too often.

        Behaviour: PO-21. Source: DefaultMQPushConsumerImpl.processPopResult.
        """
        kept = wanted(msgs, subscription)
        if self._filter_hooks:
            kept = run_filter(self._filter_hooks, self._group, mq, kept, self._config.unit_mode)
        too_often = self._failures.too_often
        kept = [msg for msg in kept if not too_often(msg)]
        if len(kept) != len(msgs):
            ids = {id(msg) for msg in kept}  # by identity: messages have no equality
            for msg in msgs:
                if id(msg) in ids:
                    continue
                if too_often(msg):
                    self._failures.give_up(msg, mq)
                else:
                    self._settlement.ack(msg, mq.topic)
        return kept

    def on_error(self, request: PopRequest, error: Exception) -> None:
        """The pop failed. Behaviour: PO-22. Source: PopCallback.onException."""
        if not self.running:
            return  # the connections are being closed
        code = error.code if isinstance(error, BrokerError) else None
        if code == ResponseCode.FLOW_CONTROL:
            self.execute_pop_pull_request_later(request, PULL_TIME_DELAY_MILLS_WHEN_BROKER_FLOW_CONTROL)
            return
        self._counters.count(Event.PULL_FAILED)
        self._warnings.warning(
            ("pop failed", request.mq.broker_name, code),
            "group %s: popping %s failed, it is tried again: %s", self._group, request.mq, error,
        )  # fmt: skip
        self.execute_pop_pull_request_later(request, self._config.pull_time_delay_mills_when_exception)


def init_mode(config: ConsumerConfig) -> ConsumeInitMode:
    """Where pops of a queue begin that the group never consumed. Source: RebalancePushImpl.getConsumeInitMode."""
    first = config.consume_from_where is ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    return ConsumeInitMode.MIN if first else ConsumeInitMode.MAX
