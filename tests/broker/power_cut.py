"""A disk whose power can be cut: an apsw VFS that knows what of each file has been synced.

SQLite works on real files. Beside them the disk keeps what a power cut would leave, and ``cut`` writes that into
another directory. What is modelled:

- Bytes: what was written since a file's last xSync is there, not there, there up to some point, or there in any
  selection of 512-byte sectors. Bytes that a write does not touch stay (SQLite's "powersafe overwrite", what disks do).
- Names: a file that was created may be gone, and one that was deleted be there again, until its directory is synced.
  SQLite's own VFS syncs it at the first xSync of a journal or WAL that it created, and at an xDelete that asks for it.
- ``last_id`` is written past SQLite and never synced: it may have any content that it ever had, half of it, or be gone.
- The shared memory (``-shm``) never outlives the power.

Not modelled: disks that lie about syncs, sectors that turn into garbage, writes that damage their neighbours. The names
of the store's directory and its parents are for ``test_store.py``.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import apsw

from rocketmq_py.broker.store import MessageStore, QueueKey
from rocketmq_py.errors import StoreError
from rocketmq_py.remoting.message_codec import decode_stored

SECTOR_BYTES = 512

_numbers = itertools.count()


class Disk(apsw.VFS):
    """The disk below one store's directory; what is there at the start is durable.

    Attributes:
        name: what ``MessageStore`` is given as ``vfs``.
        on_step: called in the middle of every open, write, truncation, sync and deletion with what it is and the file's
            name; an error that it raises is the disk's.
    """

    def __init__(self, directory: Path) -> None:
        self.name = f"power-cut-{next(_numbers)}"
        super().__init__(self.name, "")
        self.on_step: Callable[[str, str], None] = lambda doing, name: None
        self._last_id = directory / "last_id"
        self._last_ids: list[bytes] = []
        self._files = {path.name: File(path.read_bytes()) for path in directory.glob("store.db*")}
        self._files.pop("store.db-shm", None)
        self._durable_names = dict(self._files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    # What SQLite asks.

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:
            return apsw.VFSFile("", None, flags)
        path = name if isinstance(name, str) else name.filename()
        self.step("open", path)
        file = self._files.get(Path(path).name)
        if file is None:
            file = self._files[Path(path).name] = File(b"")
            kinds = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
            file.syncs_names = bool(flags[0] & kinds)
        return OpenFile(self, file, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.step("delete", filename)
        super().xDelete(filename, syncdir)
        self._files.pop(Path(filename).name, None)
        if syncdir:
            self.sync_names()

    def step(self, doing: str, filename: str) -> None:
        if self._last_id.exists():
            content = self._last_id.read_bytes()
            if content not in self._last_ids[-1:]:
                self._last_ids.append(content)
        self.on_step(doing, Path(filename).name)

    def sync_names(self) -> None:
        self._durable_names = dict(self._files)

    # What the test asks.

    def cut(self, target: Path, chance: random.Random) -> None:
        """Make a directory with what is left when the power goes now."""
        target.mkdir()
        left = chance.choice([_nothing, _everything, _beginning, _any_sectors])
        for name in sorted({*self._files, *self._durable_names}):
            now, durable = self._files.get(name), self._durable_names.get(name)
            file = now if now is durable else chance.choice([now, durable])
            if file is not None:
                (target / name).write_bytes(file.after(left(file.unsynced, chance)))
        latest = self._last_ids[-1:]
        last_id = chance.choice([None, b"", *latest, *latest, *(text[: len(text) // 2] for text in latest)])
        if chance.random() < 0.5:
            last_id = chance.choice([None, *self._last_ids])
        if last_id is not None:
            (target / "last_id").write_bytes(last_id)


Change = tuple[int, bytes | None]
"""Bytes written at an offset; None: the file ends there."""


class File:
    """What a disk has of one file."""

    def __init__(self, synced: bytes) -> None:
        self._synced = bytearray(synced)
        self.unsynced: list[Change] = []
        self.syncs_names = False

    def sync(self) -> None:
        _apply(self._synced, self.unsynced)
        self.unsynced = []

    def after(self, changes: list[Change]) -> bytes:
        content = bytearray(self._synced)
        _apply(content, changes)
        return bytes(content)


def _apply(content: bytearray, changes: list[Change]) -> None:
    for offset, data in changes:
        if data is None:
            del content[offset:]
        content.extend(bytes(max(offset - len(content), 0)))
        if data is not None:
            content[offset : offset + len(data)] = data


def _nothing(changes: list[Change], chance: random.Random) -> list[Change]:
    return []


def _everything(changes: list[Change], chance: random.Random) -> list[Change]:
    return changes


def _beginning(changes: list[Change], chance: random.Random) -> list[Change]:
    sectors = _sectors(changes)
    return sectors[: chance.randint(0, len(sectors))]


def _any_sectors(changes: list[Change], chance: random.Random) -> list[Change]:
    likely = chance.random()
    return [change for change in _sectors(changes) if chance.random() < likely]


def _sectors(changes: list[Change]) -> list[Change]:
    """The same changes, each within one sector."""
    sectors: list[Change] = []
    for offset, data in changes:
        if data is None:
            sectors.append((offset, None))
            continue
        start = 0
        while start < len(data):
            end = start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES
            sectors.append((offset + start, data[start:end]))
            start = end
    return sectors


class OpenFile(apsw.VFSFile):
    """A file as SQLite has it open."""

    def __init__(self, disk: Disk, file: File, name: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._file = file
        self._name = name if isinstance(name, str) else name.filename()

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._file.unsynced.append((offset, bytes(data)))
        self._disk.step("write", self._name)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._file.unsynced.append((newsize, None))
        self._disk.step("truncate", self._name)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.step("sync", self._name)
        super().xSync(flags)
        self._file.sync()
        if self._file.syncs_names:
            self._file.syncs_names = False
            self._disk.sync_names()


# What works on it.


class InlineLoop:
    """Runs everything on the test's thread, when the test says so."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._later: list[Callable[[], None]] = []

    def call_soon(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)

    def call_later(self, delay_ms: int, job: Callable[[], None]) -> None:
        self._later.append(job)

    def run_later(self) -> None:
        """Run what was to come later, as if its time had come."""
        later, self._later = self._later, []
        self._jobs.extend(later)
        self.run()

    def run_blocking(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        error: Exception | None = None
        try:
            work()
        except StoreError as failure:
            error = failure
        self._jobs.append(lambda: done(error))

    def run(self) -> None:
        while self._jobs:
            self._jobs.popleft()()


def read_all(store: MessageStore) -> Iterator[tuple[QueueKey, int, bytes]]:
    """Every message: queue, offset, body. Offsets must have no gaps."""
    for key, state in store.messages.queues().items():
        rows = store.messages.read(state.row, 0, state.max_offset)
        assert [offset for offset, _ in rows] == list(range(state.max_offset))
        for offset, data in rows:
            message = decode_stored(data)
            assert (message.topic, message.head.queue_id, message.head.queue_offset) == (*key, offset)
            yield key, offset, message.body
