"""The thread that rebalances. Source: RebalanceService, ServiceThread."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rocketmq_py.runtime import Runtime

WAIT_INTERVAL_MS = 20_000
"""Between rebalances while everything is in balance and nobody wakes the thread; by default."""

MIN_INTERVAL_MS = 1_000
"""Between two rebalances, at least; and between tries while something is not in balance."""

_log = logging.getLogger(__name__)


class RebalanceService:
    """One per client. Wake-ups coalesce, and are put off, not lost, while the last rebalance is less than 1 s ago.

    Deviation: the first rebalance runs at once; Java counts the 1 s from the start of the client.

    Args:
        do_rebalance: rebalances every consumer of the client; False: try again soon.
        wait_interval_ms: between rebalances while everything is in balance.
    """

    def __init__(
        self, runtime: Runtime, do_rebalance: Callable[[], bool], wait_interval_ms: int = WAIT_INTERVAL_MS
    ) -> None:
        self._wait_interval_ms = wait_interval_ms
        self._clock = runtime.clock
        self._do_rebalance = do_rebalance
        self._wake = runtime.event()
        self._stopped = runtime.event()
        self._thread = runtime.start_thread("RebalanceService", self._run)

    def wakeup(self) -> None:
        """Rebalance soon; from any thread, never blocks."""
        self._wake.set()

    def shutdown(self, join_ms: int = MIN_INTERVAL_MS) -> None:
        """End the thread and wait for it, unless called on it."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(join_ms)

    def _run(self) -> None:
        wait_ms = self._wait_interval_ms
        last_run = self._clock.monotonic_ms() - MIN_INTERVAL_MS
        while True:
            self._wake.wait(wait_ms)
            if self._stopped.wait(last_run + MIN_INTERVAL_MS - self._clock.monotonic_ms()):
                return
            self._wake.clear()
            last_run = self._clock.monotonic_ms()
            balanced = False
            try:
                balanced = self._do_rebalance()
            except BaseException:  # noqa: BLE001 - border: the thread must survive, also a strategy's sys.exit()
                _log.exception("rebalance failed")
            wait_ms = self._wait_interval_ms if balanced else MIN_INTERVAL_MS
