from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from rocketmq_py.consumer.consumer_stats_manager import GroupStats
from rocketmq_py.consumer.flow_control import MIB
from rocketmq_py.consumer.hooks import FilterMessageContext, FilterMessageHook, run_filter
from rocketmq_py.consumer.message_puller import MessagePuller, PullRequest, wanted
from rocketmq_py.consumer.offset_store import RemoteBrokerOffsetStore
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import BrokerError, ConnectError, ProtocolError, RequestTimeoutError, RocketMQError
from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.message import MessageExt, PullBounds
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PullResult, PullStatus
from rocketmq_py.model.subscription import MessageSelector, SubscriptionData, build_selected, build_subscription_data
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.message_codec import decode_messages, encode_message
from rocketmq_py.testing import FakeBroker, ManualRuntime
from tests.unit.support import GROUP, ME, RETRY_TOPIC, TOPIC, Dispatch, message, messages, mq, offsets

PullWaiting = tuple[PullCall, Callable[[PullResult], None], Callable[[Exception], None]]


class Broker(FakeBroker):
    """Answers a pull as the test says. An error that handling the answer raises fails the pull, as the wire does it."""

    def __init__(self) -> None:
        super().__init__(ME)
        self.waiting: list[PullWaiting] = []

    def pull_message(
        self, call: PullCall, on_result: Callable[[PullResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        self.waiting.append((call, on_result, on_error))

    def answer(self, result: PullResult) -> None:
        _, on_result, on_error = self.waiting.pop(0)
        try:
            on_result(result)
        except Exception as error:  # noqa: BLE001 - as remoting.connection does
            on_error(error)

    def fail(self, error: Exception) -> None:
        _, _, on_error = self.waiting.pop(0)
        on_error(error)


class Pulling:
    """A puller with the request of one queue, and everything that it calls noted."""

    def __init__(
        self,
        expression: str = "*",
        topic: str = TOPIC,
        first_locked_offset: int | RocketMQError | None = None,
        **settings: Any,
    ) -> None:
        runtime = self.runtime = ManualRuntime()
        self.first_locked_offset = first_locked_offset
        self.clock = runtime.manual_clock
        self.broker = Broker()
        self.dispatch = Dispatch()
        self.counters = ConsumerCounters()
        self.store = RemoteBrokerOffsetStore(
            GROUP, self.broker, RateLimitedLog(self.clock, logging.getLogger(__name__))
        )
        self.subscriptions: dict[str, SubscriptionData] = {topic: build_subscription_data(topic, expression, 1)}
        self.announced: dict[str, SubscriptionData] = {}
        self.consumed: list[list[int]] = []
        self.dispatched: list[bool] = []
        self.illegal: list[PullRequest] = []
        self.filter_hooks: list[FilterMessageHook] = []
        self.puller = MessagePuller(
            group=GROUP,
            config=ConsumerConfig(**settings),
            runtime=runtime,
            broker=self.broker,
            client=self.broker,
            dispatch=self.dispatch,
            offset_store=self.store,
            counters=self.counters,
            stats=GroupStats(GROUP),
            subscription=self.subscriptions.get,
            newest_subscription=lambda topic: self.announced.get(topic) or self.subscriptions.get(topic),
            consume=self._consume,
            offset_illegal=self.illegal.append,
            orderly=first_locked_offset is not None,
            first_locked_offset=None if first_locked_offset is None else self._first_offset,
            filter_hooks=self.filter_hooks,
        )
        self.puller.running = True
        self.mq = mq(0, topic)
        self.window = ProcessQueue(self.clock)
        self.request = PullRequest(self.mq, self.window, 10)

    def _consume(self, msgs: list[MessageExt], queue: ProcessQueue, mq: MessageQueue, dispatch: bool) -> None:
        assert (queue, mq) == (self.window, self.mq)
        self.consumed.append(offsets(msgs))
        self.dispatched.append(dispatch)

    def _first_offset(self, mq: MessageQueue) -> int:
        if isinstance(self.first_locked_offset, RocketMQError):
            raise self.first_locked_offset
        assert self.first_locked_offset is not None
        return self.first_locked_offset

    def pull(self) -> None:
        self.puller.pull_message(self.request)

    def pull_and_get(self, status: PullStatus, next_offset: int, *msgs: MessageExt) -> None:
        self.pull()
        self.broker.answer(PullResult(status, next_offset, 0, 99, list(msgs)))

    def pull_and_fail(self, error: Exception) -> None:
        self.pull()
        self.broker.fail(error)

    @property
    def next_pulls(self) -> tuple[list[int], list[int]]:
        """Offsets of the pulls that wait for an answer, and the delays of those that begin later."""
        return [call.offset for call, _, _ in self.broker.waiting], self.dispatch.delays


# May it be pulled?


@pytest.mark.behaviour("PL-01")
def test_the_pulls_of_a_queue_taken_away_end() -> None:
    pulling = Pulling()
    pulling.window.dropped = True
    pulling.pull()
    assert pulling.next_pulls == ([], [])


@pytest.mark.behaviour("PL-02")
def test_a_consumer_that_does_not_run_yet_pulls_after_the_exception_delay() -> None:
    pulling = Pulling(pull_time_delay_mills_when_exception=700)
    pulling.puller.running = False
    pulling.pull()
    assert pulling.next_pulls == ([], [700])
    pulling.puller.running = True
    pulling.dispatch.run_next()
    assert pulling.next_pulls == ([10], [])


@pytest.mark.behaviour("PL-03")
def test_a_suspended_consumer_looks_again_every_second() -> None:
    pulling = Pulling()
    pulling.puller.paused = True
    pulling.pull()
    assert pulling.next_pulls == ([], [1_000])
    pulling.dispatch.run_next()
    assert pulling.next_pulls == ([], [1_000])
    pulling.puller.paused = False
    pulling.dispatch.run_next()
    assert pulling.next_pulls == ([10], [])


@pytest.mark.behaviour("PL-04")
@pytest.mark.parametrize(
    ("cached", "limit"),
    [
        (messages(0, 1, 2), "messages cached"),
        ([message(0, 2 * MIB)], "MiB cached"),
        (messages(0, 11), "offsets spanned"),
    ],
)
def test_a_full_window_is_looked_at_again_after_50_ms(
    cached: list[MessageExt], limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    pulling = Pulling(pull_threshold_for_queue=2, pull_threshold_size_for_queue=1, consume_concurrently_max_span=10)
    pulling.window.put_message(cached)
    pulling.pull()
    assert pulling.next_pulls == ([], [50])
    assert pulling.counters.snapshot()[Event.FLOW_CONTROLLED] == 1
    assert limit in caplog.text
    pulling.window.remove_message(cached)
    pulling.dispatch.run_next()
    assert pulling.next_pulls == ([10], [])


@pytest.mark.behaviour("PL-04")
def test_a_queue_held_back_all_the_time_is_counted_every_time_and_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pulling = Pulling(pull_threshold_for_queue=1)
    pulling.window.put_message(messages(0, 1))
    pulling.pull()
    for _ in range(1_199):
        pulling.clock.advance(50)
        pulling.dispatch.run_next()
    assert pulling.counters.snapshot()[Event.FLOW_CONTROLLED] == 1_200
    assert caplog.text.count("held back") == 1
    pulling.clock.advance(50)
    pulling.dispatch.run_next()
    assert caplog.text.count("held back") == 2


@pytest.mark.behaviour("PL-05")
def test_a_topic_no_longer_subscribed_is_looked_at_again_after_the_exception_delay() -> None:
    pulling = Pulling()
    pulling.subscriptions.clear()
    pulling.pull()
    assert pulling.next_pulls == ([], [1_000])


@pytest.mark.behaviour("PL-01", "PL-02", "PL-03", "PL-04", "PL-05")
def test_the_checks_come_in_the_order_dropped_running_paused_full_subscribed() -> None:
    pulling = Pulling(pull_threshold_for_queue=1, pull_time_delay_mills_when_exception=700)
    pulling.window.put_message(messages(0, 1))
    pulling.subscriptions.clear()
    pulling.puller.running = False
    pulling.puller.paused = True
    pulling.pull()
    pulling.puller.running = True
    pulling.pull()
    pulling.puller.paused = False
    pulling.pull()
    pulling.window.clear()
    pulling.pull()
    pulling.window.dropped = True
    pulling.pull()
    assert pulling.next_pulls == ([], [700, 1_000, 50, 700])


@pytest.mark.behaviour("PL-11")
@pytest.mark.parametrize("hindered_by", ["nothing", "pause", "a full window"])
def test_every_attempt_keeps_the_queue_from_being_pull_expired(hindered_by: str) -> None:
    pulling = Pulling(pull_threshold_for_queue=1)
    pulling.clock.advance(200_000)
    assert pulling.window.is_pull_expired is True
    pulling.puller.paused = hindered_by == "pause"
    if hindered_by == "a full window":
        pulling.window.put_message(messages(0, 1))
    pulling.pull()
    assert pulling.window.is_pull_expired is False


@pytest.mark.behaviour("PL-11")
def test_a_queue_taken_away_is_not_refreshed() -> None:
    pulling = Pulling()
    pulling.clock.advance(200_000)
    pulling.window.dropped = True
    pulling.pull()
    assert pulling.window.is_pull_expired is True


# The request.


@pytest.mark.behaviour("PL-12")
def test_a_pull_asks_for_what_the_settings_say_and_carries_the_offset_in_memory() -> None:
    pulling = Pulling("TagA", pull_batch_size=7, pull_batch_size_in_bytes=99, post_subscription_when_pull=True)
    pulling.store.update_offset(pulling.mq, 5, increase_only=True)
    pulling.pull()
    ((call, _, _),) = pulling.broker.waiting
    assert call == PullCall(
        group=GROUP,
        mq=pulling.mq,
        subscription=pulling.subscriptions[TOPIC],
        offset=10,
        commit_offset=5,
        send_subscription=True,
        batch_size=7,
        batch_bytes=99,
        hold_ms=15_000,
        timeout_ms=30_000,
    )


@pytest.mark.behaviour("PL-12")
def test_a_pull_of_a_queue_without_an_offset_commits_nothing_and_asks_no_broker_for_it() -> None:
    pulling = Pulling()
    pulling.broker.offsets[GROUP, pulling.mq] = 77
    pulling.pull()
    ((call, _, _),) = pulling.broker.waiting
    assert call.commit_offset == -1
    assert call.send_subscription is False


# Messages came.


@pytest.mark.behaviour("PL-06")
def test_messages_found_go_into_the_window_and_to_the_listener_and_the_next_pull_begins_at_once() -> None:
    pulling = Pulling()
    pulling.pull_and_get(PullStatus.FOUND, 12, *messages(10, 11))
    assert pulling.window.offsets()[0] == [10, 11]
    assert pulling.consumed == [[10, 11]]
    assert pulling.next_pulls == ([12], [])


@pytest.mark.behaviour("PL-06")
def test_with_a_pull_interval_the_next_pull_waits() -> None:
    pulling = Pulling(pull_interval=250)
    pulling.pull_and_get(PullStatus.FOUND, 12, *messages(10, 11))
    assert pulling.next_pulls == ([], [250])
    pulling.dispatch.run_next()
    assert pulling.next_pulls == ([12], [])


@pytest.mark.behaviour("PL-06")
def test_messages_that_fill_the_window_put_the_next_pull_off() -> None:
    pulling = Pulling(pull_threshold_for_queue=1)
    pulling.pull_and_get(PullStatus.FOUND, 12, *messages(10, 11))
    assert pulling.next_pulls == ([], [50])


@pytest.mark.behaviour("PL-06")
def test_messages_found_that_are_all_filtered_are_passed_over_without_a_commit() -> None:
    pulling = Pulling("TagA", pull_interval=250)
    pulling.pull_and_get(PullStatus.FOUND, 12, message(10, tags="TagB"), message(11))
    assert pulling.consumed == []
    assert pulling.window.msg_count == 0
    assert pulling.store.clone_offset_table() == {}
    assert pulling.next_pulls == ([12], [])


@pytest.mark.behaviour("PL-06")
@pytest.mark.parametrize("goes_on_at", [4, 10])
def test_a_pull_that_found_messages_and_does_not_move_on_is_an_error_and_delivers_nothing(
    goes_on_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    pulling = Pulling()
    pulling.pull_and_get(PullStatus.FOUND, goes_on_at, *messages(3))
    assert pulling.next_pulls == ([], [1_000])
    assert pulling.window.msg_count == 0
    assert "goes on at" in caplog.text


@pytest.mark.behaviour("PL-06")
def test_messages_for_a_queue_taken_away_meanwhile_end_its_pulls() -> None:
    pulling = Pulling()
    pulling.pull()
    pulling.window.dropped = True
    pulling.broker.answer(PullResult(PullStatus.FOUND, 12, 0, 99, messages(10, 11)))
    assert pulling.next_pulls == ([], [])


# Nothing came.


@pytest.mark.behaviour("PL-07")
@pytest.mark.parametrize("status", [PullStatus.NO_NEW_MSG, PullStatus.NO_MATCHED_MSG])
def test_when_nothing_came_an_empty_window_moves_its_offset_and_the_next_pull_begins_at_once(
    status: PullStatus,
) -> None:
    pulling = Pulling(pull_interval=250)
    pulling.pull_and_get(status, 25)
    assert pulling.store.clone_offset_table() == {pulling.mq: 25}
    assert pulling.next_pulls == ([25], [])


@pytest.mark.behaviour("PL-07")
@pytest.mark.parametrize("status", [PullStatus.NO_NEW_MSG, PullStatus.NO_MATCHED_MSG])
def test_while_a_message_is_unfinished_the_offset_does_not_move(status: PullStatus) -> None:
    pulling = Pulling()
    pulling.window.put_message(messages(9))
    pulling.pull_and_get(status, 25)
    assert pulling.store.clone_offset_table() == {}
    assert pulling.next_pulls == ([25], [])


@pytest.mark.behaviour("PL-07")
def test_a_message_taken_but_not_finished_holds_the_offset_too() -> None:
    pulling = Pulling()
    pulling.window.put_message(messages(9))
    pulling.window.take_messages(1)
    pulling.pull_and_get(PullStatus.NO_MATCHED_MSG, 25)
    assert pulling.store.clone_offset_table() == {}


@pytest.mark.behaviour("PL-07")
def test_the_offset_moved_so_never_goes_back() -> None:
    pulling = Pulling()
    pulling.store.update_offset(pulling.mq, 30, increase_only=True)
    pulling.pull_and_get(PullStatus.NO_NEW_MSG, 25)
    assert pulling.store.clone_offset_table() == {pulling.mq: 30}


# The offset is not there.


@pytest.mark.behaviour("PL-08")
def test_an_illegal_offset_drops_the_window_and_is_mended_on_the_pull_thread() -> None:
    pulling = Pulling()
    pulling.pull_and_get(PullStatus.OFFSET_ILLEGAL, 50)
    assert pulling.window.dropped is True
    assert pulling.illegal == []
    assert pulling.next_pulls == ([], [0])
    pulling.dispatch.run_next()
    assert pulling.illegal == [pulling.request]
    assert pulling.request.next_offset == 50
    assert pulling.next_pulls == ([], [])
    assert pulling.counters.snapshot()[Event.OFFSET_ILLEGAL] == 1


@pytest.mark.behaviour("PL-14")
@pytest.mark.parametrize(
    "status", [PullStatus.OFFSET_ILLEGAL, PullStatus.NO_NEW_MSG, PullStatus.NO_MATCHED_MSG, PullStatus.FOUND]
)
def test_an_answer_for_a_queue_taken_away_meanwhile_changes_no_offset_and_ends_its_pulls(status: PullStatus) -> None:
    pulling = Pulling()
    pulling.pull()
    pulling.window.dropped = True
    pulling.broker.answer(PullResult(status, 50, 0, 99, []))
    assert pulling.store.clone_offset_table() == {}
    assert pulling.illegal == []
    assert pulling.next_pulls == ([], [])


# The pull failed.


@pytest.mark.behaviour("PL-09")
@pytest.mark.parametrize(
    "error",
    [
        BrokerError(1, "system error"),
        ConnectError("broke"),
        RequestTimeoutError("no answer"),
        ProtocolError("nonsense"),
        ValueError("a bug"),
    ],
)
def test_a_failed_pull_is_tried_again_after_the_exception_delay_from_the_same_offset(error: Exception) -> None:
    pulling = Pulling(pull_time_delay_mills_when_exception=700)
    pulling.pull_and_fail(error)
    assert pulling.next_pulls == ([], [700])
    assert pulling.counters.snapshot()[Event.PULL_FAILED] == 1
    assert pulling.broker.heartbeats == 0
    pulling.dispatch.run_next()
    assert pulling.next_pulls == ([10], [])


@pytest.mark.behaviour("PL-09")
def test_a_broker_under_flow_control_is_asked_again_after_20_ms(caplog: pytest.LogCaptureFixture) -> None:
    pulling = Pulling()
    pulling.pull_and_fail(BrokerError(215, "flow control"))
    assert pulling.next_pulls == ([], [20])
    assert pulling.counters.snapshot()[Event.PULL_FAILED] == 0
    assert caplog.text == ""


@pytest.mark.behaviour("PL-13")
@pytest.mark.parametrize("code", [24, 25])
def test_a_broker_that_does_not_know_the_subscription_gets_a_heartbeat_soon(code: int) -> None:
    pulling = Pulling()
    pulling.pull_and_fail(BrokerError(code, "the consumer's subscription not exist"))
    assert pulling.broker.heartbeats == 1
    assert pulling.next_pulls == ([], [1_000])


@pytest.mark.behaviour("PL-09")
def test_failures_are_logged_once_a_minute_and_those_of_retry_topics_never(caplog: pytest.LogCaptureFixture) -> None:
    pulling = Pulling()
    for _ in range(3):
        pulling.pull_and_fail(ConnectError("broke"))
    assert caplog.text.count("failed, it is tried again: broke") == 1
    caplog.clear()
    retry = Pulling(topic=RETRY_TOPIC)
    retry.pull_and_fail(ConnectError("broke"))
    assert caplog.text == ""
    assert retry.next_pulls == ([], [1_000])


@pytest.mark.behaviour("PL-09")
def test_a_pull_that_fails_because_the_consumer_ends_is_the_last() -> None:
    pulling = Pulling()
    pulling.pull()
    pulling.puller.running = False
    pulling.broker.fail(ConnectError("closed"))
    assert pulling.next_pulls == ([], [])
    assert pulling.counters.snapshot()[Event.PULL_FAILED] == 0


@pytest.mark.behaviour("PL-09")
def test_a_failed_pull_of_a_queue_taken_away_meanwhile_ends_its_pulls() -> None:
    pulling = Pulling()
    pulling.pull()
    pulling.window.dropped = True
    pulling.broker.fail(ConnectError("broke"))
    while pulling.dispatch.jobs:
        pulling.dispatch.run_next()
    assert pulling.next_pulls == ([], [])


# Tags.


@pytest.mark.behaviour("PL-10")
@pytest.mark.parametrize(
    ("expression", "expected"), [("*", [0, 1, 2, 3]), ("TagA", [0]), ("TagA || TagB", [0, 1]), ("Nobody", [])]
)
def test_messages_whose_tag_is_not_subscribed_are_left_out_though_the_broker_sent_them(
    expression: str, expected: list[int]
) -> None:
    msgs = [message(0, tags="TagA"), message(1, tags="TagB"), message(2, tags="TagC"), message(3)]
    assert offsets(wanted(msgs, build_subscription_data(TOPIC, expression, 1))) == expected


@pytest.mark.behaviour("PL-10")
def test_tags_whose_hashes_collide_are_told_apart() -> None:
    subscription = build_subscription_data(TOPIC, "Aa", 1)
    assert subscription.code_set == build_subscription_data(TOPIC, "BB", 1).code_set
    assert offsets(wanted([message(0, tags="BB"), message(1, tags="Aa")], subscription)) == [1]


@pytest.mark.behaviour("PL-10", "PL-06")
def test_only_what_is_left_reaches_window_and_listener() -> None:
    pulling = Pulling("TagA")
    pulling.pull_and_get(PullStatus.FOUND, 13, message(10, tags="TagA"), message(11), message(12, tags="TagA"))
    assert pulling.window.offsets()[0] == [10, 12]
    assert pulling.consumed == [[10, 12]]


# Messages whose properties cannot be read: held or consumed, never passed over.


def unreadable(offset: int) -> MessageExt:
    """A message from the wire whose properties are not UTF-8, as clients in other languages can send them."""
    stored = encode_message(message(offset, properties={"own": "é"}, tags="TagA"))
    (broken,) = decode_messages(stored.replace("é".encode(), b"\xc3\x28"), PullBounds(0, 99, "broker-a"))
    return broken


@pytest.mark.behaviour("PL-15")
@pytest.mark.parametrize("expression", ["*", "TagA"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_message_whose_properties_cannot_be_read_is_not_passed_over(expression: str, place: int) -> None:
    pulling = Pulling(expression)
    found = [message(10, tags="TagA"), message(11, tags="TagA")]
    found[place] = unreadable(10 + place)
    pulling.pull_and_get(PullStatus.FOUND, 12, *found)
    waiting, delays = pulling.next_pulls
    assert len(waiting) + len(delays) == 1
    if delays:
        pulling.dispatch.run_next()
        waiting, _ = pulling.next_pulls
    consumed = {offset for batch in pulling.consumed for offset in batch}
    assert {10, 11} <= consumed | set(range(waiting[0], 12)), "neither consumed nor to be pulled again"


@pytest.mark.behaviour("PL-10")
def test_what_a_held_pull_brings_is_filtered_by_the_newest_subscription() -> None:
    pulling = Pulling("TagA")
    pulling.pull()
    pulling.announced[TOPIC] = build_subscription_data(TOPIC, "TagA || TagB", 2)
    pulling.broker.answer(PullResult(PullStatus.FOUND, 12, 0, 99, [message(10, tags="TagB")]))
    assert pulling.window.msg_count == 1


# Orderly consumption of a group that locks queues.


def locked(first_locked_offset: int | RocketMQError = 10, **settings: Any) -> Pulling:
    pulling = Pulling(first_locked_offset=first_locked_offset, **settings)
    pulling.window.note_locked(pulling.clock.monotonic_ms())
    return pulling


@pytest.mark.behaviour("PL-16")
def test_an_orderly_queue_begins_where_the_store_says_once_it_is_locked_and_asks_only_once() -> None:
    pulling = locked(first_locked_offset=25)
    pulling.pull()
    assert pulling.broker.waiting == []
    pulling.runtime.advance(0)
    assert [call.offset for call, _, _ in pulling.broker.waiting] == [25]
    pulling.first_locked_offset = 99
    pulling.broker.answer(PullResult(PullStatus.FOUND, 27, 0, 99, messages(25, 26)))
    assert [call.offset for call, _, _ in pulling.broker.waiting] == [27]


@pytest.mark.behaviour("PL-16")
def test_an_orderly_queue_whose_first_offset_cannot_be_asked_is_tried_again() -> None:
    pulling = locked(first_locked_offset=ConnectError("down"))
    pulling.pull()
    pulling.runtime.advance(0)
    assert pulling.broker.waiting == []
    assert pulling.dispatch.delays == [1_000]
    pulling.first_locked_offset = 25
    pulling.dispatch.run_next()
    pulling.runtime.advance(0)
    assert [call.offset for call, _, _ in pulling.broker.waiting] == [25]


@pytest.mark.behaviour("PL-17")
def test_an_orderly_queue_is_not_pulled_while_its_lock_is_not_held_or_has_run_out() -> None:
    pulling = Pulling(first_locked_offset=10)
    pulling.pull()
    pulling.window.note_locked(pulling.clock.monotonic_ms())
    pulling.clock.advance(30_001)
    pulling.pull()
    pulling.runtime.advance(0)
    assert pulling.broker.waiting == []
    assert pulling.dispatch.delays == [1_000, 1_000]


@pytest.mark.behaviour("PL-03")
def test_the_span_of_an_orderly_window_does_not_hold_its_pull_back() -> None:
    pulling = locked(consume_concurrently_max_span=10)
    pulling.window.put_message(messages(1, 100))
    pulling.pull()
    pulling.runtime.advance(0)
    assert len(pulling.broker.waiting) == 1


@pytest.mark.behaviour("PL-06")
def test_the_consumer_is_told_whether_the_window_asks_for_an_orderly_task() -> None:
    pulling = locked()
    pulling.pull()
    pulling.runtime.advance(0)
    pulling.broker.answer(PullResult(PullStatus.FOUND, 12, 0, 99, messages(10, 11)))
    pulling.broker.answer(PullResult(PullStatus.FOUND, 13, 0, 99, messages(12)))
    assert pulling.dispatched == [True, False]


@pytest.mark.behaviour("PL-17")
def test_after_shutdown_no_offset_is_asked_for() -> None:
    pulling = locked()
    pulling.pull()
    pulling.puller.shutdown()
    pulling.runtime.advance(0)
    assert pulling.broker.waiting == []


class Remove:
    """Takes messages out by offset, then fails if it is to."""

    def __init__(self, *offsets_: int, error: BaseException | None = None) -> None:
        self._offsets = offsets_
        self._error = error
        self.contexts: list[FilterMessageContext] = []

    def hook_name(self) -> str:
        return "remove"

    def filter_message(self, context: FilterMessageContext) -> None:
        self.contexts.append(context)
        context.msg_list[:] = [msg for msg in context.msg_list if msg.queue_offset not in self._offsets]
        if self._error is not None:
            raise self._error


@pytest.mark.behaviour("FI-05")
def test_filter_hooks_take_messages_out_after_the_tags_and_their_errors_change_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pulling = Pulling("A", unit_mode=True)
    first, second = Remove(10, error=ValueError("oops")), Remove(12, error=SystemExit("oops"))
    pulling.filter_hooks += [first, second]
    msgs = [message(10, tags="A"), message(11, tags="A"), message(12, tags="A"), message(13, tags="B")]
    pulling.pull_and_get(PullStatus.FOUND, 14, *msgs)
    assert pulling.consumed == [[11]]
    assert pulling.window.offsets()[0] == [11]
    assert pulling.next_pulls == ([14], [])
    assert caplog.text.count("filter message hook") == 2
    (context,) = first.contexts
    assert (context.consumer_group, context.mq, context.unit_mode) == (GROUP, pulling.mq, True)


@pytest.mark.behaviour("FI-05")
def test_when_hooks_leave_nothing_the_next_pull_begins_at_once() -> None:
    pulling = Pulling()
    pulling.filter_hooks.append(Remove(10, 11))
    pulling.pull_and_get(PullStatus.FOUND, 12, *messages(10, 11))
    assert (pulling.consumed, pulling.window.msg_count, pulling.next_pulls) == ([], 0, ([12], []))


@pytest.mark.behaviour("FI-05")
def test_a_hook_that_comes_while_running_sees_the_next_pull() -> None:
    pulling = Pulling()
    pulling.pull_and_get(PullStatus.FOUND, 11, message(10))
    pulling.filter_hooks.append(Remove(11))
    pulling.broker.answer(PullResult(PullStatus.FOUND, 13, 0, 99, messages(11, 12)))
    assert pulling.consumed == [[10], [12]]


@pytest.mark.behaviour("FI-06")
def test_what_a_hook_adds_or_puts_in_another_order_is_not_taken_and_the_list_cannot_be_replaced() -> None:
    class Meddler:
        def hook_name(self) -> str:
            return "meddler"

        def filter_message(self, context: FilterMessageContext) -> None:
            context.msg_list.reverse()
            context.msg_list.append(message(99))
            context.msg_list = []  # type: ignore[misc]

    msgs = messages(1, 2, 3)
    assert run_filter([Meddler()], GROUP, mq(), msgs, False) == msgs


@pytest.mark.behaviour("FI-07")
def test_an_sql_subscription_is_not_filtered_again_here() -> None:
    subscription = build_selected(TOPIC, MessageSelector.by_sql("a > 5"), 1)
    msgs = [message(0, tags="A"), message(1)]
    assert wanted(msgs, subscription) == msgs
