"""The whole consumer core on a virtual clock under random faults: nothing lost, nothing committed too early.

Checked throughout are the invariants I2, I3, I4 and I7: at least once; the committed offset never passes an unfinished
message and never goes back; it never exceeds the queue nor falls to 0 after an error; the gauges are a recount.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rocketmq_py.errors import BrokerError, ConnectError, RequestTimeoutError
from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    Messages,
    PullResult,
    PullStatus,
)
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP, LATER, ME, OTHER, SUCCESS, Core, mq

QUEUES = 2
FULL = settings.get_current_profile_name() == "full"

pytestmark = pytest.mark.behaviour("CC-02", "CC-03", "CC-06", "CC-07", "PL-06", "PL-08", "RB-01", "RB-02", "OS-04")


class Ledger(FakeBroker):
    """A broker that knows which messages are finished, and notes commits that must not be.

    Notes them, because an error raised here would be taken for the listener's or the broker's, and be survived.
    """

    def __init__(self) -> None:
        super().__init__(ME)
        self.stored: defaultdict[MessageQueue, int] = defaultdict(int)
        self.first: defaultdict[MessageQueue, int] = defaultdict(int)
        self.finished: defaultdict[MessageQueue, set[int]] = defaultdict(set)
        self.highest_commit: defaultdict[MessageQueue, int] = defaultdict(int)
        self.violations: list[str] = []

    def lowest_unfinished(self, queue: MessageQueue) -> int:
        offset = self.first[queue]
        while offset in self.finished[queue]:
            offset += 1
        return offset

    def finish(self, queue: MessageQueue, offset: int) -> None:
        self.finished[queue].add(offset)

    def store_more(self, queue: MessageQueue, count: int) -> None:
        self.store(queue, *[b"x" * (number + 1) for number in range(count)])
        self.stored[queue] += count

    def delete_below(self, queue: MessageQueue, offset: int) -> None:
        """Retention."""
        self.first[queue] = max(self.first[queue], min(offset, self.stored[queue]))
        self.expire(queue, self.first[queue])

    def commit(self, queue: MessageQueue, offset: int) -> None:
        for wrong, what in (
            (offset > self.lowest_unfinished(queue), "I3: passes an unfinished message"),
            (offset < self.highest_commit[queue], "I3: goes back"),
            (offset > self.stored[queue], "I4: exceeds the queue"),
        ):
            if wrong:
                self.violations.append(f"the commit of {offset} of {queue} {what}")
        self.highest_commit[queue] = offset

    def pull_message(
        self, call: PullCall, on_result: Callable[[PullResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        if call.commit_offset > 0:  # brokers commit when the pull comes, not when it is answered
            self.update_consumer_offset(call.group, call.mq, call.commit_offset)
        if call.offset < self.offsets.get((call.group, call.mq), 0):
            self.violations.append(f"I4: the pull of {call.mq} from {call.offset} starts before what is committed")
        super().pull_message(call._replace(commit_offset=-1), on_result, on_error)

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        self.commit(mq, offset)
        super().update_consumer_offset(group, mq, offset)

    def send_message_back(
        self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
    ) -> None:
        super().send_message_back(group, msg, delay_level, max_reconsume_times, timeout_ms)
        self.finish(mq(msg.queue_id), msg.queue_offset)

    def send_retry_message(self, topic: str, body: bytes, flag: int, properties: Mapping[str, str]) -> None:
        super().send_retry_message(topic, body, flag, properties)
        number, offset = properties["ORIGIN_MESSAGE_ID"].split("-")[1:]
        self.finish(mq(int(number)), int(offset))


FAULTS = {
    "sending back": ("send_message_back", "send_retry_message"),
    "the broker's way of sending back": ("send_message_back",),
    "asking for offsets": ("query_consumer_offset",),
    "pulling": ("pull_message",),
}
ERRORS = {
    "send_message_back": ConnectError("broke"),
    "send_retry_message": BrokerError(1, "system error"),
    "query_consumer_offset": RequestTimeoutError("no answer"),
    "pull_message": BrokerError(1, "system error"),
}

VERDICTS = ["success", "success", "later", "none", "raise", "exit", "nonsense", "ack first", "ack none", "overtaken"]
"""``overtaken``: everything that waits is consumed first, as by other threads, before this call ends."""
EVENTS = ["nothing", "nothing", "nothing", "lose", "regain", "commit", "answer", "sweep"]
"""What happens while a listener has a batch."""
SCRIPT = st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(EVENTS)), max_size=8)


class ConsumerUnderFaults(RuleBasedStateMachine):
    """One member that consumes, another that now and then owns a queue and does nothing with it."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Ledger()
        self.script: list[tuple[str, str]] = []
        self.depth = 0
        self.batch = 1

    @initialize(batch=st.sampled_from([1, 3]))
    def start(self, batch: int) -> None:
        self.batch = batch
        self.new_consumer()
        for number in range(QUEUES):
            self.broker.store_more(mq(number), 3)

    def new_consumer(self) -> None:
        self.core = Core(
            self.listen,
            broker=self.broker,
            queues=QUEUES,
            consume_message_batch_max_size=self.batch,
            pull_batch_size=4,
            pull_threshold_for_queue=12,
            consume_concurrently_max_span=16,
            consume_timeout=1,
        )
        self.core.pool.held = True
        self.core.service.start()
        self.core.begin()

    # The listener.

    def listen(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        verdict, event = self.script.pop() if self.script else ("success", "nothing")
        self.depth += 1
        try:
            self.happens(event)
            return self.answer(verdict, msgs, context)
        finally:
            self.depth -= 1

    def happens(self, event: str) -> None:
        if event in ("lose", "regain"):
            self.members(owned_by_both=event == "lose")
        elif event == "commit":
            self.commit()
        elif event == "answer":
            self.broker.answer_pulls()
        elif event == "sweep":
            self.core.clock.advance(60_001)
            self.core.service.clean_expired_messages()

    def answer(
        self, verdict: str, msgs: Messages, context: ConsumeConcurrentlyContext
    ) -> ConsumeConcurrentlyStatus | None:
        good = len(msgs)
        if verdict == "overtaken" and self.depth < 5:
            self.core.pool.run_all()
        elif verdict == "raise":
            raise ValueError("mine")
        elif verdict == "exit":
            raise SystemExit(1)
        elif verdict == "ack first":
            context.ack_index, good = 0, 1
        elif verdict == "ack none":
            context.ack_index, good = -1, 0
        elif verdict == "later":
            return LATER
        elif verdict == "none":
            return None
        elif verdict == "nonsense":
            return "yes"  # type: ignore[return-value]
        for msg in msgs[:good]:
            self.broker.finish(context.message_queue, msg.queue_offset)
        return SUCCESS

    # What happens.

    @rule(number=st.integers(0, QUEUES - 1), count=st.integers(1, 6))
    def messages_are_sent(self, number: int, count: int) -> None:
        self.broker.store_more(mq(number), count)

    @rule(rounds=st.integers(1, 3))
    def pulls_are_answered(self, rounds: int) -> None:
        self.broker.answer_pulls(rounds)

    @rule(rounds=st.integers(1, 3), script=SCRIPT)
    def messages_come_and_go(self, rounds: int, script: list[tuple[str, str]]) -> None:
        self.broker.answer_pulls(rounds)
        self.listeners_are_called(script)

    @rule(matched=st.booleans(), skipped=st.integers(0, 3))
    @precondition(lambda self: self.broker.pulls)
    def a_pull_brings_nothing(self, matched: bool, skipped: int) -> None:
        call = self.broker.pulls[0]
        if call.offset < self.broker.first[call.mq]:
            return  # the broker would say that this offset is illegal
        if matched:
            self.broker.answer_empty(PullStatus.NO_NEW_MSG, call.offset)
            return
        next_offset = min(call.offset + skipped, self.broker.stored[call.mq])
        for offset in range(call.offset, next_offset):
            self.broker.finish(call.mq, offset)  # nobody subscribed to them
        self.broker.answer_empty(PullStatus.NO_MATCHED_MSG, next_offset)

    @rule(script=SCRIPT)
    def listeners_are_called(self, script: list[tuple[str, str]]) -> None:
        self.script = script[::-1]
        self.core.pool.run_all()
        self.script = []

    @rule(owned_by_both=st.booleans())
    def members(self, owned_by_both: bool) -> None:
        self.broker.members[GROUP] = [ME, OTHER] if owned_by_both else [ME]
        self.core.rebalance.do_rebalance()

    @rule()
    def the_member_list_is_unknown(self) -> None:
        before = self.broker.members.pop(GROUP)
        self.core.rebalance.do_rebalance()
        self.broker.members[GROUP] = before

    @rule(faults=st.sets(st.sampled_from(sorted(FAULTS))))
    def what_fails_changes(self, faults: set[str]) -> None:
        self.broker.failing.clear()
        self.broker.failing.update({method: ERRORS[method] for fault in faults for method in FAULTS[fault]})

    @rule(number=st.integers(0, QUEUES - 1), count=st.integers(1, 8))
    def messages_are_deleted(self, number: int, count: int) -> None:
        self.broker.delete_below(mq(number), self.broker.first[mq(number)] + count)

    @rule(ms=st.sampled_from([1, 50, 500, 1_000, 5_000, 30_001, 60_001, 120_001]))
    def time_passes(self, ms: int) -> None:
        self.core.runtime.advance(ms)

    @rule()
    def commit(self) -> None:
        self.core.store.persist_all(list(self.core.windows))

    @rule()
    def the_consumer_crashes_and_another_takes_over(self) -> None:
        self.core.puller.running = False
        self.core.rebalance.destroy()
        self.broker.failing.clear()
        self.new_consumer()

    # What must hold.

    @invariant()
    def no_commit_was_wrong(self) -> None:
        assert self.broker.violations == []

    @invariant()
    def gauges_are_a_recount(self) -> None:
        for queue, window in self.core.windows.items() if hasattr(self, "core") else ():
            waiting, taken = window.offsets()
            assert taken == []
            assert window.msg_count == len(waiting), f"I7: {queue}"
            assert window.msg_size >= len(waiting), f"I7: {queue}: bodies have a byte at least"

    @invariant()
    def what_is_in_memory_may_be_committed(self) -> None:
        for queue, offset in self.core.store.clone_offset_table().items() if hasattr(self, "core") else ():
            if queue in self.core.windows:
                assert offset <= self.broker.lowest_unfinished(queue), f"I3: {offset} of {queue}"

    def teardown(self) -> None:
        """With all faults over everything is finished in the end, and the commit is at the end of every queue."""
        if not hasattr(self, "core"):
            return
        self.broker.failing.clear()
        self.broker.members[GROUP] = [ME]
        for _ in range(200):
            self.core.rebalance.do_rebalance()
            self.core.runtime.advance(1_000)
            self.broker.answer_pulls()
            self.core.pool.run_all()
        self.commit()
        assert self.broker.violations == []
        for number in range(QUEUES):
            stored = self.broker.stored[mq(number)]
            assert self.broker.lowest_unfinished(mq(number)) >= stored, f"I2: a message of queue {number} is lost"
            assert self.broker.offsets.get((GROUP, mq(number)), 0) == stored, f"I3: queue {number} is held back"
            window = self.core.windows[mq(number)]
            assert (window.msg_count, window.msg_size) == (0, 0), "I7"


TestConsumerUnderFaults = ConsumerUnderFaults.TestCase
TestConsumerUnderFaults.settings = settings(max_examples=1_200 if FULL else 120, stateful_step_count=50)
