"""The embedded broker's network edge against clients that lie, stall, flood and vanish."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import DefaultMQProducer, Message
from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from rocketmq_py.errors import IllegalStateError
from rocketmq_py.remoting import frame as frame_module
from rocketmq_py.remoting import server as server_module
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.server import ServerChannel, ServerLoop, Service
from rocketmq_py.runtime import ThreadRuntime
from tests.administration import Wire, call
from tests.io.server import encode_ask, eventually, stays

TOPIC = "topic"


@pytest.fixture
def broker(tmp_path: Path, nothing_is_left_behind: None) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path) as broker:
        fields = {"topic": TOPIC, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG"}
        call(broker.broker_addr, 17, fields).checked("create topic")
        yield broker


def test_a_broker_shows_where_its_store_and_its_name_server_are(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    assert repr(broker) == f"<EmbeddedBroker {tmp_path}, not running>"
    with broker:
        assert repr(broker) == f"<EmbeddedBroker {tmp_path}, name server at {broker.namesrv_addr}>"


def connect(broker: EmbeddedBroker) -> socket.socket:
    host, port = broker.broker_addr.split(":")
    return socket.create_connection((host, int(port)), 5)


def serves(broker: EmbeddedBroker) -> bool:
    return call(broker.broker_addr, 30, {"topic": TOPIC, "queueId": 0}).code == 0


def held_bytes() -> int:
    """What all connections of this process's servers have in memory."""
    channels = [each for each in gc.get_objects() if type(each) is ServerChannel]
    return sum(channel.memory_bytes for channel in channels if channel.is_open)


def closed_by_the_server(sock: socket.socket) -> bool:
    sock.settimeout(5)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.behaviour("EB-21")
@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        struct.pack(">i", -1),
        struct.pack(">i", 2**31 - 1),
        struct.pack(">ii", 8, 100) + b"{}{}",
        struct.pack(">ii", 12, 8) + b"no json!",
        struct.pack(">ii", 12, 9 << 24 | 4) + b"{}{}{}{}",
    ],
    ids=["http", "negative length", "2 GiB", "header beyond the frame", "no JSON", "unknown kind of header"],
)
def test_a_client_that_does_not_speak_the_protocol_is_hung_up_on_and_others_are_served(
    broker: EmbeddedBroker, nonsense: bytes
) -> None:
    with connect(broker) as sock:
        sock.sendall(nonsense)
        assert closed_by_the_server(sock)
    assert serves(broker)


@pytest.mark.behaviour("EB-21")
def test_a_frame_that_comes_byte_by_byte_is_served(broker: EmbeddedBroker) -> None:
    with connect(broker) as sock:
        for byte in encode_ask(30, 7, {"topic": TOPIC, "queueId": "0"}):
            sock.sendall(bytes([byte]))
        assert b'"opaque":7' in sock.recv(4096)


@pytest.mark.behaviour("EB-21")
def test_a_client_that_does_not_read_is_not_read_either_and_costs_bounded_memory(
    broker: EmbeddedBroker,
) -> None:
    with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
        producer.send(Message(TOPIC, os.urandom(200_000)))
    fields = {
        "consumerGroup": "g", "topic": TOPIC, "queueId": "0", "queueOffset": "0", "maxMsgNums": "1", "sysFlag": "4",
        "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0",
    }  # fmt: skip
    pull = encode_ask(11, 1, fields)
    with connect(broker) as sock:
        sock.setblocking(False)
        asked = 0

        def ask_on() -> bool:
            nonlocal asked
            try:
                asked += sock.send((pull * 21)[asked % len(pull) :])
            except BlockingIOError:
                return True
            return False

        stopped = eventually(lambda: stays(ask_on, 0.3), 30)
        assert stopped, "the server goes on reading from a client that does not read its answers"
        assert serves(broker)
        # The answers to all that was sent would be much more than what may wait for a client.
        assert asked // len(pull) * 200_000 > 10 * server_module.WRITE_MAX_BYTES
        sock.settimeout(5)
        received = 0
        while received < 20_000_000:
            received += len(sock.recv(1_000_000))


@pytest.mark.behaviour("LI-02")
def test_half_frames_of_many_clients_cost_bounded_memory_and_the_largest_go_first(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MEMORY_MAX_BYTES", 4 * 1024 * 1024)
    with ExitStack() as opened:
        small = opened.enter_context(connect(broker))
        small.sendall(struct.pack(">i", 100_000) + bytes(50_000))
        for _ in range(8):
            sock = opened.enter_context(connect(broker))
            with suppress(OSError):  # hung up on in the middle
                sock.sendall(struct.pack(">i", 15_000_000) + bytes(1_500_000))
        assert eventually(lambda: held_bytes() <= 4 * 1024 * 1024)
        assert held_bytes() > 50_000
        assert serves(broker)
        small.sendall(bytes(50_000))  # no JSON: it was heard to the end
        assert closed_by_the_server(small)
    assert eventually(lambda: held_bytes() <= server_module.RESTING_BYTES)


@pytest.mark.behaviour("LI-02")
def test_answers_that_many_clients_do_not_read_cost_bounded_memory(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MEMORY_MAX_BYTES", 4 * 1024 * 1024)
    with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
        producer.send(Message(TOPIC, os.urandom(2_000_000)))
    fields = {
        "consumerGroup": "group", "topic": TOPIC, "queueId": "0", "queueOffset": "0", "maxMsgNums": "1", "sysFlag": "4",
        "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0",
    }  # fmt: skip
    pull = encode_ask(11, 1, fields)
    with ExitStack() as opened:
        for _ in range(10):
            sock = opened.enter_context(connect(broker))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
            with suppress(OSError):
                sock.sendall(pull * 20)
        assert serves(broker)
        # One answer more for a moment, until it is counted.
        assert stays(lambda: held_bytes() <= 4 * 1024 * 1024 + 2_100_000, 0.5)
        assert eventually(lambda: held_bytes() <= 4 * 1024 * 1024)
        assert held_bytes() > 1_000_000


@pytest.mark.behaviour("LI-02")
def test_a_connection_that_is_silent_has_no_buffer_and_is_heard_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nothing_is_left_behind: None
) -> None:
    monkeypatch.setattr(server_module, "IDLE_CHECK_MS", 50)
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as sock:
        ask = encode_ask(30, 7, {"topic": TOPIC, "queueId": "0"})
        sock.sendall(ask)
        assert b'"opaque":7' in sock.recv(4096)
        assert eventually(lambda: held_bytes() == 0)
        sock.sendall(ask[:10])
        assert eventually(lambda: held_bytes() > 0)
        assert stays(lambda: held_bytes() > 0, 0.3)  # what is not complete stays
        sock.sendall(ask[10:])
        assert b'"opaque":7' in sock.recv(4096)


@pytest.mark.behaviour("EB-21")
def test_a_connection_without_a_word_is_closed_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_is_left_behind: None
) -> None:
    monkeypatch.setattr(server_module, "IDLE_MAX_MS", 50)
    monkeypatch.setattr(server_module, "IDLE_CHECK_MS", 20)
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as sock:
        assert closed_by_the_server(sock)


@pytest.mark.behaviour("EB-21")
def test_of_too_many_connections_the_last_are_closed(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 3)
    kept = [connect(broker) for _ in range(3)]
    try:
        for sock in kept:
            sock.sendall(encode_ask(30, 7, {"topic": TOPIC, "queueId": "0"}))
            assert sock.recv(4096)
        with connect(broker) as fourth:
            assert closed_by_the_server(fourth)
    finally:
        for sock in kept:
            sock.close()
    assert eventually(lambda: _served(broker))


def _served(broker: EmbeddedBroker) -> bool:
    try:
        return serves(broker)
    except OSError:
        return False


@pytest.mark.behaviour("EB-21")
def test_clients_that_come_and_vanish_leave_nothing(broker: EmbeddedBroker) -> None:
    for number in range(200):
        with connect(broker) as sock:
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(encode_ask(30, 7, {"topic": TOPIC, "queueId": "0"})[: number + 1])
    assert serves(broker)


@pytest.mark.behaviour("EB-21")
def test_an_end_while_many_send_answers_or_hangs_up_on_each_and_loses_no_answered_message(
    tmp_path: Path, nothing_is_left_behind: None
) -> None:
    broker = EmbeddedBroker(tmp_path).start()
    answered: list[int] = []
    begun = threading.Barrier(9)

    def send() -> None:
        with Wire(broker_addr) as wire:
            begun.wait(10)
            try:
                while True:
                    fields = {"b": TOPIC, "c": "TBW102", "d": 1, "e": 0, "f": 0, "g": 1, "h": 0, "i": ""}
                    answered.append(int(wire.call(310, fields, b"x").checked("send").ext["queueOffset"]))
            except OSError:
                return

    broker_addr = broker.broker_addr
    threads = [threading.Thread(target=send, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    assert eventually(lambda: len(answered) > 200)
    broker.shutdown()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    with EmbeddedBroker(tmp_path) as again:
        end = int(call(again.broker_addr, 30, {"topic": TOPIC, "queueId": 0}).ext["offset"])
    assert len(set(answered)) == len(answered)
    assert max(answered) < end


@pytest.mark.behaviour("EB-21")
def test_an_answer_too_large_for_a_frame_is_an_error_and_the_connection_lives(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_module, "FRAME_MAX_BYTES", 100_000)
    with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
        sent = producer.send(Message(TOPIC, os.urandom(50_000)), timeout_ms=5_000)
        for _ in range(3):
            producer.send(Message(TOPIC, os.urandom(50_000)), timeout_ms=5_000)
    fields = {
        "consumerGroup": "g", "topic": TOPIC, "queueId": 0, "queueOffset": 0, "maxMsgNums": 32, "sysFlag": 4,
        "commitOffset": 0, "suspendTimeoutMillis": 0, "subscription": "*", "subVersion": 0,
    }  # fmt: skip
    assert sent.queue_offset == 0
    with Wire(broker.broker_addr) as wire:
        reply = wire.call(11, fields)
        assert (reply.code, "bytes" in reply.remark) == (1, True)
        assert wire.call(30, {"topic": TOPIC, "queueId": 0}).code == 0


@pytest.mark.behaviour("EB-21")
def test_one_client_with_very_many_requests_does_not_keep_the_others_waiting_for_all_of_them(
    broker: EmbeddedBroker,
) -> None:
    ask = encode_ask(30, 7, {"topic": TOPIC, "queueId": "0"})
    with connect(broker) as greedy, Wire(broker.broker_addr) as modest:
        answered = threading.Event()

        def read_answers() -> None:
            left = 5_000
            while left:
                left -= greedy.recv(65_536).count(b'"opaque":7')
            answered.set()

        reading = threading.Thread(target=read_answers, daemon=True)
        reading.start()
        greedy.sendall(ask * 5_000)
        before = 0
        while not answered.is_set():
            modest.call(30, {"topic": TOPIC, "queueId": 0})
            before += 1
        reading.join(10)
        assert before > 3


@pytest.mark.behaviour("EB-21")
def test_slow_requests_of_one_client_keep_the_others_waiting_for_few_of_them(
    tmp_path: Path, nothing_is_left_behind: None
) -> None:
    began = threading.Event()
    order: list[int] = []

    class Slow:
        """What serves a port, slowly."""

        def __init__(self, service: Service) -> None:
            self._service = service

        def on_request(self, channel: ServerChannel, request: RemotingCommand) -> None:
            order.append(request.opaque)
            began.set()
            time.sleep(0.005)
            self._service.on_request(channel, request)

        def on_close(self, channel: ServerChannel) -> None:
            self._service.on_close(channel)

    with EmbeddedBroker(tmp_path, wrap=Slow) as broker, connect(broker) as greedy, connect(broker) as modest:
        greedy.sendall(encode_ask(30, 7, {"topic": TOPIC, "queueId": "0"}) * 32)
        assert began.wait(10)
        modest.sendall(encode_ask(30, 8, {"topic": TOPIC, "queueId": "0"}))
        assert eventually(lambda: len(order) == 33)
        assert order.index(8) < 25


@pytest.mark.behaviour("EB-21")
def test_a_start_that_is_interrupted_leaves_nothing(
    tmp_path: Path, nothing_is_left_behind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: ServerLoop, work: Coroutine[Any, Any, Any], timeout_ms: int) -> Any:
        result = run(self, work, timeout_ms)
        if "abandon" not in getattr(work, "__qualname__", ""):
            raise KeyboardInterrupt
        return result

    run = ServerLoop.run
    for _ in range(3):
        monkeypatch.setattr(ServerLoop, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedBroker(tmp_path).start()
        monkeypatch.undo()
        with EmbeddedBroker(tmp_path) as broker:
            assert serves_route(broker)


@pytest.mark.behaviour("EB-21")
def test_it_starts_once_ends_twice_and_can_be_started_again(tmp_path: Path, nothing_is_left_behind: None) -> None:
    broker = EmbeddedBroker(tmp_path)
    with pytest.raises(IllegalStateError, match="not running"):
        _ = broker.namesrv_addr
    broker.start()
    with pytest.raises(IllegalStateError, match="running already"):
        broker.start()
    broker.shutdown()
    broker.shutdown()
    with broker:
        assert serves_route(broker)


def serves_route(broker: EmbeddedBroker) -> bool:
    return call(broker.namesrv_addr, 206).code == 0


class LargeAnswers:
    """A service whose answers are large, and that notes whether they were written."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.channels: list[server_module.ServerChannel] = []

    def on_request(self, channel: server_module.ServerChannel, request: RemotingCommand) -> None:
        self.channels.append(channel)
        self.answer(channel, bytes(8 * 1024 * 1024))

    def answer(self, channel: server_module.ServerChannel, body: bytes) -> None:
        command = RemotingCommand.response(1, 0)
        command.body, command.written = body, self.told.append
        channel.write(command)

    def on_close(self, channel: server_module.ServerChannel) -> None:
        pass


@pytest.mark.behaviour("SM-05")
def test_whoever_writes_a_command_is_told_once_whether_all_of_it_has_left(nothing_is_left_behind: None) -> None:
    runtime = ThreadRuntime()
    loop, service = ServerLoop(runtime, "LargeAnswers"), LargeAnswers()
    server = server_module.RemotingServer(loop, service, runtime.clock)
    listening = server_module.bind("127.0.0.1", 0)
    loop.run(server.serve(listening), 5_000)

    def ask() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.settimeout(5)
        sock.connect(listening.getsockname())
        sock.sendall(encode_ask(30, 1, {}))
        assert eventually(lambda: service.channels)
        return sock

    try:
        with ask() as sock:
            assert stays(lambda: service.told == [], 0.3)
            left = 8 * 1024 * 1024
            while left > 0:
                left -= len(sock.recv(1 << 20))
            assert eventually(lambda: service.told == [True])
        with ask():
            assert stays(lambda: service.told == [True], 0.3)
        assert eventually(lambda: service.told == [True, False])
        loop.run(_answer(service), 5_000)
        assert eventually(lambda: service.told == [True, False, False])
        with ask():
            assert eventually(lambda: len(service.channels) == 3)
            loop.run(_break_off_just_before_it_is_looked_at(service.channels[2]), 5_000)
            assert eventually(lambda: service.told == [True, False, False, False])
    finally:
        loop.run(_stop(server), 5_000)
        loop.stop()


async def _break_off_just_before_it_is_looked_at(channel: server_module.ServerChannel) -> None:
    time.sleep(2 * server_module.WRITTEN_CHECK_MS / 1_000)  # the look is due, and comes behind this one
    await asyncio.sleep(0)
    channel.close()


async def _answer(service: LargeAnswers) -> None:
    service.answer(service.channels[0], b"")


async def _stop(server: server_module.RemotingServer) -> None:
    await server.stop()
