"""The SQLite file below all subjects: opened or refused, one transaction at a time, errors in clear words.

Files in the store's directory:

- ``store.db`` (with ``-wal`` and ``-shm``): everything. WAL, ``synchronous=FULL``: what was committed is on the disk.
  With ``NORMAL`` only checkpoints are synced: a power cut takes the last commits, and the rest is in order. ``OFF``
  would let it damage the whole file.
- ``last_id``: the highest committed row id as text, written after the commit and never synced: a lower bound. SQLite
  forgets the rest of a damaged WAL in silence; fewer rows than this number tell.
- ``lock``: an empty file on which the running broker holds an exclusive lock; it goes when the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rocketmq_py.broker.store.schema import APPLICATION_ID, INDEXES, SCHEMA_VERSION, script
from rocketmq_py.errors import MissingExtraError, StoreError

try:
    import apsw
except ImportError:
    raise MissingExtraError(
        "the embedded broker needs apsw: pip install 'rocketmq-py[broker]' (in a clone '.[broker]')"
    ) from None

_DELETES = 2
"""The first version of a store from which messages may have been deleted."""

_NOT_CHECKED = {"message", "message_key", "status_history"}
"""Tables through which an opening does not look: they may have rows for every message. What is gone from the first is
missed when it is read, what is gone from the others costs no message. Nearly all other tables are read as a whole at a
start, which takes many times as long as looking through them."""

_QUICKLY_CHECKED = {"timer"}
"""May have a row for every message, too: whether its index fits is not looked at, which would take seconds."""

PAGE_BYTES = 16_384
CHECKPOINT_PAGES = 4_096
"""The WAL is written back when it has so many pages, 64 MiB: the more, the fewer stops."""

BUSY_TIMEOUT_MS = 2_000
"""How long a write waits for somebody else's, for example a backup that folds the WAL; its failure would be final."""


class Write(NamedTuple):
    """A statement that changes something, once for each row of values."""

    sql: str
    rows: Iterable[Sequence[str | int | bytes | None]]


def checksum(*values: str | float | bytes | None) -> int:
    """The SQL function of that name: a CRC over values and their types."""
    return zlib.crc32(repr(values).encode(errors="surrogatepass"))


CHECKPOINT = Write("", ())
"""Is no statement: when the transaction has been committed, the WAL is written back, so that the file shrinks now."""


def incremental_vacuum(pages: int) -> Write:
    """So many free pages leave the file."""
    return Write(f"PRAGMA incremental_vacuum({pages})", [()])


class Database:
    """An open store's file. Every error is a ``StoreError``.

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
        self._checkpoint_is_due = False
        with self.clear_errors("open"), contextlib.ExitStack() as opened:
            _make(directory)
            opened.enter_context(contextlib.closing(self._locked()))
            self._writer = opened.enter_context(contextlib.closing(self._connect(vfs)))
            # The last one to close folds the WAL into the file and deletes it. Not in a store that we refuse: somebody
            # may still want to look at it.
            self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            version = self._set_up()
            self._reader = opened.enter_context(contextlib.closing(self._connect(vfs)))
            self._read = _untyped(self._reader.cursor().execute)
            self._check_tables()
            self.last_id = self._highest_id(version)
            self._last_id_file = self._check_last_id()
            opened.callback(self._last_id_file.close)
            self._upgrade(version)  # not before: a store that we refuse is left as it is
            self._writer.set_busy_timeout(0)  # from here on ``begin`` says so, and is tried again
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
        connection.create_scalar_function("checksum", checksum, deterministic=True)
        return connection

    def _set_up(self) -> int:
        """Make a new store, or refuse one that is not ours; its version."""
        writer = self._writer
        version: int = writer.pragma("user_version")
        if not writer.pragma("schema_version"):
            # Fixed at creation, before the first table.
            writer.pragma("page_size", PAGE_BYTES)
            writer.pragma("auto_vacuum", 2)  # incremental
            self._use_wal()
            with writer:
                writer.pragma("application_id", APPLICATION_ID)
                self._upgrade(0)
            version = SCHEMA_VERSION
        elif writer.pragma("application_id") != APPLICATION_ID:
            raise StoreError(f"{self._directory}/store.db is not a rocketmq_py store: give another directory")
        elif version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self._directory} was written by a newer rocketmq_py (store version {version}, this one "
                f"reads {SCHEMA_VERSION}): upgrade rocketmq_py"
            )
        self._use_wal()  # it stays, but others can change it
        writer.pragma("synchronous", 2 if self._synchronous else 1)
        writer.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        return version

    def _upgrade(self, version: int) -> None:
        """Give a store of an older version what it lacks, whole or not at all."""
        with self._writer:
            if version < SCHEMA_VERSION:
                self._writer.execute(script(version))
                self._writer.pragma("user_version", SCHEMA_VERSION)
            self._writer.execute(INDEXES)

    def _check_tables(self) -> None:
        """Refuse tables from which rows have gone, and indexes that do not fit: no checksum tells of what is not there.

        A bit that flips in a page, besides its rows, leaves bytes that belong to none, or to two.
        """
        tables = self.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for table in ("sqlite_schema", *(name for (name,) in tables)):
            if table not in _NOT_CHECKED:
                check = "quick_check" if table in _QUICKLY_CHECKED else "integrity_check"
                ((told,), *_) = self.query(f'PRAGMA {check}("{table}")')
                if told != "ok":
                    raise self.damaged(f"in the table {table} SQLite finds: {told.splitlines()[-1]}")

    def _highest_id(self, version: int) -> int:
        highest: int = self.query("SELECT coalesce(max(id), 0) FROM message")[0][0]
        if version >= _DELETES:
            ((deleted,),) = self.intact("SELECT last_id, crc = checksum(last_id) FROM deleted") or ((0,),)
            highest = max(highest, deleted)
        return highest

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
        with self.clear_errors("close"):
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
        with self.clear_errors("write to"):
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                return False
            return True

    def write(self, writes: Iterable[Write]) -> None:
        """Put changes into the transaction; ``commit`` or ``rollback`` must follow."""
        with self.clear_errors("write to"):
            for write in writes:
                if write is CHECKPOINT:
                    self._checkpoint_is_due = True
                    continue
                for _ in self._writer.executemany(*write):
                    pass  # a vacuum makes one page free per row that is asked for

    def commit(self, last_id: int) -> None:
        """Make what was written durable; ``last_id`` is the highest row id in it."""
        with self.clear_errors("write to"):
            self._writer.execute("COMMIT")
            if self._identities() != self._files:
                raise StoreError(f"the files of the store {self._directory} were removed or replaced while it was open")
            if self._synchronous and last_id > self.last_id:
                self._last_id_file.seek(0)
                self._last_id_file.write(b"%020d" % last_id)
            self.last_id = last_id
            if self._checkpoint_is_due:
                self._checkpoint_is_due = False
                # What is committed is in the WAL, whatever becomes of this.
                with contextlib.suppress(apsw.Error):
                    self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def rollback(self) -> None:
        """Undo what was written since the last commit, if anything was."""
        with self.clear_errors("write to"):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    # Reading.

    def pages(self) -> tuple[int, int]:
        """Pages of the file, and how many of them are free."""
        return self.query("PRAGMA page_count")[0][0], self.query("PRAGMA freelist_count")[0][0]

    def free_bytes(self) -> int:
        """What the disk has room for."""
        with self.clear_errors("look at the disk of"):
            return shutil.disk_usage(self._directory).free

    def query(self, sql: str, values: Sequence[str | int] = ()) -> list[Any]:
        """All rows that a query finds among what is committed, as tuples."""
        with self.clear_errors("read"):
            # Read to its end: a query that is not holds back all checkpoints, and the WAL grows for ever.
            rows: list[Any] = self._read(sql, values).fetchall()
            return rows

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Queries inside see the same commits; to be left soon, as it holds back all checkpoints."""
        with self.clear_errors("read"), self._reader:
            yield

    def intact(self, sql: str, values: Sequence[str | int] = ()) -> list[Any]:
        """The same, of a query whose last column tells whether the row's checksum is right."""
        rows = self.query(sql, values)
        if not all([row[-1] for row in rows]):
            raise self.damaged("the checksum of a row is wrong")
        return [row[:-1] for row in rows]

    def check_integers(self, rows: Iterable[Iterable[object]]) -> None:
        """Refuse rows with anything else: a damage can change types, and who computes must not be the first to know."""
        if not {type(value) for row in rows for value in row} <= {int}:
            raise self.damaged("what must be a number is none")

    def damaged(self, how: str) -> StoreError:
        """The error that something is not as it was written."""
        return StoreError(f"the store {self._directory} is damaged: {how}. Restore a copy")

    @contextlib.contextmanager
    def clear_errors(self, doing: str) -> Iterator[None]:
        """Errors of SQLite and of the system, and what a damage makes of JSON and text, become ``StoreError``s."""
        try:
            yield
        except (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StoreError(
                f"cannot {doing} the store {self._directory}: {error}. It is no store or is damaged: restore a copy, "
                "or give another directory"
            ) from error
        except apsw.FullError as error:
            raise StoreError(f"cannot {doing} the store {self._directory}: the disk is full. Make room") from error
        except (apsw.Error, OSError, ValueError, OverflowError) as error:
            # The last two are of values that SQLite cannot hold: left alone they would leave the transaction open.
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


def _untyped(execute: Any) -> Any:
    """Rows have the types of the schema, which apsw's types cannot know."""
    return execute
