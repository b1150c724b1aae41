"""The only module that makes threads, pools, timers, events, queues and locks that are held across a wait.

Everything else asks a ``Runtime`` for them, so that a whole client can later run under a simulated runtime: one thread
at a time, on a virtual clock, from a seed. ``ThreadRuntime`` is the real one. All its threads are daemons: a forgotten
``shutdown`` never keeps an interpreter alive.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from rocketmq_py.clock import Clock, SystemClock

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

STAND_BY_S = 0.001
"""How often a worker that stands by looks whether the others still take items."""

STACK_LINES_MAX = 200
"""Calls of one thread that ``thread_stacks`` shows."""
STACKS_INTERVAL_MS = 1_000
"""How old the stacks may be that an operator is told: writing them down stops every other thread for a while."""

_log = logging.getLogger(__name__)

Mutex = threading.RLock
"""Guards the state of one owner. Never held while waiting, so no runtime needs to know of it.

Re-entrant only because a signal handler may call ``shutdown`` in the middle of whatever the main thread is doing.
"""


class Thread(Protocol):
    """A running thread."""

    def join(self, timeout_ms: int) -> bool:
        """Wait for its end; True when it has ended. Called by itself: False at once."""
        ...

    def is_current(self) -> bool:
        """Whether the caller is this thread."""
        ...


class Event(Protocol):
    """A flag that threads wait for."""

    def set(self) -> None:
        """Raise the flag and wake every waiter."""
        ...

    def clear(self) -> None:
        """Lower the flag."""
        ...

    def is_set(self) -> bool:
        """Whether the flag is up."""
        ...

    def wait(self, timeout_ms: int) -> bool:
        """Wait until the flag is up; False when the time ran out first."""
        ...


class Lock(Protocol):
    """A lock that may be held while waiting for I/O."""

    def acquire(self, timeout_ms: int) -> bool:
        """Take it; False when the time ran out first. 0 tries once."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class WorkerPool(Protocol[T_contra]):
    """A fixed number of threads that run one function over the items handed in, first in first out.

    The queue between is unbounded, as Java's there: what bounds it is the flow control of the pull.
    """

    def submit(self, item: T_contra) -> bool:
        """Queue an item; False once ``shutdown`` has begun (Java: RejectedExecutionException)."""
        ...

    def submit_all(self, items: Iterable[T_contra]) -> bool:
        """Queue several items, each of which any worker may take; returns as ``submit``."""
        ...

    def backlog(self) -> int:
        """Items that no worker has taken yet."""
        ...

    def resize(self, size: int) -> None:
        """Have so many workers from now on, at least 1. Those too many end when they have done what was queued."""
        ...

    def shutdown(self, await_ms: int) -> bool:
        """Take no more, wait for queued and running items, then forget what is still queued.

        Returns:
            True when everything handed in was finished. A caller that is itself one of the workers is not waited for.
        """
        ...


class Scheduler(Protocol):
    """One thread that runs short jobs later. Java: ``ScheduledExecutorService`` with one thread."""

    def schedule(self, delay_ms: int, job: Callable[[], None]) -> None:
        """Run ``job`` once after ``delay_ms`` (0: as soon as possible). Ignored after ``shutdown``."""
        ...

    def schedule_at_fixed_rate(self, initial_delay_ms: int, period_ms: int, job: Callable[[], None]) -> None:
        """Run ``job`` for ever, never two at once. An error is logged and the period goes on (Java would stop)."""
        ...

    def shutdown(self) -> None:
        """Forget all jobs; one that runs right now is left to end by itself."""
        ...


class Queue(Protocol[T]):
    """An unbounded first-in first-out hand-over between threads."""

    def put(self, item: T) -> None:
        """Append; never blocks."""
        ...

    def get(self) -> T:
        """Take the oldest; waits while there is none."""
        ...


class Runtime(Protocol):
    """Maker of everything that runs or waits."""

    @property
    def clock(self) -> Clock:
        """The clock that all timeouts here are measured by."""
        ...

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        """Start a daemon thread."""
        ...

    def worker_pool(self, name: str, size: int, run: Callable[[T], None]) -> WorkerPool[T]:
        """Start ``size`` workers named ``name`` + number; an exception from ``run`` is logged, the worker goes on."""
        ...

    def scheduler(self, name: str) -> Scheduler:
        """Start a scheduler thread."""
        ...

    def event(self) -> Event:
        """Make an event, not set."""
        ...

    def lock(self) -> Lock:
        """Make a lock, free. Not re-entrant."""
        ...

    def queue(self) -> Queue[T]:
        """Make a queue, empty."""
        ...


def thread_stacks() -> str:
    """The stacks of all threads of this process as text, innermost call first, each at most ``STACK_LINES_MAX`` deep.

    Source: UtilAll.jstack; Python threads have no state to tell.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines: list[str] = []
    for ident, frame in sys._current_frames().items():
        name = names.get(ident, "unknown")
        lines.append(f"{name:<40}TID: {ident}")
        for each, line_number in itertools.islice(traceback.walk_stack(frame), STACK_LINES_MAX):
            code = each.f_code
            lines.append(f"{name:<40}{code.co_qualname}({code.co_filename}:{line_number})")
        lines.append("")
    return "\n".join(lines)


class ThreadStacks:
    """The stacks of all threads for whoever asks, written down once in ``STACKS_INTERVAL_MS`` however many ask.

    Lock: ``_lock`` guards all of it; nothing is called out to while it is held.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Mutex()
        self._written_ms: int | None = None
        self._text = ""

    def text(self) -> str:
        """See ``thread_stacks``. Behaviour: OP-13."""
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            if self._written_ms is None or now_ms - self._written_ms >= STACKS_INTERVAL_MS:
                self._text, self._written_ms = thread_stacks(), now_ms
            return self._text

    def begin_anew(self) -> None:
        """In a forked child: the threads are others, and one that is not here may have held the lock."""
        self._lock, self._written_ms = Mutex(), None


operators_stacks = ThreadStacks(SystemClock())
"""Those of this process: one for all its clients."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=operators_stacks.begin_anew)


class PackageThread(threading.Thread):
    """A thread of this package, so that whoever looks for threads left behind can tell."""


class _Thread:
    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self._thread = PackageThread(target=target, name=name, daemon=True)
        self._thread.start()

    def join(self, timeout_ms: int) -> bool:
        if self.is_current():
            return False
        self._thread.join(max(timeout_ms, 0) / 1000)
        return not self._thread.is_alive()

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread


class _Event:
    def __init__(self) -> None:
        self._event = threading.Event()
        self.set = self._event.set
        self.clear = self._event.clear
        self.is_set = self._event.is_set

    def wait(self, timeout_ms: int) -> bool:
        return self._event.wait(max(timeout_ms, 0) / 1000)


class _Lock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.release = self._lock.release

    def acquire(self, timeout_ms: int) -> bool:
        return self._lock.acquire(timeout=max(timeout_ms, 0) / 1000)


class _Mark:
    """What a worker is told in the place of an item."""


_STOP = _Mark()
"""End; put behind the items that are still to be run."""

_GO = _Mark()
"""Work at once; in a wake."""


class _WorkerPool(Generic[T]):
    """Workers take their items from one deque and rest when it is empty.

    At most one worker at a time is on its way to work. When it finds that nobody has taken the oldest item since it was
    woken, it takes it and wakes the next worker: 20 are at work within a millisecond when items are slow. As long as
    others take items it stands by: two workers would do quick items no faster than one, but spend half their time in
    handing the interpreter and each other's locks to and fro. What comes when all others have gone to rest does not
    wait for it: another one is woken, to work at once.
    """

    def __init__(self, clock: Clock, name: str, size: int, run: Callable[[T], None]) -> None:
        self._clock = clock
        self._run = run
        self._items: deque[T | _Mark] = deque()
        self._wakes: queue.SimpleQueue[T | _Mark | None] = queue.SimpleQueue()  # each with the oldest item then, or _GO
        self._moment = threading.Lock()  # never free: to wait for a moment
        self._moment.acquire()
        self._resting = 0  # workers that wait for a wake that nobody has sent yet
        self._waking = False  # a wake was sent and its worker has not begun
        self._stands_by = False  # it has looked and found that others take items
        self._at_work = 0  # workers that neither rest nor are on their way
        self._stopped = False
        self._lock = Mutex()  # guards the four above, and the threads; one shutdown is the first
        self._name = name
        self._numbers = itertools.count(1)
        self._size = 0
        self._threads: list[_Thread] = []
        self.resize(size)

    def _work(self) -> None:
        # Hot: one round per message at batch size 1.
        items, run = self._items, self._run
        take = items.popleft
        while True:
            try:
                item = take()
            except IndexError:
                self._rest()
                continue
            if items and self._resting and not self._waking:
                self._wake()
            if isinstance(item, _Mark):
                with self._lock:
                    self._at_work -= 1
                return
            try:
                run(item)
            except BaseException:  # noqa: BLE001 - border: what a task raises, sys.exit() too, must not cost the worker
                _log.exception("task in a worker pool failed")

    def _rest(self) -> None:
        """Wait until there is something for one more worker to do."""
        with self._lock:
            # Looked at again under the lock: whoever adds an item wakes a worker after it, under the same lock.
            if self._items:
                return
            self._resting += 1
            self._at_work -= 1
        oldest = self._wakes.get()
        if oldest is _GO:
            return
        while (now_oldest := self._oldest()) is not oldest and self._stand_by():
            oldest = now_oldest
        with self._lock:
            self._waking = self._stands_by = False
            self._at_work += 1

    def _stand_by(self) -> bool:
        """Wait for a moment; False, at once, when nobody else would take what there is."""
        with self._lock:
            if self._items and not self._at_work:
                return False
            self._stands_by = True
        self._moment.acquire(timeout=STAND_BY_S)
        return True

    def _wake(self) -> None:
        with self._lock:
            if not self._resting:
                return
            if not self._waking:
                self._resting -= 1
                self._waking = True
                self._wakes.put(self._oldest())
            elif self._stands_by and not self._at_work:
                self._resting -= 1
                self._at_work += 1
                self._wakes.put(_GO)

    def _oldest(self) -> T | _Mark | None:
        try:
            return self._items[0]
        except IndexError:
            return None

    def submit(self, item: T) -> bool:
        return self.submit_all((item,))

    def submit_all(self, items: Iterable[T]) -> bool:
        # An item that slips in behind the stop marks is one that shutdown forgets.
        if self._stopped:
            return False
        self._items.extend(items)
        self._wake()
        return True

    def backlog(self) -> int:
        return len(self._items)

    def resize(self, size: int) -> None:
        with self._lock:
            if self._stopped:
                return
            self._threads = [thread for thread in self._threads if not thread.join(0)]
            for _ in range(size - self._size):
                self._threads.append(_Thread(f"{self._name}{next(self._numbers)}", self._work))
                self._at_work += 1
            self._put_stop_marks(self._size - size)
            self._size = size

    def shutdown(self, await_ms: int) -> bool:
        with self._lock:
            first = not self._stopped
            self._stopped = True
            threads = list(self._threads)
        if first:
            self._put_stop_marks(len(threads))
        deadline = self._clock.monotonic_ms() + await_ms
        finished = all(
            [thread.join(deadline - self._clock.monotonic_ms()) for thread in threads if not thread.is_current()]
        )
        if first and self._forget_queued():
            finished = False
        if first:
            self._put_stop_marks(len(threads))  # for those that are still at work, and for a worker that calls this
        return finished

    def _put_stop_marks(self, count: int) -> None:
        self._items.extend([_STOP] * count)
        self._wake()

    def _forget_queued(self) -> int:
        """Empty the queue; returns how many items, stop marks aside, were in it."""
        forgotten = 0
        while True:
            try:
                forgotten += not isinstance(self._items.popleft(), _Mark)
            except IndexError:
                return forgotten


class _Scheduler:
    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: list[tuple[int, int, int | None, Callable[[], None]]] = []  # due, tie-break, period, job
        self._sequence = itertools.count()
        self._stopped = False
        _Thread(name, self._work)

    def schedule(self, delay_ms: int, job: Callable[[], None]) -> None:
        self._add(self._clock.monotonic_ms() + max(delay_ms, 0), None, job)

    def schedule_at_fixed_rate(self, initial_delay_ms: int, period_ms: int, job: Callable[[], None]) -> None:
        self._add(self._clock.monotonic_ms() + max(initial_delay_ms, 0), period_ms, job)

    def shutdown(self) -> None:
        with self._changed:
            self._stopped = True
            self._jobs.clear()
            self._changed.notify()

    def _add(self, due_ms: int, period_ms: int | None, job: Callable[[], None]) -> None:
        with self._changed:
            if not self._stopped:
                heapq.heappush(self._jobs, (due_ms, next(self._sequence), period_ms, job))
                self._changed.notify()

    def _take_due(self) -> tuple[int, int | None, Callable[[], None]] | None:
        with self._changed:
            while not self._stopped:
                if not self._jobs:
                    self._changed.wait()
                elif (left_ms := self._jobs[0][0] - self._clock.monotonic_ms()) > 0:
                    self._changed.wait(left_ms / 1000)
                else:
                    due_ms, _, period_ms, job = heapq.heappop(self._jobs)
                    return due_ms, period_ms, job
            return None

    def _work(self) -> None:
        while (taken := self._take_due()) is not None:
            due_ms, period_ms, job = taken
            try:
                job()
            except BaseException:  # noqa: BLE001 - border: a periodic job must survive its own errors
                _log.exception("scheduled job failed")
            if period_ms is not None:
                self._add(due_ms + period_ms, period_ms, job)


class ThreadRuntime:
    """The real runtime: operating system threads and the machine's clocks."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()

    @property
    def clock(self) -> Clock:
        """See ``Runtime.clock``."""
        return self._clock

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        """See ``Runtime.start_thread``."""
        return _Thread(name, target)

    def worker_pool(self, name: str, size: int, run: Callable[[T], None]) -> WorkerPool[T]:
        """See ``Runtime.worker_pool``."""
        return _WorkerPool(self._clock, name, size, run)

    def scheduler(self, name: str) -> Scheduler:
        """See ``Runtime.scheduler``."""
        return _Scheduler(self._clock, name)

    def event(self) -> Event:
        """See ``Runtime.event``."""
        return _Event()

    def lock(self) -> Lock:
        """See ``Runtime.lock``."""
        return _Lock()

    def queue(self) -> Queue[T]:
        """See ``Runtime.queue``."""
        return queue.SimpleQueue()
