"""The queues of a gRPC consumer, with the popper that keeps their pops going round."""

from __future__ import annotations

import pytest

from rocketmq_py.consumer.message_popper import init_mode
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_queues import PopQueues
from rocketmq_py.consumer.process_queue import PULL_MAX_IDLE_TIME_MS
from rocketmq_py.errors import ConnectError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PopResult, PopStatus
from tests.unit.pop_support import popped
from tests.unit.support import GROUP, TOPIC, mq, offsets
from tests.unit.test_message_popper import Popping

ALL_QUEUES = mq(-1)
LOOPS = 3
NOTHING = PopResult(PopStatus.POLLING_NOT_FOUND, [])


class Loops(Popping):
    """A broker's queue, popped by three loops."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = PopQueues(
            GROUP, self.clock, lambda: init_mode(self.config), self.popper.execute_pop_pull_request_later,
            loops=LOOPS, name="client",
        )  # fmt: skip

    def _consume(self, msgs: list[MessageExt], queue: PopProcessQueue, mq: MessageQueue) -> None:
        self.consumed.append(offsets(msgs))

    def rebalance(self, *assigned: MessageQueue) -> None:
        self.queues.begin(self.queues.update(TOPIC, assigned)[1], 0)
        self.begin_delayed()

    def begin_delayed(self) -> None:
        jobs, self.dispatch.jobs = self.dispatch.jobs, []
        for _, job in jobs:
            job()

    def attempts(self) -> set[str]:
        return {call.attempt for call, _, _ in self.broker.waiting}


@pytest.mark.behaviour("PA-05")
def test_a_queue_whose_loops_had_no_answer_for_long_is_dropped_and_taken_again_with_as_many_loops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loops = Loops()
    loops.rebalance(ALL_QUEUES)
    lost = list(loops.broker.waiting)
    [(_, first)] = loops.queues.queues()
    assert len(lost) == LOOPS
    loops.clock.advance(PULL_MAX_IDLE_TIME_MS)
    loops.rebalance(ALL_QUEUES)
    assert loops.broker.waiting == lost, "not yet"
    loops.clock.advance(1)
    loops.rebalance(ALL_QUEUES)
    [(_, second)] = loops.queues.queues()
    assert (first.dropped, second.dropped) == (True, False)
    assert "nobody popped" in caplog.text
    new = loops.broker.waiting[LOOPS:]
    assert len(new) == len(loops.attempts()) - LOOPS == LOOPS, "receives of their own, no repetition"

    # Answers that come late: what they bring is consumed, and no further pop follows.
    (_, on_messages, _), (_, on_nothing, _), (_, _, on_error) = lost
    loops.broker.waiting = list(new)
    on_messages(PopResult(PopStatus.FOUND, [popped(7)]))
    on_nothing(NOTHING)
    on_error(ConnectError("gone"))
    loops.begin_delayed()
    assert loops.consumed == [[7]]
    assert loops.broker.waiting == new

    for _ in range(LOOPS):  # the new ones go round
        loops.clock.advance(15_000)
        loops.broker.answer(NOTHING)
    assert len(loops.broker.waiting) == LOOPS
    loops.rebalance(ALL_QUEUES)
    assert [queue for _, queue in loops.queues.queues()] == [second]


@pytest.mark.behaviour("PA-05")
def test_a_queue_that_lost_its_loops_while_it_was_away_gets_new_ones() -> None:
    loops = Loops()
    loops.rebalance(ALL_QUEUES)
    loops.rebalance()
    loops.broker.waiting.clear()  # nobody is ever told how they ended
    loops.clock.advance(PULL_MAX_IDLE_TIME_MS + 1)
    loops.rebalance(ALL_QUEUES)
    loops.rebalance(ALL_QUEUES)
    assert len(loops.attempts()) == LOOPS


@pytest.mark.behaviour("GC-10")
def test_a_queue_that_comes_back_keeps_the_loops_that_are_under_way() -> None:
    loops = Loops()
    loops.rebalance(ALL_QUEUES)
    before = list(loops.broker.waiting)
    loops.rebalance()
    loops.clock.advance(15_000)
    loops.broker.answer(NOTHING)  # this one finds it dropped, and ends
    assert len(loops.broker.waiting) == LOOPS - 1
    loops.rebalance(ALL_QUEUES)
    assert loops.broker.waiting[: LOOPS - 1] == before[1:]
    assert len(loops.broker.waiting) == LOOPS
