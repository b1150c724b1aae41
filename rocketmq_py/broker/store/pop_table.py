"""Leases of popped messages, and last batches of orderly groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rocketmq_py.broker.store.database import Database, Write

Place = tuple[str, str, int]
"""Group, topic, queue id."""


class LeaseRow(NamedTuple):
    """A message that was popped and is neither acknowledged nor given back.

    Attributes:
        attempts: how often giving it back failed.
        suspended: 1 when coming back does not count as a failed delivery, else 0.
    """

    group: str
    topic: str
    queue_id: int
    offset: int
    pop_ms: int
    invisible_ms: int
    attempts: int
    suspended: int = 0


def put_leases(rows: Iterable[LeaseRow]) -> Write:
    """Leases, new or changed."""
    return Write(
        "INSERT OR REPLACE INTO pop_lease (consumer_group, topic, queue_id, offset, pop_ms, invisible_ms, attempts, "
        "suspended, crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, checksum(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8))",
        list(rows),
    )


def delete_leases(places: Iterable[tuple[str, str, int, int]]) -> Write:
    """Leases that end, by group, topic, queue id and offset."""
    return Write(
        "DELETE FROM pop_lease WHERE consumer_group = ? AND topic = ? AND queue_id = ? AND offset = ?", list(places)
    )


def put_order_info(place: Place, info: str) -> Write:
    """The last batch of a queue, as JSON."""
    return Write("INSERT OR REPLACE INTO pop_order VALUES (?1, ?2, ?3, ?4, checksum(?1, ?2, ?3, ?4))", [(*place, info)])


def delete_order_info(place: Place) -> Write:
    """A queue without last batch."""
    return Write("DELETE FROM pop_order WHERE consumer_group = ? AND topic = ? AND queue_id = ?", [place])


class PopTable:
    """Reads leases and last batches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def leases(self) -> list[LeaseRow]:
        """All leases. Raises ``StoreError``."""
        rows = self._database.intact(
            "SELECT consumer_group, topic, queue_id, offset, pop_ms, invisible_ms, attempts, suspended, crc = checksum("
            "consumer_group, topic, queue_id, offset, pop_ms, invisible_ms, attempts, suspended) FROM pop_lease"
        )
        return [LeaseRow(*row) for row in rows]

    def order_infos(self) -> dict[Place, str]:
        """Last batches as JSON. Raises ``StoreError``."""
        rows = self._database.intact(
            "SELECT consumer_group, topic, queue_id, info, crc = checksum(consumer_group, topic, queue_id, info) "
            "FROM pop_order"
        )
        return {(group, topic, queue_id): info for group, topic, queue_id, info in rows}
