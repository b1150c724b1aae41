"""The requests about messages and their receipts. Satisfies ``consumer.ports.ReceiptBroker``.

Source: ConsumerImpl of the Java gRPC client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError

from rocketmq_py.errors import ProtocolError, RocketMQError
from rocketmq_py.grpc_v2.ack_batcher import AckBatcher, OnDone
from rocketmq_py.grpc_v2.client import GrpcClient
from rocketmq_py.grpc_v2.convert import ReceivedMessage, filter_expression, received, resource
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.rpc_client import Call
from rocketmq_py.grpc_v2.session import Session
from rocketmq_py.grpc_v2.status import GrpcStatusError, check
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PopResult, PopStatus
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Event, Mutex, Runtime, WorkerPool

_NOTHING = (pb.MESSAGE_NOT_FOUND, pb.OK)

MESSAGES_MAX = 1_024
"""Messages of one answer that are read, unless more were asked for: what came is in memory until it ends."""

ANSWERS_END_MS = 1_000
"""At the end a receive that is answered, or younger than this, is waited for so long: who has messages answers at once
and sends all of them."""

_log = logging.getLogger(__name__)

OnResult = Callable[[PopResult], None]
OnError = Callable[[Exception], None]


class _Job(NamedTuple):
    call: PopCall
    on_result: OnResult
    on_error: OnError


class ReceiptApi:
    """Receives and settles for one consumer. Only ``receive`` blocks; each pop under way has a thread for it.

    Lock: ``_lock`` guards the receives under way, the number of threads, and the batchers.

    Args:
        client: finds the server of a broker.
    """

    def __init__(self, client: GrpcClient, runtime: Runtime, group: str) -> None:
        self._client = client
        self._group = group
        self._now_ms = runtime.clock.monotonic_ms
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()
        self._ended = False
        self._pops = 0
        self._threads = 0
        self._receives: dict[Call, _Answer] = {}
        self._batchers: dict[tuple[Endpoints, str], AckBatcher] = {}
        self._runtime = runtime
        self._pool: WorkerPool[_Job] | None = None

    @property
    def receives_under_way(self) -> int:
        """Receives that servers hold or answer now."""
        with self._lock:
            return len(self._receives)

    # Receiving.

    def pop_message(self, call: PopCall, on_result: OnResult, on_error: OnError) -> None:
        """See ``consumer.ports.PopSource.pop_message``."""
        with self._lock:
            self._pops += 1
            if self._pool is None:
                self._pool = self._runtime.worker_pool("GrpcReceive_", 1, self._receive)
            pool = self._pool
            if self._pops > self._threads:
                self._threads = self._pops
                pool.resize(self._threads)
        pool.submit(_Job(call, on_result, on_error))

    def _receive(self, job: _Job) -> None:
        outcome: PopResult | Exception
        handed_over = self._runtime.event()
        try:
            outcome = self.receive(job.call, handed_over=handed_over)
        except Exception as error:  # noqa: BLE001 - border: a pop that nobody is told about is a loop that stops
            outcome = error
        with self._lock:
            self._pops -= 1
        if isinstance(outcome, PopResult):
            try:
                job.on_result(outcome)
            except Exception as error:  # noqa: BLE001 - as above
                job.on_error(error)
        else:
            job.on_error(outcome)
        handed_over.set()

    def receive(self, call: PopCall, invisible_ms: int | None = None, *, handed_over: Event | None = None) -> PopResult:
        """Ask for messages and wait for them.

        Args:
            call: what to ask for.
            invisible_ms: how long nobody else gets them; None: the server renews that by itself.
            handed_over: set by the caller when it has handed on what came; then an answer that has begun is not cut
                off at the end.

        Raises:
            RocketMQError: it failed, and nothing came.
        """
        session = self._client.session_of(call.mq.broker_name)
        request = receive_request(call, invisible_ms)
        stream = session.rpc.stream("ReceiveMessage", request, call.timeout_ms)
        answer = _Answer(session.rpc.endpoints, call.mq, self._now_ms(), handed_over)
        most = max(call.max_nums + 1, MESSAGES_MAX)
        with self._lock:
            ended = self._ended
            self._receives[stream] = answer
        if ended:
            stream.cancel()
        failure: RocketMQError | None = None
        try:
            for raw in stream:
                answer.take(raw)
                if answer.count >= most:
                    # The server gives the others again when their time is over.
                    self._warnings.warning(
                        "too many", "%s sent more than %s messages, %s were asked for: the rest is not read",
                        session.rpc.address, most, call.max_nums,
                    )  # fmt: skip
                    break
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            failure = session.rpc.error(error, "ReceiveMessage")
            if not self._ended:  # at the end the client leaves anyway: it must not come back
                session.answers_lost(call.timeout_ms)
        finally:
            stream.cancel()  # does nothing to one that has ended
            with self._lock:
                del self._receives[stream]
        if answer.unreadable is not None:
            self._warnings.warning("unreadable", "%s: %s", session.rpc.address, answer.unreadable)
        if answer.messages or answer.corrupted:  # whatever came is consumed, also when the stream broke after it
            return PopResult(PopStatus.FOUND, answer.messages, answer.corrupted)
        if failure is not None:
            raise failure
        if answer.status.code not in _NOTHING:
            if answer.status.code == pb.INTERNAL_SERVER_ERROR:
                session.settings_lost()  # so a proxy says that it has none
            raise GrpcStatusError(answer.status, session.rpc.address, f"receive from {call.mq}")
        return PopResult(PopStatus.POLLING_NOT_FOUND, [])

    # Settling.

    def ack_message(self, group: str, topic: str, msg: MessageExt, timeout_ms: int, on_done: OnDone) -> None:
        """See ``consumer.ports.ReceiptBroker.ack_message``."""
        message, session = self._place(msg)
        key = session.rpc.endpoints, topic
        with self._lock:
            batcher = self._batchers.get(key)
            if batcher is None:
                batcher = self._batchers[key] = AckBatcher(session.rpc, group, topic)
        batcher.add(message.msg_id, message.receipt, timeout_ms, on_done)

    def change_invisible_duration(
        self, group: str, topic: str, msg: MessageExt, invisible_ms: int, timeout_ms: int, on_done: OnDone, *,
        suspend: bool = False,
    ) -> None:  # fmt: skip
        """See ``consumer.ports.ReceiptBroker.change_invisible_duration``."""
        message, session = self._place(msg)
        request = pb.ChangeInvisibleDurationRequest(
            group=resource(group),
            topic=resource(topic),
            receipt_handle=message.receipt,
            message_id=message.msg_id,
        )
        request.invisible_duration.FromMilliseconds(invisible_ms)
        if suspend:
            request.suspend = True

        def on_result(response: pb.ChangeInvisibleDurationResponse) -> None:
            check(response.status, session.rpc.address, "ChangeInvisibleDuration")
            message.receipt = response.receipt_handle or message.receipt  # empty when it failed
            on_done(None)

        session.rpc.invoke_async("ChangeInvisibleDuration", request, timeout_ms, on_result, on_done)

    def forward_to_dead_letter_queue(
        self, group: str, topic: str, msg: MessageExt, attempt: int, max_attempts: int, timeout_ms: int, on_done: OnDone
    ) -> None:
        """See ``consumer.ports.ReceiptBroker.forward_to_dead_letter_queue``."""
        message, session = self._place(msg)
        request = pb.ForwardMessageToDeadLetterQueueRequest(
            group=resource(group),
            topic=resource(topic),
            receipt_handle=message.receipt,
            message_id=message.msg_id,
            delivery_attempt=attempt,
            max_delivery_attempts=max_attempts,
        )

        def on_result(response: pb.ForwardMessageToDeadLetterQueueResponse) -> None:
            check(response.status, session.rpc.address, "ForwardMessageToDeadLetterQueue")
            on_done(None)

        session.rpc.invoke_async("ForwardMessageToDeadLetterQueue", request, timeout_ms, on_result, on_done)

    def _place(self, msg: MessageExt) -> tuple[ReceivedMessage, Session]:
        """The message with its receipt, and the server that gave it: only that one keeps the receipt alive."""
        if not isinstance(msg, ReceivedMessage) or msg.endpoints is None:
            raise ProtocolError(f"message {msg.msg_id} did not come by the gRPC wire: it has no receipt")
        return msg, self._client.session(msg.endpoints)

    # End.

    def stop_receiving(self) -> None:
        """End all receives. Blocks for ``ANSWERS_END_MS`` at the most.

        A server gives to others at once what it has not sent, as if it had not been taken. What is on its way when a
        receive is cancelled they get when a lease is over, a minute later: so an answer that has begun is read, and one
        that may be about to is waited for.
        """
        with self._lock:
            self._ended = True
            receives = dict(self._receives)
        now_ms = self._now_ms()
        read_on: list[tuple[Call, Event]] = []
        for stream, answer in receives.items():
            if answer.handed_over is not None and (answer.begun or now_ms - answer.asked_ms < ANSWERS_END_MS):
                read_on.append((stream, answer.handed_over))
            else:
                stream.cancel()
        for stream, handed_over in read_on:
            handed_over.wait(now_ms + ANSWERS_END_MS - self._now_ms())
            stream.cancel()

    def shutdown(self, await_ms: int) -> None:
        """End the threads."""
        with self._lock:
            pool = self._pool
        if pool is not None:
            pool.shutdown(await_ms)


class _Answer:
    """What a receive brought so far, when it was asked for, and what is set when it was handed on."""

    def __init__(self, endpoints: Endpoints, mq: MessageQueue, asked_ms: int, handed_over: Event | None) -> None:
        self._endpoints = endpoints
        self._mq = mq
        self.asked_ms = asked_ms
        self.handed_over = handed_over
        self.status = pb.Status(code=pb.MESSAGE_NOT_FOUND)
        self.messages: list[MessageExt] = []
        self.corrupted: list[tuple[MessageExt, Exception]] = []
        self.unreadable: str | None = None

    @property
    def begun(self) -> bool:
        """Whether the server has messages and sends them."""
        return self.status.code == pb.OK or self.count > 0

    @property
    def count(self) -> int:
        """Messages that came, readable or not."""
        return len(self.messages) + len(self.corrupted)

    def take(self, raw: bytes) -> None:
        """One frame. Hot: once per message. Behaviour: GW-07."""
        try:
            response = pb.ReceiveMessageResponse.FromString(raw)
        except DecodeError as error:
            self.unreadable = f"sent {len(raw)} bytes that are no answer to a receive: {error}"
            return
        kind = response.WhichOneof("content")
        if kind == "message":
            message = received(response.message, self._mq.topic, self._endpoints, self._mq.broker_name)
            if message.corrupted is None:
                self.messages.append(message)
            else:
                self.corrupted.append((message, message.corrupted))
        elif kind == "status":
            self.status = response.status


def receive_request(call: PopCall, invisible_ms: int | None = None) -> pb.ReceiveMessageRequest:
    """What is asked of a server; without ``invisible_ms`` it renews leases by itself."""
    request = pb.ReceiveMessageRequest(
        group=resource(call.group),
        filter_expression=filter_expression(call.subscription),
        batch_size=call.max_nums,
        auto_renew=invisible_ms is None,
        attempt_id=call.attempt,
    )
    if invisible_ms is not None:
        request.invisible_duration.FromMilliseconds(invisible_ms)
    request.message_queue.topic.name = call.mq.topic
    request.message_queue.id = call.mq.queue_id
    request.message_queue.permission = pb.READ_WRITE
    request.message_queue.broker.name = call.mq.broker_name
    request.long_polling_timeout.FromMilliseconds(call.poll_ms)
    return request
