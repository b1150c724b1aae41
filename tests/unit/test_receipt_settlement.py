from __future__ import annotations

import pytest

from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.receipt_settlement import RENEW_MAX_MS, ReceiptSettlement
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.testing import ManualRuntime
from tests.unit.receipt_support import BUSY, SILENT, VOID, ReceiptBroker
from tests.unit.support import GROUP, TOPIC, message

MINUTE_MS = 60_000


class Settling:
    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.broker = ReceiptBroker()
        self.counters = ConsumerCounters()
        self.settlement = ReceiptSettlement(
            group=GROUP, broker=self.broker, runtime=self.runtime, scheduler=self.runtime.scheduler("timer"),
            timeout_ms=3_000, counters=self.counters,
        )  # fmt: skip
        self.queue = PopProcessQueue(self.runtime.clock)
        self.message = message(7, body=b"12345")
        self.queue.inc_found_msg(1, 5)

    @property
    def cached(self) -> tuple[int, int]:
        return self.queue.wait_ack_msg_count, self.queue.wait_ack_bytes


@pytest.mark.behaviour("GC-01")
def test_a_message_counts_in_the_cache_until_the_server_has_answered() -> None:
    settling = Settling()
    settling.broker.held = True
    settling.settlement.ack(settling.message, TOPIC, settling.queue)
    assert settling.cached == (1, 5)
    settling.broker.answer_all()
    assert settling.cached == (0, 0)


@pytest.mark.behaviour("GC-02")
@pytest.mark.parametrize("error", [SILENT, BUSY])
def test_twenty_minutes_of_failing_acknowledgements_cost_a_try_per_second_and_leak_nothing(error: Exception) -> None:
    # The official Python client recursed in the consume thread, a level and a second of sleep per try.
    settling = Settling()
    settling.broker.failing = error
    settling.settlement.ack(settling.message, TOPIC, settling.queue)
    settling.runtime.advance(20 * MINUTE_MS)
    assert len(settling.broker.asked) == 20 * 60 + 1
    assert set(settling.broker.asked) == {("ack", 7, 0)}
    assert settling.cached == (1, 5)
    settling.broker.failing = None
    settling.runtime.advance(1_000)
    assert settling.cached == (0, 0)
    asked = len(settling.broker.asked)
    settling.runtime.advance(MINUTE_MS)
    assert len(settling.broker.asked) == asked
    assert settling.counters.snapshot()[Event.SETTLE_FAILED] == 20 * 60 + 1


@pytest.mark.behaviour("GC-02")
def test_a_receipt_that_is_void_is_final() -> None:
    settling = Settling()
    settling.broker.failing = VOID
    settling.settlement.change_invisible_duration(settling.message, TOPIC, 5_000, settling.queue)
    settling.runtime.advance(MINUTE_MS)
    assert settling.broker.asked == [("put off", 7, 5_000)]
    assert settling.cached == (0, 0)


@pytest.mark.behaviour("GC-02")
def test_nothing_is_tried_any_more_once_the_server_has_given_the_message_to_others() -> None:
    settling = Settling()
    settling.broker.failing = SILENT
    settling.settlement.ack(settling.message, TOPIC, settling.queue)
    settling.runtime.advance(RENEW_MAX_MS + MINUTE_MS)
    assert len(settling.broker.asked) == RENEW_MAX_MS // 1_000 + 1
    assert settling.cached == (0, 0)


@pytest.mark.behaviour("GC-02")
def test_what_follows_a_dead_letter_waits_until_that_is_over() -> None:
    settling = Settling()
    settling.broker.failing = BUSY
    over: list[bool] = []
    settling.settlement.forward_to_dead_letter_queue(
        settling.message, TOPIC, 3, 3, settling.queue, lambda: over.append(True)
    )
    settling.runtime.advance(5_000)
    assert not over
    settling.broker.failing = None
    settling.runtime.advance(1_000)
    assert over == [True]
    assert set(settling.broker.asked) == {("dead letter", 7, 3)}
    assert settling.cached == (0, 0)


def test_the_end_waits_for_what_is_under_way_and_tries_nothing_again() -> None:
    settling = Settling()
    assert settling.settlement.shutdown(0)
    settling.broker.failing = SILENT
    settling.settlement.ack(settling.message, TOPIC, settling.queue)
    settling.runtime.advance(MINUTE_MS)
    assert len(settling.broker.asked) == 1
    settling.broker.held = True
    settling.settlement.ack(settling.message, TOPIC)
    assert not settling.settlement.shutdown(0)
    settling.broker.answer_all()
    assert settling.settlement.shutdown(0)
