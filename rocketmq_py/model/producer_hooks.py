"""Places where others may look on, or forbid, when a producer sends.

Source: SendMessageHook, CheckForbiddenHook, EndTransactionHook and their contexts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeVar

from rocketmq_py.model.message import Message, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import LocalTransactionState, SendResult

Context = TypeVar("Context")

_log = logging.getLogger(__name__)


class CommunicationMode(Enum):
    """How a message is sent. Source: CommunicationMode."""

    SYNC = "SYNC"
    ASYNC = "ASYNC"
    ONEWAY = "ONEWAY"


class MessageType(Enum):
    """What kind of message it is; the values are Java's short names. Source: MessageType."""

    Normal_Msg = "Normal"
    Trans_Msg_Half = "Trans"
    Trans_msg_Commit = "TransCommit"
    Delay_Msg = "Delay"
    Order_Msg = "Order"


@dataclass(slots=True)
class SendMessageContext:
    """What a hook is told about a send.

    Attributes:
        message: what goes out, a copy of the user's. A property set before the send is sent with it.
        mq: where to.
        broker_addr: ``host:port`` of its broker.
        born_host: this machine's address.
        send_result: after the send, what it brought; None when it failed, and for one-way sends.
        exception: why it failed, or None.
        mq_trace_context: free for the hook between before and after.
    """

    producer_group: str
    message: Message
    mq: MessageQueue
    broker_addr: str
    born_host: str
    communication_mode: CommunicationMode
    msg_type: MessageType = MessageType.Normal_Msg
    send_result: SendResult | None = None
    exception: Exception | None = None
    props: dict[str, str] = field(default_factory=dict)
    mq_trace_context: object = None


@dataclass(slots=True)
class CheckForbiddenContext:
    """What a hook that may forbid a send is told about it; the fields are those of ``SendMessageContext``.

    Attributes:
        unit_mode: the producer's setting.
    """

    group: str
    message: Message
    mq: MessageQueue
    broker_addr: str
    communication_mode: CommunicationMode
    unit_mode: bool = False


@dataclass(slots=True)
class EndTransactionContext:
    """What a hook is told when a broker is told about the end of a transaction.

    Attributes:
        message: as sent; after a question from the broker, as the broker sent it.
        msg_id: the producer's id of the message.
        from_transaction_check: whether a broker had asked.
    """

    producer_group: str
    message: Message | MessageExt
    broker_addr: str | None
    msg_id: str
    transaction_id: str | None
    transaction_state: LocalTransactionState
    from_transaction_check: bool


class SendMessageHook(Protocol):
    """Called around every attempt to send. Its errors are logged and change nothing.

    On the thread that sends; around an asynchronous send with all its attempts once, "after" on a callback thread.
    """

    def hook_name(self) -> str:
        """Name for the log."""
        ...

    def send_message_before(self, context: SendMessageContext) -> None:
        """Before the message leaves."""
        ...

    def send_message_after(self, context: SendMessageContext) -> None:
        """After the broker answered, or could not."""
        ...


class CheckForbiddenHook(Protocol):
    """Called before every attempt to send. Its error ends the send and reaches the sender as it is."""

    def hook_name(self) -> str:
        """Name for the log."""
        ...

    def check_forbidden(self, context: CheckForbiddenContext) -> None:
        """Raise to forbid it."""
        ...


class EndTransactionHook(Protocol):
    """Called before a broker is told about the end of a transaction. Its errors are logged and change nothing."""

    def hook_name(self) -> str:
        """Name for the log."""
        ...

    def end_transaction(self, context: EndTransactionContext) -> None:
        """A transaction ends, or is not decided yet."""
        ...


class ProducerHooks:
    """The hooks of one producer; they may be registered at any time, from any thread."""

    __slots__ = ("check_forbidden", "end_transaction", "send_message")

    def __init__(self) -> None:
        # Replaced, never changed: a send under way keeps those it began with.
        self.send_message: tuple[SendMessageHook, ...] = ()
        self.check_forbidden: tuple[CheckForbiddenHook, ...] = ()
        self.end_transaction: tuple[EndTransactionHook, ...] = ()


def run_guarded(hook: object, call: Callable[[Context], None], context: Context) -> None:
    """Call a hook; its error is logged, ``sys.exit()`` too: a callback thread would lose what it has to tell."""
    try:
        call(context)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - border: a hook is the user's code
        _log.warning("the producer's hook %r failed", hook, exc_info=True)
