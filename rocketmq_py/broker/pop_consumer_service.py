"""Messages given to a group for a while: pop, acknowledgement, more time, and back when the time is over.

A popped message is leased: nobody else of the group gets it until its invisible time is over. Then it is stored once
more, in the group's retry topic, and the lease ends in the same transaction. Acknowledging ends the lease, too. The
group's committed offset moves when messages are popped, together with their leases, so it says what was given out, not
what is done. Orderly pops have no leases and no retry topic: see ``consumer_order_info_manager``.

Nothing here knows the protocol: requests come from the remoting processors, and may come from any other server.

Source: PopConsumerService, and PopMessageProcessor where that has another rule (it is what upstream uses by default).
"""

from __future__ import annotations

import itertools
import logging
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sortedcontainers import SortedDict

from rocketmq_py.broker.attributes import MESSAGE_TYPE, PRIORITY_FACTOR
from rocketmq_py.broker.commit_log import CommitLog, MessageInner, Stored
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.consumer_order_info_manager import (
    ILLEGAL_OFFSET,
    ConsumerOrderInfoManager,
    OrderInfo,
    OrderKey,
)
from rocketmq_py.broker.get_message import get_message
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.message_filter import MessageFilter
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.store import QueueKey, Write
from rocketmq_py.broker.store.pop_table import LeaseRow, PopTable, delete_leases, put_leases
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError, RocketMQError, StoreError
from rocketmq_py.model import names
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.config import INT_MAX
from rocketmq_py.model.extra_info import ExtraInfo, retry_of
from rocketmq_py.model.message import MessageConst, format_properties
from rocketmq_py.model.results import ConsumeInitMode
from rocketmq_py.remoting.message_codec import decode_stored, encode_stored

POP_ORDER_REVIVE_QUEUE = 999
"""The number of a revive queue by which receipts of orderly pops are known. Source: KeyBuilder."""

REVIVE_QUEUE_NUM = 8
"""Numbers that receipts of other pops have in turn; there are no such queues here. Source: reviveQueueNum."""

RETRY_QUEUES = 1

RETRY_EVERY = 5
"""Every so many pops of a topic look at the retry topic first. Source: popFromRetryProbability."""

INFLIGHT_MAX_COUNT = 10_000
"""Leases on one queue of a group; above, nothing more of it is popped. Source: popInflightMessageThreshold."""

LEASES_MAX_COUNT = 1_000_000
"""Leases altogether, each some hundred bytes in memory; above, nothing more is popped. Upstream sets no limit."""

POPS_MAX_COUNT = 100_000
"""Pairs of group and topic whose pops are counted, for whose turn it is; above, counting begins anew."""

REVIVE_INTERVAL_MS = 500
REVIVE_MAX_COUNT = 100
"""Messages that come back in one go: others must not wait long behind them."""

REWRITE_INTERVALS_MS = [
    1_000 * seconds
    for seconds in (10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
]  # fmt: skip
"""After which times a message that cannot be stored again is tried again. Source: REWRITE_INTERVALS_IN_SECONDS."""
REVIVE_MAX_ATTEMPTS = 16
"""Source: popReviveMaxAttemptTimes."""

PASSED_OVER_MAX_COUNT = 4_000
"""Messages that one pop passes over because of its filter: a topic may have very many queues of them. Then it goes on
where it waits, as with what is left of one queue."""

_STAMPS = MessageConst.FIRST_POP_TIME, MessageConst.ORIGIN_GROUP

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PopCall:
    """What a member asks for.

    Attributes:
        queue_id: -1 for all queues.
        attempt_id: of an orderly pop; the same one gets the same messages again.
        skip_done: of an orderly pop: what is acknowledged of the last batch does not come again with what is not.
    """

    group: str
    topic: str
    queue_id: int
    max_nums: int
    invisible_ms: int
    message_filter: MessageFilter
    init_mode: int = ConsumeInitMode.MAX
    order: bool = False
    attempt_id: str | None = None
    skip_done: bool = False


class PoppedMessage(NamedTuple):
    """A message that is given out.

    Attributes:
        data: as it goes to consumers; one from the retry topic shows the topic popped, and its receipt in POP_CK.
        receipt: by what it is acknowledged.
        consumed_count: how often an orderly group got it before.
    """

    data: bytes
    receipt: ExtraInfo
    consumed_count: int = 0


class PopBatch(NamedTuple):
    """What one queue gave.

    Attributes:
        topic: in which the messages really lie.
        start_offset: from where the queue was read.
        order_info: of an orderly pop.
    """

    topic: str
    queue_id: int
    start_offset: int
    messages: list[PoppedMessage]
    order_info: OrderInfo | None = None


@dataclass(slots=True)
class PopResult:
    """What a pop found; nothing, perhaps.

    Attributes:
        pop_ms: when, wall ms.
        rest_num: about how many more messages there are.
        passed_over: how many the filter did not let through.
    """

    pop_ms: int
    invisible_ms: int
    revive_queue_id: int
    rest_num: int = 0
    passed_over: int = 0
    batches: list[PopBatch] = field(default_factory=list)
    _told: list[Callable[[bool], None]] = field(default_factory=list)

    def tell_written(self, written: bool) -> None:
        """Whoever writes the messages into a reply says, if it knows, whether that was written."""
        for tell in self._told:
            tell(written)

    @property
    def messages(self) -> list[PoppedMessage]:
        """All messages."""
        return [message for batch in self.batches for message in batch.messages]


class _Place(NamedTuple):
    """A queue as a group pops it."""

    group: str
    topic: str
    queue_id: int


@dataclass(frozen=True, slots=True)
class _Lease:
    pop_ms: int
    invisible_ms: int
    attempts: int
    suspended: bool
    due: tuple[int, int]  # when it ends, monotonic ms, and a number


class PopConsumerService:
    """Owner of the leases; on the loop's thread only.

    Args:
        table: of the leases of earlier runs.
        on_revived: told the group, the topic and the queue from which there is something to pop again.
        enable_retry_topic_v2: give back through the retry topics of the second form; those of the first are popped too.
    """

    def __init__(
        self,
        *,
        table: PopTable,
        commit_log: CommitLog,
        loop: Loop,
        clock: Clock,
        topics: TopicConfigManager,
        offsets: ConsumerOffsetManager,
        statuses: MessageStatusManager,
        broker_name: str,
        on_revived: Callable[[str, str, int], None],
        enable_retry_topic_v2: bool = False,
    ) -> None:
        self._commit_log = commit_log
        self._loop = loop
        self._clock = clock
        self._topics = topics
        self._offsets = offsets
        self._statuses = statuses
        self._broker_name = broker_name
        self._on_revived = on_revived
        self._enable_retry_topic_v2 = enable_retry_topic_v2
        self._orders = ConsumerOrderInfoManager(table, clock)
        self._lock_free_ms: dict[OrderKey, int] = {}  # for which moment a timer waits
        self._numbers = itertools.count()
        self._pops: defaultdict[tuple[str, str], int] = defaultdict(int)  # by group and topic
        self._leases: dict[_Place, dict[int, _Lease]] = {}
        self._due: SortedDict[tuple[int, int], tuple[_Place, int]] = SortedDict()
        self._reviving = False
        for row in table.leases():
            left_ms = row.pop_ms + row.invisible_ms - clock.wall_ms()
            # The wall clock may have been set back: no lease is longer than it was.
            self._lease(
                _Place(row.group, row.topic, row.queue_id), row.offset, row.pop_ms, row.invisible_ms,
                row.attempts, min(max(left_ms, 0), row.invisible_ms), suspended=bool(row.suspended),
            )  # fmt: skip

    def start(self) -> None:
        """Go on where the last run ended."""
        for key in self._orders.keys():  # noqa: SIM118 - no mapping
            self._await_lock_free(key)
        self._await_revival()

    # Leases.

    def _lease(
        self, place: _Place, offset: int, pop_ms: int, invisible_ms: int, attempts: int, left_ms: int,
        *, suspended: bool = False,
    ) -> LeaseRow:  # fmt: skip
        self._end_lease(place, offset)
        due = (self._clock.monotonic_ms() + left_ms, next(self._numbers))
        self._leases.setdefault(place, {})[offset] = _Lease(pop_ms, invisible_ms, attempts, suspended, due)
        self._due[due] = place, offset
        return LeaseRow(*place, offset, pop_ms, invisible_ms, attempts, int(suspended))

    def _end_lease(self, place: _Place, offset: int) -> None:
        leases = self._leases.get(place)
        lease = leases.pop(offset, None) if leases is not None else None
        if leases is None or lease is None:
            return
        del self._due[lease.due]
        if not leases:
            del self._leases[place]

    def inflight_num(self, group: str, topic: str, queue_id: int) -> int:
        """Leases on a queue."""
        return len(self._leases.get(_Place(group, topic, queue_id), ()))

    def _forget(self, place: _Place) -> list[Write]:
        """Forget what was given of a queue: the group goes on elsewhere."""
        offsets = list(self._leases.get(place, ()))
        for offset in offsets:
            self._end_lease(place, offset)
        return [delete_leases((*place, offset) for offset in offsets), self._orders.clear_block(OrderKey(*place))]

    def forget_topic(self, topic: str, stored: Stored) -> None:
        """Forget what was given of a topic that is deleted: one of the same name begins anew."""
        places = {place for place in (*self._leases, *self._orders.keys()) if place[1] == topic}
        writes = [write for place in places for write in self._forget(_Place(*place))]
        if writes:
            self._commit_log.write(writes, stored)
        else:
            stored(None)

    def first_needed(self, key: QueueKey) -> int | None:
        """The first message of a queue that is leased."""
        return min((min(offsets) for place, offsets in self._leases.items() if place[1:] == key), default=None)

    # Pop.

    def pop(self, call: PopCall, done: Callable[[PopResult, StoreError | None], None]) -> None:
        """Take what there is now.

        Args:
            call: what is wanted.
            done: called with the messages once their leases are on the disk, or at once when there are none.

        Raises:
            StoreError: the store cannot be read.
        """
        result = PopResult(self._clock.wall_ms(), call.invisible_ms, 0)
        writes: list[Write] = []  # what is noted in memory already
        try:
            self._take(call, result, writes)
        except RocketMQError:
            if writes:
                self._commit_log.write(writes, _ignore)
            raise
        if result.batches:
            self._commit_log.write(writes, lambda error: done(result, error))
            self._await_revival()
        else:
            if writes:
                self._commit_log.write(writes, _ignore)
            done(result, None)

    def _take(self, call: PopCall, result: PopResult, writes: list[Write]) -> None:
        if len(self._pops) >= POPS_MAX_COUNT:
            self._pops.clear()
        number = self._pops[call.group, call.topic]
        self._pops[call.group, call.topic] = number + 1
        result.revive_queue_id = POP_ORDER_REVIVE_QUEUE if call.order else number % REVIVE_QUEUE_NUM
        queues = self._queues(call, number)
        retries = [] if call.order else [QueueKey(topic, 0) for topic in self.retry_topics(call.group, call.topic)]
        for key in [*retries, *queues] if number % RETRY_EVERY == 0 else [*queues, *retries]:
            try:
                self._take_from(key, call, result, writes)
            except RocketMQError as error:
                if not result.batches:
                    raise
                _log.warning("group %s: popping %s failed, the others go out: %s", call.group, key, error)

    def _queues(self, call: PopCall, number: int) -> list[QueueKey]:
        if call.queue_id >= 0:
            return [QueueKey(call.topic, call.queue_id)]
        config = self._topics.topic(call.topic)
        count = 0 if config is None else config.readQueueNums
        if config is not None and config.attributes.get(MESSAGE_TYPE) == "PRIORITY" and self._looks_at_priority(call):
            # A queue's number is its priority.
            return [QueueKey(call.topic, queue_id) for queue_id in reversed(range(count))]
        return [QueueKey(call.topic, (number + index) % count) for index in range(count)]

    def _looks_at_priority(self, call: PopCall) -> bool:
        """Source: PopMessageProcessor, SubscriptionGroupConfig.getPriorityFactor."""
        group = self._topics.group(call.group)
        factor = 100 if group is None else int(group.attributes.get(PRIORITY_FACTOR, 100))
        return not call.order and random.randrange(100) < factor

    def retry_topics(self, group: str, topic: str) -> list[str]:
        """Existing topics through which a group's messages of a topic come back."""
        wanted = [names.pop_retry_topic_v1(group, topic)]
        if self._enable_retry_topic_v2:
            wanted.append(names.pop_retry_topic_v2(group, topic))
        return [each for each in wanted if self._topics.topic(each) is not None]

    def _take_from(self, key: QueueKey, call: PopCall, result: PopResult, writes: list[Write]) -> None:
        place = _Place(call.group, *key)
        if self._offsets.query_then_erase_reset_offset(call.group, key) is not None:
            writes += self._forget(place)
        if call.order:
            if self._orders.check_block(call.attempt_id, OrderKey(*place)):
                return  # what is behind does not count as the rest: nobody gets it now
        elif self.inflight_num(*place) >= INFLIGHT_MAX_COUNT or len(self._due) >= LEASES_MAX_COUNT:
            _log.warning("group %s: too much of %s is popped and not acknowledged, it waits", call.group, key)
            return
        start, began = self._pop_offset(place, key, call.init_mode)
        writes += began
        wanted = call.max_nums - len(result.messages)
        if wanted <= 0 or result.passed_over >= PASSED_OVER_MAX_COUNT:
            result.rest_num += self._commit_log.max_offset(key) - start
            return
        found = get_message(self._commit_log, key, start, wanted, call.message_filter)
        if found.code == ResponseCode.PULL_OFFSET_MOVED or found.status == "OFFSET_FOUND_NULL":
            start = found.next_begin_offset
            writes.append(self._offsets.commit_with(call.group, key, start))
            found = get_message(self._commit_log, key, start, wanted, call.message_filter)
        if not found.messages:
            if found.next_begin_offset != start:  # passed over: nobody of the group wants it
                writes.append(self._offsets.commit_with(call.group, key, found.next_begin_offset))
        elif call.order:
            writes += self._take_in_order(place, call, result, start, found.messages)
        else:
            writes.append(self._offsets.commit_with(call.group, key, found.next_begin_offset))
            writes.append(
                put_leases(
                    self._lease(place, offset, result.pop_ms, call.invisible_ms, 0, call.invisible_ms)
                    for offset, _ in found.messages
                )
            )
            messages = [self._popped(call, key, result, start, offset, data) for offset, data in found.messages]
            result.batches.append(PopBatch(*key, start, messages))
            self._note_given(call.group, key, result, found.messages)
        result.passed_over += found.next_begin_offset - start - len(found.messages)
        result.rest_num += self._commit_log.max_offset(key) - found.next_begin_offset

    def _pop_offset(self, place: _Place, key: QueueKey, init_mode: int) -> tuple[int, list[Write]]:
        """Where a queue goes on. Source: PopMessageProcessor.getPopOffset, getInitOffset."""
        offset = self._offsets.query_offset(place.group, key)
        if offset >= 0:
            return offset, []
        low, high = self._commit_log.min_offset(key), self._commit_log.max_offset(key)
        if init_mode == ConsumeInitMode.MIN or key.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX) or low <= 0:
            offset = low  # a young queue is popped from its beginning, whatever was asked for
        else:
            offset = max(high - 1, 0)
        return offset, [self._offsets.commit_with(place.group, key, offset)]

    def _take_in_order(
        self, place: _Place, call: PopCall, result: PopResult, start: int, found: list[tuple[int, bytes]]
    ) -> list[Write]:
        key = QueueKey(place.topic, place.queue_id)
        info, write = self._orders.update(
            call.attempt_id, OrderKey(*place), result.pop_ms, call.invisible_ms, [offset for offset, _ in found],
            skip_done=call.skip_done,
        )  # fmt: skip
        done = {info.offsets[index] for index in info.acked}
        given = [each for each in found if each[0] not in done]
        messages = [
            self._popped(call, key, result, start, offset, data, info.consumed_count.get(offset, 0))
            for offset, data in given
        ]
        if not messages:  # what is not done of the last batch is filtered out now
            return [write, self._offsets.commit_with(call.group, key, info.next_offset())]
        result.batches.append(PopBatch(*key, start, messages, info))
        self._note_given(call.group, key, result, given)
        self._await_lock_free(OrderKey(*place))
        return [write, self._offsets.commit_with(call.group, key, start)]

    def _note_given(self, group: str, key: QueueKey, result: PopResult, messages: Sequence[tuple[int, bytes]]) -> None:
        tell = self._statuses.given(group, key, messages)
        if tell is not None:
            result._told.append(tell)

    def _popped(
        self, call: PopCall, key: QueueKey, result: PopResult, start: int, offset: int, data: bytes, count: int = 0
    ) -> PoppedMessage:
        retry = retry_of(key.topic)
        receipt = ExtraInfo(
            start, result.pop_ms, call.invisible_ms, result.revive_queue_id, retry, self._broker_name,
            key.queue_id, offset,
        )  # fmt: skip
        if key.topic != call.topic:
            data = _renamed(data, call.topic, receipt)
        return PoppedMessage(data, receipt, count)

    # What becomes of popped messages.

    def ack(self, group: str, topic: str, receipt: ExtraInfo, stored: Stored) -> None:
        """A message is done. One that is done already, or came back meanwhile, is no error.

        Args:
            group: that it was given to.
            topic: in which it really lies.
            receipt: by which it was given out.
            stored: called when that is on the disk.

        Raises:
            BrokerError: there is no such message, or it never was given out.
        """
        place = self._checked(group, topic, receipt, after_end=True)
        writes = self._acked(place, receipt)
        if writes:
            self._commit_log.write(writes, stored)
        else:
            stored(None)

    def _acked(self, place: _Place, receipt: ExtraInfo) -> list[Write]:
        if receipt.revive_queue_id == POP_ORDER_REVIVE_QUEUE:
            return self._ack_orderly(OrderKey(*place), receipt)
        if not self._is_leased(place, receipt):
            return []
        self._end_lease(place, receipt.queue_offset)
        self._statuses.settled(place.group, QueueKey(place.topic, place.queue_id), receipt.queue_offset)
        return [delete_leases([(*place, receipt.queue_offset)])]

    def ack_batch(self, group: str, topic: str, receipts: Iterable[ExtraInfo], stored: Stored) -> BrokerError | None:
        """Many at once; those that are not there are left out. Why one of an orderly pop cannot be, if so."""
        writes: list[Write] = []
        refused = None
        for receipt in receipts:
            key = QueueKey(topic, receipt.queue_id)
            if self._commit_log.min_offset(key) <= receipt.queue_offset <= self._commit_log.max_offset(key):
                try:
                    writes += self._acked(_Place(group, *key), receipt)
                except BrokerError as error:
                    refused = error
        if writes:
            self._commit_log.write(writes, stored)
        else:
            stored(None)
        return refused

    def _ack_orderly(self, key: OrderKey, receipt: ExtraInfo) -> list[Write]:
        """Source: AckMessageProcessor.ackOrderly."""
        queue = QueueKey(key.topic, key.queue_id)
        if receipt.queue_offset < self._offsets.query_offset(key.group, queue):
            return []
        next_offset, write = self._orders.commit_and_next(key, receipt.queue_offset, receipt.pop_time)
        if next_offset == ILLEGAL_OFFSET:
            raise BrokerError(
                ResponseCode.MESSAGE_ILLEGAL,
                f"offset is illegal, key:{key.group} {key.topic} {key.queue_id}, commit:{receipt.queue_offset}",
            )
        self._statuses.settled(key.group, queue, receipt.queue_offset)
        if next_offset < 0:
            return []
        if not self._orders.check_block(None, key):
            self._on_revived(*key)
        else:
            self._await_lock_free(key)
        writes = [] if write is None else [write]
        if not self._offsets.has_offset_reset(key.group, queue):
            writes.append(self._offsets.commit_with(key.group, queue, next_offset))
        return writes

    def change_invisible_time(
        self,
        group: str,
        topic: str,
        receipt: ExtraInfo,
        invisible_ms: int,
        stored: Stored,
        *,
        suspend: bool = False,
        put_off: bool = True,
    ) -> ExtraInfo:
        """A message comes back after so many ms from now on, if it is not acknowledged before; its new receipt.

        With ``suspend``, that it comes back does not count as a failed delivery. Without ``put_off`` it is not its
        consumer who wants it later, and its status stays.

        Raises:
            BrokerError: it is not leased by this receipt (any more).

        Source: changeInvisibilityDuration, processChangeInvisibleTimeForOrder.
        """
        place = self._checked(group, topic, receipt, after_end=False)
        now_ms = self._clock.wall_ms()
        if receipt.revive_queue_id == POP_ORDER_REVIVE_QUEUE:
            write = self._orders.update_next_visible_time(
                OrderKey(*place), receipt.queue_offset, receipt.pop_time, now_ms + invisible_ms, suspend
            )
            self._await_lock_free(OrderKey(*place))
            if put_off:
                self._statuses.put_off(group, QueueKey(topic, receipt.queue_id), receipt.queue_offset)
            self._commit_log.write([write] if write else [], stored)
            return receipt._replace(invisible_time=now_ms + invisible_ms - receipt.pop_time)
        if not self._is_leased(place, receipt):
            raise BrokerError(
                ResponseCode.NO_MESSAGE,
                f"the message at {receipt.queue_offset} of {topic} queue {receipt.queue_id} is not leased by this "
                "receipt: it was acknowledged, put off, or its time was over and it comes again",
            )
        row = self._lease(place, receipt.queue_offset, now_ms, invisible_ms, 0, invisible_ms, suspended=suspend)
        if put_off:
            self._statuses.put_off(group, QueueKey(topic, receipt.queue_id), receipt.queue_offset)
        self._commit_log.write([put_leases([row])], stored)
        self._await_revival()
        return receipt._replace(pop_time=now_ms, invisible_time=invisible_ms)

    def _checked(self, group: str, topic: str, receipt: ExtraInfo, *, after_end: bool) -> _Place:
        config = self._topics.topic(topic)
        if config is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist, apply first please!")
        if not 0 <= receipt.queue_id < config.readQueueNums:
            raise BrokerError(
                ResponseCode.MESSAGE_ILLEGAL,
                f"queueId[{receipt.queue_id}] is illegal, topic:[{topic}] "
                f"topicConfig.readQueueNums:[{config.readQueueNums}]",
            )
        key = QueueKey(topic, receipt.queue_id)
        low, high = self._commit_log.min_offset(key), self._commit_log.max_offset(key)
        if not low <= receipt.queue_offset < high + after_end:
            raise BrokerError(
                ResponseCode.NO_MESSAGE,
                f"offset is illegal, key:{topic}@{receipt.queue_id}, commit:{receipt.queue_offset}, store:{low}~{high}",
            )
        return _Place(group, *key)

    def _is_leased(self, place: _Place, receipt: ExtraInfo) -> bool:
        lease = self._leases.get(place, {}).get(receipt.queue_offset)
        return lease is not None and lease.pop_ms == receipt.pop_time and lease.invisible_ms == receipt.invisible_time

    def is_held(self, group: str, topic: str, receipt: ExtraInfo) -> bool:
        """Whether a message is given out by this receipt, and neither done nor given back."""
        if receipt.revive_queue_id == POP_ORDER_REVIVE_QUEUE:
            key = OrderKey(group, topic, receipt.queue_id)
            return self._orders.is_held(key, receipt.queue_offset, receipt.pop_time)
        return self._is_leased(_Place(group, topic, receipt.queue_id), receipt)

    def receipt_counts(self, group: str, topic: str, receipt: ExtraInfo) -> bool:
        """Whether a message is given out by this receipt still; of an orderly pop also, whether it is done."""
        place = _Place(group, topic, receipt.queue_id)
        if receipt.revive_queue_id != POP_ORDER_REVIVE_QUEUE:
            return self._is_leased(place, receipt)
        if receipt.queue_offset < self._offsets.query_offset(group, QueueKey(topic, receipt.queue_id)):
            return True
        return self._orders.is_last_batch(OrderKey(*place), receipt.pop_time)

    def has_message(self, group: str, key: QueueKey, *, order: bool, attempt_id: str | None) -> bool:
        """Whether a pop of a queue would find something, filters aside. Source: NotificationProcessor."""
        if order and self._orders.check_block(attempt_id, OrderKey(group, *key)):
            return False
        offset = self._offsets.query_offset(group, key)
        return self._commit_log.max_offset(key) > (offset if offset >= 0 else self._commit_log.min_offset(key))

    # Orderly groups: the end of a block.

    def _await_lock_free(self, key: OrderKey) -> None:
        """Wake who waits when a queue's last batch comes back. Source: ConsumerOrderInfoLockManager."""
        free_ms = self._orders.lock_free_ms(key)
        if free_ms is None or self._lock_free_ms.get(key, free_ms + 1) <= free_ms:
            return  # the timer that is set looks again
        self._lock_free_ms[key] = free_ms
        self._loop.call_later(free_ms - self._clock.wall_ms(), lambda: self._lock_is_free(key, free_ms))

    def _lock_is_free(self, key: OrderKey, free_ms: int) -> None:
        if self._lock_free_ms.get(key) != free_ms:
            return  # another timer was set for an earlier moment
        del self._lock_free_ms[key]
        if self._orders.check_block(None, key):
            self._await_lock_free(key)
        else:
            self._on_revived(*key)

    # Revival.

    def _await_revival(self) -> None:
        if self._due and not self._reviving:
            self._reviving = True
            self._loop.call_later(REVIVE_INTERVAL_MS, self._revive)

    def _revive(self) -> None:
        """Store messages again whose time is over."""
        self._reviving = False
        now_ms = self._clock.monotonic_ms()
        due = list(itertools.islice(self._due.irange(maximum=(now_ms + 1,), inclusive=(True, False)), REVIVE_MAX_COUNT))
        for each in due:
            place, offset = self._due[each]
            self._give_back(place, offset, self._leases[place][offset])
        if len(due) == REVIVE_MAX_COUNT:
            self._reviving = True
            self._loop.call_soon(self._revive)
        else:
            self._await_revival()

    def _give_back(self, place: _Place, offset: int, lease: _Lease) -> None:
        topic = place.topic
        if topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
            topic = names.normal_topic(place.group, topic) or topic
        ended = delete_leases([(*place, offset)])

        def stored(error: StoreError | None) -> None:
            if error is None:
                self._on_revived(place.group, topic, place.queue_id)

        try:
            message = self._retried(place, offset, lease)
            is_wanted = self._topics.topic(topic) is not None and self._topics.group(place.group) is not None
            if message is not None and is_wanted:
                self._put_again(message, stored, ended)
            else:
                _log.warning("offset %s of %s was popped, and is deleted or nobody's now", offset, place.topic)
                self._commit_log.write([ended], _ignore)
        except (RocketMQError, struct.error) as error:  # one that cannot come back must not keep the others
            self._try_again(place, offset, lease, error)
        else:
            self._end_lease(place, offset)
            self._statuses.invisible_no_more(place.group, QueueKey(place.topic, place.queue_id), offset)

    def _put_again(self, message: MessageInner, stored: Stored, ended: Write) -> None:
        try:
            self._commit_log.put([message], stored, [ended])
        except ConfigError:  # the stamps of the pop make its properties too long
            without = {name: text for name, text in message.properties.items() if name not in _STAMPS}
            self._commit_log.put([replace(message, properties=without)], stored, [ended])

    def _try_again(self, place: _Place, offset: int, lease: _Lease, error: Exception) -> None:
        if lease.attempts >= REVIVE_MAX_ATTEMPTS:
            _log.error("offset %s of %s does not come back, it cannot be read: %s", offset, place.topic, error)
            self._end_lease(place, offset)
            self._commit_log.write([delete_leases([(*place, offset)])], _ignore)
            return
        _log.warning("offset %s of %s cannot be read, it is tried again: %s", offset, place.topic, error)
        after_ms = lease.invisible_ms + REWRITE_INTERVALS_MS[min(lease.attempts, len(REWRITE_INTERVALS_MS) - 1)]
        row = self._lease(
            place, offset, self._clock.wall_ms(), after_ms, lease.attempts + 1, after_ms, suspended=lease.suspended
        )
        self._commit_log.write([put_leases([row])], _ignore)

    def _retried(self, place: _Place, offset: int, lease: _Lease) -> MessageInner | None:
        """The message as it is stored again. Source: reviveRetry of PopConsumerService and PopReviveService."""
        key = QueueKey(place.topic, place.queue_id)
        if not self._commit_log.min_offset(key) <= offset < self._commit_log.max_offset(key):
            return None
        rows = self._commit_log.read(key, offset, 1)
        topic = place.topic
        if not topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
            retry_topic = names.pop_retry_topic_v2 if self._enable_retry_topic_v2 else names.pop_retry_topic_v1
            topic = retry_topic(place.group, topic)
        self._topics.ensure_topic(topic, RETRY_QUEUES)
        stored = decode_stored(rows[0][1])
        head, properties = stored.head, stored.properties
        if head.reconsume_times == 0 or MessageConst.FIRST_POP_TIME not in properties:
            properties[MessageConst.FIRST_POP_TIME] = str(lease.pop_ms)
        properties[MessageConst.ORIGIN_GROUP] = place.group
        return MessageInner(
            topic, 0, stored.body, properties, head.flag, head.sys_flag, head.born_timestamp, head.born_host,
            min(head.reconsume_times + (not lease.suspended), INT_MAX),
        )  # fmt: skip


def _renamed(data: bytes, topic: str, receipt: ExtraInfo) -> bytes:
    """A message of the retry topic as consumers see it. Source: PopMessageProcessor.popMsgFromQueue."""
    stored = decode_stored(data)
    properties = {MessageConst.POP_CK: str(receipt), **stored.properties}
    try:
        return encode_stored(stored.head, topic, stored.body, format_properties(properties))
    except ConfigError:  # no room for the receipt: clients make it from the answer's fields, by the retry topic
        return data


def _ignore(error: StoreError | None) -> None:
    """When the store has failed, everybody is told at the next request."""
