"""The embedded broker's memory: with a million stored messages, and with a thousand long polls that wait."""

from __future__ import annotations

import os
import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.administration import Wire
from tests.embedded import EmbeddedProcess

TOPIC = "bench"
QUEUES = 8
BODY_BYTES = 100
MESSAGES = int(os.environ.get("ROCKETMQ_PY_BENCH_MESSAGES", "1000000"))
BATCH = 1_000
POLLS = 1_000
CONNECTIONS = 100
MIB = 1024 * 1024


def rss_bytes(broker: EmbeddedProcess) -> int:
    """What of the broker's process is in memory."""
    assert broker.process is not None
    status = Path(f"/proc/{broker.process.pid}/status").read_text()
    (kib,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(kib) * 1024


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProcess]:
    """A broker that has been sent so many messages and was started again."""
    with EmbeddedProcess(tmp_path_factory.mktemp("broker") / "data") as broker:
        broker.create_topic(TOPIC, QUEUES)
        part = struct.pack(">iiiii", 20 + BODY_BYTES + 2, 0, 0, 0, BODY_BYTES) + b"x" * BODY_BYTES + b"\0\0"
        with Wire(broker.broker_addr) as wire:
            start = time.perf_counter()
            for number in range(MESSAGES // BATCH):
                fields: dict[str, Any] = {
                    "a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": number % QUEUES, "f": 0, "g": 1, "h": 0, "i": "",
                    "j": 0, "m": "true",
                }  # fmt: skip
                wire.call(320, fields, part * BATCH).checked("batch")
            seconds = time.perf_counter() - start
        print(f"\n{MESSAGES:,} messages of {BODY_BYTES} bytes in batches of {BATCH}: {MESSAGES / seconds:,.0f}/s")
        print(f"memory after sending: {rss_bytes(broker) / MIB:.0f} MiB")
        assert broker.stop() == 0
        broker.start()
        yield broker


def test_it_is_ready_in_a_second_on_a_million_stored_messages(filled: EmbeddedProcess) -> None:
    seconds = []
    for _ in range(5):
        assert filled.stop() == 0
        start = time.perf_counter()
        filled.start()
        seconds.append(time.perf_counter() - start)
    print(f"\nready on {MESSAGES:,} messages after {min(seconds):.2f} - {max(seconds):.2f} s")
    assert statistics.median(seconds) < 1


def test_a_million_stored_messages_are_not_in_memory(filled: EmbeddedProcess) -> None:
    size = (filled.directory / "store.db").stat().st_size
    before = rss_bytes(filled)
    fields = {
        "consumerGroup": "group", "topic": TOPIC, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
        "suspendTimeoutMillis": 0, "subscription": "*", "subVersion": 0,
    }  # fmt: skip
    with Wire(filled.broker_addr) as wire:
        start = time.perf_counter()
        for queue_id in range(QUEUES):
            offset = 0
            while True:
                answer = wire.call(11, {**fields, "queueId": queue_id, "queueOffset": offset})
                if answer.code:
                    break
                offset = int(answer.ext["nextBeginOffset"])
        seconds = time.perf_counter() - start
    after = rss_bytes(filled)
    print(
        f"\nstore {size / MIB:.0f} MiB; memory after the start {before / MIB:.0f} MiB, after reading everything once "
        f"({MESSAGES / seconds:,.0f}/s, one pull at a time) {after / MIB:.0f} MiB"
    )
    assert before < 100 * MIB
    assert after < 150 * MIB


def test_a_thousand_long_polls_that_wait_cost_little_each(filled: EmbeddedProcess) -> None:
    before = rss_bytes(filled)
    with ExitStack() as opened:
        ends = filled.max_offsets(TOPIC)
        wires = [opened.enter_context(Wire(filled.broker_addr)) for _ in range(CONNECTIONS)]
        for number in range(POLLS):
            fields = {
                "consumerGroup": "polls", "topic": TOPIC, "queueId": number % QUEUES,
                "queueOffset": ends[number % QUEUES],
                "maxMsgNums": 32, "sysFlag": 6, "commitOffset": 0, "suspendTimeoutMillis": 60_000, "subscription": "*",
                "subVersion": 0,
            }  # fmt: skip
            wires[number % CONNECTIONS].begin(11, fields)
        time.sleep(25)  # the buffers of silent connections are given back
        waiting = rss_bytes(filled)
    each = (waiting - before) / POLLS / 1024
    print(f"\n{POLLS:,} long polls on {CONNECTIONS} connections: {each:.1f} KiB each, {waiting / MIB:.0f} MiB in all")
    assert waiting - before < POLLS * 32 * 1024
