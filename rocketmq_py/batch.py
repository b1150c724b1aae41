"""A listener that hands each message of a batch to a pool and looks at the results in the order of their completion.

Its verdict is given when no handler of the batch runs any more and none will begin: what comes again never overlaps
what is still at work.

The way of a message here: ``consume_message`` (consume thread) -> pool -> handler (pool thread) ->
``_Batch`` -> ``verdict`` (consume thread).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import BrokenExecutor
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.config import check_range
from rocketmq_py.model.listener import MessageListenerConcurrently
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Event, Mutex, Runtime, ThreadRuntime, WorkerPool

POOL_SIZE = 64
"""Threads of a pool of its own, unless told otherwise."""
POOL_SIZE_MAX = 1_000

TIMEOUT_MAX_MS = 2**31 - 1

_WAIT_MS = 60_000
"""How long one wait for results may last; then it waits again. What ends it is always told."""

_log = logging.getLogger(__name__)


class OnFailure(Enum):
    """What comes again when messages of a batch fail.

    BATCH: all of it; at the first failure what has not begun is given up. PREFIX: all from the first failed message on,
    by place in the batch; what has not begun behind it is given up. EACH: the failed messages alone.
    """

    BATCH = "batch"
    PREFIX = "prefix"
    EACH = "each"


class OutcomeState(Enum):
    """How a message's turn ended."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Outcome(NamedTuple):
    """One message's result.

    Attributes:
        place: its index in the batch.
        msg: the message.
        state: CANCELLED: its handler never began.
        value: what the handler returned.
        error: what it raised, or what the executor did; None.
    """

    place: int
    msg: MessageExt
    state: OutcomeState
    value: object = None
    error: BaseException | None = None


class Executor(Protocol):
    """What is needed of a ``concurrent.futures.Executor``: ``submit(handler, msg)``, which answers a ``Future``."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See ``concurrent.futures.Executor.submit``."""
        ...


Handler = Callable[[MessageExt], object]
OnResults = Callable[[Sequence[Outcome]], object]


def fan_out(
    handler: Handler,
    pool: Executor | int | None = None,
    on_failure: OnFailure | str = OnFailure.BATCH,
    timeout_ms: int | None = None,
    *,
    on_results: OnResults | None = None,
    runtime: Runtime | None = None,
) -> FanOut:
    """Make a listener that consumes the messages of a batch at the same time.

    A handler fails by raising, or by returning False or RECONSUME_LATER. Anything else it returns is success, None too.

    Args:
        handler: called with one message, on a thread of the pool.
        pool: threads of a pool of its own, 1 to 1,000; None: 64 of them. Or an executor of yours, which stays yours to
            shut down. A pool of its own ends when the last consumer that uses the listener has ended.
        on_failure: ``batch``, ``prefix`` or ``each``, see ``OnFailure``.
        timeout_ms: from the listener's call on; then no further handler is begun, and what has not begun counts as
            failed. What runs is waited for and counts as it ends: Python can stop no thread. None: no limit.
        on_results: called on the consume thread with the outcomes of a batch, in the order in which they came, before
            its verdict is given. Its errors are logged and change nothing.
        runtime: maker of threads and waits.

    Raises:
        ConfigError: an argument is none of these, or the handler is a coroutine function or takes other arguments.

    Source: not in Java.
    """
    return FanOut(handler, pool, on_failure, timeout_ms, on_results=on_results, runtime=runtime)


class FanOut(MessageListenerConcurrently):
    """See ``fan_out``. Called on many consume threads at once, each with a batch of its own.

    At most consume threads x batch size messages wait for the pool.
    """

    def __init__(
        self,
        handler: Handler,
        pool: Executor | int | None = None,
        on_failure: OnFailure | str = OnFailure.BATCH,
        timeout_ms: int | None = None,
        *,
        on_results: OnResults | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__()
        _check_handler(handler)
        try:
            self._on_failure = OnFailure(on_failure)
        except ValueError:
            rules = ", ".join(rule.value for rule in OnFailure)
            raise ConfigError(f"on_failure is one of {rules}, not {on_failure!r}") from None
        if timeout_ms is not None:
            check_range("timeout_ms", timeout_ms, 1, TIMEOUT_MAX_MS)
        if on_results is not None and not callable(on_results):
            raise ConfigError(f"on_results is called with the outcomes of a batch, {on_results!r} cannot be called")
        self._handler = handler
        self._timeout_ms = timeout_ms
        self._on_results = on_results
        self._runtime = runtime or ThreadRuntime()
        self._warnings = RateLimitedLog(self._runtime.clock, _log, interval_ms=1_000)
        self._pool_warnings = RateLimitedLog(self._runtime.clock, _log)
        self._pool = _pool(pool, handler, self._runtime)
        self._lock = Mutex()  # guards the two below
        self._consumers = 0
        self._batches: set[_Batch] = set()

    def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        """Have every message handled, and answer by the rule. Behaviour: FO-01 to FO-05."""
        if not isinstance(context, ConsumeConcurrentlyContext):
            raise ConfigError("fan_out keeps no order: it cannot be called by an orderly listener")
        batch = _Batch(msgs, self._on_failure, self._runtime.event(), self._pool)
        with self._lock:
            self._batches.add(batch)
        try:
            self._pool.submit(batch)
            outcomes = self._wait(batch)
        except BaseException:
            batch.give_up()
            raise
        finally:
            with self._lock:
                self._batches.discard(batch)
        self._report(batch, context)
        return verdict(self._on_failure, outcomes, context)

    def _wait(self, batch: _Batch) -> Sequence[Outcome]:
        """Wait until every message has an outcome."""
        now_ms, timeout_ms = self._runtime.clock.monotonic_ms, self._timeout_ms
        deadline_ms = None if timeout_ms is None else now_ms() + timeout_ms
        while not batch.is_done:
            if deadline_ms is not None and now_ms() >= deadline_ms:
                batch.give_up()
                deadline_ms = None
            elif not batch.changed.wait(_WAIT_MS if deadline_ms is None else min(deadline_ms - now_ms(), _WAIT_MS)):
                continue
            batch.cancel_what_is_pointless()
        return batch.outcomes

    def _report(self, batch: _Batch, context: ConsumeConcurrentlyContext) -> None:
        outcomes = batch.outcomes
        for outcome in outcomes:
            if outcome.place in batch.failed_by_pool:
                self._pool_warnings.warning(
                    "pool",
                    "the pool given to fan_out is broken or shut down (%r): messages fail without their handler, come "
                    "again later, and are dead after max_reconsume_times. Shut this consumer down and start one with a "
                    "new pool; a pool is shut down after its consumers only",
                    outcome.error,
                )
            elif outcome.error is not None:
                self._warnings.warning(
                    type(outcome.error),
                    "the handler failed with %r for message %s of %s",
                    outcome.error, outcome.msg.msg_id, context.message_queue, with_traceback=outcome.error,
                )  # fmt: skip
        if self._on_results is not None:
            try:
                self._on_results(outcomes)
            except Exception:  # noqa: BLE001 - border: the user's function
                _log.exception("on_results failed; the verdict stays what it is")

    def consumer_started(self) -> None:
        """See ``MessageListener.consumer_started``."""
        with self._lock:
            self._consumers += 1

    def consumer_stopped(self) -> None:
        """See ``MessageListener.consumer_stopped``: with the last consumer ``shutdown``."""
        with self._lock:
            self._consumers -= 1
            last = self._consumers <= 0
        if last:
            self.shutdown()

    def shutdown(self) -> None:
        """Begin no handler any more for the batches under way, and end a pool of its own. What runs ends by itself.

        May be called twice, and from a handler. A later call of the listener has a new pool. Behaviour: FO-06.
        """
        self._pool.shutdown()
        # After it: what the pool has forgotten must not be waited for.
        with self._lock:
            batches = list(self._batches)
        for batch in batches:
            batch.give_up()


def verdict(
    rule: OnFailure, outcomes: Collection[Outcome], context: ConsumeConcurrentlyContext
) -> ConsumeConcurrentlyStatus:
    """What a batch's listener answers; ``prefix`` and ``each`` say the rest by the context."""
    failed = sorted(outcome.place for outcome in outcomes if outcome.state is not OutcomeState.SUCCESS)
    if not failed:
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS
    none_is_done = failed[0] == 0 if rule is OnFailure.PREFIX else len(failed) == len(outcomes)
    if rule is OnFailure.BATCH or none_is_done:
        return ConsumeConcurrentlyStatus.RECONSUME_LATER
    if rule is OnFailure.PREFIX:
        context.ack_index = failed[0] - 1
    else:
        context.failed_indexes = frozenset(failed)
    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS


class _Batch:
    """The messages of one listener call: who waits, who runs, what came. Any thread.

    Attributes:
        outcomes: in the order in which they came; whole once ``is_done``.
        changed: raised when the consume thread must look: the last outcome came, or one that makes others pointless.
        failed_by_pool: places of messages that the pool itself failed, not their handlers.
    """

    def __init__(self, msgs: Messages, rule: OnFailure, changed: Event, pool: _Pool) -> None:
        self.msgs = msgs
        self.outcomes: list[Outcome] = []
        self.changed = changed
        self.failed_by_pool: set[int] = set()
        self._rule = rule
        self._pool = pool
        self._size = len(msgs)
        self._lock = Mutex()  # guards everything here
        self._begun = [False] * self._size
        self._given_up_from = self._size
        self._first_failed = self._size

    @property
    def is_done(self) -> bool:
        """Whether every message has an outcome: nothing runs, nothing will begin."""
        with self._lock:
            return len(self.outcomes) == self._size

    def begin(self, index: int) -> bool:
        """Take a message's turn; False when it has been given up."""
        with self._lock:
            begun, self._begun[index] = self._begun[index], True
            return not begun

    def end(self, outcome: Outcome, *, failed_by_pool: bool = False) -> None:
        """Note an outcome. Hot: once per message."""
        wakes = False
        with self._lock:
            if failed_by_pool:
                self.failed_by_pool.add(outcome.place)
            self.outcomes.append(outcome)
            if outcome.state is not OutcomeState.SUCCESS and outcome.place < self._first_failed:
                self._first_failed = outcome.place
                wakes = self._rule is not OnFailure.EACH
            wakes = wakes or len(self.outcomes) == self._size
        if wakes:
            self.changed.set()

    def cancel_what_is_pointless(self) -> None:
        """Give up what would come again whatever its handler does."""
        self.changed.clear()
        with self._lock:
            failed = self._first_failed
            done = len(self.outcomes) == self._size
        if failed < self._size and not done and self._rule is not OnFailure.EACH:
            self.give_up(0 if self._rule is OnFailure.BATCH else failed + 1)

    def give_up(self, above: int = 0) -> None:
        """Cancel messages from this place on whose handlers have not begun."""
        with self._lock:
            self._given_up_from = min(above, self._given_up_from)
        self._pool.cancel(self, above)

    def is_given_up(self, index: int) -> bool:
        """Whether a message is not to be begun any more."""
        with self._lock:
            return index >= self._given_up_from

    def cancel(self, index: int) -> None:
        """Cancel one message, if its handler has not begun."""
        if self.begin(index):
            self.end(Outcome(index, self.msgs[index], OutcomeState.CANCELLED))


class _Pool(Protocol):
    def submit(self, batch: _Batch) -> None:
        """Have every message handled; each has exactly one outcome, sooner or later."""
        ...

    def cancel(self, batch: _Batch, above: int) -> None:
        """Cancel messages from this place on whose handlers have not begun."""
        ...

    def shutdown(self) -> None:
        """End what is ours."""
        ...


class _OwnPool:
    """Threads of our own: a hand-over costs a fiftieth of what an executor's future does."""

    def __init__(self, size: int, handler: Handler, runtime: Runtime) -> None:
        self._size = size
        self._handler = handler
        self._runtime = runtime
        self._lock = Mutex()  # guards the workers
        self._workers: WorkerPool[tuple[_Batch, int]] | None = None

    def submit(self, batch: _Batch) -> None:
        with self._lock:
            if self._workers is None:
                self._workers = self._runtime.worker_pool("FanOutThread_", self._size, self._run)
            workers = self._workers
        if not workers.submit_all([(batch, index) for index in range(len(batch.msgs))]):
            self.cancel(batch, 0)

    def _run(self, task: tuple[_Batch, int]) -> None:
        batch, index = task
        if not batch.begin(index):
            return
        msg = batch.msgs[index]
        try:
            value = self._handler(msg)
        except BaseException as error:  # noqa: BLE001 - border: whatever the user's code raises means "failed"
            batch.end(Outcome(index, msg, OutcomeState.FAILED, error=error))
        else:
            batch.end(_ended(index, msg, value))

    def cancel(self, batch: _Batch, above: int) -> None:
        for index in range(above, len(batch.msgs)):
            batch.cancel(index)

    def shutdown(self) -> None:
        with self._lock:
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown(0)


class _YourExecutor:
    """An executor that the user gave: of threads, of processes, or of another kind."""

    def __init__(self, executor: Executor, handler: Handler) -> None:
        self._executor = executor
        self._handler = handler
        self._lock = Mutex()  # guards the futures
        self._futures: dict[_Batch, list[tuple[int, Any]]] = {}

    def submit(self, batch: _Batch) -> None:
        futures: list[tuple[int, Any]] = []
        with self._lock:
            self._futures[batch] = futures
        for index, msg in enumerate(batch.msgs):
            try:
                future = self._executor.submit(self._handler, msg)
            except BaseException as error:  # noqa: BLE001 - border: one that was shut down, say; others run already
                self._end(batch, Outcome(index, msg, OutcomeState.FAILED, error=error), failed_by_pool=True)
            else:
                with self._lock:
                    futures.append((index, future))
                future.add_done_callback(partial(self._on_done, batch, index))
                if batch.is_given_up(index):  # while it was being submitted
                    future.cancel()

    def _on_done(self, batch: _Batch, index: int, future: Any) -> None:
        msg = batch.msgs[index]
        broken = False
        if future.cancelled():
            outcome = Outcome(index, msg, OutcomeState.CANCELLED)
        elif (error := future.exception()) is not None:
            outcome = Outcome(index, msg, OutcomeState.FAILED, error=error)
            # What a handler raises, because a pool of its own is broken, has a traceback.
            broken = isinstance(error, BrokenExecutor) and error.__traceback__ is None
        else:
            outcome = _ended(index, msg, future.result())
        self._end(batch, outcome, failed_by_pool=broken)

    def _end(self, batch: _Batch, outcome: Outcome, *, failed_by_pool: bool) -> None:
        batch.end(outcome, failed_by_pool=failed_by_pool)
        if batch.is_done:
            with self._lock:
                self._futures.pop(batch, None)

    def cancel(self, batch: _Batch, above: int) -> None:
        with self._lock:
            futures = list(self._futures.get(batch, ()))
        for index, future in futures:
            if index >= above:
                future.cancel()

    def shutdown(self) -> None:
        """It is not ours."""


def _pool(pool: object, handler: Handler, runtime: Runtime) -> _Pool:
    if pool is None or isinstance(pool, int):
        size = POOL_SIZE if pool is None else pool
        check_range("pool", size, 1, POOL_SIZE_MAX)
        return _OwnPool(size, handler, runtime)
    if isinstance(pool, type) or not callable(getattr(pool, "submit", None)):
        raise ConfigError(f"pool is a number of threads, or an executor with submit(), not {pool!r}")
    return _YourExecutor(cast("Executor", pool), handler)


def _ended(index: int, msg: MessageExt, value: object) -> Outcome:
    """A handler returned. A coroutine has done nothing yet: it fails."""
    if value is False or value is ConsumeConcurrentlyStatus.RECONSUME_LATER:
        return Outcome(index, msg, OutcomeState.FAILED, value)
    if inspect.iscoroutine(value):
        value.close()
        error = ConfigError(
            "the handler returned a coroutine, which nobody awaits: it must be a plain, blocking function"
        )
        return Outcome(index, msg, OutcomeState.FAILED, error=error)
    return Outcome(index, msg, OutcomeState.SUCCESS, value)


def _check_handler(handler: object) -> None:
    if not callable(handler):
        raise ConfigError(f"the handler is called with one message, {handler!r} cannot be called")
    for called in (handler, getattr(handler, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(called) or inspect.isgeneratorfunction(called):
            raise ConfigError("the handler must be a plain, blocking function: no async def, no generator")
    try:
        inspect.signature(handler).bind(None)
    except ValueError:
        pass  # it does not tell
    except TypeError as error:
        raise ConfigError(f"the handler is called with one message: {error}") from None
