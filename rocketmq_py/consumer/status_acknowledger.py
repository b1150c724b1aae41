"""Tells brokers that keep statuses of messages which messages have been consumed. Not in Java.

A committed offset says so, too, but later, and of a message only when all before it are done. Nothing is noted before a
broker has asked for it in the answer to a heartbeat: until then the consume services have no ``acknowledge``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rocketmq_py.consumer.ports import StatusBroker
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex, Runtime, Scheduler

SEND_INTERVAL_MS = 1_000
ATTEMPTS_MAX = 3
"""Requests that tell of the same messages; the committed offset tells of them in any case, later."""
TIMEOUT_MS = 3_000
LAST_TIMEOUT_MS = 1_000
"""Of the one attempt that a shutdown makes."""

NOTED_MAX_COUNT = 100_000
"""Messages that wait to be told of; further ones are not."""
SPANS_MAX_COUNT = 1_000
"""Spans of offsets in a request."""
AGAIN_MAX_COUNT = 100
"""Requests that failed and wait for their next attempt; the oldest are dropped."""

Acknowledge = Callable[[MessageQueue, Sequence[MessageExt]], None]
"""``acknowledge(mq, msgs)``: these messages, pulled from this queue, have been consumed."""

Span = tuple[MessageQueue, int, int]
"""A queue, a first offset, and one past the last."""


@dataclass(slots=True)
class _Batch:
    broker_name: str
    spans: Sequence[Span]
    attempts: int = 0


class StatusAcknowledger:
    """One per clustering consumer. ``look`` and ``shutdown`` are called by one thread at a time, the rest by any."""

    def __init__(
        self, group: str, broker: StatusBroker, runtime: Runtime, counters: ConsumerCounters, warnings: RateLimitedLog
    ) -> None:
        self._group = group
        self._broker = broker
        self._runtime = runtime
        self._counters = counters
        self._warnings = warnings
        self._scheduler: Scheduler | None = None
        self._lock = Mutex()  # guards the three below
        self._noted: dict[MessageQueue, list[int]] = {}
        self._count = 0
        self._again: list[_Batch] = []

    def look(self) -> Acknowledge | None:
        """What the services are to call now; None while no broker wants to know. One that does starts the thread."""
        if not self._broker.wants_acknowledgements():
            return None
        if self._scheduler is None:
            self._scheduler = self._runtime.scheduler(f"MessageStatusAck_{self._group[:100]}")
            self._scheduler.schedule_at_fixed_rate(SEND_INTERVAL_MS, SEND_INTERVAL_MS, self.send)
        return self.note

    def note(self, mq: MessageQueue, msgs: Sequence[MessageExt]) -> None:
        """Messages have been consumed; never blocks."""
        offsets = [msg.queue_offset for msg in msgs]
        with self._lock:
            full = self._count >= NOTED_MAX_COUNT
            if not full:
                self._count += len(offsets)
                self._noted.setdefault(mq, []).extend(offsets)
        if full:
            self._counters.count(Event.STATUS_ACK_LOST, len(offsets))

    def send(self, timeout_ms: int = TIMEOUT_MS) -> None:
        """Tell what has been noted, and once more what could not be told; blocks for a time-out per silent broker."""
        with self._lock:
            noted, self._noted, self._count = self._noted, {}, 0
            again, self._again = self._again, []
        silent: set[str] = set()
        for batch in [*again, *_batches(noted)]:
            batch.attempts += 1
            if batch.broker_name in silent or not self._tell(batch, timeout_ms):
                silent.add(batch.broker_name)
                self._keep(batch)

    def _tell(self, batch: _Batch, timeout_ms: int) -> bool:
        try:
            self._broker.acknowledge_statuses(self._group, batch.broker_name, batch.spans, timeout_ms)
        except RocketMQError as error:
            self._warnings.warning(
                ("status", batch.broker_name), "group %s: broker %s could not be told what has been consumed: %s",
                self._group, batch.broker_name, error,
            )  # fmt: skip
            return False
        return True

    def _keep(self, batch: _Batch) -> None:
        lost = [batch]
        if batch.attempts < ATTEMPTS_MAX:
            with self._lock:
                self._again.append(batch)
                lost, self._again = self._again[:-AGAIN_MAX_COUNT], self._again[-AGAIN_MAX_COUNT:]
        messages = sum(end - first for each in lost for _, first, end in each.spans)
        if messages:
            self._counters.count(Event.STATUS_ACK_LOST, messages)

    def shutdown(self) -> None:
        """Tell the rest, once."""
        if self._scheduler is not None:
            self._scheduler.shutdown()
            self.send(LAST_TIMEOUT_MS)


def _batches(noted: dict[MessageQueue, list[int]]) -> Iterable[_Batch]:
    by_broker: dict[str, list[Span]] = {}
    for mq, offsets in noted.items():
        by_broker.setdefault(mq.broker_name, []).extend(_spans(mq, sorted(offsets)))
    for broker_name, spans in by_broker.items():
        for start in range(0, len(spans), SPANS_MAX_COUNT):
            yield _Batch(broker_name, spans[start : start + SPANS_MAX_COUNT])


def _spans(mq: MessageQueue, offsets: Sequence[int]) -> list[Span]:
    spans: list[Span] = []
    for offset in offsets:
        if spans and offset <= spans[-1][2]:
            spans[-1] = mq, spans[-1][1], max(spans[-1][2], offset + 1)
        else:
            spans.append((mq, offset, offset + 1))
    return spans
