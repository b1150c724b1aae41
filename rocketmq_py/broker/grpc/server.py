"""The network edge of the RPCs: a server of ``grpc.aio`` on the broker's own loop, so that one thread owns everything.

The only coroutines of the package, but for the turns of ``shares``: each waits for its answer, and is cancelled when
its client does not wait any more.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from rocketmq_py.broker.authentication import Authentication
from rocketmq_py.broker.grpc.application import GrpcMessagingApplication, Unary
from rocketmq_py.broker.grpc.context import GrpcProxyError, ProxyContext, status_of
from rocketmq_py.broker.grpc.receive_message_activity import Frames
from rocketmq_py.broker.grpc.shares import ReadShares, Unread, UnreadShares
from rocketmq_py.errors import BrokerError, ConnectError, RocketMQError
from rocketmq_py.grpc_v2.methods import METHODS, SERVICE_NAME, Method
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.message import pack_host
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.frame import LANGUAGES
from rocketmq_py.remoting.server import bind

REQUEST_MAX_BYTES = 16 * 1024 * 1024
"""Of one request: it is in memory before anybody looks at it. Upstream takes 130 MiB, grpcMaxInboundMessageSize."""
READ_TIMEOUT_S = 30
"""A request, or the first command of a stream, that has not come as a whole by then is not waited for."""
WRITE_TIMEOUT_S = 120
"""A client that has not read what it received by then does not get it."""

CONNECTIONS_MAX = 1_000
"""gRPC closes what comes above."""
CALLS_MAX = 20_000
"""Calls at a time; above, RESOURCE_EXHAUSTED."""
STREAMS_MAX = 1_000
"""Calls of one connection at a time; others wait at the client."""
IDLE_MAX_MS = 120_000
"""A connection without calls is closed. Source: grpcClientIdleTimeMills."""
PING_MIN_INTERVAL_MS = 10_000
"""Clients that ping more often are disconnected; upstream allows a ping every 5 min."""

COMMANDS_MAX = 1_000
"""Commands that a client does not read: its stream is ended."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else two servers share a port, and a client meets either
    ("grpc.max_receive_message_length", REQUEST_MAX_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.http2.bdp_probe", 0),  # else gRPC takes more and more of requests that are not being read
    ("grpc.max_connection_idle_ms", IDLE_MAX_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", PING_MIN_INTERVAL_MS),
)

_CLIENT_ID = "x-mq-client-id"
_CLIENT_VERSION = "x-mq-client-version"
_LANGUAGE = "x-mq-language"
_CLIENT_ID_MAX_LENGTH = 1_024

_LANGUAGE_NAMES = {"GOLANG": "GO", "DOT_NET": "DOTNET"}

Handler = Callable[[Any, Any], Awaitable[Any]]


class GrpcServer:
    """The gRPC port. All of it is called on the broker's loop.

    Args:
        authentication: asked before anything is done; None: everybody may ask everything.
        credentials: for TLS; None for plain HTTP/2.
    """

    def __init__(
        self,
        log: RateLimitedLog,
        authentication: Authentication | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._log = log
        self._authentication = authentication
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        self._credentials = credentials

    def bind(self, host: str, port: int) -> int:
        """Take a port, 0 for any free one; which one it is.

        Raises:
            ConnectError: it is taken or may not be used.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        bind(host, port).close()  # gRPC tells no reason, and writes lines of its own to standard error
        try:
            if self._credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise ConnectError(f"cannot listen at {address}: {error}; choose another port") from error

    async def serve(self, application: GrpcMessagingApplication) -> None:
        """Answer."""
        # Where one request is to come it is read here, when it is its turn: gRPC would read all that are begun.
        edge = _Edge(application, self._log, self._authentication)
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(edge.unary(name, answer), *_codec(METHODS[name]))
            for name, answer in application.unary.items()
        }
        receive, telemetry = METHODS["ReceiveMessage"], METHODS["Telemetry"]
        handlers["ReceiveMessage"] = grpc.stream_stream_rpc_method_handler(edge.receive_message, *_codec(receive))
        handlers["Telemetry"] = grpc.stream_stream_rpc_method_handler(edge.telemetry, *_codec(telemetry))
        # Every other method is UNIMPLEMENTED.
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
        application.start()
        await self._server.start()

    async def stop(self) -> None:
        """Accept nothing more and end every call."""
        await self._server.stop(None)


class _Edge:
    """Turns calls into questions to the application, and back."""

    def __init__(
        self, application: GrpcMessagingApplication, log: RateLimitedLog, authentication: Authentication | None
    ) -> None:
        self._application = application
        self._log = log
        self._authentication = authentication
        self._reads = ReadShares()
        self._unread = UnreadShares()

    def _authenticate(self, call_context: Any) -> None:
        """Check who calls: before anything of what it says is read, which takes memory.

        Raises:
            GrpcProxyError: it is not who it says.
        """
        if self._authentication is not None:
            headers = dict(call_context.invocation_metadata() or ())
            try:
                self._authentication.check_header(headers.get("authorization", ""), headers.get("x-mq-date-time", ""))
            except BrokerError as error:
                raise GrpcProxyError(pb.UNAUTHORIZED, error.remark) from None

    async def _first_command(self, call_context: Any) -> Any:
        """What comes first on a stream.

        Raises:
            GrpcProxyError: it did not come as a whole.
        """
        try:
            async with self._reads.turn(call_context.peer(), READ_TIMEOUT_S):
                return await call_context.read()
        except TimeoutError:
            raise GrpcProxyError(pb.REQUEST_TIMEOUT, "the first command did not come as a whole") from None

    async def _read(self, call_context: Any) -> Any:
        """The request of a call that has one."""
        try:
            async with self._reads.turn(call_context.peer(), READ_TIMEOUT_S):
                request = await call_context.read()
        except TimeoutError:
            await call_context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the request did not come as a whole")
        except DecodeError as error:  # gRPC would log each with its stack: a peer could fill the disk
            await call_context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if request is grpc.aio.EOF:
            await call_context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is no request")
        return request

    def unary(self, name: str, answer: Unary) -> Handler:
        response = METHODS[name].response

        async def call(requests: Any, call_context: Any) -> Any:
            try:
                self._authenticate(call_context)
            except GrpcProxyError as error:
                return response(status=status_of(error))
            request = await self._read(call_context)
            reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            def done(message: Any) -> None:
                if not reply.done():  # cancelled: nobody waits any more
                    reply.set_result(message)

            try:
                answer(_context(call_context), request, done)
            except Exception as error:  # noqa: BLE001 - border: one call's fault must not stop the others
                self._note(name, error)
                return response(status=status_of(error))  # every response has one
            return await reply

        return call

    async def receive_message(self, requests: Any, call_context: Any) -> None:
        receives = self._application.receives
        try:
            self._authenticate(call_context)
        except GrpcProxyError as error:
            for frame in receives.refused(error):
                await call_context.write(frame)
            return
        request: pb.ReceiveMessageRequest = await self._read(call_context)
        peer = call_context.peer()
        unread: Unread | None = None
        reply: asyncio.Future[Frames] = asyncio.get_running_loop().create_future()
        polling = None
        written = 0

        def done(frames: Frames) -> None:
            if not reply.done():
                reply.set_result(frames)
            else:  # cancelled meanwhile
                receives.undelivered(request, frames)
                if polling is not None:
                    polling.tell_written(False)

        try:
            try:
                if not self._unread.has_room(peer):
                    raise GrpcProxyError(  # noqa: TRY301 - one way to refuse
                        pb.TOO_MANY_REQUESTS, "too much that was received is not read by this client yet"
                    )
                polling = receives.receive_message(_context(call_context), request, done)
            except Exception as error:  # noqa: BLE001 - as above
                self._note("ReceiveMessage", error)
                done(receives.refused(error))
            frames = await reply
            writing = asyncio.timeout(WRITE_TIMEOUT_S)
            unread = Unread(peer, sum(len(frame.message.body) for frame in frames), writing)
            try:
                async with writing:
                    self._unread.begin(unread)
                    for frame in frames:
                        await call_context.write(frame)
                        written += 1
            except TimeoutError:
                if not writing.expired():
                    raise
                self._log.warning("unread", "a client does not read what it received, others get it")
                receives.undelivered(request, frames[written:])
                if polling is not None:
                    polling.tell_written(False)
                self._unread.give_up(unread, len(frames[written].message.body))
                frames, reply = (), asyncio.get_running_loop().create_future()
                await reply  # no status can be sent behind a frame that is not read: its client or the server ends it
            if polling is not None:
                polling.tell_written(True)
        except BaseException:
            if polling is not None:
                polling.cancel()
            if reply.done() and not reply.cancelled():
                receives.undelivered(request, reply.result()[written:])
                if polling is not None:
                    polling.tell_written(False)
            raise
        finally:
            if unread is not None:
                self._unread.end(unread)

    async def telemetry(self, commands: AsyncIterator[pb.TelemetryCommand], call_context: Any) -> None:
        clients = self._application.clients
        stream = _Stream()
        try:
            self._authenticate(call_context)
            context = _context(call_context)
        except GrpcProxyError as error:
            await call_context.write(pb.TelemetryCommand(status=status_of(error)))
            return

        async def read() -> None:
            error: Exception | None = None
            try:
                command = await self._first_command(call_context)
                while command is not grpc.aio.EOF:
                    clients.telemetry(context, command, stream)
                    command = await call_context.read()
            except Exception as failure:  # noqa: BLE001 - as above
                self._note("Telemetry", failure)
                error = failure
            stream.end(error)

        reader = asyncio.create_task(read())
        try:
            async for told in stream:
                await call_context.write(told)
        finally:
            reader.cancel()
            stream.close()
            clients.stream_closed(context.client_id, stream)
        if stream.error is not None:
            text = f"process client telemetryCommand failed. {stream.error}"
            await call_context.abort(_transport_code(stream.error), text)

    def _note(self, name: str, error: Exception) -> None:
        if not isinstance(error, RocketMQError):
            self._log.warning(name, "answering %s failed: %s", name, error, with_traceback=True)


class _Stream:
    """What one client is told, in order. Satisfies ``client_activity.TelemetryStream``."""

    def __init__(self) -> None:
        self._commands: asyncio.Queue[pb.TelemetryCommand | None] = asyncio.Queue()
        self._ended = False
        self.error: Exception | None = None

    def write(self, command: pb.TelemetryCommand) -> None:
        if self._ended:
            return
        self._commands.put_nowait(command)
        if self._commands.qsize() > COMMANDS_MAX:
            self.close()

    def close(self) -> None:
        self.end(None)

    def end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self.error = error
            self._commands.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[pb.TelemetryCommand]:
        while (command := await self._commands.get()) is not None:
            yield command


def _context(call_context: Any) -> ProxyContext:
    """Who calls.

    Raises:
        GrpcProxyError: it does not say.
    """
    headers: Mapping[str, str] = dict(call_context.invocation_metadata() or ())
    client_id = headers.get(_CLIENT_ID, "")
    if not client_id.strip():
        raise GrpcProxyError(pb.CLIENT_ID_REQUIRED, f"the header {_CLIENT_ID} is missing")
    if len(client_id) > _CLIENT_ID_MAX_LENGTH:
        raise GrpcProxyError(pb.BAD_REQUEST, f"the client id is longer than {_CLIENT_ID_MAX_LENGTH}")
    remaining_s = call_context.time_remaining()
    host, port = _peer(call_context.peer())
    return ProxyContext(
        client_id,
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        pack_host((host, port)),
        headers.get(_CLIENT_VERSION, ""),
        _language(headers.get(_LANGUAGE, "")),
        None if remaining_s is None else int(remaining_s * 1_000),
    )


def _language(text: str) -> str:
    """The remoting protocol's name of a language. Upstream ends the call when it is none."""
    name = _LANGUAGE_NAMES.get(text, text)
    return name if name in LANGUAGES else "OTHER"


def _peer(text: str) -> tuple[str, int]:
    """Address and port out of ``ipv4:127.0.0.1:1234`` or ``ipv6:%5B::1%5D:1234``."""
    _, _, address = urllib.parse.unquote(text).partition(":")
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() and host else ("0.0.0.0", 0)  # noqa: S104 - a value


def _transport_code(error: Exception) -> grpc.StatusCode:
    """Source: ClientActivity.processTelemetryException."""
    refused = isinstance(error, GrpcProxyError) and pb.BAD_REQUEST <= error.code < pb.INTERNAL_ERROR
    return grpc.StatusCode.INVALID_ARGUMENT if refused else grpc.StatusCode.INTERNAL


def _codec(method: Method) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    return method.request.FromString, method.response.SerializeToString
