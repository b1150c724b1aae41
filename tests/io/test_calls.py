"""Requests and answers over one connection, when the server answers as it likes."""

from __future__ import annotations

import random
import socket
import struct
import sys
import threading
import time
from typing import Any

import pytest

from rocketmq_py.errors import ConnectError, IllegalStateError, ProtocolError, RequestTimeoutError
from rocketmq_py.remoting.connection import Connection, IoLoop, PendingCall
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.remoting_client import CONTROL_LANE
from rocketmq_py.runtime import ThreadRuntime
from tests.io.calls import TIMEOUT_MS, Outcome, answered, ask, begin, in_threads, join, request
from tests.io.conftest import MakeClient, MakeServer
from tests.io.server import (
    BOUND_S,
    Peer,
    Seen,
    answer_nothing,
    answer_ok,
    encode,
    encode_ask,
    encode_reply,
    eventually,
    stays,
)

# Order.


def test_answers_in_any_order_reach_those_who_asked(make_server: MakeServer, make_client: MakeClient) -> None:
    held: list[tuple[Peer, Seen]] = []

    def backwards(peer: Peer, seen: Seen) -> None:
        held.append((peer, seen))
        if len(held) == 50:
            for held_peer, each in random.sample(held, len(held)):
                held_peer.reply(each, body=each.body)

    server, client = make_server(backwards), make_client()
    outcomes = [begin(client, server, b"%d" % number) for number in range(50)]
    assert eventually(lambda: all(outcome.count for outcome in outcomes))
    assert [outcome.replies[0].body for outcome in outcomes] == [b"%d" % number for number in range(50)]
    assert len(server.peers) == 1


def test_many_threads_share_one_connection_and_each_gets_its_own_answers(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client()
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(40):
            body = (b"%d-%d " % (number, turn)) * (1 + turn * 97 % 2_000)
            try:
                if ask(client, server, body) != body:
                    wrong.append((number, turn))
            except Exception as error:  # noqa: BLE001 - shown by the assertion
                wrong.append(error)

    join(in_threads(32, work))
    assert wrong == []
    assert len(server.peers) == 1
    assert server.peers[0].broken is None
    assert len({seen.opaque for seen in server.seen}) == len(server.seen)


def test_an_answer_that_comes_too_late_is_dropped_and_the_next_request_gets_its_own(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    late: list[tuple[Peer, Seen]] = []

    def first_late(peer: Peer, seen: Seen) -> None:
        if not late:
            late.append((peer, seen))
        else:
            late[0][0].reply(late[0][1], body=b"late")
            peer.reply(seen, body=b"in time")

    server, client = make_server(first_late), make_client()
    with pytest.raises(RequestTimeoutError, match="did not answer within 60 ms"):
        ask(client, server, timeout_ms=60)
    assert ask(client, server) == b"in time"


def test_an_asynchronous_request_times_out_once_and_its_late_answer_is_dropped(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    held: list[tuple[Peer, Seen]] = []
    server, client = make_server(lambda peer, seen: held.append((peer, seen))), make_client()
    outcome = begin(client, server, timeout_ms=50)
    assert outcome.told.wait(BOUND_S)
    assert isinstance(outcome.errors[0], RequestTimeoutError)
    held[0][0].reply(held[0][1], body=b"late")
    server.handle = answer_ok
    assert ask(client, server, b"x") == b"x"
    assert outcome.count == 1


def test_answers_nobody_awaits_and_answers_given_twice_change_nothing(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    def generous(peer: Peer, seen: Seen) -> None:
        for opaque in (1, 0, -1, 2**31 - 1, seen.opaque + 1, seen.opaque + 1_000):
            peer.send(encode_reply(opaque, body=b"stranger"))
        peer.reply(seen, body=b"mine")
        peer.reply(seen, body=b"again")

    server, client = make_server(generous), make_client()
    outcome = begin(client, server)
    assert outcome.told.wait(BOUND_S)
    assert [ask(client, server) for _ in range(20)] == [b"mine"] * 20
    assert outcome.count == 1
    assert len(server.peers) == 1


# Bytes.


def test_an_answer_cut_at_every_byte_arrives_whole(make_server: MakeServer, make_client: MakeClient) -> None:
    cuts = iter(range(1, 1_000))

    def cut(peer: Peer, seen: Seen) -> None:
        frame = encode_reply(seen.opaque, body=b"body of " + seen.body)
        at = next(cuts) % len(frame) or 1
        peer.send(frame[:at])
        # An answer to nobody right behind it: the reader must find the border of both.
        peer.send(frame[at:] + encode_reply(7, body=b"x" * at))

    server, client = make_server(cut), make_client()
    for number in range(140):
        assert ask(client, server, b"%d" % number) == b"body of %d" % number


def test_an_answer_that_comes_byte_by_byte(make_server: MakeServer, make_client: MakeClient) -> None:
    def drip(peer: Peer, seen: Seen) -> None:
        for byte in encode_reply(seen.opaque, body=b"drop by drop"):
            peer.send(bytes((byte,)))

    server, client = make_server(drip), make_client()
    assert ask(client, server) == b"drop by drop"


def test_thousands_of_answers_in_one_segment(make_server: MakeServer, make_client: MakeClient) -> None:
    held: list[Seen] = []

    def all_at_once(peer: Peer, seen: Seen) -> None:
        held.append(seen)
        if len(held) == 3_000:
            peer.send(b"".join([encode_reply(each.opaque, body=each.body) for each in held]))

    server, client = make_server(all_at_once), make_client()
    outcomes = [begin(client, server, b"%d" % number) for number in range(3_000)]
    assert eventually(lambda: all(outcome.count for outcome in outcomes))
    assert [outcome.replies[0].body for outcome in outcomes] == [b"%d" % number for number in range(3_000)]


def test_a_binary_header_is_read_as_well(make_server: MakeServer, make_client: MakeClient) -> None:
    def binary(peer: Peer, seen: Seen) -> None:
        fields = struct.pack(">H", 4) + b"name" + struct.pack(">I", 5) + b"value"
        header = struct.pack(">hBhii", 0, 0, 513, seen.opaque, 1) + struct.pack(">I", 0)
        header += struct.pack(">I", len(fields)) + fields
        peer.send(struct.pack(">II", 4 + len(header) + 3, 1 << 24 | len(header)) + header + b"abc")

    server, client = make_server(binary), make_client()
    reply = client.invoke_sync(server.address, request(), TIMEOUT_MS)
    assert (reply.ext_fields, reply.body) == ({"name": "value"}, b"abc")


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "zeros": b"\0" * 64,
    "ones": b"\xff" * 64,
    "length of 2 GiB": struct.pack(">II", 2**31 - 1, 10),
    "length of 16 MiB": struct.pack(">II", 16 * 1024 * 1024 - 3, 10),
    "negative length": struct.pack(">iI", -5, 0),
    "header longer than the frame": struct.pack(">II", 10, 200) + b"abcdef",
    "unknown kind of header": struct.pack(">II", 8, 9 << 24 | 4) + b"{}{}",
    "no json": struct.pack(">II", 8, 4) + b"nope",
    "json that is no object": struct.pack(">II", 8, 4) + b"[12]",
    "no opaque": encode({"code": 0, "flag": 1}),
    "opaque that is text": encode({"code": 0, "flag": 1, "opaque": "1"}),
    "opaque of 80 bits": encode({"code": 0, "flag": 1, "opaque": 2**80}),
    "fields that are no object": encode({"code": 0, "flag": 1, "opaque": 1, "extFields": [1]}),
    "deep": struct.pack(">II", 50_004, 50_000) + b"[" * 50_000,
    "half a character": struct.pack(">II", 6, 2) + b"\xc3\x28",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_closes_the_connection_fails_what_is_in_flight_and_the_next_request_connects_anew(
    name: str, make_server: MakeServer, make_client: MakeClient
) -> None:
    def garbage(peer: Peer, seen: Seen) -> None:
        if peer.number > 0:
            peer.reply(seen, body=b"good")
        elif len(peer.seen) == 2:  # both requests are in flight
            peer.send(GARBAGE[name])

    server, client = make_server(garbage), make_client()
    outcome = begin(client, server)
    started = time.monotonic()
    with pytest.raises(ConnectError, match="was closed"):
        ask(client, server)
    assert time.monotonic() - started < 2
    assert outcome.told.wait(BOUND_S)
    assert isinstance(outcome.errors[0], ConnectError)
    assert eventually(server.peers[0].ended.is_set)
    assert eventually(lambda: client.connection(server.address) is None)
    assert ask(client, server) == b"good"


def test_random_bytes_never_stop_the_io_thread(make_server: MakeServer, make_client: MakeClient) -> None:
    noise = random.Random(7)

    def noisy(peer: Peer, seen: Seen) -> None:
        if peer.number < 60:
            frame = bytearray(encode_reply(seen.opaque, body=b"x" * 40))
            for _ in range(noise.randrange(1, 6)):
                frame[noise.randrange(len(frame))] = noise.randrange(256)
            peer.send(bytes(frame[: noise.randrange(1, len(frame) + 1)]))
            peer.close()
        else:
            peer.reply(seen, body=b"good")

    server, client = make_server(noisy), make_client()
    outcomes: list[Outcome] = []
    for _ in range(60):
        # Every second one through another address: a back-off of one must not hide the others from this test.
        outcomes.append(begin(client, server))
        assert outcomes[-1].told.wait(BOUND_S)
    other = make_server(answer_ok)
    assert ask(client, other, b"alive") == b"alive"
    assert all(outcome.count == 1 for outcome in outcomes)


def test_half_a_frame_for_ever_costs_its_own_requests_their_time_and_nobody_elses(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    half, whole, client = make_server(lambda peer, seen: peer.send(b"\0\0\x10")), make_server(answer_ok), make_client()
    outcomes = [begin(client, half, timeout_ms=300) for _ in range(5)]
    for number in range(50):
        assert ask(client, whole, b"%d" % number) == b"%d" % number
    assert eventually(lambda: all(outcome.count for outcome in outcomes), 3)
    assert all(isinstance(outcome.errors[0], RequestTimeoutError) for outcome in outcomes)


def test_a_connection_on_which_nothing_comes_any_more_is_given_up_after_a_time_out(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # A router that forgot the connection, a broker that hangs: TCP itself takes 15 minutes to notice the first and
    # never notices the second. Java closes the socket when a synchronous request times out.
    def only_new_ones_answer(peer: Peer, seen: Seen) -> None:
        if peer.number > 0 or seen.body == b"first":
            peer.reply(seen, body=seen.body)

    server, client = make_server(only_new_ones_answer), make_client()
    assert ask(client, server, b"first") == b"first"
    deadline = time.monotonic() + 4
    answers: list[bytes] = []
    while not answers and time.monotonic() < deadline:
        try:
            answers.append(ask(client, server, b"alive?", timeout_ms=400))
        except (RequestTimeoutError, ConnectError):
            continue
    assert answers == [b"alive?"], f"still the same silent connection after 4 s: {client.connection(server.address)!r}"


# What servers ask.


def test_a_server_is_told_that_its_request_is_not_known_and_oneway_ones_are_not_answered(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client(lambda address, command, answer: command.code == 40)
    ask(client, server)
    peer = server.peers[0]
    peer.send(encode_ask(9_999, opaque=5, oneway=True))
    peer.send(encode_ask(40, opaque=6))  # known: the handler's business
    peer.send(encode_ask(307, opaque=7) + encode_ask(220, opaque=8))
    assert eventually(lambda: len(peer.seen) >= 3)
    ask(client, server)
    answers = [seen for seen in peer.seen if seen.is_response]
    assert [(seen.opaque, seen.code) for seen in answers] == [(7, 3), (8, 3)]
    assert "307" in (answers[0].remark or "")


def test_a_servers_request_with_the_number_of_one_of_ours_is_not_taken_for_its_answer(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    def confusing(peer: Peer, seen: Seen) -> None:
        if not seen.is_response:
            peer.send(encode_ask(40, opaque=seen.opaque))
            peer.reply(seen, body=b"the answer")

    asked: list[int] = []

    def known(address: str, command: RemotingCommand, answer: object) -> bool:
        asked.append(command.code)
        return True

    server, client = make_server(confusing), make_client(known)
    assert ask(client, server) == b"the answer"
    assert asked == [40]


def test_a_request_handler_that_raises_costs_that_connection_only(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    def broken(address: str, command: RemotingCommand, answer: object) -> bool:
        raise ZeroDivisionError("mine")

    first, second, client = make_server(answer_ok), make_server(answer_ok), make_client(broken)
    ask(client, first)
    ask(client, second)
    first.peers[0].send(encode_ask(40))
    assert eventually(first.peers[0].ended.is_set)
    assert ask(client, second, b"alive") == b"alive"
    assert len(second.peers) == 1


# Callbacks.


def test_the_io_thread_refuses_to_wait_for_an_answer(make_server: MakeServer, make_client: MakeClient) -> None:
    server, client = make_server(answer_ok), make_client()
    refused: list[Exception] = []

    def on_reply(reply: RemotingCommand) -> None:
        try:
            ask(client, server)
        except IllegalStateError as error:
            refused.append(error)

    ask(client, server)
    client.invoke_async((server.address, CONTROL_LANE), request(), TIMEOUT_MS, on_reply, refused.append)
    assert eventually(lambda: refused)
    assert "must not wait" in str(refused[0])


def test_a_callback_that_raises_costs_its_own_request_only(make_server: MakeServer, make_client: MakeClient) -> None:
    server, client = make_server(answer_ok), make_client()
    errors: list[Exception] = []

    def bad(reply: RemotingCommand) -> None:
        raise ProtocolError("not what I wanted")

    ask(client, server)
    client.invoke_async((server.address, CONTROL_LANE), request(), TIMEOUT_MS, bad, errors.append)
    assert eventually(lambda: errors)
    assert isinstance(errors[0], ProtocolError)
    assert ask(client, server, b"alive") == b"alive"
    assert len(server.peers) == 1


def test_a_callback_that_wants_to_end_the_process_does_not_end_the_io_thread(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client()
    errors: list[Exception] = []

    def leaves(reply: RemotingCommand) -> None:
        sys.exit("mine")

    def leaves_again(error: Exception) -> None:
        errors.append(error)
        sys.exit("mine")

    ask(client, server)
    client.invoke_async((server.address, CONTROL_LANE), request(), TIMEOUT_MS, leaves, leaves_again)
    assert eventually(lambda: errors)
    assert "SystemExit('mine')" in str(errors[0])
    assert ask(client, server, b"alive") == b"alive"
    assert len(server.peers) == 1


def test_a_callback_that_raises_when_its_request_times_out_does_not_end_the_io_thread(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    silent, server, client = make_server(answer_nothing), make_server(answer_ok), make_client()
    ask(client, server)
    told = threading.Event()

    def bad(error: Exception) -> None:
        told.set()
        raise ZeroDivisionError("mine")

    for lane in (silent, silent):
        client.invoke_async((lane.address, CONTROL_LANE), request(), 50, lambda reply: None, bad)
    assert told.wait(BOUND_S)
    assert ask(client, server, b"alive", timeout_ms=2_000) == b"alive"


def test_of_the_requests_of_a_broken_connection_every_one_is_told_even_if_a_callback_raises(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_nothing), make_client()

    def bad(error: Exception) -> None:
        raise ZeroDivisionError("mine")

    client.invoke_async((server.address, CONTROL_LANE), request(), TIMEOUT_MS, lambda reply: None, bad)
    outcomes = [begin(client, server) for _ in range(5)]
    assert eventually(lambda: len(server.seen) == 6)
    server.peers[0].close()
    assert eventually(lambda: all(outcome.count for outcome in outcomes), 2), "requests that nobody was told about"
    assert all(isinstance(outcome.errors[0], ConnectError) for outcome in outcomes)


# Ends of connections.


@pytest.mark.parametrize("how", ["close", "reset", "half an answer, then close", "half an answer, then reset"])
def test_a_connection_that_breaks_fails_what_is_in_flight_at_once(
    how: str, make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_nothing), make_client()
    outcomes = [begin(client, server) for _ in range(10)]
    failures: list[Exception] = []

    def wait(number: int) -> None:
        try:
            ask(client, server)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    waiting = in_threads(4, wait)
    assert eventually(lambda: len(server.seen) == 14)
    started = time.monotonic()
    peer = server.peers[0]
    if how.startswith("half"):
        peer.send(encode_reply(peer.seen[0].opaque, body=b"x" * 1_000)[:500])
    if how.endswith("close"):
        peer.close()
    else:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.shutdown(socket.SHUT_RD)  # wakes the server's own reader, which closes
    join(waiting)
    assert eventually(lambda: all(outcome.count for outcome in outcomes))
    assert time.monotonic() - started < 1
    assert all(isinstance(outcome.errors[0], ConnectError) and outcome.count == 1 for outcome in outcomes)
    assert all(isinstance(error, ConnectError) for error in failures)
    assert len(failures) == 4


def test_after_a_server_was_restarted_requests_go_through_again(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client()
    for turn in range(5):
        assert eventually(lambda server=server: answered(client, server), 8), f"restart {turn}"  # type: ignore[misc]
        server.stop()
        server = make_server(answer_ok, port=server.port)


def test_a_flood_of_requests_from_a_server_that_reads_no_answers_is_cut_off_with_bounded_memory(
    make_server: MakeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.remoting.connection.OUTBOX_MAX_BYTES", 200_000)
    server, other = make_server(answer_ok, receive_buffer=4_096), make_server(answer_ok)
    client = make_client()
    ask(client, server)
    peer = server.peers[0]
    server.reading.clear()
    flood = b"".join([encode_ask(9_999, opaque=number) for number in range(1_000)])

    def pour(number: int) -> None:
        for _ in range(200):
            peer.send(flood)

    pouring = in_threads(1, pour)
    assert eventually(lambda: client.connection(server.address) is None), "a peer that only asks was never cut off"
    assert ask(client, other, b"alive") == b"alive"
    server.reading.set()
    peer.close()
    join(pouring)


# Connection and loop by themselves.


class Pair:
    """A connection of the package and the socket at its other end."""

    def __init__(self, loop: IoLoop) -> None:
        ours, self.theirs = socket.socketpair()
        self.closed = 0
        self.ours = _Named(ours)
        self.connection = Connection("there:1", self.ours, loop, self._asked, self._closed)

    def _asked(self, connection: Connection, command: RemotingCommand) -> None: ...

    def _closed(self) -> None:
        self.closed += 1


class _Named(socket.socket):
    """A socket of a pair that has addresses as a TCP socket has, and counts its sends."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.sends = 0

    def send(self, data: Any, flags: int = 0) -> int:
        self.sends += 1
        return super().send(data, flags)

    def setsockopt(self, *args: Any) -> None: ...

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 2


def test_closing_tells_once_however_often_it_is_closed() -> None:
    loop = IoLoop(ThreadRuntime())
    pair = Pair(loop)
    outcome = Outcome()
    pair.connection.call(-1, encode({}), PendingCall(outcome.on_reply, outcome.on_error, 2**60))
    pair.theirs.close()
    assert outcome.told.wait(BOUND_S)
    assert eventually(lambda: pair.connection.closed)
    loop.shutdown()
    loop.shutdown()
    assert (outcome.count, pair.closed) == (1, 1)
    with pytest.raises(ConnectError, match="was closed"):
        pair.connection.call(-2, encode({}), PendingCall(outcome.on_reply, outcome.on_error, 2**60))
    with pytest.raises(ConnectError, match="was closed"):
        pair.connection.send(encode({}))
    assert outcome.count == 1


def test_requests_that_answers_read_together_bring_on_leave_together() -> None:
    loop = IoLoop(ThreadRuntime())
    pair = Pair(loop)
    second = [Outcome() for _ in range(3)]

    def ask_on(number: int, outcome: Outcome) -> PendingCall:
        def on_reply(reply: RemotingCommand) -> None:
            again = PendingCall(second[number].on_reply, second[number].on_error, 2**60)
            pair.connection.call(-10 - number, encode({"number": number}), again)
            outcome.on_reply(reply)

        return PendingCall(on_reply, outcome.on_error, 2**60)

    first = [Outcome() for _ in range(3)]
    for number, outcome in enumerate(first):
        pair.connection.call(-1 - number, encode({}), ask_on(number, outcome))
    pair.theirs.recv(1_000_000)
    pair.ours.sends = 0
    pair.theirs.sendall(b"".join(encode_reply(-1 - number) for number in range(3)))
    assert all(outcome.told.wait(BOUND_S) for outcome in first)
    assert pair.theirs.recv(1_000_000) == b"".join(encode({"number": number}) for number in range(3))
    assert pair.ours.sends == 1
    pair.theirs.sendall(b"".join(encode_reply(-10 - number) for number in range(3)))
    assert all(outcome.told.wait(BOUND_S) for outcome in second)
    loop.shutdown()
    pair.theirs.close()
    assert [outcome.count for outcome in first + second] == [1] * 6


def test_a_connection_of_its_own_lane_is_not_touched_by_the_end_of_another(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client()
    outcomes = [Outcome() for _ in range(4)]
    for lane, outcome in enumerate(outcomes):
        client.invoke_async((server.address, lane), request(), TIMEOUT_MS, outcome.on_reply, outcome.on_error)
    assert eventually(lambda: all(outcome.count for outcome in outcomes))
    assert len(server.peers) == 4
    server.peers[2].close()
    assert eventually(server.peers[2].ended.is_set)
    again = [Outcome() for _ in range(4)]
    for lane, outcome in enumerate(again):
        client.invoke_async((server.address, lane), request(), TIMEOUT_MS, outcome.on_reply, outcome.on_error)
    assert eventually(lambda: all(outcome.count for outcome in again))
    assert stays(lambda: len(server.open_peers()) in {3, 4}, 0.05)
    assert len(server.peers) in {4, 5}
