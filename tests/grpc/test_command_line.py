from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.grpc.server import GrpcServer

ROOT = Path(__file__).parents[2]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NAMESRV_ADDR": "127.0.0.1:1"}  # set for others
    return subprocess.run(
        [sys.executable, "-m", "rocketmq_py", *args],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment,
    )  # fmt: skip


@pytest.mark.behaviour("GP-08")
def test_messages_are_sent_and_consumed_at_endpoints(server: GrpcServer) -> None:
    sent = run(
        "send", "--endpoints", server.endpoints, "--topic", "topic", "--count", "3", "--batch", "2", "--tags", "A"
    )
    assert (sent.returncode, sent.stdout) == (0, "sent 3 messages to topic\n"), sent.stderr
    server.put("topic", *(message for request in server.requests("SendMessage") for message in request.messages))
    got = run(
        "consume", "--endpoints", server.endpoints, "--topic", "topic", "--group", "group", "--count", "3", "--json",
        "--timeout", "30",
    )  # fmt: skip
    assert got.returncode == 0, got.stderr
    lines = [json.loads(line) for line in got.stdout.splitlines()]
    assert {line["body"].split(".")[0] for line in lines} == {"message 0 ", "message 1 ", "message 2 "}
    assert {line["tags"] for line in lines} == {"A"}
    refused = run("consume", "--endpoints", server.endpoints, "--topic", "topic", "--group", "group", "--broadcast")
    assert refused.returncode == 2
    assert "no broadcasting" in refused.stderr
