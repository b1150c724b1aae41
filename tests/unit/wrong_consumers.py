"""Consumers that lose messages, each by one mistake that is found in production code. Made to be wrong: do not mend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PullResult
from rocketmq_py.model.subscription import build_subscription_data
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP

Handler = Callable[[MessageExt], object]


class Crash(BaseException):
    """The process dies here."""


class WrongConsumer:
    """What the three share: one queue, consumed from the committed offset on. A new one is a new process."""

    def __init__(self, broker: FakeBroker, mq: MessageQueue, handler: Handler) -> None:
        self._broker = broker
        self._mq = mq
        self.handler = handler
        self.position = broker.query_consumer_offset(GROUP, mq, 3_000) or 0

    def poll(self, count: int) -> Sequence[MessageExt]:
        """Fetch the next messages."""
        call = PullCall(
            GROUP, self._mq, build_subscription_data(self._mq.topic, "*", 0), self.position, 0, False, count, 1 << 20,
            15_000, 30_000,
        )  # fmt: skip
        results: list[PullResult] = []
        self._broker.pull_message(call, results.append, lambda error: None)
        self._broker.answer_pulls()
        found = results[0].messages if results else []
        self.position += len(found)
        return found

    def commit(self, offset: int) -> None:
        self._broker.update_consumer_offset(GROUP, self._mq, offset)


class CommitsByTimer(WrongConsumer):
    """``enable.auto.commit``: what was fetched counts as done when the timer rings."""

    def on_timer(self) -> None:
        self.commit(self.position)

    def consume(self, count: int) -> None:
        for msg in self.poll(count):
            self.handler(msg)


class AcknowledgesInFinally(WrongConsumer):
    """Commits behind the batch, whether it succeeded or not."""

    def consume(self, count: int) -> None:
        batch = self.poll(count)
        try:
            for msg in batch:
                self.handler(msg)
        except ValueError:
            pass  # it is logged, say
        finally:
            self.commit(batch[-1].queue_offset + 1)


class AcknowledgesByTheLastOffset(WrongConsumer):
    """Several threads; whoever finishes commits behind its own message, never backwards."""

    def __init__(self, broker: FakeBroker, mq: MessageQueue, handler: Handler) -> None:
        super().__init__(broker, mq, handler)
        self._highest = self.position

    def finish(self, msg: MessageExt) -> None:
        """A thread has consumed a message."""
        self.handler(msg)
        self._highest = max(self._highest, msg.queue_offset + 1)
        self.commit(self._highest)
