"""The broker's process is killed again and again while producers send."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from rocketmq_py import DefaultMQProducer, Message
from rocketmq_py.broker.store import MessageStore, QueueKey
from rocketmq_py.broker.store.check import check
from rocketmq_py.broker.topic_config import SCHEDULE_TOPIC
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting.message_codec import decode_message_id, decode_messages
from tests.administration import ClusterError, Wire
from tests.broker.power_cut import read_all
from tests.embedded import EmbeddedProcess

KILLS = 20
WAIT_S = 30.0

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


class Reader:
    """Pulls all queues from their beginnings."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._next = {(topic, queue_id): 0 for topic, count in QUEUES.items() for queue_id in range(count)}
        self.found: list[MessageExt] = []

    def pull_all(self) -> None:
        for key in self._next:
            while self._pull(key, wait_ms=0):
                pass

    def wait_for(self, topics: set[str], count: int) -> None:
        """Pull until so many messages of some topics are there; each pull waits a moment at the broker."""
        deadline = time.monotonic() + WAIT_S
        while (found := len(self.of(*topics))) < count:
            assert time.monotonic() < deadline, f"{found} of {count} messages"
            for key in self._next:
                if key[0] in topics:
                    self._pull(key, wait_ms=50)

    def of(self, *topics: str) -> list[MessageExt]:
        return [msg for msg in self.found if msg.topic in topics]

    def _pull(self, key: tuple[str, int], wait_ms: int) -> bool:
        ext = {
            "consumerGroup": GROUP, "topic": key[0], "queueId": key[1], "queueOffset": self._next[key],
            "maxMsgNums": 32, "sysFlag": 6 if wait_ms else 4, "commitOffset": 0, "suspendTimeoutMillis": wait_ms,
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
def test_kills_cost_no_acknowledged_message_and_double_no_delayed_one() -> None:
    board = Board()
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedProcess())
        for topic in (PLAIN, LATER):
            broker.create_topic(topic, QUEUES[topic])
        broker.create_group(GROUP)
        board.up.set()
        with senders(board, broker):
            for number in range(KILLS):
                board.wait_for_each(random.randint(1, 20))
                board.up.clear()
                broker.kill()
                if number == 0:  # what a crash leaves; later it takes longer
                    assert check(broker.directory).problems == []
                broker.start()
                board.up.set()
            board.wait_for_each(1)
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
            assert store.offsets.delay_offsets() == {LEVEL: waiting}
            assert store.messages.queues()[QueueKey(SCHEDULE_TOPIC, LEVEL - 1)].max_offset == waiting
            assert len(list(read_all(store))) == len(reader.found) + waiting
    assert len(board.stored) > KILLS
    assert len(board.delayed) > KILLS
    assert board.sent_back
