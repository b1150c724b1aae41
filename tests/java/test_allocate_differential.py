"""The same queues and members into upstream's own allocate strategies and ours: every answer must be the same.

Commands are those of AllocateDriver.java, random but seeded. ``ROCKETMQ_PY_FULL=1`` runs ten times as many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest

from rocketmq_py.consumer.allocate import (
    AllocateMachineRoomNearby,
    AllocateMessageQueueAveragely,
    AllocateMessageQueueAveragelyByCircle,
    AllocateMessageQueueByConfig,
    AllocateMessageQueueByMachineRoom,
    AllocateMessageQueueConsistentHash,
    AllocateMessageQueueStrategy,
)
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.unique_id import java_string_hash
from tests.java.driver import JavaDriver

COMMANDS = 10_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 1_000
"""Of each kind."""

BROKERS = ("a@b", "a@c", "b@a", "c@d@", "@d", "e", "ä@ö", "a@b@c", "中-0", "broker-a")
CLIENTS = tuple(f"{room}{number}@{pid}" for room in "abefä中" for number in range(3) for pid in ("1#2", "DEFAULT"))
ROOMS = ("a", "b", "c", "", "ä", "e")


@pytest.fixture(scope="module")
def java_strategies(java: None) -> Iterator[JavaDriver]:
    with JavaDriver("AllocateDriver") as strategies:
        yield strategies


class _FirstLetter:
    def broker_deploy_in(self, message_queue: MessageQueue) -> str:
        return self._first(message_queue.broker_name)

    def consumer_deploy_in(self, client_id: str) -> str:
        return self._first(client_id)

    @staticmethod
    def _first(name: str) -> str:
        return "" if name.startswith("?") else name[0]


_STRATEGIES: dict[str, Callable[[str], AllocateMessageQueueStrategy]] = {
    "AVG": lambda argument: AllocateMessageQueueAveragely(),
    "AVG_BY_CIRCLE": lambda argument: AllocateMessageQueueAveragelyByCircle(),
    "CONFIG": lambda argument: AllocateMessageQueueByConfig(_queues(argument)),
    "MACHINE_ROOM": lambda argument: AllocateMessageQueueByMachineRoom(_list(argument)),
    "HASH": lambda argument: AllocateMessageQueueConsistentHash(int(argument)),
    "STRING_HASH": lambda argument: AllocateMessageQueueConsistentHash(int(argument), java_string_hash),
    "NEARBY": lambda argument: AllocateMachineRoomNearby(_STRATEGIES[argument]("3"), _FirstLetter()),
}


def _ours(command: str) -> str:
    name, argument, cid, mqs, cids = command.split("|")
    try:
        strategy = _STRATEGIES[name](argument)
        found = strategy.allocate("group", cid, _queues(mqs), _list(cids))
    except ValueError as error:
        return f"!IllegalArgumentException {error}"
    return f"{strategy.get_name()} {','.join(map(_word, found))}"


def _list(words: str) -> list[str]:
    return words.split(",") if words else []


def _queues(words: str) -> list[MessageQueue]:
    split = [word.split("/") for word in _list(words)]
    return [MessageQueue(topic, broker_name, int(queue_id)) for topic, broker_name, queue_id in split]


def _word(mq: MessageQueue) -> str:
    return f"{mq.topic}/{mq.broker_name}/{mq.queue_id}"


def _random_queues(rng: random.Random, most: int) -> str:
    topic = rng.choice(["topic", "%RETRY%group", "主题"])
    brokers = rng.sample(BROKERS, rng.randint(1, len(BROKERS)))
    queues = sorted({MessageQueue(topic, rng.choice(brokers), rng.randrange(20)) for _ in range(rng.randint(1, most))})
    return ",".join(map(_word, queues))


def _random_command(rng: random.Random, kind: str) -> str:
    argument = {
        "CONFIG": lambda: _random_queues(rng, 5),
        "MACHINE_ROOM": lambda: ",".join(rng.sample(ROOMS, rng.randint(1, len(ROOMS)))),
        "HASH": lambda: str(rng.choice([0, 1, 2, 10, 10, 10, 50])),
        "STRING_HASH": lambda: str(rng.choice([0, 1, 2, 10])),
        "NEARBY": lambda: rng.choice(["AVG", "AVG_BY_CIRCLE", "HASH"]),
    }.get(kind, str)()
    cids = sorted(rng.sample(CLIENTS, rng.randint(1, 12)))
    return "|".join([kind, argument, rng.choice(cids), _random_queues(rng, 60), ",".join(cids)])


@pytest.mark.behaviour("AL-09")
@pytest.mark.parametrize("kind", _STRATEGIES)
def test_every_strategy_gives_what_java_gives(kind: str, java_strategies: JavaDriver) -> None:
    rng = random.Random(kind)
    commands = [_random_command(rng, kind) for _ in range(COMMANDS)]
    for first in range(0, COMMANDS, 1_000):
        some = commands[first : first + 1_000]
        for command, answer in zip(some, java_strategies.run(some), strict=True):
            assert _ours(command) == answer, command
            assert not answer.startswith("!")


@pytest.mark.behaviour("AL-09")
@pytest.mark.parametrize(
    "command",
    [
        "{}||a1||a1",
        "{}||a1|t/a/0|",
        "{}|||t/a/0|a1",
        "{}||||",
        "{}||x|t/a/0|a1",
    ],
)
@pytest.mark.parametrize("kind", ["AVG", "AVG_BY_CIRCLE", "CONFIG", "MACHINE_ROOM", "HASH", "STRING_HASH", "NEARBY"])
def test_every_strategy_refuses_what_java_refuses_in_its_words(
    kind: str, command: str, java_strategies: JavaDriver
) -> None:
    arguments = {"HASH": "10", "STRING_HASH": "10", "NEARBY": "AVG", "CONFIG": "t/a/0"}
    whole = command.format(kind).replace("||", f"|{arguments.get(kind, '')}|", 1)
    assert [_ours(whole)] == java_strategies.run([whole])


@pytest.mark.behaviour("AL-09")
@pytest.mark.parametrize(
    "command",
    [
        "NEARBY|AVG|a1|t/?/0|a1",
        "NEARBY|AVG|a1|t/a/0|?1,a1",
        "HASH|-1|a1|t/a/0|a1",
        "NEARBY|MACHINE_ROOM|a1|t/3@x/0,t/3@x/1,t/3@x/2,t/b@x/3|a1,a2",
    ],
)
def test_corners_of_rooms_and_rings_are_those_of_java(command: str, java_strategies: JavaDriver) -> None:
    assert [_ours(command)] == java_strategies.run([command])
