"""The examples of the documentation that talk to a server, run as they are printed: only names and addresses differ."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rocketmq_py
from tests.conformance.servers import Server
from tests.io.server import eventually

ROOT = Path(__file__).parents[2]
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RunExample = Callable[..., dict[str, Any]]


class Printed:
    """Stands for ``print``, and for ``input``: whoever runs the example waits until it printed what it is to print."""

    def __init__(self, awaited: bytes) -> None:
        self._awaited = awaited
        self.lines: list[tuple[object, ...]] = []

    def print(self, *values: object) -> None:
        self.lines.append(values)

    def input(self, prompt: str = "") -> str:
        assert eventually(lambda: any(self._awaited in line for line in self.lines), 20), self.lines
        return ""


@pytest.fixture
def run_example(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunExample:
    """Run the example of a page that contains some text; names it does not make are those of ``given``."""
    monkeypatch.setenv("HOME", str(tmp_path))  # offsets of broadcasting consumers
    topic, group = server.topic(), server.group()

    def run(page: str, containing: str, up_to: str | None = None, **given: Any) -> dict[str, Any]:
        (code,) = (code for code in _PYTHON.findall((ROOT / page).read_text(encoding="utf-8")) if containing in code)
        if up_to is not None:
            code = code[: code.index(up_to)]
        code = code.replace("127.0.0.1:9876", server.namesrv_addr)
        code = re.sub('"(my-)?topic"|"orders"|"questions"', f'"{topic}"', re.sub('"(my-)?group"', f'"{group}"', code))
        names = {name: getattr(rocketmq_py, name) for name in rocketmq_py.__all__} | {"__name__": "__main__"} | given
        exec(compile(code, page, "exec"), names)
        return names

    return run


def test_the_first_example_sends_and_consumes(run_example: RunExample) -> None:
    printed = Printed(b"hello")
    run_example("README.md", '"my-producers"', print=printed.print, input=printed.input)


def test_what_the_second_page_sends_it_consumes(run_example: RunExample) -> None:
    printed = Printed(b"body")
    run_example("docs/README.md", 'DefaultMQProducer("producers"')
    run_example("docs/README.md", "with consumer:  # start()", print=printed.print, input=printed.input)


def test_examples_that_change_the_consumer_run_before_its_start(run_example: RunExample) -> None:
    printed = Printed(b"body")
    run_example("docs/README.md", 'DefaultMQProducer("producers"')
    names = run_example("docs/README.md", "with consumer:  # start()", up_to="with consumer:", print=printed.print)
    consumer = names["consumer"]
    run_example("docs/README.md", "OnlyOurs", consumer=consumer)
    consumer._filter_hooks.clear()  # nothing in this topic is ours
    run_example("docs/README.md", "by_sql(", consumer=consumer)  # broker-side, see test_filters.py
    consumer.subscribe(next(iter(consumer._subscriptions)), "TagA")
    run_example("docs/README.md", "MessageListenerOrderly(consume)", consumer=consumer, print=printed.print)
    with consumer:
        printed.input()
    assert all(len(line) == 3 for line in printed.lines), "the orderly listener prints no topic"


def test_a_broadcasting_consumer_as_printed_gets_what_was_sent(run_example: RunExample) -> None:
    printed = Printed(b"body")
    run_example("docs/README.md", 'DefaultMQProducer("producers"')
    first = run_example("docs/README.md", "with consumer:  # start()", up_to="with consumer:", print=printed.print)
    consumer = run_example("docs/README.md", "MessageModel.BROADCASTING")["consumer"]
    consumer.consume_from_where = first["consumer"].consume_from_where
    consumer.subscribe(next(iter(first["consumer"]._subscriptions)))
    consumer.register_message_listener(first["consumer"]._listener)
    with consumer:
        printed.input()


def test_an_asynchronous_send_as_printed_is_accepted(run_example: RunExample, server: Server) -> None:
    message = rocketmq_py.Message(server.topic(), b"body")
    with rocketmq_py.DefaultMQProducer("producers", namesrv_addr=server.namesrv_addr) as producer:
        run_example("docs/README.md", "send_async(", producer=producer, message=message)


@pytest.mark.parametrize("server", ["embedded", "apache-broker"], indirect=True)
def test_administration_from_python_as_printed_tells_the_topics(run_example: RunExample, server: Server) -> None:
    printed = Printed(b"")
    run_example("docs/README.md", "DefaultMQAdminExt(", print=printed.print)
    ((topics,),) = printed.lines
    assert isinstance(topics, list)
    assert topics


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_batch_on_many_threads_as_printed_is_handled(run_example: RunExample) -> None:
    printed = Printed(b"body")
    run_example("docs/README.md", 'DefaultMQProducer("producers"')
    run_example("docs/README.md", "fan_out(handle", print=printed.print, input=printed.input)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_an_idempotent_listener_as_printed_stores_each_message_once(
    run_example: RunExample, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example("docs/README.md", 'DefaultMQProducer("producers"')
    made = run_example("docs/README.md", "with consumer:  # start()", up_to="with consumer:")
    consumer = made["consumer"]
    consumer.subscribe(next(iter(consumer._subscriptions)))
    example = run_example("docs/README.md", "SqliteTransaction(database)", consumer=consumer)
    with consumer, sqlite3.connect("orders.db") as looking:
        assert eventually(lambda: looking.execute("SELECT count(*) FROM orders").fetchone() == (4,), 20)
    looking.close()
    example["database"].close()


@pytest.mark.parametrize("server", ["apache-broker"], indirect=True)
def test_a_transaction_as_printed_commits(run_example: RunExample) -> None:
    printed = Printed(b"")
    stored: dict[str, object] = {}

    def store_order(order: object, transaction: str) -> None:
        stored[transaction] = order

    names = {"store_order": store_order, "is_stored": stored.__contains__, "order": 1}
    run_example("docs/README.md", "TransactionListener", print=printed.print, **names)
    assert printed.lines == [(rocketmq_py.LocalTransactionState.COMMIT_MESSAGE,)]
    assert list(stored.values()) == [1]


@pytest.mark.parametrize("server", ["apache-broker"], indirect=True)
def test_requests_as_printed_are_replied_to(run_example: RunExample, server: Server) -> None:
    printed = Printed(b"")
    run_example("docs/README.md", 'DefaultMQProducer("producers"')
    made = run_example("docs/README.md", "with consumer:  # start()", up_to="with consumer:")
    consumer = made["consumer"]
    with rocketmq_py.DefaultMQProducer("producers", namesrv_addr=server.namesrv_addr) as producer:
        replying = {"replying_producer": producer}
        listener = run_example("docs/README.md", "create_reply_message", producer=_Asks(), **replying)["consume"]
        consumer.subscribe(next(iter(consumer._subscriptions)), "*")
        consumer.register_message_listener(
            rocketmq_py.MessageListenerConcurrently(lambda msgs, context: _only_requests(listener, msgs, context))
        )
        with consumer:
            made = run_example(
                "docs/README.md", "create_reply_message", producer=producer, print=printed.print, **replying
            )
            assert made["reply"].body == b"4"
            assert eventually(lambda: [line[0].body for line in printed.lines] == [b"4"], 10)  # type: ignore[attr-defined]


class _Asks:
    """A producer that asks nothing: for the other half of the example."""

    def request(self, message: object, timeout_ms: int) -> None:
        pass

    def request_async(self, message: object, callback: object, timeout_ms: int) -> None:
        pass


def _only_requests(listener: Callable[..., Any], msgs: Any, context: Any) -> Any:
    requests = [msg for msg in msgs if msg.body == b"2 + 2"]
    return listener(requests, context)
