"""Transactions, timers and request-reply on a real broker; transactions on the embedded one, too.

The real broker asks about a transaction after 1.5 to 2.5 s, and again every second; the embedded one after 0.5 s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    LocalTransactionState,
    Message,
    MessageExt,
    MessageListenerConcurrently,
    RequestCallback,
    RequestTimeoutError,
    SendStatus,
    TransactionMQProducer,
    create_reply_message,
)
from rocketmq_py.model.producer_hooks import EndTransactionContext
from rocketmq_py.model.recall_handle import RecallHandle
from rocketmq_py.model.results import Messages
from tests.apache.cluster import TESTS, ApacheCluster
from tests.apache.jars import program_command
from tests.conformance.collector import Collector, eventually
from tests.embedded import EmbeddedProcess

COMMIT, ROLLBACK, UNKNOW = LocalTransactionState

Consume = Callable[..., None]


Cluster = ApacheCluster | EmbeddedProcess

on_both = pytest.mark.parametrize("cluster", ["apache", "embedded"], indirect=True)


@pytest.fixture(scope="module", params=["apache"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "embedded":
        with EmbeddedProcess(None, "--transaction-time-out", "300", "--transaction-check-interval", "200") as embedded:
            yield embedded
        return
    request.getfixturevalue("java")
    settings = {
        "transactionTimeOut": 1_500,
        "transactionCheckInterval": 1_000,
        # How long the broker keeps to itself what it was told; 3 s by default, so that it would ask all the same.
        "transactionOpBatchInterval": 100,
        "timerPrecisionMs": 100,
        "recallMessageEnable": "true",
    }
    with ApacheCluster(broker_config=settings) as cluster:
        yield cluster


@pytest.fixture
def topic(cluster: Cluster) -> str:
    topic = f"topic-{uuid.uuid4().hex[:12]}"
    cluster.create_topic(topic, 4)
    return topic


@pytest.fixture
def consume(cluster: Cluster, topic: str) -> Iterator[Consume]:
    """Start a consumer of the topic in a group of its own."""
    with ExitStack() as running:

        def start(listener: MessageListenerConcurrently) -> None:
            group = f"group-{uuid.uuid4().hex[:12]}"
            cluster.create_group(group)
            consumer = DefaultMQPushConsumer(
                group,
                namesrv_addr=cluster.namesrv_addr,
                consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            )
            consumer.subscribe(topic)
            consumer.register_message_listener(listener)
            running.callback(consumer.shutdown)
            consumer.start()

        yield start


class Transactions:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, executed: Any = UNKNOW, *checked: Any) -> None:
        self.executed = executed
        self.checked = list(checked)
        self.executions: list[tuple[Message, object]] = []
        self.checks: list[MessageExt] = []

    def execute_local_transaction(self, msg: Message, arg: object) -> Any:
        self.executions.append((msg, arg))
        return self._answer(self.executed)

    def check_local_transaction(self, msg: MessageExt) -> Any:
        self.checks.append(msg)
        return self._answer(self.checked.pop(0) if self.checked else UNKNOW)

    @staticmethod
    def _answer(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def transactional(cluster: Cluster) -> Iterator[Callable[..., TransactionMQProducer]]:
    with ExitStack() as running:

        def start(listener: Transactions, group: str = "", **settings: Any) -> TransactionMQProducer:
            producer = TransactionMQProducer(
                group or f"producers-{uuid.uuid4().hex[:12]}",
                transaction_listener=listener,
                namesrv_addr=cluster.namesrv_addr,
                send_msg_timeout=10_000,
                **settings,
            )
            return running.enter_context(producer)

        yield start


Transactional = Callable[..., TransactionMQProducer]


@on_both
@pytest.mark.behaviour("TX-01")
def test_a_committed_message_is_delivered_and_a_rolled_back_one_is_not(
    cluster: Cluster, topic: str, transactional: Transactional, consume: Consume
) -> None:
    collector = Collector()
    consume(collector)
    listener = Transactions(ROLLBACK)
    producer = transactional(listener)
    rolled_back = producer.send_message_in_transaction(Message(topic, b"rolled back"))
    listener.executed = COMMIT
    committed = producer.send_message_in_transaction(Message(topic, b"committed", tags="T", keys="k"), arg="argument")
    assert rolled_back.local_transaction_state is ROLLBACK
    assert committed.local_transaction_state is COMMIT
    assert committed.send_status is SendStatus.SEND_OK
    collector.wait_for_bodies([b"committed"])
    (got,) = collector.deliveries
    assert (got.msg_id, got.tags, got.keys) == (committed.msg_id, "T", "k")
    msg, arg = listener.executions[1]
    assert (msg.transaction_id, msg.body, msg.tags, arg) == (committed.msg_id, b"committed", "T", "argument")
    # Longer than the broker waits before it asks. A busy one may ask about what is decided; that changes nothing.
    time.sleep(4 if isinstance(cluster, ApacheCluster) else 1)
    assert len(collector.deliveries) == 1


@on_both
@pytest.mark.behaviour("TX-02", "TX-04")
@pytest.mark.parametrize("executed", [UNKNOW, None, "nonsense", ValueError("the local transaction failed")], ids=repr)
def test_what_is_not_decided_is_asked_for_until_it_is_committed(
    topic: str, transactional: Transactional, consume: Consume, executed: Any
) -> None:
    collector = Collector()
    consume(collector)
    listener = Transactions(executed, UNKNOW, ValueError("not today"), COMMIT)
    producer = transactional(listener)
    body = b"compressible " * 1_000
    sent = producer.send_message_in_transaction(Message(topic, body, properties={"own": "value"}))
    assert sent.local_transaction_state is UNKNOW
    collector.wait_for_bodies([body])
    checked = listener.checks[0]
    assert len(listener.checks) >= 3
    assert (checked.topic, checked.body, checked.msg_id) == (topic, body, sent.msg_id)
    assert (checked.transaction_id, checked.get_property("own")) == (sent.msg_id, "value")


@on_both
@pytest.mark.behaviour("TX-02")
def test_what_is_rolled_back_when_asked_for_is_never_delivered(
    cluster: Cluster, topic: str, transactional: Transactional, consume: Consume
) -> None:
    collector = Collector()
    consume(collector)
    listener = Transactions(UNKNOW, *[ROLLBACK] * 20)
    ends: list[EndTransactionContext] = []

    class Hook:
        def hook_name(self) -> str:
            return "test"

        def end_transaction(self, context: EndTransactionContext) -> None:
            ends.append(context)
            raise ValueError("a hook's error changes nothing")

    producer = transactional(listener)
    producer.register_end_transaction_hook(Hook())
    sent = producer.send_message_in_transaction(Message(topic, b"never"))
    eventually(lambda: len(ends) >= 2, 60, "the broker asks")
    time.sleep(3 if isinstance(cluster, ApacheCluster) else 1)
    assert collector.deliveries == []
    assert [(end.transaction_state, end.from_transaction_check, end.msg_id) for end in ends[:2]] == [
        (UNKNOW, False, sent.msg_id),
        (ROLLBACK, True, sent.msg_id),
    ]


#: Arguments: NAMESRV GROUP TOPIC. Dies between the half message and the end of its transaction.
DYING_PRODUCER = """
import os, signal, sys
from rocketmq_py import Message, TransactionMQProducer

class Dies:
    def execute_local_transaction(self, msg, arg):
        os.kill(os.getpid(), signal.SIGKILL)

    def check_local_transaction(self, msg):
        raise AssertionError

producer = TransactionMQProducer(sys.argv[2], transaction_listener=Dies(), send_msg_timeout=10_000)
producer.namesrv_addr = sys.argv[1]
producer.start()
producer.send_message_in_transaction(Message(sys.argv[3], b"of the dead"))
"""


@on_both
@pytest.mark.behaviour("TX-03")
def test_another_member_answers_for_a_producer_that_was_killed(
    cluster: Cluster, topic: str, transactional: Transactional, consume: Consume
) -> None:
    collector = Collector()
    consume(collector)
    group = f"producers-{uuid.uuid4().hex[:12]}"
    survivor = Transactions(ROLLBACK, *[COMMIT] * 20)
    # It sends nothing, so only its topics tell it which brokers to talk to.
    transactional(survivor, group, topics=[topic])
    died = subprocess.run(
        [sys.executable, "-c", DYING_PRODUCER, cluster.namesrv_addr, group, topic],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        timeout=60,
        check=False,
    )
    assert died.returncode == -9
    collector.wait_for_bodies([b"of the dead"])
    assert {msg.body for msg in survivor.checks} == {b"of the dead"}
    assert survivor.executions == []


@pytest.mark.behaviour("ET-01", "ET-04")
@pytest.mark.parametrize("cluster", ["embedded"], indirect=True)
def test_a_java_producers_transactions_end_as_it_says_at_once_or_when_it_is_asked(
    java: None, cluster: Cluster, topic: str, consume: Consume
) -> None:
    collector = Collector()
    consume(collector)
    command = program_command("JavaTransactions", cluster.namesrv_addr, topic, options=TESTS.jvm)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    collector.wait_for_bodies([b"commit", b"commit later"])
    asked = [line.split("|") for line in done.stdout.splitlines()]
    for body in ("commit later", "rollback later"):
        assert [line[1:] for line in asked if line[0] == body][:2] == [["1", body, "true"], ["2", body, "true"]]
    assert {line[0] for line in asked} == {"commit later", "rollback later"}
    assert all(msg.keys == f"k {msg.body.decode()}" for msg in collector.deliveries)
    time.sleep(1)
    assert sorted(msg.body for msg in collector.deliveries) == [b"commit", b"commit later"]


@pytest.mark.behaviour("PR-16", "PR-21")
def test_a_timer_message_is_delivered_when_its_time_has_come_and_one_recalled_before_never(
    cluster: Cluster, topic: str, consume: Consume
) -> None:
    collector = Collector()
    consume(collector)
    with DefaultMQProducer("timers", namesrv_addr=cluster.namesrv_addr, send_msg_timeout=10_000) as producer:
        began_ms = time.time_ns() // 1_000_000
        sent = [
            producer.send(Message(topic, b"2000 ms", delay_time_ms=2_000)),
            producer.send(Message(topic, b"2 s", delay_time_sec=2)),
            producer.send(Message(topic, b"at", deliver_time_ms=began_ms + 2_000)),
        ]
        producer.send(Message(topic, b"past", deliver_time_ms=1))
        recalled = producer.send(Message(topic, b"recalled", delay_time_ms=1_500))
        assert recalled.recall_handle is not None
        assert producer.recall_message(topic, recalled.recall_handle) == recalled.msg_id
        with pytest.raises(ConfigError, match="is not the recall handle"):
            producer.recall_message(topic, recalled.msg_id)
        with pytest.raises(BrokerError, match="topic not match"):
            producer.recall_message(
                topic, str(RecallHandle("other", sent[0].message_queue.broker_name, began_ms + 9_000, "id"))
            )
    collector.wait_for_bodies([b"2000 ms", b"2 s", b"at", b"past"])
    stored = {msg.body: msg.store_timestamp for msg in collector.deliveries}
    assert all(stored[body] - began_ms >= 1_800 for body in (b"2000 ms", b"2 s", b"at")), stored
    assert len(collector.deliveries) == 4
    assert all(result.recall_handle for result in sent)


class Replier(MessageListenerConcurrently):
    """Answers every request with its body in upper case, and what ``wrong`` names not at all."""

    def __init__(self, producer: DefaultMQProducer) -> None:
        self._producer = producer
        self.requests: list[MessageExt] = []

    def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        for msg in msgs:
            self.requests.append(msg)
            if msg.body != b"no answer":
                self._producer.send(create_reply_message(msg, msg.body.upper()))
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS


@pytest.fixture
def asker(cluster: Cluster) -> Iterator[DefaultMQProducer]:
    with DefaultMQProducer("askers", namesrv_addr=cluster.namesrv_addr) as producer:
        yield producer


@pytest.fixture
def replier(cluster: Cluster, consume: Consume) -> Iterator[Replier]:
    with DefaultMQProducer("repliers", namesrv_addr=cluster.namesrv_addr, send_msg_timeout=10_000) as producer:
        replier = Replier(producer)
        consume(replier)
        yield replier


@pytest.mark.behaviour("RR-01")
def test_a_request_gets_its_reply(asker: DefaultMQProducer, replier: Replier, topic: str) -> None:
    large = os.urandom(3_000).hex().encode()  # compressed both ways
    reply = asker.request(Message(topic, b"one", keys="k"), 60_000)
    assert (reply.body, asker.request(Message(topic, large), 60_000).body) == (b"ONE", large.upper())
    assert reply.topic == "DefaultCluster_REPLY_TOPIC"
    assert reply.get_property("CORRELATION_ID") == replier.requests[0].get_property("CORRELATION_ID")
    assert int(reply.get_property("ARRIVE_TIME") or 0) > 0
    chosen = asker.request(Message(topic, b"two"), 60_000, selector=lambda queues, message, arg: queues[arg], arg=3)
    assert chosen.body == b"TWO"
    assert replier.requests[-1].queue_id == 3


@pytest.mark.behaviour("RR-01")
def test_many_threads_get_their_own_replies(asker: DefaultMQProducer, replier: Replier, topic: str) -> None:
    got: dict[int, bytes] = {}

    def ask(number: int) -> None:
        got[number] = asker.request(Message(topic, b"request %d" % number), 60_000).body

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(70)
    assert got == {number: b"REQUEST %d" % number for number in range(8)}


@pytest.mark.behaviour("RR-02")
def test_a_request_that_nobody_answers_is_over_in_time(asker: DefaultMQProducer, replier: Replier, topic: str) -> None:
    asker.request(Message(topic, b"warm"), 60_000)
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match="had no reply within 2000 ms: does its consumer reply"):
        asker.request(Message(topic, b"no answer"), 2_000)
    assert 1.9 <= time.monotonic() - began < 20
    eventually(lambda: any(msg.body == b"no answer" for msg in replier.requests), 30, "the request is consumed")


@pytest.mark.behaviour("RR-03")
def test_an_asynchronous_request_tells_its_callback_of_the_reply_or_the_time_out(
    asker: DefaultMQProducer, replier: Replier, topic: str
) -> None:
    told: list[object] = []
    asker.request_async(Message(topic, b"one"), RequestCallback(told.append, told.append), 60_000)
    eventually(lambda: len(told) == 1, 60, "the reply")
    asker.request_async(Message(topic, b"no answer"), RequestCallback(told.append, told.append), 1_000)
    eventually(lambda: len(told) == 2, 30, "the time-out")
    assert isinstance(told[0], MessageExt)
    assert told[0].body == b"ONE"
    assert isinstance(told[1], RequestTimeoutError)


@pytest.mark.behaviour("RR-01")
def test_java_asks_and_our_consumer_replies(cluster: ApacheCluster, replier: Replier, topic: str) -> None:
    done = cluster.java("JavaRequestReply", cluster.namesrv_addr, topic, "ask", "from java")
    assert done.stdout.splitlines() == ["FROM JAVA"]


@pytest.mark.behaviour("RR-01")
def test_we_ask_and_java_replies(cluster: ApacheCluster, asker: DefaultMQProducer, topic: str) -> None:
    group = f"group-{uuid.uuid4().hex[:12]}"
    cluster.create_group(group)
    program = cluster.start_java("JavaRequestReply", cluster.namesrv_addr, topic, "reply", group)
    assert program.stdout is not None
    assert program.stdout.readline() == "started\n", "it ended"
    assert asker.request(Message(topic, b"from python"), 60_000).body == b"FROM PYTHON"


@pytest.mark.behaviour("NS-03")
def test_transactions_and_requests_work_in_a_namespace(cluster: Cluster, transactional: Transactional) -> None:
    namespace, topic, group = (f"{kind}-{uuid.uuid4().hex[:8]}" for kind in ("ns", "topic", "group"))
    cluster.create_topic(f"{namespace}%{topic}", 4)
    cluster.create_group(f"{namespace}%{group}")
    listener = Transactions(COMMIT, COMMIT)
    producer = transactional(listener, namespace=namespace)
    replier = Replier(producer)
    consumer = DefaultMQPushConsumer(
        group,
        namesrv_addr=cluster.namesrv_addr,
        namespace=namespace,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    )
    consumer.subscribe(topic)
    consumer.register_message_listener(replier)
    with consumer:
        assert producer.request(Message(topic, b"question"), 60_000).body == b"QUESTION"
        assert replier.requests[0].topic == topic
    collector = Collector()
    group = f"other-{group}"
    cluster.create_group(f"{namespace}%{group}")
    consumer = DefaultMQPushConsumer(
        group,
        namesrv_addr=cluster.namesrv_addr,
        namespace=namespace,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    )
    consumer.subscribe(topic)
    consumer.register_message_listener(collector)
    with consumer:
        producer.send_message_in_transaction(Message(topic, b"committed"))
        listener.executed = UNKNOW
        asked_about = producer.send_message_in_transaction(Message(topic, b"asked about"))
        listener.executed = ROLLBACK
        producer.send_message_in_transaction(Message(topic, b"rolled back"))
        collector.wait_for_bodies([b"committed", b"asked about"])
    assert b"rolled back" not in collector.bodies()
    assert (asked_about.message_queue.topic, listener.checks[0].topic) == (topic, topic)
    assert {msg.topic for msg in collector.deliveries} == {topic}
