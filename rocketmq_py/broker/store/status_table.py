"""What has become of messages: how they stand now, and every change before, both as runs of neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from rocketmq_py.broker.store.database import Database, Write
from rocketmq_py.broker.store.message_table import QueueKey

SPAN_MAX_COUNT = 1_024
"""Messages of a row of the history, at most: so those about one message are found without looking at all."""

CHANGES_MAX_COUNT = 5_000
"""Rows of the history that are looked at to tell that of one message: it may have been given again and again."""

LAST_MAX_COUNT = 1_000
"""The same to tell its last change: that is asked of many messages at once."""


class StatusRow(NamedTuple):
    """Messages of a queue that stand alike for a group: offsets from ``first`` on, before ``end``."""

    consumer_group: str
    topic: str
    queue_id: int
    first: int
    end: int
    status: str
    attempt: int


class HistoryRow(NamedTuple):
    """A change of messages that stood alike. ``at_ms``: wall ms."""

    consumer_group: str
    topic: str
    queue_id: int
    first: int
    end: int
    status: str
    attempt: int
    at_ms: int


def put_statuses(rows: Iterable[StatusRow]) -> Write:
    """How messages stand, by the first of them."""
    return Write(
        "INSERT OR REPLACE INTO message_status "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, checksum(?1, ?2, ?3, ?4, ?5, ?6, ?7))",
        rows,
    )


def delete_statuses(firsts: Iterable[tuple[str, str, int, int]]) -> Write:
    """What is no run any more, by group, topic, queue id and first offset."""
    return Write(
        "DELETE FROM message_status WHERE consumer_group = ? AND topic = ? AND queue_id = ? AND first = ?", firsts
    )


def add_history(rows: Iterable[HistoryRow]) -> Write:
    """Changes, in order."""
    return Write(
        "INSERT INTO status_history VALUES "
        "(NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, checksum(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8))",
        [
            row._replace(first=first, end=min(first + SPAN_MAX_COUNT, row.end))
            for row in rows
            for first in range(row.first, row.end, SPAN_MAX_COUNT)
        ],
    )


def delete_history_of(key: QueueKey, below: int) -> Write:
    """Changes of messages of a queue that are no more."""
    return Write(
        "DELETE FROM status_history WHERE topic = ? AND queue_id = ? AND first < ? AND until <= ?",
        [(*key, below, below)],
    )


def keep_history(count: int) -> Write:
    """Forget all but the last changes."""
    return Write("DELETE FROM status_history WHERE id <= (SELECT max(id) FROM status_history) - ?", [(count,)])


class StatusTable:
    """Reads statuses. Every method raises ``StoreError``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def statuses(self) -> list[StatusRow]:
        """All of them, by group and queue, ascending."""
        return self._statuses("ORDER BY consumer_group, topic, queue_id, first", ())

    def with_status(self, group: str, status: str, start: tuple[str, int, int], count: int) -> list[StatusRow]:
        """Those of a group that stand so, from (topic, queue id, first offset) on."""
        return self._statuses(
            "WHERE consumer_group = ? AND status = ? AND (topic, queue_id, first) >= (?, ?, ?) "
            "ORDER BY topic, queue_id, first LIMIT ?",
            (group, status, *start, count),
        )

    def snapshot(self) -> AbstractContextManager[None]:
        """See ``Database.snapshot``."""
        return self._database.snapshot()

    def of_message(self, group: str, key: QueueKey, offset: int) -> StatusRow | None:
        """The run that a message is in; None when it is in none."""
        rows = self._statuses(
            "WHERE consumer_group = ? AND topic = ? AND queue_id = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            (group, *key, offset),
        )
        return next((row for row in rows if row.end > offset), None)

    def _statuses(self, condition: str, values: tuple[str | int, ...]) -> list[StatusRow]:
        columns = "consumer_group, topic, queue_id, first, until, status, attempt"
        query = f"SELECT {columns}, crc = checksum({columns}) FROM message_status {condition}"  # noqa: S608
        return [StatusRow._make(row) for row in self._database.intact(query, values)]

    def history(self, key: QueueKey, offset: int) -> list[HistoryRow]:
        """Changes of one message for all groups, in order; if there are very many, not the oldest."""
        return self._changes(key, offset, CHANGES_MAX_COUNT, "ORDER BY id", ())

    def last_change(self, group: str, key: QueueKey, offset: int) -> HistoryRow | None:
        """The last change of one message for one group; None when it is not known, or lies behind very many others."""
        last = self._changes(key, offset, LAST_MAX_COUNT, "AND consumer_group = ? ORDER BY id DESC LIMIT 1", (group,))
        return last[0] if last else None

    def _changes(
        self, key: QueueKey, offset: int, count: int, condition: str, values: tuple[str, ...]
    ) -> list[HistoryRow]:
        columns = "consumer_group, topic, queue_id, first, until, status, attempt, at_ms"
        # Backwards by the index: what begins nearest to the message, and of that the newest.
        looked_at = (
            "SELECT * FROM status_history WHERE topic = ? AND queue_id = ? AND first > ? AND first <= ? "
            "ORDER BY first DESC, id DESC LIMIT ?"
        )
        rows = self._database.intact(
            f"SELECT {columns}, crc = checksum({columns}) FROM ({looked_at}) WHERE until > ? {condition}",  # noqa: S608
            (*key, offset - SPAN_MAX_COUNT, offset, count, offset, *values),
        )
        return [HistoryRow._make(row) for row in rows]
