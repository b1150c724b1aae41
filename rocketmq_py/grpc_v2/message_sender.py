"""Sends for one producer over gRPC. What ``remoting.message_sender`` is for the other wire.

A proxy chooses the queue: by the message group, or as it likes. So there is a choice of servers only, mostly of one.

Source: ProducerImpl, PublishingSettings of the Java gRPC client.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rocketmq_py.errors import BrokerError, ProtocolError, RequestTimeoutError, RocketMQError, TransportError
from rocketmq_py.grpc_v2.client import GrpcClient, user_agent
from rocketmq_py.grpc_v2.convert import Outgoing, outgoing, producer_terms, received, resource
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.session import Session
from rocketmq_py.grpc_v2.status import GrpcStatusError, check
from rocketmq_py.model.codes import MASTER_ID, ResponseCode
from rocketmq_py.model.config import ProducerConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import LocalTransactionState, SendResult, SendStatus
from rocketmq_py.model.retry_policy import ProducerTerms
from rocketmq_py.model.unique_id import local_ip
from rocketmq_py.runtime import Mutex, Runtime

ROUTE_REFRESH_MS = 30_000

_STORED: Mapping[int, SendStatus] = {
    pb.OK: SendStatus.SEND_OK,
    pb.MASTER_PERSISTENCE_TIMEOUT: SendStatus.FLUSH_DISK_TIMEOUT,
    pb.SLAVE_PERSISTENCE_TIMEOUT: SendStatus.FLUSH_SLAVE_TIMEOUT,
    pb.HA_NOT_AVAILABLE: SendStatus.SLAVE_NOT_AVAILABLE,
}
"""In every one of these the message is stored."""

_RESOLUTIONS = {
    LocalTransactionState.COMMIT_MESSAGE: pb.COMMIT,
    LocalTransactionState.ROLLBACK_MESSAGE: pb.ROLLBACK,
}

_log = logging.getLogger(__name__)

Done = Callable[[SendResult | Exception], None]
Check = Callable[[str, str, MessageExt, str], None]
"""``check(address, broker, half_message, transaction_id)``: a server asks how a transaction stands. Must not block."""


class ProducerRole:
    """What a producer tells servers about itself. Satisfies ``session.Role``. Lock: ``_lock`` guards the topics."""

    group = None
    client_type = pb.PRODUCER

    def __init__(
        self, endpoints: Endpoints, config: ProducerConfig, topics: Iterable[str], check: Check | None
    ) -> None:
        self._endpoints = endpoints
        self._timeout_ms = config.mq_client_api_timeout
        self._check = check
        self._lock = Mutex()
        self._topics = set(topics)
        self.terms = ProducerTerms()

    def note(self, topic: str) -> bool:
        """Servers are to know of a topic; True when it is new."""
        with self._lock:
            new = topic not in self._topics
            self._topics.add(topic)
            return new

    def settings(self) -> pb.Settings:
        """See ``Role.settings``."""
        with self._lock:
            topics = sorted(self._topics)
        settings = pb.Settings(client_type=pb.PRODUCER, access_point=self._endpoints.message(), user_agent=user_agent())
        settings.request_timeout.FromMilliseconds(self._timeout_ms)
        settings.publishing.SetInParent()
        settings.publishing.topics.extend(resource(topic) for topic in topics)
        return settings

    def has_nothing(self) -> bool:
        """See ``Role.has_nothing``."""
        return False

    def on_settings(self, settings: pb.Settings) -> None:
        """See ``Role.on_settings``."""
        self.terms = producer_terms(settings)

    def on_command(self, session: Session, command: pb.TelemetryCommand) -> None:
        """See ``Role.on_command``."""
        if command.WhichOneof("command") != "recover_orphaned_transaction_command" or self._check is None:
            return
        asked = command.recover_orphaned_transaction_command
        msg = received(asked.message, asked.message.topic.name, session.rpc.endpoints)
        self._check(session.rpc.address, str(session.rpc.endpoints), msg, asked.transaction_id)


class GrpcSending:
    """One send with all its attempts."""

    __slots__ = ("deadline_ms", "message", "request", "topic")

    def __init__(self, message: Outgoing, topic: str, request: pb.SendMessageRequest, deadline_ms: int) -> None:
        self.message = message
        self.topic = topic
        self.request = request
        self.deadline_ms = deadline_ms


class GrpcMessageSender:
    """Any thread may call it. Lock: ``_lock`` guards the routes.

    Args:
        config: read at every send.
        unique_id: makes a message's id.
    """

    def __init__(
        self, client: GrpcClient, role: ProducerRole, config: ProducerConfig, runtime: Runtime,
        unique_id: Callable[[], str],
    ) -> None:  # fmt: skip
        self._client = client
        self._role = role
        self._config = config
        self._runtime = runtime
        self._clock = runtime.clock
        self._unique_id = unique_id
        self._born_host = local_ip()
        self._turn = itertools.count()
        self._lock = Mutex()
        self._routes: dict[str, tuple[int, list[MessageQueue]]] = {}

    def publish_queues(self, topic: str) -> list[MessageQueue]:
        """Queues that may be written to, sorted; under the short topic, if there is a namespace.

        Raises:
            BrokerError: there is no such topic, or none of its queues can be written to.
            TransportError: no answer.
        """
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            known = self._routes.get(topic)
        if known is not None and now_ms - known[0] < ROUTE_REFRESH_MS:
            return known[1]
        full = self._config.with_namespace(topic)
        try:
            route = self._client.query_route(full)
        except TransportError:
            if known is None:
                raise
            return known[1]
        queues = sorted(
            MessageQueue(topic, queue.broker.name, queue.id)
            for queue in route
            if queue.broker.id == MASTER_ID and queue.permission in {pb.WRITE, pb.READ_WRITE}
        )
        if not queues:
            raise BrokerError(
                ResponseCode.TOPIC_NOT_EXIST, f"topic {full} has no queue that can be written to: check its permissions"
            )
        with self._lock:
            self._routes[topic] = now_ms, queues
        return queues

    # Sending.

    def begin(self, message: Outgoing, deadline_ms: int, queue: MessageQueue | None = None) -> GrpcSending:
        """Prepare a send; asks for the topic's route if it is not known.

        Raises:
            RocketMQError: there is none.
        """
        self.publish_queues(message.topic)
        topic = self._config.with_namespace(message.topic)
        if self._role.note(topic):
            self._client.sync_settings()  # questions about transactions come to those who said that they send
        properties: Any = message.properties
        properties.setdefault("UNIQ_KEY", self._unique_id())
        travelling = outgoing(message, topic, self._clock.wall_ms(), self._born_host)
        return GrpcSending(message, topic, pb.SendMessageRequest(messages=[travelling]), deadline_ms)

    def send(
        self, message: Outgoing, timeout_ms: int, *, queue: MessageQueue | None = None, retries: int = 0
    ) -> SendResult:
        """Send, at most ``1 + retries`` times within ``timeout_ms``. Behaviour: GP-01, GP-02.

        Raises:
            BrokerError: it was refused.
            TransportError: no answer; the message may be stored all the same.
        """
        sending = self.begin(message, self._clock.monotonic_ms() + timeout_ms)
        error: RocketMQError | None = None
        for attempt in range(1 + retries):
            left_ms = sending.deadline_ms - self._clock.monotonic_ms()
            if attempt and left_ms <= 0:
                break
            broker, session = self._server(sending)
            try:
                response = session.rpc.invoke("SendMessage", sending.request, max(left_ms, 1))
                return self._result(sending, broker, session, response)
            except RocketMQError as failure:
                error = failure
                if not failure.retriable:
                    raise
                _log.info("sending to topic %s failed, attempt %s: %s", sending.topic, attempt + 1, failure)
                self._runtime.event().wait(self._pause_ms(failure, attempt + 1, sending.deadline_ms))
        raise error or RequestTimeoutError(f"sending to topic {message.topic} took longer than {timeout_ms} ms")

    def _pause_ms(self, error: RocketMQError, attempt: int, deadline_ms: int) -> int:
        """A server that has too much to do is left alone for a moment; another failure is tried elsewhere at once."""
        if not isinstance(error, GrpcStatusError) or error.status != pb.TOO_MANY_REQUESTS:
            return 0
        return min(self._role.terms.retry.delay_ms(attempt), max(deadline_ms - self._clock.monotonic_ms(), 0))

    def send_oneway(self, message: Outgoing, timeout_ms: int, *, queue: MessageQueue | None = None) -> None:
        """Send once; how it ends is only in the log."""
        self.send_async(self.begin(message, self._clock.monotonic_ms() + timeout_ms), 0, _note)

    def send_async(self, sending: GrpcSending, retries: int, done: Done) -> None:
        """Send; ``done`` is told how it ended, on a thread of gRPC. Another attempt when there was no answer."""
        broker, session = self._server(sending)

        def on_result(response: pb.SendMessageResponse) -> None:
            done(self._result(sending, broker, session, response))

        def on_error(error: Exception) -> None:
            in_time = sending.deadline_ms - self._clock.monotonic_ms() > 0
            if retries > 0 and in_time and isinstance(error, RocketMQError) and error.retriable:
                pause_ms = self._pause_ms(error, 1, sending.deadline_ms)
                self._client.scheduler.schedule(pause_ms, lambda: self.send_async(sending, retries - 1, done))
            else:
                done(error)

        left_ms = max(sending.deadline_ms - self._clock.monotonic_ms(), 1)
        session.rpc.invoke_async("SendMessage", sending.request, left_ms, on_result, on_error)

    def after(self, sending: GrpcSending, outcome: SendResult | Exception | None) -> None:
        """There are no hooks to tell."""

    def _server(self, sending: GrpcSending) -> tuple[str, Session]:
        brokers = sorted({queue.broker_name for queue in self.publish_queues(sending.message.topic)})
        broker = brokers[next(self._turn) % len(brokers)]
        return broker, self._client.session_of(broker)

    def _result(
        self, sending: GrpcSending, broker: str, session: Session, response: pb.SendMessageResponse
    ) -> SendResult:
        if not response.entries:
            check(response.status, session.rpc.address, f"send to topic {sending.topic}")
            raise ProtocolError(f"{session.rpc.address} does not say what became of a message")
        entry = response.entries[0]
        status = entry.status if entry.status.code else response.status
        stored = _STORED.get(status.code)
        if stored is None:
            raise GrpcStatusError(status, session.rpc.address, f"send to topic {sending.topic}")
        return SendResult(
            stored,
            sending.message.properties["UNIQ_KEY"],
            MessageQueue(sending.message.topic, broker, -1),
            entry.offset,
            "",
            transaction_id=entry.transaction_id or None,
            recall_handle=entry.recall_handle or None,
        )

    # Transactions, recall.

    def end_transaction(
        self, topic: str, broker: str, msg_id: str, transaction_id: str, state: LocalTransactionState, *, asked: bool
    ) -> None:
        """Tell the server that stored a half message what becomes of it; nothing of what is not decided.

        Args:
            topic: as servers know it.
            broker: the broker, or the address of the server that asked.
            msg_id: the message's.
            transaction_id: the server's.
            state: how it ended.
            asked: whether the server had asked.

        Raises:
            RocketMQError: it could not be told. Behaviour: GP-04.
        """
        if state not in _RESOLUTIONS:
            return
        session = self._client.session(Endpoints.parse(broker)) if asked else self._client.session_of(broker)
        request = pb.EndTransactionRequest(
            topic=resource(topic),
            message_id=msg_id,
            transaction_id=transaction_id,
            resolution=_RESOLUTIONS[state],
            source=pb.SOURCE_SERVER_CHECK if asked else pb.SOURCE_CLIENT,
        )
        response = session.rpc.invoke("EndTransaction", request, self._config.send_msg_timeout)
        check(response.status, session.rpc.address, f"end transaction {transaction_id}")

    def recall_message(self, topic: str, recall_handle: str, timeout_ms: int) -> str:
        """See ``DefaultMQProducer.recall_message``."""
        [broker, *_] = sorted({queue.broker_name for queue in self.publish_queues(topic)})
        session = self._client.session_of(broker)
        request = pb.RecallMessageRequest(
            topic=resource(self._config.with_namespace(topic)), recall_handle=recall_handle
        )
        response = session.rpc.invoke("RecallMessage", request, timeout_ms)
        check(response.status, session.rpc.address, f"recall a message of topic {topic}")
        message_id: str = response.message_id
        return message_id


def _note(outcome: SendResult | Exception) -> None:
    if isinstance(outcome, Exception):
        _log.info("a one-way send failed: %s", outcome)
