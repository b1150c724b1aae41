"""What it costs to keep statuses of messages: durable sends, and our consumer, with and without, in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.embedded import EmbeddedProcess

TOPIC = "bench"
QUEUES = 8
BODY_BYTES = 1_000
PRODUCERS = 32
SECONDS = 5
ROUNDS = int(os.environ.get("ROCKETMQ_PY_BENCH_ROUNDS", "5"))

Brokers = dict[str, EmbeddedProcess]


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    directory: Path = tmp_path_factory.mktemp("brokers")
    with (
        EmbeddedProcess(directory / "without") as without,
        EmbeddedProcess(directory / "with", "--message-status") as kept,
    ):
        for broker in (without, kept):
            broker.create_topic(TOPIC, QUEUES)
        yield {"without": without, "with": kept}


def _send(broker: EmbeddedProcess, batch: int) -> float:
    arguments = [broker.broker_addr, TOPIC, *map(str, (QUEUES, PRODUCERS, batch, BODY_BYTES, SECONDS))]
    command = [sys.executable, "-m", "benchmarks.peers.send_load", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 60)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["per_second"])


def _consume(broker: EmbeddedProcess, group: str, count: int, batch: int) -> float:
    command = [sys.executable, "benchmarks/peers/consume.py", broker.namesrv_addr, TOPIC, group, str(count), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout.splitlines()[-1])["per_second"])


def _tell(what: str, rates: dict[str, list[float]]) -> float:
    medians = {name: statistics.median(each) for name, each in rates.items()}
    for name, each in rates.items():
        print(f"\n{what}, {name}: median {medians[name]:,.0f} messages/s ({min(each):,.0f} - {max(each):,.0f})")
    return medians["with"] / medians["without"]


@pytest.mark.parametrize("batch", [1, 32])
def test_durable_sends_keep_nine_tenths_of_their_speed(brokers: Brokers, batch: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in brokers}
    for _ in range(ROUNDS):
        for name, broker in brokers.items():
            rates[name].append(_send(broker, batch))
    assert _tell(f"{PRODUCERS} producers, batches of {batch}", rates) >= 0.9


@pytest.mark.parametrize(("batch", "kept"), [(1, 0.75), (32, 0.6)])
def test_our_consumer_keeps_most_of_its_speed(brokers: Brokers, batch: int, kept: float) -> None:
    for broker in brokers.values():
        while sum(broker.max_offsets(TOPIC).values()) < 200_000:
            _send(broker, 32)
    count = min(sum(broker.max_offsets(TOPIC).values()) for broker in brokers.values())
    rates: dict[str, list[float]] = {name: [] for name in brokers}
    for number in range(ROUNDS):
        for name, broker in brokers.items():
            rates[name].append(_consume(broker, f"group-{batch}-{number}", count, batch))
    assert _tell(f"{count:,} messages, listener batch {batch}", rates) >= kept
