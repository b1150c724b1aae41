from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rocketmq_py.consumer.hooks import ConsumeMessageContext
from rocketmq_py.consumer.offset_store import ReadOffsetType
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.reset_offset import OffsetReset
from rocketmq_py.consumer.stats import Event
from rocketmq_py.errors import ConnectError
from rocketmq_py.model.listener import ConsumeConcurrently
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages, PullStatus
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP, LATER, RETRY_TOPIC, SUCCESS, TOPIC, Core, message, messages, mq, offsets, succeed

MINUTE_MS = 60_000
TIMEOUT_MS = 15 * MINUTE_MS


class Listener:
    """Notes the batches it gets, does what the test says, and answers so."""

    def __init__(self, answer: Any = SUCCESS) -> None:
        self.answer = answer
        self.batches: list[Messages] = []
        self.contexts: list[ConsumeConcurrentlyContext] = []
        self.meanwhile: Callable[[Messages, ConsumeConcurrentlyContext], object] = lambda msgs, context: None

    def __call__(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        self.batches.append(msgs)
        self.contexts.append(context)
        self.meanwhile(msgs, context)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return] # a wrong answer is what some tests are about

    @property
    def offsets(self) -> list[list[int]]:
        return [offsets(batch) for batch in self.batches]


class Consuming(Core):
    """A core that owns one queue, into whose window the test puts messages itself."""

    def __init__(self, listener: ConsumeConcurrently = succeed, **settings: Any) -> None:
        super().__init__(listener, **settings)
        self.begin()
        self.window = self.windows[mq()]

    def consume(self, *offsets_: int) -> list[MessageExt]:
        msgs = messages(*offsets_)
        self.window.put_message(msgs)
        self.service.submit_consume_request(msgs, self.window, mq())
        return msgs

    @property
    def unfinished(self) -> list[int]:
        return self.window.offsets()[0]

    def refuse_send_backs(self) -> None:
        self.broker.failing["send_message_back"] = self.broker.failing["send_retry_message"] = ConnectError("no master")


# Batches.


@pytest.mark.behaviour("CC-01")
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [[0], [1], [2], [3], [4]]),
        (2, [[0, 1], [2, 3], [4]]),
        (4, [[0, 1, 2, 3], [4]]),
        (5, [[0, 1, 2, 3, 4]]),
        (6, [[0, 1, 2, 3, 4]]),
    ],
)
def test_pulled_messages_are_handed_over_in_batches_the_last_one_shorter(size: int, expected: list[list[int]]) -> None:
    listener = Listener()
    Consuming(listener, consume_message_batch_max_size=size).consume(0, 1, 2, 3, 4)
    assert listener.offsets == expected


@pytest.mark.behaviour("CC-01")
def test_every_batch_is_a_task_of_its_own() -> None:
    core = Consuming(consume_message_batch_max_size=2)
    core.pool.held = True
    core.consume(0, 1, 2, 3, 4)
    assert core.pool.run_all() == 3


@pytest.mark.behaviour("CC-01")
def test_the_listener_gets_the_batch_read_only_with_its_queue_and_default_answers() -> None:
    listener = Listener()
    Consuming(listener, consume_message_batch_max_size=9).consume(0, 1)
    (batch,), (context,) = listener.batches, listener.contexts
    assert isinstance(batch, tuple)
    assert context.message_queue == mq()
    assert (context.ack_index, context.delay_level_when_next_consume) == (2**31 - 1, 0)


# Success.


@pytest.mark.behaviour("CC-02")
def test_a_success_commits_the_lowest_unfinished_offset() -> None:
    core = Consuming()
    core.pool.held = True
    core.consume(0, 1, 2)
    assert core.committed(mq()) is None
    core.pool.run_all()
    assert core.committed(mq()) == 3
    assert core.unfinished == []
    assert core.broker.sent_back == []


@pytest.mark.behaviour("CC-02")
def test_the_commit_does_not_go_back_when_an_older_result_comes_later() -> None:
    core = Consuming()
    core.consume(0, 1, 2)
    core.store.update_offset(mq(), 50, increase_only=True)
    core.consume(3)
    assert core.committed(mq()) == 50


# Failure.


@pytest.mark.behaviour("CC-03")
@pytest.mark.parametrize(("ack_index", "sent_back"), [(-5, [0, 1, 2]), (-1, [0, 1, 2]), (0, [1, 2]), (1, [2]), (2, [])])
def test_success_with_an_ack_index_sends_back_what_lies_behind_it_and_commits_all(
    ack_index: int, sent_back: list[int]
) -> None:
    listener = Listener()
    listener.meanwhile = lambda _, context: setattr(context, "ack_index", ack_index)
    core = Consuming(listener, consume_message_batch_max_size=3)
    core.consume(0, 1, 2)
    assert offsets([msg for msg, _ in core.broker.sent_back]) == sent_back
    assert core.committed(mq()) == 3
    assert core.counters.snapshot()[Event.SENT_BACK] == len(sent_back)


@pytest.mark.behaviour("CC-04")
@pytest.mark.parametrize("delay_level", [0, -1, 7])
def test_reconsume_later_sends_the_whole_batch_back_with_the_delay_level_of_the_context(delay_level: int) -> None:
    def meanwhile(_: Messages, context: ConsumeConcurrentlyContext) -> None:
        context.ack_index = 1
        context.delay_level_when_next_consume = delay_level

    listener = Listener(LATER)
    listener.meanwhile = meanwhile
    core = Consuming(listener, consume_message_batch_max_size=3)
    msgs = core.consume(0, 1, 2)
    assert core.broker.sent_back == [(msg, delay_level) for msg in msgs]
    assert core.committed(mq()) == 3
    assert core.unfinished == []


@pytest.mark.behaviour("CC-05")
@pytest.mark.parametrize(
    "answer",
    [
        ValueError("mine"),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        None,
        True,
        0,
        "CONSUME_SUCCESS",
        ConsumeConcurrentlyStatus,
    ],
)
def test_whatever_is_no_status_means_again_later(answer: object) -> None:
    core = Consuming(Listener(answer), consume_message_batch_max_size=2)
    core.consume(0, 1)
    assert offsets([msg for msg, _ in core.broker.sent_back]) == [0, 1]
    assert core.committed(mq()) == 2


@pytest.mark.behaviour("CC-05")
def test_a_listeners_exception_is_logged_with_its_traceback_and_the_place(caplog: pytest.LogCaptureFixture) -> None:
    Consuming(Listener(ValueError("out of stock"))).consume(7)
    (record,) = [record for record in caplog.records if "out of stock" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "offset 7" in record.getMessage()
    assert str(mq()) in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


@pytest.mark.behaviour("CC-13")
def test_none_is_a_legal_answer_and_not_counted_as_unknown() -> None:
    core = Consuming(Listener(None))
    core.consume(0)
    assert core.counters.snapshot()[Event.UNKNOWN_RESULT] == 0


@pytest.mark.behaviour("CC-13")
def test_an_unknown_answer_is_counted_every_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    core = Consuming(Listener("yes"))
    core.consume(0, 1, 2)
    assert core.counters.snapshot()[Event.UNKNOWN_RESULT] == 3
    assert caplog.text.count("returned 'yes', which is no ConsumeConcurrentlyStatus") == 1


@pytest.mark.behaviour("CC-13")
def test_a_coroutine_for_an_answer_is_closed_so_that_python_does_not_warn_of_it() -> None:
    async def answer() -> None: ...

    coroutine = answer()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
    core = Consuming(Listener(coroutine))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        core.consume(0)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert core.counters.snapshot()[Event.UNKNOWN_RESULT] == 1


@pytest.mark.behaviour("CC-13")
def test_an_unknown_answer_without_a_text_form_still_means_again_later() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise ValueError("no text")

    core = Consuming(Listener(Silent()))
    core.consume(0)
    assert offsets([msg for msg, _ in core.broker.sent_back]) == [0]


@pytest.mark.behaviour("CC-14")
@pytest.mark.parametrize("ack_index", [None, "1", 1.0])
def test_an_ack_index_that_is_no_integer_means_the_whole_batch_again_later(
    ack_index: object, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    listener.meanwhile = lambda _, context: setattr(context, "ack_index", ack_index)
    core = Consuming(listener, consume_message_batch_max_size=2)
    core.consume(0, 1)
    assert offsets([msg for msg, _ in core.broker.sent_back]) == [0, 1]
    assert f"set ack_index to {ack_index!r}, which is no integer" in caplog.text


# Sending back fails.


@pytest.mark.behaviour("CC-06")
def test_a_message_that_cannot_be_sent_back_is_consumed_again_here_5_s_later_and_holds_the_commit() -> None:
    listener = Listener(LATER)
    core = Consuming(listener)
    core.refuse_send_backs()
    (failed,) = core.consume(0)
    listener.answer = SUCCESS
    core.consume(1, 2)
    assert core.unfinished == [0]
    assert core.committed(mq()) == 0
    assert failed.reconsume_times == 1
    core.runtime.advance(4_999)
    assert listener.offsets == [[0], [1], [2]]
    core.runtime.advance(1)
    assert listener.offsets == [[0], [1], [2], [0]]
    assert listener.batches[-1][0] is failed
    assert core.committed(mq()) == 3
    assert core.counters.snapshot()[Event.SEND_BACK_FAILED] == 1


@pytest.mark.behaviour("CC-06")
def test_of_a_failed_batch_only_what_could_not_be_sent_back_is_consumed_again_here_in_batches() -> None:
    class Broker(FakeBroker):
        def send_message_back(
            self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
        ) -> None:
            if msg.queue_offset in (1, 2, 4):
                raise ConnectError("no master")
            super().send_message_back(group, msg, delay_level, max_reconsume_times, timeout_ms)

    listener = Listener(LATER)
    core = Consuming(listener, broker=Broker(), consume_message_batch_max_size=2)
    core.broker.failing["send_retry_message"] = ConnectError("no master")
    core.consume(0, 1, 2, 3, 4)
    assert core.unfinished == [1, 2, 4]
    listener.answer = SUCCESS
    listener.batches.clear()
    core.runtime.advance(5_000)
    assert listener.offsets == [[1], [2], [4]]
    assert core.committed(mq()) == 5


@pytest.mark.behaviour("CC-06")
def test_a_message_that_can_never_be_sent_back_is_tried_every_5_s_with_a_rising_count() -> None:
    listener = Listener(LATER)
    core = Consuming(listener)
    core.refuse_send_backs()
    (failed,) = core.consume(0)
    core.runtime.advance(25_000)
    assert len(listener.batches) == 6
    assert failed.reconsume_times == 6
    assert core.committed(mq()) == 0


@pytest.mark.behaviour("CC-06")
def test_the_local_retry_ends_when_the_queue_is_taken_away() -> None:
    listener = Listener(LATER)
    core = Consuming(listener)
    core.refuse_send_backs()
    core.consume(0)
    core.window.dropped = True
    core.runtime.advance(60_000)
    assert len(listener.batches) == 1


@pytest.mark.behaviour("CC-15")
def test_a_failed_message_that_expired_meanwhile_is_not_sent_back_a_second_time() -> None:
    listener = Listener(LATER)
    core = Consuming(listener, consume_message_batch_max_size=2)

    def expire(_: Messages, __: ConsumeConcurrentlyContext) -> None:
        core.clock.advance(TIMEOUT_MS + 1)
        core.service.clean_expired_messages()

    listener.meanwhile = expire
    core.consume(0, 1)
    assert [(msg.queue_offset, level) for msg, level in core.broker.sent_back] == [(0, 3), (1, 3)]


# The queue is taken away.


@pytest.mark.behaviour("CC-07")
def test_messages_of_a_queue_taken_away_are_not_consumed_nor_committed() -> None:
    listener = Listener()
    core = Consuming(listener)
    core.pool.held = True
    core.consume(0, 1)
    core.window.dropped = True
    core.pool.run_all()
    assert listener.batches == []
    assert core.store.clone_offset_table() == {}
    assert core.unfinished == [0, 1]


@pytest.mark.behaviour("CC-07")
@pytest.mark.parametrize("answer", [SUCCESS, LATER, None, ValueError("mine")])
def test_the_answer_for_a_queue_taken_away_meanwhile_changes_nothing(answer: object) -> None:
    listener = Listener(answer)
    core = Consuming(listener)
    listener.meanwhile = lambda _, __: setattr(core.window, "dropped", True)
    core.consume(0, 1)
    assert listener.offsets == [[0]]
    assert core.store.clone_offset_table() == {}
    assert core.broker.sent_back == []


@pytest.mark.behaviour("CC-07")
def test_a_queue_taken_away_while_a_message_is_sent_back_commits_nothing() -> None:
    class Broker(FakeBroker):
        window: ProcessQueue

        def send_message_back(
            self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
        ) -> None:
            self.window.dropped = True

    broker = Broker()
    core = Consuming(Listener(LATER), broker=broker)
    broker.window = core.window
    core.consume(0)
    assert core.store.clone_offset_table() == {}


# Retried messages.


@pytest.mark.behaviour("CC-10")
def test_a_retried_message_shows_its_original_topic() -> None:
    listener = Listener()
    core = Consuming(listener)
    retried = message(0, topic=RETRY_TOPIC, properties={"RETRY_TOPIC": "orders"})
    plain = message(1, topic=RETRY_TOPIC)
    retry_queue = mq(0, RETRY_TOPIC)
    window = ProcessQueue(core.clock)
    window.put_message([retried, plain])
    core.service.submit_consume_request([retried, plain], window, retry_queue)
    assert [batch[0].topic for batch in listener.batches] == ["orders", RETRY_TOPIC]
    assert core.store.clone_offset_table() == {retry_queue: 2}


@pytest.mark.behaviour("CC-10")
def test_the_property_alone_does_not_make_a_message_a_retried_one() -> None:
    listener = Listener()
    core = Consuming(listener)
    msgs = [message(0, properties={"RETRY_TOPIC": "orders"})]
    core.window.put_message(msgs)
    core.service.submit_consume_request(msgs, core.window, mq())
    assert listener.batches[0][0].topic == "topic"


# Hooks.


class Hook:
    """Notes what it is told."""

    def __init__(self, failing: bool = False) -> None:
        self.failing = failing
        self.before: list[tuple[list[int], bool, str | None, dict[str, str]]] = []
        self.after: list[tuple[str, bool, str | None]] = []
        self.contexts: list[ConsumeMessageContext] = []

    def hook_name(self) -> str:
        return "noting"

    def consume_message_before(self, context: ConsumeMessageContext) -> None:
        context.mq_trace_context = "trace"
        self.before.append((offsets(context.msg_list), context.success, context.status, dict(context.props)))
        if self.failing:
            raise ValueError("before")

    def consume_message_after(self, context: ConsumeMessageContext) -> None:
        self.contexts.append(context)
        self.after.append((context.props["ConsumeContextType"], context.success, context.status))
        if self.failing:
            raise ValueError("after")


@pytest.mark.behaviour("CC-11")
@pytest.mark.parametrize(
    ("answer", "took_ms", "told"),
    [
        (SUCCESS, TIMEOUT_MS - 1, ("SUCCESS", True, "CONSUME_SUCCESS")),
        (LATER, 0, ("FAILED", False, "RECONSUME_LATER")),
        (SUCCESS, TIMEOUT_MS, ("TIME_OUT", True, "CONSUME_SUCCESS")),
        (LATER, TIMEOUT_MS, ("TIME_OUT", False, "RECONSUME_LATER")),
        (None, 0, ("RETURNNULL", False, "RECONSUME_LATER")),
        ("yes", 0, ("RETURNNULL", False, "RECONSUME_LATER")),
        (ValueError("mine"), 0, ("EXCEPTION", False, "RECONSUME_LATER")),
        (ValueError("mine"), TIMEOUT_MS, ("EXCEPTION", False, "RECONSUME_LATER")),
    ],
)
def test_hooks_are_told_of_a_call_before_it_and_how_it_ended(
    answer: object, took_ms: int, told: tuple[str, bool, str]
) -> None:
    hook = Hook()
    listener = Listener(answer)
    core = Consuming(listener, hooks=[hook], consume_message_batch_max_size=2)
    listener.meanwhile = lambda _, __: core.clock.advance(took_ms)
    core.consume(0, 1)
    assert hook.before == [([0, 1], False, None, {})]
    assert hook.after == [told]
    (context,) = hook.contexts
    assert (context.consumer_group, context.mq, context.mq_trace_context) == (GROUP, mq(), "trace")


@pytest.mark.behaviour("CC-11")
def test_a_failing_hook_changes_nothing_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    failing, other = Hook(failing=True), Hook()
    core = Consuming(hooks=[failing, other])
    core.consume(0)
    assert core.committed(mq()) == 1
    assert other.after == [("SUCCESS", True, "CONSUME_SUCCESS")]
    assert caplog.text.count("consume message hook") == 2


@pytest.mark.behaviour("CC-11")
def test_a_hook_registered_during_a_call_hears_of_the_next_one_only() -> None:
    hook, core = Hook(), Consuming(listener := Listener())
    listener.meanwhile = lambda _, __: core.hooks.append(hook) if not core.hooks else None
    core.consume(0)
    assert core.committed(mq()) == 1
    core.consume(1)
    assert [told[0] for told in hook.before] == [[1]]


@pytest.mark.behaviour("CC-11")
def test_hooks_hear_of_a_call_whose_queue_was_taken_away_meanwhile() -> None:
    hook, core = Hook(), Consuming(listener := Listener(), hooks=[])
    core.hooks.append(hook)
    listener.meanwhile = lambda _, __: setattr(core.window, "dropped", True)
    core.consume(0)
    assert len(hook.after) == 1


@pytest.mark.behaviour("CC-10", "CC-11")
def test_hooks_see_the_original_topic_of_a_retried_message() -> None:
    topics: list[str] = []

    class Looking(Hook):
        def consume_message_before(self, context: ConsumeMessageContext) -> None:
            topics.extend(msg.topic for msg in context.msg_list)

    core = Consuming(hooks=[Looking()])
    retried = [message(0, topic=RETRY_TOPIC, properties={"RETRY_TOPIC": "orders"})]
    core.window.put_message(retried)
    core.service.submit_consume_request(retried, core.window, mq(0, RETRY_TOPIC))
    assert topics == ["orders"]


# The expiry sweep.


def started(core: Consuming, *offsets_: int) -> None:
    """Put messages into the window that a listener has from now on."""
    msgs = messages(*offsets_)
    core.window.put_message(msgs)
    core.window.begin_consume(msgs)


@pytest.mark.behaviour("CC-08")
def test_a_message_in_the_listener_for_longer_than_the_consume_timeout_is_sent_back_with_level_3() -> None:
    core = Consuming()
    started(core, 0)
    core.clock.advance(TIMEOUT_MS)
    core.service.clean_expired_messages()
    assert core.broker.sent_back == []
    core.clock.advance(1)
    core.service.clean_expired_messages()
    assert [(msg.queue_offset, level) for msg, level in core.broker.sent_back] == [(0, 3)]
    assert core.unfinished == []
    assert core.counters.snapshot()[Event.EXPIRED] == 1


@pytest.mark.behaviour("CC-08")
def test_expiry_itself_writes_no_offset() -> None:
    core = Consuming()
    started(core, 0)
    core.clock.advance(TIMEOUT_MS + 1)
    core.service.clean_expired_messages()
    assert core.store.clone_offset_table() == {}


@pytest.mark.behaviour("CC-08")
def test_what_lies_behind_a_message_that_has_not_expired_is_not_looked_at() -> None:
    core = Consuming()
    started(core, 1, 2)
    core.clock.advance(TIMEOUT_MS + 1)
    started(core, 0)
    core.service.clean_expired_messages()
    assert core.broker.sent_back == []


@pytest.mark.behaviour("CC-08")
def test_a_message_that_still_waits_for_a_listener_never_expires() -> None:
    core = Consuming()
    core.window.put_message(messages(0, 1))
    core.clock.advance(10 * TIMEOUT_MS)
    core.service.clean_expired_messages()
    assert core.broker.sent_back == []


@pytest.mark.behaviour("CC-08")
def test_one_sweep_sends_16_messages_of_a_queue_back_at_most() -> None:
    core = Consuming()
    started(core, *range(40))
    core.clock.advance(TIMEOUT_MS + 1)
    core.service.clean_expired_messages()
    assert core.unfinished == list(range(16, 40))
    core.service.clean_expired_messages()
    core.service.clean_expired_messages()
    assert core.unfinished == []


@pytest.mark.behaviour("CC-08")
def test_an_expired_message_that_cannot_be_sent_back_stays_and_is_tried_once_per_sweep() -> None:
    class Broker(FakeBroker):
        tries = 0

        def send_retry_message(self, topic: str, body: bytes, flag: int, properties: Mapping[str, str]) -> None:
            self.tries += 1
            super().send_retry_message(topic, body, flag, properties)

    broker = Broker()
    core = Consuming(broker=broker)
    started(core, 0, 1)
    core.refuse_send_backs()
    core.clock.advance(TIMEOUT_MS + 1)
    core.service.clean_expired_messages()
    assert broker.tries == 1
    assert core.unfinished == [0, 1]
    assert core.counters.snapshot()[Event.EXPIRED] == 0
    broker.failing.clear()
    core.service.clean_expired_messages()
    assert core.unfinished == []


@pytest.mark.behaviour("CC-08")
@pytest.mark.behaviour("CC-17")
def test_what_is_finished_while_a_sweep_sends_another_message_back_is_not_sent_back() -> None:
    class Broker(FakeBroker):
        def send_message_back(
            self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
        ) -> None:
            super().send_message_back(group, msg, delay_level, max_reconsume_times, timeout_ms)
            core.window.finished.append(behind)  # its listener ends now, and others wait for a thread

    core = Consuming(broker=Broker())
    core.pool.held = True
    head, behind = core.consume(0, 1)
    core.window.begin_consume([head, behind])
    core.clock.advance(TIMEOUT_MS + 1)
    core.service.clean_expired_messages()
    assert [msg.queue_offset for msg, _ in core.broker.sent_back] == [0]
    assert core.unfinished == []


@pytest.mark.behaviour("CC-08")
def test_the_sweep_runs_every_consume_timeout_minutes_so_expiry_takes_one_to_two_of_them() -> None:
    core = Consuming(consume_timeout=1)
    core.service.start()
    core.runtime.advance(1)
    started(core, 0)
    core.runtime.advance(MINUTE_MS)
    assert core.broker.sent_back == []
    core.runtime.advance(MINUTE_MS)
    assert len(core.broker.sent_back) == 1


@pytest.mark.behaviour("CC-08")
def test_a_slow_listener_that_succeeds_after_all_commits_nothing_of_its_own() -> None:
    core = Consuming(listener := Listener())

    def expire(_: Messages, __: ConsumeConcurrentlyContext) -> None:
        core.clock.advance(TIMEOUT_MS + 1)
        core.service.clean_expired_messages()

    listener.meanwhile = expire
    core.consume(0)
    assert core.store.clone_offset_table() == {}
    assert len(core.broker.sent_back) == 1


# Stuck heads.


@pytest.mark.behaviour("CC-09")
def test_a_lowest_message_in_the_listener_for_more_than_30_s_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    core = Consuming()
    core.service.start()
    started(core, 0)
    core.window.put_message(messages(1, 2))
    core.runtime.advance(30_000)
    assert core.counters.snapshot()[Event.STUCK_HEAD] == 0
    core.runtime.advance(10_000)
    assert core.counters.snapshot()[Event.STUCK_HEAD] == 1
    assert f"offset 0 of {mq()} has been in the listener for 40 s and holds the commit back, 2 messages" in caplog.text


@pytest.mark.behaviour("CC-09")
def test_a_window_that_moves_or_waits_is_not_stuck() -> None:
    core = Consuming()
    core.service.start()
    core.window.put_message(messages(0))
    core.runtime.advance(120_000)
    started(core, 1)
    core.runtime.advance(20_000)
    assert core.counters.snapshot()[Event.STUCK_HEAD] == 0


# Shutting down.


@pytest.mark.behaviour("CC-12")
def test_shutting_down_consumes_what_is_cached_within_the_time_allowed() -> None:
    core = Consuming(listener := Listener())
    core.pool.held = True
    core.consume(0, 1)
    assert core.service.shutdown(1_000) is True
    assert listener.offsets == [[0], [1]]
    assert core.committed(mq()) == 2


@pytest.mark.behaviour("CC-12")
def test_what_is_not_consumed_by_then_stays_uncommitted() -> None:
    core = Consuming(listener := Listener())
    core.pool.held = True
    core.consume(0, 1)
    assert core.service.shutdown(0) is False
    assert listener.batches == []
    assert core.committed(mq()) is None


@pytest.mark.behaviour("CC-12")
def test_after_shutdown_nothing_is_taken_retried_or_swept() -> None:
    listener = Listener(LATER)
    core = Consuming(listener)
    core.service.start()
    core.refuse_send_backs()
    core.consume(0)
    core.service.shutdown(1_000)
    core.consume(1)
    core.runtime.advance(10 * TIMEOUT_MS)
    assert listener.offsets == [[0]]
    assert core.unfinished == [0, 1]
    assert core.counters.snapshot()[Event.EXPIRED] == core.counters.snapshot()[Event.STUCK_HEAD] == 0


def test_the_consume_threads_are_named_after_the_group() -> None:
    assert list(Consuming().runtime.pools) == [f"ConsumeMessageThread_{GROUP}_"]


@pytest.mark.behaviour("CC-02")
def test_queues_are_committed_apart() -> None:
    seen: list[MessageQueue] = []
    listener = Listener()
    listener.meanwhile = lambda _, context: seen.append(context.message_queue)
    core = Consuming(listener, queues=2)
    for number, window in ((0, core.windows[mq(0)]), (1, core.windows[mq(1)])):
        msgs = messages(number, number + 1)
        window.put_message(msgs)
        core.service.submit_consume_request(msgs, window, mq(number))
    assert core.store.clone_offset_table() == {mq(0): 2, mq(1): 3}
    assert seen == [mq(0), mq(0), mq(1), mq(1)]


# Namespaces.


@pytest.mark.behaviour("NS-04")
def test_a_listener_sees_topics_without_the_namespace_those_of_retried_messages_too() -> None:
    topics: list[str] = []

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        topics.extend(msg.topic for msg in msgs)
        return SUCCESS

    consuming = Consuming(listen, namespace="ns")
    retried = {"RETRY_TOPIC": "ns%topic"}
    plain = [message(0, topic="ns%topic"), message(1, topic="other%topic"), message(2, topic="topic")]
    again = [message(3, topic=RETRY_TOPIC, properties=retried), message(4, topic=RETRY_TOPIC)]
    for msgs, queue in ((plain, mq()), (again, mq(0, RETRY_TOPIC))):
        consuming.window.put_message(msgs)
        consuming.service.submit_consume_request(msgs, consuming.window, queue)
        consuming.runtime.advance(0)
    assert topics == ["topic", "other%topic", "topic", "topic", RETRY_TOPIC]


@pytest.mark.behaviour("NS-04")
def test_hooks_are_told_the_namespace() -> None:
    contexts: list[ConsumeMessageContext] = []

    class Hook:
        def hook_name(self) -> str:
            return "notes"

        def consume_message_before(self, context: ConsumeMessageContext) -> None:
            contexts.append(context)

        def consume_message_after(self, context: ConsumeMessageContext) -> None: ...

    for namespace in (None, "ns"):
        consuming = Consuming(hooks=[Hook()], namespace=namespace)
        consuming.consume(0)
        consuming.runtime.advance(0)
    assert [context.namespace for context in contexts] == [None, "ns"]


# Settling.


class Busy(Consuming):
    """Offsets 5, 6 and 7 of the window wait, one by one; while 6 is consumed ``look`` is called."""

    def __init__(self, look: Callable[[Busy], object]) -> None:
        def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
            if offsets(msgs) == [6]:
                assert (self.unfinished, self.offset) == ([5, 6, 7], -1)
                look(self)
            return SUCCESS

        super().__init__(listen)
        self.pool.held = True
        self.consume(5, 6, 7)

    @property
    def offset(self) -> int:
        return self.store.read_offset(mq(), ReadOffsetType.READ_FROM_MEMORY)


@pytest.mark.behaviour("CC-17")
def test_while_others_wait_the_window_is_told_of_finished_messages_when_somebody_looks_and_with_the_last_one() -> None:
    def look(busy: Busy) -> None:
        busy.rebalance.windows()
        assert (busy.unfinished, busy.offset) == ([6, 7], 6)

    busy = Busy(look)
    assert busy.pool.run_all() == 3
    assert (busy.unfinished, busy.offset) == ([], 8)


@pytest.mark.behaviour("CC-17")
@pytest.mark.parametrize(
    "look",
    [
        lambda busy: busy.rebalance.remove_process_queue(mq()),
        lambda busy: busy.store.persist_at_shutdown([mq for mq, _ in busy.rebalance.destroy()]),
        lambda busy: busy.committed(mq()),
    ],
    ids=["a queue given up", "the end of the consumer", "the commit in between"],
)
def test_what_is_finished_is_committed_by(look: Callable[[Busy], object]) -> None:
    busy = Busy(look)
    busy.pool.run_all()
    assert busy.broker.offsets[GROUP, mq()] == 6


@pytest.mark.behaviour("CC-17")
def test_the_next_pull_tells_the_broker_of_everything_finished_before_it() -> None:
    busy = Busy(lambda busy: busy.broker.answer_empty(PullStatus.NO_NEW_MSG, 8))
    assert [pull.commit_offset for pull in busy.broker.pulls] == [-1]
    busy.pool.run_all()
    assert [pull.commit_offset for pull in busy.broker.pulls] == [6]


@pytest.mark.behaviour("CC-17")
def test_what_was_finished_before_a_reset_does_not_undo_it() -> None:
    def reset(busy: Busy) -> None:
        OffsetReset(
            group=GROUP,
            windows=lambda: [(mq(), busy.window)],
            offset_store=busy.store,
            dispatch=busy.pulls,
            give_up=busy.rebalance.remove_process_queue,
            rebalance=busy.broker.rebalance_immediately,
        ).reset(TOPIC, {mq(): 2})

    busy = Busy(reset)
    busy.pool.run_all()
    busy.rebalance.windows()
    assert (busy.offset, busy.broker.offsets[GROUP, mq()]) == (2, 2)


@pytest.mark.behaviour("SM-10")
def test_a_broker_that_keeps_statuses_is_told_of_every_message_that_succeeded_at_once() -> None:
    told: list[tuple[MessageQueue, list[int]]] = []

    def succeed_until_2(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if len(msgs) > 2:
            context.ack_index = 1
        return SUCCESS

    core = Consuming(succeed_until_2, consume_message_batch_max_size=4)
    core.consume(0, 1)
    core.service.acknowledge = lambda queue, msgs: told.append((queue, offsets(msgs)))
    core.consume(2, 3)
    core.consume(4, 5, 6, 7)
    assert told == [(mq(), [2, 3]), (mq(), [4, 5])]
    core.service.acknowledge = None
    core.consume(8)
    assert len(told) == 2
