from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rocketmq_py.consumer.local_file_offset_store import LocalFileOffsetStore
from rocketmq_py.consumer.offset_file import OffsetFile, offset_file_path
from rocketmq_py.consumer.offset_serialize_wrapper import from_json, to_json
from rocketmq_py.consumer.offset_store import NO_OFFSET, OFFSET_UNKNOWN, OffsetStore, ReadOffsetType
from rocketmq_py.errors import StoreError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Lock
from rocketmq_py.testing import ManualRuntime
from tests.unit.disk import FailingFiles
from tests.unit.support import GROUP, ME, mq

MEMORY = ReadOffsetType.READ_FROM_MEMORY
STORE = ReadOffsetType.READ_FROM_STORE
MEMORY_FIRST = ReadOffsetType.MEMORY_FIRST_THEN_STORE


class Disk:
    """The file of a group, and stores upon it."""

    def __init__(self, base: Path) -> None:
        self.path = Path(offset_file_path(base, ME, GROUP))
        self.path.parent.mkdir(parents=True)
        self.files = FailingFiles()
        self.runtime = ManualRuntime()

    @property
    def offsets(self) -> dict[MessageQueue, int]:
        return from_json(self.path.read_bytes())

    def lay(self, offsets: dict[MessageQueue, int]) -> None:
        self.path.write_bytes(to_json(offsets))

    def store(self) -> LocalFileOffsetStore:
        """A store as of a consumer that starts now, not loaded."""
        warnings = RateLimitedLog(self.runtime.clock, logging.getLogger(__name__))
        return LocalFileOffsetStore(GROUP, OffsetFile(str(self.path), warnings, self.files), self.runtime, warnings)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "base")


@pytest.fixture
def store(disk: Disk) -> LocalFileOffsetStore:
    return disk.store()


@pytest.mark.behaviour("LF-01")
def test_what_was_stored_is_in_memory_after_loading(disk: Disk) -> None:
    first: OffsetStore = disk.store()
    first.load()
    first.update_offset(mq(0), 10, increase_only=True)
    first.update_offset(mq(1), 0, increase_only=True)
    first.persist_all([mq(0), mq(1)])
    second = disk.store()
    assert second.clone_offset_table() == {}
    second.load()
    assert second.clone_offset_table() == {mq(0): 10, mq(1): 0}
    assert second.read_offset(mq(0), MEMORY) == 10


@pytest.mark.behaviour("LF-01")
def test_without_a_file_loading_brings_nothing(store: LocalFileOffsetStore) -> None:
    store.load()
    assert store.clone_offset_table() == {}


@pytest.mark.behaviour("LF-01", "LF-04")
def test_a_damaged_file_without_a_whole_backup_is_an_error_when_it_is_loaded(
    disk: Disk, store: LocalFileOffsetStore
) -> None:
    disk.path.write_bytes(b"rubbish")
    with pytest.raises(StoreError, match="is damaged"):
        store.load()


@pytest.mark.behaviour("LF-02")
def test_persisting_all_stores_the_queues_told_and_keeps_all_others_in_file_and_memory(
    disk: Disk, store: LocalFileOffsetStore
) -> None:
    disk.lay({mq(0): 1, mq(1): 1, mq(7): 77})
    for number in range(3):
        store.update_offset(mq(number), 10 + number, increase_only=True)
    store.persist_all([mq(0), mq(2), mq(9)])
    assert disk.offsets == {mq(0): 10, mq(1): 1, mq(2): 12, mq(7): 77}
    assert store.clone_offset_table() == {mq(0): 10, mq(1): 11, mq(2): 12}


@pytest.mark.behaviour("LF-02")
@pytest.mark.parametrize(
    "persist",
    [lambda store: store.persist_all([]), lambda store: store.persist_all([mq(5)]), lambda store: store.persist(mq(5))],
)
def test_persisting_nothing_makes_no_file(
    disk: Disk, store: LocalFileOffsetStore, persist: Callable[[LocalFileOffsetStore], None]
) -> None:
    store.update_offset(mq(0), 10, increase_only=True)
    persist(store)
    assert not disk.path.exists()


@pytest.mark.behaviour("LF-02")
def test_persisting_one_queue_stores_that_one(disk: Disk, store: LocalFileOffsetStore) -> None:
    disk.lay({mq(0): 1, mq(1): 1})
    store.update_offset(mq(0), 10, increase_only=True)
    store.update_and_freeze_offset(mq(1), 20)
    store.persist(mq(1))
    assert disk.offsets == {mq(0): 1, mq(1): 20}


@pytest.mark.behaviour("LF-02")
def test_forgetting_a_queue_leaves_the_file_as_it_is(disk: Disk, store: LocalFileOffsetStore) -> None:
    store.update_offset(mq(0), 10, increase_only=True)
    store.persist(mq(0))
    store.remove_offset(mq(0))
    assert store.read_offset(mq(0), MEMORY) == NO_OFFSET
    store.persist_all([mq(0)])
    assert store.read_offset(mq(0), STORE) == 10
    assert store.read_offset(mq(0), MEMORY) == 10


@pytest.mark.behaviour("LF-03")
def test_reading_memory_looks_at_no_file(disk: Disk, store: LocalFileOffsetStore) -> None:
    disk.lay({mq(0): 50})
    assert store.read_offset(mq(0), MEMORY) == NO_OFFSET == -1
    assert disk.files.steps == 0


@pytest.mark.behaviour("LF-03")
def test_memory_first_looks_at_the_file_only_when_memory_knows_nothing(disk: Disk, store: LocalFileOffsetStore) -> None:
    disk.lay({mq(0): 50})
    assert store.read_offset(mq(0), MEMORY_FIRST) == 50
    store.update_offset(mq(0), 60, increase_only=True)
    assert store.read_offset(mq(0), MEMORY_FIRST) == 60
    assert disk.files.steps == 1


@pytest.mark.behaviour("LF-03")
def test_what_the_file_has_is_noted_in_memory_even_if_it_is_less_unless_it_is_frozen(
    disk: Disk, store: LocalFileOffsetStore
) -> None:
    disk.lay({mq(0): 50, mq(1): 51})
    store.update_offset(mq(0), 60, increase_only=True)
    store.update_and_freeze_offset(mq(1), 61)
    assert [store.read_offset(mq(number), STORE) for number in range(3)] == [50, 51, NO_OFFSET]
    assert store.clone_offset_table() == {mq(0): 50, mq(1): 61}


@pytest.mark.behaviour("LF-04")
@pytest.mark.parametrize("kind", [STORE, MEMORY_FIRST])
def test_a_damaged_file_never_looks_like_no_offset(
    disk: Disk, store: LocalFileOffsetStore, kind: ReadOffsetType, caplog: pytest.LogCaptureFixture
) -> None:
    store.update_offset(mq(0), 10, increase_only=True)
    disk.path.write_bytes(b"")
    assert [store.read_offset(mq(number), kind) for number in (1, 2)] == [OFFSET_UNKNOWN, OFFSET_UNKNOWN] == [-2, -2]
    [warning] = caplog.messages
    assert f"the offset of {mq(1)} is not known: the file of offsets {disk.path} is damaged" in warning
    assert store.clone_offset_table() == {mq(0): 10}


@pytest.mark.behaviour("LF-07")
def test_what_cannot_be_stored_is_logged_once_a_minute_and_stored_when_it_can(
    disk: Disk, store: LocalFileOffsetStore, caplog: pytest.LogCaptureFixture
) -> None:
    disk.lay({mq(1): 1})
    store.update_offset(mq(0), 10, increase_only=True)
    for _ in range(3):
        disk.files.steps, disk.files.fail_at = 0, 2
        store.persist_all([mq(0)])
    [warning] = caplog.messages
    assert warning.startswith("group group: offsets are not stored, which is tried again: cannot write the file of")
    assert "No space left on device" in warning
    assert disk.offsets == {mq(1): 1}
    assert store.read_offset(mq(0), MEMORY) == 10
    disk.files.fail_at = -1
    store.persist_all([mq(0)])
    assert disk.offsets == {mq(0): 10, mq(1): 1}


@pytest.mark.behaviour("LF-02")
def test_queues_withheld_are_not_stored(disk: Disk, store: LocalFileOffsetStore) -> None:
    for number in range(2):
        store.update_offset(mq(number), 10, increase_only=True)
    store.persist_all([mq(0), mq(1)], withheld=[mq(1)])
    assert disk.offsets == {mq(0): 10}


@pytest.mark.behaviour("LF-07")
def test_the_last_offsets_are_stored_at_shutdown_and_a_failure_then_is_always_logged(
    disk: Disk, store: LocalFileOffsetStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.update_offset(mq(0), 10, increase_only=True)
    disk.files.fail_at = 3
    store.persist_all([mq(0)])
    disk.files.steps = 0
    store.persist_at_shutdown([mq(0)])
    assert ["are not stored" in message for message in caplog.messages] == [True, True]
    store.persist_at_shutdown([mq(0)])
    assert disk.offsets == {mq(0): 10}


@pytest.mark.behaviour("LF-07")
def test_what_could_not_be_stored_of_a_queue_given_up_counts_when_it_is_taken_again_and_is_stored_with_the_next(
    disk: Disk, store: LocalFileOffsetStore
) -> None:
    disk.lay({mq(0): 10})
    store.update_and_freeze_offset(mq(0), 500)
    disk.files.fail_at = 2
    store.persist(mq(0))
    store.remove_offset(mq(0))
    assert store.read_offset(mq(0), STORE) == 500
    store.remove_offset(mq(0))
    store.update_offset(mq(1), 7, increase_only=True)
    store.persist_all([mq(1)])
    assert disk.offsets == {mq(0): 500, mq(1): 7}
    disk.lay({mq(0): 600})
    assert store.read_offset(mq(0), STORE) == 600


@pytest.mark.behaviour("LF-07")
def test_who_finds_another_at_the_file_for_too_long_tries_again_later(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    class Meanwhile(FailingFiles):
        """Somebody else comes while the file is read."""

        def read(self, path: str, limit: int) -> bytes | None:
            mine.persist(mq(0))
            assert mine.read_offset(mq(1), STORE) == OFFSET_UNKNOWN
            with pytest.raises(StoreError, match="has been busy for 10000 ms"):
                mine.load()
            return super().read(path, limit)

    disk.lay({mq(1): 1})
    disk.files = Meanwhile()
    mine = disk.store()
    mine.update_offset(mq(0), 10, increase_only=True)
    mine.persist(mq(0))
    assert disk.offsets == {mq(0): 10, mq(1): 1}
    assert len(caplog.messages) == 2


@pytest.mark.behaviour("LF-02")
def test_offsets_are_looked_at_only_once_the_file_is_free(disk: Disk) -> None:
    class Busy(ManualRuntime):
        """While one thread waits for its turn at the file, another one is further on."""

        def lock(self) -> Lock:
            return self

        def acquire(self, timeout_ms: int) -> bool:
            mine.update_offset(mq(0), 20, increase_only=True)
            return True

        def release(self) -> None:
            pass

    disk.runtime = Busy()
    mine = disk.store()
    mine.update_offset(mq(0), 10, increase_only=True)
    mine.persist_all([mq(0)])
    assert disk.offsets == {mq(0): 20}
