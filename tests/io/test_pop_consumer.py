"""A whole consumer whose broker has its topic popped."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import (
    ConsumeFromWhere,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQPushConsumer,
    MessageExt,
    MessageListenerOrderly,
    MessageModel,
)
from rocketmq_py.consumer.stats import Event
from rocketmq_py.model.results import Messages
from tests.io.cluster import TOPIC, UNREGISTER, Cluster
from tests.io.conftest import MakeCluster, MakeConsumer
from tests.io.server import Peer, Seen, eventually, stays, stored_message
from tests.io.test_pop_api import ACK, CHANGE, POP

QUERY_ASSIGNMENT, LOCK = 400, 41


class PoppingBroker:
    """Makes a cluster's broker assign the topic to be popped, and give messages out, one at a time.

    Pops are held while there are none.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._given = 0
        self._held: list[tuple[Peer, Seen]] = []
        self.asked: list[dict[str, Any]] = []
        cluster.scripts = {QUERY_ASSIGNMENT: self._assign, POP: self._pop}

    def _assign(self, peer: Peer, seen: Seen) -> bool:
        asked = json.loads(seen.body)
        self.asked.append(asked)
        queue = {"topic": asked["topic"], "brokerName": "broker-a", "queueId": -1}
        assigned = [{"messageQueue": queue, "mode": "POP"}] if asked["topic"] == TOPIC else []
        return peer.reply(seen, body=json.dumps({"messageQueueAssignments": assigned}).encode())

    def store(self, count: int) -> None:
        with self._lock:
            self._count += count
            held, self._held = self._held, []
        for peer, seen in held:
            self._pop(peer, seen)

    def _pop(self, peer: Peer, seen: Seen) -> bool:
        with self._lock:
            if self._given == self._count:
                self._held.append((peer, seen))
                return True
            offset, self._given = self._given, self._given + 1
        fields = {
            "popTime": "1700000000000", "invisibleTime": seen.fields["invisibleTime"], "reviveQid": "0", "restNum": "0",
            "startOffsetInfo": f"0 0 {offset}", "msgOffsetInfo": f"0 0 {offset}",
        }  # fmt: skip
        return peer.reply(seen, 0, fields, stored_message(offset, b"%d" % offset))


def offsets(cluster: Cluster, code: int) -> set[int]:
    return {int(seen.fields["offset"]) for seen in cluster.broker.seen if seen.code == code}


@pytest.mark.behaviour("PO-33")
def test_it_pops_acknowledges_and_leaves(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster()
    broker = PoppingBroker(cluster)
    failing: set[bytes] = {b"7"}

    def fail_once(msg: MessageExt) -> None:
        if msg.body in failing:
            raise RuntimeError

    mine = make_consumer(cluster, fail_once, client_rebalance=False)
    broker.store(50)
    assert mine.has(*[b"%d" % number for number in range(50)])
    assert eventually(lambda: offsets(cluster, ACK) == set(range(50)) - {7})
    assert eventually(lambda: offsets(cluster, CHANGE) == {7})
    assert {msg.topic for msg in mine.got} == {TOPIC}
    assert broker.asked[0] == {
        "topic": TOPIC, "consumerGroup": "group", "clientId": broker.asked[0]["clientId"], "strategyName": "AVG",
        "messageModel": "CLUSTERING",
    }  # fmt: skip
    mine.consumer.shutdown()
    assert mine.consumer.counters()[Event.SETTLE_FAILED] == 0
    assert eventually(lambda: not cluster.broker.open_peers())


@pytest.mark.behaviour("PO-33")
def test_shutdown_waits_for_what_was_popped_and_leaves_after_its_acknowledgements(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    broker = PoppingBroker(cluster)
    go_on = threading.Event()
    mine = make_consumer(
        cluster, lambda msg: go_on.wait(10), client_rebalance=False, await_termination_millis_when_shutdown=10_000
    )
    broker.store(4)  # two threads: two of them wait
    assert eventually(lambda: len(mine.got) == 2)
    assert eventually(lambda: cluster.broker.count(POP) == 5)
    ending = threading.Thread(target=mine.consumer.shutdown)
    ending.start()
    assert stays(ending.is_alive, 0.3)
    go_on.set()
    ending.join(10)
    assert not ending.is_alive()
    assert len(mine.got) == 4
    assert offsets(cluster, ACK) == {0, 1, 2, 3}
    codes = cluster.broker.codes()
    assert max(number for number, code in enumerate(codes) if code == ACK) < codes.index(UNREGISTER)


@pytest.mark.behaviour("PO-33")
def test_what_shutdown_has_no_time_for_is_not_acknowledged(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    broker = PoppingBroker(cluster)
    go_on = threading.Event()
    mine = make_consumer(
        cluster, lambda msg: go_on.wait(10), client_rebalance=False, await_termination_millis_when_shutdown=100
    )
    broker.store(4)
    assert eventually(lambda: len(mine.got) == 2 and cluster.broker.count(POP) == 5)
    mine.consumer.shutdown()
    go_on.set()
    assert stays(lambda: len(mine.got) == 2 and not offsets(cluster, ACK), 0.3)


@pytest.mark.behaviour("PO-33")
def test_a_consumer_that_is_suspended_pops_nothing_until_it_is_resumed(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    broker = PoppingBroker(cluster)
    mine = make_consumer(cluster, client_rebalance=False)
    broker.store(1)
    assert mine.has(b"0")
    mine.consumer.suspend()
    broker.store(2)  # one goes to the pop that is held
    assert mine.has(b"1")
    assert stays(lambda: len(mine.got) == 2, 1.5)
    mine.consumer.resume()
    assert mine.has(b"2")


@pytest.mark.behaviour("PA-12")
def test_a_broadcasting_consumer_asks_no_broker_for_queues(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, tmp_path: Path
) -> None:
    cluster = make_cluster()
    broker = PoppingBroker(cluster)
    cluster.store(b"pulled")
    mine = make_consumer(
        cluster, client_rebalance=False, message_model=MessageModel.BROADCASTING, local_offset_store_dir=str(tmp_path)
    )
    assert mine.has(b"pulled")
    assert broker.asked == []


@pytest.mark.behaviour("PA-12")
def test_an_orderly_consumer_asks_no_broker_for_queues(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    broker = PoppingBroker(cluster)
    cluster.scripts[LOCK] = lambda peer, seen: peer.reply(
        seen, body=json.dumps({"lockOKMQSet": json.loads(seen.body)["mqSet"]}).encode()
    )
    cluster.store(b"pulled")
    got: list[MessageExt] = []

    def consume(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        got.extend(msgs)
        return ConsumeOrderlyStatus.SUCCESS

    first = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer = DefaultMQPushConsumer(
        "group", namesrv_addr=cluster.address, client_rebalance=False, consume_from_where=first
    )
    consumer.subscribe(TOPIC)
    consumer.register_message_listener(MessageListenerOrderly(consume))
    with consumer:
        assert eventually(lambda: got)
    assert broker.asked == []
