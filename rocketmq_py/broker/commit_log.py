"""Gives messages their places, and writes everything durable in groups: many sends share one sync of the disk.

A group: what came while the last group was being committed is written in one transaction, the commit runs on another
thread, and when it is on the disk every sender is answered. Nobody is told of a message before.

Source: CommitLog and its GroupCommitService, ConsumeQueue; the way of writing is our own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.store import Changes, Head, MessageStore, QueueKey, Row, Write, checksum, head_checksum
from rocketmq_py.broker.store.key_table import KeyRow, key_rows, keys_of
from rocketmq_py.broker.store.message_table import add_queue, begin_queue_at, delete_messages, drop_queue, note_ends
from rocketmq_py.broker.store.timer_table import TimerRow, put_timers
from rocketmq_py.clock import Clock
from rocketmq_py.errors import StoreError
from rocketmq_py.model.message import MessageConst, MessageHead, format_properties
from rocketmq_py.model.unique_id import java_string_hash
from rocketmq_py.remoting.message_codec import encode_stored

PENDING_MAX_BYTES = 64 * 1024 * 1024
"""Bodies that wait for their commit; above, sends are refused. Senders wait for answers, so few get there."""

DISK_RESERVE_BYTES = 128 * 1024 * 1024
"""With less room on the disk, sends are refused until there is more, for a write that fails would end all writing. What
clients commit and what is deleted needs room, too, and the WAL has 64 MiB before it is written back."""

NOTE_ENDS_INTERVAL_MS = 1_000
"""So often the ends of queues are written down, with whatever else is written: SQLite has no checksums, and damage in
an index may hide the end of a queue. Of what is younger nothing tells."""

QUERY_MAX_BYTES = 8 * 1024 * 1024
"""Messages that a query by key finds at most, in bytes: an answer is one frame."""

BUSY_RETRY_MS = 20
"""While another program writes to the store, what waits goes on waiting and is tried again after this."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class MessageInner:
    """A message to be stored. Source: MessageExtBrokerInner.

    Attributes:
        properties: complete, as they are to be stored.
        due_ms: wall ms; what a delay queue is ordered by, in the place of the tag's hash. None for other queues.
        timer_key: of a message that is due as a timer: by what it can be recalled.
        born_host: packed as on the wire.
        prepared_transaction_offset: of a committed message the physical offset of its half message.
    """

    topic: str
    queue_id: int
    body: bytes
    properties: Mapping[str, str]
    flag: int = 0
    sys_flag: int = 0
    born_timestamp: int = 0
    born_host: bytes = bytes(8)
    reconsume_times: int = 0
    due_ms: int | None = None
    timer_key: str | None = None
    prepared_transaction_offset: int = 0


class Place(NamedTuple):
    """Where a message is stored."""

    queue_offset: int
    physical_offset: int


@dataclass(slots=True)
class Queue:
    """A queue in memory. ``next_offset`` counts what is being written, ``max_offset`` what is committed."""

    row: int
    min_offset: int
    max_offset: int
    next_offset: int


class Arrival(NamedTuple):
    """A message that has been committed."""

    key: QueueKey
    queue_offset: int
    tags_code: int
    properties: Mapping[str, str]


Stored = Callable[[StoreError | None], None]


class CommitLog:
    """Owner of queues, of the next row id, and of what waits for a commit. On the loop's thread only.

    Args:
        store_host: address of this broker, packed; part of every message's id.
        on_arrival: told of every message once it is committed.
    """

    def __init__(
        self,
        store: MessageStore,
        loop: Loop,
        clock: Clock,
        store_host: bytes,
        on_arrival: Callable[[Sequence[Arrival]], None],
    ) -> None:
        self._store = store
        self._loop = loop
        self._clock = clock
        self.store_host = store_host
        self._on_arrival = on_arrival
        self._queues: dict[QueueKey, Queue] = {
            key: Queue(state.row, state.min_offset, state.max_offset, state.max_offset)
            for key, state in store.messages.queues().items()
        }
        self._keys = {queue.row: key for key, queue in self._queues.items()}
        self._next_queue_row = store.messages.next_queue_row()
        self._next_id = store.last_id + 1
        self._pending = Changes()
        self._waiting: list[Stored] = []
        self._arrivals: list[tuple[Queue, Arrival]] = []
        self._pending_bytes = 0
        self._committing = False
        self._flush_is_due = False
        self._idle: list[Callable[[], None]] = []
        self._free_bytes: int | None = None
        self._grown: dict[int, Queue] = {}  # by row; since their ends were written down
        self._ends_noted_ms = clock.monotonic_ms()
        self.failure: StoreError | None = None

    # Queues.

    def min_offset(self, key: QueueKey) -> int:
        """First offset of a queue, 0 when it has none."""
        queue = self._queues.get(key)
        return 0 if queue is None else queue.min_offset

    def max_offset(self, key: QueueKey) -> int:
        """One past the last committed offset of a queue."""
        queue = self._queues.get(key)
        return 0 if queue is None else queue.max_offset

    def read(self, key: QueueKey, offset: int, count: int) -> list[tuple[int, bytes]]:
        """Committed messages from an offset on: (queue offset, data). Raises ``StoreError``."""
        row, there = self._there(key, offset, count)
        return self._store.messages.read(row, offset, there) if there else []

    def scan(self, key: QueueKey, offset: int, count: int) -> list[tuple[int, int, int]]:
        """(queue offset, physical offset, tags code) from an offset on. Raises ``StoreError``."""
        row, there = self._there(key, offset, count)
        return self._store.messages.scan(row, offset, there) if there else []

    def _there(self, key: QueueKey, offset: int, count: int) -> tuple[int, int]:
        """A queue's row, and how many messages it has from an offset on, which has perhaps been deleted."""
        queue = self._queues.get(key)
        if queue is None or offset < queue.min_offset:
            return 0, 0
        return queue.row, max(min(count, queue.max_offset - offset), 0)

    def look_message_by_offset(self, physical_offset: int) -> bytes | None:
        """One committed message. Raises ``StoreError``."""
        return self._store.messages.by_id(physical_offset)

    def query_message(self, topic: str, key: str, count: int, begin_ms: int, end_ms: int) -> list[bytes]:
        """The newest committed messages with a key, stored within a span of time. Raises ``StoreError``."""
        found: list[bytes] = []
        size = 0
        for row_id in self._store.keys.find(topic, key, count, begin_ms, end_ms):
            data = self._store.messages.by_id(row_id) or b""
            size += len(data)
            if found and size > QUERY_MAX_BYTES:
                break
            found.append(data)
        return found

    def stored_ms(self, key: QueueKey, offset: int) -> int | None:
        """When the message at an offset was stored, wall ms; None where there is none. Raises ``StoreError``."""
        queue = self._queues.get(key)
        return None if queue is None else self._store.messages.stored_ms(queue.row, offset)

    def places(self, key: QueueKey, offset: int, count: int) -> list[tuple[int, int, int]]:
        """(physical offset, bytes, tags code) from an offset on. Raises ``StoreError``."""
        queue = self._queues.get(key)
        return [] if queue is None else self._store.messages.places(queue.row, offset, count)

    def stored_between(self) -> tuple[int, int] | None:
        """When the oldest and the newest message came, wall ms; None when there is none. Raises ``StoreError``."""
        return self._store.messages.stored_between()

    @property
    def last_id(self) -> int:
        """Physical offset of the newest committed message."""
        return self._store.last_id

    def search_offset(self, key: QueueKey, timestamp_ms: int) -> int:
        """First offset stored at or after a moment; the queue's end when there is none. Raises ``StoreError``."""
        queue = self._queues.get(key)
        if queue is None:
            return 0
        low, high = queue.min_offset, queue.max_offset
        while low < high:
            middle = (low + high) // 2
            stored_ms = self._store.messages.stored_ms(queue.row, middle)
            if stored_ms is not None and stored_ms < timestamp_ms:
                low = middle + 1
            else:
                high = middle
        return low

    # Writing.

    @property
    def is_busy(self) -> bool:
        """Whether too much waits for its commit already."""
        return self._pending_bytes > PENDING_MAX_BYTES

    @property
    def is_disk_full(self) -> bool:
        """Whether the disk has too little room for messages."""
        return self._free_bytes is not None and self._free_bytes < DISK_RESERVE_BYTES

    def note_free_bytes(self, count: int) -> None:
        """Hear what the disk has room for."""
        was_full, self._free_bytes = self.is_disk_full, count
        if self.is_disk_full and not was_full:
            _log.error("the disk has room for %s bytes: messages are refused below %s", count, DISK_RESERVE_BYTES)
        elif was_full and not self.is_disk_full:
            _log.warning("the disk has room again: messages are taken")

    def put(self, messages: Sequence[MessageInner], stored: Stored, writes: Iterable[Write] = ()) -> list[Place]:
        """Store messages, and whole or not at all what belongs to them.

        Args:
            messages: get their places at once, in this order.
            stored: called when they are on the disk, with the error if they never will be.
            writes: what else is to be committed together with the messages.

        Raises:
            ConfigError, struct.error: a message does not fit the format; none is stored.
        """
        now_ms = self._clock.wall_ms()
        rows: list[Row] = []
        places: list[Place] = []
        keys: list[KeyRow] = []
        arrivals: list[tuple[Queue, Arrival]] = []
        timers: list[TimerRow] = []
        used: dict[QueueKey, int] = {}
        for message in messages:
            key = QueueKey(message.topic, message.queue_id)
            queue = self._queues.get(key) or self._add_queue(key)
            place = Place(used.get(key, queue.next_offset), self._next_id + len(rows))
            data = encode_stored(
                MessageHead(
                    0, 0, 0, message.queue_id, message.flag, place.queue_offset, place.physical_offset,
                    message.sys_flag, message.born_timestamp, message.born_host, now_ms, self.store_host,
                    message.reconsume_times, message.prepared_transaction_offset,
                ),
                message.topic, message.body, format_properties(message.properties),
            )  # fmt: skip
            tags = message.properties.get(MessageConst.TAGS)
            tags_code = message.due_ms if message.due_ms is not None else java_string_hash(tags) if tags else 0
            crc = checksum(queue.row, place.queue_offset, data) | head_checksum(tags_code, now_ms)
            rows.append(Row(place.physical_offset, queue.row, place.queue_offset, tags_code, now_ms, crc, data))
            places.append(place)
            if message.timer_key is not None and message.due_ms is not None:
                timers.append(TimerRow(message.due_ms, place.physical_offset, message.timer_key))
            used[key] = place.queue_offset + 1
            arrivals.append((queue, Arrival(key, place.queue_offset, tags_code, message.properties)))
            keys += key_rows(message.topic, keys_of(message.properties), place.physical_offset)
        for key, next_offset in used.items():
            self._queues[key].next_offset = next_offset
        self._next_id += len(rows)
        self._pending.rows += rows
        self._pending.keys += keys
        self._pending_bytes += sum(len(row.data) for row in rows)
        self._arrivals += arrivals
        self.write([*writes, put_timers(timers)] if timers else writes, stored)
        return places

    def _add_queue(self, key: QueueKey) -> Queue:
        queue = self._queues[key] = Queue(self._next_queue_row, 0, 0, 0)
        self._keys[queue.row] = key
        self._pending.writes.append(add_queue(queue.row, key))
        self._next_queue_row += 1
        return queue

    def write(self, writes: Iterable[Write], stored: Stored) -> None:
        """Store anything else, in this order and whole or not at all; ``stored`` as in ``put``."""
        self._pending.writes += writes
        self._wait(stored)

    def queue_in_row(self, row: int) -> tuple[QueueKey, int] | None:
        """Which queue a row of the store is, and its first offset; None for one that was dropped."""
        key = self._keys.get(row)
        return None if key is None else (key, self._queues[key].min_offset)

    def cut(self, heads: Sequence[Head], begins: Mapping[int, int]) -> list[Write]:
        """Let messages go with which queues begin. From now on nobody is given them.

        Args:
            heads: the messages.
            begins: where the queues begin then, by their rows.
        """
        for row, offset in begins.items():
            self._queues[self._keys[row]].min_offset = offset
        return [*delete_messages(heads), *(begin_queue_at(row, offset) for row, offset in begins.items())]

    def delete_queues(self, topic: str, stored: Stored) -> None:
        """Forget all queues of a topic; their messages go soon. What is sent to it from now on begins at offset 0."""
        dropped = [self._queues.pop(key) for key in [key for key in self._queues if key.topic == topic]]
        for queue in dropped:
            del self._keys[queue.row]
            self._grown.pop(queue.row, None)
        self.write([drop_queue(queue.row) for queue in dropped], stored)

    def note_ends(self) -> None:
        """Write down where the queues end; otherwise that is done with the first write after a second."""
        self._note_ends(now=True)
        if self._pending:
            self._wait(lambda error: None)

    def when_idle(self, job: Callable[[], None]) -> None:
        """Run a job once nothing waits for a commit any more."""
        if self._committing or self._flush_is_due:
            self._idle.append(job)
        else:
            job()

    def _wait(self, stored: Stored) -> None:
        self._waiting.append(stored)
        if not self._committing and not self._flush_is_due:
            # Not now: what else arrived with this request joins the group.
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        error = self.failure
        if self._pending:
            self._note_ends()
        if error is None and self._pending:
            try:
                if not self._store.begin():
                    self._flush_is_due = True
                    self._loop.call_later(BUSY_RETRY_MS, self._flush)
                    return
            except StoreError as failure:
                error = failure
        changes, self._pending = self._pending, Changes()
        waiting, self._waiting = self._waiting, []
        arrivals, self._arrivals = self._arrivals, []
        flushed_bytes, last_id = self._pending_bytes, self._next_id - 1
        if error is None and changes:
            try:
                self._store.write(changes)
            except StoreError as failure:
                error = failure
        if error is not None or not changes:
            self._committed(error, waiting, arrivals, flushed_bytes)
            return
        self._committing = True

        def done(failure: Exception | None) -> None:
            self._committing = False
            self._committed(failure, waiting, arrivals, flushed_bytes)

        self._loop.run_blocking(lambda: self._store.commit(last_id), done)

    def _note_ends(self, *, now: bool = False) -> None:
        due_ms = self._ends_noted_ms + NOTE_ENDS_INTERVAL_MS
        if self._grown and (now or self._clock.monotonic_ms() >= due_ms):
            self._ends_noted_ms = self._clock.monotonic_ms()
            grown, self._grown = self._grown, {}
            self._pending.writes.append(note_ends([(row, queue.max_offset) for row, queue in grown.items()]))

    def _committed(
        self,
        error: Exception | None,
        waiting: Sequence[Stored],
        arrivals: Sequence[tuple[Queue, Arrival]],
        flushed_bytes: int,
    ) -> None:
        self._pending_bytes -= flushed_bytes
        told = None if error is None else self._fail(error)
        if told is None:
            for queue, arrival in arrivals:
                queue.max_offset = arrival.queue_offset + 1
                self._grown[queue.row] = queue
        for stored in waiting:
            try:
                stored(told)
            except Exception:  # noqa: BLE001 - border: one sender's answer must not cost the others theirs
                _log.exception("telling a sender that its message is stored failed")
        if told is None and arrivals:
            self._on_arrival([arrival for _, arrival in arrivals])
        if self._waiting and not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        elif not self._waiting:
            idle, self._idle = self._idle, []
            for job in idle:
                job()

    def _fail(self, error: Exception) -> StoreError:
        """Nothing is written any more: what the disk has after a failed sync nobody knows before it is read again."""
        if self.failure is None:
            _log.critical("the store failed, nothing more is stored until the broker is started again: %s", error)
            self.failure = StoreError(f"nothing more is stored until the broker is started again: {error}")
            try:
                self._store.rollback()
            except StoreError as failure:
                _log.warning("undoing the last group failed, too: %s", failure)
        return self.failure
