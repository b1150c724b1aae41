from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.testing import ManualClock
from tests.unit.support import GROUP, ME, OTHER, mq

LIVE_MS = 60_000
THIRD = "127.0.0.1@third"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def locks(clock: ManualClock) -> RebalanceLockManager:
    return RebalanceLockManager(clock)


# Locking.


@pytest.mark.behaviour("LM-01")
def test_a_queue_that_nobody_holds_is_locked_by_the_first_who_asks(locks: RebalanceLockManager) -> None:
    assert locks.try_lock(GROUP, mq(), ME) is True
    assert locks.try_lock(GROUP, mq(), OTHER) is False
    assert locks.is_locked(GROUP, mq(), ME) is True
    assert locks.is_locked(GROUP, mq(), OTHER) is False


@pytest.mark.behaviour("LM-01")
@pytest.mark.parametrize(
    ("group", "queue"),
    [
        ("another", mq()),
        (GROUP, MessageQueue("another", "broker-a", 0)),
        (GROUP, MessageQueue("topic", "another", 0)),
        (GROUP, MessageQueue("topic", "broker-a", 1)),
    ],
)
def test_a_lock_is_of_one_group_on_one_queue_of_one_topic_and_broker(
    locks: RebalanceLockManager, group: str, queue: MessageQueue
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    assert locks.try_lock(group, queue, OTHER) is True
    assert locks.is_locked(GROUP, mq(), ME) is True


@pytest.mark.behaviour("LM-02")
def test_a_lock_is_refused_to_others_until_it_was_not_renewed_for_more_than_60_s(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(LIVE_MS)
    assert locks.try_lock(GROUP, mq(), OTHER) is False
    clock.advance(1)
    assert locks.is_locked(GROUP, mq(), ME) is False
    assert locks.try_lock(GROUP, mq(), OTHER) is True
    assert locks.try_lock(GROUP, mq(), ME) is False


@pytest.mark.behaviour("LM-02")
def test_whoever_takes_over_has_a_whole_live_time_from_then_on(clock: ManualClock, locks: RebalanceLockManager) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(LIVE_MS + 1)
    locks.try_lock(GROUP, mq(), OTHER)
    clock.advance(LIVE_MS)
    assert locks.try_lock(GROUP, mq(), THIRD) is False
    assert locks.is_locked(GROUP, mq(), OTHER) is True


@pytest.mark.behaviour("LM-02")
def test_a_client_whose_lock_expired_locks_again_if_nobody_was_quicker(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(LIVE_MS + 1)
    assert locks.try_lock(GROUP, mq(), ME) is True
    assert locks.try_lock(GROUP, mq(), OTHER) is False


@pytest.mark.behaviour("LM-02")
def test_the_live_time_can_be_set(clock: ManualClock) -> None:
    locks = RebalanceLockManager(clock, lock_max_live_ms=500)
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(500)
    assert locks.try_lock(GROUP, mq(), OTHER) is False
    clock.advance(1)
    assert locks.try_lock(GROUP, mq(), OTHER) is True


@pytest.mark.behaviour("LM-02")
@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
def test_a_wall_clock_that_jumps_changes_nothing(clock: ManualClock, locks: RebalanceLockManager, jump_ms: int) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.shift_wall(jump_ms)
    assert locks.try_lock(GROUP, mq(), OTHER) is False
    clock.advance(LIVE_MS + 1)
    assert locks.try_lock(GROUP, mq(), OTHER) is True


@pytest.mark.behaviour("LM-03")
@pytest.mark.parametrize(
    "renew",
    [
        lambda locks: locks.try_lock(GROUP, mq(), ME),
        lambda locks: locks.try_lock_batch(GROUP, {mq()}, ME) == {mq()},
        lambda locks: locks.is_locked(GROUP, mq(), ME),
    ],
    ids=["try_lock", "try_lock_batch", "is_locked"],
)
def test_asking_again_renews_the_lock_by_whichever_call(
    clock: ManualClock, locks: RebalanceLockManager, renew: Callable[[RebalanceLockManager], bool]
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    for _ in range(3):
        clock.advance(LIVE_MS)
        assert renew(locks) is True
    clock.advance(LIVE_MS)
    assert locks.try_lock(GROUP, mq(), OTHER) is False


@pytest.mark.behaviour("LM-03")
def test_those_who_are_refused_renew_nothing(clock: ManualClock, locks: RebalanceLockManager) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(LIVE_MS)
    locks.try_lock(GROUP, mq(), OTHER)
    locks.try_lock_batch(GROUP, {mq()}, OTHER)
    locks.is_locked(GROUP, mq(), OTHER)
    locks.unlock_batch(GROUP, {mq()}, OTHER)
    clock.advance(1)
    assert locks.try_lock(GROUP, mq(), OTHER) is True


@pytest.mark.behaviour("LM-03")
def test_a_question_locks_nothing(locks: RebalanceLockManager) -> None:
    assert locks.is_locked(GROUP, mq(), ME) is False
    assert locks.try_lock(GROUP, mq(), OTHER) is True


@pytest.mark.behaviour("LM-04")
def test_a_batch_locks_what_can_be_locked_and_names_it(clock: ManualClock, locks: RebalanceLockManager) -> None:
    mine, expired, taken, free = mq(0), mq(1), mq(2), mq(3)
    locks.try_lock(GROUP, expired, OTHER)
    clock.advance(LIVE_MS + 1)
    locks.try_lock(GROUP, mine, ME)
    locks.try_lock(GROUP, taken, OTHER)
    assert locks.try_lock_batch(GROUP, {mine, expired, taken, free}, ME) == {mine, expired, free}
    assert locks.try_lock_batch(GROUP, {mine, expired, taken, free}, OTHER) == {taken}


@pytest.mark.behaviour("LM-04")
def test_a_batch_of_nothing_and_a_batch_of_which_nothing_can_be_locked_answer_an_empty_set(
    locks: RebalanceLockManager,
) -> None:
    locks.try_lock_batch(GROUP, [mq(0), mq(1)], ME)
    assert locks.try_lock_batch(GROUP, [mq(0), mq(1)], OTHER) == set()
    assert locks.try_lock_batch(GROUP, [], ME) == set()


# Unlocking.


@pytest.mark.behaviour("LM-05")
def test_a_lock_that_was_given_up_is_free_at_once(locks: RebalanceLockManager) -> None:
    locks.try_lock_batch(GROUP, {mq(0), mq(1)}, ME)
    locks.unlock_batch(GROUP, {mq(0)}, ME)
    assert locks.try_lock_batch(GROUP, {mq(0), mq(1)}, OTHER) == {mq(0)}


@pytest.mark.behaviour("LM-05")
def test_nobody_gives_up_the_lock_of_another(locks: RebalanceLockManager) -> None:
    locks.try_lock(GROUP, mq(0), ME)
    locks.try_lock(GROUP, mq(1), OTHER)
    locks.unlock_batch(GROUP, {mq(0), mq(1)}, OTHER)
    assert locks.is_locked(GROUP, mq(0), ME) is True
    assert locks.is_locked(GROUP, mq(1), OTHER) is False


@pytest.mark.behaviour("LM-05")
def test_even_an_expired_lock_is_given_up_by_nobody_but_its_client(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(LIVE_MS + 1)
    locks.unlock_batch(GROUP, {mq()}, OTHER)
    assert locks.entry_count == 1
    locks.unlock_batch(GROUP, {mq()}, ME)
    assert locks.entry_count == 0


@pytest.mark.behaviour("LM-05")
def test_giving_up_what_nobody_holds_in_a_group_that_nobody_knows_does_nothing(locks: RebalanceLockManager) -> None:
    locks.unlock_batch(GROUP, {mq()}, ME)
    locks.unlock_batch(GROUP, [], ME)
    assert locks.entry_count == 0
    assert locks.try_lock(GROUP, mq(), OTHER) is True


# Whether anybody holds anything.


@pytest.mark.behaviour("LM-06")
def test_a_group_holds_nothing_before_the_first_lock_after_the_last_unlock_and_once_all_locks_expired(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    assert locks.is_lock_all_expired(GROUP) is True
    locks.try_lock(GROUP, mq(0), ME)
    assert locks.is_lock_all_expired(GROUP) is False
    assert locks.is_lock_all_expired("another") is True
    locks.unlock_batch(GROUP, {mq(0)}, ME)
    assert locks.is_lock_all_expired(GROUP) is True
    locks.try_lock(GROUP, mq(0), ME)
    clock.advance(LIVE_MS)
    assert locks.is_lock_all_expired(GROUP) is False
    clock.advance(1)
    assert locks.is_lock_all_expired(GROUP) is True


@pytest.mark.behaviour("LM-06")
def test_one_lock_that_was_renewed_is_enough_for_a_group_to_hold_something(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    locks.try_lock_batch(GROUP, {mq(0), mq(1), mq(2)}, ME)
    clock.advance(LIVE_MS)
    locks.try_lock(GROUP, mq(1), ME)
    clock.advance(1)
    assert locks.is_lock_all_expired(GROUP) is False


@pytest.mark.behaviour("LM-06")
def test_asking_whether_all_expired_renews_nothing(clock: ManualClock, locks: RebalanceLockManager) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(LIVE_MS)
    locks.is_lock_all_expired(GROUP)
    clock.advance(1)
    assert locks.is_lock_all_expired(GROUP) is True


# The log.


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged since the last time."""
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


@pytest.mark.behaviour("LM-08")
def test_the_log_tells_of_every_lock_that_changes_hands_or_is_refused_and_of_no_renewal(
    clock: ManualClock, locks: RebalanceLockManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    locks.try_lock(GROUP, mq(), ME)
    assert lines(caplog) == [("INFO", f"try_lock: group {GROUP}: {mq()}, which nobody held, is locked for {ME}")]
    locks.try_lock(GROUP, mq(), ME)
    assert lines(caplog) == []
    locks.try_lock_batch(GROUP, {mq()}, OTHER)
    assert lines(caplog) == [("WARNING", f"try_lock_batch: group {GROUP}: {mq()} is refused to {OTHER}, {ME} holds it")]
    clock.advance(LIVE_MS + 1)
    locks.try_lock_batch(GROUP, {mq()}, OTHER)
    taken_over = f"the lock of {ME} on {mq()} expired, it is locked for {OTHER} now"
    assert lines(caplog) == [("WARNING", f"try_lock_batch: group {GROUP}: {taken_over}")]
    locks.is_locked(GROUP, mq(), ME)
    locks.is_lock_all_expired(GROUP)
    assert lines(caplog) == []


@pytest.mark.behaviour("LM-08")
def test_the_log_tells_of_every_lock_given_up_and_of_every_attempt_without_one(
    locks: RebalanceLockManager, caplog: pytest.LogCaptureFixture
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    caplog.set_level(logging.INFO)
    locks.unlock_batch(GROUP, {mq()}, OTHER)
    assert lines(caplog) == [("WARNING", f"unlock_batch: group {GROUP}: {OTHER} cannot give up {mq()}, {ME} has it")]
    locks.unlock_batch(GROUP, {mq()}, ME)
    assert lines(caplog) == [("INFO", f"unlock_batch: group {GROUP}: {ME} gave up {mq()}")]
    locks.unlock_batch(GROUP, {mq()}, ME)
    nothing = f"unlock_batch: group {GROUP}: {mq()} has no lock that {ME} could give up"
    assert lines(caplog) == [("WARNING", nothing)]


# Memory.


@pytest.mark.behaviour("LM-09")
def test_ever_new_names_of_groups_and_topics_do_not_fill_the_memory(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    per_live_time = 100
    most = 0
    for number in range(20 * per_live_time):
        locks.try_lock(f"group-{number}", mq(), ME)
        locks.try_lock(GROUP, mq(topic=f"topic-{number}"), ME)
        most = max(most, locks.entry_count)
        clock.advance(LIVE_MS // per_live_time)
    assert most <= 2 * (3 * per_live_time + 3)


@pytest.mark.behaviour("LM-09")
def test_what_is_renewed_is_never_forgotten_however_much_else_is(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    locks.try_lock(GROUP, mq(0), ME)
    for number in range(20):
        clock.advance(LIVE_MS)
        locks.try_lock(GROUP, mq(0), ME)
        locks.try_lock(GROUP, mq(number + 1), OTHER)
    assert locks.try_lock(GROUP, mq(0), OTHER) is False
    assert locks.entry_count <= 5


@pytest.mark.behaviour("LM-09")
def test_a_lock_that_expired_less_than_a_live_time_ago_is_still_known_by_name(
    clock: ManualClock, locks: RebalanceLockManager, caplog: pytest.LogCaptureFixture
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(2 * LIVE_MS)
    locks.try_lock("another", mq(), OTHER)
    locks.try_lock(GROUP, mq(), OTHER)
    assert f"the lock of {ME} on {mq()} expired" in caplog.text


@pytest.mark.behaviour("LM-09")
def test_a_lock_that_is_forgotten_answers_as_the_expired_one_did(
    clock: ManualClock, locks: RebalanceLockManager
) -> None:
    locks.try_lock(GROUP, mq(), ME)
    clock.advance(2 * LIVE_MS + 1)
    locks.try_lock("another", mq(), OTHER)
    assert locks.entry_count == 1
    assert locks.is_lock_all_expired(GROUP) is True
    assert locks.is_locked(GROUP, mq(), ME) is False
    assert locks.try_lock(GROUP, mq(), OTHER) is True


@pytest.mark.behaviour("LM-10")
def test_a_request_writes_a_bounded_number_of_lines(
    locks: RebalanceLockManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mqs = [mq(number) for number in range(300)]
    for ask in (
        lambda: locks.try_lock_batch(GROUP, mqs, ME),
        lambda: locks.try_lock_batch(GROUP, mqs, OTHER),
        lambda: locks.unlock_batch(GROUP, mqs, OTHER),
        lambda: locks.unlock_batch(GROUP, mqs, ME),
    ):
        ask()
        *_, last = found = lines(caplog)
        assert len(found) == 101
        assert "is not logged" in last[1]
    assert locks.entry_count == 0
