"""The same contexts into upstream's TraceDataEncoder and ours: every byte and every key must be the same."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator

import pytest

from rocketmq_py.model.producer_hooks import MessageType
from rocketmq_py.model.results import LocalTransactionState
from rocketmq_py.trace.trace_context import TraceBean, TraceContext, TraceType
from rocketmq_py.trace.trace_data_encoder import encode_records
from tests.apache.jars import program_command
from tests.java.process_queue_java import JavaProcessQueue

CONTEXTS = 100_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 2_000

TEXTS = ("", "a", "region", "Größe", "消息", "\U0001f600", "with space", "null", "x" * 300)
KEYS = (None, "", "k", "k1 k2", "k1 k1", "消息 k", "id0", " k", "k1  k2", "k ", "a\tb")
NUMBERS = (0, 1, 16, 2**31 - 1)
CONSUMED = (TraceType.SUB_BEFORE, TraceType.SUB_AFTER)
TIMESTAMPS = (0, 1_700_000_000_000, 2**62)


class JavaTraceDataEncoder(JavaProcessQueue):
    """Runs commands on upstream's TraceDataEncoder, in the same way."""

    def __init__(self) -> None:
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command = program_command("TraceDataDriver", options=options)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def java_encoder(java: None) -> Iterator[JavaTraceDataEncoder]:
    with JavaTraceDataEncoder() as encoder:
        yield encoder


def random_context(rng: random.Random) -> TraceContext:
    kind = rng.choice(list(TraceType))
    beans = [
        TraceBean(
            rng.choice(TEXTS), rng.choice(TEXTS) or f"id{number}", rng.choice(KEYS), rng.choice(NUMBERS),
            rng.choice((None, *TEXTS)), rng.choice((None, "10.0.0.1:10911", "[::1]:10911")), rng.choice(NUMBERS),
            rng.choice(TEXTS), rng.choice(list(MessageType)), rng.choice((None, *TEXTS)),
            rng.choice(list(LocalTransactionState)), rng.random() < 0.5,
        )
        for number in range(rng.randint(1, 4) if kind in CONSUMED else 1)
    ]  # fmt: skip
    return TraceContext(
        kind, rng.choice(TIMESTAMPS), rng.choice((None, *TEXTS)), rng.choice(TEXTS),
        rng.choice(TEXTS), beans, rng.choice(NUMBERS), rng.random() < 0.5, rng.randrange(5),
    )  # fmt: skip


def command(context: TraceContext) -> str:
    common = (context.timestamp, _hex(context.region_id), _hex(context.group_name), _hex(context.request_id))
    after = (context.cost_time, str(context.success).lower(), context.context_code)
    words: tuple[object, ...] = (context.trace_type.value, *common, *after)
    for bean in context.trace_beans:
        words += (
            _hex(bean.msg_id), bean.retry_times, _hex(bean.keys), _hex(bean.topic), _hex(bean.tags),
            _hex(bean.store_host), bean.body_length, _hex(bean.offset_msg_id), bean.msg_type.name,
            _hex(bean.transaction_id), bean.transaction_state.value, str(bean.from_transaction_check).lower(),
        )  # fmt: skip
    return " ".join(map(str, words))


def ours(context: TraceContext) -> str:
    records = list(encode_records(context))
    data = "".join(record.data for record in records)
    keys = {key for record in records for key in record.keys}
    return " ".join([_hex(data), *(_hex(key) for key in sorted(keys, key=lambda key: key.encode("utf-16-be")))])


def _hex(text: str | None) -> str:
    return "null" if text is None else f"x{text.encode().hex()}"


@pytest.mark.behaviour("TR-01")
def test_records_are_those_of_upstream_byte_by_byte(java_encoder: JavaTraceDataEncoder) -> None:
    rng = random.Random(20_260_101)
    for start in range(0, CONTEXTS, 500):
        contexts = [random_context(rng) for _ in range(min(500, CONTEXTS - start))]
        answers = java_encoder.run([command(context) for context in contexts])
        for context, answer in zip(contexts, answers, strict=True):
            assert ours(context) == answer, context
