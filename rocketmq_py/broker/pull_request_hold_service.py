"""Pulls that wait because there is nothing new yet. Source: PullRequestHoldService."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
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
            self._release(key, _wants_one_of(messages))

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
        now_ms = self._clock.monotonic_ms()
        for key in list(self._held):
            self._release(key, _is_over(self._max_offset(key), now_ms))

    def _release(self, key: QueueKey, condition: Callable[[HeldPull], bool]) -> None:
        for pull in self._take(key, condition):
            self._answer(pull)

    def _take(self, key: QueueKey, condition: Callable[[HeldPull], bool]) -> list[HeldPull]:
        taken = [(number, pull) for number, pull in self._held[key].items() if condition(pull)]
        for number, pull in taken:
            self._remove(key, number)
            places = self._places[pull.channel]
            del places[number]
            if not places:
                del self._places[pull.channel]
        return [pull for _, pull in taken]


def _wants_one_of(arrivals: Sequence[Arrival]) -> Callable[[HeldPull], bool]:
    def wanted(pull: HeldPull) -> bool:
        message_filter = pull.message_filter
        return message_filter.wants_everything or any(
            message_filter.is_matched(each.tags_code, lambda each=each: each.properties)  # type: ignore[misc]
            for each in arrivals
        )

    return wanted


def _is_over(max_offset: int, now_ms: int) -> Callable[[HeldPull], bool]:
    return lambda pull: max_offset > pull.offset or pull.due_ms <= now_ms
