"""Which messages come: SQL92 and tag selectors, hooks that leave messages out."""

from __future__ import annotations

from functools import partial

import pytest

from rocketmq_py import (
    BrokerError,
    DefaultMQProducer,
    FilterMessageContext,
    Message,
    MessageSelector,
)
from rocketmq_py.model.codes import ResponseCode
from tests.conformance.collector import Collector
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import Server


@pytest.mark.behaviour("FI-04")
def test_an_sql_expression_lets_through_what_it_says_and_commits_the_rest_as_well(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    wanted = set()
    for number in range(60):
        kind = "abc"[number % 3]
        body = f"{number} {kind}".encode()
        properties = {"number": str(number), "kind": kind} if number % 5 else {"kind": kind}
        producer.send(Message(topic, body, tags=f"T{number % 2}", properties=properties))
        if number % 5 and number > 20 and kind == "b" and number % 2 == 0:
            wanted.add(body)
    collector = Collector()
    selector = MessageSelector.by_sql("number > 20 AND kind = 'b' AND TAGS = 'T0'")
    consumer = start_consumer(group, topic, collector, selector)
    collector.wait_for_bodies(wanted)
    for number in range(len(producer.fetch_publish_message_queues(topic))):  # the last of each queue
        properties = {"number": str(100 + number), "kind": "b"}
        last = Message(topic, f"last {number}".encode(), tags="T0", properties=properties)
        producer.send(last, selector=lambda queues, message, arg: queues[arg], arg=number)
        wanted.add(last.body)
    collector.wait_for_bodies(wanted)
    consumer.shutdown()
    assert server.committed_offsets(group, topic) == server.max_offsets(topic)
    assert set(collector.bodies()) == wanted


@pytest.mark.behaviour("FI-03")
def test_an_expression_that_the_broker_refuses_fails_the_start_in_clear_words(
    server: Server, send: SendBodies, start_consumer: StartConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = server.topic(), server.group()
    collector = Collector()
    start = partial(start_consumer, group, topic, collector, MessageSelector.by_sql("a > 5 AND"))
    if not server.checks_expressions:
        start()
        assert "is not checked: a proxy takes a wrong one for none" in caplog.text
        collector.wait_for_bodies(send(topic, 10))
        return
    with pytest.raises(BrokerError, match=f"subscribe to topic {topic} by SQL92 'a > 5 AND'") as refused:
        start()
    assert refused.value.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    assert server.consumer_ids(group) == []


@pytest.mark.behaviour("FI-01")
def test_a_tag_selector_is_a_tag_expression(server: Server, send: SendBodies, start_consumer: StartConsumer) -> None:
    topic, group = server.topic(), server.group()
    send(topic, 20, tags="C")
    wanted = send(topic, 50, size=60, tags="A") + send(topic, 50, size=70, tags="B")
    collector = Collector()
    start_consumer(group, topic, collector, MessageSelector.by_tag("A || B"))
    collector.wait_for_bodies(wanted)
    assert set(collector.bodies()) == set(wanted)


class LeaveOut:
    """Takes out messages whose body ends on a text."""

    def __init__(self, end: bytes) -> None:
        self._end = end

    def hook_name(self) -> str:
        return "leave out"

    def filter_message(self, context: FilterMessageContext) -> None:
        context.msg_list[:] = [msg for msg in context.msg_list if not msg.body.endswith(self._end)]


@pytest.mark.behaviour("FI-06")
def test_what_filter_hooks_leave_out_is_consumed_without_the_listener_also_when_they_come_while_running(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    collector = Collector()
    consumer = start_consumer(group, topic, collector)
    producer.send(Message(topic, b"0 odd"))
    collector.wait_for_bodies([b"0 odd"])
    consumer.register_filter_message_hook(LeaveOut(b"odd"))
    for number in range(1, 40):
        producer.send(Message(topic, f"{number} {'odd' if number % 2 else 'even'}".encode()))
    even = {f"{number} even".encode() for number in range(2, 40, 2)}
    collector.wait_for_bodies(even)
    assert set(collector.bodies()) == even | {b"0 odd"}
