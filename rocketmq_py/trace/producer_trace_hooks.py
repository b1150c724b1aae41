"""Traces what a producer sent, and the ends of its transactions.

Source: SendMessageTraceHookImpl, EndTransactionTraceHookImpl.
"""

from __future__ import annotations

from typing import NamedTuple

from rocketmq_py.clock import Clock
from rocketmq_py.model import names
from rocketmq_py.model.message import MessageConst
from rocketmq_py.model.producer_hooks import EndTransactionContext, MessageType, SendMessageContext
from rocketmq_py.model.results import SendStatus
from rocketmq_py.trace.async_trace_dispatcher import AsyncTraceDispatcher
from rocketmq_py.trace.trace_context import TraceBean, TraceContext, TraceType

DEFAULT_TRACE_REGION_ID = "DefaultRegion"
"""Of a message that does not tell its broker's. Source: MixAll.DEFAULT_TRACE_REGION_ID."""


class _Begun(NamedTuple):
    wall_ms: int
    at_ms: int


class SendMessageTraceHook:
    """A ``SendMessageHook``. What was not stored, or nobody knows it, is not traced; nor are sends of one way.

    Nor is what goes to the trace topic, or to a broker that wants no traces.
    """

    def __init__(self, dispatcher: AsyncTraceDispatcher, namespace: str | None, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._namespace = namespace
        self._clock = clock

    def hook_name(self) -> str:
        """See ``SendMessageHook.hook_name``."""
        return "SendMessageTraceHook"

    def send_message_before(self, context: SendMessageContext) -> None:
        """Behaviour: TR-10."""
        context.mq_trace_context = _Begun(self._clock.wall_ms(), self._clock.monotonic_ms())

    def send_message_after(self, context: SendMessageContext) -> None:
        """Behaviour: TR-10, TR-11."""
        begun, result, message = context.mq_trace_context, context.send_result, context.message
        if not isinstance(begun, _Begun) or result is None or not result.trace_on:
            return
        if message.topic == self._dispatcher.topic:
            return
        bean = TraceBean(
            message.topic, result.msg_id, message.keys, tags=message.tags, store_host=context.broker_addr,
            body_length=len(message.body), offset_msg_id=result.offset_msg_id, msg_type=context.msg_type,
        )  # fmt: skip
        group = names.without_namespace(self._namespace, context.producer_group)
        self._dispatcher.append(
            TraceContext(
                TraceType.PUB, begun.wall_ms, result.region_id, group, "", [bean],
                cost_time=self._clock.monotonic_ms() - begun.at_ms,
                success=result.send_status is SendStatus.SEND_OK,
            )
        )  # fmt: skip


class EndTransactionTraceHook:
    """An ``EndTransactionHook``: what a broker is told, also after it asked."""

    def __init__(self, dispatcher: AsyncTraceDispatcher, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._clock = clock

    def hook_name(self) -> str:
        """See ``EndTransactionHook.hook_name``."""
        return "EndTransactionTraceHook"

    def end_transaction(self, context: EndTransactionContext) -> None:
        """Behaviour: TR-12."""
        message = context.message
        if message.topic == self._dispatcher.topic:
            return
        bean = TraceBean(
            message.topic, context.msg_id, message.keys, tags=message.tags, store_host=context.broker_addr,
            msg_type=MessageType.Trans_msg_Commit, transaction_id=context.transaction_id,
            transaction_state=context.transaction_state, from_transaction_check=context.from_transaction_check,
        )  # fmt: skip
        region_id = message.get_property(MessageConst.MSG_REGION) or DEFAULT_TRACE_REGION_ID
        self._dispatcher.append(
            TraceContext(
                TraceType.END_TRANSACTION, self._clock.wall_ms(), region_id, context.producer_group, "", [bean]
            )
        )
