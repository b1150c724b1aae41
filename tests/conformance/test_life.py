"""What may be changed while a consumer runs, also from inside its listener."""

from __future__ import annotations

import threading
import time

import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQProducer,
    IllegalStateError,
    Message,
    MessageListenerOrderly,
)
from rocketmq_py.model.results import Messages
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import Server


def test_topics_are_subscribed_and_unsubscribed_from_inside_the_listener(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    first, second = server.topic(), server.topic()
    bodies = send(second, 20)

    def switch(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if msgs[0].topic == first:
            consumer.subscribe(second)
            consumer.unsubscribe(first)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    collector = Collector(switch)
    consumer = start_consumer(server.group(), first, collector)
    send(first, 1)
    collector.wait_for_bodies(bodies)
    eventually(lambda: all(mq.topic != first for mq in consumer.windows()), 30, "the queues given up")


def test_a_listener_suspends_and_a_resumed_consumer_goes_on(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic(queues=1)
    suspended = threading.Event()

    def suspend(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        seen.extend(msg.body for msg in msgs)
        if not suspended.is_set():
            consumer.suspend()
            suspended.set()
        return ConsumeOrderlyStatus.SUCCESS

    seen: list[bytes] = []
    consumer = start_consumer(server.group(), topic, MessageListenerOrderly(suspend), pull_batch_size=1)
    bodies = send(topic, 50)
    assert suspended.wait(30)
    consumer.resume()
    eventually(lambda: seen == bodies, 30, "all, in order")


def test_the_number_of_consume_threads_can_be_changed_while_it_runs(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    lock, go_on = threading.Lock(), threading.Event()
    at_work = 0

    def work(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        nonlocal at_work
        with lock:
            at_work += 1
        go_on.wait(60)
        with lock:
            at_work -= 1
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    consumer = start_consumer(server.group(), topic, Collector(work), consume_thread_min=2, consume_thread_max=8)
    for number in range(20):
        producer.send(Message(topic, b"%d" % number))
    eventually(lambda: at_work == 2, 30, "two at work")
    consumer.update_core_pool_size(6)
    eventually(lambda: at_work == 6, 30, "six at work")
    time.sleep(0.1)
    assert at_work == 6
    with pytest.raises(ConfigError, match="core_pool_size Out of range \\[1, 8\\]"):
        consumer.update_core_pool_size(9)
    go_on.set()
    consumer.shutdown()
    with pytest.raises(IllegalStateError):
        consumer.update_core_pool_size(3)


def test_a_running_consumer_tells_queues_sends_messages_back_and_goes_on_at_a_moment(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(queues=2), server.group()
    collector = Collector()
    consumer = start_consumer(group, topic, collector)
    assert [mq.queue_id for mq in consumer.fetch_subscribe_message_queues(topic)] == [0, 1]
    with pytest.raises(BrokerError, match="not exist"):
        consumer.fetch_subscribe_message_queues(f"no-{topic}")
    (body,) = send(topic, 1)
    collector.wait_for_bodies([body])
    consumer.send_message_back(collector.deliveries[0], 0)
    collector.wait_until(lambda: len(collector.deliveries) == 2, 60, "the message that was sent back")
    assert [msg.reconsume_times for msg in collector.deliveries] == [0, 1]
    consumer.reset_offset_by_timestamp(collector.deliveries[0].born_timestamp - 1_000)
    collector.wait_until(lambda: len(collector.deliveries) >= 3, 90, "everything since the moment")
    assert set(collector.bodies()) == {body}
