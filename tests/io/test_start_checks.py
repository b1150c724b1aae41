"""What brokers may refuse when a consumer starts: the member itself, and expressions that are no tags."""

from __future__ import annotations

import json
import logging

import pytest

from rocketmq_py import BrokerError, MessageSelector, ServiceState
from rocketmq_py.model.codes import ResponseCode
from tests.io.cluster import HEARTBEAT, PULL, TOPIC
from tests.io.conftest import MakeCluster, MakeConsumer
from tests.io.server import Peer, Seen, encode, eventually, stays

CHECK_CLIENT_CONFIG = 46


def refuse(peer: Peer, seen: Seen) -> bool:
    return peer.reply(seen, ResponseCode.NO_PERMISSION, remark="check signature failed.")


@pytest.mark.behaviour("SE-03")
def test_a_consumer_whom_every_broker_refuses_does_not_start_and_may_try_again(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(["broker-a", "broker-b"])
    cluster.scripts[HEARTBEAT] = refuse
    consumer = make_consumer(cluster, start=False)
    with pytest.raises(BrokerError, match=r"send a heartbeat: CODE: 16 check signature failed.") as refused:
        consumer.consumer.start()
    assert refused.value.code == ResponseCode.NO_PERMISSION
    assert consumer.consumer.state is ServiceState.CREATE_JUST
    del cluster.scripts[HEARTBEAT]
    cluster.store(b"one")
    consumer.consumer.start()
    assert consumer.has(b"one")


@pytest.mark.behaviour("SE-03")
def test_one_broker_that_takes_the_member_is_enough_to_start(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(["broker-a", "broker-b"])
    other = cluster.brokers["broker-b"]
    cluster.scripts[HEARTBEAT] = lambda peer, seen: peer in other.peers and refuse(peer, seen)
    cluster.store(b"one")
    assert make_consumer(cluster).has(b"one")


@pytest.mark.behaviour("FI-03")
def test_a_broker_is_asked_about_an_expression_before_it_hears_of_the_member(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    asked: list[Seen] = []

    def check(peer: Peer, seen: Seen) -> bool:
        asked.append(seen)
        return peer.reply(seen, ResponseCode.SUBSCRIPTION_PARSE_FAILED, remark="no such thing")

    cluster.scripts[CHECK_CLIENT_CONFIG] = check
    consumer = make_consumer(cluster, start=False)
    consumer.consumer.subscribe(TOPIC, MessageSelector.by_sql("a > 5"))
    with pytest.raises(BrokerError, match=r"subscribe to topic topic by SQL92 'a > 5': CODE: 23 no such thing"):
        consumer.consumer.start()
    (request,) = asked
    body = json.loads(request.body)
    assert (body["group"], body["subscriptionData"]["topic"]) == ("group", TOPIC)
    assert (body["subscriptionData"]["expressionType"], body["subscriptionData"]["subString"]) == ("SQL92", "a > 5")
    assert body["clientId"].startswith("127.0.0.1@")
    assert cluster.broker.count(HEARTBEAT) == 0


@pytest.mark.behaviour("FI-03")
def test_no_broker_is_asked_about_tags(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster()
    make_consumer(cluster)
    assert cluster.broker.count(CHECK_CLIENT_CONFIG) == 0


@pytest.mark.behaviour("FI-04")
def test_pulls_tell_the_kind_of_the_expression_and_with_the_setting_the_expression(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    consumer = make_consumer(cluster, start=False, post_subscription_when_pull=True)
    consumer.consumer.subscribe(TOPIC, MessageSelector.by_sql("a > 5"))
    consumer.consumer.start()
    assert eventually(cluster.pulls)
    fields = cluster.pulls()[0].fields
    assert (fields["expressionType"], fields["subscription"]) == ("SQL92", "a > 5")


@pytest.mark.behaviour("FI-08")
def test_a_broker_too_old_for_expressions_is_not_pulled_and_named_in_the_log(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster()

    def beat(peer: Peer, seen: Seen) -> bool:
        cluster.handle("broker-a", NoReply(peer), seen)  # type: ignore[arg-type]
        return peer.send(encode({"code": 0, "flag": 1, "language": "JAVA", "opaque": seen.opaque, "version": 231}))

    class NoReply:
        def __init__(self, peer: Peer) -> None: ...

        def reply(self, *args: object) -> None: ...

    cluster.scripts[HEARTBEAT] = beat
    cluster.store(b"one")
    with caplog.at_level(logging.WARNING):
        consumer = make_consumer(cluster, start=False)
        consumer.consumer.subscribe(TOPIC, MessageSelector.by_sql("a > 5"))
        consumer.consumer.start()
        assert eventually(lambda: "older than 4.1.0 and takes the expression 'a > 5' for tags" in caplog.text)
    assert stays(lambda: cluster.broker.count(PULL) == len(cluster.pulls(topic="%RETRY%group")), 0.3)
    consumer.consumer.subscribe(TOPIC, "*")
    assert consumer.has(b"one")


@pytest.mark.behaviour("SE-03")
def test_a_refusal_beside_a_broker_that_does_not_answer_does_not_fail_the_start(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(["broker-a", "broker-b"])
    other = cluster.brokers["broker-b"]
    cluster.scripts[HEARTBEAT] = lambda peer, seen: peer not in other.peers or refuse(peer, seen)  # a: silence
    assert make_consumer(cluster, mq_client_api_timeout=200).consumer.state is ServiceState.RUNNING
