"""The check of a whole store: sound ones are found sound, and damage is found wherever it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from rocketmq_py.broker.commit_log import MessageInner
from rocketmq_py.broker.store import schema
from rocketmq_py.broker.store.check import PROBLEMS_TOLD_MAX, Findings, check
from rocketmq_py.broker.store.configuration_table import put_group, put_topic
from rocketmq_py.broker.store.database import checksum
from rocketmq_py.broker.store.key_table import key_rows
from rocketmq_py.broker.store.offset_table import put_consumer_offsets, put_delay_offset
from rocketmq_py.broker.store.pop_table import LeaseRow, put_leases, put_order_info
from rocketmq_py.broker.store.setting_table import put_setting
from rocketmq_py.broker.store.status_table import HistoryRow, StatusRow, add_history, put_statuses
from rocketmq_py.broker.store.timer_table import TimerRow, put_timers
from rocketmq_py.cli.inspect import inspect_store
from rocketmq_py.errors import StoreError
from tests.broker.test_store import KEY, Opened, opened

COUNT = 200
SUM = "; UPDATE queue SET crc = checksum(id, topic, queue_id, min_offset, known_end)"
OLD = ", crc = crc & 4294967295 "  # as rows were that have no checksum of tag and time


def fill(rig: Opened) -> None:
    rig.put(*(b"body %d " % number + b"x" * 500 for number in range(COUNT)))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store that was closed in good order."""
    with opened(tmp_path / "data") as rig:
        fill(rig)
    return tmp_path / "data"


def change(directory: Path, *statements: str) -> None:
    """Change the database with its own means."""
    with closing(apsw.Connection(str(directory / "store.db"))) as connection:
        connection.create_scalar_function("checksum", checksum, deterministic=True)
        for statement in statements:
            connection.execute(statement)


def changed(directory: Path, *statements: str) -> Findings:
    """What the check says after that."""
    change(directory, *statements)
    return check(directory)


@pytest.mark.behaviour("AC-08")
def test_a_store_in_order_is_sound_closed_open_and_after_a_crash(directory: Path, tmp_path: Path) -> None:
    found = check(directory)
    assert (found.problems, found.messages, found.queues) == ([], COUNT, 1)
    with opened(directory) as rig:
        fill(rig)
        assert check(directory) == Findings(schema.SCHEMA_VERSION, 2 * COUNT, 1)
        shutil.copytree(directory, tmp_path / "crashed")
    assert check(tmp_path / "crashed") == Findings(schema.SCHEMA_VERSION, 2 * COUNT, 1)


@pytest.mark.behaviour("AC-08")
def test_it_changes_nothing(directory: Path) -> None:
    before = (directory / "store.db").read_bytes()
    check(directory)
    assert (directory / "store.db").read_bytes() == before
    with opened(directory) as rig:
        assert len(rig.bodies()) == COUNT


@pytest.mark.behaviour("AC-08")
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE message SET data = zeroblob(length(data)) WHERE id = 7", "message 7, at 6 of queue 0 of topic: its"),
        ("UPDATE message SET tags_code = 5 WHERE id = 7", "the checksum of its tag and its time"),
        ("UPDATE message SET tags_code = 5" + OLD + "WHERE id = 7", "the hash of its tag is another one"),
        ("UPDATE message SET stored_ms = 5 WHERE id = 7", "the checksum of its tag and its time"),
        ("UPDATE message SET stored_ms = 5" + OLD + "WHERE id = 7", "another place or moment"),
        ("UPDATE message SET stored_ms = 'x' WHERE id = 7", "a column is of another type"),
        ("UPDATE message SET queue = 9 WHERE id = 7", "1 messages are in a queue 9 that is not there"),
        ("DELETE FROM message WHERE id = 7", "queue 0 of topic lacks 1 messages from 0 to 199"),
        ("DELETE FROM message WHERE id = 1", "queue 0 of topic begins at 0, its first message is at 1"),
        ("DELETE FROM message WHERE id = 200", "messages up to 200 were acknowledged, they are there up to 199"),
        ("UPDATE queue SET topic = 'other'", "the checksum of the row"),
        ("UPDATE queue SET topic = 'x'" + SUM, "stands in queue 0 of x"),
        ("UPDATE queue SET known_end = 300" + SUM, "had messages up to 299, it has them up to 199"),
        ("INSERT INTO topic VALUES ('t', '{', checksum('t', '{'))", "the configuration of t in the table topic is no"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_told(directory: Path, statement: str, problem: str) -> None:
    assert any(problem in each for each in changed(directory, statement).problems)


@pytest.mark.behaviour("AC-08")
def test_one_problem_is_not_several(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(directory, "UPDATE message SET tags_code = 5 WHERE id = 7")
    assert not inspect_store(directory, as_json=False)
    assert f"{COUNT} messages in 1 queue, damaged: 1 problem. Restore a copy" in capsys.readouterr().out


@pytest.mark.behaviour("AC-08")
def test_rows_of_every_table_have_a_checksum_that_is_looked_at(directory: Path) -> None:
    with closing(apsw.Connection(str(directory / "store.db"))) as connection:
        connection.create_scalar_function("checksum", checksum, deterministic=True)
        tables = [
            (table, [column[1:3] for column in connection.execute(f"PRAGMA table_info({table})")])
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        ]
        others = [(table, columns) for table, columns in tables if ("crc", "INTEGER") in columns and table != "message"]
        for table, columns in others:
            values = {name: "'{}'" if kind == "TEXT" else "5" for name, kind in columns if name != "crc"}
            covered = [value for name, value in values.items() if (table, name) != ("status_history", "id")]
            row = ", ".join([*values.values(), f"checksum({', '.join(covered)})"])
            if table not in ("queue", "deleted"):  # which have rows
                connection.execute(f"INSERT INTO {table} VALUES ({row})")
    assert check(directory).problems == []
    found = changed(directory, *(f"UPDATE {table} SET crc = crc + 1" for table, _ in others))
    assert found.count == len(others) > 8


@pytest.mark.behaviour("AC-08")
def test_rows_as_the_broker_writes_them_are_sound(directory: Path) -> None:
    with opened(directory) as rig:
        rig.log.write(
            [
                put_topic("topic", {}),
                put_group("group", {}),
                put_consumer_offsets({("group", "topic", 0): 5}),
                put_delay_offset(3, 5),
                put_setting("kind", "name", "value"),
                put_leases([LeaseRow("group", "topic", 0, 5, 1_000, 60_000, 0)]),
                put_order_info(("group", "topic", 0), "{}"),
                put_timers([TimerRow(1_000, 5, "key")]),
                put_statuses([StatusRow("group", "topic", 0, 5, 9, "CS", 1)]),
                add_history([HistoryRow("group", "topic", 0, 5, 9, "CS", 1, 1_000)]),
            ],
            rig.answers.append,
        )
        rig.loop.run()
    with closing(apsw.Connection(str(directory / "store.db"))) as connection:
        tables = [table for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        empty = [table for table in tables if not list(connection.execute(f"SELECT 1 FROM {table} LIMIT 1"))]
    assert empty == ["message_key"]
    assert check(directory).problems == []


@pytest.mark.behaviour("AC-08")
def test_messages_of_a_dropped_queue_may_be_half_gone(directory: Path) -> None:
    found = changed(directory, "UPDATE queue SET topic = ''" + SUM, "DELETE FROM message WHERE id < 9")
    assert found.problems == []


@pytest.mark.behaviour("AC-08")
def test_a_message_that_cannot_be_found_by_its_keys_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as rig:
        for number in range(3):
            rig.log.put([MessageInner(*KEY, b"body", {"UNIQ_KEY": f"id{number}", "KEYS": "a b"})], lambda error: None)
        rig.loop.run()
    assert check(tmp_path).problems == []
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as connection:
        connection.execute("DELETE FROM message_key WHERE place = ? AND id = ?", *key_rows("topic", ["b"], 2))
        assert check(tmp_path).problems == ["message 2, at 1 of queue 0 of topic: it cannot be found by ['b']"]
        connection.execute("DELETE FROM message_key WHERE id < 3")  # as of a store that was upgraded
    assert check(tmp_path).problems == []


@pytest.mark.behaviour("AC-08")
def test_an_index_that_misses_a_row_is_told(directory: Path) -> None:
    found = changed(
        directory,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX message_by_queue ON message (queue, queue_offset) "
        "WHERE id <> 7' WHERE name = 'message_by_queue'",
        "PRAGMA writable_schema = RESET",
        "REINDEX message_by_queue",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX message_by_queue ON message (queue, queue_offset)' "
        "WHERE name = 'message_by_queue'",
    )
    assert any("SQLite: row 7 missing from index message_by_queue" in each for each in found.problems)


@pytest.mark.behaviour("AC-08")
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_pages_of_garbage_are_told_and_do_not_end_the_check(directory: Path, part: float) -> None:
    data = bytearray((directory / "store.db").read_bytes())
    page = int(part * len(data) / 16_384)
    data[page * 16_384 : (page + 1) * 16_384] = b"\xa5" * 16_384
    (directory / "store.db").write_bytes(data)
    assert check(directory).count > 0


def test_many_problems_are_counted_and_the_first_ones_told(directory: Path) -> None:
    found = changed(directory, "UPDATE message SET crc = crc + 1")
    assert (found.count, len(found.problems)) == (COUNT, PROBLEMS_TOLD_MAX)


def not_there(directory: Path) -> None:
    shutil.rmtree(directory)


def no_database(directory: Path) -> None:
    (directory / "store.db").write_bytes(b"no database " * 500)


def of_another_program(directory: Path) -> None:
    change(directory, "PRAGMA application_id = 5")


def of_a_newer_version(directory: Path) -> None:
    change(directory, "PRAGMA user_version = 1000")


@pytest.mark.behaviour("AC-08")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (not_there, "there is no store in"),
        (no_database, "is no store, or its first page is damaged"),
        (of_another_program, "is not a rocketmq_py store"),
        (of_a_newer_version, "upgrade rocketmq_py"),
    ],
)
def test_what_is_no_store_of_ours_is_refused(directory: Path, make: Callable[[Path], None], said: str) -> None:
    make(directory)
    with pytest.raises(StoreError, match=said):
        check(directory)
