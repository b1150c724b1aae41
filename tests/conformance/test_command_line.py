"""``rocketmq-py send`` and ``consume`` as a person or a script uses them."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conformance.collector import eventually
from tests.conformance.servers import Server


def rocketmq_py(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "rocketmq_py", *args], input=stdin, capture_output=True, timeout=90)


def consume(server: Server, topic: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    return rocketmq_py(
        "consume",
        "--namesrv",
        server.namesrv_addr,
        "--topic",
        topic,
        "--group",
        server.group(),
        "--from",
        "first",
        *args,
    )


def test_what_send_sends_consume_prints_as_json(server: Server) -> None:
    topic = server.topic()
    lines = ["first", "zweite ü", "", "third"]
    sent = rocketmq_py(
        "send", "--namesrv", server.namesrv_addr, "--topic", topic, "--tags", "T", "--keys", "k", "-",
        stdin="\n".join(lines).encode(),
    )  # fmt: skip
    assert (sent.returncode, sent.stdout) == (0, f"sent 3 messages to {topic}\n".encode())
    got = consume(server, topic, "--count", "3", "--timeout", "60", "--json")
    assert got.returncode == 0, got.stderr
    messages = [json.loads(line) for line in got.stdout.splitlines()]
    assert {message["body"] for message in messages} == {"first", "zweite ü", "third"}
    keys = "topic queue_id queue_offset msg_id keys tags reconsume_times born_timestamp body"
    assert all(list(message) == keys.split() for message in messages)
    assert {(message["topic"], message["tags"], message["keys"]) for message in messages} == {(topic, "T", "k")}


def test_consume_orderly_prints_each_queue_in_order_and_leaves_what_is_beyond_the_count_to_the_next(
    server: Server,
) -> None:
    topic = server.topic(queues=2)
    rocketmq_py("send", "--namesrv", server.namesrv_addr, "--topic", topic, "--count", "40", "--size", "20")
    group = server.group()
    args = [
        "consume",
        "--namesrv",
        server.namesrv_addr,
        "--topic",
        topic,
        "--group",
        group,
        "--orderly",
        "--from",
        "first",
    ]
    printed: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(2):
        got = rocketmq_py(*args, "--count", "20", "--timeout", "80", "--json")
        assert got.returncode == 0, got.stderr
        for line in got.stdout.splitlines():
            message = json.loads(line)
            printed[message["queue_id"]].append(message["queue_offset"])
    assert printed == {queue: list(range(len(offsets))) for queue, offsets in printed.items()}
    assert sum(map(len, printed.values())) == 40


def test_generated_messages_are_sent_in_batches(server: Server) -> None:
    topic = server.topic()
    sent = rocketmq_py(
        "send", "--namesrv", server.namesrv_addr, "--topic", topic, "--count", "130", "--size", "500", "--batch", "64"
    )
    assert sent.returncode == 0, sent.stderr
    eventually(lambda: sum(server.max_offsets(topic).values()) == 130, 10, "130 messages")


def test_consume_ends_with_one_when_the_time_is_over(server: Server) -> None:
    got = consume(server, server.topic(), "--count", "1", "--timeout", "1")
    assert (got.returncode, got.stdout) == (1, b"")


def test_wrong_use_is_one_line_and_exit_code_two(server: Server) -> None:
    got = rocketmq_py("consume", "--namesrv", "nonsense", "--topic", "t", "--group", "g")
    assert (got.returncode, got.stderr) == (
        2,
        b"error: the address 'nonsense' is not of the form host:port or [IPv6]:port\n",
    )
