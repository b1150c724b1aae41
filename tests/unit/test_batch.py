from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from rocketmq_py import ConfigError, DefaultMQPushConsumer, MessageListenerConcurrently, MessageListenerOrderly
from rocketmq_py.batch import FanOut, OnFailure, Outcome, OutcomeState, fan_out
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, ConsumeOrderlyContext
from rocketmq_py.testing import ManualRuntime
from tests.unit.support import LATER, SUCCESS, Core, message, messages, mq, offsets


class Inline(Executor):
    """An executor that does it at once."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


def call(fan: FanOut, count: int) -> tuple[ConsumeConcurrentlyStatus, ConsumeConcurrentlyContext]:
    context = ConsumeConcurrentlyContext(mq())
    return fan.consume_message(messages(*range(count)), context), context


def fails_at(*failing: int) -> Any:
    def handle(msg: MessageExt) -> object:
        return msg.queue_offset not in failing

    return handle


@pytest.fixture(params=["own pool", "executor"])
def pool(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"pool": Inline()} if request.param == "executor" else {"pool": 2, "runtime": ManualRuntime()}


@pytest.mark.behaviour("FO-01")
@pytest.mark.parametrize("rule", OnFailure)
def test_when_every_handler_succeeds_the_batch_does(rule: OnFailure, pool: dict[str, Any]) -> None:
    status, context = call(fan_out(lambda msg: None, on_failure=rule, **pool), 4)
    assert status is SUCCESS
    assert (context.failed_indexes, context.ack_index) == (None, 2**31 - 1)


@pytest.mark.behaviour("FO-01")
def test_with_the_rule_batch_any_failure_brings_all_of_it_again(pool: dict[str, Any]) -> None:
    assert call(fan_out(fails_at(2), **pool), 4)[0] is LATER


@pytest.mark.behaviour("FO-02")
def test_with_the_rule_prefix_all_before_the_first_failure_is_done(pool: dict[str, Any]) -> None:
    fan = fan_out(fails_at(2, 3), on_failure="prefix", **pool)
    status, context = call(fan, 5)
    assert (status, context.ack_index) == (SUCCESS, 1)
    assert call(fan_out(fails_at(0), on_failure="prefix", **pool), 2)[0] is LATER


@pytest.mark.behaviour("FO-03")
def test_with_the_rule_each_only_what_failed_comes_again(pool: dict[str, Any]) -> None:
    status, context = call(fan_out(fails_at(0, 3), on_failure=OnFailure.EACH, **pool), 5)
    assert (status, context.failed_indexes) == (SUCCESS, frozenset({0, 3}))
    assert call(fan_out(fails_at(0, 1), on_failure="each", **pool), 2)[0] is LATER


@pytest.mark.behaviour("FO-05")
@pytest.mark.parametrize("answer", [False, LATER, ValueError("no"), SystemExit(1)])
def test_a_handler_fails_by_raising_by_false_and_by_reconsume_later(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(msg: MessageExt) -> object:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    assert call(fan_out(handle, 1, runtime=ManualRuntime()), 1)[0] is LATER
    assert (repr(answer) in caplog.text) is isinstance(answer, BaseException)


@pytest.mark.behaviour("FO-05")
@pytest.mark.parametrize("answer", [None, True, SUCCESS, 0, "anything"])
def test_everything_else_that_it_returns_is_success(answer: object, pool: dict[str, Any]) -> None:
    assert call(fan_out(lambda msg: answer, **pool), 1)[0] is SUCCESS


@pytest.mark.behaviour("FO-05")
def test_a_coroutine_has_done_nothing_and_fails(pool: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async def handle(msg: MessageExt) -> None:
        raise AssertionError("nobody awaits it")

    assert call(fan_out(lambda msg: handle(msg), **pool), 1)[0] is LATER  # noqa: PLW0108 - hides the async def
    assert "returned a coroutine" in caplog.text


@pytest.mark.behaviour("FO-04")
def test_the_outcomes_are_told_in_the_order_in_which_they_came_before_the_verdict() -> None:
    told: list[list[Outcome]] = []
    backwards: list[tuple[Future[Any], MessageExt]] = []

    class Backwards(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            backwards.append((Future(), args[0]))
            if len(backwards) == 3:
                for future, msg in reversed(backwards[1:]):
                    future.set_result(f"result {msg.queue_offset}")
                backwards[0][0].set_exception(ValueError("no"))
                return backwards[2][0]
            return backwards[-1][0]

    fan = fan_out(lambda msg: None, Backwards(), "each", on_results=lambda outcomes: told.append(list(outcomes)))
    status, context = call(fan, 3)
    assert (status, context.failed_indexes) == (SUCCESS, frozenset({0}))
    (outcomes,) = told
    # The third one's future was done before its outcome could be asked for.
    assert sorted(outcome.place for outcome in outcomes) == [0, 1, 2]
    assert [outcome.place for outcome in outcomes][:2] == [1, 0]
    by_index = {outcome.place: outcome for outcome in outcomes}
    assert (by_index[1].state, by_index[1].value) == (OutcomeState.SUCCESS, "result 1")
    assert (by_index[0].state, str(by_index[0].error)) == (OutcomeState.FAILED, "no")
    assert by_index[2].msg.queue_offset == 2


@pytest.mark.behaviour("FO-05")
def test_whatever_an_executor_raises_what_it_took_before_is_waited_for() -> None:
    ended: list[int] = []
    with ThreadPoolExecutor(2) as threads:

        class Leaves(Executor):
            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
                if args[0].queue_offset == 2:
                    raise SystemExit
                return threads.submit(fn, *args)

        def handle(msg: MessageExt) -> None:
            time.sleep(0.05)
            ended.append(msg.queue_offset)

        status, context = call(fan_out(handle, Leaves(), "each"), 4)
        assert (status, context.failed_indexes) == (SUCCESS, frozenset({2}))
        assert sorted(ended) == [0, 1, 3]


@pytest.mark.behaviour("FO-04")
def test_an_error_of_on_results_is_logged_and_changes_nothing(
    pool: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outcomes: object) -> None:
        raise ValueError("of the user")

    assert call(fan_out(lambda msg: None, on_results=fail, **pool), 2)[0] is SUCCESS
    assert "on_results failed" in caplog.text


@pytest.mark.behaviour("FO-06")
def test_an_executor_that_takes_nothing_fails_the_messages_and_loses_none(caplog: pytest.LogCaptureFixture) -> None:
    class Ended(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            raise RuntimeError("cannot schedule new futures after shutdown")

    assert call(fan_out(lambda msg: None, Ended(), "each"), 3)[0] is LATER
    assert "cannot schedule new futures" in caplog.text


def broken_at_its_first_message() -> ThreadPoolExecutor:
    def fail() -> None:
        raise OSError("no more of what a thread needs")

    return ThreadPoolExecutor(1, initializer=fail)


def shut_down() -> ThreadPoolExecutor:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    return executor


@pytest.mark.behaviour("FO-10")
@pytest.mark.parametrize("make", [broken_at_its_first_message, shut_down])
def test_a_pool_that_is_broken_is_told_once_and_not_as_failures_of_messages(
    make: Callable[[], ThreadPoolExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Outcome] = []
    with make() as executor:
        fan = fan_out(lambda msg: None, executor, "each", on_results=told.extend)
        assert [call(fan, 3)[0] for _ in range(2)] == [LATER] * 2
    assert [outcome.state for outcome in told] == [OutcomeState.FAILED] * 6
    (line,) = (record.getMessage() for record in caplog.records if record.name == "rocketmq_py.batch")
    assert "the pool given to fan_out is broken or shut down" in line
    assert "new pool" in line


@pytest.mark.behaviour("FO-10")
def test_a_handler_whose_own_pool_is_broken_is_a_failure_of_its_message(caplog: pytest.LogCaptureFixture) -> None:
    def handle(msg: MessageExt) -> None:
        raise BrokenExecutor("another pool")

    assert call(fan_out(handle, Inline()), 1)[0] is LATER
    assert "the handler failed" in caplog.text
    assert "given to fan_out" not in caplog.text


@pytest.mark.behaviour("FO-07")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"handler": 5}, "cannot be called"),
        ({"handler": lambda: None}, "called with one message"),
        ({"handler": lambda msgs, context: None}, "called with one message"),
        ({"on_failure": "all"}, "batch, prefix, each"),
        ({"on_failure": None}, "batch, prefix, each"),
        ({"pool": 0}, r"pool Out of range \[1, 1000\]"),
        ({"pool": 1_001}, "pool Out of range"),
        ({"pool": True}, "pool Out of range"),
        ({"pool": "64"}, "submit"),
        ({"pool": Inline}, "submit"),
        ({"timeout_ms": 0}, "timeout_ms Out of range"),
        ({"timeout_ms": 1.5}, "timeout_ms Out of range"),
        ({"on_results": []}, "cannot be called"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_possible(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        fan_out(**({"handler": lambda msg: None} | arguments))


@pytest.mark.behaviour("FO-07")
def test_coroutine_functions_and_generators_are_no_handlers() -> None:
    async def coroutine(msg: MessageExt) -> None: ...

    def generator(msg: MessageExt) -> Iterator[int]:
        yield 1

    for handler in (coroutine, generator):
        with pytest.raises(ConfigError, match="plain, blocking function"):
            fan_out(handler)


@pytest.mark.behaviour("FO-08")
def test_an_orderly_consumer_does_not_take_it() -> None:
    fan = fan_out(lambda msg: None)
    for wrapped in (fan, fan.consume_message):
        with pytest.raises(ConfigError, match="FanOut is a MessageListenerConcurrently"):
            DefaultMQPushConsumer("group").register_message_listener(MessageListenerOrderly(wrapped))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="keeps no order"):
        fan.consume_message(messages(0), ConsumeOrderlyContext(mq()))  # type: ignore[arg-type]


@pytest.mark.behaviour("FO-08")
def test_nor_does_a_concurrent_consumer_take_an_orderly_listener_inside_of_its_own() -> None:
    orderly = MessageListenerOrderly(lambda msgs, context: None)
    with pytest.raises(ConfigError, match="MessageListenerOrderly is a MessageListenerOrderly"):
        DefaultMQPushConsumer("group").register_message_listener(
            MessageListenerConcurrently(orderly.consume_message)  # type: ignore[arg-type]
        )


# What a listener says by ``failed_indexes``.


@pytest.mark.behaviour("CR-03")
def test_failed_indexes_alone_come_again_and_the_commit_passes_all(caplog: pytest.LogCaptureFixture) -> None:
    def listen(msgs: Any, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.failed_indexes = {1, 3}
        return SUCCESS

    core = Core(listen, consume_message_batch_max_size=5)
    core.broker.store(mq(), *[b"x"] * 5)
    core.begin()
    core.broker.answer_pulls()
    assert offsets([msg for msg, _ in core.broker.sent_back]) == [1, 3]
    assert core.committed(mq()) == 5


@pytest.mark.behaviour("CR-03")
def test_a_failed_one_that_cannot_be_sent_back_holds_the_commit() -> None:
    from rocketmq_py import ConnectError

    def listen(msgs: Any, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.failed_indexes = [index for index, msg in enumerate(msgs) if msg.queue_offset == 1]
        return SUCCESS

    core = Core(listen, consume_message_batch_max_size=3)
    core.broker.failing["send_message_back"] = core.broker.failing["send_retry_message"] = ConnectError("no master")
    core.broker.store(mq(), *[b"x"] * 3)
    core.begin()
    core.broker.answer_pulls()
    assert core.committed(mq()) == 1
    assert list(core.windows[mq()].offsets()[0]) == [1]


@pytest.mark.behaviour("CR-03")
def test_no_failed_index_is_a_success_of_all_and_reconsume_later_ignores_them() -> None:
    answers = iter([(frozenset[int](), SUCCESS), (frozenset({0}), LATER)])

    def listen(msgs: Any, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.failed_indexes, status = next(answers)
        return status

    core = Core(listen, consume_message_batch_max_size=2)
    core.broker.store(mq(), *[b"x"] * 4)
    core.begin()
    core.broker.answer_pulls()
    assert offsets([msg for msg, _ in core.broker.sent_back]) == [2, 3]


@pytest.mark.behaviour("CR-03")
def test_an_index_beyond_the_batch_means_the_whole_batch_again_later(caplog: pytest.LogCaptureFixture) -> None:
    def listen(msgs: Any, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.failed_indexes = {2}
        return SUCCESS

    core = Core(listen, consume_message_batch_max_size=2)
    core.broker.store(mq(), b"x", b"x")
    core.begin()
    core.broker.answer_pulls()
    assert offsets([msg for msg, _ in core.broker.sent_back]) == [0, 1]
    assert "set failed_indexes to message 2 of a batch of 2" in caplog.text


@pytest.mark.behaviour("CR-03")
@pytest.mark.parametrize("wrong", [{-1}, {1.5}, {True}, {"1"}])
def test_only_integers_from_0_are_indexes(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="places of messages in the batch"):
        ConsumeConcurrentlyContext(mq()).failed_indexes = wrong


@pytest.mark.behaviour("CR-03")
def test_in_broadcasting_they_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    from rocketmq_py import MessageModel
    from rocketmq_py.consumer.stats import Event

    def listen(msgs: Any, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.failed_indexes = {1}
        return SUCCESS

    core = Core(listen, message_model=MessageModel.BROADCASTING, consume_message_batch_max_size=3)
    with caplog.at_level(logging.WARNING):
        window = core.windows.get(mq())
        assert window is None
        core.begin()
        msgs = [message(offset) for offset in range(3)]
        window = core.windows[mq()]
        window.put_message(msgs)
        core.service.submit_consume_request(msgs, window, mq())
    assert core.counters.snapshot()[Event.BROADCAST_DROPPED] == 1
    assert "1 messages from offset 1" in caplog.text
