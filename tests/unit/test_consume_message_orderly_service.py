from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from rocketmq_py.consumer.consume_result import OrderlyAction, orderly_action
from rocketmq_py.consumer.hooks import CONSUME_CONTEXT_TYPE, ConsumeMessageContext
from rocketmq_py.consumer.message_queue_lock import MessageQueueLock
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.stats import Event
from rocketmq_py.errors import ConnectError
from rocketmq_py.model.config import MessageModel
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeOrderlyContext, ConsumeOrderlyStatus, Messages
from rocketmq_py.testing import ManualRuntime
from tests.unit.support import GROUP, OTHER, RETRY_TOPIC, Core, message, messages, mq, offsets

OK = ConsumeOrderlyStatus.SUCCESS
SUSPEND = ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
COMMIT = ConsumeOrderlyStatus.COMMIT
ROLLBACK = ConsumeOrderlyStatus.ROLLBACK


class Listener:
    """Notes the offsets of every call; answers what was put before it, then SUCCESS."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[list[int]] = []
        self.counts: list[list[int]] = []
        self.during: Callable[[], object] = lambda: None
        self.set_up: Callable[[ConsumeOrderlyContext], object] = lambda context: None

    def __call__(self, msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus | None:
        self.calls.append(offsets(msgs))
        self.counts.append([msg.reconsume_times for msg in msgs])
        self.set_up(context)
        self.during()
        answer = self.answers.pop(0) if self.answers else OK
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]


def manual(context: ConsumeOrderlyContext) -> None:
    context.auto_commit = False


def core_with(listener: Listener, count: int = 3, **settings: object) -> Core:
    """A consumer that holds queue 0 and was given ``count`` messages of it."""
    core = Core(orderly=listener, **settings)  # type: ignore[arg-type]
    core.broker.store(mq(), *(b"%d" % number for number in range(count)))
    core.begin()
    core.broker.answer_pulls()
    return core


def window(core: Core) -> ProcessQueue:
    return core.windows[mq()]


# One queue, one lock object.


@pytest.mark.behaviour("OR-01")
def test_the_lock_object_of_a_queue_and_part_is_always_the_same() -> None:
    table = MessageQueueLock(ManualRuntime())
    assert table.fetch_lock_object(mq(0)) is table.fetch_lock_object(mq(0))
    assert table.fetch_lock_object(mq(0), 0) is table.fetch_lock_object(mq(0), 0)
    locks = [table.fetch_lock_object(mq(number), part) for number in (0, 1) for part in (-1, 0)]
    assert len({id(lock) for lock in locks}) == 4


@pytest.mark.behaviour("OR-01")
def test_a_queue_whose_older_window_is_still_in_its_listener_waits_without_a_thread() -> None:
    listener = Listener()
    core = Core(orderly=listener)
    core.begin()
    newer = ProcessQueue(core.clock)
    newer.note_locked(core.clock.monotonic_ms())
    newer.put_message(messages(7))

    def second_task() -> None:
        listener.during = lambda: None
        core.orderly_service.submit_consume_request([], newer, mq(), True)
        assert listener.calls == [[1]]

    listener.during = second_task
    window(core).put_message(messages(1))
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    assert listener.calls == [[1]]
    core.runtime.advance(100)
    assert listener.calls == [[1], [7]]


# The task.


@pytest.mark.behaviour("OR-02")
def test_a_task_is_started_only_when_the_window_says_that_none_is_under_way() -> None:
    listener = Listener()
    core = Core(orderly=listener)
    core.begin()
    window(core).put_message(messages(1))
    core.orderly_service.submit_consume_request(messages(1), window(core), mq(), False)
    assert listener.calls == []
    core.orderly_service.submit_consume_request(messages(1), window(core), mq(), True)
    assert listener.calls == [[1]]


@pytest.mark.behaviour("OR-04")
def test_messages_come_in_order_in_batches_and_each_batch_is_committed_before_the_next() -> None:
    listener = Listener()
    committed: list[int | None] = []
    core = Core(orderly=listener, consume_message_batch_max_size=2)
    listener.during = lambda: committed.append(core.committed(mq()))
    core.broker.store(mq(), *[b"x"] * 5)
    core.begin()
    core.broker.answer_pulls()
    assert listener.calls == [[0, 1], [2, 3], [4]]
    assert committed == [None, 2, 4]
    assert core.committed(mq()) == 5
    assert (window(core).msg_count, window(core).consuming) == (0, False)


@pytest.mark.behaviour("OR-03")
def test_a_queue_taken_away_is_not_consumed() -> None:
    listener = Listener()
    core = Core(orderly=listener)
    core.begin()
    window(core).put_message(messages(1))
    window(core).dropped = True
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    assert listener.calls == []


@pytest.mark.behaviour("OR-04")
def test_a_queue_taken_away_between_two_batches_ends_its_task() -> None:
    listener = Listener()
    core = Core(orderly=listener)

    def take_away() -> None:
        core.windows[mq()].dropped = True

    listener.during = take_away
    core.broker.store(mq(), b"a", b"b")
    core.begin()
    core.broker.answer_pulls()
    core.runtime.advance(60_000)
    assert listener.calls == [[0]]


@pytest.mark.behaviour("OR-05")
def test_after_60_s_of_one_queue_the_task_gives_its_thread_up_and_goes_on_soon() -> None:
    listener = Listener()
    core = Core(orderly=listener)

    def take_time() -> None:
        core.clock.advance(30_000)
        core.windows[mq()].note_locked(core.clock.monotonic_ms())

    listener.during = take_time
    core.broker.store(mq(), *[b"x"] * 5)
    core.begin()
    core.broker.answer_pulls()
    assert listener.calls == [[0], [1], [2]]  # after 60 s exactly it still goes on
    listener.during = lambda: None
    core.runtime.advance(9)
    assert len(listener.calls) == 3
    core.runtime.advance(1)
    assert listener.calls == [[0], [1], [2], [3], [4]]


# Locks.


@pytest.mark.behaviour("OR-11")
def test_without_the_lock_the_task_asks_for_it_later_and_again_until_it_has_it() -> None:
    listener = Listener()
    core = Core(orderly=listener)
    core.begin()
    core.broker.locks[GROUP, mq()] = OTHER
    window(core).locked = False
    window(core).put_message(messages(1))
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    core.runtime.advance(100)  # asks, in vain
    core.runtime.advance(3_000)
    del core.broker.locks[GROUP, mq()]
    core.runtime.advance(99)
    assert listener.calls == []
    core.runtime.advance(1 + 10)
    assert listener.calls == [[1]]


@pytest.mark.behaviour("OR-11")
def test_a_lock_that_ran_out_between_two_batches_is_asked_for_again_before_the_next() -> None:
    listener = Listener()
    core = Core(orderly=listener)
    core.broker.store(mq(), b"a", b"b")
    core.begin()
    window(core).put_message(messages(0, 1))
    window(core).last_lock_timestamp -= 30_001
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    core.runtime.advance(109)
    assert listener.calls == []
    core.runtime.advance(1)
    assert listener.calls == [[0], [1]]


@pytest.mark.behaviour("OR-11")
def test_a_queue_taken_away_while_it_waits_for_its_lock_is_not_locked_again() -> None:
    listener = Listener()
    core = Core(orderly=listener)
    core.begin()
    queue = window(core)
    queue.locked = False
    queue.put_message(messages(1))
    core.orderly_service.submit_consume_request([], queue, mq(), True)
    queue.dropped = True
    core.broker.locks.clear()
    core.runtime.advance(10_000)
    assert core.broker.locks == {}
    assert listener.calls == []


@pytest.mark.behaviour("OR-13")
def test_locks_are_renewed_after_1_s_and_then_every_20_s() -> None:
    core = core_with(Listener())
    core.orderly_service.start()
    began = core.clock.monotonic_ms()
    renewed = []
    for _ in range(41):
        core.runtime.advance(1_000)
        renewed.append(window(core).last_lock_timestamp - began)
    assert sorted(set(renewed)) == [1_000, 21_000, 41_000]


@pytest.mark.behaviour("OR-06")
def test_an_answer_after_the_lock_ran_out_commits_nothing_and_the_messages_come_again_once_it_is_back() -> None:
    listener = Listener()
    core = Core(orderly=listener)

    def stopped_for_35_s() -> None:
        listener.during = lambda: None
        core.clock.advance(35_000)
        core.broker.failing["lock_batch_mq"] = ConnectError("down")

    listener.during = stopped_for_35_s
    core.broker.store(mq(), b"a", b"b")
    core.begin()
    core.broker.answer_pulls()
    core.runtime.advance(5_000)
    assert listener.calls == [[0]]
    assert core.committed(mq()) is None
    assert core.counters.snapshot()[Event.LATE_RESULT] == 1
    core.broker.failing.clear()
    core.runtime.advance(5_000)
    assert listener.calls == [[0], [0], [1]]
    assert core.committed(mq()) == 2


@pytest.mark.behaviour("QL-04")
def test_a_queue_that_another_member_consumed_on_meanwhile_is_begun_anew_from_there() -> None:
    listener = Listener()
    core = Core(orderly=listener)

    def stopped_for_70_s() -> None:
        listener.during = lambda: None
        core.clock.advance(70_000)
        core.broker.offsets[GROUP, mq()] = 2  # what the other one committed, before it went away again

    listener.during = stopped_for_70_s
    core.broker.store(mq(), *[b"x"] * 4)
    core.begin()
    core.broker.answer_pulls()
    old = window(core)
    core.runtime.advance(5_000)
    assert old.dropped
    assert listener.calls == [[0]]
    core.begin()
    core.broker.answer_pulls()
    assert listener.calls == [[0], [2], [3]]
    assert core.committed(mq()) == 4


# Verdicts.


@pytest.mark.behaviour("OR-07")
@pytest.mark.parametrize(
    ("status", "auto_commit", "action"),
    [
        (OK, True, OrderlyAction.COMMIT),
        (COMMIT, True, OrderlyAction.COMMIT),
        (ROLLBACK, True, OrderlyAction.COMMIT),
        (SUSPEND, True, OrderlyAction.AGAIN),
        (None, True, OrderlyAction.AGAIN),
        (OK, False, OrderlyAction.KEEP),
        (COMMIT, False, OrderlyAction.COMMIT),
        (ROLLBACK, False, OrderlyAction.ROLLBACK),
        (SUSPEND, False, OrderlyAction.AGAIN),
        (None, False, OrderlyAction.AGAIN),
    ],
)
def test_what_an_orderly_answer_means(
    status: ConsumeOrderlyStatus | None, auto_commit: bool, action: OrderlyAction
) -> None:
    assert orderly_action(status, auto_commit) is action


@pytest.mark.behaviour("OR-07")
@pytest.mark.parametrize("status", [COMMIT, ROLLBACK])
def test_commit_and_rollback_with_auto_commit_on_are_taken_as_success_and_warned_of(
    status: ConsumeOrderlyStatus, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(status)
    core = core_with(listener, 2)
    assert listener.calls == [[0], [1]]
    assert core.committed(mq()) == 2
    assert f"the listener answered {status} with auto_commit on" in caplog.text


@pytest.mark.behaviour("OR-07")
@pytest.mark.parametrize("answer", [SUSPEND, None, ValueError("mine"), KeyboardInterrupt(), "SUCCESS", True])
def test_a_failed_message_comes_again_after_a_second_before_those_behind_it(answer: object) -> None:
    listener = Listener(answer)
    core = core_with(listener, 2)
    assert listener.calls == [[0]]
    assert core.committed(mq()) is None
    core.runtime.advance(999)
    assert listener.calls == [[0]]
    core.runtime.advance(1)
    assert listener.calls == [[0], [0], [1]]
    assert listener.counts == [[0], [1], [0]]
    assert core.committed(mq()) == 2


@pytest.mark.behaviour("OR-10")
@pytest.mark.parametrize(
    ("asked", "waits"), [(-1, 700), (50, 50), (0, 10), (-5, 10), (10, 10), (30_000, 30_000), (90_000, 30_000)]
)
def test_the_context_may_say_how_long_a_queue_waits_within_10_ms_and_30_s(asked: int, waits: int) -> None:
    listener = Listener(SUSPEND)

    def set_up(context: ConsumeOrderlyContext) -> None:
        context.suspend_current_queue_time_millis = asked

    listener.set_up = set_up
    core = core_with(listener, 1, suspend_current_queue_time_millis=700)
    core.orderly_service.start()  # or the lock would run out
    core.runtime.advance(waits - 1)
    assert len(listener.calls) == 1
    core.runtime.advance(1)
    assert len(listener.calls) == 2


@pytest.mark.behaviour("OR-10")
def test_new_messages_do_not_start_a_second_task_while_a_queue_waits() -> None:
    listener = Listener(SUSPEND)
    core = core_with(listener, 1)
    core.broker.store(mq(), b"more")
    core.broker.answer_pulls()
    assert listener.calls == [[0]]
    core.runtime.advance(1_000)
    assert listener.calls == [[0], [0], [1]]


@pytest.mark.behaviour("OR-07")
def test_an_auto_commit_that_is_no_truth_value_is_the_listeners_own_error_and_the_queue_goes_on() -> None:
    class Neither:
        def __bool__(self) -> bool:
            raise ValueError("neither")

    def set_up(context: ConsumeOrderlyContext) -> None:
        context.auto_commit = Neither()  # type: ignore[assignment]

    listener = Listener()
    listener.set_up = set_up
    core = core_with(listener, 1)
    listener.set_up = lambda context: None
    core.runtime.advance(1_000)
    assert listener.calls == [[0], [0]]
    assert window(core).msg_count == 0


@pytest.mark.behaviour("OR-08")
def test_with_auto_commit_off_success_keeps_messages_until_a_commit() -> None:
    listener = Listener(OK, OK, COMMIT, OK)
    listener.set_up = manual
    core = core_with(listener, 4)
    assert listener.calls == [[0], [1], [2], [3]]
    assert core.committed(mq()) == 3
    assert window(core).msg_count == 1


@pytest.mark.behaviour("OR-08")
def test_rollback_brings_everything_since_the_last_commit_again() -> None:
    listener = Listener(COMMIT, OK, ROLLBACK, OK, COMMIT)
    listener.set_up = manual
    core = core_with(listener, 3)
    assert listener.calls == [[0], [1], [2]]
    assert core.committed(mq()) == 1
    core.runtime.advance(1_000)
    assert listener.calls == [[0], [1], [2], [1], [2]]
    assert core.committed(mq()) == 3


@pytest.mark.behaviour("OR-08")
def test_with_auto_commit_off_suspend_brings_only_its_own_batch_again() -> None:
    listener = Listener(OK, SUSPEND, COMMIT)
    listener.set_up = manual
    core = core_with(listener, 2)
    core.runtime.advance(1_000)
    assert listener.calls == [[0], [1], [1]]
    assert core.committed(mq()) == 2


# Too many failures.


@pytest.mark.behaviour("OR-09")
def test_a_message_that_failed_too_often_goes_to_the_retry_topic_and_the_queue_goes_on() -> None:
    listener = Listener(SUSPEND, SUSPEND, SUSPEND)
    core = core_with(listener, 2, max_reconsume_times=2)
    core.runtime.advance(2_000)
    assert listener.calls == [[0], [0], [0], [1]]
    assert listener.counts == [[0], [1], [2], [0]]
    (topic, body, properties), *rest = core.broker.retry_messages
    assert rest == []
    assert (topic, body) == (RETRY_TOPIC, b"0")
    assert properties["RECONSUME_TIME"] == "3"
    assert properties["MAX_RECONSUME_TIMES"] == "2"
    assert properties["DELAY"] == "5"
    assert properties["RETRY_TOPIC"] == "topic"
    assert core.committed(mq()) == 2


@pytest.mark.behaviour("OR-09")
def test_without_a_limit_a_message_is_tried_for_ever() -> None:
    listener = Listener(*[SUSPEND] * 50)
    core = core_with(listener, 1, suspend_current_queue_time_millis=10)
    core.runtime.advance(500)
    assert len(listener.calls) == 51
    assert core.broker.retry_messages == []


@pytest.mark.behaviour("OR-09")
def test_a_message_that_cannot_be_sent_to_the_retry_topic_comes_again_here() -> None:
    listener = Listener(SUSPEND)
    core = Core(orderly=listener, max_reconsume_times=0)
    core.broker.failing["send_retry_message"] = ConnectError("down")
    core.broker.store(mq(), b"a", b"b")
    core.begin()
    core.broker.answer_pulls()
    assert core.counters.snapshot()[Event.SEND_BACK_FAILED] == 1
    core.runtime.advance(1_000)
    assert listener.calls == [[0], [0], [1]]
    assert listener.counts == [[0], [1], [0]]


@pytest.mark.behaviour("OR-09")
def test_of_a_mixed_batch_what_was_sent_to_the_retry_topic_does_not_come_again_here() -> None:
    listener = Listener(SUSPEND)
    core = Core(orderly=listener, max_reconsume_times=1, consume_message_batch_max_size=2)
    core.begin()
    window(core).put_message([message(0, reconsume_times=1), message(1)])
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    core.runtime.advance(1_000)
    assert listener.calls == [[0, 1], [1]]
    assert len(core.broker.retry_messages) == 1
    assert core.committed(mq()) == 2
    assert window(core).msg_count == 0


@pytest.mark.behaviour("OR-09")
def test_with_auto_commit_off_a_batch_that_was_sent_to_the_retry_topic_waits_for_a_commit() -> None:
    listener = Listener(SUSPEND, COMMIT)
    listener.set_up = manual
    core = Core(orderly=listener, max_reconsume_times=0)
    core.begin()
    window(core).put_message(messages(0))
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    assert core.committed(mq()) is None
    window(core).put_message(messages(1))
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    assert core.committed(mq()) == 2


@pytest.mark.behaviour("CC-10")
def test_an_orderly_listener_sees_a_retried_message_under_its_original_topic() -> None:
    seen: list[str] = []

    def listen(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        seen.extend(msg.topic for msg in msgs)
        return OK

    core = Core(orderly=listen)
    queue = ProcessQueue(core.clock)
    queue.note_locked(core.clock.monotonic_ms())
    queue.put_message([message(0, topic=RETRY_TOPIC, properties={"RETRY_TOPIC": "topic"})])
    core.orderly_service.submit_consume_request([], queue, mq(0, RETRY_TOPIC), True)
    assert seen == ["topic"]


# Broadcasting, hooks, end.


@pytest.mark.behaviour("OR-13")
def test_a_broadcasting_consumer_needs_no_locks() -> None:
    listener = Listener()
    core = Core(orderly=listener, message_model=MessageModel.BROADCASTING)
    core.orderly_service.start()
    core.broker.store(mq(), b"a")
    core.begin()
    core.broker.answer_pulls()
    window(core).locked = False
    core.broker.store(mq(), b"b")
    core.broker.answer_pulls()
    core.runtime.advance(100_000)
    assert listener.calls == [[0], [1]]
    assert core.broker.locks == {}


@pytest.mark.behaviour("CC-11")
@pytest.mark.parametrize(
    ("answer", "status", "kind", "success"),
    [
        (OK, "SUCCESS", "SUCCESS", True),
        (COMMIT, "COMMIT", "SUCCESS", True),
        (ROLLBACK, "ROLLBACK", "SUCCESS", False),
        (SUSPEND, "SUSPEND_CURRENT_QUEUE_A_MOMENT", "FAILED", False),
        (None, "SUSPEND_CURRENT_QUEUE_A_MOMENT", "RETURNNULL", False),
        (ValueError(), "SUSPEND_CURRENT_QUEUE_A_MOMENT", "EXCEPTION", False),
    ],
)
def test_hooks_are_told_how_an_orderly_call_ended(answer: object, status: str, kind: str, success: bool) -> None:
    told: list[tuple[str | None, str | None, bool]] = []

    class Hook:
        def hook_name(self) -> str:
            return "mine"

        def consume_message_before(self, context: ConsumeMessageContext) -> None:
            told.append((context.status, None, context.success))

        def consume_message_after(self, context: ConsumeMessageContext) -> None:
            told.append((context.status, context.props[CONSUME_CONTEXT_TYPE], context.success))

    core_with(Listener(answer), 1, hooks=[Hook()])
    assert told == [(None, None, False), (status, kind, success)]


@pytest.mark.behaviour("OR-12")
def test_after_shutdown_no_call_is_started_and_no_lock_asked_for() -> None:
    listener = Listener(SUSPEND)
    core = core_with(listener, 2)
    core.orderly_service.start()
    assert core.orderly_service.shutdown(0) is True
    core.broker.locks.clear()
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    core.runtime.advance(100_000)
    assert listener.calls == [[0]]
    assert core.broker.locks == {}


@pytest.mark.behaviour("OR-12")
def test_locks_are_renewed_while_the_shutdown_waits_so_that_slow_calls_are_committed() -> None:
    listener = Listener()
    core = Core(orderly=listener, consume_message_batch_max_size=2)
    core.begin()
    core.orderly_service.start()
    core.pool.held = True
    window(core).put_message(messages(0, 1, 2))
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    listener.during = lambda: core.runtime.advance(40_000)
    assert core.orderly_service.shutdown(100_000) is True
    assert listener.calls == [[0, 1], [2]]
    assert core.committed(mq()) == 3
    core.runtime.advance(31_000)
    assert not window(core).holds_lock


@pytest.mark.behaviour("OR-07")
def test_an_orderly_commit_may_go_back() -> None:
    core = core_with(Listener(), 0)
    core.store.update_offset(mq(), 9, increase_only=False)
    window(core).put_message(messages(4))
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    assert core.committed(mq()) == 5


@pytest.mark.behaviour("OR-14")
def test_a_queue_that_is_being_given_away_is_not_consumed_and_nothing_of_it_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    listener = Listener()
    core = Core(orderly=listener)
    core.begin()
    window(core).put_message(messages(0))
    assert window(core).consume_lock.acquire(0)
    core.orderly_service.submit_consume_request([], window(core), mq(), True)
    assert listener.calls == []
    window(core).consume_lock.release()
    core.runtime.advance(100)
    assert listener.calls == [[0]]


@pytest.mark.behaviour("OR-14")
def test_the_answer_is_carried_out_before_the_queue_can_be_given_away() -> None:
    free: list[bool] = []
    core = Core(orderly=lambda msgs, context: OK)
    core.begin()
    queue = window(core)
    update = core.store.update_offset

    def updating(mq: MessageQueue, offset: int, increase_only: bool) -> None:
        free.append(queue.consume_lock.acquire(0))
        update(mq, offset, increase_only)

    core.store.update_offset = updating  # type: ignore[method-assign]
    queue.put_message(messages(0))
    core.orderly_service.submit_consume_request([], queue, mq(), True)
    assert free == [False]
    assert queue.consume_lock.acquire(0)


@pytest.mark.behaviour("SM-10")
def test_a_broker_that_keeps_statuses_is_told_of_a_committed_batch_and_not_of_one_that_comes_again() -> None:
    told: list[list[int]] = []
    listener = Listener(SUSPEND)
    core = Core(orderly=listener)
    core.orderly_service.acknowledge = lambda queue, msgs: told.append(offsets(msgs))
    core.broker.store(mq(), b"0", b"1")
    core.begin()
    core.broker.answer_pulls()
    assert (listener.calls, told) == ([[0]], [])
    core.runtime.advance(1_000)
    assert (listener.calls, told) == ([[0], [0], [1]], [[0], [1]])
