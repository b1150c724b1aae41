"""Messages for a moment of their own, to the second: they wait in one queue, and a table says when each is due.

Source: TimerMessageStore, and HookUtils.transformTimerMessage. Upstream's wheel, its log and its progress are one table
here, and taking a message out of there and putting it into its real queue is a single transaction (deviation, as with
delay levels).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rocketmq_py.broker.commit_log import Arrival, CommitLog, MessageInner, Stored
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.store.timer_table import TimerRow, TimerTable, delete_timers, recall_timers
from rocketmq_py.broker.topic_config import TIMER_TOPIC
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError, ProtocolError, StoreError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.extra_info import long_of
from rocketmq_py.model.message import TIMER_PROPERTIES, MessageConst
from rocketmq_py.remoting.message_codec import StoredMessage, decode_stored

TIMER_PRECISION_MS = 1_000
"""Messages are delivered together that are due in the same second: up to that much late, never early."""

TIMER_MAX_DELAY_MS = 3 * 24 * 3600 * 1_000
"""Source: timerMaxDelaySec."""

DELIVER_MAX_COUNT = 100
"""Messages delivered in one go: others must not wait long behind them."""

LOOK_INTERVAL_MS = 60_000
"""The wall clock is looked at so often at least: it may have been set."""

_FOR_EVER_MS = 2**62

_DEL_UNIQKEY = "TIMER_DEL_UNIQKEY"
"""Upstream's brokers send themselves, for a recall, a message that has it; producers could."""

_log = logging.getLogger(__name__)


class TimerMessageStore:
    """Owner of what waits; on the loop's thread only."""

    def __init__(self, table: TimerTable, commit_log: CommitLog, loop: Loop, clock: Clock) -> None:
        self._table = table
        self._commit_log = commit_log
        self._loop = loop
        self._clock = clock
        self._due_ms = _FOR_EVER_MS  # of the first, wall ms
        self._look_ms = _FOR_EVER_MS  # for when a timer is set, monotonic ms
        self._delivering = False
        self._unreadable: set[int] = set()  # ids: the others go on

    def start(self) -> None:
        """Go on where the last run ended. Raises ``StoreError``."""
        self._await_first()

    def timed(self, message: MessageInner) -> MessageInner:
        """A message that says when it is due as it waits; any other, and one whose moment is over, as it is.

        Raises:
            BrokerError: it says so in a way that cannot be understood, or it is to wait too long.
        """
        properties = message.properties
        if MessageConst.TIMER_OUT_MS in properties or not TIMER_PROPERTIES & properties.keys():
            return message
        if _DEL_UNIQKEY in properties:
            raise BrokerError(
                ResponseCode.MESSAGE_ILLEGAL,
                f"a message with {_DEL_UNIQKEY} takes back none here: recall that by its handle (RECALL_MESSAGE)",
            )
        now_ms = self._clock.wall_ms()
        deliver_ms = _deliver_ms(properties, now_ms)
        if deliver_ms <= now_ms:
            return message
        if deliver_ms - now_ms > TIMER_MAX_DELAY_MS:
            raise _illegal()
        out_ms = _floored(deliver_ms)
        return replace(
            message,
            topic=TIMER_TOPIC,
            queue_id=0,
            properties={
                **properties,
                MessageConst.TIMER_OUT_MS: str(out_ms),
                MessageConst.REAL_TOPIC: message.topic,
                MessageConst.REAL_QUEUE_ID: str(message.queue_id),
            },
            due_ms=out_ms + TIMER_PRECISION_MS,
            timer_key=timer_key(message.topic, properties[MessageConst.UNIQ_KEY]),
        )

    def recall(self, topic: str, uniq_key: str, deliver_ms: int, stored: Stored) -> None:
        """Deliver nothing of this id at that moment; no error when there is nothing, or it has been delivered.

        Raises:
            BrokerError: the moment is over, or further away than anything waits.
        """
        left_ms = deliver_ms - self._clock.wall_ms()
        if not 0 < left_ms < TIMER_MAX_DELAY_MS:
            raise BrokerError(ResponseCode.ILLEGAL_OPERATION, "recall failed, timestamp invalid")
        due_ms = _floored(deliver_ms) + TIMER_PRECISION_MS
        self._commit_log.write([recall_timers(due_ms, timer_key(topic, uniq_key))], stored)

    def first_needed(self, key: QueueKey) -> int:
        """The first message of the timers' queue that waits. Raises ``StoreError``."""
        row_id = self._table.lowest_id()
        if row_id is None:
            return self._commit_log.max_offset(key)
        data = self._commit_log.look_message_by_offset(row_id)
        # Without the first it is unknown where the others begin: then all stay.
        return self._commit_log.min_offset(key) if data is None else decode_stored(data).head.queue_offset

    def on_arrival(self, arrival: Arrival) -> None:
        """A message begins to wait."""
        if arrival.tags_code < self._due_ms:
            self._due_ms = arrival.tags_code
            self._await_due()

    def _await_first(self) -> None:
        rows = [
            row for row in self._table.first(1 + len(self._unreadable), _FOR_EVER_MS) if row.id not in self._unreadable
        ]
        self._due_ms = rows[0].due_ms if rows else _FOR_EVER_MS
        self._await_due()

    def _await_due(self) -> None:
        if self._delivering or self._due_ms == _FOR_EVER_MS:
            return
        left_ms = min(max(self._due_ms - self._clock.wall_ms(), 0), LOOK_INTERVAL_MS)
        look_ms = self._clock.monotonic_ms() + left_ms
        if look_ms < self._look_ms:
            self._look_ms = look_ms
            self._loop.call_later(left_ms, lambda: self._look(look_ms))

    def _look(self, look_ms: int) -> None:
        if look_ms != self._look_ms:
            return  # an earlier one was set
        self._look_ms = _FOR_EVER_MS
        if self._due_ms > self._clock.wall_ms():
            self._await_due()
        elif not self._delivering:
            self._deliver()

    def _deliver(self) -> None:
        """Put what is due into its real queues."""
        try:
            rows = self._table.first(DELIVER_MAX_COUNT + len(self._unreadable), self._clock.wall_ms())
        except StoreError as error:
            _log.error("timers cannot be read, they stand still: %s", error)
            return
        rows = [row for row in rows if row.id not in self._unreadable]
        messages = [message for row in rows if (message := self._real(row)) is not None]
        done = [row for row in rows if row.id not in self._unreadable]

        def stored(error: StoreError | None) -> None:
            self._delivering = False
            if error is None:
                self._await_first()

        if not done:
            self._await_first()
            return
        self._delivering = True
        self._put(messages, stored, done)

    def _put(self, messages: Sequence[MessageInner], stored: Stored, done: Sequence[TimerRow]) -> None:
        writes = [delete_timers(done)]
        try:
            self._commit_log.put(messages, stored, writes)
        except ConfigError:  # the stamps make some properties too long
            plain = [replace(message, properties=_without_stamps(message)) for message in messages]
            self._commit_log.put(plain, stored, writes)

    def _real(self, row: TimerRow) -> MessageInner | None:
        wrong: object = "it is not found"  # what waits is never deleted
        try:
            if (data := self._commit_log.look_message_by_offset(row.id)) is not None:
                return self._restored(decode_stored(data))
        except (StoreError, ProtocolError) as error:
            wrong = error
        _log.error("the message at %s, due at %s, cannot be read, it waits for ever: %s", row.id, row.due_ms, wrong)
        self._unreadable.add(row.id)
        return None

    def _restored(self, stored: StoredMessage) -> MessageInner:
        """Source: TimerMessageStore.convert, convertMessage."""
        head, properties = stored.head, stored.properties
        return MessageInner(
            properties[MessageConst.REAL_TOPIC],
            int(properties[MessageConst.REAL_QUEUE_ID]),
            stored.body,
            {
                **properties,
                MessageConst.TIMER_ENQUEUE_MS: str(head.store_timestamp),
                MessageConst.TIMER_DEQUEUE_MS: str(self._clock.wall_ms()),
            },
            head.flag,
            head.sys_flag,
            head.born_timestamp,
            head.born_host,
            head.reconsume_times,
        )


def timer_key(topic: str, uniq_key: str) -> str:
    """By what a message is recalled. Source: TimerMessageStore.buildDeleteKey."""
    return f"{topic}+{uniq_key}"


def _deliver_ms(properties: Mapping[str, str], now_ms: int) -> int:
    try:
        if (delay_sec := properties.get(MessageConst.TIMER_DELAY_SEC)) is not None:
            return now_ms + long_of(delay_sec) * 1_000
        if (delay_ms := properties.get(MessageConst.TIMER_DELAY_MS)) is not None:
            return now_ms + long_of(delay_ms)
        return long_of(properties[MessageConst.TIMER_DELIVER_MS])
    except ValueError:
        raise _illegal() from None


def _illegal() -> BrokerError:
    return BrokerError(
        ResponseCode.MESSAGE_ILLEGAL,
        f"timer message illegal, the delay time should not be bigger than the max delay {TIMER_MAX_DELAY_MS}ms, and a "
        "number",
    )


def _without_stamps(message: MessageInner) -> dict[str, str]:
    stamps = (MessageConst.TIMER_ENQUEUE_MS, MessageConst.TIMER_DEQUEUE_MS)
    return {name: text for name, text in message.properties.items() if name not in stamps}


def _floored(deliver_ms: int) -> int:
    """The second before a moment: what is due at a full second belongs to the one before."""
    return (deliver_ms - 1) // TIMER_PRECISION_MS * TIMER_PRECISION_MS
