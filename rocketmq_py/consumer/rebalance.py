"""Which queues this member owns, and what happens when that changes.

Each member of a clustering group asks a broker who else is in the group, sorts queues and members, and computes its
own share (``allocate``); each member of a broadcasting group takes all. Queues gained get a window and a pull request,
queues lost are dropped and their offset is committed. Orderly consumers of a clustering group lock a queue before they
take it, and unlock it when its listener has ended.

Source: RebalanceImpl and RebalancePushImpl.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from rocketmq_py.consumer.allocate import AllocateMessageQueueStrategy
from rocketmq_py.consumer.broker_assignment import BrokerAssignment
from rocketmq_py.consumer.message_popper import PopRequest
from rocketmq_py.consumer.message_puller import PullRequest
from rocketmq_py.consumer.offset_store import NO_OFFSET, OffsetStore, ReadOffsetType
from rocketmq_py.consumer.ports import Broker, Group
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.queue_locks import QueueLocks
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.config import ConsumeFromWhere, ConsumerConfig, MessageModel
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import QueueAssignment
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex, Runtime

FIRST_PULL_DELAY_MS = 500
"""A queue gained is pulled after this: time for its last owner to commit. Not needed by a group's only member."""

REBALANCE_AFTER_FAILED_LOCK_MS = 500

CONSUME_LOCK_WAIT_MS = 500
"""How long giving an orderly queue up waits for its listener; then it is tried again at the next turn."""

FORCE_UNLOCK_AFTER_MS = 20_000
"""An orderly queue whose lock was last renewed longer ago is given up although its listener is still at work."""

SLOW_TO_FAIL_MS = 1_000
"""A broker that takes so long to answer nothing is not asked about its other queues in the same round."""

_log = logging.getLogger(__name__)


class RebalanceImpl:
    """Owner of the tables of queues, subscriptions and windows of one consumer.

    Threads: ``do_rebalance`` on the rebalance thread alone; ``remove_process_queue`` also on the pull thread; the rest
             on any.
    Lock:    ``_lock`` guards the three tables; never held during a request.

    Args:
        orderly: whether the listener is an orderly one.
        assignment: who says which queues are this member's; None: the members divide them among themselves.

    Attributes:
        locks: the broker's locks, for orderly consumers of clustering groups; else None.
        paused: whether rebalances do nothing.
    """

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        strategy: AllocateMessageQueueStrategy,
        runtime: Runtime,
        broker: Broker,
        client: Group,
        offset_store: OffsetStore,
        dispatch: Callable[[PullRequest, int], None],
        orderly: bool = False,
        assignment: BrokerAssignment | None = None,
    ) -> None:
        self._group = group
        self._config = config
        self._strategy = strategy
        self._clock = runtime.clock
        self._broker = broker
        self._client = client
        self._offset_store = offset_store
        self._dispatch = dispatch
        self._assignment = assignment
        self._new_lock = runtime.lock
        self._broadcasting = config.message_model is MessageModel.BROADCASTING
        self.locks: QueueLocks | None = None
        if orderly and not self._broadcasting:
            self.locks = QueueLocks(
                group=group,
                runtime=runtime,
                broker=broker,
                client=client,
                offset_store=offset_store,
                windows=self.windows,
                lost=self._begin_anew,
            )
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()
        self._process_queues: dict[MessageQueue, ProcessQueue] = {}  # Java: processQueueTable
        self._topic_queues: dict[str, frozenset[MessageQueue]] = {}  # Java: topicSubscribeInfoTable
        self._subscriptions: dict[str, SubscriptionData] = {}  # Java: subscriptionInner
        self._announced: dict[str, SubscriptionData] = {}  # newer versions that no broker has heard yet
        self._introduced: set[str] = set()  # topics whose other members had time to hear of this one
        self._destroyed = False
        self.paused = False

    # Subscriptions and routes.

    def subscribe(self, subscription: SubscriptionData) -> None:
        """Add a subscription, or replace one; the next rebalance tells the brokers."""
        topic = subscription.topic
        with self._lock:
            if topic in self._subscriptions:
                self._announced[topic] = subscription
            else:
                self._subscriptions[topic] = subscription

    def unsubscribe(self, topic: str) -> None:
        """Remove a subscription; its queues go at the next rebalance."""
        with self._lock:
            for each in (topic, *self._pop_retry_topics(topic)):
                self._subscriptions.pop(each, None)
                self._announced.pop(each, None)
                self._topic_queues.pop(each, None)
                self._introduced.discard(each)

    def subscription(self, topic: str) -> SubscriptionData | None:
        """The subscription to a topic, as brokers know it: what a pull may name."""
        with self._lock:
            return self._subscriptions.get(topic)

    def newest_subscription(self, topic: str) -> SubscriptionData | None:
        """The subscription to a topic, as the user wants it; brokers may not have heard of it yet."""
        with self._lock:
            return self._announced.get(topic) or self._subscriptions.get(topic)

    def subscriptions_to_announce(self) -> list[SubscriptionData]:
        """What the next heartbeat is to say."""
        with self._lock:
            return list({**self._subscriptions, **self._announced}.values())

    def topics(self) -> list[str]:
        """Topics subscribed to, the retry topic too."""
        with self._lock:
            return list(self._subscriptions)

    def update_topic_subscribe_info(self, topic: str, queues: Collection[MessageQueue]) -> bool:
        """Note the readable queues of a topic; False when nothing changed or it is not subscribed."""
        with self._lock:
            if topic not in self._subscriptions or self._topic_queues.get(topic) == frozenset(queues):
                return False
            self._topic_queues[topic] = frozenset(queues)
            return True

    def topic_queues(self, topic: str) -> frozenset[MessageQueue]:
        """The readable queues of a topic, whoever owns them; none while its route is not known."""
        with self._lock:
            return self._topic_queues.get(topic, frozenset())

    def is_subscribe_topic_need_update(self, topic: str) -> bool:
        """Whether the topic is subscribed and its queues are not known."""
        with self._lock:
            return topic in self._subscriptions and topic not in self._topic_queues

    # Windows.

    def windows(self) -> list[tuple[MessageQueue, ProcessQueue]]:
        """The queues owned now, with their windows; settled, and so the offsets in the store are, too."""
        with self._lock:
            owned = list(self._process_queues.items())
        for _, queue in owned:
            queue.settle()
        return owned

    def may_commit(self, queue: ProcessQueue) -> bool:
        """Whether the queue's offset may be told to the broker: not while an orderly consumer's lock counts as lost."""
        return self.locks is None or queue.holds_lock

    def withheld(self) -> set[MessageQueue]:
        """Queues owned whose offset may not be committed now."""
        return {mq for mq, queue in self.windows() if not self.may_commit(queue)}

    def remove_process_queue(self, mq: MessageQueue) -> None:
        """Give a queue up at once: drop its window, commit and forget its offset.

        Source: RebalanceImpl.removeProcessQueue.
        """
        with self._lock:
            queue = self._process_queues.pop(mq, None)
        if queue is not None:
            queue.dropped = True
            self._give_up(mq, queue, wait_ms=0)

    def correct_offset(self, request: PullRequest) -> None:
        """The broker does not have the offset of a pull: commit the one it named, and take the queue again from there.

        An orderly queue whose lock has run out here is taken again from where the group is: the offset may be another
        member's by now. Called on the pull thread.

        Behaviour: PL-08. Source: the OFFSET_ILLEGAL branch of PullCallback.onSuccess.
        """
        if self.may_commit(request.process_queue):
            # Frozen: results of the old window must not change it.
            self._offset_store.update_and_freeze_offset(request.mq, request.next_offset)
            self._offset_store.persist(request.mq)
        self.remove_process_queue(request.mq)
        self._client.rebalance_immediately()

    def _begin_anew(self, mq: MessageQueue, queue: ProcessQueue) -> None:
        """Another member went on with the queue: forget the window and its offset, and take it again from there."""
        queue.dropped = True
        self._forget(mq, queue)
        self._offset_store.remove_offset(mq)
        self._client.rebalance_immediately()

    def destroy(self) -> list[tuple[MessageQueue, ProcessQueue]]:
        """Drop every window and take none any more; the queues owned until now. Source: RebalanceImpl.destroy."""
        with self._lock:
            self._destroyed = True
            owned = list(self._process_queues.items())
            for _, queue in owned:
                queue.dropped = True
            self._process_queues.clear()
        for _, queue in owned:
            queue.settle()
        if self._assignment is not None:
            self._assignment.pops.destroy()
        return owned

    def unlock_idle(self, windows: Collection[tuple[MessageQueue, ProcessQueue]]) -> None:
        """Give the locks of dropped windows back, except those whose listener is still at work: they run out.

        Source: RebalanceImpl.unlockAll, which gives all back, while listeners may still run (deviations).
        """
        if self.locks is not None:
            idle = [mq for mq, queue in windows if queue.locked and queue.consume_lock.acquire(0)]
            self.locks.unlock(idle, oneway=False)

    def _forget(self, mq: MessageQueue, queue: ProcessQueue) -> None:
        with self._lock:
            if self._process_queues.get(mq) is queue:
                del self._process_queues[mq]

    def _give_up(self, mq: MessageQueue, queue: ProcessQueue, wait_ms: int) -> bool:
        """Drop a window, commit and forget its offset, and unlock its queue.

        False: its orderly listener is still at work; nothing was done but that no further call is begun.

        Behaviour: RB-14, RB-15. Source: RebalancePushImpl.removeUnnecessaryMessageQueue, tryRemoveOrderMessageQueue.
        """
        if not queue.dropped:
            queue.giving_up = self.locks is not None
            queue.dropped = True
        queue.settle()
        if self.locks is None:
            self._persist_and_forget_offset(mq)
            _log.info("group %s: gave up %s", self._group, mq)
            return True
        forced = self._clock.lease_ms() > queue.last_lock_timestamp + FORCE_UNLOCK_AFTER_MS
        idle = queue.consume_lock.acquire(0 if forced else wait_ms)
        if not idle and not forced:
            queue.try_unlock_times += 1
            _log.info("group %s: %s is still being consumed, it is given up later", self._group, mq)
            return False
        queue.giving_up = False
        try:
            if self.may_commit(queue):
                self._offset_store.persist(mq)
            self._offset_store.remove_offset(mq)
            if idle and queue.locked:
                self.locks.unlock([mq], oneway=True)
            elif not idle:
                # The next owner must not begin now. Java unlocks here (deviations); the broker's lease ends 60 s after
                # the last renewal.
                _log.warning("group %s: gave up %s although its listener is still at work", self._group, mq)
            queue.locked = False
        finally:
            if idle:
                queue.consume_lock.release()
        _log.info("group %s: gave up %s", self._group, mq)
        return True

    def _persist_and_forget_offset(self, mq: MessageQueue) -> None:
        self._offset_store.persist(mq)
        self._offset_store.remove_offset(mq)

    # Rebalance.

    def do_rebalance(self) -> bool:
        """Bring the owned queues in line with the group.

        Returns:
            False when it must be tried again soon; paused consumers answer so, too, and do nothing.

        Behaviour: RB-01 to RB-06. Source: RebalanceImpl.doRebalance.
        """
        if self.paused:
            return False
        balanced = True
        self._announce()
        for topic in self.topics():
            if self.paused:  # meanwhile: the consumer is being shut down
                return False
            try:
                balanced = self._rebalance_by_topic(topic) and balanced
            except BaseException as error:  # noqa: BLE001 - border: a user's strategy; one topic must not stop the others
                self._warnings.warning(
                    ("rebalance", topic), "group %s: rebalance of %s failed, it is tried again: %s",
                    self._group, topic, error, with_traceback=not isinstance(error, RocketMQError),
                )  # fmt: skip
                balanced = False
        self._truncate_message_queue_not_my_topic()
        return balanced

    def _rebalance_by_topic(self, topic: str) -> bool:
        with self._lock:
            known = self._topic_queues.get(topic)
        if not known:
            if not topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
                self._warnings.warning(
                    ("no route", topic),
                    "group %s: topic %s has no readable queues; does it exist? It is looked for again",
                    self._group, topic,
                )  # fmt: skip
            return True
        if self._broadcasting:
            return self._take(topic, known, QueueAssignment(pull=known), alone=True)
        if self._assignment is not None:
            assigned = self._assignment.ask(topic)
            if not self._assignment.unsupported:
                return assigned is not None and self._take_assigned(topic, known, assigned)
        members = self._client.find_consumer_id_list(topic, self._group)
        if not members:
            self._warnings.warning(
                ("no members", topic), "group %s: no broker could tell who consumes %s", self._group, topic
            )
            return False  # again in 1 s; for Java this is in balance, and the next try 20 s later (deviations)
        # Once each: a proxy lists a client twice that sends heartbeats on two connections, and half the queues would
        # belong to a member that is not there.
        mq_all, cid_all = sorted(known), sorted(set(members))
        mine = set(self._strategy.allocate(self._group, self._client.client_id, mq_all, cid_all) or ())
        alone = cid_all == [self._client.client_id]
        if topic not in self._introduced and self._client.client_id in cid_all:
            self._introduced.add(topic)
            if not alone:
                # The others have just been told, if at all, and commit when they give queues up: whoever reads the
                # offsets now gets finished messages again. Java's first rebalance comes after this second, too.
                return False
        balanced = self._take(topic, known, QueueAssignment(pull=frozenset(mine)), alone)
        return balanced and self._client.client_id in members

    def _take_assigned(self, topic: str, known: frozenset[MessageQueue], assigned: QueueAssignment) -> bool:
        """Take what a broker assigned. Behaviour: PA-03 to PA-07.

        Source: RebalanceImpl.updateMessageQueueAssignment.
        """
        if assigned.pull and topic not in self._introduced:
            self._introduced.add(topic)
            return False  # as above: the others have just been told
        self._follow_pop_retry_topics(topic, popped=bool(assigned.pop))
        return self._take(topic, known, assigned, alone=False)

    def _follow_pop_retry_topics(self, topic: str, popped: bool) -> None:
        """Pull the retry topics of a topic that is not popped (any more): a pop brings their messages along.

        Java subscribes only a member that has queues of the topic, anew at every rebalance, and only to the first form
        of the name (deviations).
        """
        if topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
            return
        for retry_topic in self._pop_retry_topics(topic):
            if popped:
                self.unsubscribe(retry_topic)
            elif self.subscription(topic) is not None and self.subscription(retry_topic) is None:
                self.subscribe(SubscriptionData(retry_topic, sub_version=self._clock.wall_ms()))

    def _pop_retry_topics(self, topic: str) -> Sequence[str]:
        if self._assignment is None:
            return ()
        return names.pop_retry_topic_v1(self._group, topic), names.pop_retry_topic_v2(self._group, topic)

    def _take(self, topic: str, known: frozenset[MessageQueue], mine: QueueAssignment, alone: bool) -> bool:
        """Make these queues of a topic the owned ones; False: not yet, or not all."""
        changed, requests = self._update_process_queue_table(topic, mine.pull)
        pops = None if self._assignment is None else self._assignment.pops
        pop_requests: Sequence[PopRequest] = ()
        if pops is not None:
            pops_changed, pop_requests = pops.update(topic, mine.pop)
            changed = changed or pops_changed
        if changed:
            _log.info("group %s: of %s queues of %s %s are mine, and %s to pop",
                      self._group, len(known), topic, len(mine.pull), len(mine.pop))  # fmt: skip
        try:
            if changed:
                self._message_queue_changed(topic, known, mine.pull | mine.pop)
        finally:
            for request in requests:
                self._dispatch(request, 0 if alone else FIRST_PULL_DELAY_MS)
            if pops is not None:
                pops.begin(pop_requests, FIRST_PULL_DELAY_MS)
        # A queue that could not be given up yet is not in balance either. Java waits up to 20 s for the next turn.
        return {mq: not queue.dropped for mq, queue in self.windows() if mq.topic == topic} == dict.fromkeys(
            mine.pull, True
        )

    def _update_process_queue_table(
        self, topic: str, mine: frozenset[MessageQueue]
    ) -> tuple[bool, Sequence[PullRequest]]:
        """Drop what is lost, add what is gained. Source: RebalanceImpl.updateProcessQueueTableInRebalance."""
        changed = False
        for mq, queue in self.windows():
            if mq.topic != topic:
                continue
            # One that is being given up and is to be mine again is given up first; Java leaves it dropped for 120 s.
            if mq in mine and not queue.is_pull_expired and not queue.try_unlock_times:
                continue
            if mq in mine and not queue.dropped:
                _log.warning("[BUG] group %s: nobody pulled %s for long, it is started again", self._group, mq)
            if self._give_up(mq, queue, CONSUME_LOCK_WAIT_MS):
                self._forget(mq, queue)
                changed = True
        requests: list[PullRequest] = []
        owned = {mq for mq, _ in self.windows()}
        slow_to_fail: set[str] = set()
        gained = self._locked({mq: self._new_window() for mq in sorted(mine - owned)})
        for mq, queue in gained.items():
            if self._ended():
                break
            if mq.broker_name in slow_to_fail:
                continue  # one time-out per round is enough: the queues of other brokers wait behind it
            began_ms = self._clock.monotonic_ms()
            self._offset_store.remove_offset(mq)  # stale or frozen: the store alone says where to start
            try:
                next_offset = self.compute_pull_from_where(mq)
            except RocketMQError as error:
                self._warnings.warning(
                    ("where to start", mq), "group %s: cannot tell where to start on %s, it is tried again: %s",
                    self._group, mq, error,
                )  # fmt: skip
                if self._clock.monotonic_ms() - began_ms >= SLOW_TO_FAIL_MS:
                    slow_to_fail.add(mq.broker_name)
                continue
            if not self._enter(mq, queue):
                break
            _log.info("group %s: took %s, from offset %s", self._group, mq, next_offset)
            requests.append(PullRequest(mq, queue, next_offset))
            changed = True
        if self.locks is not None and self._ended():
            # Nobody else gives these back: other members would wait a minute for them. Not in Java.
            self.locks.unlock(gained, oneway=True)
        return changed, requests

    def _ended(self) -> bool:
        """Whether the consumer was destroyed meanwhile."""
        with self._lock:
            return self._destroyed

    def _enter(self, mq: MessageQueue, queue: ProcessQueue) -> bool:
        """Own a queue from here on; False: too late."""
        with self._lock:
            if not self._destroyed:
                self._process_queues[mq] = queue
            return not self._destroyed

    def _new_window(self) -> ProcessQueue:
        queue = ProcessQueue(self._clock, self._new_lock())
        queue.locked = True
        return queue

    def _locked(self, gained: Mapping[MessageQueue, ProcessQueue]) -> Mapping[MessageQueue, ProcessQueue]:
        """Those that may be taken: of a group that locks queues, those whose lock was granted. Behaviour: RB-16."""
        if self.locks is None or not gained:
            return gained
        held = self.locks.lock(gained)
        if len(held) < len(gained):
            self._client.rebalance_later(REBALANCE_AFTER_FAILED_LOCK_MS)
        return {mq: queue for mq, queue in gained.items() if mq in held}

    def compute_pull_from_where(self, mq: MessageQueue) -> int:
        """First offset to pull of a queue just gained.

        Raises:
            RocketMQError: the broker could not be asked; the queue must not be taken now.

        Behaviour: RB-07. Source: RebalancePushImpl.computePullFromWhereWithException.
        """
        stored = self._offset_store.read_offset(mq, ReadOffsetType.READ_FROM_STORE)
        if stored >= 0:
            return stored
        if stored != NO_OFFSET:
            raise RocketMQError(f"the committed offset of {mq} could not be read")
        retry = mq.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX)
        where = self._config.consume_from_where
        if where is ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET:
            return 0  # if the queue begins later, the pull is told so
        if where is ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET:
            offset = 0 if retry else self._broker.max_offset(mq)
        elif retry:
            offset = self._broker.max_offset(mq)
        else:
            offset = self._broker.search_offset(mq, self._config.consume_timestamp_ms())
        if offset < 0:
            raise RocketMQError(f"the broker answered the offset {offset} for {mq}")
        return offset

    def _message_queue_changed(self, topic: str, known: frozenset[MessageQueue], mine: frozenset[MessageQueue]) -> None:
        """Let brokers hear of a new view of the topic, spread the topic's limits over its queues, tell the user.

        Source: RebalancePushImpl.messageQueueChanged.
        """
        with self._lock:
            subscription = self._announced.get(topic) or self._subscriptions.get(topic)
            if subscription is None:
                return
            self._announced[topic] = replace(subscription, sub_version=self._clock.wall_ms())
            queues = len(self._process_queues)
        config = self._config
        if queues and config.pull_threshold_for_topic != -1:
            config.pull_threshold_for_queue = max(1, config.pull_threshold_for_topic // queues)
        if queues and config.pull_threshold_size_for_topic != -1:
            config.pull_threshold_size_for_queue = max(1, config.pull_threshold_size_for_topic // queues)
        self._announce()
        if config.message_queue_listener is not None:
            try:
                config.message_queue_listener(topic, known, mine)
            except BaseException:  # noqa: BLE001 - border: the user's code
                _log.exception("group %s: the message queue listener failed for topic %s", self._group, topic)

    def _announce(self) -> None:
        """Tell brokers of new subscriptions; only then do pulls name them.

        Java's pulls may come first and are refused for a second (deviations).
        """
        with self._lock:
            told = dict(self._announced)
        if not told:
            return
        self._client.send_heartbeat_to_all_brokers()
        with self._lock:
            for topic, subscription in told.items():
                # Unless the user subscribed anew or unsubscribed while the heartbeat was sent.
                if self._announced.get(topic) is subscription:
                    self._subscriptions[topic] = self._announced.pop(topic)

    def _truncate_message_queue_not_my_topic(self) -> None:
        """Give up queues of topics no longer subscribed. Java does not commit their offsets (deviations)."""
        topics = set(self.topics())
        for mq, queue in self.windows():
            if mq.topic not in topics and self._give_up(mq, queue, CONSUME_LOCK_WAIT_MS):
                self._forget(mq, queue)
        if self._assignment is not None:
            self._assignment.pops.keep_only(topics)
