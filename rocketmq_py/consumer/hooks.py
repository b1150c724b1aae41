"""Places where others may look on. Source: ConsumeMessageHook, ConsumeMessageContext."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
    """

    consumer_group: str
    msg_list: Messages
    mq: MessageQueue
    success: bool = False
    status: str | None = None
    props: dict[str, str] = field(default_factory=dict)
    mq_trace_context: object = None


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
    except Exception:  # noqa: BLE001 - border: a hook is the user's code
        _log.warning("consume message hook %r failed", hook, exc_info=True)
