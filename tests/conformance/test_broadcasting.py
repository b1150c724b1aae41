"""What every server must give broadcasting consumers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQProducer,
    Message,
    MessageListenerOrderly,
    MessageModel,
)
from rocketmq_py.model.results import Messages
from rocketmq_py.push_consumer import DefaultMQPushConsumer
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import Server


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "message_model": MessageModel.BROADCASTING,
        "local_offset_store_dir": str(tmp_path),
        "client_ip": "127.0.0.1",
    }


def test_every_member_gets_every_message(
    server: Server, send: SendBodies, start_consumer: StartConsumer, settings: dict[str, Any]
) -> None:
    topic, group = server.topic(), server.group()
    collectors = [Collector(), Collector()]
    for number, collector in enumerate(collectors):
        start_consumer(group, topic, collector, instance_name=f"m{number}", **settings)
    bodies = send(topic, 500)
    for collector in collectors:
        collector.wait_for_bodies(bodies)
        assert sum(collector.bodies().values()) == len(bodies)
    assert set(server.committed_offsets(group, topic).values()) == {-1}


def test_a_member_that_starts_again_goes_on_where_its_file_says(
    server: Server, send: SendBodies, start_consumer: StartConsumer, settings: dict[str, Any], tmp_path: Path
) -> None:
    topic, group = server.topic(), server.group()
    first = Collector()
    before = send(topic, 500, size=60)  # some for every queue: of others the end would be asked for
    consumer = start_consumer(group, topic, first, instance_name="m", **settings)
    first.wait_for_bodies(before)
    consumer.shutdown()
    assert (tmp_path / "127.0.0.1@m" / group / "offsets.json").exists()
    second = Collector()
    after = send(topic, 500, size=61)
    start_consumer(
        group, topic, second, instance_name="m", **settings,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
    )  # fmt: skip
    second.wait_for_bodies(after)
    assert set(second.bodies()) == set(after)


def test_what_fails_is_passed_over_and_never_comes_again(
    server: Server, send: SendBodies, start_consumer: StartConsumer, settings: dict[str, Any]
) -> None:
    topic, group = server.topic(), server.group()
    bodies = send(topic, 100)

    def fail(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        return ConsumeConcurrentlyStatus.RECONSUME_LATER

    collector = Collector(fail)
    consumer = start_consumer(group, topic, collector, **settings)
    collector.wait_for_bodies(bodies)
    eventually(lambda: all(not window.unfinished for window in consumer.windows().values()), 10, "nothing is left")
    more = send(topic, 10, size=99)
    collector.wait_for_bodies(more)
    assert sum(collector.bodies().values()) == len(bodies) + len(more)


def test_an_orderly_member_gets_each_queue_in_order_and_again_what_failed(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer, settings: dict[str, Any]
) -> None:
    topic, group = server.topic(queues=1), server.group()
    for number in range(5):
        producer.send(Message(topic, b"%d" % number))
    seen: list[bytes] = []

    def consume(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        seen.extend(msg.body for msg in msgs)
        context.suspend_current_queue_time_millis = 50
        if seen.count(b"2") == 1 and msgs[0].body == b"2":
            return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
        return ConsumeOrderlyStatus.SUCCESS

    consumer: DefaultMQPushConsumer = start_consumer(group, topic, MessageListenerOrderly(consume), **settings)
    eventually(lambda: len(seen) == 6, 30, "all, one twice")
    consumer.shutdown()
    assert seen == [b"0", b"1", b"2", b"2", b"3", b"4"]
