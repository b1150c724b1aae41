"""Fan-out under random interleavings: one thread, a seed decides what happens next while a listener call waits.

What can happen: a handler begins or ends, well or not; time passes; the listener is shut down; a further batch is
delivered, whose call then waits inside the first one's. Checked for every seed: the verdict is what the rule says,
nothing of a batch runs or begins once its verdict is given, no message is at work twice at once, the order of the
results is that of the ends, and the committed offset never passes a message that is neither done nor sent back.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from rocketmq_py.batch import FanOut, OnFailure, Outcome, OutcomeState, fan_out
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import MAX_ACK_INDEX, ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.testing import ManualRuntime
from tests.unit.support import GROUP, LATER, SUCCESS, Core, VirtualEvent, mq

INTERLEAVINGS = 20_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 1_000
POOL = 3
BATCH = 5
MESSAGES = 10


class OwnThreads:
    """A worker pool whose items begin when the world says so, and run inside of one another."""

    def __init__(self, world: World, run: Callable[[Any], None]) -> None:
        self._world = world
        self._run = run
        self._stopped = False

    def submit(self, item: Any) -> bool:
        return self.submit_all([item])

    def submit_all(self, items: Iterable[Any]) -> bool:
        if not self._stopped:
            self._world.waiting += [partial(self._run, item) for item in items]
        return not self._stopped

    def backlog(self) -> int:
        return len(self._world.waiting)

    def resize(self, size: int) -> None:
        raise NotImplementedError

    def shutdown(self, await_ms: int) -> bool:
        self._stopped = True
        self._world.waiting.clear()
        return True


class Executor:
    """An executor of the user's: futures begin and end when the world says so, in any order."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.stopped = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.stopped:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        (msg,) = args

        def begin() -> None:
            if future.set_running_or_notify_cancel():
                self._world.begin(msg)
                self._world.running.append((future, msg))

        self._world.waiting.append(begin)
        return future

    def shutdown(self) -> None:
        self.stopped = True


class World(ManualRuntime):
    """Everything that can happen, chosen by a seed."""

    def __init__(self, rule: OnFailure, seed: int, own_pool: bool) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.waiting: list[Callable[[], None]] = []
        self.running: list[tuple[Future[Any], MessageExt]] = []
        self.at_work: set[bytes] = set()
        self.attempts: Counter[bytes] = Counter()
        self.ended: list[tuple[int, bool]] = []  # offset, well or not
        self.shut_down = False
        self.problems: list[str] = []
        self.failure_rate = self.random.choice([0.0, 0.1, 0.5])
        self._executor = Executor(self)
        self._depth = 0
        self.fan: FanOut = fan_out(
            self._handle,
            POOL if own_pool else self._executor,
            rule,
            self.random.choice([None, 5, 50]),
            on_results=self._note_results,
            runtime=self,
        )
        self.results: list[Sequence[Outcome]] = []
        self.rule = rule
        self.core = Core(self._listen, consume_message_batch_max_size=BATCH, pull_batch_size=BATCH)

    # A runtime.

    def event(self) -> Any:
        return VirtualEvent(self.clock, lambda end_ms: self.step())

    def worker_pool(self, name: str, size: int, run: Callable[[Any], None]) -> Any:
        return OwnThreads(self, run)

    # What happens.

    def step(self) -> None:
        choices: list[Callable[[], None]] = [self._pass_time]
        if self.waiting and len(self.at_work) < POOL:
            choices += [self._begin_next] * 4
        if self.running:
            choices += [self._end_one] * 3
        if self.core.broker.pulls and self._depth < 3:
            choices.append(self._deliver)
        if not self.shut_down and self.random.random() < 0.05:
            choices.append(self._shut_down)
        self.random.choice(choices)()

    def _pass_time(self) -> None:
        self.manual_clock.advance(self.random.choice([1, 3, 10]))

    def _begin_next(self) -> None:
        self.waiting.pop(0)()

    def _end_one(self) -> None:
        future, msg = self.running.pop(self.random.randrange(len(self.running)))
        try:
            value = self._result(msg)
        except ValueError as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def _handle(self, msg: MessageExt) -> object:
        """The handler of a pool of its own: others begin and end while it is at work."""
        self.begin(msg)
        for _ in range(self.random.randrange(3)):
            self.step()
        return self._result(msg)

    def _deliver(self) -> None:
        self._depth += 1
        self.core.runtime.advance(1)
        self.core.broker.answer_pulls()
        self.check_window()
        self._depth -= 1

    def _shut_down(self) -> None:
        self.shut_down = True
        self._executor.shutdown()
        self.fan.shutdown()

    def begin(self, msg: MessageExt) -> None:
        if msg.body in self.at_work:
            self.problems.append(f"{msg.body!r} is at work twice")
        self.at_work.add(msg.body)
        self.attempts[msg.body] += 1

    def _result(self, msg: MessageExt) -> object:
        self.at_work.discard(msg.body)
        well = self.random.random() >= self.failure_rate or self.attempts[msg.body] > 3
        self.ended.append((msg.queue_offset, well))
        if not well and self.random.random() < 0.5:
            raise ValueError("on purpose")
        return None if well else self.random.choice([False, LATER])

    # What is checked.

    def _listen(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        offsets = [msg.queue_offset for msg in msgs]
        status = self.fan.consume_message(msgs, context)
        still = [msg.body for msg in msgs if msg.body in self.at_work]
        if still:
            self.problems.append(f"{still} are at work after the verdict")
        ends = [(offset, well) for offset, well in self.ended if offset in offsets]
        self._check_verdict(offsets, dict(ends), status, context)
        told = [
            (outcome.msg.queue_offset, outcome.state is OutcomeState.SUCCESS)
            for outcome in self.results[-1]
            if outcome.state is not OutcomeState.CANCELLED and not isinstance(outcome.error, RuntimeError)
        ]
        if told != ends:
            self.problems.append(f"results came in the order {ends}, told was {told}")
        return status

    def _note_results(self, outcomes: Sequence[Outcome]) -> None:
        self.results.append(outcomes)

    def _check_verdict(
        self,
        offsets: list[int],
        ended: dict[int, bool],
        status: ConsumeConcurrentlyStatus,
        context: ConsumeConcurrentlyContext,
    ) -> None:
        well = [ended.get(offset, False) for offset in offsets]
        again: list[int]
        if self.rule is OnFailure.BATCH:
            again = [] if all(well) else list(range(len(well)))
        elif self.rule is OnFailure.PREFIX:
            again = list(range([*well, False].index(False), len(well)))
        else:
            again = [index for index, good in enumerate(well) if not good]
        said = list(range(len(well)))
        if status is SUCCESS and context.failed_indexes is not None:
            said = sorted(context.failed_indexes)
        elif status is SUCCESS:
            said = [] if context.ack_index is MAX_ACK_INDEX else said[context.ack_index + 1 :]
        if said != again:
            self.problems.append(f"{well}: {said} come again instead of {again}")

    def check_window(self) -> None:
        committed = self.core.committed(mq())
        sent_back = {msg.queue_offset for msg, _ in self.core.broker.sent_back}
        done = {offset for offset, well in self.ended if well} | sent_back
        if committed and any(offset not in done for offset in range(committed)):
            self.problems.append(f"{committed} was committed, but only {sorted(done)} are done or sent back")

    def run(self) -> None:
        """Consume everything; what is sent back is delivered again until it succeeds."""
        self.core.begin()
        stored = MESSAGES
        self.core.broker.store(mq(), *[f"{number}".encode() for number in range(MESSAGES)])
        came_back = 0
        for _ in range(200):
            self.core.runtime.advance(1)
            self.core.broker.answer_pulls(2)
            self.check_window()
            again = [msg.body for msg, _ in self.core.broker.sent_back[came_back:]]
            came_back += len(again)
            if again:
                self._executor.stopped = False  # the user has made another one
                self.core.broker.store(mq(), *again)
                stored += len(again)
            elif self.core.committed(mq()) == stored:
                break
        for begin in self.waiting:  # what was given up does not begin any more
            begin()
        assert not self.running
        assert self.core.broker.offsets[GROUP, mq()] == stored
        assert self.problems == []


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Most of the time would go into tracebacks of failures made on purpose."""
    caplog.set_level(logging.CRITICAL, "rocketmq_py")


@pytest.mark.behaviour("FO-01", "FO-02", "FO-03", "FO-04", "FO-06")
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("own_pool", [True, False], ids=["own pool", "executor"])
@pytest.mark.parametrize("rule", OnFailure, ids=lambda rule: rule.value)
def test_random_interleavings_keep_the_rule_and_never_overlap(rule: OnFailure, own_pool: bool) -> None:
    cancelled = shut_down = again = 0
    for seed in range(INTERLEAVINGS // 2):
        world = World(rule, seed, own_pool)
        try:
            world.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        cancelled += sum(outcome.state is OutcomeState.CANCELLED for outcomes in world.results for outcome in outcomes)
        shut_down += world.shut_down
        again += len(world.core.broker.sent_back)
    assert min(cancelled, shut_down, again) > 50, "the interleavings are all alike"
