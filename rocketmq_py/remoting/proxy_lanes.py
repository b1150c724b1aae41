"""Connections of their own for pulls through a proxy: which queue uses which, one pull at a time on each.

An Apache proxy drops, silently and for ever, every reply that is ready while more than 64 KiB of earlier replies wait
to be written to that connection. A reply may be bigger than that, so only one request in flight is always safe. Other
requests go over the control connection, whose replies are small. (docs/internals/proxy.md has the measurement.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rocketmq_py.clock import Clock
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.runtime import Mutex

LANES_MAX = 64
"""Connections per proxy address. With more queues than that, queues share lanes."""

SHARED_HOLD_MS = 1_000
"""How long the proxy may hold a pull on a shared lane while others wait for the lane."""

FORGET_AFTER_MS = 120_000
"""A queue not pulled for longer has gone to another member; its place on a lane is free again."""


Puller = tuple[str, MessageQueue]
"""A group and a queue: groups that share a client pull the same queues, each for itself."""


class _Lane:
    def __init__(self) -> None:
        self.queues: dict[Puller, int] = {}  # who -> when it last pulled
        self.busy = False
        self.waiting: deque[Callable[[], None]] = deque()  # at most one per queue


class ProxyLanes:
    """Lanes to one proxy. Owner of who waits for which lane.

    Lock: ``_lock``; pulls are begun without it. Any thread may call.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Mutex()
        self._lanes: dict[int, _Lane] = {}
        self._of_queue: dict[Puller, int] = {}

    def enter(self, puller: Puller, begin: Callable[[int, bool], None]) -> None:
        """Call ``begin(number, shared)`` now, or when the pull that is on the queue's lane has left it."""
        with self._lock:
            number = self._number_of(puller)
            lane = self._lanes[number]
            lane.queues[puller] = self._clock.monotonic_ms()
            shared = len(lane.queues) > 1
            if lane.busy:
                lane.waiting.append(lambda: begin(number, shared))
                return
            lane.busy = True
        begin(number, shared)

    def leave(self, number: int) -> None:
        """The pull on this lane was answered or counts as lost: the next one may begin."""
        with self._lock:
            lane = self._lanes[number]
            follower = lane.waiting.popleft() if lane.waiting else None
            lane.busy = follower is not None
        if follower is not None:
            follower()

    def _number_of(self, puller: Puller) -> int:
        number = self._of_queue.get(puller)
        if number is None:
            self._forget_old()
            free = next((n for n in range(1, LANES_MAX + 1) if n not in self._lanes or not self._lanes[n].queues), None)
            number = free or min(self._lanes, key=lambda n: len(self._lanes[n].queues))
            self._lanes.setdefault(number, _Lane())
            self._of_queue[puller] = number
        return number

    def _forget_old(self) -> None:
        now = self._clock.monotonic_ms()
        for lane in self._lanes.values():
            for puller in [who for who, pulled_ms in lane.queues.items() if now - pulled_ms > FORGET_AFTER_MS]:
                del lane.queues[puller]
                del self._of_queue[puller]
