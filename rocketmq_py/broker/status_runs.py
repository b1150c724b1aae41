"""Statuses of the messages of one queue for one group: messages next to each other that stand alike are one entry.

A consumer takes and finishes messages in order, more or less: so a queue of millions is a few runs, whatever it holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sortedcontainers import SortedDict

from rocketmq_py.model.message_status import PATHS, Fact, MessageStatus, step

_WAITING = MessageStatus.WAIT_CONSUMER


class Run(NamedTuple):
    """Messages of a queue that stand alike: offsets from ``first`` on, before ``end``; or a change of them all."""

    first: int
    end: int
    status: MessageStatus
    attempt: int


class StatusRuns:
    """Runs of one queue and group; what is in none waits.

    Attributes:
        changed: ``first`` of every run that came, changed or went since they were taken.
        delivered_from: below, nothing is delivered and unfinished.
    """

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs: SortedDict[int, Run] = SortedDict((run.first, run) for run in runs)
        self.delivered_from = 0
        self.changed: set[int] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def get(self, first: int) -> Run | None:
        """The run that begins here."""
        run: Run | None = self._runs.get(first)
        return run

    @property
    def end(self) -> int:
        """One past the last message that does not wait, 0 for none."""
        return self._runs.peekitem()[1].end if self._runs else 0

    def take_changed(self) -> set[int]:
        """What has changed, and begin anew."""
        changed, self.changed = self.changed, set()
        return changed

    def at(self, offset: int) -> Run:
        """How one message stands."""
        return next(self._pieces(offset, offset + 1))

    def end_of_some(self, first: int, end: int, count: int) -> int:
        """How far an interval goes that begins at ``first`` and has so many runs; at most to ``end``."""
        behind = itertools.islice(self._runs.irange(first, end, inclusive=(False, False)), count - 1, None)
        return next(behind, end)

    def apply(self, fact: Fact, first: int, end: int) -> list[Run]:
        """Note a fact about the messages from ``first`` on, before ``end``; returns the changes, in order."""
        paths = PATHS[fact]
        changes: list[Run] = []
        pieces: list[Run] = []
        for piece in self._pieces(first, end):
            status, attempt = piece.status, piece.attempt
            for following in paths.get(status, ()):
                status, attempt = step(status, attempt, following)
                changes.append(Run(piece.first, piece.end, status, attempt))
            pieces.append(Run(piece.first, piece.end, status, attempt))
        if changes:
            self._replace(first, end, pieces)
            self.delivered_from = min(self.delivered_from, first)
        return changes

    def passed(self, end: int) -> list[Run]:
        """Note that the committed offset has passed all messages before ``end``."""
        first = self.delivered_from
        if first >= end:
            return []
        changes = self.apply(Fact.PASSED, first, end)
        self.delivered_from = end
        return changes

    def forget_below(self, offset: int) -> None:
        """The messages below are no more."""
        while self._runs and self._runs.peekitem(0)[1].end <= offset:
            self.forget_lowest()
        if self._runs and self._runs.peekitem(0)[0] < offset:
            self._replace(self._runs.peekitem(0)[0], offset, [])

    def forget_lowest(self) -> None:
        """Forget the lowest run."""
        first, _ = self._runs.popitem(0)
        self.changed.add(first)

    def _pieces(self, first: int, end: int) -> Iterator[Run]:
        """What the interval consists of: runs cut at its ends, and what waits between them."""
        at = first
        for piece in self._stored_pieces(first, end):
            if at < piece.first:
                yield Run(at, piece.first, _WAITING, 0)
            yield piece
            at = piece.end
        if at < end:
            yield Run(at, end, _WAITING, 0)

    def _stored_pieces(self, first: int, end: int) -> Iterator[Run]:
        for start in self._runs.irange(self._floor(first), end, inclusive=(True, False)):
            run = self._runs[start]
            if run.end > first:
                within = start >= first and run.end <= end
                yield run if within else Run(max(start, first), min(run.end, end), run.status, run.attempt)

    def _floor(self, offset: int) -> int:
        """Where the run begins that may hold an offset."""
        index = self._runs.bisect_right(offset) - 1
        return self._runs.peekitem(index)[0] if index >= 0 else offset

    def _replace(self, first: int, end: int, pieces: Iterable[Run]) -> None:
        """Put pieces in the place of everything from ``first`` to ``end``, joined with neighbours that stand alike."""
        # One more on either side, because it may be alike.
        before = {start: self._runs[start] for start in self._runs.irange(self._floor(first - 1), end)}
        after: dict[int, Run] = {}
        last: Run | None = None
        for run in (*_below(first, before.values()), *pieces, *_behind(end, before.values())):
            if run.status is _WAITING:
                continue
            if last is not None and last.end == run.first and last[2:] == run[2:]:
                run = Run(last.first, run.end, run.status, run.attempt)  # noqa: PLW2901
            after[run.first] = last = run
        for start in before.keys() - after.keys():
            del self._runs[start]
            self.changed.add(start)
        for start, run in after.items():
            if before.get(start) != run:
                self._runs[start] = run
                self.changed.add(start)


def _below(offset: int, runs: Iterable[Run]) -> Iterator[Run]:
    """What runs have below an offset."""
    for run in runs:
        if run.first < offset:
            yield run if run.end <= offset else Run(run.first, offset, run.status, run.attempt)


def _behind(offset: int, runs: Iterable[Run]) -> Iterator[Run]:
    """What runs have from an offset on."""
    for run in runs:
        if run.end > offset:
            yield run if run.first >= offset else Run(offset, run.end, run.status, run.attempt)
