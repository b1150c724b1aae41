"""Consumption by gRPC from a real proxy, ours and the official Python client's doing the same work in turn.

20,000 messages of 1 KB wait in 8 queues. Every round is a process of its own with a new group, and the two take turns,
so that a machine that drifts favours neither. Medians are compared, and the processor time per message of the client.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apache.cluster import BENCHMARK, ApacheCluster
from tests.apache.fixtures import require_java

MESSAGES = 20_000
BODY_BYTES = 1_024
LOOPS = 16
ROUNDS = int(os.environ.get("ROCKETMQ_PY_BENCH_ROUNDS", "5"))
TOPIC = "bench"
PEERS = Path(__file__).parent / "peers"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApacheCluster]:
    require_java()
    with ApacheCluster(proxy=True, profile=BENCHMARK) as cluster:
        cluster.create_topic(TOPIC, 8)
        cluster.java("PeerProduce", cluster.namesrv_addr, TOPIC, str(MESSAGES), str(BODY_BYTES))
        yield cluster


def run(program: str, home: Path, *args: str) -> dict[str, Any]:
    command = [sys.executable, str(PEERS / program), *args]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(PEERS.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout, done.stderr
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def test_four_times_as_fast_as_the_official_python_client_at_less_than_half_its_cost(
    cluster: ApacheCluster, tmp_path: Path
) -> None:
    mine, theirs = [], []
    for number in range(ROUNDS):
        group = f"bench-{number}-{time.time_ns()}"
        address = cluster.proxy_grpc_addr
        for name in (f"{group}-ours", f"{group}-official"):
            cluster.create_group(name)
        mine.append(run("grpc_consume.py", tmp_path, address, TOPIC, f"{group}-ours", str(MESSAGES), str(LOOPS)))
        theirs.append(run("grpc_consume_official.py", tmp_path, address, TOPIC, f"{group}-official", str(MESSAGES)))
        assert mine[-1]["complete"], mine[-1]
        assert theirs[-1]["complete"], theirs[-1]
    rate, official_rate = (statistics.median(row["per_second"] for row in rows) for rows in (mine, theirs))
    cost, official_cost = (statistics.median(row["cpu_us_per_message"] for row in rows) for rows in (mine, theirs))
    print(
        f"\nproxy, gRPC port, {LOOPS} receives, {ROUNDS} rounds in turn: "
        f"rocketmq_py {rate:,.0f}/s at {cost:,.0f} us of processor time per message, "
        f"official client {official_rate:,.0f}/s at {official_cost:,.0f} us"
    )
    assert rate >= 4 * official_rate
    assert cost < official_cost / 2
