"""Producers against a scripted server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    ConnectError,
    DefaultMQProducer,
    IllegalStateError,
    LocalTransactionState,
    Message,
    MessageExt,
    MessageQueue,
    SendCallback,
    SendResult,
    SendStatus,
    SimpleConsumer,
    TransactionMQProducer,
)
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from tests.conformance.collector import eventually
from tests.grpc.server import BROKER, OK, GrpcServer

StartProducer = Callable[..., DefaultMQProducer]


@pytest.fixture
def start_producer(server: GrpcServer) -> Iterator[StartProducer]:
    with ExitStack() as running:

        def start(**settings: Any) -> DefaultMQProducer:
            settings = {"endpoints": server.endpoints, "mq_client_api_timeout": 1_000, **settings}
            kind = TransactionMQProducer if "transaction_listener" in settings else DefaultMQProducer
            producer = kind("producers", **settings)
            running.callback(producer.shutdown)
            producer.start()
            return producer

        yield start


@pytest.mark.behaviour("GP-01")
def test_a_message_travels_with_all_that_it_has(server: GrpcServer, start_producer: StartProducer) -> None:
    sent = start_producer().send(Message("topic", b"body", tags="A", keys=["k1", "k2"], properties={"own": "property"}))
    [request] = server.requests("SendMessage")
    [message] = request.messages
    system = message.system_properties
    assert (message.topic.name, message.body, dict(message.user_properties)) == ("topic", b"body", {"own": "property"})
    assert (system.tag, list(system.keys), system.message_type) == ("A", ["k1", "k2"], pb.NORMAL)
    assert (system.body_encoding, system.body_digest.type) == (pb.IDENTITY, pb.MD5)
    assert system.message_id == sent.msg_id
    assert abs(system.born_timestamp.ToMilliseconds() - time.time() * 1000) < 60_000
    assert (sent.send_status, sent.message_queue) == (SendStatus.SEND_OK, MessageQueue("topic", BROKER, -1))


@pytest.mark.behaviour("GP-01")
@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, pb.NORMAL),
        ({"message_group": "order-1"}, pb.FIFO),
        ({"priority": 3}, pb.PRIORITY),
        ({"delay_time_level": 3}, pb.DELAY),
        ({"delay_time_sec": 10}, pb.DELAY),
        ({"delay_time_ms": 10_000}, pb.DELAY),
    ],
)
def test_the_type_follows_from_what_a_message_has(
    settings: dict[str, Any], kind: int, server: GrpcServer, start_producer: StartProducer
) -> None:
    start_producer().send(Message("topic", b"body", **settings))
    system = server.requests("SendMessage")[0].messages[0].system_properties
    assert system.message_type == kind
    assert system.message_group == settings.get("message_group", "")
    assert system.priority == settings.get("priority", 0)
    if kind == pb.DELAY:
        assert abs(system.delivery_timestamp.ToMilliseconds() - time.time() * 1000 - 10_000) < 5_000
    assert not server.requests("SendMessage")[0].messages[0].user_properties


@pytest.mark.behaviour("GP-02")
def test_what_may_succeed_later_is_tried_again_and_what_cannot_is_not(
    server: GrpcServer, start_producer: StartProducer
) -> None:
    answers = iter([pb.INTERNAL_SERVER_ERROR, pb.TOO_MANY_REQUESTS, pb.ILLEGAL_MESSAGE_TAG])

    def refuse(request: Any, context: grpc.ServicerContext) -> Any:
        code = next(answers, None)
        return None if code is None else pb.SendMessageResponse(status=pb.Status(code=code))

    server.scripts["SendMessage"] = refuse
    producer = start_producer()
    with pytest.raises(BrokerError, match="ILLEGAL_MESSAGE_TAG"):
        producer.send(Message("topic", b"body"))
    assert server.count("SendMessage") == 3
    ids = {request.messages[0].system_properties.message_id for request in server.requests("SendMessage")}
    assert len(ids) == 1


@pytest.mark.behaviour("GP-02")
@pytest.mark.parametrize(
    ("code", "status"),
    [
        (pb.MASTER_PERSISTENCE_TIMEOUT, SendStatus.FLUSH_DISK_TIMEOUT),
        (pb.SLAVE_PERSISTENCE_TIMEOUT, SendStatus.FLUSH_SLAVE_TIMEOUT),
        (pb.HA_NOT_AVAILABLE, SendStatus.SLAVE_NOT_AVAILABLE),
    ],
)
def test_a_message_that_is_stored_less_well_is_stored(
    code: pb.Code, status: SendStatus, server: GrpcServer, start_producer: StartProducer
) -> None:
    entry = pb.SendResultEntry(status=pb.Status(code=code))
    server.scripts["SendMessage"] = lambda request, context: pb.SendMessageResponse(
        status=pb.Status(code=code), entries=[entry]
    )
    assert start_producer().send(Message("topic", b"body")).send_status is status
    assert server.count("SendMessage") == 1


@pytest.mark.behaviour("GP-02")
def test_a_server_that_is_gone_is_told(server: GrpcServer, start_producer: StartProducer) -> None:
    producer = start_producer(send_msg_timeout=1_000)
    producer.send(Message("topic", b"body"))
    server.stop()
    with pytest.raises(ConnectError, match="cannot be reached"):
        producer.send(Message("topic", b"body"))


@pytest.mark.behaviour("GP-03")
def test_asynchronous_sends_end_once_each_and_one_way_sends_arrive(
    server: GrpcServer, start_producer: StartProducer
) -> None:
    refused = threading.Event()

    def refuse_once(request: Any, context: grpc.ServicerContext) -> Any:
        if refused.is_set():
            return None
        refused.set()
        return pb.SendMessageResponse(status=pb.Status(code=pb.INTERNAL_SERVER_ERROR))

    server.scripts["SendMessage"] = refuse_once
    producer = start_producer()
    results: list[SendResult] = []
    errors: list[Exception] = []
    for number in range(50):
        producer.send_async(Message("topic", b"%d" % number), SendCallback(results.append, errors.append))
    eventually(lambda: len(results) == 50, 10, "all sent")
    assert not errors
    producer.send_oneway(Message("topic", b"one way"))
    eventually(lambda: server.requests("SendMessage")[-1].messages[0].body == b"one way", 10, "arrived")


class Orders:
    """A transaction listener that does as it is told."""

    def __init__(self, *states: LocalTransactionState) -> None:
        self._states = iter(states)
        self.checked: list[MessageExt] = []

    def execute_local_transaction(self, msg: Message, arg: Any) -> LocalTransactionState:
        return next(self._states)

    def check_local_transaction(self, msg: MessageExt) -> LocalTransactionState:
        self.checked.append(msg)
        return next(self._states)


@pytest.mark.behaviour("GP-04")
def test_the_server_is_told_how_a_transaction_ended_and_nothing_while_that_is_open(
    server: GrpcServer, start_producer: StartProducer
) -> None:
    commit, rollback, unknown = (
        LocalTransactionState.COMMIT_MESSAGE, LocalTransactionState.ROLLBACK_MESSAGE, LocalTransactionState.UNKNOW,
    )  # fmt: skip

    def store(request: Any, context: grpc.ServicerContext) -> Any:
        [message] = request.messages
        entry = pb.SendResultEntry(
            status=OK, message_id=message.system_properties.message_id, transaction_id="tx", offset=1
        )
        return pb.SendMessageResponse(status=OK, entries=[entry])

    server.scripts["SendMessage"] = store
    producer: Any = start_producer(transaction_listener=Orders(commit, rollback, unknown))
    results = [producer.send_message_in_transaction(Message("topic", b"body")) for _ in range(3)]
    assert [result.local_transaction_state for result in results] == [commit, rollback, unknown]
    ends = server.requests("EndTransaction")
    assert [end.resolution for end in ends] == [pb.COMMIT, pb.ROLLBACK]
    assert [(end.topic.name, end.message_id, end.transaction_id, end.source) for end in ends] == [
        ("topic", result.msg_id, "tx", pb.SOURCE_CLIENT) for result in results[:2]
    ]
    half = server.requests("SendMessage")[0].messages[0]
    assert half.system_properties.message_type == pb.TRANSACTION
    assert not half.user_properties
    # The server must know the topic before it can ask.
    eventually(
        lambda: [topic.name for topic in server.requests("Telemetry")[-1].settings.publishing.topics] == ["topic"],
        5, "told",
    )  # fmt: skip


@pytest.mark.behaviour("GP-05")
def test_a_transaction_that_nobody_ended_is_asked_about_and_answered(
    server: GrpcServer, start_producer: StartProducer
) -> None:
    listener = Orders(LocalTransactionState.COMMIT_MESSAGE)
    start_producer(transaction_listener=listener, topics=["topic"])
    command = pb.TelemetryCommand()
    asked = command.recover_orphaned_transaction_command
    asked.message.CopyFrom(server.message("topic", b"half", message_type=pb.TRANSACTION))
    asked.transaction_id = "tx"
    server.command(command)
    eventually(lambda: server.count("EndTransaction") == 1, 10, "answered")
    [end] = server.requests("EndTransaction")
    assert (end.topic.name, end.transaction_id, end.resolution, end.source) == (
        "topic", "tx", pb.COMMIT, pb.SOURCE_SERVER_CHECK,
    )  # fmt: skip
    assert [(msg.body, msg.topic) for msg in listener.checked] == [(b"half", "topic")]


@pytest.mark.behaviour("GP-06")
def test_a_delayed_message_can_be_taken_back(server: GrpcServer, start_producer: StartProducer) -> None:
    producer = start_producer()
    assert producer.recall_message("topic", "handle") == "recalled"
    [request] = server.requests("RecallMessage")
    assert (request.topic.name, request.recall_handle) == ("topic", "handle")


@pytest.mark.behaviour("GP-07")
def test_what_the_protocol_does_not_offer_is_refused(server: GrpcServer, start_producer: StartProducer) -> None:
    producer = start_producer()
    message = Message("topic", b"body")
    with pytest.raises(ConfigError, match="no batches"):
        producer.send([message, message])
    with pytest.raises(ConfigError, match="message_group"):
        producer.send(message, selector=lambda queues, message, arg: queues[0])
    with pytest.raises(ConfigError, match="request is not offered"):
        producer.request(message, 1_000)
    with pytest.raises(ConfigError, match="the limit is"):
        producer.send(Message("topic", bytes(5_000_000)))
    with pytest.raises(ConfigError, match="give one of them"):
        DefaultMQProducer("producers", endpoints="127.0.0.1:1", namesrv_addr="127.0.0.1:2").start()
    with pytest.raises(ConfigError, match="unit_mode"):
        DefaultMQProducer("producers", endpoints="127.0.0.1:1", unit_mode=True).start()
    with pytest.raises(ConfigError, match="namespace_v2"):
        DefaultMQProducer("producers", endpoints="127.0.0.1:1", namespace_v2="ns").start()
    with pytest.raises(ConfigError, match="namespace_v2"):
        SimpleConsumer("group", endpoints="127.0.0.1:1", namespace_v2="ns").start()
    assert producer.fetch_publish_message_queues("topic") == [MessageQueue("topic", BROKER, 0)]
    producer.shutdown()
    with pytest.raises(IllegalStateError, match="shut down"):
        producer.send(message)
    assert server.count("SendMessage") == 0
    assert server.count("NotifyClientTermination") == 1
