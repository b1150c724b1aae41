"""Threads that wait for their place."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from rocketmq_py.remoting.back_pressure import BackPressure
from rocketmq_py.runtime import ThreadRuntime
from tests.io.server import eventually

MakePressure = Callable[[int, int], BackPressure]


@pytest.fixture
def make_pressure() -> MakePressure:
    return lambda count, size: BackPressure(ThreadRuntime().event, count, size)


@pytest.mark.behaviour("PR-08")
def test_count_and_bytes_are_bounded(make_pressure: MakePressure) -> None:
    pressure = make_pressure(2, 100)
    assert pressure.acquire(60, 0)
    assert not pressure.acquire(41, 0)
    assert pressure.acquire(40, 0)
    assert not pressure.acquire(0, 0)
    pressure.release(60)
    assert pressure.acquire(60, 0)


@pytest.mark.behaviour("PR-08")
def test_what_is_larger_than_all_bytes_allowed_is_let_in_alone(make_pressure: MakePressure) -> None:
    pressure = make_pressure(10, 100)
    assert pressure.acquire(1, 0)
    assert not pressure.acquire(1_000, 0)
    pressure.release(1)
    assert pressure.acquire(1_000, 0)
    assert not pressure.acquire(1, 0)
    pressure.release(1_000)
    assert pressure.acquire(100, 0)


def waiting(pressure: BackPressure, size: int, let_in: list[int], timeout_ms: int = 30_000) -> threading.Thread:
    thread = threading.Thread(target=lambda: let_in.append(size) if pressure.acquire(size, timeout_ms) else None)
    before = len(pressure._waiting)
    thread.start()
    assert eventually(lambda: len(pressure._waiting) > before)
    return thread


@pytest.mark.behaviour("PR-08")
def test_who_came_first_is_let_in_first_though_a_later_one_would_fit(make_pressure: MakePressure) -> None:
    pressure = make_pressure(10, 100)
    assert pressure.acquire(90, 0)
    let_in: list[int] = []
    large, small = waiting(pressure, 50, let_in), waiting(pressure, 5, let_in)
    assert not pressure.acquire(1, 0)  # it would fit, too, but would pass those that wait
    pressure.release(90)
    large.join(10)
    small.join(10)
    assert sorted(let_in) == [5, 50]
    assert pressure.acquire(45, 0)


@pytest.mark.behaviour("PR-08")
def test_one_that_gives_up_lets_those_behind_it_pass(make_pressure: MakePressure) -> None:
    pressure = make_pressure(10, 100)
    assert pressure.acquire(90, 0)
    let_in: list[int] = []
    impatient = waiting(pressure, 50, let_in, timeout_ms=300)
    patient = waiting(pressure, 5, let_in)
    impatient.join(10)
    patient.join(10)
    assert let_in == [5]
    pressure.release(90)
    pressure.release(5)
    assert pressure.acquire(100, 0)


@pytest.mark.behaviour("PR-08")
@pytest.mark.parametrize("let_in", [False, True])
def test_one_whose_waiting_is_interrupted_takes_no_place(let_in: bool) -> None:
    class Interrupted(type(ThreadRuntime().event())):  # type: ignore[misc]
        def wait(self, timeout_ms: int) -> bool:
            if let_in:
                pressure.release(90)
            raise KeyboardInterrupt

    pressure = BackPressure(Interrupted, 1, 100)
    assert pressure.acquire(90, 0)
    with pytest.raises(KeyboardInterrupt):
        pressure.acquire(50, 1_000)
    if not let_in:
        pressure.release(90)
    assert pressure.acquire(100, 0)
