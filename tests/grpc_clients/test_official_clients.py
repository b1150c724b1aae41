"""The official gRPC clients, in Python and in Java, against the embedded broker.

Each is one program that does everything at the same time (``python_client.py``, ``tests/java/GrpcClient.java``) and
tells what it saw; the tests look at that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from tests.administration import Administration
from tests.apache.fixtures import require_java
from tests.apache.jars import ROOT, compile_java, grpc_client_classpath, java_command

TYPES = {"normal": None, "simple": None, "fifo": "FIFO", "delay": "DELAY", "transaction": "TRANSACTION"}
TIMEOUT_S = 150

CHECK_INTERVAL_MS = 1_000

PYTHON_PROGRAM = Path(__file__).with_name("python_client.py")
JAVA_PROGRAM = ROOT / "tests" / "java" / "GrpcClient.java"
JAVA_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Broker(Administration):
    """A broker of this process, which asks producers about their transactions after a second."""

    def __init__(self, directory: Path) -> None:
        self.broker = EmbeddedBroker(
            directory,
            grpc_port=0,
            transaction_time_out=CHECK_INTERVAL_MS,
            transaction_check_interval=CHECK_INTERVAL_MS,
        )

    @property
    def namesrv_addr(self) -> str:
        return self.broker.namesrv_addr

    @property
    def broker_addr(self) -> str:
        return self.broker.broker_addr

    def prepare(self, prefix: str) -> None:
        for kind, message_type in TYPES.items():
            self.create_topic(f"{prefix}-{kind}", queues=2, message_type=message_type)
            is_fifo = kind == "fifo"
            self.create_group(f"{prefix}-{kind}-group", retry_max_times=1 if is_fifo else 16, orderly=is_fifo)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("data"))
    with made.broker:
        yield made


def command(client: str, endpoints: str, home: Path) -> list[str]:
    if client == "python":
        return [sys.executable, str(PYTHON_PROGRAM), endpoints, client]
    require_java()
    class_path = compile_java([JAVA_PROGRAM], grpc_client_classpath())
    options = [*JAVA_OPTIONS, f"-Duser.home={home}"]
    return java_command(class_path, "GrpcClient", endpoints, client, options=options)


class Told:
    """What a client told."""

    def __init__(self, client: str, lines: list[list[Any]]) -> None:
        self.client = client
        self._lines = lines

    def of(self, what: str) -> list[list[Any]]:
        """The rest of the lines that begin so, in order."""
        return [words for head, *words in self._lines if head == what]


@pytest.fixture(scope="module", params=["python", pytest.param("java", marks=pytest.mark.apache)])
def told(broker: Broker, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One run of the client."""
    client: str = request.param
    broker.prepare(client)
    home = tmp_path_factory.mktemp("home")  # where the clients write their logs
    done = subprocess.run(
        command(client, str(broker.broker.grpc_addr), home), env={**os.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert lines, done.stderr
    assert lines[-1] == ["done"], done.stdout + done.stderr
    return Told(client, lines)


@pytest.mark.behaviour("GS-33")
def test_everything_went_without_an_error(told: Told) -> None:
    assert told.of("error") == []


@pytest.mark.behaviour("GS-33")
def test_a_push_consumer_gets_what_it_subscribed_to_and_again_what_failed(told: Told) -> None:
    messages = told.of("normal")
    expected = sorted("3 fails" if number == 3 else str(number) for number in range(20) if number % 4)
    assert sorted(body for body, attempt, *_ in messages if attempt == 1) == expected
    assert [body for body, attempt, *_ in messages if attempt == 2] == ["3 fails"]
    assert {json.dumps(rest) for _, _, *rest in messages} == {json.dumps(["TagA", ["key"], {"colour": "red"}, None])}


@pytest.mark.behaviour("GS-34")
def test_a_simple_consumer_acknowledges_and_puts_off(told: Told) -> None:
    assert sorted(told.of("simple")) == [["acked", 1], ["nacked", 1], ["nacked", 2]]
    assert told.of("simple-ended") == [[["acked", "nacked", "nacked"]]]


@pytest.mark.behaviour("GS-35")
def test_message_groups_keep_their_order_though_one_message_fails(told: Told, broker: Broker) -> None:
    messages = told.of("fifo")
    for number in (0, 1):
        group = [body for body, *_, message_group in messages if message_group == f"group{number}"]
        numbers = [int(body.split()[0]) for body in dict.fromkeys(group)]
        assert numbers == list(range(number, 12, 2))
    assert [body for body, *_ in messages].count("5 fails") == 2
    assert [body for body, *_ in messages].count("6 always-fails") == 2
    assert broker.max_offsets(f"%DLQ%{told.client}-fifo-group") == {0: 1}, "then it is a dead letter"


@pytest.mark.behaviour("GS-31")
def test_a_delayed_message_comes_at_its_moment_and_one_that_was_recalled_does_not(told: Told) -> None:
    assert [body for body, *_ in told.of("delay")] == ["delayed"]
    ((late_ms,),) = told.of("delay-ms")
    assert -100 <= late_ms < 20_000


@pytest.mark.behaviour("GS-36")
def test_a_transaction_ends_as_its_producer_says_now_or_when_it_is_asked(told: Told) -> None:
    assert sorted(body for body, *_ in told.of("transaction")) == ["committed", "left open"]
    assert told.of("checked") == [["left open"]]
