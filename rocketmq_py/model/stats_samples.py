"""Samples of a counter that only grows, and what they say of its pace. Source: StatsItem, StatsSnapshot."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class StatsSnapshot(NamedTuple):
    """What a counter did between the first and the last sample of a list.

    Attributes:
        sum: by how much its value grew.
        tps: the same per second.
        times: how often it was counted.
        avgpt: growth per count, 0 without any.
    """

    sum: int = 0
    tps: float = 0.0
    times: int = 0
    avgpt: float = 0.0


class _Sample(NamedTuple):
    timestamp_ms: int
    times: int
    value: int


class Samples:
    """The last samples of one counter, taken at one interval. Source: csListMinute, csListHour, csListDay."""

    __slots__ = ("_interval_ms", "_kept")

    def __init__(self, interval_ms: int, most: int) -> None:
        self._interval_ms = interval_ms
        self._kept: deque[_Sample] = deque(maxlen=most)

    def take(self, now_ms: int, times: int, value: int) -> None:
        """Note what a counter has come to."""
        if not self._kept:
            # As if it had been looked at one interval ago: the first sample shows something already.
            self._kept.append(_Sample(now_ms - self._interval_ms, 0, 0))
        self._kept.append(_Sample(now_ms, times, value))

    def snapshot(self, intervals: int | None = None) -> StatsSnapshot:
        """What the counter did within the last so many intervals, or within all that are kept."""
        if not self._kept:
            return StatsSnapshot()
        first = self._kept[0 if intervals is None else max(len(self._kept) - 1 - intervals, 0)]
        last = self._kept[-1]
        total, times = last.value - first.value, last.times - first.times
        took_ms = last.timestamp_ms - first.timestamp_ms
        return StatsSnapshot(total, total * 1000 / took_ms if took_ms else 0.0, times, total / times if times else 0.0)
