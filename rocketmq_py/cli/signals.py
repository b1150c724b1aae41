"""Ctrl-C and SIGTERM as a wish to end, not as an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rocketmq_py.clock import SystemClock

LOOK_S = 0.1
"""How soon a wish is seen."""


class EndWish:
    """Whether a signal came. A plain flag: a handler that sets an Event for which its own thread waits can hang."""

    def __init__(self) -> None:
        self.asked = False

    def wait(self, done: threading.Event, timeout_s: float | None = None) -> bool:
        """Wait until something is done or a signal asks for the end; False when the time was over first."""
        now_ms = SystemClock.monotonic_ms
        deadline_ms = None if timeout_s is None else now_ms() + timeout_s * 1_000
        while not self.asked and not done.wait(LOOK_S):
            if deadline_ms is not None and now_ms() >= deadline_ms:
                return False
        return True


@contextmanager
def end_wish() -> Iterator[EndWish]:
    """Note SIGINT and SIGTERM while the block runs."""
    wish = EndWish()

    def note(*_: object) -> None:
        wish.asked = True

    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in handled]
    try:
        yield wish
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
