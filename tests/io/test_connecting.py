"""How connections are made, and what happens when they cannot be."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time

import pytest

from rocketmq_py.errors import ConnectError, RequestTimeoutError, RocketMQError, TransportError
from rocketmq_py.model.codes import RequestCode
from rocketmq_py.remoting.remoting_client import CONTROL_LANE, Request
from rocketmq_py.testing import ManualClock
from tests.io.calls import Outcome, answered, ask, begin, in_threads, join, request
from tests.io.conftest import MakeClient, MakeServer
from tests.io.server import BOUND_S, BlackHole, Peer, answer_nothing, answer_ok, eventually, free_port

NO_TRANSPORT = (RequestTimeoutError, ConnectError)


def test_nobody_listens(make_client: MakeClient) -> None:
    client, address = make_client(), f"127.0.0.1:{free_port()}"
    with pytest.raises(ConnectError, match=f"cannot connect to {address}.*is the server running there"):
        client.invoke_sync(address, request(), 1_000)
    again = f"could not be reached once, next try in .* ms: cannot connect to {address}.*is the server running there"
    with pytest.raises(ConnectError, match=again):
        client.invoke_sync(address, request(), 1_000)
    with pytest.raises(ConnectError):
        client.invoke_oneway(address, request(), 1_000)
    outcome = Outcome()
    client.invoke_async((address, CONTROL_LANE), request(), 1_000, outcome.on_reply, outcome.on_error)
    assert outcome.told.wait(BOUND_S)
    assert isinstance(outcome.errors[0], ConnectError)


def test_a_server_that_accepts_and_never_answers_costs_the_time_allowed_and_no_more(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_nothing), make_client()
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError, match="did not answer within 150 ms"):
        ask(client, server, timeout_ms=150)
    assert 0.14 < time.monotonic() - started < 0.8
    # Small requests still go out on the same connection: it is not full.
    client.invoke_oneway(server.address, request(b"oneway"), 1_000)
    assert eventually(lambda: [seen.body for seen in server.seen if seen.oneway] == [b"oneway"])


def test_a_black_hole_costs_the_time_allowed_and_no_more(black_hole: BlackHole, make_client: MakeClient) -> None:
    client = make_client()
    started = time.monotonic()
    with pytest.raises(TransportError):
        client.invoke_sync(black_hole.address, request(), 300)
    assert 0.25 < time.monotonic() - started < 1


def test_callers_that_wait_for_the_same_connection_keep_their_time_too(
    black_hole: BlackHole, make_client: MakeClient
) -> None:
    client = make_client()
    took: list[float] = []

    def call(number: int) -> None:
        started = time.monotonic()
        with contextlib.suppress(TransportError):
            client.invoke_sync(black_hole.address, request(), 400)
        took.append(time.monotonic() - started)

    join(in_threads(10, call))
    assert max(took) < 1.2


def test_a_name_with_many_addresses_that_all_vanish_costs_the_time_of_one(
    black_hole: BlackHole, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(black_hole.address.rpartition(":")[2])
    one = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [one] * 4)
    client = make_client()
    started = time.monotonic()
    with pytest.raises(TransportError):
        client.invoke_sync(f"many.example:{port}", request(), 300)
    assert time.monotonic() - started < 0.9


@pytest.mark.parametrize("timeout_ms", [0, -1, -5_000])
def test_a_call_without_time_left_is_a_time_out_and_sends_nothing(
    timeout_ms: int, make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client()
    with pytest.raises(TransportError):
        ask(client, server, b"too late", timeout_ms=timeout_ms)
    # And it says nothing about the server: the next caller, who has time, gets through.
    assert ask(client, server, b"in time") == b"in time"
    assert [seen.body for seen in server.seen] == [b"in time"]


def test_a_call_without_time_left_sends_nothing_over_an_open_connection_either(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # Told "no answer in time", a producer sends the message again, and then it is there twice.
    server, client = make_server(answer_ok), make_client()
    ask(client, server)
    with pytest.raises(TransportError):
        ask(client, server, b"too late", timeout_ms=0)
    ask(client, server, b"in time")
    assert [seen.body for seen in server.seen] == [b"", b"in time"]


def test_a_caller_with_little_time_does_not_lock_the_others_out(
    black_hole: BlackHole, make_server: MakeServer, make_client: MakeClient
) -> None:
    # 20 ms are over, and it is no sign that the server is gone: others had more time.
    client = make_client()
    with pytest.raises(TransportError):
        client.invoke_sync(black_hole.address, request(), 20)
    started = time.monotonic()
    with pytest.raises(TransportError):
        client.invoke_sync(black_hole.address, request(), 300)
    assert time.monotonic() - started > 0.2, "refused by the back-off without a try"


def test_a_server_that_was_away_is_found_again(make_server: MakeServer, make_client: MakeClient) -> None:
    client, port = make_client(), free_port()
    with pytest.raises(ConnectError):
        client.invoke_sync(f"127.0.0.1:{port}", request(), 1_000)
    server = make_server(answer_ok, port=port)

    def found() -> bool:
        try:
            return ask(client, server, b"x") == b"x"
        except ConnectError:
            return False

    assert eventually(found, 3)


# Back-off. The clock stands still until the test moves it.


def test_an_address_that_refuses_is_tried_after_200_ms_then_doubling_up_to_5_s(make_client: MakeClient) -> None:
    clock = ManualClock()
    client = make_client(clock=clock)
    address = f"127.0.0.1:{free_port()}"
    tried_at: list[int] = []
    start = clock.monotonic_ms()
    for _ in range(1_200):
        try:
            client.invoke_oneway(address, request(), 1_000)
        except ConnectError as error:
            if str(error).startswith("cannot connect"):
                tried_at.append(clock.monotonic_ms() - start)
        clock.advance(25)
    gaps = [later - earlier for earlier, later in itertools.pairwise(tried_at)]
    assert gaps[:6] == [200, 400, 800, 1_600, 3_200, 5_000]
    assert set(gaps[5:]) == {5_000}


@pytest.mark.parametrize("how", ["closes at once", "resets at once", "closes at the first request", "speaks http"])
def test_a_server_that_accepts_and_hangs_up_is_not_hammered(
    how: str, make_server: MakeServer, make_client: MakeClient
) -> None:
    # What a load balancer without a backend does, a port that wants TLS, or a web server.
    def hang_up(peer: Peer) -> bool:
        if how == "closes at once":
            peer.close()
        elif how == "resets at once":
            peer.reset()
        else:
            return True
        return False

    def refuse(peer: Peer, seen: object) -> None:
        if how == "speaks http":
            peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.close()

    server, client = make_server(refuse, on_accept=hang_up), make_client()
    deadline = time.monotonic() + 0.55
    pause = threading.Event()
    told: list[str] = []
    while time.monotonic() < deadline:
        try:
            ask(client, server, timeout_ms=200)
        except NO_TRANSPORT as error:
            told.append(str(error))
        pause.wait(0.005)
    assert any("next try in" in text for text in told)
    assert not [text for text in told if text.endswith("ms: ")], "the reason of the last attempt is not told"
    assert len(server.peers) <= 6, f"{len(server.peers)} connections in half a second"


def test_a_reset_before_the_first_look_at_the_connection_is_a_connect_error(
    make_server: MakeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reset(peer: Peer) -> bool:
        peer.reset()
        return False

    connect = socket.create_connection

    def slowly(address: tuple[str, int], timeout: float) -> socket.socket:
        sock = connect(address, timeout)
        assert eventually(lambda: was_reset(sock))  # the thread was not scheduled for a moment
        return sock

    server, client = make_server(answer_ok, on_accept=reset), make_client()
    monkeypatch.setattr(socket, "create_connection", slowly)
    outcome = begin(client, server)
    assert outcome.told.wait(1.5), "an asynchronous request that nobody was told about: a pull like this is lost"
    with pytest.raises(TransportError):
        ask(client, server)


def was_reset(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def test_a_socket_that_connected_to_itself_is_not_taken_for_a_server(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Linux does that when a client knocks often enough at a port of its own machine where nobody listens. The request
    # comes back as a request, is answered as unknown, and the server can never bind its port again.
    def to_itself(address: tuple[str, int], timeout: float) -> socket.socket:
        sock = socket.socket()
        sock.bind(("127.0.0.1", address[1]))
        sock.connect(address)
        return sock

    client, port = make_client(), free_port()
    monkeypatch.setattr(socket, "create_connection", to_itself)
    with pytest.raises(TransportError):
        client.invoke_sync(f"127.0.0.1:{port}", request(), 1_000)


# Addresses. They come from name servers, and so from anybody.

HOSTILE = {
    "empty": "",
    "no port": "127.0.0.1",
    "no host": ":10911",
    "port 0": "127.0.0.1:0",
    "port too large": "127.0.0.1:65536",
    "port of 5,000 digits": "127.0.0.1:" + "1" * 5_000,
    "negative port": "127.0.0.1:-1",
    "port that is text": "127.0.0.1:http",
    "an empty label": "broker..example:10911",
    "a label of 64 characters": "b" * 64 + ".example:10911",
    "a name of 5,000 characters": "b" * 5_000 + ":10911",
    "a null character": "bro\0ker:10911",
    "half a surrogate pair": "\udc80:10911",
    "a line feed": "bro\nker:10911",
    "IPv6 without brackets": "::1:10911",
    "IPv6 with a zone that is not there": "[fe80::1%nowhere]:10911",
    "nonsense in brackets": "[nonsense]:10911",
    "a path": "file:///etc/passwd",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_address_that_is_none_is_a_transport_error_to_every_kind_of_request(
    name: str, make_client: MakeClient
) -> None:
    client, address = make_client(), HOSTILE[name]
    outcome = Outcome()
    client.invoke_async((address, CONTROL_LANE), request(), 1_000, outcome.on_reply, outcome.on_error)
    assert outcome.told.wait(1.5), "an asynchronous request that nobody was told about: a pull like this is lost"
    # Heartbeats and sends go on with the next broker after a TransportError, and only then.
    with pytest.raises(TransportError):
        client.invoke_sync(address, request(), 1_000)
    with pytest.raises(TransportError):
        client.invoke_oneway(address, request(), 1_000)
    assert isinstance(outcome.errors[0], RocketMQError)


@pytest.fixture
def localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """``broker.test`` is this machine, by name service."""
    resolve = socket.getaddrinfo

    def mine(host: str, *args: object, **options: object) -> object:
        return resolve("127.0.0.1" if host == "broker.test" else host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", mine)


@pytest.mark.usefixtures("localhost")
def test_host_names_are_resolved(make_server: MakeServer, make_client: MakeClient) -> None:
    server, client = make_server(answer_ok), make_client()
    for host in ("localhost", "broker.test"):
        assert client.invoke_sync(f"{host}:{server.port}", request(b"x"), 2_000).body == b"x"
    connection = client.connection(f"broker.test:{server.port}")
    assert connection is not None
    assert connection.peer == f"127.0.0.1:{server.port}"


def test_ipv6(make_server: MakeServer, make_client: MakeClient) -> None:
    try:
        server = make_server(answer_ok, host="::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    client = make_client()
    assert client.invoke_sync(server.address, request(b"x"), 2_000).body == b"x"
    connection = client.connection(server.address)
    assert connection is not None
    assert connection.peer == server.address


# One server's trouble is not another's.


def test_requests_to_a_server_wait_for_nobody_elses_connection(
    black_hole: BlackHole, make_server: MakeServer, make_client: MakeClient
) -> None:
    client, server = make_client(), make_server(answer_ok)
    lost = [Outcome() for _ in range(20)]
    for outcome in lost:
        client.invoke_async((black_hole.address, CONTROL_LANE), request(), 30_000, outcome.on_reply, outcome.on_error)
    started = time.monotonic()
    outcome = begin(client, server, b"x")
    assert outcome.told.wait(BOUND_S)
    assert outcome.replies
    assert time.monotonic() - started < 1, "the connectors all wait for one server that does not answer"


def test_many_addresses_at_once(make_server: MakeServer, make_client: MakeClient) -> None:
    client = make_client()
    servers = [make_server(answer_ok) for _ in range(40)]
    outcomes = [begin(client, server, server.address.encode()) for server in servers]
    assert eventually(lambda: all(outcome.count for outcome in outcomes))
    assert [outcome.replies[0].body.decode() for outcome in outcomes] == [server.address for server in servers]


def test_many_threads_that_need_the_same_connection_make_one(make_server: MakeServer, make_client: MakeClient) -> None:
    server, client = make_server(answer_ok), make_client()
    ready, failures = threading.Barrier(20), list[Exception]()

    def call(number: int) -> None:
        ready.wait(BOUND_S)
        try:
            ask(client, server)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    join(in_threads(20, call))
    assert (failures, len(server.peers)) == ([], 1)


def test_a_connection_that_was_made_a_moment_ago_is_not_made_again(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # Two connections of one client are two members to a broker, and the queues are divided among one too many. One
    # caller looks for the connection just before another's attempt succeeds, and goes on just after.
    server = make_server(answer_ok)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(60):
            client = make_client()
            outcomes = [begin(client, server) for _ in range(60)]
            assert eventually(lambda: all(outcome.count for outcome in outcomes))  # noqa: B023 - asked at once
            client.shutdown()
            assert len(server.peers) == turn + 1, f"{len(server.peers) - turn} connections of one client"
    finally:
        sys.setswitchinterval(switch)


def test_a_connection_that_ends_is_not_taken_for_the_one_that_follows_it(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client()
    ask(client, server)
    for turn in range(200):
        server.peers[-1].close()
        assert eventually(lambda: answered(client, server))
        assert len(server.peers) == turn + 2
        assert eventually(lambda: len(server.open_peers()) == 1)


def test_a_thread_that_cannot_be_started_is_a_connect_error_and_not_the_end_of_the_address(
    make_server: MakeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # "can't start new thread": a container at its limit, for a moment.
    server, client = make_server(answer_ok), make_client()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("Remoting"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcome = Outcome()
    with contextlib.suppress(TransportError):
        ask(client, server, timeout_ms=500)
    client.invoke_async((server.address, CONTROL_LANE), request(), 1_000, outcome.on_reply, outcome.on_error)
    assert outcome.told.wait(2), "a request that nobody was told about"
    monkeypatch.undo()
    assert eventually(lambda: answered(client, server), 3), "no connection is ever tried again"


def test_a_codec_error_in_our_own_request_leaves_the_connection_alone(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client()
    ask(client, server)
    with pytest.raises(RocketMQError, match="servers accept at most"):
        client.invoke_sync(server.address, Request(RequestCode.HEART_BEAT, {}, b"x" * 17_000_000), 1_000)
    assert ask(client, server, b"alive") == b"alive"
    assert len(server.peers) == 1
