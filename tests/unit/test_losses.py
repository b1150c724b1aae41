"""How messages get lost: three wrong consumers lose some, ours under the same events none."""

from __future__ import annotations

import pytest

from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP, ME, SUCCESS, Core, mq
from tests.unit.wrong_consumers import (
    AcknowledgesByTheLastOffset,
    AcknowledgesInFinally,
    CommitsByTimer,
    Crash,
    WrongConsumer,
)

ALL = list(range(10))


class Work:
    """Does what the messages ask for, until the process dies at one of them, or fails at one."""

    def __init__(self, *, dies_at: int | None = None, fails_at: int | None = None) -> None:
        self.done: list[int] = []
        self._dies_at = dies_at
        self._fails_at = fails_at

    def __call__(self, msg: MessageExt) -> None:
        number = int(msg.body)
        if number == self._dies_at:
            raise Crash
        if number == self._fails_at:
            raise ValueError(f"message {number}")
        self.done.append(number)


def broker_with_ten() -> FakeBroker:
    broker = FakeBroker(ME)
    broker.store(mq(), *[b"%d" % number for number in ALL])
    return broker


def rest_by(kind: type[WrongConsumer], broker: FakeBroker) -> list[int]:
    """What the next process of a wrong consumer gets."""
    return [int(msg.body) for msg in kind(broker, mq(), print).poll(100)]


def rest(broker: FakeBroker) -> list[int]:
    """What our consumer gets in the next process, and what waits in the retry topic."""
    got = [int(msg.body) for msg, _ in broker.sent_back]

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        got.extend(int(msg.body) for msg in msgs)
        return SUCCESS

    core = Core(listen, broker=broker)
    core.begin()
    broker.answer_pulls()
    return sorted(got)


def lost(done: list[int], comes_again: list[int]) -> list[int]:
    return [number for number in ALL if number not in done and number not in comes_again]


@pytest.mark.behaviour("LO-01")
def test_an_offset_committed_by_a_timer_before_the_work_is_done_loses_what_was_fetched() -> None:
    work = Work(dies_at=3)
    wrong = CommitsByTimer(broker := broker_with_ten(), mq(), work)

    def work_while_the_timer_rings(msg: MessageExt) -> None:
        wrong.on_timer()
        work(msg)

    wrong.handler = work_while_the_timer_rings
    with pytest.raises(Crash):
        wrong.consume(10)
    assert work.done == [0, 1, 2]
    assert lost(work.done, rest_by(CommitsByTimer, broker)) == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.behaviour("LO-01")
def test_our_timer_commits_what_is_done_and_nothing_that_was_only_fetched() -> None:
    work, broker = Work(), broker_with_ten()
    committed: list[int | None] = []

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        committed.append(core.committed(mq()))  # the timer rings during every call
        if int(msgs[0].body) == 3:
            core.pool.shutdown(0)  # the process dies: nothing more is begun
        else:
            work(msgs[0])
        return SUCCESS

    core = Core(listen, broker=broker)
    core.begin()
    core.pool.held = True
    broker.answer_pulls()
    core.pool.run_all()
    assert committed == [None, 1, 2, 3], "ten are fetched; of them one more is done each time"
    broker.offsets[GROUP, mq()] = 3  # what the broker was told when the process died
    assert work.done == [0, 1, 2]
    assert lost(work.done, rest(broker)) == []


@pytest.mark.behaviour("LO-02")
def test_an_acknowledgement_in_finally_loses_what_failed_and_what_was_not_reached() -> None:
    work = Work(fails_at=4)
    AcknowledgesInFinally(broker := broker_with_ten(), mq(), work).consume(10)
    assert work.done == [0, 1, 2, 3]
    assert lost(work.done, rest_by(AcknowledgesInFinally, broker)) == [4, 5, 6, 7, 8, 9]


@pytest.mark.behaviour("LO-02")
def test_a_listener_of_ours_that_raises_gets_its_messages_again() -> None:
    work, broker = Work(fails_at=4), broker_with_ten()

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        for msg in msgs:
            work(msg)
        return SUCCESS

    core = Core(listen, broker=broker, consume_message_batch_max_size=10)
    core.begin()
    broker.answer_pulls()
    assert work.done == [0, 1, 2, 3]
    assert core.committed(mq()) == 10, "the offset passes them, because the broker has copies"
    assert lost(work.done, rest(broker)) == []


@pytest.mark.behaviour("LO-02")
def test_a_listener_that_returns_success_in_finally_loses_them_here_too() -> None:
    work, broker = Work(fails_at=4), broker_with_ten()

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        status = ConsumeConcurrentlyStatus.RECONSUME_LATER
        try:
            for msg in msgs:
                work(msg)
        except ValueError:
            pass
        finally:
            status = SUCCESS
        return status

    core = Core(listen, broker=broker, consume_message_batch_max_size=10)
    core.begin()
    broker.answer_pulls()
    assert core.committed(mq()) == 10
    assert lost(work.done, rest(broker)) == [4, 5, 6, 7, 8, 9], "what a listener calls done is done"


@pytest.mark.behaviour("LO-03")
def test_an_acknowledgement_by_the_last_offset_loses_what_other_threads_still_have() -> None:
    work = Work()
    wrong = AcknowledgesByTheLastOffset(broker := broker_with_ten(), mq(), work)
    msgs = wrong.poll(10)
    for number in (0, 1, 7, 2, 5):  # the order in which threads finish; then the process dies
        wrong.finish(msgs[number])
    assert lost(work.done, rest_by(AcknowledgesByTheLastOffset, broker)) == [3, 4, 6]


@pytest.mark.behaviour("LO-03")
def test_our_commit_waits_for_the_lowest_message_that_a_thread_still_has() -> None:
    work, broker = Work(), broker_with_ten()
    committed: list[int | None] = []

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if int(msgs[0].body) == 3:  # while this thread is at work, the others finish all the rest
            core.pool.run_all()
            committed.append(core.committed(mq()))
        work(msgs[0])
        return SUCCESS

    core = Core(listen, broker=broker)
    core.begin()
    core.pool.held = True
    broker.answer_pulls()
    core.pool.run_all()
    assert committed == [3], "with 4 to 9 done, and 3 not"
    done_by_then = [number for number in work.done if number != 3]
    broker.offsets[GROUP, mq()] = 3  # the process died there
    assert lost(done_by_then, rest(broker)) == []
    assert core.committed(mq()) == 10
