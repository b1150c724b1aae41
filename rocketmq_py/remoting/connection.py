"""One TCP connection to a server, driven by the ``IoLoop`` thread that reads all connections of a client.

Two rules keep it alive under load: whoever waits for the socket to take bytes never stops reading (a server that is not
read stops reading itself), so what cannot be written at once goes to an outbox; and a reply's callback runs on the I/O
thread, so it must not block.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rocketmq_py.clock import Clock
from rocketmq_py.errors import ClientError, ConnectError, ProtocolError, RequestTimeoutError, RocketMQError
from rocketmq_py.remoting.frame import RESTING_BYTES, FrameReader, RemotingCommand
from rocketmq_py.remoting.tls import TlsSession
from rocketmq_py.runtime import Mutex, Runtime, Thread

OUTBOX_MAX_BYTES = 64 * 1024 * 1024
"""Bytes that wait for a server that does not read; above, requests are refused."""

TIME_OUTS_IN_SILENCE_MAX = 2
"""A connection on which so many requests in a row timed out, and nothing else came, is given up."""

SWEEP_INTERVAL_MS = 250
"""How exactly time-outs of asynchronous requests are kept."""

_log = logging.getLogger(__name__)

ServerRequest = Callable[["Connection", RemotingCommand], None]


@dataclass(slots=True)
class PendingCall:
    """A request whose answer is awaited. Exactly one of the two callbacks is called, once."""

    on_reply: Callable[[RemotingCommand], None]
    on_error: Callable[[Exception], None]
    deadline_ms: int

    def fail(self, error: Exception) -> None:
        """Tell the caller; its errors are logged."""
        try:
            self.on_error(error)
        except BaseException:  # noqa: BLE001 - border: one caller's error must not keep the others waiting
            _log.exception("a callback for a failed request failed itself")


class Connection:
    """Requests in flight by opaque, and bytes on their way out.

    Lock: ``_lock`` guards the outbox, the pending calls, the TLS session and ``closed``; only ``socket.send`` is called
    under it, which never blocks. Callbacks are called without it.

    Args:
        address: ``host:port`` as configured, for messages.
        sock: connected.
        on_close: called once when the connection has ended.
        tls: has shaken hands over the socket; None for a connection in plain text.

    Attributes:
        heard: whether a command has come; until then the peer may be anything.
    """

    def __init__(
        self,
        address: str,
        sock: socket.socket,
        loop: IoLoop,
        on_request: ServerRequest,
        on_close: Callable[[], None],
        tls: TlsSession | None = None,
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.address = address
        self.socket = sock
        self.peer = _text_of(sock.getpeername())
        self.local_ip = str(sock.getsockname()[0])
        self.closed = False
        self.heard = False
        self._end = ""  # why it was closed
        self._on_close = on_close
        self._time_outs_in_silence = 0
        self._loop = loop
        self._on_request = on_request
        self._reader = FrameReader()
        self._tls = tls
        self._lock = Mutex()
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._writing = False
        self._interposed: deque[bytes] = deque()
        self._gathered: list[bytes] | None = None  # while what was read is handed on
        self._pending: dict[int, PendingCall] = {}
        loop.add(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return (
            f"<Connection {self.address} {state}, {len(self._pending)} in flight, {self._outbox_bytes} bytes waiting>"
        )

    @property
    def end(self) -> str:
        """Why it was closed; "" while it is open."""
        return self._end

    @property
    def hint(self) -> str:
        """What may be wrong with a peer that hangs up; "" once it has said something."""
        if self.heard:
            return ""
        if self._tls is None:
            return "; it never answered: servers that want TLS hang up like that (use_tls), and gRPC ports (endpoints)"
        return "; it never answered: does it want a certificate of the client?"

    def call(self, opaque: int, frame: bytes, call: PendingCall) -> None:
        """Send a request and await its answer.

        Raises:
            ConnectError: the connection is closed or the server does not read; no callback is called then.
        """
        with self._lock:
            self._check_open()
            self._pending[opaque] = call
            try:
                self._write(frame)
            except OSError:
                pass  # the I/O thread will see the broken socket, close, and fail this call with the others
            except ConnectError:
                del self._pending[opaque]
                raise

    def send(self, frame: bytes) -> None:
        """Send bytes to which no answer is awaited.

        Raises:
            ConnectError: the connection is closed or broken, or the server does not read.
        """
        with self._lock:
            self._check_open()
            try:
                self._write(frame)
            except OSError as error:
                raise ConnectError(f"the connection to {self.address} broke: {error}") from error

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectError(f"the connection to {self.address} was closed: {self._end}")

    def _write(self, frame: bytes) -> None:
        if self._writing:
            # The lock is re-entrant: a signal handler sends while its thread is in the middle of a frame.
            self._interposed.append(frame)
            return
        self._writing = True
        try:
            self._write_whole(frame)
            while self._interposed:
                self._write_whole(self._interposed.popleft())
        finally:
            self._writing = False

    def _write_whole(self, frame: bytes) -> None:
        if self._outbox_bytes + len(frame) > OUTBOX_MAX_BYTES:
            raise ConnectError(f"{self.address} does not read: {self._outbox_bytes} bytes wait to be sent")
        if self._gathered is not None and self._loop.is_current_thread():
            self._gathered.append(frame)
            return
        self._encrypt_and_send(frame)

    def _encrypt_and_send(self, frame: bytes) -> None:
        # Under one hold of the lock: records of TLS are numbered, and must leave in this order.
        self._send_or_keep(frame if self._tls is None else self._tls.encrypt(frame))

    def _send_or_keep(self, data: bytes) -> None:
        if not self._outbox:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        self._loop.want_write(self)

    # What follows is called on the I/O thread only.

    def flush(self) -> bool:
        """Write what waits; True when nothing is left."""
        with self._lock:
            while self._outbox:
                frame = self._outbox.popleft()
                self._outbox_bytes -= len(frame)
                try:
                    sent = self.socket.send(frame)
                except BlockingIOError:
                    sent = 0
                if sent < len(frame):
                    self._outbox.appendleft(frame[sent:])
                    self._outbox_bytes += len(frame) - sent
                    return False
            return True

    def read(self) -> None:
        """Take what has arrived and hand every complete command on.

        Raises:
            OSError: the connection broke; EOFError: the peer closed it; ProtocolError: the peer sent nonsense.
        """
        if self._tls is not None:
            self._read_secured(self._tls)
            return
        try:
            count = self.socket.recv_into(self._reader.get_buffer())
        except BlockingIOError:
            return
        if count == 0:
            raise EOFError("closed by the peer")
        self._received(count)

    def _read_secured(self, tls: TlsSession) -> None:
        # Decrypted to the end whether or not anything arrived now: the first bytes may have come with the handshake.
        with contextlib.suppress(BlockingIOError):
            data = self.socket.recv(RESTING_BYTES)
            with self._lock:
                tls.feed(data)
        while True:
            with self._lock:
                count = tls.read_into(self._reader.get_buffer())
                if answer := tls.outgoing():
                    self._send_or_keep(answer)
            if count == 0:
                return
            self._received(count)

    def _received(self, count: int) -> None:
        reader = self._reader
        reader.received(count)
        self._time_outs_in_silence = 0
        # Mostly several answers are read at once, and each brings on the next pull: sent one by one, they would cost a
        # call to the system each, at which a consume thread takes the interpreter.
        self._gathered = []
        try:
            while (command := reader.next_frame()) is not None:
                self.heard = True
                # Both sides count their own opaques: the flag decides first.
                if command.is_response:
                    self._answered(command)
                else:
                    self._on_request(self, command)
        finally:
            self._send_gathered()

    def _send_gathered(self) -> None:
        with self._lock:
            gathered, self._gathered = self._gathered, None
            if gathered and not self.closed:
                self._encrypt_and_send(b"".join(gathered))

    def _answered(self, command: RemotingCommand) -> None:
        with self._lock:
            call = self._pending.pop(command.opaque, None)
        if call is None:
            _log.debug("%s: dropped an answer that nobody awaits (any more): %r", self.address, command)
            return
        try:
            call.on_reply(command)
        except BaseException as error:  # noqa: BLE001 - border: a bad answer fails its request, not the connection
            if not isinstance(error, RocketMQError):
                _log.exception("handling an answer of %s failed", self.address)
            call.fail(error if isinstance(error, Exception) else ClientError(f"a callback ended with {error!r}"))

    def expire(self, now_ms: int) -> bool:
        """Fail the calls whose time is over; late answers to them are dropped.

        Returns:
            Whether requests timed out ``TIME_OUTS_IN_SILENCE_MAX`` times without anything coming in between: then the
            peer, or the way to it, is gone. Java closes the connection whenever a synchronous request times out.
        """
        with self._lock:
            overdue = [opaque for opaque, call in self._pending.items() if call.deadline_ms <= now_ms]
            calls = [self._pending.pop(opaque) for opaque in overdue]
        for call in calls:
            call.fail(RequestTimeoutError(f"{self.address} did not answer in time"))
        self._time_outs_in_silence += bool(calls)
        return self._time_outs_in_silence >= TIME_OUTS_IN_SILENCE_MAX

    def close(self, reason: str) -> None:
        """Close the socket and fail what is in flight."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._end = reason
            calls = list(self._pending.values())
            self._pending.clear()
            self._outbox.clear()
            self._outbox_bytes = 0
        self.socket.close()
        self._on_close()
        for call in calls:
            call.fail(ConnectError(f"the connection to {self.address} was closed: {reason}"))

    def abandon(self) -> None:
        """See ``RemotingClient.abandon``."""
        self.closed = True
        self.socket.close()


class IoLoop:
    """The thread that reads, writes and times out all connections of one client."""

    def __init__(self, runtime: Runtime) -> None:
        self._clock: Clock = runtime.clock
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ)
        self._lock = Mutex()  # guards the two lists below
        self._to_add: list[Connection] = []
        self._to_write: list[Connection] = []
        self._stopped = False
        self._thread: Thread = runtime.start_thread("RemotingIO", self._run)

    def is_current_thread(self) -> bool:
        """Whether the caller is the I/O thread, which must not wait for answers."""
        return self._thread.is_current()

    def add(self, connection: Connection) -> None:
        """Begin to read a connection; from any thread."""
        with self._lock:
            self._to_add.append(connection)
        self._wake()

    def want_write(self, connection: Connection) -> None:
        """Flush a connection's outbox as soon as the socket takes bytes; from any thread."""
        with self._lock:
            self._to_write.append(connection)
        self._wake()

    def shutdown(self, join_ms: int = 3_000) -> None:
        """Close every connection and end the thread; waits for it unless called on it."""
        self._stopped = True
        self._wake()
        self._thread.join(join_ms)

    def abandon(self) -> None:
        """See ``RemotingClient.abandon``; nothing is unregistered, the parent watches with the same object."""
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _wake(self) -> None:
        # OSError: full (the loop is about to wake anyway) or closed (it has ended).
        with contextlib.suppress(OSError):
            self._wake_sender.send(b"\0")

    def _run(self) -> None:
        next_sweep_ms = 0
        try:
            while not self._stopped:
                for key, mask in self._selector.select(SWEEP_INTERVAL_MS / 1000):
                    connection: Connection | None = key.data
                    if connection is None:
                        self._take_orders()
                    elif not connection.closed:
                        self._serve(connection, mask)
                now_ms = self._clock.monotonic_ms()
                if now_ms >= next_sweep_ms:
                    next_sweep_ms = now_ms + SWEEP_INTERVAL_MS
                    for connection in self._connections():
                        if connection.expire(now_ms):
                            self._close(connection, "nothing came any more")
        finally:
            self._take_orders()
            for connection in self._connections():
                self._close(connection, "the client was shut down")
            self._selector.close()
            self._wake_receiver.close()
            self._wake_sender.close()

    def _connections(self) -> list[Connection]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _take_orders(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._wake_receiver.recv(4096)) == 4096:
                pass
        with self._lock:
            added, self._to_add = self._to_add, []
            writers, self._to_write = self._to_write, []
        # ValueError, KeyError: closed meanwhile, before it was ever read.
        for connection in added:
            with contextlib.suppress(ValueError, KeyError):
                self._selector.register(connection.socket, selectors.EVENT_READ, connection)
                if not self._stopped:
                    self._serve(connection, selectors.EVENT_READ)  # what came with the TLS handshake: no event tells
        for connection in writers:
            with contextlib.suppress(ValueError, KeyError):
                self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _serve(self, connection: Connection, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE and connection.flush():
                self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if mask & selectors.EVENT_READ:
                connection.read()
        except ProtocolError as error:
            _log.warning("%s does not speak the protocol, its connection is closed: %s", connection.address, error)
            self._close(connection, str(error))
        except (OSError, EOFError) as error:
            _log.info("connection to %s ended: %s", connection.address, error)
            self._close(connection, f"{error}{connection.hint}")
        except BaseException:  # noqa: BLE001 - border: one connection's fault must not stop the others
            _log.exception("connection to %s failed", connection.address)
            self._close(connection, "internal error, see the log")

    def _close(self, connection: Connection, reason: str) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        try:
            connection.close(reason)
        except Exception:  # noqa: BLE001 - border, as above
            _log.exception("closing the connection to %s failed", connection.address)


def _text_of(name: tuple[str, int]) -> str:
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
