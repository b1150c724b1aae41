"""Keeps one pull request per owned queue going round: checks, pull, answer, next pull.

Source: DefaultMQPushConsumerImpl.pullMessage and its PullCallback, PullAPIWrapper.processPullResult. Every way through
here begins the next pull of the queue exactly once, or ends it for good because the queue was dropped.
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
    exceeded_limit,
)
from rocketmq_py.consumer.hooks import FilterMessageHook, run_filter
from rocketmq_py.consumer.offset_store import OffsetStore, ReadOffsetType
from rocketmq_py.consumer.ports import Broker, Group, PullDispatch
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import BrokerError, ProtocolError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.config import ConsumerConfig, MessageModel
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PullResult, PullStatus
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

BROKER_SUSPEND_MAX_TIME_MILLIS = 15_000
"""How long a broker may hold a pull while nothing new is there; it looks at the clock every 5 s only."""

CONSUMER_TIMEOUT_MILLIS_WHEN_SUSPEND = 30_000

_log = logging.getLogger(__name__)


class PullRequest:
    """The one pull that circulates for an owned queue.

    Attributes:
        next_offset: where the next pull begins.
        previously_locked: whether the offset was read again under the broker's lock (orderly consumption).
    """

    __slots__ = ("mq", "next_offset", "previously_locked", "process_queue")

    def __init__(self, mq: MessageQueue, process_queue: ProcessQueue, next_offset: int) -> None:
        self.previously_locked = False
        self.mq = mq
        self.process_queue = process_queue
        self.next_offset = next_offset

    def __repr__(self) -> str:
        return f"<PullRequest {self.mq} from offset {self.next_offset}>"


class Consume(Protocol):
    """Takes pulled messages. Source: ConsumeMessageService.submitConsumeRequest."""

    def __call__(self, msgs: list[MessageExt], queue: ProcessQueue, mq: MessageQueue, dispatch: bool) -> None:
        """Hand messages over, with what ``put_message`` said; must not block."""
        ...


class MessagePuller:
    """Pulls for one consumer.

    Threads: first and delayed pulls run on the pull thread, the rest on the wire's thread that brings the answer.

    Args:
        subscription: what a pull may name, None when the topic is not subscribed (any more).
        newest_subscription: what the user wants of a topic; brokers may not have heard of it yet.
        consume: takes pulled messages.
        offset_illegal: what to do when the broker does not have the offset: called on the pull thread.
        orderly: whether the listener is an orderly one.
        first_locked_offset: where to begin a queue under the broker's lock, for groups that lock queues; may block and
            raise RocketMQError; called on a thread of its own.
        filter_hooks: look at what the tag filter let through; the list may grow.
    """

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        runtime: Runtime,
        broker: Broker,
        client: Group,
        dispatch: PullDispatch,
        offset_store: OffsetStore,
        counters: ConsumerCounters,
        stats: GroupStats,
        subscription: Callable[[str], SubscriptionData | None],
        newest_subscription: Callable[[str], SubscriptionData | None],
        consume: Consume,
        offset_illegal: Callable[[PullRequest], None],
        orderly: bool = False,
        first_locked_offset: Callable[[MessageQueue], int] | None = None,
        filter_hooks: Sequence[FilterMessageHook] = (),
    ) -> None:
        self._group = group
        self._config = config
        self._broker = broker
        self._client = client
        self._dispatch = dispatch
        self._offset_store = offset_store
        self._counters = counters
        self._stats = stats
        self._subscription = subscription
        self._newest_subscription = newest_subscription
        self._consume = consume
        self._offset_illegal = offset_illegal
        self._orderly = orderly
        self._under_lock = None
        if first_locked_offset is not None:
            self._under_lock = runtime.scheduler("FirstLockedOffset"), first_locked_offset
        self._filter_hooks = filter_hooks
        self._now_ms = runtime.clock.monotonic_ms
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self.running = False
        self.paused = False

    def shutdown(self) -> None:
        """Begin no more pulls."""
        self.running = False
        if self._under_lock is not None:
            self._under_lock[0].shutdown()

    def execute_pull_request_later(self, request: PullRequest, delay_ms: int) -> None:
        """Pull after ``delay_ms``, on the pull thread."""
        self._dispatch.execute_later(delay_ms, lambda: self.pull_message(request))

    def pull_message(self, request: PullRequest) -> None:
        """Pull, or decide why not now. Never blocks. Behaviour: PL-01 to PL-05.

        Source: DefaultMQPushConsumerImpl.pullMessage.
        """
        queue = request.process_queue
        if queue.dropped:
            _log.info("group %s: %s was taken away, its pulls end", self._group, request.mq)
            return
        queue.settle()
        queue.last_pull_timestamp = self._now_ms()
        if not self.running:
            self.execute_pull_request_later(request, self._config.pull_time_delay_mills_when_exception)
            return
        if self.paused:
            self.execute_pull_request_later(request, PULL_TIME_DELAY_MILLS_WHEN_SUSPEND)
            return
        if (exceeded := exceeded_limit(queue, self._config, self._orderly)) is not None:
            limit, value, allowed = exceeded
            self.execute_pull_request_later(request, PULL_TIME_DELAY_MILLS_WHEN_CACHE_FLOW_CONTROL)
            self._counters.count(Event.FLOW_CONTROLLED)
            self._warnings.warning(
                ("flow control", limit),
                "group %s: consumption is slower than the pull, %s is held back: %s %s, the limit is %s; %r",
                self._group, request.mq, value, limit.value, allowed, queue,
            )  # fmt: skip
            return
        if self._under_lock is not None:
            if not queue.holds_lock:
                self.execute_pull_request_later(request, self._config.pull_time_delay_mills_when_exception)
                return
            if not request.previously_locked:
                scheduler, first_offset = self._under_lock
                scheduler.schedule(0, lambda: self._begin_under_lock(request, first_offset))
                return
        subscription = self._subscription(request.mq.topic)
        if subscription is None:
            self.execute_pull_request_later(request, self._config.pull_time_delay_mills_when_exception)
            self._warnings.warning(
                ("no subscription", request.mq.topic), "group %s: no subscription to %s", self._group, request.mq.topic
            )
            return
        self._pull(request, subscription)

    def _begin_under_lock(self, request: PullRequest, first_offset: Callable[[MessageQueue], int]) -> None:
        """Begin where the last owner of the queue left off: its last commit may have come after this member asked.

        Behaviour: PL-16. Source: the branch for locked queues in DefaultMQPushConsumerImpl.pullMessage.
        """
        try:
            offset = first_offset(request.mq)
        except RocketMQError as error:
            self._warnings.warning(
                ("first locked offset", request.mq),
                "group %s: cannot tell where to begin on %s, it is tried again: %s", self._group, request.mq, error,
            )  # fmt: skip
            self.execute_pull_request_later(request, self._config.pull_time_delay_mills_when_exception)
            return
        if offset != request.next_offset:
            _log.info("group %s: %s is begun at %s, not at %s: its last owner was further on",
                      self._group, request.mq, offset, request.next_offset)  # fmt: skip
        request.next_offset = offset
        request.previously_locked = True
        self.pull_message(request)

    def _pull(self, request: PullRequest, subscription: SubscriptionData) -> None:
        config = self._config
        self._broker.pull_message(
            PullCall(
                group=self._group,
                mq=request.mq,
                subscription=subscription,
                offset=request.next_offset,
                commit_offset=self._offset_to_commit(request.mq),
                send_subscription=config.post_subscription_when_pull,
                batch_size=config.pull_batch_size,
                batch_bytes=config.pull_batch_size_in_bytes,
                hold_ms=BROKER_SUSPEND_MAX_TIME_MILLIS,
                timeout_ms=CONSUMER_TIMEOUT_MILLIS_WHEN_SUSPEND,
            ),
            lambda result: self.on_result(request, result, subscription),
            lambda error: self.on_error(request, error),
        )

    def _offset_to_commit(self, mq: MessageQueue) -> int:
        if self._config.message_model is MessageModel.BROADCASTING:
            return 0  # each member keeps its own
        return self._offset_store.read_offset(mq, ReadOffsetType.READ_FROM_MEMORY)

    def on_result(self, request: PullRequest, result: PullResult, subscription: SubscriptionData) -> None:
        """The broker answered. Source: PullCallback.onSuccess.

        Deviation: an answer for a queue taken away meanwhile changes nothing. In Java it may still note an offset,
        which is wrong once the queue has been taken again from an earlier one.
        """
        if request.process_queue.dropped:
            _log.info("group %s: %s was taken away, its pulls end", self._group, request.mq)
            return
        if result.status is PullStatus.FOUND:
            self._on_found(request, result, subscription)
        elif result.status is PullStatus.OFFSET_ILLEGAL:
            self._on_offset_illegal(request, result)
        else:
            self._on_nothing(request, result)

    def _on_found(self, request: PullRequest, result: PullResult, subscription: SubscriptionData) -> None:
        """Behaviour: PL-06, ST-06."""
        queue = request.process_queue
        if result.next_begin_offset <= request.next_offset:
            # Java logs "[BUG]" and goes on: the same messages would come again and again, as fast as the wire allows.
            error = (
                f"a pull from offset {request.next_offset} that found messages goes on at {result.next_begin_offset}"
            )
            self.on_error(request, ProtocolError(error))
            return
        request.next_offset = result.next_begin_offset
        stats = self._stats[request.mq.topic]
        stats.inc_pull_rt(self._now_ms() - queue.last_pull_timestamp)
        # By the newest subscription: a broker answers a pull that it held by what it knows then, and what is filtered
        # here by an older one would be passed over for good.
        msgs = wanted(result.messages, self._newest_subscription(request.mq.topic) or subscription)
        if self._filter_hooks:
            msgs = run_filter(self._filter_hooks, self._group, request.mq, msgs, self._config.unit_mode)
        if not msgs:
            self.pull_message(request)
            return
        stats.inc_pull_tps(len(msgs))
        queue.settle()  # mostly that is all that was there: to empty a window and fill it takes half the time
        dispatch = queue.put_message(msgs)
        self._consume(msgs, queue, request.mq, dispatch)
        if self._config.pull_interval > 0:
            self.execute_pull_request_later(request, self._config.pull_interval)
        else:
            self.pull_message(request)

    def _on_nothing(self, request: PullRequest, result: PullResult) -> None:
        """NO_NEW_MSG and NO_MATCHED_MSG. Behaviour: PL-07."""
        request.next_offset = result.next_begin_offset
        request.process_queue.settle()
        if request.process_queue.msg_count == 0:
            # Without this a stream that is filtered completely would never advance its committed offset.
            self._offset_store.update_offset(request.mq, request.next_offset, increase_only=True)
        self.pull_message(request)

    def _on_offset_illegal(self, request: PullRequest, result: PullResult) -> None:
        """Behaviour: PL-08."""
        self._counters.count(Event.OFFSET_ILLEGAL)
        _log.warning(
            "group %s: the broker does not have offset %s of %s (it has %s to %s), going on at %s",
            self._group, request.next_offset, request.mq, result.min_offset, result.max_offset,
            result.next_begin_offset,
        )  # fmt: skip
        request.next_offset = result.next_begin_offset
        request.process_queue.dropped = True
        self._dispatch.execute_later(0, lambda: self._offset_illegal(request))

    def on_error(self, request: PullRequest, error: Exception) -> None:
        """The pull failed. Behaviour: PL-09. Source: PullCallback.onException."""
        if not self.running:
            return  # the connections are being closed
        code = error.code if isinstance(error, BrokerError) else None
        if code == ResponseCode.FLOW_CONTROL:
            self.execute_pull_request_later(request, PULL_TIME_DELAY_MILLS_WHEN_BROKER_FLOW_CONTROL)
            return
        self._counters.count(Event.PULL_FAILED)
        if not request.mq.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
            self._warnings.warning(
                ("pull failed", request.mq.broker_name, code),
                "group %s: pulling %s from offset %s failed, it is tried again: %s",
                self._group, request.mq, request.next_offset, error,
            )  # fmt: skip
        if code in (ResponseCode.SUBSCRIPTION_NOT_EXIST, ResponseCode.SUBSCRIPTION_NOT_LATEST):
            # The broker has not heard of us (it was restarted): no need to let it wait for the next heartbeat.
            self._client.send_heartbeat_soon()
        self.execute_pull_request_later(request, self._config.pull_time_delay_mills_when_exception)


def wanted(msgs: list[MessageExt], subscription: SubscriptionData) -> list[MessageExt]:
    """Only messages with a subscribed tag: the broker compared hashes. Behaviour: PL-10.

    Source: PullAPIWrapper.processPullResult.
    """
    tags = subscription.tags_set
    return [msg for msg in msgs if msg.tags in tags] if tags else msgs
