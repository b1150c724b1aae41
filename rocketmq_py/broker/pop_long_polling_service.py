"""Pops and notifications that wait because there is nothing to give yet. Source: PopLongPollingService.

Whoever waits is woken, not answered: its request is carried out again. A message wakes one of those that wait for its
queue and one of those that wait for all queues, per group.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from sortedcontainers import SortedDict

from rocketmq_py.broker.commit_log import Arrival
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.message_filter import MessageFilter
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.clock import Clock

POP_POLLING_SIZE = 1_024
"""Requests that may wait for one queue of a group; one more is taken, as upstream does. Source: popPollingSize."""

MAX_POP_POLLING_SIZE = 100_000
"""Requests that may wait altogether. Source: maxPopPollingSize."""

POLLING_MAX_BYTES = 256 * 1024 * 1024
"""What the requests that wait may hold in memory, roughly. Upstream sets no limit."""

WAITER_BYTES = 2_000
"""What one costs beside what it carries, roughly."""

FORCE_NOTIFY_INTERVAL = 800
"""At every offset that this divides one is woken whatever its filter. Source: popLongPollingForceNotifyInterval."""

EXPIRES_EARLY_MS = 50
"""A request is answered so long before its time is over. Source: PopRequest.isTimeout."""

SWEEP_INTERVAL_MS = 20
"""How exactly time is kept. Source: PopLongPollingService.run."""

SWEEP_MAX_COUNT = 1_000
"""Requests whose time is found to be over in one go."""

ARRIVALS_MAX_COUNT = 100
"""New messages of a queue that are compared with what waits; if there are more, one of each group looks for itself, and
wakes the next when it leaves something."""

COMPARED_MAX_COUNT = 500
"""Comparisons in one go, then others get their turn."""

WOKEN_MAX_COUNT = 4
"""Requests that are carried out in one go, then others get their turn: a pop looks into all queues of a topic."""

ALL_QUEUES = -1


class PollingResult(Enum):
    """Whether a request waits, or why not."""

    POLLING_SUC = auto()
    POLLING_FULL = auto()
    POLLING_TIMEOUT = auto()
    NOT_POLLING = auto()


class PollingKey(NamedTuple):
    """What is waited for."""

    topic: str
    group: str
    queue_id: int  # ALL_QUEUES for all


@dataclass(frozen=True, slots=True)
class _Waiter:
    key: PollingKey
    message_filter: MessageFilter | None
    wake: Callable[[], None]
    owner: object
    size: int


class PopLongPollingService:
    """Owner of the requests that wait; on the loop's thread only.

    Args:
        notify_last: wake the one that has the most time left, not the least.
    """

    def __init__(self, loop: Loop, clock: Clock, *, notify_last: bool = False) -> None:
        self._loop = loop
        self._clock = clock
        self._which = -1 if notify_last else 0
        self._numbers = itertools.count()
        # By when they end, monotonic ms, and a number: all of them, and those of each key.
        self._waiters: SortedDict[tuple[int, int], _Waiter] = SortedDict()
        self._by_key: dict[PollingKey, SortedDict[tuple[int, int], _Waiter]] = {}
        self._by_owner: dict[object, dict[tuple[int, int], _Waiter]] = {}  # also of those that are woken
        self._woken: dict[tuple[int, int], _Waiter] = {}  # in turn
        self._groups: dict[str, dict[str, int]] = {}  # by topic, how many of each group wait
        self._bytes = 0
        self._sweeping = False
        self._running = False
        self._arrived: dict[QueueKey, list[Arrival]] = {}  # what those that wait are to be told, queues in turn
        self._comparing = False

    def polling(
        self,
        key: PollingKey,
        born_ms: int,
        poll_ms: int,
        message_filter: MessageFilter | None,
        wake: Callable[[], None],
        owner: object,
        size: int,
    ) -> PollingResult:
        """Let a request wait.

        Args:
            key: what it waits for.
            born_ms: when it was made, wall ms.
            poll_ms: how long it may wait from then on.
            message_filter: None to be woken by any message.
            wake: called once, when there is something or the time is over; not when the owner is gone.
            owner: whose request it is.
            size: bytes of texts that it keeps in memory.
        """
        if poll_ms <= 0:
            return PollingResult.NOT_POLLING
        size += WAITER_BYTES
        if len(self._waiters) + len(self._woken) >= MAX_POP_POLLING_SIZE or self._bytes + size > POLLING_MAX_BYTES:
            return PollingResult.POLLING_FULL
        left_ms = born_ms + poll_ms - EXPIRES_EARLY_MS - self._clock.wall_ms()
        if left_ms < 0:
            return PollingResult.POLLING_TIMEOUT
        if len(self._by_key.get(key, ())) > POP_POLLING_SIZE:
            return PollingResult.POLLING_FULL
        waiter = _Waiter(key, message_filter, wake, owner, size)
        self._bytes += size
        place = (self._clock.monotonic_ms() + left_ms, next(self._numbers))
        self._waiters[place] = waiter
        self._by_key.setdefault(key, SortedDict())[place] = waiter
        self._by_owner.setdefault(owner, {})[place] = waiter
        groups = self._groups.setdefault(key.topic, {})
        groups[key.group] = groups.get(key.group, 0) + 1
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_INTERVAL_MS, self._sweep)
        return PollingResult.POLLING_SUC

    def polling_num(self, key: PollingKey) -> int:
        """How many wait for this."""
        return len(self._by_key.get(key, ()))

    def notify_message_arriving(self, arrivals: Sequence[Arrival]) -> None:
        """Wake who waits for one of these messages."""
        for arrival in arrivals:
            if arrival.key.topic in self._groups:
                arrived = self._arrived.setdefault(arrival.key, [])
                if len(arrived) <= ARRIVALS_MAX_COUNT:
                    arrived.append(arrival)
        if self._arrived and not self._comparing:
            self._comparing = True
            self._compare_some(self._comparisons())

    def _compare_some(self, comparisons: Iterator[None]) -> None:
        more = False
        try:
            more = len(list(itertools.islice(comparisons, COMPARED_MAX_COUNT))) == COMPARED_MAX_COUNT
        finally:
            self._comparing = more
        if more:
            self._loop.call_soon(lambda: self._compare_some(comparisons))

    def _comparisons(self) -> Iterator[None]:
        """Each step compares a message with one that waits, and wakes it if it wants the message."""
        while self._arrived:
            key = next(iter(self._arrived))
            arrived: Sequence[Arrival | None] = self._arrived.pop(key)
            if len(arrived) > ARRIVALS_MAX_COUNT:
                arrived = [None]
            for group in list(self._groups.get(key.topic, ())):
                for queue_id in (ALL_QUEUES, key.queue_id):
                    waited_for = PollingKey(key.topic, group, queue_id)
                    for arrival in arrived:
                        yield
                        if waited_for not in self._by_key:
                            break
                        self._notify(waited_for, arrival)

    def notify(self, key: PollingKey) -> None:
        """Wake one that waits for this, whatever its filter."""
        self._notify(key, None)

    def _notify(self, key: PollingKey, arrival: Arrival | None) -> None:
        waiters = self._by_key.get(key)
        if not waiters:
            return
        place, waiter = waiters.peekitem(self._which)
        if arrival is None or waiter.message_filter is None or arrival.queue_offset % FORCE_NOTIFY_INTERVAL == 0:
            matched = True
        else:
            matched = waiter.message_filter.is_matched(arrival.tags_code, lambda: arrival.properties)
        if matched:
            self._wake(place, waiter)

    def channel_closed(self, owner: object) -> None:
        """Forget what somebody waits for who is gone."""
        for place, waiter in list(self._by_owner.get(owner, {}).items()):
            if place not in self._woken:
                self._remove(place, waiter)
            self._forget(place, waiter)

    def _sweep(self) -> None:
        now_ms = self._clock.monotonic_ms()
        over = self._waiters.irange(maximum=(now_ms,), inclusive=(True, False))
        for place in list(itertools.islice(over, SWEEP_MAX_COUNT)):
            self._wake(place, self._waiters[place])
        self._sweeping = bool(self._waiters)
        if self._sweeping:
            self._loop.call_later(SWEEP_INTERVAL_MS, self._sweep)

    def _wake(self, place: tuple[int, int], waiter: _Waiter) -> None:
        self._remove(place, waiter)
        self._woken[place] = waiter
        if not self._running:
            # Not now: whoever is woken may find something and wake the next.
            self._running = True
            self._loop.call_soon(self._run_woken)

    def _run_woken(self) -> None:
        """Carry out some requests, and the others when others had their turn."""
        try:
            for place, waiter in list(itertools.islice(self._woken.items(), WOKEN_MAX_COUNT)):
                if place in self._woken:  # else its owner is gone
                    self._forget(place, waiter)
                    waiter.wake()
        finally:
            self._running = bool(self._woken)
            if self._running:
                self._loop.call_soon(self._run_woken)

    def _remove(self, place: tuple[int, int], waiter: _Waiter) -> None:
        """Have nobody find it any more; it counts until it is forgotten, too."""
        key = waiter.key
        del self._waiters[place]
        _drop(self._by_key, key, place)
        groups = self._groups[key.topic]
        groups[key.group] -= 1
        if not groups[key.group]:
            _drop(self._groups, key.topic, key.group)

    def _forget(self, place: tuple[int, int], waiter: _Waiter) -> None:
        self._woken.pop(place, None)
        self._bytes -= waiter.size
        _drop(self._by_owner, waiter.owner, place)


def _drop(table: dict, key: object, item: object) -> None:  # type: ignore[type-arg] # of dicts, of any kind
    """Remove an item, and what it was in when that is empty."""
    del table[key][item]
    if not table[key]:
        del table[key]
