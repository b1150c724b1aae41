"""The broker's process is killed again and again while producers send and two groups consume, ours and Java's.

``ROCKETMQ_PY_FULL=1``: 500 kills.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    MessageListenerConcurrently,
)
from rocketmq_py.broker.store import MessageStore, QueueKey
from rocketmq_py.broker.store.check import check
from rocketmq_py.broker.topic_config import SCHEDULE_TOPIC
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting.message_codec import decode_message_id, decode_messages
from tests.administration import ClusterError, Wire
from tests.apache.jars import program_command
from tests.broker.power_cut import read_all
from tests.embedded import EmbeddedProcess

KILLS = 500 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 20
WAIT_S = 60.0

PLAIN, LATER, GROUP = "plain", "later", "group"
RETRY = f"%RETRY%{GROUP}"
LEVEL = 1  # 1 s
QUEUES = {PLAIN: 4, LATER: 2, RETRY: 1}


class Board:
    """What producers were told."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.stored: dict[tuple[int, int], bytes] = {}  # by queue id and offset, in PLAIN
        self.delayed: set[bytes] = set()
        self.sent_back: set[bytes] = set()
        self.attempted: set[bytes] = set()
        self._to_send_back: list[tuple[int, bytes]] = []  # physical offset, body
        self._acknowledged: Counter[str] = Counter()
        self.up = threading.Event()
        self.ended = False

    def acknowledged(self, who: str, note: Callable[[], object]) -> None:
        with self._changed:
            note()
            self._acknowledged[who] += 1
            self._changed.notify_all()

    def wait_for_each(self, count: int) -> None:
        """Wait until everybody was told of a success that often from now on."""
        with self._changed:
            start = Counter(self._acknowledged)
            told = self._changed.wait_for(
                lambda: all([self._acknowledged[who] >= start[who] + count for who in PRODUCERS]), WAIT_S
            )
            assert told, f"{self._acknowledged} since {start}"

    def note_stored(self, queue_id: int, offset: int, bodies: list[bytes], ids: str) -> None:
        for index, (body, id_) in enumerate(zip(bodies, ids.split(","), strict=True)):
            assert self.stored.setdefault((queue_id, offset + index), body) == body, "a place was given twice"
            self._to_send_back.append((decode_message_id(id_)[2], body))

    def next_to_send_back(self) -> tuple[int, bytes] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._to_send_back or self.ended, WAIT_S)
            return self._to_send_back.pop() if self._to_send_back else None


def send_single(board: Board, producer: DefaultMQProducer, bodies: Iterator[bytes]) -> None:
    body = next(bodies)
    result = producer.send(Message(PLAIN, body))
    queue_id = result.message_queue.queue_id
    board.acknowledged("single", lambda: board.note_stored(queue_id, result.queue_offset, [body], result.offset_msg_id))


def send_batch(board: Board, producer: DefaultMQProducer, bodies: Iterator[bytes]) -> None:
    batch = [next(bodies) for _ in range(random.randint(1, 5))]
    result = producer.send([Message(PLAIN, body) for body in batch])
    queue_id = result.message_queue.queue_id
    board.acknowledged("batch", lambda: board.note_stored(queue_id, result.queue_offset, batch, result.offset_msg_id))


def send_delayed(board: Board, producer: DefaultMQProducer, bodies: Iterator[bytes]) -> None:
    body = next(bodies)
    producer.send(Message(LATER, body, delay_time_level=LEVEL))
    board.acknowledged("delayed", lambda: board.delayed.add(body))


PRODUCERS: dict[str, Callable[[Board, DefaultMQProducer, Iterator[bytes]], None]] = {
    "single": send_single,
    "batch": send_batch,
    "delayed": send_delayed,
}


def send_until_end(board: Board, addr: str, who: str, failures: list[BaseException]) -> None:
    def bodies() -> Iterator[bytes]:
        number = 0
        while True:
            body = b"%s %d " % (who.encode(), number) + random.randbytes(random.choice([0, 500, 3_000]))
            board.attempted.add(body)
            yield body
            number += 1

    try:
        # No further attempts: they would store a message twice whose first answer a kill took away.
        with DefaultMQProducer(
            f"kill-{who}", namesrv_addr=addr, instance_name=who, retry_times_when_send_failed=0
        ) as producer:
            each = bodies()
            while not board.ended:
                assert board.up.wait(WAIT_S)
                try:
                    PRODUCERS[who](board, producer, each)
                except RocketMQError:
                    continue
    except BaseException as error:  # noqa: BLE001 - told by the test
        failures.append(error)


def send_back_until_end(board: Board, addr: str, failures: list[BaseException]) -> None:
    """Send everything that was stored back once."""
    try:
        while not board.ended:
            assert board.up.wait(WAIT_S)
            try:
                with Wire(addr) as wire:
                    while (taken := board.next_to_send_back()) is not None and not board.ended:
                        offset, body = taken
                        wire.call(36, {"group": GROUP, "offset": offset, "delayLevel": LEVEL}).checked("send back")
                        board.sent_back.add(body)
            except (OSError, ClusterError):
                continue
    except BaseException as error:  # noqa: BLE001 - told by the test
        failures.append(error)


@contextmanager
def senders(board: Board, broker: EmbeddedProcess) -> Iterator[None]:
    """Everybody sends, until the end of the block."""
    failures: list[BaseException] = []
    threads = [
        threading.Thread(target=send_until_end, args=(board, broker.namesrv_addr, who, failures)) for who in PRODUCERS
    ]
    threads.append(threading.Thread(target=send_back_until_end, args=(board, broker.broker_addr, failures)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        board.ended = True
        board.up.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert failures == []


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
        broker = stack.enter_context(EmbeddedProcess())
        for topic in (PLAIN, LATER):
            broker.create_topic(topic, QUEUES[topic])
        broker.create_group(GROUP)
        groups = [stack.enter_context(member(broker.namesrv_addr)) for member in (our_member, java_member)]
        board.up.set()
        with senders(board, broker):
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
                board.up.set()
            board.wait_for_each(1)
        for group in groups:
            group.wait_for({*board.stored})
        with Wire(broker.broker_addr) as wire:
            for group in groups:
                group.check_committed(wire)
        with Wire(broker.broker_addr) as wire:
            waiting = int(wire.call(30, {"topic": SCHEDULE_TOPIC, "queueId": LEVEL - 1}).checked("end").ext["offset"])
            reader = Reader(wire)
            reader.wait_for({LATER, RETRY}, waiting)
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

        # The same in the file.
        assert check(broker.directory).problems == []
        with closing(MessageStore(broker.directory)) as store:
            assert store.offsets.delay_offsets()[LEVEL] == waiting
            assert store.messages.queues()[QueueKey(SCHEDULE_TOPIC, LEVEL - 1)].max_offset == waiting
            assert len([key for key, _, _ in read_all(store) if key.topic in QUEUES]) == len(reader.found)
    assert len(board.stored) > KILLS
    assert len(board.delayed) > KILLS
    assert board.sent_back
