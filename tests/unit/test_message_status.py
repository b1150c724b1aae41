"""The legal changes of a message's status, and what each fact means."""

from __future__ import annotations

import pytest

from rocketmq_py.broker.status_runs import Run, StatusRuns
from rocketmq_py.errors import IllegalStateError
from rocketmq_py.model.message_status import CF, CL, CS, PATHS, TCF, TCP, TCS, TRANSITIONS, Fact, MessageStatus, W, step

LEGAL = {
    "W": "TCP",
    "TCP": "TCS TCF",
    "TCF": "TCP",
    "TCS": "TCP CS CL CF",
    "CL": "TCP CS CF",
    "CS": "TCP CL CF",
    "CF": "TCP",
}


@pytest.mark.behaviour("SM-01")
def test_the_legal_changes_are_these_and_every_other_one_raises() -> None:
    legal = {(before, after) for before, many in LEGAL.items() for after in many.split()}
    for before in MessageStatus:
        for after in MessageStatus:
            if (before.value, after.value) in legal:
                assert step(before, 1, after)[0] is after
            else:
                with pytest.raises(IllegalStateError, match=f"cannot change from {before.value} to {after.value}"):
                    step(before, 1, after)


@pytest.mark.behaviour("SM-01")
def test_every_fact_leads_by_legal_changes_only_and_from_every_status_somewhere_or_nowhere() -> None:
    for paths in PATHS.values():
        for status, path in paths.items():
            at = status
            for following in path:
                assert (at, following) in TRANSITIONS
                at = following
    reached = {following for paths in PATHS.values() for path in paths.values() for following in path}
    assert reached == {*MessageStatus} - {W}


@pytest.mark.behaviour("SM-02")
def test_an_attempt_is_a_delivery_and_a_failed_delivery_is_the_same_attempt() -> None:
    runs = StatusRuns()
    story = [
        (Fact.GIVEN, TCP, 1), (Fact.BROKEN, TCF, 1), (Fact.GIVEN, TCP, 1), (Fact.WRITTEN, TCS, 1),
        (Fact.GIVEN, TCP, 1), (Fact.WRITTEN, TCS, 1), (Fact.SENT_BACK, CL, 1), (Fact.GIVEN, TCP, 2),
        (Fact.WRITTEN, TCS, 2), (Fact.DEAD, CF, 2), (Fact.GIVEN, TCP, 3), (Fact.WRITTEN, TCS, 3),
        (Fact.ACKNOWLEDGED, CS, 3), (Fact.GIVEN, TCP, 4),
    ]  # fmt: skip
    for fact, status, attempt in story:
        runs.apply(fact, 7, 8)
        assert runs.at(7) == Run(7, 8, status, attempt), fact


@pytest.mark.behaviour("SM-02")
def test_a_fact_proves_what_must_have_happened_before() -> None:
    runs = StatusRuns()
    assert runs.apply(Fact.ACKNOWLEDGED, 0, 1) == [Run(0, 1, TCP, 1), Run(0, 1, TCS, 1), Run(0, 1, CS, 1)]
    runs.apply(Fact.GIVEN, 5, 6)
    runs.apply(Fact.BROKEN, 5, 6)
    assert runs.apply(Fact.SENT_BACK, 5, 6) == [Run(5, 6, TCP, 1), Run(5, 6, TCS, 1), Run(5, 6, CL, 1)]


@pytest.mark.behaviour("SM-03")
@pytest.mark.parametrize(
    ("facts", "late", "stays"),
    [
        ((Fact.SENT_BACK,), Fact.ACKNOWLEDGED, CL),
        ((Fact.SENT_BACK,), Fact.PASSED, CL),
        ((Fact.DEAD,), Fact.ACKNOWLEDGED, CF),
        ((Fact.DEAD,), Fact.SENT_BACK, CF),
        ((Fact.ACKNOWLEDGED,), Fact.INVISIBLE_NO_MORE, CS),
        ((Fact.ACKNOWLEDGED,), Fact.WRITTEN, CS),
        ((Fact.ACKNOWLEDGED,), Fact.BROKEN, CS),
        ((), Fact.PASSED, W),
        ((Fact.GIVEN,), Fact.PASSED, TCP),
    ],
)
def test_what_comes_too_late_or_proves_nothing_changes_nothing(
    facts: tuple[Fact, ...], late: Fact, stays: MessageStatus
) -> None:
    runs = StatusRuns()
    for fact in facts:
        runs.apply(fact, 3, 4)
    assert runs.apply(late, 3, 4) == []
    assert runs.at(3).status is stays


@pytest.mark.behaviour("SM-04")
def test_messages_that_stand_alike_are_one_run_and_the_commit_leaves_out_what_comes_again() -> None:
    runs = StatusRuns()
    for first in range(0, 320, 32):
        runs.apply(Fact.GIVEN, first, first + 32)
        runs.apply(Fact.WRITTEN, first, first + 32)
    assert list(runs) == [Run(0, 320, TCS, 1)]
    runs.apply(Fact.SENT_BACK, 100, 101)
    assert runs.passed(300) == [Run(0, 100, CS, 1), Run(101, 300, CS, 1)]
    assert list(runs) == [Run(0, 100, CS, 1), Run(100, 101, CL, 1), Run(101, 300, CS, 1), Run(300, 320, TCS, 1)]
    assert runs.passed(300) == []
    # What is given again although the offset had passed it is passed once more by a lower offset.
    runs.apply(Fact.GIVEN, 0, 32)
    runs.apply(Fact.WRITTEN, 0, 32)
    assert runs.passed(16) == [Run(0, 16, CS, 2)]
    assert runs.at(16) == Run(16, 17, TCS, 2)


@pytest.mark.behaviour("SM-04")
def test_what_is_deleted_is_forgotten() -> None:
    runs = StatusRuns([Run(0, 10, CS, 1), Run(10, 12, CF, 1), Run(20, 30, TCS, 1)])
    runs.forget_below(25)
    assert list(runs) == [Run(25, 30, TCS, 1)]
    assert runs.changed == {0, 10, 20, 25}
    runs.forget_lowest()
    assert list(runs) == []
    assert runs.at(26).status is W


def test_that_all_statuses_are_named_here() -> None:
    assert {TCF, TCP, TCS, CF, CL, CS, W} == {*MessageStatus}


@pytest.mark.behaviour("SM-17")
def test_an_interval_is_cut_where_it_has_had_so_many_runs() -> None:
    runs = StatusRuns([Run(offset, offset + 1, CS, 1) for offset in range(0, 100, 2)])
    assert runs.end_of_some(0, 100, 10) == 20
    assert runs.end_of_some(0, 15, 10) == 15
    assert runs.end_of_some(90, 200, 10) == 200
    assert StatusRuns().end_of_some(0, 7, 10) == 7
