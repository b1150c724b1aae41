from __future__ import annotations

from rocketmq_py.consumer.stats import ConsumerCounters, Event


def test_every_event_is_counted_apart_from_0() -> None:
    counters = ConsumerCounters()
    assert counters.snapshot() == dict.fromkeys(Event, 0)
    counters.count(Event.EXPIRED)
    counters.count(Event.EXPIRED, 2)
    counters.count(Event.SENT_BACK)
    snapshot = counters.snapshot()
    assert (snapshot[Event.EXPIRED], snapshot[Event.SENT_BACK], snapshot[Event.PULL_FAILED]) == (3, 1, 0)
    counters.count(Event.EXPIRED)
    assert snapshot[Event.EXPIRED] == 3
