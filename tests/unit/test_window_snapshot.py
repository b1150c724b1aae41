"""What ``DefaultMQPushConsumer.windows`` shows of a window."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rocketmq_py.consumer.process_queue import ProcessQueue, WindowSnapshot
from rocketmq_py.testing import ManualClock
from tests.io.cluster import Cluster
from tests.io.consumer import Consumer
from tests.io.server import eventually
from tests.unit.support import messages, mq
from tests.unit.test_push_consumer import make_consumer


@pytest.fixture
def queue() -> ProcessQueue:
    return ProcessQueue(ManualClock())


def test_a_window_that_was_never_filled_knows_only_what_is_committed(queue: ProcessQueue) -> None:
    assert queue.snapshot() == WindowSnapshot((), None, None)
    assert queue.snapshot().first_unfinished is None
    assert queue.snapshot(7) == WindowSnapshot((), 7, 7)
    assert queue.snapshot(7).first_unfinished == 7


def test_what_is_finished_behind_an_unfinished_message_is_a_hole(queue: ProcessQueue) -> None:
    queue.put_message(messages(*range(10, 16)))
    queue.remove_message(messages(11, 12, 14))
    snapshot = queue.snapshot(10)
    assert snapshot.unfinished == (10, 13, 15)
    assert (snapshot.first_unfinished, snapshot.next_offset, snapshot.cached) == (10, 16, 3)
    assert snapshot.holes == (11, 12, 14)
    assert snapshot.next_commit == 10


def test_a_hole_above_the_highest_unfinished_message_counts(queue: ProcessQueue) -> None:
    queue.put_message(messages(0, 1, 2))
    queue.remove_message(messages(2))
    assert queue.snapshot().holes == (2,)


def test_the_window_moves_when_its_lowest_message_is_finished(queue: ProcessQueue) -> None:
    queue.put_message(messages(10, 11, 12))
    queue.remove_message(messages(11))
    committed = queue.remove_message(messages(10))
    snapshot = queue.snapshot(committed)
    assert (snapshot.first_unfinished, snapshot.holes, snapshot.next_commit) == (12, (), 12)


@pytest.mark.parametrize("first", [0, 5])
def test_a_finished_window_ends_where_it_is_committed(queue: ProcessQueue, first: int) -> None:
    queue.put_message(messages(first))
    committed = queue.remove_message(messages(first))
    snapshot = queue.snapshot(committed)
    assert (snapshot.first_unfinished, snapshot.next_offset, snapshot.next_commit) == (first + 1,) * 3
    assert (snapshot.cached, snapshot.holes) == (0, ())


def test_offsets_that_the_broker_filtered_move_the_end_of_an_empty_window(queue: ProcessQueue) -> None:
    queue.put_message(messages(3))
    queue.remove_message(messages(3))
    assert queue.snapshot(20).next_offset == 20


def test_messages_that_an_orderly_listener_holds_are_unfinished(queue: ProcessQueue) -> None:
    queue.put_message(messages(1, 2, 3))
    queue.take_messages(2)
    assert queue.snapshot().unfinished == (1, 2, 3)


def test_a_snapshot_is_neither_changed_by_the_window_nor_by_its_reader(queue: ProcessQueue) -> None:
    queue.put_message(messages(1, 2))
    snapshot: Any = queue.snapshot()
    queue.remove_message(messages(1, 2))
    assert snapshot.unfinished == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.next_commit = 9


def test_a_consumer_that_does_not_run_has_no_windows() -> None:
    consumer = make_consumer()
    assert consumer.windows() == {}
    consumer.shutdown()
    assert consumer.windows() == {}


def test_a_running_consumer_shows_the_windows_of_its_queues() -> None:
    cluster = Cluster(queues=2)
    try:
        cluster.store(b"1", b"2", b"3", queue_id=1)
        with Consumer(cluster).consumer as consumer:
            done = WindowSnapshot((), 3, 3)
            assert eventually(lambda: consumer.windows().get(mq(1)) == done, 10)
            assert set(consumer.windows()) == {mq(0), mq(1)}
        assert consumer.windows() == {}
    finally:
        cluster.stop()
