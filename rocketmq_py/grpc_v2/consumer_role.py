"""What a consumer tells servers about itself, and what it does when they tell it something. Satisfies ``session.Role``.

Source: PushSubscriptionSettings, SimpleSubscriptionSettings, ConsumerImpl of the Java gRPC client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from rocketmq_py.grpc_v2.client import user_agent
from rocketmq_py.grpc_v2.convert import consumer_terms, received, resource, subscription_entries
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.session import Session
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.retry_policy import ConsumerTerms
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.runtime import operators_stacks

_log = logging.getLogger(__name__)

Verify = Callable[[MessageExt, Callable[[bool], None]], None]
"""``verify(msg, answer)``: hand a message to the listener for an operator, later tell whether it succeeded."""


class ConsumerRole:
    """Any thread may call it.

    Args:
        subscriptions: those of this moment.
        verify: for operators, None when there is no listener.
        unsettled: how many messages it has that servers keep for it; None: they keep none for long.

    Attributes:
        terms: what the server decided; replaced as a whole.
    """

    def __init__(
        self,
        group: str,
        client_type: pb.ClientType,
        endpoints: Endpoints,
        timeout_ms: int,
        subscriptions: Callable[[], Iterable[SubscriptionData]],
        verify: Verify | None = None,
        unsettled: Callable[[], int] | None = None,
    ) -> None:
        self.group = group
        self.client_type = client_type
        self._endpoints = endpoints
        self._timeout_ms = timeout_ms
        self._subscriptions = subscriptions
        self._verify = verify
        self._unsettled = unsettled
        self.terms = ConsumerTerms()

    def settings(self) -> pb.Settings:
        """See ``Role.settings``."""
        settings = pb.Settings(
            client_type=self.client_type, access_point=self._endpoints.message(), user_agent=user_agent()
        )
        settings.request_timeout.FromMilliseconds(self._timeout_ms)
        settings.subscription.group.CopyFrom(resource(self.group))
        settings.subscription.subscriptions.extend(subscription_entries(self._subscriptions()))
        return settings

    def has_nothing(self) -> bool:
        """See ``Role.has_nothing``."""
        return self._unsettled is not None and self._unsettled() == 0

    def on_settings(self, settings: pb.Settings) -> None:
        """See ``Role.on_settings``."""
        terms = consumer_terms(settings)
        if terms != self.terms:
            _log.info("group %s: the server decides %s", self.group, terms)
        self.terms = terms

    def on_command(self, session: Session, command: pb.TelemetryCommand) -> None:
        """See ``Role.on_command``. Behaviour: GC-13."""
        kind = command.WhichOneof("command")
        answer = pb.TelemetryCommand(status=pb.Status(code=pb.OK))
        if kind == "print_thread_stack_trace_command":
            answer.thread_stack_trace.nonce = command.print_thread_stack_trace_command.nonce
            answer.thread_stack_trace.thread_stack_trace = operators_stacks.text()
            session.send(answer)
        elif kind == "verify_message_command":
            asked = command.verify_message_command
            answer.verify_message_result.nonce = asked.nonce
            msg = received(asked.message, asked.message.topic.name, session.rpc.endpoints)
            if self._verify is None:
                answer.status.code = pb.NOT_IMPLEMENTED
            elif msg.corrupted is not None:
                answer.status.code = pb.MESSAGE_CORRUPTED
            else:

                def answered(succeeded: bool) -> None:
                    answer.status.code = pb.OK if succeeded else pb.FAILED_TO_CONSUME_MESSAGE
                    session.send(answer)

                self._verify(msg, answered)
                return
            session.send(answer)
