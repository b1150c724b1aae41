"""Requests as tests make them, over the package's remoting client."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rocketmq_py.errors import ConnectError
from rocketmq_py.model.codes import RequestCode
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.remoting_client import CONTROL_LANE, RemotingClient, Request
from tests.io.server import BOUND_S, Server

TIMEOUT_MS = 5_000


def request(body: bytes = b"", **fields: str) -> Request:
    return Request(RequestCode.HEART_BEAT, fields, body)


def ask(client: RemotingClient, server: Server, body: bytes = b"", timeout_ms: int = TIMEOUT_MS) -> bytes:
    return client.invoke_sync(server.address, request(body), timeout_ms).body


class Outcome:
    """What became of an asynchronous request; counts, because it must be told exactly once."""

    def __init__(self) -> None:
        self.replies: list[RemotingCommand] = []
        self.errors: list[Exception] = []
        self.told = threading.Event()

    def on_reply(self, reply: RemotingCommand) -> None:
        self.replies.append(reply)
        self.told.set()

    def on_error(self, error: Exception) -> None:
        self.errors.append(error)
        self.told.set()

    @property
    def count(self) -> int:
        return len(self.replies) + len(self.errors)


def begin(client: RemotingClient, server: Server, body: bytes = b"", timeout_ms: int = TIMEOUT_MS) -> Outcome:
    outcome = Outcome()
    client.invoke_async((server.address, CONTROL_LANE), request(body), timeout_ms, outcome.on_reply, outcome.on_error)
    return outcome


def in_threads(count: int, work: Callable[[int], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(BOUND_S)
    assert not any(thread.is_alive() for thread in threads)


def answered(client: RemotingClient, server: Server) -> bool:
    try:
        return ask(client, server, b"x", timeout_ms=1_000) == b"x"
    except ConnectError:
        return False
