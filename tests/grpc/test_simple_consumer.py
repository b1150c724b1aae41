"""``SimpleConsumer`` against a scripted server."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from rocketmq_py import BrokerError, ConfigError, IllegalStateError, Message, SimpleConsumer
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from tests.grpc.server import GrpcServer


@pytest.mark.behaviour("SI-01")
def test_messages_are_received_acknowledged_and_put_off(server: GrpcServer) -> None:
    server.put("topic", *(server.message("topic", b"%d" % number) for number in range(3)))
    with SimpleConsumer("group", endpoints=server.endpoints) as consumer:
        consumer.subscribe("topic", "*")
        msgs = consumer.receive(16, 30_000, await_duration_ms=1_000)
        assert [msg.body for msg in msgs] == [b"0", b"1", b"2"]
        consumer.ack(msgs[0])
        consumer.change_invisible_duration(msgs[1], 60_000)
        consumer.ack(msgs[1])  # by the receipt that the change gave
        assert consumer.receive(1, 10_000, await_duration_ms=100) == []
    [first, second] = server.requests("ReceiveMessage")
    assert (first.batch_size, first.invisible_duration.ToMilliseconds(), first.auto_renew) == (16, 30_000, False)
    assert first.attempt_id != second.attempt_id
    [change] = server.requests("ChangeInvisibleDuration")
    assert (change.receipt_handle, change.invisible_duration.ToMilliseconds()) == ("receipt-1", 60_000)
    assert server.acked() == ["receipt-0", "receipt-1+"]
    assert server.requests("Telemetry")[0].settings.client_type == pb.SIMPLE_CONSUMER
    assert server.count("NotifyClientTermination") == 1


@pytest.mark.behaviour("SI-02")
def test_a_receipt_that_is_void_is_told(server: GrpcServer) -> None:
    def void(request: Any, context: grpc.ServicerContext) -> Any:
        return pb.AckMessageResponse(status=pb.Status(code=pb.INVALID_RECEIPT_HANDLE))

    server.put("topic", server.message("topic", b"body"))
    server.scripts["AckMessage"] = void
    with SimpleConsumer("group", endpoints=server.endpoints) as consumer:
        consumer.subscribe("topic")
        [msg] = consumer.receive(1, 10_000)
        with pytest.raises(BrokerError, match="INVALID_RECEIPT_HANDLE") as caught:
            consumer.ack(msg)
        assert caught.value.code == 40_013


@pytest.mark.behaviour("SI-02")
def test_topics_are_asked_in_turn_and_wrong_calls_are_told(server: GrpcServer) -> None:
    consumer = SimpleConsumer("group", endpoints=server.endpoints)
    with pytest.raises(IllegalStateError, match="not started"):
        consumer.receive(1, 10_000)
    with consumer:
        with pytest.raises(IllegalStateError, match="nothing is subscribed"):
            consumer.receive(1, 10_000)
        for topic in ("a", "b"):
            consumer.subscribe(topic)
            server.put(topic, server.message(topic, topic.encode()))
        assert {msg.body for _ in range(2) for msg in consumer.receive(1, 10_000)} == {b"a", b"b"}
        for numbers in ((0, 10_000), (33, 10_000), (1, 9_999), (1, 43_200_001)):
            with pytest.raises(ConfigError, match="Out of range"):
                consumer.receive(*numbers)
        several: list[Any] = ["x", None, [], Message("a", b"sent, not received")]
        for nonsense in several:
            with pytest.raises(ConfigError, match=r"a message that receive\(\) returned"):
                consumer.ack(nonsense)
            with pytest.raises(ConfigError, match=r"a message that receive\(\) returned"):
                consumer.change_invisible_duration(nonsense, 10_000)
        with pytest.raises(IllegalStateError, match="started once"):
            consumer.start()
    with pytest.raises(IllegalStateError, match="shut down"):
        consumer.receive(1, 10_000)
    with pytest.raises(ConfigError, match="speaks gRPC"):
        SimpleConsumer("group", namesrv_addr="127.0.0.1:9876").start()
