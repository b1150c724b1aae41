"""How much of the server's memory each connection may have, so that one that does not read, or does not finish what it
says, costs itself and not the others. On the loop's thread only.

gRPC tells of a connection no more than the address at its other end, and ends none when asked to.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

READS_MAX = 4
"""Requests of one connection that are being read at a time; gRPC takes what is sent of the others only up to its first
window of 64 KiB."""

READS_ALL_MAX = 64
"""Requests of all connections that are being read for longer than the grace; above, the longest are given up."""
READ_GRACE_S = 5
READ_LOOK_INTERVAL_S = 1

UNREAD_MAX_BYTES = 256 * 1024 * 1024
"""Messages under way to clients that have not read them yet. Above, who has not read for longest does not get them, and
the next, until it is less. Upstream sets no limit."""

UNREAD_SHARE_MAX_BYTES = 64 * 1024 * 1024
"""Of one connection; above, it receives nothing more."""


class ReadShares:
    """Which connection may read how many requests at a time, and for how long."""

    def __init__(self) -> None:
        self._reading: dict[str, tuple[asyncio.Semaphore, int]] = {}  # and how many read or wait
        self._since: dict[asyncio.Timeout, float] = {}  # all that read, the longest first
        self._is_looking = False

    @asynccontextmanager
    async def turn(self, peer: str, timeout_s: float) -> AsyncIterator[None]:
        """Wait for it, then read.

        Raises:
            TimeoutError: it took longer than that, or others need the memory.
        """
        semaphore, users = self._reading.get(peer) or (asyncio.Semaphore(READS_MAX), 0)
        self._reading[peer] = semaphore, users + 1
        try:
            async with semaphore, asyncio.timeout(timeout_s) as reading:
                self._begin(reading)
                try:
                    yield
                finally:
                    del self._since[reading]
        finally:
            semaphore, users = self._reading[peer]
            if users > 1:
                self._reading[peer] = semaphore, users - 1
            else:
                del self._reading[peer]

    def _begin(self, reading: asyncio.Timeout) -> None:
        self._since[reading] = asyncio.get_running_loop().time()
        self._look_later()

    def _look_later(self) -> None:
        if len(self._since) > READS_ALL_MAX and not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(READ_LOOK_INTERVAL_S, self._look)

    def _look(self) -> None:
        """Give up who has not finished for longest: whoever sends at all fast is through long before."""
        self._is_looking = False
        now = asyncio.get_running_loop().time()
        for reading, since in list(self._since.items())[: max(len(self._since) - READS_ALL_MAX, 0)]:
            if now - since < READ_GRACE_S:
                break
            if not reading.expired():  # else its own time has just run out
                reading.reschedule(now)
        self._look_later()


class Unread:
    """What one call writes.

    Attributes:
        peer: its connection.
        size: bytes that count.
        writing: ends the writing when its time is over.
    """

    def __init__(self, peer: str, size: int, writing: asyncio.Timeout) -> None:
        self.peer = peer
        self.size = size
        self.writing = writing


class UnreadShares:
    """Owner of the sums of what is unread."""

    def __init__(self) -> None:
        self._total = 0
        self._sums: defaultdict[str, int] = defaultdict(int)
        self._writing: dict[Unread, None] = {}  # the oldest first

    def has_room(self, peer: str) -> bool:
        """Whether a connection may receive more."""
        return self._sums.get(peer, 0) <= UNREAD_SHARE_MAX_BYTES

    def begin(self, unread: Unread) -> None:
        """Messages are written from here on. When there is too much, whoever has not read for longest loses."""
        self._writing[unread] = None
        self._total += unread.size
        self._sums[unread.peer] += unread.size
        for each in list(self._writing):
            if self._total <= UNREAD_MAX_BYTES or each is unread:
                return
            if not each.writing.expired():  # else its own time has just run out
                each.writing.reschedule(asyncio.get_running_loop().time())
            self._stop(each)

    def give_up(self, unread: Unread, rest_bytes: int) -> None:
        """What is unread is not written any more; so much of it is out of our hands and stays in memory."""
        self._stop(unread)
        self._shrink(unread, rest_bytes)

    def end(self, unread: Unread) -> None:
        """The call has ended."""
        self._stop(unread)
        self._shrink(unread, 0)

    def _stop(self, unread: Unread) -> None:
        if unread in self._writing:
            del self._writing[unread]
            self._total -= unread.size

    def _shrink(self, unread: Unread, size: int) -> None:
        left = self._sums[unread.peer] - unread.size + size
        if left:
            self._sums[unread.peer] = left
        else:
            del self._sums[unread.peer]
        unread.size = size
