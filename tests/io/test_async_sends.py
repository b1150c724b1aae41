"""Asynchronous and one-way sends against brokers that die, stall and refuse: every end is told once."""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from typing import Any

import pytest

from rocketmq_py import (
    CompressionType,
    ConfigError,
    DefaultMQProducer,
    IllegalStateError,
    Message,
    RequestCallback,
    RequestTimeoutError,
    SendCallback,
    SendResult,
    SendStatus,
    TooManyRequestsError,
)
from rocketmq_py.errors import BrokerError, ConnectError, RocketMQError
from rocketmq_py.model.compression import decompress
from rocketmq_py.model.producer_hooks import (
    CheckForbiddenContext,
    CommunicationMode,
    MessageType,
    SendMessageContext,
)
from rocketmq_py.producer import Running
from rocketmq_py.remoting.frame import RemotingCommand
from tests.io.calls import in_threads, join
from tests.io.cluster import MAX_OFFSET, ROUTE, SEND_V2, TOPIC, Script, reply_sent, route
from tests.io.conftest import MakeCluster, MakeProducer
from tests.io.server import Peer, Seen, Server, eventually, free_port, stays

FLUSH_DISK_TIMEOUT = 10


def message(body: bytes = b"body", **fields: Any) -> Message:
    return Message(TOPIC, body, **fields)


def dies(server: Server) -> Script:
    """Every send to this broker ends its connection."""

    def die(peer: Peer, seen: Seen) -> bool:
        if peer in server.peers:
            peer.close()
            return True
        return False

    return die


class Held(list[tuple[Peer, Seen]]):
    """Sends that await their answers."""

    def hold(self, peer: Peer, seen: Seen) -> bool:
        self.append((peer, seen))
        return True


class Told:
    """A callback that counts, because exactly one end must be told."""

    def __init__(self) -> None:
        self.results: list[SendResult] = []
        self.errors: list[Exception] = []

    def on_success(self, result: SendResult) -> None:
        self.results.append(result)

    def on_exception(self, error: Exception) -> None:
        self.errors.append(error)

    @property
    def count(self) -> int:
        return len(self.results) + len(self.errors)

    def error(self) -> Exception:
        assert eventually(lambda: self.count == 1)
        assert self.errors, self.results
        return self.errors[0]


def send_and_wait(producer: DefaultMQProducer, **options: Any) -> Told:
    told = Told()
    producer.send_async(message(), told, **options)
    assert eventually(lambda: told.count)
    return told


@pytest.mark.behaviour("PR-06")
def test_a_connection_that_breaks_costs_an_attempt_and_the_next_goes_to_another_broker(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"), queues=2)
    dying = cluster.brokers["broker-a"]
    cluster.scripts[SEND_V2] = dies(dying)
    producer = make_producer(cluster)
    for _ in range(6):
        told = send_and_wait(producer)
        assert told.errors == []
        (result,) = told.results
        assert result.message_queue.broker_name == "broker-b"
        seen = [seen for seen in cluster.brokers["broker-b"].seen if seen.code == SEND_V2][-1]
        # Java's second attempt still names the queue and the broker of the first.
        assert (seen.fields["n"], seen.fields["e"]) == ("broker-b", str(result.message_queue.queue_id))
    assert dying.count(SEND_V2) >= 1


@pytest.mark.behaviour("PR-06")
@pytest.mark.parametrize("retries", [0, 2])
def test_attempts_are_as_many_as_allowed_and_a_selected_queue_stays_the_one(
    retries: int, make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"), queues=2)
    for nowhere in ("broker-a", "broker-b"):
        cluster.routes[TOPIC]["brokerDatas"][nowhere == "broker-b"]["brokerAddrs"]["0"] = f"127.0.0.1:{free_port()}"
    producer = make_producer(cluster, retry_times_when_send_async_failed=retries)
    attempts: list[str] = []
    producer.register_check_forbidden_hook(Hook(forbidden=lambda context: attempts.append(context.broker_addr)))
    told = send_and_wait(producer, selector=lambda queues, message, arg: queues[arg], arg=3)
    error = told.error()
    assert isinstance(error, ConnectError)
    assert "broker-b" in error.args[0] or attempts[0] in error.args[0]


@pytest.mark.behaviour("PR-06")
def test_a_refusal_ends_an_asynchronous_send_at_once(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster()
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, 2, remark="[OVERLOAD]system busy")
    error = send_and_wait(make_producer(cluster)).error()
    assert isinstance(error, BrokerError)
    assert (error.code, cluster.broker.count(SEND_V2)) == (2, 1)


@pytest.mark.behaviour("PR-06")
def test_a_broker_that_is_silent_is_a_time_out_told_once(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    held = Held()
    cluster.scripts[SEND_V2] = held.hold
    told = send_and_wait(make_producer(cluster), timeout_ms=1_000)
    assert isinstance(told.error(), RequestTimeoutError)
    reply_sent(*held[0])
    assert stays(lambda: told.count == 1, 0.3)


@pytest.mark.behaviour("PR-06")
def test_what_cannot_be_sent_is_refused_at_once_and_a_selector_s_error_is_told(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster)
    told = Told()
    with pytest.raises(ConfigError, match="the body of a message is empty"):
        producer.send_async(message(b""), told)
    with pytest.raises(ConfigError, match="has no on_success: use SendCallback"):
        producer.send_async(message(), object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout_ms Out of range"):
        producer.send_async(message(), told, timeout_ms=0)

    async def later(result: object) -> None:
        raise AssertionError

    class Async(Told):
        on_success = later  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="on_success of the callback is async"):
        producer.send_async(message(), Async())  # type: ignore[arg-type]
    assert told.count == 0
    error = ValueError("the selector's own")

    def select(queues: object, message: object, arg: object) -> Any:
        raise error

    assert send_and_wait(producer, selector=select).error() is error
    unlike = send_and_wait(producer, selector=lambda queues, message, arg: "nonsense").error()
    assert isinstance(unlike, ConfigError)
    unknown = Told()
    producer.send_async(Message("unknown", b"body"), unknown)
    assert isinstance(unknown.error(), BrokerError)
    assert cluster.broker.count(SEND_V2) == 0


@pytest.mark.behaviour("PR-06")
def test_a_callback_may_block_send_again_and_fail(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster)
    go_on = threading.Event()
    ended: list[object] = []

    def blocks(result: SendResult) -> None:
        go_on.wait(10)
        ended.append(producer.send(message(b"again")))
        raise ValueError("a callback's error is logged")

    for _ in range(3):
        producer.send_async(message(), SendCallback(blocks))
    # Blocked callbacks keep no other send from its answer.
    assert producer.send(message()).send_status is SendStatus.SEND_OK
    told = Told()
    producer.send_async(message(), told)
    assert eventually(lambda: told.results)
    go_on.set()
    assert eventually(lambda: len(ended) == 3)
    assert send_and_wait(producer).results


@pytest.mark.behaviour("PR-08")
def test_with_back_pressure_a_send_waits_for_a_place_and_gives_up_in_time(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    held = Held()
    cluster.scripts[SEND_V2] = held.hold
    producer = make_producer(
        cluster, enable_backpressure_for_async_mode=True, back_pressure_for_async_send_num=10, send_msg_timeout=20_000
    )
    told = Told()
    for _ in range(10):
        producer.send_async(message(), told)
    assert eventually(lambda: len(held) == 10)
    started = time.monotonic()
    with pytest.raises(TooManyRequestsError, match="too many asynchronous sends are under way"):
        producer.send_async(message(), told, timeout_ms=200)
    assert time.monotonic() - started >= 0.19
    (waits,) = in_threads(1, lambda number: producer.send_async(message(b"patient"), told))
    assert stays(lambda: waits.is_alive() and len(held) == 10, 0.2)
    reply_sent(*held[0])
    join([waits])
    assert eventually(lambda: len(held) == 11)
    for peer, seen in held[1:]:
        reply_sent(peer, seen)
    assert eventually(lambda: len(told.results) == 11)


@pytest.mark.behaviour("PR-08")
def test_without_back_pressure_too_much_under_way_is_refused_at_once(
    make_cluster: MakeCluster, make_producer: MakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.remoting.async_sender.ASYNC_SENDS_MAX", 3)
    cluster = make_cluster()
    held = Held()
    cluster.scripts[SEND_V2] = held.hold
    producer = make_producer(cluster)
    told = Told()
    for _ in range(3):
        producer.send_async(message(), told)
    with pytest.raises(TooManyRequestsError):
        producer.send_async(message(), told)
    assert eventually(lambda: len(held) == 3)
    for peer, seen in held:
        reply_sent(peer, seen)
    assert eventually(lambda: len(told.results) == 3)
    del cluster.scripts[SEND_V2]
    producer.send_async(message(), told)
    assert eventually(lambda: len(told.results) == 4)


@pytest.mark.behaviour("PR-12")
def test_a_producer_that_ends_tells_every_callback_of_what_is_under_way(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    held = Held()
    cluster.scripts[SEND_V2] = held.hold
    settings: dict[str, Any] = {"namesrv_addr": cluster.address, "client_ip": "127.0.0.1", "instance_name": "shared"}
    with DefaultMQProducer("others", **settings):  # keeps the client, and so the connection, alive
        producer = make_producer(cluster, instance_name="shared")
        told = [Told() for _ in range(20)]
        for each in told:
            producer.send_async(message(), each, timeout_ms=20_000)
        assert eventually(lambda: len(held) == 20)
        started = time.monotonic()
        producer.shutdown()
        assert time.monotonic() - started < 2.5
        assert all(isinstance(each.error(), IllegalStateError) for each in told)
        for peer, seen in held:
            reply_sent(peer, seen)
        assert stays(lambda: all(each.count == 1 for each in told), 0.3)
    with pytest.raises(IllegalStateError, match="was shut down"):
        producer.send_async(message(), Told())


@pytest.mark.behaviour("PR-12")
def test_a_producer_shut_down_from_a_callback_ends(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster)
    done = threading.Event()

    def end(result: SendResult) -> None:
        producer.shutdown()
        done.set()

    producer.send_async(message(), SendCallback(end))
    assert done.wait(10)


@pytest.mark.behaviour("PR-07")
def test_a_one_way_send_asks_for_no_answer_and_a_broker_that_is_not_there_is_an_error(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster)
    producer.send_oneway(message(b"one way"))
    assert eventually(lambda: cluster.broker.count(SEND_V2) == 1)
    (seen,) = [seen for seen in cluster.broker.seen if seen.code == SEND_V2]
    assert (seen.oneway, seen.body) == (True, b"one way")
    cluster.routes["gone"] = route(1, {"broker-z": f"127.0.0.1:{free_port()}"})
    with pytest.raises(ConnectError):
        producer.send_oneway(Message("gone", b"body"))
    with pytest.raises(BrokerError):
        producer.send_oneway(Message("unknown", b"body"))


class Hook:
    """Every kind of hook; does what the test says."""

    def __init__(self, forbidden: Any = None, before: Any = None) -> None:
        self._forbidden = forbidden
        self._before = before
        self.before: list[SendMessageContext] = []
        self.after: list[tuple[SendMessageContext, SendResult | None, Exception | None]] = []

    def hook_name(self) -> str:
        return "test"

    def check_forbidden(self, context: CheckForbiddenContext) -> None:
        if self._forbidden:
            self._forbidden(context)

    def send_message_before(self, context: SendMessageContext) -> None:
        self.before.append(context)
        if self._before:
            self._before(context)

    def send_message_after(self, context: SendMessageContext) -> None:
        self.after.append((context, context.send_result, context.exception))
        raise ValueError("a hook's error changes nothing")


@pytest.mark.behaviour("PR-13")
def test_hooks_see_every_attempt_of_a_send_and_how_it_ended(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    refusals = [True]
    cluster.scripts[SEND_V2] = lambda peer, seen: bool(refusals and refusals.pop() and peer.reply(seen, 14))
    producer = make_producer(cluster)
    hook = Hook(before=lambda context: context.message.put_user_property("trace", "id-1"))
    producer.register_send_message_hook(hook)
    mine = message(tags="T", delay_time_level=2)
    result = producer.send(mine)
    assert [type(error) for _, _, error in hook.after] == [BrokerError, type(None)]
    assert [sent for _, sent, _ in hook.after] == [None, result]
    context = hook.before[1]
    assert (context.producer_group, context.mq.broker_name) == ("producers", result.message_queue.broker_name)
    assert context.broker_addr == cluster.brokers[context.mq.broker_name].address
    assert (context.communication_mode, context.msg_type) == (CommunicationMode.SYNC, MessageType.Delay_Msg)
    assert (context.message.tags, context.born_host) == ("T", "127.0.0.1")
    # What the hook added went out, in a copy: the user's message is as it was.
    sent = [seen for server in cluster.brokers.values() for seen in server.seen if seen.code == SEND_V2]
    assert all("trace\x01id-1" in seen.fields["i"] for seen in sent)
    assert "trace" not in mine.properties


@pytest.mark.behaviour("PR-13")
def test_a_hook_that_exits_costs_no_send_its_callback_and_no_retry(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    class Exits(Hook):
        def send_message_before(self, context: SendMessageContext) -> None:
            raise SystemExit(1)

        def send_message_after(self, context: SendMessageContext) -> None:
            raise SystemExit(2)

    class ExitsOnce:
        """Before the second request, which is the other attempt."""

        def __init__(self) -> None:
            self.sends = 0

        def do_before_request(self, address: str, request: RemotingCommand) -> None:
            self.sends += request.code == SEND_V2
            if request.code == SEND_V2 and self.sends == 2:
                raise SystemExit(3)

        def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
            raise SystemExit(4)

    cluster = make_cluster(("broker-a", "broker-b"))
    dying = cluster.brokers["broker-a"]
    cluster.scripts[SEND_V2] = dies(dying)
    producer = make_producer(cluster, rpc_hook=ExitsOnce(), retry_times_when_send_async_failed=1)
    producer.register_send_message_hook(Exits())
    ends = [send_and_wait(producer) for _ in range(3)]
    assert all(len(told.results) + len(told.errors) == 1 for told in ends)
    assert sum(len(told.results) for told in ends) >= 2


@pytest.mark.behaviour("PR-13")
def test_hooks_see_an_asynchronous_send_once_with_all_its_attempts_and_a_one_way_send_without_a_result(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    dying = cluster.brokers["broker-a"]
    cluster.scripts[SEND_V2] = dies(dying)
    producer = make_producer(cluster)
    hook = Hook()
    producer.register_send_message_hook(hook)
    for number in range(1, 4):
        told = send_and_wait(producer)
        assert [sent for _, sent, _ in hook.after][number - 1] == told.results[0]
    assert (len(hook.before), len(hook.after)) == (3, 3)
    assert {context.communication_mode for context in hook.before} == {CommunicationMode.ASYNC}
    producer.send_oneway(message())
    context, sent, error = hook.after[3]
    assert (context.communication_mode, sent, error) == (CommunicationMode.ONEWAY, None, None)


@pytest.mark.behaviour("PR-14")
def test_a_hook_that_forbids_ends_the_send_with_its_own_error(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    producer = make_producer(cluster)
    error = PermissionError("not this one")
    asked: list[CheckForbiddenContext] = []

    def forbid(context: CheckForbiddenContext) -> None:
        asked.append(context)
        if context.message.body == b"forbidden":
            raise error

    producer.register_check_forbidden_hook(Hook(forbidden=forbid))
    looking_on = Hook()
    producer.register_send_message_hook(looking_on)
    producer.send(message(b"allowed"))
    with pytest.raises(PermissionError):
        producer.send(message(b"forbidden"))
    with pytest.raises(PermissionError):
        producer.send_oneway(message(b"forbidden"))
    told = Told()
    producer.send_async(message(b"forbidden"), told)
    assert told.error() is error
    assert [context.communication_mode.name for context in asked] == ["SYNC", "SYNC", "ONEWAY", "ASYNC"]
    assert len(looking_on.before) == 1
    assert [seen.body for server in cluster.brokers.values() for seen in server.seen if seen.code == SEND_V2] == [
        b"allowed"
    ]


@pytest.mark.behaviour("PR-15")
def test_a_message_that_was_not_flushed_is_sent_to_another_broker_when_asked_for(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    slow = cluster.brokers["broker-a"]

    def flush_late(peer: Peer, seen: Seen) -> bool:
        if peer not in slow.peers:
            return False
        fields = {"msgId": "00" * 16, "queueId": "0", "queueOffset": "0"}
        return peer.reply(seen, FLUSH_DISK_TIMEOUT, fields)

    cluster.scripts[SEND_V2] = flush_late
    faithful = make_producer(cluster)
    assert {faithful.send(message()).send_status for _ in range(4)} == {
        SendStatus.SEND_OK,
        SendStatus.FLUSH_DISK_TIMEOUT,
    }
    again = make_producer(cluster, retry_another_broker_when_not_store_ok=True)
    results = [again.send(message()) for _ in range(4)]
    assert {(result.send_status, result.message_queue.broker_name) for result in results} == {
        (SendStatus.SEND_OK, "broker-b")
    }
    # When nobody does better, what was stored is the result, not the error that came after it.
    cluster.scripts[SEND_V2] = lambda peer, seen: flush_late(peer, seen) or peer.reply(seen, 13, remark="illegal")
    results = []
    for _ in range(4):
        with contextlib.suppress(BrokerError):  # the other broker was first
            results.append(again.send(message()))
    assert {result.send_status for result in results} == {SendStatus.FLUSH_DISK_TIMEOUT}


@pytest.mark.behaviour("PR-10")
def test_with_latency_tolerance_a_broker_that_failed_is_left_alone(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"), queues=2)
    failing = cluster.brokers["broker-a"]
    cluster.scripts[SEND_V2] = lambda peer, seen: peer in failing.peers and peer.reply(seen, 2, remark="busy")
    producer = make_producer(cluster, send_latency_fault_enable=True)
    for _ in range(8):
        producer.send(message())
    for _ in range(4):
        assert send_and_wait(producer).results
    assert failing.count(SEND_V2) == 1


@pytest.mark.behaviour("PR-11")
def test_the_detector_asks_a_broker_that_failed_until_it_answers(
    make_cluster: MakeCluster, make_producer: MakeProducer, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster(("broker-a",))
    busy = [True]
    cluster.scripts[SEND_V2] = lambda peer, seen: bool(busy and peer.reply(seen, 2, remark="busy"))
    producer = make_producer(
        cluster, send_latency_fault_enable=True, start_detector_enable=True, retry_times_when_send_failed=0
    )
    with pytest.raises(BrokerError):
        producer.send(message())
    asked: list[Seen] = []

    def answer_the_second_time(peer: Peer, seen: Seen) -> bool:
        asked.append(seen)
        # An error is an answer, too.
        return len(asked) == 1 or peer.reply(seen, 17, remark="no such topic")

    cluster.scripts[MAX_OFFSET] = answer_the_second_time
    running = producer._running
    assert isinstance(running, Running)
    tolerance = running.sender.faults.tolerance
    assert not tolerance.is_reachable("broker-a")
    busy.clear()
    assert eventually(lambda: tolerance.is_reachable("broker-a"))
    assert len(asked) == 2
    assert "scheduled job failed" not in caplog.text


@pytest.mark.behaviour("PR-17")
def test_one_attempt_may_be_given_less_time_than_all_together(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster(("broker-a", "broker-b"))
    silent = cluster.brokers["broker-a"]
    cluster.scripts[SEND_V2] = lambda peer, seen: peer in silent.peers
    producer = make_producer(cluster, send_msg_timeout=20_000, send_msg_max_timeout_per_request=200)
    started = time.monotonic()
    results = [producer.send(message()) for _ in range(2)]
    assert time.monotonic() - started < 10
    assert {result.message_queue.broker_name for result in results} == {"broker-b"}
    assert silent.count(SEND_V2) == 1


@pytest.mark.behaviour("PR-17")
@pytest.mark.parametrize("kind", CompressionType)
def test_bodies_are_compressed_as_the_settings_say(
    kind: CompressionType, make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    pytest.importorskip({"LZ4": "lz4.frame", "ZSTD": "zstandard", "ZLIB": "zlib"}[kind.name])
    cluster = make_cluster()
    body = b"".join(b"%d " % (number * number) for number in range(2_000))
    bodies = []
    for level in (1, 9):
        producer = make_producer(cluster, compress_type=kind, compress_level=level, instance_name=f"level-{level}")
        producer.send(message(body))
        seen = [seen for seen in cluster.broker.seen if seen.code == SEND_V2][-1]
        assert int(seen.fields["f"]) == kind.value | 1
        assert decompress(seen.body, kind.value) == body
        bodies.append(seen.body)
    # lz4 knows no level.
    assert (bodies[0] == bodies[1]) == (kind is CompressionType.LZ4)
    if kind is CompressionType.ZLIB:
        assert bodies == [zlib.compress(body, level) for level in (1, 9)]


@pytest.mark.behaviour("PR-18")
def test_a_producer_with_topics_is_known_to_their_brokers_before_it_sends(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    make_producer(cluster, topics=[TOPIC, "unknown"], heartbeat_broker_interval=600_000)
    (heartbeat,) = [seen for seen in cluster.broker.seen if seen.code == 34]
    assert b'"producers"' in heartbeat.body


@pytest.mark.behaviour("RR-04")
def test_a_request_that_cannot_be_sent_is_an_error_of_the_send(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, 13, remark="illegal")
    producer = make_producer(cluster)
    with pytest.raises(BrokerError, match="illegal"):
        producer.request(message(), 10_000)
    told: list[Any] = []
    producer.request_async(message(), RequestCallback(told.append, told.append), 10_000)
    assert eventually(lambda: told)
    assert isinstance(told[0], BrokerError)
    with pytest.raises(BrokerError, match="has no queue"):
        producer.request(Message("unknown", b"body"), 10_000)
    for wrong in (0, "1000", None):
        with pytest.raises(ConfigError, match="timeout_ms Out of range"):
            producer.request(message(), wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="timeout_ms Out of range"):
            producer.request_async(message(), RequestCallback(), wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a request is one Message"):
        producer.request([message()], 10_000)  # type: ignore[arg-type]


@pytest.mark.behaviour("RR-04")
def test_a_request_times_out_while_a_name_server_is_silent(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster, poll_name_server_interval=1_000, mq_client_api_timeout=30_000)
    producer.send(message())
    silent = threading.Event()

    def ignore(peer: Peer, seen: Seen) -> bool:
        silent.set()
        return True

    cluster.scripts[ROUTE] = ignore
    assert silent.wait(10)
    told: list[Any] = []
    producer.request_async(message(), RequestCallback(told.append, told.append), 300)
    assert eventually(lambda: told)
    assert isinstance(told[0], RequestTimeoutError)


@pytest.mark.behaviour("RR-04")
def test_requests_under_way_fail_when_their_producer_ends(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = make_producer(cluster)
    failures: list[Exception] = []

    def ask(number: int) -> None:
        try:
            producer.request(message(), 30_000)
        except RocketMQError as error:
            failures.append(error)

    asking = in_threads(2, ask)
    told: list[Any] = []
    producer.request_async(message(), RequestCallback(told.append, told.append), 30_000)
    assert eventually(lambda: cluster.broker.count(SEND_V2) == 3)
    producer.shutdown()
    join(asking)
    assert [type(failure) for failure in failures] == [IllegalStateError] * 2
    assert [type(error) for error in told] == [IllegalStateError]
