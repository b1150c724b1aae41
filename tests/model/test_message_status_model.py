"""Runs of statuses against one entry per message, under every order of facts, restarts in between."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rocketmq_py.broker.status_runs import Run, StatusRuns
from rocketmq_py.model.message_status import PATHS, TCS, Fact, MessageStatus, W, step

SIZE = 24

offsets = st.integers(0, SIZE - 1)


class StatusRunsModel(RuleBasedStateMachine):
    """Every message of a queue for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = StatusRuns()
        self.stored: dict[int, Run] = {}
        self.model: list[tuple[MessageStatus, int]] = [(W, 0)] * SIZE
        self.forgotten = 0

    def _expect(self, fact: Fact, first: int, end: int) -> list[tuple[int, MessageStatus, int]]:
        changes = []
        for offset in range(first, end):
            status, attempt = self.model[offset]
            for following in PATHS[fact].get(status, ()):
                status, attempt = step(status, attempt, following)
                changes.append((offset, status, attempt))
            self.model[offset] = status, attempt
        return changes

    @rule(fact=st.sampled_from(Fact), one=offsets, other=offsets)
    def a_fact(self, fact: Fact, one: int, other: int) -> None:
        first, end = sorted((one, other + 1))
        if first == end:
            return
        changes = self.runs.apply(fact, first, end)
        told = [(offset, run.status, run.attempt) for run in changes for offset in range(run.first, run.end)]
        expected = self._expect(fact, first, end)
        assert sorted(told, key=lambda each: each[0]) == sorted(expected, key=lambda each: each[0])

    @rule(end=st.integers(0, SIZE))
    def the_committed_offset_passes(self, end: int) -> None:
        told = {offset for run in self.runs.passed(end) for offset in range(run.first, run.end)}
        assert told == {offset for offset in range(end) if self.model[offset][0] is TCS}
        self._expect(Fact.PASSED, 0, end)

    @rule(end=st.integers(0, SIZE // 2))
    def messages_are_deleted(self, end: int) -> None:
        self.runs.forget_below(end)
        self.model[:end] = [(W, 0)] * end

    @rule()
    def changes_are_stored(self) -> None:
        for first in self.runs.take_changed():
            run = self.runs.get(first)
            self.stored.pop(first, None) if run is None else self.stored.update({first: run})
        assert list(self.runs) == [run for _, run in sorted(self.stored.items())]

    @rule()
    def a_restart(self) -> None:
        self.changes_are_stored()
        self.runs = StatusRuns(run for _, run in sorted(self.stored.items()))

    @invariant()
    def every_message_stands_as_it_should(self) -> None:
        assert [(self.runs.at(offset).status, self.runs.at(offset).attempt) for offset in range(SIZE)] == self.model

    @invariant()
    def there_are_no_more_runs_than_needed(self) -> None:
        runs = list(self.runs)
        assert all(run.first < run.end and run.status is not W for run in runs)
        assert all(
            left.end < right.first or (left.end == right.first and left[2:] != right[2:])
            for left, right in pairwise(runs)
        )


TestStatusRuns = StatusRunsModel.TestCase
