from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rocketmq_py import DefaultMQPushConsumer, MessageListenerConcurrently, MessageListenerOrderly
from tests.grpc.server import GrpcServer

StartConsumer = Callable[..., DefaultMQPushConsumer]


@pytest.fixture(autouse=True)
def no_thread_of_ours_is_left_behind() -> Iterator[None]:
    """gRPC's own threads come and go as they like; those that a runtime started must end."""
    before = set(threading.enumerate())

    def left() -> list[str]:
        ours = ("Grpc", "Consume", "Rebalance", "PullMessage")
        return sorted(each.name for each in set(threading.enumerate()) - before if each.name.startswith(ours))

    yield
    deadline = time.monotonic() + 6
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left()


@pytest.fixture
def server() -> Iterator[GrpcServer]:
    with GrpcServer() as server:
        yield server


@pytest.fixture
def start_consumer(server: GrpcServer) -> Iterator[StartConsumer]:
    """Start a consumer of the server; it is shut down when the test ends."""
    with ExitStack() as running:

        def start(
            listener: MessageListenerConcurrently | MessageListenerOrderly, topic: str = "topic", **settings: Any
        ) -> DefaultMQPushConsumer:
            settings = {
                "endpoints": server.endpoints,
                "consume_thread_min": 4,
                "receive_loop_count": 2,
                "pull_time_delay_mills_when_exception": 100,
                "mq_client_api_timeout": 1_000,
                **settings,
            }
            consumer = DefaultMQPushConsumer("group", **settings)
            consumer.subscribe(topic)
            consumer.register_message_listener(listener)
            running.callback(consumer.shutdown)
            consumer.start()
            return consumer

        yield start
