from __future__ import annotations

import pytest

from rocketmq_py.consumer.pop_consume_timeouts import PopConsumeTimeouts
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.receipt_failures import ReceiptFailures
from rocketmq_py.consumer.receipt_settlement import ReceiptSettlement
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.retry_policy import ConsumerTerms, RetryPolicy
from rocketmq_py.testing import ManualRuntime
from tests.unit.receipt_support import ReceiptBroker
from tests.unit.support import GROUP, TOPIC, message, mq

MINUTE_MS = 60_000


class Failing:
    """The failures of a consumer whose server says three deliveries, 1 s and 5 s apart."""

    def __init__(self, **settings: int) -> None:
        self.runtime = ManualRuntime()
        self.broker = ReceiptBroker()
        self.counters = ConsumerCounters()
        self.config = ConsumerConfig(**settings)  # type: ignore[arg-type]
        self.terms = ConsumerTerms(retry=RetryPolicy(3, (1_000, 5_000)))
        self.scheduler = self.runtime.scheduler("timer")
        self.failures = ReceiptFailures(
            group=GROUP,
            config=self.config,
            clock=self.runtime.clock,
            settlement=ReceiptSettlement(
                group=GROUP, broker=self.broker, runtime=self.runtime, scheduler=self.scheduler, timeout_ms=3_000,
                counters=self.counters,
            ),
            terms=lambda: self.terms,
            counters=self.counters,
        )  # fmt: skip
        self.queue = PopProcessQueue(self.runtime.clock)

    def again(self, reconsume_times: int, delay_level: int = 0) -> tuple[str, int, int]:
        msg = message(7, reconsume_times=reconsume_times)
        self.queue.inc_found_msg(1, 1)
        self.failures.again_later(msg, mq(-1), self.queue, delay_level)
        assert self.queue.wait_ack_msg_count == self.queue.wait_ack_bytes == 0
        return self.broker.asked[-1]


@pytest.mark.behaviour("GC-07")
def test_a_listener_that_has_messages_for_too_long_loses_them_to_others_and_its_answer_does_not_count() -> None:
    failing = Failing(consume_timeout=2)
    timeouts = PopConsumeTimeouts(
        GROUP, failing.config, failing.runtime, failing.scheduler, failing.failures, failing.counters
    )
    msg = message(7)
    failing.queue.inc_found_msg(2, 2)
    hung = timeouts.begin([msg], mq(-1), failing.queue)
    quick = timeouts.begin([message(8)], mq(-1), failing.queue)
    assert quick.end()
    failing.runtime.advance(2 * MINUTE_MS - 1)
    assert failing.broker.asked == []
    failing.runtime.advance(10_000)
    assert failing.broker.asked == [("put off", 7, 1_000)]
    assert not hung.end()
    assert failing.queue.wait_ack_msg_count == 1
    assert failing.counters.snapshot()[Event.EXPIRED] == 1
    assert msg.topic == TOPIC


@pytest.mark.behaviour("GC-05")
@pytest.mark.parametrize(("times", "delay_ms"), [(0, 1_000), (1, 5_000), (2, 5_000), (9, 5_000)])
def test_a_failed_message_comes_again_by_the_server_s_back_off_whose_limit_the_server_keeps(
    times: int, delay_ms: int
) -> None:
    assert Failing().again(times) == ("put off", 7, delay_ms)


@pytest.mark.behaviour("GC-05")
@pytest.mark.parametrize(("level", "delay_ms"), [(1, 1_000), (3, 10_000), (18, 7_200_000), (99, 7_200_000)])
def test_a_listener_s_delay_level_counts_as_on_the_remoting_wire(level: int, delay_ms: int) -> None:
    assert Failing().again(0, level) == ("put off", 7, delay_ms)


@pytest.mark.behaviour("GC-06")
def test_minus_one_means_the_dead_letter_queue_and_so_does_a_lower_limit_of_the_user() -> None:
    assert Failing().again(0, -1) == ("dead letter", 7, 1)
    assert Failing(max_reconsume_times=1).again(0) == ("put off", 7, 1_000)
    assert Failing(max_reconsume_times=1).again(1) == ("dead letter", 7, 2)
    assert Failing(max_reconsume_times=1).failures.too_often(message(7, reconsume_times=2))
    assert not Failing(max_reconsume_times=1).failures.too_often(message(7, reconsume_times=1))
    assert Failing(max_reconsume_times=99).failures.max_attempts == 3


@pytest.mark.behaviour("GC-08")
@pytest.mark.parametrize(("fifo", "asked"), [(False, ("put off", 7, 5_000)), (True, ("dead letter", 7, 2))])
def test_a_corrupt_message_comes_again_or_in_order_goes_to_the_dead_letter_queue(
    fifo: bool, asked: tuple[str, int, int]
) -> None:
    failing = Failing()
    failing.terms = ConsumerTerms(retry=RetryPolicy(3, (1_000, 5_000)), fifo=fifo)
    failing.failures.corrupted(message(7, reconsume_times=1), mq(-1), ValueError("damaged"))
    assert failing.broker.asked == [asked]


@pytest.mark.behaviour("GC-09")
def test_what_is_given_back_comes_at_once_and_counts_as_no_attempt() -> None:
    failing = Failing()
    failing.queue.inc_found_msg(1, 1)
    failing.failures.give_back(message(7), mq(-1), failing.queue)
    assert failing.broker.asked == [("put off", 7, 0)]
    assert failing.broker.suspended == [7]
