"""How much may be under way at once. Source: DefaultMQProducerImpl.semaphoreAsyncSendNum, semaphoreAsyncSendSize."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rocketmq_py.runtime import Event, Mutex


class _Waiter(NamedTuple):
    granted: Event
    size: int


class BackPressure:
    """A number of items and their bytes, both bounded. Who came first is let in first.

    Something larger than all bytes allowed is let in when nothing else is under way: Java never lets it in.

    Lock: ``_lock``; waiters are woken without it.

    Args:
        make_event: see ``Runtime.event``.
    """

    def __init__(self, make_event: Callable[[], Event], max_count: int, max_bytes: int) -> None:
        self._make_event = make_event
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._lock = Mutex()
        self._count = 0
        self._bytes = 0
        self._waiting: deque[_Waiter] = deque()

    def acquire(self, size: int, timeout_ms: int) -> bool:
        """Take a place and ``size`` bytes; False when there was no room in time. 0 tries once."""
        size = min(size, self._max_bytes)
        with self._lock:
            if not self._waiting and self._fits(size):
                self._take(size)
                return True
            if timeout_ms <= 0:
                return False
            waiter = _Waiter(self._make_event(), size)
            self._waiting.append(waiter)
        try:
            waiter.granted.wait(timeout_ms)
        except BaseException:  # Ctrl-C
            if not self._leave(waiter):
                self.release(size)
            raise
        return not self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> bool:
        """Wait no more; False: it was let in, perhaps just now."""
        with self._lock:
            if waiter not in self._waiting:
                return False
            self._waiting.remove(waiter)
            granted = self._grant()
        _wake(granted)
        return True

    def release(self, size: int) -> None:
        """Give back what ``acquire`` took."""
        with self._lock:
            self._count -= 1
            self._bytes -= min(size, self._max_bytes)
            granted = self._grant()
        _wake(granted)

    def _fits(self, size: int) -> bool:
        return self._count < self._max_count and self._bytes + size <= self._max_bytes

    def _take(self, size: int) -> None:
        self._count += 1
        self._bytes += size

    def _grant(self) -> list[_Waiter]:
        """Let in who waits, from the front, as long as there is room; the caller wakes them."""
        granted = []
        while self._waiting and self._fits(self._waiting[0].size):
            granted.append(self._waiting.popleft())
            self._take(granted[-1].size)
        return granted


def _wake(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        waiter.granted.set()
