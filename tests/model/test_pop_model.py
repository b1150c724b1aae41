"""Pop in the embedded broker against naive models: members forget or come too late, the broker is killed.

No message is lost, none is given to two at a time, each counts how often it came; orderly pops keep a queue's order.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from rocketmq_py.broker.pop_consumer_service import REVIVE_INTERVAL_MS
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.message import MessageExt
from tests.unit.broker_pop_support import ACK, CHANGE, pop, popped, settle
from tests.unit.broker_rig import Rig

FULL = settings.get_current_profile_name() == "full"
EXAMPLES = 500 if FULL else 15
STEPS = 60 if FULL else 40
SETTINGS = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)

TIMES_MS = st.sampled_from([0, 1_000, 3_000, 10_000])
COUNTS = st.integers(1, 5)

pytestmark = pytest.mark.behaviour("EP-01", "EP-04", "EP-05", "EP-06", "EP-08", "EP-15")


class _Broker(RuleBasedStateMachine):
    """A broker with a topic of two queues, and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), synchronous=False)
        self.rig.create_topic(queues=2)
        self.client = self.rig.client()
        self.sent = 0

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.rig.close()
            self.folder.cleanup()

    def drain(self) -> None:
        """What must be true when all time is over."""

    @property
    def now_ms(self) -> int:
        return self.rig.clock.wall_ms()

    @rule(ms=st.sampled_from([1, 400, 1_000, 2_500, 20_000]))
    def wait(self, ms: int) -> None:
        self.rig.loop.advance(ms)

    @rule()
    def crash(self) -> None:
        self.rig.crash()
        self.client = self.rig.client()


@dataclass
class Copy:
    """What is known of a message."""

    came: int = 0
    done: bool = False
    leased_until_ms: int = -1  # wall
    receipt: ExtraInfo | None = None


class Popped(_Broker):
    """Every message is waiting, leased or done; each delivery is one that the model allows."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[bytes, Copy] = {}
        self.old: list[tuple[MessageExt, ExtraInfo]] = []
        self.delivered: dict[bytes, MessageExt] = {}

    @rule(queue_id=st.integers(0, 1), count=COUNTS)
    def send(self, queue_id: int, count: int) -> None:
        for _ in range(count):
            body = b"%d" % self.sent
            self.sent += 1
            assert self.client.send(body, queue_id=queue_id).code == 0
            self.copies[body] = Copy()

    @rule(queue_id=st.sampled_from([-1, -1, 0, 1]), count=COUNTS, invisible_ms=TIMES_MS)
    def pop(self, queue_id: int, count: int, invisible_ms: int) -> None:
        answer = pop(self.client, queueId=queue_id, maxMsgNums=count, invisibleTime=invisible_ms)
        assert answer.code in (0, 210)
        for msg in popped(answer):
            self.take(msg, invisible_ms)

    def take(self, msg: MessageExt, invisible_ms: int) -> None:
        copy = self.copies[msg.body]
        assert not copy.done, f"{msg.body!r} is done"
        assert copy.leased_until_ms <= self.now_ms, f"{msg.body!r} is leased"
        assert msg.reconsume_times == copy.came
        if copy.receipt is not None:
            self.old.append((self.delivered[msg.body], copy.receipt))
        copy.came += 1
        copy.leased_until_ms = self.now_ms + invisible_ms
        copy.receipt = ExtraInfo.parse(msg.get_property("POP_CK"))
        self.delivered[msg.body] = msg

    def leased(self) -> list[bytes]:
        """Messages whose time is not over, so that what is done to them must count."""
        return [body for body, copy in self.copies.items() if not copy.done and copy.leased_until_ms > self.now_ms]

    @precondition(lambda self: self.leased())
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(self.leased()))
        copy = self.copies[body]
        assert settle(self.client, ACK, self.delivered[body], str(copy.receipt)).code == 0
        copy.done = True

    @precondition(lambda self: self.leased())
    @rule(data=st.data(), ms=TIMES_MS)
    def put_off(self, data: st.DataObject, ms: int) -> None:
        body = data.draw(st.sampled_from(self.leased()))
        copy = self.copies[body]
        assert copy.receipt is not None
        answer = settle(self.client, CHANGE, self.delivered[body], str(copy.receipt), invisibleTime=ms)
        assert answer.code == 0
        if (copy.receipt.pop_time, copy.receipt.invisible_time) != (self.now_ms, ms):
            self.old.append((self.delivered[body], copy.receipt))
        copy.receipt = copy.receipt._replace(pop_time=int(answer.ext_fields["popTime"]), invisible_time=ms)
        copy.leased_until_ms = self.now_ms + ms

    def too_late(self) -> list[tuple[MessageExt, ExtraInfo]]:
        """Old receipts; one that was given anew within its millisecond is the last one's equal, and counts."""
        return [(msg, receipt) for msg, receipt in self.old if receipt != self.copies[msg.body].receipt]

    @precondition(lambda self: self.too_late())
    @rule(data=st.data(), code=st.sampled_from([ACK, CHANGE]))
    def come_too_late(self, data: st.DataObject, code: int) -> None:
        msg, receipt = data.draw(st.sampled_from(self.too_late()))
        answer = settle(self.client, code, msg, str(receipt), invisibleTime=1)
        assert answer.code == (0 if code == ACK else 208)

    def drain(self) -> None:
        left = {body for body, copy in self.copies.items() if not copy.done}
        for _ in range(len(left) + 20):
            self.rig.loop.advance(10_000 + 2 * REVIVE_INTERVAL_MS)
            for msg in popped(pop(self.client, invisibleTime=60_000)):
                self.take(msg, 60_000)
                assert settle(self.client, ACK, msg).code == 0
                self.copies[msg.body].done = True
        assert [body for body, copy in self.copies.items() if not copy.done] == []


@dataclass
class Batch:
    """What was given of a queue last."""

    attempt: int
    offsets: list[int]
    receipts: dict[int, ExtraInfo]
    visible_ms: dict[int, int]
    done: set[int]

    @property
    def next_offset(self) -> int:
        return next((offset for offset in self.offsets if offset not in self.done), self.offsets[-1] + 1)


class PoppedOrderly(_Broker):
    """Each queue is given from its first message that is not done on, and to one attempt at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = [0, 0]
        self.batches: list[Batch | None] = [None, None]
        self.counts: list[dict[int, int]] = [{}, {}]
        self.messages: dict[tuple[int, int], MessageExt] = {}

    @rule(queue_id=st.integers(0, 1), count=COUNTS)
    def send(self, queue_id: int, count: int) -> None:
        for _ in range(count):
            assert self.client.send(b"%d %d" % (queue_id, self.ends[queue_id]), queue_id=queue_id).code == 0
            self.ends[queue_id] += 1

    def is_blocked(self, queue_id: int, attempt: int) -> bool:
        batch = self.batches[queue_id]
        if batch is None or batch.attempt == attempt:
            return False
        return any(batch.visible_ms[offset] > self.now_ms for offset in batch.offsets if offset not in batch.done)

    @rule(queue_id=st.integers(0, 1), count=COUNTS, invisible_ms=TIMES_MS, attempt=st.integers(0, 3))
    def pop(self, queue_id: int, count: int, invisible_ms: int, attempt: int) -> None:
        blocked = self.is_blocked(queue_id, attempt)
        answer = pop(
            self.client, queueId=queue_id, maxMsgNums=count, invisibleTime=invisible_ms, order="true",
            attemptId=f"attempt {attempt}",
        )  # fmt: skip
        batch = self.batches[queue_id]
        start = 0 if batch is None else batch.next_offset
        expected = [] if blocked else list(range(start, min(start + count, self.ends[queue_id])))
        msgs = popped(answer, order=True)
        assert [msg.queue_offset for msg in msgs] == expected
        assert [msg.body for msg in msgs] == [b"%d %d" % (queue_id, offset) for offset in expected]
        if not expected:
            return
        counts = self.counts[queue_id]
        if batch is None or batch.attempt != attempt:
            earlier = [] if batch is None else batch.offsets
            counts = {offset: counts.get(offset, 0) + 1 for offset in expected if offset in earlier}
        self.counts[queue_id] = counts
        # Upstream's: the same attempt keeps the counts of what it popped before, and when there are as many of them as
        # messages now, those without one get the lowest.
        least = min(counts.values()) if len(counts) == len(expected) else 0
        assert [msg.reconsume_times for msg in msgs] == [counts.get(offset, least) for offset in expected]
        self.batches[queue_id] = Batch(
            attempt,
            expected,
            {msg.queue_offset: ExtraInfo.parse(msg.get_property("POP_CK")) for msg in msgs},
            dict.fromkeys(expected, self.now_ms + invisible_ms),
            set(),
        )
        self.messages.update({(queue_id, msg.queue_offset): msg for msg in msgs})

    def open_places(self) -> list[tuple[int, int]]:
        return [
            (queue_id, offset)
            for queue_id, batch in enumerate(self.batches)
            if batch is not None
            for offset in batch.offsets
            if offset not in batch.done
        ]

    @precondition(lambda self: self.open_places())
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        queue_id, offset = data.draw(st.sampled_from(self.open_places()))
        batch = self.batches[queue_id]
        assert batch is not None
        assert settle(self.client, ACK, self.messages[queue_id, offset], str(batch.receipts[offset])).code == 0
        batch.done.add(offset)

    @precondition(lambda self: self.open_places())
    @rule(data=st.data(), ms=TIMES_MS)
    def put_off(self, data: st.DataObject, ms: int) -> None:
        queue_id, offset = data.draw(st.sampled_from(self.open_places()))
        batch = self.batches[queue_id]
        assert batch is not None
        receipt = batch.receipts[offset]
        msg = self.messages[queue_id, offset]
        assert settle(self.client, CHANGE, msg, str(receipt), invisibleTime=ms).code == 0
        batch.visible_ms[offset] = self.now_ms + ms

    def drain(self) -> None:
        self.rig.loop.advance(60_000)
        for queue_id in (0, 1):
            batch = self.batches[queue_id]
            position = 0 if batch is None else batch.next_offset
            while msgs := popped(pop(self.client, queueId=queue_id, order="true", attemptId="last"), order=True):
                assert [msg.queue_offset for msg in msgs] == list(range(position, position + len(msgs)))
                for msg in msgs:
                    assert settle(self.client, ACK, msg).code == 0
                position += len(msgs)
            assert position == self.ends[queue_id]


TestPopped = Popped.TestCase
TestPopped.settings = SETTINGS
TestPoppedOrderly = PoppedOrderly.TestCase
TestPoppedOrderly.settings = SETTINGS
