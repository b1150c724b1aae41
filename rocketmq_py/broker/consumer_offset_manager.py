"""How far each group has consumed. Source: ConsumerOffsetManager."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from rocketmq_py.broker.commit_log import CommitLog, Stored
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.store import MessageStore, QueueKey, Write
from rocketmq_py.broker.store.offset_table import delete_consumer_offsets, put_consumer_offsets
from rocketmq_py.errors import BrokerError, StoreError
from rocketmq_py.model.codes import ResponseCode

FLUSH_INTERVAL_MS = 1_000
"""Committed offsets are stored so often, what is committed between is consumed again after a crash. Upstream: 5 s."""

OFFSETS_MAX = 1_000_000
"""Committed offsets of all groups together: groups, topics and queues multiply. Upstream sets no limit."""


@dataclass(slots=True)
class _Progress:
    """Of one group in one topic, by queue id. Source: offsetTable, pullOffsetTable, resetOffsetTable."""

    committed: dict[int, int] = field(default_factory=dict)
    pulled: dict[int, int] = field(default_factory=dict)
    reset: dict[int, int] = field(default_factory=dict)


class ConsumerOffsetManager:
    """Owner of the committed offsets; on the loop's thread only.

    An operator's reset is committed at once and stays pending until the group's next pull of the queue, which is told
    where to go on. Until then the group's own commits, which come from before, are not taken.
    """

    def __init__(self, store: MessageStore, commit_log: CommitLog, loop: Loop) -> None:
        self._commit_log = commit_log
        self._loop = loop
        self._groups: dict[str, dict[str, _Progress]] = {}
        self._count = 0
        self._pulled_count = 0
        for (group, topic, queue_id), offset in store.offsets.consumer_offsets().items():
            self._progress(group, topic).committed[queue_id] = offset
            self._count += 1
        self._changed: dict[tuple[str, str, int], int | None] = {}

    def _progress(self, group: str, topic: str) -> _Progress:
        topics = self._groups.setdefault(group, {})
        progress = topics.get(topic)
        if progress is None:
            progress = topics[topic] = _Progress()
        return progress

    def _known(self, group: str, topic: str) -> _Progress:
        return self._groups.get(group, {}).get(topic) or _Progress()

    # What is asked for.

    def query_offset(self, group: str, key: QueueKey) -> int:
        """Committed offset, -1 for none."""
        return self._known(group, key.topic).committed.get(key.queue_id, -1)

    def query_pull_offset(self, group: str, key: QueueKey) -> int:
        """Where the group's next pull begins as far as is known, else the committed offset; -1 for neither."""
        progress = self._known(group, key.topic)
        return progress.pulled.get(key.queue_id, progress.committed.get(key.queue_id, -1))

    def has_offset_reset(self, group: str, key: QueueKey) -> bool:
        """Whether a reset has not been told yet."""
        return key.queue_id in self._known(group, key.topic).reset

    def which_topic_by_consumer(self, group: str) -> list[str]:
        """Topics in which a group has committed offsets."""
        return [topic for topic, progress in self._groups.get(group, {}).items() if progress.committed]

    def which_group_by_topic(self, topic: str) -> list[str]:
        """Groups that have committed offsets in a topic."""
        return [group for group, topics in self._groups.items() if topic in topics and topics[topic].committed]

    def table(self) -> Iterator[tuple[str, str, Mapping[int, int]]]:
        """Group, topic and committed offsets by queue id."""
        for group, topics in self._groups.items():
            for topic, progress in topics.items():
                if progress.committed:
                    yield group, topic, progress.committed

    def query_min_offset_in_all_group(self, topic: str, without: Collection[str]) -> dict[int, int]:
        """By queue id, the lowest committed offset of all groups but some, where the message is still there."""
        lowest: dict[int, int] = {}
        for group, name, committed in self.table():
            for queue_id, offset in committed.items() if name == topic and group not in without else ():
                if offset >= self._commit_log.min_offset(QueueKey(topic, queue_id)):
                    lowest[queue_id] = min(offset, lowest.get(queue_id, offset))
        return lowest

    # Changes.

    def commit_offset(self, group: str, key: QueueKey, offset: int) -> None:
        """Note an offset; a lower one than before is accepted, as upstream does.

        Raises:
            BrokerError: there are too many.
        """
        if self._put(group, key, offset) != offset:
            self._note((group, *key), offset)

    def _put(self, group: str, key: QueueKey, offset: int) -> int | None:
        """Change what is in memory; what was there before."""
        committed = self._progress(group, key.topic).committed
        before = committed.get(key.queue_id)
        if before is None:
            if self._count >= OFFSETS_MAX:
                raise BrokerError(
                    ResponseCode.SYSTEM_BUSY,
                    f"this broker has {OFFSETS_MAX} offsets, the most it takes: {(group, *key)} is new",
                )
            self._count += 1
        committed[key.queue_id] = offset
        return before

    def _note(self, place: tuple[str, str, int], offset: int | None) -> None:
        if not self._changed:
            self._loop.call_later(FLUSH_INTERVAL_MS, self.flush)
        self._changed[place] = offset

    def commit_pull_offset(self, group: str, key: QueueKey, offset: int) -> None:
        """Note where a pull ended; never stored."""
        pulled = self._progress(group, key.topic).pulled
        if key.queue_id not in pulled:
            if self._pulled_count >= OFFSETS_MAX:
                return  # then only what is committed is known
            self._pulled_count += 1
        pulled[key.queue_id] = offset

    def assign_reset_offset(self, group: str, key: QueueKey, offset: int) -> None:
        """Have a group go on elsewhere; ``flush`` stores it."""
        self.commit_offset(group, key, offset)
        self._progress(group, key.topic).reset[key.queue_id] = offset

    def query_then_erase_reset_offset(self, group: str, key: QueueKey) -> int | None:
        """Where a group is to go on, told once; None when nobody has reset it."""
        progress = self._groups.get(group, {}).get(key.topic)
        return progress.reset.pop(key.queue_id, None) if progress is not None and progress.reset else None

    def clone_offset(self, source: str, target: str, topic: str) -> None:
        """Have one group go on where another one is; ``flush`` stores it."""
        for queue_id, offset in list(self._known(source, topic).committed.items()):
            self.commit_offset(target, QueueKey(topic, queue_id), offset)

    def clean_offset_by_topic(self, topic: str, stored: Stored) -> None:
        """Forget what groups have committed in a topic."""
        for group, topics in list(self._groups.items()):
            self._forget(group, topic, topics.pop(topic, None))
        self.flush(stored)

    def remove_offset(self, group: str, stored: Stored) -> None:
        """Forget what a group has committed."""
        for topic, progress in self._groups.pop(group, {}).items():
            self._forget(group, topic, progress)
        self.flush(stored)

    def _forget(self, group: str, topic: str, progress: _Progress | None) -> None:
        if progress is None:
            return
        for queue_id in progress.committed:
            self._note((group, topic, queue_id), None)
        self._count -= len(progress.committed)
        self._pulled_count -= len(progress.pulled)

    def commit_with(self, group: str, key: QueueKey, offset: int) -> Write:
        """Note an offset that is to be stored together with something else; what stores it."""
        self._put(group, key, offset)
        self._changed.pop((group, *key), None)  # older, it must not be stored behind this one
        return put_consumer_offsets({(group, *key): offset})

    def flush(self, stored: Stored | None = None) -> None:
        """Store what changed; ``stored`` is called when it is on the disk."""
        changed, self._changed = self._changed, {}
        if not changed and stored is None:
            return

        def done(error: StoreError | None) -> None:
            if error is not None:
                # The store has failed: nothing will be stored any more.
                self._changed = {**changed, **self._changed}
            if stored is not None:
                stored(error)

        kept = {place: offset for place, offset in changed.items() if offset is not None}
        gone = [place for place, offset in changed.items() if offset is None]
        self._commit_log.write([put_consumer_offsets(kept), delete_consumer_offsets(gone)], done)
