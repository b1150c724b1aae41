"""A listener that remembers, and patience with a bound."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from rocketmq_py import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, MessageExt, MessageListenerConcurrently
from rocketmq_py.model.results import Messages

Verdict = Callable[[Messages, ConsumeConcurrentlyContext], ConsumeConcurrentlyStatus | None]


class Collector(MessageListenerConcurrently):
    """Notes every delivery, then answers what ``verdict`` says (default: success)."""

    def __init__(self, verdict: Verdict | None = None) -> None:
        self._verdict = verdict
        self._changed = threading.Condition()
        self.deliveries: list[MessageExt] = []
        self.batch_sizes: Counter[int] = Counter()

    def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        with self._changed:
            self.deliveries.extend(msgs)
            self.batch_sizes[len(msgs)] += 1
            self._changed.notify_all()
        return self._verdict(msgs, context) if self._verdict else ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    def bodies(self) -> Counter[bytes]:
        """How often each body came."""
        with self._changed:
            return Counter(msg.body for msg in self.deliveries)

    def places(self) -> set[tuple[int, int]]:
        """Queue and offset of all that came."""
        with self._changed:
            return {(msg.queue_id, msg.queue_offset) for msg in self.deliveries}

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for a condition on what was delivered."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), (
                f"{what}: after {timeout_s} s {len(self.deliveries)} came"
            )

    def wait_for_bodies(self, bodies: Iterable[bytes], timeout_s: float = 60) -> None:
        """Wait until each of these bodies came at least once."""
        missing = set(bodies)
        seen = 0

        def complete() -> bool:
            nonlocal seen
            missing.difference_update(msg.body for msg in self.deliveries[seen:])
            seen = len(self.deliveries)
            return not missing

        self.wait_until(complete, timeout_s, "messages are missing")


def eventually(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll a condition until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)
