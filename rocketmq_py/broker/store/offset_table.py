"""How far groups have consumed, and delay levels been delivered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rocketmq_py.broker.store.database import Database, Write


def put_consumer_offsets(offsets: Mapping[tuple[str, str, int], int]) -> Write:
    """Committed offsets by group, topic and queue id."""
    return Write(
        "INSERT OR REPLACE INTO consumer_offset VALUES (?1, ?2, ?3, ?4, checksum(?1, ?2, ?3, ?4))",
        [(*key, offset) for key, offset in offsets.items()],
    )


def delete_consumer_offsets(places: Iterable[tuple[str, str, int]]) -> Write:
    """Committed offsets that are to be forgotten, by group, topic and queue id."""
    return Write("DELETE FROM consumer_offset WHERE consumer_group = ? AND topic = ? AND queue_id = ?", list(places))


def put_delay_offset(level: int, offset: int) -> Write:
    """The first offset of a delay level's queue that was not delivered."""
    return Write("INSERT OR REPLACE INTO delay_offset VALUES (?1, ?2, checksum(?1, ?2))", [(level, offset)])


class OffsetTable:
    """Reads offsets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def consumer_offsets(self) -> dict[tuple[str, str, int], int]:
        """Committed offsets by group, topic and queue id. Raises ``StoreError``."""
        rows = self._database.intact(
            "SELECT consumer_group, topic, queue_id, offset, crc = checksum(consumer_group, topic, queue_id, offset) "
            "FROM consumer_offset"
        )
        return {(group, topic, queue_id): offset for group, topic, queue_id, offset in rows}

    def delay_offsets(self) -> dict[int, int]:
        """By delay level, the first offset of its queue that was not delivered. Raises ``StoreError``."""
        return dict(self._database.intact("SELECT level, offset, crc = checksum(level, offset) FROM delay_offset"))
