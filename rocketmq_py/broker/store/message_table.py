"""Messages and the queues that they stand in.

A row's id is the message's physical offset. Its data are the bytes that go to consumers, so a pull only copies them,
and a CRC over them and their place is checked whenever they are read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rocketmq_py.broker.store.database import Database, Write


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


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the store has of one queue: its row in ``queue``, first and next offset."""

    row: int
    min_offset: int
    max_offset: int


def checksum(queue: int, queue_offset: int, data: bytes) -> int:
    """What a row has in ``crc``. A damaged index may lead to another whole message: the place belongs to it, too."""
    return zlib.crc32(data, zlib.crc32(b"%d %d" % (queue, queue_offset)))


def add_messages(rows: Iterable[Row]) -> Write:
    """New messages."""
    return Write("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def add_queue(row: int, key: QueueKey) -> Write:
    """A new queue."""
    return Write("INSERT INTO queue VALUES (?1, ?2, ?3, 0, checksum(?1, ?2, ?3, 0))", [(row, *key)])


def delete_queues(rows: Iterable[int]) -> Write:
    """Queues that are to be forgotten. Their messages stay, as upstream's do, until they are old."""
    return Write("DELETE FROM queue WHERE id = ?", [(row,) for row in rows])


class MessageTable:
    """Reads messages and queues."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._query = database.query

    def queues(self) -> dict[QueueKey, QueueState]:
        """All queues that ever had a message. Raises ``StoreError``, also when a queue's beginning is missing."""
        rows = self._database.intact(
            "SELECT id, queue_id, min_offset, "
            "coalesce((SELECT min(queue_offset) FROM message WHERE queue = queue.id), min_offset), "
            "coalesce((SELECT max(queue_offset) FROM message WHERE queue = queue.id), min_offset - 1), topic, "
            "crc = checksum(id, topic, queue_id, min_offset) FROM queue"
        )
        self._database.check_integers(row[3:5] for row in rows)
        found: dict[QueueKey, QueueState] = {}
        for row, queue_id, begin, low, high, topic in rows:
            if begin != low:
                raise self._database.damaged(
                    f"queue {queue_id} of the topic {topic} begins at {begin}, its first message is at {low}"
                )
            found[QueueKey(topic, queue_id)] = QueueState(row, low, high + 1)
        return found

    def highest_queue(self) -> int:
        """The highest row that a queue has or had, 0 for none: messages of forgotten ones keep their numbers."""
        rows = self._query("SELECT max((SELECT coalesce(max(id), 0) FROM queue), coalesce(max(queue), 0)) FROM message")
        self._database.check_integers(rows)
        return int(rows[0][0])

    def places(self, queue: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        """Where messages lie: (row id, bytes, tags code)."""
        rows: list[tuple[int, int, int]] = self._query(
            "SELECT id, length(data), tags_code FROM message WHERE queue = ? AND queue_offset >= ? "
            "ORDER BY queue_offset LIMIT ?",
            (queue, offset, count),
        )
        self._database.check_integers(rows)
        return rows

    def stored_between(self) -> tuple[int, int] | None:
        """When the oldest and the newest message came, wall ms; None when there is none."""
        rows = self._query(
            "SELECT stored_ms FROM message WHERE id IN "
            "((SELECT min(id) FROM message), (SELECT max(id) FROM message)) ORDER BY id"
        )
        self._database.check_integers(rows)
        return (rows[0][0], rows[-1][0]) if rows else None

    def read(self, queue: int, offset: int, count: int) -> list[tuple[int, bytes]]:
        """Messages of a queue from ``offset`` on: (queue offset, data). The first one must not be above ``offset``."""
        rows = self._query(
            "SELECT queue_offset, crc, data FROM message WHERE queue = ? AND queue_offset >= ? "
            "ORDER BY queue_offset LIMIT ?",
            (queue, offset, count),
        )
        for expected, (place, _, _) in enumerate(rows, offset):
            if place != expected:
                raise self._database.damaged(f"the message at {expected} of a queue is not found")
        return [(place, self._intact(data, crc, queue, place)) for place, crc, data in rows]

    def scan(self, queue: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        """What is needed to filter: (queue offset, row id, tags code)."""
        rows: list[tuple[int, int, int]] = self._query(
            "SELECT queue_offset, id, tags_code FROM message WHERE queue = ? AND queue_offset >= ? "
            "ORDER BY queue_offset LIMIT ?",
            (queue, offset, count),
        )
        self._database.check_integers(rows)
        return rows

    def by_id(self, row_id: int) -> bytes | None:
        """One message by its physical offset."""
        rows = self._query("SELECT data, crc, queue, queue_offset FROM message WHERE id = ?", (row_id,))
        return self._intact(*rows[0]) if rows else None

    def stored_ms(self, queue: int, offset: int) -> int | None:
        """When the message at an offset was stored, wall ms; None where there is none."""
        rows = self._query("SELECT stored_ms FROM message WHERE queue = ? AND queue_offset = ?", (queue, offset))
        self._database.check_integers(rows)
        return rows[0][0] if rows else None

    def _intact(self, data: bytes, crc: int, queue: int, queue_offset: int) -> bytes:
        self._database.check_integers([(queue, queue_offset)])
        if not isinstance(data, bytes) or checksum(queue, queue_offset, data) != crc:
            raise self._database.damaged("a message's checksum is wrong")
        return data
