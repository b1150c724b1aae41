"""The trace of a producer, as it arrives at a broker."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    DefaultMQProducer,
    LocalTransactionState,
    Message,
    SendCallback,
    TransactionMQProducer,
)
from rocketmq_py.model.message import parse_properties
from tests.io.cluster import SEND_V2, TOPIC, Cluster, reply_sent
from tests.io.conftest import MakeCluster, MakeProducer
from tests.io.server import Peer, Seen

TRACES = "RMQ_SYS_TRACE_TOPIC"
COMMIT = LocalTransactionState.COMMIT_MESSAGE


class Committed:
    def execute_local_transaction(self, msg: Message, arg: Any) -> LocalTransactionState:
        return COMMIT

    def check_local_transaction(self, msg: Any) -> LocalTransactionState:
        return COMMIT


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster()
    cluster.routes[TRACES] = cluster.routes["traces"] = cluster.route(1)
    return cluster


def traced(
    make_producer: MakeProducer, cluster: Cluster, kind: type[DefaultMQProducer] = DefaultMQProducer, **settings: Any
) -> DefaultMQProducer:
    return make_producer(cluster, kind, enable_msg_trace=True, **settings)


def trace_messages(cluster: Cluster, topic: str = TRACES) -> list[Seen]:
    return [seen for seen in cluster.broker.seen if seen.code == SEND_V2 and seen.fields.get("b") == topic]


def records(cluster: Cluster, topic: str = TRACES) -> list[list[str]]:
    text = b"".join(seen.body for seen in trace_messages(cluster, topic)).decode()
    return [record.split("\x01") for record in text.split("\x02")[:-1]]


@pytest.mark.behaviour("TR-10")
def test_a_message_that_was_stored_is_traced_with_what_is_known_of_it(
    cluster: Cluster, make_producer: MakeProducer
) -> None:
    began = int(time.time() * 1000)
    producer = traced(make_producer, cluster)
    sent = producer.send(Message(TOPIC, b"body", tags="T", keys=["k1", "k2"]))
    assert records(cluster) == []  # not on the way of the send
    producer.shutdown()
    (record,) = records(cluster)
    assert began - 1_000 < int(record[1]) < began + 60_000
    assert 0 <= int(record[10]) < 60_000
    assert record == [
        "Pub", record[1], "DefaultRegion", "producers", TOPIC, sent.msg_id, "T", "k1 k2", cluster.broker.address, "4",
        record[10], "0", sent.offset_msg_id, "true",
    ]  # fmt: skip
    (message,) = trace_messages(cluster)
    assert parse_properties(message.fields["i"].encode())["KEYS"] == f"{sent.msg_id} k1 k2"
    assert message.fields["a"].startswith("_INNER_TRACE_PRODUCER-producers-PRODUCE-")


@pytest.mark.behaviour("TR-10")
def test_asynchronous_sends_and_batches_are_traced_too_a_batch_as_one(
    cluster: Cluster, make_producer: MakeProducer
) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    producer = traced(make_producer, cluster, customized_trace_topic="traces")
    producer.send_async(Message(TOPIC, b"async", delay_time_level=3), SendCallback(told.put, told.put))
    one = told.get(timeout=30)
    batch = producer.send([Message(TOPIC, b"1", keys="k"), Message(TOPIC, b"2", tags="T")])
    producer.shutdown()
    assert records(cluster) == []
    first, second = records(cluster, "traces")
    assert (first[5], first[11]) == (one.msg_id, "3")
    assert second[5:8] == [batch.msg_id, "null", "null"]
    assert (batch.msg_id.count(","), second[13]) == (1, "true")


@pytest.mark.behaviour("TR-11")
def test_what_was_refused_what_nobody_knows_and_what_a_broker_wants_untraced_is_not_traced(
    cluster: Cluster, make_producer: MakeProducer
) -> None:
    def refuse(peer: Peer, seen: Seen) -> bool:
        if seen.fields["b"] == TOPIC and seen.body == b"refused":
            peer.reply(seen, code=13, remark="illegal")
        elif seen.fields["b"] == TOPIC and seen.body == b"untraced":
            peer.reply(seen, fields={"msgId": "m", "queueId": "0", "queueOffset": "0", "TRACE_ON": "false"})
        else:
            return reply_sent(peer, seen)
        return True

    cluster.scripts[SEND_V2] = refuse
    producer = traced(make_producer, cluster)
    with pytest.raises(BrokerError, match="illegal"):
        producer.send(Message(TOPIC, b"refused"))
    producer.send(Message(TOPIC, b"untraced"))
    producer.send_oneway(Message(TOPIC, b"oneway"))
    producer.send(Message(TRACES, b"to the trace topic itself"))
    stored = producer.send(Message(TOPIC, b"stored"))
    producer.shutdown()
    *_, last = trace_messages(cluster)
    assert last.body.count(b"\x02") == 1
    assert stored.msg_id.encode() in last.body


@pytest.mark.behaviour("TR-10")
def test_the_trace_gives_the_length_of_the_body_as_it_was_given(cluster: Cluster, make_producer: MakeProducer) -> None:
    producer = traced(make_producer, cluster)
    producer.send(Message(TOPIC, b"x" * 10_000))
    producer.shutdown()
    assert next(len(seen.body) for seen in cluster.broker.seen if seen.code == SEND_V2) < 1_000
    assert [record[9] for record in records(cluster)] == ["10000"]


@pytest.mark.behaviour("TR-11")
def test_a_topic_whose_name_only_begins_like_the_trace_topics_is_traced(
    cluster: Cluster, make_producer: MakeProducer
) -> None:
    cluster.routes["traces-2"] = cluster.route(1)
    producer = traced(make_producer, cluster, customized_trace_topic="traces")
    producer.send(Message("traces-2", b"x"))
    producer.shutdown()
    assert [record[4] for record in records(cluster, "traces")] == ["traces-2"]


@pytest.mark.behaviour("TR-12")
def test_a_transaction_is_traced_as_a_half_message_and_its_end(cluster: Cluster, make_producer: MakeProducer) -> None:
    producer = traced(make_producer, cluster, TransactionMQProducer, transaction_listener=Committed())
    assert isinstance(producer, TransactionMQProducer)
    sent = producer.send_message_in_transaction(Message(TOPIC, b"half", tags="T"))
    producer.shutdown()
    half, end = records(cluster)
    assert (half[0], half[5], half[11]) == ("Pub", sent.msg_id, "1")
    assert end == [
        "EndTransaction", end[1], "DefaultRegion", "producers", TOPIC, sent.msg_id, "T", "null", cluster.broker.address,
        "2", sent.transaction_id or "null", "COMMIT_MESSAGE", "false",
    ]  # fmt: skip


@pytest.mark.behaviour("NS-04")
def test_records_of_a_producer_name_topic_and_group_without_the_namespace(
    cluster: Cluster, make_producer: MakeProducer
) -> None:
    cluster.routes[f"ns%{TOPIC}"] = cluster.route(1)
    producer = traced(make_producer, cluster, TransactionMQProducer, transaction_listener=Committed(), namespace="ns")
    assert isinstance(producer, TransactionMQProducer)
    producer.send_message_in_transaction(Message(TOPIC, b"half"))
    producer.shutdown()
    half, end = records(cluster)
    assert half[3:5] == end[3:5] == ["producers", TOPIC]


def test_tracing_is_refused_on_the_grpc_wire() -> None:
    producer = DefaultMQProducer("producers", endpoints="127.0.0.1:1", enable_msg_trace=True)
    with pytest.raises(ConfigError, match="enable_msg_trace is not offered on the gRPC wire"):
        producer.start()
