"""Who works while the broker's process is killed, and what each of them was told."""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rocketmq_py import (
    DefaultMQProducer,
    LocalTransactionState,
    Message,
    MessageExt,
    MessageQueue,
    TransactionListener,
    TransactionMQProducer,
)
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.codes import RequestCode
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.message_status import MessageStatus
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_message_id
from rocketmq_py.remoting.message_status_bodies import SPANS_MAX_COUNT, encode_acknowledgement, parse_histories
from rocketmq_py.remoting.pop_api import pop_result
from tests.administration import ClusterError, Wire
from tests.broker.status_histories import check_history
from tests.embedded import EmbeddedProcess
from tests.unit.broker_pop_support import ACK, POP, pop_call, pop_fields

WAIT_S = 60.0

PLAIN, LATER, DECIDED, POPPED = "plain", "later", "decided", "popped"
GROUP, POPPERS, TELLERS = "group", "poppers", "tellers"
RETRY = f"%RETRY%{GROUP}"
LEVEL = 1  # 1 s
INVISIBLE_MS = 4_000
QUEUES = {PLAIN: 4, LATER: 2, DECIDED: 2, RETRY: 1}
OPTIONS = (
    "--message-status", "--transaction-time-out", "1000", "--transaction-check-interval", "1000",
    "--transaction-check-max", "1000",
)  # fmt: skip


class Board:
    """What producers were told."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.stored: dict[tuple[int, int], bytes] = {}  # by queue id and offset, in PLAIN
        self.delayed: set[bytes] = set()
        self.sent_back: set[bytes] = set()
        self.attempted: set[bytes] = set()
        self.decided: dict[bytes, LocalTransactionState] = {}
        self.never_half: set[bytes] = set()  # their producer was not told that they are stored
        self.told: list[tuple[int, int, str]] = []  # whose statuses are acknowledged: queue id, offset, broker's id
        self._to_tell: list[tuple[int, int, str]] = []
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
                lambda: (
                    all([self._acknowledged[who] >= start[who] + count for who in PRODUCERS])
                    and all([self._acknowledged[who] > start[who] for who in OTHERS])
                ),
                WAIT_S,
            )
            assert told, f"{self._acknowledged} since {start}"

    def note_stored(self, queue_id: int, offset: int, bodies: list[bytes], ids: str) -> None:
        for index, (body, id_) in enumerate(zip(bodies, ids.split(","), strict=True)):
            assert self.stored.setdefault((queue_id, offset + index), body) == body, "a place was given twice"
            self._to_send_back.append((decode_message_id(id_)[2], body))
            self._to_tell.append((queue_id, offset + index, id_))

    def take_to_tell(self) -> list[tuple[int, int, str]]:
        with self._changed:
            self._changed.wait_for(lambda: self._to_tell or self.ended, WAIT_S)
            taken, self._to_tell = self._to_tell[:SPANS_MAX_COUNT], self._to_tell[SPANS_MAX_COUNT:]
            return taken

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


class Decisions(TransactionListener):
    """Commits, rolls back, or says so only when it is asked."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def execute_local_transaction(self, msg: Message, arg: Any) -> LocalTransactionState:
        outcome = random.choice([COMMIT, COMMIT, ROLLBACK])
        self._board.decided[msg.body] = outcome
        return outcome if random.random() < 0.7 else LocalTransactionState.UNKNOW

    def check_local_transaction(self, msg: MessageExt) -> LocalTransactionState:
        never = msg.body in self._board.never_half
        return self._board.decided.get(msg.body, ROLLBACK if never else LocalTransactionState.UNKNOW)


COMMIT, ROLLBACK = LocalTransactionState.COMMIT_MESSAGE, LocalTransactionState.ROLLBACK_MESSAGE


def transaction_producer(board: Board, addr: str) -> TransactionMQProducer:
    """A producer that answers questions for as long as it lives."""
    return TransactionMQProducer(
        "kill-decided", namesrv_addr=addr, instance_name="decided", retry_times_when_send_failed=0,
        transaction_listener=Decisions(board), heartbeat_broker_interval=500,
    )  # fmt: skip


def decide_until_end(board: Board, producer: TransactionMQProducer) -> None:
    """Send in transactions."""
    for number in itertools.count():
        assert board.up.wait(WAIT_S)
        if board.ended:
            return
        body = b"decided %d" % number
        try:
            producer.send_message_in_transaction(Message(DECIDED, body))
        except RocketMQError:
            board.never_half.add(body)
        else:
            board.acknowledged("decided", lambda: None)


class Popper:
    """Sends messages to a topic and pops them, and knows what must come again and what must not.

    Attributes:
        sent: bodies whose sending was acknowledged.
        left: bodies that were popped and not acknowledged, to have them given again; ``came_again`` of them did.
        asked: bodies whose acknowledgement was asked for; of those in ``done`` the broker said in time that it knows.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._numbers = itertools.count()
        self.sent: set[bytes] = set()
        self.left: set[bytes] = set()
        self.came_again: set[bytes] = set()
        self.asked: set[bytes] = set()
        self.done: set[bytes] = set()

    def work_until_end(self, addr: str) -> None:
        while not self._board.ended:
            assert self._board.up.wait(WAIT_S)
            try:
                with Wire(addr) as wire:
                    while not self._board.ended:
                        self._send(wire)
                        self._pop(wire)
            except (OSError, ClusterError):
                continue

    def pop_the_rest(self, addr: str) -> None:
        """Pop until everything came that must, and nothing is left."""
        deadline = time.monotonic() + WAIT_S
        with Wire(addr) as wire:
            while self._pop(wire) or not (self.sent <= self.asked and self.left <= self.came_again):
                assert time.monotonic() < deadline, (len(self.sent - self.asked), len(self.left - self.came_again))
                time.sleep(0.05)

    def _send(self, wire: Wire) -> None:
        body = b"popped %d" % next(self._numbers)
        fields = {
            "a": "p", "b": POPPED, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 0, "h": 0,
            "i": f"UNIQ_KEY\1{body.hex()}",
        }  # fmt: skip
        wire.call(310, fields, body).checked("send")
        self.sent.add(body)

    def _pop(self, wire: Wire) -> int:
        """How many came."""
        asked_s = time.monotonic()
        fields = pop_fields(topic=POPPED, consumerGroup=POPPERS, maxMsgNums=8, invisibleTime=INVISIBLE_MS)
        reply = wire.call(POP, fields)
        answer = RemotingCommand.response(0, reply.code, reply.remark)
        answer.ext_fields, answer.body = dict(reply.ext), reply.body
        call = pop_call(POPPED, POPPERS)
        messages = pop_result(answer, call, "broker").messages
        for msg in messages:
            assert msg.body not in self.done, f"{msg.body!r} was acknowledged and comes again"
            if msg.body in self.left:
                self.came_again.add(msg.body)
            elif msg.body not in self.asked and random.random() < 0.2:
                self.left.add(msg.body)
                continue
            self.asked.add(msg.body)
            receipt = ExtraInfo.parse(msg.get_property("POP_CK"))
            ack = {
                "consumerGroup": POPPERS, "topic": receipt.real_topic(POPPED, POPPERS), "queueId": receipt.queue_id,
                "extraInfo": str(receipt), "offset": receipt.queue_offset,
            }  # fmt: skip
            wire.call(ACK, ack).checked("acknowledge")
            if time.monotonic() < asked_s + INVISIBLE_MS / 1_000 - 1:  # else it may have come back before
                self._board.acknowledged("popper", lambda body=msg.body: self.done.add(body))  # type: ignore[misc]
        return len(messages)


def tell_until_end(board: Board, addr: str) -> None:
    """Acknowledge the status of everything that was stored."""
    while not board.ended:
        assert board.up.wait(WAIT_S)
        try:
            with Wire(addr) as wire:
                while (taken := board.take_to_tell()) and not board.ended:
                    spans = [(MessageQueue(PLAIN, "broker-a", each[0]), each[1], each[1] + 1) for each in taken]
                    body = encode_acknowledgement(spans)
                    wire.call(RequestCode.UPDATE_MESSAGE_STATUS, {"consumerGroup": TELLERS}, body).checked(
                        "acknowledge statuses"
                    )
                    board.acknowledged("teller", lambda: board.told.extend(taken))
        except (OSError, ClusterError):
            continue


def check_told(board: Board, wire: Wire) -> None:
    """One of the messages whose statuses were acknowledged is consumed."""
    if not board.told:
        return
    queue_id, offset, message_id = random.choice(board.told)
    reply = wire.call(RequestCode.QUERY_MESSAGE_STATUS, {"topic": PLAIN, "msgId": message_id}).checked("status")
    (history,) = parse_histories(reply.body)
    assert (history.queue_id, history.queue_offset) == (queue_id, offset)
    statuses = {each.group: check_history(each) for each in history.groups}
    assert MessageStatus.CONSUMER_SUCCESS in statuses[TELLERS]


OTHERS = ("decided", "popper", "teller")
PRODUCERS: dict[str, Callable[[Board, DefaultMQProducer, Iterator[bytes]], None]] = {
    "single": send_single,
    "batch": send_batch,
    "delayed": send_delayed,
}


def send_until_end(board: Board, addr: str, who: str) -> None:
    def bodies() -> Iterator[bytes]:
        number = 0
        while True:
            body = b"%s %d " % (who.encode(), number) + random.randbytes(random.choice([0, 500, 3_000]))
            board.attempted.add(body)
            yield body
            number += 1

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


def send_back_until_end(board: Board, addr: str) -> None:
    """Send everything that was stored back once."""
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


@contextmanager
def everybody(
    board: Board, broker: EmbeddedProcess, popper: Popper, transactions: TransactionMQProducer
) -> Iterator[None]:
    """Everybody works, until the end of the block."""
    failures: list[BaseException] = []

    def noted(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    works: list[Callable[[], None]] = [
        lambda: send_back_until_end(board, broker.broker_addr),
        lambda: decide_until_end(board, transactions),
        lambda: tell_until_end(board, broker.broker_addr),
        lambda: popper.work_until_end(broker.broker_addr),
        *(functools.partial(send_until_end, board, broker.namesrv_addr, who) for who in PRODUCERS),
    ]
    threads = [threading.Thread(target=noted, args=(work,)) for work in works]
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
