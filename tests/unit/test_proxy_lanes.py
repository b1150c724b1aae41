from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.remoting.proxy_lanes import FORGET_AFTER_MS, LANES_MAX, ProxyLanes
from rocketmq_py.testing import ManualClock
from tests.unit.support import GROUP, mq


class Lanes:
    """Lanes on a virtual clock, and which pulls have begun on which of them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.lanes = ProxyLanes(self.clock)
        self.begun: list[tuple[int, int, bool]] = []  # queue, lane, shared
        self.after_begin: Callable[[], None] = lambda: None

    def enter(self, *queues: int, group: str = GROUP) -> None:
        for queue in queues:
            self.lanes.enter((group, mq(queue)), functools.partial(self._begin, queue))

    def _begin(self, queue: int, lane: int, shared: bool) -> None:
        self.begun.append((queue, lane, shared))
        self.after_begin()

    def lane_of(self, queue: int) -> int:
        return next(lane for number, lane, _ in self.begun if number == queue)


@pytest.mark.behaviour("LN-01")
def test_every_queue_has_a_lane_of_its_own_while_there_are_enough() -> None:
    lanes = Lanes()
    lanes.enter(*range(LANES_MAX))
    assert len(lanes.begun) == LANES_MAX
    assert {lane for _, lane, _ in lanes.begun} == set(range(1, LANES_MAX + 1))
    assert not any(shared for _, _, shared in lanes.begun)


@pytest.mark.behaviour("LN-01")
def test_a_queue_keeps_its_lane() -> None:
    lanes = Lanes()
    lanes.enter(0, 1)
    for _ in range(3):
        for queue in (0, 1):
            lanes.lanes.leave(lanes.lane_of(queue))
            lanes.enter(queue)
    assert {(queue, lane) for queue, lane, _ in lanes.begun} == {(0, 1), (1, 2)}


@pytest.mark.behaviour("LN-01")
def test_two_groups_that_pull_the_same_queue_have_a_lane_each() -> None:
    lanes = Lanes()
    lanes.enter(7)
    lanes.enter(7, group="other")
    assert lanes.begun == [(7, 1, False), (7, 2, False)]


@pytest.mark.behaviour("LN-02")
def test_more_queues_than_lanes_share_them_evenly_and_are_told_so() -> None:
    lanes = Lanes()
    lanes.enter(*range(3 * LANES_MAX))
    assert len(lanes.begun) == LANES_MAX
    for _ in range(3):
        for lane in range(1, LANES_MAX + 1):
            lanes.lanes.leave(lane)
    assert set(Counter(lane for _, lane, _ in lanes.begun).values()) == {3}
    assert {queue for queue, _, _ in lanes.begun} == set(range(3 * LANES_MAX))
    assert all(shared for _, _, shared in lanes.begun[LANES_MAX:])


@pytest.mark.behaviour("LN-02")
def test_one_pull_is_on_a_lane_at_a_time_the_next_begins_when_it_left_in_the_order_they_came() -> None:
    lanes = Lanes()
    lanes.enter(*range(LANES_MAX))
    lanes.enter(LANES_MAX, *range(LANES_MAX + 1, 2 * LANES_MAX), 2 * LANES_MAX)
    assert len(lanes.begun) == LANES_MAX
    lanes.lanes.leave(1)
    assert [queue for queue, _, _ in lanes.begun[LANES_MAX:]] == [LANES_MAX]
    lanes.enter(0)
    assert [queue for queue, _, _ in lanes.begun[LANES_MAX:]] == [LANES_MAX]
    lanes.lanes.leave(1)
    assert [queue for queue, _, _ in lanes.begun[LANES_MAX:]] == [LANES_MAX, 2 * LANES_MAX]
    lanes.lanes.leave(1)
    assert lanes.begun[-1] == (0, 1, True)
    lanes.lanes.leave(1)
    lanes.enter(LANES_MAX)
    assert lanes.begun[-1] == (LANES_MAX, 1, True)


@pytest.mark.behaviour("LN-03")
def test_the_place_of_a_queue_not_pulled_for_120_s_is_free_for_another() -> None:
    lanes = Lanes()
    lanes.enter(*range(LANES_MAX))
    for lane in range(1, LANES_MAX + 1):
        lanes.lanes.leave(lane)
    lanes.clock.advance(FORGET_AFTER_MS)
    lanes.enter(*range(1, LANES_MAX))
    lanes.clock.advance(1)
    lanes.enter(1_000)
    assert lanes.begun[-1] == (1_000, 1, False)


@pytest.mark.behaviour("LN-03")
def test_a_queue_pulled_120_s_ago_still_has_its_place() -> None:
    lanes = Lanes()
    lanes.enter(*range(LANES_MAX))
    for lane in range(1, LANES_MAX + 1):
        lanes.lanes.leave(lane)
    lanes.clock.advance(FORGET_AFTER_MS)
    lanes.enter(1_000)
    assert lanes.begun[-1][2] is True


@pytest.mark.behaviour("LN-02")
def test_a_pull_that_is_answered_while_it_begins_lets_the_next_one_on() -> None:
    lanes = Lanes()
    lanes.enter(*range(2 * LANES_MAX))
    lanes.after_begin = lambda: lanes.lanes.leave(lanes.begun[-1][1])
    lanes.lanes.leave(1)
    assert len(lanes.begun) == LANES_MAX + 1
    lanes.enter(0)
    assert lanes.begun[-1][:2] == (0, 1)


@pytest.mark.behaviour("LN-02")
@given(st.lists(st.sampled_from([-1, -2, 0, 1, LANES_MAX, LANES_MAX + 1, 2 * LANES_MAX, 2 * LANES_MAX + 1])))
def test_there_are_never_two_pulls_on_a_lane_and_every_pull_gets_its_turn(steps: list[int]) -> None:
    """Negative: the pull on that lane is answered. Else: that queue is pulled, of those that share lanes 1 and 2."""
    lanes = Lanes()
    pulling: set[int] = set()
    on_lane: dict[int, int] = {}
    entered: Counter[int] = Counter()

    def note() -> None:
        queue, lane, _ = lanes.begun[-1]
        assert lane not in on_lane
        on_lane[lane] = queue

    def leave(lane: int) -> None:
        pulling.discard(on_lane.pop(lane))
        lanes.lanes.leave(lane)

    lanes.after_begin = note
    for step in [*range(LANES_MAX), *steps]:
        if step < 0:
            if -step in on_lane:
                leave(-step)
        elif step not in pulling:
            pulling.add(step)
            entered[step] += 1
            lanes.enter(step)
    while on_lane:
        leave(next(iter(on_lane)))
    assert Counter(queue for queue, _, _ in lanes.begun) == entered
