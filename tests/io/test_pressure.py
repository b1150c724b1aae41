"""Servers that do not read, frames that do not fit, and bytes that must not get mixed up."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc

import pytest

from rocketmq_py.errors import ConnectError, RequestTimeoutError
from rocketmq_py.remoting.connection import Connection, IoLoop, PendingCall
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.remoting_client import CONTROL_LANE
from rocketmq_py.runtime import ThreadRuntime
from tests.io.calls import Outcome, ask, begin, in_threads, join, request
from tests.io.conftest import MakeClient, MakeServer
from tests.io.server import BOUND_S, Peer, Seen, answer_ok, decode, encode, encode_reply, eventually

MIB = 1024 * 1024


def test_while_a_server_does_not_read_its_answers_are_still_read(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # The deadlock of two ends that both write and do not read: the server reads on only when its answer was taken.
    def large(peer: Peer, seen: Seen) -> None:
        peer.reply(seen, body=b"y" * (4 * MIB))

    server, client = make_server(large, receive_buffer=4_096), make_client()
    outcomes = [begin(client, server, b"x" * (4 * MIB), timeout_ms=15_000) for _ in range(8)]
    assert eventually(lambda: all(outcome.count for outcome in outcomes), 15)
    assert [len(outcome.replies[0].body) for outcome in outcomes] == [4 * MIB] * 8
    assert server.peers[0].broken is None


def test_a_server_that_does_not_read_is_refused_in_clear_words_and_served_again_when_it_reads(
    make_server: MakeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.remoting.connection.OUTBOX_MAX_BYTES", 16 * MIB)
    server, other, client = make_server(answer_ok, receive_buffer=4_096), make_server(answer_ok), make_client()
    ask(client, server)
    server.reading.clear()
    refused: list[ConnectError] = []
    outcomes: list[Outcome] = []
    body = b"x" * MIB
    connection = client.connection(server.address)
    assert connection is not None
    for _ in range(60):
        outcome = Outcome()
        client.invoke_async((server.address, CONTROL_LANE), request(body), 15_000, outcome.on_reply, outcome.on_error)
        outcomes.append(outcome)
    assert eventually(lambda: sum(outcome.count for outcome in outcomes) >= 35)
    refused = [error for outcome in outcomes for error in outcome.errors if isinstance(error, ConnectError)]
    assert len(refused) >= 35
    assert "does not read" in str(refused[0])
    with pytest.raises(ConnectError, match="does not read"):
        ask(client, server, body)
    with pytest.raises(ConnectError, match="does not read"):
        client.invoke_oneway(server.address, request(body), 1_000)
    assert ask(client, other, b"alive") == b"alive"
    server.reading.set()
    assert eventually(lambda: all(outcome.count == 1 for outcome in outcomes), 15)
    assert all(outcome.replies[0].body == body for outcome in outcomes if outcome.replies)
    assert ask(client, server, b"again") == b"again"
    assert server.peers[0].broken is None
    assert "0 bytes waiting" in repr(connection)


def test_the_time_of_a_request_runs_also_while_it_waits_to_be_written(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok, receive_buffer=4_096), make_client()
    ask(client, server)
    server.reading.clear()
    client.invoke_oneway(server.address, request(b"x" * (12 * MIB)), 1_000)
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        ask(client, server, timeout_ms=200)
    assert time.monotonic() - started < 1
    server.reading.set()
    assert ask(client, server, b"again") == b"again"


def test_frames_of_every_size_from_many_threads_arrive_whole_and_in_one_piece(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # A small buffer at the other end: most of these are written in several parts, from the outbox.
    server, client = make_server(answer_ok, receive_buffer=8_192), make_client()
    failures: list[object] = []

    def work(number: int) -> None:
        for turn in range(12):
            body = b"%d-%d " % (number, turn) * (1 + (number * 7_919 + turn * 104_729) % 60_000)
            try:
                if ask(client, server, body, timeout_ms=15_000) != body:
                    failures.append((number, turn))
            except Exception as error:  # noqa: BLE001 - shown by the assertion
                failures.append(error)

    join(in_threads(12, work))
    assert failures == []
    assert server.peers[0].broken is None


def test_the_largest_frame_goes_both_ways(make_server: MakeServer, make_client: MakeClient) -> None:
    server, client = make_server(answer_ok), make_client()
    body = bytes(range(256)) * ((16 * MIB - 4_096) // 256)
    assert ask(client, server, body, timeout_ms=10_000) == body


def test_a_length_that_is_only_announced_takes_no_memory(make_server: MakeServer, make_client: MakeClient) -> None:
    def boast(peer: Peer, seen: Seen) -> None:
        peer.send((16 * MIB - 4).to_bytes(4, "big") + b"\0\0\0\2{}")

    client = make_client()
    servers = [make_server(boast) for _ in range(30)]
    tracemalloc.start()
    try:
        outcomes = [begin(client, server, timeout_ms=300) for server in servers]
        assert eventually(lambda: all(outcome.count for outcome in outcomes))
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB  # 30 connections with 256 KiB each; announced: 480 MiB
    finally:
        tracemalloc.stop()


def test_a_header_that_is_many_times_larger_as_objects_is_refused(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # 4 MiB of "[[],[],..." in the header, where a server has no reason to send more than some kilobytes. A whole frame
    # of it is more than a gigabyte of lists.
    header = b'{"code":0,"flag":1,"opaque":5,"x":[' + b"[]," * (4 * MIB // 3) + b"[]]}"
    frame = (4 + len(header)).to_bytes(4, "big") + len(header).to_bytes(4, "big") + header

    def swell(peer: Peer, seen: Seen) -> None:
        peer.send(frame)

    server, client = make_server(swell), make_client()
    tracemalloc.start()
    try:
        outcome = begin(client, server, timeout_ms=4_000)
        assert outcome.told.wait(BOUND_S)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * MIB, f"{peak // MIB} MiB for a frame of 4 MiB"


class Slow(socket.socket):
    """Takes half of what it is given, and then, still in the same thread, something happens: as a signal may."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.interruptions: list[bytes] = []
        self.connection: Connection | None = None

    def setsockopt(self, *args: object) -> None: ...

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 2

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        sent = super().send(data[: max(len(data) // 2, 1)])
        if self.interruptions and self.connection is not None:
            frame = self.interruptions.pop()
            self.connection.send(frame)
        return sent


def test_a_signal_handler_that_sends_while_its_thread_is_sending_does_not_tear_the_frame() -> None:
    ours, theirs = socket.socketpair()
    slow = Slow(ours)
    loop = IoLoop(ThreadRuntime())
    connection = Connection("there:1", slow, loop, lambda connection, command: None, lambda: None)
    slow.connection = connection
    first, second = encode({"code": 1, "opaque": 1, "flag": 0}, b"a" * 500), encode({"code": 2, "opaque": 2, "flag": 0})
    slow.interruptions.append(second)
    outcome = Outcome()
    connection.call(1, first, PendingCall(outcome.on_reply, outcome.on_error, 2**60))
    received = bytearray()
    theirs.settimeout(BOUND_S)
    while len(received) < len(first) + len(second):
        received += theirs.recv(65_536)
    loop.shutdown()
    theirs.close()
    assert bytes(received) in (first + second, second + first), "two frames are mixed up"
    assert {decode(first[4:]).code, decode(second[4:]).code} == {1, 2}


def test_many_senders_over_a_socket_that_always_takes_only_half() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    slow = Slow(ours)
    loop = IoLoop(ThreadRuntime())
    connection = Connection("there:1", slow, loop, lambda connection, command: None, lambda: None)
    frames = [encode({"code": number, "opaque": number, "flag": 0}, b"a" * 60_000) for number in range(20)]

    def send(number: int) -> None:
        connection.send(frames[number])

    senders = in_threads(len(frames), send)
    received = bytearray()
    theirs.settimeout(BOUND_S)
    while len(received) < sum(map(len, frames)):
        received += theirs.recv(65_536)
    join(senders)
    loop.shutdown()
    theirs.close()
    codes = []
    while received:
        size = 4 + int.from_bytes(received[:4], "big")
        codes.append(decode(bytes(received[4:size])).code)
        del received[:size]
    assert sorted(codes) == list(range(20))


def test_a_reader_who_is_slow_with_one_connection_does_not_delay_another(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # An endless stream of answers nobody awaits on one, a request now and then on the other.
    endless = threading.Event()

    def pour(peer: Peer, seen: Seen) -> None:
        junk = b"".join([encode_reply(number + 1, body=b"z" * 200) for number in range(400)])
        while not endless.is_set() and peer.send(junk):
            pass

    busy, quiet, client = make_server(pour), make_server(answer_ok), make_client()
    begin(client, busy)
    slowest = 0.0
    for number in range(100):
        started = time.monotonic()
        assert ask(client, quiet, b"%d" % number) == b"%d" % number
        slowest = max(slowest, time.monotonic() - started)
    endless.set()
    assert slowest < 1.0


def test_a_request_of_a_server_is_served_while_answers_pour_in(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    asked: list[RemotingCommand] = []

    def known(address: str, command: RemotingCommand, answer: object) -> bool:
        asked.append(command)
        return True

    def mixed(peer: Peer, seen: Seen) -> None:
        header = {"code": 40, "flag": 2, "opaque": 1, "extFields": {"consumerGroup": "g"}}
        peer.send(b"".join([encode_reply(number + 1) + encode(header) for number in range(500)]))
        peer.reply(seen)

    server, client = make_server(mixed), make_client(known)
    ask(client, server)
    assert len(asked) == 500
