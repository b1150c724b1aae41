from __future__ import annotations

import logging
from typing import Any

import pytest

from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.hooks import FilterMessageContext, FilterMessageHook
from rocketmq_py.consumer.message_popper import MessagePopper, PopRequest, init_mode
from rocketmq_py.consumer.pop_failures import DelayTableFailures
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_settlement import PopSettlement
from rocketmq_py.consumer.pop_terms import RemotingPopTerms
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import BrokerError, ConnectError, RequestTimeoutError
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.config import ConsumeFromWhere, ConsumerConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeInitMode, PopResult, PopStatus
from rocketmq_py.model.subscription import SubscriptionData, build_subscription_data
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import FakeBroker, ManualRuntime
from tests.unit.pop_support import PopBroker, popped
from tests.unit.support import GROUP, TOPIC, Dispatch, mq, offsets


class TakesOutOdd:
    """A filter hook."""

    def hook_name(self) -> str:
        return "odd"

    def filter_message(self, context: FilterMessageContext) -> None:
        context.msg_list[:] = [msg for msg in context.msg_list if msg.queue_offset % 2 == 0]


class Popping:
    """A popper with the request of one queue, and everything that it calls noted."""

    def __init__(self, expression: str = "*", **settings: Any) -> None:
        runtime = ManualRuntime()
        self.clock = runtime.manual_clock
        self.broker = PopBroker()
        self.dispatch = Dispatch()
        self.counters = ConsumerCounters()
        self.stats = GroupStats(GROUP)
        self.config = ConsumerConfig(**settings)
        self.subscriptions: dict[str, SubscriptionData] = {TOPIC: build_subscription_data(TOPIC, expression, 1)}
        self.filter_hooks: list[FilterMessageHook] = []
        self.consumed: list[list[int]] = []
        warnings = RateLimitedLog(self.clock, logging.getLogger(__name__))
        settlement = PopSettlement(GROUP, self.broker, self.counters, warnings)
        self.popper = MessagePopper(
            group=GROUP,
            config=self.config,
            runtime=runtime,
            broker=self.broker,
            dispatch=self.dispatch,
            counters=self.counters,
            stats=self.stats,
            subscription=self.subscriptions.get,
            settlement=settlement,
            failures=DelayTableFailures(
                group=GROUP,
                config=self.config,
                clock=self.clock,
                settlement=settlement,
                send_back=SendMessageBack(GROUP, 16, FakeBroker(), warnings),
                counters=self.counters,
            ),
            terms=RemotingPopTerms(self.config),
            consume=self._consume,
            filter_hooks=self.filter_hooks,
        )
        self.popper.running = True
        self.queue = PopProcessQueue(self.clock)
        self.request = PopRequest(mq(-1), self.queue, ConsumeInitMode.MAX)

    def _consume(self, msgs: list[MessageExt], queue: PopProcessQueue, mq: MessageQueue) -> None:
        assert (queue, mq) == (self.queue, self.request.mq)
        self.consumed.append(offsets(msgs))

    def pop(self) -> None:
        self.popper.pop_message(self.request)

    def pop_and_get(self, *msgs: MessageExt, status: PopStatus = PopStatus.FOUND, after_ms: int = 15_000) -> None:
        self.pop()
        self.clock.advance(after_ms)
        self.broker.answer(PopResult(status, list(msgs)))

    @property
    def next_pops(self) -> tuple[int, list[int]]:
        """How many pops wait for an answer, and the delays of those still to come."""
        return len(self.broker.waiting), self.dispatch.delays

    def count(self, event: Event) -> int:
        return self.counters.snapshot()[event]


# Whether to pop.


@pytest.mark.behaviour("PO-14")
def test_a_dropped_queue_is_popped_no_more() -> None:
    popping = Popping()
    popping.queue.dropped = True
    popping.pop()
    assert popping.next_pops == (0, [])


@pytest.mark.behaviour("PO-15")
@pytest.mark.parametrize(
    ("running", "paused", "waiting", "delay_ms"),
    [(False, True, 97, 700), (True, True, 97, 1_000), (True, False, 97, 50)],
)
def test_a_pop_not_possible_now_is_tried_again_and_the_attempt_counts(
    running: bool, paused: bool, waiting: int, delay_ms: int
) -> None:
    popping = Popping(pull_time_delay_mills_when_exception=700)
    popping.popper.running, popping.popper.paused = running, paused
    popping.queue.inc_found_msg(waiting)
    popping.clock.advance(5)
    popping.pop()
    assert popping.next_pops == (0, [delay_ms])
    assert popping.queue.last_pop_timestamp == popping.clock.monotonic_ms()


@pytest.mark.behaviour("PO-16")
def test_a_queue_with_more_messages_not_settled_than_the_limit_is_held_back_for_50_ms(
    caplog: pytest.LogCaptureFixture,
) -> None:
    popping = Popping(pop_threshold_for_queue=2)
    popping.queue.inc_found_msg(3)
    popping.pop()
    popping.dispatch.run_next()
    assert popping.next_pops == (0, [50])
    assert popping.count(Event.FLOW_CONTROLLED) == 2
    assert caplog.text.count("held back") == 1
    popping.queue.ack()
    popping.dispatch.run_next()
    assert popping.next_pops == (1, [])


@pytest.mark.behaviour("PO-15")
def test_without_a_subscription_nothing_is_popped_until_there_is_one() -> None:
    popping = Popping(pull_time_delay_mills_when_exception=700)
    subscription = popping.subscriptions.pop(TOPIC)
    popping.pop()
    assert popping.next_pops == (0, [700])
    popping.subscriptions[TOPIC] = subscription
    popping.dispatch.run_next()
    assert popping.next_pops == (1, [])


# What is asked.


@pytest.mark.behaviour("PO-17")
def test_a_pop_asks_for_messages_their_invisible_time_and_to_be_held() -> None:
    popping = Popping("a || b", pop_invisible_time=30_000, pop_batch_nums=7)
    popping.pop()
    ((call, _, _),) = popping.broker.waiting
    assert call == PopCall(
        group=GROUP,
        mq=mq(-1),
        subscription=popping.subscriptions[TOPIC],
        max_nums=7,
        invisible_ms=30_000,
        init_mode=ConsumeInitMode.MAX,
        poll_ms=15_000,
        timeout_ms=25_000,
        order=False,
    )


@pytest.mark.behaviour("PO-17")
@pytest.mark.parametrize(
    ("configured", "asked"), [(4_999, 60_000), (5_000, 5_000), (300_000, 300_000), (300_001, 60_000)]
)
def test_an_invisible_time_set_out_of_range_while_running_counts_as_60_s(configured: int, asked: int) -> None:
    popping = Popping(pop_invisible_time=configured)
    popping.pop()
    ((call, _, _),) = popping.broker.waiting
    assert call.invisible_ms == asked


@pytest.mark.behaviour("PO-17")
@pytest.mark.parametrize(
    ("where", "mode"),
    [
        (ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, ConsumeInitMode.MIN),
        (ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, ConsumeInitMode.MAX),
        (ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, ConsumeInitMode.MAX),
    ],
)
def test_only_the_first_offset_pops_from_the_beginning(where: ConsumeFromWhere, mode: ConsumeInitMode) -> None:
    assert init_mode(ConsumerConfig(consume_from_where=where)) is mode


# What comes.


@pytest.mark.behaviour("PO-18")
def test_popped_messages_are_counted_and_consumed_and_the_next_pop_is_begun_at_once() -> None:
    popping = Popping()
    popping.pop_and_get(popped(0), popped(1), after_ms=0)
    assert popping.consumed == [[0, 1]]
    assert popping.queue.wait_ack_msg_count == 2
    assert popping.next_pops == (1, [])


@pytest.mark.behaviour("PO-34")
def test_a_pop_that_found_messages_counts_its_time_and_what_is_left_of_them() -> None:
    popping = Popping("a")
    popping.pop_and_get(popped(0, tags="a"), popped(1, tags="b"), after_ms=70)
    popping.stats[TOPIC].sample(10_000, popping.clock.wall_ms())
    status = popping.stats[TOPIC].consume_status()
    assert (status.pull_rt, round(status.pull_tps * 10)) == (70.0, 1)


@pytest.mark.behaviour("PO-18")
def test_the_pull_interval_lies_between_two_pops_that_found_something() -> None:
    popping = Popping(pull_interval=40)
    popping.pop_and_get(popped(0))
    assert popping.next_pops == (0, [40])


@pytest.mark.behaviour("PO-19")
def test_when_nothing_came_the_next_pop_is_begun_at_once() -> None:
    popping = Popping()
    popping.pop_and_get(status=PopStatus.POLLING_NOT_FOUND)
    assert popping.next_pops == (1, [])


@pytest.mark.behaviour("PO-19")
@pytest.mark.parametrize(("after_ms", "next_pops"), [(999, (0, [700])), (1_000, (1, []))])
def test_a_broker_that_does_not_hold_pops_is_asked_again_later(after_ms: int, next_pops: tuple[int, list[int]]) -> None:
    popping = Popping(pull_time_delay_mills_when_exception=700)
    popping.pop_and_get(status=PopStatus.POLLING_NOT_FOUND, after_ms=after_ms)
    assert popping.next_pops == next_pops


@pytest.mark.behaviour("PO-20")
def test_a_broker_that_can_hold_no_more_pops_is_asked_again_later() -> None:
    popping = Popping(pull_time_delay_mills_when_exception=700)
    popping.pop_and_get(status=PopStatus.POLLING_FULL)
    assert popping.next_pops == (0, [700])


@pytest.mark.behaviour("PO-21")
def test_what_nobody_wants_is_acknowledged_and_not_consumed() -> None:
    popping = Popping("a || b")
    popping.pop_and_get(popped(0, tags="a"), popped(1, tags="c"), popped(2), popped(3, tags="b"))
    assert popping.consumed == [[0, 3]]
    assert popping.broker.acked == [1, 2]
    assert popping.queue.wait_ack_msg_count == 2
    assert popping.count(Event.POP_GIVEN_UP) == 0


@pytest.mark.behaviour("PO-21")
def test_what_a_filter_hook_takes_out_is_acknowledged_too() -> None:
    popping = Popping("a")
    popping.filter_hooks.append(TakesOutOdd())
    popping.pop_and_get(popped(0, tags="a"), popped(1, tags="a"), popped(2, tags="b"))
    assert popping.consumed == [[0]]
    assert popping.broker.acked == [1, 2]
    assert popping.broker.topics == {TOPIC}


@pytest.mark.behaviour("PO-21")
def test_the_newest_subscription_filters() -> None:
    popping = Popping("a")
    popping.pop()
    popping.subscriptions[TOPIC] = build_subscription_data(TOPIC, "a || b", 2)
    popping.broker.answer(PopResult(PopStatus.FOUND, [popped(0, tags="b")]))
    assert popping.consumed == [[0]]


@pytest.mark.behaviour("PO-21")
def test_an_answer_after_the_topic_was_unsubscribed_is_filtered_by_what_was_asked() -> None:
    popping = Popping("a")
    popping.pop()
    del popping.subscriptions[TOPIC]
    popping.broker.answer(PopResult(PopStatus.FOUND, [popped(0, tags="a"), popped(1, tags="b")]))
    assert popping.consumed == [[0]]
    assert popping.broker.acked == [1]


@pytest.mark.behaviour("PO-21")
@pytest.mark.parametrize(("configured", "limit"), [(-1, 16), (2, 2)])
def test_a_message_that_came_more_often_than_allowed_is_acknowledged_with_a_warning(
    configured: int, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    popping = Popping(max_reconsume_times=configured)
    popping.pop_and_get(popped(0, reconsume_times=limit), popped(1, reconsume_times=limit + 1))
    assert popping.consumed == [[0]]
    assert popping.broker.acked == [1]
    assert popping.count(Event.POP_GIVEN_UP) == 1
    assert "came too often" in caplog.text


@pytest.mark.behaviour("PO-21")
def test_when_nothing_is_left_to_consume_the_next_pop_is_begun_at_once() -> None:
    popping = Popping("a", pull_interval=40)
    popping.pop_and_get(popped(0, tags="b"))
    assert popping.consumed == []
    assert popping.queue.wait_ack_msg_count == 0
    assert popping.next_pops == (1, [])


# Errors.


@pytest.mark.behaviour("PO-22")
@pytest.mark.parametrize(
    "error", [BrokerError(1, "system error"), ConnectError("no master"), RequestTimeoutError("no answer")]
)
def test_a_pop_that_failed_is_tried_again_counted_and_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    popping = Popping(pull_time_delay_mills_when_exception=700)
    popping.pop()
    popping.broker.fail(error)
    assert popping.next_pops == (0, [700])
    assert popping.count(Event.PULL_FAILED) == 1
    assert "it is tried again" in caplog.text
    popping.dispatch.run_next()
    assert popping.next_pops == (1, [])


@pytest.mark.behaviour("PO-22")
def test_a_broker_under_flow_control_is_popped_again_after_20_ms() -> None:
    popping = Popping()
    popping.pop()
    popping.broker.fail(BrokerError(215, "flow control"))
    assert popping.next_pops == (0, [20])
    assert popping.count(Event.PULL_FAILED) == 0


@pytest.mark.behaviour("PO-22")
def test_an_error_while_the_consumer_is_being_shut_down_begins_no_pop() -> None:
    popping = Popping()
    popping.pop()
    popping.popper.running = False
    popping.broker.fail(ConnectError("closed"))
    assert popping.next_pops == (0, [])
