"""Keys in SQLite: in a file of their own, or in the user's database and transaction."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rocketmq_py.errors import ConfigError, IllegalStateError, StoreError, TooManyRequestsError
from rocketmq_py.idempotence.store import CONSUMED_MS, CONSUMING_MS, EXPIRY_MAX_MS, Claim, KeyState, LeaseStore
from rocketmq_py.model.config import check_range
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime, ThreadRuntime

PURGED_PER_CLAIM_MAX = 100
"""Expired rows that one claim deletes: more than it can add in the long run."""

CONNECTION_WAIT_MS = 5_000
"""How long a listener call waits for the connection that it shares with others; also SQLite's own default."""

WAL_PAUSE_MS = 10

_log = logging.getLogger(__name__)

_CREATE = """CREATE TABLE IF NOT EXISTS {table}
    (key TEXT NOT NULL PRIMARY KEY, token TEXT, expires_ms INTEGER NOT NULL) WITHOUT ROWID"""
_CREATE_INDEX = "CREATE INDEX IF NOT EXISTS {table}_expires ON {table} (expires_ms)"
_PURGE = "DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE expires_ms <= ? LIMIT {limit})"
_SELECT = "SELECT token, expires_ms FROM {table} WHERE key = ?"
_PUT = "INSERT OR REPLACE INTO {table} (key, token, expires_ms) VALUES (?, ?, ?)"
_MARK = "UPDATE {table} SET token = NULL, expires_ms = ? WHERE key = ? AND token = ?"
_FREE = "DELETE FROM {table} WHERE key = ? AND token = ?"


class _Table:
    """The statements of one table. A row without a token is a consumed key."""

    def __init__(self, table: str) -> None:
        if not (table.isascii() and table.isidentifier()):
            raise ConfigError(f"table is a name of letters, digits and _, not {table!r}")
        self.create = [_CREATE.format(table=table), _CREATE_INDEX.format(table=table)]
        self.purge = _PURGE.format(table=table, limit=PURGED_PER_CLAIM_MAX)
        self.select, self.put = _SELECT.format(table=table), _PUT.format(table=table)
        self.mark, self.free = _MARK.format(table=table), _FREE.format(table=table)

    def state(self, connection: sqlite3.Connection, key: str, now_ms: int) -> KeyState:
        """What the table says about a key; CLAIMED: nothing that counts."""
        row = connection.execute(self.select, (key,)).fetchone()
        if row is None or row[1] <= now_ms:
            return KeyState.CLAIMED
        return KeyState.CONSUMED if row[0] is None else KeyState.CONSUMING


class SqliteStore(LeaseStore):
    """Remembers keys in a file of its own, which several processes of one machine may use.

    Args:
        path: of the file; made when it is not there.
        table: name of the table in it; one per group.
        consuming_ms: how long a claim is believed in, by the wall clock; longer than any listener call may take.
        consumed_ms: how long consumed keys are remembered.

    Raises:
        ConfigError: the table's name or a time is none.
        StoreError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        table: str = "rocketmq_py_idempotence",
        consuming_ms: int = CONSUMING_MS,
        consumed_ms: int = CONSUMED_MS,
        runtime: Runtime | None = None,
    ) -> None:
        runtime = runtime or ThreadRuntime()
        super().__init__(consuming_ms, consumed_ms, runtime.clock)
        self._table = _Table(table)
        self._turn = runtime.lock()  # held while the file is waited for: one connection is one thread's at a time
        with contextlib.ExitStack() as on_failure:
            try:
                self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                on_failure.callback(self._connection.close)
                self._use_wal(runtime)
                for statement in self._table.create:
                    self._connection.execute(statement)
            except sqlite3.Error as error:
                raise StoreError(f"cannot use {path} for keys: {error}") from error
            on_failure.pop_all()

    def _use_wal(self, runtime: Runtime) -> None:
        """SQLite's own time-out does not count for this step, which fails at once while another process takes it."""
        pause, ends_ms = runtime.event(), self._clock.monotonic_ms() + CONNECTION_WAIT_MS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:
                if self._clock.monotonic_ms() > ends_ms:
                    raise
                pause.wait(WAL_PAUSE_MS)
            else:
                return

    def close(self) -> None:
        """Close the file. Call it once no consumer uses the store any more."""
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        if not self._turn.acquire(CONNECTION_WAIT_MS):
            raise TooManyRequestsError(f"the store was in use for {CONNECTION_WAIT_MS} ms; its disk is slow")
        try:
            self._connection.execute(f"PRAGMA synchronous={synchronous}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.commit()
            except BaseException:
                self._connection.rollback()  # a commit that failed leaves it open, for every later call
                raise
        finally:
            self._turn.release()

    def take(self, keys: Sequence[str], token: str) -> dict[str, KeyState]:
        """See ``LeaseStore.take``."""
        now_ms = self._clock.wall_ms()
        with self._transaction("NORMAL") as connection:  # a claim may be lost with its owner in a power cut
            connection.execute(self._table.purge, (now_ms,))
            states = {key: self._table.state(connection, key, now_ms) for key in keys}
            claimed = [
                (key, token, now_ms + self._consuming_ms) for key, state in states.items() if state is KeyState.CLAIMED
            ]
            connection.executemany(self._table.put, claimed)
        return states

    def settle(self, token: str, done: Collection[str], given_up: Collection[str]) -> int:
        """See ``LeaseStore.settle``."""
        expires_ms = self._clock.wall_ms() + self._consumed_ms
        lost = 0
        with self._transaction("FULL") as connection:
            for key in done:
                lost += not connection.execute(self._table.mark, (expires_ms, key, token)).rowcount
            connection.executemany(self._table.free, [(key, token) for key in given_up])
        return lost


class SqliteTransaction:
    """Marks keys in the user's own database, in the transaction in which the listener has its effect.

    A listener call runs between BEGIN IMMEDIATE and COMMIT: effect and mark are there together or not at all, whenever
    the process dies. SQLite's write lock keeps duplicates from running at the same time. The whole call is one
    transaction: if one message of its batch fails, all of it is rolled back and comes again. The listener must not
    commit, nor use ``with connection:``, which does.

    Args:
        connection: a ``sqlite3.Connection`` made with ``check_same_thread=False``: one listener call runs at a time.
            Or a function that returns the calling thread's own connection: the one that the listener uses.
        table: name of the table, made when it is not there; one per group.
        consumed_ms: how long consumed keys are remembered, by the wall clock.
    """

    def __init__(
        self,
        connection: sqlite3.Connection | Callable[[], sqlite3.Connection],
        *,
        table: str = "rocketmq_py_idempotence",
        consumed_ms: int = CONSUMED_MS,
        runtime: Runtime | None = None,
    ) -> None:
        check_range("consumed_ms", consumed_ms, 1, EXPIRY_MAX_MS)
        if not isinstance(connection, sqlite3.Connection) and not callable(connection):
            raise ConfigError(f"connection is a sqlite3.Connection or a function that returns one, not {connection!r}")
        runtime = runtime or ThreadRuntime()
        self._given = connection
        self._turn = runtime.lock() if isinstance(connection, sqlite3.Connection) else None
        self._table = _Table(table)
        self._consumed_ms = consumed_ms
        self._clock = runtime.clock
        self._warnings = RateLimitedLog(runtime.clock, _log)

    def claim(self, keys: Sequence[str]) -> Claim:
        """Begin the transaction. See ``IdempotenceStore.claim``."""
        if self._turn is not None and not self._turn.acquire(CONNECTION_WAIT_MS):
            raise TooManyRequestsError(
                f"another listener call has had the connection for {CONNECTION_WAIT_MS} ms: give SqliteTransaction a "
                "function that returns a connection of each thread"
            )
        try:
            connection = self._given if isinstance(self._given, sqlite3.Connection) else self._given()
            if connection.in_transaction:
                raise IllegalStateError(  # noqa: TRY301 - the turn is given back for it, too
                    "the connection has a transaction open already: commit or roll back what you did outside of the "
                    "listener, and do not set autocommit=False"
                )
            connection.execute("BEGIN IMMEDIATE")
            try:
                return self._look(connection, keys)
            except BaseException:
                connection.rollback()
                raise
        except BaseException:
            self._end_turn()
            raise

    def _look(self, connection: sqlite3.Connection, keys: Sequence[str]) -> Claim:
        now_ms = self._clock.wall_ms()
        for statement in self._table.create:
            connection.execute(statement)
        connection.execute(self._table.purge, (now_ms,))
        states = {key: self._table.state(connection, key, now_ms) for key in keys}
        return _Transaction(self, connection, states)

    def settle(
        self, connection: sqlite3.Connection, claimed: Collection[str], done: Collection[str]
    ) -> Collection[str]:
        """Commit effects and marks when all that was claimed is done, else roll back."""
        try:
            if not connection.in_transaction and claimed:
                self._warnings.warning(
                    "ended",
                    "the listener has ended the transaction itself, so its effect and its mark do not commit together: "
                    "leave commit and rollback to SqliteTransaction",
                )
                connection.execute("BEGIN IMMEDIATE")
            if len(done) < len(claimed):
                connection.rollback()
                return ()
            try:
                expires_ms = self._clock.wall_ms() + self._consumed_ms
                connection.executemany(self._table.put, [(key, None, expires_ms) for key in done])
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
            return done
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()


class _Transaction:
    """One listener call's transaction."""

    def __init__(
        self, store: SqliteTransaction, connection: sqlite3.Connection, states: Mapping[str, KeyState]
    ) -> None:
        self._store = store
        self._connection = connection
        self.states = states

    def settle(self, done: Collection[str]) -> Collection[str]:
        """See ``Claim.settle``."""
        claimed = [key for key, state in self.states.items() if state is KeyState.CLAIMED]
        return self._store.settle(self._connection, claimed, done)
