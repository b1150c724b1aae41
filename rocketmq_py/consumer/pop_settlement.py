"""How a popped message is settled: acknowledged, or put off until later.

Source: DefaultMQPushConsumerImpl.ackAsync, changePopInvisibleTimeAsync.
"""

from __future__ import annotations

from typing import Protocol

from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.ports import PopBroker
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.rate_limited_log import RateLimitedLog

SETTLE_TIMEOUT_MS = 3_000
"""For an acknowledgement or a change of the invisible time. Source: ASYNC_TIMEOUT."""


class Settlement(Protocol):
    """How a message is settled that was consumed. Any thread may call it; it never blocks and never raises."""

    def ack(self, msg: MessageExt, topic: str, queue: PopProcessQueue | None = None) -> None:
        """The message is done with. ``topic`` is the one popped; the queue, if it counts the message, is told."""
        ...


class PopSettlement:
    """Settles popped messages of one group. Any thread may call it; it never blocks and never raises.

    What fails is logged and counted, not tried again: the broker gives the message out again when its invisible time
    has passed.
    """

    def __init__(self, group: str, broker: PopBroker, counters: ConsumerCounters, warnings: RateLimitedLog) -> None:
        self._group = group
        self._broker = broker
        self._counters = counters
        self._warnings = warnings

    def ack(self, msg: MessageExt, topic: str, queue: PopProcessQueue | None = None) -> None:
        """Tell the broker that the message is done with. Behaviour: PO-12.

        Args:
            msg: the message.
            topic: the one popped: the message itself shows the user's name of it, without the namespace.
            queue: which counts the message as not settled, or None.
        """
        if queue is not None:
            queue.ack(len(msg.body))
        try:
            self._broker.ack_message(
                self._group, topic, msg, SETTLE_TIMEOUT_MS, lambda error: self._failed("ack", msg, error)
            )
        except RocketMQError as error:
            self._failed("ack", msg, error)

    def change_invisible_time(
        self, msg: MessageExt, topic: str, invisible_ms: int, queue: PopProcessQueue | None = None
    ) -> None:
        """Have the message come again after ``invisible_ms``. Behaviour: PO-13."""
        if queue is not None:
            queue.ack(len(msg.body))
        doing = f"put off for {invisible_ms // 1000} s"
        try:
            self._broker.change_invisible_time(
                self._group, topic, msg, invisible_ms, SETTLE_TIMEOUT_MS, lambda error: self._failed(doing, msg, error)
            )
        except RocketMQError as error:
            self._failed(doing, msg, error)

    def _failed(self, doing: str, msg: MessageExt, error: Exception) -> None:
        self._counters.count(Event.SETTLE_FAILED)
        self._warnings.warning(
            ("settle", type(error)),
            "group %s: cannot %s popped message %s (queue %s offset %s), it comes again when its invisible time has "
            "passed: %s",
            self._group, doing, msg.msg_id, msg.queue_id, msg.queue_offset, error,
        )  # fmt: skip
