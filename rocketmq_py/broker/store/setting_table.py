"""What administrators have set, besides topics and groups: texts by kind and name."""

from __future__ import annotations

from rocketmq_py.broker.store.database import Database, Write


def put_setting(kind: str, name: str, value: str) -> Write:
    """Something set, new or changed."""
    return Write("INSERT OR REPLACE INTO setting VALUES (?1, ?2, ?3, checksum(?1, ?2, ?3))", [(kind, name, value)])


def delete_setting(kind: str, name: str) -> Write:
    """Something that is not to be set any more."""
    return Write("DELETE FROM setting WHERE kind = ? AND name = ?", [(kind, name)])


class SettingTable:
    """Reads what was set."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def settings(self, kind: str) -> dict[str, str]:
        """Values of one kind by name. Raises ``StoreError``."""
        rows = self._database.intact(
            "SELECT name, value, crc = checksum(kind, name, value) FROM setting WHERE kind = ?", (kind,)
        )
        return dict(rows)
