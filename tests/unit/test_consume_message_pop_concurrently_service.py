from __future__ import annotations

import logging
from typing import Any

import pytest

from rocketmq_py.consumer.consume_message_pop_concurrently_service import ConsumeMessagePopConcurrentlyService
from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.hooks import ConsumeMessageContext
from rocketmq_py.consumer.pop_failures import POP_DELAY_LEVEL, DelayTableFailures
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_settlement import PopSettlement
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import BrokerError, ConnectError, ProtocolError
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import FakeBroker, InlineExecutor, ManualRuntime
from tests.unit.pop_support import POP_TIME, PopBroker, popped
from tests.unit.support import GROUP, LATER, SUCCESS, TOPIC, mq, offsets

SECOND_MS = 1_000
HOUR_MS = 3_600_000


class Hook:
    """Notes how calls ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[str | None, bool, str]] = []

    def hook_name(self) -> str:
        return "hook"

    def consume_message_before(self, context: ConsumeMessageContext) -> None:
        pass

    def consume_message_after(self, context: ConsumeMessageContext) -> None:
        self.ends.append((context.status, context.success, context.props["ConsumeContextType"]))


class Consuming:
    """A pop service with one queue; its listener notes its batches and answers what the test says."""

    def __init__(self, answer: Any = SUCCESS, **settings: Any) -> None:
        self.answer = answer
        self.listener_takes_ms = 0
        self.delay_level: Any = 0
        self.ack_index: Any = None
        self.failed_indexes: set[int] | None = None
        self.batches: list[list[int]] = []
        self.runtime = ManualRuntime()
        self.clock = self.runtime.manual_clock
        self.broker = PopBroker()
        self.dead_letters = FakeBroker()
        self.counters = ConsumerCounters()
        self.hook = Hook()
        self.stats = GroupStats(GROUP)
        config = ConsumerConfig(**settings)
        warnings = RateLimitedLog(self.clock, logging.getLogger(__name__))
        settlement = PopSettlement(GROUP, self.broker, self.counters, warnings)
        self.service = ConsumeMessagePopConcurrentlyService(
            group=GROUP,
            config=config,
            listener=self._listen,
            runtime=self.runtime,
            settlement=settlement,
            failures=DelayTableFailures(
                group=GROUP,
                config=config,
                clock=self.clock,
                settlement=settlement,
                send_back=SendMessageBack(GROUP, config.effective_max_reconsume_times(), self.dead_letters, warnings),
                counters=self.counters,
            ),
            hooks=[self.hook],
            counters=self.counters,
            stats=self.stats,
        )
        self.queue = PopProcessQueue(self.clock)

    def _listen(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        self.batches.append(offsets(msgs))
        self.clock.advance(self.listener_takes_ms)
        context.delay_level_when_next_consume = self.delay_level
        if self.ack_index is not None:
            context.ack_index = self.ack_index
        if self.failed_indexes is not None:
            context.failed_indexes = self.failed_indexes
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return] # a wrong answer is what some tests are about

    @property
    def pool(self) -> InlineExecutor[object]:
        (pool,) = self.runtime.pools.values()
        return pool

    def consume(self, *msgs: MessageExt, topic: str = TOPIC) -> None:
        self.queue.inc_found_msg(len(msgs))
        self.service.submit_pop_consume_request(list(msgs), self.queue, mq(0, topic))

    def count(self, event: Event) -> int:
        return self.counters.snapshot()[event]

    @property
    def not_settled(self) -> int:
        return self.queue.wait_ack_msg_count


# Batches.


@pytest.mark.behaviour("PO-03")
@pytest.mark.parametrize(
    ("size", "expected"), [(1, [[0], [1], [2]]), (2, [[0, 1], [2]]), (3, [[0, 1, 2]]), (4, [[0, 1, 2]])]
)
def test_popped_messages_are_handed_over_in_batches_the_last_one_shorter(size: int, expected: list[list[int]]) -> None:
    core = Consuming(consume_message_batch_max_size=size)
    core.consume(popped(0), popped(1), popped(2))
    assert core.batches == expected


@pytest.mark.behaviour("PO-03")
def test_after_shutdown_no_popped_message_is_taken() -> None:
    core = Consuming()
    assert core.service.shutdown(1_000) is True
    core.consume(popped(0))
    assert core.batches == []
    assert core.broker.acked == []


# Before the listener is called.


@pytest.mark.behaviour("PO-04")
def test_messages_of_a_queue_taken_away_are_not_consumed_and_stay_counted() -> None:
    core = Consuming()
    core.queue.dropped = True
    core.consume(popped(0))
    assert core.batches == []
    assert core.not_settled == 1


@pytest.mark.behaviour("PO-05")
@pytest.mark.parametrize(("waited_ms", "consumed"), [(59_999, True), (60_000, False)])
def test_what_waited_for_a_thread_until_its_invisible_time_had_passed_is_not_consumed(
    waited_ms: int, consumed: bool
) -> None:
    core = Consuming(consume_message_batch_max_size=2)
    core.pool.held = True
    core.consume(popped(0, invisible_ms=60_000), popped(1, invisible_ms=5_000))  # the first one's counts
    core.clock.advance(waited_ms)
    core.pool.run_all()
    assert core.batches == ([[0, 1]] if consumed else [])
    assert core.not_settled == 0
    assert core.broker.acked == ([0, 1] if consumed else [])
    assert core.broker.put_off == []
    assert core.count(Event.POP_TIMED_OUT) == (0 if consumed else 2)


@pytest.mark.behaviour("PO-05")
@pytest.mark.parametrize("clocks_differ_ms", [-HOUR_MS, 0, HOUR_MS])
def test_the_clock_of_the_broker_may_differ_as_it_likes(clocks_differ_ms: int) -> None:
    core = Consuming()
    now = core.clock.wall_ms() + clocks_differ_ms
    core.consume(popped(0, receipt=f"0 {now} 60000 0 0 broker-a 0 0"))
    assert core.broker.acked == [0]


@pytest.mark.behaviour("PO-05")
@pytest.mark.parametrize(
    "receipt",
    [
        "",
        "0 1",
        f"0 {POP_TIME} 60000 0 0 broker-a 0",
        f"0 {POP_TIME} minute 0 0 broker-a 0 0",
        "0 0 60000 0 0 broker-a 0 0",
        "0 -1 60000 0 0 broker-a 0 0",
        f"0 {POP_TIME} 0 0 0 broker-a 0 0",
        f"0 {POP_TIME} -5 0 0 broker-a 0 0",
    ],
)
def test_a_message_whose_receipt_tells_no_lease_is_not_consumed(receipt: str) -> None:
    core = Consuming()
    core.consume(popped(0, receipt=receipt))
    assert core.batches == []
    assert core.not_settled == 0
    assert core.count(Event.POP_TIMED_OUT) == 1


# After it.


@pytest.mark.behaviour("PO-06")
@pytest.mark.parametrize("answer", [SUCCESS, LATER])
def test_a_result_that_comes_when_the_invisible_time_has_passed_settles_nothing(
    answer: ConsumeConcurrentlyStatus,
) -> None:
    core = Consuming(answer)
    core.listener_takes_ms = 60_000
    core.consume(popped(0))
    assert core.batches == [[0]]
    assert (core.broker.acked, core.broker.put_off) == ([], [])
    assert core.not_settled == 0
    assert core.count(Event.POP_TIMED_OUT) == 1


@pytest.mark.behaviour("PO-06")
def test_a_result_for_a_queue_taken_away_meanwhile_settles_nothing() -> None:
    core = Consuming()
    core.answer = SUCCESS

    def drop(context: ConsumeMessageContext) -> None:
        core.queue.dropped = True

    core.hook.consume_message_before = drop  # type: ignore[method-assign]
    core.consume(popped(0))
    assert core.batches == [[0]]
    assert core.broker.acked == []
    assert core.not_settled == 0


@pytest.mark.behaviour("PO-07")
def test_success_acknowledges_every_message() -> None:
    core = Consuming(consume_message_batch_max_size=3)
    core.consume(popped(0), popped(1), popped(2))
    assert core.broker.acked == [0, 1, 2]
    assert core.broker.put_off == []
    assert core.not_settled == 0


@pytest.mark.behaviour("PO-07")
@pytest.mark.parametrize(
    ("ack_index", "acked", "put_off"), [(-5, [], [0, 1, 2]), (-1, [], [0, 1, 2]), (0, [0], [1, 2]), (9, [0, 1, 2], [])]
)
def test_success_with_an_ack_index_puts_off_what_lies_behind_it(
    ack_index: int, acked: list[int], put_off: list[int]
) -> None:
    core = Consuming(consume_message_batch_max_size=3)
    core.ack_index = ack_index
    core.consume(popped(0), popped(1), popped(2))
    assert core.broker.acked == acked
    assert [offset for offset, _ in core.broker.put_off] == put_off
    assert core.not_settled == 0


@pytest.mark.behaviour("PO-07", "CR-03")
def test_success_with_failed_indexes_puts_off_those_alone() -> None:
    core = Consuming(consume_message_batch_max_size=4)
    core.failed_indexes = {0, 2}
    core.consume(*map(popped, range(4)))
    assert core.broker.acked == [1, 3]
    assert [offset for offset, _ in core.broker.put_off] == [0, 2]
    assert core.not_settled == 0


@pytest.mark.behaviour("PO-07")
@pytest.mark.parametrize("answer", [LATER, None, "SUCCESS", RuntimeError("listener")])
def test_anything_else_puts_all_off(answer: Any) -> None:
    core = Consuming(answer, consume_message_batch_max_size=3)
    core.ack_index = 1
    core.consume(popped(0), popped(1))
    assert core.broker.acked == []
    assert [offset for offset, _ in core.broker.put_off] == [0, 1]
    assert core.not_settled == 0


@pytest.mark.behaviour("PO-08")
@pytest.mark.parametrize(
    ("times", "level", "seconds"),
    [
        (0, 0, 10),
        (1, 0, 30),
        (2, 0, 60),
        (15, 0, 7_200),
        (0, 1, 30),
        (7, 1, 30),
        (0, 15, 7_200),
        (0, 16, 7_200),
        (0, 2**31, 7_200),
        (3, "2", 120),
        (3, None, 120),
    ],
)
def test_a_failed_message_comes_again_after_the_delay_of_its_count_or_of_the_listeners_level(
    times: int, level: Any, seconds: int
) -> None:
    core = Consuming(LATER)
    core.delay_level = level
    core.consume(popped(0, reconsume_times=times))
    assert core.broker.put_off == [(0, seconds * 1_000)]


def test_the_delays_are_java_s() -> None:
    assert POP_DELAY_LEVEL == (
        10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200,
    )  # fmt: skip


@pytest.mark.behaviour("PO-09")
def test_the_level_minus_1_moves_a_message_to_the_dead_letter_topic_and_acknowledges_it() -> None:
    core = Consuming(LATER)
    core.delay_level = -1
    msg = popped(0)
    core.consume(msg)
    assert core.dead_letters.sent_back == [(msg, -1)]
    assert core.broker.acked == [0]
    assert core.broker.put_off == []
    assert core.count(Event.SENT_BACK) == 1


@pytest.mark.behaviour("PO-09")
def test_a_message_that_cannot_be_moved_there_is_put_off() -> None:
    core = Consuming(LATER)
    core.delay_level = -1
    for request in ("send_message_back", "send_retry_message"):
        core.dead_letters.failing[request] = ConnectError("no broker")
    core.consume(popped(0, reconsume_times=1))
    assert core.broker.acked == []
    assert core.broker.put_off == [(0, 30_000)]


@pytest.mark.behaviour("PO-10")
@pytest.mark.parametrize(
    ("age_ms", "seconds"),
    [
        (-HOUR_MS, 10),
        (9_999, 10),
        (10_000, 30),
        (29_999, 30),
        (30_000, 60),
        (7_199_999, 7_200),
        (7_200_000, 7_200),
        (14_400_000, 7_200),
    ],
)
def test_a_message_that_failed_too_often_is_put_off_by_its_age(age_ms: int, seconds: int) -> None:
    core = Consuming(LATER, max_reconsume_times=3)
    core.delay_level = 7
    core.consume(popped(0, reconsume_times=3, born_timestamp=core.clock.wall_ms() - age_ms))
    assert core.broker.put_off == [(0, seconds * 1_000)]
    assert core.broker.acked == []


@pytest.mark.behaviour("PO-10")
@pytest.mark.parametrize(("times", "given_up"), [(15, False), (16, True), (17, True)])
def test_above_4_hours_it_is_given_up(times: int, given_up: bool) -> None:
    core = Consuming(LATER)
    core.consume(popped(0, reconsume_times=times, born_timestamp=core.clock.wall_ms() - 14_400_001))
    assert core.broker.acked == ([0] if given_up else [])
    assert bool(core.broker.put_off) is not given_up
    assert core.count(Event.POP_GIVEN_UP) == given_up


@pytest.mark.behaviour("PO-10")
def test_with_no_retries_allowed_every_message_of_a_batch_is_settled() -> None:
    core = Consuming(LATER, max_reconsume_times=0, consume_message_batch_max_size=3)
    now = core.clock.wall_ms()
    core.consume(*[popped(offset, born_timestamp=now) for offset in range(3)])
    assert core.broker.put_off == [(0, 10_000), (1, 10_000), (2, 10_000)]
    assert core.not_settled == 0


# Hooks.


@pytest.mark.behaviour("PO-11")
@pytest.mark.parametrize(
    ("answer", "takes_ms", "end"),
    [
        (SUCCESS, 59_999, ("CONSUME_SUCCESS", True, "SUCCESS")),
        (SUCCESS, 60_000, ("CONSUME_SUCCESS", True, "TIME_OUT")),
        (LATER, 0, ("RECONSUME_LATER", False, "FAILED")),
        (LATER, 60_000, ("RECONSUME_LATER", False, "TIME_OUT")),
        (None, 60_000, ("RECONSUME_LATER", False, "RETURNNULL")),
        (RuntimeError("listener"), 0, ("RECONSUME_LATER", False, "EXCEPTION")),
    ],
)
def test_hooks_are_told_of_a_time_out_when_the_listener_took_the_whole_invisible_time(
    answer: Any, takes_ms: int, end: tuple[str, bool, str]
) -> None:
    core = Consuming(answer)
    core.listener_takes_ms = takes_ms
    core.consume(popped(0))
    assert core.hook.ends == [end]


# Settling.


@pytest.mark.behaviour("PO-36")
@pytest.mark.parametrize("answer", [SUCCESS, LATER])
def test_the_listener_sees_the_topic_without_its_namespace_and_the_broker_is_told_the_whole_name(
    answer: ConsumeConcurrentlyStatus,
) -> None:
    core = Consuming(answer, namespace="ns")
    msg = popped(0, topic="ns%topic")
    core.consume(msg, topic="ns%topic")
    assert msg.topic == "topic"
    assert core.broker.topics == {"ns%topic"}


@pytest.mark.behaviour("PO-12")
@pytest.mark.parametrize("raised", [False, True])
def test_an_acknowledgement_that_fails_is_counted_and_logged_and_the_rest_is_settled(
    raised: bool, caplog: pytest.LogCaptureFixture
) -> None:
    core = Consuming(consume_message_batch_max_size=2)
    core.broker.failing = None if raised else BrokerError(208, "no such message")
    core.broker.refusing = ProtocolError("no receipt") if raised else None
    core.consume(popped(0), popped(1))
    assert core.broker.acked == [0, 1]
    assert core.not_settled == 0
    assert core.count(Event.SETTLE_FAILED) == 2
    assert caplog.text.count("comes again when its invisible time has passed") == 1


@pytest.mark.behaviour("PO-13")
@pytest.mark.parametrize("raised", [False, True])
def test_so_is_a_delay(raised: bool, caplog: pytest.LogCaptureFixture) -> None:
    core = Consuming(LATER, consume_message_batch_max_size=2)
    core.broker.failing = None if raised else BrokerError(208, "no such message")
    core.broker.refusing = ProtocolError("no receipt") if raised else None
    core.consume(popped(0), popped(1))
    assert [offset for offset, _ in core.broker.put_off] == [0, 1]
    assert core.not_settled == 0
    assert core.count(Event.SETTLE_FAILED) == 2
    assert "cannot put off for 10 s popped message" in caplog.text


# Statistics.


@pytest.mark.behaviour("PO-34")
@pytest.mark.parametrize(
    ("answer", "takes_ms", "told"),
    [(SUCCESS, 40, (40.0, 2, 1)), (LATER, 20, (20.0, 0, 3)), (SUCCESS, 60_000, (60_000.0, 0, 0))],
)
def test_a_listener_call_counts_its_time_and_what_succeeded_and_failed(
    answer: Any, takes_ms: int, told: tuple[float, int, int]
) -> None:
    core = Consuming(answer, consume_message_batch_max_size=3)
    core.ack_index = 1
    core.listener_takes_ms = takes_ms
    core.consume(popped(0), popped(1), popped(2))
    topic = core.stats[TOPIC]
    for interval_ms in (10_000, 600_000):
        topic.sample(interval_ms, core.clock.wall_ms())
    status = topic.consume_status()
    assert (status.consume_rt, round(status.consume_ok_tps * 10), status.consume_failed_msgs) == told
