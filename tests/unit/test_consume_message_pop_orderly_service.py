from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rocketmq_py import MessageListenerConcurrently, MessageListenerOrderly
from rocketmq_py.consumer.consume_message_pop_orderly_service import ConsumeMessagePopOrderlyService
from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.receipt_settlement import RENEW_MAX_MS, ReceiptSettlement
from rocketmq_py.consumer.stats import ConsumerCounters
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    Messages,
)
from rocketmq_py.model.retry_policy import ConsumerTerms, RetryPolicy
from rocketmq_py.testing import InlineExecutor, ManualRuntime
from tests.unit.receipt_support import BUSY, ReceiptBroker
from tests.unit.support import GROUP, TOPIC, message, offsets

SUCCESS = ConsumeOrderlyStatus.SUCCESS
AGAIN = ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
MQ = MessageQueue(TOPIC, "broker-a", -1)


class Consuming:
    """A service over a group whose policy is three deliveries, 1 s and 5 s apart."""

    def __init__(self, answer: Any = SUCCESS, *, concurrently: bool = False, **settings: Any) -> None:
        self.answer = answer
        self.calls: list[tuple[list[int], int]] = []
        self.runtime = ManualRuntime()
        self.broker = ReceiptBroker()
        counters = ConsumerCounters()
        self.terms = ConsumerTerms(retry=RetryPolicy(3, (1_000, 5_000)), fifo=True)
        scheduler = self.runtime.scheduler("timer")
        self.service = ConsumeMessagePopOrderlyService(
            group=GROUP,
            config=ConsumerConfig(**settings),
            listener=(MessageListenerConcurrently if concurrently else MessageListenerOrderly)(self._listen),
            runtime=self.runtime,
            scheduler=scheduler,
            settlement=ReceiptSettlement(
                group=GROUP, broker=self.broker, runtime=self.runtime, scheduler=scheduler, timeout_ms=3_000,
                counters=counters,
            ),
            terms=lambda: self.terms,
            max_attempts=lambda: self.terms.retry.max_attempts,
            hooks=[],
            counters=counters,
            stats=GroupStats(GROUP),
        )  # fmt: skip
        self.queue = PopProcessQueue(self.runtime.clock)
        [self.pool] = self.runtime.pools.values()

    def _listen(self, msgs: Messages, context: Any) -> Any:
        self.calls.append((offsets(msgs), msgs[0].reconsume_times))
        return self.answer(msgs, context) if callable(self.answer) else self.answer

    def submit(self, *msgs: MessageExt) -> None:
        self.queue.inc_found_msg(len(msgs), sum(len(msg.body) for msg in msgs))
        self.service.submit_pop_consume_request(list(msgs), self.queue, MQ)

    @property
    def cached(self) -> tuple[int, int]:
        return self.queue.wait_ack_msg_count, self.queue.wait_ack_bytes


def of(group: str | None, offset: int, **fields: Any) -> MessageExt:
    return message(offset, properties={} if group is None else {"__SHARDINGKEY": group}, **fields)


def failing(*bad: int) -> Callable[[Messages, ConsumeOrderlyContext], ConsumeOrderlyStatus]:
    return lambda msgs, context: AGAIN if msgs[0].queue_offset in bad else SUCCESS


@pytest.mark.behaviour("GC-14")
def test_messages_of_a_group_come_one_after_the_other_and_are_acknowledged() -> None:
    consuming = Consuming()
    consuming.submit(of("a", 0), of("b", 1), of("a", 2))
    assert [call[0] for call in consuming.calls] in ([[0], [2], [1]], [[0], [1], [2]])
    assert {asked[:2] for asked in consuming.broker.asked} == {("ack", 0), ("ack", 1), ("ack", 2)}
    assert consuming.cached == (0, 0)


@pytest.mark.behaviour("GC-14")
def test_a_message_that_fails_holds_back_its_own_group_only_and_no_thread() -> None:
    consuming = Consuming(failing(0))
    consuming.submit(of("a", 0), of("a", 1), of("b", 2), of(None, 3))
    assert [call[0] for call in consuming.calls] == [[0], [2], [3]]
    consuming.answer = SUCCESS
    consuming.runtime.advance(999)
    assert len(consuming.calls) == 3
    consuming.runtime.advance(1)
    assert [call[0] for call in consuming.calls[3:]] == [[0], [1]]
    assert all(asked[0] == "ack" for asked in consuming.broker.asked)
    assert consuming.cached == (0, 0)


@pytest.mark.behaviour("GC-15")
def test_after_the_last_attempt_it_goes_to_the_dead_letter_queue_and_only_then_the_next_one_comes() -> None:
    consuming = Consuming(failing(0))
    consuming.submit(of("a", 0), of("a", 1))
    consuming.runtime.advance(1_000)
    consuming.broker.failing = BUSY
    consuming.runtime.advance(5_000)
    assert consuming.calls == [([0], 0), ([0], 1), ([0], 2)]
    assert consuming.broker.asked == [("dead letter", 0, 3)]
    consuming.runtime.advance(2_000)
    assert consuming.broker.asked == [("dead letter", 0, 3)] * 3
    assert len(consuming.calls) == 3
    consuming.broker.failing = None
    consuming.runtime.advance(1_000)
    assert consuming.calls[3:] == [([1], 0)]
    assert consuming.broker.asked[-1] == ("ack", 1, 0)
    assert consuming.cached == (0, 0)


@pytest.mark.behaviour("GC-15")
def test_the_server_s_count_of_deliveries_goes_on_here() -> None:
    consuming = Consuming(AGAIN)
    consuming.submit(of("a", 0, reconsume_times=1))
    assert consuming.broker.asked == []
    consuming.runtime.advance(5_000)  # the delay after the second attempt
    assert consuming.calls == [([0], 1), ([0], 2)]
    assert consuming.broker.asked == [("dead letter", 0, 3)]


@pytest.mark.behaviour("GC-15")
def test_a_limit_that_the_server_changes_counts_from_then_on() -> None:
    consuming = Consuming(AGAIN)
    consuming.submit(of("a", 0))
    consuming.terms = ConsumerTerms(retry=RetryPolicy(2, (1_000,)), fifo=True)
    consuming.runtime.advance(1_000)
    assert consuming.broker.asked == [("dead letter", 0, 2)]


@pytest.mark.behaviour("GC-16")
def test_an_orderly_listener_may_say_when_it_wants_its_messages_again() -> None:
    def wish(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        context.suspend_current_queue_time_millis = 300
        return AGAIN

    consuming = Consuming(wish)
    consuming.submit(of("a", 0))
    consuming.runtime.advance(300)
    assert consuming.calls == [([0], 0), ([0], 1)]


@pytest.mark.behaviour("GC-16")
@pytest.mark.parametrize("answer", [None, ConsumeOrderlyStatus.ROLLBACK])
def test_what_is_no_success_is_tried_again(answer: ConsumeOrderlyStatus | None) -> None:
    consuming = Consuming(answer)
    consuming.submit(of("a", 0))
    consuming.runtime.advance(1_000)
    assert consuming.calls == [([0], 0), ([0], 1)]


@pytest.mark.behaviour("GC-16")
def test_of_a_batch_a_concurrent_listener_acknowledges_the_beginning_and_the_rest_comes_again_in_order() -> None:
    def half(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if msgs[0].reconsume_times == 0:
            context.ack_index = 1
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    consuming = Consuming(half, concurrently=True, consume_message_batch_max_size=4)
    consuming.submit(*(of("a", offset) for offset in range(6)))
    assert consuming.calls == [([0, 1, 2, 3], 0)]
    consuming.runtime.advance(1_000)
    assert consuming.calls[1:] == [([2, 3, 4, 5], 1)]
    assert [asked[1] for asked in consuming.broker.asked] == [0, 1, 2, 3, 4, 5]
    assert consuming.cached == (0, 0)


@pytest.mark.behaviour("GC-16")
@pytest.mark.parametrize(("level", "asked"), [(-1, [("dead letter", 0, 1)]), (2, [])])
def test_a_concurrent_listener_s_delay_levels_count_here_too(level: int, asked: list[tuple[str, int, int]]) -> None:
    def wish(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.delay_level_when_next_consume = level
        return ConsumeConcurrentlyStatus.RECONSUME_LATER

    consuming = Consuming(wish, concurrently=True)
    consuming.submit(of("a", 0))
    assert consuming.broker.asked == asked
    consuming.runtime.advance(4_999)
    assert len(consuming.calls) == 1
    consuming.runtime.advance(1)
    assert len(consuming.calls) == (1 if level < 0 else 2)


@pytest.mark.behaviour("GC-14")
def test_a_message_that_comes_again_while_it_waits_takes_the_place_of_the_older() -> None:
    consuming = Consuming(failing(0))
    consuming.submit(of("a", 0), of("a", 1))
    newer = of("a", 0, reconsume_times=1, body=b"newer receipt")
    consuming.submit(newer)
    consuming.answer = SUCCESS
    consuming.runtime.advance(1_000)
    assert consuming.calls == [([0], 0), ([0], 1), ([1], 0)]
    assert [asked[1] for asked in consuming.broker.asked] == [0, 1]
    assert consuming.cached == (0, 0)


@pytest.mark.behaviour("GC-14")
def test_a_message_whose_receipt_ran_out_while_it_waited_is_left_to_the_server() -> None:
    consuming = Consuming(failing(0))
    consuming.terms = ConsumerTerms(retry=RetryPolicy(3, (RENEW_MAX_MS,)), fifo=True)
    consuming.submit(of("a", 0), of("a", 1))
    consuming.answer = SUCCESS
    consuming.runtime.advance(RENEW_MAX_MS)
    assert consuming.calls == [([0], 0)]
    assert consuming.broker.asked == []
    assert consuming.cached == (0, 0)


@pytest.mark.behaviour("GC-14")
def test_at_the_end_whole_groups_are_consumed_and_what_waits_for_its_turn_is_told() -> None:
    consuming = Consuming(failing(5))
    pool: InlineExecutor[object] = consuming.pool
    pool.held = True
    consuming.submit(of("a", 0), of("a", 1), of("a", 2))
    assert consuming.service.shutdown(1_000)
    assert [call[0] for call in consuming.calls] == [[0], [1], [2]]
    consuming = Consuming(failing(5))
    consuming.submit(of("a", 5), of("a", 6))
    assert not consuming.service.shutdown(1_000)
