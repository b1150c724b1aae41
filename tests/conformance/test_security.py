"""Signed requests and TLS, against a real broker that wants both, and from the client a certificate, too."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from rocketmq_py import (
    BrokerError,
    ConnectError,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    MessageListenerConcurrently,
    ServiceState,
    SimpleConsumer,
)
from rocketmq_py.consumer.stats import Event
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.config import TLS_PATHS
from tests.apache.cluster import ApacheCluster
from tests.certificates import Certificates, make_certificates
from tests.conformance.collector import Collector, eventually

USER, PASSWORD = "rocketmq", "12345678"
ADMINISTRATION = "14,17,25,30,38,200,215"
"""Requests of the tests themselves, which sign nothing."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(java: None, certificates: Certificates) -> Iterator[ApacheCluster]:
    """All servers take nothing but TLS, name server and broker with a client's certificate; all but the name server
    want signatures.
    """
    credentials = f'{{"accessKey":"{USER}","secretKey":"{PASSWORD}"}}'
    providers = "org.apache.rocketmq.auth.{0}.provider.Local{1}MetadataProvider"
    broker_config = {
        "authenticationEnabled": True,
        "authenticationMetadataProvider": providers.format("authentication", "Authentication"),
        "initAuthenticationUser": f'{{"username":"{USER}","password":"{PASSWORD}"}}',
        "innerClientAuthenticationCredentials": credentials,
        "authenticationWhitelist": ADMINISTRATION,
        "authorizationEnabled": True,
        "authorizationMetadataProvider": providers.format("authorization", "Authorization"),
        "authorizationWhitelist": ADMINISTRATION,
    }
    files = certificates
    options = [
        "-Dtls.server.mode=enforcing", "-Dtls.test.mode.enable=false",
        f"-Dtls.server.certPath={files.server_cert}", f"-Dtls.server.keyPath={files.server_key}",
        "-Dtls.server.need.client.auth=require", "-Dtls.server.authClient=true",
        f"-Dtls.server.trustCertPath={files.ca}",
        "-Dtls.enable=true", "-Dtls.client.authServer=true", f"-Dtls.client.trustCertPath={files.ca}",
        f"-Dtls.client.certPath={files.client_cert}", f"-Dtls.client.keyPath={files.client_key}",
    ]  # fmt: skip
    providers = "org.apache.rocketmq.proxy.auth.Proxy{0}MetadataProvider"
    proxy_config = {
        "authenticationEnabled": True,
        "authenticationMetadataProvider": providers.format("Authentication"),
        "authorizationEnabled": True,
        "authorizationMetadataProvider": providers.format("Authorization"),
        "innerClientAuthenticationCredentials": credentials,
        "enableAclRpcHookForClusterMode": True,
        "tlsTestModeEnable": False,
        "tlsCertPath": str(files.server_cert),
        "tlsKeyPath": str(files.server_key),
    }
    with ApacheCluster(
        proxy=True,
        broker_config=broker_config,
        proxy_config=proxy_config,
        options=options,
        tls=files.client_context(),
    ) as cluster:
        yield cluster


@pytest.fixture
def right(secure: ApacheCluster, certificates: Certificates) -> dict[str, Any]:
    """Settings with which it works."""
    return {
        "namesrv_addr": secure.namesrv_addr,
        "access_key": USER,
        "secret_key": PASSWORD,
        "use_tls": True,
        "tls_client_trust_cert_path": str(certificates.ca),
        "tls_client_cert_path": str(certificates.client_cert),
        "tls_client_key_path": str(certificates.client_key),
    }


def name() -> str:
    return f"secure-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(secure: ApacheCluster) -> str:
    topic = name()
    secure.create_topic(topic, 4)
    return topic


def make_consumer(
    group: str, topic: str, listener: MessageListenerConcurrently, **settings: Any
) -> DefaultMQPushConsumer:
    settings.setdefault("consume_from_where", ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
    consumer = DefaultMQPushConsumer(group, **settings)
    consumer.subscribe(topic)
    consumer.register_message_listener(listener)
    return consumer


@pytest.mark.behaviour("SE-02", "SE-07")
def test_with_certificate_and_key_messages_large_ones_too_come_and_failed_ones_come_again(
    secure: ApacheCluster, right: dict[str, Any], topic: str
) -> None:
    group = name()
    secure.create_group(group)
    failed: set[bytes] = set()

    def fail_once(msgs: Any, context: Any) -> ConsumeConcurrentlyStatus:
        if msgs[0].body.startswith(b"fail") and msgs[0].body not in failed:
            failed.add(msgs[0].body)
            return ConsumeConcurrentlyStatus.RECONSUME_LATER
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    collector = Collector(fail_once)
    bodies = [f"body {number}".encode() for number in range(200)] + [b"fail 1", b"fail 2", bytes(range(256)) * 8_000]
    with (
        DefaultMQProducer(name(), compress_msg_body_over_howmuch=2**31 - 1, **right) as producer,
        make_consumer(group, topic, collector, **right),
    ):
        for body in bodies:
            producer.send(Message(topic, body), timeout_ms=10_000)
        collector.wait_for_bodies(bodies)
        collector.wait_until(
            lambda: all(collector.deliveries and count(collector, body) == 2 for body in failed), 60, "again"
        )
    assert sum(secure.committed_offsets(group, topic).values()) == len(bodies)


def count(collector: Collector, body: bytes) -> int:
    return sum(msg.body == body for msg in collector.deliveries)


WRONG_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"access_key": None, "secret_key": None}, "username cannot be null"),
    "a wrong key": ({"secret_key": "87654321"}, "check signature failed"),
    "an unknown user": ({"access_key": "nobody"}, "User:nobody is not found"),
}


@pytest.mark.behaviour("SE-03")
@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_without_the_right_key_start_and_send_fail_in_clear_words(
    wrong: str, right: dict[str, Any], topic: str
) -> None:
    settings, remark = WRONG_KEYS[wrong]
    with (
        DefaultMQProducer(name(), **{**right, **settings}) as producer,
        pytest.raises(BrokerError, match=remark) as refused,
    ):
        producer.send(Message(topic, b"body"))
    assert refused.value.code == ResponseCode.NO_PERMISSION
    consumer = make_consumer(name(), topic, Collector(), **{**right, **settings})
    with pytest.raises(BrokerError, match=remark) as refused:
        consumer.start()
    assert refused.value.code == ResponseCode.NO_PERMISSION
    assert "87654321" not in str(refused.value)
    assert consumer.state is ServiceState.CREATE_JUST


NO_TRUST = "give its CA as tls_client_trust_cert_path"
WRONG_TLS: dict[str, tuple[dict[str, Any], str]] = {
    "no TLS": (
        {"use_tls": False, **dict.fromkeys(TLS_PATHS)},
        "closed by the peer; it never answered: servers that want TLS hang up like that",
    ),
    "a CA that did not sign it": ({"tls_client_trust_cert_path": "other_ca"}, NO_TRUST),
    "the system's CAs": ({"tls_client_trust_cert_path": None}, NO_TRUST),
    "no certificate of its own": (
        {"tls_client_cert_path": None, "tls_client_key_path": None}, "certificate required|does it want a certificate"
    ),
}  # fmt: skip


@pytest.mark.behaviour("SE-05")
@pytest.mark.parametrize("wrong", WRONG_TLS)
def test_without_the_right_tls_start_and_send_fail_at_once_in_clear_words(
    wrong: str, right: dict[str, Any], certificates: Certificates
) -> None:
    settings, text = WRONG_TLS[wrong]
    settings = {key: certificates.other_ca if value == "other_ca" else value for key, value in settings.items()}
    began = time.monotonic()
    with DefaultMQProducer(name(), **{**right, **settings}) as producer, pytest.raises(ConnectError, match=text):
        producer.send(Message("topic", b"body"))
    with pytest.raises(ConnectError, match=text):
        make_consumer(name(), "topic", Collector(), **{**right, **settings}).start()
    assert time.monotonic() - began < 10


@pytest.mark.behaviour("SE-05")
def test_tls_to_a_server_without_it_fails_at_once_in_clear_words(
    apache: ApacheCluster, java: None, certificates: Certificates
) -> None:
    settings: dict[str, Any] = {"use_tls": True, "tls_client_trust_cert_path": str(certificates.ca)}
    began = time.monotonic()
    with (
        DefaultMQProducer(name(), namesrv_addr=apache.namesrv_addr, **settings) as producer,
        pytest.raises(ConnectError, match=r"the TLS handshake failed.*does the server speak TLS there"),
    ):
        producer.send(Message("topic", b"body"))
    assert time.monotonic() - began < 10


# The same by the gRPC port of the proxy.


@pytest.fixture
def right_grpc(secure: ApacheCluster, certificates: Certificates) -> dict[str, Any]:
    """Settings with which it works: a CA to trust is enough to have TLS."""
    return {
        "endpoints": secure.proxy_grpc_addr,
        "access_key": USER,
        "secret_key": PASSWORD,
        "tls_client_trust_cert_path": str(certificates.ca),
    }


@pytest.mark.behaviour("GW-13")
def test_over_grpc_with_the_right_ca_and_key_all_kinds_of_clients_work(
    secure: ApacheCluster, right_grpc: dict[str, Any], topic: str
) -> None:
    groups = [name(), name()]
    for group in groups:
        secure.create_group(group)
    collector = Collector()
    bodies = [f"body {number}".encode() for number in range(20)] + [bytes(range(256)) * 8_000]
    received: set[bytes] = set()
    with (
        DefaultMQProducer(name(), compress_msg_body_over_howmuch=2**31 - 1, **right_grpc) as producer,
        make_consumer(groups[0], topic, collector, **right_grpc) as consumer,
        SimpleConsumer(groups[1], **right_grpc) as simple,
    ):
        simple.subscribe(topic)
        for body in bodies:
            producer.send(Message(topic, body), timeout_ms=10_000)

        def receive() -> bool:
            for number, msg in enumerate(simple.receive(32, 30_000, await_duration_ms=5_000)):
                received.add(msg.body)
                if number == 0:
                    simple.change_invisible_duration(msg, 20_000)
                simple.ack(msg)
            return received == set(bodies)

        eventually(receive, 60, "all")
        collector.wait_for_bodies(bodies)
    assert consumer.counters()[Event.SETTLE_FAILED] == 0


def start_and_send(settings: dict[str, Any]) -> None:
    with DefaultMQProducer(name(), **settings) as producer:
        producer.send(Message("topic", b"body"))


def start_push(settings: dict[str, Any]) -> None:
    consumer = make_consumer(name(), "topic", Collector(), **settings)
    try:
        consumer.start()
    finally:
        assert consumer.state is ServiceState.CREATE_JUST


def start_simple(settings: dict[str, Any]) -> None:
    SimpleConsumer(name(), **settings).start()


STARTS = [start_and_send, start_push, start_simple]


@pytest.mark.behaviour("SE-03")
@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_over_grpc_without_the_right_key_nothing_starts_and_it_says_so_at_once(
    wrong: str, right_grpc: dict[str, Any]
) -> None:
    settings, remark = WRONG_KEYS[wrong]
    began = time.monotonic()
    for start in STARTS:
        with pytest.raises(BrokerError, match=f"UNAUTHORIZED {remark}.*check access_key and secret_key") as refused:
            start({**right_grpc, **settings})
        assert refused.value.code == ResponseCode.NO_PERMISSION
        assert "87654321" not in str(refused.value)
    assert time.monotonic() - began < 10


WRONG_GRPC_TLS: dict[str, tuple[dict[str, Any], str]] = {
    "a CA that did not sign it": ({"tls_client_trust_cert_path": "other_ca"}, NO_TRUST),
    "the system's CAs": ({"tls_client_trust_cert_path": None, "use_tls": True}, NO_TRUST),
    "no TLS": ({"tls_client_trust_cert_path": None, "use_tls": False}, r"does it want TLS \(use_tls\)"),
}


@pytest.mark.behaviour("GW-13")
@pytest.mark.parametrize("wrong", WRONG_GRPC_TLS)
def test_over_grpc_without_the_right_tls_nothing_starts_and_it_says_so(
    wrong: str, right_grpc: dict[str, Any], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.grpc_v2.session.SETTINGS_TIMEOUT_MS", 500)
    settings, text = WRONG_GRPC_TLS[wrong]
    settings = {key: certificates.other_ca if value == "other_ca" else value for key, value in settings.items()}
    for start in STARTS:
        with pytest.raises(ConnectError, match=text):
            start({**right_grpc, "mq_client_api_timeout": 500, **settings})
