"""TLS of the gRPC wire, against a scripted server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from rocketmq_py import ConfigError, ConnectError, DefaultMQProducer, Message
from tests.grpc.server import GrpcServer


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(authority: trustme.CA) -> Iterator[GrpcServer]:
    certificate = authority.issue_cert("proxy.example")
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), b"".join(pem.bytes() for pem in certificate.cert_chain_pems))]
    )
    with GrpcServer(credentials=credentials) as server:
        yield server


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def send(server: GrpcServer, **settings: Any) -> None:
    with DefaultMQProducer("producers", endpoints=server.endpoints, mq_client_api_timeout=500, **settings) as producer:
        producer.send(Message("topic", b"body"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocketmq_py.grpc_v2.session.SETTINGS_TIMEOUT_MS", 1_000)


@pytest.mark.behaviour("GW-13")
def test_a_certificate_of_an_own_authority_is_taken_when_its_name_need_not_be_the_server_s(
    secured: GrpcServer, trusted: str
) -> None:
    send(secured, tls_client_trust_cert_path=trusted, tls_check_hostname=False)
    assert secured.count("SendMessage") == 1


@pytest.mark.behaviour("GW-13")
def test_a_certificate_that_names_another_server_or_that_nobody_trusts_is_refused(
    secured: GrpcServer, trusted: str
) -> None:
    with pytest.raises(ConnectError, match="tls_check_hostname=False"):
        send(secured, tls_client_trust_cert_path=trusted)
    with pytest.raises(ConnectError, match="tls_client_trust_cert_path"):
        send(secured, use_tls=True)
    assert secured.count("Telemetry") == 0


@pytest.mark.behaviour("GW-13")
def test_any_certificate_is_taken_by_choice(secured: GrpcServer) -> None:
    send(secured, tls_insecure=True)
    assert secured.count("SendMessage") == 1


@pytest.mark.behaviour("GW-13")
def test_plain_and_secured_do_not_meet(secured: GrpcServer, server: GrpcServer, tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="does it want TLS"):
        send(secured)
    with pytest.raises(ConnectError, match="does the server speak TLS there"):
        send(server, use_tls=True)
    with pytest.raises(ConnectError, match="does the server speak TLS there"):
        send(server, tls_insecure=True)
    with pytest.raises(ConfigError, match="cannot read"):
        send(server, tls_client_trust_cert_path=str(tmp_path / "none.pem"))
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="no PEM file"):
        send(server, tls_client_trust_cert_path=str(tmp_path / "no.pem"))
