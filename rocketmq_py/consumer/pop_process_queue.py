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
        dropped: the queue was taken away: no pop of it begins any more. On the remoting wire nothing of it is consumed
            or acknowledged either, and it is never cleared again.
        last_pop_timestamp: monotonic ms of the last pop attempt, flow-controlled ones too.
    """

    def __init__(self, clock: Clock) -> None:
        self._now_ms = clock.monotonic_ms
        self._lock = Mutex()
        self._wait_ack_counter = 0
        self._wait_ack_bytes = 0
        self._loops = 0
        self.dropped = False
        self.last_pop_timestamp = self._now_ms()

    def inc_found_msg(self, count: int, size_bytes: int = 0) -> None:
        """Note popped messages and the size of their bodies. Behaviour: PO-01."""
        with self._lock:
            self._wait_ack_counter += count
            self._wait_ack_bytes += size_bytes

    def ack(self, size_bytes: int = 0) -> int:
        """Note that one message was settled: acknowledged or put off.

        Args:
            size_bytes: of its body, if that was noted when it was popped.

        Returns:
            The count **before**.
        """
        with self._lock:
            before = self._wait_ack_counter
            self._wait_ack_counter = before - 1
            self._wait_ack_bytes -= size_bytes
            return before

    def dec_found_msg(self, count: int, size_bytes: int = 0) -> None:
        """**Adds** both: callers hand over negative numbers, as in Java."""
        self.inc_found_msg(count, size_bytes)

    @property
    def wait_ack_msg_count(self) -> int:
        """Messages popped and not settled. Source: getWaiAckMsgCount."""
        with self._lock:
            return self._wait_ack_counter

    @property
    def wait_ack_bytes(self) -> int:
        """Size of the bodies of these messages; 0 on the remoting wire, which does not limit it."""
        with self._lock:
            return self._wait_ack_bytes

    def loops_missing(self, wanted: int) -> int:
        """Take a dropped queue back, if it was dropped; how many pops must begin so that ``wanted`` of it go round.

        Those that were under way when it was dropped go on. Only for queues whose messages outlive that.
        """
        with self._lock:
            self.dropped = False
            missing, self._loops = wanted - self._loops, wanted
            return missing

    def loop_ends(self) -> bool:
        """Called by a pop that found the queue dropped; False: it was taken back meanwhile, go on."""
        with self._lock:
            if self.dropped:
                self._loops -= 1
            return self.dropped

    @property
    def is_pull_expired(self) -> bool:
        """Whether nobody popped it for more than 120 s: its request got lost. Behaviour: PO-02."""
        return self._now_ms() - self.last_pop_timestamp > PULL_MAX_IDLE_TIME_MS

    def fill_pop_process_queue_info(self) -> PopProcessQueueInfo:
        """As operators see it; the moment by the monotonic clock."""
        return PopProcessQueueInfo(self.wait_ack_msg_count, self.dropped, self.last_pop_timestamp)

    def __repr__(self) -> str:
        return f"<PopProcessQueue {self.wait_ack_msg_count} not settled{', dropped' if self.dropped else ''}>"
