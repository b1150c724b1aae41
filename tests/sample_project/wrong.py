"""Tests that leave something behind: each must end in an error. Not collected unless named."""

from __future__ import annotations

from rocketmq_py import ConsumeConcurrentlyStatus, DefaultMQProducer, DefaultMQPushConsumer, MessageListenerConcurrently
from rocketmq_py.testing.broker import BrokerForTests

left: list[DefaultMQPushConsumer] = []


def test_that_forgets_its_consumer(rocketmq_broker: BrokerForTests, rocketmq_topic: str) -> None:
    consumer = DefaultMQPushConsumer("forgotten", namesrv_addr=rocketmq_broker.namesrv_addr)
    consumer.subscribe(rocketmq_topic)
    consumer.register_message_listener(
        MessageListenerConcurrently(lambda msgs, context: ConsumeConcurrentlyStatus.CONSUME_SUCCESS)
    )
    consumer.start()
    left.append(consumer)


def test_that_comes_later_is_not_to_blame(rocketmq_producer: DefaultMQProducer) -> None:
    left.pop().shutdown()
