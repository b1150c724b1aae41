"""Servers and clients that end with their test, and a look at what it left behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import DefaultMQProducer
from rocketmq_py.clock import Clock
from rocketmq_py.remoting.remoting_client import OnRequest, RemotingClient
from rocketmq_py.runtime import ThreadRuntime
from tests.io.cluster import Cluster
from tests.io.consumer import Consumer
from tests.io.server import BlackHole, Server, eventually

MakeServer = Callable[..., Server]
MakeClient = Callable[..., RemotingClient]
MakeCluster = Callable[..., Cluster]
MakeConsumer = Callable[..., Consumer]
MakeProducer = Callable[..., DefaultMQProducer]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A socket that was left open is counted by the test that left it open (below). The interpreter tells of it later,
    # in the middle of a test that has nothing to do with it.
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


def threads_of_the_package() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name != "fake-server"}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test ends with the threads and the files it began with, and no thread died of an error."""
    died: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: died.append(f"{args.thread.name}: {args.exc_value!r}"))
    gc.collect()
    threads, files = threads_of_the_package(), open_files()
    yield
    eventually(lambda: threads_of_the_package() <= threads, 6)
    eventually(lambda: open_files() <= files, 1)
    left = {
        "threads": sorted(thread.name for thread in threads_of_the_package() - threads),
        "files": max(open_files() - files, 0),
        "threads that died": died,
    }
    assert not any(left.values()), f"left behind: {left}"


@pytest.fixture
def make_server(nothing_is_left_behind: None) -> Iterator[MakeServer]:
    servers: list[Server] = []

    def make(*args: Any, **options: Any) -> Server:
        servers.append(Server(*args, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def black_hole(nothing_is_left_behind: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlackHole]:
    monkeypatch.setattr("rocketmq_py.remoting.remoting_client.CONNECT_TIMEOUT_MS", 700)  # 3,000: the tests would wait
    hole = BlackHole()
    yield hole
    hole.stop()


@pytest.fixture
def make_client(nothing_is_left_behind: None) -> Iterator[MakeClient]:
    clients: list[RemotingClient] = []

    def make(
        on_request: OnRequest = lambda address, command, answer: False,
        clock: Clock | None = None,
        **options: Any,
    ) -> RemotingClient:
        clients.append(RemotingClient(ThreadRuntime(clock), on_request, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.shutdown()


@pytest.fixture
def make_cluster(nothing_is_left_behind: None) -> Iterator[MakeCluster]:
    clusters: list[Cluster] = []

    def make(*args: Any, **options: Any) -> Cluster:
        clusters.append(Cluster(*args, **options))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.stop()


@pytest.fixture
def make_consumer(nothing_is_left_behind: None) -> Iterator[MakeConsumer]:
    consumers: list[Consumer] = []

    def make(*args: Any, start: bool = True, **settings: Any) -> Consumer:
        consumers.append(Consumer(*args, **settings))
        if start:
            consumers[-1].consumer.start()
        return consumers[-1]

    yield make
    for each in consumers:
        each.consumer.shutdown()


@pytest.fixture
def make_producer(nothing_is_left_behind: None) -> Iterator[MakeProducer]:
    producers: list[DefaultMQProducer] = []

    def make(cluster: Cluster, kind: type[DefaultMQProducer] = DefaultMQProducer, **settings: Any) -> DefaultMQProducer:
        settings = {"namesrv_addr": cluster.address, "client_ip": "127.0.0.1", **settings}
        producers.append(kind("producers", **settings))
        producers[-1].start()
        return producers[-1]

    yield make
    for producer in producers:
        producer.shutdown()
