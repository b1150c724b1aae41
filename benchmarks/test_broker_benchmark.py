"""The embedded broker: durable sends, batches, our consumer on it. The disk's own sync time is printed beside them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
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


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProcess]:
    with EmbeddedProcess(tmp_path_factory.mktemp("broker") / "data") as broker:
        broker.create_topic(TOPIC, QUEUES)
        print(f"\nsync of 4 KiB on this disk: median {_sync_ms(broker.directory):.2f} ms")
        yield broker


def _sync_ms(directory: Path) -> float:
    times = []
    with (directory / "sync").open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 4_096)
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1_000


def _sent_per_second(broker: EmbeddedProcess, batch: int) -> float:
    rates = []
    for _ in range(ROUNDS):
        arguments = [broker.broker_addr, TOPIC, *map(str, (QUEUES, PRODUCERS, batch, BODY_BYTES, SECONDS))]
        command = [sys.executable, "-m", "benchmarks.peers.send_load", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 60)
        assert done.returncode == 0, done.stderr
        rates.append(float(json.loads(done.stdout)["per_second"]))
    print(
        f"\n{PRODUCERS} producers, batches of {batch}, durable: median {statistics.median(rates):,.0f} messages/s "
        f"({min(rates):,.0f} - {max(rates):,.0f})"
    )
    return statistics.median(rates)


def test_32_producers_store_8000_messages_a_second_each_answered_from_the_disk(broker: EmbeddedProcess) -> None:
    assert _sent_per_second(broker, 1) >= 8_000


def test_32_producers_store_40000_messages_a_second_in_batches_of_32(broker: EmbeddedProcess) -> None:
    assert _sent_per_second(broker, 32) >= 40_000


@pytest.mark.parametrize("batch", [1, 32])
def test_our_consumer_gets_60000_messages_a_second_from_it(broker: EmbeddedProcess, batch: int) -> None:
    if sum(broker.max_offsets(TOPIC).values()) < 200_000:
        _sent_per_second(broker, 32)
    count = sum(broker.max_offsets(TOPIC).values())
    rates = []
    for number in range(ROUNDS):
        command = [sys.executable, "benchmarks/peers/consume.py", broker.namesrv_addr, TOPIC, f"group-{batch}-{number}"]
        done = subprocess.run([*command, str(count), str(batch)], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        rates.append(float(json.loads(done.stdout.splitlines()[-1])["per_second"]))
    print(
        f"\n{count:,} messages of {BODY_BYTES} bytes, listener batch {batch}: median {statistics.median(rates):,.0f}/s "
        f"({min(rates):,.0f} - {max(rates):,.0f})"
    )
    assert statistics.median(rates) >= 60_000


@pytest.mark.parametrize("_", range(ROUNDS))
def test_it_is_ready_in_half_a_second(tmp_path: Path, _: int) -> None:
    broker = EmbeddedProcess(tmp_path / "data")
    start = time.perf_counter()
    with broker:
        seconds = time.perf_counter() - start
    print(f"\nready after {seconds:.3f} s")
    assert seconds < 0.5
