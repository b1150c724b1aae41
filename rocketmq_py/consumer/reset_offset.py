"""Sets a consumer's offsets back or forth because an operator asked for it. Source: MQClientInstance.resetOffset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from rocketmq_py.consumer.offset_store import OffsetStore
from rocketmq_py.consumer.ports import PullDispatch
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.model.message_queue import MessageQueue

RESET_PAUSE_MS = 10_000
"""A queue that was reset is pulled again after this: time for its running listener calls to end."""

_log = logging.getLogger(__name__)

Windows = Callable[[], Iterable[tuple[MessageQueue, ProcessQueue]]]


class OffsetReset:
    """Drops the windows of the queues, writes the new offsets, and lets rebalance take the queues anew after a pause.

    Java suspends the whole consumer and sleeps between the first two steps (deviations). Here the new offset is
    written at once and frozen, so that neither a late result nor a shutdown within the pause undoes it, and all other
    queues go on.

    Threads: ``reset`` on any but the I/O thread, the rest on the pull thread.

    Args:
        windows: the queues owned now.
        give_up: removes a queue from the table, so that it can be taken anew.
        rebalance: wakes the rebalance thread.
    """

    def __init__(
        self,
        *,
        group: str,
        windows: Windows,
        offset_store: OffsetStore,
        dispatch: PullDispatch,
        give_up: Callable[[MessageQueue], object],
        rebalance: Callable[[], None],
    ) -> None:
        self._group = group
        self._windows = windows
        self._offset_store = offset_store
        self._dispatch = dispatch
        self._give_up = give_up
        self._rebalance = rebalance

    def reset(self, topic: str, offsets: Mapping[MessageQueue, int]) -> None:
        """Go on at these offsets; queues of other topics, and those not owned, are left alone.

        Behaviour: RO-01 to RO-04.
        """
        dropped = []
        for mq, queue in self._windows():
            offset = offsets.get(mq)
            if offset is None or mq.topic != topic:
                continue
            queue.dropped = True
            queue.clear()
            self._offset_store.update_and_freeze_offset(mq, offset)
            self._offset_store.persist(mq)
            dropped.append((mq, queue))
            _log.warning("group %s: an operator set the offset of %s to %s", self._group, mq, offset)
        if dropped:
            self._dispatch.execute_later(RESET_PAUSE_MS, lambda: self._take_anew(dropped))

    def _take_anew(self, dropped: Iterable[tuple[MessageQueue, ProcessQueue]]) -> None:
        owned = dict(self._windows())
        for mq, queue in dropped:
            # Unless it was taken anew already: given to another member meanwhile and back.
            if owned.get(mq) is queue:
                self._give_up(mq)
        self._rebalance()
