"""How far a broadcasting consumer has consumed, in a file of this machine. Source: LocalFileOffsetStore."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from rocketmq_py.consumer.offset_file import OffsetFile
from rocketmq_py.consumer.offset_store import OFFSET_UNKNOWN, OffsetTable
from rocketmq_py.errors import RocketMQError, StoreError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

FILE_LOCK_TIMEOUT_MS = 10_000
"""How long a thread waits for another one that is at the file, on a disk that hangs."""

_log = logging.getLogger(__name__)


class LocalFileOffsetStore(OffsetTable):
    """Keeps offsets in memory and stores them in a file that Java's consumer reads and writes, too.

    What cannot be stored is kept, also of queues that are given up, and stored with what is to be stored next.

    Lock: ``_file_lock``, held while the file is read or written; it guards ``_unstored``, too, and the table's own is
    taken under it.
    """

    def __init__(self, group: str, file: OffsetFile, runtime: Runtime, warnings: RateLimitedLog) -> None:
        super().__init__()
        self._group = group
        self._file = file
        self._file_lock = runtime.lock()
        self._warnings = warnings
        self._unstored: dict[MessageQueue, int] = {}  # newer than the file, which could not be written

    def load(self) -> None:
        """Take what the file has into memory.

        Raises:
            StoreError: file and backup are damaged, or cannot be read.

        Behaviour: LF-01.
        """
        with self._at_the_file():
            stored = self._file.read()
        for mq, offset in stored.items():
            self.update_offset(mq, offset, increase_only=False)
            _log.info("group %s: loaded offset %s of %s from %s", self._group, offset, mq, self._file.path)

    def _ask(self, mq: MessageQueue) -> int | None:
        """A file that cannot be read is ``OFFSET_UNKNOWN``. Behaviour: LF-03."""
        try:
            with self._at_the_file():
                if mq in self._unstored:
                    return self._unstored[mq]
                return self._file.read().get(mq)
        except RocketMQError as error:
            self._warnings.warning(
                ("read offsets", self._file.path), "group %s: the offset of %s is not known: %s", self._group, mq, error
            )
            return OFFSET_UNKNOWN

    def persist_all(self, mqs: Collection[MessageQueue], withheld: Collection[MessageQueue] = ()) -> None:
        """See ``OffsetStore.persist_all``; those of all others stay as they are, here and in the file.

        Behaviour: LF-02.
        """
        try:
            self._store(set(mqs).difference(withheld))
        except RocketMQError as error:
            self._warnings.warning(
                ("store offsets", self._file.path),
                "group %s: offsets are not stored, which is tried again: %s", self._group, error,
            )  # fmt: skip

    def persist_at_shutdown(self, mqs: Collection[MessageQueue]) -> None:
        """See ``OffsetStore.persist_at_shutdown``; a failure is always logged."""
        try:
            self._store(set(mqs))
        except RocketMQError as error:
            _log.error(
                "group %s: the last offsets are not stored, what they are for comes again: %s", self._group, error
            )

    def persist(self, mq: MessageQueue) -> None:
        """See ``OffsetStore.persist``."""
        self.persist_all([mq])

    def _store(self, mqs: set[MessageQueue]) -> None:
        with self._at_the_file():
            # Looked at only now: who waited for the file would write over what is newer.
            self._unstored |= {mq: offset for mq, offset in self.clone_offset_table().items() if mq in mqs}
            self._file.merge(self._unstored)
            self._unstored.clear()

    @contextmanager
    def _at_the_file(self) -> Iterator[None]:
        if not self._file_lock.acquire(FILE_LOCK_TIMEOUT_MS):
            raise StoreError(f"the file of offsets {self._file.path} has been busy for {FILE_LOCK_TIMEOUT_MS} ms")
        try:
            yield
        finally:
            self._file_lock.release()
