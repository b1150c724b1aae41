"""Writes trace records byte by byte as upstream does: ``mqadmin queryMsgTraceById`` and the dashboard read them.

Source: TraceDataEncoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rocketmq_py.trace.trace_context import TraceBean, TraceContext, TraceType

CONTENT_SPLITOR = "\x01"
FIELD_SPLITOR = "\x02"
"""Ends a record, whatever its name says."""


class TraceRecord(NamedTuple):
    """One record and the words by which it is found: the message's id and its business keys."""

    data: str
    keys: list[str]


def encode_records(context: TraceContext) -> Iterator[TraceRecord]:
    """One record per message of the context.

    Behaviour: TR-01. Source: TraceDataEncoder.encoderFromContextBean.
    """
    for bean in context.trace_beans:
        fields = _before(context, bean) if context.trace_type is TraceType.SUB_BEFORE else _after(context, bean)
        data = CONTENT_SPLITOR.join([_text(field) for field in fields]) + FIELD_SPLITOR
        yield TraceRecord(data, [bean.msg_id, *filter(None, (bean.keys or "").split(" "))])


def _before(context: TraceContext, bean: TraceBean) -> Iterable[object]:
    return (
        context.trace_type.value, context.timestamp, context.region_id, context.group_name, context.request_id,
        bean.msg_id, bean.retry_times, bean.keys,
    )  # fmt: skip


def _after(context: TraceContext, bean: TraceBean) -> Iterable[object]:
    return (
        context.trace_type.value, context.request_id, bean.msg_id, context.cost_time, context.success, bean.keys,
        context.context_code, context.timestamp, context.group_name,
    )  # fmt: skip


def _text(value: object) -> str:
    """As Java's StringBuilder writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
