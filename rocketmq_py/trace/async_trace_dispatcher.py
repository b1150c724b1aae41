"""Collects trace contexts and sends them in the background; what it cannot keep up with is discarded and counted.

Source: AsyncTraceDispatcher.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex, Runtime
from rocketmq_py.trace.trace_context import TraceContext
from rocketmq_py.trace.trace_data_encoder import TraceRecord, encode_records

QUEUE_MAX = 2_048
"""Contexts that wait; further ones are discarded."""
BATCH_MAX = 20
"""Contexts of one send, whatever was configured."""
SENDERS = 2
FLUSH_INTERVAL_MS = 5_000
"""Fewer contexts than a batch are sent when nothing was sent for longer."""
LOOK_INTERVAL_MS = 1_000
"""How exactly that is kept."""
SHUTDOWN_MS = 5_000
MESSAGE_MAX_BYTES = 128_000
KEYS_MAX_BYTES = 30_000
"""Keys of one message: all its properties together may have 32,767 bytes."""

_log = logging.getLogger(__name__)

Send = Callable[[str, bytes, str], object]
"""``send(topic, body, keys)``: sends one message and waits until it is stored; raises when it is not."""


class TraceMessage(NamedTuple):
    """Records that are sent together, and their keys separated by spaces."""

    body: bytes
    keys: str


class AsyncTraceDispatcher:
    """Takes contexts from any thread and has ``SENDERS`` threads of its own send them.

    Lock: ``_lock`` guards the queue, the counts and ``_stopped``; nothing is sent while it is held.

    Args:
        name: of the group; part of the threads' names.
        topic: where to send to.
        batch_num: contexts of one send, at most ``BATCH_MAX``.
        send: sends one message; called on the threads of this object.
        on_lost: told how many contexts were discarded, or were in a send that failed.
    """

    def __init__(
        self, name: str, topic: str, batch_num: int, runtime: Runtime, send: Send, on_lost: Callable[[int], object]
    ) -> None:
        self.topic = topic
        self._batch_num = min(batch_num, BATCH_MAX)
        self._send = send
        self._on_lost = on_lost
        self._now_ms = runtime.clock.monotonic_ms
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()
        self._contexts: deque[TraceContext] = deque()
        self._sending = 0  # senders at work
        self._last_send_ms = self._now_ms()
        self._stopped = False
        self._pool = runtime.worker_pool(f"MQTraceSendThread_{name[:100]}_", SENDERS, self._send_waiting)
        self._timer = runtime.scheduler(f"MQ-AsyncArrayDispatcher-Thread_{name[:100]}")
        self._timer.schedule_at_fixed_rate(LOOK_INTERVAL_MS, LOOK_INTERVAL_MS, self._look)

    def append(self, context: TraceContext) -> bool:
        """Take a context; never blocks. False: it was discarded, because too many wait or the dispatcher has ended.

        Behaviour: TR-02, TR-03.
        """
        with self._lock:
            taken = not self._stopped and len(self._contexts) < QUEUE_MAX
            if taken:
                self._contexts.append(context)
            start = taken and len(self._contexts) >= self._batch_num and self._sending < SENDERS
            self._sending += start
        if start:
            self._pool.submit(self._batch_num)
        if not taken:
            self._lost(1, "they come faster than they can be sent, or after the end")
        return taken

    def _look(self) -> None:
        """Behaviour: TR-04."""
        with self._lock:
            overdue = self._now_ms() - self._last_send_ms > FLUSH_INTERVAL_MS
            start = overdue and len(self._contexts) > 0 and self._sending < SENDERS
            self._sending += start
        if start:
            self._pool.submit(1)

    def shutdown(self) -> None:
        """Take no more and send what waits, for ``SHUTDOWN_MS`` at most; the rest is discarded.

        Behaviour: TR-05.
        """
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._sending += 1
        self._timer.shutdown()
        self._pool.submit(1)
        self._pool.shutdown(SHUTDOWN_MS)
        with self._lock:
            left = len(self._contexts)
            self._contexts.clear()
        if left:
            self._lost(left, f"they could not be sent within {SHUTDOWN_MS} ms at the end")

    def _send_waiting(self, least: int) -> None:
        """Send batch after batch while at least so many contexts wait."""
        while (batch := self._take(least)) is not None:
            messages, too_large = _messages(batch)
            if too_large:
                self._lost(too_large, "no message can hold them")
            for message in messages:
                try:
                    self._send(self.topic, message.body, message.keys)
                except Exception as error:  # noqa: BLE001 - border: no error of tracing may reach what is traced
                    self._lost(len(batch), str(error))
                    break

    def _take(self, least: int) -> list[TraceContext] | None:
        with self._lock:
            if len(self._contexts) < least:
                self._sending -= 1
                return None
            self._last_send_ms = self._now_ms()
            return [self._contexts.popleft() for _ in range(min(self._batch_num, len(self._contexts)))]

    def _lost(self, contexts: int, why: str) -> None:
        self._on_lost(contexts)
        self._warnings.warning("lost", "%s trace contexts for %s are lost: %s", contexts, self.topic, why)


def _messages(batch: Iterable[TraceContext]) -> tuple[list[TraceMessage], int]:
    """Messages of one original topic each, no larger than brokers take; how many records are larger by themselves.

    Java ends a message behind the context that made it too large: one of a large consume batch is lost (deviations).

    Behaviour: TR-06. Source: AsyncTraceDispatcher.AsyncDataSendTask.
    """
    by_topic: defaultdict[str, list[TraceRecord]] = defaultdict(list)
    too_large = 0
    for context in batch:
        if context.region_id is not None and context.trace_beans:
            for record in encode_records(context):
                if len(_bytes(record.data)) > MESSAGE_MAX_BYTES or _keys_size(record) > KEYS_MAX_BYTES:
                    too_large += 1
                else:
                    by_topic[context.trace_beans[0].topic].append(record)
    return [message for records in by_topic.values() for message in _packed(records)], too_large


def _packed(records: Iterable[TraceRecord]) -> Iterator[TraceMessage]:
    parts: list[bytes] = []
    keys: dict[str, None] = {}  # in order, each once
    size = keys_size = 0
    for record in records:
        data, more_keys_size = _bytes(record.data), _keys_size(record)
        if parts and (size + len(data) > MESSAGE_MAX_BYTES or keys_size + more_keys_size > KEYS_MAX_BYTES):
            yield TraceMessage(b"".join(parts), " ".join(keys))
            parts, keys, size, keys_size = [], {}, 0, 0
        parts.append(data)
        keys.update(dict.fromkeys(record.keys))
        size += len(data)
        keys_size += more_keys_size
    if parts:
        yield TraceMessage(b"".join(parts), " ".join(keys))


def _keys_size(record: TraceRecord) -> int:
    """With a space behind each."""
    return len(_bytes(" ".join(record.keys))) + 1


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
