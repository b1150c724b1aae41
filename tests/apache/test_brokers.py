"""Two masters and a slave: brokers that come and go, and pulls that a master sends to its slave."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from rocketmq_py import (
    ConsumeFromWhere,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    MessageListenerOrderly,
)
from rocketmq_py.model.results import Messages
from tests.administration import BROKER_NAME
from tests.apache.brokers import SECOND_BROKER, Brokers
from tests.conformance.collector import Collector, eventually

TOPIC = "spread"


@pytest.fixture
def brokers(java: None) -> Iterator[Brokers]:
    with Brokers() as cluster:
        cluster.create_topic(TOPIC, 4)
        yield cluster


def consumer_of(brokers: Brokers, group: str, **settings: Any) -> DefaultMQPushConsumer:
    consumer = DefaultMQPushConsumer(
        group, namesrv_addr=brokers.namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        poll_name_server_interval=500, **settings,
    )  # fmt: skip
    consumer.subscribe(TOPIC)
    return consumer


def owned(consumer: DefaultMQPushConsumer) -> set[tuple[str, int]]:
    return {(mq.broker_name, mq.queue_id) for mq in consumer.windows() if mq.topic == TOPIC}


def test_queues_of_a_broker_that_comes_are_taken_and_given_up_when_it_goes(brokers: Brokers) -> None:
    brokers.create_group("comers")
    collector = Collector()
    consumer = consumer_of(brokers, "comers")
    consumer.register_message_listener(collector)
    producer = DefaultMQProducer("p", namesrv_addr=brokers.namesrv_addr, poll_name_server_interval=500)
    first = {(BROKER_NAME, number) for number in range(4)}
    both = first | {(SECOND_BROKER, number) for number in range(2)}
    with producer, consumer:
        eventually(lambda: owned(consumer) == first, 30, "the queues of the first broker")
        brokers.start_second_master()
        brokers.create_topic_on_second(TOPIC, 2)
        eventually(lambda: owned(consumer) == both, 30, "the queues of both brokers")
        eventually(
            lambda: len({queue.broker_name for queue in producer.fetch_publish_message_queues(TOPIC)}) == 2, 30, "route"
        )
        bodies = [b"%d" % number for number in range(60)]
        stored = {producer.send(Message(TOPIC, body)).message_queue.broker_name for body in bodies}
        assert stored == {BROKER_NAME, SECOND_BROKER}
        collector.wait_for_bodies(bodies)
        brokers.kill_second_master()
        eventually(lambda: owned(consumer) == first, 30, "the queues of the broker that is left")
        more = [b"more %d" % number for number in range(20)]
        for body in more:
            producer.send(Message(TOPIC, body))
        collector.wait_for_bodies(more)


@pytest.mark.skipif(os.environ.get("ROCKETMQ_PY_FULL") != "1", reason="upstream's slave takes a minute to be ready")
def test_a_master_sends_pulls_to_its_slave_which_goes_on_when_the_master_is_gone(brokers: Brokers) -> None:
    brokers.create_group("readers")
    with DefaultMQProducer("p", namesrv_addr=brokers.namesrv_addr) as producer:
        bodies = [b"%d" % number for number in range(400)]
        for body in bodies:
            producer.send(Message(TOPIC, body))
    brokers.start_slave(TOPIC)
    collector = Collector()
    consumer = consumer_of(brokers, "readers", pull_batch_size=4)
    consumer.register_message_listener(collector)
    with consumer:
        collector.wait_for_bodies(bodies)
        # What the master said at every pull that was not at the end: the slave served those.
        connections = json.loads(
            brokers.call(brokers.slave_addr, 203, {"consumerGroup": "readers"}).checked("connections at the slave").body
        )
        assert len(connections["connectionSet"]) == 1
        eventually(lambda: brokers.committed_offsets("readers", TOPIC) == brokers.max_offsets(TOPIC), 30, "committed")
    brokers.kill_master()
    late = Collector()
    consumer = consumer_of(brokers, "late-readers")
    consumer.register_message_listener(late)
    with consumer:
        late.wait_for_bodies(bodies)


def test_an_orderly_consumer_takes_only_queues_whose_master_gives_the_lock(brokers: Brokers) -> None:
    brokers.create_group("orderly")
    brokers.start_second_master()
    brokers.create_topic_on_second(TOPIC, 2)
    got: list[bytes] = []

    def listen(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        got.extend(msg.body for msg in msgs)
        return ConsumeOrderlyStatus.SUCCESS

    consumer = consumer_of(brokers, "orderly")
    consumer.register_message_listener(MessageListenerOrderly(listen))
    with DefaultMQProducer("p", namesrv_addr=brokers.namesrv_addr) as producer, consumer:
        eventually(lambda: len(owned(consumer)) == 6, 30, "the queues of both brokers")
        brokers.kill_second_master()
        eventually(lambda: len(owned(consumer)) == 4, 30, "the queues of the broker that is left")
        for number in range(20):
            producer.send(Message(TOPIC, b"%d" % number))
        eventually(lambda: len(set(got)) == 20, 30, "all")
