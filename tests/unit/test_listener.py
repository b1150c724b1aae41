from __future__ import annotations

import functools
from typing import Any

import pytest

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly, check_listener
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from tests.unit.support import SUCCESS, message, mq, succeed

CONTEXT = ConsumeConcurrentlyContext(mq())


@pytest.mark.behaviour("LS-01")
def test_a_subclass_need_not_call_the_constructor_it_inherits() -> None:
    class Mine(MessageListenerConcurrently):
        def __init__(self) -> None:
            self.seen = 0

        def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
            self.seen += len(msgs)
            return SUCCESS

    listener = Mine()
    assert check_listener(listener)([message(0)], CONTEXT) is SUCCESS
    assert listener.seen == 1


@pytest.mark.behaviour("LS-01")
def test_a_function_can_be_handed_over() -> None:
    listener = MessageListenerConcurrently(succeed)
    assert listener.consume_message([message(0)], CONTEXT) is SUCCESS
    assert check_listener(listener)([message(0)], CONTEXT) is SUCCESS


@pytest.mark.behaviour("LS-01")
@pytest.mark.parametrize(
    "function",
    [lambda msgs, context: SUCCESS, functools.partial(lambda answer, msgs, context: answer, SUCCESS)],
)
def test_so_can_anything_that_can_be_called(function: Any) -> None:
    assert check_listener(MessageListenerConcurrently(function))([message(0)], CONTEXT) is SUCCESS


@pytest.mark.behaviour("LS-01")
def test_a_subclass_may_add_to_what_the_function_does() -> None:
    class Counting(MessageListenerConcurrently):
        calls = 0

        def consume_message(
            self, msgs: Messages, context: ConsumeConcurrentlyContext
        ) -> ConsumeConcurrentlyStatus | None:
            self.calls += 1
            return super().consume_message(msgs, context)

    listener = Counting(succeed)
    assert check_listener(listener)([message(0)], CONTEXT) is SUCCESS
    assert listener.calls == 1


async def _asynchronous(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
    return SUCCESS


class _AsynchronousCall:
    async def __call__(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        return SUCCESS


class _AsynchronousListener(MessageListenerConcurrently):
    async def consume_message(  # type: ignore[override]
        self, msgs: Messages, context: ConsumeConcurrentlyContext
    ) -> ConsumeConcurrentlyStatus:
        return SUCCESS


@pytest.mark.behaviour("LS-02")
@pytest.mark.parametrize(
    "listener",
    [
        MessageListenerConcurrently(_asynchronous),  # type: ignore[arg-type]
        MessageListenerConcurrently(functools.partial(_asynchronous)),  # type: ignore[arg-type]
        MessageListenerConcurrently(_AsynchronousCall()),  # type: ignore[arg-type]
        _AsynchronousListener(),
    ],
    ids=["function", "partial", "object", "subclass"],
)
def test_an_async_listener_is_refused(listener: MessageListenerConcurrently) -> None:
    with pytest.raises(ConfigError, match="an async listener is not supported"):
        check_listener(listener)


@pytest.mark.behaviour("LS-03")
@pytest.mark.parametrize("listener", [succeed, None, object(), "listener", dict])
def test_what_is_no_listener_is_refused_with_a_hint(listener: object) -> None:
    with pytest.raises(ConfigError, match=r"wrap a function as MessageListenerConcurrently\(function\)"):
        check_listener(listener)


@pytest.mark.behaviour("LS-03")
@pytest.mark.parametrize("listener", [MessageListenerConcurrently, MessageListenerOrderly, _AsynchronousListener])
def test_a_class_is_no_listener_yet(listener: type) -> None:
    with pytest.raises(ConfigError, match=rf"is an object, not a class: write {listener.__name__}\("):
        check_listener(listener)


class _Empty(MessageListenerConcurrently):
    pass


class _NotCallable(MessageListenerConcurrently):
    consume_message = None  # type: ignore[assignment]


@pytest.mark.behaviour("LS-03")
@pytest.mark.parametrize(
    "listener",
    [MessageListenerConcurrently(), MessageListenerConcurrently(3), _Empty(), _NotCallable()],  # type: ignore[arg-type]
)
def test_a_listener_with_nothing_to_call_is_refused(listener: MessageListenerConcurrently) -> None:
    with pytest.raises(ConfigError, match=f"{type(listener).__name__} has nothing to call"):
        check_listener(listener)


@pytest.mark.behaviour("LS-03")
def test_calling_it_all_the_same_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="define consume_message"):
        _Empty().consume_message([], CONTEXT)


@pytest.mark.behaviour("LS-02")
@pytest.mark.parametrize("function", [lambda: SUCCESS, lambda msgs: SUCCESS, lambda msgs, context, more: SUCCESS])
def test_a_listener_that_takes_other_arguments_is_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match=r"called with \(msgs, context\)"):
        check_listener(MessageListenerConcurrently(function))


@pytest.mark.behaviour("LS-02")
def test_a_generator_is_no_listener() -> None:
    def generator(msgs: Messages, context: ConsumeConcurrentlyContext) -> Any:
        yield SUCCESS

    with pytest.raises(ConfigError, match="generator"):
        check_listener(MessageListenerConcurrently(generator))
