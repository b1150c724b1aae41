"""What the gRPC protocol carries, as our values and back."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import zlib

import grpc
import pytest

from rocketmq_py.errors import BrokerError, ConfigError, ConnectError, ProtocolError, RequestTimeoutError
from rocketmq_py.grpc_v2.bodies import check_digest, decoded, digest_of
from rocketmq_py.grpc_v2.convert import ReceivedMessage, consumer_terms, outgoing, producer_terms, received
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.headers import Headers
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.status import GrpcStatusError, check, of_rpc
from rocketmq_py.grpc_v2.tls import uses_tls
from rocketmq_py.model.codes import MessageSysFlag, ResponseCode
from rocketmq_py.model.compression import compress
from rocketmq_py.model.config import ClientConfig
from rocketmq_py.model.message import Message, MessageConst
from rocketmq_py.model.retry_policy import RetryPolicy
from rocketmq_py.testing import ManualClock

HERE = Endpoints.parse("127.0.0.1:8081")


# Addresses.


@pytest.mark.behaviour("GW-03")
@pytest.mark.parametrize(
    ("text", "target", "loopback"),
    [
        ("127.0.0.1:8081", "ipv4:127.0.0.1:8081", True),
        ("http://127.0.0.1:8081", "ipv4:127.0.0.1:8081", True),
        ("[::1]:8081", "ipv6:[::1]:8081", True),
        ("10.0.0.1:8081; 10.0.0.2:8082", "ipv4:10.0.0.1:8081,10.0.0.2:8082", False),
        ("localhost:8081", "dns:///localhost:8081", True),
        ("mq.example.org:8081", "dns:///mq.example.org:8081", False),
    ],
)
def test_endpoints_become_what_grpc_connects_to(text: str, target: str, loopback: bool) -> None:
    endpoints = Endpoints.parse(text)
    assert (endpoints.target, endpoints.is_loopback) == (target, loopback)
    assert Endpoints.of(endpoints.message()) == endpoints
    assert Endpoints.parse(str(endpoints)) == endpoints


@pytest.mark.behaviour("GW-03")
@pytest.mark.parametrize(
    "text", ["", " ; ", "127.0.0.1", "a:1,b:2", "a:1;b:2", "127.0.0.1:1;[::1]:2", "::1:8081", "127.0.0.1:99999", 8081]
)
def test_endpoints_that_cannot_be_meant_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match=r"endpoints|address"):
        Endpoints.parse(text)


@pytest.mark.behaviour("GW-05")
@pytest.mark.parametrize(
    ("endpoints", "settings", "secured"),
    [
        ("127.0.0.1:8081", {}, False),
        ("mq.example.org:8081", {}, True),
        ("mq.example.org:8081", {"use_tls": False}, False),
        ("127.0.0.1:8081", {"use_tls": True}, True),
        ("127.0.0.1:8081", {"tls_insecure": True}, True),
        ("127.0.0.1:8081", {"tls_client_trust_cert_path": "ca.pem"}, True),
    ],
)
def test_connections_are_secured_unless_they_stay_on_this_machine_or_the_user_says_so(
    endpoints: str, settings: dict[str, bool | str], secured: bool
) -> None:
    config = ClientConfig(endpoints=endpoints, **settings)  # type: ignore[arg-type]
    config.check_client()
    assert uses_tls(config, Endpoints.parse(endpoints)) is secured


# Headers.


@pytest.mark.behaviour("GW-04")
def test_every_call_says_who_calls_and_is_signed_when_there_are_keys() -> None:
    clock = ManualClock()
    plain = dict(Headers("client", ClientConfig(), clock).metadata())
    assert plain["x-mq-client-id"] == "client"
    assert plain["x-mq-language"] == "PYTHON"
    assert plain["x-mq-date-time"] == "20231114T221320Z"
    assert "authorization" not in plain
    config = ClientConfig(access_key="user", secret_key="hush", security_token="token", namespace="ns")
    signed = dict(Headers("client", config, clock).metadata())
    signature = hmac.new(b"hush", b"20231114T221320Z", hashlib.sha1).hexdigest().upper()
    assert signed["authorization"] == (
        f"MQv2-HMAC-SHA1 Credential=user, SignedHeaders=x-mq-date-time, Signature={signature}"
    )
    assert (signed["x-mq-session-token"], signed["x-mq-namespace"]) == ("token", "ns")
    assert plain["x-mq-request-id"] != signed["x-mq-request-id"]


# Bodies.


@pytest.mark.behaviour("GW-07")
@pytest.mark.parametrize(
    ("kind", "checksum"),
    [
        (pb.MD5, hashlib.md5(b"body").hexdigest().upper()),
        (pb.SHA1, hashlib.sha1(b"body").hexdigest()),
        (pb.CRC32, f"{zlib.crc32(b'body'):X}"),
        (pb.CRC32, f"{zlib.crc32(b'body'):08X}"),
        (pb.DIGEST_TYPE_UNSPECIFIED, "whatever"),
    ],
)
def test_a_body_that_fits_its_digest_is_taken(kind: pb.DigestType, checksum: str) -> None:
    check_digest(pb.Digest(type=kind, checksum=checksum), b"body")
    check_digest(digest_of(b"body"), b"body")


@pytest.mark.behaviour("GW-07")
@pytest.mark.parametrize("leading", range(3))
def test_a_crc_may_have_leading_zeros_or_not(leading: int) -> None:
    body = next(body for body in (b"%d" % n for n in range(100_000)) if zlib.crc32(body) >> (28 - 4 * leading) == 0)
    check_digest(pb.Digest(type=pb.CRC32, checksum=f"{zlib.crc32(body):X}"), body)
    check_digest(pb.Digest(type=pb.CRC32, checksum=f"{zlib.crc32(body):08X}"), body)


@pytest.mark.behaviour("GW-07")
@pytest.mark.parametrize("kind", [pb.MD5, pb.SHA1, pb.CRC32])
def test_a_body_that_does_not_fit_its_digest_is_refused(kind: pb.DigestType) -> None:
    with pytest.raises(ProtocolError, match="does not fit its"):
        check_digest(pb.Digest(type=kind, checksum="0123"), b"body")


@pytest.mark.behaviour("GW-07")
def test_what_is_called_gzip_may_be_of_any_compression() -> None:
    body = b"body" * 1_000
    bodies = [gzip.compress(body), zlib.compress(body)]
    bodies += [compress(body, kind) for kind in (MessageSysFlag.COMPRESSION_LZ4, MessageSysFlag.COMPRESSION_ZSTD)]
    assert [decoded(pb.GZIP, each) for each in bodies] == [body] * 4
    assert decoded(pb.IDENTITY, bodies[0]) == bodies[0]


@pytest.mark.behaviour("GW-07")
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (pb.ENCODING_UNSPECIFIED, b"body"),
        (7, b"body"),
        (pb.GZIP, b"body"),
        (pb.GZIP, b""),
        (pb.GZIP, gzip.compress(b"body" * 100, mtime=0)[:-5]),
        (pb.GZIP, b"\x1f\x8b" + b"x" * 50),
        (pb.GZIP, gzip.compress(bytes(1_000_001), mtime=0)),
        (pb.GZIP, zlib.compress(bytes(1_000_001))),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(encoding: int, body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(encoding, body, max_bytes=1_000_000)


# Messages.


def sent() -> pb.Message:
    message = pb.Message(topic=pb.Resource(name="topic"), body=b"body", user_properties={"own": "property"})
    system = message.system_properties
    system.message_id = "0102"
    system.tag = "A"
    system.keys.extend(["k1", "k2"])
    system.body_digest.CopyFrom(digest_of(b"body"))
    system.body_encoding = pb.IDENTITY
    system.message_type = pb.NORMAL
    system.born_timestamp.FromMilliseconds(1_700_000_000_123)
    system.store_timestamp.FromMilliseconds(1_700_000_000_456)
    system.born_host, system.store_host = "10.0.0.1:4711", "10.0.0.2:10911"
    system.queue_id, system.queue_offset = 3, 42
    system.receipt_handle = "handle"
    system.delivery_attempt = 2
    return message


def taken(message: pb.Message) -> ReceivedMessage:
    return received(message, "topic", HERE, "broker-a")


@pytest.mark.behaviour("GW-09")
def test_a_message_shows_the_same_as_by_the_remoting_wire() -> None:
    msg = taken(sent())
    assert (msg.topic, msg.body, msg.tags, msg.keys, msg.msg_id) == ("topic", b"body", "A", "k1 k2", "0102")
    assert (msg.queue_id, msg.queue_offset, msg.reconsume_times, msg.broker_name) == (3, 42, 1, "broker-a")
    assert (msg.born_timestamp, msg.store_timestamp) == (1_700_000_000_123, 1_700_000_000_456)
    assert (msg.born_host, msg.store_host) == (("10.0.0.1", 4711), ("10.0.0.2", 10911))
    assert dict(msg.properties) == {"own": "property", "UNIQ_KEY": "0102", "TAGS": "A", "KEYS": "k1 k2"}
    assert (msg.receipt, msg.endpoints, msg.corrupted) == ("handle", HERE, None)


@pytest.mark.behaviour("GW-09")
def test_what_only_some_messages_have_appears_under_its_classic_name() -> None:
    message = sent()
    system = message.system_properties
    system.message_type = pb.DELAY
    system.message_group = "order-1"
    system.delivery_timestamp.FromMilliseconds(1_800_000_000_000)
    system.priority = 3
    system.dead_letter_queue.topic, system.dead_letter_queue.message_id = "origin", "0001"
    message.user_properties.update({"__transactionId__": "x", "TRANSACTION_CHECK_TIMES": "1"})
    msg = taken(message)
    assert msg.get_property("__SHARDINGKEY") == "order-1"
    assert msg.get_property("TIMER_DELIVER_MS") == "1800000000000"
    assert msg.get_property("_SYS_MSG_PRIORITY_") == "3"
    assert (msg.get_property("DLQ_ORIGIN_TOPIC"), msg.get_property("DLQ_ORIGIN_MESSAGE_ID")) == ("origin", "0001")
    assert msg.get_property("__transactionId__") is None
    assert msg.get_property("TRANSACTION_CHECK_TIMES") is None
    system.message_type = pb.TRANSACTION
    assert taken(message).transaction_id == "0102"


@pytest.mark.behaviour("GW-09")
@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.0.0.1", ("10.0.0.1", 0)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("somewhere:80", ("0.0.0.0", 0)),
        ("", ("0.0.0.0", 0)),
        ("10.0.0.1:99999999999", ("0.0.0.0", 0)),
    ],
)
def test_whatever_a_server_says_of_hosts_costs_no_message(text: str, host: tuple[str, int]) -> None:
    message = sent()
    message.system_properties.born_host = text
    assert taken(message).born_host == host


@pytest.mark.behaviour("GW-07")
def test_a_message_whose_body_is_damaged_is_noted_and_keeps_its_receipt() -> None:
    message = sent()
    message.body = b"b0dy"
    msg = taken(message)
    assert "does not fit its MD5" in str(msg.corrupted)
    assert (msg.receipt, msg.msg_id) == ("handle", "0102")
    message = sent()
    message.system_properties.body_encoding = pb.ENCODING_UNSPECIFIED
    assert "unknown encoding" in str(taken(message).corrupted)


@pytest.mark.behaviour("GW-09")
def test_a_message_with_nothing_in_it_and_one_with_nonsense_can_be_shown() -> None:
    msg = taken(pb.Message())
    assert (msg.msg_id, msg.reconsume_times, msg.queue_offset) == ("00000000000000000000000000000000", 0, 0)
    message = sent()
    message.system_properties.born_timestamp.seconds = -(2**62)
    message.system_properties.delivery_attempt = -5
    assert taken(message).reconsume_times == 0


# Settings.


@pytest.mark.behaviour("GW-10")
def test_what_a_server_decides_about_a_consumer_is_read_with_parts_of_seconds() -> None:
    settings = pb.Settings()
    settings.backoff_policy.max_attempts = 5
    settings.backoff_policy.customized_backoff.next.add().FromMilliseconds(1_500)
    settings.backoff_policy.customized_backoff.next.add().FromMilliseconds(30_000)
    settings.subscription.fifo = True
    settings.subscription.receive_batch_size = 8
    settings.subscription.long_polling_timeout.FromMilliseconds(12_345)
    terms = consumer_terms(settings)
    assert (terms.fifo, terms.receive_batch_size, terms.long_polling_ms) == (True, 8, 12_345)
    assert terms.retry.max_attempts == 5
    assert [terms.retry.delay_ms(attempt) for attempt in (1, 2, 3, 17)] == [1_500, 30_000, 30_000, 30_000]


@pytest.mark.behaviour("GW-10")
def test_an_exponential_policy_is_kept_to() -> None:
    settings = pb.Settings()
    settings.backoff_policy.max_attempts = 3
    settings.backoff_policy.exponential_backoff.initial.FromMilliseconds(30_000)
    settings.backoff_policy.exponential_backoff.max.FromMilliseconds(100_000)
    settings.backoff_policy.exponential_backoff.multiplier = 2
    settings.subscription.SetInParent()
    retry = consumer_terms(settings).retry
    assert [retry.delay_ms(attempt) for attempt in (1, 2, 3, 10_000)] == [30_000, 60_000, 100_000, 100_000]


@pytest.mark.behaviour("GW-10")
def test_what_a_server_leaves_out_is_as_a_proxy_has_it() -> None:
    settings = pb.Settings()
    settings.subscription.SetInParent()
    terms = consumer_terms(settings)
    assert (terms.retry.max_attempts, terms.receive_batch_size, terms.long_polling_ms) == (17, 32, 20_000)
    assert [terms.retry.delay_ms(attempt) for attempt in (1, 5, 18, 99)] == [1_000, 60_000, 7_200_000, 7_200_000]
    with pytest.raises(ProtocolError):
        consumer_terms(pb.Settings())
    settings = pb.Settings()
    settings.publishing.max_body_size = 10
    assert (producer_terms(settings).max_body_size, producer_terms(settings).retry.max_attempts) == (10, 3)
    with pytest.raises(ProtocolError):
        producer_terms(pb.Settings())
    assert RetryPolicy(3, initial_ms=10, max_ms=1_000, multiplier=2.0).delay_ms(-1) == 10


# Errors.


@pytest.mark.behaviour("GW-11")
def test_every_status_is_an_error_with_a_code_and_a_name_and_says_whether_to_try_again() -> None:
    retriable = set()
    for name, code in pb.Code.items():
        if code == pb.OK:
            continue
        with pytest.raises(BrokerError) as caught:
            check(pb.Status(code=name, message="words"), "here:1", "Doing")
        error = caught.value
        assert isinstance(error, GrpcStatusError)
        assert error.status == code
        assert name in str(error)
        assert "words" in str(error)
        if error.retriable:
            retriable.add(name)
    assert retriable == {
        "TOO_MANY_REQUESTS", "INTERNAL_ERROR", "INTERNAL_SERVER_ERROR", "HA_NOT_AVAILABLE", "PROXY_TIMEOUT",
        "MASTER_PERSISTENCE_TIMEOUT", "SLAVE_PERSISTENCE_TIMEOUT", "UNRECOGNIZED_CLIENT_TYPE",
    }  # fmt: skip
    check(pb.Status(code=pb.OK), "here:1", "Doing")
    unknown = pb.Status.FromString(b"\x08\xb9\x60")  # code 12345
    assert "status 12345" in str(GrpcStatusError(unknown, "here:1", "Doing"))


@pytest.mark.behaviour("GW-11")
@pytest.mark.parametrize(
    ("code", "classic"),
    [
        (pb.TOPIC_NOT_FOUND, ResponseCode.TOPIC_NOT_EXIST),
        (pb.UNAUTHORIZED, ResponseCode.NO_PERMISSION),
        (pb.TOO_MANY_REQUESTS, ResponseCode.FLOW_CONTROL),
        (pb.INVALID_RECEIPT_HANDLE, 40_013),
    ],
)
def test_a_code_is_the_remoting_protocol_s_where_that_has_one_of_the_same_meaning(code: pb.Code, classic: int) -> None:
    assert GrpcStatusError(pb.Status(code=code), "here:1", "Doing").code == classic


class _Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "details"


@pytest.mark.behaviour("GW-11")
@pytest.mark.parametrize(
    ("code", "kind", "retriable"),
    [
        (grpc.StatusCode.UNAVAILABLE, ConnectError, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, RequestTimeoutError, True),
        (grpc.StatusCode.CANCELLED, ConnectError, True),
        (grpc.StatusCode.UNIMPLEMENTED, ProtocolError, False),
        (grpc.StatusCode.INVALID_ARGUMENT, ProtocolError, False),
        (grpc.StatusCode.INTERNAL, ProtocolError, False),
    ],
)
def test_a_failure_of_grpc_itself_is_an_error_of_transport(
    code: grpc.StatusCode, kind: type[Exception], retriable: bool
) -> None:
    error = of_rpc(_Failed(code), "here:1", "Doing")
    assert type(error) is kind
    assert error.retriable is retriable
    assert "here:1" in str(error)
    assert ("is this its gRPC port" in str(error)) is (code is grpc.StatusCode.UNAVAILABLE)


def test_a_moment_that_the_protocol_cannot_say_is_a_wrong_setting() -> None:
    message = Message("topic", b"body", deliver_time_ms=10**18)
    message.properties[MessageConst.UNIQ_KEY] = "id"
    with pytest.raises(ConfigError, match="9999"):
        outgoing(message, "topic", 0, "127.0.0.1")
