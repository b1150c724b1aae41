"""The thread on which pulls are begun.

Source: PullMessageService. There one thread takes the pull requests of all groups from a queue. Here only first,
delayed and failed pulls come through: the thread that brings an answer begins the next pull (``message_puller``).
"""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.runtime import Runtime


class PullMessageService:
    """One per client. Jobs must be short; they may begin a connection, but not wait for an answer."""

    def __init__(self, runtime: Runtime) -> None:
        self._scheduler = runtime.scheduler("PullMessageService")

    def execute_later(self, delay_ms: int, job: Callable[[], None]) -> None:
        """Run a job after ``delay_ms``; 0 is as soon as possible. Lost once the service is shut down, as in Java."""
        self._scheduler.schedule(delay_ms, job)

    def shutdown(self) -> None:
        """Forget all jobs."""
        self._scheduler.shutdown()
