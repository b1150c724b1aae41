"""How much and how fast a client consumes: five counters per topic and group, sampled on a timer.

Source: ConsumerStatsManager, StatsItemSet, StatsItem. What they show is what ``mqadmin consumerStatus`` prints.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from rocketmq_py.clock import Clock
from rocketmq_py.model.running_info import ConsumeStatus
from rocketmq_py.model.stats_samples import Samples, StatsSnapshot
from rocketmq_py.runtime import Mutex, Scheduler

MINUTE_SAMPLE_MS = 10_000
HOUR_SAMPLE_MS = 600_000
DAY_SAMPLE_MS = 3_600_000
MINUTE_SAMPLES = 7
HOUR_SAMPLES = 7
DAY_SAMPLES = 25

NOTED_MAX = 4_096
"""Batches noted and not yet counted, per topic and group, beside what lies in the windows: a quarter of a megabyte."""

NOTED_MSGS_BITS = 16
"""Of a noted batch the lower bits are its messages, at most 1,024 (``consume_message_batch_max_size``)."""

_MS = timedelta(milliseconds=1)

_log = logging.getLogger(__name__)


class StatsItem:
    """One counter: two sums that only grow, and their last samples. Guarded by the lock of its ``TopicStats``.

    Source: StatsItem, RTStatsItem.
    """

    __slots__ = ("_is_rt", "day", "hour", "minute", "name", "times", "value")

    def __init__(self, name: str, is_rt: bool = False) -> None:
        self.name = name
        self.value = 0
        self.times = 0
        self.minute = Samples(MINUTE_SAMPLE_MS, MINUTE_SAMPLES)
        self.hour = Samples(HOUR_SAMPLE_MS, HOUR_SAMPLES)
        self.day = Samples(DAY_SAMPLE_MS, DAY_SAMPLES)
        self._is_rt = is_rt

    def detail(self, snapshot: StatsSnapshot) -> str:
        """The numbers of a log line: of a response time the sum says nothing."""
        if self._is_rt:
            return f"TIMES: {snapshot.times} AVGRT: {snapshot.avgpt:.2f}"
        return f"SUM: {snapshot.sum} TPS: {snapshot.tps:.2f} AVGPT: {snapshot.avgpt:.2f}"


class TopicStats:
    """The counters of one topic and group. Any thread may count.

    Lock: ``_lock`` guards the counters; ``_succeeded`` needs none, a deque's appends and pops are safe by themselves.

    Attributes:
        note_success: ``note_success(ms << NOTED_MSGS_BITS | messages)``: a batch succeeded; the same as three
            ``inc_consume`` methods. Hot, once per message at batch size 1: an integer appended, mostly one that exists
            already, costs a fraction of a tuple, and that a quarter of counting under a lock. Noted batches are counted
            in bulk, at the next sample or by a pull that finds ``NOTED_MAX`` of them.
    """

    __slots__ = (
        "_consume_failed_tps",
        "_consume_ok_tps",
        "_consume_rt",
        "_lock",
        "_pull_rt",
        "_pull_tps",
        "_succeeded",
        "key",
        "note_success",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        self._lock = Mutex()
        self._pull_rt = StatsItem("PULL_RT", is_rt=True)
        self._pull_tps = StatsItem("PULL_TPS")
        self._consume_rt = StatsItem("CONSUME_RT", is_rt=True)
        self._consume_ok_tps = StatsItem("CONSUME_OK_TPS")
        self._consume_failed_tps = StatsItem("CONSUME_FAILED_TPS")
        self._succeeded: deque[int] = deque()  # noted and not yet counted
        self.note_success: Callable[[int], None] = self._succeeded.append

    def inc_pull_rt(self, rt_ms: int) -> None:
        """A pull that found messages took so long."""
        self._count(self._pull_rt, rt_ms)

    def inc_pull_tps(self, msgs: int) -> None:
        """So many messages were pulled. Between two pulls no more batches can be noted than lie in the windows."""
        self._count(self._pull_tps, msgs)
        if len(self._succeeded) >= NOTED_MAX:
            with self._lock:
                self._count_succeeded()

    def inc_consume_rt(self, rt_ms: int) -> None:
        """A listener call took so long."""
        self._count(self._consume_rt, rt_ms)

    def inc_consume_ok_tps(self, msgs: int) -> None:
        """So many messages succeeded."""
        self._count(self._consume_ok_tps, msgs)

    def inc_consume_failed_tps(self, msgs: int) -> None:
        """So many messages failed; Java also counts the 0 of a batch that succeeded."""
        self._count(self._consume_failed_tps, msgs)

    def _count(self, item: StatsItem, value: int) -> None:
        with self._lock:
            item.value += value
            item.times += 1

    def _count_succeeded(self) -> None:
        batches = total_ms = total_msgs = 0
        succeeded = self._succeeded
        for _ in range(len(succeeded)):  # only the holder of the lock takes any out
            noted = succeeded.popleft()
            batches += 1
            total_ms += noted >> NOTED_MSGS_BITS
            total_msgs += noted & (1 << NOTED_MSGS_BITS) - 1
        self._consume_rt.value += total_ms
        self._consume_ok_tps.value += total_msgs
        for item in (self._consume_rt, self._consume_ok_tps, self._consume_failed_tps):
            item.times += batches

    def _items(self) -> tuple[StatsItem, ...]:
        return (self._pull_rt, self._pull_tps, self._consume_rt, self._consume_ok_tps, self._consume_failed_tps)

    def sample(self, interval_ms: int, now_ms: int) -> None:
        """Note the sums of all counters that ever counted, in the list of this interval."""
        with self._lock:
            self._count_succeeded()
            for item in self._items():
                if item.times:
                    _list_of(item, interval_ms).take(now_ms, item.times, item.value)

    def lines(self, interval_ms: int) -> list[tuple[str, str]]:
        """Name and numbers of every counter that ever counted, over the list of this interval."""
        with self._lock:
            return [
                (item.name, item.detail(_list_of(item, interval_ms).snapshot())) for item in self._items() if item.times
            ]

    def consume_status(self) -> ConsumeStatus:
        """Source: ConsumerStatsManager.consumeStatus."""
        with self._lock:
            consume_rt = self._consume_rt.minute.snapshot()
            if consume_rt.sum == 0:
                consume_rt = self._consume_rt.hour.snapshot()
            return ConsumeStatus(
                pull_rt=self._pull_rt.minute.snapshot().avgpt,
                pull_tps=self._pull_tps.minute.snapshot().tps,
                consume_rt=consume_rt.avgpt,
                consume_ok_tps=self._consume_ok_tps.minute.snapshot().tps,
                consume_failed_tps=self._consume_failed_tps.minute.snapshot().tps,
                consume_failed_msgs=self._consume_failed_tps.hour.snapshot().sum,
            )


class GroupStats(dict[str, TopicStats]):
    """The counters of one group by topic; asking for a topic makes them.

    A dict, because its look-up costs next to nothing: once per batch. Lock: ``_lock`` for what is missing.
    """

    def __init__(self, group: str) -> None:
        super().__init__()
        self._group = group
        self._lock = Mutex()

    def __missing__(self, topic: str) -> TopicStats:
        """Make the counters of a topic, once."""
        with self._lock:
            return self.setdefault(topic, TopicStats(f"{topic}@{self._group}"))

    def all(self) -> list[TopicStats]:
        """The counters of every topic so far."""
        with self._lock:
            return list(self.values())


def _list_of(item: StatsItem, interval_ms: int) -> Samples:
    return {MINUTE_SAMPLE_MS: item.minute, HOUR_SAMPLE_MS: item.hour, DAY_SAMPLE_MS: item.day}[interval_ms]


class ConsumerStatsManager:
    """The statistics of all consumers of one client.

    Lock: ``_lock`` guards the table of groups; entries stay for the life of the client, as in Java.

    Args:
        scheduler: samples every 10 s, 10 min and hour, beginning at once, and logs at each full minute, hour and day.
    """

    def __init__(self, clock: Clock, scheduler: Scheduler) -> None:
        self._clock = clock
        self._lock = Mutex()
        self._groups: dict[str, GroupStats] = {}
        now = datetime.fromtimestamp(clock.wall_ms() / 1000)  # local time, as in Java
        minute = now.replace(second=0, microsecond=0)
        hour, day = minute.replace(minute=0), minute.replace(hour=0, minute=0)
        for name, interval_ms, period, since in (
            ("Minute", MINUTE_SAMPLE_MS, timedelta(minutes=1), minute),
            ("Hour", HOUR_SAMPLE_MS, timedelta(hours=1), hour),
            ("Day", DAY_SAMPLE_MS, timedelta(days=1), day),
        ):
            scheduler.schedule_at_fixed_rate(0, interval_ms, partial(self._sample, interval_ms))
            scheduler.schedule_at_fixed_rate(
                (since + period - now) // _MS, period // _MS, partial(self._print, name, interval_ms)
            )

    def group(self, group: str) -> GroupStats:
        """The counters of a group, made at the first call; whoever counts keeps them."""
        with self._lock:
            if group not in self._groups:
                self._groups[group] = GroupStats(group)
            return self._groups[group]

    def consume_status(self, group: str, topic: str) -> ConsumeStatus:
        """The rates of a topic and group; zeros when nothing was ever counted.

        Behaviour: ST-04. Source: ConsumerStatsManager.consumeStatus.
        """
        stats = self.group(group).get(topic)
        return ConsumeStatus() if stats is None else stats.consume_status()

    def _all(self) -> list[TopicStats]:
        with self._lock:
            groups = list(self._groups.values())
        return [stats for group in groups for stats in group.all()]

    def _sample(self, interval_ms: int) -> None:
        now_ms = self._clock.monotonic_ms()
        for stats in self._all():
            stats.sample(interval_ms, now_ms)

    def _print(self, name: str, interval_ms: int) -> None:
        for stats in self._all():
            for counter, numbers in stats.lines(interval_ms):
                _log.info("[%s] [%s] Stats In One %s, %s", counter, stats.key, name, numbers)
