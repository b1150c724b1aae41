"""How far a group has consumed, as its brokers are told. Source: RemoteBrokerOffsetStore, ControllableOffset."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection
from enum import Enum
from typing import Protocol

from rocketmq_py.consumer.ports import Broker
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex

NO_OFFSET = -1
"""Nothing is stored for the queue."""
OFFSET_UNKNOWN = -2
"""The store could not be asked."""

OFFSET_QUERY_TIMEOUT_MS = 5_000

FINAL_COMMIT_TIMEOUT_MS = 1_000
"""A broker that does not answer a last commit for so long gets its other queues' commits without being waited for."""

_log = logging.getLogger(__name__)


class ReadOffsetType(Enum):
    """Where to look. Source: ReadOffsetType."""

    READ_FROM_MEMORY = "READ_FROM_MEMORY"
    READ_FROM_STORE = "READ_FROM_STORE"
    MEMORY_FIRST_THEN_STORE = "MEMORY_FIRST_THEN_STORE"


class OffsetStore(Protocol):
    """A group's consumed offsets. Called from any consumer thread."""

    def load(self) -> None:
        """Make ready before the first use.

        Raises:
            StoreError: offsets were stored on this machine and cannot be read.
        """
        ...

    def update_offset(self, mq: MessageQueue, offset: int, increase_only: bool) -> None:
        """Note an offset in memory, unless the entry is frozen or it would go back and may not."""
        ...

    def update_and_freeze_offset(self, mq: MessageQueue, offset: int) -> None:
        """Note an offset that late results of the old window must not change; undone by ``remove_offset`` alone."""
        ...

    def read_offset(self, mq: MessageQueue, kind: ReadOffsetType) -> int:
        """The offset, ``NO_OFFSET`` or ``OFFSET_UNKNOWN``; what the store answers is also noted in memory."""
        ...

    def persist_all(self, mqs: Collection[MessageQueue], withheld: Collection[MessageQueue] = ()) -> None:
        """Store the offsets of these queues, but for those withheld; with none do nothing.

        Offsets that a broker keeps are forgotten for all other queues: they are another member's.
        """
        ...

    def persist_at_shutdown(self, mqs: Collection[MessageQueue]) -> None:
        """Store the offsets of these queues for the last time, as surely as a bounded time allows."""
        ...

    def persist(self, mq: MessageQueue) -> None:
        """Store one queue's offset."""
        ...

    def remove_offset(self, mq: MessageQueue) -> None:
        """Forget one queue's offset in memory."""
        ...

    def clone_offset_table(self, topic: str = "") -> dict[MessageQueue, int]:
        """A copy of what is in memory, of one topic or of all."""
        ...


class _Entry:
    """An offset that may be frozen. Source: ControllableOffset."""

    __slots__ = ("frozen", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        self.frozen = False


class OffsetTable(ABC):
    """The half of a store that is in memory: offsets by queue. Any thread may call it.

    Owner of the table. Lock: ``_lock``, never held while the store itself is asked. Source: offsetTable in both stores.
    """

    def __init__(self) -> None:
        self._lock = Mutex()
        self._table: dict[MessageQueue, _Entry] = {}

    def update_offset(self, mq: MessageQueue, offset: int, increase_only: bool) -> None:
        """See ``OffsetStore.update_offset``. Hot: once per batch. Behaviour: OS-01."""
        with self._lock:
            entry = self._table.get(mq)
            if entry is None:
                self._table[mq] = _Entry(offset)
            elif not entry.frozen and (offset > entry.value or not increase_only):
                entry.value = offset

    def update_and_freeze_offset(self, mq: MessageQueue, offset: int) -> None:
        """See ``OffsetStore.update_and_freeze_offset``. Behaviour: OS-02."""
        with self._lock:
            entry = self._table.setdefault(mq, _Entry(offset))
            entry.frozen = True
            entry.value = offset

    def read_offset(self, mq: MessageQueue, kind: ReadOffsetType) -> int:
        """See ``OffsetStore.read_offset``. Behaviour: OS-03."""
        if kind is not ReadOffsetType.READ_FROM_STORE:
            offset = self._in_memory(mq)
            if offset is not None:
                return offset
            if kind is ReadOffsetType.READ_FROM_MEMORY:
                return NO_OFFSET
        stored = self._ask(mq)
        if stored is None:
            return NO_OFFSET
        if stored != OFFSET_UNKNOWN:
            self.update_offset(mq, stored, increase_only=False)
        return stored

    @abstractmethod
    def _ask(self, mq: MessageQueue) -> int | None:
        """What the store itself has: an offset, None or ``OFFSET_UNKNOWN``."""

    def _in_memory(self, mq: MessageQueue) -> int | None:
        with self._lock:
            entry = self._table.get(mq)
            return None if entry is None else entry.value

    def _keep(self, mqs: Collection[MessageQueue]) -> None:
        """Forget all queues but these."""
        with self._lock:
            for mq in self._table.keys() - set(mqs):
                del self._table[mq]

    def remove_offset(self, mq: MessageQueue) -> None:
        """See ``OffsetStore.remove_offset``; the store itself keeps it."""
        with self._lock:
            self._table.pop(mq, None)

    def clone_offset_table(self, topic: str = "") -> dict[MessageQueue, int]:
        """See ``OffsetStore.clone_offset_table``."""
        with self._lock:
            return {mq: entry.value for mq, entry in self._table.items() if not topic or mq.topic == topic}


class RemoteBrokerOffsetStore(OffsetTable):
    """Keeps offsets in memory and commits them to the queue's broker, as clustering consumers do."""

    def __init__(self, group: str, broker: Broker, warnings: RateLimitedLog) -> None:
        super().__init__()
        self._group = group
        self._broker = broker
        self._warnings = warnings

    def load(self) -> None:
        """Nothing: brokers are asked queue by queue."""

    def _ask(self, mq: MessageQueue) -> int | None:
        try:
            return self._broker.query_consumer_offset(self._group, mq, OFFSET_QUERY_TIMEOUT_MS)
        except RocketMQError as error:
            self._warnings.warning(("query offset", mq), "cannot ask for the offset of %s: %s", mq, error)
            return OFFSET_UNKNOWN

    def persist_all(self, mqs: Collection[MessageQueue], withheld: Collection[MessageQueue] = ()) -> None:
        """See ``OffsetStore.persist_all``; all other queues are forgotten. Behaviour: OS-04."""
        if not mqs:
            return
        # Not owned any more: another member may be further on, so its offset must not be overwritten.
        self._keep(mqs)
        for mq in mqs:
            # Each value is read when it is sent: a queue may be given up while an earlier request waits.
            if mq not in withheld:
                self.persist(mq)

    def persist_at_shutdown(self, mqs: Collection[MessageQueue]) -> None:
        """See ``OffsetStore.persist_at_shutdown``: waits for answers, at most ``FINAL_COMMIT_TIMEOUT_MS`` per broker.

        Java's last commit is one-way, like the others; nobody comes after it to make up for one that got lost
        (deviations). Behaviour: OS-07.
        """
        silent: set[str] = set()
        for mq in mqs:
            offset = self.read_offset(mq, ReadOffsetType.READ_FROM_MEMORY)
            if offset == NO_OFFSET:
                continue
            if mq.broker_name not in silent:
                try:
                    self._broker.commit_consumer_offset(self._group, mq, offset, FINAL_COMMIT_TIMEOUT_MS)
                    continue
                except RocketMQError as error:
                    silent.add(mq.broker_name)
                    _log.warning("group %s: the last commit of %s was not answered: %s", self._group, mq, error)
            self._commit(mq, offset)

    def persist(self, mq: MessageQueue) -> None:
        """See ``OffsetStore.persist``."""
        offset = self._in_memory(mq)
        if offset is not None:
            self._commit(mq, offset)

    def _commit(self, mq: MessageQueue, offset: int) -> None:
        try:
            self._broker.update_consumer_offset(self._group, mq, offset)
        except RocketMQError as error:
            self._warnings.warning(("commit offset", mq), "cannot commit offset %s of %s: %s", offset, mq, error)
