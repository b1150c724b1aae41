"""Messages that wait for a moment of their own; the messages themselves stand in the timer's queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rocketmq_py.broker.store.database import Database, Write


class TimerRow(NamedTuple):
    """A message that waits.

    Attributes:
        due_ms: when it is delivered, wall ms.
        id: its physical offset.
        key: by which it can be recalled.
    """

    due_ms: int
    id: int
    key: str


def put_timers(rows: Iterable[TimerRow]) -> Write:
    """Messages that begin to wait."""
    return Write("INSERT INTO timer VALUES (?1, ?2, ?3, checksum(?1, ?2, ?3))", list(rows))


def delete_timers(rows: Iterable[TimerRow]) -> Write:
    """Messages that wait no more."""
    return Write("DELETE FROM timer WHERE due_ms = ? AND id = ?", [row[:2] for row in rows])


def recall_timers(due_ms: int, key: str) -> Write:
    """Messages that are not to be delivered."""
    return Write("DELETE FROM timer WHERE due_ms = ? AND key = ?", [(due_ms, key)])


class TimerTable:
    """Reads what waits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def first(self, count: int, until_ms: int) -> list[TimerRow]:
        """What is due first, until a moment, in order. Raises ``StoreError``."""
        rows = self._database.intact(
            "SELECT due_ms, id, key, crc = checksum(due_ms, id, key) FROM timer WHERE due_ms <= ? "
            "ORDER BY due_ms, id LIMIT ?",
            (until_ms, count),
        )
        return [TimerRow(*row) for row in rows]

    def lowest_id(self) -> int | None:
        """The message that has been stored first. Raises ``StoreError``."""
        lowest: int | None = self._database.query("SELECT min(id) FROM timer")[0][0]
        return lowest
