"""What a user registers to get messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    Messages,
)

ContextT = TypeVar("ContextT")
StatusT = TypeVar("StatusT")

Consume = Callable[[Messages, ContextT], StatusT | None]
ConsumeConcurrently = Consume[ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus]
ConsumeOrderly = Consume[ConsumeOrderlyContext, ConsumeOrderlyStatus]


class MessageListener(Generic[ContextT, StatusT]):
    """Base of the two kinds below; register one of those.

    Either subclass them and define ``consume_message``, or hand over a function with the same two arguments. The
    function may block.

    Args:
        function: what to call, when the class is not extended.
    """

    _function: Consume[ContextT, StatusT] | None = None

    def __init__(self, function: Consume[ContextT, StatusT] | None = None) -> None:
        self._function = function

    def consume_message(self, msgs: Messages, context: ContextT) -> StatusT | None:
        """Consume one batch; called on a consume thread.

        Args:
            msgs: 1 to ``consume_message_batch_max_size`` messages of one queue, ascending offsets; read only.
            context: what may be said beside the status.
        """
        if self._function is None:
            raise NotImplementedError("define consume_message in the subclass, or hand over a function")
        return self._function(msgs, context)

    def consumer_started(self) -> None:
        """A consumer that calls this listener is about to start: for listeners with their own threads. Not in Java."""

    def consumer_stopped(self) -> None:
        """That consumer takes no answers any more: what the listener still has belongs to others. Must not block.

        Called once for each ``consumer_started``, on the thread that calls ``shutdown``; errors are logged.
        """


class MessageListenerConcurrently(MessageListener[ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus]):
    """Gets messages on many threads at once, in no particular order. An exception or None means RECONSUME_LATER."""


class MessageListenerOrderly(MessageListener[ConsumeOrderlyContext, ConsumeOrderlyStatus]):
    """Gets the messages of a queue one batch after the other, in the order of their offsets.

    Different queues are consumed at the same time. Of all members of the group only the one that holds the broker's
    lock on a queue consumes it. An exception or None means SUSPEND_CURRENT_QUEUE_A_MOMENT: nothing behind a message
    that fails is consumed before it.
    """


_KINDS: tuple[tuple[type[MessageListener[Any, Any]], type[MessageListener[Any, Any]]], ...] = (
    (MessageListenerConcurrently, MessageListenerOrderly),
    (MessageListenerOrderly, MessageListenerConcurrently),
)


def check_listener(listener: object) -> Consume[Any, Any]:
    """Return the function to call for each batch.

    Raises:
        ConfigError: not a listener, nothing to call, a listener of the other kind inside, an ``async def``, a
            generator, or other arguments.
    """
    if isinstance(listener, type) and issubclass(listener, MessageListener):
        raise ConfigError(f"a message listener is an object, not a class: write {listener.__name__}(...)")
    if not isinstance(listener, MessageListenerConcurrently | MessageListenerOrderly):
        raise ConfigError(
            "a message listener is a MessageListenerConcurrently or a MessageListenerOrderly, not "
            f"{type(listener).__name__}: wrap a function as MessageListenerConcurrently(function)"
        )
    consume: object = listener.consume_message
    inside = getattr(listener, "_function", None)
    inside = getattr(inside, "__self__", inside)
    for kind, other in _KINDS:
        if isinstance(listener, kind) and isinstance(inside, other):
            raise ConfigError(
                f"{type(inside).__name__} is a {other.__name__} and cannot be called by a {kind.__name__}: register "
                "it as it is"
            )
    if type(listener).consume_message is MessageListener.consume_message:
        consume = listener._function  # saves a call per batch
    if not callable(consume):
        raise ConfigError(
            f"{type(listener).__name__} has nothing to call: "
            "define consume_message(msgs, context) or hand over a function"
        )
    if inspect.iscoroutinefunction(consume) or inspect.iscoroutinefunction(getattr(consume, "__call__", None)):  # noqa: B004
        raise ConfigError("an async listener is not supported: define consume_message as a plain, blocking function")
    if inspect.isgeneratorfunction(consume) or inspect.isasyncgenfunction(consume):
        raise ConfigError("the listener is a generator: it must return a status, not yield")
    try:
        inspect.signature(consume).bind((), None)
    except ValueError:
        pass  # it does not tell
    except TypeError as error:
        raise ConfigError(f"the listener is called with (msgs, context): {error}") from None
    return consume
