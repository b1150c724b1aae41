"""Writes trace records byte by byte as upstream does: ``mqadmin queryMsgTraceById`` and the dashboard read them.

Source: TraceDataEncoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from rocketmq_py.model.producer_hooks import MessageType
from rocketmq_py.trace.trace_context import TraceBean, TraceContext, TraceType

CONTENT_SPLITOR = "\x01"
FIELD_SPLITOR = "\x02"
"""Ends a record, whatever its name says."""


class TraceRecord(NamedTuple):
    """One record and the words by which it is found: the message's id and its business keys."""

    data: str
    keys: list[str]


def encode_records(context: TraceContext) -> Iterator[TraceRecord]:
    """One record per message of the context; what was sent as one batch has one.

    Behaviour: TR-01. Source: TraceDataEncoder.encoderFromContextBean.
    """
    fields_of = _FIELDS[context.trace_type]
    for bean in context.trace_beans:
        fields = (context.trace_type.value, *fields_of(context, bean))
        data = CONTENT_SPLITOR.join([_text(field) for field in fields]) + FIELD_SPLITOR
        yield TraceRecord(data, [bean.msg_id, *filter(None, (bean.keys or "").split(" "))])


def _pub(context: TraceContext, bean: TraceBean) -> Iterable[object]:
    return (
        context.timestamp, context.region_id, context.group_name, bean.topic, bean.msg_id, bean.tags, bean.keys,
        bean.store_host, bean.body_length, context.cost_time, _ordinal(bean.msg_type), bean.offset_msg_id,
        context.success,
    )  # fmt: skip


def _sub_before(context: TraceContext, bean: TraceBean) -> Iterable[object]:
    return (
        context.timestamp, context.region_id, context.group_name, context.request_id, bean.msg_id, bean.retry_times,
        bean.keys,
    )  # fmt: skip


def _sub_after(context: TraceContext, bean: TraceBean) -> Iterable[object]:
    return (
        context.request_id, bean.msg_id, context.cost_time, context.success, bean.keys, context.context_code,
        context.timestamp, context.group_name,
    )  # fmt: skip


def _end_transaction(context: TraceContext, bean: TraceBean) -> Iterable[object]:
    return (
        context.timestamp, context.region_id, context.group_name, bean.topic, bean.msg_id, bean.tags, bean.keys,
        bean.store_host, _ordinal(bean.msg_type), bean.transaction_id, bean.transaction_state.value,
        bean.from_transaction_check,
    )  # fmt: skip


_FIELDS: dict[TraceType, Callable[[TraceContext, TraceBean], Iterable[object]]] = {
    TraceType.PUB: _pub,
    TraceType.SUB_BEFORE: _sub_before,
    TraceType.SUB_AFTER: _sub_after,
    TraceType.END_TRANSACTION: _end_transaction,
}


def _ordinal(kind: MessageType) -> int:
    return list(MessageType).index(kind)


def _text(value: object) -> str:
    """As Java's StringBuilder writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
