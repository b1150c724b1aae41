"""The only module that reads time.

Durations and leases use the monotonic side, stamps on the wire the wall side. Both in integer milliseconds, as Java's.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where every moment comes from."""

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes backwards."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, as ``System.currentTimeMillis``."""
        ...


class SystemClock:
    """The machine's clocks."""

    @staticmethod
    def monotonic_ms() -> int:
        """See ``Clock.monotonic_ms``."""
        return time.monotonic_ns() // 1_000_000

    @staticmethod
    def wall_ms() -> int:
        """See ``Clock.wall_ms``."""
        return time.time_ns() // 1_000_000
