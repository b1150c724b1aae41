"""What has become of every message for every group: told by the processors, stored soon, shown to whoever asks.

A processor tells facts: given, written, sent back, acknowledged, passed. They are noted in memory at once and stored
after a second, in one transaction with the messages of that moment: nothing waits for them but an explicit
acknowledgement. A crash takes the last second; what was being written then counts as broken.

A message that failed is stored again, in the group's retry topic. It is the same message: what happens to the copy is
told of the first one, the origin, in the queue that it was sent to.

Not in Java. Why runs and not rows: ``status_runs``. Behaviour: SM-05 to SM-12.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from rocketmq_py.broker.commit_log import CommitLog, Stored
from rocketmq_py.broker.consumer_manager import BROADCASTING, ConsumerManager
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.status_runs import Run, StatusRuns
from rocketmq_py.broker.store import QueueKey, Write
from rocketmq_py.broker.store.status_table import (
    HistoryRow,
    StatusRow,
    StatusTable,
    add_history,
    delete_history_of,
    delete_statuses,
    keep_history,
    put_statuses,
)
from rocketmq_py.broker.topic_config import SYSTEM_TOPICS, TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import ProtocolError, RocketMQError, StoreError
from rocketmq_py.model import names
from rocketmq_py.model.message import MessageConst, unpack_host
from rocketmq_py.model.message_status import Fact, MessageStatus
from rocketmq_py.remoting.message_codec import StoredMessage, decode_message_id, decode_stored

ATTRIBUTE = "message.status"
"""Of a topic, ``true`` or ``false``: whether its messages' statuses are kept; without it the broker's default holds."""

FLUSH_INTERVAL_MS = 1_000
SWEEP_INTERVAL_MS = 60_000
"""How often what belongs to deleted messages is forgotten."""

PENDING_MAX_COUNT = 4_000
"""Changes that wait to be stored; from here on they are stored at once."""

RUNS_MAX_COUNT = 500_000
"""Runs of all queues and groups; above, the lowest of the longest are forgotten. About 100 MB."""

HISTORY_MAX_COUNT = 2_000_000
"""Rows of the history; older ones are forgotten."""

RETRIES_PASSED_MAX_COUNT = 10_000
"""Retried messages that are looked at when a committed offset passes them, or when a member acknowledges them."""

RUNS_SLICE_COUNT = 250
"""Runs that a fact changes in one go: others must not wait long behind them."""

SLICE_COUNT = 32
"""Retried messages that are read in one go."""

FIND_TOPICS_COUNT = 16
"""Topics that are searched for an id in one go: with a million ids that takes 10 ms."""

COPIES_MAX_COUNT = 32
"""Messages with the same id that are told of: a producer that sends again makes another one."""

Found = Callable[[list[StoredMessage], RocketMQError | None], None]

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a message was sent to."""

    key: QueueKey
    offset: int


class Told(NamedTuple):
    """How one message stands for one group.

    Attributes:
        passed: the group's committed offset is behind it, whatever became of it.
        history: every change that is known, in order; of very many not the oldest.
    """

    group: str
    status: MessageStatus
    attempt: int
    passed: bool
    history: Sequence[HistoryRow]


class MessageStatusManager:
    """Owner of all statuses; on the loop's thread only.

    Args:
        default: whether topics without the attribute are looked after.
    """

    def __init__(
        self,
        *,
        table: StatusTable,
        commit_log: CommitLog,
        topics: TopicConfigManager,
        consumers: ConsumerManager,
        offsets: ConsumerOffsetManager,
        loop: Loop,
        clock: Clock,
        default: bool,
    ) -> None:
        self._table = table
        self._commit_log = commit_log
        self._topics = topics
        self._consumers = consumers
        self._offsets = offsets
        self._loop = loop
        self._clock = clock
        self._default = default
        self._runs: dict[tuple[str, QueueKey], StatusRuns] = {}
        self._history: list[HistoryRow] = []
        self._changed: set[tuple[str, QueueKey]] = set()
        self._flush_is_due = False
        self._passing: dict[tuple[str, QueueKey], int] = {}  # up to which offset, while that takes several goes

    def start(self) -> None:
        """Go on where the last run ended: what was being written then was not. Raises ``StoreError``."""
        found: dict[tuple[str, QueueKey], list[Run]] = {}
        for row in self._table.statuses():
            run = Run(row.first, row.end, MessageStatus(row.status), row.attempt)
            found.setdefault((row.consumer_group, QueueKey(row.topic, row.queue_id)), []).append(run)
        self._runs = {where: StatusRuns(runs) for where, runs in found.items()}
        for (group, key), runs in self._runs.items():
            for run in [run for run in runs if run.status is MessageStatus.TO_CONSUMER_PROCESS]:
                self._note(group, key, runs.apply(Fact.BROKEN, run.first, run.end))
        self._loop.call_later(SWEEP_INTERVAL_MS, self._sweep)

    # What is looked after.

    def is_on(self, topic: str) -> bool:
        """Whether the statuses of a topic's messages are kept."""
        config = self._topics.topic(topic)
        if config is None or topic in SYSTEM_TOPICS:
            return False
        text = config.attributes.get(ATTRIBUTE)
        return self._default if text is None else text == "true"

    def is_on_for(self, topics: Iterable[str]) -> bool:
        """Whether a member that wants these topics should acknowledge statuses."""
        return any(self.is_on(topic) for topic in topics)

    def _is_kept(self, group: str, key: QueueKey) -> bool:
        # A retried message has been given before.
        wanted = bool(self._runs) if _is_retry(key.topic) else self.is_on(key.topic)
        if not wanted or group in _NOBODYS:
            return False
        info = self._consumers.group(group)
        return info is None or info.message_model != BROADCASTING  # each member's consumption is its own

    # Facts.

    def given(self, group: str, key: QueueKey, messages: Sequence[tuple[int, bytes]]) -> Callable[[bool], None] | None:
        """Messages, by offset and bytes, are put into a reply.

        Returns:
            What must be told whether the reply was written; None when it interests nobody.
        """
        if not messages or not self._is_kept(group, key):
            return None
        places = list(self._places(group, key, messages))
        self._apply(Fact.GIVEN, group, places)
        return lambda written: self._apply(Fact.WRITTEN if written else Fact.BROKEN, group, places)

    def sent_back(self, group: str, data: bytes, *, dead: bool) -> None:
        """A stored message is stored again for later, or in the dead-letter queue."""
        if self._default or self._runs:
            message = decode_stored(data)
            place = self._origin(group, message)
            if place is not None and self._is_kept(group, place.key):
                self._apply(Fact.DEAD if dead else Fact.SENT_BACK, group, [_span(place)])

    def resent(self, group: str, properties: Mapping[str, str], *, dead: bool) -> None:
        """A message was sent to a retry topic as any other, by a consumer that had failed it."""
        if self._default or self._runs:
            place = self._origin_by(properties.get(MessageConst.RETRY_TOPIC, ""), properties)
            if place is not None:
                self._apply(Fact.DEAD if dead else Fact.SENT_BACK, group, [_span(place)])

    def settled(self, group: str, key: QueueKey, offset: int) -> None:
        """A popped message was acknowledged by its receipt."""
        self._tell_of_one(Fact.SETTLED, group, key, offset)

    def put_off(self, group: str, key: QueueKey, offset: int) -> None:
        """The invisible time of a popped message was changed."""
        self._tell_of_one(Fact.SENT_BACK, group, key, offset)

    def invisible_no_more(self, group: str, key: QueueKey, offset: int) -> None:
        """The invisible time of a popped message ran out."""
        self._tell_of_one(Fact.INVISIBLE_NO_MORE, group, key, offset)

    def _tell_of_one(self, fact: Fact, group: str, key: QueueKey, offset: int) -> None:
        if self._is_kept(group, key):
            self._apply(fact, group, self._places(group, key, self._read(key, offset, 1)))

    def _read(self, key: QueueKey, offset: int, count: int) -> Sequence[tuple[int, bytes]]:
        """Messages of which something is to be noted; none if they cannot be read: nobody else suffers for it."""
        try:
            return self._commit_log.read(key, offset, count)
        except StoreError as error:
            _log.error("statuses of messages from offset %s of %s on stay as they are: %s", offset, key, error)
            return []

    def acknowledged(
        self, group: str, spans: Iterable[tuple[QueueKey, int, int]], done: Callable[[], None] = lambda: None
    ) -> None:
        """A consumer has consumed messages: queue, first offset, one past the last; ``done``: that is noted."""
        self._acknowledge_some(group, self._acknowledging(group, spans), done)

    def _acknowledge_some(self, group: str, goes: Iterator[int], done: Callable[[], None]) -> None:
        left = RUNS_SLICE_COUNT
        while left > 0:
            count = next(goes, None)
            if count is None:
                done()
                return
            left -= count
        self._loop.call_soon(lambda: self._acknowledge_some(group, goes, done))

    def _acknowledging(self, group: str, spans: Iterable[tuple[QueueKey, int, int]]) -> Iterator[int]:
        """Each step notes some, and says how much work that was, in runs."""
        left = RETRIES_PASSED_MAX_COUNT  # of all spans together: they may be many, and the same
        for key, first, end in spans:
            at, end_at = max(first, self._commit_log.min_offset(key)), min(end, self._commit_log.max_offset(key))
            if at >= end_at or not self._is_kept(group, key):
                continue
            if not _is_retry(key.topic):
                while at < end_at:
                    runs = self._runs.get((group, key))
                    until = end_at if runs is None else runs.end_of_some(at, end_at, RUNS_SLICE_COUNT)
                    self._apply(Fact.ACKNOWLEDGED, group, [(key, at, until)])
                    at = until
                    yield 1 if at == end_at else RUNS_SLICE_COUNT
                continue
            at = max(at, end_at - left)
            while rows := self._read(key, at, min(SLICE_COUNT, end_at - at)) if at < end_at else []:
                self._apply(Fact.ACKNOWLEDGED, group, self._places(group, key, rows))
                at += len(rows)
                left -= len(rows)
                yield RUNS_SLICE_COUNT // 4

    def passed(self, group: str, key: QueueKey, before: int, offset: int) -> None:
        """A member commits an offset; ``before``: the one committed until now, -1 for none."""
        if not self._is_kept(group, key):
            return
        if _is_retry(key.topic):
            lowest = max(before, self._commit_log.min_offset(key), offset - RETRIES_PASSED_MAX_COUNT)
            self._pass_retries(group, key, lowest, offset)
            return
        where = group, key
        is_passing = where in self._passing
        self._passing[where] = max(offset, self._passing.get(where, 0))
        if not is_passing:
            self._pass_some(group, key)

    def _pass_some(self, group: str, key: QueueKey) -> None:
        end, runs = self._passing.pop((group, key)), self._runs.get((group, key))
        if runs is None:
            return
        until = runs.end_of_some(runs.delivered_from, end, RUNS_SLICE_COUNT)
        self._note(group, key, runs.passed(until))
        if until < end:
            self._passing[group, key] = end
            self._loop.call_soon(lambda: self._pass_some(group, key))

    def _pass_retries(self, group: str, key: QueueKey, first: int, end: int) -> None:
        if first >= end:
            return
        rows = self._read(key, first, min(SLICE_COUNT, end - first))
        self._apply(Fact.PASSED, group, self._places(group, key, rows))
        if rows:
            self._loop.call_soon(lambda: self._pass_retries(group, key, first + len(rows), end))

    # From messages to places.

    def _places(
        self, group: str, key: QueueKey, messages: Sequence[tuple[int, bytes]]
    ) -> Iterator[tuple[QueueKey, int, int]]:
        """The spans that messages of a queue are; of retried ones the places of their origins."""
        if _is_retry(key.topic):
            for _, data in messages:
                place = self._origin(group, decode_stored(data))
                if place is not None:
                    yield _span(place)
            return
        first = messages[0][0] if messages else 0
        for (offset, _), (following, _) in pairwise([*messages, (-1, b"")]):
            if following != offset + 1:
                yield key, first, offset + 1
                first = following

    def _origin(self, group: str, message: StoredMessage) -> Place | None:
        """Where a message was sent to; None when nobody knows any more or wants to know."""
        if _is_retry(message.topic):
            topic = message.properties.get(MessageConst.RETRY_TOPIC) or names.normal_topic(group, message.topic) or ""
            return self._origin_by(topic, message.properties)
        return Place(QueueKey(message.topic, message.head.queue_id), message.head.queue_offset)

    def _origin_by(self, topic: str, properties: Mapping[str, str]) -> Place | None:
        """By what a retried message tells: the broker's id of the first one, or the producer's."""
        if not self.is_on(topic):
            return None
        try:
            return self._by_ids(topic, properties)
        except StoreError as error:
            _log.error("the first copy of a retried message cannot be found: %s", error)
            return None

    def _by_ids(self, topic: str, properties: Mapping[str, str]) -> Place | None:
        origin = self._by_offset_id(properties.get(MessageConst.ORIGIN_MESSAGE_ID, ""))
        if origin is not None and origin.topic == topic:
            return _place(origin)
        unique = properties.get(MessageConst.UNIQ_KEY)
        return next((_place(message) for message in self._by_unique_id(topic, unique)), None) if unique else None

    def _by_offset_id(self, text: str) -> StoredMessage | None:
        try:
            host, port, offset = decode_message_id(text)
        except ProtocolError:
            return None
        if (host, port) != unpack_host(self._commit_log.store_host):
            return None  # a producer's id looks alike
        data = self._commit_log.look_message_by_offset(offset)
        return None if data is None else decode_stored(data)

    def _by_unique_id(self, topic: str, unique: str) -> list[StoredMessage]:
        found = self._commit_log.query_message(topic, unique, COPIES_MAX_COUNT, 0, self._clock.wall_ms() + 1)
        messages = [decode_stored(data) for data in found]
        return [message for message in messages if message.properties.get(MessageConst.UNIQ_KEY) == unique]

    # Noting and storing.

    def _apply(self, fact: Fact, group: str, spans: Iterable[tuple[QueueKey, int, int]]) -> None:
        for key, first, end in spans:
            runs = self._runs.get((group, key))
            if runs is None:
                if fact is Fact.PASSED:
                    continue
                runs = self._runs[group, key] = StatusRuns()
            self._note(group, key, runs.apply(fact, first, end))

    def _note(self, group: str, key: QueueKey, changes: Collection[Run]) -> None:
        if not changes:
            return
        now_ms = self._clock.wall_ms()
        self._history += [
            HistoryRow(group, *key, run.first, run.end, run.status.value, run.attempt, now_ms) for run in changes
        ]
        self._note_changed(group, key)
        if len(self._history) >= PENDING_MAX_COUNT:
            self.flush()

    def _note_changed(self, group: str, key: QueueKey) -> None:
        self._changed.add((group, key))
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_later(FLUSH_INTERVAL_MS, self.flush)

    def flush(self, stored: Stored | None = None) -> None:
        """Store what has changed; ``stored`` is called when it, and all before it, is on the disk."""
        self._flush_is_due = False
        changed = {where: self._runs[where].take_changed() for where in self._changed if where in self._runs}
        self._changed = set()
        history, self._history = self._history, []
        if not changed and not history and stored is None:
            return

        def done(error: StoreError | None) -> None:
            if error is not None:  # the history is lost, how things stand is not
                for where, firsts in changed.items():
                    if where in self._runs:
                        self._runs[where].changed |= firsts
                        self._note_changed(*where)
            if stored is not None:
                stored(error)

        self._commit_log.write([*self._writes(changed), add_history(history)], done)

    def _writes(self, changed: Mapping[tuple[str, QueueKey], Collection[int]]) -> Iterator[Write]:
        gone: list[tuple[str, str, int, int]] = []
        rows: list[StatusRow] = []
        for (group, key), firsts in changed.items():
            for first in firsts:
                run = self._runs[group, key].get(first)
                if run is None:
                    gone.append((group, *key, first))
                else:
                    rows.append(StatusRow(group, *key, run.first, run.end, run.status.value, run.attempt))
        yield delete_statuses(gone)
        yield put_statuses(rows)

    # Forgetting.

    def forget_topic(self, topic: str) -> None:
        """A topic is deleted: one of the same name has other messages."""
        self._forget({key for _, key in self._runs if key.topic == topic})

    def forget_group(self, group: str) -> None:
        """A group is deleted. What its history says goes with the messages."""
        for (name, key), runs in self._runs.items():
            if name == group:
                runs.forget_below(_NO_MORE)
                self._note_changed(group, key)

    def _sweep(self) -> None:
        """Forget what belongs to messages that are no more, and what is too much."""
        self._loop.call_later(SWEEP_INTERVAL_MS, self._sweep)
        self._forget({key for _, key in self._runs})
        self._commit_log.write([keep_history(HISTORY_MAX_COUNT)], _ignore)

    def _forget(self, keys: Collection[QueueKey]) -> None:
        below = {key: self._lowest(key) for key in keys}
        for (group, key), runs in self._runs.items():
            runs.forget_below(below.get(key, 0))
            if runs.changed:
                self._note_changed(group, key)
        surplus = sum(len(runs) for runs in self._runs.values()) - RUNS_MAX_COUNT
        while surplus > 0:
            surplus -= self._forget_some(surplus)
        self.flush()
        self._runs = {where: runs for where, runs in self._runs.items() if runs}
        self._commit_log.write([delete_history_of(key, offset) for key, offset in below.items() if offset], _ignore)

    def _lowest(self, key: QueueKey) -> int:
        return _NO_MORE if self._topics.topic(key.topic) is None else self._commit_log.min_offset(key)

    def _forget_some(self, surplus: int) -> int:
        (group, key), runs = max(self._runs.items(), key=lambda item: len(item[1]))
        count = min(surplus, len(runs))
        _log.warning("group %s: the statuses of the first messages of %s are forgotten, there are too many", group, key)
        for _ in range(count):
            runs.forget_lowest()
        self._note_changed(group, key)
        return count

    # Telling.

    def find(self, message_id: str, topics: Sequence[str], done: Found) -> None:
        """Find the messages of an id, the broker's or a producer's, in some topics; of retried ones the origins.

        ``done`` is told of them, at once or later: others must not wait long behind many topics.
        """
        try:
            message = self._by_offset_id(message_id)
        except RocketMQError as error:
            done([], error)
            return
        if message is not None:
            done([message], None)
        else:
            self._find_in(message_id, topics, [], done)

    def _find_in(self, message_id: str, topics: Sequence[str], found: list[StoredMessage], done: Found) -> None:
        try:
            for topic in topics[:FIND_TOPICS_COUNT]:
                found += self._by_unique_id(topic, message_id)
        except RocketMQError as error:
            done([], error)
            return
        rest = topics[FIND_TOPICS_COUNT:]
        if rest:
            self._loop.call_soon(lambda: self._find_in(message_id, rest, found, done))
        else:
            done(found, None)

    def topics(self) -> list[str]:
        """All topics that are looked after, but those of copies: retried messages and dead letters."""
        return [
            topic
            for topic in self._topics.topics()
            if not topic.startswith(names.GROUP_TOPIC_PREFIXES) and self.is_on(topic)
        ]

    def tell(self, message: StoredMessage) -> tuple[Place, list[Told]] | None:
        """How a message stands, as it is stored, for every group that has to do with it. Raises ``StoreError``."""
        place = self._origin("", message)
        if place is None:
            return None
        key, offset = place
        with self._table.snapshot():  # how it stands is where its last change led to
            history: dict[str, list[HistoryRow]] = {}
            for row in self._table.history(key, offset):
                history.setdefault(row.consumer_group, []).append(row)
            groups = {
                *history,
                *(group for group, queue in self._runs if queue == key),
                *self._offsets.which_group_by_topic(key.topic),
                *self._consumers.query_topic_consume_by_who(key.topic),
            }
            return place, [self._told(group, place, history.get(group, [])) for group in sorted(groups)]

    def _told(self, group: str, place: Place, history: Sequence[HistoryRow]) -> Told:
        row = self._table.of_message(group, *place)
        status, attempt = (MessageStatus.WAIT_CONSUMER, 0) if row is None else (MessageStatus(row.status), row.attempt)
        passed = self._offsets.query_offset(group, place.key) > place.offset
        return Told(group, status, attempt, passed, history)

    def since(self, group: str, key: QueueKey, offset: int) -> int:
        """When a message came to stand as it does, wall ms; 0 when that is not known. Raises ``StoreError``."""
        last = self._table.last_change(group, key, offset)
        return 0 if last is None else last.at_ms

    def with_status(
        self, group: str, status: MessageStatus, start: tuple[str, int, int], count: int
    ) -> list[StatusRow]:
        """Runs of a group that stand so, by topic, queue and first offset, from a place on. Raises ``StoreError``."""
        if status is not MessageStatus.WAIT_CONSUMER:
            return self._table.with_status(group, status.value, start, count)
        waiting = sorted(row for row in self._waiting(group) if row[1:4] >= start)
        return waiting[:count]

    def _waiting(self, group: str) -> Iterator[StatusRow]:
        """What lies behind everything that the group has been given, or has passed by."""
        topics = {*self._offsets.which_topic_by_consumer(group), *self._consumers.subscriptions(group)}
        for topic in topics:
            config = self._topics.topic(topic)
            if config is None or _is_retry(topic) or not self.is_on(topic):
                continue
            for queue_id in range(config.queues):
                key = QueueKey(topic, queue_id)
                runs = self._runs.get((group, key))
                first = max(
                    self._commit_log.min_offset(key),
                    self._offsets.query_offset(group, key),
                    0 if runs is None else runs.end,
                )
                end = self._commit_log.max_offset(key)
                if first < end:
                    yield StatusRow(group, topic, queue_id, first, end, MessageStatus.WAIT_CONSUMER.value, 0)


_NOBODYS = frozenset({"TOOLS_CONSUMER"})  # who looks at messages only. Source: MixAll.TOOLS_CONSUMER_GROUP

_NO_MORE = (1 << 63) - 1


def _is_retry(topic: str) -> bool:
    return topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX)


def _place(message: StoredMessage) -> Place:
    return Place(QueueKey(message.topic, message.head.queue_id), message.head.queue_offset)


def _span(place: Place) -> tuple[QueueKey, int, int]:
    return place.key, place.offset, place.offset + 1


def _ignore(error: StoreError | None) -> None:
    """Nobody waits for it; when the store has failed, everybody is told at the next send."""
