"""``rocketmq-py send`` and ``consume`` when output, input or the user are not as they should be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from rocketmq_py import DefaultMQProducer, Message
from tests.embedded import EmbeddedProcess

COMMAND = [sys.executable, "-m", "rocketmq_py"]


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedProcess]:
    with EmbeddedProcess() as process:
        yield process


def consume_command(broker: EmbeddedProcess, topic: str, *options: str) -> list[str]:
    return [
        *COMMAND, "consume", "--namesrv", broker.namesrv_addr, "--topic", topic, "--group", f"group-{topic}",
        "--from", "first", *options,
    ]  # fmt: skip


def filled(broker: EmbeddedProcess, *bodies: bytes) -> str:
    """A topic with these messages in one queue."""
    topic = f"topic-{uuid.uuid4().hex[:12]}"
    broker.create_topic(topic, queues=1)
    with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
        for body in bodies:
            producer.send(Message(topic, body))
    return topic


@pytest.mark.behaviour("CM-01")
def test_what_cannot_be_written_is_said_in_one_line_and_not_acknowledged(broker: EmbeddedProcess) -> None:
    topic = filled(broker, b"one", b"two")
    with open("/dev/full", "wb") as full:
        command = consume_command(broker, topic, "--count", "2", "--timeout", "20")
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode() == "error: cannot write: No space left on device\n"
    again = subprocess.run(
        consume_command(broker, topic, "--count", "2", "--timeout", "60"), capture_output=True, timeout=90
    )
    assert sorted(line.split()[-1] for line in again.stdout.splitlines()) == [b"one", b"two"]


@pytest.mark.behaviour("CM-01")
def test_a_reader_that_has_gone_ends_it_without_a_word(broker: EmbeddedProcess) -> None:
    topic = filled(broker, *[b"%d" % number for number in range(50)])
    reader, writer = os.pipe()
    with subprocess.Popen(consume_command(broker, topic), stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, b"")


@pytest.mark.behaviour("CM-01")
def test_a_body_neither_steers_the_terminal_nor_looks_like_two_messages(broker: EmbeddedProcess) -> None:
    topic = filled(broker, b"\x1b[31mred\nsecond line", "größe".encode())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = consume_command(broker, topic, "--count", "2", "--timeout", "60")
    done = subprocess.run(command, capture_output=True, timeout=90, env=environment)
    assert done.returncode == 0, done.stderr
    bodies = sorted(line.split(b" ", 4)[-1] for line in done.stdout.splitlines())
    assert bodies == [rb"\x1b[31mred\x0asecond line", "größe".encode()]


@pytest.mark.behaviour("CM-01")
def test_a_burst_of_signals_ends_it_all_the_same(broker: EmbeddedProcess) -> None:
    topic = filled(broker, b"one")
    with subprocess.Popen(consume_command(broker, topic), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"one" in process.stdout.readline()
        for number in range(20):
            process.send_signal(signal.SIGINT if number % 2 else signal.SIGTERM)
        process.communicate(timeout=30)  # a hang would be the error


@pytest.mark.behaviour("CM-01")
def test_json_tells_bodies_that_are_no_text(broker: EmbeddedProcess) -> None:
    topic = filled(broker, b"\xff\xfe")
    command = consume_command(broker, topic, "--count", "1", "--timeout", "60", "--json")
    done = subprocess.run(command, capture_output=True, timeout=90)
    assert json.loads(done.stdout)["body_base64"] == "//4="


@pytest.mark.behaviour("CM-01")
def test_a_send_that_is_interrupted_says_how_far_it_came(broker: EmbeddedProcess) -> None:
    topic = filled(broker)
    command = [*COMMAND, "send", "--namesrv", broker.namesrv_addr, "--topic", topic, "--count", "100000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while not sum(broker.max_offsets(topic).values()):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()  # where Ctrl-C is ignored the wait for its end would have no bound
    words = errors.decode().split()
    assert (process.returncode, output, words[:2]) == (1, b"", ["error:", "interrupted:"])
    assert 0 <= sum(broker.max_offsets(topic).values()) - int(words[2]) <= 1


@pytest.mark.behaviour("CM-01")
@pytest.mark.parametrize("arguments", [["--timeout", "1e12"], ["--timeout", "-1"], ["--from", "yesterday"]])
def test_a_value_that_cannot_be_is_wrong_use(broker: EmbeddedProcess, arguments: list[str]) -> None:
    done = subprocess.run(consume_command(broker, "topic", *arguments), capture_output=True, timeout=30, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.behaviour("CM-01")
def test_it_tells_its_version() -> None:
    from rocketmq_py import __version__

    done = subprocess.run([*COMMAND, "--version"], capture_output=True, timeout=30, text=True)
    assert done.stdout == f"rocketmq_py {__version__}\n"
