"""Fan-out: what it costs per message when handlers do nothing, and what it gains when each waits 10 ms.

The second part also prints the rate of the setting in the documentation, which its pull interval of 500 ms bounds.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    MessageExt,
    MessageListenerConcurrently,
    MessageQueue,
)
from rocketmq_py.batch import FanOut, fan_out
from rocketmq_py.idempotence import MemoryStore, idempotent
from rocketmq_py.model.results import Messages
from tests.embedded import EmbeddedProcess

ROUNDS = int(os.environ.get("ROCKETMQ_PY_BENCH_ROUNDS", "5"))
BATCH = 64
BATCHES = 200
QUEUES = 8
HANDLER_S = 0.01


def us_per_message(listener: MessageListenerConcurrently) -> float:
    """Median over rounds, batches of 64 one after the other."""
    queue = MessageQueue("topic", "broker", 0)
    batch = [MessageExt(topic="topic", queue_offset=offset, keys=f"{offset}") for offset in range(BATCH)]
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for _ in range(BATCHES):
            listener.consume_message(batch, ConsumeConcurrentlyContext(queue))
        times.append((time.perf_counter() - start) / (BATCHES * BATCH) * 1e6)
    return statistics.median(times[1:])


def nothing(msg: MessageExt) -> None:
    """A handler that does nothing."""


@pytest.mark.parametrize("rule", ["batch", "prefix", "each"])
def test_fan_out_costs_less_than_20_us_per_message(rule: str) -> None:
    fan = fan_out(nothing, 64, rule)
    try:
        cost = us_per_message(fan)
    finally:
        fan.shutdown()
    print(f"\nfan-out, {rule}, pool of its own: {cost:.2f} us per message")
    assert cost < 20


def test_what_an_executor_and_idempotence_cost_is_printed_beside_it() -> None:
    with ThreadPoolExecutor(64) as executor:
        print(f"\nfan-out, an executor of 64 threads: {us_per_message(fan_out(nothing, executor)):.2f} us per message")
    done = MessageListenerConcurrently(lambda msgs, context: ConsumeConcurrentlyStatus.CONSUME_SUCCESS)
    listener = idempotent(done, lambda msg: f"{time.perf_counter_ns()}", MemoryStore())
    print(f"idempotent, in memory, all keys new: {us_per_message(listener):.2f} us per message")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProcess]:
    with EmbeddedProcess(Path(tmp_path_factory.mktemp("broker")) / "data", "--flush", "async") as broker:
        yield broker


class Waits:
    """A handler that waits 10 ms, as for a database; counts what is done."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()
        self.done = threading.Event()

    def __call__(self, msg: MessageExt) -> None:
        time.sleep(HANDLER_S)
        with self._lock:
            self._left -= 1
            if not self._left:
                self.done.set()

    def listen(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        for msg in msgs:
            self(msg)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS


def per_second(broker: EmbeddedProcess, count: int, pool: int | None, **settings: Any) -> float:
    """Rate of one group over a topic of its own; None: no fan-out, one consume thread."""
    topic = f"bench-{time.time_ns()}"
    broker.create_topic(topic, QUEUES)
    with DefaultMQProducer("bench", namesrv_addr=broker.namesrv_addr) as producer:
        for start in range(0, count, 100):
            producer.send([Message(topic, b"%d" % number) for number in range(start, min(start + 100, count))])
    handler = Waits(count)
    listener: MessageListenerConcurrently = MessageListenerConcurrently(handler.listen)
    if pool is not None:
        listener = FanOut(handler, pool)
    consumer = DefaultMQPushConsumer(
        f"{topic}-group", namesrv_addr=broker.namesrv_addr, consume_message_batch_max_size=BATCH,
        pull_batch_size=BATCH, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, **settings,
    )  # fmt: skip
    consumer.subscribe(topic)
    consumer.register_message_listener(listener)
    start_s = time.perf_counter()
    with consumer:
        assert handler.done.wait(120)
        seconds = time.perf_counter() - start_s
    return count / seconds


def test_with_handlers_of_10_ms_a_pool_of_64_does_50_times_what_one_thread_does(broker: EmbeddedProcess) -> None:
    ratios = []
    for _ in range(ROUNDS):
        one = per_second(broker, 300, None, consume_thread_min=1)
        many = per_second(broker, 20_000, BATCH)
        print(f"\none thread {one:,.0f}/s, fan-out over 64 threads {many:,.0f}/s: {many / one:.1f} times")
        ratios.append(many / one)
    assert statistics.median(ratios) >= 50


def test_the_setting_of_the_documentation_is_bounded_by_its_pull_interval(broker: EmbeddedProcess) -> None:
    rate = per_second(broker, 2_000, BATCH, pull_interval=500)
    print(f"\npull interval 500 ms, batches and pulls of 64, pool of 64, {QUEUES} queues: {rate:,.0f} messages/s")
    assert rate <= 2 * BATCH * QUEUES * 1.5
