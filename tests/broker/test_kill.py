"""The broker's process is killed again and again while everybody works.

Producers send, delay, send back and decide transactions, two groups consume, ours and Java's, one pops, one
acknowledges statuses of messages.

``ROCKETMQ_PY_FULL=1``: 500 kills.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQPushConsumer,
    MessageListenerConcurrently,
)
from rocketmq_py.broker.store import MessageStore, QueueKey
from rocketmq_py.broker.store.check import check
from rocketmq_py.broker.topic_config import SCHEDULE_TOPIC
from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting.message_codec import decode_messages
from tests.administration import Wire
from tests.apache.jars import program_command
from tests.broker.kill_work import (
    COMMIT,
    DECIDED,
    GROUP,
    LATER,
    LEVEL,
    OPTIONS,
    PLAIN,
    POPPED,
    POPPERS,
    QUEUES,
    RETRY,
    TELLERS,
    WAIT_S,
    Board,
    Popper,
    check_told,
    everybody,
    transaction_producer,
)  # fmt: skip
from tests.broker.power_cut import read_all
from tests.broker.status_histories import check_stored_histories
from tests.embedded import EmbeddedProcess

KILLS = 500 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 20


@dataclass(frozen=True)
class Delivery:
    """What a listener was given, and what it said."""

    queue_id: int
    offset: int
    reconsume_times: int
    msg_id: str
    fails: bool


class Group:
    """A group with one member, and what its listener was given. Any thread may note."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._deliveries: list[Delivery] = []

    def note(self, delivery: Delivery) -> None:
        with self._changed:
            self._deliveries.append(delivery)
            self._changed.notify_all()

    def deliveries(self) -> list[Delivery]:
        with self._changed:
            return list(self._deliveries)

    def wait_for_more(self) -> None:
        with self._changed:
            start = len(self._deliveries)
            assert self._changed.wait_for(lambda: len(self._deliveries) > start, WAIT_S), f"{self.name} stands still"

    def wait_for(self, places: set[tuple[int, int]]) -> None:
        """Wait until everything at these places came, and what failed came again."""

        def missing() -> tuple[set[tuple[int, int]], set[str]]:
            first = [each for each in self._deliveries if not each.reconsume_times]
            failed = {each.msg_id for each in first if each.fails}
            done = {each.msg_id for each in self._deliveries if not each.fails}
            return places - {(each.queue_id, each.offset) for each in first}, failed - done

        with self._changed:
            assert self._changed.wait_for(lambda: missing() == (set(), set()), WAIT_S), f"{self.name}: {missing()}"

    def check_committed(self, wire: Wire) -> None:
        """No committed offset is ahead of what the listener was given."""
        # Asked for first: what comes meanwhile only helps. What another process was given takes a moment to be told.
        committed = {queue_id: _committed(wire, self.name, queue_id) for queue_id in range(QUEUES[PLAIN])}

        def ahead() -> set[tuple[int, int]]:
            came = {(each.queue_id, each.offset) for each in self._deliveries if not each.reconsume_times}
            return {(queue_id, before) for queue_id, end in committed.items() for before in range(end)} - came

        with self._changed:
            assert self._changed.wait_for(lambda: not ahead(), 10), f"{self.name}: {committed}, {ahead()} never came"


def _committed(wire: Wire, group: str, queue_id: int) -> int:
    ext = {"consumerGroup": group, "topic": PLAIN, "queueId": queue_id, "setZeroIfNotFound": "false"}
    reply = wire.call(14, ext)
    return int(reply.ext["offset"]) if reply.code == 0 else 0


def _listener(group: Group) -> MessageListenerConcurrently:
    def consume(msgs: Sequence[MessageExt], context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        (msg,) = msgs
        fails = msg.reconsume_times == 0 and msg.queue_offset % 10 == 0
        group.note(Delivery(msg.queue_id, msg.queue_offset, msg.reconsume_times, msg.msg_id, fails))
        return ConsumeConcurrentlyStatus.RECONSUME_LATER if fails else ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    return MessageListenerConcurrently(consume)


@contextmanager
def our_member(addr: str) -> Iterator[Group]:
    group = Group("ours")
    consumer = DefaultMQPushConsumer(
        group.name, namesrv_addr=addr, heartbeat_broker_interval=500, persist_consumer_offset_interval=500,
        pull_time_delay_mills_when_exception=100,
    )  # fmt: skip
    consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer.subscribe(PLAIN, "*")
    consumer.register_message_listener(_listener(group))
    with consumer:
        yield group


@contextmanager
def java_member(addr: str) -> Iterator[Group]:
    group = Group("java")
    command = program_command("JavaConsume", addr, PLAIN, group.name, options=["-Xmx256m", "-XX:TieredStopAtLevel=1"])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = process.stdout
        assert lines.readline() == "started\n"

        def read() -> None:
            for line in lines:
                queue_id, offset, times, msg_id, verdict = line.rstrip("\n").split("\t")
                group.note(Delivery(int(queue_id), int(offset), int(times), msg_id, verdict == "failed"))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield group
        finally:
            process.kill()
            reader.join(WAIT_S)


class Reader:
    """Pulls all queues from their beginnings."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._next = {(topic, queue_id): 0 for topic, count in QUEUES.items() for queue_id in range(count)}
        self.found: list[MessageExt] = []

    def pull_all(self) -> None:
        for key in self._next:
            while self._pull(key):
                pass

    def wait_for(self, topics: set[str], count: int) -> None:
        """Pull until so many messages of some topics are there."""
        deadline = time.monotonic() + WAIT_S
        while (found := len(self.of(*topics))) < count:
            assert time.monotonic() < deadline, f"{found} of {count} messages"
            for key in self._next:
                while key[0] in topics and self._pull(key):
                    pass
            time.sleep(0.05)

    def of(self, *topics: str) -> list[MessageExt]:
        return [msg for msg in self.found if msg.topic in topics]

    def _pull(self, key: tuple[str, int]) -> bool:
        ext = {
            "consumerGroup": GROUP, "topic": key[0], "queueId": key[1], "queueOffset": self._next[key],
            "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0, "suspendTimeoutMillis": 0,
            "subscription": "*", "subVersion": 0,
        }  # fmt: skip
        reply = self._wire.call(11, ext)
        if reply.code == 19:
            return False
        messages = decode_messages(reply.checked("pull").body)
        assert [msg.queue_offset for msg in messages] == [self._next[key] + index for index in range(len(messages))]
        self._next[key] += len(messages)
        self.found += messages
        return True


@pytest.mark.behaviour("ES-11")
def test_kills_cost_no_acknowledged_message_and_double_no_delayed_one(java: None) -> None:
    board = Board()
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedProcess(None, *OPTIONS))
        for topic, queues in {PLAIN: 4, LATER: 2, DECIDED: 2, POPPED: 1}.items():
            broker.create_topic(topic, queues)
        for group_name in (GROUP, POPPERS, TELLERS):
            broker.create_group(group_name)
        popper = Popper(board)
        transactions = stack.enter_context(transaction_producer(board, broker.namesrv_addr))
        groups = [stack.enter_context(member(broker.namesrv_addr)) for member in (our_member, java_member)]
        board.up.set()
        with everybody(board, broker, popper, transactions):
            for number in range(KILLS):
                board.wait_for_each(random.randint(1, 20))
                if number % 4 == 0:  # they need a second to find out that the broker is there again
                    for group in groups:
                        group.wait_for_more()
                board.up.clear()
                broker.kill()
                if number == 0:  # what a crash leaves; later it takes longer
                    assert check(broker.directory).problems == []
                broker.start()
                with Wire(broker.broker_addr) as wire:
                    for group in groups:
                        group.check_committed(wire)
                    check_told(board, wire)
                board.up.set()
            board.wait_for_each(1)
        for group in groups:
            group.wait_for({*board.stored})
        with Wire(broker.broker_addr) as wire:
            for group in groups:
                group.check_committed(wire)
        popper.pop_the_rest(broker.broker_addr)
        with Wire(broker.broker_addr) as wire:
            committed = {body for body, outcome in board.decided.items() if outcome is COMMIT}
            waiting = int(wire.call(30, {"topic": SCHEDULE_TOPIC, "queueId": LEVEL - 1}).checked("end").ext["offset"])
            reader = Reader(wire)
            reader.wait_for({LATER, RETRY}, waiting)
            reader.wait_for({DECIDED}, len(committed))
            reader.pull_all()
        assert broker.stop() == 0

        # Where it was acknowledged to be, and nothing else.
        found = {(msg.queue_id, msg.queue_offset): msg.body for msg in reader.of(PLAIN)}
        assert board.stored.items() <= found.items()
        assert Counter(found.values()).most_common(1)[0][1] == 1
        assert {*found.values()} <= board.attempted

        # Every message that began to wait came once.
        delivered = [msg.body for msg in reader.of(LATER)]
        retried = [msg.body for msg in reader.of(RETRY)]
        assert len(delivered) + len(retried) == waiting
        assert len(delivered) == len(set(delivered))
        assert len(retried) == len(set(retried))
        assert board.delayed <= set(delivered) <= board.attempted
        assert board.sent_back <= set(retried) <= {*found.values()}

        # Every transaction ended as its producer said.
        ended = [msg.body for msg in reader.of(DECIDED)]
        assert len(ended) == len(set(ended))
        assert set(ended) == committed

        # The same in the file.
        assert check(broker.directory).problems == []
        with closing(MessageStore(broker.directory)) as store:
            assert store.offsets.delay_offsets()[LEVEL] == waiting
            assert store.messages.queues()[QueueKey(SCHEDULE_TOPIC, LEVEL - 1)].max_offset == waiting
            assert len([key for key, _, _ in read_all(store) if key.topic in QUEUES]) == len(reader.found)
            assert store.pops.leases() == []
            consumed = check_stored_histories(store, PLAIN)
        assert consumed["ours"]
        assert consumed["java"]
        assert {(queue_id, offset) for queue_id, offset, _ in board.told} <= consumed[TELLERS]
    assert len(board.stored) > KILLS
    assert len(board.delayed) > KILLS
    assert board.sent_back
    assert len(committed) > KILLS
    assert len(board.told) > KILLS
    assert len(popper.done) > KILLS
    assert popper.came_again
