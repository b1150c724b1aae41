"""Warnings that would otherwise fill a disk."""

from __future__ import annotations

import logging

from rocketmq_py.clock import Clock
from rocketmq_py.runtime import Mutex

REMEMBERED_MAX = 1_000


class RateLimitedLog:
    """Passes one line per key and interval on and counts the others; the next line that passes tells how many.

    Any thread may call it. It remembers at most ``REMEMBERED_MAX`` keys and forgets all of them when it is full.
    """

    def __init__(self, clock: Clock, logger: logging.Logger, interval_ms: int = 60_000) -> None:
        self._clock = clock
        self._logger = logger
        self._interval_ms = interval_ms
        self._lock = Mutex()
        self._seen: dict[object, tuple[int, int]] = {}  # key -> (when the last line passed, held back since)

    def warning(self, key: object, message: str, *args: object, with_traceback: bool | BaseException = False) -> None:
        """Log ``message % args``, unless a line with this key passed within the interval."""
        now = self._clock.monotonic_ms()
        with self._lock:
            passed_at, held_back = self._seen.get(key, (None, 0))
            if passed_at is not None and now - passed_at < self._interval_ms:
                self._seen[key] = (passed_at, held_back + 1)
                return
            if len(self._seen) >= REMEMBERED_MAX:
                self._seen.clear()
            self._seen[key] = (now, 0)
        if held_back:
            message += f" ({held_back} like it were not logged)"
        self._logger.warning(message, *args, exc_info=with_traceback)
