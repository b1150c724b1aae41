"""How an application is tested with the fixtures of the package's pytest plugin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from shop import Shop

from rocketmq_py import ConsumeConcurrentlyContext, DefaultMQProducer, Message, MessageExt, MessageQueue
from rocketmq_py.idempotence import MemoryStore
from rocketmq_py.model.codes import RequestCode
from rocketmq_py.testing import ManualClock
from rocketmq_py.testing.broker import BrokerForTests
from rocketmq_py.testing.faults import SENDS, Faults


def eventually(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_orders_are_stored_and_committed(
    rocketmq_broker: BrokerForTests, rocketmq_topic: str, rocketmq_producer: DefaultMQProducer, rocketmq_consumer: Any
) -> None:
    shop = Shop()
    consumer = rocketmq_consumer(shop.listener(), group="orders")
    for number in range(20):
        rocketmq_producer.send(Message(rocketmq_topic, b"order %d" % number, keys=f"{number}"))
    eventually(lambda: len(shop.orders) == 20)
    consumer.shutdown()
    rocketmq_broker.wait_until_consumed("orders", rocketmq_topic)
    assert sorted(shop.orders) == sorted(f"order {number}" for number in range(20))


def test_an_order_that_fails_comes_again_after_a_second(
    rocketmq_topic: str, rocketmq_producer: DefaultMQProducer, rocketmq_consumer: Any
) -> None:
    shop = Shop()
    rocketmq_consumer(shop.listener())
    rocketmq_producer.send(Message(rocketmq_topic, b"late", keys="1"))
    eventually(lambda: shop.orders == ["late"])
    assert shop.attempts == ["late", "late"]


def test_an_order_that_is_sent_twice_is_stored_once(
    rocketmq_broker: BrokerForTests,
    rocketmq_topic: str,
    rocketmq_producer: DefaultMQProducer,
    rocketmq_consumer: Any,
    rocketmq_faults: Faults,
) -> None:
    rocketmq_faults.duplicate(*SENDS)
    rocketmq_producer.send(Message(rocketmq_topic, b"order", keys="1"))
    assert rocketmq_faults.happened == 1
    assert rocketmq_broker.left("orders-once", rocketmq_topic) == 2
    shop = Shop()
    consumer = rocketmq_consumer(shop.listener(), group="orders-once")
    eventually(lambda: shop.orders)
    consumer.shutdown()
    rocketmq_broker.wait_until_consumed("orders-once", rocketmq_topic)
    assert shop.orders == ["order"]


def test_a_busy_broker_is_asked_again(
    rocketmq_topic: str, rocketmq_producer: DefaultMQProducer, rocketmq_consumer: Any, rocketmq_faults: Faults
) -> None:
    shop = Shop()
    rocketmq_consumer(shop.listener())
    rocketmq_faults.refuse(*SENDS, times=2)
    rocketmq_faults.delay(RequestCode.PULL_MESSAGE, RequestCode.LITE_PULL_MESSAGE, ms=50, times=4)
    rocketmq_producer.send(Message(rocketmq_topic, b"order", keys="1"))
    eventually(lambda: shop.orders == ["order"])


def test_a_broker_that_is_gone_for_a_while_costs_nothing(
    rocketmq_broker: BrokerForTests,
    rocketmq_topic: str,
    rocketmq_producer: DefaultMQProducer,
    rocketmq_consumer: Any,
    rocketmq_faults: Faults,
) -> None:
    shop = Shop()
    rocketmq_consumer(shop.listener())
    rocketmq_producer.send(Message(rocketmq_topic, b"before", keys="1"))
    eventually(lambda: shop.orders == ["before"])
    with rocketmq_broker.down():
        pass
    rocketmq_faults.disconnect(*SENDS)
    deadline = time.monotonic() + 30
    while "after" not in shop.orders:
        assert time.monotonic() < deadline
        try:
            rocketmq_producer.send(Message(rocketmq_topic, b"after", keys="2"))
        except Exception:  # noqa: BLE001 - the connection broke; the same key is stored once, however often it is sent
            time.sleep(0.05)
    assert shop.orders == ["before", "after"]


def test_a_key_is_forgotten_in_time(rocketmq_clock: ManualClock) -> None:
    shop = Shop()
    listener = shop.listener(MemoryStore(consumed_ms=60_000, clock=rocketmq_clock))
    msg = MessageExt(topic="orders", body=b"order", keys="1")
    for _ in range(2):
        listener.consume_message([msg], ConsumeConcurrentlyContext(MessageQueue("orders", "broker", 0)))
    assert shop.orders == ["order"]
    rocketmq_clock.advance(60_000)
    listener.consume_message([msg], ConsumeConcurrentlyContext(MessageQueue("orders", "broker", 0)))
    assert shop.orders == ["order", "order"]


def test_what_is_not_consumed_is_told(rocketmq_broker: BrokerForTests, rocketmq_topic: str) -> None:
    rocketmq_broker.wait_until_consumed("nobody", rocketmq_topic)
    with DefaultMQProducer("own", namesrv_addr=rocketmq_broker.namesrv_addr) as producer:
        producer.send(Message(rocketmq_topic, b"order"))
    with pytest.raises(AssertionError, match=r"1 messages of .* were not consumed by nobody"):
        rocketmq_broker.wait_until_consumed("nobody", rocketmq_topic, timeout_ms=50)
