"""The push consumer against a scripted server: what a real proxy cannot be made to do at will."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    ConnectError,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQPushConsumer,
    MessageListenerConcurrently,
    MessageListenerOrderly,
    ProtocolError,
    RequestTimeoutError,
    ServiceState,
)
from rocketmq_py.consumer.stats import Event
from rocketmq_py.grpc_v2.convert import ReceivedMessage, received
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.results import Messages
from tests.conformance.collector import Collector, Verdict, eventually
from tests.grpc.conftest import StartConsumer
from tests.grpc.relay import Relay
from tests.grpc.server import OK, GrpcServer

SUCCESS = ConsumeConcurrentlyStatus.CONSUME_SUCCESS
LATER = ConsumeConcurrentlyStatus.RECONSUME_LATER
BUSY = pb.Status(code=pb.INTERNAL_SERVER_ERROR, message="busy")


def bodies(count: int) -> list[bytes]:
    return [b"body %d" % number for number in range(count)]


def put(server: GrpcServer, *texts: bytes, **system: Any) -> None:
    server.put("topic", *(server.message("topic", text, **system) for text in texts))


@pytest.mark.behaviour("GW-06")
def test_acknowledgements_travel_together_and_all_arrive(server: GrpcServer, start_consumer: StartConsumer) -> None:
    put(server, *bodies(500))
    collector = Collector()
    start_consumer(collector)
    collector.wait_for_bodies(bodies(500))
    eventually(lambda: len(server.acked()) == 500, 10, "all acknowledged")
    assert len(set(server.acked())) == 500
    assert server.count("AckMessage") < 250


@pytest.mark.behaviour("GW-06")
def test_only_what_failed_of_a_request_is_acknowledged_again(server: GrpcServer, start_consumer: StartConsumer) -> None:
    def half(request: Any, context: grpc.ServicerContext) -> Any:
        entries = [
            pb.AckMessageResultEntry(
                message_id=each.message_id, receipt_handle=each.receipt_handle,
                status=OK if number % 2 or server.count("AckMessage") > 20 else BUSY,
            )
            for number, each in enumerate(request.entries)
        ]  # fmt: skip
        code = pb.OK if all(entry.status.code == pb.OK for entry in entries) else pb.MULTIPLE_RESULTS
        return pb.AckMessageResponse(status=pb.Status(code=code), entries=reversed(entries))

    server.scripts["AckMessage"] = half
    put(server, *bodies(40))
    collector = Collector()
    consumer = start_consumer(collector)
    collector.wait_for_bodies(bodies(40))

    def all_settled() -> bool:
        return len(set(server.acked())) == 40 and unsettled(consumer) == 0

    eventually(all_settled, 20, "all settled")


def until(go: threading.Event, bound_s: float = 30) -> Verdict:
    """A listener that succeeds once it may."""

    def wait(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        go.wait(bound_s)
        return SUCCESS

    return wait


def unsettled(consumer: DefaultMQPushConsumer) -> int:
    parts: Any = consumer._parts
    return sum(queue.wait_ack_msg_count for _, queue in parts.queues.queues())


@pytest.mark.behaviour("GC-10")
def test_there_are_exactly_so_many_receives_before_and_after_assignments_change(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    server.queues = 16  # of a topic of many queues, which a receive does not tell apart
    server.terms.subscription.long_polling_timeout.FromMilliseconds(10_000)
    consumer = start_consumer(Collector(), receive_loop_count=3)
    parts: Any = consumer._parts
    eventually(lambda: server.receiving == 3, 10, "three receives")
    for _ in range(3):  # the topic goes and comes while its receives are held
        consumer.unsubscribe("topic")
        eventually(lambda: not parts.queues.queues(), 10, "given up")
        consumer.subscribe("topic")
        eventually(lambda: bool(parts.queues.queues()), 10, "taken again")
    put(server, *bodies(3))  # ends the polls, and new ones begin
    eventually(lambda: len(server.acked()) == 3, 10, "consumed")
    eventually(lambda: server.receiving == 3, 10, "three receives again")
    assert server.most_receiving == 3


@pytest.mark.behaviour("GC-08", "GW-07")
def test_a_corrupt_body_never_reaches_the_listener_and_costs_no_other_message(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    damaged, unknown = (server.message("topic", text) for text in (b"damaged", b"unknown"))
    damaged.body = b"damaGed"
    unknown.system_properties.body_encoding = pb.ENCODING_UNSPECIFIED
    server.put(
        "topic",
        server.message("topic", b"first"),
        damaged,
        b"\xff\xff nonsense",
        unknown,
        server.message("topic", b"last"),
    )
    collector = Collector()
    consumer = start_consumer(collector, receive_loop_count=1)
    collector.wait_for_bodies([b"first", b"last"])
    eventually(lambda: server.count("ChangeInvisibleDuration") == 2, 10, "both put off")
    put_off = {request.receipt_handle for request in server.requests("ChangeInvisibleDuration")}
    assert put_off == {damaged.system_properties.receipt_handle, unknown.system_properties.receipt_handle}
    assert set(collector.bodies()) == {b"first", b"last"}
    assert consumer.counters()[Event.CORRUPTED] == 2
    eventually(lambda: len(server.acked()) == 2, 10, "the others are acknowledged")


@pytest.mark.behaviour("GC-05")
def test_a_failed_message_is_put_off_by_the_server_s_back_off_and_its_receipt_is_kept_when_that_fails(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    del server.terms.backoff_policy.customized_backoff.next[:]
    server.terms.backoff_policy.exponential_backoff.initial.FromMilliseconds(30_000)
    server.terms.backoff_policy.exponential_backoff.max.FromMilliseconds(100_000)
    server.terms.backoff_policy.exponential_backoff.multiplier = 2
    refused = threading.Event()

    def refuse_once(request: Any, context: grpc.ServicerContext) -> Any:
        if refused.is_set():
            return None
        refused.set()
        return pb.ChangeInvisibleDurationResponse(status=BUSY)  # with an empty handle

    server.scripts["ChangeInvisibleDuration"] = refuse_once
    put(server, b"body", delivery_attempt=2)
    start_consumer(MessageListenerConcurrently(lambda msgs, context: LATER))
    eventually(lambda: server.count("ChangeInvisibleDuration") == 2, 10, "a second try")
    for request in server.requests("ChangeInvisibleDuration"):
        assert request.receipt_handle.startswith("receipt-")
        assert request.invisible_duration.ToMilliseconds() == 60_000
        assert not request.suspend


@pytest.mark.behaviour("GC-06")
def test_the_dead_letter_queue_is_asked_again_until_it_answers_and_nothing_leaks(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    answers = iter([pb.Status(code=pb.TOO_MANY_REQUESTS), BUSY])

    def refuse_twice(request: Any, context: grpc.ServicerContext) -> Any:
        status = next(answers, None)
        return None if status is None else pb.ForwardMessageToDeadLetterQueueResponse(status=status)

    server.scripts["ForwardMessageToDeadLetterQueue"] = refuse_twice
    put(server, b"body")

    def give_up(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.delay_level_when_next_consume = -1
        return LATER

    consumer = start_consumer(MessageListenerConcurrently(give_up))
    eventually(lambda: server.count("ForwardMessageToDeadLetterQueue") == 3, 10, "three tries")
    eventually(lambda: unsettled(consumer) == 0, 10, "nothing left")


@pytest.mark.behaviour("GC-03")
def test_receiving_pauses_while_too_many_bytes_or_messages_are_cached(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    go = threading.Event()

    put(server, *[bytes([number]) * 300_000 for number in range(40)])
    server.terms.subscription.receive_batch_size = 2
    collector = Collector(until(go))
    consumer = start_consumer(collector, receive_loop_count=1, pull_threshold_size_for_queue=1)
    eventually(lambda: consumer.counters()[Event.FLOW_CONTROLLED] > 3, 10, "held back")
    assert unsettled(consumer) == 4
    go.set()
    collector.wait_until(lambda: len(collector.deliveries) == 40, 30, "all")
    consumer.shutdown()
    assert all(request.batch_size == 2 for request in server.requests("ReceiveMessage"))


@pytest.mark.behaviour("GC-03")
def test_no_more_is_asked_for_than_there_is_room(server: GrpcServer, start_consumer: StartConsumer) -> None:
    go = threading.Event()

    put(server, *bodies(30))
    collector = Collector(until(go))
    consumer = start_consumer(collector, receive_loop_count=1, pull_threshold_for_queue=10, pull_batch_size=7)
    eventually(lambda: consumer.counters()[Event.FLOW_CONTROLLED] > 0, 10, "held back")
    assert [request.batch_size for request in server.requests("ReceiveMessage")] == [7, 3]
    go.set()
    collector.wait_for_bodies(bodies(30))


@pytest.mark.behaviour("GC-09")
def test_what_could_not_be_consumed_before_the_end_is_given_back_and_counts_as_no_attempt(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    go = threading.Event()

    put(server, *bodies(20))
    collector = Collector(until(go, 0.5))
    consumer = start_consumer(collector, consume_thread_min=2, await_termination_millis_when_shutdown=100)
    collector.wait_until(lambda: len(collector.deliveries) >= 2, 10, "the first two")
    consumer.shutdown()
    given_back = server.requests("ChangeInvisibleDuration")
    assert all(request.suspend and request.invisible_duration.ToMilliseconds() == 0 for request in given_back)
    settled = server.acked() + [request.receipt_handle for request in given_back]
    assert len(settled) == len(set(settled)) == 20
    assert server.seen[-1].name in {"NotifyClientTermination", "Telemetry"}
    assert server.requests("NotifyClientTermination")[0].group.name == "group"


@pytest.mark.behaviour("GC-19")
@pytest.mark.parametrize("first", [0, 5], ids=["about to begin", "begun"])
def test_an_answer_that_has_begun_when_the_consumer_ends_is_read_and_settled(
    first: int, server: GrpcServer, start_consumer: StartConsumer
) -> None:
    begun, go, cut = threading.Event(), threading.Event(), []

    def in_two_halves(request: Any, context: grpc.ServicerContext) -> Iterator[bytes] | None:
        if begun.is_set():
            return None

        def frames() -> Iterator[bytes]:
            messages = [server.message("topic", body) for body in bodies(10)]
            halves = [pb.ReceiveMessageResponse(message=message).SerializeToString() for message in messages]
            if first:
                yield pb.ReceiveMessageResponse(status=OK).SerializeToString()
                yield from halves[:first]
            begun.set()
            go.wait(10)
            cut.append(not context.is_active())
            yield from halves[first:]

        return frames()

    server.scripts["ReceiveMessage"] = in_two_halves
    consumer = start_consumer(Collector(), receive_loop_count=1)
    api = consumer._parts._api  # type: ignore[union-attr]
    assert begun.wait(10)
    eventually(lambda: any(answer.count == first for answer in api._receives.values()), 10, "the first half")
    ending = threading.Thread(target=consumer.shutdown)
    ending.start()
    eventually(lambda: api._ended, 10, "it ends")
    go.set()
    ending.join(30)
    assert cut == [False]
    given_back = [request.receipt_handle for request in server.requests("ChangeInvisibleDuration")]
    assert len({*given_back, *server.acked()}) == 10


# Settings, streams, starts.


@pytest.mark.behaviour("GC-04")
def test_a_receive_that_failed_is_repeated_by_the_same_attempt_and_the_next_one_is_new(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    failures = iter([pb.TOO_MANY_REQUESTS, pb.INTERNAL_SERVER_ERROR])

    def fail_twice(request: Any, context: grpc.ServicerContext) -> Iterator[bytes] | None:
        code = next(failures, None)
        if code is None:
            return None
        return iter([pb.ReceiveMessageResponse(status=pb.Status(code=code)).SerializeToString()])

    server.scripts["ReceiveMessage"] = fail_twice
    put(server, *bodies(1))
    collector = Collector()
    start_consumer(collector, receive_loop_count=1)
    collector.wait_for_bodies(bodies(1))
    eventually(lambda: server.count("ReceiveMessage") >= 4, 10, "a further receive")
    attempts = [request.attempt_id for request in server.requests("ReceiveMessage")][:4]
    assert len(set(attempts[:3])) == 1
    assert attempts[3] != attempts[0]
    assert all(request.auto_renew for request in server.requests("ReceiveMessage"))


@pytest.mark.behaviour("GC-04")
def test_whatever_a_receive_fails_with_the_next_one_follows(
    server: GrpcServer, start_consumer: StartConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([ValueError("a fault of ours"), MemoryError()])

    def fail_twice(*args: Any) -> ReceivedMessage:
        for failure in failures:
            raise failure
        return received(*args)

    monkeypatch.setattr("rocketmq_py.grpc_v2.receipt_api.received", fail_twice)
    collector = Collector()
    consumer = start_consumer(collector, receive_loop_count=1)
    for body in bodies(3):
        put(server, body)
        eventually(lambda: not server._messages["topic"], 10, "taken")
    collector.wait_for_bodies(bodies(3)[2:])
    assert consumer.counters()[Event.PULL_FAILED] == 2
    eventually(lambda: server.receiving == 1, 10, "no receive is left open")


@pytest.mark.behaviour("GC-04")
def test_an_answer_without_end_is_cut_off_and_what_came_is_consumed(
    server: GrpcServer, start_consumer: StartConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.grpc_v2.receipt_api.MESSAGES_MAX", 100)
    given: list[int] = []

    def without_end(request: Any, context: grpc.ServicerContext) -> Iterator[bytes] | None:
        if given:
            return None

        def frames() -> Iterator[bytes]:
            yield pb.ReceiveMessageResponse(status=OK).SerializeToString()
            while context.is_active():
                given.append(len(given))
                message = server.message("topic", str(given[-1]).encode())
                yield pb.ReceiveMessageResponse(message=message).SerializeToString()
                time.sleep(0.0005)

        return frames()

    server.scripts["ReceiveMessage"] = without_end
    collector = Collector()
    start_consumer(collector, receive_loop_count=1)
    collector.wait_for_bodies([str(number).encode() for number in range(100)])
    eventually(lambda: server.count("ReceiveMessage") >= 2, 10, "the next receive")
    assert len(collector.deliveries) == 100


@pytest.mark.behaviour("GW-08")
def test_settings_are_applied_live_and_sent_again_when_a_server_has_lost_them(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    answers = iter([pb.UNRECOGNIZED_CLIENT_TYPE])

    def forget_once(request: Any, context: grpc.ServicerContext) -> Any:
        code = next(answers, None)
        return None if code is None else pb.HeartbeatResponse(status=pb.Status(code=code))

    collector = Collector()
    consumer = start_consumer(collector, heartbeat_broker_interval=300, receive_loop_count=1)
    assert server.count("Telemetry") == 1
    server.terms.subscription.receive_batch_size = 5
    server.scripts["Heartbeat"] = forget_once
    eventually(lambda: server.count("Telemetry") == 2, 10, "settings sent again")
    eventually(lambda: consumer._parts.role.terms.receive_batch_size == 5, 10, "applied")  # type: ignore[union-attr]
    put(server, *bodies(1))
    collector.wait_for_bodies(bodies(1))
    eventually(lambda: server.requests("ReceiveMessage")[-1].batch_size == 5, 10, "used")


@pytest.mark.behaviour("GW-08")
def test_a_stream_that_ended_is_opened_again_with_settings_first(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    collector = Collector()
    start_consumer(collector)
    server.cut_streams()
    eventually(lambda: server.count("Telemetry") >= 2, 10, "opened again")
    assert all(each.HasField("settings") for each in server.requests("Telemetry"))
    put(server, *bodies(3))
    collector.wait_for_bodies(bodies(3))


@pytest.mark.behaviour("GW-08")
def test_after_a_restart_of_the_server_settings_come_at_once_and_consumption_goes_on(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    # The official Python client noticed at its next settings, up to five minutes later, and sent them after ten.
    collector = Collector()
    start_consumer(collector)
    put(server, *bodies(10))
    collector.wait_for_bodies(bodies(10))
    server.stop()
    time.sleep(1.5)
    with server._changed:
        server.seen.clear()
    server.start()
    put(server, *(b"after %d" % number for number in range(10)))
    collector.wait_for_bodies([b"after %d" % number for number in range(10)], 15)
    eventually(lambda: server.count("Telemetry") == 1, 10, "the stream")
    assert server.requests("Telemetry")[0].HasField("settings")


@pytest.mark.behaviour("GW-08")
def test_subscriptions_that_change_are_told_at_once(server: GrpcServer, start_consumer: StartConsumer) -> None:
    collector = Collector()
    consumer = start_consumer(collector)
    consumer.subscribe("other", "A || B")
    eventually(lambda: server.count("Telemetry") == 2, 5, "told")
    entries = server.requests("Telemetry")[1].settings.subscription.subscriptions
    assert {entry.topic.name: entry.expression.expression for entry in entries} == {"topic": "*", "other": "A || B"}
    server.put("other", server.message("other", b"wanted", tag="A"), server.message("other", b"not", tag="C"))
    collector.wait_for_bodies([b"wanted"])
    eventually(lambda: len(server.acked()) == 2, 10, "what nobody wants is acknowledged, too")
    assert b"not" not in collector.bodies()
    consumer.unsubscribe("other")
    eventually(lambda: server.count("Telemetry") == 3, 5, "told")


@pytest.mark.behaviour("GC-18")
def test_a_start_without_an_answer_of_the_server_fails_and_leaves_nothing(
    server: GrpcServer, start_consumer: StartConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.grpc_v2.session.SETTINGS_TIMEOUT_MS", 500)
    server.scripts["Telemetry"] = lambda command, context: False  # takes the settings and says nothing
    consumer = DefaultMQPushConsumer("group", endpoints=server.endpoints, mq_client_api_timeout=500)
    consumer.subscribe("topic")
    consumer.register_message_listener(Collector())
    with pytest.raises(RequestTimeoutError, match="answered no settings"):
        consumer.start()
    assert consumer.state is ServiceState.CREATE_JUST
    del server.scripts["Telemetry"]
    consumer.start()
    consumer.shutdown()


@pytest.mark.behaviour("GC-18")
def test_why_a_start_failed_is_told_once(
    server: GrpcServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rocketmq_py.grpc_v2.session.SETTINGS_TIMEOUT_MS", 500)
    consumer = DefaultMQPushConsumer(
        "group", endpoints=server.endpoints, mq_client_api_timeout=500, heartbeat_broker_interval=200
    )
    consumer.subscribe("topic")
    consumer.register_message_listener(Collector())
    server.scripts["Telemetry"] = lambda command, context: pb.TelemetryCommand(
        status=pb.Status(code=pb.UNAUTHORIZED, message="who?")
    )
    with pytest.raises(BrokerError, match="UNAUTHORIZED who"):
        consumer.start()
    server.stop()
    with pytest.raises(ConnectError, match="cannot be reached"):
        consumer.start()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [], "told once"
    del server.scripts["Telemetry"]
    server.start()
    server.scripts["QueryRoute"] = lambda request, context: pb.QueryRouteResponse(
        status=pb.Status(code=pb.ILLEGAL_TOPIC)
    )
    with pytest.raises(BrokerError, match="ILLEGAL_TOPIC"):
        consumer.start()
    assert consumer.state is ServiceState.CREATE_JUST


@pytest.mark.behaviour("GC-18")
def test_a_port_that_speaks_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocketmq_py.grpc_v2.session.SETTINGS_TIMEOUT_MS", 500)
    bare = grpc.server(futures.ThreadPoolExecutor(1))
    port = bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    consumer = DefaultMQPushConsumer("group", endpoints=f"127.0.0.1:{port}", mq_client_api_timeout=500)
    consumer.subscribe("topic")
    consumer.register_message_listener(Collector())
    with pytest.raises(ProtocolError, match="is it the gRPC port of a RocketMQ 5 proxy"):
        consumer.start()
    bare.stop(0).wait()


@pytest.mark.behaviour("GC-11")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"message_model": "BROADCASTING"}, "no broadcasting"),
        ({"allocate_message_queue_strategy": "own"}, "divides the messages"),
        ({"offset_store": "own"}, "keeps the offsets"),
        ({"message_queue_listener": print}, "no queues of their own"),
        ({"namesrv_addr": "127.0.0.1:9876"}, "give one of them"),
        ({"enable_msg_trace": True}, "enable_msg_trace"),
        ({"unit_mode": True}, "unit_mode"),
        ({"namespace_v2": "ns"}, "namespace_v2"),
    ],
)
def test_what_cannot_work_with_endpoints_is_refused(settings: dict[str, Any], words: str) -> None:
    from rocketmq_py import AllocateMessageQueueAveragely, MessageModel
    from rocketmq_py.consumer.local_file_offset_store import LocalFileOffsetStore

    known: dict[str, Callable[[], object]] = {
        "message_model": lambda: MessageModel.BROADCASTING,
        "allocate_message_queue_strategy": AllocateMessageQueueAveragely,
        "offset_store": lambda: object.__new__(LocalFileOffsetStore),
    }
    settings = {name: known[name]() if name in known else value for name, value in settings.items()}
    consumer = DefaultMQPushConsumer("group", endpoints="127.0.0.1:1", **settings)
    consumer.subscribe("topic")
    consumer.register_message_listener(Collector())
    with pytest.raises(ConfigError, match=words):
        consumer.start()


@pytest.mark.behaviour("GC-11")
def test_an_orderly_listener_needs_a_group_that_consumes_in_order(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    with pytest.raises(ConfigError, match="updateSubGroup -g group -o true"):
        start_consumer(MessageListenerOrderly(lambda msgs, context: None))


@pytest.mark.behaviour("GC-13")
def test_a_server_may_ask_for_the_stacks_of_all_threads(server: GrpcServer, start_consumer: StartConsumer) -> None:
    start_consumer(Collector())
    eventually(lambda: server.receiving > 0, 10, "receives")
    command = pb.TelemetryCommand()
    command.print_thread_stack_trace_command.nonce = "7"
    server.command(command)
    eventually(lambda: server.count("Telemetry") == 2, 10, "an answer")
    answer = server.requests("Telemetry")[1]
    assert (answer.status.code, answer.thread_stack_trace.nonce) == (pb.OK, "7")
    assert "GrpcReceive_" in answer.thread_stack_trace.thread_stack_trace


@pytest.mark.behaviour("GC-12")
def test_what_the_server_decides_is_warned_of_once(
    server: GrpcServer, start_consumer: StartConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    start_consumer(Collector(), consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
    assert [record.levelname for record in caplog.records if "consume_from_where" in record.message] == ["WARNING"]


@pytest.mark.behaviour("GC-17")
def test_a_group_that_begins_to_consume_in_order_is_consumed_so_from_then_on(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    collector = Collector(lambda msgs, context: LATER if msgs[0].body == b"1" else SUCCESS)
    consumer = start_consumer(collector, heartbeat_broker_interval=300, receive_loop_count=1)
    put(server, b"0")
    collector.wait_for_bodies([b"0"])
    server.terms.subscription.fifo = True
    server.terms.backoff_policy.customized_backoff.next[0].FromMilliseconds(300)
    server.scripts["Heartbeat"] = lambda request, context: pb.HeartbeatResponse(
        status=pb.Status(code=pb.UNRECOGNIZED_CLIENT_TYPE)
    )
    eventually(lambda: consumer._parts.role.terms.fifo, 10, "new settings")  # type: ignore[union-attr]
    put(server, b"1", message_group="a")
    put(server, b"2", message_group="a")
    put(server, b"3", message_group="b")
    collector.wait_for_bodies([b"1", b"2", b"3"])
    assert [msg.body for msg in collector.deliveries if msg.body in {b"1", b"2"}] == [b"1", b"1", b"1", b"2"]
    assert server.count("ChangeInvisibleDuration") == 0
    assert server.count("ForwardMessageToDeadLetterQueue") == 1


@pytest.mark.behaviour("GW-12")
def test_a_connection_that_fell_silent_is_made_anew_and_consumption_goes_on(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    with Relay(server.endpoints) as relay:
        collector = Collector()
        start_consumer(
            collector, endpoints=relay.endpoints, heartbeat_broker_interval=400, mq_client_api_timeout=400,
            await_termination_millis_when_shutdown=100,
        )  # fmt: skip
        put(server, *bodies(5))
        collector.wait_for_bodies(bodies(5))
        before = relay.connections
        relay.freeze()

        def comes() -> bool:
            put(server, b"after")  # what was given to the dead connection comes again, as a real server would have it
            return b"after" in collector.bodies()

        eventually(comes, 30, "consumption goes on")
        assert relay.connections > before


@pytest.mark.behaviour("GW-14")
def test_what_got_lost_with_a_receive_that_broke_is_given_again_also_what_the_server_still_held_it_for(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    breaks = iter([True])

    def break_once(request: Any, context: grpc.ServicerContext) -> None:
        if next(breaks, False):
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server.scripts["ReceiveMessage"] = break_once
    start_consumer(Collector(), heartbeat_broker_interval=300)
    left_at = []
    for times in (1, 2):
        eventually(lambda: server.count("NotifyClientTermination") == times, 30, "it leaves")  # noqa: B023 - called here
        left_at.append(time.monotonic())
        eventually(lambda: server.count("Telemetry") == times + 1, 30, "and is back")  # noqa: B023 - as above
    assert left_at[1] - left_at[0] > 1.5, "a receive is held for 2 s"
    beats = server.count("Heartbeat")
    eventually(lambda: server.count("Heartbeat") > beats + 2, 30, "heartbeats")
    assert server.count("NotifyClientTermination") == 2


@pytest.mark.behaviour("GW-14")
def test_receives_that_the_end_breaks_off_do_not_make_it_leave_and_come_back(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    consumer = start_consumer(Collector(), heartbeat_broker_interval=200)
    eventually(lambda: server.count("ReceiveMessage") > 0, 30, "it receives")
    consumer._parts._api.stop_receiving()  # type: ignore[union-attr]
    beats = server.count("Heartbeat")
    eventually(lambda: server.count("Heartbeat") > beats + 2, 30, "heartbeats")
    assert server.count("NotifyClientTermination") == 0
    consumer.shutdown()
    assert (server.count("NotifyClientTermination"), server.count("Telemetry")) == (1, 1)


@pytest.mark.behaviour("GW-14")
def test_what_got_lost_in_a_silent_connection_is_given_again_once_nothing_else_is_unsettled(
    server: GrpcServer, start_consumer: StartConsumer
) -> None:
    go = threading.Event()

    def told() -> list[str]:
        with server._changed:
            return [each.name for each in server.seen]

    with Relay(server.endpoints) as relay:
        collector = Collector(until(go))
        start_consumer(
            collector, endpoints=relay.endpoints, heartbeat_broker_interval=300, mq_client_api_timeout=300,
            await_termination_millis_when_shutdown=100,
        )  # fmt: skip
        put(server, b"long")
        collector.wait_for_bodies([b"long"])
        before = relay.connections
        relay.freeze()
        eventually(lambda: relay.connections > before, 30, "a new connection")
        beats = server.count("Heartbeat")
        eventually(lambda: server.count("Heartbeat") > beats + 2, 30, "heartbeats")
        assert "NotifyClientTermination" not in told(), "a message is unsettled: it would come again, too"
        go.set()
        eventually(lambda: "NotifyClientTermination" in told(), 30, "it leaves")
        left = told().index("NotifyClientTermination")
        eventually(lambda: "Telemetry" in told()[left:], 30, "and is back")
        beats = server.count("Heartbeat")
        eventually(lambda: server.count("Heartbeat") > beats + 2, 30, "heartbeats")
        assert told().count("NotifyClientTermination") in {1, 2}, "again at the most when no receive is held any more"
