from __future__ import annotations

import pytest

from rocketmq_py.consumer.process_queue import NO_OFFSET, ProcessQueue
from rocketmq_py.testing import ManualClock
from tests.unit.support import message, messages, offsets


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> ProcessQueue:
    return ProcessQueue(clock)


# Putting.


@pytest.mark.behaviour("PQ-01")
def test_putting_counts_messages_and_the_bytes_of_their_bodies(queue: ProcessQueue) -> None:
    queue.put_message([message(0, 10), message(1, 20), message(2, 0)])
    queue.put_message([message(3, 5)])
    assert (queue.msg_count, queue.msg_size) == (4, 35)
    assert queue.offsets() == ([0, 1, 2, 3], [])


@pytest.mark.behaviour("PQ-01")
@pytest.mark.parametrize("again", [[7], [7, 7], [9, 7], [7, 10], [10, 10, 7]])
def test_an_offset_put_again_replaces_the_message_and_is_not_counted_again(
    queue: ProcessQueue, again: list[int]
) -> None:
    queue.put_message(messages(7, 9, size=10))
    newer = messages(*again, size=3)
    queue.put_message(newer)
    new_offsets = set(again) - {7, 9}
    assert queue.msg_count == 2 + len(new_offsets)
    assert queue.msg_size == 20 + 3 * len(new_offsets)
    head = queue.head()
    assert head is not None
    assert head.message is newer[len(again) - 1 - again[::-1].index(7)]


@pytest.mark.behaviour("PQ-01")
def test_an_offset_twice_in_one_batch_is_counted_once(queue: ProcessQueue) -> None:
    queue.put_message([message(4, 10), message(4, 30)])
    assert (queue.msg_count, queue.msg_size) == (1, 10)
    assert queue.remove_message([message(4, 10)]) == 5


@pytest.mark.behaviour("PQ-01")
def test_messages_below_the_window_are_taken_in_order(queue: ProcessQueue) -> None:
    queue.put_message(messages(10, 12))
    queue.put_message(messages(3, 11))
    assert queue.offsets()[0] == [3, 10, 11, 12]


@pytest.mark.behaviour("PQ-02")
def test_the_first_put_asks_for_an_orderly_task_and_later_ones_do_not(queue: ProcessQueue) -> None:
    assert queue.put_message(messages(0)) is True
    assert queue.consuming is True
    assert queue.put_message(messages(1)) is False


@pytest.mark.behaviour("PQ-02")
def test_a_task_is_asked_for_again_once_the_last_one_found_nothing(queue: ProcessQueue) -> None:
    queue.put_message(messages(0))
    queue.take_messages(1)
    assert queue.put_message(messages(1)) is False
    queue.take_messages(1)
    assert queue.take_messages(1) == []
    assert queue.put_message(messages(2)) is True


@pytest.mark.behaviour("PQ-02")
def test_putting_nothing_asks_for_a_task_only_when_something_waits(queue: ProcessQueue) -> None:
    assert queue.put_message([]) is False
    queue.put_message(messages(0))
    queue.take_messages(0)
    assert queue.consuming is False
    assert queue.put_message([]) is True


@pytest.mark.behaviour("PQ-14")
def test_the_backlog_is_what_the_last_message_says_is_behind_it(queue: ProcessQueue) -> None:
    queue.put_message([message(5, properties={"MAX_OFFSET": "999"}), message(6, properties={"MAX_OFFSET": "100"})])
    assert queue.msg_acc_cnt == 94


@pytest.mark.behaviour("PQ-14")
def test_the_backlog_estimate_stays_when_the_last_message_is_the_newest_or_tells_nothing(queue: ProcessQueue) -> None:
    queue.put_message([message(5, properties={"MAX_OFFSET": "10"})])
    queue.put_message([message(6, properties={"MAX_OFFSET": "6"})])
    queue.put_message([message(7)])
    queue.put_message([])
    assert queue.msg_acc_cnt == 5


@pytest.mark.behaviour("PQ-14")
@pytest.mark.parametrize("nonsense", ["mine", "", "-", "²", "9" * 5_000])
def test_a_property_max_offset_that_is_no_number_costs_no_message(queue: ProcessQueue, nonsense: str) -> None:
    assert queue.put_message([message(5, properties={"MAX_OFFSET": nonsense})]) is True
    assert (queue.msg_count, queue.msg_acc_cnt) == (1, 0)


# Removing.


@pytest.mark.behaviour("PQ-03")
@pytest.mark.parametrize(
    ("removed", "commit"),
    [([3], 0), ([0, 1, 2], 3), ([2, 1, 0], 3), ([9], 0), ([0, 9], 1), ([1, 2, 3, 4, 5, 6, 7, 8, 9], 0), ([], 0)],
)
def test_the_commit_never_passes_the_lowest_unfinished_message(
    queue: ProcessQueue, removed: list[int], commit: int
) -> None:
    queue.put_message(messages(*range(10)))
    assert queue.remove_message(messages(*removed)) == commit


@pytest.mark.behaviour("PQ-03")
def test_a_slow_message_holds_the_commit_until_it_is_finished(queue: ProcessQueue) -> None:
    queue.put_message(messages(*range(5)))
    assert [queue.remove_message(messages(offset)) for offset in (4, 2, 1, 3)] == [0, 0, 0, 0]
    assert queue.remove_message(messages(0)) == 5


@pytest.mark.behaviour("PQ-04")
def test_the_last_message_removed_commits_one_past_what_was_put_last(queue: ProcessQueue) -> None:
    queue.put_message(messages(5, 9))
    queue.remove_message(messages(9))
    assert queue.remove_message(messages(5)) == 10
    assert (queue.msg_count, queue.msg_size) == (0, 0)


@pytest.mark.behaviour("PQ-09")
def test_insertion_order_decides_what_was_put_last_not_the_offset(queue: ProcessQueue) -> None:
    queue.put_message(messages(10))
    queue.put_message(messages(5))
    assert queue.remove_message(messages(5, 10)) == 6


@pytest.mark.behaviour("PQ-09")
def test_an_offset_put_again_does_not_count_as_put_last(queue: ProcessQueue) -> None:
    queue.put_message(messages(5, 10))
    queue.put_message(messages(5))
    assert queue.remove_message(messages(5, 10)) == 11


@pytest.mark.behaviour("PQ-05")
def test_removing_from_an_empty_window_commits_nothing(queue: ProcessQueue) -> None:
    assert queue.remove_message(messages(1)) == NO_OFFSET == -1
    queue.put_message(messages(1))
    queue.remove_message(messages(1))
    assert queue.remove_message(messages(1)) == -1
    queue.put_message(messages(2))
    queue.clear()
    assert queue.remove_message(messages(2)) == -1


@pytest.mark.behaviour("PQ-05")
def test_removing_what_is_not_there_changes_nothing_and_returns_the_lowest(queue: ProcessQueue) -> None:
    queue.put_message(messages(3, 4, size=10))
    assert queue.remove_message(messages(1, 7, size=99)) == 3
    assert (queue.msg_count, queue.msg_size) == (2, 20)


@pytest.mark.behaviour("PQ-10")
def test_the_size_drifts_when_an_offset_is_put_again_with_another_size_and_heals_when_the_window_empties(
    queue: ProcessQueue,
) -> None:
    queue.put_message([message(1, 10), message(2, 5)])
    queue.put_message([message(1, 30)])
    queue.remove_message([message(1, 30)])
    assert queue.msg_size == 15 - 30
    queue.remove_message([message(2, 5)])
    assert queue.msg_size == 0


# Orderly operations.


@pytest.mark.behaviour("PQ-06")
def test_taking_gives_the_lowest_ascending_and_keeps_them_counted(queue: ProcessQueue) -> None:
    queue.put_message(messages(4, 1, 3, 2))
    assert offsets(queue.take_messages(3)) == [1, 2, 3]
    assert queue.offsets() == ([4], [1, 2, 3])
    assert (queue.msg_count, queue.msg_size) == (4, 4)
    assert queue.consuming is True


@pytest.mark.behaviour("PQ-06")
def test_taking_nothing_ends_the_orderly_task(queue: ProcessQueue) -> None:
    queue.put_message(messages(1))
    queue.take_messages(5)
    assert queue.consuming is True
    assert queue.take_messages(5) == []
    assert queue.consuming is False


@pytest.mark.behaviour("PQ-07")
def test_committing_forgets_what_was_taken_and_returns_one_past_the_highest(queue: ProcessQueue) -> None:
    queue.put_message([message(1, 10), message(2, 20), message(3, 30)])
    queue.take_messages(1)
    queue.take_messages(1)
    assert queue.commit() == 3
    assert (queue.msg_count, queue.msg_size) == (1, 30)
    assert queue.offsets() == ([3], [])


@pytest.mark.behaviour("PQ-07")
def test_committing_the_last_message_leaves_no_bytes(queue: ProcessQueue) -> None:
    queue.put_message([message(1, 10)])
    queue.put_message([message(1, 30)])
    queue.take_messages(1)
    queue.commit()
    assert (queue.msg_count, queue.msg_size) == (0, 0)


@pytest.mark.behaviour("PQ-07")
def test_committing_without_anything_taken_commits_nothing(queue: ProcessQueue) -> None:
    queue.put_message(messages(1))
    assert queue.commit() == NO_OFFSET
    queue.take_messages(1)
    queue.clear()
    assert queue.commit() == NO_OFFSET


@pytest.mark.behaviour("PQ-08")
def test_rolling_back_puts_all_taken_batches_back(queue: ProcessQueue) -> None:
    queue.put_message(messages(1, 2, 3))
    queue.take_messages(1)
    queue.take_messages(1)
    queue.rollback()
    assert queue.offsets() == ([1, 2, 3], [])
    assert (queue.msg_count, queue.msg_size) == (3, 3)
    assert queue.commit() == NO_OFFSET


@pytest.mark.behaviour("PQ-08")
def test_consuming_again_puts_back_only_the_messages_named(queue: ProcessQueue) -> None:
    queue.put_message(messages(1, 2, 3))
    first, _ = queue.take_messages(2)
    queue.make_message_to_consume_again([first])
    assert queue.offsets() == ([1, 3], [2])
    assert (queue.msg_count, queue.consuming) == (3, True)


@pytest.mark.behaviour("PQ-08")
def test_messages_put_back_that_were_not_there_are_not_counted_and_counted_off_when_they_are_removed(
    queue: ProcessQueue,
) -> None:
    queue.make_message_to_consume_again(messages(0, 1, size=10))
    assert (queue.msg_count, queue.msg_size) == (0, 0)
    queue.remove_message(messages(0, 1, size=10))
    assert (queue.msg_count, queue.msg_size) == (-2, -20)


# Looking.


@pytest.mark.behaviour("PQ-17")
def test_a_message_is_contained_while_it_is_unfinished_and_not_taken(queue: ProcessQueue) -> None:
    queue.put_message(messages(1, 2))
    assert queue.contains_message(message(1)) is True
    assert queue.contains_message(message(3)) is False
    assert queue.contains_message(None) is False
    queue.take_messages(1)
    assert queue.contains_message(message(1)) is False
    queue.remove_message(messages(2))
    assert queue.contains_message(message(2)) is False


@pytest.mark.behaviour("PQ-17")
def test_something_waits_while_a_message_is_not_taken(queue: ProcessQueue) -> None:
    assert queue.has_temp_message() is False
    queue.put_message(messages(1))
    assert queue.has_temp_message() is True
    queue.take_messages(1)
    assert queue.has_temp_message() is False


@pytest.mark.behaviour("PQ-13")
def test_the_span_is_highest_minus_lowest_of_what_is_not_taken(queue: ProcessQueue) -> None:
    assert queue.max_span == 0
    queue.put_message(messages(10))
    assert queue.max_span == 0
    queue.put_message(messages(12, 2_010))
    assert queue.max_span == 2_000
    queue.take_messages(1)
    assert queue.max_span == 1_998


@pytest.mark.behaviour("PQ-15")
def test_clearing_forgets_every_message_and_leaves_the_flags(queue: ProcessQueue) -> None:
    queue.put_message(messages(1, 2, 3))
    queue.take_messages(1)
    queue.dropped = queue.locked = True
    queue.clear()
    assert (queue.msg_count, queue.msg_size, queue.offsets()) == (0, 0, ([], []))
    assert (queue.dropped, queue.locked, queue.consuming) == (True, True, True)


@pytest.mark.behaviour("PQ-15")
def test_clearing_forgets_what_was_put_last_and_since_when_messages_are_consumed(queue: ProcessQueue) -> None:
    msgs = messages(1, 50)
    queue.put_message(msgs)
    queue.begin_consume(msgs)
    queue.clear()
    queue.put_message(messages(1))
    head = queue.head()
    assert head is not None
    assert head.consuming_ms is None
    assert queue.remove_message(messages(1)) == 2


def test_its_text_tells_what_holds_the_commit_back(queue: ProcessQueue) -> None:
    assert repr(queue) == "<ProcessQueue 0 messages, 0 bytes, lowest None, span 0>"
    queue.put_message(messages(3, 7))
    queue.dropped = queue.locked = True
    assert repr(queue) == "<ProcessQueue 2 messages, 2 bytes, lowest 3, span 4, dropped, locked>"


# Time.


@pytest.mark.behaviour("PQ-11")
@pytest.mark.parametrize(("later_ms", "expired"), [(0, False), (30_000, False), (30_001, True)])
def test_a_lock_not_renewed_for_more_than_30_s_is_expired(
    queue: ProcessQueue, clock: ManualClock, later_ms: int, expired: bool
) -> None:
    clock.advance(77)
    queue.last_lock_timestamp = clock.monotonic_ms()
    clock.advance(later_ms)
    assert queue.is_lock_expired is expired


@pytest.mark.behaviour("PQ-12")
@pytest.mark.parametrize(("later_ms", "expired"), [(0, False), (120_000, False), (120_001, True)])
def test_a_queue_not_pulled_for_more_than_120_s_is_expired(
    queue: ProcessQueue, clock: ManualClock, later_ms: int, expired: bool
) -> None:
    clock.advance(77)
    queue.last_pull_timestamp = clock.monotonic_ms()
    clock.advance(later_ms)
    assert queue.is_pull_expired is expired


@pytest.mark.behaviour("PQ-11", "PQ-12")
def test_a_new_window_is_neither_lock_nor_pull_expired_and_a_wall_clock_that_jumps_changes_nothing(
    queue: ProcessQueue, clock: ManualClock
) -> None:
    clock.shift_wall(3_600_000)
    assert (queue.is_lock_expired, queue.is_pull_expired) == (False, False)


def test_taking_and_removing_note_when_something_was_consumed_last(queue: ProcessQueue, clock: ManualClock) -> None:
    start = clock.monotonic_ms()
    queue.put_message(messages(1, 2))
    clock.advance(5)
    assert queue.last_consume_timestamp == start
    queue.take_messages(1)
    assert queue.last_consume_timestamp == start + 5
    clock.advance(5)
    queue.remove_message([])
    assert queue.last_consume_timestamp == start + 10


@pytest.mark.behaviour("PQ-16")
def test_the_consume_time_runs_from_the_call_of_the_listener_not_from_the_pull(
    queue: ProcessQueue, clock: ManualClock
) -> None:
    assert queue.head() is None
    msgs = messages(1, 2, 3)
    queue.put_message(msgs)
    clock.advance(1_000)
    head = queue.head()
    assert head is not None
    assert (head.message.queue_offset, head.consuming_ms, head.behind) == (1, None, 2)
    queue.begin_consume(msgs[:1])
    clock.advance(250)
    head = queue.head()
    assert head is not None
    assert head.consuming_ms == 250


@pytest.mark.behaviour("PQ-16")
@pytest.mark.parametrize("ended", ["removed", "put again"])
def test_an_offset_that_ended_or_came_again_has_no_consume_time(queue: ProcessQueue, ended: str) -> None:
    msgs = messages(1, 2)
    queue.put_message(msgs)
    queue.begin_consume(msgs)
    if ended == "removed":
        queue.remove_message(messages(1))
    queue.put_message(messages(1))
    head = queue.head()
    assert head is not None
    assert (head.message.queue_offset, head.consuming_ms) == (1, None)


@pytest.mark.behaviour("PQ-16")
def test_a_message_that_is_not_in_the_window_gets_no_consume_time(queue: ProcessQueue) -> None:
    queue.put_message(messages(2))
    queue.begin_consume(messages(1))
    queue.put_message(messages(1))
    head = queue.head()
    assert head is not None
    assert (head.message.queue_offset, head.consuming_ms) == (1, None)


@pytest.mark.behaviour("PQ-16")
def test_the_head_is_removed_only_while_it_is_the_head(queue: ProcessQueue) -> None:
    queue.put_message(messages(1, 2))
    queue.remove_head(message(2))
    assert queue.offsets()[0] == [1, 2]
    queue.remove_head(message(1))
    assert queue.offsets()[0] == [2]
    queue.remove_head(message(2))
    queue.remove_head(message(2))
    assert queue.msg_count == 0
