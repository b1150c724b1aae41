from __future__ import annotations

import logging

import pytest

from rocketmq_py.consumer.consumer_stats_manager import NOTED_MAX, NOTED_MSGS_BITS, ConsumerStatsManager
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.model.message import MessageConst
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    Messages,
)
from rocketmq_py.model.running_info import ConsumeStatus
from rocketmq_py.model.stats_samples import StatsSnapshot
from rocketmq_py.testing import ManualRuntime
from tests.unit.support import GROUP, LATER, RETRY_TOPIC, SUCCESS, TOPIC, Core, message, mq

LOGGER = "rocketmq_py.consumer.consumer_stats_manager"


class Rig:
    """A manager whose timers run in ``advance``."""

    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.manager = ConsumerStatsManager(self.runtime.clock, self.runtime.scheduler("timers"))
        self.stats = self.manager.group(GROUP)[TOPIC]
        self.runtime.advance(0)  # the first samples, of nothing

    def noted(self) -> int:
        """Batches noted and not yet counted."""
        return len(self.stats.note_success.__self__)  # type: ignore[attr-defined]

    def status(self) -> ConsumeStatus:
        return self.manager.consume_status(GROUP, TOPIC)


@pytest.mark.behaviour("ST-01")
def test_a_number_shows_after_the_next_sample_as_if_counting_had_begun_ten_seconds_before_it() -> None:
    rig = Rig()
    rig.runtime.advance(3_000)
    rig.stats.inc_pull_tps(50)
    rig.runtime.advance(6_999)
    assert rig.status().pull_tps == 0
    rig.runtime.advance(1)
    assert rig.status().pull_tps == 5.0


@pytest.mark.behaviour("ST-02")
def test_the_minute_is_seven_samples_and_forgets_what_is_older() -> None:
    rig = Rig()
    rig.stats.inc_pull_tps(60)
    for second in (10, 20, 30, 40, 50, 60):
        rig.runtime.advance(10_000)
        assert rig.status().pull_tps == pytest.approx(60 / second)
    rig.runtime.advance(10_000)
    assert rig.status().pull_tps == 0


@pytest.mark.behaviour("ST-02")
def test_the_hour_is_seven_samples_of_ten_minutes() -> None:
    rig = Rig()
    rig.stats.inc_consume_failed_tps(3)
    rig.runtime.advance(599_999)
    assert rig.status().consume_failed_msgs == 0
    for _ in range(6):
        rig.runtime.advance(600_000)
        assert rig.status().consume_failed_msgs == 3
    rig.runtime.advance(600_000)
    assert rig.status().consume_failed_msgs == 0


@pytest.mark.behaviour("ST-03")
def test_a_response_time_is_the_average_per_call() -> None:
    rig = Rig()
    for took_ms in (10, 20, 60):
        rig.stats.inc_pull_rt(took_ms)
        rig.stats.inc_consume_rt(2 * took_ms)
    rig.runtime.advance(10_000)
    assert (rig.status().pull_rt, rig.status().consume_rt) == (30.0, 60.0)


@pytest.mark.behaviour("ST-04")
def test_a_listener_time_whose_minute_is_0_is_taken_from_the_hour() -> None:
    rig = Rig()
    rig.stats.inc_consume_rt(40)
    rig.stats.inc_pull_rt(40)
    rig.runtime.advance(70_000)
    assert (rig.status().consume_rt, rig.status().pull_rt) == (0, 0)
    rig.runtime.advance(530_000)
    assert (rig.status().consume_rt, rig.status().pull_rt) == (40.0, 0)


@pytest.mark.behaviour("ST-04")
def test_so_is_one_of_calls_that_took_no_time() -> None:
    rig = Rig()
    rig.stats.inc_consume_rt(40)
    rig.runtime.advance(600_000)
    rig.stats.inc_consume_rt(0)
    rig.runtime.advance(10_000)
    assert rig.status().consume_rt == 40.0


@pytest.mark.behaviour("ST-04")
def test_what_was_never_counted_is_zeros_and_asking_for_it_makes_nothing() -> None:
    rig = Rig()
    assert rig.manager.consume_status(GROUP, "unknown") == ConsumeStatus()
    assert list(rig.manager.group(GROUP)) == [TOPIC]


@pytest.mark.behaviour("ST-05")
def test_a_batch_that_succeeds_counts_as_the_three_counters_would() -> None:
    one, three = Rig(), Rig()
    for took_ms, msgs in ((5, 3), (7, 1)):
        one.stats.note_success(took_ms << NOTED_MSGS_BITS | msgs)
        three.stats.inc_consume_rt(took_ms)
        three.stats.inc_consume_ok_tps(msgs)
        three.stats.inc_consume_failed_tps(0)
    one.runtime.advance(10_000)
    three.runtime.advance(10_000)
    assert one.status() == three.status()
    assert one.status().consume_ok_tps == 0.4
    assert one.stats.lines(10_000) == three.stats.lines(10_000)


def test_what_is_noted_and_not_yet_counted_is_bounded_and_nothing_of_it_is_lost() -> None:
    rig = Rig()
    for _ in range(NOTED_MAX // 8):
        rig.stats.inc_pull_tps(32)
        for _ in range(32):
            rig.stats.note_success(1 << NOTED_MSGS_BITS | 1)
        assert rig.noted() < NOTED_MAX + 32
    assert rig.noted() > 0
    rig.runtime.advance(10_000)
    assert rig.noted() == 0
    assert rig.status().consume_ok_tps == rig.status().pull_tps == 4 * NOTED_MAX / 10


def test_each_topic_and_group_counts_apart() -> None:
    rig = Rig()
    rig.manager.group(GROUP)["other"].inc_pull_tps(1)
    rig.manager.group("other")[TOPIC].inc_pull_tps(2)
    rig.runtime.advance(10_000)
    assert rig.status().pull_tps == 0
    assert rig.manager.consume_status(GROUP, "other").pull_tps == 0.1
    assert rig.manager.consume_status("other", TOPIC).pull_tps == 0.2
    assert rig.manager.group(GROUP)[TOPIC] is rig.stats


@pytest.mark.behaviour("ST-07")
def test_each_full_minute_hour_and_day_logs_every_counter_that_ever_counted(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.stats.inc_pull_rt(7)
    rig.stats.inc_pull_tps(30)
    with caplog.at_level(logging.INFO, LOGGER):
        rig.runtime.advance(61_000)
        minute = [line for line in caplog.messages if "One Minute" in line]
        # START_MS is 20 s behind a full minute: the first lines come after 40 s, over the samples of 30 s.
        assert minute == [
            "[PULL_RT] [topic@group] Stats In One Minute, TIMES: 1 AVGRT: 7.00",
            "[PULL_TPS] [topic@group] Stats In One Minute, SUM: 30 TPS: 1.00 AVGPT: 30.00",
        ]
        assert not [line for line in caplog.messages if "One Hour" in line]
        rig.runtime.advance(3_600_000)
        assert len([line for line in caplog.messages if "[PULL_TPS]" in line and "One Hour" in line]) == 1
        rig.runtime.advance(24 * 3_600_000)
        assert len([line for line in caplog.messages if "[PULL_TPS]" in line and "One Day" in line]) == 1
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_two_samples_at_the_same_moment_divide_by_nothing() -> None:
    rig = Rig()
    rig.stats.inc_pull_tps(1)
    for _ in range(7):
        rig.stats.sample(10_000, rig.runtime.clock.monotonic_ms())
    assert rig.status().pull_tps == 0.0


def test_an_empty_list_is_zeros() -> None:
    assert StatsSnapshot() == (0, 0.0, 0, 0.0)


# What feeds them.


@pytest.mark.behaviour("ST-06")
def test_a_pull_that_found_messages_counts_its_time_and_the_messages_that_are_left_after_the_filter() -> None:
    core = Core(expression="A")
    core.broker.store(mq(), b"1", b"2", tags="A")
    core.broker.store(mq(), b"3", tags="B")
    core.rebalance.do_rebalance()
    core.runtime.advance(0)
    core.clock.advance(40)
    core.broker.answer_pulls()
    core.runtime.advance(10_000)
    status = core.stats_manager.consume_status(GROUP, TOPIC)
    assert (status.pull_rt, status.pull_tps) == (40.0, 0.2)


@pytest.mark.behaviour("ST-06")
def test_a_pull_whose_messages_are_all_filtered_counts_its_time_only() -> None:
    core = Core(expression="A")
    core.broker.store(mq(), b"3", tags="B")
    core.rebalance.do_rebalance()
    core.runtime.advance(0)
    core.clock.advance(40)
    core.broker.answer_pulls()
    core.runtime.advance(10_000)
    status = core.stats_manager.consume_status(GROUP, TOPIC)
    assert (status.pull_rt, status.pull_tps) == (40.0, 0.0)


def _consumed(answer: ConsumeConcurrentlyStatus | None, ack_index: int | None = None) -> ConsumeStatus:
    """The status after one batch of four that took 20 ms."""

    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        core.clock.advance(20)
        if ack_index is not None:
            context.ack_index = ack_index
        return answer

    core = Core(listener, consume_message_batch_max_size=4)
    core.broker.store(mq(), b"1", b"2", b"3", b"4")
    core.begin()
    core.broker.answer_pulls()
    core.runtime.advance(600_000)
    status = core.stats_manager.group(GROUP)[TOPIC]
    assert status.consume_status().consume_rt == 20.0
    return status.consume_status()


@pytest.mark.behaviour("ST-05")
@pytest.mark.parametrize(
    ("answer", "ack_index", "failed"),
    [(SUCCESS, None, 0), (SUCCESS, 0, 3), (SUCCESS, -1, 4), (LATER, None, 4), (None, None, 4)],
    ids=["success", "partly", "none", "later", "no-status"],
)
def test_a_listener_call_counts_its_time_and_what_succeeded_and_failed(
    answer: ConsumeConcurrentlyStatus | None, ack_index: int | None, failed: int
) -> None:
    assert _consumed(answer, ack_index).consume_failed_msgs == failed


@pytest.mark.behaviour("ST-05")
def test_the_call_for_a_queue_taken_away_meanwhile_counts_its_time_only() -> None:
    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        core.clock.advance(20)
        core.windows[mq()].dropped = True
        return SUCCESS

    core = Core(listener)
    core.broker.store(mq(), b"1")
    core.begin()
    core.broker.answer_pulls()
    core.runtime.advance(10_000)
    status = core.stats_manager.consume_status(GROUP, TOPIC)
    assert (status.consume_rt, status.consume_ok_tps, status.consume_failed_tps) == (20.0, 0, 0)


@pytest.mark.behaviour("ST-08")
@pytest.mark.parametrize(
    ("answer", "auto_commit", "ok", "failed"),
    [
        (ConsumeOrderlyStatus.SUCCESS, True, 2, 0),
        (ConsumeOrderlyStatus.COMMIT, True, 2, 0),
        (ConsumeOrderlyStatus.ROLLBACK, True, 2, 0),
        (ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT, True, 0, 2),
        (None, True, 0, 2),
        (ConsumeOrderlyStatus.SUCCESS, False, 2, 0),
        (ConsumeOrderlyStatus.COMMIT, False, 0, 0),
        (ConsumeOrderlyStatus.ROLLBACK, False, 0, 0),
        (ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT, False, 0, 2),
    ],
)
def test_an_orderly_call_counts_its_time_and_its_messages_unless_it_commits_or_rolls_back_by_itself(
    answer: ConsumeOrderlyStatus | None, auto_commit: bool, ok: int, failed: int
) -> None:
    def listener(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        core.clock.advance(20)
        context.auto_commit = auto_commit
        return answer  # type: ignore[return-value]

    core = Core(orderly=listener, consume_message_batch_max_size=2, suspend_current_queue_time_millis=30_000)
    core.broker.store(mq(), b"1", b"2")
    core.begin()
    core.broker.answer_pulls()
    core.runtime.advance(10_000)
    status = core.stats_manager.consume_status(GROUP, TOPIC)
    assert status.consume_rt == 20.0
    assert (status.consume_ok_tps * 10, status.consume_failed_tps * 10) == (ok, failed)


@pytest.mark.behaviour("ST-05", "ST-08")
@pytest.mark.parametrize("orderly", [False, True])
def test_retried_messages_count_for_the_retry_topic_whatever_topic_they_show(orderly: bool) -> None:
    def listener(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        return ConsumeOrderlyStatus.SUCCESS

    core = Core(orderly=listener) if orderly else Core()
    queue = ProcessQueue(core.clock)
    queue.note_locked(core.clock.monotonic_ms())
    msgs = [message(0, topic=RETRY_TOPIC, properties={MessageConst.RETRY_TOPIC: TOPIC})]
    queue.put_message(msgs)
    service = core.orderly_service if orderly else core.service
    service.submit_consume_request(msgs, queue, mq(0, RETRY_TOPIC), True)
    assert msgs[0].topic == TOPIC
    core.runtime.advance(10_000)
    assert core.stats_manager.consume_status(GROUP, RETRY_TOPIC).consume_ok_tps > 0
    assert core.stats_manager.consume_status(GROUP, TOPIC) == ConsumeStatus()
