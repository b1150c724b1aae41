"""Messages, offsets and configurations on disk: one SQLite file, and the only module that knows SQL.

Files in the store's directory:

- ``store.db`` (with ``-wal`` and ``-shm``): everything. WAL, ``synchronous=FULL``: what was committed is on the disk.
  With ``NORMAL`` only checkpoints are synced: a power cut takes the last commits, and the rest is in order. ``OFF``
  would let it damage the whole file.
- ``last_id``: the highest committed row id as text, written after the commit and never synced: a lower bound. SQLite
  forgets the rest of a damaged WAL in silence; fewer rows than this number tell.
- ``lock``: an empty file on which the running broker holds an exclusive lock; it goes when the process ends.

A row's id is the message's physical offset. Its data are the bytes that go to consumers, so a pull only copies them,
and a CRC over them and their place is checked whenever they are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rocketmq_py.errors import MissingExtraError, StoreError

try:
    import apsw
except ImportError:
    raise MissingExtraError(
        "the embedded broker needs apsw: pip install 'rocketmq-py[broker]' (in a clone '.[broker]')"
    ) from None

APPLICATION_ID = 0x524D5150  # "RMQP"
SCHEMA_VERSION = 1

PAGE_BYTES = 16_384
CHECKPOINT_PAGES = 4_096
"""The WAL is written back when it has so many pages, 64 MiB: the more, the fewer stops."""

BUSY_TIMEOUT_MS = 2_000
"""How long a write waits for somebody else's, for example a backup that folds the WAL; its failure would be final."""

_SCHEMA = """
CREATE TABLE topic (name TEXT PRIMARY KEY, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE consumer_group (name TEXT PRIMARY KEY, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE queue (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, queue_id INTEGER NOT NULL, UNIQUE (topic, queue_id));
CREATE TABLE message (
    id INTEGER PRIMARY KEY,        -- physical offset
    queue INTEGER NOT NULL,
    queue_offset INTEGER NOT NULL,
    tags_code INTEGER NOT NULL,    -- Java hash of the tag, 0 for none; of a delayed message when it is due, wall ms
    stored_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL             -- as it goes to consumers
);
CREATE UNIQUE INDEX message_by_queue ON message (queue, queue_offset);
CREATE TABLE consumer_offset (
    consumer_group TEXT, topic TEXT, queue_id INTEGER, offset INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, queue_id)
) WITHOUT ROWID;
CREATE TABLE delay_offset (level INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
"""


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


def checksum(queue: int, queue_offset: int, data: bytes) -> int:
    """What a row has in ``crc``. A damaged index may lead to another whole message: the place belongs to it, too."""
    return zlib.crc32(data, zlib.crc32(b"%d %d" % (queue, queue_offset)))


@dataclass(slots=True)
class Changes:
    """What one transaction writes."""

    rows: list[Row] = field(default_factory=list)
    queues: dict[int, QueueKey] = field(default_factory=dict)
    topics: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    consumer_offsets: dict[tuple[str, str, int], int] = field(default_factory=dict)  # by group, topic, queue id
    delay_offsets: dict[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.rows, self.queues, self.topics, self.groups, self.consumer_offsets, self.delay_offsets))


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the store has of one queue: its row in ``queue``, first and next offset."""

    row: int
    min_offset: int
    max_offset: int


class MessageStore:
    """An open store. Every error is a ``StoreError``.

    Threads: ``write`` and ``commit`` may be called on different threads, but never at the same time; reads have a
    connection of their own and belong to one thread.

    Args:
        directory: made when it does not exist.
        synchronous: False: commits are not synced; a power cut may lose acknowledged messages, never the store.
        vfs: name of an apsw VFS, for tests that cut the power.

    Raises:
        StoreError: not a store, of a newer version, damaged, or in use.
    """

    def __init__(self, directory: Path, *, synchronous: bool = True, vfs: str | None = None) -> None:
        self.last_id: int
        self._directory = directory
        self._synchronous = synchronous
        with self._clear_errors("open"), contextlib.ExitStack() as opened:
            _make(directory)
            opened.enter_context(contextlib.closing(self._locked()))
            self._writer = opened.enter_context(contextlib.closing(self._connect(vfs)))
            # The last one to close folds the WAL into the file and deletes it. Not in a store that we refuse: somebody
            # may still want to look at it.
            self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._set_up()
            self._writer.set_busy_timeout(0)  # from here on ``begin`` says so, and is tried again
            self._reader = opened.enter_context(contextlib.closing(self._connect(vfs)))
            self._read = _untyped(self._reader.cursor().execute)
            (self.last_id,) = self._row("SELECT coalesce(max(id), 0) FROM message") or (0,)
            self._last_id_file = self._check_last_id()
            opened.callback(self._last_id_file.close)
            self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            self._files = self._identities()
            self._opened = opened.pop_all()

    # Opening and closing.

    def _locked(self) -> Any:
        in_use = StoreError(f"the store {self._directory} is in use by another broker: end it first")
        path = self._directory / "lock"
        try:
            import fcntl
        except ImportError:  # not POSIX
            lock = apsw.Connection(str(path))
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except apsw.Error as error:
                lock.close()
                raise (in_use if isinstance(error, apsw.BusyError) else error) from None
            return lock
        # Belongs to this open file: a copy of the directory, made by this very process, does not undo it, as it undoes
        # the locks that SQLite takes.
        file = open(path, "ab")  # noqa: SIM115 - closed with the store
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise in_use from None
        return file

    def _connect(self, vfs: str | None) -> apsw.Connection:
        connection = apsw.Connection(str(self._directory / "store.db"), vfs=vfs)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        return connection

    def _set_up(self) -> None:
        writer = self._writer
        if not writer.pragma("schema_version"):
            # Fixed at creation, before the first table.
            writer.pragma("page_size", PAGE_BYTES)
            writer.pragma("auto_vacuum", 2)  # incremental
            self._use_wal()
            with writer:
                writer.execute(_SCHEMA)
                writer.pragma("application_id", APPLICATION_ID)
                writer.pragma("user_version", SCHEMA_VERSION)
        elif writer.pragma("application_id") != APPLICATION_ID:
            raise StoreError(f"{self._directory}/store.db is not a rocketmq_py store: give another directory")
        elif (version := writer.pragma("user_version")) > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self._directory} was written by a newer rocketmq_py (store version {version}, this one "
                f"reads {SCHEMA_VERSION}): upgrade rocketmq_py"
            )
        self._use_wal()  # it stays, but others can change it
        writer.pragma("synchronous", 2 if self._synchronous else 1)
        writer.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)

    def _use_wal(self) -> None:
        mode = self._writer.pragma("journal_mode", "wal")
        if mode != "wal":
            raise StoreError(
                f"the store {self._directory} cannot have a WAL, SQLite uses the journal mode {mode}: give a directory "
                "on a local disk"
            )

    def _check_last_id(self) -> Any:
        path = self._directory / "last_id"
        file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115 - closed with the store
        text = file.read(20)
        if text.isdigit() and int(text) > self.last_id:  # else torn: it was never synced
            file.close()
            raise StoreError(
                f"the store {self._directory} is damaged: messages up to {int(text)} were acknowledged, it has them up "
                f"to {self.last_id}. Restore a copy; or delete {path} to go on without the others"
            )
        if not self._synchronous:
            file.truncate(0)  # no lower bound from here on
        return file

    def close(self) -> None:
        """Close everything; what was not committed is forgotten."""
        with self._clear_errors("close"):
            self._opened.close()

    def _identities(self) -> list[tuple[int, int]]:
        """Which files these are, whatever their names; one that is not there is left out."""
        found = []
        for name in ("store.db", "store.db-wal"):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(self._directory / name)
                found.append((status.st_dev, status.st_ino))
        return found

    # Writing.

    def begin(self) -> bool:
        """Begin a transaction; False while another program writes to the store (sqlite3, a backup)."""
        with self._clear_errors("write to"):
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                return False
            return True

    def write(self, changes: Changes) -> None:
        """Put changes into the transaction; ``commit`` or ``rollback`` must follow."""
        with self._clear_errors("write to"):
            many = self._writer.executemany
            many("INSERT INTO queue VALUES (?, ?, ?)", [(row, *key) for row, key in changes.queues.items()])
            many("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)", changes.rows)
            many("INSERT OR REPLACE INTO topic VALUES (?, ?)", _as_json(changes.topics))
            many("INSERT OR REPLACE INTO consumer_group VALUES (?, ?)", _as_json(changes.groups))
            many(
                "INSERT OR REPLACE INTO consumer_offset VALUES (?, ?, ?, ?)",
                [(*key, offset) for key, offset in changes.consumer_offsets.items()],
            )
            many("INSERT OR REPLACE INTO delay_offset VALUES (?, ?)", changes.delay_offsets.items())

    def commit(self, last_id: int) -> None:
        """Make what was written durable; ``last_id`` is the highest row id in it."""
        with self._clear_errors("write to"):
            self._writer.execute("COMMIT")
            if self._identities() != self._files:
                raise StoreError(f"the files of the store {self._directory} were removed or replaced while it was open")
            if self._synchronous and last_id > self.last_id:
                self._last_id_file.seek(0)
                self._last_id_file.write(b"%020d" % last_id)
            self.last_id = last_id

    def rollback(self) -> None:
        """Undo what was written since the last commit, if anything was."""
        with self._clear_errors("write to"):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    # Reading.

    def topics(self) -> dict[str, dict[str, Any]]:
        """Topic configurations by name."""
        return self._configurations("topic")

    def groups(self) -> dict[str, dict[str, Any]]:
        """Group configurations by name."""
        return self._configurations("consumer_group")

    def _configurations(self, table: str) -> dict[str, dict[str, Any]]:
        with self._clear_errors("read"):
            return {name: json.loads(config) for name, config in self._read(f"SELECT name, config FROM {table}")}  # noqa: S608

    def queues(self) -> dict[QueueKey, QueueState]:
        """All queues that ever had a message."""
        with self._clear_errors("read"):
            rows = self._read(
                "SELECT id, queue_id, coalesce((SELECT min(queue_offset) FROM message WHERE queue = queue.id), 0), "
                "coalesce((SELECT max(queue_offset) FROM message WHERE queue = queue.id), -1), topic FROM queue"
            ).fetchall()
        self._check_integers(row[:4] for row in rows)
        return {QueueKey(topic, queue_id): QueueState(row, low, high + 1) for row, queue_id, low, high, topic in rows}

    def consumer_offsets(self) -> dict[tuple[str, str, int], int]:
        """Committed offsets by group, topic and queue id."""
        with self._clear_errors("read"):
            rows = self._read("SELECT queue_id, offset, consumer_group, topic FROM consumer_offset").fetchall()
        self._check_integers(row[:2] for row in rows)
        return {(group, topic, queue_id): offset for queue_id, offset, group, topic in rows}

    def delay_offsets(self) -> dict[int, int]:
        """By delay level, the first offset of its queue that was not delivered."""
        with self._clear_errors("read"):
            rows = self._read("SELECT level, offset FROM delay_offset").fetchall()
        self._check_integers(rows)
        return dict(rows)

    def read(self, queue: int, offset: int, count: int) -> list[tuple[int, bytes]]:
        """Messages of a queue from ``offset`` on: (queue offset, data). The first one must not be above ``offset``."""
        with self._clear_errors("read"):
            rows = self._read(
                "SELECT queue_offset, crc, data FROM message WHERE queue = ? AND queue_offset >= ? "
                "ORDER BY queue_offset LIMIT ?",
                (queue, offset, count),
            ).fetchall()
        for expected, (place, _, _) in enumerate(rows, offset):
            if place != expected:
                raise self._damaged(f"the message at {expected} of a queue is not found")
        return [(place, self._intact(data, crc, queue, place)) for place, crc, data in rows]

    def scan(self, queue: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        """What is needed to filter: (queue offset, row id, tags code)."""
        with self._clear_errors("read"):
            rows: list[tuple[int, int, int]] = self._read(
                "SELECT queue_offset, id, tags_code FROM message WHERE queue = ? AND queue_offset >= ? "
                "ORDER BY queue_offset LIMIT ?",
                (queue, offset, count),
            ).fetchall()
        self._check_integers(rows)
        return rows

    def by_id(self, row_id: int) -> bytes | None:
        """One message by its physical offset."""
        with self._clear_errors("read"):
            row = self._row("SELECT data, crc, queue, queue_offset FROM message WHERE id = ?", row_id)
        return None if row is None else self._intact(*row)

    def stored_ms(self, queue: int, offset: int) -> int | None:
        """When the message at an offset was stored, wall ms; None where there is none."""
        with self._clear_errors("read"):
            row = self._row("SELECT stored_ms FROM message WHERE queue = ? AND queue_offset = ?", queue, offset)
        if row is None:
            return None
        self._check_integers([row])
        moment: int = row[0]
        return moment

    def _row(self, query: str, *values: int) -> tuple[Any, ...] | None:
        # Read to its end: a query that is not holds back all checkpoints, and the WAL grows for ever.
        rows = self._read(query, values).fetchall()
        return rows[0] if rows else None

    def _intact(self, data: bytes, crc: int, queue: int, queue_offset: int) -> bytes:
        self._check_integers([(queue, queue_offset)])
        if not isinstance(data, bytes) or checksum(queue, queue_offset, data) != crc:
            raise self._damaged("a message's checksum is wrong")
        return data

    def _check_integers(self, rows: Iterable[Iterable[object]]) -> None:
        # A damage can change types, too; what is computed with them then must not be the first to find out.
        if not {type(value) for row in rows for value in row} <= {int}:
            raise self._damaged("what must be a number is none")

    def _damaged(self, how: str) -> StoreError:
        return StoreError(f"the store {self._directory} is damaged: {how}. Restore a copy")

    @contextlib.contextmanager
    def _clear_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StoreError(
                f"cannot {doing} the store {self._directory}: {error}. It is no store or is damaged: restore a copy, "
                "or give another directory"
            ) from error
        except apsw.FullError as error:
            raise StoreError(f"cannot {doing} the store {self._directory}: the disk is full. Make room") from error
        except (apsw.Error, OSError) as error:
            raise StoreError(f"cannot {doing} the store {self._directory}: {error}") from error


def _make(directory: Path) -> None:
    """Make a directory. Its name is synced, too, or a power cut could take the whole store away."""
    new = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in new:
        parent = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def _as_json(configurations: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    return [(name, json.dumps(config)) for name, config in configurations.items()]


def _untyped(execute: Any) -> Any:
    """Rows have the types of the schema, which apsw's types cannot know."""
    return execute
