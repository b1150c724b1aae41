"""How a message is settled by its receipt: told to the server until that has heard it, or it cannot matter any more.

Source: ProcessQueueImpl.ackMessage, changeInvisibleDuration, forwardToDeadLetterQueue of the Java gRPC client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.ports import OnDone, ReceiptBroker
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex, Runtime, Scheduler

RETRY_MS = 1_000
"""Between two tries. Source: ACK_MESSAGE_FAILURE_BACKOFF_DELAY and its like."""

RENEW_MAX_MS = 3 * 3_600_000
"""So long a server keeps a message for a client that lives; then others get it, and its receipt is void."""

_log = logging.getLogger(__name__)


class ReceiptSettlement:
    """Settles messages of one group. Any thread may call it; it never blocks and never raises.

    The message counts as not settled until the server has answered, so that the limits of the cache also bound what
    waits here. A try is a job of the scheduler: no thread sleeps, nothing recurses. What a message was settled as
    first is repeated: after an acknowledgement whose answer got lost it must not be put off, or it would come again.

    Behaviour: GC-01, GC-02.

    Args:
        timeout_ms: for each request.
    """

    def __init__(
        self,
        *,
        group: str,
        broker: ReceiptBroker,
        runtime: Runtime,
        scheduler: Scheduler,
        timeout_ms: int,
        counters: ConsumerCounters,
    ) -> None:
        self._group = group
        self._broker = broker
        self._now_ms = runtime.clock.monotonic_ms
        self._scheduler = scheduler
        self._timeout_ms = timeout_ms
        self._counters = counters
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()
        self._pending = 0
        self._idle = runtime.event()
        self._idle.set()
        self._stopped = runtime.event()

    def ack(self, msg: MessageExt, topic: str, queue: PopProcessQueue | None = None) -> None:
        """The message is consumed."""
        self._settle(
            "acknowledge", msg, queue,
            lambda done: self._broker.ack_message(self._group, topic, msg, self._timeout_ms, done),
        )  # fmt: skip

    def change_invisible_duration(
        self,
        msg: MessageExt,
        topic: str,
        invisible_ms: int,
        queue: PopProcessQueue | None = None,
        *,
        suspend: bool = False,
    ) -> None:
        """The message is to come again after ``invisible_ms``; ``suspend``: this delivery counts as no attempt."""
        self._settle(
            "put off", msg, queue,
            lambda done: self._broker.change_invisible_duration(
                self._group, topic, msg, invisible_ms, self._timeout_ms, done, suspend=suspend
            ),
        )  # fmt: skip

    def forward_to_dead_letter_queue(
        self,
        msg: MessageExt,
        topic: str,
        attempt: int,
        max_attempts: int,
        queue: PopProcessQueue | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """The message is given up; ``then`` is called when that is over, whichever way."""
        self._settle(
            "forward to the dead-letter queue", msg, queue,
            lambda done: self._broker.forward_to_dead_letter_queue(
                self._group, topic, msg, attempt, max_attempts, self._timeout_ms, done
            ),
            then,
        )  # fmt: skip

    def shutdown(self, await_ms: int) -> bool:
        """Try nothing again any more, and wait for what is under way; True: nothing is left."""
        self._stopped.set()
        return self._idle.wait(await_ms)

    def _count(self, change: int) -> None:
        with self._lock:
            self._pending += change
            if self._pending:
                self._idle.clear()
            else:
                self._idle.set()

    def _settle(
        self,
        doing: str,
        msg: MessageExt,
        queue: PopProcessQueue | None,
        request: Callable[[OnDone], None],
        then: Callable[[], None] | None = None,
    ) -> None:
        give_up_ms = self._now_ms() + RENEW_MAX_MS
        size = len(msg.body)

        def attempt() -> None:
            try:
                request(done)
            except RocketMQError as error:
                done(error)

        def done(error: Exception | None) -> None:
            if error is not None:
                self._counters.count(Event.SETTLE_FAILED)
                again = self._again(error, give_up_ms)
                self._warnings.warning(
                    (doing, type(error)),
                    "group %s: cannot %s message %s (queue %s offset %s), %s: %s",
                    self._group, doing, msg.msg_id, msg.queue_id, msg.queue_offset,
                    "it is tried again" if again else "it may come again", error,
                )  # fmt: skip
                if again:
                    self._scheduler.schedule(RETRY_MS, attempt)
                    return
            if queue is not None:
                queue.ack(size)
            self._count(-1)
            if then is not None:
                then()

        self._count(1)
        attempt()

    def _again(self, error: Exception, give_up_ms: int) -> bool:
        retriable = isinstance(error, RocketMQError) and error.retriable
        return retriable and self._now_ms() < give_up_ms and not self._stopped.is_set()
