"""Topics and groups of a namespace: brokers know the long names, users the short ones."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    DefaultMQProducer,
    Message,
    MessageQueue,
    SendCallback,
    SendResult,
)
from rocketmq_py.model.results import Messages
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import StartConsumer
from tests.conformance.servers import Server

SUCCESS = ConsumeConcurrentlyStatus.CONSUME_SUCCESS
LATER = ConsumeConcurrentlyStatus.RECONSUME_LATER


def make_names(server: Server) -> tuple[str, str, str]:
    """A namespace with a topic and a group in it, by their short names."""
    namespace, topic, group = (f"{kind}-{uuid.uuid4().hex[:8]}" for kind in ("ns", "topic", "group"))
    server.create_topic(f"{namespace}%{topic}", 4)
    server.create_group(f"{namespace}%{group}")
    return namespace, topic, group


@pytest.mark.behaviour("NS-03", "NS-04", "NS-05")
def test_messages_of_a_namespace_come_and_come_again_under_their_short_topic_until_they_are_dead(
    server: Server, start_consumer: StartConsumer
) -> None:
    namespace, topic, group = make_names(server)
    chosen_from: list[MessageQueue] = []

    def choose(queues: Sequence[MessageQueue], message: Message, arg: int) -> MessageQueue:
        chosen_from.extend(queues)
        return queues[arg]

    def fail_always(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        return LATER if msgs[0].body == b"fails" else SUCCESS

    collector = Collector(fail_always)
    consumer = start_consumer(group, topic, collector, namespace=namespace, max_reconsume_times=1)
    with DefaultMQProducer(group, namesrv_addr=server.namesrv_addr, namespace=namespace) as producer:
        sent = producer.send(Message(topic, b"fails"), selector=choose, arg=2)
        batch = producer.send([Message(topic, b"one"), Message(topic, b"two")])
        assert {queue.topic for queue in producer.fetch_publish_message_queues(topic)} == {topic}
        results: list[SendResult] = []
        producer.send_async(Message(topic, b"asynchronous"), SendCallback(on_success=results.append))
        producer.send_oneway(Message(topic, b"one-way"))
        collector.wait_for_bodies([b"one", b"two", b"fails", b"asynchronous", b"one-way"])
        eventually(lambda: [result.message_queue.topic for result in results] == [topic], 30, "the callback")
    assert {queue.topic for queue in chosen_from} == {topic}
    assert (sent.message_queue.topic, sent.message_queue.queue_id, batch.message_queue.topic) == (topic, 2, topic)
    collector.wait_until(lambda: len(collector.deliveries) == 6, 60, "the retry")
    assert {msg.topic for msg in collector.deliveries} == {topic}
    failed = [
        (msg.reconsume_times, msg.get_property("INSTANCE_ID")) for msg in collector.deliveries if msg.body == b"fails"
    ]
    assert failed == [(0, namespace), (1, namespace)]
    eventually(lambda: is_dead(server, f"{namespace}%{group}"), 60, "the message in the dead-letter topic")
    consumer.shutdown()
    committed = server.committed_offsets(f"{namespace}%{group}", f"{namespace}%{topic}")
    assert sum(offset for offset in committed.values() if offset > 0) == 5


def is_dead(server: Server, group: str) -> bool:
    try:
        return sum(server.max_offsets(f"%DLQ%{group}").values()) == 1
    except Exception:  # noqa: BLE001 - the topic is made with its first message
        return False


@pytest.mark.behaviour("NS-02")
def test_another_namespace_is_another_topic_and_unsubscribing_means_the_one_of_the_namespace(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    namespace, topic, group = make_names(server)
    server.create_topic(topic, 4)
    other = f"other-{topic}"
    server.create_topic(f"{namespace}%{other}", 1)
    collector = Collector()
    consumer = start_consumer(group, topic, collector, namespace=namespace)
    consumer.subscribe(other)
    producer.send(Message(topic, b"of no namespace"))
    producer.send(Message(f"{namespace}%{topic}", b"of the namespace"))
    collector.wait_for_bodies([b"of the namespace"])
    assert {queue.topic for queue in consumer.windows()} >= {f"{namespace}%{topic}"}
    consumer.unsubscribe(topic)
    eventually(
        lambda: f"{namespace}%{topic}" not in {queue.topic for queue in consumer.windows()}, 60, "queues given up"
    )
    producer.send(Message(f"{namespace}%{topic}", b"too late"))
    producer.send(Message(f"{namespace}%{other}", b"still there"))
    collector.wait_for_bodies([b"still there"])
    threading.Event().wait(0.5)
    assert set(collector.bodies()) == {b"of the namespace", b"still there"}
