"""The official Python client at work, in a process of its own: ``python_client.py ENDPOINTS PREFIX``.

Topics and groups are named ``PREFIX-...`` and exist. What happened is told in lines of JSON, ``[what, ...]``; the last
line is ``["done"]``. The same program in Java: ``tests/java/GrpcClient.java``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from rocketmq import (
    ClientConfiguration,
    ConsumeResult,
    Credentials,
    FilterExpression,
    Message,
    MessageListener,
    Producer,
    PushConsumer,
    SimpleConsumer,
    TransactionChecker,
    TransactionResolution,
)

DELAY_S = 2
WAIT_S = 40

_telling = threading.Lock()


def tell(*words: object) -> None:
    with _telling:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()


class Listener(MessageListener):  # type: ignore[misc]
    """Tells every message; fails at those that say so, once or always."""

    def __init__(self, what: str, enough: Callable[[list[str]], bool]) -> None:
        self._what = what
        self._enough = enough
        self._bodies: list[str] = []
        self._lock = threading.Lock()
        self.ended = threading.Event()

    def consume(self, message: Any) -> Any:
        body = message.body.decode()
        with self._lock:
            tell(
                self._what, body, message.delivery_attempt, message.tag, sorted(message.keys or ()),
                dict(message.properties), message.message_group,
            )  # fmt: skip
            again = body in self._bodies
            self._bodies.append(body)
            if self._enough(self._bodies):
                self.ended.set()
        failed = body.endswith("always-fails") or (body.endswith("fails") and not again)
        return ConsumeResult.FAILURE if failed else ConsumeResult.SUCCESS


class Checker(TransactionChecker):  # type: ignore[misc]
    """Commits what was left open."""

    def check(self, message: Any) -> Any:
        tell("checked", message.body.decode())
        return TransactionResolution.COMMIT


class Client:
    """All that the program does; each part on a thread of its own."""

    def __init__(self, endpoints: str, prefix: str) -> None:
        self._configuration = ClientConfiguration(endpoints, Credentials())
        self._prefix = prefix
        self._producer = Producer(
            self._configuration,
            tuple(f"{prefix}-{kind}" for kind in ("normal", "simple", "fifo", "delay", "transaction")),
            checker=Checker(),
        )

    def run(self) -> None:
        self._producer.startup()
        parts = [self.push, self.simple, self.fifo, self.delay, self.transaction]
        threads = [threading.Thread(target=self._told, args=(part,), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _told(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception:  # noqa: BLE001 - told to the test
            tell("error", part.__name__, traceback.format_exc())

    def _message(self, kind: str, body: str, **more: Any) -> Any:
        message = Message()
        message.topic = f"{self._prefix}-{kind}"
        message.body = body.encode()
        for name, value in more.items():
            setattr(message, name, value)
        return message

    def _consume(
        self, kind: str, enough: Callable[[list[str]], bool], filter_expression: Any = None, what: str | None = None
    ) -> Listener:
        listener = Listener(what or kind, enough)
        consumer = PushConsumer(
            self._configuration,
            f"{self._prefix}-{kind}-group",
            listener,
            {f"{self._prefix}-{kind}": filter_expression or FilterExpression("*")},
        )
        consumer.startup()
        return listener

    def push(self) -> None:
        for number in range(20):
            message = self._message("normal", f"{number} fails" if number == 3 else str(number), keys="key")
            message.tag = "TagA" if number % 4 else "TagB"
            message.add_property("colour", "red")
            receipt = self._producer.send(message)
            assert receipt.message_id
        listener = self._consume("normal", lambda bodies: len(bodies) >= 16, FilterExpression("TagA"))
        assert listener.ended.wait(WAIT_S)

    def simple(self) -> None:
        consumer = SimpleConsumer(
            self._configuration, f"{self._prefix}-simple-group", {f"{self._prefix}-simple": FilterExpression("*")}, 5
        )
        consumer.startup()
        for body in ("acked", "nacked"):
            self._producer.send(self._message("simple", body))
        deadline = time.monotonic() + WAIT_S
        seen: list[str] = []
        while seen.count("nacked") < 2 and time.monotonic() < deadline:
            for message in consumer.receive(16, 20) or ():
                body = message.body.decode()
                seen.append(body)
                tell("simple", body, message.delivery_attempt)
                if body == "nacked" and message.delivery_attempt == 1:
                    consumer.change_invisible_duration(message, 1)
                else:
                    consumer.ack(message)
        consumer.shutdown()
        tell("simple-ended", sorted(seen))

    def fifo(self) -> None:
        for number in range(12):
            body = f"{number} {'always-fails' if number == 6 else 'fails' if number == 5 else ''}".strip()
            self._producer.send(self._message("fifo", body, message_group=f"group{number % 2}"))
        listener = self._consume("fifo", lambda bodies: len(set(bodies)) == 12)
        assert listener.ended.wait(WAIT_S)

    def delay(self) -> None:
        listener = self._consume("delay", lambda bodies: "delayed" in bodies)
        due_s = int(time.time()) + DELAY_S
        self._producer.send(self._message("delay", "delayed", delivery_timestamp=due_s))
        recalled = self._producer.send(self._message("delay", "recalled", delivery_timestamp=due_s + 1))
        self._producer.recall_message(f"{self._prefix}-delay", recalled.recall_handle)
        assert listener.ended.wait(WAIT_S)
        tell("delay-ms", round((time.time() - due_s) * 1_000))
        time.sleep(2)  # for the one that must not come

    def transaction(self) -> None:
        listener = self._consume("transaction", lambda bodies: {"committed", "left open"} <= set(bodies))
        for body in ("committed", "rolled back", "left open"):
            transaction = self._producer.begin_transaction()
            self._producer.send(self._message("transaction", body), transaction)
            if body == "committed":
                transaction.commit()
            elif body == "rolled back":
                transaction.rollback()
        assert listener.ended.wait(WAIT_S)


if __name__ == "__main__":
    Client(sys.argv[1], sys.argv[2]).run()
    tell("done")
    os._exit(0)  # its shutdown waits for its long polls
