"""What every server must give a producer."""

from __future__ import annotations

import os
import time

import pytest

from rocketmq_py import BrokerError, DefaultMQProducer, Message, SendCallback, SendResult, SendStatus
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import StartConsumer
from tests.conformance.servers import Embedded, Server


def test_a_message_arrives_with_everything_it_was_sent_with(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    body = os.urandom(1_000) + "größe".encode()
    message = Message(topic, body, tags="T", keys=["k1", "k2"], properties={"color": "grün"}, flag=7)
    sent = producer.send(message)
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    collector.wait_for_bodies([body])
    (got,) = collector.deliveries
    assert (got.tags, got.keys, got.get_property("color"), got.flag) == ("T", "k1 k2", "grün", 7)
    assert (got.msg_id, got.offset_msg_id) == (sent.msg_id, sent.offset_msg_id)
    assert (got.queue_id, got.queue_offset) == (sent.message_queue.queue_id, sent.queue_offset)
    assert sent.send_status is SendStatus.SEND_OK
    assert abs(got.born_timestamp - time.time() * 1000) < 60_000


def test_a_large_body_is_compressed_on_the_way_and_arrives_whole(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    body = b"compressible " * 50_000
    producer.send(Message(topic, body))
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    collector.wait_for_bodies([body])


def test_a_batch_is_stored_in_order_in_one_queue(server: Server, producer: DefaultMQProducer) -> None:
    topic = server.topic()
    sent = producer.send([Message(topic, f"{n}".encode()) for n in range(10)])
    assert len(set(sent.msg_id.split(","))) == len(sent.offset_msg_id.split(",")) == 10
    assert sent.queue_offset == 0
    ends = {queue: 10 if queue == sent.message_queue.queue_id else 0 for queue in range(8)}
    wait_for_ends(server, topic, ends)


def test_the_selector_chooses_the_queue(server: Server, producer: DefaultMQProducer) -> None:
    topic = server.topic()
    for order in range(16):
        sent = producer.send(
            Message(topic, b"x"), selector=lambda queues, message, arg: queues[arg % len(queues)], arg=order
        )
        assert sent.message_queue.queue_id == order % 8
    wait_for_ends(server, topic, dict.fromkeys(range(8), 2))


def test_messages_are_spread_over_all_queues(server: Server, producer: DefaultMQProducer) -> None:
    topic = server.topic()
    for _ in range(16):
        producer.send(Message(topic, b"x"))
    wait_for_ends(server, topic, dict.fromkeys(range(8), 2))


def test_the_first_send_creates_a_topic_with_four_queues_or_is_refused_clearly(
    server: Server, producer: DefaultMQProducer
) -> None:
    topic = f"created-{os.getpid()}-{time.time_ns()}"
    if not server.creates_topics:
        with pytest.raises(BrokerError, match="CODE: 13 TopicMessageType validate failed"):
            producer.send(Message(topic, b"x"))
        return
    producer.send(Message(topic, b"x"))
    assert len(server.max_offsets(topic)) == 4


@pytest.mark.parametrize("size", [1, 4095, 4096, 4 * 1024 * 1024])
def test_bodies_of_every_size_arrive(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer, size: int
) -> None:
    topic = server.topic()
    body = os.urandom(size)
    producer.send(Message(topic, body))
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    collector.wait_for_bodies([body])


def wait_for_ends(server: Server, topic: str, ends: dict[int, int]) -> None:
    """A broker answers a send before it has written the queue's index, so the ends follow a little later."""
    eventually(lambda: server.max_offsets(topic) == ends, 10, f"ends {ends}")


@pytest.mark.behaviour("PR-06")
def test_asynchronous_sends_end_once_each_and_everything_arrives(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    bodies = [b"%d" % number for number in range(200)]
    told: list[SendResult | Exception] = []
    callback = SendCallback(told.append, told.append)
    for body in bodies:
        producer.send_async(Message(topic, body), callback)
    producer.send_async([Message(topic, b"one"), Message(topic, b"two")], callback)
    producer.send_async(Message(topic, b"chosen"), callback, selector=lambda queues, message, arg: queues[arg], arg=5)
    eventually(lambda: len(told) == 202, 30, "every end is told")
    results = [result for result in told if isinstance(result, SendResult)]
    assert len(results) == 202, told
    ids = [id_ for result in results for id_ in result.msg_id.split(",")]
    assert len(set(ids)) == 203
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    collector.wait_for_bodies([*bodies, b"one", b"two", b"chosen"])
    assert {msg.msg_id for msg in collector.deliveries} == set(ids)
    assert [msg.queue_id for msg in collector.deliveries if msg.body == b"chosen"] == [5]


@pytest.mark.behaviour("PR-07")
def test_a_one_way_send_arrives(server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer) -> None:
    topic = server.topic()
    for number in range(20):
        producer.send_oneway(Message(topic, b"%d" % number, keys=f"k{number}"))
    for _ in range(3):
        producer.send_oneway(Message(topic, b"chosen"), selector=lambda queues, message, arg: queues[arg], arg=6)
    producer.send_oneway([Message(topic, b"one"), Message(topic, b"two")])
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    collector.wait_for_bodies([*(b"%d" % number for number in range(20)), b"one", b"two", b"chosen"])
    collector.wait_until(lambda: len(collector.deliveries) == 25, 30, "each once")
    assert {msg.queue_id for msg in collector.deliveries if msg.body == b"chosen"} == {6}


@pytest.mark.behaviour("PR-16")
def test_a_message_with_a_delay_level_is_delivered_after_it(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = f"topic-delayed-{time.time_ns()}"
    server.create_topic(topic, 4, message_type="DELAY")
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    began_ms = time.time_ns() // 1_000_000
    for way in ("send", "send_async", "send_oneway"):
        message = Message(topic, way.encode(), delay_time_level=5)  # 2 s
        if way == "send_async":
            producer.send_async(message, SendCallback())
        else:
            getattr(producer, way)(message)
    collector.wait_for_bodies([b"send", b"send_async", b"send_oneway"])
    assert all(msg.store_timestamp - began_ms >= 1_800 for msg in collector.deliveries)


@pytest.mark.behaviour("TM-01", "TM-05")
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_timer_message_is_delivered_at_its_moment_and_one_that_is_recalled_never(
    server: Embedded, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    recalled = producer.send(Message(topic, b"recalled", delay_time_ms=2_500))
    assert recalled.recall_handle is not None
    assert producer.recall_message(topic, recalled.recall_handle) == recalled.msg_id
    began_ms = time.time_ns() // 1_000_000
    producer.send(Message(topic, b"1 s", delay_time_sec=1))
    producer.send(Message(topic, b"at", deliver_time_ms=began_ms + 3_000))
    collector.wait_for_bodies([b"1 s", b"at"])
    stored = {msg.body: msg.store_timestamp - began_ms for msg in collector.deliveries}
    assert stored[b"1 s"] >= 1_000
    assert stored[b"at"] >= 3_000
    assert set(stored) == {b"1 s", b"at"}
