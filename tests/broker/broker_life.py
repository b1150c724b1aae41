"""A whole broker on a disk that fails or loses power, its clients, and what they know afterwards.

Clients send, delay, consume, send back, commit, pop, decide transactions and acknowledge statuses, time passes, old
messages go; the broker, its store and the disk are real, the clock and the thread are not. ``Known`` outlives the
broker: ``check`` compares it with what another broker, opened on what is left, has.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from rocketmq_py.broker.clean_commit_log_service import CLEAN_RESOURCE_INTERVAL_MS
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.model.codes import RequestCode
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.message_status import MessageStatus
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_message_id, decode_messages
from rocketmq_py.remoting.message_status_bodies import encode_acknowledgement, parse_histories
from rocketmq_py.remoting.pop_api import pop_result
from rocketmq_py.testing import ManualClock
from tests.broker.status_histories import check_history
from tests.unit.broker_pop_support import ACK, POP, pop_call, pop_fields
from tests.unit.broker_rig import GROUP, Client, Rig, messages

PLAIN, LATER, POPPED, DECIDED = "plain", "later", "popped", "decided"
POPPERS = "poppers"
INVISIBLE_MS = 10_000
COMMIT, ROLLBACK = 8, 12
RETRY = f"%RETRY%{GROUP}"
TOPICS = {PLAIN: 2, LATER: 1, POPPED: 1, DECIDED: 1}
QUEUES = [(PLAIN, 0), (PLAIN, 1), (LATER, 0), (RETRY, 0)]
RESERVED_MS = 60_000
LONGEST_DELAY_MS = 5_000

Note = Callable[[RemotingCommand], None]


@dataclass
class Known:
    """What clients know, by what they were told.

    Attributes:
        stored: by topic, queue and offset, the body that was acknowledged or read there, and when.
        delayed, sent_back: by body, when its delay or sending back was acknowledged.
        attempted: bodies that were to be sent back, and how often, acknowledged or not.
        finished: offsets of a queue that were consumed, or whose sending back was acknowledged.
        to_pop: bodies of the topic that is popped, and when they were acknowledged.
        popped: those of them that were popped and finished: the broker said that it knows.
        finishing: those of them that the broker was told to be finished; whether it knows is open until it says so.
        told: places whose statuses were acknowledged to be consumed.
        decided: by the body of a half message, its end and when that was acknowledged.
        commits: bodies of half messages that somebody wanted to commit.
    """

    stored: dict[tuple[str, int, int], tuple[bytes, int]] = field(default_factory=dict)
    delayed: dict[bytes, int] = field(default_factory=dict)
    sent_back: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))
    attempted: Counter[bytes] = field(default_factory=Counter)
    finished: dict[tuple[str, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    to_pop: dict[bytes, int] = field(default_factory=dict)
    popped: set[bytes] = field(default_factory=set)
    finishing: set[bytes] = field(default_factory=set)
    told: set[tuple[str, int, int]] = field(default_factory=set)
    decided: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    commits: set[bytes] = field(default_factory=set)


class Member(Client):
    """A client that notes what it is told in the moment in which it is told."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, 50_000)
        self.notes: dict[int, Note] = {}

    def write(self, command: RemotingCommand) -> None:
        super().write(command)
        note = self.notes.pop(command.opaque, None) if command.is_response else None
        if note is not None and command.code == 0:
            note(command)

    def request(self, code: int, fields: dict[str, object], note: Note, body: bytes = b"") -> None:
        opaque = self.begin(code, fields, body)
        answer = self.answer(opaque)
        if answer is None:
            self.notes[opaque] = note
        elif answer.code == 0:
            note(answer)


class Life:
    """A broker from its opening on, and one member of a group at work on it."""

    def __init__(
        self,
        directory: Path,
        known: Known,
        chance: random.Random,
        clock: ManualClock,
        vfs: str | None = None,
        sizes: Sequence[int] = (20, 200, 1_000, 40_000),  # small, as most are; more than a page
    ) -> None:
        self._sizes = sizes
        self._known = known
        self._chance = chance
        self._clock = clock
        self.rig = Rig(directory, "1s 2s 5s", vfs=vfs, clock=clock, reserved_ms=RESERVED_MS, message_status=True)
        self._log = self.rig.controller.commit_log
        self._member = Member(self.rig)
        self._next = dict.fromkeys(QUEUES, 0)
        self._failed: list[tuple[tuple[str, int], MessageExt]] = []
        self._consumed: list[MessageExt] = []
        self._popped: list[tuple[int, MessageExt]] = []
        self._halves: list[tuple[bytes, RemotingCommand]] = []

    def turn(self) -> None:
        """Some requests at once, then everything that follows; then, perhaps, time passes."""
        for topic, queues in TOPICS.items():
            self._member.ask(17, _topic(topic, queues))
        self._member.heartbeat(**{PLAIN: "*", LATER: "*", RETRY: "*"})
        actions = [
            self._send,
            self._send,
            self._delay,
            self._pull,
            self._pull,
            self._pull,
            self._send_back,
            self._commit,
            self._acknowledge_status,
            self._send_to_pop,
            self._pop,
            self._finish_popped,
            self._send_half,
            self._end_transaction,
        ]
        for _ in range(self._chance.randint(1, 5)):
            self._chance.choice(actions)()
        self.rig.loop.run()
        self._member.written.clear()
        if self._chance.random() < 0.3:
            self.rig.loop.advance(self._chance.choice([100, 1_000, 3_000, CLEAN_RESOURCE_INTERVAL_MS]))

    def _acknowledged(self, note: Note) -> Note:
        """A note of a success that must not come once the store has failed."""
        if self._log.failure is None:
            return note

        def wrong(answer: RemotingCommand) -> None:
            raise AssertionError("acknowledged after a failed write")

        return wrong

    def _send(self) -> None:
        queue_id, body = self._chance.randrange(2), self._body()

        def note(answer: RemotingCommand) -> None:
            place = (PLAIN, queue_id, int(answer.ext_fields["queueOffset"]))
            assert self._known.stored.setdefault(place, (body, self._clock.wall_ms()))[0] == body, "a place given twice"

        self._member.request(310, _message(PLAIN, queue_id), self._acknowledged(note), body)

    def _delay(self) -> None:
        body = self._body()

        def note(answer: RemotingCommand) -> None:
            self._known.delayed[body] = self._clock.wall_ms()

        fields = _message(LATER, 0, f"UNIQ_KEY\1id\2DELAY\1{self._chance.randint(1, 2)}")
        self._member.request(310, fields, self._acknowledged(note), body)

    def _body(self) -> bytes:
        return self._chance.randbytes(self._chance.choice(self._sizes))

    def _pull(self) -> None:
        queue = self._chance.choice(QUEUES)

        def note(answer: RemotingCommand) -> None:
            for msg in messages(answer):
                place = (*queue, msg.queue_offset)
                assert self._known.stored.setdefault(place, (msg.body, msg.store_timestamp))[0] == msg.body
                if self._chance.random() < 0.2:
                    self._failed.append((queue, msg))
                else:
                    self._known.finished[queue].add(msg.queue_offset)
                    self._consumed.append(msg)

        self._next[queue] = max(self._next[queue], self._log.min_offset(_key(queue)))
        fields = self._member.pull_fields(self._next[queue], *queue, maxMsgNums=3)
        self._member.request(11, fields, note)
        self._next[queue] = min(self._next[queue] + 3, self._log.max_offset(_key(queue)))

    def _send_to_pop(self) -> None:
        body = self._body()

        def note(answer: RemotingCommand) -> None:
            self._known.to_pop[body] = self._clock.wall_ms()

        self._member.request(310, _message(POPPED, 0), self._acknowledged(note), body)

    def _pop(self) -> None:
        def note(answer: RemotingCommand) -> None:
            self._popped += [(self._clock.wall_ms(), msg) for msg in _popped(answer)]

        self._member.request(POP, _pop_fields(), self._acknowledged(note))

    def _finish_popped(self) -> None:
        if not self._popped:
            return
        when_ms, msg = self._popped.pop(self._chance.randrange(len(self._popped)))

        def note(answer: RemotingCommand) -> None:
            self._known.popped.add(msg.body)

        if self._clock.wall_ms() < when_ms + INVISIBLE_MS:  # else somebody else may have it by now
            self._known.finishing.add(msg.body)
            self._member.request(ACK, _ack_fields(msg), self._acknowledged(note))

    def _send_half(self) -> None:
        body = self._body()
        fields = _message(DECIDED, 0, "UNIQ_KEY\1id\2TRAN_MSG\1true\2PGROUP\1p")
        note = self._acknowledged(lambda answer: self._halves.append((body, answer)))
        self._member.request(310, {**fields, "f": 4, "g": self._clock.wall_ms()}, note, body)

    def _end_transaction(self) -> None:
        if not self._halves:
            return
        body, sent = self._halves.pop(self._chance.randrange(len(self._halves)))
        outcome = self._chance.choice([COMMIT, COMMIT, ROLLBACK])
        if outcome == COMMIT:
            self._known.commits.add(body)

        def note(answer: RemotingCommand) -> None:
            self._known.decided[body] = outcome, self._clock.wall_ms()

        fields: dict[str, object] = {
            "producerGroup": "p", "tranStateTableOffset": sent.ext_fields["queueOffset"],
            "commitLogOffset": decode_message_id(sent.ext_fields["msgId"])[2], "commitOrRollback": outcome,
            "fromTransactionCheck": "false", "msgId": "id",
        }  # fmt: skip
        self._member.request(37, fields, self._acknowledged(note))

    def _send_back(self) -> None:
        if not self._failed:
            return
        queue, msg = self._failed.pop()

        def note(answer: RemotingCommand) -> None:
            self._known.sent_back[msg.body].append(self._clock.wall_ms())
            self._known.finished[queue].add(msg.queue_offset)

        self._known.attempted[msg.body] += 1
        fields: dict[str, object] = {"group": GROUP, "offset": msg.commit_log_offset, "delayLevel": 0}
        self._member.request(36, fields, self._acknowledged(note))

    def _acknowledge_status(self) -> None:
        # One that was sent back comes again, and counts as consumed only then.
        consumed = [msg for msg in self._consumed if msg.topic == PLAIN and not self._known.attempted[msg.body]]
        self._consumed = []

        def note(answer: RemotingCommand) -> None:
            self._known.told.update((msg.topic, msg.queue_id, msg.queue_offset) for msg in consumed)

        spans = [
            (MessageQueue(msg.topic, "broker-a", msg.queue_id), msg.queue_offset, msg.queue_offset + 1)
            for msg in consumed
        ]
        fields: dict[str, object] = {"consumerGroup": GROUP}
        self._member.request(
            RequestCode.UPDATE_MESSAGE_STATUS, fields, self._acknowledged(note), encode_acknowledgement(spans)
        )

    def _commit(self) -> None:
        queue = self._chance.choice(QUEUES)
        offset = self._log.min_offset(_key(queue))
        while offset in self._known.finished[queue]:
            offset += 1
        fields: dict[str, object] = {
            "consumerGroup": GROUP, "topic": queue[0], "queueId": queue[1], "commitOffset": offset,
        }  # fmt: skip
        self._member.request(15, fields, lambda answer: None)


def check(directory: Path, known: Known, clock: ManualClock) -> None:
    """Open what is left: what clients know must be so. ``known`` then has what else is there, too."""
    with closing(Rig(directory, "1s 2s 5s", clock=clock, reserved_ms=RESERVED_MS, message_status=True)) as rig:
        log, client = rig.controller.commit_log, rig.client()
        for topic, queues in TOPICS.items():
            assert client.ask(17, _topic(topic, queues)).code == 0
        client.heartbeat(**{PLAIN: "*", LATER: "*", RETRY: "*", DECIDED: "*"})
        for queue in QUEUES:
            told = client.ask(14, {"consumerGroup": GROUP, "topic": queue[0], "queueId": queue[1]})
            committed = int(told.ext_fields["offset"]) if told.code == 0 else 0
            assert committed <= log.max_offset(_key(queue))
            ahead = {*range(log.min_offset(_key(queue)), committed)} - known.finished[queue]
            assert not ahead, f"{queue}: committed {committed}, but {ahead} were not consumed"
        _check_statuses(rig, client, known)
        rig.loop.advance(LONGEST_DELAY_MS + 1_000)
        found = {queue: _read(client, log.min_offset(_key(queue)), queue) for queue in QUEUES}
        young_ms = clock.wall_ms() - RESERVED_MS
        for (topic, queue_id, offset), (body, stored_ms) in known.stored.items():
            if offset >= log.min_offset(_key((topic, queue_id))):
                assert found[topic, queue_id][offset][0] == body
            else:
                assert stored_ms < young_ms, f"{topic} {queue_id} {offset} is gone"
        later, retried = (Counter([body for body, _ in found[queue].values()]) for queue in QUEUES[2:])
        assert not later or max(later.values()) == 1
        assert [body for body, told_ms in known.delayed.items() if told_ms >= young_ms and body not in later] == []
        for body, times_ms in known.sent_back.items():
            assert retried[body] >= len([told_ms for told_ms in times_ms if told_ms >= young_ms])
        assert retried <= known.attempted
        for queue, bodies in found.items():
            for offset, stored in bodies.items():
                known.stored.setdefault((*queue, offset), stored)
        ended = Counter([body for body, _ in _read(client, log.min_offset(_key((DECIDED, 0))), (DECIDED, 0)).values()])
        assert not ended or max(ended.values()) == 1
        assert {*ended} <= known.commits
        for body, (outcome, told_ms) in known.decided.items():
            assert outcome == ROLLBACK or body in ended or told_ms < young_ms
        _check_popped(rig, client, known)
        answer = client.send(b"goes on", PLAIN)
        assert answer.code == 0
        known.stored[PLAIN, 0, int(answer.ext_fields["queueOffset"])] = b"goes on", clock.wall_ms()


def _check_statuses(rig: Rig, client: Client, known: Known) -> None:
    """Every history is one of legal changes, and has what was acknowledged."""
    log = rig.controller.commit_log
    for topic in (PLAIN, POPPED):
        for queue_id in range(TOPICS[topic]):
            key = QueueKey(topic, queue_id)
            begin, end = log.min_offset(key), log.max_offset(key)
            for msg in decode_messages(b"".join(data for _, data in log.read(key, begin, end - begin))):
                answer = client.ask(RequestCode.QUERY_MESSAGE_STATUS, {"topic": topic, "msgId": msg.offset_msg_id})
                assert answer.code == 0, answer
                (history,) = parse_histories(answer.body)
                assert (history.topic, history.queue_id, history.queue_offset) == (*key, msg.queue_offset)
                statuses = {each.group: check_history(each) for each in history.groups}
                if (*key, msg.queue_offset) in known.told:
                    assert MessageStatus.CONSUMER_SUCCESS in statuses[GROUP]


def _check_popped(rig: Rig, client: Client, known: Known) -> None:
    """What was not finished comes again when its time is over; what was finished does not."""
    rig.loop.advance(INVISIBLE_MS + 5_000)
    young_ms = rig.clock.wall_ms() - RESERVED_MS
    came: set[bytes] = set()
    while msgs := _popped(client.ask(POP, _pop_fields())):
        for msg in msgs:
            came.add(msg.body)
            assert client.ask(ACK, _ack_fields(msg)).code == 0
    assert not came & known.popped
    young = {body for body, told_ms in known.to_pop.items() if told_ms >= young_ms}
    assert young - known.finishing <= came
    known.popped |= came
    known.finishing |= came


def _pop_fields() -> dict[str, object]:
    return pop_fields(topic=POPPED, consumerGroup=POPPERS, maxMsgNums=4, invisibleTime=INVISIBLE_MS)


def _popped(answer: RemotingCommand) -> list[MessageExt]:
    call = pop_call(POPPED, POPPERS)
    return pop_result(answer, call, "broker").messages


def _ack_fields(msg: MessageExt) -> dict[str, object]:
    text = msg.get_property("POP_CK")
    info = ExtraInfo.parse(text)
    return {
        "consumerGroup": POPPERS, "topic": info.real_topic(POPPED, POPPERS), "queueId": info.queue_id,
        "extraInfo": text, "offset": info.queue_offset,
    }  # fmt: skip


def _read(client: Client, offset: int, queue: tuple[str, int]) -> dict[int, tuple[bytes, int]]:
    """Bodies and when they were stored, by offset."""
    found: dict[int, tuple[bytes, int]] = {}
    while (answer := client.pull(offset, *queue)).code == 0:
        for msg in messages(answer):
            assert msg.queue_offset == offset
            found[offset] = msg.body, msg.store_timestamp
            offset += 1
    assert answer.code == 19 or offset == 0, answer
    return found


def _key(queue: tuple[str, int]) -> QueueKey:
    return QueueKey(*queue)


def _topic(name: str, queues: int) -> dict[str, object]:
    return {
        "topic": name, "readQueueNums": queues, "writeQueueNums": queues, "perm": 6, "topicFilterType": "SINGLE_TAG",
        "defaultTopic": "TBW102",
    }  # fmt: skip


def _message(topic: str, queue_id: int, properties: str = "UNIQ_KEY\1id") -> dict[str, object]:
    return {"a": "p", "b": topic, "c": "TBW102", "d": 4, "e": queue_id, "f": 0, "g": 1, "h": 0, "i": properties}
