"""Files of a store that were cut short, lengthened or changed: what is wrong is told, never handed out, never hidden.

``ROCKETMQ_PY_FULL=1``: every page and frame boundary, and a bit of every eighth byte.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from rocketmq_py.broker.store import PAGE_BYTES, Changes, MessageStore, QueueKey
from rocketmq_py.broker.store.check import check
from rocketmq_py.broker.store.pop_table import put_order_info
from rocketmq_py.broker.store.setting_table import put_setting
from rocketmq_py.broker.store.timer_table import TimerRow, put_timers
from rocketmq_py.errors import StoreError
from rocketmq_py.remoting.message_codec import decode_stored
from rocketmq_py.testing import ManualClock
from tests.broker.broker_life import Known, Life
from tests.unit.broker_rig import GROUP

FULL = os.environ.get("ROCKETMQ_PY_FULL") == "1"
FLIPS = 150
CUTS = 30
FRAME_BYTES = PAGE_BYTES + 24
WAL_HEADER_BYTES = 32


@dataclass
class Left:
    """What is left of a store, and what clients know.

    Attributes:
        crashed: contents by name after a crash; ``store.db`` lacks the last messages, which are in ``store.db-wal``.
        ended: after an end in good order; there is no WAL.
        index_pages: of ``message_by_queue`` in the latter.
        queue_page: the one of ``queue`` in it.
        rows: what is read of the other tables, in it.
    """

    crashed: dict[str, bytes]
    ended: dict[str, bytes]
    known: Known
    index_pages: set[int]
    queue_page: int
    rows: dict[str, Any]

    def of(self, name: str) -> bytes:
        return self.crashed[name] if name == "store.db-wal" else self.ended[name]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A broker at work: ended in good order once, and crashed then."""
    directory = tmp_path_factory.mktemp("damage")
    known, chance, clock = Known(), random.Random(11), ManualClock()
    crashed: dict[str, bytes] = {}
    for turns in (120, 25):
        life = Life(directory, known, chance, clock, sizes=[20, 200, 1_000, 3_000])
        for _ in range(turns):
            life.turn()
        life.rig.controller.when_stored(lambda: None)
        life.rig.loop.run()
        crashed = {name: (directory / name).read_bytes() for name in ("store.db", "store.db-wal", "last_id")}
        life.rig.close()
    with closing(MessageStore(directory)) as store:
        assert store.begin()
        others = [
            write
            for number in range(40)
            for write in (
                put_setting("kind", f"name {number}", "value"),
                put_order_info(("group", "topic", number), "{}"),
                put_timers([TimerRow(1_000 * number, number, f"key {number}")]),
            )
        ]
        store.write(Changes(writes=others))
        store.commit(store.last_id)
    with closing(apsw.Connection(str(directory / "store.db"))) as plain:
        rows = plain.execute("SELECT pageno FROM dbstat WHERE name = 'message_by_queue'").fetchall()
        queue_page = plain.execute("SELECT pageno FROM dbstat WHERE name = 'queue'").get
    ended = {name: (directory / name).read_bytes() for name in ("store.db", "last_id")}
    with closing(MessageStore(directory)) as store:
        read = _rows(store)
    assert all(read.values())
    return Left(crashed, ended, known, {int(str(page)) for (page,) in rows}, int(str(queue_page)), read)


def _rows(store: MessageStore) -> dict[str, Any]:
    """What a broker reads at its start, and where messages lie."""
    return {
        "topic": store.configurations.topics(),
        "consumer_group": store.configurations.groups(),
        "consumer_offset": store.offsets.consumer_offsets(),
        "delay_offset": store.offsets.delay_offsets(),
        "setting": store.settings.settings("kind"),
        "pop_lease": store.pops.leases(),
        "pop_order": store.pops.order_infos(),
        "timer": (store.timers.first(1_000, 2**62), store.timers.lowest_id()),
        "message_status": (store.statuses.statuses(), store.statuses.with_status(GROUP, "CS", ("", 0, 0), 1_000)),
        "message": {
            key: store.messages.scan(state.row, state.min_offset, state.max_offset - state.min_offset)
            for key, state in store.messages.queues().items()
        },
    }


def _told_or_right(directory: Path, left: Left, name: str, content: bytes) -> bool:
    """Whether somebody is told; if not, everything must be there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    files = left.crashed if name == "store.db-wal" else left.ended
    for each, original in {**files, name: content}.items():
        (directory / each).write_bytes(original)
    try:
        with closing(MessageStore(directory)) as store:
            queues = store.messages.queues()
            rows = _rows(store)
            found: dict[tuple[str, int, int], bytes] = {}
            for key, state in queues.items():
                for offset, data in store.messages.read(
                    state.row, state.min_offset, state.max_offset - state.min_offset
                ):
                    found[(*key, offset)] = decode_stored(data).body
    except StoreError:
        return True
    assert name == "store.db-wal" or rows == left.rows
    for (topic, queue_id, offset), (body, _) in left.known.stored.items():
        state = queues[QueueKey(topic, queue_id)]
        assert offset < state.min_offset or found[topic, queue_id, offset] == body
    for (group, topic, queue_id), committed in rows["consumer_offset"].items():
        if group == GROUP:
            begin = queues[QueueKey(topic, queue_id)].min_offset
            assert {*range(begin, committed)} <= left.known.finished[topic, queue_id]
    return False


def _some(places: list[int], count: int) -> list[int]:
    return places if FULL else places[:: max(len(places) // count, 1)]


@pytest.mark.behaviour("DU-09")
@pytest.mark.parametrize(
    ("name", "header", "step"), [("store.db", 0, PAGE_BYTES), ("store.db-wal", WAL_HEADER_BYTES, FRAME_BYTES)]
)
def test_a_file_that_was_cut_short_is_told(left: Left, tmp_path: Path, name: str, header: int, step: int) -> None:
    content = left.of(name)
    boundaries = list(range(header, len(content), step))
    assert len(boundaries) > 10
    places = [place for boundary in boundaries for place in (boundary, boundary + 1, boundary + step // 2 + 7)]
    told = [_told_or_right(tmp_path / "cut", left, name, content[:place]) for place in _some(places, CUTS)]
    assert sum(told) > len(told) // 2


@pytest.mark.behaviour("DU-09")
@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "last_id"])
@pytest.mark.parametrize("tail", [b"\0" * 5_000, b"\0" * 3 * PAGE_BYTES, b"\xa5" * FRAME_BYTES])
def test_a_garbage_tail_changes_nothing(left: Left, tmp_path: Path, name: str, tail: bytes) -> None:
    assert not _told_or_right(tmp_path / "long", left, name, left.of(name) + tail)


def _flipped(content: bytes, places: list[int]) -> Iterator[bytes]:
    for number, place in enumerate(places):
        changed = bytearray(content)
        changed[place] ^= 1 << number % 8
        yield bytes(changed)


@pytest.mark.behaviour("DU-09")
@pytest.mark.parametrize("name", ["store.db", "store.db-wal"])
def test_a_bit_that_flips_is_told_or_harmless(left: Left, tmp_path: Path, name: str) -> None:
    content = left.of(name)
    used = [place for place in range(0, len(content), 8 if FULL else 1) if content[place]]
    told = [_told_or_right(tmp_path / "flip", left, name, each) for each in _flipped(content, _some(used, FLIPS))]
    assert sum(told) > len(told) // 2


@pytest.mark.behaviour("DU-09")
@pytest.mark.parametrize("instead", ["zeros", "another", "none"])
def test_a_queue_whose_row_cannot_be_found_any_more_is_told(left: Left, tmp_path: Path, instead: str) -> None:
    changed = bytearray(left.ended["store.db"])
    page = (left.queue_page - 1) * PAGE_BYTES
    cells = int.from_bytes(changed[page + 3 : page + 5], "big")
    if instead == "none":
        changed[page + 3 : page + 5] = (cells - 1).to_bytes(2, "big")
    else:  # where the first row lies in the page
        changed[page + 8 : page + 10] = b"\x20\0" if instead == "zeros" else changed[page + 10 : page + 12]
    assert _told_or_right(tmp_path / "lost", left, "store.db", bytes(changed))


@pytest.mark.behaviour("DU-10")
def test_a_table_from_which_a_row_has_gone_is_told_at_the_opening_or_by_the_check(left: Left, tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(left.ended["store.db"])
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as plain:
        found = plain.execute("SELECT tbl_name, name, rootpage FROM sqlite_schema WHERE rootpage > 0").fetchall()
    roots = [("sqlite_schema", "sqlite_schema", 1), *found]
    assert len(roots) > 18
    for table, name, number in roots:
        page = (int(str(number)) - 1) * PAGE_BYTES + (100 if number == 1 else 0)
        changed = bytearray(left.ended["store.db"])
        cells = int.from_bytes(changed[page + 3 : page + 5], "big")
        changed[page + 3 : page + 5] = (cells - 1).to_bytes(2, "big")
        (tmp_path / "store.db").write_bytes(changed)
        assert check(tmp_path).count > 0, name
        if table not in ("message", "message_key", "status_history"):
            with pytest.raises(StoreError, match=f"is damaged: in the table {table} SQLite finds"):
                MessageStore(tmp_path)


@pytest.mark.behaviour("DU-09")
def test_a_bit_that_flips_in_the_index_of_messages_is_told_or_harmless(left: Left, tmp_path: Path) -> None:
    content = left.ended["store.db"]
    assert left.index_pages
    used = [
        place
        for page in left.index_pages
        for place in range((page - 1) * PAGE_BYTES, min(page * PAGE_BYTES, len(content)))
        if content[place]
    ]
    told = [_told_or_right(tmp_path / "flip", left, "store.db", each) for each in _flipped(content, _some(used, FLIPS))]
    assert sum(told) > len(told) // 2
