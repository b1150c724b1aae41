"""One lock per queue within a process, for as long as the consumer lives. Source: MessageQueueLock."""

from __future__ import annotations

from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.runtime import Lock, Mutex, Runtime

NO_SHARDING = -1


class MessageQueueLock:
    """Keeps two windows of the same queue, an old one and the one that replaced it, from being consumed at once.

    Entries are never removed, as in Java: an object that was handed out must stay the only one. Any thread may call.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = Mutex()
        self._table: dict[tuple[MessageQueue, int], Lock] = {}

    def fetch_lock_object(self, mq: MessageQueue, sharding_key_index: int = NO_SHARDING) -> Lock:
        """The lock of a queue (and a part of it): always the same one. Behaviour: OR-01."""
        key = mq, sharding_key_index
        with self._lock:
            if key not in self._table:
                self._table[key] = self._runtime.lock()
            return self._table[key]
