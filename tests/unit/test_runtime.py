"""The real threads: every wait here has a bound, and none is a sleep."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from rocketmq_py import runtime
from rocketmq_py.runtime import Queue, Scheduler, ThreadRuntime, WorkerPool
from rocketmq_py.testing import ManualClock

BOUND_S = 10.0
BOUND_MS = 10_000


def ended(name: str) -> bool:
    """Wait for the threads of this name to end."""
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            thread.join(BOUND_S)
    return not any(thread.name.startswith(name) for thread in threading.enumerate())


class Work:
    """What a pool runs: notes items in the order in which they are finished; "wait" waits until it may go on."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.waiting = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.pool: WorkerPool[object] | None = None
        self.answer: bool | None = None
        self.shut_down = threading.Event()

    def run(self, item: object) -> None:
        if item == "wait":
            self.waiting.release()
            assert self.go_on.wait(BOUND_S)
        if item == "raise":
            raise ValueError("mine")
        if item == "exit":
            sys.exit("mine")
        if item == "shut down":
            assert self.pool is not None
            self.answer = self.pool.shutdown(BOUND_MS)
            self.shut_down.set()
        self.done.append(item)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.go_on.set()


# Pools.


@pytest.mark.behaviour("RN-01")
def test_a_pool_of_one_runs_items_in_the_order_they_came(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-fifo-", 1, work.run)
    assert all([pool.submit(number) for number in range(100)])
    assert pool.shutdown(BOUND_MS) is True
    assert work.done == list(range(100))


@pytest.mark.behaviour("RN-01")
def test_a_pool_of_three_runs_three_items_at_a_time_on_daemon_threads_with_its_name(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-three-", 3, work.run)
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("pool-three-")]
    assert sorted(thread.name for thread in workers) == ["pool-three-1", "pool-three-2", "pool-three-3"]
    assert all(thread.daemon for thread in workers)
    for _ in range(4):
        pool.submit("wait")
    for _ in range(3):
        assert work.waiting.acquire(timeout=BOUND_S)
    assert not work.waiting.acquire(blocking=False)
    work.go_on.set()
    assert pool.shutdown(BOUND_MS) is True
    assert len(work.done) == 4


@pytest.mark.behaviour("RN-08")
@pytest.mark.parametrize("quick", [0, 1, 1_000])
def test_slow_items_are_all_at_work_at_once_whatever_quick_ones_came_before(work: Work, quick: int) -> None:
    pool = ThreadRuntime().worker_pool("pool-chain-", 20, work.run)
    for _ in range(3):
        pool.submit_all([*range(quick), *["wait"] * 20])
        for _ in range(20):
            assert work.waiting.acquire(timeout=BOUND_S)
        work.go_on.set()
        assert eventually_done(work, quick + 20)
        work.go_on.clear()
    assert pool.shutdown(BOUND_MS) is True


@pytest.mark.behaviour("RN-08")
def test_a_slow_item_holds_up_none_that_came_behind_it(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-behind-", 2, work.run)
    pool.submit_all(["wait", *range(1_000)])
    assert eventually_done(work, 1_000)
    pool.submit_all(range(1_000))
    assert eventually_done(work, 1_000)
    work.go_on.set()
    assert pool.shutdown(BOUND_MS) is True


@pytest.mark.behaviour("RN-08")
def test_what_comes_when_the_others_rest_does_not_wait_for_the_one_that_stands_by(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "STAND_BY_S", 0.5)
    pool = ThreadRuntime().worker_pool("pool-at-once-", 3, work.run)
    began = time.monotonic()
    for _ in range(50):
        pool.submit_all(range(64))
        assert eventually_done(work, 64)
    assert time.monotonic() - began < BOUND_S
    assert pool.shutdown(BOUND_MS) is True


def eventually_done(work: Work, count: int) -> bool:
    """Wait until so many items are finished, and forget them."""
    deadline = time.monotonic() + BOUND_S
    while len(work.done) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    finished, work.done = work.done, []
    return len(finished) == count


@pytest.mark.behaviour("RN-01")
def test_a_pool_that_grows_and_shrinks_runs_as_many_items_at_a_time_and_loses_none(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-resize-", 1, work.run)

    def at_a_time(count: int) -> None:
        for _ in range(count + 1):
            pool.submit("wait")
        for _ in range(count):
            assert work.waiting.acquire(timeout=BOUND_S)
        assert not work.waiting.acquire(blocking=False)
        work.go_on.set()
        assert work.waiting.acquire(timeout=BOUND_S)
        end = time.monotonic() + BOUND_S
        while len(work.done) < expected[-1] + count + 1:
            assert time.monotonic() < end
            time.sleep(0.001)
        expected.append(len(work.done))
        work.go_on.clear()

    expected = [0]

    at_a_time(1)
    pool.resize(3)
    at_a_time(3)
    pool.resize(2)
    at_a_time(2)
    pool.resize(1)
    assert all([pool.submit(number) for number in range(10)])
    assert pool.shutdown(BOUND_MS) is True
    assert work.done[-10:] == list(range(10))
    assert len(work.done) == expected[-1] + 10
    pool.resize(5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pool-resize-")]


@pytest.mark.behaviour("RN-02")
def test_shutting_a_pool_down_waits_for_running_and_queued_items(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-drain-", 2, work.run)
    pool.submit("wait")
    assert work.waiting.acquire(timeout=BOUND_S)
    for number in range(50):
        pool.submit(number)
    threading.Timer(0.02, work.go_on.set).start()
    assert pool.shutdown(BOUND_MS) is True
    assert sorted(map(str, work.done)) == sorted(map(str, ["wait", *range(50)]))
    assert ended("pool-drain-")


@pytest.mark.behaviour("RN-02")
def test_after_the_time_out_queued_items_are_forgotten_and_the_running_one_ends_by_itself(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-forget-", 1, work.run)
    pool.submit("wait")
    assert work.waiting.acquire(timeout=BOUND_S)
    for number in range(50):
        pool.submit(number)
    assert pool.shutdown(20) is False
    work.go_on.set()
    assert ended("pool-forget-")
    assert work.done == ["wait"]


@pytest.mark.behaviour("RN-02")
def test_a_pool_shut_down_takes_nothing_and_a_second_shutdown_is_fine(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-closed-", 2, work.run)
    assert pool.shutdown(BOUND_MS) is True
    assert pool.submit(1) is False
    assert pool.shutdown(0) is True
    assert work.done == []


@pytest.mark.behaviour("RN-02")
def test_a_second_shutdown_waits_for_what_the_first_did_not(work: Work) -> None:
    pool = ThreadRuntime().worker_pool("pool-twice-", 1, work.run)
    pool.submit("wait")
    assert work.waiting.acquire(timeout=BOUND_S)
    assert pool.shutdown(0) is False
    work.go_on.set()
    assert pool.shutdown(BOUND_MS) is True


@pytest.mark.behaviour("RN-03")
def test_a_worker_that_shuts_its_own_pool_down_waits_for_the_others_and_not_for_itself(work: Work) -> None:
    pool = work.pool = ThreadRuntime().worker_pool("pool-inside-", 2, work.run)
    pool.submit("wait")
    assert work.waiting.acquire(timeout=BOUND_S)
    pool.submit("shut down")
    pool.submit("queued")
    work.go_on.set()
    assert work.shut_down.wait(BOUND_S)
    assert work.answer is True
    assert ended("pool-inside-")
    assert set(work.done) >= {"wait", "shut down"}
    assert pool.submit("late") is False


@pytest.mark.behaviour("RN-03")
def test_the_only_worker_that_shuts_its_own_pool_down_does_not_claim_that_queued_items_were_finished(
    work: Work,
) -> None:
    pool = work.pool = ThreadRuntime().worker_pool("pool-alone-", 1, work.run)
    pool.submit("wait")
    assert work.waiting.acquire(timeout=BOUND_S)
    pool.submit("shut down")
    pool.submit("queued")
    work.go_on.set()
    assert work.shut_down.wait(BOUND_S)
    assert ended("pool-alone-")
    assert work.answer is False
    assert work.done == ["wait", "shut down"]


@pytest.mark.behaviour("RN-04")
def test_an_error_of_an_item_is_logged_and_costs_no_worker(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    pool = ThreadRuntime().worker_pool("pool-error-", 1, work.run)
    for item in ("raise", 1, "exit", 2):
        pool.submit(item)
    assert pool.shutdown(BOUND_MS) is True
    assert work.done == [1, 2]
    assert caplog.text.count("task in a worker pool failed") == 2
    assert "ValueError: mine" in caplog.text
    assert "SystemExit: mine" in caplog.text


# Schedulers.


class Jobs:
    """A scheduler on a clock of the test's, held up until ``release``, so that everything scheduled is in the heap."""

    def __init__(self, name: str) -> None:
        self.clock = ManualClock()
        self.scheduler: Scheduler = ThreadRuntime(self.clock).scheduler(name)
        self.ran: list[object] = []
        self.error: BaseException = ValueError("mine")
        self.holding = threading.Event()
        self.released = threading.Event()
        self.finished = threading.Event()

    def hold(self) -> None:
        def hold() -> None:
            self.holding.set()
            assert self.released.wait(BOUND_S)

        self.scheduler.schedule(0, hold)
        assert self.holding.wait(BOUND_S)

    def add(self, delay_ms: int, what: object) -> None:
        self.scheduler.schedule(delay_ms, lambda: self.ran.append(what))

    def fail(self) -> None:
        self.ran.append("failed")
        raise self.error

    def release(self, after_ms: int) -> None:
        """Let time pass, and wait until everything due then has run."""
        self.scheduler.schedule(after_ms, self.finished.set)
        self.clock.advance(after_ms)
        self.released.set()
        assert self.finished.wait(BOUND_S)
        self.scheduler.shutdown()


@pytest.mark.behaviour("RN-05")
def test_jobs_run_when_they_are_due_those_of_the_same_moment_in_the_order_they_were_scheduled() -> None:
    jobs = Jobs("scheduler-order")
    jobs.hold()
    jobs.add(30, "c")
    jobs.add(10, "a")
    jobs.add(20, "b1")
    jobs.add(20, "b2")
    jobs.add(-5, "now")
    jobs.add(41, "too late")
    jobs.release(40)
    assert jobs.ran == ["now", "a", "b1", "b2", "c"]
    assert ended("scheduler-order")


@pytest.mark.behaviour("RN-05")
def test_a_job_waits_for_its_time() -> None:
    scheduler = ThreadRuntime().scheduler("scheduler-wait")
    ran = threading.Event()
    scheduler.schedule(60_000, lambda: None)
    scheduler.schedule(1, ran.set)
    assert ran.wait(BOUND_S)
    scheduler.shutdown()
    assert ended("scheduler-wait")


@pytest.mark.behaviour("RN-06")
def test_a_fixed_rate_keeps_its_times_and_survives_its_own_errors(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs("scheduler-rate")
    jobs.hold()
    jobs.scheduler.schedule_at_fixed_rate(5, 10, jobs.fail)
    jobs.add(10, 10)
    jobs.add(20, 20)
    jobs.release(30)
    assert jobs.ran == ["failed", 10, "failed", 20, "failed"]
    assert caplog.text.count("scheduled job failed") == 3
    assert ended("scheduler-rate")


@pytest.mark.behaviour("RN-06")
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit("mine")], ids=repr)
def test_an_error_of_one_job_does_not_stop_the_others(error: BaseException) -> None:
    jobs = Jobs("scheduler-error")
    jobs.error = error
    jobs.hold()
    jobs.scheduler.schedule(1, jobs.fail)
    jobs.add(2, "next")
    jobs.release(3)
    assert jobs.ran == ["failed", "next"]


@pytest.mark.behaviour("RN-05")
def test_a_scheduler_shut_down_forgets_its_jobs_and_takes_none() -> None:
    jobs = Jobs("scheduler-closed")
    jobs.hold()
    jobs.add(0, "queued")
    jobs.scheduler.schedule_at_fixed_rate(0, 1, lambda: jobs.ran.append("rate"))
    jobs.scheduler.shutdown()
    jobs.add(0, "late")
    jobs.released.set()
    assert ended("scheduler-closed")
    assert jobs.ran == []


@pytest.mark.behaviour("RN-05")
def test_a_job_may_shut_its_own_scheduler_down() -> None:
    scheduler = ThreadRuntime().scheduler("scheduler-inside")
    scheduler.schedule(0, scheduler.shutdown)
    assert ended("scheduler-inside")


# Threads, events, locks, queues.


@pytest.mark.behaviour("RN-07")
def test_a_thread_can_be_waited_for_by_all_but_itself() -> None:
    runtime = ThreadRuntime()
    go_on = runtime.event()
    seen: list[bool] = []

    def body() -> None:
        assert go_on.wait(BOUND_MS)
        seen.extend([thread.is_current(), thread.join(BOUND_MS)])

    thread = runtime.start_thread("thread-join", body)
    assert thread.is_current() is False
    assert thread.join(1) is False
    go_on.set()
    assert thread.join(BOUND_MS) is True
    assert seen == [True, False]


@pytest.mark.behaviour("RN-07")
def test_an_event_stays_up_until_it_is_cleared_and_a_wait_is_bounded() -> None:
    event = ThreadRuntime().event()
    assert event.wait(1) is False
    assert event.wait(-1) is False
    event.set()
    assert (event.wait(0), event.is_set()) == (True, True)
    event.clear()
    assert (event.wait(0), event.is_set()) == (False, False)


@pytest.mark.behaviour("RN-07")
def test_a_lock_is_held_by_one_and_acquiring_it_is_bounded() -> None:
    lock = ThreadRuntime().lock()
    assert lock.acquire(0) is True
    assert lock.acquire(0) is False
    assert lock.acquire(1) is False
    lock.release()
    assert lock.acquire(BOUND_MS) is True


@pytest.mark.behaviour("RN-07")
def test_a_queue_hands_over_in_order() -> None:
    queue: Queue[int] = ThreadRuntime().queue()
    for number in range(3):
        queue.put(number)
    assert [queue.get() for _ in range(3)] == [0, 1, 2]


def test_the_runtime_measures_by_the_clock_it_was_given() -> None:
    clock = ManualClock()
    assert ThreadRuntime(clock).clock is clock
    before = ThreadRuntime().clock.monotonic_ms()
    assert ThreadRuntime().clock.monotonic_ms() >= before
