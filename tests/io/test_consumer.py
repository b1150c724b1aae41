"""A whole consumer against a name server and brokers that lie, stall and vanish."""

from __future__ import annotations

import gc
import json
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import (
    ConfigError,
    ConsumeFromWhere,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    MessageExt,
    MessageListenerOrderly,
)
from rocketmq_py.client_instance import MQClientInstance
from rocketmq_py.consumer_parts import ConsumerParts
from rocketmq_py.errors import ConnectError, RocketMQError, TransportError
from rocketmq_py.model.config import ClientConfig, MessageModel
from rocketmq_py.model.results import Messages
from rocketmq_py.push_consumer import ServiceState
from rocketmq_py.remoting.bodies import ConsumerData
from rocketmq_py.runtime import ThreadRuntime
from tests.io.calls import in_threads, join
from tests.io.cluster import (
    BAD_BODIES,
    HEARTBEAT,
    LOCK,
    MEMBERS,
    NO_TOPIC,
    NOT_FOUND,
    NOTIFY,
    PULL,
    QUERY_OFFSET,
    ROUTE,
    TOPIC,
    UNLOCK,
    UNREGISTER,
    UPDATE_OFFSET,
    reply_pull,
    route,
)
from tests.io.conftest import MakeCluster, MakeConsumer, open_files, threads_of_the_package
from tests.io.consumer import GROUP, Consumer
from tests.io.server import (
    BOUND_S,
    BlackHole,
    Peer,
    Seen,
    Server,
    encode_ask,
    eventually,
    free_port,
    stays,
    stored_message,
)
from tests.unit.support import NotOperated


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def test_it_consumes_commits_and_leaves(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster(queues=2)
    cluster.store(*numbered(100))
    mine = make_consumer(cluster)
    assert mine.has(*numbered(100))
    cluster.store(*numbered(10, 100), queue_id=1)
    assert mine.has(*numbered(110))
    mine.consumer.shutdown()
    assert eventually(lambda: cluster.committed.get((GROUP, TOPIC, "broker-a", 0)) == 100)
    assert cluster.committed[GROUP, TOPIC, "broker-a", 1] == 10
    codes = cluster.broker.codes()
    assert codes.index(UPDATE_OFFSET) < codes.index(UNREGISTER)
    assert eventually(lambda: not cluster.broker.open_peers())
    assert not any(peer.broken for server in (cluster.broker, cluster.name_server) for peer in server.peers)


# Lies about messages and offsets.


@pytest.mark.parametrize("bad", ["damaged", "bomb"])
def test_a_message_that_cannot_be_read_holds_its_queue_and_no_other(
    bad: str, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(queues=3)
    body = BAD_BODIES["noise" if bad == "damaged" else "a bomb"]

    def poisoned(peer: Peer, seen: Seen) -> bool:
        if seen.fields["queueId"] != "0" or seen.fields["topic"] != TOPIC or int(seen.fields["queueOffset"]) < 2:
            return False
        return reply_pull(peer, seen, 3, 3, body)

    cluster.scripts[PULL] = poisoned
    cluster.store(b"first", b"second", b"(poison)", b"(behind it)")
    mine = make_consumer(cluster, pull_batch_size=1)
    assert mine.has(b"first", b"second")
    assert eventually(lambda: len([seen for seen in cluster.pulls() if seen.fields["queueOffset"] == "2"]) >= 2)
    for number in range(20):
        cluster.store(b"%d" % number, queue_id=1 + number % 2)
    assert mine.has(*numbered(20))
    mine.consumer.shutdown()
    assert cluster.committed[GROUP, TOPIC, "broker-a", 0] == 2
    assert max(int(seen.fields["queueOffset"]) for seen in cluster.pulls()) == 2
    assert len(cluster.broker.peers) == 1


@pytest.mark.parametrize("next_offset", [0, 32], ids=["before its own messages", "behind them"])
def test_an_answer_that_does_not_move_on_does_not_flood_listener_memory_and_broker(
    next_offset: int, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # The same 32 messages again and again, and "go on where you were". Taken as it is, the window would never hold more
    # than 32, flow control would see nothing, and the queue in front of the listener would grow for ever.
    cluster = make_cluster()
    found = b"".join([stored_message(offset, b"%d" % offset) for offset in range(32)])
    cluster.scripts[PULL] = lambda peer, seen: (
        seen.fields["topic"] == TOPIC and reply_pull(peer, seen, next_offset, 32, found)
    )
    go_on = threading.Event()
    mine = make_consumer(cluster, lambda msg: go_on.wait(BOUND_S) and None)
    assert eventually(cluster.pulls)
    flooded = not stays(lambda: len(cluster.pulls()) < 30, 0.6)
    pulls = len(cluster.pulls())
    go_on.set()
    assert not flooded, f"{pulls} pulls brought {pulls * 32} messages while two threads were busy with the first two"
    assert eventually(lambda: len(mine.got) == next_offset)


def test_an_answer_that_goes_back_does_not_deliver_for_ever(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()

    def back(peer: Peer, seen: Seen) -> bool:
        if seen.fields["topic"] != TOPIC:
            return False
        offset = int(seen.fields["queueOffset"])
        if offset < 2:
            return reply_pull(peer, seen, offset + 1, 2, stored_message(offset, b"%d" % offset))
        return reply_pull(peer, seen, 1, 2, stored_message(0, b"0"))

    cluster.scripts[PULL] = back
    mine = make_consumer(cluster)
    assert eventually(lambda: len(mine.got) >= 2)
    flooded = not stays(lambda: len(mine.got) < 20, 0.5)
    assert not flooded, f"two messages were delivered {len(mine.got)} times in half a second"


@pytest.mark.parametrize(
    ("code", "lie"), [(0, "2^63"), (0, "-5"), (0, "in a message"), (NOT_FOUND, "2^63"), (NOT_FOUND, "-5")]
)
def test_an_absurd_offset_is_never_committed_and_consumption_goes_on_when_the_broker_is_sane_again(
    code: int, lie: str, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    lies: list[Seen] = []

    def lying(peer: Peer, seen: Seen) -> bool:
        if seen.fields["topic"] != TOPIC or lies or seen.fields["queueOffset"] != "1":
            return False
        lies.append(seen)
        if lie == "in a message":
            return reply_pull(peer, seen, 2, 2, stored_message(2**62, b"from the future"))
        return reply_pull(
            peer, seen, str(2**63) if lie == "2^63" else "-5", 2, stored_message(1) if code == 0 else b"", code
        )

    cluster.scripts[PULL] = lying
    cluster.store(b"zero", b"one", b"two")
    mine = make_consumer(cluster, pull_batch_size=1)
    assert mine.has(b"zero")
    recovered = mine.has(b"one", b"two", bound_s=1.5)
    mine.consumer.shutdown()
    committed = {seen.fields["commitOffset"] for seen in cluster.broker.seen if seen.code == UPDATE_OFFSET}
    committed |= {seen.fields["commitOffset"] for seen in cluster.pulls()}
    assert committed <= {"0", "1", "2", "3"}
    asked_for = {seen.fields["queueOffset"] for seen in cluster.pulls()}
    assert asked_for <= {"0", "1", "2", "3"}
    assert recovered


@pytest.mark.parametrize("max_offset", ["-1", "1"])
def test_a_property_that_claims_to_be_the_queues_end_does_not_strand_messages(
    max_offset: str, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # The window reads MAX_OFFSET when it takes messages. 5,000 digits are more than Python turns into a number.
    cluster = make_cluster()
    evil = stored_message(0, b"evil", properties={"MAX_OFFSET": "9" * 5_000})
    lies: list[Seen] = []

    def lying(peer: Peer, seen: Seen) -> bool:
        if seen.fields["topic"] != TOPIC or seen.fields["queueOffset"] != "0" or len(lies) > 1:
            return False
        lies.append(seen)
        return reply_pull(peer, seen, 1, max_offset, evil)

    cluster.scripts[PULL] = lying
    cluster.store(b"zero", b"one")
    mine = make_consumer(cluster)
    assert mine.has(b"one", bound_s=2), mine.bodies()
    assert len(mine.got) == 2
    mine.consumer.shutdown()
    assert cluster.committed[GROUP, TOPIC, "broker-a", 0] == 2


# Members.


def test_a_change_of_members_is_acted_upon_at_once(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster(queues=2)
    mine = make_consumer(cluster)
    assert eventually(lambda: cluster.pulls(0) and cluster.pulls(1))
    rebalances = cluster.broker.count(MEMBERS)
    me = next(iter(cluster._heard[GROUP]))
    cluster.members = [me, "127.0.0.1@~zzz"]
    for peer in cluster.broker.open_peers():
        peer.send(encode_ask(NOTIFY, fields={"consumerGroup": GROUP}, oneway=True))
    assert eventually(lambda: cluster.broker.count(MEMBERS) > rebalances, 3)
    cluster.store(b"mine", queue_id=0)
    assert mine.has(b"mine")


@pytest.mark.behaviour("LC-06")
def test_a_suspended_consumer_neither_pulls_nor_rebalances_until_it_is_resumed(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    mine = make_consumer(cluster)
    assert eventually(cluster.held_pulls)
    mine.consumer.suspend()
    cluster.store(b"under way")  # brought by the pull that the broker holds
    assert mine.has(b"under way")
    rebalances = cluster.broker.count(MEMBERS)
    cluster.store(b"later")
    for peer in cluster.broker.open_peers():
        peer.send(encode_ask(NOTIFY, fields={"consumerGroup": GROUP}, oneway=True))
    assert stays(lambda: mine.bodies() == [b"under way"] and cluster.broker.count(MEMBERS) == rebalances, 2)
    mine.consumer.resume()
    assert mine.has(b"later")
    assert eventually(lambda: cluster.broker.count(MEMBERS) > rebalances)


@pytest.mark.behaviour("LC-07")
@pytest.mark.parametrize("model", MessageModel)
def test_a_consumer_subscribes_to_its_retry_topic_unless_it_is_broadcasting(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, tmp_path: Path, model: MessageModel
) -> None:
    cluster = make_cluster()
    make_consumer(cluster, message_model=model, local_offset_store_dir=str(tmp_path))
    first = next(seen for seen in cluster.broker.seen if seen.code == HEARTBEAT)
    [told] = json.loads(first.body)["consumerDataSet"]
    retry = [f"%RETRY%{GROUP}"] if model is MessageModel.CLUSTERING else []
    assert sorted(each["topic"] for each in told["subscriptionDataSet"]) == [*retry, TOPIC]
    assert (told["messageModel"], told["consumeType"]) == (model.value, "CONSUME_PASSIVELY")


def test_a_notice_while_joining_does_not_rebalance_before_every_broker_has_heard_of_the_member(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # The first broker tells the group's members of the new one as soon as it hears of it. A rebalance at that moment
    # might ask the second broker, which knows nobody yet, and the next rebalance is a second away.
    cluster = make_cluster(("broker-a", "broker-b"))
    first, second = cluster.brokers["broker-a"], cluster.brokers["broker-b"]
    too_early: list[int] = []

    def beat(peer: Peer, seen: Seen) -> bool:
        if peer in first.peers:
            peer.send(encode_ask(NOTIFY, fields={"consumerGroup": GROUP}, oneway=True))
        elif not too_early:
            stays(lambda: first.count(MEMBERS) + second.count(MEMBERS) == 0, 0.3)
            too_early.append(first.count(MEMBERS) + second.count(MEMBERS))
        return False

    cluster.scripts[HEARTBEAT] = beat
    make_consumer(cluster)
    assert eventually(lambda: first.count(PULL) and second.count(PULL))
    assert too_early == [0]


def test_a_consumer_tells_of_no_producer(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster()
    make_consumer(cluster)
    assert eventually(lambda: cluster.broker.count(HEARTBEAT))
    first = next(seen for seen in cluster.broker.seen if seen.code == HEARTBEAT)
    assert json.loads(first.body)["producerDataSet"] == []


def test_a_static_topic_fails_the_start_in_clear_words(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster()
    cluster.routes[TOPIC]["topicQueueMappingByBroker"] = {"broker-a": {"bname": "broker-a", "totalQueues": 1}}
    mine = make_consumer(cluster, start=False)
    with pytest.raises(ConfigError, match="is a static"):
        mine.consumer.start()
    with (
        DefaultMQProducer("producers", namesrv_addr=cluster.address) as producer,
        pytest.raises(ConfigError, match="is a static"),
    ):
        producer.send(Message(TOPIC, b"x"))


def test_another_expression_while_running_is_told_before_pulls_name_it(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    versions = {TOPIC: 0}
    refused: list[int] = []

    def beat(peer: Peer, seen: Seen) -> bool:
        for consumer in json.loads(seen.body)["consumerDataSet"]:
            for subscription in consumer["subscriptionDataSet"]:
                versions[subscription["topic"]] = subscription["subVersion"]
        return False

    def pull(peer: Peer, seen: Seen) -> bool:
        if versions[seen.fields["topic"]] < int(seen.fields["subVersion"]):
            refused.append(int(seen.fields["subVersion"]))
        return False

    cluster.scripts.update({HEARTBEAT: beat, PULL: pull})
    mine = make_consumer(cluster)
    cluster.store(b"first")
    assert mine.has(b"first")
    before = versions[TOPIC]
    mine.consumer.subscribe(TOPIC, "TagA")
    cluster.store(*numbered(5))  # answers the held pull: the next ones follow while the change is under way
    assert eventually(lambda: versions[TOPIC] > before)

    def pulled_by_the_new_one() -> bool:
        cluster.store(b"x")
        return int(cluster.pulls()[-1].fields["subVersion"]) == versions[TOPIC]

    assert eventually(pulled_by_the_new_one)
    assert refused == []


@pytest.mark.behaviour("LC-08")
def test_topics_come_and_go_while_it_runs_also_by_its_own_listener(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    def change(msg: MessageExt) -> None:
        if msg.body == b"subscribe":
            mine.consumer.subscribe("second")
        elif msg.body == b"unsubscribe":
            mine.consumer.unsubscribe("second")

    cluster = make_cluster()
    cluster.routes["second"] = cluster.route(1, "second")
    cluster.store(b"of the second", topic="second")
    mine = make_consumer(cluster, change)
    cluster.store(b"subscribe")
    assert mine.has(b"of the second")
    cluster.store(b"unsubscribe")
    assert mine.has(b"unsubscribe")
    for peer in cluster.broker.open_peers():  # its queues go at the next rebalance
        peer.send(encode_ask(NOTIFY, fields={"consumerGroup": GROUP}, oneway=True))
    assert eventually(lambda: cluster.committed.get((GROUP, "second", "broker-a", 0)) == 1)
    assert eventually(lambda: all(mq.topic != "second" for mq in mine.consumer.windows()))
    cluster.store(b"for nobody", topic="second")
    cluster.store(b"last")
    assert mine.has(b"last")
    assert stays(lambda: b"for nobody" not in mine.bodies(), 0.5)


def test_a_flood_of_notifications_costs_one_rebalance_a_second(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    make_consumer(cluster)
    assert eventually(cluster.pulls)
    before = cluster.broker.count(MEMBERS)
    peer = cluster.broker.open_peers()[0]
    end = time.monotonic() + 1.1
    while time.monotonic() < end:
        peer.send(b"".join([encode_ask(NOTIFY, fields={"consumerGroup": GROUP}, oneway=True)] * 500))
    assert cluster.broker.count(MEMBERS) - before <= 6  # two topics, at most every second, and one that was under way


def test_odd_lists_of_members_lose_no_queue_for_longer_than_they_are_odd(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    odd: list[list[Any]] = [
        [], [None], [1, 2], ["someone else"], ["x"] * 10_000, [""], [{"a": 1}], ["\ud800"], [["nested"]],
    ]  # fmt: skip
    clusters = [make_cluster() for _ in odd]
    consumers = []
    for cluster, members in zip(clusters, odd, strict=True):
        cluster.members = members
        consumers.append(make_consumer(cluster))
    for cluster in clusters:
        assert eventually(lambda cluster=cluster: cluster.broker.count(MEMBERS) >= 1)  # type: ignore[misc]
        cluster.members = None
        cluster.store(b"here")
    for mine, members in zip(consumers, odd, strict=True):
        assert mine.has(b"here", bound_s=4), f"{members!r:.60}"


def test_a_member_that_is_listed_twice_still_consumes_every_queue(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # A broker lists members by connection: after a connection was lost without a word, the old one counts as a member
    # for up to two minutes beside the new one.
    cluster = make_cluster(queues=4)
    twice: list[str] = []

    def members(peer: Peer, seen: Seen) -> bool:
        twice[:] = list(cluster._heard.get(GROUP, ())) * 2
        cluster.members = list(twice)
        return False

    cluster.scripts[MEMBERS] = members
    mine = make_consumer(cluster)
    for number in range(4):
        cluster.store(b"%d" % number, queue_id=number)
    assert mine.has(*numbered(4), bound_s=2), f"of 4 queues only {len(mine.got)} are consumed"


# Routes.


def test_one_broker_whose_address_is_none_does_not_keep_the_others_from_being_heard_of_and_consumed(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(("broker-b",))
    cluster.routes[TOPIC] = route(1, {"broker-a": "broker..example:10911", "broker-b": cluster.broker.address})
    cluster.store(b"here", broker="broker-b")
    mine = make_consumer(cluster, heartbeat_broker_interval=200)
    assert mine.has(b"here", bound_s=5)
    before = cluster.broker.count(HEARTBEAT)
    assert eventually(lambda: cluster.broker.count(HEARTBEAT) >= before + 3, 4), "no heartbeats to the good broker"


def test_a_broker_whose_address_becomes_none_does_not_keep_the_others_from_being_committed(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    mine = make_consumer(cluster, poll_name_server_interval=100)
    cluster.store(b"a", broker="broker-a")
    cluster.store(b"b", broker="broker-b")
    assert mine.has(b"a", b"b")
    cluster.routes[TOPIC] = route(
        1, {"broker-a": "broker..example:10911", "broker-b": cluster.brokers["broker-b"].address}
    )
    asked = cluster.name_server.count(ROUTE)
    assert eventually(lambda: cluster.name_server.count(ROUTE) >= asked + 6)
    cluster.store(b"more", broker="broker-b")
    assert mine.has(b"more")
    mine.consumer.shutdown()
    assert eventually(lambda: cluster.committed.get((GROUP, TOPIC, "broker-b", 0)) == 2, 2), cluster.committed
    assert mine.consumer.state is ServiceState.SHUTDOWN_ALREADY


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"queueDatas":[],"brokerDatas":[]}',
        b'{"queueDatas":7,"brokerDatas":7}',
        b"\xff" * 50,
    ],
    ids=["empty", "null", "list", "half", "no queues", "numbers", "noise"],
)
def test_a_route_that_is_none_either_fails_the_start_or_is_looked_for_again(
    body: bytes, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    good = cluster.routes[TOPIC]
    cluster.routes[TOPIC] = body
    mine = make_consumer(cluster, start=False, poll_name_server_interval=150)
    try:
        mine.consumer.start()
    except RocketMQError:
        assert mine.consumer.state is ServiceState.CREATE_JUST
        cluster.routes[TOPIC] = good
        mine.consumer.start()
    cluster.routes[TOPIC] = good
    cluster.store(b"here")
    assert mine.has(b"here", bound_s=5)


def test_a_queue_that_a_changed_route_adds_is_taken_at_once(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(queues=1)
    make_consumer(cluster, poll_name_server_interval=100)
    assert eventually(cluster.pulls)
    cluster.routes[TOPIC] = cluster.route(2)
    assert eventually(lambda: cluster.pulls(queue_id=1)), "the next turn is 20 s away, nobody woke the rebalance"


def test_a_retry_topic_that_the_broker_makes_at_the_heartbeat_is_found_at_once(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    retry_topic = f"%RETRY%{GROUP}"

    def make_topic(peer: Peer, seen: Seen) -> bool:
        cluster.routes[retry_topic] = cluster.route(1)
        return False

    cluster.scripts[HEARTBEAT] = make_topic
    make_consumer(cluster)
    assert eventually(lambda: cluster.pulls(topic=retry_topic)), "routes are asked for every 30 s only"


def test_a_broker_that_the_first_route_of_a_late_topic_names_hears_of_the_member_before_it_is_asked_for_members(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # The consumer is started before the first message of its only topic is sent: no broker is known till then.
    cluster = make_cluster()
    route = cluster.routes.pop(TOPIC)
    make_consumer(cluster)
    assert stays(lambda: cluster.broker.count(HEARTBEAT) == 0, 1.4)  # the client's first turn was in vain
    members_first: list[int] = []

    def note(peer: Peer, seen: Seen) -> bool:
        if not cluster.broker.count(HEARTBEAT):
            members_first.append(seen.code)
        return False

    cluster.scripts[MEMBERS] = note
    cluster.routes[TOPIC] = route
    assert eventually(cluster.pulls, 12), "the next heartbeat is 30 s away"
    assert members_first == []


def test_a_batch_size_that_no_pull_can_fill_is_named_at_the_start(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    make_consumer(make_cluster(), consume_message_batch_max_size=64)
    assert "a listener call gets what one pull brings, at most 32" in caplog.text


def test_queues_of_a_broker_that_no_route_names_cost_the_others_nothing(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    odd = cluster.route(1)
    odd["queueDatas"].append({"brokerName": "nowhere", "readQueueNums": 8, "writeQueueNums": 8, "perm": 6})
    odd["brokerDatas"].append({"cluster": "c", "brokerName": "empty", "brokerAddrs": {}})
    cluster.routes[TOPIC] = odd
    cluster.store(b"here")
    mine = make_consumer(cluster)
    assert mine.has(b"here")
    cluster.store(b"and here")
    assert mine.has(b"and here")


def test_thousands_of_queues(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster(queues=1_500)
    cluster.store(b"last", queue_id=1_499)
    mine = make_consumer(cluster)
    assert mine.has(b"last", bound_s=8)
    started = time.monotonic()
    mine.consumer.shutdown()
    assert time.monotonic() - started < 4


def test_an_address_for_everything_is_a_proxy_and_its_pulls_go_over_connections_of_their_own(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(queues=3)
    # The broker answers name server requests as well: this is what a proxy looks like.
    mine = make_consumer(cluster, namesrv_addr=cluster.broker.address)
    for number in range(3):
        cluster.store(b"%d" % number, queue_id=number)
    assert mine.has(*numbered(3))
    pulling = [peer for peer in cluster.broker.peers if any(seen.code == PULL for seen in peer.seen)]
    assert len(pulling) >= 3
    assert all({seen.code for seen in peer.seen} == {PULL} for peer in pulling)


def test_a_broker_that_vanishes_without_a_word_costs_the_other_broker_nothing(
    black_hole: BlackHole, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(("broker-b",))
    cluster.routes[TOPIC] = route(4, {"broker-a": black_hole.address, "broker-b": cluster.broker.address})
    cluster.store(b"here", broker="broker-b")
    started = time.monotonic()
    mine = make_consumer(cluster)
    assert time.monotonic() - started < 4
    assert mine.has(b"here", bound_s=20)
    cluster.store(b"and here", broker="broker-b")
    assert mine.has(b"and here", bound_s=1)


def test_a_broker_that_is_restarted_is_consumed_again(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster()
    mine = make_consumer(cluster)
    cluster.store(b"before")
    assert mine.has(b"before")
    port = cluster.broker.port
    cluster.broker.stop()
    cluster.brokers["broker-a"] = Server(cluster._handler("broker-a"), port=port)
    cluster.store(b"after")
    assert mine.has(b"after", bound_s=5)


def test_a_broker_that_went_silent_on_the_old_connection_is_consumed_again_over_a_new_one(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # A router that forgot the connection: no FIN, no RST, nothing ever comes. Heartbeats tell, and only they.
    cluster = make_cluster()
    mine = make_consumer(cluster, heartbeat_broker_interval=300)
    cluster.store(b"before")
    assert mine.has(b"before")
    handle = cluster.broker.handle
    silent = len(cluster.broker.peers)

    def deaf_on_old(peer: Peer, seen: Seen) -> None:
        if peer.number >= silent:
            handle(peer, seen)

    cluster.broker.handle = deaf_on_old
    with cluster._lock:
        cluster._held.clear()
    cluster.store(b"after")
    assert mine.has(b"after", bound_s=4), "the consumer keeps to a connection on which nothing comes any more"


# Life.


def test_a_name_server_that_accepts_and_is_silent_fails_the_start_in_time_and_it_can_be_tried_again(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    cluster.scripts[ROUTE] = lambda peer, seen: True
    mine = make_consumer(cluster, start=False)
    started = time.monotonic()
    with pytest.raises(TransportError, match="no name server can be reached"):
        mine.consumer.start()
    assert time.monotonic() - started < 2
    assert mine.consumer.state is ServiceState.CREATE_JUST
    del cluster.scripts[ROUTE]
    mine.consumer.start()
    cluster.store(b"here")
    assert mine.has(b"here")


def test_the_second_name_server_is_asked_when_the_first_cannot_answer(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    mine = make_consumer(cluster, namesrv_addr=f"127.0.0.1:{free_port()};{cluster.address}")
    cluster.store(b"here")
    assert mine.has(b"here")


def test_the_second_name_server_is_asked_when_the_first_answers_nonsense(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster, liar = make_cluster(), make_cluster()
    liar.scripts[ROUTE] = lambda peer, seen: peer.reply(seen, body=b"{nonsense")
    mine = make_consumer(cluster, start=False, namesrv_addr=f"{liar.address};{cluster.address}")
    mine.consumer.start()
    cluster.store(b"here")
    assert mine.has(b"here")


def test_a_shutdown_during_the_start_is_not_forgotten(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    # SIGTERM while start() waits for a slow name server: the handler calls shutdown().
    cluster = make_cluster()
    asked, answer = threading.Event(), threading.Event()

    def slow(peer: Peer, seen: Seen) -> bool:
        asked.set()
        answer.wait(BOUND_S)
        return False

    cluster.scripts[ROUTE] = slow
    mine = make_consumer(cluster, start=False, mq_client_api_timeout=5_000)
    errors: list[Exception] = []

    def start(number: int) -> None:
        try:
            mine.consumer.start()
        except RocketMQError as error:
            errors.append(error)

    starting = in_threads(1, start)
    assert asked.wait(BOUND_S)
    ending = in_threads(1, lambda number: mine.consumer.shutdown())
    ending[0].join(0.3)  # it may wait for the start, or tell it to give up
    answer.set()
    join(starting)
    join(ending)
    assert mine.consumer.state is ServiceState.SHUTDOWN_ALREADY, "shutdown() came back and the consumer runs"


@pytest.mark.parametrize("silent", [UNREGISTER, QUERY_OFFSET])
def test_shutdown_does_not_wait_long_for_a_broker_that_is_silent(
    silent: int, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(queues=8)
    cluster.scripts[silent] = lambda peer, seen: True
    mine = make_consumer(cluster)
    assert eventually(lambda: cluster.broker.count(silent) or silent == UNREGISTER)
    started = time.monotonic()
    mine.consumer.shutdown()
    assert time.monotonic() - started < 3.5


def test_shutdown_while_the_broker_vanishes(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster(queues=8)
    mine = make_consumer(cluster)
    assert eventually(lambda: len(cluster.held_pulls()) >= 8)
    stopping = in_threads(1, lambda number: cluster.stop())
    mine.consumer.shutdown()
    join(stopping)
    assert mine.consumer.state is ServiceState.SHUTDOWN_ALREADY


@pytest.mark.behaviour("QL-05")
def test_an_orderly_consumer_that_ends_commits_then_unlocks_then_leaves(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.scripts[LOCK] = lambda peer, seen: peer.reply(
        seen, body=json.dumps({"lockOKMQSet": json.loads(seen.body)["mqSet"]}).encode()
    )
    cluster.store(b"x")
    got: list[MessageExt] = []

    def consume(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        got.extend(msgs)
        return ConsumeOrderlyStatus.SUCCESS

    consumer = DefaultMQPushConsumer(
        GROUP, namesrv_addr=cluster.address, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    )
    consumer.subscribe(TOPIC)
    consumer.register_message_listener(MessageListenerOrderly(consume))
    with consumer:
        assert eventually(lambda: got)
    last = [seen.code for seen in cluster.broker.seen if seen.code in (UPDATE_OFFSET, UNLOCK, UNREGISTER)]
    assert last[-3:] == [UPDATE_OFFSET, UNLOCK, UNREGISTER]


def test_shutdown_from_the_listener(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    cluster = make_cluster()
    done = threading.Event()

    def end(msg: MessageExt) -> None:
        mine.consumer.shutdown()
        done.set()

    mine = make_consumer(cluster, end)
    cluster.store(b"end")
    assert done.wait(BOUND_S)
    assert mine.consumer.state is ServiceState.SHUTDOWN_ALREADY


def test_ctrl_c_during_the_shutdown_ends_the_waiting_and_the_member_leaves_all_the_same(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # A member that stayed in the group would keep its queues and consume none of them.
    cluster = make_cluster()
    busy, go_on = threading.Event(), threading.Event()

    def slow(msg: MessageExt) -> None:
        if msg.body == b"slow":
            busy.set()
            go_on.wait(BOUND_S)

    mine = make_consumer(cluster, slow, await_termination_millis_when_shutdown=30_000)
    cluster.store(b"done")
    assert mine.has(b"done")
    cluster.store(b"slow")
    assert busy.wait(BOUND_S)

    main = threading.main_thread().ident

    def press(number: int) -> None:
        eventually(lambda: not mine.consumer._parts)
        stays(lambda: True, 0.3)  # until it waits for the listener
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    pressing = in_threads(1, press)
    with pytest.raises(KeyboardInterrupt):
        mine.consumer.shutdown()
    join(pressing)
    go_on.set()
    assert mine.consumer.state is ServiceState.SHUTDOWN_ALREADY
    assert cluster.broker.count(UNREGISTER) == 1
    assert cluster.committed[GROUP, TOPIC, "broker-a", 0] == 1


def test_a_brokers_address_in_the_place_of_a_name_servers_fails_the_start_in_clear_words(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    cluster.scripts[ROUTE] = lambda peer, seen: (
        peer in cluster.broker.peers and peer.reply(seen, 3, remark=" request type 105 not supported")
    )
    address = cluster.broker.address
    mine = make_consumer(cluster, start=False, namesrv_addr=address)
    with pytest.raises(ConnectError, match=f"{address} is no name server"):
        mine.consumer.start()
    mine.consumer.namesrv_addr = f"{address};{cluster.address}"
    mine.consumer.start()
    cluster.store(b"here")
    assert mine.has(b"here")


def test_consumers_that_come_and_go_leave_nothing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(queues=2)
    cluster.store(*numbered(20))
    threads, files = threads_of_the_package(), open_files()
    for turn in range(25):
        mine = Consumer(cluster, group=f"group-{turn}")
        mine.consumer.start()
        if turn % 3:
            assert mine.has(*numbered(20))
        mine.consumer.shutdown()
    assert eventually(lambda: threads_of_the_package() <= threads, 5)
    assert eventually(lambda: not cluster.broker.open_peers() and not cluster.name_server.open_peers())
    assert eventually(lambda: open_files() <= files, 3), f"{open_files() - files} files left open"


def test_200_client_instances_leave_nothing(make_cluster: MakeCluster) -> None:
    cluster, runtime = make_cluster(), ThreadRuntime()
    threads, files = threads_of_the_package(), open_files()
    for number in range(200):
        client = MQClientInstance(f"127.0.0.1@{number}", ClientConfig(namesrv_addr=cluster.address), runtime)
        assert client.update_topic_route(TOPIC)
        client.shutdown()
        client.shutdown()
    assert eventually(lambda: threads_of_the_package() <= threads, 5)
    assert eventually(lambda: not cluster.name_server.open_peers())
    assert eventually(lambda: open_files() <= files, 3), f"{open_files() - files} files left open"


def test_consumers_that_shared_a_client_are_forgotten_when_they_end(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    # A producer keeps the client alive; a job that commits offsets must not keep every consumer there ever was.
    cluster = make_cluster()
    with DefaultMQProducer("producers", namesrv_addr=cluster.address, instance_name="shared", client_ip="127.0.0.1"):
        gone: list[weakref.ref[Consumer]] = []
        for turn in range(3):
            mine = Consumer(cluster, group=f"group-{turn}", instance_name="shared", persist_consumer_offset_interval=50)
            mine.consumer.start()
            mine.consumer.shutdown()
            gone.append(weakref.ref(mine))
            del mine

        def forgotten() -> bool:
            gc.collect()
            return not any(ref() is not None for ref in gone)

        # 10 s is when a consumer's first commit is due: whatever refers to it must not wait for that.
        assert eventually(forgotten, 3), "consumers that were shut down are still referred to"


class Inner(NotOperated):
    """A consumer as the client sees it, without any inside."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.joined = True

    def heartbeat(self) -> ConsumerData:
        return ConsumerData(group=self.group, consume_from_where="CONSUME_FROM_LAST_OFFSET", subscriptions=[])

    def topics(self) -> list[str]:
        return [TOPIC]

    def update_topic_subscribe_info(self, topic: str, queues: object) -> bool:
        return False

    def is_subscribe_topic_need_update(self, topic: str) -> bool:
        return False

    def do_rebalance(self) -> bool:
        return True

    def persist_consumer_offset(self) -> None: ...


def test_a_heartbeat_under_way_does_not_bring_back_a_consumer_that_has_left(make_cluster: MakeCluster) -> None:
    # The client goes on for another consumer. Its heartbeat to the first broker is slow; what it then tells the second
    # one was put together before the consumer left. That ghost would own queues for two minutes.
    cluster = make_cluster(("broker-a", "broker-b"))
    first, second = cluster.brokers["broker-a"], cluster.brokers["broker-b"]
    asked, answer = threading.Event(), threading.Event()

    def slow(peer: Peer, seen: Seen) -> bool:
        if peer in first.peers and b"leaves" in seen.body:
            asked.set()
            answer.wait(2)
        return False

    client = MQClientInstance(
        "127.0.0.1@ghost", ClientConfig(namesrv_addr=cluster.address, heartbeat_broker_interval=60_000), ThreadRuntime()
    )
    try:
        stays_on, leaves = Inner("stays"), Inner("leaves")
        client.register_consumer(stays_on)
        client.update_topic_route(TOPIC)
        assert client.send_heartbeat_to_all_brokers()
        cluster.scripts[HEARTBEAT] = slow
        client.register_consumer(leaves)
        beating = in_threads(1, lambda number: client.send_heartbeat_to_all_brokers() and None)
        assert asked.wait(BOUND_S)
        leaving = in_threads(1, lambda number: client.unregister_consumer(leaves))
        leaving[0].join(0.4)  # it may wait for the heartbeat to end
        answer.set()
        join(beating + leaving)
    finally:
        answer.set()
        client.shutdown()
    last = [
        seen.code for seen in second.seen
        if (seen.code == HEARTBEAT and b"leaves" in seen.body) or seen.fields.get("consumerGroup") == "leaves"
    ]  # fmt: skip
    assert last, "the second broker never heard of it"
    assert last[-1] == UNREGISTER, "the broker heard of the consumer again after it had left"


def test_a_heartbeat_waits_for_the_one_under_way_and_tells_what_changed_meanwhile(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    asked, answer = threading.Event(), threading.Event()

    def slow(peer: Peer, seen: Seen) -> bool:
        asked.set()
        answer.wait(2)
        return False

    cluster.scripts[HEARTBEAT] = slow
    client = MQClientInstance(
        "127.0.0.1@beats", ClientConfig(namesrv_addr=cluster.address, heartbeat_broker_interval=60_000), ThreadRuntime()
    )
    try:
        client.register_consumer(Inner("first"))
        client.update_topic_route(TOPIC)
        beating = in_threads(1, lambda number: client.send_heartbeat_to_all_brokers() and None)
        assert asked.wait(BOUND_S)
        client.register_consumer(Inner("second"))
        heard: list[bool] = []
        beating += in_threads(1, lambda number: heard.append(client.send_heartbeat_to_all_brokers()))
        answer.set()
        join(beating)
        assert heard == [True]
    finally:
        answer.set()
        client.shutdown()
    last = [seen.body for seen in cluster.broker.seen if seen.code == HEARTBEAT][-1]
    assert b"second" in last


def test_a_rebalance_under_way_does_not_take_queues_for_a_consumer_that_has_left(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    asked, answer = threading.Event(), threading.Event()

    def slow(peer: Peer, seen: Seen) -> bool:
        asked.set()
        answer.wait(BOUND_S)
        return False

    cluster.scripts[QUERY_OFFSET] = slow
    with DefaultMQProducer("producers", namesrv_addr=cluster.address, instance_name="shared", client_ip="127.0.0.1"):
        mine = make_consumer(cluster, instance_name="shared")
        assert asked.wait(BOUND_S)
        parts = mine.consumer._parts
        assert isinstance(parts, ConsumerParts)
        mine.consumer.shutdown()
        answer.set()
        assert eventually(lambda: cluster.broker.count(MEMBERS) >= 1)
        took = not stays(lambda: not parts.rebalance.windows(), 0.5)
        assert not took, "a consumer that was shut down took a queue, whose pull request goes round for ever"


def test_a_start_that_fails_half_way_gives_its_client_back(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # "can't start new thread": the limit of a container, met while the consume threads are made.
    cluster = make_cluster()
    before = threads_of_the_package()
    begin = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("ConsumeMessageThread_"):
            raise RuntimeError("can't start new thread")
        begin(thread)

    mine = make_consumer(cluster, start=False)
    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        mine.consumer.start()
    monkeypatch.setattr(threading.Thread, "start", begin)
    assert mine.consumer.state is ServiceState.CREATE_JUST
    assert eventually(lambda: threads_of_the_package() <= before, 1.5), "threads of a client that nobody will end"


def test_a_topic_that_does_not_exist_is_not_asked_for_all_the_time(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    cluster.scripts[ROUTE] = lambda peer, seen: peer.reply(seen, NO_TOPIC)
    make_consumer(cluster)
    assert stays(lambda: cluster.name_server.count(ROUTE) < 15, 0.8)


def test_a_broker_that_refuses_every_pull_is_asked_once_per_delay(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster()
    cluster.scripts[PULL] = lambda peer, seen: peer.reply(seen, 1, remark="not today")
    make_consumer(cluster, pull_time_delay_mills_when_exception=200)
    assert eventually(cluster.pulls)
    assert stays(lambda: len(cluster.pulls()) <= 5, 0.6)


def test_many_queues_of_a_broker_that_hangs_up_do_not_make_a_connection_each(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(queues=60)

    def hang_up(peer: Peer, seen: Seen) -> bool:
        peer.close()
        return True

    cluster.scripts[PULL] = hang_up
    make_consumer(cluster)
    assert eventually(cluster.pulls)
    before = len(cluster.broker.peers)
    stays(lambda: True, 0.6)
    made = len(cluster.broker.peers) - before
    assert made <= 8, f"{made} connections in half a second"


def test_a_silent_broker_does_not_keep_the_queues_of_another_waiting_for_each_of_its_own(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It accepts and is silent. Where to start is asked for every queue, 5 s each: with 16 queues there it would be more
    # than a minute until the first message of the broker that works.
    monkeypatch.setattr("rocketmq_py.consumer.offset_store.OFFSET_QUERY_TIMEOUT_MS", 1_100)
    cluster = make_cluster(("broker-a", "broker-b"), queues=12)

    def only_members(peer: Peer, seen: Seen) -> None:
        if seen.code in (MEMBERS, HEARTBEAT):
            cluster.handle("broker-a", peer, seen)

    cluster.brokers["broker-a"].handle = only_members
    cluster.store(b"here", broker="broker-b")
    mine = make_consumer(cluster)
    assert mine.has(b"here", bound_s=3), "still waiting for the silent broker"
