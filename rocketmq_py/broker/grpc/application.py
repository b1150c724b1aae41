"""Joins the parts that answer RPCs; without sockets, threads and clocks. Source: GrpcMessagingApplication."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rocketmq_py.broker.broker_controller import BROKER_NAME, BrokerController
from rocketmq_py.broker.grpc.client_activity import ClientActivity
from rocketmq_py.broker.grpc.context import ProxyContext
from rocketmq_py.broker.grpc.message_service import LocalMessageService
from rocketmq_py.broker.grpc.receipt_handles import ReceiptHandleManager
from rocketmq_py.broker.grpc.receive_message_activity import ReceiveMessageActivity
from rocketmq_py.broker.grpc.route_activity import RouteActivity
from rocketmq_py.broker.grpc.send_message_activity import SendMessageActivity
from rocketmq_py.broker.grpc.settings import GrpcClientSettingsManager
from rocketmq_py.broker.grpc.settlement_activity import SettlementActivity
from rocketmq_py.broker.grpc.transaction_activity import TransactionActivity
from rocketmq_py.broker.loop import Loop
from rocketmq_py.clock import Clock

Done = Callable[[Any], None]
Unary = Callable[[ProxyContext, Any, Done], None]
"""Answers a request by calling the third argument, now or later. Raises ``RocketMQError`` to refuse."""


class GrpcMessagingApplication:
    """All RPCs of the broker. On the loop's thread only.

    Args:
        host: where the gRPC port is.
        port: its number.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        clock: Clock,
        broker: BrokerController,
        host: str,
        port: int,
    ) -> None:
        service = LocalMessageService(broker)
        topics = broker.topics
        self.clients = ClientActivity(
            loop=loop, clock=clock, broker=broker, settings=GrpcClientSettingsManager(topics), released=self._released
        )
        self._receipts = ReceiptHandleManager(
            loop=loop, clock=clock, pop_service=broker.pop_service, broker_name=BROKER_NAME, may_renew=self._is_there
        )
        settlements = SettlementActivity(service, broker.pop_service, self._receipts)
        self.receives = ReceiveMessageActivity(
            clock=clock, pops=broker.pops, topics=topics, clients=self.clients, receipts=self._receipts,
            settlements=settlements,
        )  # fmt: skip
        routes = RouteActivity(topics, BROKER_NAME, host, port)
        transactions = TransactionActivity(service, topics)
        self.unary: Mapping[str, Unary] = {
            "QueryRoute": _at_once(routes.query_route),
            "QueryAssignment": _at_once(routes.query_assignment),
            "Heartbeat": _at_once(self.clients.heartbeat),
            "NotifyClientTermination": _at_once(self.clients.notify_client_termination),
            "SendMessage": SendMessageActivity(service, topics, clock).send_message,
            "AckMessage": settlements.ack_message,
            "ChangeInvisibleDuration": settlements.change_invisible_duration,
            "ForwardMessageToDeadLetterQueue": settlements.forward_message_to_dead_letter_queue,
            "EndTransaction": transactions.end_transaction,
            "RecallMessage": transactions.recall_message,
        }

    def start(self) -> None:
        """Begin what runs by itself."""
        self.clients.start()
        self._receipts.start()

    def _is_there(self, client_id: str) -> bool:
        channel = self.clients.channel(client_id)
        return channel is not None and channel.is_registered

    def _released(self, client_id: str) -> None:
        self._receipts.release(client_id)


def _at_once(answer: Callable[[ProxyContext, Any], Any]) -> Unary:
    def unary(context: ProxyContext, request: Any, done: Done) -> None:
        done(answer(context, request))

    return unary
