"""Time that a test moves, and a runtime without threads: jobs run when the test advances the clock, in order."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from rocketmq_py.clock import Clock
from rocketmq_py.runtime import Event, Lock, Queue, Scheduler, Thread, WorkerPool

T = TypeVar("T")

START_MS = 1_700_000_000_000


class ManualClock:
    """A clock that stands still until ``advance``. Both sides show the same, but the wall side can be set apart."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self._monotonic_ms = start_ms
        self._wall_shift_ms = 0
        self._suspended_ms = 0

    def monotonic_ms(self) -> int:
        """See ``Clock.monotonic_ms``."""
        return self._monotonic_ms

    def lease_ms(self) -> int:
        """See ``Clock.lease_ms``."""
        return self._monotonic_ms + self._suspended_ms

    def wall_ms(self) -> int:
        """See ``Clock.wall_ms``."""
        return self._monotonic_ms + self._wall_shift_ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        if ms < 0:
            raise ValueError("time does not go backwards: use shift_wall")
        self._monotonic_ms += ms

    def suspend(self, ms: int) -> None:
        """The machine was suspended: only leases and the wall clock notice."""
        self._suspended_ms += ms
        self._wall_shift_ms += ms

    def shift_wall(self, ms: int) -> None:
        """Set the wall clock forward or back; the monotonic side does not notice."""
        self._wall_shift_ms += ms


class InlineExecutor(Generic[T]):
    """A worker pool without workers: ``submit`` runs the item at once, or, when held, ``run_all`` does later.

    Attributes:
        held: whether items wait for ``run_all``.
        size: how many workers it stands for.
    """

    def __init__(self, run: Callable[[T], None]) -> None:
        self._run = run
        self._items: deque[T] = deque()
        self._stopped = False
        self.held = False
        self.size = 1

    def resize(self, size: int) -> None:
        """See ``WorkerPool.resize``."""
        self.size = size

    def submit(self, item: T) -> bool:
        """See ``WorkerPool.submit``."""
        if self._stopped:
            return False
        if self.held:
            self._items.append(item)
        else:
            self._run(item)
        return True

    def submit_all(self, items: Iterable[T]) -> bool:
        """See ``WorkerPool.submit_all``."""
        return all([self.submit(item) for item in items])

    def backlog(self) -> int:
        """See ``WorkerPool.backlog``."""
        return len(self._items)

    def run_all(self) -> int:
        """Run what waits, oldest first; returns how many items."""
        count = 0
        while self._items:
            self._run(self._items.popleft())
            count += 1
        return count

    def shutdown(self, await_ms: int) -> bool:
        """See ``WorkerPool.shutdown``: with any time allowed what waits is run, with none it is forgotten."""
        self._stopped = True
        if await_ms > 0:
            self.run_all()
        finished = not self._items
        self._items.clear()
        return finished


class _ManualScheduler:
    def __init__(self, runtime: ManualRuntime) -> None:
        self._runtime = runtime
        self.stopped = False

    def schedule(self, delay_ms: int, job: Callable[[], None]) -> None:
        self._runtime.add_job(self, delay_ms, None, job)

    def schedule_at_fixed_rate(self, initial_delay_ms: int, period_ms: int, job: Callable[[], None]) -> None:
        self._runtime.add_job(self, initial_delay_ms, period_ms, job)

    def shutdown(self) -> None:
        self.stopped = True


class _Flag:
    """An event or a lock for one thread: a wait that could never end returns False."""

    def __init__(self) -> None:
        self._up = False

    def set(self) -> None:
        self._up = True

    def clear(self) -> None:
        self._up = False

    def is_set(self) -> bool:
        return self._up

    def wait(self, timeout_ms: int) -> bool:
        return self._up

    def acquire(self, timeout_ms: int) -> bool:
        free, self._up = not self._up, True
        return free

    release = clear


class ManualRuntime:
    """A runtime on a ``ManualClock``. Jobs of all schedulers run in ``advance``; pools are ``InlineExecutor``.

    Attributes:
        pools: the pools made, by name.
    """

    def __init__(self) -> None:
        self.manual_clock = ManualClock()
        self.pools: dict[str, InlineExecutor[object]] = {}
        self._jobs: list[tuple[int, int, int | None, _ManualScheduler, Callable[[], None]]] = []
        self._sequence = itertools.count()

    @property
    def clock(self) -> Clock:
        """The manual clock."""
        return self.manual_clock

    def advance(self, ms: int) -> None:
        """Let time pass, and run every job that comes due on the way at its time."""
        end_ms = self.manual_clock.monotonic_ms() + ms
        while self._jobs and self._jobs[0][0] <= end_ms:
            due_ms, _, period_ms, scheduler, job = heapq.heappop(self._jobs)
            if scheduler.stopped:
                continue
            self.manual_clock.advance(max(due_ms - self.manual_clock.monotonic_ms(), 0))
            job()
            if period_ms is not None:
                self.add_job(scheduler, period_ms, period_ms, job)
        # A job may have let more time pass itself.
        self.manual_clock.advance(max(end_ms - self.manual_clock.monotonic_ms(), 0))

    def add_job(
        self, scheduler: _ManualScheduler, delay_ms: int, period_ms: int | None, job: Callable[[], None]
    ) -> None:
        """Note a job for ``advance``."""
        due_ms = self.manual_clock.monotonic_ms() + max(delay_ms, 0)
        heapq.heappush(self._jobs, (due_ms, next(self._sequence), period_ms, scheduler, job))

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        """Refused: there are no threads here."""
        raise NotImplementedError(f"thread {name}: a ManualRuntime has none, test the parts below it")

    def worker_pool(self, name: str, size: int, run: Callable[[T], None]) -> WorkerPool[T]:
        """An ``InlineExecutor``, also found in ``pools``."""
        pool = InlineExecutor(run)
        pool.size = size
        self.pools[name] = pool  # type: ignore[assignment]
        return pool

    def scheduler(self, name: str) -> Scheduler:
        """A scheduler whose jobs run in ``advance``."""
        return _ManualScheduler(self)

    def event(self) -> Event:
        """An event nobody can wait for."""
        return _Flag()

    def lock(self) -> Lock:
        """A lock nobody can wait for."""
        return _Flag()

    def queue(self) -> Queue[T]:
        """Refused, as ``start_thread``."""
        raise NotImplementedError("a ManualRuntime has no queues, because nobody could wait for them")
