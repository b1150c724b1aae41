"""How far each group has consumed. Source: ConsumerOffsetManager."""

from __future__ import annotations

from collections.abc import Mapping

from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.store import MessageStore, QueueKey
from rocketmq_py.broker.store.offset_table import put_consumer_offsets
from rocketmq_py.errors import StoreError

FLUSH_INTERVAL_MS = 1_000
"""Committed offsets are stored so often, what is committed between is consumed again after a crash. Upstream: 5 s."""


class ConsumerOffsetManager:
    """Owner of the committed offsets; on the loop's thread only."""

    def __init__(self, store: MessageStore, commit_log: CommitLog, loop: Loop) -> None:
        self._commit_log = commit_log
        self._loop = loop
        self._offsets = store.offsets.consumer_offsets()
        self._changed: dict[tuple[str, str, int], int] = {}

    def query_offset(self, group: str, key: QueueKey) -> int:
        """Committed offset, -1 for none."""
        return self._offsets.get((group, *key), -1)

    def commit_offset(self, group: str, key: QueueKey, offset: int) -> None:
        """Note an offset; a lower one than before is accepted, as upstream does."""
        place = (group, *key)
        if self._offsets.get(place) != offset:
            self._offsets[place] = offset
            if not self._changed:
                self._loop.call_later(FLUSH_INTERVAL_MS, self.flush)
            self._changed[place] = offset

    def flush(self) -> None:
        """Store what changed."""
        changed, self._changed = self._changed, {}
        if changed:
            self._commit_log.write([put_consumer_offsets(changed)], lambda error: self._stored(changed, error))

    def _stored(self, changed: Mapping[tuple[str, str, int], int], error: StoreError | None) -> None:
        if error is not None:
            self._changed = {**changed, **self._changed}  # the store has failed: nothing will be stored any more
