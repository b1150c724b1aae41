"""What is traced, as values. Source: TraceType, TraceBean, TraceContext."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rocketmq_py.model.producer_hooks import MessageType
from rocketmq_py.model.results import LocalTransactionState


class TraceType(Enum):
    """What a record tells of."""

    PUB = "Pub"
    SUB_BEFORE = "SubBefore"
    SUB_AFTER = "SubAfter"
    END_TRANSACTION = "EndTransaction"


@dataclass(frozen=True, slots=True)
class TraceBean:
    """One message; of a batch that was sent, all of it.

    Attributes:
        topic: as sent or subscribed, without a namespace; records of one topic are sent together.
        msg_id: the producer's id; of a batch all ids, comma separated.
        keys: business keys, separated by spaces, or None.
        retry_times: failed deliveries before this one; of what was consumed, as nothing below.
        tags: the tag, or None.
        store_host: ``host:port`` of the broker, None if there was none.
        body_length: bytes; of what was sent, as ``offset_msg_id``.
        offset_msg_id: the broker's id.
        msg_type: what kind of message.
        transaction_id: of the end of a transaction, as what follows.
        transaction_state: how it ended, or that it is not decided yet.
        from_transaction_check: whether the broker had asked.
    """

    topic: str
    msg_id: str
    keys: str | None
    retry_times: int = 0
    tags: str | None = None
    store_host: str | None = None
    body_length: int = 0
    offset_msg_id: str = ""
    msg_type: MessageType = MessageType.Normal_Msg
    transaction_id: str | None = None
    transaction_state: LocalTransactionState = LocalTransactionState.UNKNOW
    from_transaction_check: bool = False


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One send, one end of a transaction, or one listener call, before or after.

    Attributes:
        timestamp: ms since 1970; of a send, when it began.
        region_id: what the broker wrote into the messages or answered; contexts without one are not sent.
        group_name: the group of the consumer or producer.
        request_id: of a listener call, the same before and after.
        trace_beans: the messages, one unless they were consumed.
        cost_time: after a listener call, ms per message; of a send, ms.
        success: after a listener call, whether it answered CONSUME_SUCCESS; of a send, whether it was SEND_OK.
        context_code: after a listener call, the place of its ``ConsumeReturnType`` in that enum, from 0.
    """

    trace_type: TraceType
    timestamp: int
    region_id: str | None
    group_name: str
    request_id: str
    trace_beans: Sequence[TraceBean]
    cost_time: int = 0
    success: bool = True
    context_code: int = 0
