"""Fan-out and idempotence with a server: every message succeeds in the end, and each effect is there once."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rocketmq_py import DefaultMQProducer, Message, MessageExt
from rocketmq_py.batch import OnFailure, Outcome, fan_out
from tests.apache.cluster import ApacheCluster
from tests.conformance.collector import eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import Server

_log = logging.getLogger(__name__)

FULL = os.environ.get("ROCKETMQ_PY_FULL") == "1"

# Processes that die between effect and acknowledgement.

KILLS = 100 if FULL else 20
MESSAGES_PER_KILL = 12

PARENT = """
import os, random, signal, sqlite3, sys, threading
from rocketmq_py import *
from rocketmq_py.idempotence import SqliteTransaction, idempotent

namesrv, topic, group, database, log_path, count = sys.argv[1:]
local = threading.local()


def connection():
    if not hasattr(local, "connection"):
        local.connection = sqlite3.connect(database, timeout=30)
        local.connection.execute("PRAGMA synchronous=OFF")  # processes die here, no power is cut
    return local.connection


class Effects(MessageListenerConcurrently):
    def __init__(self, dies_after, in_the_listener):
        self.dies_after, self.in_the_listener = dies_after, in_the_listener
        self.calls, self.lock = 0, threading.Lock()

    def die_if_it_is_time(self):
        if self.calls >= self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def consume_message(self, msgs, context):
        connection().executemany("INSERT INTO effects VALUES (?)", [(msg.body.decode(),) for msg in msgs])
        with self.lock:
            self.calls += 1
            if self.in_the_listener:
                self.die_if_it_is_time()
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS


def consume(dies_after, in_the_listener):
    effects = Effects(dies_after, in_the_listener)
    inner = idempotent(effects, "msg_id", SqliteTransaction(connection))
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)

    def listen(msgs, context):
        os.write(log, b"x" * len(msgs))
        status = inner.consume_message(msgs, context)
        effects.die_if_it_is_time()  # the effect is committed, nobody has heard of it
        return status

    consumer = DefaultMQPushConsumer(
        group, namesrv_addr=namesrv, consume_thread_min=4, consume_message_batch_max_size=3,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    )
    consumer.subscribe(topic)
    consumer.register_message_listener(MessageListenerConcurrently(listen))
    with consumer:
        pause = threading.Event()
        while connection().execute("SELECT count(DISTINCT name) FROM effects").fetchone()[0] < int(count):
            pause.wait(0.02)


for line in sys.stdin:  # each a process of its own, forked from one that has all the code but no thread
    child = os.fork()
    if child == 0:
        try:
            dies_after, in_the_listener = map(int, line.split())
            consume(dies_after, bool(in_the_listener))
        finally:
            os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.behaviour("ID-08")
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_processes_killed_between_effect_and_acknowledgement_leave_each_effect_once(
    server: Server, send: SendBodies, tmp_path: Path
) -> None:
    topic, group = server.topic(4), server.group()
    bodies = send(topic, KILLS * MESSAGES_PER_KILL, size=0)
    database, log = tmp_path / "effects.db", tmp_path / "deliveries"
    log.touch()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE effects (name TEXT)")
    command = [
        sys.executable, "-c", PARENT, server.namesrv_addr, topic, group, str(database), str(log), str(len(bodies)),
    ]  # fmt: skip
    chance = random.Random(8)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            ends = []
            for number in range(KILLS + 1):
                calls = chance.randrange(1, 4) if number < KILLS else 1 << 30
                parent.stdin.write(f"{calls} {chance.randrange(2)}\n")
                parent.stdin.flush()
                ends.append(parent.stdout.readline().strip())
        finally:
            parent.stdin.close()
            parent.wait(60)
    assert ends == ["9"] * KILLS + ["0"]
    effects = Counter(name for (name,) in connection.execute("SELECT name FROM effects"))
    connection.close()
    assert effects == Counter(body.decode() for body in bodies)
    assert log.stat().st_size > len(bodies), "nothing was delivered again: the test shows nothing"


# The three rules side by side.

MESSAGES = 10_000
FAILING = 100  # one of so many fails at first
BATCH = 64


@pytest.fixture
def gives_64(apache: ApacheCluster) -> Iterator[None]:
    """A broker that gives 64 messages per pull, while this test runs."""
    for count in (BATCH, 32):
        settings = f"maxTransferCountOnMessageInMemory={count}\nmaxTransferCountOnMessageInDisk={count}\n"
        apache.call(apache.broker_addr, 25, body=settings.encode()).checked("settings of the broker")
        if count == BATCH:
            yield


class Handled:
    """Fails at one of a hundred messages when it comes for the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.deliveries: Counter[bytes] = Counter()
        self.done: set[bytes] = set()
        self.sizes: list[int] = []

    def __call__(self, msg: MessageExt) -> bool:
        with self._lock:
            self.deliveries[msg.body] += 1
            well = self.deliveries[msg.body] > 1 or int(msg.body) % FAILING
            if well:
                self.done.add(msg.body)
        return bool(well)

    def note(self, outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            self.sizes.append(len(outcomes))


def consume_all(server: Server, start_consumer: StartConsumer, topic: str, rule: OnFailure, handled: Handled) -> None:
    """Consume a topic in a new group until all of it has succeeded and is committed."""
    group = server.group()
    consumer = start_consumer(
        group, topic, fan_out(handled, BATCH, rule, on_results=handled.note),
        consume_message_batch_max_size=BATCH, pull_batch_size=BATCH, consume_thread_min=4,
    )  # fmt: skip
    eventually(lambda: len(handled.done) == MESSAGES, 120, f"{rule}: all succeed")
    eventually(lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 30, "all committed")
    consumer.shutdown()


@pytest.mark.behaviour("FO-09")
@pytest.mark.parametrize("server", ["apache-broker"], indirect=True)
@pytest.mark.usefixtures("gives_64")
def test_with_each_rule_every_message_succeeds_in_the_end_and_each_repeats_fewest(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic(8)
    bodies = [b"%d" % number for number in range(MESSAGES)]
    for start in range(0, MESSAGES, 500):
        producer.send([Message(topic, body) for body in bodies[start : start + 500]])
    again: dict[str, int] = {}
    for rule in OnFailure:
        handled = Handled()
        consume_all(server, start_consumer, topic, rule, handled)
        assert handled.done == set(bodies)
        assert max(handled.sizes) == BATCH
        again[rule.value] = sum(handled.sizes) - MESSAGES
    _log.info("of %s messages were redelivered: %s", MESSAGES, again)
    assert again["each"] == MESSAGES // FAILING
    assert again["each"] < again["prefix"] < again["batch"]
