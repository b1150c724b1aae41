from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rocketmq_py import (
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    MessageListenerConcurrently,
    MessageListenerOrderly,
    MessageSelector,
)
from tests.conformance.servers import GRPC_SERVERS, SERVERS, Server
from tests.embedded import EmbeddedProcess

StartConsumer = Callable[..., DefaultMQPushConsumer]
SendBodies = Callable[..., list[bytes]]


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedProcess]:
    """One embedded broker for the whole session. Tests keep apart by topic and group."""
    with EmbeddedProcess() as process:
        yield process


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    kind = {**SERVERS, **GRPC_SERVERS}[request.param]
    return kind(request.getfixturevalue(kind.fixture))


@pytest.fixture
def producer(server: Server) -> Iterator[DefaultMQProducer]:
    with DefaultMQProducer("conformance", namesrv_addr=server.namesrv_addr, send_msg_timeout=10_000) as producer:
        yield producer


@pytest.fixture
def send(producer: DefaultMQProducer) -> SendBodies:
    """Send ``count`` numbered messages of about ``size`` bytes in batches; returns their bodies."""

    def send_bodies(topic: str, count: int, size: int = 100, tags: str | None = None) -> list[bytes]:
        bodies = [f"{topic} {number} ".encode().ljust(size, b".") for number in range(count)]
        for start in range(0, count, 50):
            producer.send([Message(topic, body, tags=tags) for body in bodies[start : start + 50]])
        return bodies

    return send_bodies


@pytest.fixture
def start_consumer(server: Server) -> Iterator[StartConsumer]:
    """Start a consumer from the first offset on; it is shut down when the test ends."""
    with ExitStack() as running:

        def start(
            group: str,
            topic: str,
            listener: MessageListenerConcurrently | MessageListenerOrderly,
            tags: str | MessageSelector = "*",
            **settings: Any,
        ) -> DefaultMQPushConsumer:
            settings.setdefault("consume_from_where", ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
            consumer = DefaultMQPushConsumer(group, **{**server.consumer_address, **settings})
            consumer.subscribe(topic, tags)
            consumer.register_message_listener(listener)
            running.callback(consumer.shutdown)
            consumer.start()
            return consumer

        yield start
