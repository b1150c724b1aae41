"""Clients: their settings, the stream on which they are told things, and how they leave.

Source: ClientActivity, GrpcChannelManager, GrpcClientChannel.

A client is a channel of the broker as a connection is one on the other port, so that members of a group, checks of
transactions and questions of operators find it there.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Protocol

from rocketmq_py.broker.grpc.context import GrpcProxyError, ProxyContext, check_group, check_topic, ok, succeeded
from rocketmq_py.broker.grpc.converter import decoded, expression_type
from rocketmq_py.broker.grpc.message_service import Broker
from rocketmq_py.broker.grpc.settings import SETTINGS_MAX_BYTES, GrpcClientSettingsManager
from rocketmq_py.broker.grpc.transaction_id import TransactionId
from rocketmq_py.broker.loop import Loop
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError, RocketMQError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.running_info import CMResult, ConsumeMessageDirectlyResult, ConsumerRunningInfo
from rocketmq_py.model.subscription import MessageSelector, SubscriptionData, build_selected
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand

SCAN_INTERVAL_MS = 5_000

STREAM_GRACE_MS = 15_000
"""How long after its stream broke a client must be silent to count as gone: heartbeats come every 10 s.

Deviation: upstream keeps everything that a crashed client holds for 120 s.
"""

EXPIRED_MS = 120_000
"""A client that tells nothing for so long is gone. Source: channelExpiredTimeout."""

QUESTIONS_MAX = 100
"""Questions to one client that wait for an answer; older ones are forgotten."""

_CONSUME_TYPES = {pb.PUSH_CONSUMER: "CONSUME_PASSIVELY", pb.SIMPLE_CONSUMER: "CONSUME_ACTIVELY"}
_RESULTS: dict[int, CMResult] = {
    pb.OK: CMResult.CR_SUCCESS,
    pb.FAILED_TO_CONSUME_MESSAGE: CMResult.CR_LATER,
    pb.MESSAGE_CORRUPTED: CMResult.CR_RETURN_NULL,
}

_log = logging.getLogger(__name__)


class TelemetryStream(Protocol):
    """The stream of one client; on the loop's thread only. Writing to one that has ended does nothing."""

    def write(self, command: pb.TelemetryCommand) -> None:
        """Tell the client something."""
        ...

    def close(self) -> None:
        """End the stream."""
        ...


class GrpcClientChannel:
    """A client, as the broker's ``Channel``."""

    def __init__(self, broker: Broker, context: ProxyContext, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._answer: RemotingCommand | None = None
        self._nonces = itertools.count(1)
        self._questions: dict[str, RemotingCommand] = {}
        self._language = context.language
        self.client_id = context.client_id
        self.remote_address = context.remote_address
        self.remote_host = context.remote_host
        self.stream: TelemetryStream | None = None
        self.heard_ms = clock.monotonic_ms()
        self.is_registered = False

    def ask(self, code: int, body: bytes) -> RemotingCommand:
        """Ask the broker something that it answers at once.

        Raises:
            BrokerError: it refuses.
        """
        self._answer = None
        self._broker.on_request(self, RemotingCommand(code, body=body, language=self._language), trusted=True)
        answer, self._answer = self._answer, None
        if answer is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"the broker did not answer {code}")
        return succeeded(answer)

    def write(self, command: RemotingCommand) -> None:
        """Translate what the broker has to say; what this protocol has no words for is left out."""
        if command.is_response:
            self._answer = command
            return
        try:
            told = self._told(command)
        except RocketMQError as error:
            _log.warning("%s cannot be told %r: %s", self.client_id, command, error)
            return
        if told is not None and self.stream is not None:
            self.stream.write(told)

    def _told(self, command: RemotingCommand) -> pb.TelemetryCommand | None:
        if command.code == RequestCode.CHECK_TRANSACTION_STATE:
            return pb.TelemetryCommand(
                recover_orphaned_transaction_command=pb.RecoverOrphanedTransactionCommand(
                    message=decoded(command.body), transaction_id=str(TransactionId.of_check(command))
                )
            )
        if command.code == RequestCode.GET_CONSUMER_RUNNING_INFO:
            return pb.TelemetryCommand(
                print_thread_stack_trace_command=pb.PrintThreadStackTraceCommand(nonce=self._asked(command))
            )
        if command.code == RequestCode.CONSUME_MESSAGE_DIRECTLY:
            return pb.TelemetryCommand(
                verify_message_command=pb.VerifyMessageCommand(
                    nonce=self._asked(command), message=decoded(command.body)
                )
            )
        return None

    def _asked(self, command: RemotingCommand) -> str:
        nonce = str(next(self._nonces))
        self._questions[nonce] = command
        while len(self._questions) > QUESTIONS_MAX:
            del self._questions[next(iter(self._questions))]
        return nonce

    def on_stack_trace(self, status: pb.Status, told: pb.ThreadStackTrace) -> None:
        """The client tells what its threads do."""
        if status.code == pb.OK:
            info = ConsumerRunningInfo({}, [], {}, {}, jstack=told.thread_stack_trace)
            self._answered(told.nonce, ResponseCode.SUCCESS, "", bodies.encode_consumer_running_info(info))
        else:
            self._answered(told.nonce, ResponseCode.SYSTEM_ERROR, f"{pb.Code.Name(status.code)} {status.message}")

    def on_verify_message_result(self, status: pb.Status, told: pb.VerifyMessageResult) -> None:
        """The client tells how its listener liked a message."""
        result = ConsumeMessageDirectlyResult(
            order=False, auto_commit=True, consume_result=_RESULTS.get(status.code, CMResult.CR_THROW_EXCEPTION),
            remark=f"from gRPC client: {status.message}", spent_time_mills=0,
        )  # fmt: skip
        body = bodies.encode_consume_message_directly_result(result)
        self._answered(told.nonce, ResponseCode.SUCCESS, "", body)

    def _answered(self, nonce: str, code: ResponseCode, remark: str, body: bytes = b"") -> None:
        question = self._questions.pop(nonce, None)
        if question is not None:
            answer = RemotingCommand.response(question.opaque, code, remark)
            answer.body = body
            self._broker.on_request(self, answer, trusted=True)

    def close(self) -> None:
        """End the stream: the broker has not heard of this client for long."""
        self.is_registered = False
        if self.stream is not None:
            self.stream.close()


class ClientActivity:
    """Owner of the clients. On the loop's thread only.

    Args:
        released: called with the id of a client that is gone: what it holds is to be given to others soon.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        clock: Clock,
        broker: Broker,
        settings: GrpcClientSettingsManager,
        released: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._broker = broker
        self._settings = settings
        self._released = released
        self._channels: dict[str, GrpcClientChannel] = {}

    def start(self) -> None:
        """Begin to look for clients that are gone."""
        self._loop.call_later(SCAN_INTERVAL_MS, self._scan)

    def channel(self, client_id: str) -> GrpcClientChannel | None:
        """A client that is there."""
        return self._channels.get(client_id)

    def settings(self, client_id: str) -> pb.Settings | None:
        """What a client told of itself."""
        return self._settings.told(client_id)

    # Calls.

    def telemetry(self, context: ProxyContext, command: pb.TelemetryCommand, stream: TelemetryStream) -> None:
        """A client tells something on its stream.

        Raises:
            GrpcProxyError: it makes no sense; the stream is to be ended.
        """
        which = command.WhichOneof("command")
        if which == "settings":
            self._on_settings(context, command.settings, stream)
            return
        channel = self._channels.get(context.client_id)
        if channel is None:
            return
        if which == "thread_stack_trace":
            channel.on_stack_trace(command.status, command.thread_stack_trace)
        elif which == "verify_message_result":
            channel.on_verify_message_result(command.status, command.verify_message_result)

    def _on_settings(self, context: ProxyContext, settings: pb.Settings, stream: TelemetryStream) -> None:
        size = settings.ByteSize()
        if size > SETTINGS_MAX_BYTES:
            raise GrpcProxyError(pb.BAD_REQUEST, f"settings of {size} bytes, this server takes {SETTINGS_MAX_BYTES}")
        kind = settings.WhichOneof("pub_sub")
        if kind is None:
            raise GrpcProxyError(pb.BAD_REQUEST, "there is no publishing or subscription data in settings")
        if kind == "publishing":
            for topic in settings.publishing.topics:
                check_topic(topic)
        else:
            check_group(settings.subscription.group)
            if settings.client_type not in _CONSUME_TYPES:
                raise GrpcProxyError(
                    pb.UNRECOGNIZED_CLIENT_TYPE,
                    f"{pb.ClientType.Name(settings.client_type)} is not served here, only PRODUCER, PUSH_CONSUMER and "
                    "SIMPLE_CONSUMER",
                )
            _subscriptions(settings, 0)
        known = self._settings.told(context.client_id)
        if not self._settings.put(context.client_id, settings):
            raise GrpcProxyError(pb.TOO_MANY_REQUESTS, "this server knows too many clients already")
        channel = self._channels.get(context.client_id) or GrpcClientChannel(self._broker, context, self._clock)
        try:
            self._register(channel, settings)
        except RocketMQError:  # what the broker does not take is not kept
            if known is None:
                self._settings.remove(context.client_id)
                self._broker.on_close(channel)
            else:
                self._settings.put(context.client_id, known)
            raise
        self._channels[context.client_id] = channel
        channel.stream = stream  # the last one counts
        stream.write(pb.TelemetryCommand(status=ok(), settings=self._settings.merged(context.client_id)))

    def stream_closed(self, client_id: str, stream: TelemetryStream) -> None:
        """A stream has ended. Its client stays for as long as it goes on sending heartbeats."""
        channel = self._channels.get(client_id)
        if channel is not None and channel.stream is stream:
            channel.stream = None
            channel.heard_ms = self._clock.monotonic_ms()

    def heartbeat(self, context: ProxyContext, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        """A client is still there."""
        settings = self._settings.told(context.client_id)
        if settings is None:
            raise GrpcProxyError(pb.UNRECOGNIZED_CLIENT_TYPE, "cannot find client settings for this client")
        if settings.HasField("subscription"):
            check_group(request.group)
        channel = self._channels.get(context.client_id)
        if channel is None:
            channel = self._channels[context.client_id] = GrpcClientChannel(self._broker, context, self._clock)
        self._register(channel, settings)
        return pb.HeartbeatResponse(status=ok())

    def notify_client_termination(
        self, context: ProxyContext, request: pb.NotifyClientTerminationRequest
    ) -> pb.NotifyClientTerminationResponse:
        """A client leaves."""
        settings = self._settings.told(context.client_id)
        if settings is None:
            raise GrpcProxyError(pb.UNRECOGNIZED_CLIENT_TYPE, "cannot find client settings for this client")
        if settings.HasField("subscription"):
            check_group(request.group)
        self._forget(context.client_id)
        return pb.NotifyClientTerminationResponse(status=ok())

    # Presence.

    def _register(self, channel: GrpcClientChannel, settings: pb.Settings) -> None:
        producers: list[str] = []
        consumers: list[bodies.ConsumerData] = []
        if settings.HasField("publishing"):
            producers = [topic.name for topic in settings.publishing.topics]  # a topic's producers are a group
        else:
            consumers = [
                bodies.ConsumerData(
                    settings.subscription.group.name,
                    "CONSUME_FROM_LAST_OFFSET",
                    _subscriptions(settings, self._clock.wall_ms()),
                    consume_type=_CONSUME_TYPES[settings.client_type],
                )
            ]
        channel.ask(RequestCode.HEART_BEAT, bodies.encode_heartbeat(channel.client_id, producers, consumers))
        channel.heard_ms = self._clock.monotonic_ms()
        channel.is_registered = True

    def _scan(self) -> None:
        self._loop.call_later(SCAN_INTERVAL_MS, self._scan)
        now_ms = self._clock.monotonic_ms()
        for client_id, channel in list(self._channels.items()):
            silent_ms = now_ms - channel.heard_ms
            if silent_ms > EXPIRED_MS:
                _log.info("%s told nothing for %s ms: it is gone", client_id, silent_ms)
                self._forget(client_id)
                channel.close()  # should it live after all, it opens another and tells its settings
            elif channel.stream is None and silent_ms > STREAM_GRACE_MS and channel.is_registered:
                # Its settings stay: should it come back, a heartbeat is enough.
                _log.info("%s is silent since its stream broke: what it holds is given to others", client_id)
                self._leave(channel)

    def _leave(self, channel: GrpcClientChannel) -> None:
        channel.is_registered = False
        self._broker.on_close(channel)
        self._released(channel.client_id)

    def _forget(self, client_id: str) -> None:
        self._settings.remove(client_id)
        channel = self._channels.pop(client_id, None)
        if channel is not None:
            self._leave(channel)


def _subscriptions(settings: pb.Settings, now_ms: int) -> list[SubscriptionData]:
    try:
        return [
            build_selected(
                entry.topic.name,
                MessageSelector(expression_type(entry.expression.type), entry.expression.expression),
                now_ms,
            )
            for entry in settings.subscription.subscriptions
        ]
    except ConfigError as error:
        raise GrpcProxyError(pb.ILLEGAL_FILTER_EXPRESSION, str(error)) from None
