"""What users of other clients complained about, as tests here; docs/internals/complaints.md names them all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rocketmq_py.consumer.stats import Event
from rocketmq_py.errors import ConnectError, RequestTimeoutError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeOrderlyContext, ConsumeOrderlyStatus, Messages
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP, LATER, ME, OTHER, SUCCESS, TOPIC, Core, messages, mq, offsets

SUSPEND = ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT


def always_suspend(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
    return SUSPEND


def renewing(core: Core) -> Core:
    core.orderly_service.start()
    return core


def test_an_orderly_queue_that_is_suspended_for_half_an_hour_is_not_taken_for_one_that_nobody_pulls() -> None:
    """alibaba/rocketmq#459: stuck after 10 minutes of SUSPEND, its pull counted as expired."""
    core = renewing(Core(orderly=always_suspend, pull_threshold_for_queue=1))
    core.broker.store(mq(), *[b"x"] * 40)
    core.begin()
    core.broker.answer_pulls()
    window = core.windows[mq()]
    for _ in range(30 * 60):
        core.runtime.advance(1_000)
    assert core.rebalance.do_rebalance() is True
    assert core.windows[mq()] is window
    assert window.holds_lock


def test_renewing_a_lock_refreshes_its_time() -> None:
    """client-go#1080: it did not, and consumption stopped after 30 s."""
    core = renewing(Core(orderly=lambda msgs, context: ConsumeOrderlyStatus.SUCCESS))
    core.begin()
    for _ in range(10):
        core.runtime.advance(29_000)
        assert core.windows[mq()].holds_lock


def test_a_broker_that_does_not_answer_lock_requests_holds_up_no_queue_of_another() -> None:
    """client-go#897, #898: consumption blocked on a lock."""
    seen: list[str] = []

    class OneDown(FakeBroker):
        def lock_batch_mq(
            self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
        ) -> set[MessageQueue]:
            if broker_name == "broker-a" and down:
                raise RequestTimeoutError("no answer")
            return super().lock_batch_mq(group, client_id, broker_name, mqs, timeout_ms)

    def listen(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        seen.append(context.message_queue.broker_name)
        return ConsumeOrderlyStatus.SUCCESS

    down = False
    other = MessageQueue(TOPIC, "broker-b", 0)
    core = renewing(Core(orderly=listen, broker=OneDown(ME)))
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(), other])
    core.begin()
    down = True
    core.runtime.advance(120_000)
    core.broker.store(mq(), b"a")
    core.broker.store(other, b"b")
    core.broker.answer_pulls()
    core.runtime.advance(10_000)
    assert seen == ["broker-b"]
    down = False
    core.runtime.advance(30_000)
    core.broker.answer_pulls()
    assert seen == ["broker-b", "broker-a"]


def test_a_suspended_batch_is_counted_once_however_often_it_comes_again() -> None:
    """client-go#575: the count grew with every SUSPEND until the queue was blocked at 1,024."""
    core = renewing(Core(orderly=always_suspend, suspend_current_queue_time_millis=10))
    core.broker.store(mq(), *[b"xy"] * 3)
    core.begin()
    core.broker.answer_pulls()
    core.runtime.advance(60_000)
    window = core.windows[mq()]
    assert (window.msg_count, window.msg_size) == (3, 6)
    assert core.broker.pulls != []


def test_a_later_success_does_not_commit_past_a_message_that_waits() -> None:
    """client-go#650: it did, and what waited was lost."""
    first = True

    def listen(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        nonlocal first
        fails, first = first, False
        return SUSPEND if fails else ConsumeOrderlyStatus.SUCCESS

    core = Core(orderly=listen)
    core.broker.store(mq(), *[b"x"] * 5)
    core.begin()
    core.broker.answer_pulls()
    assert core.committed(mq()) is None
    core.runtime.advance(1_000)
    assert core.committed(mq()) == 5


def test_the_task_of_a_queue_that_was_taken_away_ends_and_does_not_spin() -> None:
    """client-go#580, #587: a goroutine per dropped queue, at 100 % CPU."""
    calls = 0

    def listen(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        nonlocal calls
        calls += 1
        return SUSPEND

    core = renewing(Core(orderly=listen))
    core.broker.store(mq(), b"x")
    core.begin()
    core.broker.answer_pulls()
    core.broker.members[GROUP] = [OTHER]
    core.rebalance.do_rebalance()
    jobs = 0
    add_job = core.runtime.add_job

    def counting(*job: Any) -> None:
        nonlocal jobs
        jobs += 1
        add_job(*job)

    core.runtime.add_job = counting  # type: ignore[method-assign, assignment]
    core.runtime.advance(600_000)
    assert calls == 1
    assert jobs < 150  # in ten minutes: locks are renewed every 20 s, statistics sampled every 10 s


def test_failing_send_backs_for_20_minutes_cost_neither_stack_nor_threads_and_hold_the_commit() -> None:
    """rocketmq-clients#1331: each failing acknowledgement called itself again, or slept in a consume thread."""
    depth: list[int] = []

    def listen(msgs: Messages, context: object) -> object:
        import sys

        frame, count = sys._getframe(), 0
        while frame.f_back is not None:
            frame, count = frame.f_back, count + 1
        depth.append(count)
        return LATER if failing else SUCCESS

    failing = True
    core = Core(listen)  # type: ignore[arg-type]
    core.broker.failing |= {"send_message_back": ConnectError("down"), "send_retry_message": ConnectError("down")}
    core.broker.store(mq(), b"x")
    core.begin()
    core.broker.answer_pulls()
    for _ in range(20 * 60):
        core.runtime.advance(1_000)
    assert len(depth) == 20 * 60 // 5 + 1
    assert len(set(depth[1:])) == 1
    assert core.committed(mq()) == 0
    assert core.counters.snapshot()[Event.SEND_BACK_FAILED] == len(depth)
    failing = False
    core.runtime.advance(5_000)
    assert core.committed(mq()) == 1
    assert core.windows[mq()].msg_count == 0


def test_an_error_while_asking_where_to_start_never_becomes_offset_0() -> None:
    """client-go#832: network trouble at a rebalance committed offset 0, and everything came again."""
    core = Core(queues=1)
    core.broker.store(mq(), *[b"x"] * 10)
    core.broker.offsets[GROUP, mq()] = 7
    core.broker.failing["query_consumer_offset"] = RequestTimeoutError("no answer")
    for _ in range(3):
        core.begin()
        assert core.committed(mq()) == 7
    core.broker.failing.clear()
    core.begin()
    assert [call.offset for call in core.broker.pulls] == [7]


def test_a_window_of_messages_that_all_wait_behind_one_says_which_one() -> None:
    """client-go#183: the commit is stuck because of one slow message, and nothing says so."""
    core = Core()
    core.service.start()
    core.begin()
    window = core.windows[mq()]
    msgs = messages(*range(10))
    window.put_message(msgs)
    window.begin_consume(msgs[:1])
    window.remove_message(msgs[1:])
    core.runtime.advance(40_000)
    assert core.counters.snapshot()[Event.STUCK_HEAD] >= 1
    head = window.head()
    assert head is not None
    assert offsets([head.message]) == [0]
