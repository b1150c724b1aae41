"""Half messages: kept from consumers until their producer says how its transaction ended, asked for when it does not.

A half message waits in ``HALF_TOPIC``. Its end is a message of ``OP_TOPIC`` that names its offset there, in one
transaction with the real message if it is committed. A producer that has said nothing is asked: the half message is
stored once more, with the number of questions in its properties, and the newest copy is the one asked about. After too
many questions it goes to ``MAX_TIME_TOPIC``.

What is open is known from the two topics: half messages from the committed offset of ``GROUP`` on, without those that
ops name. Every copy of a half message names the offset of its first, so that an end finds it whichever copy it names.

Source: TransactionalMessageServiceImpl, TransactionalMessageBridge, AbstractTransactionalMessageCheckListener.
"""

from __future__ import annotations

import itertools
import logging
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from rocketmq_py.broker.broker2client import Broker2Client
from rocketmq_py.broker.commit_log import CommitLog, MessageInner, Place, Stored
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.producer_manager import ProducerManager
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import HALF_TOPIC, MAX_TIME_TOPIC, OP_TOPIC, TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError, RocketMQError, StoreError
from rocketmq_py.model.codes import MessageSysFlag, RequestCode, ResponseCode
from rocketmq_py.model.message import TIMER_PROPERTIES, MessageConst, MessageHead, format_properties, unpack_host
from rocketmq_py.remoting.message_codec import StoredMessage, create_message_id, decode_stored, encode_stored

GROUP = "CID_RMQ_SYS_TRANS"

HALF_QUEUE = QueueKey(HALF_TOPIC, 0)
OP_QUEUE = QueueKey(OP_TOPIC, 0)

REMOVE_TAG = "d"
OFFSET_SEPARATOR = ","

OPEN_MAX_COUNT = 1_000_000
"""Transactions that are open at a time; beyond it half messages are refused. Upstream sets no limit."""

LOOK_MAX_COUNT = 10_000
SLICE_MAX_COUNT = 100
"""Half messages that are looked at, and that are asked about, in one go: others must not wait long behind them."""

WINDOW_MAX_COUNT = 100_000
"""A half message that wants to be left alone while so many come behind it is stored once more, without a question: what
must be read at a start, and be remembered of ops, begins at the oldest copy."""

HALF_MAX_AGE_MS = 72 * 3_600_000
"""An older half message is given up. Source: needSkip, MessageStoreConfig.fileReservedTime."""

# What tells how often and about which first copy was asked, and what delays: Java's producer removes a level.
_NOT_THE_PRODUCERS = (
    MessageConst.TRANSACTION_CHECK_TIMES,
    MessageConst.TRANSACTION_PREPARED_QUEUE_OFFSET,
    MessageConst.DELAY_TIME_LEVEL,
    *TIMER_PROPERTIES,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransactionSettings:
    """When producers are asked. Source: BrokerConfig.

    Attributes:
        transaction_time_out: ms from when a message was born until its producer is asked for the first time, unless the
            message says otherwise.
        transaction_check_interval: ms from one round of questions to the next.
        transaction_check_max: questions about one message, at least 1; then it is given up.
    """

    transaction_time_out: int = 6_000
    transaction_check_interval: int = 30_000
    transaction_check_max: int = 15


@dataclass(slots=True)
class _Half:
    """The newest copy of a half message; ``immunity_ms`` None when it does not say."""

    place: Place
    born_ms: int
    immunity_ms: int | None


class TransactionalMessageService:
    """Owner of the open transactions; on the loop's thread only."""

    def __init__(
        self,
        *,
        commit_log: CommitLog,
        topics: TopicConfigManager,
        offsets: ConsumerOffsetManager,
        producers: ProducerManager,
        broker2client: Broker2Client,
        loop: Loop,
        clock: Clock,
        broker_name: str,
        settings: TransactionSettings,
    ) -> None:
        self._commit_log = commit_log
        self._topics = topics
        self._offsets = offsets
        self._producers = producers
        self._broker2client = broker2client
        self._loop = loop
        self._clock = clock
        self._broker_name = broker_name
        self._settings = settings
        self._open: dict[int, _Half] = {}  # by the offset of the first copy
        self._ops: list[tuple[int, int]] = []  # offsets of ops and of the half messages they name, in order

    def start(self) -> None:
        """Find what is open, and begin to ask. Raises ``StoreError``."""
        self._load()
        self._loop.call_later(self._settings.transaction_check_interval, self._check)

    def _load(self) -> None:
        for place, data in self._rows(HALF_QUEUE):
            stored = decode_stored(data)
            self._open[_first_offset(stored)] = self._half(stored, Place(place, stored.head.commit_log_offset))
        by_newest = {half.place.queue_offset: first for first, half in self._open.items()}
        for place, data in self._rows(OP_QUEUE):
            for text in decode_stored(data).body.decode().split(OFFSET_SEPARATOR):
                if text:
                    self._ops.append((place, int(text)))
                    self._open.pop(by_newest.get(int(text), -1), None)
        if self._open:
            _log.info("%s transactions are open", len(self._open))

    def _rows(self, key: QueueKey) -> Iterator[tuple[int, bytes]]:
        at = max(self._offsets.query_offset(GROUP, key), self._commit_log.min_offset(key))
        while rows := self._commit_log.read(key, at, SLICE_MAX_COUNT):
            yield from rows
            at = rows[-1][0] + 1

    def _half(self, message: StoredMessage | MessageInner, place: Place) -> _Half:
        born_ms = message.head.born_timestamp if isinstance(message, StoredMessage) else message.born_timestamp
        return _Half(place, born_ms, immunity_time_ms(message.properties, self._settings.transaction_time_out))

    # Sends and ends.

    def put_half(self, message: MessageInner, stored: Stored) -> list[Place]:
        """Store a half message. Source: TransactionalMessageBridge.parseHalfMessageInner.

        Raises:
            BrokerError: too many transactions are open.
            ConfigError, struct.error: it does not fit the format.
        """
        if len(self._open) >= OPEN_MAX_COUNT:
            raise BrokerError(ResponseCode.SYSTEM_BUSY, f"{OPEN_MAX_COUNT} transactions are open, try again later")
        properties = {
            **message.properties,
            MessageConst.TRANSACTION_ID: message.properties[MessageConst.UNIQ_KEY],
            MessageConst.REAL_TOPIC: message.topic,
            MessageConst.REAL_QUEUE_ID: str(message.queue_id),
        }
        for name in _NOT_THE_PRODUCERS:
            properties.pop(name, None)
        half = replace(
            message, topic=HALF_TOPIC, queue_id=0, properties=properties,
            sys_flag=message.sys_flag & ~MessageSysFlag.TRANSACTION_ROLLBACK_TYPE,
        )  # fmt: skip

        def put(error: StoreError | None) -> None:
            if error is not None:
                self._open.pop(place.queue_offset, None)
            stored(error)

        (place,) = places = self._commit_log.put([half], put)
        self._open[place.queue_offset] = self._half(half, place)
        return places

    def find(self, physical_offset: int, topic: str = HALF_TOPIC) -> StoredMessage | None:
        """A half message, decided or not, by its physical offset; or a given-up one. Raises ``StoreError``."""
        data = self._commit_log.look_message_by_offset(physical_offset)
        message = None if data is None else decode_stored(data)
        return message if message is not None and message.topic == topic else None

    def end(self, half: StoredMessage, real: MessageInner | None, stored: Stored) -> None:
        """Deliver a half message as ``real``, or forget it. One that has been ended stays as it was ended.

        Source: EndTransactionProcessor.sendFinalMessage, deletePrepareMessage, here one transaction and once only.
        """
        first = _first_offset(half)
        if first in self._open:
            self._remove(first, [] if real is None else [real], stored)
        else:
            self._loop.call_soon(lambda: stored(None))

    def _remove(self, first: int, messages: list[MessageInner], stored: Stored) -> None:
        half = self._open[first]
        offset = half.place.queue_offset
        op = MessageInner(
            OP_TOPIC, 0, f"{offset}{OFFSET_SEPARATOR}".encode(), {MessageConst.TAGS: REMOVE_TAG},
            born_timestamp=self._clock.wall_ms(),
        )  # fmt: skip

        def removed(error: StoreError | None) -> None:
            if error is not None:
                self._open[first] = half
            stored(error)

        places = self._commit_log.put([*messages, op], removed)
        self._ops.append((places[-1].queue_offset, offset))
        del self._open[first]

    # Questions.

    def _check(self) -> None:
        """Ask about everything that has been open for too long. Source: TransactionalMessageServiceImpl.check."""
        end = self._commit_log.max_offset(HALF_QUEUE)  # what lies behind is not on the disk yet
        self._check_some(iter(list(self._open)), end, end)

    def _is_due(self, half: _Half) -> bool:
        age_ms = self._clock.wall_ms() - half.born_ms
        if half.immunity_ms is not None:
            return age_ms > half.immunity_ms
        return age_ms > self._settings.transaction_time_out or age_ms < 0

    def _is_in_the_way(self, half: _Half) -> bool:
        return half.place.queue_offset < self._commit_log.max_offset(HALF_QUEUE) - WINDOW_MAX_COUNT

    def _check_some(self, firsts: Iterator[int], end: int, lowest: int) -> None:
        """Look at some of what was open when a round began, and go on when what follows from it is stored.

        Args:
            firsts: offsets of the first copies of those that have not been looked at.
            end: of the queue when the round began.
            lowest: of the newest copies that were looked at and are open, the lowest offset; at most ``end``.
        """
        looked = asked = 0
        for first in itertools.islice(firsts, LOOK_MAX_COUNT):
            looked += 1
            half = self._open.get(first)
            if half is None:
                continue  # ended meanwhile
            if half.place.queue_offset < end and (self._is_due(half) or self._is_in_the_way(half)):
                self._check_one(first, half)
                asked += 1
                half = self._open.get(first)
            if half is not None:
                lowest = min(lowest, half.place.queue_offset)
            if asked == SLICE_MAX_COUNT:
                break
        if not looked:
            self._loop.call_later(self._settings.transaction_check_interval, self._check)
            self._advance(lowest)
            return

        def go_on(error: StoreError | None) -> None:
            if error is None:
                self._check_some(firsts, end, lowest)
            else:  # what the store refuses is open as it was, and looked at in the next round
                self._check_some(iter(()), 0, 0)

        self._commit_log.write((), go_on)

    def _check_one(self, first: int, half: _Half) -> None:
        message = self._message(half)
        if message is None:
            del self._open[first]
        elif not self._is_due(half):
            self._put_back(first, message, asks=False)
        elif self._is_to_discard(message) or not self._put_back(first, message, asks=True):
            self._discard(first, message)

    def _put_back(self, first: int, message: MessageInner, *, asks: bool) -> bool:
        """Store a half message once more, and ask about the new copy; False when its properties have no room for it.

        Source: putBackHalfMsgQueue, renewImmunityHalfMessageInner.
        """
        properties = {**message.properties, MessageConst.TRANSACTION_PREPARED_QUEUE_OFFSET: str(first)}
        if asks:
            properties[MessageConst.TRANSACTION_CHECK_TIMES] = str(_check_times(message.properties) + 1)
        copy = replace(message, properties=properties)
        before = self._open[first]

        def stored(error: StoreError | None) -> None:
            if first not in self._open:
                return  # ended meanwhile
            if error is not None:
                self._open[first] = before
            elif asks:
                self._send_check_message(copy, place)

        try:
            (place,) = self._commit_log.put([copy], stored)
        except (ConfigError, struct.error):
            return False
        self._open[first] = self._half(copy, place)
        return True

    def _discard(self, first: int, message: MessageInner) -> None:
        """Give up. Source: DefaultTransactionalMessageCheckListener.resolveDiscardMsg."""
        _log.error(
            "nobody answered for the half message %s of producer group %s: it goes to %s",
            message.properties.get(MessageConst.UNIQ_KEY), message.properties.get(MessageConst.PRODUCER_GROUP),
            MAX_TIME_TOPIC,
        )  # fmt: skip
        self._topics.ensure_topic(MAX_TIME_TOPIC, 1)
        self._remove(first, [replace(message, topic=MAX_TIME_TOPIC)], _ignore)

    def _message(self, half: _Half) -> MessageInner | None:
        try:
            stored = self.find(half.place.physical_offset)
        except RocketMQError as error:
            _log.error("a half message cannot be read, nobody is asked about it any more: %s", error)
            return None
        if stored is None:
            _log.warning("the half message at %s is not there any more", half.place)
            return None
        head = stored.head
        return MessageInner(
            HALF_TOPIC, 0, stored.body, stored.properties, head.flag, head.sys_flag, head.born_timestamp,
            head.born_host, head.reconsume_times,
        )  # fmt: skip

    def _is_to_discard(self, message: MessageInner) -> bool:
        """Source: needDiscard, needSkip."""
        times = _check_times(message.properties)
        too_old = self._clock.wall_ms() - message.born_timestamp > HALF_MAX_AGE_MS
        return times >= self._settings.transaction_check_max or too_old

    def _send_check_message(self, message: MessageInner, place: Place) -> None:
        """Ask one of the group's producers. Source: AbstractTransactionalMessageCheckListener.sendCheckMessage."""
        properties = message.properties
        group = properties.get(MessageConst.PRODUCER_GROUP, "")
        channel = self._producers.available_channel(group)
        if channel is None:
            _log.warning("producer group %s has no producer that could be asked about a transaction", group)
            return
        unique = properties.get(MessageConst.UNIQ_KEY, "")
        body = encode_stored(
            MessageHead(
                0, 0, 0, int(properties[MessageConst.REAL_QUEUE_ID]), message.flag, place.queue_offset,
                place.physical_offset, message.sys_flag, message.born_timestamp, message.born_host,
                self._clock.wall_ms(), self._commit_log.store_host, message.reconsume_times, 0,
            ),
            properties[MessageConst.REAL_TOPIC], message.body, format_properties(properties),
        )  # fmt: skip
        fields = {
            "topic": HALF_TOPIC,
            "tranStateTableOffset": place.queue_offset,
            "commitLogOffset": place.physical_offset,
            "msgId": unique,
            "transactionId": unique,
            "offsetMsgId": create_message_id(unpack_host(self._commit_log.store_host), place.physical_offset),
            "bname": self._broker_name,
        }
        self._broker2client.invoke_oneway(channel, RequestCode.CHECK_TRANSACTION_STATE, fields, body)

    def first_needed(self, key: QueueKey) -> int:
        """The first message of a queue that the next start reads."""
        return max(self._offsets.query_offset(GROUP, key), 0)

    def _advance(self, at: int) -> None:
        """Note that the half messages before an offset are not needed any more, and which ops not."""
        done = 0
        while done < len(self._ops) and self._ops[done][1] < at:
            done += 1
        op_at = self._ops[done][0] if done < len(self._ops) else self._commit_log.max_offset(OP_QUEUE)
        del self._ops[:done]
        if at:
            self._offsets.commit_offset(GROUP, HALF_QUEUE, at)
            self._offsets.commit_offset(GROUP, OP_QUEUE, op_at)


def immunity_time_ms(properties: Mapping[str, str], otherwise_ms: int) -> int | None:
    """How long a message wants nobody to be asked about it; None when it does not say.

    Source: TransactionalMessageUtil.getImmunityTime.
    """
    text = properties.get(MessageConst.CHECK_IMMUNITY_TIME_IN_SECONDS)
    if not text:
        return None
    seconds = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    return otherwise_ms if seconds == -1 else seconds * 1_000


def _first_offset(half: StoredMessage) -> int:
    return int(half.properties.get(MessageConst.TRANSACTION_PREPARED_QUEUE_OFFSET, half.head.queue_offset))


def _check_times(properties: Mapping[str, str]) -> int:
    return int(properties.get(MessageConst.TRANSACTION_CHECK_TIMES, "0"))


def _ignore(error: StoreError | None) -> None:
    """Whoever is given up stays open when the store refuses it."""
