"""A small server of the gRPC protocol, on loopback: it does what a proxy does, unless a test says otherwise."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc

from rocketmq_py.grpc_v2.methods import METHODS, SERVICE_NAME
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb

BROKER = "broker-a"
OK = pb.Status(code=pb.OK)

Script = Callable[[Any, grpc.ServicerContext], Any]


class Seen(NamedTuple):
    """A request that came."""

    name: str
    request: Any
    metadata: dict[str, str]
    at: float


class GrpcServer:
    """A server with one broker. What it gives it does not take back: tests say when messages come again.

    Attributes:
        scripts: by method, what to do instead; None as answer: what the server would have done.
        seen: every request, those on Telemetry streams too.
        receiving: receives that are held or being answered now.
        most_receiving: the most at once.
        terms: what clients are told by settings.
        queues: readable queues.
    """

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.scripts: dict[str, Script] = {}
        self.seen: list[Seen] = []
        self.receiving = self.most_receiving = 0
        self.queues = 1
        self.terms = pb.Settings()
        self.terms.backoff_policy.max_attempts = 3
        self.terms.backoff_policy.customized_backoff.next.add().FromMilliseconds(100)
        self.terms.subscription.receive_batch_size = 32
        self.terms.subscription.long_polling_timeout.FromMilliseconds(2_000)
        self._changed = threading.Condition()
        self._messages: defaultdict[str, deque[bytes]] = defaultdict(deque)
        self._streams: list[deque[Any]] = []
        self._offsets = itertools.count()
        self._ended = False
        self._port = port
        self._credentials = credentials
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._ended = False
        pool = futures.ThreadPoolExecutor(128)
        self._server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        handlers = {name: self._handler(name) for name in METHODS}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
        place = f"127.0.0.1:{self._port}"
        if self._credentials is None:
            self._port = self._server.add_insecure_port(place)
        else:
            self._port = self._server.add_secure_port(place, self._credentials)
        self._server.start()

    def stop(self) -> None:
        """End at once; what waits is kept for the next ``start``."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._server is not None:
            self._server.stop(0).wait(5)
            self._server = None

    @property
    def endpoints(self) -> str:
        return f"127.0.0.1:{self._port}"

    def put(self, topic: str, *messages: pb.Message | bytes) -> None:
        """Have messages received: a message, or any bytes in a frame's place."""
        with self._changed:
            for message in messages:
                if isinstance(message, bytes):
                    self._messages[topic].append(message)
                else:
                    self._messages[topic].append(pb.ReceiveMessageResponse(message=message).SerializeToString())
            self._changed.notify_all()

    def message(self, topic: str, body: bytes, **system: Any) -> pb.Message:
        """A message as a proxy gives it."""
        offset = next(self._offsets)
        message = pb.Message(topic=pb.Resource(name=topic), body=body)
        fields = {
            "message_id": f"id-{offset}",
            "receipt_handle": f"receipt-{offset}",
            "body_encoding": pb.IDENTITY,
            "message_type": pb.NORMAL,
            "queue_id": 0,
            "queue_offset": offset,
            "delivery_attempt": 1,
            "born_host": "127.0.0.1:4711",
            "store_host": "127.0.0.1:10911",
        }
        for name, value in {**fields, **system}.items():
            if name == "keys":
                message.system_properties.keys.extend(value)
            else:
                setattr(message.system_properties, name, value)
        message.system_properties.body_digest.type = pb.MD5
        message.system_properties.body_digest.checksum = hashlib.md5(body).hexdigest().upper()
        message.system_properties.born_timestamp.FromMilliseconds(1_700_000_000_000)
        message.system_properties.store_timestamp.FromMilliseconds(1_700_000_000_001)
        return message

    def count(self, name: str) -> int:
        with self._changed:
            return sum(each.name == name for each in self.seen)

    def requests(self, name: str) -> list[Any]:
        with self._changed:
            return [each.request for each in self.seen if each.name == name]

    def acked(self) -> list[str]:
        """Receipts acknowledged."""
        return [entry.receipt_handle for request in self.requests("AckMessage") for entry in request.entries]

    def command(self, command: pb.TelemetryCommand | None) -> None:
        """Send a command on every stream; None ends it."""
        with self._changed:
            for stream in self._streams:
                stream.append(command)
            self._changed.notify_all()

    def cut_streams(self) -> None:
        """End every Telemetry stream."""
        self.command(None)

    # What it does.

    def _handler(self, name: str) -> grpc.RpcMethodHandler[Any, Any]:
        method = METHODS[name]

        def note(request: Any, context: grpc.ServicerContext) -> None:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            with self._changed:
                self.seen.append(Seen(name, request, metadata, time.monotonic()))
                self._changed.notify_all()

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            note(request, context)
            script = self.scripts.get(name)
            answer = script(request, context) if script is not None else None
            return getattr(self, name)(request) if answer is None else answer

        def receive(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            note(request, context)
            script = self.scripts.get(name)
            answer = script(request, context) if script is not None else None
            yield from self._receive(request, context) if answer is None else answer

        def telemetry(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from self._telemetry(requests, context, note)

        if name == "Telemetry":
            return grpc.stream_stream_rpc_method_handler(telemetry, method.request.FromString)
        if method.response_streaming:
            return grpc.unary_stream_rpc_method_handler(receive, method.request.FromString)
        return grpc.unary_unary_rpc_method_handler(
            unary, method.request.FromString, method.response.SerializeToString
        )  # fmt: skip

    def _telemetry(self, requests: Iterator[Any], context: grpc.ServicerContext, note: Any) -> Iterator[bytes]:
        outgoing: deque[Any] = deque()

        def read() -> None:
            try:
                for command in requests:
                    note(command, context)
                    script = self.scripts.get("Telemetry")
                    answer = script(command, context) if script is not None else None
                    if answer is None and command.HasField("settings"):
                        answer = pb.TelemetryCommand(status=OK, settings=command.settings)
                        answer.settings.backoff_policy.CopyFrom(self.terms.backoff_policy)
                        if command.settings.HasField("subscription"):
                            answer.settings.subscription.MergeFrom(self.terms.subscription)
                    with self._changed:
                        if answer:
                            outgoing.append(answer)
                        self._changed.notify_all()
            except Exception:  # noqa: BLE001 - the call ended
                pass
            with self._changed:
                outgoing.append(None)
                self._changed.notify_all()

        with self._changed:
            self._streams.append(outgoing)
        threading.Thread(target=read, daemon=True).start()
        try:
            while context.is_active() and not self._ended:
                with self._changed:
                    if not outgoing:
                        self._changed.wait(0.2)
                    commands = list(outgoing)
                    outgoing.clear()
                for command in commands:
                    if command is None:
                        return
                    yield command.SerializeToString()
        finally:
            with self._changed:
                self._streams = [stream for stream in self._streams if stream is not outgoing]

    def _receive(self, request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        deadline = time.monotonic() + request.long_polling_timeout.ToMilliseconds() / 1000
        waiting = self._messages[request.message_queue.topic.name]
        with self._changed:
            self.receiving += 1
            self.most_receiving = max(self.most_receiving, self.receiving)
        try:
            frames: list[bytes] = []
            with self._changed:
                while not waiting and not self._ended and context.is_active() and time.monotonic() < deadline:
                    self._changed.wait(min(0.2, deadline - time.monotonic()))
                while waiting and len(frames) < request.batch_size and context.is_active():
                    frames.append(waiting.popleft())
            status = OK if frames else pb.Status(code=pb.MESSAGE_NOT_FOUND)
            yield pb.ReceiveMessageResponse(status=status).SerializeToString()
            yield from frames
            last = pb.ReceiveMessageResponse()
            last.delivery_timestamp.GetCurrentTime()
            yield last.SerializeToString()
        finally:
            with self._changed:
                self.receiving -= 1

    def _route(self, topic: str, endpoints: pb.Endpoints, queue_ids: Iterator[int]) -> list[pb.MessageQueue]:
        return [
            pb.MessageQueue(
                topic=pb.Resource(name=topic), id=number, permission=pb.READ_WRITE,
                broker=pb.Broker(name=BROKER, id=0, endpoints=endpoints),
                accept_message_types=[pb.NORMAL, pb.FIFO, pb.DELAY, pb.TRANSACTION],
            )
            for number in queue_ids
        ]  # fmt: skip

    def QueryRoute(self, request: Any) -> Any:  # noqa: N802 - the protocol's names
        queues = self._route(request.topic.name, request.endpoints, iter(range(self.queues)))
        return pb.QueryRouteResponse(status=OK, message_queues=queues)

    def QueryAssignment(self, request: Any) -> Any:  # noqa: N802
        fifo = self.terms.subscription.fifo
        queues = self._route(request.topic.name, request.endpoints, iter(range(self.queues) if fifo else [-1]))
        assignments = [pb.Assignment(message_queue=queue) for queue in queues]
        return pb.QueryAssignmentResponse(status=OK, assignments=assignments)

    def Heartbeat(self, request: Any) -> Any:  # noqa: N802
        return pb.HeartbeatResponse(status=OK)

    def AckMessage(self, request: Any) -> Any:  # noqa: N802
        entries = [
            pb.AckMessageResultEntry(message_id=each.message_id, receipt_handle=each.receipt_handle, status=OK)
            for each in request.entries
        ]
        return pb.AckMessageResponse(status=OK, entries=entries)

    def ChangeInvisibleDuration(self, request: Any) -> Any:  # noqa: N802
        return pb.ChangeInvisibleDurationResponse(status=OK, receipt_handle=f"{request.receipt_handle}+")

    def ForwardMessageToDeadLetterQueue(self, request: Any) -> Any:  # noqa: N802
        return pb.ForwardMessageToDeadLetterQueueResponse(status=OK)

    def NotifyClientTermination(self, request: Any) -> Any:  # noqa: N802
        return pb.NotifyClientTerminationResponse(status=OK)

    def SendMessage(self, request: Any) -> Any:  # noqa: N802
        entries = [
            pb.SendResultEntry(status=OK, message_id=each.system_properties.message_id, offset=next(self._offsets))
            for each in request.messages
        ]
        return pb.SendMessageResponse(status=OK, entries=entries)

    def EndTransaction(self, request: Any) -> Any:  # noqa: N802
        return pb.EndTransactionResponse(status=OK)

    def RecallMessage(self, request: Any) -> Any:  # noqa: N802
        return pb.RecallMessageResponse(status=OK, message_id="recalled")
