"""What every server must give an orderly consumer."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import pytest

from rocketmq_py import (
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQProducer,
    Message,
    MessageListenerOrderly,
)
from rocketmq_py.model.results import Messages
from tests.conformance.collector import eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import Server

SUCCESS = ConsumeOrderlyStatus.SUCCESS
SUSPEND = ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT

Verdict = Callable[[Messages, ConsumeOrderlyContext], ConsumeOrderlyStatus | None]


class Call(NamedTuple):
    """One call of a listener; times are monotonic seconds."""

    member: str
    queue: tuple[str, int]
    offsets: list[int]
    bodies: list[bytes]
    began: float
    ended: float


class Calls:
    """What the listeners of all members of a group did."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def listener(self, member: str, verdict: Verdict | None = None) -> MessageListenerOrderly:
        """A listener that notes its calls here and answers what ``verdict`` says (default: SUCCESS)."""

        def consume(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus | None:
            began = time.monotonic()
            mq = context.message_queue
            offsets, bodies = [msg.queue_offset for msg in msgs], [msg.body for msg in msgs]
            try:
                return verdict(msgs, context) if verdict else SUCCESS
            finally:
                with self._lock:
                    self._calls.append(Call(member, (mq.topic, mq.queue_id), offsets, bodies, began, time.monotonic()))

        return MessageListenerOrderly(consume)

    def all(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    def bodies(self) -> set[bytes]:
        return {body for call in self.all() for body in call.bodies}

    def members(self) -> set[str]:
        return {call.member for call in self.all()}

    def wait_for(self, bodies: list[bytes], timeout_s: float = 60) -> None:
        eventually(lambda: set(bodies) <= self.bodies(), timeout_s, "messages are missing")

    def check_order(self) -> None:
        """No two calls of a queue overlap, and first deliveries of a queue come in the order of offsets."""
        by_queue: defaultdict[tuple[str, int], list[Call]] = defaultdict(list)
        for call in sorted(self.all(), key=lambda call: call.began):
            by_queue[call.queue].append(call)
        for calls in by_queue.values():
            for before, after in itertools.pairwise(calls):
                assert before.ended <= after.began, f"two calls at once: {before} and {after}"
            first = list(dict.fromkeys(offset for call in calls for offset in call.offsets))
            assert first == sorted(first)


def finished(server: Server, group: str, topic: str) -> None:
    eventually(
        lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 30, "committed offsets = ends"
    )


@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_messages_of_a_queue_come_in_order_one_batch_at_a_time(
    server: Server, send: SendBodies, start_consumer: StartConsumer, batch_size: int
) -> None:
    topic, group = server.topic(), server.group()
    bodies = send(topic, 2_000)
    calls = Calls()
    consumer = start_consumer(group, topic, calls.listener("a"), consume_message_batch_max_size=batch_size)
    calls.wait_for(bodies)
    consumer.shutdown()
    calls.check_order()
    assert sum(len(call.bodies) for call in calls.all()) == len(bodies)
    assert max(len(call.bodies) for call in calls.all()) <= batch_size
    finished(server, group, topic)


def test_a_message_that_fails_holds_its_own_queue_only_and_comes_again_before_those_behind_it(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(queues=2), server.group()
    left = 3

    def fail_three_times(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus | None:
        nonlocal left
        context.suspend_current_queue_time_millis = 200
        if msgs[0].body == b"0-1" and left:
            left -= 1
            if left == 0:
                raise ValueError("on purpose")
            return SUSPEND if left == 2 else None
        return SUCCESS

    for queue_id in range(2):
        for number in range(4):
            producer.send(
                Message(topic, f"{queue_id}-{number}".encode()),
                selector=lambda queues, message, arg: next(queue for queue in queues if queue.queue_id == arg),
                arg=queue_id,
            )
    calls = Calls()
    consumer = start_consumer(group, topic, calls.listener("a", fail_three_times))
    calls.wait_for([b"0-3", b"1-3"])
    consumer.shutdown()
    of_queue = [call.bodies[0] for call in calls.all() if call.queue[1] == 0]
    assert of_queue == [b"0-0", b"0-1", b"0-1", b"0-1", b"0-1", b"0-2", b"0-3"]
    failing = [call for call in calls.all() if call.bodies == [b"0-1"]]
    other = [call for call in calls.all() if call.bodies == [b"1-3"]]
    assert other[0].ended < failing[-1].began
    finished(server, group, topic)


def test_a_message_that_fails_too_often_leaves_its_queue_for_the_dead_letters(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    # The group holds locks: the broker puts what comes to its retry topic into the dead-letter topic at once.
    topic, group = server.topic(queues=1), server.group()
    server.create_topic(f"%DLQ%{group}", 1)
    bad, *good = send(topic, 5)
    seen: list[int] = []

    def fail(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        if msgs[0].body != bad:
            return SUCCESS
        seen.append(msgs[0].reconsume_times)
        return SUSPEND

    calls = Calls()
    start_consumer(group, topic, calls.listener("a", fail), max_reconsume_times=2, suspend_current_queue_time_millis=50)
    calls.wait_for(good)
    eventually(lambda: server.max_offsets(f"%DLQ%{group}") == {0: 1}, 60, "one dead letter")
    assert seen == [0, 1, 2]
    calls.check_order()


def test_with_auto_commit_off_only_a_commit_commits_and_a_rollback_brings_all_of_it_again(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(queues=1), server.group()
    bodies = send(topic, 6)
    turn = 0

    def transact(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        nonlocal turn
        turn += 1
        context.auto_commit = False
        return {3: ConsumeOrderlyStatus.COMMIT, 5: ConsumeOrderlyStatus.ROLLBACK}.get(turn, SUCCESS)

    calls = Calls()
    consumer = start_consumer(group, topic, calls.listener("a", transact), suspend_current_queue_time_millis=50)
    eventually(lambda: len(calls.all()) >= 8, 60, "all of the second transaction again")
    consumer.shutdown()
    order = [bodies.index(call.bodies[0]) for call in calls.all()]
    assert order == [0, 1, 2, 3, 4, 3, 4, 5]
    eventually(lambda: server.committed_offsets(group, topic) == {0: 3}, 10, "what was committed")


def test_members_that_join_and_leave_keep_the_order_of_every_queue(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    stop = threading.Event()

    def work(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        time.sleep(0.002)
        return SUCCESS

    bodies: list[bytes] = []

    def keep_sending() -> None:
        size = 50
        while not stop.wait(0.05):
            bodies.extend(send(topic, 40, size=size))
            size += 1

    calls = Calls()
    first = start_consumer(group, topic, calls.listener("a", work))
    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        eventually(lambda: len(calls.all()) > 100, 30, "the first member at work")
        second = start_consumer(group, topic, calls.listener("b", work))
        eventually(lambda: "b" in calls.members(), server.rebalance_bound_s + 10, "the second member at work")
        first.shutdown()
        done = len(calls.all())
        eventually(lambda: len(calls.all()) > done + 200, server.rebalance_bound_s + 10, "the second member alone")
    finally:
        stop.set()
        sender.join()
    calls.wait_for(bodies, server.rebalance_bound_s + 60)
    second.shutdown()
    calls.check_order()
    finished(server, group, topic)


def test_locks_are_given_back_at_the_end_so_that_the_next_member_does_not_wait_for_them_to_run_out(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    calls = Calls()
    first = start_consumer(group, topic, calls.listener("a"))
    calls.wait_for(send(topic, 100, size=60))
    first.shutdown()
    bodies = send(topic, 100, size=61)
    start_consumer(group, topic, calls.listener("b"))
    calls.wait_for(bodies, 30)  # a lock lives for 60 s


def test_a_broker_restart_loses_no_order_and_no_message(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    before = send(topic, 400, size=100)
    release = threading.Event()

    def hold(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        release.wait(60)
        return SUCCESS

    calls = Calls()
    consumer = start_consumer(group, topic, calls.listener("a", hold))
    eventually(lambda: len(consumer.windows()) >= 8, 30, "all queues owned")
    server.restart_broker()
    release.set()
    calls.wait_for(before, 120)
    consumer.shutdown()
    calls.check_order()
