"""TLS of the gRPC wire.

gRPC for Python checks every certificate and every name. To take any certificate, or any name, means here: look at the
certificate that the server shows, and have gRPC expect just that one, or just that name.
"""

from __future__ import annotations

import socket
import ssl
from os import PathLike
from typing import Any

import grpc

from rocketmq_py.errors import ConfigError, ConnectError
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.model.config import TLS_PATHS, ClientConfig

PROBE_TIMEOUT_S = 3.0

Options = tuple[tuple[str, str], ...]


def uses_tls(config: ClientConfig, endpoints: Endpoints) -> bool:
    """Whether connections are secured: as the user said, else unless the servers are on this machine.

    Behaviour: GW-05.
    """
    if config.use_tls is not None:
        return config.use_tls
    asked = config.tls_insecure or any(getattr(config, name) is not None for name in TLS_PATHS)
    return asked or not endpoints.is_loopback


def channel_credentials(config: ClientConfig, endpoints: Endpoints) -> tuple[grpc.ChannelCredentials | None, Options]:
    """What channels are secured with, None for plain text; and options that go with it.

    Raises:
        ConfigError: a file cannot be read, or the key has a password, which gRPC does not take.
        ConnectError: any certificate is to be taken, but the server shows none.
    """
    if not uses_tls(config, endpoints):
        return None, ()
    if config.tls_client_key_password is not None:
        raise ConfigError("tls_client_key_password: gRPC takes keys without a password only")
    roots = _read(config, "tls_client_trust_cert_path")
    chain = _read(config, "tls_client_cert_path")
    key = _read(config, "tls_client_key_path") or chain
    options: Options = ()
    if config.tls_insecure or not config.tls_check_hostname:
        shown, name = _shown(endpoints)
        options = (("grpc.ssl_target_name_override", name),)
        if config.tls_insecure:
            roots = shown.encode()
    return grpc.ssl_channel_credentials(roots, key, chain), options


def _read(config: ClientConfig, name: str) -> bytes | None:
    path: str | PathLike[str] | None = getattr(config, name)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {path}: {error}") from None
    if b"-----BEGIN" not in data:
        raise ConfigError(f"{name}: {path} is no PEM file")
    return data


def _shown(endpoints: Endpoints) -> tuple[str, str]:
    """The certificate that a server shows, as PEM, and a name in it."""
    host, port = endpoints.addresses[0]
    pem = ssl.DER_cert_to_PEM_cert(_handshake(host, port, None)[0])
    parsed = _handshake(host, port, pem)[1]
    for kind, value in parsed.get("subjectAltName", ()):
        if kind in {"DNS", "IP Address"}:
            return pem, str(value).replace("*", "any", 1)
    for part in parsed.get("subject", ()):
        for kind, value in part:
            if kind == "commonName":
                return pem, str(value).replace("*", "any", 1)
    return pem, host


def _handshake(host: str, port: int, pem: str | None) -> tuple[bytes, dict[str, Any]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    if pem is None:
        context.verify_mode = ssl.CERT_NONE
    else:  # only a certificate that was checked is shown in parts
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=pem)
    try:
        with (
            socket.create_connection((host, port), PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b"", dict(secured.getpeercert() or {})
    except OSError as error:
        raise ConnectError(
            f"cannot see the certificate of {host}:{port}: {error}; does the server speak TLS there (use_tls)?"
        ) from None
