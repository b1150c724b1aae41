"""A whole broker with its RPCs on a virtual clock, one thread, without sockets."""

from __future__ import annotations

from typing import Any

from rocketmq_py.broker.grpc.application import GrpcMessagingApplication
from rocketmq_py.broker.grpc.context import GrpcProxyError, ProxyContext, status_of
from rocketmq_py.broker.grpc.receive_message_activity import Polling as Poll
from rocketmq_py.broker.topic_config import SubscriptionGroupConfig, TopicConfig
from rocketmq_py.grpc_v2.methods import METHODS
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from tests.unit.broker_rig import GROUP, TOPIC, Rig

ENDPOINTS = pb.Endpoints(scheme=pb.DOMAIN_NAME, addresses=[pb.Address(host="somewhere", port=1234)])


class Stream:
    """A client's end of Telemetry; keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[pb.TelemetryCommand] = []
        self.closed = False

    def write(self, command: pb.TelemetryCommand) -> None:
        self.told.append(command)

    def close(self) -> None:
        self.closed = True


class GrpcRig(Rig):
    """The broker and its RPCs."""

    def open(self) -> None:
        super().open()
        self.application = GrpcMessagingApplication(
            loop=self.loop, clock=self.clock, broker=self.controller, host="127.0.0.1", port=8081
        )
        self.application.start()

    def put_topic(self, topic: str = TOPIC, kind: str = "", *, queues: int = 1, perm: int = 6) -> None:
        attributes = {"message.type": kind} if kind else {}
        self.controller.topics.put_topic(
            TopicConfig(topic, queues, queues, perm, attributes=attributes), lambda error: None
        )
        self.loop.run()

    def put_group(self, group: str = GROUP, **fields: Any) -> None:
        self.controller.topics.put_group(SubscriptionGroupConfig(group, **fields), lambda error: None)
        self.loop.run()

    def grpc_client(self, client_id: str = "client") -> GrpcClient:
        return GrpcClient(self, client_id)


class GrpcClient:
    """A client of the RPCs."""

    def __init__(self, rig: GrpcRig, client_id: str) -> None:
        self._rig = rig
        self.context = ProxyContext(client_id, "10.0.0.1:999", client_version="5.1.2", remaining_ms=23_000)
        self.stream = Stream()

    def begin(self, name: str, request: Any) -> list[Any]:
        """Call; the list gets the answer when there is one."""
        answers: list[Any] = []
        try:
            self._rig.application.unary[name](self.context, request, answers.append)
        except GrpcProxyError as error:
            response: Any = METHODS[name].response
            answers.append(response(status=status_of(error)))
        return answers

    def ask(self, name: str, request: Any) -> Any:
        """Call, and get the answer, which must come without time passing."""
        answers = self.begin(name, request)
        self._rig.loop.run()
        assert len(answers) == 1, f"{len(answers)} answers to {name}"
        return answers[0]

    # What tests ask for often.

    def tell(self, command: pb.TelemetryCommand) -> None:
        """Say something on the stream."""
        self._rig.application.clients.telemetry(self.context, command, self.stream)
        self._rig.loop.run()

    def settings(self, settings: pb.Settings) -> pb.Settings:
        """Tell settings; what comes back."""
        self.tell(pb.TelemetryCommand(settings=settings))
        told = self.stream.told[-1]
        assert told.status.code == pb.OK
        return told.settings

    def consumer_settings(
        self, kind: pb.ClientType = pb.PUSH_CONSUMER, group: str = GROUP, topic: str = TOPIC, expression: str = "*"
    ) -> pb.Settings:
        entry = pb.SubscriptionEntry(
            topic=pb.Resource(name=topic), expression=pb.FilterExpression(type=pb.TAG, expression=expression)
        )
        return pb.Settings(
            client_type=kind, subscription=pb.Subscription(group=pb.Resource(name=group), subscriptions=[entry])
        )

    def producer_settings(self, *topics: str) -> pb.Settings:
        return pb.Settings(
            client_type=pb.PRODUCER,
            publishing=pb.Publishing(topics=[pb.Resource(name=topic) for topic in topics or (TOPIC,)]),
        )

    def heartbeat(self, group: str | None = GROUP) -> pb.Code:
        request = pb.HeartbeatRequest(client_type=pb.PUSH_CONSUMER)
        if group is not None:
            request.group.name = group
        code: pb.Code = self.ask("Heartbeat", request).status.code
        return code

    def terminate(self, group: str = GROUP) -> pb.Code:
        request = pb.NotifyClientTerminationRequest(group=pb.Resource(name=group))
        code: pb.Code = self.ask("NotifyClientTermination", request).status.code
        return code

    def send(self, *messages: pb.Message) -> pb.SendMessageResponse:
        response: pb.SendMessageResponse = self.ask("SendMessage", pb.SendMessageRequest(messages=messages))
        return response

    def receive(
        self, *, topic: str = TOPIC, group: str = GROUP, expression: str = "*", batch: int = 32, **more: Any
    ) -> Polling:
        """Begin to receive."""
        request = pb.ReceiveMessageRequest(
            group=pb.Resource(name=group),
            message_queue=pb.MessageQueue(topic=pb.Resource(name=topic), id=-1),
            filter_expression=pb.FilterExpression(type=more.pop("kind", pb.TAG), expression=expression),
            batch_size=batch,
        )
        invisible_ms, poll_ms = more.pop("invisible_ms", None), more.pop("poll_ms", 20_000)
        request.auto_renew = invisible_ms is None
        if invisible_ms is not None:
            request.invisible_duration.FromMilliseconds(invisible_ms)
        if poll_ms is not None:
            request.long_polling_timeout.FromMilliseconds(poll_ms)
        for name, value in more.items():
            setattr(request, name, value)
        polling = Polling(self._rig, self.context, request)
        self._rig.loop.run()
        return polling

    def ack(self, *messages: pb.Message, topic: str = TOPIC, group: str = GROUP) -> pb.AckMessageResponse:
        entries = [
            pb.AckMessageEntry(
                message_id=message.system_properties.message_id, receipt_handle=message.system_properties.receipt_handle
            )
            for message in messages
        ]
        request = pb.AckMessageRequest(group=pb.Resource(name=group), topic=pb.Resource(name=topic), entries=entries)
        response: pb.AckMessageResponse = self.ask("AckMessage", request)
        return response

    def change(
        self, message: pb.Message, invisible_ms: int, *, suspend: bool = False, topic: str = TOPIC, group: str = GROUP
    ) -> pb.ChangeInvisibleDurationResponse:
        request = pb.ChangeInvisibleDurationRequest(
            group=pb.Resource(name=group),
            topic=pb.Resource(name=topic),
            receipt_handle=message.system_properties.receipt_handle,
            message_id=message.system_properties.message_id,
            suspend=suspend,
        )
        request.invisible_duration.FromMilliseconds(invisible_ms)
        response: pb.ChangeInvisibleDurationResponse = self.ask("ChangeInvisibleDuration", request)
        return response

    def bury(self, message: pb.Message, topic: str = TOPIC, group: str = GROUP) -> pb.Status:
        request = pb.ForwardMessageToDeadLetterQueueRequest(
            group=pb.Resource(name=group),
            topic=pb.Resource(name=topic),
            receipt_handle=message.system_properties.receipt_handle,
            message_id=message.system_properties.message_id,
        )
        status: pb.Status = self.ask("ForwardMessageToDeadLetterQueue", request).status
        return status


class Polling:
    """One ReceiveMessage."""

    def __init__(self, rig: GrpcRig, context: ProxyContext, request: pb.ReceiveMessageRequest) -> None:
        self._receives = rig.application.receives
        self._request = request
        self._call: Poll | None = None
        self.frames: list[pb.ReceiveMessageResponse] = []
        try:
            self._call = self._receives.receive_message(context, request, self.frames.extend)
        except GrpcProxyError as error:
            self.frames.extend(self._receives.refused(error))

    @property
    def is_over(self) -> bool:
        return bool(self.frames)

    @property
    def code(self) -> pb.Code:
        assert self.frames[0].HasField("status"), "the status comes first"
        assert self.frames[-1].HasField("delivery_timestamp"), "the time comes last"
        code: pb.Code = self.frames[0].status.code
        return code

    @property
    def messages(self) -> list[pb.Message]:
        assert self.code == pb.OK
        return [frame.message for frame in self.frames[1:-1]]

    @property
    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages]

    def cancel(self) -> None:
        """The client does not wait any more."""
        if self._call is not None:
            self._call.cancel()

    def leave(self) -> None:
        """All frames have left."""
        assert self._call is not None
        self._call.tell_written(True)

    def lose(self, count: int) -> None:
        """The last frames could not be written."""
        self._receives.undelivered(self._request, self.frames[-count:])
        assert self._call is not None
        self._call.tell_written(False)


def message(body: bytes = b"body", topic: str = TOPIC, message_id: str = "id", **system: Any) -> pb.Message:
    """A message to send."""
    properties = system.pop("properties", {})
    delivery_ms = system.pop("delivery_ms", None)
    sent = pb.Message(
        topic=pb.Resource(name=topic),
        body=body,
        user_properties=properties,
        system_properties=pb.SystemProperties(message_id=message_id, body_encoding=pb.IDENTITY, **system),
    )
    if delivery_ms is not None:
        sent.system_properties.delivery_timestamp.FromMilliseconds(delivery_ms)
    return sent
