"""How many messages of a popped queue are not settled yet. There is no window: the broker keeps what is in flight."""

from __future__ import annotations

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.process_queue import PULL_MAX_IDLE_TIME_MS
from rocketmq_py.model.running_info import PopProcessQueueInfo
from rocketmq_py.runtime import Mutex


class PopProcessQueue:
    """State of one queue that this member pops; a queue id of -1 stands for all queues of a broker.

    Owner:   ``PopQueues`` creates, drops and forgets it.
    Writers: the pop callback (``inc_found_msg``), consume threads (the rest).
    Lock:    ``_lock`` guards the counter; nothing is called out to while it is held.
    Source:  PopProcessQueue.

    Attributes:
        dropped: the queue was taken away: nothing of it is consumed or acknowledged any more. Never cleared again.
        last_pop_timestamp: monotonic ms of the last pop attempt, flow-controlled ones too.
    """

    def __init__(self, clock: Clock) -> None:
        self._now_ms = clock.monotonic_ms
        self._lock = Mutex()
        self._wait_ack_counter = 0
        self.dropped = False
        self.last_pop_timestamp = self._now_ms()

    def inc_found_msg(self, count: int) -> None:
        """Note popped messages. Behaviour: PO-01."""
        with self._lock:
            self._wait_ack_counter += count

    def ack(self) -> int:
        """Note that one message was settled: acknowledged or put off.

        Returns:
            The count **before**.
        """
        with self._lock:
            before = self._wait_ack_counter
            self._wait_ack_counter = before - 1
            return before

    def dec_found_msg(self, count: int) -> None:
        """**Adds** ``count``: callers hand over a negative number, as in Java."""
        self.inc_found_msg(count)

    @property
    def wait_ack_msg_count(self) -> int:
        """Messages popped and not settled. Source: getWaiAckMsgCount."""
        with self._lock:
            return self._wait_ack_counter

    @property
    def is_pull_expired(self) -> bool:
        """Whether nobody popped it for more than 120 s: its request got lost. Behaviour: PO-02."""
        return self._now_ms() - self.last_pop_timestamp > PULL_MAX_IDLE_TIME_MS

    def fill_pop_process_queue_info(self) -> PopProcessQueueInfo:
        """As operators see it; the moment by the monotonic clock."""
        return PopProcessQueueInfo(self.wait_ack_msg_count, self.dropped, self.last_pop_timestamp)

    def __repr__(self) -> str:
        return f"<PopProcessQueue {self.wait_ack_msg_count} not settled{', dropped' if self.dropped else ''}>"
