"""A small application: stores orders that come as messages, each once."""

from __future__ import annotations

import threading

from rocketmq_py import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, MessageListenerConcurrently
from rocketmq_py.idempotence import IdempotenceStore, idempotent
from rocketmq_py.model.results import Messages


class Shop:
    """Keeps orders; one named "late" cannot be stored the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.orders: list[str] = []
        self.attempts: list[str] = []

    def listener(self, store: IdempotenceStore | None = None) -> MessageListenerConcurrently:
        return idempotent(MessageListenerConcurrently(self._consume), "keys", store)

    def _consume(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        for msg in msgs:
            name = msg.body.decode()
            with self._lock:
                self.attempts.append(name)
                if name == "late" and self.attempts.count(name) == 1:
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER
                self.orders.append(name)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS
