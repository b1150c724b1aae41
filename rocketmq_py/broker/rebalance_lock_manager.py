"""Which client of a group may consume which queue, orderly: leases in memory that end by themselves.

Three times belong together: a client renews every 20 s, stops by itself 30 s after the last renewal, and the broker
gives the queue to another after 60 s. The 30 s between the last two are what slow clocks and late answers may eat up:
with one time changed alone, two clients may consume a queue at once. Nothing is stored: a broker that starts again has
forgotten who held what.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from rocketmq_py.clock import Clock, SystemClock
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.runtime import Mutex

REBALANCE_LOCK_MAX_LIVE_TIME_MS = 60_000
"""A lock not renewed for longer may be taken over. Clients stop consuming after 30 s: the difference is the safety."""

LOCKS_MAX = 200_000
"""Entries of all groups together; beyond it queues that nobody holds are refused. Upstream sets no limit."""

LINES_MAX = 100
"""Lines in the log for one request: it may name thousands of queues, and come again and again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _LockEntry:
    client_id: str
    last_update_timestamp: int  # monotonic ms


class _Lines:
    """What one request writes into the log."""

    def __init__(self) -> None:
        self._left = LINES_MAX

    def info(self, text: str, *args: object) -> None:
        self._write(logging.INFO, text, *args)

    def warning(self, text: str, *args: object) -> None:
        self._write(logging.WARNING, text, *args)

    def _write(self, level: int, text: str, *args: object) -> None:
        self._left -= 1
        if self._left >= 0:
            _log.log(level, text, *args)
        elif self._left == -1:
            _log.warning("what else this request does to locks is not logged, it is too much")


class RebalanceLockManager:
    """Locks of all groups on all queues of this broker.

    Owner:  the broker. Any thread may call; no call waits for anything but the others.
    Lock:   ``_lock`` guards the table; only the log is called while it is held, so lines come in the order of changes.
    Source: broker/.../client/rebalance/RebalanceLockManager.java @ 8fc57f1

    A client is its client id, whatever connection it comes by. Locks guard nothing here: the broker serves pulls and
    commits of clients without them, and looks at them only to decide on retries (``is_lock_all_expired``).

    Args:
        clock: its monotonic side measures leases.
        lock_max_live_ms: an entry not renewed for longer, strictly, is expired. Java: the system property
            rocketmq.broker.rebalance.lockMaxLiveTime.

    Deviations: leases are measured by the monotonic clock; Java's wall clock may jump. Renewing is under the lock too:
    in Java a renewal can meet a take-over at the end of a lease, and both clients are told that they hold the queue.
    Entries expired for longer than another live time are forgotten (LM-09); Java keeps them. There are at most
    ``LOCKS_MAX``.
    """

    def __init__(self, clock: Clock | None = None, lock_max_live_ms: int = REBALANCE_LOCK_MAX_LIVE_TIME_MS) -> None:
        self._now_ms = (clock or SystemClock()).monotonic_ms
        self._lock_max_live_ms = lock_max_live_ms
        self._lock = Mutex()
        self._table: dict[str, dict[MessageQueue, _LockEntry]] = {}  # by group; Java: mqLockTable
        self._count = 0  # of entries
        self._lines = _Lines()
        self._swept_ms = self._now_ms()

    def try_lock(self, group: str, mq: MessageQueue, client_id: str) -> bool:
        """Lock a queue, or renew its lock.

        Returns:
            Whether the client holds the queue now.

        Behaviour: LM-01 to LM-03. Source: RebalanceLockManager.tryLock.
        """
        return mq in self._try_lock("try_lock", group, [mq], client_id)

    def try_lock_batch(self, group: str, mqs: Iterable[MessageQueue], client_id: str) -> set[MessageQueue]:
        """Lock what can be locked of these queues; locks that the client has are renewed.

        Returns:
            Those of them that the client holds now; perhaps none, perhaps not all.

        Behaviour: LM-04. Source: RebalanceLockManager.tryLockBatch.
        """
        return self._try_lock("try_lock_batch", group, mqs, client_id)

    def _try_lock(self, doing: str, group: str, mqs: Iterable[MessageQueue], client_id: str) -> set[MessageQueue]:
        with self._lock:
            self._lines = _Lines()
            return {mq for mq in mqs if self.is_locked(group, mq, client_id) or self._take(doing, group, mq, client_id)}

    def is_locked(self, group: str, mq: MessageQueue, client_id: str) -> bool:
        """Whether the client holds the queue. No mere question: if so, the lock is renewed.

        Behaviour: LM-03. Source: RebalanceLockManager.isLocked (private there).
        """
        with self._lock:
            entry = self._table.get(group, {}).get(mq)
            if entry is None or entry.client_id != client_id or self._is_expired(entry):
                return False
            entry.last_update_timestamp = self._now_ms()
            return True

    def _take(self, doing: str, group: str, mq: MessageQueue, client_id: str) -> bool:
        """Lock a queue of which the client has no lock that still counts."""
        entry = self._table.get(group, {}).get(mq)
        if entry is None:
            self._forget_long_expired()
            if self._count >= LOCKS_MAX:
                self._lines.warning(
                    "%s: group %s: %s is refused, there are %s locks already", doing, group, mq, LOCKS_MAX
                )
                return False
            self._count += 1
            self._table.setdefault(group, {})[mq] = _LockEntry(client_id, self._now_ms())
            self._lines.info("%s: group %s: %s, which nobody held, is locked for %s", doing, group, mq, client_id)
            return True
        if not self._is_expired(entry):
            self._lines.warning(
                "%s: group %s: %s is refused to %s, %s holds it", doing, group, mq, client_id, entry.client_id
            )
            return False
        self._lines.warning(
            "%s: group %s: the lock of %s on %s expired, it is locked for %s now",
            doing, group, entry.client_id, mq, client_id,
        )  # fmt: skip
        entry.client_id = client_id
        entry.last_update_timestamp = self._now_ms()
        return True

    def unlock_batch(self, group: str, mqs: Iterable[MessageQueue], client_id: str) -> None:
        """Give up locks; those of other clients stay.

        Behaviour: LM-05. Source: RebalanceLockManager.unlockBatch.
        """
        with self._lock:
            self._lines = _Lines()
            entries = self._table.get(group, {})
            for mq in mqs:
                entry = entries.get(mq)
                if entry is None:
                    self._lines.warning(
                        "unlock_batch: group %s: %s has no lock that %s could give up", group, mq, client_id
                    )
                elif entry.client_id != client_id:
                    self._lines.warning(
                        "unlock_batch: group %s: %s cannot give up %s, %s has it", group, client_id, mq, entry.client_id
                    )
                else:
                    del entries[mq]
                    self._count -= 1
                    self._lines.info("unlock_batch: group %s: %s gave up %s", group, client_id, mq)

    def is_lock_all_expired(self, group: str) -> bool:
        """Whether nobody in the group holds any queue.

        While somebody does, the group consumes orderly, and what it sends to its retry topic is a dead letter.

        Behaviour: LM-06. Source: RebalanceLockManager.isLockAllExpired.
        """
        with self._lock:
            return all(self._is_expired(entry) for entry in self._table.get(group, {}).values())

    @property
    def entry_count(self) -> int:
        """Entries in memory, expired ones too; for diagnosis."""
        with self._lock:
            return self._count

    def _is_expired(self, entry: _LockEntry, longer_by_ms: int = 0) -> bool:
        """Whether a lock ended, ``longer_by_ms`` ago at least."""
        return self._now_ms() - entry.last_update_timestamp > self._lock_max_live_ms + longer_by_ms

    def _forget_long_expired(self) -> None:
        """Remove entries of dead clients, because the names in them come over the wire and may be ever new ones.

        It changes no answer: an expired entry answers as no entry does. Those that expired just now stay, because who
        takes such a queue over shall read in the log from whom. It looks through everything once per live time, so no
        entry outlives its last renewal by more than three live times, unless nothing new is locked meanwhile.

        Behaviour: LM-09.
        """
        now_ms = self._now_ms()
        if now_ms - self._swept_ms <= self._lock_max_live_ms:
            return
        self._swept_ms = now_ms
        self._count = 0
        for group, entries in list(self._table.items()):
            kept = {mq: entry for mq, entry in entries.items() if not self._is_expired(entry, self._lock_max_live_ms)}
            if kept:
                self._table[group] = kept
                self._count += len(kept)
            else:
                del self._table[group]
