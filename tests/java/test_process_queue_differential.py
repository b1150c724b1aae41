"""The same operations into upstream's own ProcessQueue and ours: every answer and every state must be the same.

Operations are the commands of ProcessQueueDriver.java. Sequences are random but seeded: a failure names its seed and
shows the shortest sequence found that still differs. ``ROCKETMQ_PY_FULL=1`` runs a hundred times as many.
"""

from __future__ import annotations

import functools
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping

import pytest

from rocketmq_py.consumer.consume_message_concurrently_service import ConsumeMessageConcurrentlyService
from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.offset_store import RemoteBrokerOffsetStore
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import FakeBroker, ManualRuntime
from tests.java.process_queue_java import JavaProcessQueue

SEQUENCES = 20_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 210
LENGTH = 60

OFFSETS = range(24)
SIZES = (0, 1, 10, 100)
#: never within seconds of a limit (30 s, 60 s, 120 s), because upstream reads the machine's clock
ADVANCES_MS = (25_000, 50_000, 75_000)
CONSUME_TIMEOUT_MINUTES = 1


@pytest.fixture(scope="module")
def java_queue(java: None) -> Iterator[JavaProcessQueue]:
    with JavaProcessQueue() as queue:
        yield queue


class _Broker(FakeBroker):
    """Takes messages back, except those told to fail, and then fails the second way too, as in the driver."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[int] = []
        self.failing_offsets: set[int] = set()

    def send_message_back(
        self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
    ) -> None:
        assert delay_level == 3
        self.tried.append(msg.queue_offset)
        if msg.queue_offset in self.failing_offsets:
            raise RocketMQError("told to fail")

    def send_retry_message(self, topic: str, body: bytes, flag: int, properties: Mapping[str, str]) -> None:
        raise RocketMQError("told to fail")


class OurProcessQueue:
    """Our ProcessQueue, and the expiry sweep over it, behind the driver's commands and answers."""

    def __init__(self) -> None:
        self._runtime = ManualRuntime()
        self._broker = _Broker()
        self._queue = ProcessQueue(clock=self._runtime.clock)
        self._put: dict[int, MessageExt] = {}

    @functools.cached_property
    def _service(self) -> ConsumeMessageConcurrentlyService:
        warnings = RateLimitedLog(self._runtime.clock, logging.getLogger(__name__))
        return ConsumeMessageConcurrentlyService(
            group="group",
            config=ConsumerConfig(consume_timeout=CONSUME_TIMEOUT_MINUTES),
            listener=lambda msgs, context: None,
            runtime=self._runtime,
            offset_store=RemoteBrokerOffsetStore("group", self._broker, warnings),
            send_back=SendMessageBack("group", 16, self._broker, warnings),
            hooks=[],
            counters=ConsumerCounters(),
            stats=GroupStats("group"),
            windows=lambda: [(MessageQueue("t", "b", 0), self._queue)],
        )

    def run(self, command: str) -> str:
        name, *words = command.split(" ")
        queue = self._queue
        match name:
            case "put":
                msgs = _messages(words)
                self._put |= {msg.queue_offset: msg for msg in msgs}
                return _text(queue.put_message(msgs))
            case "remove":
                return _text(queue.remove_message(_messages(words)))
            case "take":
                return _offsets(queue.take_messages(int(words[0])))
            case "commit":
                return _text(queue.commit())
            case "rollback":
                queue.rollback()
            case "again":
                queue.make_message_to_consume_again(_messages(words))
            case "hasTemp":
                return _text(queue.has_temp_message())
            case "contains":
                return _text(queue.contains_message(_messages(words)[0]))
            case "clear":
                queue.clear()
            case "begin":
                asked = {msg.queue_offset for msg in _messages(words)}
                queue.begin_consume([self._put[offset] for offset in queue.offsets()[0] if offset in asked])
            case "fail":
                self._broker.failing_offsets = {message.queue_offset for message in _messages(words)}
            case "clean":
                self._broker.tried.clear()
                self._service.clean_expired_messages()
                return ",".join(map(str, self._broker.tried))
            case "advance":
                self._runtime.advance(int(words[0]))
            case "touchLock":
                queue.last_lock_timestamp = self._runtime.clock.monotonic_ms()
            case "touchPull":
                queue.last_pull_timestamp = self._runtime.clock.monotonic_ms()
            case "lockExpired":
                return _text(queue.is_lock_expired)
            case "pullExpired":
                return _text(queue.is_pull_expired)
            case _:
                raise ValueError(command)
        return "ok"

    def state(self) -> str:
        queue = self._queue
        waiting, taken = queue.offsets()
        numbers = f"{queue.msg_count} {queue.msg_size} {queue.msg_acc_cnt} {queue.max_span} {_text(queue.consuming)}"
        return f"{numbers} | {','.join(map(str, waiting))} | {','.join(map(str, taken))}"


def _messages(words: list[str]) -> list[MessageExt]:
    messages = []
    for word in words:
        offset, size, backlog = [*word.split(":"), "", ""][:3]
        properties = {"MAX_OFFSET": backlog} if backlog else None
        body = b"x" * int(size or 0)
        messages.append(MessageExt(topic="t", body=body, queue_offset=int(offset), properties=properties))
    return messages


def _offsets(messages: list[MessageExt]) -> str:
    return ",".join(str(message.queue_offset) for message in messages)


def _text(value: bool | int) -> str:
    return str(value).lower()


# ---------------------------------------------------------------- making sequences


def _pulled(rng: random.Random) -> str:
    """Mostly what a broker sends, an ascending run; sometimes anything."""
    if rng.random() < 0.7:
        first = rng.choice(OFFSETS)
        offsets = list(range(first, first + rng.randrange(5)))
    else:
        offsets = rng.choices(OFFSETS, k=rng.randrange(5))
    words = [f"{offset}:{rng.choice(SIZES)}" for offset in offsets]
    if words and rng.random() < 0.6:
        words[-1] += f":{offsets[-1] + rng.randrange(-3, 12)}"
    return " ".join(["put", *words])


def _some(name: str) -> Callable[[random.Random], str]:
    def make(rng: random.Random) -> str:
        words = [f"{rng.choice(OFFSETS)}:{rng.choice(SIZES)}" for _ in range(rng.randrange(5))]
        return " ".join([name, *words])

    return make


def _lowest(rng: random.Random) -> str:
    """Remove a run of low offsets, so that windows become empty."""
    first = rng.randrange(4)
    return " ".join(["remove", *(f"{offset}:10" for offset in range(first, first + rng.randrange(24)))])


def _just(name: str) -> Callable[[random.Random], str]:
    return lambda _: name


_ALWAYS: list[Callable[[random.Random], str]] = [
    *[_pulled] * 6,
    _just("hasTemp"),
    lambda rng: f"contains {rng.choice(OFFSETS)}",
    lambda rng: "clear" if rng.random() < 0.3 else "hasTemp",
    lambda rng: f"advance {rng.choice(ADVANCES_MS)}",
    _just("touchLock"),
    _just("touchPull"),
    _just("lockExpired"),
    _just("pullExpired"),
]
_REMOVING: list[Callable[[random.Random], str]] = [*[_some("remove")] * 5, _lowest]
_EXPIRING: list[Callable[[random.Random], str]] = [
    *[_some("begin")] * 4,
    lambda rng: " ".join(["begin", *map(str, OFFSETS)]) if rng.random() < 0.5 else "hasTemp",
    _some("fail"),
    _just("fail"),
    *[_just(f"clean {CONSUME_TIMEOUT_MINUTES}")] * 3,
]
_ORDERLY: list[Callable[[random.Random], str]] = [
    *[lambda rng: f"take {rng.randrange(6)}"] * 4,
    *[_just("commit")] * 3,
    _just("rollback"),
    *[_some("again")] * 2,
]
#: concurrent consumption, orderly consumption, and everything at once as no consumer does it (without start times,
#: which ours forgets with the concurrent operations only)
KINDS = {
    "concurrently": _ALWAYS + _REMOVING + _EXPIRING,
    "orderly": _ALWAYS + _ORDERLY,
    "mixed": _ALWAYS + _REMOVING + _ORDERLY,
}


# ---------------------------------------------------------------- comparing


def _first_difference(commands: list[str], java_queue: JavaProcessQueue) -> tuple[int, str] | None:
    """Run a sequence on both; where they part, and how."""
    script = ["new"]
    for command in commands:
        script += [command, "state"]
    answers = java_queue.run(script)[1:]
    ours = OurProcessQueue()
    failing: set[str] = set()
    for index, command in enumerate(commands):
        answer = _expected(command, answers[2 * index], failing)
        our_answer = ours.run(command)
        state = _without_maximum(answers[2 * index + 1])
        our_state = ours.state()
        if (answer, state) != (our_answer, our_state):
            return index, f"Java: {answer!r}, then {state}\nours: {our_answer!r}, then {our_state}"
    return None


def _expected(command: str, answer: str, failing: set[str]) -> str:
    """Java's answer, but for the two stated deviations."""
    if command == "commit" and answer == "!NoSuchElementException":
        return "-1"
    if command.startswith("fail"):
        failing.clear()
        failing.update(word.split(":")[0] for word in command.split(" ")[1:])
    if command.startswith("clean"):
        # Java tries a message that cannot be sent back again and again, up to 16 times; ours waits for the next sweep
        tried = answer.split(",")
        for index, offset in enumerate(tried):
            if offset in failing:
                return ",".join(tried[: index + 1])
    return answer


def _without_maximum(state: str) -> str:
    """Java's state without queueOffsetMax, which ours shows only in what ``remove_message`` returns."""
    numbers, offsets = state.split(" |", 1)
    return f"{numbers.rsplit(' ', 1)[0]} |{offsets}"


def _shortest(commands: list[str], differs: Callable[[list[str]], bool]) -> list[str]:
    """Leave out every command that is not needed for the difference."""
    index = 0
    while index < len(commands):
        fewer = commands[:index] + commands[index + 1 :]
        if differs(fewer):
            commands = fewer
        else:
            index += 1
    return commands


def _check(commands: list[str], java_queue: JavaProcessQueue, name: str) -> None:
    found = _first_difference(commands, java_queue)
    if found is None:
        return
    commands = _shortest(commands[: found[0] + 1], lambda fewer: _first_difference(fewer, java_queue) is not None)
    found = _first_difference(commands, java_queue)
    how = found[1] if found else "nothing: not repeatable"
    pytest.fail("\n".join([f"{name} differs after", *commands, how]), pytrace=False)


@pytest.mark.parametrize("kind", KINDS)
def test_random_sequences(kind: str, java_queue: JavaProcessQueue) -> None:
    for seed in range(-(-SEQUENCES // len(KINDS))):
        rng = random.Random(f"{kind} {seed}")
        commands = [rng.choice(KINDS[kind])(rng) for _ in range(LENGTH)]
        _check(commands, java_queue, f"{kind} {seed}")


_TWENTY = " ".join(map(str, range(20)))


@pytest.mark.parametrize(
    "commands",
    [
        "put|put 3|remove 3|remove 3|put",
        "put 0 1 2 3 4 5 6 7 8 9|remove 3|remove 0 1 2|remove 4 5 6 7 8 9",
        "put 10:5|put 5:7|remove 10 5",
        "put 10:5|put 5:7|remove 10:5|remove 5:7",
        "put 1:10|put 1:30|remove 1:30|put 2:5 3:5|remove 2:99|remove 3:5",
        "put 1:1:2|put 2:1:2|put 3:1:9|clear|put 4:1:1",
        "put 1 2 3|take 2|put 4|commit|commit|take 9|commit|take 1|put 5",
        "put 1:10 2:20 3:30|take 2|again 1:10|rollback|take 3|commit|commit",
        "put 1:10 2:20|take 1|again 7:5|commit|take 5|clear|commit",
        "put 1 2 3|begin 1 3|advance 75000|clean 1|clean 1",
        "put 1 2 3|begin 1 2 3|fail 2|advance 75000|clean 1|fail|clean 1",
        "put 1 2|begin 1|put 1|advance 75000|clean 1",
        f"put {_TWENTY}|begin {_TWENTY}|advance 75000|clean 1|clean 1",
        "lockExpired|pullExpired|advance 50000|lockExpired|pullExpired|touchLock|lockExpired|advance 75000|pullExpired",
    ],
)  # fmt: skip
def test_known_corners(commands: str, java_queue: JavaProcessQueue) -> None:
    _check(commands.split("|"), java_queue, "this corner")


def test_orderly_consumer_is_not_swept(java_queue: JavaProcessQueue) -> None:
    answers = java_queue.run(["new", "put 1", "begin 1", "advance 75000", "clean 1 orderly", "clean 1"])
    assert answers[-2:] == ["", "1"]
