"""The producer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from rocketmq_py.client_instance import FORKED, MQClientInstance, TransactionCheck, process_clients
from rocketmq_py.errors import ConfigError, IllegalStateError, RequestTimeoutError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.compression import compress
from rocketmq_py.model.config import INT_MAX, ProducerConfig, check_names, check_range
from rocketmq_py.model.life_cycle import StartedByWith
from rocketmq_py.model.message import Message, MessageConst, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.producer_hooks import CheckForbiddenHook, EndTransactionHook, ProducerHooks, SendMessageHook
from rocketmq_py.model.results import SendResult
from rocketmq_py.model.send_callback import Callback, SendCallback, check_callback
from rocketmq_py.model.settings import ProducerSettings
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.async_sender import AsyncSender, ChooseQueue
from rocketmq_py.remoting.message_sender import MessageSender
from rocketmq_py.remoting.mq_fault_strategy import DETECTOR_PERIOD_MS
from rocketmq_py.remoting.outgoing_message import OutgoingMessage, outgoing_batch, outgoing_single
from rocketmq_py.request_reply import Settle, prepare_request
from rocketmq_py.runtime import Mutex, Runtime, Scheduler, ThreadRuntime
from rocketmq_py.trace.message_trace import PRODUCE, MessageTrace
from rocketmq_py.trace.producer_trace_hooks import EndTransactionTraceHook, SendMessageTraceHook

if TYPE_CHECKING:
    from rocketmq_py.grpc_producer_parts import GrpcProducerParts

_log = logging.getLogger(__name__)

GrpcCheck = Callable[[str, str, MessageExt, str], None]
"""``check(address, broker, half_message, transaction_id)``; as ``TransactionCheck``, on a thread of the gRPC wire."""

Selector = Callable[[Sequence[MessageQueue], Message, Any], MessageQueue]
"""Chooses a message's queue: ``selector(queues, message, arg)``. Source: MessageQueueSelector."""


class Running:
    """What a producer has between ``start`` and ``shutdown``."""

    __slots__ = ("_detector", "_group", "_trace", "async_sender", "client", "sender")

    def __init__(
        self, client: MQClientInstance, group: str, config: ProducerConfig, hooks: ProducerHooks, runtime: Runtime
    ) -> None:
        self.client = client
        self._group = group
        self.sender = client.make_sender(group, config, hooks)
        self.async_sender = AsyncSender(self.sender, config, runtime)
        self._detector: Scheduler | None = None
        if config.start_detector_enable:
            self._detector = runtime.scheduler("LatencyFaultToleranceScheduledThread")
            self._detector.schedule_at_fixed_rate(DETECTOR_PERIOD_MS, DETECTOR_PERIOD_MS, self.sender.detect_brokers)
        self._trace: MessageTrace | None = None
        if config.enable_msg_trace:
            self._trace = _traced(client, group, config, hooks, runtime)

    @property
    def forked(self) -> bool:
        """See ``MQClientInstance.forked``."""
        return self.client.forked

    def note_published(self, topic: str) -> None:
        """A topic, under its full name, is sent to."""
        self.client.note_published_topic(self._group, topic)

    def await_next_try(self, topic: str, timeout_ms: int) -> int:
        """See ``MQClientInstance.await_next_try``; a topic under its full name."""
        return self.client.await_next_try(topic, timeout_ms)

    def shutdown(self) -> None:
        """End what runs here, and leave."""
        self.async_sender.shutdown()
        if self._detector is not None:
            self._detector.shutdown()
        try:
            self.client.unregister_producer(self._group)
            if self._trace is not None:
                self._trace.shutdown()
        finally:
            process_clients.release(self.client)


def _traced(
    client: MQClientInstance, group: str, config: ProducerConfig, hooks: ProducerHooks, runtime: Runtime
) -> MessageTrace:
    """Source: DefaultMQProducer.start, from ``enableTrace`` on."""
    trace = MessageTrace(
        client=client,
        group=group,
        kind=PRODUCE,
        topic=config.customized_trace_topic,
        batch_num=config.trace_msg_batch_num,
        runtime=runtime,
    )
    sends = SendMessageTraceHook(trace.dispatcher, config.namespace, runtime.clock)
    hooks.send_message = (*hooks.send_message, sends)
    hooks.end_transaction = (*hooks.end_transaction, EndTransactionTraceHook(trace.dispatcher, runtime.clock))
    return trace


class DefaultMQProducer(ProducerConfig, StartedByWith):
    """Sends messages. Settings are attributes and keywords, see ``ProducerConfig``; they take effect at ``start``.

    Args:
        producer_group: name of the group.
        **settings: see ``ProducerConfig``.

    Raises:
        ConfigError: there is no such setting.

    Source: DefaultMQProducer, DefaultMQProducerImpl.
    """

    __slots__ = (
        "_announced", "_closed", "_hooks", "_lock", "_running", "_runtime", "_warnings", "_wire_group", "group",
    )  # fmt: skip

    def __init__(self, producer_group: str, **settings: Unpack[ProducerSettings]) -> None:
        check_names(ProducerConfig, settings)
        super().__init__(**settings)
        self.group = self._wire_group = producer_group
        self._runtime: Runtime = ThreadRuntime()
        self._hooks = ProducerHooks()
        self._warnings = RateLimitedLog(self._runtime.clock, _log)
        self._lock = Mutex()  # guards the three below, and the registration of hooks
        self._running: Running | GrpcProducerParts | None = None
        self._closed = False
        self._announced: set[str] = set()  # topics whose brokers have been told of this producer

    def start(self) -> None:
        """Make ready to send; connects to nothing yet, unless ``topics`` are given.

        Raises:
            ConfigError: a setting is out of range, or there is no name server.
            MissingExtraError: the library for ``compress_type`` is not installed.
            IllegalStateError: started before, or the group has a producer in this client already.
        """
        if self._forked():
            raise IllegalStateError(FORKED.format("producer"))
        self._wire_group = self.with_namespace(self.group)  # as brokers know it
        self.check_producer(self._wire_group)
        compress(b"probe", self.compress_type.value, self.compress_level)  # a missing library shows now
        if self.endpoints is not None:
            self._start_grpc()
            return
        with self._lock:
            self._check_new()
            client = process_clients.acquire(self)
            if client.register_producer(self._wire_group, self._transaction_check()):
                self._running = running = Running(client, self._wire_group, self, self._hooks, self._runtime)
            else:
                running = None
        if running is None:
            process_clients.release(client)
            raise IllegalStateError(
                f"the producer group {self.group} has a producer in client {client.client_id} already: "
                "use another group or another instance_name"
            )
        self._fetch_routes(running)

    def _check_new(self) -> None:
        if self._running is not None or self._closed:
            raise IllegalStateError("a producer is started once: make a new one")

    def _start_grpc(self) -> None:
        from rocketmq_py.grpc_producer_parts import GrpcProducerParts

        with self._lock:
            self._check_new()
        parts = GrpcProducerParts(self, self._hooks, self._runtime, self._grpc_check())
        with self._lock:
            taken = self._running is None and not self._closed
            if taken:
                self._running = parts
        if not taken:
            parts.shutdown()
            raise IllegalStateError("the producer was started or shut down meanwhile")

    def _fetch_routes(self, running: Running) -> None:
        """Source: initTopicRoute, and the heartbeat at the end of start."""
        for topic in self.topics:
            running.note_published(self.with_namespace(topic))
            try:
                running.sender.publish_queues(topic)
            except RocketMQError as error:
                _log.warning("the producer %s has no route of its topic %s yet: %s", self.group, topic, error)
        if self.topics:
            running.client.send_heartbeat_to_all_brokers()

    def shutdown(self) -> None:
        """Leave; sends and requests under way fail. May be called twice and before ``start``.

        Waits up to 3 s for callbacks of asynchronous sends.
        """
        if self._forked():
            return  # the parent's producer goes on
        with self._lock:
            running, self._running = self._running, None
            self._closed = True
        if running is not None:
            if isinstance(running, Running):
                running.client.request_futures.fail(self, IllegalStateError("the producer was shut down"))
            running.shutdown()

    def send(
        self,
        message: Message | Sequence[Message],
        *,
        selector: Selector | None = None,
        arg: Any = None,
        queue: MessageQueue | None = None,
        timeout_ms: int | None = None,
    ) -> SendResult:
        """Send and wait until a broker stored it.

        Args:
            message: one, or several of one topic that are stored together, in order, in one queue.
            selector: chooses the queue, ``selector(queues, message, arg)``; then no other queue is tried. Default:
                queues in turn, another broker when one fails.
            arg: handed to the selector, for example an order number.
            queue: where to send, one of ``fetch_publish_message_queues``; no other is tried. Not with a selector.
            timeout_ms: for this send with all its attempts; default ``send_msg_timeout``.

        Raises:
            ConfigError: the message cannot be sent as it is: empty, too large, illegal topic, unlike batch members.
            BrokerError: it was refused.
            TransportError: no answer; it may be stored all the same.
            IllegalStateError: the producer is not started.
            Exception: what the selector, or a hook that forbids it, raised.
        """
        running = self._started()
        timeout_ms = self._timeout(timeout_ms)
        outgoing, choose_queue = self._prepared(running, message, selector, arg, queue)
        timeout_ms -= running.await_next_try(self.with_namespace(outgoing.topic), timeout_ms)
        retries = 0 if selector or queue else self.retry_times_when_send_failed
        return running.sender.send(outgoing, timeout_ms, retries=retries, queue=choose_queue())

    def send_async(
        self,
        message: Message | Sequence[Message],
        callback: Callback[SendResult],
        *,
        selector: Selector | None = None,
        arg: Any = None,
        queue: MessageQueue | None = None,
        timeout_ms: int | None = None,
    ) -> None:
        """Send and return at once; the callback is told how it ended, exactly once.

        When there is no answer it is tried again up to ``retry_times_when_send_async_failed`` times: on another broker
        if there is one, with a selector or a queue given in the same queue. A broker's refusal ends it.

        Args:
            message: as in ``send``.
            callback: a ``SendCallback``, or any object with its two methods. It runs on a callback thread, and gets
                what ``send`` would have returned or raised. With back pressure do not send from within a callback
                faster than sends end: it waits on one of the few threads that end them.
            selector: as in ``send``; runs on a thread of the sender.
            arg: handed to the selector.
            queue: as in ``send``.
            timeout_ms: for this send with all its attempts; default ``send_msg_timeout``. With back pressure also how
                long this call may wait.

        Raises:
            ConfigError: as in ``send``, or it is no callback.
            TooManyRequestsError: too much is under way (see ``enable_backpressure_for_async_mode``).
            IllegalStateError: the producer is not started.
        """
        running = self._started()
        timeout_ms = self._timeout(timeout_ms)
        check_callback(callback)
        outgoing, choose_queue = self._prepared(running, message, selector, arg, queue)
        running.async_sender.send(outgoing, callback, timeout_ms, choose_queue)

    def send_oneway(
        self,
        message: Message | Sequence[Message],
        *,
        selector: Selector | None = None,
        arg: Any = None,
        queue: MessageQueue | None = None,
    ) -> None:
        """Send once and await no answer: whether it was stored, nobody tells.

        Args:
            message: as in ``send``.
            selector: as in ``send``.
            arg: handed to the selector.
            queue: as in ``send``.

        Raises:
            ConfigError, IllegalStateError: as in ``send``.
            BrokerError: the topic does not exist.
            TransportError: no connection could be made within ``send_msg_timeout``, or it broke at once.
        """
        running = self._started()
        outgoing, choose_queue = self._prepared(running, message, selector, arg, queue)
        timeout_ms = self.send_msg_timeout
        timeout_ms -= running.await_next_try(self.with_namespace(outgoing.topic), timeout_ms)
        running.sender.send_oneway(outgoing, timeout_ms, queue=choose_queue())

    def request(
        self, message: Message, timeout_ms: int, *, selector: Selector | None = None, arg: Any = None
    ) -> MessageExt:
        """Send a request and wait for the reply that its consumer sends (``create_reply_message``).

        Args:
            message: the request.
            timeout_ms: for all of it: sending, consuming, replying.
            selector: as in ``send``.
            arg: handed to the selector.

        Raises:
            RequestTimeoutError: no reply in time; the request may have been consumed all the same.
            TooManyRequestsError: too much is under way.
            RocketMQError: it could not be sent, as in ``send``.

        Source: DefaultMQProducerImpl.request.
        """
        check_range("timeout_ms", timeout_ms, 1, INT_MAX)
        deadline_ms = self._runtime.clock.monotonic_ms() + timeout_ms
        settled = self._runtime.event()
        outcome: list[MessageExt | Exception] = []

        def settle(result: MessageExt | Exception) -> None:
            outcome.append(result)
            settled.set()

        futures = self._remoting("request").client.request_futures
        correlation_id = self._request(message, timeout_ms, selector, arg, settle)
        try:
            settled.wait(deadline_ms - self._runtime.clock.monotonic_ms())
        finally:
            futures.remove(correlation_id)
        if not outcome:
            raise RequestTimeoutError(
                f"the request to topic {message.topic} had no reply within {timeout_ms} ms: does its consumer reply?"
            )
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def request_async(
        self,
        message: Message,
        callback: Callback[MessageExt],
        timeout_ms: int,
        *,
        selector: Selector | None = None,
        arg: Any = None,
    ) -> None:
        """Send a request; the callback gets the reply, or what ``request`` would have raised, on a callback thread.

        Asking for the topic's route, the first time, is done here. A time-out is told up to a second late.

        Args:
            message: the request.
            callback: a ``RequestCallback``, or any object with its two methods; exactly one is called, once.
            timeout_ms: as in ``request``.
            selector: as in ``send``; runs on this thread.
            arg: handed to the selector.

        Raises:
            ConfigError, TooManyRequestsError, IllegalStateError: as ``send_async``.
            RocketMQError: the topic has no route.
        """
        check_callback(callback)
        check_range("timeout_ms", timeout_ms, 1, INT_MAX)
        async_sender = self._started().async_sender

        def settle(result: MessageExt | Exception) -> None:
            if isinstance(result, Exception):
                error = result
                async_sender.run_callback(lambda: callback.on_exception(error))
            else:
                reply = result
                async_sender.run_callback(lambda: callback.on_success(reply))

        self._request(message, timeout_ms, selector, arg, settle)

    def _request(
        self, message: Message, timeout_ms: int, selector: Selector | None, arg: object, settle: Settle
    ) -> str:
        """Send a request whose reply, or failure, ``settle`` is told; its correlation id."""
        running = self._remoting("request")
        if not isinstance(message, Message):
            raise ConfigError(f"a request is one Message, not {type(message).__name__}")
        deadline_ms = self._runtime.clock.monotonic_ms() + timeout_ms
        outgoing, choose_queue = self._prepared(running, message, selector, arg)
        running.await_next_try(self.with_namespace(message.topic), timeout_ms)
        self._announce(running, message.topic)
        left_ms = deadline_ms - self._runtime.clock.monotonic_ms()
        if left_ms <= 0:
            raise RequestTimeoutError(f"the request to topic {message.topic}: no time was left to send it")
        futures = running.client.request_futures
        correlation_id = prepare_request(outgoing, running.client.client_id, timeout_ms)
        futures.put(correlation_id, left_ms, self, settle)
        callback = SendCallback(
            lambda sent: _log.debug("request %s was sent: %s", correlation_id, sent),
            lambda error: futures.settle(correlation_id, error),
        )
        try:
            running.async_sender.send(outgoing, callback, left_ms, choose_queue, here=True)
        except BaseException:
            futures.remove(correlation_id)
            raise
        return correlation_id

    def _announce(self, running: Running, topic: str) -> None:
        """Make sure that the topic's brokers know this producer: they call it back. Java: only without a route."""
        with self._lock:
            if topic in self._announced:
                return
        running.sender.publish_queues(topic)
        if running.client.send_heartbeat_to_all_brokers():
            with self._lock:
                self._announced.add(topic)

    def recall_message(self, topic: str, recall_handle: str, timeout_ms: int | None = None) -> str:
        """Take a delayed message back before its time has come.

        Args:
            topic: its topic.
            recall_handle: from its ``SendResult``.
            timeout_ms: default ``send_msg_timeout``.

        Returns:
            The id of the message.

        Raises:
            BrokerError: its time has come, or the broker does not do it (``recallMessageEnable``).
            ConfigError: the handle is none, or the topic one of retries or dead letters.

        Source: DefaultMQProducer.recallMessage.
        """
        running = self._started()
        names.check_topic(topic)
        if not isinstance(recall_handle, str) or not recall_handle:
            raise ConfigError(f"recall_handle is that of a send's result; {recall_handle!r}: was the message delayed?")
        return running.sender.recall_message(topic, recall_handle, self._timeout(timeout_ms))

    # Hooks.

    def register_send_message_hook(self, hook: SendMessageHook) -> None:
        """Have every attempt to send looked at; at any time, for the sends that begin from now on."""
        with self._lock:
            self._hooks.send_message = (*self._hooks.send_message, hook)

    def register_check_forbidden_hook(self, hook: CheckForbiddenHook) -> None:
        """Have every attempt to send permitted, or forbidden by an exception; at any time."""
        with self._lock:
            self._hooks.check_forbidden = (*self._hooks.check_forbidden, hook)

    def register_end_transaction_hook(self, hook: EndTransactionHook) -> None:
        """Have the ends of transactions looked at; at any time."""
        with self._lock:
            self._hooks.end_transaction = (*self._hooks.end_transaction, hook)

    def fetch_publish_message_queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be sent to; asks a name server if they are not known."""
        running = self._started()
        names.check_topic(topic)
        return running.sender.publish_queues(topic)

    def __repr__(self) -> str:
        state = "running" if self._running is not None else "shut down" if self._closed else "not started"
        return f"<{type(self).__name__} {self.group} {state}>"

    def _started(self) -> Running | GrpcProducerParts:
        running = self._running
        if running is None:
            raise IllegalStateError("the producer is not started" if not self._closed else "the producer was shut down")
        if running.forked:
            raise IllegalStateError(FORKED.format("producer"))
        return running

    def _forked(self) -> bool:
        running = self._running
        return running is not None and running.forked

    def _transaction_check(self) -> TransactionCheck | None:
        """Who answers a broker's questions about transactions: nobody here."""
        return None

    def _grpc_check(self) -> GrpcCheck | None:
        """The same for a server of the gRPC wire."""
        return None

    def _remoting(self, what: str) -> Running:
        running = self._started()
        if not isinstance(running, Running):
            raise ConfigError(f"endpoints: {what} is not offered on the gRPC wire")
        return running

    def _timeout(self, timeout_ms: int | None) -> int:
        if timeout_ms is None:
            return self.send_msg_timeout
        check_range("timeout_ms", timeout_ms, 1, INT_MAX)
        return timeout_ms

    def _prepared(
        self,
        running: Running | GrpcProducerParts,
        message: Message | Sequence[Message],
        selector: Selector | None,
        arg: object,
        queue: MessageQueue | None = None,
    ) -> tuple[OutgoingMessage, ChooseQueue]:
        """What goes out, and how to find the queue that it must go to, if there is one."""
        if isinstance(message, Message):
            outgoing = outgoing_single(message, self.max_message_size)
        elif not isinstance(running, Running):
            raise ConfigError("endpoints: the gRPC protocol has no batches: send messages one by one, or send_async")
        else:
            outgoing = outgoing_batch(message, self.max_message_size, self._runtime.clock)
        running.note_published(self.with_namespace(outgoing.topic))
        if not isinstance(running, Running):
            if queue is not None or selector is not None:
                raise ConfigError("endpoints: the server chooses the queue; a message_group keeps messages in order")
            return outgoing, lambda: None
        remoting_sender = running.sender
        if queue is not None:
            _check_queue(queue, outgoing.topic, selector)
        if selector is None:
            if queue is None:
                self._warn_of_message_group([message] if isinstance(message, Message) else message)
            return outgoing, lambda: queue
        if not callable(selector):
            raise ConfigError(f"a selector is called with (queues, message, arg), {selector!r} cannot be called")
        if not isinstance(message, Message):
            raise ConfigError("a batch goes to one queue as a whole: give the selector a single message")
        return outgoing, lambda: _selected(remoting_sender, selector, message, arg)

    def _warn_of_message_group(self, messages: Sequence[Message]) -> None:
        """Java's remoting client ignores it, too: its queues take turns. Behaviour: PR-22."""
        for message in messages:
            if (message_group := message.properties.get(MessageConst.SHARDING_KEY)) is not None:
                self._warnings.warning(
                    "message group", "the message group %r of a message to topic %s keeps nothing in order: queues "
                    "take turns with namesrv_addr. Give send a selector (or a queue), or the producer endpoints=",
                    message_group, message.topic,
                )  # fmt: skip
                return


def _check_queue(queue: object, topic: str, selector: Selector | None) -> None:
    if selector is not None:
        raise ConfigError("give a selector or a queue, not both")
    if not isinstance(queue, MessageQueue):
        raise ConfigError(f"a queue is a MessageQueue, not {queue!r:.100}")
    if queue.topic != topic:
        raise ConfigError(f"a message of topic {topic} cannot go to a queue of topic {queue.topic}")


def _selected(sender: MessageSender, selector: Selector, message: Message, arg: object) -> MessageQueue:
    queues = sender.publish_queues(message.topic)
    queue = selector(queues, message, arg)
    if queue not in queues:
        raise ConfigError(f"the selector chose {queue!r}, which is none of the {len(queues)} queues it was given")
    return queue
