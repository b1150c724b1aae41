"""The disk below a working broker fails or loses power: what clients were told is so afterwards.

``ROCKETMQ_PY_FULL=1``: more cuts and longer lives.
"""

from __future__ import annotations

import copy
import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from rocketmq_py.broker.store import database
from rocketmq_py.errors import StoreError
from rocketmq_py.testing import ManualClock
from tests.broker.broker_life import Known, Life, check
from tests.broker.power_cut import Disk

FULL = os.environ.get("ROCKETMQ_PY_FULL") == "1"
CUTS = 1_000 if FULL else 30
LIVES = 10
"""Of one store; then an empty directory is taken, because beginnings are worth cutting, too."""

TURNS = 40 if FULL else 5


@pytest.fixture(autouse=True)
def _many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 20)


# Power cuts.


def _live_until_the_cut(
    directory: Path, target: Path, known: Known, chance: random.Random, clock: ManualClock
) -> Known:
    """What clients knew when the power went; ``target`` is what is left."""
    at_cut: list[Known] = []
    steps_left = iter(range(chance.randint(0, 60) if chance.random() < 0.3 else chance.randint(60, 500), -1, -1))

    def step(doing: str, name: str) -> None:
        if next(steps_left, 0) == 0 and not at_cut:
            at_cut.append(copy.deepcopy(known))
            disk.cut(target, chance)

    with Disk(directory) as disk:
        disk.on_step = step
        life = Life(directory, known, chance, clock, disk.name)
        try:
            while not at_cut:
                life.turn()
        finally:
            life.rig.close()
    return at_cut[0]


@pytest.mark.behaviour("DU-07")
def test_power_cuts_cost_a_working_broker_nothing_that_clients_were_told(tmp_path: Path) -> None:
    chance, clock, known = random.Random(3), ManualClock(), Known()
    stores: list[Known] = []
    directory = tmp_path
    for number in range(CUTS):
        if number % LIVES == 0:
            stores.append(known)
            known, directory = Known(), tmp_path / f"empty-{number}"
            directory.mkdir()
        target = tmp_path / f"cut-{number}"
        known = _live_until_the_cut(directory, target, known, chance, clock)
        check(target, known, clock)
        shutil.rmtree(directory)
        directory = target
    stores.append(known)
    assert sum(len(finished) for each in stores for finished in each.finished.values()) > 60
    assert any(each.delayed for each in stores)
    assert any(each.sent_back for each in stores)
    assert sum(len(each.popped) for each in stores) > 30
    assert sum(len(each.decided) for each in stores) > 15
    assert sum(len(each.told) for each in stores) > 15


# Failing writes and syncs.


def _fail_once(number: int, failure: int) -> bool:
    return number == failure


def _fail_from_then_on(number: int, failure: int) -> bool:
    return number >= failure


@pytest.mark.behaviour("DU-08")
@pytest.mark.parametrize("fails", [_fail_once, _fail_from_then_on])
@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError] if FULL else [apsw.IOError])
def test_whichever_write_or_sync_fails_nothing_acknowledged_is_lost_and_nothing_more_is_acknowledged(
    tmp_path: Path, fails: Callable[[int, int], bool], error: type[apsw.Error]
) -> None:
    refused = failed = 0
    for failure in itertools.count():
        directory, steps = tmp_path / f"{failure}", itertools.count()
        known, clock, chance = Known(), ManualClock(), random.Random(7)

        def step(doing: str, name: str, steps: itertools.count[int] = steps, failure: int = failure) -> None:
            if fails(next(steps), failure):
                raise error("injected")

        directory.mkdir()
        with Disk(directory) as disk:
            disk.on_step = step
            try:
                life = Life(directory, known, chance, clock, disk.name)
            except StoreError:
                refused += 1
            else:
                for _ in range(TURNS):
                    life.turn()
                failed += life.rig.controller.commit_log.failure is not None
                try:
                    life.rig.close()
                except StoreError:
                    assert next(steps) > failure
            disk.on_step = lambda doing, name: None
        check(directory, known, clock)
        shutil.rmtree(directory)
        if next(steps) <= failure:
            break
    assert refused > 5
    assert failed > 20
