"""Requests to servers by address: sync, async, one-way. Source: NettyRemotingClient."""

from __future__ import annotations

import itertools
import logging
import socket
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from rocketmq_py.errors import BrokerError, ConnectError, IllegalStateError, RequestTimeoutError, RocketMQError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.config import split_address
from rocketmq_py.remoting.connection import Connection, IoLoop, PendingCall
from rocketmq_py.remoting.frame import ONEWAY_FLAG, RemotingCommand, encode, encode_request
from rocketmq_py.remoting.rpc_hook import RPCHook, RpcHooks
from rocketmq_py.remoting.tls import TlsSession, handshake_error
from rocketmq_py.runtime import Mutex, Runtime, WorkerPool

CONNECT_TIMEOUT_MS = 3_000
BACKOFF_MIN_MS = 200
BACKOFF_MAX_MS = 5_000
HELPERS = 2
"""Threads for what the I/O thread must not do: ask for a route, tell a caller of a request that was never sent."""

CONTROL_LANE = 0
"""The connection for everything that is not a pull through a proxy."""

_FIRST_OPAQUE = -(2**31)

_log = logging.getLogger(__name__)

OnReply = Callable[[RemotingCommand], None]
OnError = Callable[[Exception], None]
Lane = tuple[str, int]
"""A connection: address and number. Brokers and name servers have number 0 only."""
Connected = Callable[["Connection | RocketMQError"], None]
OnRequest = Callable[[str, RemotingCommand, OnReply], bool]
"""``on_request(address, request, answer)``; ``answer`` raises ``ConnectError`` once the connection is gone."""


class Request(NamedTuple):
    """A request not yet encoded."""

    code: RequestCode
    ext_fields: Mapping[str, str]
    body: bytes = b""
    remark: str | None = None


class RemotingClient:
    """One connection per address and lane, made when first needed, made again with a back-off after it broke.

    Any thread may call it; ``invoke_sync`` not the I/O thread. Closed by ``shutdown``.

    Lock: ``_lock`` guards the tables; nothing is called out to while it is held.

    Args:
        on_request: called on the I/O thread for requests that a server makes; must not block. Returns whether it knew
            the code: of those it did not, the ones that want an answer get REQUEST_CODE_NOT_SUPPORTED.
        hooks: called around every request; the one that signs is the last.
        tls: secures every connection; None: plain text.
    """

    def __init__(
        self,
        runtime: Runtime,
        on_request: OnRequest,
        hooks: Sequence[RPCHook] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._runtime = runtime
        self._on_request = on_request
        self._hooks = RpcHooks(hooks) if hooks else None
        self._tls = tls
        self._clock = runtime.clock
        # Negative: a proxy answers some errors under small positive numbers of its own, which must match none of ours.
        self._opaques = itertools.count(_FIRST_OPAQUE)
        self._lock = Mutex()
        self._connections: dict[Lane, Connection] = {}
        self._attempts: dict[Lane, list[Connected]] = {}  # who waits for a connection that is being made
        self._failures: dict[str, tuple[int, int, str]] = {}  # address -> in a row, no try before, the last
        self._closed = False
        self._loop = IoLoop(runtime)
        self._helpers: WorkerPool[Callable[[], None]] = runtime.worker_pool(
            "RemotingHelper_", HELPERS, lambda job: job()
        )

    def invoke_sync(self, address: str, request: Request, timeout_ms: int, doing: str = "") -> RemotingCommand:
        """Send a request and wait for its answer, whatever its code.

        Raises:
            ConnectError: no connection could be made or it broke.
            RequestTimeoutError: no answer within ``timeout_ms``, connecting included.
            IllegalStateError: called on the I/O thread, or after shutdown.
            ClientError: an RPC hook failed; nothing was sent.
        """
        if self._loop.is_current_thread():
            raise IllegalStateError("the I/O thread must not wait for an answer: that would stop all answers")
        what = doing or f"request {request.code.name}"
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        connection = self._wait_for_connection((address, CONTROL_LANE), timeout_ms, what)
        answered = self._runtime.event()
        outcome: list[RemotingCommand | Exception] = []

        def settle(result: RemotingCommand | Exception) -> None:
            outcome.append(result)
            answered.set()

        opaque = self._next_opaque()
        frame, hooked = self._encode(address, request, opaque)
        sent_ms = self._clock.monotonic_ms()
        if sent_ms >= deadline_ms:
            raise RequestTimeoutError(f"{what}: no time was left of {timeout_ms} ms to ask {address}")
        connection.call(opaque, frame, PendingCall(settle, settle, deadline_ms))
        # The caller keeps the time itself; the I/O thread's sweep, a little later, forgets the call.
        answered.wait(deadline_ms - sent_ms)
        result = outcome[0] if outcome else RequestTimeoutError("")
        if isinstance(result, RequestTimeoutError):
            raise RequestTimeoutError(f"{what}: {address} did not answer within {timeout_ms} ms")
        if isinstance(result, Exception):
            raise result
        self._tell_hooks(address, hooked, result)
        return result

    def invoke_ok(self, address: str, request: Request, timeout_ms: int, doing: str) -> RemotingCommand:
        """``invoke_sync`` that takes no answer but SUCCESS.

        Raises:
            BrokerError: any other code; and what ``invoke_sync`` raises.
        """
        reply = self.invoke_sync(address, request, timeout_ms, doing)
        if reply.code != ResponseCode.SUCCESS:
            raise BrokerError(reply.code, reply.remark or "", address, doing)
        return reply

    def invoke_async(self, lane: Lane, request: Request, timeout_ms: int, on_reply: OnReply, on_error: OnError) -> None:
        """Send a request; one of the callbacks is called later on the I/O thread or a helper's. Never blocks.

        A ``RocketMQError`` raised by ``on_reply`` goes to ``on_error``.
        """
        opaque = self._next_opaque()
        try:
            frame, hooked = self._encode(lane[0], request, opaque)
        except RocketMQError as error:
            not_sent = error
            self.run_later(lambda: on_error(not_sent))
            return

        def reply(command: RemotingCommand) -> None:
            self._tell_hooks(lane[0], hooked, command)
            on_reply(command)

        call = PendingCall(on_reply if hooked is None else reply, on_error, self._clock.monotonic_ms() + timeout_ms)

        def send(connection: Connection | RocketMQError) -> None:
            try:
                if isinstance(connection, RocketMQError):
                    raise connection
                connection.call(opaque, frame, call)
            except RocketMQError as error:
                on_error(error)

        known = self._connect(lane, send)
        try:
            if isinstance(known, RocketMQError):
                raise known
            if known is not None:
                known.call(opaque, frame, call)
        except RocketMQError as error:
            failure = error
            self.run_later(lambda: on_error(failure))

    def invoke_oneway(self, address: str, request: Request, timeout_ms: int) -> None:
        """Send a request to which there is no answer.

        Raises:
            ConnectError: no connection could be made, or it broke before the bytes were handed to the system.
            ClientError: an RPC hook failed; nothing was sent.
        """
        connection = self._wait_for_connection((address, CONTROL_LANE), timeout_ms, f"request {request.code.name}")
        connection.send(self._encode(address, request, self._next_opaque(), oneway=True)[0])

    def _encode(
        self, address: str, request: Request, opaque: int, oneway: bool = False
    ) -> tuple[bytes, RemotingCommand | None]:
        """The frame of a request, and the request as the hooks saw it, if there are any."""
        if self._hooks is None:
            frame = encode_request(request.code, opaque, request.ext_fields, request.body, oneway, request.remark)
            return frame, None
        flag = ONEWAY_FLAG if oneway else 0
        command = RemotingCommand(request.code, opaque, flag, request.remark, dict(request.ext_fields), request.body)
        return self._hooks.before(address, command), command

    def _tell_hooks(self, address: str, hooked: RemotingCommand | None, response: RemotingCommand) -> None:
        if self._hooks is not None and hooked is not None:
            self._hooks.after(address, hooked, response)

    def connection(self, address: str) -> Connection | None:
        """The control connection to an address, if there is one now."""
        return self._connections.get((address, CONTROL_LANE))

    def await_next_try(self, addresses: Collection[str], timeout_ms: int) -> int:
        """Wait while none of these servers is tried, because none could be reached a moment ago.

        For threads of the user's alone. Their next try is made after ``BACKOFF_MIN_MS`` at the latest then, however
        long the back-off is; with less time than that nothing is awaited. Behaviour: PR-23.

        Returns:
            The ms waited; 0 when a request to one of them would be sent, or a connection tried, at once.
        """
        now_ms = self._clock.monotonic_ms()
        addresses = set(addresses)
        with self._lock:
            nexts = {address: self._failures[address][1] for address in addresses if address in self._failures}
            connected = any((address, CONTROL_LANE) in self._connections for address in addresses)
            wait_ms = min([*nexts.values(), now_ms + BACKOFF_MIN_MS]) - now_ms
            if not addresses or connected or len(nexts) < len(addresses) or not 0 < wait_ms < timeout_ms:
                return 0
            for address in addresses:
                failures, next_ms, reason = self._failures[address]
                self._failures[address] = (failures, min(next_ms, now_ms + wait_ms), reason)
        self._runtime.event().wait(wait_ms)
        return self._clock.monotonic_ms() - now_ms

    def shutdown(self) -> None:
        """Close every connection; what is in flight fails with ``ConnectError``."""
        self._closed = True
        self._helpers.shutdown(0)
        self._loop.shutdown()

    def abandon(self) -> None:
        """In a forked child, where no thread of this client exists: close the sockets and nothing else.

        No lock is taken: a thread of the parent may have held it when it forked.
        """
        self._closed = True
        for connection in list(self._connections.values()):
            connection.abandon()
        self._loop.abandon()

    def run_later(self, job: Callable[[], None]) -> None:
        """Run a job that may block for a connection or an answer, on a helper thread."""
        if not self._helpers.submit(job):
            _log.debug("a request was dropped because the client was shut down")

    def _next_opaque(self) -> int:
        opaque = next(self._opaques)
        if opaque >= 0:
            self._opaques = itertools.count(_FIRST_OPAQUE)
            opaque = next(self._opaques)
        return opaque

    def _wait_for_connection(self, lane: Lane, timeout_ms: int, what: str) -> Connection:
        """The lane's connection, made if need be."""
        if timeout_ms <= 0:
            raise RequestTimeoutError(f"{what}: no time was left to ask {lane[0]}")
        connected = self._runtime.event()
        outcome: list[Connection | RocketMQError] = []

        def settle(result: Connection | RocketMQError) -> None:
            outcome.append(result)
            connected.set()

        known = self._connect(lane, settle)
        if known is None:
            connected.wait(timeout_ms)
            if not outcome:
                raise ConnectError(f"{what}: {lane[0]} cannot be reached within {timeout_ms} ms")
            known = outcome[0]
        if isinstance(known, RocketMQError):
            raise known
        return known

    def _connect(self, lane: Lane, then: Connected) -> Connection | RocketMQError | None:
        """The lane's connection if there is one, or why there is not even an attempt to make it.

        None: it is being made, and ``then`` will be called on a thread of its own with it, or with the reason why it
        could not be. All who need the same connection wait for one attempt, each as long as it likes: one with little
        time does not end it for the others.
        """
        connection = self._connections.get(lane)
        if connection is not None:
            return connection
        with self._lock:
            if lane in self._connections:
                return self._connections[lane]
            waiting = self._attempts.get(lane)
            if waiting is not None:
                waiting.append(then)
                return None
            if self._closed:
                return IllegalStateError("this client was shut down")
            failures, not_before_ms, reason = self._failures.get(lane[0], (0, 0, ""))
            wait_ms = not_before_ms - self._clock.monotonic_ms()
            if wait_ms > 0:
                times = "once" if failures == 1 else f"{failures} times"
                return ConnectError(f"{lane[0]} could not be reached {times}, next try in {wait_ms} ms: {reason}")
            self._attempts[lane] = [then]
        try:
            self._runtime.start_thread("RemotingConnector", lambda: self._attempt(lane))
        except RuntimeError as error:  # no more threads
            self._tell(lane, ConnectError(f"cannot connect to {lane[0]}: {error}"))
        return None

    def _attempt(self, lane: Lane) -> None:
        outcome: Connection | RocketMQError
        try:
            outcome = self._open(lane)
        except RocketMQError as error:
            outcome = error
            self._count_failure(lane[0], str(error))
        self._tell(lane, outcome)

    def _tell(self, lane: Lane, outcome: Connection | RocketMQError) -> None:
        with self._lock:
            waiting = self._attempts.pop(lane)
        for then in waiting:
            try:
                then(outcome)
            except Exception:  # noqa: BLE001 - border: every one who waits must be told
                _log.exception("a request to %s failed", lane[0])

    def _open(self, lane: Lane) -> Connection:
        address = lane[0]
        sock: socket.socket | None = None
        tls: TlsSession | None = None
        made: list[Connection] = []
        deadline_ms = self._clock.monotonic_ms() + CONNECT_TIMEOUT_MS
        try:
            host, port = split_address(address)
            sock = socket.create_connection((host, port), CONNECT_TIMEOUT_MS / 1000)
            _refuse_itself(sock)
            if self._tls is not None:
                tls = self._secured(self._tls, address, sock, host, deadline_ms)
            connection = Connection(address, sock, self._loop, self._requested, lambda: self._ended(lane, made), tls)
        except (OSError, ValueError, OverflowError, ConnectError) as error:
            if sock is not None:
                sock.close()
            if isinstance(error, ConnectError):
                raise
            hint = "is the server running there?" if tls is None else "does it want a certificate of the client?"
            raise ConnectError(f"cannot connect to {address}: {error}; {hint}") from error
        with self._lock:
            made.append(connection)
            self._connections[lane] = connection
        if self._closed:
            connection.close("the client was shut down")
        if connection.closed:  # perhaps before it was in the table
            self._ended(lane, made)
        return connection

    def _secured(
        self, context: ssl.SSLContext, address: str, sock: socket.socket, host: str, deadline_ms: int
    ) -> TlsSession:
        try:
            tls = TlsSession(context, host)
            tls.handshake(sock, self._clock, deadline_ms)
        except (OSError, ValueError) as error:
            raise handshake_error(address, error) from error
        return tls

    def _ended(self, lane: Lane, made: list[Connection]) -> None:
        """Take a connection out of the table, once; the lane may have another one by now."""
        with self._lock:
            if not made:
                return
            connection = made.pop()
            if self._connections.get(lane) is connection:
                del self._connections[lane]
            if connection.heard:
                self._failures.pop(lane[0], None)
                return
        # A port that accepts and hangs up (a load balancer without a backend) is as bad as one that refuses; but once
        # may be chance.
        self._count_failure(lane[0], connection.end, forgiven=1)

    def _count_failure(self, address: str, reason: str, forgiven: int = 0) -> None:
        with self._lock:
            failures = self._failures.get(address, (0, 0, ""))[0]
            step = failures - forgiven
            backoff_ms = min(BACKOFF_MIN_MS * 2 ** min(step, 10), BACKOFF_MAX_MS) if step >= 0 else 0
            self._failures[address] = (failures + 1, self._clock.monotonic_ms() + backoff_ms, reason)

    def _requested(self, connection: Connection, command: RemotingCommand) -> None:
        known = self._on_request(connection.address, command, lambda answer: connection.send(encode(answer)))
        if known or command.is_oneway:
            return
        _log.info("%s asks for %s, which this client does not know", connection.address, command.code)
        answer = RemotingCommand.response(
            command.opaque, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f"request type {command.code} not supported"
        )
        connection.send(encode(answer))


def _refuse_itself(sock: socket.socket) -> None:
    """Linux lets a socket connect to itself on loopback where nobody listens; the server could never bind its port."""
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError("the socket connected to itself")
