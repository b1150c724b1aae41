"""The same operations into upstream's own LocalFileOffsetStore and ours, and both in turn on the same file.

Operations are the commands of LocalFileOffsetStoreDriver.java. Sequences are random but seeded.
``ROCKETMQ_PY_FULL=1`` runs ten times as many.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rocketmq_py.consumer.local_file_offset_store import LocalFileOffsetStore
from rocketmq_py.consumer.offset_file import OffsetFile, offset_file_path
from rocketmq_py.consumer.offset_store import ReadOffsetType
from rocketmq_py.errors import StoreError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import ManualRuntime
from tests.java.driver import JavaDriver

SEQUENCES = 500 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 50
LENGTH = 60
CLIENT_ID = "127.0.0.1@client#1"

QUEUES = ("t/x/0", "t/x/1", "t/y/0", "u/x/0", "主题/ü/2147483647", 'a"b\\c/{:},/7')
OFFSETS = (-1, 0, 1, 2, 5, 10, 2**31, 2**63 - 1)
KINDS = {
    "memory": ReadOffsetType.READ_FROM_MEMORY,
    "store": ReadOffsetType.READ_FROM_STORE,
    "memory-first": ReadOffsetType.MEMORY_FIRST_THEN_STORE,
}


class OurStore:
    """Ours behind the driver's commands and answers."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._store: LocalFileOffsetStore

    def run(self, command: str) -> str:
        match command.split(" "):
            case ["new", group]:
                runtime = ManualRuntime()
                warnings = RateLimitedLog(runtime.clock, logging.getLogger(__name__))
                file = OffsetFile(offset_file_path(self._base, CLIENT_ID, group), warnings)
                self._store = LocalFileOffsetStore(group, file, runtime, warnings)
                try:
                    self._store.load()
                except StoreError:
                    return "!MQClientException"
            case ["update", queue, offset, increase_only]:
                self._store.update_offset(_queue(queue), int(offset), increase_only == "true")
            case ["freeze", queue, offset]:
                self._store.update_and_freeze_offset(_queue(queue), int(offset))
            case ["read", kind, queue]:
                return str(self._store.read_offset(_queue(queue), KINDS[kind]))
            case ["persist", queue]:
                self._store.persist(_queue(queue))
            case ["persistAll", *queues]:
                self._store.persist_all([_queue(queue) for queue in queues])
            case ["remove", queue]:
                self._store.remove_offset(_queue(queue))
            case ["clone", *topic]:
                table = self._store.clone_offset_table(*topic)
                words = {"/".join(map(str, mq)): offset for mq, offset in table.items()}
                # Java sorts texts by UTF-16 units, which is the same for these.
                return " ".join(sorted(f"{word}={offset}" for word, offset in words.items()))
            case _:
                raise ValueError(command)
        return "ok"


class Both(NamedTuple):
    java: JavaDriver
    base: Path

    def path(self, group: str, base: Path | None = None) -> Path:
        return Path(offset_file_path(base or self.base, CLIENT_ID, group))


@pytest.fixture(scope="module")
def both(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    base = tmp_path_factory.mktemp("offsets")
    option = f"-Drocketmq.client.localOffsetStoreDir={base}"
    with JavaDriver("LocalFileOffsetStoreDriver", CLIENT_ID, options=[option]) as driver:
        yield Both(driver, base)


def _queue(word: str) -> MessageQueue:
    topic, broker_name, queue_id = word.split("/")
    return MessageQueue(topic, broker_name, int(queue_id))


def _random_command(rng: random.Random) -> str:
    names = ["update"] * 4 + ["freeze", "read", "read", "persist", "persistAll", "remove", "clone"]
    queue, offset = rng.choice(QUEUES), rng.choice(OFFSETS)
    match rng.choice(names):
        case "update":
            return f"update {queue} {offset} {rng.choice(['true', 'false'])}"
        case "freeze":
            return f"freeze {queue} {offset}"
        case "read":
            return f"read {rng.choice(list(KINDS))} {queue}"
        case "persistAll":
            return " ".join(["persistAll", *rng.sample(QUEUES, rng.randrange(1, len(QUEUES) + 1))])
        case "clone":
            return rng.choice(["clone", "clone t"])
        case name:
            return f"{name} {queue}"


def _random_sequence(rng: random.Random, group: str) -> list[str]:
    """Commands as of several consumers one after the other."""
    new = f"new {group}"
    return [new, *[new if rng.random() < 0.1 else _random_command(rng) for _ in range(LENGTH)], new, "clone"]


def _lines(path: Path) -> list[str]:
    """What a file has, in whichever order; a table without entries is the same as no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if "brokerName" not in text:
        return []
    return sorted(line.removesuffix(",") for line in text.split("\n"))


@pytest.mark.behaviour("LF-09")
def test_random_sequences_give_the_same_answers_and_the_same_file(both: Both, tmp_path: Path) -> None:
    for seed in range(SEQUENCES):
        group = f"same-{seed}"
        commands = _random_sequence(random.Random(seed), group)
        ours = OurStore(tmp_path)
        answers = [ours.run(command) for command in commands]
        for index, answer in enumerate(both.java.run(commands)):
            assert answers[index] == answer, (seed, commands[: index + 1])
        assert _lines(both.path(group, tmp_path)) == _lines(both.path(group)), seed


@pytest.mark.behaviour("LF-09")
def test_consumers_of_both_kinds_in_turn_on_one_file_go_on_where_the_other_was(both: Both, tmp_path: Path) -> None:
    handed_over = 0
    for seed in range(SEQUENCES):
        rng = random.Random(f"in turn {seed}")
        group = f"in-turn-{seed}"
        commands = _random_sequence(rng, group)
        alone = OurStore(tmp_path)
        expected = [alone.run(command) for command in commands]
        in_turn = OurStore(both.base)
        was_java = java_has_it = rng.random() < 0.5
        for index, command in enumerate(commands):
            if command.startswith("new "):
                java_has_it = rng.random() < 0.5
                handed_over += java_has_it is not was_java
                was_java = java_has_it
            answer = both.java.run([command])[0] if java_has_it else in_turn.run(command)
            assert answer == expected[index], (seed, commands[: index + 1])
    assert handed_over > SEQUENCES


@pytest.mark.behaviour("LF-09")
@pytest.mark.parametrize("damaged", ["", "{", '{"offsetTable":{', "rubbish"])
def test_each_reads_the_backup_of_the_other_when_the_file_is_damaged(both: Both, damaged: str) -> None:
    persist_twice = ["update t/x/0 {} true", "persist t/x/0", "update t/x/0 {} true", "persist t/x/0"]
    commands = [command.format(5 + index) for index, command in enumerate(persist_twice)]
    ours = OurStore(both.base)
    for group, write, read in (
        ("java-wrote", lambda command: both.java.run([command])[0], ours.run),
        ("we-wrote", ours.run, lambda command: both.java.run([command])[0]),
    ):
        for command in (f"new {group}", *commands):
            assert write(command) == "ok"
        both.path(group).write_text(damaged)
        assert [read(f"new {group}"), read("clone")] == ["ok", "t/x/0=5"]
        both.path(group).unlink()
        assert [read(f"new {group}"), read("clone")] == ["ok", "t/x/0=5"]
        for each in both.path(group).parent.iterdir():
            each.unlink()


@pytest.mark.behaviour("LF-04")
def test_when_both_are_damaged_neither_starts_and_only_java_takes_it_for_no_offset(both: Both) -> None:
    group = "damaged"
    ours = OurStore(both.base)
    assert [ours.run(f"new {group}"), *both.java.run([f"new {group}"])] == ["ok", "ok"]
    path = both.path(group)
    path.parent.mkdir()
    path.write_text("rubbish")
    path.with_name("offsets.json.bak").write_text("rubbish")
    assert both.java.run(["read store t/x/0"]) == ["-1"]
    assert ours.run("read store t/x/0") == "-2"
    assert [ours.run(f"new {group}"), *both.java.run([f"new {group}"])] == ["!MQClientException"] * 2


@pytest.mark.behaviour("LF-08", "LF-09")
@pytest.mark.parametrize(
    "text",
    [
        '{"offsetTable":{{"brokerName":"x","queueId":0,"topic":"t"}:5}}',
        '{"offsetTable":{{"topic":"t","queueId":0,"brokerName":"x"}:5}}',
        ' {\r\n "offsetTable" : { \t{ "queueId" : 0 ,\n"topic":"t","brokerName":"x" } : 5 }\n} \n',
        '{"offsetTable":{{"brokerName":"\\u0078","queueId":0,"topic":"t"}:5},"more":[{}]}',
    ],
)
def test_other_forms_of_the_file_are_read_by_both(both: Both, text: str) -> None:
    path = both.path("forms")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, newline="")
    assert both.java.run(["new forms", "clone"]) == ["ok", "t/x/0=5"]
    ours = OurStore(both.base)
    assert [ours.run("new forms"), ours.run("clone")] == ["ok", "t/x/0=5"]
