"""The broker's locks on the queues of an orderly consumer, as this member believes to hold them.

Three times belong together: a lock is renewed every 20 s, counts as lost here 30 s after it was last asked for with
success, and the broker gives the queue to another member after 60 s. While a lock counts as lost, its queue is neither
pulled nor consumed nor committed.

Source: RebalanceImpl.lock, lockAll, unlock, unlockAll.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from rocketmq_py.consumer.offset_store import OFFSET_QUERY_TIMEOUT_MS, OffsetStore, ReadOffsetType
from rocketmq_py.consumer.ports import Broker, Group
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

LOCK_TIMEOUT_MS = 1_000

_log = logging.getLogger(__name__)


class QueueLocks:
    """Asks for locks and notes the answers in the windows. Blocking; called on rebalance and lock threads.

    Args:
        windows: the queues owned now.
        lost: told of a queue that another member has consumed on; it must be taken anew.
    """

    def __init__(
        self,
        *,
        group: str,
        runtime: Runtime,
        broker: Broker,
        client: Group,
        offset_store: OffsetStore,
        windows: Callable[[], Iterable[tuple[MessageQueue, ProcessQueue]]],
        lost: Callable[[MessageQueue, ProcessQueue], None],
    ) -> None:
        self._group = group
        self._lease_ms = runtime.clock.lease_ms
        self._broker = broker
        self._client = client
        self._offset_store = offset_store
        self._windows = windows
        self._lost = lost
        self._warnings = RateLimitedLog(runtime.clock, _log)

    def lock_one(self, mq: MessageQueue) -> bool:
        """Lock one of the queues owned, again. Source: RebalanceImpl.lock."""
        owned = {owned_mq: queue for owned_mq, queue in self._windows() if owned_mq == mq}
        return mq in self.lock(owned)

    def lock_all(self) -> None:
        """Renew the locks of all queues owned and not being given away. Source: RebalanceImpl.lockAll."""
        self.lock({mq: queue for mq, queue in self._windows() if not queue.dropped})

    def lock(self, queues: Mapping[MessageQueue, ProcessQueue]) -> set[MessageQueue]:
        """Ask for locks, one request per broker, and note in the windows which are held.

        A broker that does not answer changes nothing: the locks that it gave run out by themselves.

        Returns:
            The queues that may be consumed.

        Behaviour: QL-01 to QL-04.
        """
        held: set[MessageQueue] = set()
        for broker_name, mqs in _by_broker(queues).items():
            asked_ms = self._lease_ms()
            try:
                granted = self._broker.lock_batch_mq(
                    self._group, self._client.client_id, broker_name, mqs, LOCK_TIMEOUT_MS
                )
            except RocketMQError as error:
                self._warnings.warning(
                    ("lock", broker_name), "group %s: cannot lock queues of %s: %s", self._group, broker_name, error
                )
                continue
            tells_offsets = True
            for mq in mqs:
                if mq not in granted:
                    queues[mq].locked = False
                    self._warnings.warning(
                        ("refused", mq), "group %s: another member holds the lock of %s", self._group, mq
                    )
                elif queues[mq].holds_lock or (tells_offsets and self._may_go_on(mq, queues[mq])):
                    queues[mq].note_locked(asked_ms)
                    held.add(mq)
                elif not queues[mq].dropped:
                    # One time-out per round is enough: the locks of other brokers wait to be renewed.
                    tells_offsets = False
        return held

    def _may_go_on(self, mq: MessageQueue, queue: ProcessQueue) -> bool:
        """Whether the window is still right, although the lock counted as lost in between.

        False: it is not, and was dropped; or the broker could not tell.

        Not in Java: there a member that was stopped for a while goes on from what it had cached, also when another one
        consumed the queue meanwhile, and sets the committed offset back (deviations).
        """
        try:
            stored = self._broker.query_consumer_offset(self._group, mq, OFFSET_QUERY_TIMEOUT_MS)
        except RocketMQError as error:
            self._warnings.warning(
                ("regained", mq), "group %s: %s is locked again, but how far it was consumed could not be asked: %s",
                self._group, mq, error,
            )  # fmt: skip
            return False
        own = self._offset_store.read_offset(mq, ReadOffsetType.READ_FROM_MEMORY)
        if stored is None or stored <= own:
            return True
        _log.warning(
            "group %s: while the lock of %s was lost another member consumed it up to %s (here: %s); it is begun anew",
            self._group, mq, stored, own,
        )  # fmt: skip
        self._lost(mq, queue)
        return False

    def unlock(self, mqs: Collection[MessageQueue], *, oneway: bool) -> None:
        """Give locks back; errors are logged, the locks then run out by themselves. Source: RebalanceImpl.unlock.

        Behaviour: QL-05.
        """
        for broker_name, of_broker in _by_broker(mqs).items():
            try:
                self._broker.unlock_batch_mq(
                    self._group, self._client.client_id, broker_name, of_broker, LOCK_TIMEOUT_MS, oneway
                )
            except RocketMQError as error:
                _log.warning("group %s: cannot unlock queues of %s: %s", self._group, broker_name, error)


def _by_broker(mqs: Iterable[MessageQueue]) -> dict[str, list[MessageQueue]]:
    found: defaultdict[str, list[MessageQueue]] = defaultdict(list)
    for mq in mqs:
        found[mq.broker_name].append(mq)
    return found
