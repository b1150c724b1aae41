"""The asynchronous sends of one producer: their threads, their bound, and the promise that each one's end is told once.

Source: DefaultMQProducerImpl.executeAsyncMessageSend, BackpressureSendCallBack, asyncSenderExecutor;
NettyRemotingClient.publicExecutor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from rocketmq_py.errors import ClientError, IllegalStateError, RequestTimeoutError, TooManyRequestsError
from rocketmq_py.model.config import ProducerConfig
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import SendResult
from rocketmq_py.model.send_callback import Callback
from rocketmq_py.remoting.back_pressure import BackPressure
from rocketmq_py.remoting.message_sender import Done
from rocketmq_py.remoting.outgoing_message import OutgoingMessage
from rocketmq_py.runtime import Mutex, Runtime, WorkerPool

SENDER_THREADS = 2
"""Threads that look for routes, choose queues and hand requests to the network; Java: one per processor."""
CALLBACK_THREADS = 4
"""Source: NettyClientConfig.clientCallbackExecutorThreads, 4 at least."""

ASYNC_SENDS_MAX = 50_000
"""Sends under way at once without back pressure. Source: asyncSenderThreadPoolQueue."""
ASYNC_SENDS_MAX_BYTES = 256 * 1024 * 1024
"""Bytes of their bodies; Java has no such bound."""

CALLBACKS_AWAIT_MS = 3_000
"""How long ``shutdown`` waits for callbacks that are still to be called."""

ChooseQueue = Callable[[], MessageQueue | None]
"""Which queue it must be; None: any. Runs the user's selector, so it may block and raise."""

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """What sends: ``MessageSender``, or that of the gRPC wire. What ``begin`` gives is its own business."""

    def begin(self, message: Any, deadline_ms: int, queue: MessageQueue | None = None) -> Any:
        """Prepare a send."""

    def send_async(self, sending: Any, retries: int, done: Done) -> None:
        """Send; ``done`` is told how it ended."""

    def after(self, sending: Any, outcome: SendResult | Exception | None) -> None:
        """Tell hooks."""


class _AsyncSend:
    """One send under way; ``ended`` is guarded by the lock of its ``AsyncSender``."""

    __slots__ = ("callback", "choose_queue", "deadline_ms", "ended", "message", "sending")

    def __init__(
        self, message: OutgoingMessage, callback: Callback[SendResult], deadline_ms: int, choose_queue: ChooseQueue
    ) -> None:
        self.message = message
        self.callback = callback
        self.deadline_ms = deadline_ms
        self.choose_queue = choose_queue
        self.sending: Any = None
        self.ended = False


class AsyncSender:
    """Any thread may send. The threads are started by the first send.

    Lock: ``_lock`` guards the pools, ``_under_way`` and the sends' ``ended``; nothing is called out to under it.
    """

    def __init__(self, sender: Sender, config: ProducerConfig, runtime: Runtime) -> None:
        self._sender = sender
        self._config = config
        self._runtime = runtime
        self._lock = Mutex()
        self._under_way: set[_AsyncSend] = set()
        self._senders: WorkerPool[_AsyncSend] | None = None
        self._callbacks: WorkerPool[Callable[[], None]] | None = None
        self._closed = False
        self._waits = config.enable_backpressure_for_async_mode
        self._pressure = BackPressure(
            runtime.event,
            config.back_pressure_for_async_send_num if self._waits else ASYNC_SENDS_MAX,
            config.back_pressure_for_async_send_size if self._waits else ASYNC_SENDS_MAX_BYTES,
        )

    def send(
        self,
        message: OutgoingMessage,
        callback: Callback[SendResult],
        timeout_ms: int,
        choose_queue: ChooseQueue,
        *,
        here: bool = False,
    ) -> None:
        """Send on another thread; with ``here`` on this one up to the point where the network takes over.

        Raises:
            TooManyRequestsError: too much is under way; nothing was begun and the callback will not be called. With
                back pressure only after waiting for ``timeout_ms``.
            IllegalStateError: the producer was shut down.
        """
        send = _AsyncSend(message, callback, self._runtime.clock.monotonic_ms() + timeout_ms, choose_queue)
        if not self._pressure.acquire(len(message.body), timeout_ms if self._waits else 0):
            raise TooManyRequestsError(
                f"too many asynchronous sends are under way ({len(self._under_way)}): wait for callbacks, send slower, "
                "or set enable_backpressure_for_async_mode, with which send_async waits"
            )
        with self._lock:
            closed = self._closed
            if not closed:
                if self._senders is None:
                    self._start_pools()
                self._under_way.add(send)
            senders = self._senders
        if closed or senders is None:
            self._pressure.release(len(message.body))
            raise IllegalStateError("the producer was shut down")
        if here:
            self._begin(send)
        else:
            senders.submit(send)  # refused at shutdown, which ends every send itself

    def run_callback(self, job: Callable[[], None]) -> None:
        """Run a job that calls the user's code on a callback thread; dropped after shutdown."""
        with self._lock:
            if self._senders is None and not self._closed:
                self._start_pools()
            callbacks = self._callbacks
        if callbacks is None or not callbacks.submit(job):
            _log.warning("a callback was not called because the producer was shut down")

    def shutdown(self) -> None:
        """End every send under way with an error, call the callbacks, end the threads; waits for them a while."""
        with self._lock:
            self._closed = True
            under_way = list(self._under_way)
            senders, callbacks = self._senders, self._callbacks
        if senders is None or callbacks is None:
            return
        senders.shutdown(0)
        for send in under_way:
            self._end(send, IllegalStateError("the producer was shut down; the message may be stored all the same"))
        if not callbacks.shutdown(CALLBACKS_AWAIT_MS):
            _log.warning("callbacks of asynchronous sends still run, or were not called, at the end of the producer")

    def _start_pools(self) -> None:
        self._senders = self._runtime.worker_pool("AsyncSenderExecutor_", SENDER_THREADS, self._begin)
        self._callbacks = self._runtime.worker_pool("AsyncSendCallback_", CALLBACK_THREADS, lambda job: job())

    def _begin(self, send: _AsyncSend) -> None:
        """Look for a queue and hand the request to the network; what goes wrong here is the send's end."""
        try:
            send.sending = self._sender.begin(send.message, send.deadline_ms, send.choose_queue())
            if self._runtime.clock.monotonic_ms() >= send.deadline_ms:
                raise RequestTimeoutError(f"sending to topic {send.message.topic}: no time was left")  # noqa: TRY301
            if not send.ended:
                retries = self._config.retry_times_when_send_async_failed
                self._sender.send_async(send.sending, retries, lambda outcome: self._end(send, outcome))
        except Exception as error:  # noqa: BLE001 - border: a selector and a hook are the user's code
            self._end(send, error)
        except BaseException as error:  # sys.exit() and the like: the send has ended all the same
            self._end(send, ClientError(f"a selector or a hook ended with {error!r}"))
            raise

    def _end(self, send: _AsyncSend, outcome: SendResult | Exception) -> None:
        """Have hooks and callback told on a callback thread, the first time; later ends are dropped."""
        with self._lock:
            if send.ended:
                return
            send.ended = True
        self.run_callback(lambda: self._tell(send, outcome))

    def _tell(self, send: _AsyncSend, outcome: SendResult | Exception) -> None:
        # Its place is free before its callback runs, which may send again; and not earlier, because a callback that
        # still waits for its thread holds memory too.
        with self._lock:
            self._under_way.discard(send)
        self._pressure.release(len(send.message.body))
        if send.sending is not None:
            self._sender.after(send.sending, outcome)
        if isinstance(outcome, SendResult):
            send.callback.on_success(outcome)
        else:
            send.callback.on_exception(outcome)
