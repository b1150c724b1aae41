"""Looks at everything in a store and says what is wrong; changes nothing, and a broker may be at work meanwhile.

What a broker sees when it reads a row this sees in all rows, and what no read would show besides: pages and indexes
that do not fit, places that do not follow on one another, messages that are not what their row says.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from rocketmq_py.broker.store.database import BUSY_TIMEOUT_MS, checksum
from rocketmq_py.broker.store.key_table import KeyRow, key_rows, keys_of
from rocketmq_py.broker.store.message_table import is_head_whole, is_whole
from rocketmq_py.broker.store.schema import APPLICATION_ID, SCHEMA_VERSION
from rocketmq_py.errors import ProtocolError, StoreError
from rocketmq_py.model import names
from rocketmq_py.model.message import MessageConst
from rocketmq_py.model.unique_id import java_string_hash
from rocketmq_py.remoting.message_codec import StoredMessage, decode_stored

PROBLEMS_TOLD_MAX = 100
"""Further ones are only counted."""

_CHECKSUM_SINCE = 2
"""The version of the store from which rows other than messages have checksums, and queues a beginning."""

_DROPPED = ""
"""The topic of queues that nobody can name any more: their messages go bit by bit."""

_OTHER_CHECKSUMS = {
    "deleted": "last_id",
    "status_history": "consumer_group, topic, queue_id, first, until, status, attempt, at_ms",
}
"""Tables whose checksum is over some of their columns. All others: over all but itself."""


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        version: of the store.
        messages: how many were looked at.
        queues: how many have or had messages.
        count: how many things are wrong; 0: the store is sound.
        problems: the first of them, a sentence each.
    """

    version: int = 0
    messages: int = 0
    queues: int = 0
    count: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Note what is wrong."""
        self.count += 1
        if len(self.problems) < PROBLEMS_TOLD_MAX:
            self.problems.append(problem)


def check(directory: Path) -> Findings:
    """Look at a whole store; reads all of it once.

    A broker that is at work goes on; its WAL is not written back meanwhile.

    Raises:
        StoreError: there is no store, or it is of a newer version, or cannot be read at all.
    """
    path = directory / "store.db"
    if not path.is_file():
        raise StoreError(f"there is no store in {directory}")
    # Before the rows: a broker at work writes it after them.
    acknowledged = _last_id(directory)
    try:
        with contextlib.closing(apsw.Connection(str(path.absolute()), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            connection.create_scalar_function("checksum", checksum, deterministic=True)
            connection.execute("BEGIN")
            return _Check(connection, directory, acknowledged).run()
    except apsw.NotADBError as error:
        raise StoreError(f"{path} is no store, or its first page is damaged: {error}") from error
    except (apsw.Error, OSError) as error:
        raise StoreError(f"cannot read the store {directory}: {error}") from error


def _last_id(directory: Path) -> int:
    try:
        text = (directory / "last_id").read_bytes()[:20]
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 0  # else torn: it is never synced


class _Check:
    """One look at one snapshot of a store."""

    def __init__(self, connection: apsw.Connection, directory: Path, acknowledged: int) -> None:
        self._connection = connection
        self._directory = directory
        self._acknowledged = acknowledged
        self._found = Findings()

    def run(self) -> Findings:
        found = self._found
        found.version = self._connection.pragma("user_version")
        if self._connection.pragma("application_id") != APPLICATION_ID:
            raise StoreError(f"{self._directory}/store.db is not a rocketmq_py store")
        if found.version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self._directory} has version {found.version}, this rocketmq_py reads {SCHEMA_VERSION}: "
                "upgrade rocketmq_py"
            )
        for look in (self._pages, self._checksums, self._configurations, self._queues, self._messages):
            try:
                look()
            except (apsw.CorruptError, UnicodeDecodeError) as error:
                found.add(f"the rest of the {look.__name__.strip('_')} cannot be read: {error}")
        return found

    def _pages(self) -> None:
        """Pages, rows in order, and every index against its table."""
        for (told,) in self._connection.execute(f"PRAGMA integrity_check({PROBLEMS_TOLD_MAX})"):
            if told != "ok":
                self._found.add(f"SQLite: {told}")

    def _checksums(self) -> None:
        """All rows but messages."""
        if self._found.version < _CHECKSUM_SINCE:
            return
        tables = self._rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for (table,) in list(tables):
            columns = self._columns(table)
            if table == "message" or "crc" not in columns:
                continue
            covered = _OTHER_CHECKSUMS.get(table) or ", ".join(f'"{name}"' for name in columns if name != "crc")
            key = ", ".join(f'"{name}"' for name in columns if name not in ("crc", "config"))
            sql = f"SELECT {key} FROM {table} WHERE crc IS NOT checksum({covered})"  # noqa: S608 - names of our own
            for row in self._rows(sql):
                self._found.add(f"the checksum of the row {row!r:.200} of the table {table} is wrong")

    def _configurations(self) -> None:
        for table in ("topic", "consumer_group"):
            for name, config in self._rows(f"SELECT name, config FROM {table}"):  # noqa: S608 - names of our own
                try:
                    json.loads(config)
                except (ValueError, TypeError) as error:
                    self._found.add(f"the configuration of {name} in the table {table} is no JSON: {error}")

    def _queues(self) -> None:
        """Whether messages follow on one another from their queue's beginning to its end, as far as that is noted."""
        columns = self._columns("queue")
        bounds = ", ".join(name if name in columns else "0" for name in ("min_offset", "known_end"))
        known = {row[0]: row[1:] for row in self._rows(f"SELECT id, topic, queue_id, {bounds} FROM queue")}  # noqa: S608
        there = {
            row: (low, high, count)
            for row, low, high, count in self._rows(
                "SELECT queue, min(queue_offset), max(queue_offset), count(*) FROM message GROUP BY queue"
            )
        }
        self._found.queues = len(known)
        for row in there.keys() - known.keys():
            self._found.add(f"{there[row][2]} messages are in a queue {row!r} that is not there")
        for row, (topic, queue_id, first, known_end) in known.items():
            if topic == _DROPPED:
                continue
            low, high, count = there.get(row, (first, first - 1, 0))
            queue = f"queue {queue_id} of {topic}"
            if low != first:
                self._found.add(f"{queue} begins at {first}, its first message is at {low}")
            if high + 1 < known_end:
                self._found.add(f"{queue} had messages up to {known_end - 1}, it has them up to {high}")
            if missing := high - low + 1 - count:
                self._found.add(f"{queue} lacks {missing} messages from {low} to {high}")

    def _messages(self) -> None:
        """Whether each message is whole, and what its row says."""
        places = {
            row: (topic, queue_id)
            for row, topic, queue_id in self._rows("SELECT id, topic, queue_id FROM queue")
            if topic != _DROPPED
        }
        # Messages of a store that was upgraded have none: keys begin with the first that has one.
        with_keys: int | None = None
        if self._found.version >= _CHECKSUM_SINCE:
            ((with_keys,),) = self._rows("SELECT min(id) FROM message_key")
        highest = 0
        for row in self._rows(
            "SELECT id, queue, queue_offset, tags_code, stored_ms, crc, data FROM message ORDER BY id"
        ):
            self._found.messages += 1
            highest = row[0]
            message = _message(row)
            if isinstance(message, str):
                wrong: str | None = message
            else:
                wrong = _misplaced(row, message, places.get(row[1]))
                if wrong is None and with_keys is not None and row[0] >= with_keys:
                    wrong = self._not_found_by_key(row[0], message)
            if wrong is not None:
                topic, queue_id = places.get(row[1], (None, None))
                queue = "its queue" if topic is None else f"queue {queue_id} of {topic}"
                self._found.add(f"message {row[0]!r}, at {row[2]!r} of {queue}: {wrong}")
        if self._found.version >= _CHECKSUM_SINCE:
            highest = max(highest, *(last for (last,) in self._rows("SELECT last_id FROM deleted")), 0)
        if highest < self._acknowledged:
            self._found.add(f"messages up to {self._acknowledged} were acknowledged, they are there up to {highest}")

    def _not_found_by_key(self, number: int, message: StoredMessage) -> str | None:
        keys = keys_of(message.properties)
        rows = key_rows(message.topic, keys, number)
        missing = [key for key, row in zip(keys, rows, strict=True) if not self._has(row)]
        return f"it cannot be found by {missing}" if missing else None

    def _has(self, key: KeyRow) -> bool:
        return any(self._connection.execute("SELECT 1 FROM message_key WHERE place = ? AND id = ?", key))

    def _columns(self, table: str) -> list[str]:
        return [row[1] for row in self._rows(f"PRAGMA table_info({table})")]

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(sql)


def _message(row: tuple[Any, ...]) -> StoredMessage | str:
    """The message of a row, or why there is none."""
    _, queue, queue_offset, tags_code, stored_ms, crc, data = row
    if not all(type(value) is int for value in row[:6]) or type(data) is not bytes:
        return "a column is of another type"
    if not is_whole(queue, queue_offset, data, crc):
        return "its checksum is wrong"
    if not is_head_whole(tags_code, stored_ms, crc):
        return "the checksum of its tag and its time is wrong"
    try:
        return decode_stored(data)
    except ProtocolError as error:
        return str(error)


def _misplaced(row: tuple[Any, ...], message: StoredMessage, place: tuple[Any, Any] | None) -> str | None:
    """What a message says otherwise than its row; None: nothing."""
    number, _, queue_offset, tags_code, stored_ms, _, _ = row
    head = message.head
    if (head.commit_log_offset, head.queue_offset, head.store_timestamp) != (number, queue_offset, stored_ms):
        return "it is stored under another place or moment than its own"
    if place is not None and (message.topic, head.queue_id) != place:
        return f"it is of queue {head.queue_id} of {message.topic} and stands in queue {place[1]} of {place[0]}"
    tags = message.properties.get(MessageConst.TAGS)
    if not _orders_by_time(message.topic) and tags_code != (java_string_hash(tags) if tags else 0):
        return "the hash of its tag is another one"
    return None


def _orders_by_time(topic: str) -> bool:
    """Whether the topic is one of the broker's own, where the place of the hash may hold a moment."""
    return topic in names.SYSTEM_TOPICS or topic.startswith(names.SYSTEM_TOPIC_PREFIX)
