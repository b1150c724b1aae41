"""Ends of transactions, and delayed messages that are taken back.

Source: EndTransactionActivity, RecallMessageActivity.
"""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.broker.grpc.context import GrpcProxyError, ProxyContext, check_topic, ok, status_of, succeeded
from rocketmq_py.broker.grpc.message_service import LocalMessageService
from rocketmq_py.broker.grpc.route_activity import accepted_types
from rocketmq_py.broker.grpc.transaction_id import TransactionId
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.errors import ProtocolError, RocketMQError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.codes import MessageSysFlag, RequestCode
from rocketmq_py.remoting.frame import RemotingCommand

_OUTCOMES: dict[int, int] = {
    pb.COMMIT: MessageSysFlag.TRANSACTION_COMMIT_TYPE,
    pb.ROLLBACK: MessageSysFlag.TRANSACTION_ROLLBACK_TYPE,
}


class TransactionActivity:
    """Hands decisions to the broker. On the loop's thread only."""

    def __init__(self, service: LocalMessageService, topics: TopicConfigManager) -> None:
        self._service = service
        self._topics = topics

    def end_transaction(
        self,
        context: ProxyContext,
        request: pb.EndTransactionRequest,
        done: Callable[[pb.EndTransactionResponse], None],
    ) -> None:
        """Deliver or forget a half message; answered once that is on the disk.

        Deviation: upstream's proxy does not wait for the broker, so its OK says nothing.
        """
        topic = check_topic(request.topic)
        if not request.transaction_id.strip():
            raise GrpcProxyError(pb.INVALID_TRANSACTION_ID, "the transaction id is blank")
        try:
            transaction = TransactionId.parse(request.transaction_id)
        except ProtocolError as error:
            raise GrpcProxyError(pb.INVALID_TRANSACTION_ID, str(error)) from None
        outcome = _OUTCOMES.get(request.resolution)
        if outcome is None:  # its producer does not know yet: it is asked later
            done(pb.EndTransactionResponse(status=ok()))
            return
        fields = {
            "topic": topic,
            "producerGroup": topic,
            "tranStateTableOffset": transaction.queue_offset,
            "commitLogOffset": transaction.physical_offset,
            "commitOrRollback": outcome,
            # Whoever asked: a decision counts at any time, because a transaction ends once only.
            "fromTransactionCheck": "true",
            "msgId": transaction.message_id,
            "transactionId": transaction.message_id,
        }

        def answered(answer: RemotingCommand) -> None:
            try:
                succeeded(answer)
            except RocketMQError as error:
                done(pb.EndTransactionResponse(status=status_of(error)))
            else:
                done(pb.EndTransactionResponse(status=ok()))

        self._service.ask(context, RequestCode.END_TRANSACTION, fields, answered)

    def recall_message(
        self,
        context: ProxyContext,
        request: pb.RecallMessageRequest,
        done: Callable[[pb.RecallMessageResponse], None],
    ) -> None:
        """Take a delayed message back before its time."""
        topic = check_topic(request.topic)
        config = self._topics.topic(topic)
        if config is None:
            raise GrpcProxyError(pb.TOPIC_NOT_FOUND, f"no topic route info for the topic {topic}: create it first")
        if pb.DELAY not in accepted_types(config):
            raise GrpcProxyError(pb.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, f"the topic {topic} takes no delayed messages")
        fields = {"producerGroup": topic, "topic": topic, "recallHandle": request.recall_handle}

        def answered(answer: RemotingCommand) -> None:
            try:
                message_id = succeeded(answer).ext_fields.get("msgId", "")
            except RocketMQError as error:
                done(pb.RecallMessageResponse(status=status_of(error)))
            else:
                done(pb.RecallMessageResponse(status=ok(), message_id=message_id))

        self._service.ask(context, RequestCode.RECALL_MESSAGE, fields, answered)
