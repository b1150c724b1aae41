"""Pulls that wait because there is nothing new yet. Source: PullRequestHoldService."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rocketmq_py.broker.channel import Channel, held_bytes
from rocketmq_py.broker.commit_log import Arrival
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.message_filter import MessageFilter
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.clock import Clock
from rocketmq_py.remoting.frame import RemotingCommand

SWEEP_INTERVAL_MS = 5_000
"""Holds are looked at so often: how exactly their time is kept, and how soon a filtered queue moves on."""

HELD_MAX_COUNT = 50_000
"""Above, a pull that finds nothing is answered at once."""

HELD_MAX_BYTES = 256 * 1024 * 1024
"""The same, for what held pulls have in memory, roughly: their fields and tags come over the wire."""

_TAG_BYTES = 150  # a text and a number, in two sets

GO_MAX_COST = 256
"""What one go at held pulls may cost, then others get their turn: to look at a pull costs 1, to answer it as much as to
look at 16, both of one that filters by properties 16 and 4 times as much."""
_ANSWER_COST = 16
_PROPERTIES_LOOK_COST = 16
_PROPERTIES_ANSWER_COST = 64

COMPARED_MAX_COUNT = 32
"""New messages, or tags of them, that are compared with a filter; if there are more, the pull looks for itself."""

ARRIVALS_MAX_COUNT = 1_000
"""New messages of a queue that are remembered; if there are more, every pull of it looks for itself."""


@dataclass(slots=True)
class HeldPull:
    """A pull that waits."""

    channel: Channel
    request: RemotingCommand
    offset: int
    message_filter: MessageFilter
    due_ms: int
    size: int = field(init=False)  # bytes in memory, roughly

    def __post_init__(self) -> None:
        self.size = held_bytes(self.request) + _TAG_BYTES * len(self.message_filter.subscription.tags_set)


class _Round:
    """Pulls of one queue that are to be looked at.

    Args:
        numbers: of the pulls.
        arrivals: why; None when each is to look for itself, if there is something or its time is over.

    Attributes:
        is_followed: another round must follow, for ``following`` as the first for ``arrivals``.
    """

    def __init__(self, numbers: Iterable[int], arrivals: Sequence[Arrival] | None) -> None:
        self.numbers = iter(numbers)
        self.is_followed = False
        self.following: Sequence[Arrival] | None = ()
        self._arrivals = arrivals
        # Of one tag one is as good as another.
        self._tagged = None if arrivals is None else list({each.tags_code: each for each in arrivals}.values())

    def follow(self, arrivals: Sequence[Arrival] | None) -> None:
        """Have another round follow."""
        self.is_followed = True
        if self.following is not None:
            self.following = None if arrivals is None else _bounded([*self.following, *arrivals])

    def wants(self, pull: HeldPull, max_offset: int, now_ms: int) -> bool:
        """Whether a pull is to be answered."""
        message_filter = pull.message_filter
        arrivals = self._arrivals if message_filter.needs_properties else self._tagged
        if arrivals is None:
            return max_offset > pull.offset or pull.due_ms <= now_ms
        return (
            message_filter.wants_everything
            or len(arrivals) > COMPARED_MAX_COUNT
            or any(
                message_filter.is_matched(each.tags_code, lambda each=each: each.properties)  # type: ignore[misc]
                for each in arrivals
            )
        )


class PullRequestHoldService:
    """Owner of the held pulls; on the loop's thread only.

    Args:
        max_offset: end of a queue.
        answer: answers a pull now, whatever there is.
    """

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        max_offset: Callable[[QueueKey], int],
        answer: Callable[[HeldPull], None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._max_offset = max_offset
        self._answer = answer
        self._held: dict[QueueKey, dict[int, HeldPull]] = {}  # by a number of its own, in order
        self._places: dict[Channel, dict[int, QueueKey]] = {}  # so that a connection's end finds its own at once
        self._numbers = itertools.count()
        self._rounds: dict[QueueKey, _Round] = {}  # in turn
        self._looking = False
        self._count = 0
        self._bytes = 0

    def start(self) -> None:
        """Begin to sweep."""
        self._loop.call_later(SWEEP_INTERVAL_MS, self._sweep)

    def suspend(self, key: QueueKey, pull: HeldPull) -> bool:
        """Hold a pull; False when too many are held already."""
        if self._count >= HELD_MAX_COUNT or self._bytes + pull.size > HELD_MAX_BYTES:
            return False
        number = next(self._numbers)
        self._held.setdefault(key, {})[number] = pull
        self._places.setdefault(pull.channel, {})[number] = key
        self._count += 1
        self._bytes += pull.size
        return True

    def notify_arriving(self, arrivals: Sequence[Arrival]) -> None:
        """Answer the pulls that wait for one of these messages, once each however many of them came."""
        arrived: dict[QueueKey, list[Arrival]] = {}
        for arrival in arrivals:
            if arrival.key in self._held:
                arrived.setdefault(arrival.key, []).append(arrival)
        for key, messages in arrived.items():
            self._begin(key, _bounded(messages))
        self._look_on()

    def channel_closed(self, channel: Channel) -> None:
        """Forget what a connection waits for."""
        for number, key in self._places.pop(channel, {}).items():
            self._remove(key, number)

    def _remove(self, key: QueueKey, number: int) -> None:
        held = self._held[key]
        self._bytes -= held.pop(number).size
        if not held:
            del self._held[key]
        self._count -= 1

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_INTERVAL_MS, self._sweep)
        for key in self._held:
            self._begin(key, None)
        self._look_on()

    def _begin(self, key: QueueKey, arrivals: Sequence[Arrival] | None) -> None:
        """Have the pulls of a queue looked at."""
        running = self._rounds.get(key)
        if running is None:
            self._rounds[key] = _Round(list(self._held[key]), arrivals)
        else:
            running.follow(arrivals)

    def _look_on(self) -> None:
        if self._rounds and not self._looking:
            self._looking = True
            self._look()

    def _look(self) -> None:
        """Look at some pulls, and at the others when others had their turn."""
        left = GO_MAX_COST
        try:
            while self._rounds and left > 0:
                key = next(iter(self._rounds))
                left = self._look_at(key, self._rounds.pop(key), left)
        finally:
            self._looking = bool(self._rounds)
            if self._looking:
                self._loop.call_soon(self._look)

    def _look_at(self, key: QueueKey, looked: _Round, left: int) -> int:
        """Go on with a round; what is left of a go's cost. A round that is not through waits behind the others."""
        max_offset, now_ms = self._max_offset(key), self._clock.monotonic_ms()
        due: list[HeldPull] = []
        for number in looked.numbers:
            pull = self._held.get(key, {}).get(number)
            if pull is not None:
                by_properties = pull.message_filter.needs_properties
                left -= _PROPERTIES_LOOK_COST if by_properties else 1
                if looked.wants(pull, max_offset, now_ms):
                    self._take(key, number, pull)
                    due.append(pull)
                    left -= _PROPERTIES_ANSWER_COST if by_properties else _ANSWER_COST
            if left <= 0:
                self._rounds[key] = looked
                break
        else:
            if looked.is_followed and key in self._held:
                self._begin(key, looked.following)
        for pull in due:
            self._answer(pull)
        return left

    def _take(self, key: QueueKey, number: int, pull: HeldPull) -> None:
        self._remove(key, number)
        places = self._places[pull.channel]
        del places[number]
        if not places:
            del self._places[pull.channel]


def _bounded(arrivals: Sequence[Arrival]) -> Sequence[Arrival] | None:
    return None if len(arrivals) > ARRIVALS_MAX_COUNT else arrivals
