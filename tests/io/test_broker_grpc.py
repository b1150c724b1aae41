"""The gRPC port of the embedded broker, over sockets: calls, streams, what breaks, the end."""

from __future__ import annotations

import hmac
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from rocketmq_py import DefaultMQProducer, Message
from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from rocketmq_py.broker.grpc import server, shares
from rocketmq_py.errors import ConnectError
from rocketmq_py.grpc_v2.methods import METHODS
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.message_status import MessageStatus
from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
from rocketmq_py.remoting.message_status_bodies import Cursor
from tests.conformance.collector import eventually
from tests.io.half_sent import HalfSentRequests

TOPIC = "topic"
GROUP = "group"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path_factory.mktemp("data"), grpc_port=0, message_status=True) as running:
        yield running


@pytest.fixture
def topic(broker: EmbeddedBroker, request: pytest.FixtureRequest) -> str:
    """A topic of the test's own with one message per queue at most: it was created by a send."""
    name = f"topic-{abs(hash(request.node.name))}"
    send(broker, name, b"first")
    return name


def send(broker: EmbeddedBroker, topic: str, *bodies: bytes) -> None:
    with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
        for body in bodies:
            producer.send(Message(topic, body))


class Client:
    """A client without any manners of its own."""

    def __init__(self, broker: EmbeddedBroker, client_id: str = "client") -> None:
        self.channel = grpc.insecure_channel(str(broker.grpc_addr), options=[("grpc.use_local_subchannel_pool", 1)])
        self.headers: tuple[tuple[str, str], ...] = (("x-mq-client-id", client_id), ("x-mq-client-version", "5.1.2"))
        self._all_commands: list[queue.Queue[Any]] = []
        self.told: queue.Queue[Any] = queue.Queue()

    def close(self) -> None:
        for commands in self._all_commands:
            commands.put(None)
        self.channel.close()

    def call(self, name: str, request: Any, timeout: float = 30, headers: Any = None) -> Any:
        method = METHODS[name]
        make: Callable[..., Any] = getattr(self.channel, f"unary_{'stream' if method.response_streaming else 'unary'}")
        rpc = make(method.path, request.__class__.SerializeToString, method.response.FromString)
        return rpc(request, timeout=timeout, metadata=self.headers if headers is None else headers)

    def open_stream(self) -> Any:
        self.commands: queue.Queue[Any] = queue.Queue()
        self._all_commands.append(self.commands)
        method = METHODS["Telemetry"]
        rpc = self.channel.stream_stream(method.path, method.request.SerializeToString, method.response.FromString)
        call = rpc(iter(self.commands.get, None), metadata=self.headers)
        threading.Thread(target=self._read, args=(call,), daemon=True).start()
        return call

    def _read(self, call: Any) -> None:
        try:
            for command in call:
                self.told.put(command)
            self.told.put(None)
        except grpc.RpcError as error:
            self.told.put(error)

    def tell_settings(self, topic: str) -> Any:
        entry = pb.SubscriptionEntry(topic=pb.Resource(name=topic), expression=pb.FilterExpression(expression="*"))
        self.commands.put(
            pb.TelemetryCommand(
                settings=pb.Settings(
                    client_type=pb.PUSH_CONSUMER,
                    subscription=pb.Subscription(group=pb.Resource(name=GROUP), subscriptions=[entry]),
                )
            )
        )
        return self.told.get(timeout=30)

    def receive(self, topic: str, **more: Any) -> Any:
        request = pb.ReceiveMessageRequest(
            group=pb.Resource(name=GROUP),
            message_queue=pb.MessageQueue(topic=pb.Resource(name=topic), id=-1),
            filter_expression=pb.FilterExpression(type=pb.TAG, expression="*"),
            batch_size=32,
        )
        request.invisible_duration.FromSeconds(10)
        request.long_polling_timeout.FromSeconds(20)
        return self.call("ReceiveMessage", request, **more)


@pytest.fixture
def client(broker: EmbeddedBroker) -> Iterator[Client]:
    made = Client(broker)
    yield made
    made.close()


@pytest.mark.behaviour("GS-27")
def test_a_message_sent_over_one_protocol_is_received_over_the_other(
    broker: EmbeddedBroker, client: Client, topic: str
) -> None:
    frames = list(client.receive(topic))
    assert [frame.WhichOneof("content") for frame in frames] == ["status", "message", "delivery_timestamp"]
    assert frames[1].message.body == b"first"
    answer = client.call(
        "AckMessage",
        pb.AckMessageRequest(
            group=pb.Resource(name=GROUP),
            topic=pb.Resource(name=topic),
            entries=[pb.AckMessageEntry(receipt_handle=frames[1].message.system_properties.receipt_handle)],
        ),
    )
    assert answer.status.code == pb.OK


@pytest.mark.behaviour("GS-27")
def test_a_call_without_client_id_and_a_method_that_is_not_there_are_told_so(client: Client, topic: str) -> None:
    request = pb.QueryRouteRequest(topic=pb.Resource(name=topic))
    assert client.call("QueryRoute", request, headers=()).status.code == pb.CLIENT_ID_REQUIRED
    assert client.call("QueryRoute", request).status.code == pb.OK
    (status, _) = client.receive(topic, headers=())
    assert status.status.code == pb.CLIENT_ID_REQUIRED
    for name, missing in (("GetOffset", pb.GetOffsetRequest()), ("UpdateOffset", pb.UpdateOffsetRequest())):
        with pytest.raises(grpc.RpcError) as caught:
            client.call(name, missing)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.behaviour("GS-27")
def test_a_poll_ends_when_its_message_comes(broker: EmbeddedBroker, client: Client, topic: str) -> None:
    list(client.receive(topic))
    found: list[bytes] = []

    def poll() -> None:
        found.extend(frame.message.body for frame in client.receive(topic) if frame.HasField("message"))

    polling = threading.Thread(target=poll)
    polling.start()
    send(broker, topic, b"second")
    polling.join(30)
    assert found == [b"second"]


@pytest.mark.behaviour("SM-14")
def test_the_messages_of_a_poll_are_delivered_when_it_has_ended(
    broker: EmbeddedBroker, client: Client, topic: str
) -> None:
    list(client.receive(topic))
    with DefaultMQAdminExt(namesrv_addr=broker.namesrv_addr) as admin:
        (address,) = admin.master_addresses().values()

        def is_delivered() -> bool:
            found = admin.api.messages_with_status(address, GROUP, MessageStatus.TO_CONSUMER_SUCCESS, 100, Cursor())
            return topic in {message.topic for message in found.messages}

        eventually(is_delivered, 30, "the message counts as delivered")


@pytest.mark.behaviour("GS-28")
def test_messages_of_a_poll_that_was_given_up_go_to_the_next(
    broker: EmbeddedBroker, client: Client, topic: str
) -> None:
    list(client.receive(topic))
    for _ in range(20):
        client.receive(topic).cancel()
    send(broker, topic, b"second")
    found: list[bytes] = []

    def poll() -> bool:
        found.extend(frame.message.body for frame in client.receive(topic) if frame.HasField("message"))
        return b"second" in found

    eventually(poll, 30, "the message comes")


@pytest.mark.behaviour("GS-29")
def test_a_stream_tells_settings_and_ends_with_its_client(broker: EmbeddedBroker, client: Client, topic: str) -> None:
    client.open_stream()
    told = client.tell_settings(topic)
    assert (told.status.code, told.settings.subscription.receive_batch_size) == (pb.OK, 32)
    client.commands.put(None)
    assert client.told.get(timeout=30) is None, "it ends as the client ended it"


@pytest.mark.behaviour("GS-29")
def test_a_stream_that_makes_no_sense_is_ended_with_a_reason(client: Client) -> None:
    client.open_stream()
    client.commands.put(pb.TelemetryCommand(settings=pb.Settings(client_type=pb.PUSH_CONSUMER)))
    error = client.told.get(timeout=30)
    assert (error.code(), "no publishing or subscription" in error.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT, True,
    )  # fmt: skip
    client.headers = ()
    client.open_stream()
    assert client.told.get(timeout=30).status.code == pb.CLIENT_ID_REQUIRED
    assert client.told.get(timeout=30) is None


@pytest.mark.behaviour("GS-30")
def test_a_broker_ends_with_polls_and_streams_open_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    broker = EmbeddedBroker(tmp_path, grpc_port=0).start()
    client = Client(broker)
    try:
        send(broker, TOPIC, b"first")
        client.open_stream()
        client.tell_settings(TOPIC)
        list(client.receive(TOPIC))
        poll = client.receive(TOPIC)
        broker.shutdown()
        with pytest.raises(grpc.RpcError):
            list(poll)
    finally:
        client.close()
        broker.shutdown()

    eventually(lambda: set(threading.enumerate()) <= before, 20, "all threads end")


@pytest.mark.behaviour("GS-30")
def test_a_port_that_is_taken_is_told_and_everything_closed_again(broker: EmbeddedBroker, tmp_path: Path) -> None:
    taken = int(str(broker.grpc_addr).rpartition(":")[2])
    with pytest.raises(ConnectError, match=f"cannot listen at 127.0.0.1:{taken}"):
        EmbeddedBroker(tmp_path, grpc_port=taken).start()
    with EmbeddedBroker(tmp_path) as other:
        assert other.grpc_addr is None


def signed(access_key: str, secret: str, date_time: str = "20260101T000000Z") -> tuple[tuple[str, str], ...]:
    signature = hmac.new(secret.encode(), date_time.encode(), "sha1").hexdigest().upper()
    authorization = f"MQv2-HMAC-SHA1 Credential={access_key}, SignedHeaders=x-mq-date-time, Signature={signature}"
    return (("x-mq-client-id", "c"), ("x-mq-date-time", date_time), ("authorization", authorization))


@pytest.mark.behaviour("GS-32")
def test_with_access_keys_every_call_must_be_signed(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, grpc_port=0, access_keys={"ak": "sk"}) as broker:
        client = Client(broker)
        request = pb.QueryRouteRequest(topic=pb.Resource(name="topic"))
        try:
            assert client.call("QueryRoute", request, headers=signed("ak", "sk")).status.code == pb.TOPIC_NOT_FOUND
            for headers in (signed("ak", "other"), signed("other", "sk"), client.headers):
                assert client.call("QueryRoute", request, headers=headers).status.code == pb.UNAUTHORIZED
                (status, _) = client.receive("topic", headers=headers)
                assert status.status.code == pb.UNAUTHORIZED
            client.open_stream()
            assert client.told.get(timeout=30).status.code == pb.UNAUTHORIZED
            assert client.told.get(timeout=30) is None
            client.headers = signed("ak", "sk")
            client.open_stream()
            assert client.tell_settings("topic").status.code == pb.OK, "its requests within are trusted"
        finally:
            client.close()


@pytest.mark.behaviour("GS-32", "GS-42")
def test_of_who_is_not_known_by_its_access_key_nothing_is_read(tmp_path: Path) -> None:
    def unsigned(address: str, method: str) -> None:
        half = HalfSentRequests(address, method, calls=8, size=1_000_000)
        try:
            half.send_until(lambda: len(half.ended) == 8, 30)
            assert half.sent < 8 * 66_000, "what fits into a first window"
        finally:
            half.close()

    with EmbeddedBroker(tmp_path, grpc_port=0, access_keys={"ak": "sk"}) as broker:
        for method in ("SendMessage", "ReceiveMessage", "Telemetry"):
            unsigned(str(broker.grpc_addr), method)


@pytest.mark.behaviour("GS-40")
@pytest.mark.parametrize(
    "nonsense", [b"", b"\xff\xff\xff\xff", b"\x0a\x02\x12\x01", b"\x0a\x04\x12\x02\xff\xfe", b"x" * 5_000]
)
def test_nonsense_costs_its_own_call_only(
    client: Client, topic: str, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for name, method in METHODS.items():
        kinds = [
            "stream" if streaming else "unary" for streaming in (method.request_streaming, method.response_streaming)
        ]
        make = getattr(client.channel, "_".join(kinds))
        rpc = make(method.path, None, method.response.FromString)
        try:
            answer = rpc(
                iter([nonsense]) if method.request_streaming else nonsense, timeout=30, metadata=client.headers
            )
            for frame in answer if method.response_streaming else [answer]:
                assert frame.status.code != pb.OK or not method.response_streaming, (name, frame)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN}:
                raise
    assert not [record for record in caplog.records if record.name.startswith("grpc")], "who is talked to so can log"
    assert client.call("QueryRoute", pb.QueryRouteRequest(topic=pb.Resource(name=topic))).status.code == pb.OK


@pytest.fixture
def lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EmbeddedBroker, Client]]:
    """A client that does not read what it receives, and its broker."""
    with EmbeddedBroker(tmp_path, grpc_port=0) as broker:
        lazy = Client(broker, "lazy")
        lazy.channel.close()
        options = [("grpc.http2.lookahead_bytes", 65_535), ("grpc.http2.bdp_probe", 0)]
        lazy.channel = grpc.insecure_channel(str(broker.grpc_addr), options=options)
        yield broker, lazy
        lazy.close()


def first(call: Any) -> int:
    """How a receive begins."""
    code: int = next(iter(call)).status.code
    return code


@pytest.mark.behaviour("GS-42")
def test_messages_that_a_client_does_not_read_go_to_others_in_time_or_when_there_are_too_many(
    lazy: tuple[EmbeddedBroker, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "UNREAD_MAX_BYTES", 4_000_000)
    broker, not_reading = lazy
    client = Client(broker)
    for topic in ("a", "b"):
        send(broker, topic, os.urandom(3_000_000))
    unread = not_reading.receive("a")
    assert first(unread) == pb.OK, "the message is on its way"
    assert [len(frame.message.body) for frame in client.receive("b")] == [0, 3_000_000, 0]
    assert [len(frame.message.body) for frame in client.receive("a")] == [0, 3_000_000, 0], "it was too much: cut off"
    unread.cancel()

    monkeypatch.setattr(server, "WRITE_TIMEOUT_S", 1)
    send(broker, "c", os.urandom(3_000_000))
    unread = not_reading.receive("c")
    assert first(unread) == pb.OK
    assert [len(frame.message.body) for frame in client.receive("c")] == [0, 3_000_000, 0]
    unread.cancel()
    client.close()


@pytest.mark.behaviour("GS-42")
def test_who_does_not_read_receives_no_more_than_a_share_and_others_do(
    lazy: tuple[EmbeddedBroker, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "UNREAD_SHARE_MAX_BYTES", 1_000_000)
    broker, not_reading = lazy
    client = Client(broker)
    for topic in ("a", "b"):
        send(broker, topic, os.urandom(3_000_000))
    unread = not_reading.receive("a")
    assert first(unread) == pb.OK
    assert first(not_reading.receive("b")) == pb.TOO_MANY_REQUESTS
    assert [len(frame.message.body) for frame in client.receive("b")] == [0, 3_000_000, 0]
    unread.cancel()
    send(broker, "b", b"small")
    eventually(lambda: first(not_reading.receive("b")) == pb.OK, 30, "what it gave up counts no more")
    client.close()


@pytest.mark.behaviour("GS-42")
@pytest.mark.parametrize("method", ["SendMessage", "ReceiveMessage", "Telemetry"])
def test_of_requests_that_are_not_finished_a_few_are_read_for_a_while_and_others_are_served(
    broker: EmbeddedBroker, client: Client, topic: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "READS_MAX", 2)
    monkeypatch.setattr(server, "READ_TIMEOUT_S", 2)
    half = HalfSentRequests(str(broker.grpc_addr), method, calls=20, size=4_000_000)
    try:
        half.send_for(1)
        assert 0 < half.sent < 4 * 4_000_000
        assert client.call("QueryRoute", pb.QueryRouteRequest(topic=pb.Resource(name=topic))).status.code == pb.OK
        half.send_until(lambda: len(half.ended) >= 2, 30)
    finally:
        half.close()


@pytest.mark.behaviour("GS-42")
def test_connections_above_the_limit_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**dict(server._OPTIONS), "grpc.max_allowed_incoming_connections": 3}
    assert len(options) == len(server._OPTIONS), "the option is there"
    monkeypatch.setattr(server, "_OPTIONS", tuple(options.items()))
    with EmbeddedBroker(tmp_path, grpc_port=0) as broker, ExitStack() as closing:
        host, _, port = str(broker.grpc_addr).rpartition(":")
        connections = [closing.enter_context(socket.create_connection((host, int(port)))) for _ in range(6)]
        for connection in connections:
            connection.settimeout(30)
        assert sum(connection.recv(1) == b"" for connection in connections) == 3


@pytest.mark.behaviour("GS-42")
def test_a_request_that_is_too_large_is_not_read(client: Client, topic: str) -> None:
    entry = pb.AckMessageEntry(receipt_handle="x" * 17_000_000)
    request = pb.AckMessageRequest(group=pb.Resource(name=GROUP), topic=pb.Resource(name=topic), entries=[entry])
    with pytest.raises(grpc.RpcError) as raised:
        client.call("AckMessage", request)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
