"""How transactions end. Source: EndTransactionProcessor."""

from __future__ import annotations

from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, integer, required, success
from rocketmq_py.broker.commit_log import MessageInner
from rocketmq_py.broker.transactional_message_service import TransactionalMessageService, immunity_time_ms
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import MessageSysFlag, RequestCode, ResponseCode
from rocketmq_py.model.message import MessageConst
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import StoredMessage

_COMMIT = MessageSysFlag.TRANSACTION_COMMIT_TYPE
_ROLLBACK = MessageSysFlag.TRANSACTION_ROLLBACK_TYPE


class EndTransactionProcessor:
    """Takes ends of transactions. On the loop's thread only."""

    def __init__(self, *, transactions: TransactionalMessageService, clock: Clock, transaction_time_out: int) -> None:
        self._transactions = transactions
        self._clock = clock
        self._transaction_time_out = transaction_time_out

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {RequestCode.END_TRANSACTION: self.end_transaction}

    def end_transaction(self, channel: Channel, request: RemotingCommand) -> RemotingCommand | None:
        """Deliver or forget a half message; a producer that does not know yet is asked later, and gets no answer."""
        outcome = integer(request, "commitOrRollback", bits=32)
        if outcome not in (_COMMIT, _ROLLBACK):
            return None
        physical_offset = integer(request, "commitLogOffset")
        half = self._transactions.find(physical_offset)
        if half is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, "Find prepared transaction message failed")
        self._check(request, half)
        real = _real(half, physical_offset) if outcome == _COMMIT else None
        self._transactions.end(half, real, answer_when_stored(channel, request, success(request)))
        return None

    def _check(self, request: RemotingCommand, half: StoredMessage) -> None:
        """Source: rejectCommitOrRollback, checkPrepareMessage."""
        from_check = request.ext_fields.get("fromTransactionCheck", "false").lower() == "true"
        immunity_ms = immunity_time_ms(half.properties, self._transaction_time_out)
        if not from_check and immunity_ms is not None:
            age_ms = self._clock.wall_ms() - half.head.born_timestamp
            if age_ms > immunity_ms:
                raise BrokerError(
                    ResponseCode.ILLEGAL_OPERATION, f"too late by {age_ms - immunity_ms} ms, the producer is asked"
                )
        if half.properties.get(MessageConst.PRODUCER_GROUP) != required(request, "producerGroup"):
            raise BrokerError(ResponseCode.SYSTEM_ERROR, "The producer group wrong")
        if half.head.queue_offset != integer(request, "tranStateTableOffset"):
            raise BrokerError(ResponseCode.SYSTEM_ERROR, "The transaction state table offset wrong")


def _real(half: StoredMessage, physical_offset: int) -> MessageInner:
    """The message as consumers get it, still marked TRAN_MSG: clients tell their listeners its transaction by that.

    Source: endMessageTransaction, whose result is stored before its mark is cleared.
    """
    properties = dict(half.properties)
    topic, queue_id = properties.pop(MessageConst.REAL_TOPIC), int(properties.pop(MessageConst.REAL_QUEUE_ID))
    head = half.head
    return MessageInner(
        topic, queue_id, half.body, properties, head.flag, head.sys_flag | _COMMIT, head.born_timestamp,
        head.born_host, head.reconsume_times, prepared_transaction_offset=physical_offset,
    )  # fmt: skip
