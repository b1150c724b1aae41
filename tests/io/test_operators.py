"""What operators and traces cost a consumer whose broker is slow, silent or asks odd things."""

from __future__ import annotations

import logging
import time

import pytest

from rocketmq_py.consumer.stats import Event
from rocketmq_py.model import fastjson
from rocketmq_py.trace.async_trace_dispatcher import SHUTDOWN_MS
from tests.io.cluster import HEARTBEAT, SEND_V2, TOPIC, Cluster
from tests.io.conftest import MakeCluster, MakeConsumer
from tests.io.consumer import GROUP
from tests.io.server import Peer, Seen, encode_ask, eventually

RESET, RUNNING_INFO, CONSUME = 220, 307, 309
TRACES = "traces"


def connection_of(cluster: Cluster) -> Peer:
    """The connection on which the consumer sent its heartbeats: where a broker asks it."""
    return next(peer for peer in cluster.broker.open_peers() if any(seen.code == HEARTBEAT for seen in list(peer.seen)))


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def store_traceable(cluster: Cluster, count: int) -> None:
    """Messages as real brokers store them: they name their region."""
    cluster.store(*numbered(count), properties={"MSG_REGION": "region"})


def answers(cluster: Cluster) -> list[Seen]:
    return [seen for seen in cluster.broker.seen if seen.is_response]


@pytest.mark.behaviour("OP-05")
def test_an_operators_question_is_answered_on_the_connection_it_came_by(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    cluster.store(b"1", b"2")
    consumer = make_consumer(cluster)
    assert consumer.has(b"1", b"2")
    peer = connection_of(cluster)
    peer.send(encode_ask(RUNNING_INFO, 77, {"consumerGroup": GROUP, "clientId": "c", "jstackEnable": "true"}))
    assert eventually(lambda: answers(cluster))
    (answer,) = answers(cluster)
    assert (answer.opaque, answer.code) == (77, 0)
    told = fastjson.loads(answer.body)
    assert told["properties"]["PROP_NAMESERVER_ADDR"] == f"{cluster.address};"
    assert {mq.topic for mq in told["mqTable"]} >= {TOPIC}
    assert "RemotingIO" in told["jstack"]


def test_nonsense_in_place_of_a_question_costs_an_error_and_nothing_else(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    consumer = make_consumer(cluster)
    assert eventually(cluster.pulls)
    peer = connection_of(cluster)
    for opaque, code in enumerate((CONSUME, RUNNING_INFO, RESET)):
        peer.send(encode_ask(code, opaque, {"consumerGroup": GROUP if code == CONSUME else "other"}))
    assert eventually(lambda: len(answers(cluster)) == 3)
    assert {seen.opaque: seen.code for seen in answers(cluster)} == {0: 1, 1: 1, 2: 0}
    cluster.store(b"1")
    assert consumer.has(b"1")


def test_a_broker_that_does_not_answer_traces_holds_up_neither_the_consumption_nor_the_end(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    cluster.routes[TRACES] = cluster.route(1, TRACES)
    cluster.scripts[SEND_V2] = lambda peer, seen: True
    store_traceable(cluster, 100)
    consumer = make_consumer(cluster, enable_msg_trace=True, customized_trace_topic=TRACES)
    assert consumer.has(*numbered(100))
    began = time.monotonic()
    consumer.consumer.shutdown()
    assert time.monotonic() - began < SHUTDOWN_MS / 1000 + 10
    assert consumer.consumer.counters()[Event.TRACE_LOST] > 0
    assert cluster.committed[GROUP, TOPIC, "broker-a", 0] == 100


def test_a_trace_topic_that_does_not_exist_is_logged_once_and_consumption_goes_on(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster()
    store_traceable(cluster, 50)
    with caplog.at_level(logging.WARNING, "rocketmq_py.trace"):
        consumer = make_consumer(cluster, enable_msg_trace=True, trace_msg_batch_num=5)
        assert consumer.has(*numbered(50))
        consumer.consumer.shutdown()
    assert consumer.consumer.counters()[Event.TRACE_LOST] == 100
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("rocketmq_py.trace")]
    assert "trace contexts for RMQ_SYS_TRACE_TOPIC are lost: " in line
    assert "create it" in line


def test_a_start_that_fails_leaves_no_trace_behind(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster()
    cluster.routes[TOPIC] = b"nonsense"
    consumer = make_consumer(cluster, start=False, enable_msg_trace=True, customized_trace_topic=TRACES)
    with pytest.raises(Exception, match="malformed JSON"):
        consumer.consumer.start()
    cluster.routes = {TOPIC: cluster.route(1), TRACES: cluster.route(1, TRACES)}
    store_traceable(cluster, 1)
    consumer.consumer.start()
    assert consumer.has(b"0")
    consumer.consumer.shutdown()
    sends = [seen for seen in cluster.broker.seen if seen.code == SEND_V2]
    assert sum(seen.body.count(b"SubBefore") for seen in sends) == 1
    assert {seen.fields["a"].rpartition("-")[0] for seen in sends} == {f"_INNER_TRACE_PRODUCER-{GROUP}-CONSUME"}
