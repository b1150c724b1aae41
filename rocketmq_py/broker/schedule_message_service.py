"""Delayed messages: each level has a queue in which they wait, ordered by when they are due.

Source: ScheduleMessageService. Deviation: taking a message out of its delay queue and putting it into its real one is a
single transaction, so a crash neither loses nor doubles it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from rocketmq_py.broker.commit_log import Arrival, CommitLog, MessageInner
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.store.offset_table import put_delay_offset
from rocketmq_py.broker.topic_config import SCHEDULE_TOPIC
from rocketmq_py.clock import Clock
from rocketmq_py.errors import StoreError
from rocketmq_py.model.delay_level import LEVELS_MAX
from rocketmq_py.model.message import MessageConst
from rocketmq_py.remoting.message_codec import decode_stored

DELIVER_MAX_COUNT = 100
"""Messages of a level that are delivered in one go: others must not wait long behind them."""

_log = logging.getLogger(__name__)


class ScheduleMessageService:
    """Owner of the progress of the delay queues; on the loop's thread only."""

    def __init__(
        self, commit_log: CommitLog, loop: Loop, clock: Clock, levels_ms: list[int], progress: Mapping[int, int]
    ) -> None:
        self._commit_log = commit_log
        self._loop = loop
        self._clock = clock
        self._levels_ms = levels_ms
        # All that could be: an earlier run may have had more levels than this one.
        self._next_offset = {level: progress.get(level, 0) for level in range(1, LEVELS_MAX + 1)}
        self._awaited: set[int] = set()  # levels with a timer, or with a delivery under way

    def start(self) -> None:
        """Go on where the last run ended."""
        for level in self._next_offset:
            self._await_head(level)

    def delayed(self, message: MessageInner, level: int) -> MessageInner:
        """The message as it waits: in the queue of its level, its real place in its properties."""
        level = min(level, len(self._levels_ms))
        return replace(
            message,
            topic=SCHEDULE_TOPIC,
            queue_id=level - 1,
            properties={
                **message.properties,
                MessageConst.DELAY_TIME_LEVEL: str(level),
                MessageConst.REAL_TOPIC: message.topic,
                MessageConst.REAL_QUEUE_ID: str(message.queue_id),
            },
            due_ms=self._clock.wall_ms() + self._delay_ms(level),
        )

    def running_stats(self) -> dict[int, tuple[int, int]]:
        """By level, the first offset that was not delivered and the end of its queue. Source: buildRunningStats."""
        return {
            level: (offset, self._commit_log.max_offset(QueueKey(SCHEDULE_TOPIC, level - 1)))
            for level, offset in self._next_offset.items()
            if level <= len(self._levels_ms)
        }

    def _delay_ms(self, level: int) -> int:
        return self._levels_ms[min(level, len(self._levels_ms)) - 1]

    def first_needed(self, key: QueueKey) -> int:
        """The first message of a level's queue that has not been delivered."""
        return self._next_offset.get(key.queue_id + 1, 0)

    def on_arrival(self, arrival: Arrival) -> None:
        """A message begins to wait."""
        self._await_head(arrival.key.queue_id + 1)

    def _await_head(self, level: int) -> None:
        if level in self._awaited or level not in self._next_offset:
            return
        key = QueueKey(SCHEDULE_TOPIC, level - 1)
        if self._next_offset[level] >= self._commit_log.max_offset(key):
            return
        try:
            ((_, _, due_ms),) = self._commit_log.scan(key, self._next_offset[level], 1)
        except (StoreError, ValueError) as error:
            _log.error("delay level %s cannot be read, it stands still: %s", level, error)
            return
        self._awaited.add(level)
        # The wall clock may have been set back: nobody waits longer than the level says.
        delay_ms = min(max(due_ms - self._clock.wall_ms(), 0), self._delay_ms(level))
        self._loop.call_later(delay_ms, lambda: self._deliver(level, forced=due_ms))

    def _deliver(self, level: int, forced: int) -> None:
        """Put what is due into its real queues, in one transaction with the level's progress."""
        key = QueueKey(SCHEDULE_TOPIC, level - 1)
        due_ms = max(self._clock.wall_ms(), forced)
        start = self._next_offset[level]
        try:
            heads = self._commit_log.scan(key, start, DELIVER_MAX_COUNT)
            count = next((index for index, head in enumerate(heads) if head[2] > due_ms), len(heads))
            messages = [self._real(data) for _, data in self._commit_log.read(key, start, count)]
        except (StoreError, ValueError) as error:
            _log.error("delay level %s cannot be read, it stands still: %s", level, error)
            return
        end = heads[count - 1][0] + 1

        def stored(error: StoreError | None) -> None:
            if error is None:
                self._next_offset[level] = end
                self._awaited.discard(level)
                self._await_head(level)

        self._commit_log.put(messages, stored, [put_delay_offset(level, end)])

    @staticmethod
    def _real(data: bytes) -> MessageInner:
        stored = decode_stored(data)
        head = stored.head
        return MessageInner(
            stored.properties[MessageConst.REAL_TOPIC],
            int(stored.properties[MessageConst.REAL_QUEUE_ID]),
            stored.body,
            stored.properties,
            head.flag,
            head.sys_flag,
            head.born_timestamp,
            head.born_host,
            head.reconsume_times,
        )
