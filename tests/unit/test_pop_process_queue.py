from __future__ import annotations

import pytest

from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.model.running_info import PopProcessQueueInfo
from rocketmq_py.testing import ManualClock


@pytest.mark.behaviour("PO-01")
def test_a_popped_queue_counts_what_is_not_settled() -> None:
    queue = PopProcessQueue(ManualClock())
    assert (queue.wait_ack_msg_count, queue.dropped) == (0, False)
    queue.inc_found_msg(3)
    assert queue.ack() == 3  # the count before
    assert queue.wait_ack_msg_count == 2
    queue.dec_found_msg(-2)  # it adds
    assert queue.wait_ack_msg_count == 0
    assert repr(queue) == "<PopProcessQueue 0 not settled>"


@pytest.mark.behaviour("PO-02")
def test_a_queue_not_popped_for_more_than_120_s_is_expired_whatever_the_wall_clock_says() -> None:
    clock = ManualClock()
    queue = PopProcessQueue(clock)
    clock.shift_wall(1_000_000)
    clock.advance(120_000)
    assert queue.is_pull_expired is False
    clock.advance(1)
    assert queue.is_pull_expired is True
    queue.last_pop_timestamp = clock.monotonic_ms()
    assert queue.is_pull_expired is False


@pytest.mark.behaviour("PO-35")
def test_a_popped_queue_tells_what_is_not_settled_and_when_it_was_popped() -> None:
    clock = ManualClock()
    queue = PopProcessQueue(clock)
    queue.inc_found_msg(2)
    queue.dropped = True
    assert queue.fill_pop_process_queue_info() == PopProcessQueueInfo(2, True, clock.monotonic_ms())
