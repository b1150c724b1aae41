from __future__ import annotations

import pytest

from rocketmq_py.consumer.offset_store import NO_OFFSET, ReadOffsetType
from rocketmq_py.consumer.reset_offset import RESET_PAUSE_MS, OffsetReset
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyStatus,
    Messages,
)
from tests.unit.support import GROUP, ME, OTHER, SUCCESS, TOPIC, Core, messages, mq, offsets, succeed


def reset_of(core: Core) -> OffsetReset:
    return OffsetReset(
        group=GROUP,
        windows=core.rebalance.windows,
        offset_store=core.store,
        dispatch=core.pulls,
        give_up=core.rebalance.remove_process_queue,
        rebalance=core.broker.rebalance_immediately,
    )


class Rig:
    """A consumer of two queues with ten messages each, all consumed; resets run in ``core.runtime.advance``."""

    def __init__(self, listener: object = succeed) -> None:
        self.core = core = Core(listener, queues=2)  # type: ignore[arg-type]
        for number in range(2):
            core.broker.store(mq(number), *[b"x"] * 10)
        core.begin()
        core.broker.answer_pulls()
        self.reset = reset_of(core).reset

    def stored(self, number: int) -> int | None:
        return self.core.broker.offsets.get((GROUP, mq(number)))


@pytest.mark.behaviour("RO-01")
def test_a_reset_queue_is_dropped_and_its_new_offset_is_at_the_broker_at_once() -> None:
    rig = Rig()
    window = rig.core.windows[mq(0)]
    rig.reset(TOPIC, {mq(0): 3})
    assert window.dropped
    assert window.msg_count == 0
    assert rig.stored(0) == 3


@pytest.mark.behaviour("RO-01")
def test_what_a_reset_queue_held_is_forgotten() -> None:
    rig = Rig()
    window = rig.core.windows[mq(0)]
    window.put_message(messages(10, 11))
    rig.reset(TOPIC, {mq(0): 3})
    assert (window.msg_count, window.has_temp_message()) == (0, False)


@pytest.mark.behaviour("RO-02")
def test_after_ten_seconds_it_is_taken_anew_and_consumed_from_there() -> None:
    seen: list[int] = []

    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if context.message_queue == mq(0):
            seen.extend(offsets(msgs))
        return SUCCESS

    rig = Rig(listener)
    assert seen == list(range(10))
    rig.reset(TOPIC, {mq(0): 3})
    asked = rig.core.broker.rebalances_asked
    rig.core.runtime.advance(RESET_PAUSE_MS - 1)
    rig.core.rebalance.do_rebalance()
    assert mq(0) in rig.core.windows
    assert rig.core.windows[mq(0)].dropped
    rig.core.runtime.advance(1)
    assert rig.core.broker.rebalances_asked == asked + 1
    rig.core.begin()
    rig.core.broker.answer_pulls()
    assert seen[10:] == list(range(3, 10))
    assert rig.core.committed(mq(0)) == 10


@pytest.mark.behaviour("RO-02")
def test_while_it_pauses_rebalance_is_not_content() -> None:
    rig = Rig()
    assert rig.core.rebalance.do_rebalance() is True
    rig.reset(TOPIC, {mq(0): 3})
    assert rig.core.rebalance.do_rebalance() is False


@pytest.mark.behaviour("RO-03")
def test_other_queues_and_topics_go_on() -> None:
    rig = Rig()
    rig.reset(TOPIC, {mq(0): 3, mq(5): 3, mq(0, "other"): 3})
    rig.reset("other", {mq(1): 3})
    assert not rig.core.windows[mq(1)].dropped
    rig.core.broker.store(mq(1), b"more")
    rig.core.broker.answer_pulls()
    assert rig.core.committed(mq(1)) == 11
    assert (GROUP, mq(5)) not in rig.core.broker.offsets


@pytest.mark.behaviour("RO-04")
def test_a_result_that_comes_late_does_not_undo_the_reset() -> None:
    rig = Rig()
    queue: MessageQueue = mq(0)
    rig.reset(TOPIC, {queue: 3})
    rig.core.store.update_offset(queue, 9, increase_only=True)  # from between the check and the note (concurrency.md)
    assert rig.core.store.read_offset(queue, ReadOffsetType.READ_FROM_MEMORY) == 3
    rig.core.store.persist_all(list(rig.core.windows))
    assert rig.stored(0) == 3


@pytest.mark.behaviour("RO-04")
def test_a_second_reset_within_the_pause_wins_and_the_queue_is_taken_anew_once() -> None:
    rig = Rig()
    rig.reset(TOPIC, {mq(0): 3})
    rig.core.runtime.advance(4_000)
    rig.reset(TOPIC, {mq(0): 5})
    assert rig.stored(0) == 5
    rig.core.runtime.advance(6_000)
    rig.core.begin()
    window = rig.core.windows[mq(0)]
    assert not window.dropped
    rig.core.runtime.advance(RESET_PAUSE_MS)
    assert rig.core.windows[mq(0)] is window
    assert not window.dropped
    old, new = [pull.offset for pull in rig.core.broker.pulls if pull.mq == mq(0)]
    assert (old, new) == (10, 5)


@pytest.mark.behaviour("RO-04")
def test_a_queue_that_another_member_got_during_the_pause_keeps_the_new_offset() -> None:
    rig = Rig()
    rig.reset(TOPIC, {mq(1): 3})
    rig.core.broker.members[GROUP] = [ME, OTHER]
    rig.core.rebalance.do_rebalance()
    assert list(rig.core.windows) == [mq(0)]
    assert rig.stored(1) == 3
    assert rig.core.store.read_offset(mq(1), ReadOffsetType.READ_FROM_MEMORY) == NO_OFFSET
    rig.core.broker.offsets[GROUP, mq(1)] = 8  # the other member is further on
    rig.core.runtime.advance(RESET_PAUSE_MS)
    assert rig.stored(1) == 8


def test_a_reset_of_nothing_does_nothing() -> None:
    rig = Rig()
    asked = rig.core.broker.rebalances_asked
    rig.reset(TOPIC, {})
    rig.core.runtime.advance(RESET_PAUSE_MS)
    assert rig.core.broker.rebalances_asked == asked


def test_a_suspended_consumer_stays_suspended() -> None:
    rig = Rig()
    rig.core.puller.paused = rig.core.rebalance.paused = True
    rig.reset(TOPIC, {mq(0): 3})
    rig.core.runtime.advance(RESET_PAUSE_MS)
    assert rig.core.puller.paused
    assert rig.core.rebalance.do_rebalance() is False
    assert list(rig.core.windows) == [mq(1)]


@pytest.mark.behaviour("RO-02")
def test_an_orderly_queue_is_taken_anew_from_there_even_while_its_listener_is_still_at_work() -> None:
    core = Core(orderly=lambda msgs, context: ConsumeOrderlyStatus.SUCCESS)
    core.broker.store(mq(), *[b"x"] * 10)
    core.begin()
    core.broker.answer_pulls()
    window = core.windows[mq()]
    assert core.committed(mq()) == 10
    reset_of(core).reset(TOPIC, {mq(): 3})
    assert window.consume_lock.acquire(0)  # its listener is at work, and will be
    core.runtime.advance(RESET_PAUSE_MS)
    assert mq() not in core.windows
    core.begin()
    assert core.windows[mq()] is not window
    assert [pull.offset for pull in core.broker.pulls] == [10, 3]  # that of the old window, which ends, and the new one
