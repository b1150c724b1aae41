"""The only module that reads time.

Durations use the monotonic side, leases that a server counts too the lease side, stamps on the wire the wall side. All
in integer milliseconds, as Java's.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where every moment comes from."""

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes backwards."""
        ...

    def lease_ms(self) -> int:
        """As ``monotonic_ms``, but time in which the machine itself was suspended counts, where the system can tell.

        A laptop that is opened again must not believe in a lock that its broker gave away meanwhile.
        """
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, as ``System.currentTimeMillis``."""
        ...


_LEASE_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; half as fast as the monotonic one


class SystemClock:
    """The machine's clocks."""

    @staticmethod
    def monotonic_ms() -> int:
        """See ``Clock.monotonic_ms``."""
        return time.monotonic_ns() // 1_000_000

    @staticmethod
    def monotonic_ns() -> int:
        """``monotonic_ms`` in nanoseconds, for measurements."""
        return time.monotonic_ns()

    @staticmethod
    def lease_ms() -> int:
        """See ``Clock.lease_ms``."""
        if _LEASE_CLOCK is None:
            return time.monotonic_ns() // 1_000_000
        return time.clock_gettime_ns(_LEASE_CLOCK) // 1_000_000

    @staticmethod
    def wall_ms() -> int:
        """See ``Clock.wall_ms``."""
        return time.time_ns() // 1_000_000
