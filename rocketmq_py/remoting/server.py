"""The serving end of the protocol: one asyncio loop on one thread accepts, reads, writes and runs the jobs of a server.

What is written to a client that does not read waits in its transport; from ``WRITE_HIGH_BYTES`` on none of its requests
is looked at until it has caught up.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from rocketmq_py.clock import Clock
from rocketmq_py.errors import ConfigError, ConnectError, ProtocolError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.message import pack_host
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.frame import FrameReader, RemotingCommand, encode
from rocketmq_py.runtime import Runtime, WorkerPool

IDLE_MAX_MS = 120_000
"""A connection on which nothing came or went for so long is closed. Source: serverChannelMaxIdleTimeSeconds."""

IDLE_CHECK_MS = 10_000

JOIN_MS = 5_000
"""How long an end waits for a thread that is in the middle of something."""

CONNECTIONS_MAX = 10_000
BACKLOG = 128
"""Connections that wait to be accepted."""
BURST_MAX = 32
"""Requests of one connection that are answered in a row."""
BURST_MAX_MS = 10
"""How long that may take: after it the other connections have their turn, however many requests it was."""
RESTING_BYTES = 16 * 1024
"""Buffer of a connection that sends little: there may be thousands. One that is silent has none."""

MEMORY_MAX_BYTES = 512 * 1024 * 1024
"""What all connections of a port may have in memory of what is not complete yet or not read. Above, the connection that
has most is closed, and the next, until it is less."""

WRITTEN_CHECK_MS = 100
"""How often is looked whether what somebody waits for has left the transport; asyncio does not tell."""

WRITE_HIGH_BYTES = 1024 * 1024
WRITE_MAX_BYTES = 64 * 1024 * 1024
"""A connection with so much unread is closed: pulls that were held may all be answered at once."""

_TURNS_OF_AN_ACCEPT = 3

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Service(Protocol):
    """What a server does with its connections; on the loop's thread only."""

    def on_request(self, channel: ServerChannel, request: RemotingCommand) -> None:
        """A request, or an answer to one of ours, came."""
        ...

    def on_close(self, channel: ServerChannel) -> None:
        """A connection has ended."""
        ...


class ServerChannel(asyncio.BufferedProtocol):
    """One connection of a client. On the loop's thread only."""

    def __init__(self, server: RemotingServer, service: Service, clock: Clock) -> None:
        self._server = server
        self._service = service
        self._clock = clock
        self._reader = FrameReader(resting_bytes=RESTING_BYTES)
        self._transport: asyncio.Transport | None = None
        self._paused = False  # the client does not read
        self._behind = False  # requests of its wait for their turn
        self._handed = 0  # bytes given to the transport
        self._awaited: deque[tuple[int, Callable[[bool], None]]] = deque()  # up to which byte, and who wants to know
        self._counted_bytes = 0  # what the server was told of
        self.active_ms = clock.monotonic_ms()
        self.remote_address = "?"
        self.remote_host = bytes(8)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio``."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self._transport = transport
        peer = transport.get_extra_info("peername") or ("0.0.0.0", 0)  # noqa: S104 - gone already
        self.remote_host = pack_host((peer[0], peer[1]))
        self.remote_address = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        if not self._server.accepted(self):
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """See ``asyncio``."""
        buffer = self._reader.get_buffer()
        if self._reader.buffer_bytes <= RESTING_BYTES:
            return buffer
        self._count()  # may take the buffer away
        return self._reader.get_buffer()

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return self._transport is not None

    @property
    def memory_bytes(self) -> int:
        """What it has in memory of requests that are not complete and of answers that were not read."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._reader.buffer_bytes + unsent

    def _count(self) -> None:
        change = self.memory_bytes - self._counted_bytes
        self._counted_bytes += change
        if change:
            self._server.note_memory(change)

    def recount(self) -> int:
        """Give back what is not needed; what is left. The server has begun to count anew."""
        self._reader.rest()
        self._counted_bytes = self.memory_bytes
        return self._counted_bytes

    def rest(self) -> None:
        """Nothing came for a while: a buffer that waits for nothing is given back."""
        self._reader.rest()
        self._count()

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on every complete command."""
        self.active_ms = self._clock.monotonic_ms()
        self._reader.received(nbytes)
        self._serve()

    def _serve(self) -> None:
        """Look at some requests; the others wait until the other connections had their turn."""
        self._behind = False
        until_ms = self._clock.monotonic_ms() + BURST_MAX_MS
        try:
            for _ in range(BURST_MAX):
                if self._paused:
                    return
                command = self._reader.next_frame()
                if command is None:
                    self._read_on()
                    return
                self._service.on_request(self, command)
                if self._clock.monotonic_ms() >= until_ms:
                    break
        except ProtocolError as error:
            _log.warning("%s does not speak the protocol, its connection is closed: %s", self.remote_address, error)
            self.close()
            return
        self._behind = True
        if self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._serve)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client does not read: nothing more is read from it, nor is what has been read already looked at."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._paused = False
        if not self._behind:
            self._serve()

    def connection_lost(self, error: Exception | None) -> None:
        """See ``asyncio``."""
        self._transport = None
        awaited, self._awaited = self._awaited, deque()
        for _, written in awaited:
            written(False)
        self._server.note_memory(-self._counted_bytes)
        self._counted_bytes = 0
        self._server.ended(self)
        self._service.on_close(self)

    def write(self, command: RemotingCommand) -> None:
        """Send a command; on a connection that has ended it is only told that it was not written."""
        transport, written = self._transport, command.written
        if transport is None or transport.is_closing():
            if written is not None:
                written(False)
            return
        if transport.get_write_buffer_size() > WRITE_MAX_BYTES:
            _log.warning("%s does not read, its connection is closed", self.remote_address)
            transport.abort()
            if written is not None:
                written(False)
            return
        self.active_ms = self._clock.monotonic_ms()
        try:
            frame = encode(command)
        except ConfigError as error:
            frame = encode(RemotingCommand.response(command.opaque, ResponseCode.SYSTEM_ERROR, f"{error}"))
            if written is not None:
                written(False)
                written = None
        transport.write(frame)
        if transport.get_write_buffer_size() or self._counted_bytes > RESTING_BYTES:
            self._count()
        self._handed += len(frame)
        if written is not None:
            self._awaited.append((self._handed, written))
            if len(self._awaited) == 1:
                self._tell_written()

    def _tell_written(self) -> None:
        """Tell those whose commands have left the transport; again soon, if others wait."""
        if self._transport is None or self._transport.is_closing():  # it forgets what it has; ``connection_lost`` tells
            return
        gone = self._handed - self._transport.get_write_buffer_size()
        while self._awaited and self._awaited[0][0] <= gone:
            _, written = self._awaited.popleft()
            written(True)
        if self._awaited:
            asyncio.get_running_loop().call_later(WRITTEN_CHECK_MS / 1_000, self._tell_written)

    def forget(self) -> None:
        """``close`` by a server that has subtracted what this connection has in memory."""
        self._counted_bytes = 0
        self.close()

    def __str__(self) -> str:
        return self.remote_address

    def close(self) -> None:
        """End the connection without waiting for what is unsent."""
        if self._transport is not None:
            self._transport.abort()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Connections wait until it is served.

    Raises:
        ConnectError: the port is taken or may not be used, or the address is not this machine's.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)  # here, because two sockets may bind a port and one listen
    except (OSError, OverflowError) as error:
        sock.close()
        what = "address" if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL else "port"
        raise ConnectError(f"cannot listen at {host}:{port}: {error}; choose another {what}") from error
    return sock


class RemotingServer:
    """One listening port."""

    def __init__(self, loop: ServerLoop, service: Service, clock: Clock) -> None:
        self._loop = loop
        self._service = service
        self._clock = clock
        self._channels: set[ServerChannel] = set()
        self._memory_bytes = 0  # too much rather than too little: what clients read meanwhile is not seen at once
        self._server: asyncio.Server | None = None

    async def serve(self, sock: socket.socket) -> None:
        """Accept connections; the socket is this server's from here on."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: ServerChannel(self, self._service, self._clock), sock=sock, backlog=BACKLOG
        )
        self._loop.call_later(IDLE_CHECK_MS, self._close_idle)

    def accepted(self, channel: ServerChannel) -> bool:
        """Note a connection; False when there are too many."""
        self._channels.add(channel)
        if len(self._channels) > CONNECTIONS_MAX:
            _log.warning("%s connections are open, the one from %s is closed", CONNECTIONS_MAX, channel)
            return False
        return True

    def ended(self, channel: ServerChannel) -> None:
        """Forget a connection."""
        self._channels.discard(channel)

    def note_memory(self, change: int) -> None:
        """Hear how many bytes more a connection has in memory, or less."""
        self._memory_bytes += change
        if self._memory_bytes <= MEMORY_MAX_BYTES:
            return
        held = {channel: channel.recount() for channel in self._channels}
        self._memory_bytes = sum(held.values())
        for channel in sorted(held, key=held.__getitem__, reverse=True):
            if self._memory_bytes <= MEMORY_MAX_BYTES:
                break
            _log.warning("too much is in memory, most of it, %s bytes, of %s: closed", held[channel], channel)
            self._memory_bytes -= held[channel]
            channel.forget()

    def _close_idle(self) -> None:
        self._loop.call_later(IDLE_CHECK_MS, self._close_idle)
        now_ms = self._clock.monotonic_ms()
        for channel in list(self._channels):
            if channel.active_ms < now_ms - IDLE_MAX_MS:
                _log.info("%s was idle, its connection is closed", channel.remote_address)
                channel.close()
            elif channel.active_ms < now_ms - IDLE_CHECK_MS:
                channel.rest()

    async def stop(self) -> None:
        """Accept nothing more and end every connection."""
        if self._server is not None:
            loop = asyncio.get_running_loop()
            for sock in self._server.sockets:
                loop.remove_reader(sock.fileno())
            # asyncio loses a connection that is being accepted when its server is closed: it takes a few turns.
            for _ in range(_TURNS_OF_AN_ACCEPT):
                await asyncio.sleep(0)
            self._server.close()
        for channel in list(self._channels):
            channel.close()
        await asyncio.sleep(0)  # ``connection_lost`` comes in the next turn


class ServerLoop:
    """The thread of a server, and one more for work that blocks. Satisfies ``broker.loop.Loop``."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._timers_ended = False
        self._errors = RateLimitedLog(runtime.clock, _log)
        self._loop.set_exception_handler(self._on_error)
        self._blocking: WorkerPool[Callable[[], None]] = runtime.worker_pool(f"{name}Commit", 1, lambda work: work())
        self._thread = runtime.start_thread(name, self._run)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught; often the same again and again, as when there are no file descriptors left."""
        message = str(context.get("message"))
        error = context.get("exception")
        self._errors.warning(message, "%s: %s", message, error, with_traceback=not isinstance(error, OSError | None))

    def call_soon(self, job: Callable[[], None]) -> None:
        """See ``broker.loop.Loop``."""
        self._loop.call_soon(job)

    def call_later(self, delay_ms: int, job: Callable[[], None]) -> None:
        """See ``broker.loop.Loop``."""
        self._loop.call_later(delay_ms / 1_000, lambda: None if self._timers_ended else job())

    def end_timers(self) -> None:
        """Forget every job that is to come later: what it works on is being closed."""
        self._timers_ended = True

    def run_blocking(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """See ``broker.loop.Loop``."""

        def blocking() -> None:
            error: Exception | None = None
            try:
                work()
            except Exception as failure:  # noqa: BLE001 - border: told to whoever waits
                error = failure
            self._loop.call_soon_threadsafe(done, error)

        self._blocking.submit(blocking)

    def run(self, work: Coroutine[Any, Any, T], timeout_ms: int) -> T:
        """Run ``work`` on the loop and wait for its end; from any other thread.

        Raises:
            TimeoutError: it took longer.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_ms / 1_000)

    def stop(self) -> None:
        """End both threads; from any other thread. What still waits is forgotten."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_MS)
        self._blocking.shutdown(JOIN_MS)
