"""The end of a client: in the middle of requests, twice, from everywhere; and what is left of it."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from rocketmq_py.errors import ConnectError, IllegalStateError, RocketMQError, TransportError
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.remoting_client import CONTROL_LANE, RemotingClient
from rocketmq_py.runtime import ThreadRuntime
from tests.io.calls import Outcome, ask, begin, in_threads, join, request
from tests.io.conftest import MakeClient, MakeServer, open_files, threads_of_the_package
from tests.io.server import BOUND_S, BlackHole, Peer, Seen, answer_nothing, answer_ok, encode_ask, eventually


def test_requests_in_flight_fail_at_once_and_the_server_sees_the_connections_close(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_nothing), make_client()
    outcomes = [begin(client, server, timeout_ms=30_000) for _ in range(20)]
    failures: list[Exception] = []

    def wait(number: int) -> None:
        try:
            ask(client, server, timeout_ms=30_000)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    waiting = in_threads(6, wait)
    assert eventually(lambda: len(server.seen) == 26)
    started = time.monotonic()
    client.shutdown()
    join(waiting)
    assert time.monotonic() - started < 1.5
    assert all(outcome.count == 1 and isinstance(outcome.errors[0], ConnectError) for outcome in outcomes)
    assert [type(error) for error in failures] == [ConnectError] * 6
    assert "was shut down" in str(failures[0])
    assert eventually(server.peers[0].ended.is_set)


def test_after_shutdown_nothing_connects_any_more(make_server: MakeServer, make_client: MakeClient) -> None:
    server, client = make_server(answer_ok), make_client()
    ask(client, server)
    client.shutdown()
    with pytest.raises(RocketMQError):
        ask(client, server)
    with pytest.raises(IllegalStateError, match="was shut down"):
        ask(client, make_server(answer_ok))
    with pytest.raises(RocketMQError):
        client.invoke_oneway(server.address, request(), 1_000)
    outcome = begin(client, server)
    assert not outcome.replies
    assert len(server.peers) == 1


def test_shutdown_twice_and_from_many_threads(make_server: MakeServer, make_client: MakeClient) -> None:
    server, client = make_server(answer_nothing), make_client()
    outcomes = [begin(client, server) for _ in range(10)]
    assert eventually(lambda: len(server.seen) == 10)
    join(in_threads(8, lambda number: client.shutdown()))
    client.shutdown()
    assert all(outcome.count == 1 for outcome in outcomes)


@pytest.mark.parametrize("where", ["an answer", "a failure", "a request of the server"])
def test_shutdown_from_the_io_thread(where: str, make_server: MakeServer, make_client: MakeClient) -> None:
    ended = threading.Event()

    def ended_by(what: object) -> None:
        client.shutdown()
        ended.set()

    def end(address: str, command: RemotingCommand, answer: object) -> bool:
        ended_by(command)
        return True

    def answer(peer: Peer, seen: Seen) -> None:
        if seen.body == b"go":
            peer.reply(seen)
        elif seen.body == b"break":
            peer.close()

    server = make_server(answer)
    client = make_client(end)
    silent = make_server(answer_nothing)
    other = begin(client, silent)
    assert eventually(lambda: silent.seen)
    if where in {"an answer", "a failure"}:
        body = b"go" if where == "an answer" else b"break"
        client.invoke_async((server.address, CONTROL_LANE), request(body), 5_000, ended_by, ended_by)
    else:
        begin(client, server)
        assert eventually(lambda: server.seen)
        server.peers[0].send(encode_ask(40, oneway=True))
    assert ended.wait(BOUND_S)
    assert other.told.wait(BOUND_S)
    assert isinstance(other.errors[0], ConnectError)
    assert eventually(silent.peers[0].ended.is_set)


def test_shutdown_from_a_connector_thread(make_client: MakeClient) -> None:
    client, ended = make_client(), threading.Event()

    def end() -> None:
        client.shutdown()
        ended.set()

    client.run_later(end)
    assert ended.wait(BOUND_S)


def test_shutdown_does_not_wait_for_a_server_that_cannot_be_reached(
    black_hole: BlackHole, make_client: MakeClient
) -> None:
    client = make_client()
    outcome = Outcome()
    client.invoke_async((black_hole.address, CONTROL_LANE), request(), 30_000, outcome.on_reply, outcome.on_error)
    started = time.monotonic()
    client.shutdown()
    assert time.monotonic() - started < 1


def test_a_connection_that_is_made_while_the_client_ends_keeps_nothing_from_ending(
    make_server: MakeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The I/O thread is in a callback; another thread just connected; the client is shut down. What the I/O thread
    # finds when it comes back is a connection that was closed before it ever saw it.
    in_callback, go_on, connected, may_connect = (threading.Event() for _ in range(4))
    connect = socket.create_connection

    def slowly(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.set()
        assert may_connect.wait(BOUND_S)
        return connect(address, timeout)

    def block(address: str, command: RemotingCommand, answer: object) -> bool:
        in_callback.set()
        return go_on.wait(BOUND_S)

    first, second, client = make_server(answer_nothing), make_server(answer_ok), make_client(block)
    waiting = begin(client, first, timeout_ms=60_000)
    assert eventually(lambda: first.seen)
    first.peers[0].send(encode_ask(40, oneway=True))
    assert in_callback.wait(BOUND_S)
    monkeypatch.setattr(socket, "create_connection", slowly)
    failures: list[Exception] = []

    def late(number: int) -> None:
        try:
            ask(client, second)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    connecting = in_threads(1, late)
    assert connected.wait(BOUND_S)
    ending = in_threads(1, lambda number: client.shutdown())
    assert eventually(lambda: shutting_down(client))
    may_connect.set()
    join(connecting)
    go_on.set()
    join(ending)
    assert [type(error) for error in failures] == [ConnectError]
    assert waiting.told.wait(2), "a request that nobody was told about"
    assert eventually(first.peers[0].ended.is_set, 2), "a connection that nobody closed"


def shutting_down(client: RemotingClient) -> bool:
    """Whether it takes no more jobs."""
    ran = threading.Event()
    client.run_later(ran.set)
    return not ran.wait(0.1)


def test_the_io_thread_may_be_busy_when_the_client_ends(make_server: MakeServer, make_client: MakeClient) -> None:
    go_on, busy = threading.Event(), threading.Event()

    def block(reply: RemotingCommand) -> None:
        busy.set()
        go_on.wait(BOUND_S)

    server, client = make_server(answer_ok), make_client()
    client.invoke_async((server.address, CONTROL_LANE), request(), 5_000, block, lambda error: None)
    assert busy.wait(BOUND_S)
    threading.Timer(0.3, go_on.set).start()
    client.shutdown()
    assert eventually(server.peers[0].ended.is_set)


def test_200_clients_one_after_the_other_leave_nothing(make_server: MakeServer) -> None:
    server, runtime = make_server(answer_ok), ThreadRuntime()
    threads, files = threads_of_the_package(), open_files()
    for number in range(200):
        client = RemotingClient(runtime, lambda address, command, answer: False)
        if number % 3:
            ask(client, server)
        if number % 3 == 1:
            begin(client, server)
        client.shutdown()
    assert eventually(lambda: threads_of_the_package() <= threads, 5)
    assert eventually(lambda: len(server.open_peers()) == 0)
    assert eventually(lambda: open_files() <= files, 5), f"{open_files() - files} files left open"


def test_clients_that_end_while_their_requests_come_and_go(make_server: MakeServer, make_client: MakeClient) -> None:
    server = make_server(answer_ok)
    wrong: list[object] = []
    for _ in range(25):
        client = make_client()
        ask(client, server)

        def work(number: int, client: RemotingClient = client) -> None:
            try:
                for turn in range(10_000):
                    assert ask(client, server, b"%d" % turn) == b"%d" % turn
            except (TransportError, IllegalStateError):
                pass
            except BaseException as error:  # noqa: BLE001 - shown by the assertion
                wrong.append(error)

        workers = in_threads(4, work)
        assert eventually(lambda: len(server.peers[-1].seen) > 20)
        client.shutdown()
        join(workers)
    assert wrong == []
