"""The window of messages that a consumer has pulled from one queue and not finished.

The name misleads: no task waits here. It is the state from which everything else follows: how far the queue may be
committed (``remove_message``), whether to pull on (counts, size, span), and which messages an orderly listener holds
(``take_messages`` .. ``commit``). Concurrent consumption uses put and remove, orderly consumption put, take, commit,
rollback and make-again; both never at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sortedcontainers import SortedDict

from rocketmq_py.clock import Clock, SystemClock
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.model.running_info import ProcessQueueInfo
from rocketmq_py.runtime import Lock, Mutex, ThreadRuntime

NO_OFFSET = -1
"""There is nothing to commit."""

REBALANCE_LOCK_MAX_LIVE_TIME_MS = 30_000
"""A broker lock not renewed for longer counts as lost. The broker itself waits 60 s: the difference is the safety."""

PULL_MAX_IDLE_TIME_MS = 120_000
"""A queue not pulled for longer has lost its pull request; rebalance drops it and starts it again."""


def _nothing() -> None:
    """Nothing is to be settled."""


class Head(NamedTuple):
    """The lowest unfinished message of a window: what holds the commit back.

    Attributes:
        message: the message itself.
        consuming_ms: how long a listener has had it; None while it waits for one.
        behind: messages cached behind it.
    """

    message: MessageExt
    consuming_ms: int | None
    behind: int


@dataclass(frozen=True, slots=True)
class WindowSnapshot:
    """A window as it was at one moment, for whoever looks on. Never changes: any thread may keep and read it.

    All offsets are places in the queue, counted in messages from 0.

    Attributes:
        unfinished: offsets pulled and not finished, ascending; they wait for a thread or are in a listener.
        next_offset: end of the window, one past the highest offset pulled; None: nothing was pulled or committed yet.
        next_commit: what the next commit tells the broker, at most ``first_unfinished``; None: nothing yet. Commits go
            with every pull and every ``persist_consumer_offset_interval`` ms.
    """

    unfinished: tuple[int, ...]
    next_offset: int | None
    next_commit: int | None

    @property
    def first_unfinished(self) -> int | None:
        """Lowest unfinished offset, what holds the commit back; ``next_offset`` when everything is finished."""
        return self.unfinished[0] if self.unfinished else self.next_offset

    @property
    def cached(self) -> int:
        """Messages in the window."""
        return len(self.unfinished)

    @property
    def holes(self) -> tuple[int, ...]:
        """Offsets above the first unfinished one that need nothing any more, ascending: finished, or filtered out.

        Each of them is delivered again if the process dies now.
        """
        if not self.unfinished or self.next_offset is None:
            return ()
        unfinished = set(self.unfinished)
        return tuple(offset for offset in range(self.unfinished[0], self.next_offset) if offset not in unfinished)


class ProcessQueue:
    """In-flight messages of one queue, ordered by offset.

    Owner:   ``RebalanceImpl`` creates, drops and forgets it.
    Writers: the pull callback (``put_message``, ``settle``), consume threads (the rest).
    Lock:    ``_lock`` guards every field; nothing is called out to while it is held.
    Source:  client/.../impl/consumer/ProcessQueue.java @ 8fc57f1

    Attributes:
        dropped: the queue was taken away: nothing of it is consumed or committed any more. Never cleared again.
        giving_up: dropped because another member is to have it: the answer of the orderly call under way still counts,
            and is committed before the queue is unlocked.
        locked: the broker's lock is believed to be held (orderly consumption).
        last_lock_timestamp: ms of ``Clock.lease_ms`` at which the lock was last asked for and then granted.
        consume_lock: held while an orderly listener has messages and its answer is carried out, and while the queue is
            given away: neither happens in the middle of the other.
        last_pull_timestamp: monotonic ms of the last pull attempt, flow-controlled ones too.
        last_consume_timestamp: monotonic ms of the last take or remove.
        try_unlock_times: failed attempts to give an orderly queue away.
        finished: messages that concurrent listeners have finished and ``remove_message`` has not been told of yet.
            Until then they count as unfinished: too much, never too little.
        settle: tells it of them and notes the offset; does nothing as long as no consume service has set it. Whoever
            looks at a window or its offset calls it before. Any thread, without locks.

    Deviation: durations are measured by the monotonic clock; Java's wall clock may jump. A lock's time runs from before
    it was asked for: the answer may have been long on its way.
    """

    def __init__(self, clock: Clock | None = None, consume_lock: Lock | None = None) -> None:
        clock = clock or SystemClock()
        self._now_ms = clock.monotonic_ms
        self._lease_ms = clock.lease_ms
        self._lock = Mutex()
        # Unfinished messages by offset; in orderly consumption those not yet taken. SortedDict has no type parameters.
        self._tree: SortedDict = SortedDict()
        self._offsets = self._tree.keys()  # a view: indexed access, lowest first
        self._taken: SortedDict = SortedDict()  # Java: consumingMsgOrderlyTreeMap
        self._msg_count = 0
        self._msg_size = 0
        self._queue_offset_max = 0
        self._msg_acc_cnt = 0
        self._consuming = False
        now = self._now_ms()
        self.last_consume_timestamp = now
        self.dropped = False
        self.giving_up = False
        self.consume_lock = consume_lock or ThreadRuntime().lock()
        self.locked = False
        self.last_lock_timestamp = self._lease_ms()
        self.last_pull_timestamp = now
        self.try_unlock_times = 0
        self.finished: deque[MessageExt] = deque()
        self.settle: Callable[[], None] = _nothing

    def put_message(self, msgs: Sequence[MessageExt]) -> bool:
        """Add pulled messages.

        A message whose offset is already there replaces the old one and changes neither count nor size.

        Returns:
            True when an orderly task must be started, because there is something to consume and none is under way;
            from then on ``consuming`` is set. Concurrent consumption ignores it.

        Behaviour: PQ-01, PQ-02. Source: ProcessQueue.putMessage.
        """
        with self._lock:
            tree = self._tree
            fresh = {msg.queue_offset: msg for msg in msgs}
            if fresh and len(fresh) == len(msgs) and (not tree or min(fresh) > self._offsets[-1]):
                # What a pull brings lies behind the window: one bulk insertion takes half the time of 32 single ones.
                tree.update(fresh)
                self._count_new(msgs)
            else:
                for msg in msgs:
                    if msg.queue_offset not in tree:
                        self._count_new([msg])
                    tree[msg.queue_offset] = msg
            dispatch = not self._consuming and len(tree) > 0
            if dispatch:
                self._consuming = True
            if msgs:
                self._note_backlog(msgs[-1])
            return dispatch

    def _count_new(self, msgs: Sequence[MessageExt]) -> None:
        self._msg_count += len(msgs)
        self._msg_size += sum([len(msg.body) for msg in msgs])
        # Insertion order decides, as in Java: not a true maximum (deviations: kept).
        self._queue_offset_max = msgs[-1].queue_offset

    def _note_backlog(self, last: MessageExt) -> None:
        max_offset = last.get_property(MessageConst.MAX_OFFSET)
        if max_offset is not None and max_offset.isascii() and max_offset.isdigit() and len(max_offset) < 20:
            backlog = int(max_offset) - last.queue_offset
            if backlog > 0:
                self._msg_acc_cnt = backlog

    def remove_message(self, msgs: Sequence[MessageExt]) -> int:
        """Forget finished messages and say how far the queue may be committed.

        Only the window's minimum is ever returned: a slow or failed message holds the commit back, whatever was
        finished behind it, so that a crash redelivers it.

        Args:
            msgs: of this queue, any order; offsets that are not there are ignored.

        Returns:
            First offset not yet finished: the lowest in the window or, when none is left, one past the offset
            inserted last. ``NO_OFFSET`` when the window was empty before the call.

        Behaviour: PQ-03, PQ-04, PQ-05. Source: ProcessQueue.removeMessage.
        """
        with self._lock:
            # Hot: every message goes through here; benchmarks/test_offset_window_benchmark.py compares structures.
            # `in` and `del` are quicker than SortedDict.pop, and the keys view than peekitem.
            self.last_consume_timestamp = self._now_ms()
            tree = self._tree
            if not tree:
                return NO_OFFSET
            if len(msgs) > 1 and self._remove_run(sorted([msg.queue_offset for msg in msgs])):
                removed = len(msgs)
                size = sum([len(msg.body) for msg in msgs]) if removed != self._msg_count else 0
            else:
                removed = size = 0
                for msg in msgs:
                    offset = msg.queue_offset
                    if offset in tree:
                        del tree[offset]
                        removed += 1
                        size += len(msg.body)
            self._msg_count -= removed
            self._msg_size = self._msg_size - size if self._msg_count else 0
            if tree:
                lowest: int = self._offsets[0]
                return lowest
            return self._queue_offset_max + 1

    def _remove_run(self, offsets: list[int]) -> bool:
        """Remove ascending offsets if nothing lies between them in the window.

        They mostly are what one pull brought, finished and told of together: cut out at once they cost a quarter.
        """
        start = self._tree.bisect_left(offsets[0])
        run = slice(start, start + len(offsets))
        if self._offsets[run] != offsets:
            return False
        if len(offsets) == len(self._tree):
            self._tree.clear()
        else:
            del self._offsets[run]
        return True

    def take_messages(self, batch_size: int) -> list[MessageExt]:
        """Take the lowest messages for an orderly listener, ascending; they stay counted until ``commit``.

        An empty answer ends the orderly task: it clears ``consuming``.

        Behaviour: PQ-06. Source: ProcessQueue.takeMessages.
        """
        with self._lock:
            self.last_consume_timestamp = self._now_ms()
            taken: list[MessageExt] = []
            while self._tree and len(taken) < batch_size:
                offset, msg = self._tree.popitem(0)
                self._taken[offset] = msg
                taken.append(msg)
            if not taken:
                self._consuming = False
            return taken

    def commit(self) -> int:
        """Forget all taken messages and say how far the queue may be committed. Writes no offset itself.

        Returns:
            One past the highest taken offset; ``NO_OFFSET`` when nothing is taken.

        Deviation: Java raises NoSuchElementException when nothing is taken, and the queue is stuck from then on.
        Behaviour: PQ-07. Source: ProcessQueue.commit.
        """
        with self._lock:
            if not self._taken:
                return NO_OFFSET
            highest: int = self._taken.peekitem(-1)[0]
            self._msg_count -= len(self._taken)
            if self._msg_count == 0:
                self._msg_size = 0
            else:
                self._msg_size -= sum(len(msg.body) for msg in self._taken.values())
            self._taken.clear()
            return highest + 1

    def rollback(self) -> None:
        """Put all taken messages back, those of earlier uncommitted batches too.

        Behaviour: PQ-08. Source: ProcessQueue.rollback.
        """
        with self._lock:
            self._tree.update(self._taken)
            self._taken.clear()

    def make_message_to_consume_again(self, msgs: Iterable[MessageExt]) -> None:
        """Put these taken messages back.

        Behaviour: PQ-08. Source: ProcessQueue.makeMessageToConsumeAgain.
        """
        with self._lock:
            for msg in msgs:
                self._taken.pop(msg.queue_offset, None)
                self._tree[msg.queue_offset] = msg

    def begin_consume(self, msgs: Iterable[MessageExt]) -> int:
        """Note that a listener gets these messages now: from here their consume timeout runs.

        Returns:
            Now, monotonic ms.

        Source: the property CONSUME_START_TIME, set in ConsumeMessageConcurrentlyService.ConsumeRequest.run.
        """
        now = self._now_ms()
        for msg in msgs:
            msg._consume_start_ms = now
        return now

    def head(self) -> Head | None:
        """The lowest unfinished message, or None.

        Source: the look at the first entry in ProcessQueue.cleanExpiredMsg.
        """
        with self._lock:
            if not self._tree:
                return None
            _, msg = self._tree.peekitem(0)
            started = getattr(msg, "_consume_start_ms", None)
            return Head(msg, None if started is None else self._now_ms() - started, len(self._tree) - 1)

    def remove_head(self, msg: MessageExt) -> None:
        """Forget this message if it is still the lowest one (it expired and was sent back).

        Source: the second half of ProcessQueue.cleanExpiredMsg.
        """
        with self._lock:
            still_head = bool(self._tree) and self._tree.peekitem(0)[0] == msg.queue_offset
        if still_head:
            self.remove_message([msg])

    def has_temp_message(self) -> bool:
        """Whether something waits that is not taken. Source: ProcessQueue.hasTempMessage."""
        with self._lock:
            return bool(self._tree)

    def contains_message(self, msg: MessageExt | None) -> bool:
        """Whether a message with this offset is unfinished and not taken. Source: ProcessQueue.containsMessage."""
        if msg is None:
            return False
        with self._lock:
            return msg.queue_offset in self._tree

    def clear(self) -> None:
        """Forget every message; flags stay as they are. Source: ProcessQueue.clear."""
        with self._lock:
            self.finished.clear()
            self._tree.clear()
            self._taken.clear()
            self._msg_count = 0
            self._msg_size = 0
            self._queue_offset_max = 0

    @property
    def msg_count(self) -> int:
        """Messages in the window, the taken ones too."""
        return self._msg_count

    @property
    def msg_size(self) -> int:
        """Bytes of their bodies. Drifts when an offset is put again with another size, until the window is empty."""
        return self._msg_size

    @property
    def max_span(self) -> int:
        """Highest minus lowest offset that is not taken, 0 when there is none. Source: ProcessQueue.getMaxSpan."""
        with self._lock:
            if not self._tree:
                return 0
            span: int = self._tree.peekitem(-1)[0] - self._tree.peekitem(0)[0]
            return span

    @property
    def msg_acc_cnt(self) -> int:
        """Messages left on the broker at the last pull, an estimate that never returns to 0."""
        return self._msg_acc_cnt

    @property
    def consuming(self) -> bool:
        """Whether an orderly task is queued or running."""
        return self._consuming

    @property
    def is_lock_expired(self) -> bool:
        """Whether the broker's lock was not renewed for more than 30 s."""
        return self._lease_ms() - self.last_lock_timestamp > REBALANCE_LOCK_MAX_LIVE_TIME_MS

    @property
    def holds_lock(self) -> bool:
        """Whether the broker's lock is believed to be held and was renewed within 30 s."""
        return self.locked and not self.is_lock_expired

    def note_locked(self, asked_ms: int) -> None:
        """The broker granted the lock that was asked for at this moment (ms of ``Clock.lease_ms``)."""
        with self._lock:
            self.last_lock_timestamp = max(self.last_lock_timestamp, asked_ms)
            self.locked = True

    @property
    def is_pull_expired(self) -> bool:
        """Whether nobody tried to pull for more than 120 s."""
        return self._now_ms() - self.last_pull_timestamp > PULL_MAX_IDLE_TIME_MS

    def offsets(self) -> tuple[list[int], list[int]]:
        """A copy of the offsets (not taken, taken), each ascending; for diagnosis."""
        with self._lock:
            return list(self._tree), list(self._taken)

    def snapshot(self, next_commit: int = NO_OFFSET) -> WindowSnapshot:
        """The window now. Holds the lock while it copies the offsets, nothing else.

        Args:
            next_commit: the offset noted for the next commit, read before this call: read after it, it could be ahead
                of the window.
        """
        with self._lock:
            unfinished = tuple(self._tree) if not self._taken else tuple(sorted([*self._tree, *self._taken]))
            pulled_to = self._queue_offset_max + 1
            # As in Java the maximum is 0 before the first pull, too. Once offset 0 is finished the commit tells.
            known = bool(unfinished) or self._queue_offset_max > 0
        # Further than what was pulled: the broker passed over filtered messages.
        end = max(pulled_to if known else NO_OFFSET, unfinished[-1] + 1 if unfinished else NO_OFFSET, next_commit)
        return WindowSnapshot(
            unfinished, None if end == NO_OFFSET else end, None if next_commit == NO_OFFSET else next_commit
        )

    def fill_process_queue_info(self, commit_offset: int) -> ProcessQueueInfo:
        """The window as operators see it; timestamps monotonic.

        Behaviour: OP-01. Source: ProcessQueue.fillProcessQueueInfo.
        """
        with self._lock:
            cached, taken = self._offsets, self._taken.keys()
            return ProcessQueueInfo(
                commit_offset=commit_offset,
                cached_msg_min_offset=cached[0] if cached else 0,
                cached_msg_max_offset=cached[-1] if cached else 0,
                cached_msg_count=len(cached),
                cached_msg_size_in_mib=self._msg_size // (1024 * 1024),
                transaction_msg_min_offset=taken[0] if taken else 0,
                transaction_msg_max_offset=taken[-1] if taken else 0,
                transaction_msg_count=len(taken),
                locked=self.locked,
                try_unlock_times=self.try_unlock_times,
                last_lock_timestamp=self.last_lock_timestamp,
                dropped=self.dropped,
                last_pull_timestamp=self.last_pull_timestamp,
                last_consume_timestamp=self.last_consume_timestamp,
            )

    def __repr__(self) -> str:
        head = self.head()
        return (
            f"<ProcessQueue {self.msg_count} messages, {self.msg_size} bytes, lowest "
            f"{head.message.queue_offset if head else None}, span {self.max_span}"
            f"{', dropped' if self.dropped else ''}{', locked' if self.locked else ''}>"
        )
