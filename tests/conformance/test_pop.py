"""Popping from a broker, switched on and off."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
)
from rocketmq_py.consumer.stats import Event
from rocketmq_py.model.results import Messages
from tests.apache.cluster import TESTS, ApacheCluster
from tests.apache.jars import QUIET, compile_java, java_command
from tests.conformance.collector import Collector, Verdict, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import ApacheBroker, Embedded, Server
from tests.conformance.test_java_members import JAVA_MEMBER, JavaMember
from tests.embedded import EmbeddedProcess

SUCCESS, LATER = ConsumeConcurrentlyStatus.CONSUME_SUCCESS, ConsumeConcurrentlyStatus.RECONSUME_LATER

FULL = os.environ.get("ROCKETMQ_PY_FULL") == "1"

brokers = pytest.mark.parametrize("server", ["embedded", "apache-broker"], indirect=True)


def cluster_of(server: Server) -> ApacheCluster | EmbeddedProcess:
    assert isinstance(server, ApacheBroker | Embedded)
    return server.cluster


def set_mode(server: Server, group: str, topic: str, mode: str) -> None:
    cluster_of(server).set_consume_mode(group, topic, mode)


def popping_group(server: Server, topic: str) -> str:
    group = server.group()
    set_mode(server, group, topic, "POP")
    return group


def is_popping(collector: Collector) -> bool:
    return bool(collector.deliveries) and collector.deliveries[-1].get_property("POP_CK") is not None


def owned_topics(consumer: DefaultMQPushConsumer) -> set[str]:
    return {mq.topic for mq in consumer.windows()}


def fail_first(share: Callable[[bytes], bool]) -> Verdict:
    """Messages of this share fail at their first delivery."""

    def verdict(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        failing = msgs[0].reconsume_times == 0 and share(msgs[0].body)
        return LATER if failing else SUCCESS

    return verdict


@pytest.mark.behaviour("PO-31")
@brokers
def test_popped_messages_are_consumed_once_failed_ones_again_and_those_of_a_listener_that_is_too_slow(
    server: Server, send: SendBodies, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    group = popping_group(server, topic)
    calls: Counter[bytes] = Counter()

    def verdict(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        (msg,) = msgs
        calls[msg.body] += 1
        if calls[msg.body] == 1:
            if msg.body == b"fails":
                return LATER
            if msg.body == b"raises":
                raise RuntimeError
            if msg.body == b"dead":
                context.delay_level_when_next_consume = -1
                return LATER
            if msg.body == b"slow":
                threading.Event().wait(7)
        return SUCCESS

    collector = Collector(verdict)
    consumer = start_consumer(group, topic, collector, client_rebalance=False, pop_invisible_time=5_000)
    bodies = send(topic, 300)
    for body in (b"fails", b"raises", b"slow", b"dead"):
        producer.send(Message(topic, body, keys="key"))
    collector.wait_for_bodies([*bodies, b"fails", b"raises", b"slow", b"dead"])

    def all_twice() -> bool:
        return all(calls[body] >= 2 for body in (b"fails", b"raises", b"slow"))

    eventually(all_twice, 60, "what failed and what took too long comes again")
    again = [msg for msg in collector.deliveries if msg.reconsume_times]
    assert {(msg.topic, msg.reconsume_times, msg.keys) for msg in again} == {(topic, 1, "key")}
    assert all(msg.get_property("POP_CK") is not None for msg in collector.deliveries)
    # Whatever had not been acknowledged would have come by now, several times: 5 s are over.
    assert [body for body in [*bodies, b"dead"] if calls[body] != 1] == []
    assert server.max_offsets(f"%DLQ%{group}") == {0: 1}
    assert consumer.counters()[Event.POP_TIMED_OUT] >= 1
    (client_id,) = server.consumer_ids(group)
    cluster = cluster_of(server)
    if isinstance(cluster, ApacheCluster):
        shown = cluster.mqadmin("consumerStatus", "-g", group, "-i", client_id)
        assert re.search(rf"^{topic} +broker-a +-1 ", shown.partition("#Consumer Pop Detail#")[2], re.MULTILINE), shown
    assert consumer.counters()[Event.SETTLE_FAILED] == 0


@pytest.mark.behaviour("PA-09")
@pytest.mark.parametrize(
    "server",
    [
        pytest.param("embedded", marks=pytest.mark.skipif(not FULL, reason="20 s, as on Apache's")),
        "apache-broker",
    ],
    indirect=True,
)
def test_no_message_is_lost_when_a_group_is_switched_to_pop_and_back(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    collectors = [Collector(fail_first(lambda body: body.endswith(b"0"))) for _ in range(2)]
    settings = {"client_rebalance": False, "pop_invisible_time": 5_000}
    consumers = [start_consumer(group, topic, collector, **settings) for collector in collectors]

    def delivered(body: bytes, reconsume_times: int = 0) -> list[Collector]:
        return [
            collector
            for collector in collectors
            for msg in list(collector.deliveries)
            if msg.body == body and msg.reconsume_times >= reconsume_times
        ]

    def wait_for_mode(popping: bool) -> None:
        def switched() -> bool:
            for consumer in consumers:
                consumer.resume()  # wakes the rebalance, which would come every 20 s
            return all((topic not in owned_topics(consumer)) is popping for consumer in consumers)

        eventually(switched, 30, f"popping is {popping}")

    with sending(producer, topic) as sent:
        eventually(lambda: len(sent) > 100 and all(owned_topics(each) >= {topic} for each in consumers), 30, "pulls")
        set_mode(server, group, topic, "POP")
        wait_for_mode(popping=True)
        popped_from = len(sent)
        eventually(lambda: len(sent) > popped_from + 200, 30, "messages while popping")
        eventually(lambda: any(map(is_popping, collectors)), 30, "a popped message")
        set_mode(server, group, topic, "PULL")
        wait_for_mode(popping=False)
        pulled_from = len(sent)
        eventually(lambda: len(sent) > pulled_from + 100, 30, "messages while pulling again")

    for collector in collectors:
        assert {msg.topic for msg in collector.deliveries} <= {topic}
    eventually(lambda: all(delivered(body) for body in sent), 60, "every message")
    failed = [body for body in sent if body.endswith(b"0")]
    eventually(lambda: all(delivered(body, 1) for body in failed), 90, "every failed message again")
    assert {msg.topic for collector in collectors for msg in collector.deliveries} == {topic}


@contextmanager
def sending(producer: DefaultMQProducer, topic: str) -> Iterator[list[bytes]]:
    """Sends messages all the time; the list of those sent grows."""
    sent: list[bytes] = []
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.01):
            body = f"message {len(sent)}".encode()
            producer.send(Message(topic, body))
            sent.append(body)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join(30)


@pytest.mark.behaviour("PO-32")
@brokers
def test_members_of_a_popping_group_share_the_messages_and_one_may_leave(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    group = popping_group(server, topic)
    collectors = [Collector() for _ in range(2)]
    settings = {"client_rebalance": False, "pop_invisible_time": 5_000}
    staying, leaving = (start_consumer(group, topic, collector, **settings) for collector in collectors)
    with sending(producer, topic) as sent:
        eventually(lambda: all(collector.deliveries for collector in collectors), 30, "messages for both members")
        leaving.shutdown()
        left_with = len(collectors[1].deliveries)
        before = len(sent)
        eventually(lambda: len(sent) > before + 100, 30, "messages for the member that stays")
    # What was given to the member that left, in an answer to its last pop, comes when its invisible time has passed.
    eventually(lambda: set(collectors[0].bodies() + collectors[1].bodies()) == set(sent), 60, "every message")
    assert len(collectors[1].deliveries) == left_with
    assert staying.counters()[Event.SETTLE_FAILED] == 0


@pytest.mark.behaviour("PO-32")
@brokers
def test_a_java_member_and_a_python_member_pop_side_by_side(
    server: Server, java: None, producer: DefaultMQProducer, start_consumer: StartConsumer, tmp_path: Path
) -> None:
    topic = server.topic()
    group = popping_group(server, topic)
    collector = Collector(fail_first(lambda body: body.endswith(b"0")))
    with java_member(server, topic, group, tmp_path) as java_side:
        start_consumer(group, topic, collector, client_rebalance=False, pop_invisible_time=10_000)

        def came() -> Counter[bytes]:
            return collector.bodies() + Counter(delivery.body.encode() for delivery in java_side.deliveries())

        with sending(producer, topic) as sent:
            eventually(lambda: len(java_side.deliveries()) > 20 and len(collector.deliveries) > 20, 60, "both pop")
        eventually(lambda: set(came()) == set(sent), 60, "every message")
        failed = {body for body, _ in failures(collector)}
        assert failed

        def again() -> set[bytes]:
            at_java = {each.body.encode() for each in java_side.deliveries() if each.reconsume_times}
            return at_java | {msg.body for msg in collector.deliveries if msg.reconsume_times}

        eventually(lambda: again() >= failed, 60, "what failed here comes again, here or there")
        assert {each.topic for each in java_side.deliveries()} == {topic}
        assert {msg.topic for msg in collector.deliveries} == {topic}


def failures(collector: Collector) -> list[tuple[bytes, int]]:
    return [
        (msg.body, msg.reconsume_times)
        for msg in list(collector.deliveries)
        if msg.reconsume_times == 0 and msg.body.endswith(b"0")
    ]


@contextmanager
def java_member(server: Server, topic: str, group: str, folder: Path) -> Iterator[JavaMember]:
    """Upstream's consumer with ``clientRebalance = false``."""
    source = folder / "JavaMember.java"
    source.write_text(
        JAVA_MEMBER.replace(
            "consumer.setHeartbeat", "consumer.setClientRebalance(false);\n        consumer.setHeartbeat"
        )
    )
    class_path = compile_java([source])
    options = [*TESTS.jvm, f"-Drmq.logback.configurationFile={QUIET}", f"-Duser.home={folder}"]
    arguments = (server.namesrv_addr, topic, group, "success")
    member = JavaMember(java_command(class_path, "JavaMember", *arguments, options=options))
    try:
        member.wait_started()
        yield member
    finally:
        member.close()


@pytest.mark.behaviour("PA-10")
@pytest.mark.parametrize("server", ["apache-proxy-remoting"], indirect=True)
def test_a_server_that_assigns_no_queues_is_pulled_with_a_warning(
    server: Server, send: SendBodies, start_consumer: StartConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = server.topic(), server.group()
    collector = Collector()
    consumer = start_consumer(group, topic, collector, client_rebalance=False)
    collector.wait_for_bodies(send(topic, 100))
    assert len([mq for mq in consumer.windows() if mq.topic == topic]) == 8
    assert "does not assign queues (client_rebalance is False)" in caplog.text


@pytest.mark.skipif(not FULL, reason="a cluster of its own, a minute")
@pytest.mark.behaviour("PA-11")
def test_the_second_form_of_pop_retry_topics_is_popped_and_after_a_switch_pulled(java: None) -> None:
    # In a namespace, too: brokers know topic and group by longer names than the user.
    topic, group = "topic", f"group-{uuid.uuid4().hex[:8]}"
    whole_topic, whole_group = f"ns%{topic}", f"ns%{group}"
    collector = Collector(fail_first(lambda body: True))
    settings: dict[str, Any] = {"client_rebalance": False, "pop_invisible_time": 5_000, "namespace": "ns"}
    with ExitStack() as running:
        cluster = running.enter_context(ApacheCluster(broker_config={"enableRetryTopicV2": True}))
        server = ApacheBroker(cluster)
        server.create_topic(whole_topic, 4)
        server.create_group(whole_group)
        set_mode(server, whole_group, whole_topic, "POP")
        producer = running.enter_context(
            DefaultMQProducer("producer", namesrv_addr=server.namesrv_addr, namespace="ns")
        )
        consumer = DefaultMQPushConsumer(group, namesrv_addr=server.namesrv_addr, **settings)
        consumer.subscribe(topic)
        consumer.register_message_listener(collector)
        running.enter_context(consumer)
        producer.send(Message(topic, b"popped twice"))
        eventually(lambda: collector.bodies()[b"popped twice"] == 2, 60, "the message again")
        receipt = collector.deliveries[-1].get_property("POP_CK")
        assert receipt is not None
        assert receipt.split()[4] == "2"

        producer.send(Message(topic, b"popped, then pulled"))
        eventually(lambda: collector.bodies()[b"popped, then pulled"] == 1, 30, "the message")
        set_mode(server, whole_group, whole_topic, "PULL")

        def pulled_again() -> bool:
            consumer.resume()
            return collector.bodies()[b"popped, then pulled"] == 2

        eventually(pulled_again, 60, "the message again")
        again = collector.deliveries[-1]
        assert again.topic == topic
        assert f"%RETRY%{whole_group}+{whole_topic}" in owned_topics(consumer)
