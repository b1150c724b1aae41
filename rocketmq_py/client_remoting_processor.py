"""Requests that servers make of a client. Source: ClientRemotingProcessor."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.runtime import Mutex, Runtime, WorkerPool

THREADS = 2
PENDING_MAX = 64
PENDING_MAX_BYTES = 32 * 1024 * 1024
"""Requests that wait or are being answered, and the bytes of their bodies; what comes while there are so many, or so
much, is refused as SYSTEM_BUSY, one-way requests are dropped."""

_log = logging.getLogger(__name__)

Handler = Callable[[str, RemotingCommand], RemotingCommand | None]
"""``handler(address, request)``: the answer, or None for a plain SUCCESS; it is not sent to a one-way request.

Errors become a SYSTEM_ERROR answer.
"""

Answer = Callable[[RemotingCommand], None]


class ClientRemotingProcessor:
    """One per client: which request code is handled by whom. The threads are started by the first request."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._handlers: dict[int, tuple[Handler, bool]] = {}
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()  # guards the four below
        self._pool: WorkerPool[Callable[[], None]] | None = None
        self._pending = 0
        self._pending_bytes = 0
        self._stopped = False

    def register(self, code: int, handler: Handler, *, blocks: bool = True) -> None:
        """Have requests of this code handled; before the client connects.

        A handler that ``blocks`` is called on one of ``THREADS`` threads, where it may wait but holds up others; one
        that does not, on the I/O thread.
        """
        self._handlers[code] = handler, blocks

    def process(self, address: str, request: RemotingCommand, answer: Answer) -> bool:
        """Take a request; on the I/O thread, never blocks. False: nobody here knows the code."""
        known = self._handlers.get(request.code)
        if known is None:
            return False
        handler, blocks = known
        if not blocks:
            self._answer(handler, address, request, answer)
            return True
        with self._lock:
            busy = self._pending >= PENDING_MAX or self._pending_bytes >= PENDING_MAX_BYTES
            if self._pool is None and not self._stopped:
                self._pool = self._runtime.worker_pool("ClientRemotingProcessor_", THREADS, lambda job: job())
            if not busy:
                self._pending += 1
                self._pending_bytes += len(request.body)
            pool = self._pool
        if busy:
            self._warnings.warning("busy", "%s asks for more than can be answered, refused: %s", address, request)
            if not request.is_oneway:
                answer(RemotingCommand.response(request.opaque, ResponseCode.SYSTEM_BUSY, "the client is busy"))
        elif pool is not None:
            pool.submit(lambda: self._handle(handler, address, request, answer))
        return True

    def _handle(self, handler: Handler, address: str, request: RemotingCommand, answer: Answer) -> None:
        try:
            self._answer(handler, address, request, answer)
        finally:
            with self._lock:
                self._pending -= 1
                self._pending_bytes -= len(request.body)

    def _answer(self, handler: Handler, address: str, request: RemotingCommand, answer: Answer) -> None:
        try:
            reply = handler(address, request) or RemotingCommand.response(request.opaque, ResponseCode.SUCCESS)
        except Exception as error:  # noqa: BLE001 - border: a server's nonsense or a user's code; the server is told
            self._warnings.warning(
                ("failed", request.code), "request %s of %s failed: %s", request.code, address, error,
                with_traceback=not isinstance(error, RocketMQError),
            )  # fmt: skip
            reply = RemotingCommand.response(request.opaque, ResponseCode.SYSTEM_ERROR, str(error))
        if request.is_oneway:
            return
        try:
            answer(reply)
        except RocketMQError as error:
            _log.info("an answer to %s could not be sent: %s", address, error)

    def shutdown(self) -> None:
        """Take no more; what is being answered ends by itself."""
        with self._lock:
            self._stopped = True
            pool = self._pool
        if pool is not None:
            pool.shutdown(0)
