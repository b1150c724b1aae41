"""The file in which a broadcasting consumer keeps its offsets, and its backup: at every moment one of them is whole.

The only module of the core that touches a disk. Source: LocalFileOffsetStore.readLocalOffset, readLocalOffsetBak;
MixAll.string2File, file2String.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from rocketmq_py.consumer.offset_serialize_wrapper import MAX_FILE_BYTES, from_json, to_json
from rocketmq_py.errors import ConfigError, ProtocolError, StoreError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog

FILE_NAME = "offsets.json"


def offset_file_path(local_offset_store_dir: str | os.PathLike[str], client_id: str, group: str) -> str:
    """Where the file of a group lies: ``<base>/<client id>/<group>/offsets.json``, as in Java.

    Raises:
        ConfigError: the base begins with ``~`` and there is no home directory.
    """
    base = os.path.expanduser(local_offset_store_dir)
    if base.startswith("~"):
        raise ConfigError(
            f"local_offset_store_dir {base!r}: the home directory is not known, set the environment variable HOME or "
            "local_offset_store_dir"
        )
    return os.path.abspath(os.path.join(base, client_id, group, FILE_NAME))


class Files(Protocol):
    """The steps of which reading and writing consist; each may raise ``OSError``."""

    def read(self, path: str, limit: int) -> bytes | None:
        """At most ``limit`` bytes of a file; None when there is no such file."""
        ...

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it, unless they are there, and wait until they are on the disk."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a new file, or over an old one, and wait until it is on the disk."""
        ...

    def replace(self, source: str, target: str) -> None:
        """Give a file another name, which another file may have had, in one step."""
        ...

    def sync_directory(self, path: str) -> None:
        """Wait until the names in a directory are on the disk."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, if it is there and can be removed."""
        ...


class DiskFiles:
    """This machine's files."""

    def read(self, path: str, limit: int) -> bytes | None:
        """See ``Files.read``."""
        try:
            with open(path, "rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            return None

    def make_directory(self, path: str) -> None:
        """See ``Files.make_directory``."""
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for each in reversed(missing):
            with suppress(FileExistsError):  # another process has just made it
                os.mkdir(each)
            self.sync_directory(os.path.dirname(each))

    def write(self, path: str, content: bytes) -> None:
        """See ``Files.write``."""
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def replace(self, source: str, target: str) -> None:
        """See ``Files.replace``."""
        os.replace(source, target)

    def sync_directory(self, path: str) -> None:
        """See ``Files.sync_directory``; nothing where directories cannot be opened (Windows)."""
        if os.name != "posix":
            return
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def remove(self, path: str) -> None:
        """See ``Files.remove``."""
        with suppress(OSError):
            os.remove(path)


class _Stored(NamedTuple):
    offsets: Mapping[MessageQueue, int]
    whole: bool  # the file itself is there and can be read, not only its backup


class OffsetFile:
    """A file of offsets and its backup, for one thread at a time: ``LocalFileOffsetStore`` sees to it.

    Processes that use the same file do not damage it. They do overwrite each other's offsets.
    """

    def __init__(self, path: str, warnings: RateLimitedLog, files: Files | None = None) -> None:
        self.path = path
        self._warnings = warnings
        self._files = files or DiskFiles()
        self._read_last: tuple[bytes | None, dict[MessageQueue, int]] = (None, {})

    @property
    def _backup(self) -> str:
        return f"{self.path}.bak"

    def read(self) -> Mapping[MessageQueue, int]:
        """The offsets stored; none when there is neither file nor backup.

        Raises:
            StoreError: the file cannot be read; or it is damaged or missing, and the backup is no help.

        Behaviour: LF-03, LF-04.
        """
        return self._read().offsets

    def merge(self, offsets: Mapping[MessageQueue, int]) -> None:
        """Store these offsets beside those of other queues. Once it returns they outlive a power cut.

        Raises:
            StoreError: as in ``read``, or it cannot be written; what was stored is still there.

        Behaviour: LF-02, LF-05 to LF-07.
        """
        if not offsets:
            return
        stored = self._read()
        merged = {**stored.offsets, **offsets}
        if stored.whole and merged == stored.offsets:
            return
        content = to_json(merged)
        if len(content) > MAX_FILE_BYTES:
            raise StoreError(
                f"the file of offsets {self.path} would have more than {MAX_FILE_BYTES} bytes, so nothing is written: "
                "remove queues from it that are no longer consumed, while no consumer uses it"
            )
        try:
            self._write(content, stored.whole)
        except OSError as error:
            raise StoreError(f"cannot write the file of offsets {self.path}, what it had is kept: {error}") from error

    def _read(self) -> _Stored:
        try:
            content = self._files.read(self.path, MAX_FILE_BYTES + 1)
            if content is not None:
                try:
                    return _Stored(self._parsed(content), whole=True)
                except ProtocolError as error:
                    damage = f"is damaged ({error})"
            else:
                damage = "is missing"
            backup = self._files.read(self._backup, MAX_FILE_BYTES + 1)
        except OSError as error:
            raise StoreError(f"cannot read the file of offsets {self.path}: {error}") from error
        if backup is None:
            if content is None:
                return _Stored({}, whole=False)
            raise self._refusal(damage, "there is no backup of it")
        try:
            offsets = self._parsed(backup)
        except ProtocolError as error:
            raise self._refusal(damage, f"its backup {self._backup} is damaged ({error})") from None
        if content is not None:
            self._warnings.warning(
                ("damaged", self.path), "the file of offsets %s %s, its backup is used", self.path, damage
            )
        return _Stored(offsets, whole=False)

    def _parsed(self, content: bytes) -> dict[MessageQueue, int]:
        # At a rebalance the same content is looked at once for every queue: 20 us for each entry of it.
        if content != self._read_last[0]:
            self._read_last = (content, from_json(content))
        return self._read_last[1]

    def _refusal(self, damage: str, backup: str) -> StoreError:
        return StoreError(
            f"the file of offsets {self.path} {damage} and {backup}: put back one that is whole, "
            "or delete both to begin where consume_from_where says"
        )

    def _write(self, content: bytes, keep: bool) -> None:
        directory = os.path.dirname(self.path)
        temporary = f"{self.path}.{os.getpid()}.tmp"  # of this process: another one may write at the same moment
        try:
            self._files.make_directory(directory)
            self._files.write(temporary, content)
            if keep:
                with suppress(FileNotFoundError):  # another process has just done the same
                    self._files.replace(self.path, self._backup)
            # Between the two there is no file, but its backup is what the file was.
            self._files.replace(temporary, self.path)
            self._files.sync_directory(directory)
        finally:
            self._files.remove(temporary)
