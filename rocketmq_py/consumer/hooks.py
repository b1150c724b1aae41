"""Places where others may look on, or leave messages out.

Source: ConsumeMessageHook, ConsumeMessageContext, FilterMessageHook, FilterMessageContext.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import Messages

CONSUME_CONTEXT_TYPE = "ConsumeContextType"
"""Key of ``ConsumeMessageContext.props`` under which "after" finds the ``ConsumeReturnType``'s name."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ConsumeMessageContext:
    """What a hook is told about one listener call.

    Attributes:
        status: name of the listener's status; None before the call.
        success: whether it was CONSUME_SUCCESS.
        props: "after" finds how the call ended here.
        mq_trace_context: free for the hook between before and after.
        namespace: the consumer's, or None; the names in ``consumer_group`` and ``mq`` are in it, those in ``msg_list``
            are without it.
    """

    consumer_group: str
    msg_list: Messages
    mq: MessageQueue
    success: bool = False
    status: str | None = None
    props: dict[str, str] = field(default_factory=dict)
    mq_trace_context: object = None
    namespace: str | None = None


class ConsumeMessageHook(Protocol):
    """Called around every listener call, on its consume thread. Its errors are logged and change nothing."""

    def hook_name(self) -> str:
        """Name for the log."""
        ...

    def consume_message_before(self, context: ConsumeMessageContext) -> None:
        """Before the listener is called."""
        ...

    def consume_message_after(self, context: ConsumeMessageContext) -> None:
        """After it answered or raised."""
        ...


@dataclass(frozen=True, slots=True)
class FilterMessageContext:
    """What a filter hook is told about one pull.

    Attributes:
        msg_list: the messages that the tag filter let through; a hook takes out what is not wanted.
        unit_mode: the consumer's setting.
    """

    consumer_group: str
    mq: MessageQueue
    msg_list: list[MessageExt]
    unit_mode: bool = False


class FilterMessageHook(Protocol):
    """Leaves messages out before they come into the window: they count as consumed, and no listener sees them.

    Called with every pull that brought messages, mostly on the I/O thread: it must not block. Its errors are logged;
    what it took out before stays out.
    """

    def hook_name(self) -> str:
        """Name for the log."""
        ...

    def filter_message(self, context: FilterMessageContext) -> None:
        """Take messages out of ``context.msg_list``."""
        ...


def run_filter(
    hooks: Sequence[FilterMessageHook], group: str, mq: MessageQueue, msgs: Sequence[MessageExt], unit_mode: bool
) -> list[MessageExt]:
    """The messages that every hook leaves in, in their order; what a hook adds is not taken. Behaviour: FI-06."""
    context = FilterMessageContext(group, mq, list(msgs), unit_mode)
    for hook in hooks:
        try:
            hook.filter_message(context)
        except BaseException:  # noqa: BLE001 - border: a hook is the user's code, no thread may end by it
            _log.warning("filter message hook %r failed", hook, exc_info=True)
    left = {id(msg) for msg in context.msg_list}
    return [msg for msg in msgs if id(msg) in left]


def run_before(hooks: Sequence[ConsumeMessageHook], context: ConsumeMessageContext) -> None:
    """Call every hook's "before"."""
    for hook in hooks:
        _guarded(hook, hook.consume_message_before, context)


def run_after(hooks: Sequence[ConsumeMessageHook], context: ConsumeMessageContext) -> None:
    """Call every hook's "after"."""
    for hook in hooks:
        _guarded(hook, hook.consume_message_after, context)


def _guarded(
    hook: ConsumeMessageHook, call: Callable[[ConsumeMessageContext], None], context: ConsumeMessageContext
) -> None:
    try:
        call(context)
    except BaseException:  # noqa: BLE001 - border: a hook is the user's code, no thread may end by it
        _log.warning("consume message hook %r failed", hook, exc_info=True)
