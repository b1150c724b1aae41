"""How a consumer tells brokers that keep statuses what it has consumed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from rocketmq_py.consumer import status_acknowledger
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.consumer.status_acknowledger import ATTEMPTS_MAX, SEND_INTERVAL_MS, StatusAcknowledger
from rocketmq_py.errors import ConnectError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import ManualRuntime
from tests.unit.support import GROUP, messages, mq

Spans = list[tuple[MessageQueue, int, int]]


class StatusBroker:
    """A broker that wants to know, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.wants = True
        self.fails = 0
        self.told: list[Spans] = []
        self.attempts = 0

    def wants_acknowledgements(self) -> bool:
        return self.wants

    def acknowledge_statuses(
        self, group: str, broker_name: str, spans: Sequence[tuple[MessageQueue, int, int]], timeout_ms: int
    ) -> None:
        assert group == GROUP
        assert {queue.broker_name for queue, _, _ in spans} == {broker_name}
        self.attempts += 1
        if self.fails:
            self.fails -= 1
            raise ConnectError("broker-a is away")
        self.told.append(list(spans))


class Rig:
    def __init__(self) -> None:
        self.broker = StatusBroker()
        self.runtime = ManualRuntime()
        self.counters = ConsumerCounters()
        warnings = RateLimitedLog(self.runtime.clock, logging.getLogger(__name__))
        self.acknowledger = StatusAcknowledger(GROUP, self.broker, self.runtime, self.counters, warnings)

    @property
    def lost(self) -> int:
        return self.counters.snapshot()[Event.STATUS_ACK_LOST]


@pytest.mark.behaviour("SM-11")
def test_what_was_consumed_is_told_once_a_second_as_spans() -> None:
    rig = Rig()
    acknowledge = rig.acknowledger.look()
    assert acknowledge is not None
    acknowledge(mq(0), messages(0, 1, 2))
    acknowledge(mq(0), messages(7, 3))
    acknowledge(mq(1), messages(5))
    assert rig.broker.told == []
    rig.runtime.advance(SEND_INTERVAL_MS)
    assert rig.broker.told == [[(mq(0), 0, 4), (mq(0), 7, 8), (mq(1), 5, 6)]]
    rig.runtime.advance(3 * SEND_INTERVAL_MS)
    assert len(rig.broker.told) == 1


@pytest.mark.behaviour("SM-11")
def test_nothing_is_noted_and_no_thread_started_before_a_broker_has_asked() -> None:
    rig = Rig()
    rig.broker.wants = False
    assert rig.acknowledger.look() is None
    rig.acknowledger.shutdown()
    rig.broker.wants = True
    assert rig.acknowledger.look() == rig.acknowledger.look() == rig.acknowledger.note
    rig.broker.wants = False
    assert rig.acknowledger.look() is None


@pytest.mark.behaviour("SM-11")
def test_what_could_not_be_told_is_told_again_a_bounded_number_of_times() -> None:
    rig = Rig()
    rig.acknowledger.look()
    rig.acknowledger.note(mq(), messages(0))
    rig.broker.fails = ATTEMPTS_MAX - 1
    rig.runtime.advance(ATTEMPTS_MAX * SEND_INTERVAL_MS)
    assert rig.broker.told == [[(mq(), 0, 1)]]
    assert (rig.broker.attempts, rig.lost) == (ATTEMPTS_MAX, 0)
    rig.acknowledger.note(mq(), messages(1, 2))
    rig.broker.fails = ATTEMPTS_MAX
    rig.runtime.advance(10 * SEND_INTERVAL_MS)
    assert (rig.broker.attempts, rig.lost) == (2 * ATTEMPTS_MAX, 2)


@pytest.mark.behaviour("SM-11")
def test_a_silent_broker_is_waited_for_once_per_turn_and_what_waits_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status_acknowledger, "SPANS_MAX_COUNT", 2)
    monkeypatch.setattr(status_acknowledger, "NOTED_MAX_COUNT", 10)
    rig = Rig()
    rig.acknowledger.look()
    rig.broker.fails = 1
    for offset in range(0, 40, 2):
        rig.acknowledger.note(mq(), messages(offset))
    assert rig.lost == 10
    rig.runtime.advance(SEND_INTERVAL_MS)
    assert rig.broker.attempts == 1
    rig.runtime.advance(SEND_INTERVAL_MS)
    assert [len(spans) for spans in rig.broker.told] == [2, 2, 2, 2, 2]
    assert rig.lost == 10


@pytest.mark.behaviour("SM-11")
def test_a_shutdown_tells_the_rest() -> None:
    rig = Rig()
    rig.acknowledger.look()
    rig.acknowledger.note(mq(), messages(4))
    rig.acknowledger.shutdown()
    assert rig.broker.told == [[(mq(), 4, 5)]]
