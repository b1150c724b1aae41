"""The queues that this member pops, as a broker assigned them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.message_popper import PopRequest
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeInitMode
from rocketmq_py.runtime import Mutex

_log = logging.getLogger(__name__)


class PopQueues:
    """Owner of the table of popped queues. Source: RebalanceImpl.popProcessQueueTable.

    Threads: ``update`` and ``keep_only`` on the rebalance thread; the rest on any.
    Lock:    ``_lock`` guards the table; nothing is called out to while it is held.

    Args:
        init_mode: where to begin in queues that the group never consumed.
        dispatch: begins the pops of a request after so many ms.
        loops: how many pops of a queue go round at once.
        name: begins the names of the requests; "": they have none, and a queue that comes back is a new one.
    """

    def __init__(
        self,
        group: str,
        clock: Clock,
        init_mode: Callable[[], ConsumeInitMode],
        dispatch: Callable[[PopRequest, int], None],
        loops: int = 1,
        name: str = "",
    ) -> None:
        self._group = group
        self._clock = clock
        self._init_mode = init_mode
        self._dispatch = dispatch
        self._loops = loops
        self._name = name
        self._numbers = itertools.count(1)
        self._lock = Mutex()
        self._ending: dict[MessageQueue, PopProcessQueue] = {}  # dropped, some pops perhaps still under way
        self._queues: dict[MessageQueue, PopProcessQueue] = {}
        self._destroyed = False

    def queues(self) -> list[tuple[MessageQueue, PopProcessQueue]]:
        """The queues popped now."""
        with self._lock:
            return list(self._queues.items())

    def wait_ack_msg_count(self) -> int:
        """Messages popped and not settled, those of queues dropped lately, too."""
        with self._lock:
            return sum(queue.wait_ack_msg_count for queue in (*self._queues.values(), *self._ending.values()))

    def update(self, topic: str, assigned: Collection[MessageQueue]) -> tuple[bool, Sequence[PopRequest]]:
        """Drop what is no longer assigned or has lost its request, add what is new.

        Returns:
            Whether anything changed, and the requests to begin.

        Behaviour: PA-05. Source: RebalanceImpl.updateMessageQueueAssignment, its half about pop.
        """
        requests: list[PopRequest] = []
        init_mode = self._init_mode()
        with self._lock:
            mine = {mq: queue for mq, queue in self._queues.items() if mq.topic == topic}
            expired = [mq for mq, queue in mine.items() if mq in assigned and queue.is_pull_expired]
            dropped = [*(mq for mq in mine if mq not in assigned), *expired]
            self._drop(dropped)
            for mq in expired:  # nobody knows where its pops are
                self._ending.pop(mq, None)
            for mq in sorted(set(assigned) - set(self._queues)) if not self._destroyed else ():
                queue = self._ending.pop(mq, None) or PopProcessQueue(self._clock)
                self._queues[mq] = queue
                requests += (
                    PopRequest(mq, queue, init_mode, f"{self._name}@{next(self._numbers)}" if self._name else "")
                    for _ in range(queue.loops_missing(self._loops))
                )
        if expired:
            _log.warning("[BUG] group %s: nobody popped %s for long, it is started again", self._group, expired)
        return bool(dropped or requests), requests

    def begin(self, requests: Sequence[PopRequest], delay_ms: int) -> None:
        """Set requests going. Source: RebalancePushImpl.dispatchPopPullRequest."""
        for request in requests:
            self._dispatch(request, delay_ms)

    def keep_only(self, topics: Collection[str]) -> None:
        """Drop the queues of other topics. Source: RebalanceImpl.truncateMessageQueueNotMyTopic."""
        with self._lock:
            self._drop([mq for mq in self._queues if mq.topic not in topics])

    def destroy(self) -> None:
        """Drop every queue and take none any more. Source: RebalanceImpl.destroy."""
        with self._lock:
            self._destroyed = True
            self._drop(list(self._queues))

    def _drop(self, mqs: Iterable[MessageQueue]) -> None:
        for mq in mqs:
            queue = self._queues.pop(mq)
            queue.dropped = True
            if self._name:
                self._ending[mq] = queue
