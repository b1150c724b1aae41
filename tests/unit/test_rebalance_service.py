from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import pytest

from rocketmq_py.consumer.rebalance_service import RebalanceService
from rocketmq_py.runtime import Event, Thread
from rocketmq_py.testing import ManualRuntime
from tests.unit.support import VirtualEvent


class _NotStarted:
    """The thread, whose body the test runs itself."""

    def join(self, timeout_ms: int) -> bool:
        return True

    def is_current(self) -> bool:
        return False


class Plan(ManualRuntime):
    """A runtime for one thread that the test runs itself; when it waits, what is planned happens in its time."""

    def __init__(self) -> None:
        super().__init__()
        self._planned: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence_of_plans = itertools.count()
        self.run: Callable[[], None] = lambda: None

    @property
    def now_ms(self) -> int:
        return self.manual_clock.monotonic_ms()

    def at(self, ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._planned, (self.now_ms + ms, next(self._sequence_of_plans), action))

    def run_next(self, end_ms: int) -> bool:
        """Run the next planned action before ``end_ms``, or let the time pass until then."""
        if self._planned and self._planned[0][0] <= end_ms:
            due_ms, _, action = heapq.heappop(self._planned)
            self.manual_clock.advance(max(due_ms - self.now_ms, 0))
            action()
            return True
        self.manual_clock.advance(end_ms - self.now_ms)
        return False

    def let_pass(self, ms: int) -> None:
        end_ms = self.now_ms + ms
        while self.run_next(end_ms):
            pass

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        assert name == "RebalanceService"
        self.run = target
        return _NotStarted()

    def event(self) -> Event:
        return VirtualEvent(self.manual_clock, self.run_next)


class Rebalancing:
    """The service on a planned time line: when it rebalanced, in ms from its start."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.start_ms = self.plan.now_ms
        self.rebalanced_at: list[int] = []
        self.balanced = True
        self.error: BaseException | None = None
        self.takes_ms = 0
        self.service = RebalanceService(self.plan, self._do_rebalance)

    def _do_rebalance(self) -> bool:
        self.rebalanced_at.append(self.plan.now_ms - self.start_ms)
        self.plan.let_pass(self.takes_ms)
        if self.error is not None:
            raise self.error
        return self.balanced

    def wake_at(self, *moments_ms: int) -> None:
        for ms in moments_ms:
            self.plan.at(ms, self.service.wakeup)

    def run_for(self, ms: int) -> list[int]:
        self.plan.at(ms, self.service.shutdown)
        self.plan.run()
        return self.rebalanced_at


@pytest.mark.behaviour("RS-01")
def test_in_balance_it_rebalances_every_20_s() -> None:
    assert Rebalancing().run_for(65_000) == [20_000, 40_000, 60_000]


@pytest.mark.behaviour("RS-01")
def test_out_of_balance_it_tries_again_every_second() -> None:
    rebalancing = Rebalancing()
    rebalancing.balanced = False
    rebalancing.plan.at(22_500, lambda: setattr(rebalancing, "balanced", True))
    assert rebalancing.run_for(44_000) == [20_000, 21_000, 22_000, 23_000, 43_000]


@pytest.mark.behaviour("RS-02")
def test_the_first_wake_up_rebalances_at_once() -> None:
    rebalancing = Rebalancing()
    rebalancing.wake_at(0)
    assert rebalancing.run_for(19_000) == [0]


@pytest.mark.behaviour("RS-02")
def test_a_wake_up_less_than_a_second_after_the_last_rebalance_is_put_off_not_lost() -> None:
    rebalancing = Rebalancing()
    rebalancing.wake_at(5_000, 5_200)
    assert rebalancing.run_for(19_000) == [5_000, 6_000]


@pytest.mark.behaviour("RS-02")
def test_many_wake_ups_become_one() -> None:
    rebalancing = Rebalancing()
    rebalancing.wake_at(5_000, 5_100, 5_200, 5_999)
    assert rebalancing.run_for(19_000) == [5_000, 6_000]


@pytest.mark.behaviour("RS-02")
def test_a_wake_up_after_a_second_rebalances_at_once() -> None:
    rebalancing = Rebalancing()
    rebalancing.wake_at(5_000, 6_000, 9_000)
    assert rebalancing.run_for(19_000) == [5_000, 6_000, 9_000]


@pytest.mark.behaviour("RS-02")
def test_a_wake_up_during_a_rebalance_is_not_lost() -> None:
    rebalancing = Rebalancing()
    rebalancing.takes_ms = 3_000
    rebalancing.wake_at(5_000, 6_000)
    assert rebalancing.run_for(19_000) == [5_000, 8_000]


@pytest.mark.behaviour("RS-03")
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit("mine")], ids=repr)
def test_an_error_does_not_end_it_and_is_tried_again_after_a_second(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    rebalancing = Rebalancing()
    rebalancing.error = error
    rebalancing.wake_at(0)
    assert rebalancing.run_for(2_500) == [0, 1_000, 2_000]
    assert "rebalance failed" in caplog.text


@pytest.mark.behaviour("RS-04")
@pytest.mark.parametrize("moment_ms", [500, 5_500])
def test_shutdown_ends_it_also_while_it_waits_for_the_second_to_pass(moment_ms: int) -> None:
    rebalancing = Rebalancing()
    rebalancing.wake_at(0, 5_000, 5_100)
    assert rebalancing.run_for(moment_ms) == [moment for moment in (0, 5_000) if moment < moment_ms]


@pytest.mark.behaviour("RS-04")
def test_after_shutdown_a_wake_up_is_ignored() -> None:
    rebalancing = Rebalancing()
    rebalancing.service.shutdown()
    rebalancing.service.wakeup()
    rebalancing.plan.run()
    assert rebalancing.rebalanced_at == []
