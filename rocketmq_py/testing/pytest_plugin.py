"""Fixtures for tests of RocketMQ applications; pytest finds them wherever this package is installed.

A test that asks for one of them, but for the clock, runs against an embedded broker in its own process. With a topic, a
consumer or a producer it must leave no thread of this package and no connection to the broker behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rocketmq_py import DefaultMQProducer, DefaultMQPushConsumer
    from rocketmq_py.testing.broker import BrokerForTests
    from rocketmq_py.testing.faults import Faults
    from rocketmq_py.testing.manual_runtime import ManualClock

StartConsumer = Callable[..., "DefaultMQPushConsumer"]


@pytest.fixture(scope="session")
def rocketmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerForTests]:
    """An embedded broker for the whole session, on free ports; every delay is a second. Needs the extra ``broker``.

    ``namesrv_addr``, ``create_topic()``, ``create_group()``, ``left()``, ``wait_until_consumed()``.
    """
    from rocketmq_py.testing.broker import BrokerForTests

    broker = BrokerForTests(tmp_path_factory.mktemp("rocketmq"))
    yield broker
    broker.shutdown()


@pytest.fixture
def rocketmq_leak_check(rocketmq_broker: BrokerForTests) -> Iterator[None]:
    """Fails a test, when it is over, that left threads of this package or connections to the broker behind."""
    from rocketmq_py.testing.leaks import LeakCheck

    check = LeakCheck(rocketmq_broker.ports)
    yield
    if left := check.left():
        pytest.fail(
            f"the test left behind: {', '.join(left)}; shut down every consumer and producer that it started",
            pytrace=False,
        )


@pytest.fixture
def rocketmq_topic(rocketmq_broker: BrokerForTests, rocketmq_leak_check: None) -> str:
    """The name of a new topic with 4 queues."""
    return rocketmq_broker.create_topic()


@pytest.fixture
def rocketmq_consumer(rocketmq_broker: BrokerForTests, rocketmq_topic: str) -> Iterator[StartConsumer]:
    """Start consumers: ``rocketmq_consumer(listener, topic=, group=, expression=, **settings)``.

    ``listener`` is a listener, or a function of messages and context. By default a new group consumes
    ``rocketmq_topic`` from its first message on. All consumers are shut down when the test is over.
    """
    from rocketmq_py import (
        ConsumeFromWhere,
        DefaultMQPushConsumer,
        MessageListenerConcurrently,
        MessageListenerOrderly,
    )

    with ExitStack() as running:

        def start(
            listener: Any, *, topic: str | None = None, group: str | None = None, expression: Any = "*", **settings: Any
        ) -> DefaultMQPushConsumer:
            settings.setdefault("consume_from_where", ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
            settings.setdefault("namesrv_addr", rocketmq_broker.namesrv_addr)
            consumer = DefaultMQPushConsumer(rocketmq_broker.create_group(group), **settings)
            consumer.subscribe(topic or rocketmq_topic, expression)
            if not isinstance(listener, MessageListenerConcurrently | MessageListenerOrderly):
                listener = MessageListenerConcurrently(listener)
            consumer.register_message_listener(listener)
            running.callback(consumer.shutdown)
            consumer.start()
            return consumer

        yield start


@pytest.fixture
def rocketmq_producer(rocketmq_broker: BrokerForTests, rocketmq_leak_check: None) -> Iterator[DefaultMQProducer]:
    """A producer, started."""
    from rocketmq_py import DefaultMQProducer

    with DefaultMQProducer("rocketmq-producers", namesrv_addr=rocketmq_broker.namesrv_addr) as producer:
        yield producer


@pytest.fixture
def rocketmq_clock() -> ManualClock:
    """A clock that the test moves: for ``MemoryStore(clock=)``, ``ProcessQueue(clock=)`` and what else takes one."""
    from rocketmq_py.testing.manual_runtime import ManualClock

    return ManualClock()


@pytest.fixture
def rocketmq_faults(rocketmq_broker: BrokerForTests) -> Iterator[Faults]:
    """What goes wrong between clients and the broker, see ``rocketmq_py.testing.faults.Faults``; cleared at the end."""
    rocketmq_broker.faults.clear()
    yield rocketmq_broker.faults
    rocketmq_broker.faults.clear()
