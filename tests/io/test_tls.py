"""Connections over TLS, against a server of the standard library."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import ConfigError, ConnectError, TransportError
from rocketmq_py.model.config import ClientConfig
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.remoting_client import CONTROL_LANE
from rocketmq_py.remoting.tls import client_context
from tests.certificates import LOCK, Certificates, make_certificates
from tests.io.calls import TIMEOUT_MS, Outcome, ask, begin, in_threads, join, request
from tests.io.conftest import MakeClient, MakeCluster, MakeConsumer, MakeServer
from tests.io.server import BOUND_S, Peer, Seen, answer_nothing, answer_ok, encode_reply, eventually, free_port

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "127.0.0.1")


def context(certificates: Certificates, **settings: Any) -> ssl.SSLContext:
    settings = {"use_tls": True, "tls_client_trust_cert_path": str(certificates.ca), **settings}
    made = client_context(ClientConfig(**settings))
    assert made is not None
    return made


@pytest.mark.behaviour("SE-07")
@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 5 * MIB, 15 * MIB])
def test_requests_and_answers_of_any_size_come_through(
    size: int, certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    server = make_server(answer_ok, tls=certificates.server_context())
    client = make_client(tls=context(certificates))
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for _ in range(2):
        assert ask(client, server, body, timeout_ms=20_000) == body
    assert len(server.peers) == 1
    assert server.peers[0].sock.version() in ("TLSv1.2", "TLSv1.3")  # type: ignore[attr-defined]


@pytest.mark.behaviour("SE-07")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_many_requests_of_many_threads_at_once_keep_apart(
    version: ssl.TLSVersion, certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    served = certificates.server_context()
    served.minimum_version = served.maximum_version = version
    server, client = make_server(answer_ok, tls=served), make_client(tls=context(certificates))
    wrong: list[bytes] = []

    def call(number: int) -> None:
        for turn in range(30):
            body = f"{number} {turn} ".encode() * (1 + turn * 300)
            if ask(client, server, body, timeout_ms=20_000) != body:
                wrong.append(body)

    join(in_threads(12, call))
    assert (wrong, len(server.peers)) == ([], 1)


@pytest.mark.behaviour("SE-07")
def test_what_answers_bring_on_and_what_other_threads_ask_meanwhile_keep_apart(
    certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    """Requests made while answers are handed on leave together, after what other threads send: encrypted then only."""
    server = make_server(answer_ok, tls=certificates.server_context())
    client = make_client(tls=context(certificates))
    brought_on: list[Outcome] = []
    meanwhile = Outcome()

    def ask_on(reply: RemotingCommand) -> None:
        brought_on.append(begin(client, server, b"brought on"))
        join(in_threads(1, lambda _: begin_as(meanwhile, b"meanwhile")))
        brought_on.append(begin(client, server, b"brought on, too"))

    def begin_as(outcome: Outcome, body: bytes) -> None:
        way = (server.address, CONTROL_LANE)
        client.invoke_async(way, request(body), TIMEOUT_MS, outcome.on_reply, outcome.on_error)

    first = Outcome()
    client.invoke_async((server.address, CONTROL_LANE), request(), TIMEOUT_MS, ask_on, first.on_error)
    assert eventually(lambda: len(brought_on) == 2)
    outcomes = [*brought_on, meanwhile]
    assert all(outcome.told.wait(BOUND_S) for outcome in outcomes)
    assert [outcome.errors for outcome in [first, *outcomes]] == [[], [], [], []]
    assert [outcome.replies[0].body for outcome in outcomes] == [b"brought on", b"brought on, too", b"meanwhile"]
    assert len(server.peers) == 1


@pytest.mark.behaviour("SE-07")
def test_a_server_that_reads_slowly_while_it_answers_gets_everything(
    certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    server = make_server(answer_ok, tls=certificates.server_context(), receive_buffer=8_192)
    client = make_client(tls=context(certificates))
    ask(client, server)
    server.reading.clear()
    outcomes = [begin(client, server, bytes([number]) * 300_000, timeout_ms=30_000) for number in range(40)]
    connection = client.connection(server.address)
    assert "bytes waiting" in repr(connection)
    assert not repr(connection).endswith(" 0 bytes waiting>"), "nothing had to wait: the test tests nothing"
    server.reading.set()
    assert eventually(lambda: all(outcome.count for outcome in outcomes), 30)
    assert [outcome.replies[0].body for outcome in outcomes] == [bytes([number]) * 300_000 for number in range(40)]


class Relay:
    """Hands bytes on in pieces of one, both ways."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [self._run(self._accept)]

    def _run(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name="fake-server", daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._port))
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
        for source, target in ((client, server), (server, client)):
            self._threads.append(self._run(lambda source=source, target=target: self._pump(source, target)))  # type: ignore[misc]

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                for number in range(len(data)):
                    target.send(data[number : number + 1])
        except OSError:
            pass

    def stop(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(BOUND_S)


@pytest.mark.behaviour("SE-07")
def test_bytes_that_come_one_by_one_are_put_together(
    certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    server = make_server(answer_ok, tls=certificates.server_context())
    relay = Relay(server.port)
    try:
        client = make_client(tls=context(certificates))
        body = bytes(range(256)) * 80
        assert client.invoke_sync(relay.address, request(body), 20_000).body == body
    finally:
        client.shutdown()
        relay.stop()


@pytest.mark.behaviour("SE-07")
def test_what_a_server_says_with_the_end_of_the_handshake_is_heard(
    certificates: Certificates, make_server: MakeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in one piece with the last bytes of the handshake, and no event of the socket tells of it any more."""
    asked: list[int] = []

    def note(address: str, command: Any, answer: Any) -> bool:
        asked.append(command.code)
        return True

    served = certificates.server_context()
    served.minimum_version = ssl.TLSVersion.TLSv1_2
    served.maximum_version = ssl.TLSVersion.TLSv1_2  # here the server's are the last bytes of the handshake
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listener.accept()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = served.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65_536))
        header = b'{"code":40,"flag":2,"language":"JAVA","opaque":1,"version":513}'
        tls.write(struct.pack(">II", 4 + len(header), len(header)) + header)
        sock.sendall(outgoing.read())
        while sock.recv(65_536):
            pass
        sock.close()

    thread = threading.Thread(target=serve, name="fake-server", daemon=True)
    thread.start()
    client = make_client(note, tls=context(certificates))
    client.invoke_oneway(f"127.0.0.1:{listener.getsockname()[1]}", request(), 5_000)
    assert eventually(lambda: asked == [40])
    client.shutdown()
    thread.join(BOUND_S)
    listener.close()


# Who is trusted.


@pytest.mark.behaviour("SE-05")
@pytest.mark.parametrize(
    ("names", "settings", "text"),
    [
        (("127.0.0.1",), {"tls_client_trust_cert_path": "other"}, "give its CA as tls_client_trust_cert_path"),
        (("127.0.0.1",), {"tls_client_trust_cert_path": None}, "give its CA as tls_client_trust_cert_path"),
        (("elsewhere.example",), {}, "IP address mismatch.*the certificate must name it, or set tls_check_hostname"),
    ],
    ids=["another CA", "the system's CAs", "another name"],
)
def test_a_server_that_is_not_trusted_is_refused_in_clear_words(
    names: tuple[str, ...], settings: dict[str, Any], text: str, tmp_path: Path, make_server: MakeServer,
    make_client: MakeClient,
) -> None:  # fmt: skip
    certificates = make_certificates(tmp_path, *names)
    if settings.get("tls_client_trust_cert_path") == "other":
        settings = {"tls_client_trust_cert_path": str(certificates.other_ca)}
    server = make_server(answer_ok, tls=certificates.server_context())
    client = make_client(tls=context(certificates, **settings))
    with pytest.raises(ConnectError, match=f"cannot connect to {server.address}: the TLS handshake failed.*{text}"):
        ask(client, server)
    assert server.seen == []


@pytest.mark.behaviour("SE-05")
@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("elsewhere.example",), {"tls_check_hostname": False}),
        (("elsewhere.example",), {"tls_insecure": True, "tls_client_trust_cert_path": None}),
        (("127.0.0.1",), {"tls_insecure": True, "tls_client_trust_cert_path": None}),
    ],
)
def test_checks_can_be_left_out(
    names: tuple[str, ...], settings: dict[str, Any], tmp_path: Path, make_server: MakeServer, make_client: MakeClient
) -> None:
    certificates = make_certificates(tmp_path, *names)
    server = make_server(answer_ok, tls=certificates.server_context())
    assert ask(make_client(tls=context(certificates, **settings)), server, b"x") == b"x"


@pytest.mark.behaviour("SE-05")
def test_without_the_check_of_names_the_ca_is_still_checked(
    certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    server = make_server(answer_ok, tls=certificates.server_context())
    other = str(certificates.other_ca)
    client = make_client(tls=context(certificates, tls_check_hostname=False, tls_client_trust_cert_path=other))
    with pytest.raises(ConnectError, match="give its CA"):
        ask(client, server)


@pytest.mark.behaviour("SE-04")
@pytest.mark.parametrize("locked", [False, True])
def test_a_server_that_wants_a_certificate_gets_the_clients(
    locked: bool, certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    server = make_server(answer_ok, tls=certificates.server_context(want_client=True))
    key = certificates.client_key_locked if locked else certificates.client_key
    settings = {
        "tls_client_cert_path": str(certificates.client_cert), "tls_client_key_path": str(key),
        "tls_client_key_password": LOCK if locked else None,
    }  # fmt: skip
    assert ask(make_client(tls=context(certificates, **settings)), server, b"x") == b"x"
    # Without it: an answer to the first request, as TLS 1.3 asks for the certificate behind the handshake.
    client = make_client(tls=context(certificates))
    with pytest.raises(ConnectError, match=r"certificate required|does it want a certificate"):
        ask(client, server)


@pytest.mark.behaviour("SE-04")
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tls_client_trust_cert_path": "nowhere.pem"}, "cannot read certificates from nowhere.pem: .*No such file"),
        ({"tls_client_trust_cert_path": "client_key"}, "cannot read certificates from"),
        ({"tls_client_cert_path": "nowhere.pem"}, "cannot use nowhere.pem with the key in it: .*No such file"),
        ({"tls_client_cert_path": "client_cert"}, "with the key in it"),
        ({"tls_client_cert_path": "client_cert", "tls_client_key_path": "server_key"}, "mismatch"),
        ({"tls_client_cert_path": "client_cert", "tls_client_key_path": "client_key_locked"}, "cannot use"),
        (
            {
                "tls_client_cert_path": "client_cert",
                "tls_client_key_path": "client_key_locked",
                "tls_client_key_password": "hush",
            },
            "cannot use",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(settings: dict[str, str], text: str, certificates: Certificates) -> None:
    settings = {name: str(getattr(certificates, value, value)) for name, value in settings.items()}
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}.*{text}") as refused:
        context(certificates, **settings)
    assert "hush" not in str(refused.value)


# Servers that do not shake hands.

FAILED = "the TLS handshake failed: "
SAID = {
    "is silent": f"{FAILED}timed out; does the server speak TLS there",
    "hangs up": f"{FAILED}.*; does the server speak TLS there",
    "speaks http": f"{FAILED}.*; does the server speak TLS there",
    "speaks remoting": f"{FAILED}.*; does the server speak TLS there",
    "resets": "",  # before or in the handshake
}


@pytest.mark.behaviour("SE-06")
@pytest.mark.parametrize("how", SAID)
def test_a_server_without_tls_costs_a_clear_error_and_bounded_time(
    how: str, certificates: Certificates, make_server: MakeServer, make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("rocketmq_py.remoting.remoting_client.CONNECT_TIMEOUT_MS", 700)

    def accept(peer: Peer) -> bool:
        if how == "hangs up":
            peer.close()
        elif how == "resets":
            peer.reset()
        elif how == "speaks http":
            peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif how == "speaks remoting":
            peer.send(encode_reply(1))
        return how not in ("hangs up", "resets")

    def never(peer: Peer, seen: Seen) -> None:
        raise AssertionError("a frame in plain text")

    server, client = make_server(never, on_accept=accept), make_client(tls=context(certificates))
    began = time.monotonic()
    outcome = begin(client, server)
    assert outcome.told.wait(BOUND_S)
    assert isinstance(outcome.errors[0], ConnectError)
    assert re.match(f"cannot connect to {server.address}: {SAID[how]}", str(outcome.errors[0]))
    assert time.monotonic() - began < 3


@pytest.mark.behaviour("SE-06")
def test_a_handshake_in_drops_is_not_longer_than_connecting_may_be(
    certificates: Certificates, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte comes in time, the whole does not."""
    monkeypatch.setattr("rocketmq_py.remoting.remoting_client.CONNECT_TIMEOUT_MS", 700)
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        sock, _ = listener.accept()
        pause = threading.Event()
        try:
            sock.sendall(b"\x16\x03\x03\x40\x00")  # a long record begins
            while not pause.wait(0.05):
                sock.sendall(b"\x02")
        except OSError:
            sock.close()

    thread = threading.Thread(target=drip, name="fake-server", daemon=True)
    thread.start()
    client = make_client(tls=context(certificates))
    began = time.monotonic()
    with pytest.raises(ConnectError, match="the TLS handshake failed: timed out"):
        client.invoke_sync(f"127.0.0.1:{listener.getsockname()[1]}", request(), 10_000)
    assert 0.5 < time.monotonic() - began < 3
    thread.join(BOUND_S)
    listener.close()


@pytest.mark.behaviour("SE-06")
def test_other_connections_go_on_while_a_handshake_waits(
    certificates: Certificates, make_server: MakeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.remoting.remoting_client.CONNECT_TIMEOUT_MS", 1_500)
    silent = make_server(answer_nothing)  # it waits for the rest of a frame, the client for its hello
    good = make_server(answer_ok, tls=certificates.server_context())
    client = make_client(tls=context(certificates))
    waiting = begin(client, silent)
    began = time.monotonic()
    assert ask(client, good, b"x") == b"x"
    assert time.monotonic() - began < 1
    assert waiting.count == 0
    assert waiting.told.wait(BOUND_S)


@pytest.mark.behaviour("SE-05")
def test_a_client_in_plain_text_is_told_that_the_server_speaks_tls(
    certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    server = make_server(answer_ok, tls=certificates.server_context())
    with pytest.raises(ConnectError, match=r"bytes of TLS|servers that want TLS hang up like that"):
        ask(make_client(), server)


@pytest.mark.behaviour("SE-07")
@pytest.mark.parametrize("how", ["closes", "resets", "sends nonsense"])
def test_a_connection_that_breaks_fails_its_requests_and_is_made_again(
    how: str, certificates: Certificates, make_server: MakeServer, make_client: MakeClient
) -> None:
    def handle(peer: Peer, seen: Seen) -> None:
        if peer.number > 0:
            answer_ok(peer, seen)
        elif how == "sends nonsense":
            socket.socket.sendall(peer.sock, b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that cannot be decrypted
        elif how == "resets":
            peer.reset()
        else:
            peer.close()

    server = make_server(handle, tls=certificates.server_context())
    client = make_client(tls=context(certificates))
    with pytest.raises(ConnectError, match="was closed"):
        ask(client, server)

    def again() -> bool:
        try:
            return ask(client, server, b"x") == b"x"
        except TransportError:
            return False

    assert eventually(again)


@pytest.mark.behaviour("SE-07")
def test_a_consumer_over_tls_consumes(
    certificates: Certificates, make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster = make_cluster(tls=certificates.server_context())
    bodies = [f"{number} ".encode() * 2_000 for number in range(200)]
    cluster.store(*bodies)
    consumer = make_consumer(cluster, use_tls=True, tls_client_trust_cert_path=str(certificates.ca))
    assert consumer.has(*bodies)
    cluster.store(b"later")
    assert consumer.has(b"later")


CHANGED = b"SSL_do_handshake -> 1"


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.behaviour("SE-07")
def test_a_server_that_changes_the_keys_is_answered_and_the_connection_goes_on(
    certificates: Certificates, make_client: MakeClient
) -> None:
    """Python's own servers cannot do that, the command line's can: a line "K" changes them and wants the same of us."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is not here")
    port = free_port()
    command = ["openssl", "s_server", "-accept", str(port), "-tls1_3"]
    command += ["-cert", str(certificates.server_cert), "-key", str(certificates.server_key)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert server.stdin is not None
    assert server.stdout is not None
    heard = bytearray()

    def listen(stream: Any) -> None:
        while data := stream.read1(65_536):
            heard.extend(data)

    def change_keys(stream: Any = server.stdin) -> bool:
        stream.write(b"K\n")
        stream.flush()
        return True

    thread = threading.Thread(target=listen, args=(server.stdout,), name="fake-server", daemon=True)
    thread.start()
    client, address = make_client(tls=context(certificates)), f"127.0.0.1:{port}"
    try:
        assert eventually(lambda: listens(port))
        connections = set()
        for turn in range(3):
            client.invoke_oneway(address, request(turn=f"turn {turn}"), 5_000)
            connections.add(client.connection(address))
            changes = heard.count(CHANGED)
            assert eventually(lambda: change_keys() and eventually(lambda: heard.count(CHANGED) > changes, 0.5))  # noqa: B023
        client.invoke_oneway(address, request(turn="the last"), 5_000)
        connections.add(client.connection(address))
        change_keys()  # it writes what it heard when it has something to do
        for text in ("turn 0", "turn 1", "turn 2", "the last"):
            assert eventually(lambda: text.encode() in heard), text  # noqa: B023
        assert len(connections) == 1
    finally:
        client.shutdown()
        server.kill()
        server.communicate()
        thread.join(BOUND_S)
