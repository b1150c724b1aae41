"""A producer against brokers that die, stall and refuse, and name servers that do not answer."""

from __future__ import annotations

import os
import threading
import time
import zlib
from queue import SimpleQueue
from typing import Any

import pytest

from rocketmq_py import ConfigError, DefaultMQProducer, Message, MessageQueue, SendCallback, SendResult
from rocketmq_py.client_instance import MQClientInstance
from rocketmq_py.errors import BrokerError, ConnectError, RocketMQError, TransportError
from rocketmq_py.model.config import ClientConfig
from rocketmq_py.model.producer_hooks import CheckForbiddenContext
from rocketmq_py.model.recall_handle import RecallHandle
from rocketmq_py.runtime import ThreadRuntime
from tests.io.calls import in_threads, join
from tests.io.cluster import RECALL, ROUTE, SEND_V2, TOPIC, Cluster, reply_sent, route
from tests.io.conftest import MakeCluster, MakeProducer, MakeServer
from tests.io.server import BOUND_S, BlackHole, Peer, Seen, Server, eventually, free_port


def message(body: bytes = b"body") -> Message:
    return Message(TOPIC, body)


def sent_to(cluster: Cluster) -> dict[str, int]:
    return {name: server.count(SEND_V2) for name, server in cluster.brokers.items()}


@pytest.mark.parametrize("how", ["closes", "resets", "speaks nonsense"])
def test_a_broker_that_dies_between_request_and_answer_is_a_transport_error(
    how: str, make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()

    def die(peer: Peer, seen: Seen) -> bool:
        if how == "speaks nonsense":
            peer.send(b"nonsense nonsense")
        elif how == "closes":
            peer.close()
        else:
            peer.reset()
        return True

    cluster.scripts[SEND_V2] = die
    producer = make_producer(cluster, retry_times_when_send_failed=0)
    started = time.monotonic()
    with pytest.raises(TransportError):
        producer.send(message())
    assert time.monotonic() - started < 1
    del cluster.scripts[SEND_V2]
    assert eventually(lambda: sends(producer), 3)


def sends(producer: DefaultMQProducer) -> bool:
    try:
        producer.send(message())
    except RocketMQError:
        return False
    return True


def test_a_body_that_compression_makes_larger_is_sent_as_it_is(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster)
    noise, text = os.urandom(8_192), b"text" * 2_048
    producer.send(message(noise))
    producer.send(message(text))
    first, second = (seen for seen in cluster.broker.seen if seen.code == SEND_V2)
    assert (first.body, int(first.fields["f"]) & 1) == (noise, 0)
    assert (zlib.decompress(second.body), int(second.fields["f"]) & 1) == (text, 1)


@pytest.mark.behaviour("PR-20")
@pytest.mark.parametrize("unit_mode", [False, True])
def test_a_unit_is_told_with_each_send_and_to_hooks_that_forbid(
    make_cluster: MakeCluster, make_producer: MakeProducer, unit_mode: bool
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster, unit_mode=unit_mode)
    hook = Asked()
    producer.register_check_forbidden_hook(hook)
    producer.send(message(b"x"))
    (sent,) = (seen for seen in cluster.broker.seen if seen.code == SEND_V2)
    assert (sent.fields["k"], hook.unit_modes) == (str(unit_mode).lower(), [unit_mode])


class Asked:
    """A hook that forbids nothing."""

    def __init__(self) -> None:
        self.unit_modes: list[bool] = []

    def hook_name(self) -> str:
        return "asked"

    def check_forbidden(self, context: CheckForbiddenContext) -> None:
        self.unit_modes.append(context.unit_mode)


def test_the_second_attempt_of_a_retry_tells_count_and_limit_as_the_first_did(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    retry_topic = "%RETRY%group"
    cluster.routes[retry_topic] = cluster.routes[TOPIC]
    refused: list[Seen] = []

    def refuse_once(peer: Peer, seen: Seen) -> bool:
        refused.append(seen)
        return len(refused) == 1 and peer.reply(seen, 14, remark="no service now")

    cluster.scripts[SEND_V2] = refuse_once
    client = MQClientInstance("127.0.0.1@retry", ClientConfig(namesrv_addr=cluster.address), ThreadRuntime())
    try:
        properties = {"RECONSUME_TIME": "3", "MAX_RECONSUME_TIMES": "5"}
        client.broker.send_retry_message(retry_topic, b"body", 0, properties)
    finally:
        client.shutdown()
    assert [(seen.fields["j"], seen.fields["l"]) for seen in refused] == [("3", "5")] * 2


HANDLE = str(RecallHandle(TOPIC, "broker-b", 1_000, "id"))


@pytest.mark.behaviour("PR-21")
@pytest.mark.parametrize(("brokers", "asked"), [(("broker-a", "broker-b"), "broker-b"), (("proxy",), "proxy")])
def test_a_recall_goes_to_the_broker_that_the_handle_names_or_to_a_proxy_before_it(
    make_cluster: MakeCluster, make_producer: MakeProducer, brokers: tuple[str, ...], asked: str
) -> None:
    cluster = make_cluster(brokers=brokers)
    cluster.scripts[RECALL] = lambda peer, seen: peer.reply(seen, fields={"msgId": "id"})
    assert make_producer(cluster).recall_message(TOPIC, HANDLE) == "id"
    told = {
        name: [seen.fields for seen in server.seen if seen.code == RECALL] for name, server in cluster.brokers.items()
    }
    fields = {"producerGroup": "producers", "topic": TOPIC, "recallHandle": HANDLE, "bname": "broker-b"}
    assert {name: sent for name, sent in told.items() if sent} == {asked: [fields]}


@pytest.mark.behaviour("PR-21")
def test_a_recall_without_a_handle_is_refused_before_anybody_is_asked(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    """As it is when the message was not delayed, or the broker gives none."""
    cluster = make_cluster()
    producer = make_producer(cluster)
    nothing: list[Any] = [producer.send(message()).recall_handle, "", b"handle"]
    for handle in nothing:
        with pytest.raises(ConfigError, match="was the message delayed"):
            producer.recall_message(TOPIC, handle)
    assert cluster.broker.count(RECALL) == 0


@pytest.mark.behaviour("PR-19")
def test_a_send_to_a_queue_goes_there_and_is_tried_nowhere_else(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"), queues=2)
    producer = make_producer(cluster)
    queue = producer.fetch_publish_message_queues(TOPIC)[3]
    assert [producer.send(message(), queue=queue).message_queue for _ in range(3)] == [queue] * 3
    assert producer.send([message(), message()], queue=queue).message_queue == queue
    ended: SimpleQueue[SendResult | Exception] = SimpleQueue()
    producer.send_async(message(), SendCallback(ended.put, ended.put), queue=queue)
    sent = ended.get(timeout=BOUND_S)
    assert isinstance(sent, SendResult)
    assert sent.message_queue == queue
    producer.send_oneway(message(), queue=queue)
    assert eventually(lambda: sent_to(cluster) == {"broker-a": 0, "broker-b": 5})
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, 14, remark="no service now")
    with pytest.raises(BrokerError):
        producer.send(message(), queue=queue)
    assert sent_to(cluster) == {"broker-a": 0, "broker-b": 6}


@pytest.mark.behaviour("PR-19")
def test_a_queue_that_is_none_or_of_another_topic_or_beside_a_selector_is_refused(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    producer = make_producer(make_cluster())
    with pytest.raises(ConfigError, match="cannot go to a queue of topic other"):
        producer.send(message(), queue=MessageQueue("other", "broker-a", 0))
    with pytest.raises(ConfigError, match="is a MessageQueue"):
        producer.send_oneway(message(), queue=0)  # type: ignore[arg-type]
    queue = MessageQueue(TOPIC, "broker-a", 0)
    with pytest.raises(ConfigError, match="not both"):
        producer.send(message(), queue=queue, selector=lambda queues, message, arg: queue)


def test_a_send_whose_broker_dies_goes_to_the_other_one(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster(("broker-a", "broker-b"), queues=2)
    dying = cluster.brokers["broker-a"]

    def die(peer: Peer, seen: Seen) -> bool:
        if peer in dying.peers:
            peer.close()
            return True
        return False

    cluster.scripts[SEND_V2] = die
    producer = make_producer(cluster)
    results = [producer.send(message(b"%d" % number)) for number in range(12)]
    assert {result.message_queue.broker_name for result in results} == {"broker-b"}
    assert sent_to(cluster)["broker-a"] >= 1
    # One message, one id, whatever the number of attempts.
    ids = [seen.fields["i"] for server in cluster.brokers.values() for seen in server.seen if seen.code == SEND_V2]
    assert len({part for text in ids for part in text.split("\x02") if part.startswith("UNIQ_KEY")}) == 12


def test_a_send_goes_to_the_other_broker_when_one_cannot_be_reached(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-b",))
    for nowhere in (f"127.0.0.1:{free_port()}", "broker..example:10911", "b" * 70 + ":10911", "127.0.0.1"):
        cluster.routes[TOPIC] = route(2, {"broker-a": nowhere, "broker-b": cluster.broker.address})
        producer = make_producer(cluster)
        results = [producer.send(message()) for _ in range(6)]
        assert {result.message_queue.broker_name for result in results} == {"broker-b"}, nowhere
        producer.shutdown()


def test_the_time_for_a_send_holds_for_a_broker_that_is_silent(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    cluster.scripts[SEND_V2] = lambda peer, seen: True
    producer = make_producer(cluster)
    started = time.monotonic()
    with pytest.raises(TransportError):
        producer.send(message(), timeout_ms=250)
    assert 0.2 < time.monotonic() - started < 0.8
    assert sum(sent_to(cluster).values()) == 1


def test_the_time_for_a_send_holds_for_a_broker_that_vanished(
    black_hole: BlackHole, make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    cluster.routes[TOPIC] = route(2, {"broker-a": black_hole.address})
    producer = make_producer(cluster)
    started = time.monotonic()
    with pytest.raises(TransportError):
        producer.send(message(), timeout_ms=300)
    assert time.monotonic() - started < 0.9


def test_a_send_waits_for_a_silent_name_server_no_longer_than_a_request_may_take(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    cluster.scripts[ROUTE] = lambda peer, seen: True
    producer = make_producer(cluster, mq_client_api_timeout=1_500)
    started = time.monotonic()
    with pytest.raises(TransportError):
        producer.send(message(), timeout_ms=300)
    # Asking for the route has a time-out of its own, as in Java.
    assert time.monotonic() - started < 1.5 + 1


def test_a_send_that_waited_too_long_for_its_route_is_not_sent(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    # The caller was told that it failed, or will be: whatever is stored now, is stored behind its back.
    cluster = make_cluster()
    go_on = threading.Event()

    def slow(peer: Peer, seen: Seen) -> bool:
        go_on.wait(0.5)
        return False

    cluster.scripts[ROUTE] = slow
    producer = make_producer(cluster)
    with pytest.raises(TransportError):
        producer.send(message(), timeout_ms=150)
    go_on.set()
    producer.send(message(b"in time"), timeout_ms=5_000)
    assert [seen.body for seen in cluster.broker.seen if seen.code == SEND_V2] == [b"in time"]


def test_a_broker_that_is_busy_is_tried_no_more_often_than_allowed(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, 2, remark="[OVERLOAD]system busy")
    producer = make_producer(cluster, retry_times_when_send_failed=2)
    with pytest.raises(BrokerError, match="OVERLOAD"):
        producer.send(message())
    assert cluster.broker.count(SEND_V2) == 3


def test_an_answer_to_a_send_that_makes_no_sense_is_no_success(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster, retry_times_when_send_failed=0)
    answers: list[dict[str, str]] = [
        {}, {"queueId": "x", "queueOffset": "1"}, {"queueId": "1"}, {"queueId": "1", "queueOffset": ""},
    ]  # fmt: skip
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, fields=answers[0])
    while answers:
        with pytest.raises(RocketMQError):
            producer.send(message())
        del answers[0]
    del cluster.scripts[SEND_V2]
    producer.send(message())


def test_many_threads_send_over_one_connection(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster(queues=4)
    cluster.scripts[SEND_V2] = lambda peer, seen: reply_sent(peer, seen, offset=len(seen.body))
    producer = make_producer(cluster)
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(50):
            body = b"x" * (1 + (number * 31 + turn * 7) % 3_000)
            try:
                if producer.send(message(body)).queue_offset != len(body):
                    wrong.append((number, turn))
            except Exception as error:  # noqa: BLE001 - shown by the assertion
                wrong.append(error)

    join(in_threads(16, work))
    assert wrong == []
    assert cluster.broker.count(SEND_V2) == 800
    assert len(cluster.broker.peers) == 1


def test_a_producer_that_ends_while_it_sends(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster()
    cluster.scripts[SEND_V2] = lambda peer, seen: True
    producer = make_producer(cluster)
    failures: list[Exception] = []

    def send(number: int) -> None:
        try:
            producer.send(message(), timeout_ms=20_000)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    senders = in_threads(5, send)
    assert eventually(lambda: cluster.broker.count(SEND_V2) == 5)
    started = time.monotonic()
    producer.shutdown()
    producer.shutdown()
    join(senders)
    assert time.monotonic() - started < 2.5
    assert len(failures) == 5
    assert all(isinstance(error, RocketMQError) for error in failures), failures


def test_without_a_name_server_a_send_fails_in_clear_words(make_producer: MakeProducer) -> None:
    producer = DefaultMQProducer("producers", namesrv_addr=f"127.0.0.1:{free_port()}", client_ip="127.0.0.1")
    producer.start()
    try:
        with pytest.raises(TransportError, match=r"no name server can be reached.*check namesrv_addr"):
            producer.send(message(), timeout_ms=1_000)
    finally:
        producer.shutdown()


def test_a_broker_that_comes_back_takes_messages_again(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster, retry_times_when_send_failed=0)
    producer.send(message())
    port = cluster.broker.port
    cluster.broker.stop()
    with pytest.raises(ConnectError):
        producer.send(message())
    cluster.brokers["broker-a"] = Server(cluster._handler("broker-a"), port=port)
    assert eventually(lambda: sends(producer), BOUND_S)


@pytest.mark.behaviour("PR-22")
def test_a_message_group_that_keeps_nothing_in_order_is_sent_with_a_warning_that_says_what_does(
    make_cluster: MakeCluster, make_producer: MakeProducer, caplog: pytest.LogCaptureFixture
) -> None:
    producer = make_producer(make_cluster())
    grouped = Message(TOPIC, b"body", message_group="order-7")
    producer.send(grouped, selector=lambda queues, message, arg: queues[0])
    producer.send(grouped, queue=producer.fetch_publish_message_queues(TOPIC)[0])
    producer.send(message())
    assert "order-7" not in caplog.text
    producer.send(grouped)
    producer.send([message(), grouped])
    (line,) = (record.getMessage() for record in caplog.records if "order-7" in record.getMessage())
    assert "selector" in line
    assert "endpoints" in line


@pytest.mark.behaviour("PR-23")
@pytest.mark.parametrize("gone", ["name server", "broker"])
def test_a_send_while_nobody_is_tried_waits_for_a_try_instead_of_failing(
    gone: str, make_cluster: MakeCluster, make_server: MakeServer, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster, send_msg_timeout=10_000, retry_times_when_send_failed=0)
    server, honest = cluster.broker, cluster.handle
    if gone == "name server":
        server = cluster.name_server
    else:
        producer.fetch_publish_message_queues(TOPIC)
    server.stop()
    for _ in range(3):  # each is a try: the next one is 800 ms off
        with pytest.raises(ConnectError, match="cannot connect") as error:
            producer.send(message())
        assert "next try in" not in str(error.value)
    with pytest.raises(ConnectError, match="next try in"):
        producer.send(message(), timeout_ms=150)  # too little for the 200 ms that a send waits for a try
    make_server(
        lambda peer, seen: honest(next(iter(cluster.brokers)), peer, seen), port=int(server.address.split(":")[1])
    )
    producer.send(message())
