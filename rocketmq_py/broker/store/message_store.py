"""The store as one object: its subjects, and what changes in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rocketmq_py.broker.store.configuration_table import ConfigurationTable
from rocketmq_py.broker.store.database import Database, Write
from rocketmq_py.broker.store.key_table import KeyRow, KeyTable, add_keys
from rocketmq_py.broker.store.message_table import MessageTable, Row, add_messages
from rocketmq_py.broker.store.offset_table import OffsetTable
from rocketmq_py.broker.store.pop_table import PopTable
from rocketmq_py.broker.store.setting_table import SettingTable
from rocketmq_py.broker.store.status_table import StatusTable
from rocketmq_py.broker.store.timer_table import TimerTable


@dataclass(slots=True)
class Changes:
    """What one transaction writes: messages with their keys, then the rest in its order."""

    rows: list[Row] = field(default_factory=list)
    keys: list[KeyRow] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rows or self.writes)


class MessageStore:
    """An open store. Every error is a ``StoreError``; threads: see ``Database``.

    Args:
        directory: made when it does not exist.
        synchronous: False: commits are not synced; a power cut may lose acknowledged messages, never the store.
        vfs: name of an apsw VFS, for tests that cut the power.

    Attributes:
        messages, keys, configurations, offsets, settings, statuses, pops, timers: read what is committed.

    Raises:
        StoreError: not a store, of a newer version, damaged, or in use.
    """

    def __init__(self, directory: Path, *, synchronous: bool = True, vfs: str | None = None) -> None:
        self.directory = directory
        self._database = Database(directory, synchronous=synchronous, vfs=vfs)
        self.messages = MessageTable(self._database)
        self.configurations = ConfigurationTable(self._database)
        self.keys = KeyTable(self._database)
        self.offsets = OffsetTable(self._database)
        self.settings = SettingTable(self._database)
        self.pops = PopTable(self._database)
        self.timers = TimerTable(self._database)
        self.statuses = StatusTable(self._database)

    @property
    def last_id(self) -> int:
        """The highest committed row id there ever was."""
        return self._database.last_id

    def begin(self) -> bool:
        """Begin a transaction; False while another program writes to the store (sqlite3, a backup)."""
        return self._database.begin()

    def write(self, changes: Changes) -> None:
        """Put changes into the transaction; ``commit`` or ``rollback`` must follow."""
        writes: Sequence[Write] = changes.writes
        if changes.rows:
            writes = [add_messages(changes.rows), add_keys(changes.keys), *writes]
        self._database.write(writes)

    def commit(self, last_id: int) -> None:
        """Make what was written durable; ``last_id`` is the highest row id in it."""
        self._database.commit(last_id)

    def rollback(self) -> None:
        """Undo what was written since the last commit, if anything was."""
        self._database.rollback()

    def pages(self) -> tuple[int, int]:
        """Pages of the file, ``PAGE_BYTES`` each, and how many of them are free."""
        return self._database.pages()

    def free_bytes(self) -> int:
        """What the disk has room for."""
        return self._database.free_bytes()

    def close(self) -> None:
        """Close everything; what was not committed is forgotten."""
        self._database.close()
