"""The same operations into upstream's own RebalanceLockManager and ours: every answer must be the same.

Operations are the commands of RebalanceLockDriver.java. Sequences are random but seeded: a failure names its seed and
shows the shortest sequence found that still differs. ``ROCKETMQ_PY_FULL=1`` runs a hundred times as many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.testing import ManualClock
from tests.java.driver import JavaDriver

SEQUENCES = 10_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 100
LENGTH = 60

GROUPS = ("g", "h")
CLIENTS = ("a", "b", "c")
#: every part of a queue's name counts
QUEUES = ("t/x/0", "t/x/1", "t/y/0", "u/x/0")
#: no sum is within seconds of the limit (60 s), because upstream reads the machine's clock; some are long enough for
#: ours to forget what expired
ADVANCES_MS = (25_000, 25_000, 50_000, 75_000, 150_000)


@pytest.fixture(scope="module")
def java_locks(java: None) -> Iterator[JavaDriver]:
    with JavaDriver("RebalanceLockDriver") as locks:
        yield locks


class OurRebalanceLockManager:
    """Ours behind the driver's commands and answers."""

    def __init__(self) -> None:
        self._clock = ManualClock()
        self._locks = RebalanceLockManager(self._clock)

    def run(self, command: str) -> str:
        match command.split(" "):
            case ["tryLock", group, client, queue]:
                return _text(self._locks.try_lock(group, _queue(queue), client))
            case ["isLocked", group, client, queue]:
                return _text(self._locks.is_locked(group, _queue(queue), client))
            case ["tryLockBatch", group, client, *queues]:
                granted = self._locks.try_lock_batch(group, map(_queue, queues), client)
                return " ".join(sorted("/".join(map(str, queue)) for queue in granted))
            case ["unlockBatch", group, client, *queues]:
                self._locks.unlock_batch(group, map(_queue, queues), client)
            case ["isLockAllExpired", group]:
                return _text(self._locks.is_lock_all_expired(group))
            case ["advance", ms]:
                self._clock.advance(int(ms))
            case _:
                raise ValueError(command)
        return "ok"


def _queue(word: str) -> MessageQueue:
    topic, broker_name, queue_id = word.split("/")
    return MessageQueue(topic, broker_name, int(queue_id))


def _text(value: bool) -> str:
    return str(value).lower()


def _random_command(rng: random.Random) -> str:
    name = rng.choice(["tryLock", "isLocked", *["tryLockBatch"] * 3, "unlockBatch", "isLockAllExpired", "advance"])
    group = rng.choice(GROUPS)
    match name:
        case "advance":
            return f"advance {rng.choice(ADVANCES_MS)}"
        case "isLockAllExpired":
            return f"isLockAllExpired {group}"
    count = rng.randrange(len(QUEUES) + 1) if name.endswith("Batch") else 1
    return " ".join([name, group, rng.choice(CLIENTS), *rng.sample(QUEUES, count)])


#: who holds what in the end
_EPILOGUE = [f"isLocked {group} {client} {queue}" for group in GROUPS for client in CLIENTS for queue in QUEUES]


def _first_difference(commands: list[str], java_locks: JavaDriver) -> tuple[int, str] | None:
    """Run a sequence on both; where they part, and how."""
    ours = OurRebalanceLockManager()
    answers = java_locks.run(["new", *commands])[1:]
    for index, (command, answer) in enumerate(zip(commands, answers, strict=True)):
        our_answer = ours.run(command)
        if answer != our_answer:
            return index, f"Java: {answer!r}\nours: {our_answer!r}"
    return None


def _check(commands: list[str], java_locks: JavaDriver, name: str) -> None:
    found = _first_difference(commands, java_locks)
    if found is None:
        return
    last = found[0]
    commands = commands[: last + 1]
    for index in range(last, -1, -1):  # leave out every command that is not needed for the difference
        fewer = commands[:index] + commands[index + 1 :]
        if fewer_found := _first_difference(fewer, java_locks):
            commands, found = fewer, fewer_found
    pytest.fail("\n".join([f"{name} differs after", *commands, found[1]]), pytrace=False)


def test_random_sequences(java_locks: JavaDriver) -> None:
    for seed in range(SEQUENCES):
        rng = random.Random(seed)
        commands = [_random_command(rng) for _ in range(LENGTH)]
        _check(commands + _EPILOGUE, java_locks, f"sequence {seed}")


_ONE = QUEUES[0]
_ALL = " ".join(QUEUES)


@pytest.mark.parametrize(
    "commands",
    [
        f"unlockBatch g a {_ALL}|isLockAllExpired g|tryLockBatch g a|isLockAllExpired g|isLocked g a {_ONE}",
        f"tryLockBatch g a {_ALL}|unlockBatch g b {_ALL}|unlockBatch g a {_ALL}|isLockAllExpired g|tryLock g b {_ONE}",
        f"tryLockBatch g a {_ALL}|advance 75000|isLocked g a {_ONE}|tryLock g a {_ONE}|tryLockBatch g b {_ALL}",
        f"tryLockBatch g a {_ALL}|advance 50000|isLocked g a {_ONE}|advance 50000|tryLockBatch g b {_ALL}",
        f"tryLockBatch g a {_ALL}|advance 50000|isLocked g b {_ONE}|advance 50000|isLockAllExpired g",
        f"tryLockBatch g a {_ALL}|advance 75000|unlockBatch g b {_ALL}|unlockBatch g a {_ALL}|tryLockBatch g b {_ALL}",
        f"tryLockBatch g a {_ALL}|advance 150000|tryLock h b {_ONE}|isLockAllExpired g|isLocked g a {_ONE}",
        f"tryLockBatch g a {_ALL}|advance 150000|tryLock h b {_ONE}|unlockBatch g a {_ALL}|tryLockBatch g b {_ALL}",
    ],
)
def test_known_corners(commands: str, java_locks: JavaDriver) -> None:
    _check(commands.split("|") + _EPILOGUE, java_locks, "this corner")
