"""Consumption end to end from a real broker, ours and Java's or Go's push consumer doing the same work in turn.

200,000 messages of 1 KB wait in 8 queues. Every round is a process of its own with a new group, the others with their
default settings, and the two clients take turns, so that a machine that drifts favours neither. Medians are compared.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    MessageListenerConcurrently,
)
from rocketmq_py.model.results import Messages
from tests.apache.cluster import BENCHMARK, ApacheCluster
from tests.apache.fixtures import require_java
from tests.apache.go_programs import go_program
from tests.apache.jars import program_command

MESSAGES = 200_000
JAVA_TIMEOUT_S = 60
"""Through a proxy Java loses replies and waits 30 s for each: what it made in this time is its rate there."""
BODY_BYTES = 1_024
ROUNDS = int(os.environ.get("ROCKETMQ_PY_BENCH_ROUNDS", "5"))
TOPIC = "bench"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApacheCluster]:
    require_java()
    with ApacheCluster(proxy=True, profile=BENCHMARK) as cluster:
        cluster.create_topic(TOPIC, 8)
        cluster.java("PeerProduce", cluster.namesrv_addr, TOPIC, str(MESSAGES), str(BODY_BYTES))
        yield cluster


def ours(namesrv: str, group: str, batch: int) -> float:
    """Messages per second; every message must have come."""
    command = [sys.executable, "benchmarks/peers/consume.py", namesrv, TOPIC, group, str(MESSAGES), str(batch)]
    row = _run(command)
    assert row["complete"], row
    return float(row["per_second"])


Peer = Callable[[str, str, int], float]


def javas(namesrv: str, group: str, batch: int) -> float:
    """Messages per second until all had come or the time was over."""
    pull_batch, queue_threshold = "32", "1000"  # its defaults
    return float(
        _run(
            program_command(
                "PeerConsume", namesrv, TOPIC, group, str(MESSAGES), "concurrently", str(batch),
                pull_batch, queue_threshold, str(JAVA_TIMEOUT_S),
            )
        )["per_second"]
    )  # fmt: skip


def gos(program: Path) -> Peer:
    """The same of the Go client."""

    def run(namesrv: str, group: str, batch: int) -> float:
        command = [str(program), namesrv, TOPIC, group, str(MESSAGES), str(batch), str(JAVA_TIMEOUT_S)]
        return float(_run(command)["per_second"])

    return run


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=JAVA_TIMEOUT_S + 90)
    assert done.stdout, done.stderr
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def compare(
    cluster: ApacheCluster, namesrv: str, batch: int, what: str, peer: str = "Java", run: Peer = javas
) -> float:
    """Medians of both, printed; returns ours over the other's."""
    mine, theirs = [], []
    for number in range(ROUNDS):
        group = f"bench-{batch}-{number}-{time.time_ns()}"
        mine.append(ours(namesrv, f"{group}-py", batch))
        committed = cluster.committed_offsets(f"{group}-py", TOPIC)
        assert committed == cluster.max_offsets(TOPIC), "committed offsets are not the ends of the queues"
        theirs.append(run(namesrv, f"{group}-{peer}", batch))
    ratio = statistics.median(mine) / statistics.median(theirs)
    print(
        f"\n{what}, listener batch {batch}, {ROUNDS} rounds in turn: "
        f"rocketmq_py {statistics.median(mine):,.0f}/s ({min(mine):,.0f} - {max(mine):,.0f}), "
        f"{peer} {statistics.median(theirs):,.0f}/s ({min(theirs):,.0f} - {max(theirs):,.0f}), ratio {ratio:.2f}"
    )
    return ratio


@pytest.mark.parametrize("batch", [1, 32])
def test_from_the_broker_at_least_as_fast_as_java(cluster: ApacheCluster, batch: int) -> None:
    assert compare(cluster, cluster.namesrv_addr, batch, "broker") >= 1


@pytest.mark.parametrize("batch", [1, 32])
def test_from_the_broker_not_much_slower_than_go_which_has_both_cores(
    cluster: ApacheCluster, batch: int, tmp_path: Path
) -> None:
    program = go_program("./peer", tmp_path)
    assert compare(cluster, cluster.namesrv_addr, batch, "broker", "Go", gos(program)) >= 0.65


@pytest.mark.parametrize("batch", [1, 32])
def test_through_the_proxy_at_least_twenty_times_as_fast_as_java(cluster: ApacheCluster, batch: int) -> None:
    assert compare(cluster, cluster.proxy_remoting_addr, batch, "proxy, remoting port") >= 20


class _Timed(MessageListenerConcurrently):
    """Takes 0.1 s per call and notes when each began and ended."""

    def __init__(self, takes_s: float, wanted: int) -> None:
        self.takes_s = takes_s
        self.wanted = wanted
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.done = threading.Event()

    def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        self.begun.append(time.perf_counter())
        time.sleep(self.takes_s)
        self.ended.append(time.perf_counter())
        if len(self.ended) == self.wanted:
            self.done.set()
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS


def _consumer(cluster: ApacheCluster, topic: str, listener: MessageListenerConcurrently) -> DefaultMQPushConsumer:
    consumer = DefaultMQPushConsumer(f"group-{time.time_ns()}", namesrv_addr=cluster.namesrv_addr)
    consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer.subscribe(topic)
    consumer.register_message_listener(listener)
    return consumer


def _filled_topic(cluster: ApacheCluster, queues: int, count: int) -> str:
    topic = f"bench-{time.time_ns()}"
    cluster.create_topic(topic, queues)
    with DefaultMQProducer("bench", namesrv_addr=cluster.namesrv_addr) as producer:
        producer.send([Message(topic, b"x") for _ in range(count)])
    return topic


def test_the_messages_of_one_pull_are_consumed_side_by_side(cluster: ApacheCluster) -> None:
    """32 messages, 20 threads, 0.1 s each: two rounds of threads, so 0.2 s and a little."""
    seconds = []
    for _ in range(ROUNDS):
        timed = _Timed(0.1, 32)
        with _consumer(cluster, _filled_topic(cluster, 1, 32), timed):
            assert timed.done.wait(30)
        seconds.append(max(timed.ended) - min(timed.begun))
    print(f"\n32 messages of one pull, 20 threads, listener 0.1 s: {statistics.median(seconds):.3f} s")
    assert statistics.median(seconds) < 0.3


def test_the_first_message_comes_within_200_ms_of_start(cluster: ApacheCluster) -> None:
    """A new group's only member on a topic with messages waiting; Java needs 1.7 s."""
    waits = []
    for _ in range(ROUNDS):
        timed = _Timed(0, 1)
        consumer = _consumer(cluster, _filled_topic(cluster, 8, 100), timed)
        begin = time.perf_counter()
        with consumer:
            assert timed.done.wait(30)
        waits.append((min(timed.begun) - begin) * 1000)
    print(f"\nfirst message after start: median {statistics.median(waits):.0f} ms, max {max(waits):.0f} ms")
    assert statistics.median(waits) < 200
