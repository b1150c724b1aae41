"""What a real proxy must give clients on its gRPC port, beside the scenarios that hold on both wires."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQProducer,
    LocalTransactionState,
    Message,
    MessageExt,
    MessageListenerOrderly,
    MessageSelector,
    SimpleConsumer,
    TransactionMQProducer,
)
from rocketmq_py.model.results import Messages
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import GRPC_SERVERS, ApacheProxyGrpc, Server

pytestmark = pytest.mark.parametrize("server", GRPC_SERVERS, indirect=True)

SUCCESS = ConsumeConcurrentlyStatus.CONSUME_SUCCESS
FULL = os.environ.get("ROCKETMQ_PY_FULL") == "1"


@pytest.fixture
def sender(server: Server) -> Iterator[DefaultMQProducer]:
    with DefaultMQProducer("senders", **server.consumer_address, send_msg_timeout=10_000) as sender:
        yield sender


def of_type(server: Server, kind: str, queues: int = 4) -> str:
    topic = f"topic-{kind.lower()}-{uuid.uuid4().hex[:12]}"
    server.create_topic(topic, queues, message_type=kind)
    return topic


def fifo_group(server: ApacheProxyGrpc) -> str:
    group = f"group-{uuid.uuid4().hex[:12]}"
    server.cluster.create_group(group, orderly=True)
    return group


def test_what_a_producer_sends_arrives_as_it_was(
    server: Server, sender: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    sent = sender.send(Message(topic, b"body", tags="A", keys=["k1", "k2"], properties={"own": "property"}))
    collector.wait_for_bodies([b"body"])
    [msg] = collector.deliveries
    assert (msg.msg_id, msg.topic, msg.tags, msg.keys, msg.get_property("own")) == (
        sent.msg_id, topic, "A", "k1 k2", "property",
    )  # fmt: skip
    assert msg.queue_offset == sent.queue_offset
    with pytest.raises(BrokerError, match="TOPIC_NOT_FOUND"):
        sender.send(Message(f"{topic}-not-there", b"body"))
    with pytest.raises(BrokerError, match="MESSAGE_PROPERTY_CONFLICT_WITH_TYPE"):
        sender.send(Message(topic, b"body", message_group="a"))


def test_delayed_messages_come_when_their_time_has_come(
    server: Server, sender: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = of_type(server, "DELAY")
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    moment_ms = time.time() * 1000 + 3_000
    sent = sender.send(Message(topic, b"later", deliver_time_ms=int(moment_ms)))
    assert sent.recall_handle
    collector.wait_for_bodies([b"later"], 30)
    assert time.time() * 1000 > moment_ms - 200


def test_messages_of_higher_priority_come_first(
    server: Server, sender: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = of_type(server, "PRIORITY", 3)
    for priority in (0, 1, 2):
        sender.send(Message(topic, b"%d" % priority, priority=priority))
    collector = Collector()
    start_consumer(server.group(), topic, collector, receive_loop_count=1, consume_thread_min=1)
    collector.wait_for_bodies([b"0", b"1", b"2"])
    assert [msg.body for msg in collector.deliveries] == [b"2", b"1", b"0"]


def test_message_groups_keep_their_order_also_when_one_fails(
    server: ApacheProxyGrpc, sender: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic, group = of_type(server, "FIFO"), fifo_group(server)
    expected = {f"group-{name}": [f"{name}{number}".encode() for number in range(12)] for name in "abcd"}
    for number in range(12):
        for name, texts in expected.items():
            sender.send(Message(topic, texts[number], message_group=name))
    got: dict[str, list[bytes]] = {name: [] for name in expected}
    attempts: list[int] = []
    lock = threading.Lock()

    def consume(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        [msg] = msgs
        with lock:
            if msg.body == b"a3":
                attempts.append(msg.reconsume_times)
                if len(attempts) < 3:
                    context.suspend_current_queue_time_millis = 700
                    return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
            got[str(msg.get_property("__SHARDINGKEY"))].append(msg.body)
        return ConsumeOrderlyStatus.SUCCESS

    consumer = start_consumer(group, topic, MessageListenerOrderly(consume))
    eventually(lambda: sum(map(len, got.values())) == 48, 60, "all")
    assert got == expected
    assert attempts == [0, 1, 2]
    consumer.shutdown()
    eventually(lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 10, "committed to the end")


def test_a_group_that_does_not_consume_in_order_takes_no_orderly_listener(
    server: Server, start_consumer: StartConsumer
) -> None:
    listener = MessageListenerOrderly(lambda msgs, context: ConsumeOrderlyStatus.SUCCESS)
    with pytest.raises(ConfigError, match="updateSubGroup"):
        start_consumer(server.group(), server.topic(), listener)


def test_an_sql_expression_lets_through_what_it_says(
    server: Server, sender: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    for price in range(20):
        sender.send(Message(topic, b"%d" % price, properties={"price": str(price)}))
    collector = Collector()
    start_consumer(server.group(), topic, collector, MessageSelector.by_sql("price > 14"))
    collector.wait_for_bodies([b"15", b"16", b"17", b"18", b"19"])
    assert len(collector.deliveries) == 5


def test_members_share_what_comes_and_what_one_leaves_the_others_get(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(queues=1), server.group()
    go = threading.Event()

    def wait(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        go.wait(20)
        return SUCCESS

    first, second = Collector(wait), Collector()
    leaving = start_consumer(
        group, topic, first, consume_thread_min=1, await_termination_millis_when_shutdown=100, receive_loop_count=1
    )
    bodies = send(topic, 100)
    first.wait_until(lambda: len(first.deliveries) == 1, 30, "the first message")
    start_consumer(group, topic, second)
    threading.Timer(1, go.set).start()
    leaving.shutdown()
    # What was on its way when it left comes again when a lease is over: a proxy's is a minute long.
    second.wait_for_bodies(set(bodies) - {msg.body for msg in first.deliveries}, 120)


def test_a_simple_consumer_receives_acknowledges_and_puts_off(
    server: Server, sender: DefaultMQProducer, send: SendBodies
) -> None:
    topic, group = server.topic(), server.group()
    bodies = set(send(topic, 10))
    got: dict[bytes, MessageExt] = {}
    with SimpleConsumer(group, **server.consumer_address) as consumer:
        consumer.subscribe(topic)

        def receive() -> list[MessageExt]:
            msgs = consumer.receive(32, 30_000, await_duration_ms=5_000)
            got.update((msg.body, msg) for msg in msgs)
            return msgs

        eventually(lambda: bool(receive()) and len(got) == 10, 60, "all")
        assert set(got) == bodies
        again = got[bodies.copy().pop()]
        consumer.change_invisible_duration(again, 1_000)
        for msg in got.values():
            if msg is not again:
                consumer.ack(msg)
        eventually(lambda: any(msg.body == again.body for msg in receive()), 30, "put off, and there again")
        assert got[again.body].reconsume_times == 1
        consumer.ack(got[again.body])


class Orders:
    """Decides by the body of a message."""

    def __init__(self) -> None:
        self.checked: list[bytes] = []

    def execute_local_transaction(self, msg: Message, arg: Any) -> LocalTransactionState:
        return LocalTransactionState[arg]

    def check_local_transaction(self, msg: MessageExt) -> LocalTransactionState:
        self.checked.append(msg.body)
        return LocalTransactionState.COMMIT_MESSAGE


def test_a_committed_transaction_is_delivered_and_one_rolled_back_is_not(
    server: Server, start_consumer: StartConsumer
) -> None:
    topic = of_type(server, "TRANSACTION")
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    orders = Orders()
    with TransactionMQProducer("orders", transaction_listener=orders, **server.consumer_address) as producer:
        for state in ("ROLLBACK_MESSAGE", "COMMIT_MESSAGE"):
            result = producer.send_message_in_transaction(Message(topic, state.encode()), state)
            assert result.local_transaction_state is LocalTransactionState[state]
        collector.wait_for_bodies([b"COMMIT_MESSAGE"], 30)
        if FULL:  # a broker asks for the first time after 30 s
            producer.send_message_in_transaction(Message(topic, b"asked"), "UNKNOW")
            collector.wait_for_bodies([b"asked"], 120)
            assert orders.checked == [b"asked"]
    assert b"ROLLBACK_MESSAGE" not in collector.bodies()
