"""Deletes what is old or too much, in small steps between which everybody else is served.

A step chooses the oldest messages, deletes them in one transaction with the new beginnings of their queues, and when
that is on the disk the next step follows. What must stay is asked for queue by queue: see ``keep``.

Source: CleanCommitLogService, CleanConsumeQueueService. Upstream deletes whole files of 1 GiB, delayed and half
messages in them too, at 4 o'clock or when the disk fills up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.store import CHECKPOINT, PAGE_BYTES, Head, MessageStore, QueueKey, Write
from rocketmq_py.broker.store.database import incremental_vacuum
from rocketmq_py.broker.store.message_table import delete_messages, forget_queue
from rocketmq_py.broker.topic_config import SCHEDULE_TOPIC
from rocketmq_py.clock import Clock
from rocketmq_py.errors import StoreError

CLEAN_RESOURCE_INTERVAL_MS = 10_000
"""Pause between two rounds. Source: MessageStoreConfig.cleanResourceInterval."""

DISK_CHECK_INTERVAL_MS = 1_000

STEP_MAX_COUNT = 500
STEP_MAX_BYTES = 4 * 1024 * 1024
"""A step deletes no more: the others wait while it does."""

VACUUM_STEP_PAGES = 128
FREE_PAGES_KEPT = 64
"""Free pages that stay in the file at least, and a tenth of it: they are soon needed again."""

_INTERNAL_TOPICS = frozenset({SCHEDULE_TOPIC, "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC"})
_INTERNAL_PREFIX = "rmq_sys_"

Keep = Callable[[QueueKey], int | None]
"""The first offset of a queue that somebody needs; None: whoever it is needs nothing of this queue."""

_log = logging.getLogger(__name__)


class CleanCommitLogService:
    """Owner of what is to be deleted next; on the loop's thread only.

    Args:
        reserved_ms: messages are kept so long; None: for ever. Source: fileReservedTime.
        max_bytes: what the file may hold; None: anything. The oldest go first, old or not.
    """

    def __init__(
        self,
        *,
        store: MessageStore,
        commit_log: CommitLog,
        loop: Loop,
        clock: Clock,
        reserved_ms: int | None,
        max_bytes: int | None,
    ) -> None:
        self._store = store
        self._commit_log = commit_log
        self._loop = loop
        self._clock = clock
        self._reserved_ms = reserved_ms
        self._max_bytes = max_bytes
        self._keeps: dict[str, list[Keep]] = {}
        self._everywhere: list[Keep] = []
        self._seen_id = 0  # up to here this round has decided
        self._deleted_count = 0
        self._shrinks = False

    def keep(self, first_needed: Keep, topic: str | None = None) -> None:
        """Ask somebody before anything is deleted: in one topic, or in all.

        Nothing of an internal topic is deleted while nobody answers for it.
        """
        if topic is None:
            self._everywhere.append(first_needed)
        else:
            self._keeps.setdefault(topic, []).append(first_needed)

    def start(self) -> None:
        """Begin to watch the disk and to clean."""
        self._check_disk()
        self._loop.call_later(CLEAN_RESOURCE_INTERVAL_MS, self.clean)

    def _check_disk(self) -> None:
        self._loop.call_later(DISK_CHECK_INTERVAL_MS, self._check_disk)
        try:
            self._commit_log.note_free_bytes(self._store.free_bytes())
        except StoreError as error:
            _log.warning("how much room the disk has is unknown: %s", error)

    def clean(self) -> None:
        """Begin a round; the next one follows a while after its end."""
        self._seen_id = self._deleted_count = 0
        self._shrinks = False
        self._step()

    def _step(self) -> None:
        try:
            looks_on, writes = self._of_dropped_queues() or self._of_old_messages() or self._of_free_pages()
        except StoreError as error:
            _log.error("nothing is deleted until the broker is started again: %s", error)
            return
        if writes:
            self._commit_log.write(writes, self._stepped)
        elif looks_on:
            self._loop.call_soon(self._step)
        else:
            if self._deleted_count:
                _log.info("%s messages are gone that were old, too much or of a deleted topic", self._deleted_count)
            self._loop.call_later(CLEAN_RESOURCE_INTERVAL_MS, self.clean)

    def _stepped(self, error: StoreError | None) -> None:
        if error is None:  # else nothing will be written any more
            self._loop.call_soon(self._step)

    # What a step does: whether there is more to look at, and what is to be written; None: nothing of this kind.

    def _of_dropped_queues(self) -> tuple[bool, list[Write]] | None:
        for row in self._store.messages.dropped_queues():
            heads = _up_to(STEP_MAX_BYTES, self._store.messages.heads_of(row, STEP_MAX_COUNT))
            self._deleted_count += len(heads)
            return True, delete_messages(heads) if heads else [forget_queue(row)]
        return None

    def _of_old_messages(self) -> tuple[bool, list[Write]] | None:
        excess = self._excess_bytes()
        chosen: list[Head] = []
        begins: dict[int, int] = {}
        needed: dict[QueueKey, int] = {}  # whoever is asked may look through very many
        ended = True
        for head in _up_to(STEP_MAX_BYTES, self._store.messages.heads(self._seen_id, STEP_MAX_COUNT)):
            ended = not self._is_old(head.stored_ms) and excess <= 0
            if ended:
                break
            self._seen_id = head.id
            if self._may_go(head, begins, needed) and (
                excess > 0 or self._is_old(self._store.messages.stamped_ms(head))
            ):
                chosen.append(head)
                begins[head.queue] = head.queue_offset + 1
                excess -= head.size
        self._deleted_count += len(chosen)
        if chosen:
            return True, self._commit_log.cut(chosen, begins)
        return None if ended else (True, [])

    def _excess_bytes(self) -> int:
        if self._max_bytes is None:
            return 0
        pages, free = self._store.pages()
        return (pages - free) * PAGE_BYTES - self._max_bytes

    def _is_old(self, stored_ms: int) -> bool:
        return self._reserved_ms is not None and stored_ms < self._clock.wall_ms() - self._reserved_ms

    def _may_go(self, head: Head, begins: Mapping[int, int], needed: dict[QueueKey, int]) -> bool:
        found = self._commit_log.queue_in_row(head.queue)
        if found is None:
            return False  # dropped meanwhile: the next round's
        key, min_offset = found
        # Only what a queue begins with: what stays keeps all that is behind it.
        if head.queue_offset != begins.get(head.queue, min_offset):
            return False
        if key not in needed:
            needed[key] = self._first_needed(key)
        return head.queue_offset < needed[key]

    def _first_needed(self, key: QueueKey) -> int:
        keeps = [*self._everywhere, *self._keeps.get(key.topic, ())]
        needed = [offset for keep in keeps if (offset := keep(key)) is not None]
        if not needed and key.topic not in self._keeps and is_internal(key.topic):
            return 0
        return min(needed, default=self._commit_log.max_offset(key))

    def _of_free_pages(self) -> tuple[bool, list[Write]]:
        pages, free = self._store.pages()
        too_many = free - max(FREE_PAGES_KEPT, pages // 10)
        if too_many > 0:
            self._shrinks = True
            return True, [incremental_vacuum(min(too_many, VACUUM_STEP_PAGES))]
        shrinks, self._shrinks = self._shrinks, False
        return False, [CHECKPOINT] if shrinks else []


def is_internal(topic: str) -> bool:
    """Whether the broker itself keeps in a topic what it still needs."""
    return topic in _INTERNAL_TOPICS or topic.startswith(_INTERNAL_PREFIX)


def _up_to(max_bytes: int, heads: list[Head]) -> list[Head]:
    """The first ones, not more than so many bytes, but one at least."""
    size = 0
    for index, head in enumerate(heads):
        size += head.size
        if index and size > max_bytes:
            return heads[:index]
    return heads
