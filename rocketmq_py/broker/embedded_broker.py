"""The embedded broker as one object: ports, store, threads; start and end in order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rocketmq_py.broker.authentication import Authentication
from rocketmq_py.broker.broker_controller import BrokerController, join_address
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.broker.transactional_message_service import TransactionSettings
from rocketmq_py.errors import ConfigError, IllegalStateError
from rocketmq_py.model.config import INT_MAX, check_range
from rocketmq_py.model.delay_level import DEFAULT_DELAY_LEVELS, parse_delay_levels
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.server import RemotingServer, ServerLoop, Service, bind
from rocketmq_py.runtime import Runtime, ThreadRuntime

if TYPE_CHECKING:  # imported when it is served
    from rocketmq_py.broker.grpc.server import GrpcServer

HOST = "127.0.0.1"
"""Where it listens if nothing else is asked for: this machine only."""

FILE_RESERVED_TIME_HOURS = 72
"""Source: MessageStoreConfig.fileReservedTime."""

_HOURS_MAX = 10_000_000
_HOUR_MS = 3_600_000
_BYTES_MIN = 16 * 1024 * 1024

START_TIMEOUT_MS = 60_000
STOP_TIMEOUT_MS = 30_000

_log = logging.getLogger(__name__)


class EmbeddedBroker:
    """A name server and a broker in this process, for development, tests and demos.

    ``start`` and ``shutdown`` may be called from any thread but the broker's own.

    Args:
        directory: of the store; made when it does not exist. One broker at a time.
        namesrv_port: of the name server; 0: any free one.
        broker_port: of the broker; 0: any free one.
        grpc_port: of the proxy's protocol, for RocketMQ 5 clients; 0: any free one; None: not served.
        message_delay_level: delays by level, Java's ``messageDelayLevel``.
        synchronous: False: an acknowledged message may be lost by a power cut. Never by the end of the process.
        transaction_time_out: ms after which the producer of an open transaction is asked. Java's transactionTimeOut.
        transaction_check_interval: ms between rounds of such questions. Java's transactionCheckInterval.
        transaction_check_max: questions about one message; then it is given up. Java's transactionCheckMax.
        message_status: whether statuses are kept of the messages of topics that do not say so themselves.
        host: address to listen at, ``0.0.0.0`` or ``::`` for all of this machine. Whoever reaches it may do everything,
            unless there are access keys.
        broker_ip1: address that clients are told to connect to. Java's brokerIP1; None: ``host``, if it is one.
        file_reserved_time: messages older than so many hours are deleted, consumed or not; 0: none. Java's
            fileReservedTime.
        max_bytes: beyond so many bytes in the file the oldest messages are deleted, consumed or not; None: never.
        access_keys: secret keys by access key. If given, requests must be signed with one of them.
        enable_retry_topic_v2: popped messages come back by topics ``%RETRY%group+topic``. Java's enableRetryTopicV2.
        wrap: makes of what serves a port what is to serve it; for tests that put faults in between.

    Raises:
        ConfigError: a port, an address, an amount, a time, the access keys or the delay levels are none.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        namesrv_port: int = 0,
        broker_port: int = 0,
        grpc_port: int | None = None,
        message_delay_level: str = DEFAULT_DELAY_LEVELS,
        synchronous: bool = True,
        transaction_time_out: int = 6_000,
        transaction_check_interval: int = 30_000,
        transaction_check_max: int = 15,
        message_status: bool = False,
        host: str = HOST,
        broker_ip1: str | None = None,
        file_reserved_time: int = FILE_RESERVED_TIME_HOURS,
        max_bytes: int | None = None,
        access_keys: Mapping[str, str] | None = None,
        enable_retry_topic_v2: bool = False,
        wrap: Callable[[Service], Service] = lambda service: service,
        runtime: Runtime | None = None,
    ) -> None:
        for name, port in (("namesrv_port", namesrv_port), ("broker_port", broker_port), ("grpc_port", grpc_port or 0)):
            check_range(name, port, 0, 65_535)
        check_range("file_reserved_time", file_reserved_time, 0, _HOURS_MAX)
        if max_bytes is not None:
            check_range("max_bytes", max_bytes, _BYTES_MIN, 2**60)
        self._host = _address("host", host)
        self._told_host = self._host if broker_ip1 is None else _address("broker_ip1", broker_ip1)
        if ipaddress.ip_address(self._told_host).is_unspecified:
            raise ConfigError(
                f"clients cannot connect to {self._told_host}: tell them an address of this machine with broker_ip1 "
                "(on the command line --broker-ip1)"
            )
        self._directory = Path(directory)
        self._ports = namesrv_port, broker_port
        check_range("transaction_time_out", transaction_time_out, 1, INT_MAX)
        check_range("transaction_check_interval", transaction_check_interval, 1, INT_MAX)
        check_range("transaction_check_max", transaction_check_max, 1, INT_MAX)
        self._grpc_port = grpc_port
        self._authentication = None if access_keys is None else Authentication(access_keys)
        self._make = partial(
            BrokerController,
            delay_levels_ms=parse_delay_levels(message_delay_level),
            transactions=TransactionSettings(transaction_time_out, transaction_check_interval, transaction_check_max),
            message_status=message_status,
            reserved_ms=file_reserved_time * _HOUR_MS or None,
            max_bytes=max_bytes,
            authentication=self._authentication,
            enable_retry_topic_v2=enable_retry_topic_v2,
        )
        self._is_open = access_keys is None and not ipaddress.ip_address(self._host).is_loopback
        self._synchronous = synchronous
        self._wrap = wrap
        self._runtime = runtime or ThreadRuntime()
        self._running: _Running | None = None

    def start(self) -> Self:
        """Open the store and listen.

        Raises:
            StoreError: the store cannot be used; the text says why.
            ConnectError: a port is taken.
            IllegalStateError: it runs already.
        """
        if self._running is not None:
            raise IllegalStateError(f"the broker on {self._directory} is running already")
        loop = ServerLoop(self._runtime, "EmbeddedBroker")
        running: _Running | None = None
        try:
            running = _Running(
                self._runtime,
                loop,
                self._host,
                self._ports,
                self._told_host,
                self._wrap,
                self._grpc_port,
                self._authentication,
            )
            loop.run(running.start(self._directory, self._make, self._synchronous), START_TIMEOUT_MS)
        except BaseException:
            try:
                if running is not None:  # Ctrl-C, perhaps: what was opened meanwhile is closed all the same
                    loop.run(running.abandon(), STOP_TIMEOUT_MS)
            finally:
                loop.stop()
            raise
        self._running = running
        if self._is_open:
            _log.warning("whoever reaches %s may do everything: give access keys", self.broker_addr)
        _log.info("broker on %s: name server %s, broker %s", self._directory, self.namesrv_addr, self.broker_addr)
        return self

    def shutdown(self) -> None:
        """Accept nothing more, store everything, close. May be called twice."""
        running, self._running = self._running, None
        if running is not None:
            try:
                running.loop.run(running.stop(), STOP_TIMEOUT_MS)
            finally:
                running.loop.stop()

    @property
    def namesrv_addr(self) -> str:
        """What clients are given."""
        return join_address(self._told_host, self._started().namesrv_port)

    @property
    def broker_addr(self) -> str:
        """Address of the broker; clients learn it from the name server."""
        return join_address(self._told_host, self._started().broker_port)

    @property
    def grpc_addr(self) -> str | None:
        """What RocketMQ 5 clients are given as endpoints; None when their protocol is not served."""
        port = self._started().grpc_port
        return None if port is None else join_address(self._told_host, port)

    def _started(self) -> _Running:
        if self._running is None:
            raise IllegalStateError("the broker is not running: call start()")
        return self._running

    def __repr__(self) -> str:
        state = "not running" if self._running is None else f"name server at {self.namesrv_addr}"
        return f"<EmbeddedBroker {self._directory}, {state}>"

    def __enter__(self) -> Self:
        """``start``."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """``shutdown``."""
        self.shutdown()


class _Running:
    """What exists between start and end. The coroutines run on the loop."""

    def __init__(
        self,
        runtime: Runtime,
        loop: ServerLoop,
        host: str,
        ports: tuple[int, int],
        told_host: str,
        wrap: Callable[[Service], Service],
        grpc_port: int | None,
        authentication: Authentication | None,
    ) -> None:
        self.loop = loop
        self._wrap = wrap
        self._authentication = authentication
        self.grpc_port = grpc_port
        self._host = host
        self._told_host = told_host
        self._clock = runtime.clock
        self._starting: asyncio.Task[Any] | None = None
        self._started = False
        self._grpc_server: GrpcServer | None = None
        with ExitStack() as bound:
            self._sockets = [bound.enter_context(bind(host, port)) for port in ports]
            bound.pop_all()
        self.namesrv_port, self.broker_port = (sock.getsockname()[1] for sock in self._sockets)

    async def start(self, directory: Path, make: Callable[..., BrokerController], synchronous: bool) -> None:
        """Open the store, then serve."""
        self._starting = asyncio.current_task()
        try:
            await self._start(directory, make, synchronous)
        except BaseException:
            await self._stop_grpc()
            raise
        self._started = True

    async def abandon(self) -> None:
        """End a start that nobody waits for any more."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._started:
            await self.stop()
        for sock in self._sockets:
            sock.close()

    async def _start(self, directory: Path, make: Callable[..., BrokerController], synchronous: bool) -> None:
        with ExitStack() as on_failure:
            for sock in self._sockets:
                on_failure.enter_context(sock)
            self._bind_grpc()
            self._store = on_failure.enter_context(closing(MessageStore(directory, synchronous=synchronous)))
            self._controller = make(
                store=self._store, loop=self.loop, clock=self._clock, host=self._told_host, port=self.broker_port
            )
            self._controller.start()
            services = (self._controller.name_server, self._controller)
            self._servers = [RemotingServer(self.loop, self._wrap(service), self._clock) for service in services]
            for server, sock in zip(self._servers, self._sockets, strict=True):
                await server.serve(sock)
            await self._serve_grpc()
            on_failure.pop_all()

    def _bind_grpc(self) -> None:
        if self.grpc_port is not None:
            from rocketmq_py.broker.grpc.server import GrpcServer

            self._grpc_server = GrpcServer(RateLimitedLog(self._clock, _log), self._authentication)
            self.grpc_port = self._grpc_server.bind(self._host, self.grpc_port)

    async def _serve_grpc(self) -> None:
        if self._grpc_server is not None and self.grpc_port is not None:
            from rocketmq_py.broker.grpc.application import GrpcMessagingApplication

            application = GrpcMessagingApplication(
                loop=self.loop, clock=self._clock, broker=self._controller, host=self._told_host, port=self.grpc_port
            )
            await self._grpc_server.serve(application)

    async def _stop_grpc(self) -> None:
        server, self._grpc_server = self._grpc_server, None
        if server is not None:
            await server.stop()

    async def stop(self) -> None:
        """Hang up, wait for what is being written, store the rest, close."""
        await self._stop_grpc()
        for server in self._servers:
            await server.stop()
        stored = asyncio.get_running_loop().create_future()

        def done() -> None:
            self.loop.end_timers()  # in the same moment: a timer in between would write to a closed store
            stored.set_result(None)

        self._controller.when_stored(done)
        await stored
        self._store.close()


def _address(name: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"{name} is an IP address, not {text!r}") from None
