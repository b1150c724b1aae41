"""Traces every listener call: who got which message when, and how that ended. Source: ConsumeMessageTraceHookImpl."""

from __future__ import annotations

from typing import NamedTuple

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.consume_result import ConsumeReturnType
from rocketmq_py.consumer.hooks import CONSUME_CONTEXT_TYPE, ConsumeMessageContext
from rocketmq_py.model import names
from rocketmq_py.model.message import MessageConst
from rocketmq_py.model.unique_id import create_uniq_id
from rocketmq_py.trace.async_trace_dispatcher import AsyncTraceDispatcher
from rocketmq_py.trace.trace_context import TraceBean, TraceContext, TraceType

_CODES = {kind.value: number for number, kind in enumerate(ConsumeReturnType)}


class _Begun(NamedTuple):
    before: TraceContext
    at_ms: int


class ConsumeMessageTraceHook:
    """A ``ConsumeMessageHook``. Messages with the property TRACE_ON = "false" are left out.

    So are messages of the trace topic itself: whoever consumes it with tracing on would make a record of every record.
    """

    def __init__(self, dispatcher: AsyncTraceDispatcher, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._clock = clock

    def hook_name(self) -> str:
        """See ``ConsumeMessageHook.hook_name``."""
        return "ConsumeMessageTraceHook"

    def consume_message_before(self, context: ConsumeMessageContext) -> None:
        """Behaviour: TR-07."""
        region_id = None
        beans = []
        for msg in context.msg_list:
            if msg.get_property(MessageConst.TRACE_SWITCH) == "false" or msg.topic == self._dispatcher.topic:
                continue
            region_id = msg.get_property(MessageConst.MSG_REGION)
            beans.append(TraceBean(msg.topic, msg.msg_id, msg.keys, msg.reconsume_times))
        if not beans:
            return
        before = TraceContext(
            TraceType.SUB_BEFORE, self._clock.wall_ms(), region_id,
            names.without_namespace(context.namespace, context.consumer_group),
            create_uniq_id(self._clock), beans,
        )  # fmt: skip
        context.mq_trace_context = _Begun(before, self._clock.monotonic_ms())
        self._dispatcher.append(before)

    def consume_message_after(self, context: ConsumeMessageContext) -> None:
        """Behaviour: TR-08."""
        begun = context.mq_trace_context
        if not isinstance(begun, _Begun):
            return
        before = begun.before
        self._dispatcher.append(
            TraceContext(
                TraceType.SUB_AFTER, self._clock.wall_ms(), before.region_id, before.group_name, before.request_id,
                before.trace_beans,
                cost_time=(self._clock.monotonic_ms() - begun.at_ms) // len(context.msg_list),
                success=context.success,
                context_code=_CODES.get(context.props.get(CONSUME_CONTEXT_TYPE, ""), 0),
            )
        )  # fmt: skip
