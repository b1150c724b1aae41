"""The stores of idempotent listeners, each on the real thing: this process, a file of SQLite, a Redis server."""

from __future__ import annotations

import re
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from rocketmq_py import (
    ConfigError,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    IllegalStateError,
    MessageListenerConcurrently,
    MissingExtraError,
    StoreError,
    TooManyRequestsError,
)
from rocketmq_py.idempotence import (
    IdempotenceStore,
    KeyState,
    MemoryStore,
    RedisStore,
    SqliteStore,
    SqliteTransaction,
    idempotent,
)
from rocketmq_py.model.results import Messages
from tests.redis_server import HINT, redis_executable, redis_server
from tests.unit.support import LATER, SUCCESS, message, mq

MakeStore = Callable[..., IdempotenceStore]


@pytest.fixture(scope="module")
def redis_socket() -> Iterator[str]:
    executable = redis_executable()
    if executable is None:
        pytest.skip(HINT)
    with redis_server(executable) as path:
        yield path


@pytest.fixture(params=["memory", "sqlite", "redis", "redis that decodes"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Make a store; every call gives another one on the same keys, except in memory."""
    made: list[Any] = []
    memory: list[MemoryStore] = []

    def make(**times: Any) -> IdempotenceStore:
        if request.param == "memory":
            if not memory:
                memory.append(MemoryStore(**times))
            return memory[0]
        if request.param == "sqlite":
            made.append(SqliteStore(tmp_path / "keys.db", **times))
        else:
            path = request.getfixturevalue("redis_socket")
            client = redis.Redis(unix_socket_path=path, decode_responses="decodes" in request.param)
            made.append(client)
            return RedisStore(client, prefix=f"{tmp_path.name}:", **times)
        store: IdempotenceStore = made[-1]
        return store

    yield make
    for each in made:
        each.close()


@pytest.mark.behaviour("ID-06")
def test_a_key_is_claimed_by_one_at_a_time_consumed_once_and_free_again_when_given_up(make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    claim = one.claim(["a", "b", "c"])
    assert set(claim.states.values()) == {KeyState.CLAIMED}
    assert other.claim(["c", "a"]).states == {"c": KeyState.CONSUMING, "a": KeyState.CONSUMING}
    assert set(claim.settle(["a", "c"])) == {"a", "c"}
    again = other.claim(["a", "b", "c"])
    assert again.states == {"a": KeyState.CONSUMED, "b": KeyState.CLAIMED, "c": KeyState.CONSUMED}
    assert again.settle([]) == []
    assert one.claim(["b"]).states == {"b": KeyState.CLAIMED}


@pytest.mark.behaviour("ID-06")
def test_claims_and_consumed_keys_expire_and_a_late_settlement_changes_nothing(make_store: MakeStore) -> None:
    store = make_store(consuming_ms=40, consumed_ms=40)
    late = store.claim(["a"])
    _until(lambda: (taken := store.claim(["a"])).states["a"] is KeyState.CLAIMED and not taken.settle([]))
    _until(lambda: store.claim(["a"]).states["a"] is KeyState.CLAIMED)
    assert list(late.settle(["a"])) == ["a"], "it is done all the same"
    claim = store.claim(["b"])
    claim.settle(["b"])
    assert store.claim(["b"]).states["b"] is KeyState.CONSUMED
    _until(lambda: store.claim(["b"]).states["b"] is KeyState.CLAIMED)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.behaviour("ID-02", "ID-06")
def test_under_many_threads_no_key_runs_twice_at_once_and_each_has_one_effect(make_store: MakeStore) -> None:
    keys, lock = [f"key {number}" for number in range(30)], threading.Lock()
    at_work: set[str] = set()
    effects: Counter[str] = Counter()
    overlaps: list[str] = []

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        mine = [msg.keys or "" for msg in msgs]
        with lock:
            overlaps.extend(at_work.intersection(mine))
            at_work.update(mine)
        time.sleep(0.001)
        with lock:
            at_work.difference_update(mine)
            effects.update(mine)
        return SUCCESS

    def member(shift: int) -> None:
        listener = idempotent(MessageListenerConcurrently(listen), "keys", make_store())
        waiting = keys[shift:] + keys[:shift]
        while waiting:
            batch = [message(offset, keys=key) for offset, key in enumerate(waiting[:4])]
            context = ConsumeConcurrentlyContext(mq())
            status = listener.consume_message(batch, context)
            failed = range(len(batch)) if status is LATER else sorted(context.failed_indexes or ())
            waiting = waiting[4:] + [batch[index].keys or "" for index in failed]

    threads = [threading.Thread(target=member, args=(shift,)) for shift in (0, 1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert overlaps == []
    assert effects == Counter(keys)


@pytest.mark.behaviour("ID-06")
def test_a_store_that_fails_when_it_is_to_settle_does_not_undo_what_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(tmp_path / "keys.db")
    claim = store.claim(["a"])
    store.close()
    assert list(claim.settle(["a"])) == ["a"]
    assert "could not be settled" in caplog.text
    with pytest.raises(sqlite3.ProgrammingError):
        store.claim(["b"])


class _FailsToCommit:
    """A connection whose first commit fails, as when a reader or a full disk is in its way."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._failures = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None:
        if self._failures:
            self._failures -= 1
            raise sqlite3.OperationalError("database is locked")
        self._connection.commit()


@pytest.mark.behaviour("ID-06")
def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "keys.db")
    store._connection = _FailsToCommit(store._connection)  # type: ignore[assignment]
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        store.claim(["a"])
    assert store.claim(["a"]).states == {"a": KeyState.CLAIMED}
    other = SqliteStore(tmp_path / "keys.db")
    assert other.claim(["a", "b"]).states == {"a": KeyState.CONSUMING, "b": KeyState.CLAIMED}
    other.close()
    store.close()


@pytest.mark.behaviour("ID-06")
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but text of more than a hundred characters: " + "x" * 100)
    for path in (tmp_path / "not there" / "keys.db", tmp_path / "text"):
        with pytest.raises(StoreError, match=re.escape(f"cannot use {path} for keys")):
            SqliteStore(path)


@pytest.mark.behaviour("ID-06")
def test_sqlite_forgets_expired_rows(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "keys.db", consumed_ms=1)
    for number in range(5):
        store.claim([f"{number}"]).settle([f"{number}"])
    time.sleep(0.01)
    store.claim(["last"])
    store.close()
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        assert connection.execute("SELECT key FROM rocketmq_py_idempotence").fetchall() == [("last",)]
    connection.close()


@pytest.mark.behaviour("ID-06")
def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    for table in ("", "a b", "1a", 'x"; DROP TABLE orders'):
        with pytest.raises(ConfigError, match="table is a name"):
            SqliteStore(tmp_path / "keys.db", table=table)


@pytest.mark.behaviour("ID-06")
def test_redis_is_given_as_a_client_or_by_its_url(
    redis_socket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore(f"unix://{redis_socket}", prefix=f"{tmp_path.name}:")
    store.claim(["a"]).settle(["a"])
    with redis.Redis(unix_socket_path=redis_socket) as client:
        (key,) = client.keys(f"{tmp_path.name}:*")
        assert 0 < client.pttl(key) <= 3 * 24 * 3_600_000
    store.close()
    with pytest.raises(ConfigError, match="or a URL"):
        RedisStore(5)
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"in a clone '\.\[redis\]'"):
        RedisStore("redis://127.0.0.1:6379/0")


@pytest.mark.behaviour("ID-06")
@pytest.mark.parametrize(("more", "timeout_s"), [("", 5), ("?socket_timeout=0.2", 0.2)])
def test_a_redis_that_says_nothing_fails_the_claim(more: str, timeout_s: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0{more}")
        pool = store._redis.connection_pool.connection_kwargs
        assert pool["socket_timeout"] == timeout_s
        pool.update(socket_timeout=0.2)
        with pytest.raises(redis.exceptions.TimeoutError):
            store.claim(["a"])
        store.close()


def test_a_redis_that_is_gone_fails_the_claim(tmp_path: Path) -> None:
    with pytest.raises(redis.ConnectionError):
        RedisStore(f"unix://{tmp_path}/nobody.sock").claim(["a"])


# On the user's own connection.


class Orders:
    """A listener whose effect is a row, and what its table holds."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.connection = sqlite3.connect(path, check_same_thread=False, **settings)
        self.connection.execute("CREATE TABLE IF NOT EXISTS orders (name TEXT)")
        self.connection.commit()
        self.fails = False
        self.meanwhile: Callable[[], object] = lambda: None
        self.listener = idempotent(
            MessageListenerConcurrently(self._consume), "keys", SqliteTransaction(self.connection)
        )

    def _consume(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        self.connection.executemany("INSERT INTO orders VALUES (?)", [(msg.keys,) for msg in msgs])
        self.meanwhile()
        return LATER if self.fails else SUCCESS

    def consume(self, *keys: str) -> ConsumeConcurrentlyStatus | None:
        msgs = [message(offset, keys=key) for offset, key in enumerate(keys)]
        return self.listener.consume_message(msgs, ConsumeConcurrentlyContext(mq()))

    @property
    def names(self) -> list[str]:
        return [name for (name,) in self.connection.execute("SELECT name FROM orders ORDER BY name")]


@pytest.fixture(params=[{}, {"isolation_level": None}], ids=["isolation of its own", "autocommit"])
def orders(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Orders]:
    orders = Orders(tmp_path / "orders.db", **request.param)
    yield orders
    orders.connection.close()


@pytest.mark.behaviour("ID-07")
def test_effect_and_mark_are_there_together_or_not_at_all(orders: Orders) -> None:
    orders.fails = True
    assert orders.consume("a", "b") is LATER
    assert orders.names == []
    orders.fails = False
    assert orders.consume("a", "b") is SUCCESS
    assert orders.consume("b", "c") is SUCCESS
    assert orders.consume("a") is SUCCESS
    assert orders.names == ["a", "b", "c"]
    assert not orders.connection.in_transaction


@pytest.mark.behaviour("ID-07")
def test_when_one_of_a_batch_fails_all_of_it_is_rolled_back_and_comes_again(tmp_path: Path) -> None:
    orders = Orders(tmp_path / "orders.db")

    def in_part(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        orders.connection.executemany("INSERT INTO orders VALUES (?)", [(msg.keys,) for msg in msgs])
        context.failed_indexes = {1}
        return SUCCESS

    listener = idempotent(MessageListenerConcurrently(in_part), "keys", SqliteTransaction(orders.connection))
    batch = [message(offset, keys=key) for offset, key in enumerate("ab")]
    assert listener.consume_message(batch, ConsumeConcurrentlyContext(mq())) is LATER
    assert orders.names == []
    orders.connection.close()


@pytest.mark.behaviour("ID-07")
def test_a_listener_that_raises_leaves_neither_effect_nor_transaction(orders: Orders) -> None:
    def fail() -> None:
        raise ValueError("no")

    orders.meanwhile = fail
    with pytest.raises(ValueError, match="no"):
        orders.consume("a")
    orders.meanwhile = lambda: None
    assert orders.consume("a") is SUCCESS
    assert orders.names == ["a"]


@pytest.mark.behaviour("ID-07")
def test_a_listener_that_commits_itself_is_told_so_and_nothing_is_lost(
    orders: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    orders.meanwhile = orders.connection.commit
    assert orders.consume("a") is SUCCESS
    assert "ended the transaction itself" in caplog.text
    assert orders.consume("a") is SUCCESS
    assert orders.names == ["a"]


@pytest.mark.behaviour("ID-07")
def test_a_transaction_that_is_open_already_is_refused(orders: Orders) -> None:
    orders.connection.execute("BEGIN")
    orders.connection.execute("INSERT INTO orders VALUES ('of somebody else')")
    with pytest.raises(IllegalStateError, match="has a transaction open already"):
        orders.consume("a")
    orders.connection.rollback()
    assert orders.consume("a") is SUCCESS


@pytest.mark.behaviour("ID-02", "ID-07")
def test_with_a_connection_per_thread_a_duplicate_waits_and_is_then_none(tmp_path: Path) -> None:
    path, local = tmp_path / "orders.db", threading.local()
    Orders(path).connection.close()
    opened: list[sqlite3.Connection] = []

    def connection() -> sqlite3.Connection:
        if not hasattr(local, "connection"):
            local.connection = sqlite3.connect(path, check_same_thread=False)
            opened.append(local.connection)
        found: sqlite3.Connection = local.connection
        return found

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        time.sleep(0.01)
        connection().executemany("INSERT INTO orders VALUES (?)", [(msg.keys,) for msg in msgs])
        return SUCCESS

    listener = idempotent(MessageListenerConcurrently(listen), "keys", SqliteTransaction(connection))
    statuses: list[object] = []

    def consume() -> None:
        statuses.append(listener.consume_message([message(0, keys="a")], ConsumeConcurrentlyContext(mq())))

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [SUCCESS] * 4
    assert connection().execute("SELECT name FROM orders").fetchall() == [("a",)]
    for each in opened:
        each.close()


@pytest.mark.behaviour("ID-07")
def test_a_call_that_waits_too_long_for_the_connection_it_shares_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.idempotence.sqlite.CONNECTION_WAIT_MS", 10)
    connection = sqlite3.connect(tmp_path / "orders.db", check_same_thread=False)
    store = SqliteTransaction(connection)
    claim = store.claim(["a"])
    with pytest.raises(TooManyRequestsError, match="a connection of each thread"):
        store.claim(["b"])
    claim.settle([])
    store.claim(["b"]).settle([])
    connection.close()


@pytest.mark.behaviour("ID-07")
def test_what_is_no_connection_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sqlite3\.Connection or a function"):
        SqliteTransaction("orders.db")  # type: ignore[arg-type]
