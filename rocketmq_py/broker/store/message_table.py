"""Messages and the queues that they stand in.

A row's id is the message's physical offset. Its data are the bytes that go to consumers, so a pull only copies them,
and a CRC over them and their place is checked whenever they are read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rocketmq_py.broker.store.database import Database, Write
from rocketmq_py.errors import StoreError
from rocketmq_py.model.message import MessageHead

NEWEST_COUNT = 10_000
"""So many messages are compared with the ends of their queues at an opening; older ones lie before the ends noted."""


class QueueKey(NamedTuple):
    """A queue of this broker."""

    topic: str
    queue_id: int


class Row(NamedTuple):
    """A message to write."""

    id: int
    queue: int
    queue_offset: int
    tags_code: int
    stored_ms: int
    crc: int
    data: bytes


class Head(NamedTuple):
    """A message without its data."""

    id: int
    queue: int
    queue_offset: int
    stored_ms: int
    size: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the store has of one queue: its row in ``queue``, first and next offset."""

    row: int
    min_offset: int
    max_offset: int


def checksum(queue: int, queue_offset: int, data: bytes) -> int:
    """The low half of ``crc``. A damaged index may lead to another whole message: the place belongs to it, too."""
    return zlib.crc32(data, zlib.crc32(b"%d %d" % (queue, queue_offset)))


def head_checksum(tags_code: int, stored_ms: int) -> int:
    """The high half: of what is looked at without the data. Rows that were written before there was one have 0."""
    return (zlib.crc32(b"%d %d" % (tags_code, stored_ms)) & 0x3FFFFFFF | 0x40000000) << 32


def is_whole(queue: int, queue_offset: int, data: bytes, crc: int) -> bool:
    """Whether data and place are what was written."""
    return crc & 0xFFFFFFFF == checksum(queue, queue_offset, data)


def is_head_whole(tags_code: int, stored_ms: int, crc: int) -> bool:
    """Whether tag and time are what was written, as far as that is known."""
    high = crc & ~0xFFFFFFFF
    return not high or high == head_checksum(tags_code, stored_ms)


def add_messages(rows: Iterable[Row]) -> Write:
    """New messages."""
    return Write("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def add_queue(row: int, key: QueueKey) -> Write:
    """A new queue."""
    return Write("INSERT INTO queue VALUES (?1, ?2, ?3, 0, 0, checksum(?1, ?2, ?3, 0, 0))", [(row, *key)])


def delete_messages(heads: Sequence[Head]) -> list[Write]:
    """Messages go, and that they were there is noted: their ids are never given again."""
    return [
        Write("DELETE FROM message WHERE id = ?", [(head.id,) for head in heads]),
        Write(
            "UPDATE deleted SET last_id = ?1, crc = checksum(?1) WHERE last_id < ?1",
            [(max(head.id for head in heads),)],
        ),
    ]


def begin_queue_at(row: int, offset: int) -> Write:
    """What a queue has from now on begins there."""
    return Write(
        "UPDATE queue SET min_offset = ?2, crc = checksum(id, topic, queue_id, ?2, known_end) WHERE id = ?1",
        [(row, offset)],
    )


def note_ends(ends: Iterable[tuple[int, int]]) -> Write:
    """Queues, by row, end where they end now, or behind it."""
    return Write(
        "UPDATE queue SET known_end = ?2, crc = checksum(id, topic, queue_id, min_offset, ?2) WHERE id = ?1", ends
    )


def drop_queue(row: int) -> Write:
    """A queue that nobody can name any more. Its row stays until its messages are gone, so that no other gets it."""
    return Write(
        "UPDATE queue SET topic = '', queue_id = id, crc = checksum(id, '', id, min_offset, known_end) WHERE id = ?",
        [(row,)],
    )


def forget_queue(row: int) -> Write:
    """The row of a dropped queue goes."""
    return Write("DELETE FROM queue WHERE id = ?", [(row,)])


class MessageTable:
    """Reads messages and queues."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._query = database.query

    def queues(self) -> dict[QueueKey, QueueState]:
        """All queues that ever had a message, not those dropped.

        Raises:
            StoreError: also when a queue's beginning is missing, or its end as far as it is noted.
        """
        rows = self._database.intact(
            "SELECT id, queue_id, min_offset, "
            "coalesce((SELECT min(queue_offset) FROM message WHERE queue = queue.id), min_offset), "
            "coalesce((SELECT max(queue_offset) FROM message WHERE queue = queue.id), min_offset - 1), "
            "known_end, topic, crc = checksum(id, topic, queue_id, min_offset, known_end) FROM queue"
        )
        self._check_queues([row[0] for row in rows])
        # Those dropped are left out here and not by the query, which could not tell one from a damaged row.
        rows = [row for row in rows if row[-1] != ""]
        self._database.check_integers(row[3:5] for row in rows)
        newest = self._newest()
        found: dict[QueueKey, QueueState] = {}
        for row, queue_id, begin, low, high, noted_end, topic in rows:
            known_end = max(noted_end, newest.get(row, -1) + 1)
            if begin != low or high + 1 < known_end:
                raise self._database.damaged(
                    f"queue {queue_id} of the topic {topic} had messages from {begin} to {known_end - 1} or further, "
                    f"it has them from {low} to {high}"
                )
            found[QueueKey(topic, queue_id)] = QueueState(row, low, high + 1)
        return found

    def _check_queues(self, rows: list[int]) -> None:
        """Refuse a table of queues that leads to one of them twice, or not to one that has messages."""
        of_messages = self._query(
            "WITH RECURSIVE each(row) AS ("
            "  SELECT min(queue) FROM message"
            "  UNION ALL SELECT (SELECT min(queue) FROM message WHERE queue > row) FROM each WHERE row IS NOT NULL) "
            "SELECT row FROM each WHERE row IS NOT NULL"
        )
        if len({*rows}) < len(rows) or not {row for (row,) in of_messages} <= {*rows}:
            raise self._database.damaged("the row of a queue is not found")

    def _newest(self) -> dict[int, int]:
        """By the row of a queue, its last offset among the newest messages, found without the index."""
        rows = self._query(
            "SELECT queue, max(queue_offset) FROM "
            "(SELECT queue, queue_offset FROM message NOT INDEXED ORDER BY id DESC LIMIT ?) GROUP BY queue",
            (NEWEST_COUNT,),
        )
        self._database.check_integers(rows)
        return dict(rows)

    def places(self, queue: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        """Where messages lie: (row id, bytes, tags code)."""
        rows = self._query(
            "SELECT id, length(data), tags_code, stored_ms, crc FROM message WHERE queue = ? AND queue_offset >= ? "
            "ORDER BY queue_offset LIMIT ?",
            (queue, offset, count),
        )
        return [(row_id, size, self._tags_code(*head)) for row_id, size, *head in rows]

    def stored_between(self) -> tuple[int, int] | None:
        """When the oldest and the newest message came, wall ms; None when there is none."""
        rows = self._query(
            "SELECT stored_ms FROM message WHERE id IN "
            "((SELECT min(id) FROM message), (SELECT max(id) FROM message)) ORDER BY id"
        )
        self._database.check_integers(rows)
        return (rows[0][0], rows[-1][0]) if rows else None

    def read(self, queue: int, offset: int, count: int) -> list[tuple[int, bytes]]:
        """So many messages of a queue from ``offset`` on, which must be there: (queue offset, data)."""
        rows = self._query(
            "SELECT queue_offset, crc, data FROM message WHERE queue = ? AND queue_offset >= ? "
            "ORDER BY queue_offset LIMIT ?",
            (queue, offset, count),
        )
        self._check_complete([row[0] for row in rows], offset, count)
        return [(place, self._intact(data, crc, queue, place)) for place, crc, data in rows]

    def scan(self, queue: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        """The same, with what is needed to filter: (queue offset, row id, tags code)."""
        # The row's own place is compared with the index: nothing else tells of one that leads to another row.
        rows = self._query(
            "SELECT message.queue_offset, message.id, message.tags_code, message.stored_ms, message.crc FROM "
            "(SELECT id, queue_offset FROM message WHERE queue = ?1 AND queue_offset >= ?2 "
            "ORDER BY queue_offset LIMIT ?3) AS found "
            "CROSS JOIN message NOT INDEXED ON message.id = found.id "
            "WHERE message.queue = ?1 AND message.queue_offset = found.queue_offset",
            (queue, offset, count),
        )
        self._check_complete([row[0] for row in rows], offset, count)
        return [(place, row_id, self._tags_code(*head)) for place, row_id, *head in rows]

    def _tags_code(self, tags_code: int, stored_ms: int, crc: int) -> int:
        self._check_head(tags_code, stored_ms, crc)
        return tags_code

    def _check_head(self, tags_code: int, stored_ms: int, crc: int) -> None:
        self._database.check_integers([(tags_code, stored_ms, crc)])
        if not is_head_whole(tags_code, stored_ms, crc):
            raise self._database.damaged("the checksum of the tag and the time of a message is wrong")

    def _check_complete(self, found: list[int], offset: int, count: int) -> None:
        if found != list(range(offset, offset + count)):
            missing = min({*range(offset, offset + count)} - {*found}, default=offset)
            raise self._database.damaged(f"the message at {missing} of a queue is not found")

    def heads(self, after_id: int, count: int) -> list[Head]:
        """Messages by age, the oldest first, from an id on that is not among them."""
        return self._heads("id > ? ORDER BY id LIMIT ?", after_id, count)

    def heads_of(self, queue: int, count: int) -> list[Head]:
        """The first messages of a queue."""
        return self._heads("queue = ? ORDER BY queue_offset LIMIT ?", queue, count)

    def _heads(self, which: str, *values: int) -> list[Head]:
        rows = self._query(
            f"SELECT id, queue, queue_offset, stored_ms, length(data) FROM message WHERE {which}",  # noqa: S608
            values,
        )
        self._database.check_integers(rows)
        return [Head(*row) for row in rows]

    def dropped_queues(self) -> list[int]:
        """Rows of the queues that were dropped."""
        return [row for (row,) in self._query("SELECT id FROM queue WHERE topic = ''")]

    def next_queue_row(self) -> int:
        """A row for a new queue: none that any message names."""
        ((row,),) = self._query(
            "SELECT 1 + max((SELECT coalesce(max(id), 0) FROM queue), (SELECT coalesce(max(queue), 0) FROM message))"
        )
        self._database.check_integers([(row,)])
        return int(row)

    def by_id(self, row_id: int) -> bytes | None:
        """One message by its physical offset."""
        rows = self._query("SELECT data, crc, queue, queue_offset FROM message WHERE id = ?", (row_id,))
        if not rows:
            return None
        data = self._intact(*rows[0])
        if MessageHead.unpack(data).commit_log_offset != row_id:
            raise self._database.damaged("a message is found in the place of another")
        return data

    def stamped_ms(self, head: Head) -> int:
        """When a message was stored, wall ms, as it says itself, which has a checksum; a damaged one says nothing."""
        try:
            data = self.by_id(head.id)
        except StoreError:
            data = None
        return head.stored_ms if data is None else MessageHead.unpack(data).store_timestamp

    def stored_ms(self, queue: int, offset: int) -> int | None:
        """When the message at an offset was stored, wall ms; None where there is none."""
        rows = self._query(
            "SELECT tags_code, stored_ms, crc FROM message WHERE queue = ? AND queue_offset = ?", (queue, offset)
        )
        if not rows:
            return None
        self._check_head(*rows[0])
        return int(rows[0][1])

    def _intact(self, data: bytes, crc: int, queue: int, queue_offset: int) -> bytes:
        self._database.check_integers([(queue, queue_offset, crc)])
        if not isinstance(data, bytes) or not is_whole(queue, queue_offset, data, crc):
            raise self._database.damaged(f"the checksum of the message at {queue_offset} of a queue is wrong")
        return data
