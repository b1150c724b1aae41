"""ProcessQueue against plain dicts, step by step; and then under eight threads."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sortedcontainers import SortedSet

from rocketmq_py.consumer.process_queue import NO_OFFSET, ProcessQueue
from rocketmq_py.model.message import MessageExt
from rocketmq_py.testing import ManualClock
from tests.unit.support import message, offsets

OFFSETS = st.integers(0, 40)
FULL = settings.get_current_profile_name() == "full"
EXAMPLES = 1_500 if FULL else 150

pytestmark = pytest.mark.behaviour("PQ-01", "PQ-03", "PQ-04", "PQ-05", "PQ-06", "PQ-07", "PQ-08")


def size_of(offset: int) -> int:
    """The same for every put of an offset, so that nothing drifts."""
    return (0, 1, 10, 1_000)[offset % 4]


def sized(*offsets_: int) -> list[MessageExt]:
    return [message(offset, size_of(offset)) for offset in offsets_]


class _Window(RuleBasedStateMachine):
    """What concurrent and orderly consumption have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.queue = ProcessQueue(self.clock)
        self.waiting: dict[int, MessageExt] = {}
        self.taken: dict[int, MessageExt] = {}
        self.put_last = 0
        self.next_pulled = 0
        self.backlog = 0
        self.consuming = False
        self.drifted = False

    @property
    def cached(self) -> list[MessageExt]:
        return [*self.waiting.values(), *self.taken.values()]

    def put(self, msgs: list[MessageExt]) -> None:
        must_dispatch = not self.consuming and bool(self.waiting or msgs)
        assert self.queue.put_message(msgs) is must_dispatch
        self.consuming |= must_dispatch
        for msg in msgs:
            if msg.queue_offset not in self.waiting:
                self.put_last = msg.queue_offset
            self.waiting[msg.queue_offset] = msg

    @rule(count=st.integers(0, 8), gap=st.integers(0, 3), backlog=st.integers(-2, 9))
    def pull(self, count: int, gap: int, backlog: int) -> None:
        """What a broker sends: an ascending run behind the last one."""
        first = self.next_pulled + gap
        msgs = sized(*range(first, first + count))
        if msgs:
            last = msgs[-1].queue_offset
            msgs[-1] = message(last, size_of(last), properties={"MAX_OFFSET": str(last + backlog)})
            self.backlog = backlog if backlog > 0 else self.backlog
            self.next_pulled = first + count
        self.put(msgs)

    @rule(again=st.lists(st.integers(0, 100), min_size=1, max_size=5))
    @precondition(lambda self: self.waiting)
    def put_again(self, again: list[int]) -> None:
        """Offsets that wait already, in any order."""
        waiting = sorted(self.waiting)
        self.put(sized(*(waiting[place % len(waiting)] for place in again)))

    @rule(ms=st.sampled_from([0, 1, 30_000, 120_000]))
    def time_passes(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.waiting.clear()
        self.taken.clear()
        self.put_last = 0
        self.drifted = False

    @invariant()
    def the_window_is_the_model_s(self) -> None:
        assert self.queue.offsets() == (sorted(self.waiting), sorted(self.taken))
        assert self.queue.has_temp_message() is bool(self.waiting)
        assert self.queue.consuming is self.consuming
        assert self.queue.msg_acc_cnt == self.backlog
        assert self.queue.max_span == (max(self.waiting) - min(self.waiting) if self.waiting else 0)

    @invariant()
    def the_gauges_are_a_recount(self) -> None:
        assert self.queue.msg_count == len(self.cached)
        if not self.cached:
            self.drifted = False
            assert self.queue.msg_size == 0
        if not self.drifted:
            assert self.queue.msg_size == sum(len(msg.body) for msg in self.cached)

    @invariant()
    def the_head_is_the_lowest(self) -> None:
        head = self.queue.head()
        if not self.waiting:
            assert head is None
            return
        assert head is not None
        assert head.message is self.waiting[min(self.waiting)]
        assert head.behind == len(self.waiting) - 1


class ConcurrentWindow(_Window):
    """Put and remove, and what the expiry sweep does."""

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[int, int] = {}

    def put(self, msgs: list[MessageExt]) -> None:
        super().put(msgs)
        for msg in msgs:
            self.started.pop(msg.queue_offset, None)

    @rule(offsets_=st.lists(OFFSETS, max_size=6))
    def put_anything(self, offsets_: list[int]) -> None:
        self.put(sized(*offsets_))
        self.next_pulled = max([self.next_pulled, *(offset + 1 for offset in offsets_)])

    @rule(place=st.integers(0, 100), size=st.integers(0, 50))
    @precondition(lambda self: self.waiting)
    def put_again_with_another_size(self, place: int, size: int) -> None:
        offset = sorted(self.waiting)[place % len(self.waiting)]
        self.drifted |= size != len(self.waiting[offset].body)
        self.put([message(offset, size)])

    def removed(self, msgs: list[MessageExt]) -> None:
        commit = self.queue.remove_message(msgs)
        if not self.waiting:
            assert commit == NO_OFFSET
            return
        for msg in msgs:
            self.waiting.pop(msg.queue_offset, None)
            self.started.pop(msg.queue_offset, None)
        assert commit == (min(self.waiting) if self.waiting else self.put_last + 1)
        assert all(commit <= offset for offset in self.waiting), "the commit passes an unfinished message"

    @rule(offsets_=st.lists(OFFSETS, max_size=6))
    def remove_anything(self, offsets_: list[int]) -> None:
        self.removed([self.waiting.get(offset, message(offset, size_of(offset))) for offset in offsets_])

    @rule(places=st.lists(st.integers(0, 100), max_size=8))
    @precondition(lambda self: self.waiting)
    def remove_some(self, places: list[int]) -> None:
        waiting = sorted(self.waiting)
        self.removed([self.waiting[offset] for offset in {waiting[place % len(waiting)] for place in places}])

    @rule()
    def remove_everything(self) -> None:
        self.removed(list(self.waiting.values()))

    @rule(offsets_=st.lists(OFFSETS, max_size=6))
    def a_listener_gets(self, offsets_: list[int]) -> None:
        self.queue.begin_consume([self.waiting.get(offset, message(offset)) for offset in offsets_])
        for offset in offsets_:
            if offset in self.waiting:
                self.started[offset] = self.clock.monotonic_ms()

    @rule(offset=OFFSETS)
    def the_head_expires(self, offset: int) -> None:
        """``offset`` was the lowest when the sweep looked; perhaps it is not any more."""
        was_head = bool(self.waiting) and min(self.waiting) == offset
        self.queue.remove_head(self.waiting.get(offset, message(offset)))
        if was_head:
            del self.waiting[offset]
            self.started.pop(offset, None)

    def clear(self) -> None:
        super().clear()
        self.started.clear()

    @invariant()
    def the_consume_time_is_that_of_the_lowest(self) -> None:
        head = self.queue.head()
        if head is not None:
            begun = self.started.get(head.message.queue_offset)
            assert head.consuming_ms == (None if begun is None else self.clock.monotonic_ms() - begun)


class OrderlyWindow(_Window):
    """Put, take, commit, roll back, and again."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[MessageExt]] = []

    @initialize()
    def lock(self) -> None:
        self.queue.locked = True

    @rule(size=st.integers(0, 6))
    def take(self, size: int) -> None:
        expected = sorted(self.waiting)[:size]
        batch = self.queue.take_messages(size)
        assert offsets(batch) == expected
        assert all(msg is self.waiting[msg.queue_offset] for msg in batch)
        for offset in expected:
            self.taken[offset] = self.waiting.pop(offset)
        if batch:
            self.batches.append(batch)
        else:
            self.consuming = False

    @rule()
    def commit(self) -> None:
        expected = max(self.taken) + 1 if self.taken else NO_OFFSET
        assert self.queue.commit() == expected
        assert all(expected <= offset for offset in self.waiting), "the commit passes an unfinished message"
        self.taken.clear()
        self.batches.clear()

    @rule()
    def rollback(self) -> None:
        self.queue.rollback()
        self.waiting.update(self.taken)
        self.taken.clear()
        self.batches.clear()

    @rule()
    @precondition(lambda self: self.batches)
    def consume_the_last_batch_again(self) -> None:
        batch = self.batches.pop()
        self.queue.make_message_to_consume_again(batch)
        for msg in batch:
            self.waiting[msg.queue_offset] = self.taken.pop(msg.queue_offset)

    def clear(self) -> None:
        super().clear()
        self.batches.clear()


_SIZE = settings(max_examples=EXAMPLES, stateful_step_count=40)

TestConcurrentWindow = ConcurrentWindow.TestCase
TestConcurrentWindow.settings = _SIZE
TestOrderlyWindow = OrderlyWindow.TestCase
TestOrderlyWindow.settings = _SIZE


# Threads.

THREADS = 8
ROUNDS = 5_000 if FULL else 1_000
BOUND_S = 120.0


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Storm:
    """One window; every thread puts runs of messages and removes some of its own, in any order."""

    def __init__(self) -> None:
        self.queue = ProcessQueue()
        self.pull = threading.Lock()  # a queue has one pull at a time, so runs ascend
        self.next_offset = 0
        self.ledger = threading.Lock()
        self.unfinished: SortedSet = SortedSet()
        self.commits: list[int] = []
        self.errors: list[BaseException] = []

    def work(self, seed: int) -> None:
        try:
            rng = random.Random(seed)
            mine: list[MessageExt] = []
            for _ in range(ROUNDS):
                if rng.random() < 0.5:
                    mine += self.put(rng.randrange(1, 9))
                rng.shuffle(mine)
                count = rng.randrange(len(mine) + 1)
                finished, mine = mine[:count], mine[count:]
                self.remove(finished)
                assert self.queue.msg_count >= 0
                assert self.queue.max_span >= 0
            self.remove(mine)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)

    def put(self, count: int) -> list[MessageExt]:
        with self.pull:
            msgs = sized(*range(self.next_offset, self.next_offset + count))
            self.next_offset += count
            with self.ledger:  # before it is in the window: never less than what is unfinished
                self.unfinished.update(offsets(msgs))
            self.queue.put_message(msgs)
        return msgs

    def remove(self, msgs: list[MessageExt]) -> None:
        with self.ledger:  # before it leaves the window: never more than what is unfinished
            self.unfinished.difference_update(offsets(msgs))
        commit = self.queue.remove_message(msgs)
        with self.ledger:
            if commit != NO_OFFSET:
                self.commits.append(commit)
                # The lowest unfinished offset only rises, so what was right when it was returned is right now.
                assert not self.unfinished or commit <= self.unfinished[0]


@pytest.mark.usefixtures("many_switches")
def test_under_eight_threads_no_commit_passes_an_unfinished_message_and_nothing_is_left() -> None:
    storm = Storm()
    threads = [threading.Thread(target=storm.work, args=(seed,), daemon=True) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_S)
    assert not any(thread.is_alive() for thread in threads)
    assert storm.errors == []
    assert storm.queue.offsets() == ([], [])
    assert (storm.queue.msg_count, storm.queue.msg_size) == (0, 0)
    assert max(storm.commits) == storm.next_offset
