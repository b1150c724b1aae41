"""A whole broker on a virtual clock, one thread, without sockets; the store is a real one."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rocketmq_py.broker.broker_controller import BrokerController, Dispatcher
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.model.delay_level import parse_delay_levels
from rocketmq_py.model.message import MessageExt, format_properties
from rocketmq_py.model.subscription import build_subscription_data
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_messages
from rocketmq_py.testing import ManualClock

TOPIC = "topic"
GROUP = "group"
LEVELS = "1s 5s 10s 30s"


class ManualLoop:
    """Runs jobs when the test says so. Work that blocks is done at once, its end is a job."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._jobs: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.hold_commits = False
        self._held: list[Callable[[], None]] = []

    def call_soon(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)

    def call_later(self, delay_ms: int, job: Callable[[], None]) -> None:
        self._timers.append((self._clock.monotonic_ms() + delay_ms, next(self._order), job))

    def run_blocking(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        def do() -> None:
            error: Exception | None = None
            try:
                work()
            except Exception as failure:  # noqa: BLE001 - as ServerLoop does
                error = failure
            done(error)

        if self.hold_commits:
            self._held.append(do)
        else:
            self._jobs.append(do)

    def end_commit(self) -> None:
        """Let one commit that was held end, and run what follows."""
        self._jobs.append(self._held.pop(0))
        self.run()

    def run(self) -> None:
        """Run everything that is to be run now."""
        while self._jobs:
            self._jobs.popleft()()

    def turn(self) -> int:
        """Run what is to be run now, not what follows from it; how many jobs that were."""
        count = len(self._jobs)
        for _ in range(count):
            self._jobs.popleft()()
        return count

    def advance(self, ms: int) -> None:
        """Let time pass, timer by timer."""
        end = self._clock.monotonic_ms() + ms
        self.run()
        while self._timers and min(self._timers)[0] <= end:
            timer = min(self._timers)
            self._timers.remove(timer)
            self._clock.advance(max(timer[0] - self._clock.monotonic_ms(), 0))
            timer[2]()
            self.run()
        self._clock.advance(end - self._clock.monotonic_ms())


class Client:
    """A client's connection, as the broker's ``Channel``; keeps what was written to it."""

    def __init__(self, rig: Rig, port: int) -> None:
        self._rig = rig
        self.remote_address = f"10.0.0.1:{port}"
        self.remote_host = bytes([10, 0, 0, 1, 0, 0]) + port.to_bytes(2, "big")
        self.written: list[RemotingCommand] = []
        self.closed = False
        self._opaque = itertools.count(1)

    def write(self, command: RemotingCommand) -> None:
        self.written.append(command)

    def close(self) -> None:
        self.closed = True

    def begin(
        self, code: int, fields: Mapping[str, object] | None = None, body: bytes = b"", *, flag: int = 0,
        to: Dispatcher | None = None,
    ) -> int:  # fmt: skip
        """Send a request; its opaque."""
        opaque = next(self._opaque)
        texts = {name: str(value) for name, value in (fields or {}).items()}
        (to or self._rig.controller).on_request(self, RemotingCommand(code, opaque, flag, None, texts, body))
        return opaque

    def answer(self, opaque: int) -> RemotingCommand | None:
        """The answer that came, if one did."""
        return next((each for each in self.written if each.is_response and each.opaque == opaque), None)

    def ask(
        self, code: int, fields: Mapping[str, object] | None = None, body: bytes = b"", *, to: Dispatcher | None = None
    ) -> RemotingCommand:
        """Send a request and get the answer, which must come without time passing."""
        opaque = self.begin(code, fields, body, to=to)
        self._rig.loop.run()
        answer = self.answer(opaque)
        assert answer is not None, f"no answer to {code}"
        return answer

    def respond(self, request: RemotingCommand, code: int = 0, body: bytes = b"", remark: str | None = None) -> None:
        """Answer a request that the broker made."""
        answer = RemotingCommand.response(request.opaque, code, remark)
        answer.body = body
        self._rig.controller.on_request(self, answer)
        self._rig.loop.run()

    def pushed(self, code: int) -> list[RemotingCommand]:
        """Requests that the broker made."""
        return [each for each in self.written if not each.is_response and each.code == code]

    # What tests ask for often.

    def produce_as(self, client_id: str, *groups: str) -> None:
        """A heartbeat of a producer."""
        assert self.ask(34, body=bodies.encode_heartbeat(client_id, groups, [])).code == 0

    def send(self, body: bytes = b"body", topic: str = TOPIC, queue_id: int = 0, **more: Any) -> RemotingCommand:
        properties = format_properties(more.pop("properties", {"UNIQ_KEY": "id"}))
        fields = {
            "a": "producers", "b": topic, "c": "TBW102", "d": 4, "e": queue_id, "f": 0, "g": 1, "h": 0,
            "i": properties, **more,
        }  # fmt: skip
        return self.ask(310, fields, body)

    def pull_fields(self, offset: int = 0, topic: str = TOPIC, queue_id: int = 0, **more: object) -> dict[str, object]:
        return {
            "consumerGroup": GROUP, "topic": topic, "queueId": queue_id, "queueOffset": offset, "maxMsgNums": 32,
            "sysFlag": 0, "commitOffset": 0, "suspendTimeoutMillis": 15_000, "subVersion": 0, **more,
        }  # fmt: skip

    def pull(self, offset: int = 0, topic: str = TOPIC, queue_id: int = 0, **more: object) -> RemotingCommand:
        return self.ask(11, self.pull_fields(offset, topic, queue_id, **more))

    def heartbeat(
        self, client_id: str = "client", group: str = GROUP, model: str = "CLUSTERING", **topics: str
    ) -> RemotingCommand:
        version = next(self._rig.versions)
        wanted = [
            build_subscription_data(topic, expression, version)
            for topic, expression in (topics or {TOPIC: "*"}).items()
        ]
        data = bodies.ConsumerData(group, "CONSUME_FROM_LAST_OFFSET", wanted, message_model=model)
        return self.ask(34, body=bodies.encode_heartbeat(client_id, [], [data]))


class Rig:
    """The broker, its loop and clock, and its clients."""

    def __init__(
        self, directory: Path, levels: str = LEVELS, *, vfs: str | None = None, clock: ManualClock | None = None,
        synchronous: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        self.clock = clock or ManualClock()
        self.loop = ManualLoop(self.clock)
        self.directory = directory
        self._levels = levels
        self._vfs = vfs
        self._synchronous = synchronous
        self._options = options
        self._ports = itertools.count(50_000)
        self.versions = itertools.count(1)
        self.open()

    def open(self) -> None:
        self.store = MessageStore(self.directory, synchronous=self._synchronous, vfs=self._vfs)
        self.controller = BrokerController(
            store=self.store, loop=self.loop, clock=self.clock, host="127.0.0.1", port=10_911,
            delay_levels_ms=parse_delay_levels(self._levels), **self._options,
        )  # fmt: skip
        self.controller.start()

    def reopen(self) -> None:
        """End in good order and start again."""
        self.controller.when_stored(lambda: None)
        self.loop.run()
        self.crash()

    def crash(self) -> None:
        """End without a word, and start again."""
        self.close()
        self.loop.__init__(self.clock)  # type: ignore[misc] # what the last run had planned is gone with it
        self.open()

    def close(self) -> None:
        self.store.close()

    def client(self) -> Client:
        return Client(self, next(self._ports))

    def create_topic(self, topic: str = TOPIC, queues: int = 1, perm: int = 6) -> None:
        fields = {
            "topic": topic, "readQueueNums": queues, "writeQueueNums": queues, "perm": perm,
            "topicFilterType": "SINGLE_TAG", "defaultTopic": "TBW102",
        }  # fmt: skip
        assert self.client().ask(17, fields).code == 0


def messages(answer: RemotingCommand) -> list[MessageExt]:
    return decode_messages(answer.body)


def found(answer: RemotingCommand) -> tuple[int, list[bytes], int]:
    """Code, bodies and where to go on."""
    return answer.code, [msg.body for msg in messages(answer)], int(answer.ext_fields["nextBeginOffset"])


def body_of(answer: RemotingCommand) -> Any:
    assert answer.code == 0, answer
    return json.loads(answer.body)
