"""Calls to one server: a channel, our metadata, gRPC's failures as our errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import grpc
import grpc.experimental
from google.protobuf.message import Message

from rocketmq_py.errors import ConnectError, RocketMQError
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.headers import Headers
from rocketmq_py.grpc_v2.methods import METHODS
from rocketmq_py.grpc_v2.status import of_rpc
from rocketmq_py.runtime import Mutex

TELEMETRY_TIMEOUT_S = 365 * 24 * 3_600

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # every client has connections of its own
    # The thread that reads a stream waits for it itself, instead of being woken by gRPC's for each message.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
    # A proxy ends connections that are pinged more often than every 5 minutes.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC would wait up to two minutes before it looks for a server that was gone.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)
"""Source: RpcClientImpl of the Java gRPC client; the times of reconnecting are ours."""

OnResult = Callable[[Any], None]
OnError = Callable[[Exception], None]


class Call(Protocol):
    """A call that brings a stream of answers, each as bytes."""

    def __iter__(self) -> Iterator[bytes]: ...

    def cancel(self) -> object:
        """End it."""
        ...


class RpcClient:
    """One server, one channel. Any thread may call it.

    Lock: ``_lock`` guards the channel, which ``reset`` replaces.

    Args:
        credentials: of TLS; None: in plain text.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        headers: Headers,
        credentials: grpc.ChannelCredentials | None,
        options: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.endpoints = endpoints
        self.address = str(endpoints)
        self._headers = headers
        self._credentials = credentials
        self._options = [*OPTIONS, *options]
        self._lock = Mutex()
        self._closed = False
        self._channel, self._calls = self._connect()

    def _connect(self) -> tuple[grpc.Channel, dict[str, Any]]:
        target = self.endpoints.target
        if self._credentials is None:
            channel = grpc.insecure_channel(target, self._options)
        else:
            channel = grpc.secure_channel(target, self._credentials, self._options)
        kinds = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }
        calls: dict[str, Any] = {}
        for name, method in METHODS.items():
            make: Any = kinds[method.request_streaming, method.response_streaming]
            # Streams bring bytes: an answer that cannot be read must not end the whole call.
            read = None if method.response_streaming else method.response.FromString
            calls[name] = make(
                method.path, request_serializer=method.request.SerializeToString, response_deserializer=read
            )
        return channel, calls

    def reset(self) -> None:
        """Give the connection up and make a new one; calls under way fail. Not on a thread of gRPC: it would wait for
        itself.
        """
        with self._lock:
            if self._closed:
                return
            old = self._channel
            self._channel, self._calls = self._connect()
        old.close()

    def close(self) -> None:
        """End; calls under way fail."""
        with self._lock:
            self._closed = True
            channel = self._channel
        channel.close()

    def invoke(self, name: str, request: Message, timeout_ms: int) -> Any:
        """Call and wait for the answer.

        Raises:
            RocketMQError: there was none.
        """
        try:
            return self._call(name)(request, timeout=timeout_ms / 1000, metadata=self._headers.metadata())
        except grpc.RpcError as error:
            raise of_rpc(error, self.address, name) from None
        except ValueError as error:  # gRPC's word for a closed channel
            raise ConnectError(f"{name}: the connection to {self.address} was closed: {error}") from None

    def invoke_async(
        self, name: str, request: Message, timeout_ms: int, on_result: OnResult, on_error: OnError
    ) -> None:
        """Call; exactly one of the two is told how it ended, on a thread of gRPC or from within this call.

        What ``on_result`` raises goes to ``on_error``.
        """
        try:
            future = self._call(name).future(request, timeout=timeout_ms / 1000, metadata=self._headers.metadata())
        except ValueError as error:
            on_error(ConnectError(f"{name}: the connection to {self.address} was closed: {error}"))
            return

        def ended(done: Any) -> None:
            try:
                on_result(done.result())
            except (grpc.RpcError, grpc.FutureCancelledError) as error:
                on_error(self.error(error, name))
            except Exception as error:  # noqa: BLE001 - border: gRPC would log it and tell nobody
                on_error(error)

        future.add_done_callback(ended)

    def stream(self, name: str, request: Message, timeout_ms: int) -> Call:
        """Begin a call that brings a stream; iterating raises ``grpc.RpcError``, see ``error``."""
        return self._stream(name, request, timeout_ms / 1000)

    def telemetry(self, requests: Iterator[Message]) -> Call:
        """Begin the stream in both directions."""
        return self._stream("Telemetry", requests, TELEMETRY_TIMEOUT_S)

    def _stream(self, name: str, request: Message | Iterator[Message], timeout_s: float) -> Call:
        try:
            call: Call = self._call(name)(request, timeout=timeout_s, metadata=self._headers.metadata())
        except ValueError as error:
            raise ConnectError(f"{name}: the connection to {self.address} was closed: {error}") from None
        return call

    def error(self, error: Exception, name: str) -> RocketMQError:
        """What a failed stream means."""
        if isinstance(error, grpc.RpcError):
            return of_rpc(error, self.address, name)
        return ConnectError(f"{name}: the call to {self.address} was cancelled")

    def _call(self, name: str) -> Any:
        with self._lock:
            return self._calls[name]
