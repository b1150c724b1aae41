"""The store's file: opened, refused, damaged, full, and failing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest

from rocketmq_py.broker.commit_log import NOTE_ENDS_INTERVAL_MS, Arrival, CommitLog, MessageInner
from rocketmq_py.broker.get_message import get_message
from rocketmq_py.broker.message_filter import read_filter
from rocketmq_py.broker.store import (
    APPLICATION_ID,
    PAGE_BYTES,
    SCHEMA_VERSION,
    Changes,
    MessageStore,
    QueueKey,
    Write,
    checksum,
)
from rocketmq_py.broker.store import database as store_module
from rocketmq_py.broker.store.configuration_table import put_group, put_topic
from rocketmq_py.broker.store.offset_table import put_consumer_offsets, put_delay_offset
from rocketmq_py.errors import StoreError
from rocketmq_py.model.message import MessageHead
from rocketmq_py.remoting.message_codec import encode_stored
from rocketmq_py.testing import ManualClock
from tests.broker.power_cut import Disk, InlineLoop, read_all

KEY = QueueKey("topic", 0)


class Opened:
    """A store with what writes to it."""

    def __init__(self, directory: Path, vfs: str | None = None, *, synchronous: bool = True) -> None:
        self.loop = InlineLoop()
        self.arrivals: list[Arrival] = []
        with ExitStack() as on_failure:
            self.store = on_failure.enter_context(closing(MessageStore(directory, vfs=vfs, synchronous=synchronous)))
            self.clock = ManualClock()
            self.log = CommitLog(self.store, self.loop, self.clock, bytes(8), self.arrivals.extend)
            on_failure.pop_all()
        self.answers: list[StoreError | None] = []

    def put(self, *bodies: bytes, key: QueueKey = KEY, delay: dict[int, int] | None = None) -> StoreError | None:
        """Store messages in one group; the answer."""
        self.log.put(
            [MessageInner(*key, body, {}) for body in bodies],
            self.answers.append,
            [put_delay_offset(*place) for place in (delay or {}).items()],
        )
        self.loop.run()
        return self.answers[-1]

    def bodies(self, key: QueueKey = KEY) -> list[bytes]:
        return [body for place, _, body in read_all(self.store) if place == key]


@contextmanager
def opened(directory: Path, vfs: str | None = None, *, synchronous: bool = True) -> Iterator[Opened]:
    rig = Opened(directory, vfs, synchronous=synchronous)
    with closing(rig.store):
        yield rig


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


def filled(directory: Path, count: int = 5, size: int = 100) -> list[bytes]:
    """Make a store with messages, each committed alone, and close it."""
    with opened(directory) as rig:
        return fill(rig, count, size)


def fill(rig: Opened, count: int, size: int = 100) -> list[bytes]:
    bodies = [b"%d:" % number + os.urandom(size) for number in range(count)]
    for body in bodies:
        assert rig.put(body) is None
    return bodies


def crashed(directory: Path, target: Path, count: int = 5, size: int = 100) -> list[bytes]:
    """What is left of a store whose process was killed: its WAL is not in the file."""
    with opened(directory) as rig:
        bodies = fill(rig, count, size)
        target.mkdir()
        for name in ("store.db", "store.db-wal", "last_id"):
            shutil.copy(directory / name, target)
    return bodies


def changed(path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


# The file.


@pytest.mark.behaviour("ES-03")
def test_a_new_store_is_a_wal_file_with_our_marks(directory: Path) -> None:
    filled(directory, 1)
    with closing(apsw.Connection(str(directory / "store.db"), flags=apsw.SQLITE_OPEN_READONLY)) as plain:
        marks = {
            name: plain.pragma(name)
            for name in ("application_id", "user_version", "page_size", "auto_vacuum", "journal_mode", "encoding")
        }
    assert marks == {
        "application_id": APPLICATION_ID, "user_version": SCHEMA_VERSION, "page_size": PAGE_BYTES, "auto_vacuum": 2,
        "journal_mode": "wal", "encoding": "UTF-8",
    }  # fmt: skip


@pytest.mark.behaviour("ES-03")
def test_a_store_that_somebody_took_out_of_wal_mode_is_put_back(directory: Path) -> None:
    bodies = filled(directory)
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        assert plain.pragma("journal_mode", "delete") == "delete"
    with opened(directory) as rig:
        assert rig.bodies() == bodies
        assert rig.put(b"more") is None
        assert (directory / "store.db-wal").exists()


@pytest.mark.behaviour("ES-03")
def test_where_no_wal_is_possible_the_store_is_refused(directory: Path) -> None:
    class NoSharedMemory(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("no-shared-memory", "", iVersion=1)

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
            return apsw.VFSFile("unix-dotfile", name, flags)

    vfs = NoSharedMemory()
    try:
        with pytest.raises(StoreError, match=r"cannot have a WAL.*local disk"):
            MessageStore(directory, vfs="no-shared-memory")
    finally:
        vfs.unregister()


@pytest.mark.behaviour("ES-03")
def test_the_names_of_new_directories_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted(number: int) -> None:
        fsync(number)
        synced.add(os.fstat(number).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    filled(tmp_path / "a" / "b")
    assert {tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino} <= synced


# Ends and beginnings.


@pytest.mark.behaviour("ES-04")
def test_a_second_start_carries_on(directory: Path) -> None:
    other = QueueKey("topic", 7)
    with opened(directory) as rig:
        bodies = fill(rig, 3)
        assert rig.put(b"x", b"y", key=other, delay={2: 1, 5: 9}) is None
        rig.log.write([put_topic("topic", {"topicName": "topic", "perm": 6})], rig.answers.append)
        rig.log.write([put_group("group", {"groupName": "group"})], rig.answers.append)
        rig.log.write([put_consumer_offsets({("group", "topic", 7): 1})], rig.answers.append)
        rig.loop.run()
        assert rig.answers[-3:] == [None] * 3
    with opened(directory) as rig:
        assert rig.bodies() == bodies
        assert rig.bodies(other) == [b"x", b"y"]
        assert rig.store.last_id == 5
        assert rig.store.configurations.topics() == {"topic": {"topicName": "topic", "perm": 6}}
        assert rig.store.configurations.groups() == {"group": {"groupName": "group"}}
        assert rig.store.offsets.consumer_offsets() == {("group", "topic", 7): 1}
        assert rig.store.offsets.delay_offsets() == {2: 1, 5: 9}
        (place,) = rig.log.put([MessageInner(*other, b"z", {})], rig.answers.append)
        assert place == (2, 6)
        (place,) = rig.log.put([MessageInner("new", 0, b"n", {})], rig.answers.append)
        assert place == (0, 7)
        rig.loop.run()
        assert rig.bodies(other) == [b"x", b"y", b"z"]
        assert rig.bodies(QueueKey("new", 0)) == [b"n"]


@pytest.mark.behaviour("ES-04")
def test_an_empty_directory_becomes_a_store_with_its_parents(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        with opened(directory) as rig:
            assert rig.store.last_id == 0
            assert rig.store.messages.queues() == {}
            assert rig.put(b"first") is None


@pytest.mark.behaviour("ES-04")
def test_an_empty_file_becomes_a_store(directory: Path) -> None:
    directory.mkdir()
    (directory / "store.db").touch()
    filled(directory)


@pytest.mark.behaviour("ES-04")
def test_closing_twice_is_closing_once_and_nothing_works_afterwards(directory: Path) -> None:
    rig = Opened(directory)
    fill(rig, 1)
    rig.store.close()
    rig.store.close()
    assert not (directory / "store.db-wal").exists()
    uses: list[Callable[[], Any]] = [
        rig.store.messages.queues, lambda: rig.store.messages.by_id(1),
        lambda: rig.store.write(Changes(writes=[put_topic("a", {})])), lambda: rig.store.commit(2),
        lambda: rig.store.messages.read(1, 0, 1),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(StoreError):
            use()


# Refused.


@pytest.mark.behaviour("ES-05")
def test_a_store_is_used_by_one_broker_at_a_time(directory: Path) -> None:
    with opened(directory) as rig:
        bodies = fill(rig, 1)
        for _ in range(2):
            with pytest.raises(StoreError, match="in use by another broker: end it first"):
                MessageStore(directory)
        program = (
            f"from pathlib import Path; from rocketmq_py.broker.store import *; MessageStore(Path({str(directory)!r}))"
        )
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
        assert other.returncode == 1
        assert "in use by another broker" in other.stderr
        assert rig.put(b"more") is None
    with opened(directory) as rig:
        assert rig.bodies() == [*bodies, b"more"]


@pytest.mark.behaviour("ES-05")
def test_the_lock_goes_with_the_process(directory: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from rocketmq_py.broker.store import *; "
        f"store = MessageStore(Path({str(directory)!r})); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == -9
    filled(directory)


@pytest.mark.behaviour("ES-06")
def test_the_database_of_another_program_is_refused_and_left_alone(directory: Path) -> None:
    directory.mkdir()
    path = directory / "store.db"
    with closing(apsw.Connection(str(path))) as plain:
        plain.execute("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is not a rocketmq_py store: give another directory"):
        MessageStore(directory)
    assert path.read_bytes() == before


@pytest.mark.behaviour("ES-06")
def test_a_file_that_is_no_database_is_refused_and_left_alone(directory: Path) -> None:
    directory.mkdir()
    content = b"holiday pictures\n" * 10_000
    (directory / "store.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"not a database.*give another directory"):
        MessageStore(directory)
    assert (directory / "store.db").read_bytes() == content


@pytest.mark.behaviour("ES-06")
def test_the_store_of_a_newer_version_is_refused_and_left_alone(directory: Path) -> None:
    filled(directory)
    path = directory / "store.db"
    with closing(apsw.Connection(str(path))) as plain:
        plain.pragma("user_version", SCHEMA_VERSION + 1)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"written by a newer rocketmq_py \(store version 3.*upgrade"):
        MessageStore(directory)
    assert path.read_bytes() == before


_VERSION_1 = """
CREATE TABLE topic (name TEXT PRIMARY KEY, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE consumer_group (name TEXT PRIMARY KEY, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE queue (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, queue_id INTEGER NOT NULL, UNIQUE (topic, queue_id));
CREATE TABLE message (
    id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, queue_offset INTEGER NOT NULL, tags_code INTEGER NOT NULL,
    stored_ms INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE UNIQUE INDEX message_by_queue ON message (queue, queue_offset);
CREATE TABLE consumer_offset (
    consumer_group TEXT, topic TEXT, queue_id INTEGER, offset INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, queue_id)
) WITHOUT ROWID;
CREATE TABLE delay_offset (level INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
"""


def store_of_version_1(directory: Path, bodies: list[bytes]) -> None:
    directory.mkdir()
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        plain.pragma("page_size", PAGE_BYTES)
        plain.pragma("auto_vacuum", 2)
        plain.pragma("journal_mode", "wal")
        plain.execute(_VERSION_1)
        plain.pragma("application_id", APPLICATION_ID)
        plain.pragma("user_version", 1)
        plain.execute("INSERT INTO queue VALUES (1, 'topic', 0)")
        for offset, body in enumerate(bodies):
            data = encode_stored(
                MessageHead(0, 0, 0, 0, 0, offset, offset + 1, 0, 0, bytes(8), 0, bytes(8), 0, 0), "topic", body, ""
            )
            row = (offset + 1, 1, offset, 0, 0, checksum(1, offset, data), data)
            plain.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _tables(directory: Path) -> dict[str, list[Any]]:
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        assert plain.pragma("user_version") == SCHEMA_VERSION
        names = [
            name for (name,) in plain.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        ]
        return {name: plain.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in names}


@pytest.mark.behaviour("ES-12")
def test_a_store_of_version_1_carries_on_with_the_tables_of_a_new_one(directory: Path, tmp_path: Path) -> None:
    bodies = [b"first", b"second"]
    store_of_version_1(directory, bodies)
    filled(tmp_path / "new", 1)
    for more in (b"third", b"fourth"):
        with opened(directory) as rig:
            assert rig.bodies() == bodies
            assert rig.put(more) is None
            bodies.append(more)
    assert _tables(directory) == _tables(tmp_path / "new")


@pytest.mark.behaviour("ES-12")
def test_a_store_from_before_an_index_gets_it_when_it_is_opened(directory: Path) -> None:
    filled(directory, 1)
    whole = _tables(directory)
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        plain.execute("DROP INDEX timer_by_id")
    assert _tables(directory) != whole
    with opened(directory):
        pass
    assert _tables(directory) == whole


@pytest.mark.behaviour("ES-12")
def test_an_upgrade_that_fails_anywhere_leaves_a_store_that_can_be_upgraded(directory: Path) -> None:
    def fails_at(steps: Iterator[int], step: int, doing: str, name: str) -> None:
        if next(steps) == step:
            raise apsw.FullError("injected")

    refusals: list[str] = []
    opens = False
    while not opens:
        store_of_version_1(directory, [b"first"])
        with Disk(directory) as disk:
            disk.on_step = partial(fails_at, count(), len(refusals))
            try:
                MessageStore(directory, vfs=disk.name).close()
                opens = True
            except StoreError as error:
                refusals.append(str(error))
            _works(disk)
        with opened(directory) as rig:
            assert rig.bodies() == [b"first"]
            assert rig.put(b"more") is None
        shutil.rmtree(directory)
    assert len(refusals) > 5
    assert all(["the disk is full. Make room" in text for text in refusals])


@pytest.mark.behaviour("ES-09")
@pytest.mark.parametrize("value", ["\ud800", 1 << 70])
def test_what_sqlite_cannot_hold_is_an_error_of_the_store_not_a_broken_loop(directory: Path, value: Any) -> None:
    with closing(MessageStore(directory)) as store:
        assert store.begin()
        with pytest.raises(StoreError, match="cannot write to the store"):
            store.write(Changes(writes=[Write("INSERT INTO setting VALUES ('kind', ?, 'value', 0)", [(value,)])]))


@pytest.mark.behaviour("ES-06")
def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=f"cannot open the store {directory}"):
            MessageStore(directory)


@pytest.mark.behaviour("ES-06")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_refused(directory: Path) -> None:
    filled(directory)
    directory.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot open the store"):
            MessageStore(directory)
    finally:
        directory.chmod(0o700)


# Damage.


@pytest.mark.behaviour("ES-07")
def test_a_changed_byte_of_a_message_is_told_when_it_is_read(directory: Path) -> None:
    bodies = filled(directory)
    changed(directory / "store.db", lambda content: _flip(content, content.index(bodies[2])))
    with opened(directory) as rig:
        (queue,) = rig.store.messages.queues().values()
        assert len(rig.store.messages.read(queue.row, 0, 2)) == 2
        for read in (lambda: rig.store.messages.read(queue.row, 2, 1), lambda: rig.store.messages.by_id(3)):
            with pytest.raises(
                StoreError, match=r"is damaged: the checksum of the message at 2 of a queue is wrong. Restore"
            ):
                read()
        assert len(rig.store.messages.read(queue.row, 3, 2)) == 2


@pytest.mark.behaviour("ES-07")
@pytest.mark.parametrize(
    "subscription", [("TAG", "*"), ("TAG", "tag"), ("SQL92", "a IS NULL")], ids=["everything", "tags", "properties"]
)
def test_what_lies_before_a_damaged_message_is_given_out_and_what_lies_behind_it_where_it_is_passed_over(
    directory: Path, subscription: tuple[str, str]
) -> None:
    with opened(directory) as rig:
        rig.log.put([MessageInner(*KEY, b"body %d" % n, {"TAGS": "tag"}) for n in range(5)], rig.answers.append)
        rig.loop.run()
    changed(directory / "store.db", lambda content: _flip(content, content.index(b"body 2")))
    with opened(directory) as rig:

        def places(offset: int) -> list[int]:
            found = get_message(rig.log, KEY, offset, 32, read_filter("topic", *subscription, 1))
            assert found.next_begin_offset == found.messages[-1][0] + 1
            return [place for place, _ in found.messages]

        assert places(0) == [0, 1]
        with pytest.raises(StoreError, match="the message at 2 of a queue is wrong"):
            places(2)
        assert places(3) == [3, 4]


@pytest.mark.behaviour("ES-07")
@pytest.mark.parametrize("column", ["tags_code", "stored_ms"])
def test_a_message_whose_tag_or_time_was_changed_is_told_to_who_looks_by_them_and_given_to_others(
    directory: Path, column: str
) -> None:
    with opened(directory) as rig:
        rig.log.put([MessageInner(*KEY, b"body %d" % n, {"TAGS": "tag"}) for n in range(5)], rig.answers.append)
        rig.loop.run()
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        plain.execute(f"UPDATE message SET {column} = {column} + 8 WHERE queue_offset = 2")
    with opened(directory) as rig:

        def places(offset: int, tags: str) -> list[int]:
            return [
                place
                for place, _ in get_message(rig.log, KEY, offset, 32, read_filter("topic", "TAG", tags, 1)).messages
            ]

        assert places(0, "*") == [0, 1, 2, 3, 4]
        assert (places(0, "tag"), places(1, "tag")) == ([0], [1])
        assert places(3, "tag") == [3, 4]
        for look in (lambda: places(2, "tag"), lambda: rig.log.stored_ms(KEY, 2), lambda: rig.log.places(KEY, 0, 5)):
            with pytest.raises(StoreError, match="the checksum of the tag and the time of a message is wrong"):
                look()


@pytest.mark.behaviour("ES-07")
@pytest.mark.parametrize("part", ["sqlite_schema", "topic", "queue", "message", "message_by_queue"])
def test_a_page_of_garbage_is_told(directory: Path, part: str) -> None:
    filled(directory, 50)
    page = root_page(directory, part) - 1

    def overwrite(content: bytearray) -> None:
        content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = b"\xa5" * PAGE_BYTES

    changed(directory / "store.db", overwrite)
    with pytest.raises(StoreError, match=r"damaged.*[Rr]estore a copy"):
        read_everything(directory)


@pytest.mark.behaviour("ES-07")
def test_an_index_that_leads_to_another_message_is_told(directory: Path) -> None:
    filled(directory, 3)
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        plain.execute("UPDATE message SET queue_offset = 1000 + queue_offset WHERE id > 1")
        plain.execute("UPDATE message SET queue_offset = 1 WHERE id = 3")
        plain.execute("UPDATE message SET queue_offset = 2 WHERE id = 2")
    with opened(directory) as rig:
        with pytest.raises(StoreError, match="checksum"):
            rig.log.read(KEY, 1, 1)
        assert len(rig.log.read(KEY, 0, 1)) == 1


@pytest.mark.behaviour("ES-07")
def test_a_message_under_another_id_is_told(directory: Path) -> None:
    filled(directory, 3)
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        plain.execute("UPDATE message SET id = 9 WHERE id = 2")
    with opened(directory) as rig, pytest.raises(StoreError, match="in the place of another"):
        rig.store.messages.by_id(9)


@pytest.mark.behaviour("ES-07")
def test_an_index_that_leads_a_filter_to_another_message_is_told(directory: Path) -> None:
    with opened(directory) as rig:
        fill(rig, 3)
    index = (root_page(directory, "message_by_queue") - 1) * PAGE_BYTES

    def lead_astray(content: bytearray) -> None:
        at = index + int.from_bytes(content[index + 10 : index + 12], "big")  # the second entry
        content[at + content[at]] ^= 1  # the id at its end: 2 becomes 3

    changed(directory / "store.db", lead_astray)
    with opened(directory) as rig, pytest.raises(StoreError, match="the message at 1 of a queue is not found"):
        rig.log.scan(KEY, 0, 3)


@pytest.mark.behaviour("ES-07")
def test_an_index_that_lost_the_end_of_a_young_queue_is_told_at_the_opening(directory: Path) -> None:
    with opened(directory) as rig:
        fill(rig, 3)
        assert _known_ends(directory) == [0]
    index = (root_page(directory, "message_by_queue") - 1) * PAGE_BYTES

    def drop_the_last(content: bytearray) -> None:
        content[index + 3 : index + 5] = b"\0\2"  # cells

    changed(directory / "store.db", drop_the_last)
    with pytest.raises(StoreError, match="had messages from 0 to 2 or further, it has them from 0 to 1"):
        opened(directory).__enter__()


@pytest.mark.behaviour("ES-07")
@pytest.mark.parametrize("which", ["id = 1", "id = 3"])
def test_a_queue_that_lost_its_beginning_or_its_end_is_told_at_the_opening(directory: Path, which: str) -> None:
    with opened(directory) as rig:
        fill(rig, 3)
        assert rig.put(b"x", key=QueueKey("topic", 1)) is None  # so that the highest id is there
        rig.log.note_ends()
        rig.loop.run()
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        plain.execute(f"DELETE FROM message WHERE {which}")
    with pytest.raises(StoreError, match="queue 0 of the topic topic had messages from 0 to 2 or further, it has them"):
        opened(directory).__enter__()


@pytest.mark.behaviour("ES-07")
def test_ends_of_queues_are_written_down_with_the_first_write_after_a_second(directory: Path) -> None:
    with opened(directory) as rig:
        assert rig.put(b"first") is None
        assert _known_ends(directory) == [0]
        rig.clock.advance(NOTE_ENDS_INTERVAL_MS)
        assert rig.put(b"second", b"third") is None
        assert _known_ends(directory) == [1]
        assert rig.put(b"fourth") is None
        assert _known_ends(directory) == [1]
        rig.log.note_ends()
        rig.loop.run()
        assert _known_ends(directory) == [4]


def _known_ends(directory: Path) -> list[int]:
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        return [end for (end,) in plain.execute("SELECT known_end FROM queue ORDER BY id")]


@pytest.mark.behaviour("ES-07")
def test_a_message_that_is_missing_within_a_queue_is_told(directory: Path) -> None:
    filled(directory, 3)
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        plain.execute("DELETE FROM message WHERE id = 2")
    with opened(directory) as rig, pytest.raises(StoreError, match="the message at 1 of a queue is not found"):
        rig.log.read(KEY, 0, 3)


@pytest.mark.behaviour("ES-07")
def test_no_changed_bit_makes_a_message_a_wrong_one(directory: Path, tmp_path: Path) -> None:
    bodies = filled(directory, 20, 30)
    # Damage in this page can hide the end of a queue, which nothing tells.
    index = root_page(directory, "message_by_queue")
    content = (directory / "store.db").read_bytes()
    used = [at for at, byte in enumerate(content) if byte and at // PAGE_BYTES + 1 != index]
    told = 0
    target = tmp_path / "changed"
    for at in used[:: max(len(used) // 150, 1)]:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        damaged = bytearray(content)
        _flip(damaged, at)
        (target / "store.db").write_bytes(damaged)
        try:
            assert read_everything(target) in ([], bodies)  # none: the name of the queue has changed
        except StoreError:
            told += 1
    assert told > 50


def root_page(directory: Path, name: str) -> int:
    if name == "sqlite_schema":
        return 1
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        row = plain.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    assert row is not None
    return int(row[0])


def read_everything(directory: Path) -> list[bytes]:
    with opened(directory) as rig:
        for state in rig.store.messages.queues().values():
            rows = rig.store.messages.scan(state.row, 0, state.max_offset)
            for offset, row_id, _ in rows:
                rig.store.messages.by_id(row_id)
                rig.store.messages.stored_ms(state.row, offset)
        for read in (
            rig.store.configurations.topics,
            rig.store.configurations.groups,
            rig.store.offsets.consumer_offsets,
            rig.store.offsets.delay_offsets,
        ):
            read()
        return rig.bodies()


def _flip(content: bytearray, at: int) -> None:
    content[at] ^= 0x10


# A damaged WAL.


@pytest.mark.behaviour("ES-08")
@pytest.mark.parametrize("damage", ["cut short", "garbage in the middle", "one bit in the middle", "gone", "empty"])
def test_a_damaged_wal_is_refused_and_kept(tmp_path: Path, damage: str) -> None:
    bodies = crashed(tmp_path / "origin", tmp_path / "data", 40)
    wal, last_id = tmp_path / "data" / "store.db-wal", tmp_path / "data" / "last_id"

    def change(content: bytearray) -> None:
        middle = len(content) // 2
        if damage == "cut short":
            del content[middle:]
        elif damage == "garbage in the middle":
            content[middle : middle + 1_000] = os.urandom(1_000)
        elif damage == "one bit in the middle":
            content[middle] ^= 1
        else:
            content.clear()

    changed(wal, change)
    if damage == "gone":
        wal.unlink()
    before = wal.read_bytes() if wal.exists() else None
    for _ in range(2):
        with pytest.raises(StoreError) as refused:
            MessageStore(tmp_path / "data")
        text = str(refused.value)
        assert "is damaged: messages up to 40 were acknowledged, it has them up to " in text
        assert f"Restore a copy; or delete {last_id} to go on without the others" in text
        if damage not in {"gone", "empty"}:
            assert wal.read_bytes() == before  # whoever wants to save more still can
    last_id.unlink()
    with opened(tmp_path / "data") as rig:
        left = rig.bodies()
        assert left == bodies[: len(left)]
        assert len(left) < 40
        assert rig.put(b"goes on") is None
        assert rig.bodies() == [*left, b"goes on"]


@pytest.mark.behaviour("ES-08")
def test_a_damaged_wal_is_refused_without_syncs_too(tmp_path: Path) -> None:
    crashed(tmp_path / "origin", tmp_path / "data", 10)
    changed(tmp_path / "data" / "store.db-wal", lambda content: _flip(content, len(content) // 2))
    for synchronous in (False, True):
        with pytest.raises(StoreError, match="messages up to 10 were acknowledged"):
            MessageStore(tmp_path / "data", synchronous=synchronous)


@pytest.mark.behaviour("ES-08")
@pytest.mark.parametrize("text", [None, b"", b"0000", b"\0" * 20, b"garbage", b"-5", b"1", b"00000000000000000002"])
def test_last_id_is_a_lower_bound_that_may_be_torn_or_gone(directory: Path, text: bytes | None) -> None:
    bodies = filled(directory)
    (directory / "last_id").unlink()
    if text is not None:
        (directory / "last_id").write_bytes(text)
    with opened(directory) as rig:
        assert rig.bodies() == bodies
        assert rig.put(b"more") is None
    assert int((directory / "last_id").read_bytes()) == 6


@pytest.mark.behaviour("ES-08")
def test_after_a_run_without_syncs_there_is_no_lower_bound_until_the_next_commit_with_them(directory: Path) -> None:
    filled(directory)
    with opened(directory, synchronous=False) as rig:
        assert rig.put(b"more") is None
        assert (directory / "last_id").read_bytes() == b""
    with opened(directory) as rig:
        assert rig.put(b"and more") is None
    assert int((directory / "last_id").read_bytes()) == 7


# Failing disks.


def _fails(disk: Disk, error: type[apsw.Error], *doing: str) -> None:
    def step(what: str, name: str) -> None:
        if what in doing and name == "store.db-wal":
            raise error("injected")

    disk.on_step = step


def _works(disk: Disk) -> None:
    disk.on_step = lambda doing, name: None


@pytest.mark.behaviour("ES-09")
@pytest.mark.parametrize(
    ("error", "doing", "text"),
    [
        (apsw.IOError, "sync", "cannot write to the store"),
        (apsw.IOError, "write", "cannot write to the store"),
        (apsw.FullError, "write", "the disk is full. Make room"),
    ],
)
@pytest.mark.parametrize("size", [10, 4_000_000])  # written at the commit; before it
def test_after_a_failed_write_nothing_is_acknowledged_until_the_next_start(
    directory: Path, error: type[apsw.Error], doing: str, text: str, size: int
) -> None:
    with Disk(directory) as disk:
        with opened(directory, disk.name) as rig:
            bodies = fill(rig, 5)
            told = len(rig.arrivals)
            _fails(disk, error, doing)
            for attempt in range(3):
                refusal = rig.put(os.urandom(size))
                assert refusal is rig.log.failure
                assert str(refusal).startswith("nothing more is stored until the broker is started again: ")
                assert text in str(refusal)
                if attempt == 1:
                    _works(disk)  # what the disk has now nobody knows: working again does not help
            rig.log.write([put_consumer_offsets({("group", "topic", 0): 1})], rig.answers.append)
            rig.loop.run()
            assert rig.answers[-1] is rig.log.failure
            assert len(rig.arrivals) == told
            assert rig.log.max_offset(KEY) == 5
            assert rig.bodies() == bodies
        with opened(directory, disk.name) as rig:
            assert rig.bodies()[:5] == bodies
            assert rig.put(b"goes on") is None
            assert rig.bodies()[-1] == b"goes on"


@pytest.mark.behaviour("ES-09")
def test_what_waited_behind_a_failed_write_is_refused_too(directory: Path) -> None:
    with Disk(directory) as disk, opened(directory, disk.name) as rig:
        _fails(disk, apsw.IOError, "sync")
        rig.log.put([MessageInner(*KEY, b"first", {})], rig.answers.append)
        rig.log.write([put_topic("topic", {})], rig.answers.append)
        rig.log.put([MessageInner(*KEY, b"second", {})], rig.answers.append)
        idle: list[str] = []
        rig.log.when_idle(lambda: idle.append("idle"))
        rig.loop.run()
        assert rig.answers == [rig.log.failure] * 3
        assert idle == ["idle"]
        assert not rig.log.is_busy
        _works(disk)


@pytest.mark.behaviour("ES-09")
def test_a_failed_write_of_last_id_counts_as_well(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, offset: int) -> None:
            raise OSError(28, "No space left on device")

    with opened(directory) as rig:
        assert rig.put(b"first") is None
        with monkeypatch.context() as patch:
            patch.setattr(rig.store._database, "_last_id_file", Full())
            assert "No space left on device" in str(rig.put(b"second"))
        assert "started again" in str(rig.put(b"third"))
    with opened(directory) as rig:
        assert rig.bodies() == [b"first", b"second"]  # nobody was told that it was stored, which does no harm


@pytest.mark.behaviour("ES-09")
def test_a_failed_checkpoint_costs_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # SQLite itself would go on with the WAL alone; apsw makes the error of a Python VFS the commit's.
    monkeypatch.setattr(store_module, "CHECKPOINT_PAGES", 5)

    def step(doing: str, name: str) -> None:
        if name == "store.db" and doing in {"write", "sync"}:
            raise apsw.IOError("injected")

    with Disk(directory) as disk:
        with suppress(StoreError), opened(directory, disk.name) as rig:
            disk.on_step = step
            bodies = []
            while rig.put(body := os.urandom(1_000)) is None:
                bodies.append(body)
        _works(disk)
        with opened(directory, disk.name) as rig:
            assert rig.bodies()[: len(bodies)] == bodies


@pytest.mark.behaviour("ES-09")
def test_a_write_of_somebody_else_is_waited_for_and_nothing_is_refused(directory: Path) -> None:
    with opened(directory) as rig, closing(apsw.Connection(str(directory / "store.db"))) as other:
        fill(rig, 1)
        other.execute("BEGIN IMMEDIATE")
        told: list[StoreError | None] = []
        for body in (b"while it writes", b"still"):
            rig.log.put([MessageInner("topic", 0, body, {})], told.append)
            rig.loop.run()
            rig.loop.run_later()
        assert told == []
        other.execute("ROLLBACK")
        rig.loop.run_later()
        assert told == [None, None]


@pytest.mark.behaviour("ES-09")
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_store_whose_files_were_taken_away_acknowledges_nothing_more(directory: Path, how: str) -> None:
    with opened(directory) as rig:
        fill(rig, 3)
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            (directory / name).rename(directory / f"{name}.away")
            if how == "replaced":
                shutil.copy(directory / f"{name}.away", directory / name)
        assert "removed or replaced" in str(rig.put(b"lost"))


@pytest.mark.behaviour("ES-05")
def test_a_copy_of_the_directory_by_the_same_process_does_not_undo_the_lock(directory: Path, tmp_path: Path) -> None:
    with opened(directory) as rig:
        fill(rig, 3)
        shutil.copytree(directory, tmp_path / "copy")
        with pytest.raises(StoreError, match="in use by another broker"):
            MessageStore(directory)


# Size and threads.


@pytest.mark.behaviour("ES-10")
def test_a_body_of_4_mib_is_stored(directory: Path) -> None:
    body = os.urandom(4 * 1024 * 1024)
    with opened(directory) as rig:
        assert rig.put(body, b"small") is None
    with opened(directory) as rig:
        assert rig.bodies() == [body, b"small"]


@pytest.mark.behaviour("ES-10")
@pytest.mark.parametrize("read", ["by_id", "stored_ms", "read", "scan", "topics"])
def test_no_read_holds_back_the_checkpoints(directory: Path, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHECKPOINT_PAGES", 20)
    with opened(directory) as rig:
        fill(rig, 3)
        rig.log.write([put_topic("a", {})], rig.answers.append)
        rig.log.write([put_topic("b", {})], rig.answers.append)
        rig.loop.run()
        reads: dict[str, Callable[[], Any]] = {
            "by_id": lambda: rig.store.messages.by_id(1),
            "stored_ms": lambda: rig.store.messages.stored_ms(1, 0),
            "read": lambda: rig.store.messages.read(1, 0, 1),
            "scan": lambda: rig.store.messages.scan(1, 0, 1),
            "topics": rig.store.configurations.topics,
        }
        assert reads[read]()
        fill(rig, 100, 10_000)
        assert (directory / "store.db-wal").stat().st_size < 60 * PAGE_BYTES


@pytest.mark.behaviour("ES-10")
def test_one_thread_reads_while_another_commits(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHECKPOINT_PAGES", 20)
    with opened(directory) as rig:
        bodies = [b"first"]
        assert rig.put(*bodies) is None
        written = threading.Thread(target=lambda: bodies.extend(fill(rig, 150, 5_000)))
        written.start()
        seen = [0]
        try:
            while written.is_alive():
                seen.append(len(rig.store.messages.heads_of(1, 1_000)))
        finally:
            written.join()
        assert seen == sorted(seen)
        assert len(set(seen)) > 2
        assert len(bodies) == 151
        assert rig.bodies() == bodies
