"""How many messages come and go. Source: BrokerStatsManager, BrokerStats, StoreStatsService."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from itertools import islice

from rocketmq_py.broker.loop import Loop
from rocketmq_py.clock import Clock
from rocketmq_py.model.stats_samples import Samples

SAMPLE_MS = 10_000
"""Topics and groups. Source: StatsItemSet."""
TOTAL_SAMPLE_MS = 1_000
"""The broker as a whole. Source: StoreStatsService.FREQUENCY_OF_SAMPLING."""

MINUTE_SAMPLES = 7
HOUR_EVERY, HOUR_SAMPLES = 60, 7
"""An hour has a sample every 10 minutes, a day every hour."""
DAY_EVERY, DAY_SAMPLES = 360, 25
TOTAL_SAMPLES = 601
"""Ten minutes."""

SLICE_COUNT = 1_000
"""Counters that are sampled in one go, in 3 ms: others must not wait long behind many."""

COUNTERS_MAX = 100_000
"""Pairs of topic and group that are counted one by one; what exceeds them counts in the total only."""


class _Counter:
    """One number that only grows."""

    __slots__ = ("samples", "times", "value")

    def __init__(self, interval_ms: int, kept: int) -> None:
        self.value = 0
        self.times = 0
        self.samples = Samples(interval_ms, kept)

    def sample(self, now_ms: int) -> None:
        self.samples.take(now_ms, self.times, self.value)


class _Item(_Counter):
    """Messages of a topic, or of a topic and a group. Source: StatsItem."""

    __slots__ = ("day", "hour")

    def __init__(self) -> None:
        super().__init__(SAMPLE_MS, MINUTE_SAMPLES)
        self.hour = Samples(SAMPLE_MS * HOUR_EVERY, HOUR_SAMPLES)
        self.day = Samples(SAMPLE_MS * DAY_EVERY, DAY_SAMPLES)

    def add(self, count: int) -> None:
        self.value += count
        self.times += 1


class _Total(_Counter):
    """Messages of the whole broker, since its start and since the last two midnights."""

    __slots__ = ("today_morning", "yesterday_morning")

    def __init__(self) -> None:
        super().__init__(TOTAL_SAMPLE_MS, TOTAL_SAMPLES)
        self.today_morning = 0
        self.yesterday_morning = 0

    def midnight(self) -> None:
        self.yesterday_morning, self.today_morning = self.today_morning, self.value

    def tps(self) -> str:
        """Over the last 10 s, minute, and ten minutes."""
        return " ".join(str(self.samples.snapshot(seconds).tps) for seconds in (10, 60, 600))


class BrokerStatsManager:
    """Owner of the counters; on the loop's thread only. They begin at 0 with every start of the broker."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._topic_put: dict[str, _Item] = {}
        self._group_get: dict[tuple[str, str], _Item] = {}
        self._put = _Total()
        self._get = _Total()
        self._today = self._date()
        self._rounds = 0

    def start(self) -> None:
        """Begin to take samples."""
        self._loop.call_later(SAMPLE_MS, self._sample)
        self._loop.call_later(TOTAL_SAMPLE_MS, self._sample_totals)

    def _date(self) -> date:
        return datetime.fromtimestamp(self._clock.wall_ms() / 1_000).date()  # local, as in Java

    def _sample(self) -> None:
        self._loop.call_later(SAMPLE_MS, self._sample)
        self._rounds += 1
        self._sample_slice(iter([*self._topic_put.values(), *self._group_get.values()]), self._rounds)

    def _sample_slice(self, counters: Iterator[_Item], rounds: int) -> None:
        now_ms = self._clock.monotonic_ms()  # of this slice: counters go on while the ones before are sampled
        taken = list(islice(counters, SLICE_COUNT))
        for counter in taken:
            counter.sample(now_ms)
            if rounds % HOUR_EVERY == 0:
                counter.hour.take(now_ms, counter.times, counter.value)
            if rounds % DAY_EVERY == 0:
                counter.day.take(now_ms, counter.times, counter.value)
        if len(taken) == SLICE_COUNT:
            self._loop.call_soon(lambda: self._sample_slice(counters, rounds))

    def _sample_totals(self) -> None:
        self._loop.call_later(TOTAL_SAMPLE_MS, self._sample_totals)
        now_ms, today = self._clock.monotonic_ms(), self._date()
        for total in (self._put, self._get):
            total.sample(now_ms)
            if today != self._today:
                total.midnight()
        self._today = today

    # Counting.

    def inc_topic_put_nums(self, topic: str, count: int) -> None:
        """Messages were stored."""
        counter = self._topic_put.get(topic)
        if counter is None:
            counter = self._topic_put[topic] = _Item()
        counter.add(count)
        self._put.value += count

    def inc_group_get_nums(self, group: str, topic: str, count: int) -> None:
        """Messages were given to a consumer."""
        counter = self._group_get.get((group, topic))
        if counter is None and len(self._group_get) < COUNTERS_MAX:
            counter = self._group_get[group, topic] = _Item()
        if counter is not None:
            counter.add(count)
        self._get.value += count

    def topic_deleted(self, topic: str) -> None:
        """Forget a topic. Source: onTopicDeleted."""
        self._topic_put.pop(topic, None)
        for key in [key for key in self._group_get if key[1] == topic]:
            del self._group_get[key]

    def group_deleted(self, group: str) -> None:
        """Forget a group. Source: onGroupDeleted."""
        for key in [key for key in self._group_get if key[0] == group]:
            del self._group_get[key]

    # Telling.

    def tps_topic_put_nums(self, topic: str) -> float:
        """Messages a second that came, over the last minute."""
        counter = self._topic_put.get(topic)
        return 0.0 if counter is None else counter.samples.snapshot().tps

    def tps_group_get_nums(self, group: str, topic: str) -> float:
        """Messages a second that went to a group, over the last minute."""
        counter = self._group_get.get((group, topic))
        return 0.0 if counter is None else counter.samples.snapshot().tps

    def stats_data(self, name: str, key: str) -> dict[str, object] | None:
        """What a counter did within the last minute, hour and day; None when there is no such one.

        ``name`` is TOPIC_PUT_NUMS with a topic as key, or GROUP_GET_NUMS with ``topic@group``. Source: BrokerStatsData.
        """
        topic, _, group = key.rpartition("@")
        items = {"TOPIC_PUT_NUMS": self._topic_put.get(key), "GROUP_GET_NUMS": self._group_get.get((group, topic))}
        item = items.get(name)
        if item is None:
            return None
        spans = {"statsDay": item.day, "statsHour": item.hour, "statsMinute": item.samples}
        told = {span: samples.snapshot() for span, samples in spans.items()}
        return {span: {"avgpt": each.avgpt, "sum": each.sum, "tps": each.tps} for span, each in told.items()}

    def runtime_info(self) -> dict[str, str]:
        """The totals by the names under which brokers tell them."""
        info = {"putTps": self._put.tps(), "getTransferredTps": self._get.tps(), "getTotalTps": self._get.tps()}
        for name, total in (("Put", self._put), ("Get", self._get)):
            info[f"msg{name}TotalYesterdayMorning"] = str(total.yesterday_morning)
            info[f"msg{name}TotalTodayMorning"] = str(total.today_morning)
            info[f"msg{name}TotalTodayNow"] = str(total.value)
        return info
