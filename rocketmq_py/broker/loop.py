"""What the broker needs of the thread it runs on.

All of the broker's state is owned by one thread, the loop's: requests, timers and ends of commits come one after the
other, so nothing in this package needs a lock. The real one is ``remoting.server.ServerLoop``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Loop(Protocol):
    """Runs jobs one after the other; called on its own thread only. An error of a job is logged."""

    def call_soon(self, job: Callable[[], None]) -> None:
        """Run a job after everything that is already to be run."""
        ...

    def call_later(self, delay_ms: int, job: Callable[[], None]) -> None:
        """Run a job after a while; forgotten when the loop ends."""
        ...

    def run_blocking(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Run ``work`` on another thread, one at a time, then ``done`` here with its error, None for none."""
        ...
