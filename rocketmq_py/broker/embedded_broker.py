"""The embedded broker as one object: ports, store, threads; start and end in order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rocketmq_py.broker.broker_controller import BrokerController
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.errors import IllegalStateError
from rocketmq_py.model.config import check_range
from rocketmq_py.model.delay_level import DEFAULT_DELAY_LEVELS, parse_delay_levels
from rocketmq_py.remoting.server import RemotingServer, ServerLoop, bind
from rocketmq_py.runtime import Runtime, ThreadRuntime

HOST = "127.0.0.1"
"""The only address it listens at: there is no authentication yet."""

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
        message_delay_level: delays by level, Java's ``messageDelayLevel``.
        synchronous: False: an acknowledged message may be lost by a power cut. Never by the end of the process.

    Raises:
        ConfigError: a port or the delay levels are none.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        namesrv_port: int = 0,
        broker_port: int = 0,
        message_delay_level: str = DEFAULT_DELAY_LEVELS,
        synchronous: bool = True,
        runtime: Runtime | None = None,
    ) -> None:
        for name, port in (("namesrv_port", namesrv_port), ("broker_port", broker_port)):
            check_range(name, port, 0, 65_535)
        self._directory = Path(directory)
        self._ports = namesrv_port, broker_port
        self._delay_levels_ms = parse_delay_levels(message_delay_level)
        self._synchronous = synchronous
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
            running = _Running(self._runtime, loop, self._ports)
            loop.run(running.start(self._directory, self._delay_levels_ms, self._synchronous), START_TIMEOUT_MS)
        except BaseException:
            try:
                if running is not None:  # Ctrl-C, perhaps: what was opened meanwhile is closed all the same
                    loop.run(running.abandon(), STOP_TIMEOUT_MS)
            finally:
                loop.stop()
            raise
        self._running = running
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
        return f"{HOST}:{self._started().namesrv_port}"

    @property
    def broker_addr(self) -> str:
        """Address of the broker; clients learn it from the name server."""
        return f"{HOST}:{self._started().broker_port}"

    def _started(self) -> _Running:
        if self._running is None:
            raise IllegalStateError("the broker is not running: call start()")
        return self._running

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

    def __init__(self, runtime: Runtime, loop: ServerLoop, ports: tuple[int, int]) -> None:
        self.loop = loop
        self._clock = runtime.clock
        self._starting: asyncio.Task[Any] | None = None
        self._started = False
        with ExitStack() as bound:
            self._sockets = [bound.enter_context(bind(HOST, port)) for port in ports]
            bound.pop_all()
        self.namesrv_port, self.broker_port = (sock.getsockname()[1] for sock in self._sockets)

    async def start(self, directory: Path, delay_levels_ms: list[int], synchronous: bool) -> None:
        """Open the store, then serve."""
        self._starting = asyncio.current_task()
        await self._start(directory, delay_levels_ms, synchronous)
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

    async def _start(self, directory: Path, delay_levels_ms: list[int], synchronous: bool) -> None:
        with ExitStack() as on_failure:
            for sock in self._sockets:
                on_failure.enter_context(sock)
            self._store = on_failure.enter_context(closing(MessageStore(directory, synchronous=synchronous)))
            self._controller = BrokerController(
                store=self._store, loop=self.loop, clock=self._clock, host=HOST, port=self.broker_port,
                delay_levels_ms=delay_levels_ms,
            )  # fmt: skip
            self._controller.start()
            services = (self._controller.name_server, self._controller)
            self._servers = [RemotingServer(self.loop, service, self._clock) for service in services]
            for server, sock in zip(self._servers, self._sockets, strict=True):
                await server.serve(sock)
            on_failure.pop_all()

    async def stop(self) -> None:
        """Hang up, wait for what is being written, store the rest, close."""
        for server in self._servers:
            server.stop()
        stored = asyncio.get_running_loop().create_future()

        def done() -> None:
            self.loop.end_timers()  # in the same moment: a timer in between would write to a closed store
            stored.set_result(None)

        self._controller.when_stored(done)
        await stored
        self._store.close()
