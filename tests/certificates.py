"""Certificates for tests, made when they are needed: two CAs, a server's and a client's certificate of the first."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


@dataclass(frozen=True)
class Certificates:
    """Files in PEM; keys are PKCS#8, which is what Java reads."""

    ca: Path
    other_ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    client_key_locked: Path

    def server_context(self, want_client: bool = False) -> ssl.SSLContext:
        """What a server of Python needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_cert, self.server_key)
        if want_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def client_context(self) -> ssl.SSLContext:
        """What a client of Python needs."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.client_cert, self.client_key)
        return context


LOCK = "opens the key"


def make_certificates(folder: Path, *names: str) -> Certificates:
    """Make them, the server's for these host names and addresses."""
    ca = trustme.CA()
    made = Certificates(*(folder / f"{name}.pem" for name in Certificates.__dataclass_fields__))
    ca.cert_pem.write_to_path(made.ca)
    trustme.CA().cert_pem.write_to_path(made.other_ca)
    server, client = ca.issue_cert(*(names or ("localhost", "127.0.0.1"))), ca.issue_cert("client@example.org")
    for leaf, cert in ((server, made.server_cert), (client, made.client_cert)):
        cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    made.server_key.write_bytes(_pkcs8(server, None))
    made.client_key.write_bytes(_pkcs8(client, None))
    made.client_key_locked.write_bytes(_pkcs8(client, LOCK))
    return made


def _pkcs8(leaf: trustme.LeafCert, password: str | None) -> bytes:
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
