from __future__ import annotations

import logging

import pytest

from rocketmq_py.rate_limited_log import REMEMBERED_MAX, RateLimitedLog
from rocketmq_py.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limited(clock: ManualClock) -> RateLimitedLog:
    return RateLimitedLog(clock, logging.getLogger(__name__), interval_ms=1_000)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.behaviour("LG-01")
def test_the_first_line_of_a_key_passes_as_a_warning(limited: RateLimitedLog, caplog: pytest.LogCaptureFixture) -> None:
    limited.warning("key", "%s of %s", 1, "topic")
    assert lines(caplog) == ["1 of topic"]
    assert caplog.records[0].levelno == logging.WARNING
    assert not caplog.records[0].exc_info


@pytest.mark.behaviour("LG-01")
def test_further_lines_are_held_back_until_the_interval_is_over_and_their_number_is_told_then(
    limited: RateLimitedLog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        limited.warning("key", "100%% of %s", "it")
    clock.advance(999)
    limited.warning("key", "100%% of %s", "it")
    assert lines(caplog) == ["100% of it"]
    clock.advance(1)
    limited.warning("key", "100%% of %s", "it")
    assert lines(caplog)[1:] == ["100% of it (3 like it were not logged)"]
    clock.advance(1_000)
    limited.warning("key", "again")
    assert lines(caplog)[2:] == ["again"]


@pytest.mark.behaviour("LG-01")
def test_keys_are_limited_apart(limited: RateLimitedLog, caplog: pytest.LogCaptureFixture) -> None:
    limited.warning(("a", 1), "first")
    limited.warning(("a", 2), "second")
    limited.warning(("a", 1), "third")
    assert lines(caplog) == ["first", "second"]


@pytest.mark.behaviour("LG-01")
def test_the_wall_clock_does_not_matter(
    limited: RateLimitedLog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    limited.warning("key", "first")
    clock.shift_wall(3_600_000)
    limited.warning("key", "second")
    assert lines(caplog) == ["first"]


@pytest.mark.behaviour("LG-02")
def test_when_too_many_keys_are_remembered_all_are_forgotten(
    limited: RateLimitedLog, caplog: pytest.LogCaptureFixture
) -> None:
    for key in range(REMEMBERED_MAX):
        limited.warning(key, "line")
    limited.warning(0, "held back")
    assert len(caplog.records) == REMEMBERED_MAX
    limited.warning("one more", "line")
    limited.warning(0, "passes")
    assert lines(caplog)[-1] == "passes"


@pytest.mark.behaviour("LG-01")
def test_a_traceback_comes_along_when_asked_for(limited: RateLimitedLog, caplog: pytest.LogCaptureFixture) -> None:
    try:
        int("mine")
    except ValueError:
        limited.warning("key", "failed", with_traceback=True)
    assert "ValueError: invalid literal" in caplog.text
