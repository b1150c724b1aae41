"""The push consumer as users see it: settings, subscriptions, listener, life cycle. What runs: ``consumer_parts``."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol, Unpack

from rocketmq_py.client_instance import FORKED, process_clients
from rocketmq_py.consumer.hooks import ConsumeMessageHook, FilterMessageHook
from rocketmq_py.consumer.process_queue import WindowSnapshot
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.consumer_parts import ConsumerParts, ConsumerSetup
from rocketmq_py.errors import BrokerError, ConfigError, ConnectError, IllegalStateError
from rocketmq_py.model import names
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.config import INT_MAX, ConsumerConfig, check_names, check_range
from rocketmq_py.model.life_cycle import StartedByWith
from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly, check_listener
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.settings import ConsumerSettings
from rocketmq_py.model.subscription import (
    SUB_ALL,
    MessageSelector,
    SubscriptionData,
    build_selected,
)
from rocketmq_py.runtime import Mutex, Runtime, ThreadRuntime

BROKER_PULL_BATCH_MAX = 32
"""Messages that a broker gives per pull unless ``maxTransferCountOnMessageInMemory`` is raised there."""

FAILED_START_AWAIT_MS = 1_000

_NO_OPERATORS = re.compile(r"[\s&|,<>=]|^\*$")
"""What looks like an operator in a tag expression and is none."""

_log = logging.getLogger(__name__)


class ServiceState(Enum):
    """Life cycle of a consumer or producer. Source: ServiceState."""

    CREATE_JUST = "CREATE_JUST"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SHUTDOWN_ALREADY = "SHUTDOWN_ALREADY"


# What may follow what. A failed start leads back to CREATE_JUST: it can be tried again (in Java it cannot).
TRANSITIONS: Mapping[ServiceState, frozenset[ServiceState]] = {
    ServiceState.CREATE_JUST: frozenset({ServiceState.STARTING, ServiceState.SHUTDOWN_ALREADY}),
    ServiceState.STARTING: frozenset({ServiceState.RUNNING, ServiceState.CREATE_JUST}),
    ServiceState.RUNNING: frozenset({ServiceState.STOPPING}),
    ServiceState.STOPPING: frozenset({ServiceState.SHUTDOWN_ALREADY}),
    ServiceState.SHUTDOWN_ALREADY: frozenset(),
}


class Parts(Protocol):
    """What a running consumer consists of, on either wire: ``ConsumerParts``, ``GrpcConsumerParts``."""

    subscriptions: Sequence[SubscriptionData]

    @property
    def forked(self) -> bool: ...  # noqa: D102
    def subscribe(self, subscription: SubscriptionData) -> None: ...  # noqa: D102
    def unsubscribe(self, topic: str) -> None: ...  # noqa: D102
    def set_paused(self, paused: bool) -> None: ...  # noqa: D102
    def join_group(self) -> None: ...  # noqa: D102
    def leave_group(self, await_ms: int) -> None: ...  # noqa: D102
    def windows(self) -> Mapping[MessageQueue, WindowSnapshot]: ...  # noqa: D102
    def fetch_subscribe_message_queues(self, topic: str) -> frozenset[MessageQueue]: ...  # noqa: D102
    def reset_offset_by_timestamp(self, timestamp_ms: int) -> None: ...  # noqa: D102
    def send_message_back(self, msg: MessageExt, delay_level: int) -> bool: ...  # noqa: D102
    def update_core_pool_size(self, size: int) -> None: ...  # noqa: D102


class DefaultMQPushConsumer(ConsumerConfig, StartedByWith):
    """Consumes topics: gets messages from RocketMQ and calls a listener with them.

    Settings are attributes and keywords, with Java's names in snake case and Java's units (``ConsumerConfig`` lists
    them). They are checked at ``start``; set them before. Subscribe, register a listener, start; any thread may call
    any method.

    Args:
        consumer_group: name of the group; its members share the work.
        **settings: see ``ConsumerConfig``.

    Raises:
        ConfigError: there is no such setting.

    Source: DefaultMQPushConsumer, DefaultMQPushConsumerImpl.
    """

    __slots__ = (
        "_counters",
        "_filter_hooks",
        "_hooks",
        "_listener",
        "_lock",
        "_made_at",
        "_parts",
        "_runtime",
        "_shutdown_asked",
        "_state",
        "_subscriptions",
        "group",
    )

    def __init__(self, consumer_group: str, **settings: Unpack[ConsumerSettings]) -> None:
        check_names(ConsumerConfig, settings)
        super().__init__(**settings)
        self.group = consumer_group
        self._runtime: Runtime = ThreadRuntime()
        self._made_at = self._runtime.clock.wall_ms()  # Java: consumerStartTimestamp
        self._lock = Mutex()  # guards the state and the parts
        self._state = ServiceState.CREATE_JUST
        self._listener: MessageListenerConcurrently | MessageListenerOrderly | None = None
        self._subscriptions: dict[str, SubscriptionData] = {}
        self._hooks: list[ConsumeMessageHook] = []
        self._filter_hooks: list[FilterMessageHook] = []
        self._counters = ConsumerCounters()
        self._parts: Parts | None = None
        self._shutdown_asked = False

    def subscribe(self, topic: str, expression: str | MessageSelector | None = SUB_ALL) -> None:
        """Consume a topic, or change the expression; also while running.

        Args:
            topic: its name.
            expression: ``*`` or None for everything, tags separated by ``||``, or a ``MessageSelector``.

        A part of a tag expression that looks like another operator (``A && B``) is logged as a warning. Whether a
        broker takes an SQL expression is asked at ``start``; while running a refusal is only in the log.

        Raises:
            ConfigError: the name or the expression is not legal.
        """
        self._check_not_forked()
        names.check_topic(topic)
        topic = self.with_namespace(topic)
        names.check_topic(topic)  # with its namespace it may be too long
        if not isinstance(expression, MessageSelector):
            expression = MessageSelector.by_tag(expression)
        subscription = build_selected(topic, expression, self._runtime.clock.wall_ms())
        for tag in subscription.tags_set:
            if _NO_OPERATORS.search(tag):
                _log.warning(
                    "group %s: the expression %r of topic %s is taken as a tag %r: only || joins tags",
                    self.group, expression.expression, topic, tag,
                )  # fmt: skip
        with self._lock:
            self._subscriptions[topic] = subscription
            parts = self._parts
        if parts is not None:
            parts.subscribe(subscription)

    def unsubscribe(self, topic: str) -> None:
        """Stop consuming a topic; also while running. Its queues are given up at the next rebalance, at once."""
        self._check_not_forked()
        topic = self.with_namespace(topic)
        with self._lock:
            self._subscriptions.pop(topic, None)
            parts = self._parts
        if parts is not None:
            parts.unsubscribe(topic)

    def register_message_listener(self, listener: MessageListenerConcurrently | MessageListenerOrderly) -> None:
        """Say what to call with messages. The kind of the listener decides whether queues are consumed in order.

        Raises:
            ConfigError: it is no listener, has nothing to call, or is an ``async def``.
            IllegalStateError: the consumer is running.
        """
        check_listener(listener)
        with self._lock:
            if self._state is not ServiceState.CREATE_JUST:
                raise IllegalStateError(f"register the listener before start: the consumer is {self._state.value}")
            self._listener = listener

    def register_consume_message_hook(self, hook: ConsumeMessageHook) -> None:
        """Have a hook called around every listener call.

        Raises:
            ConfigError: it lacks a method.
        """
        for method in ("consume_message_before", "consume_message_after"):
            if not callable(getattr(hook, method, None)):
                raise ConfigError(f"a ConsumeMessageHook needs a method {method}, {hook!r} has none")
        self._hooks.append(hook)

    def register_filter_message_hook(self, hook: FilterMessageHook) -> None:
        """Have a hook leave messages out before the listener gets them; also while running.

        Raises:
            ConfigError: it lacks its method.
        """
        if not callable(getattr(hook, "filter_message", None)):
            raise ConfigError(f"a FilterMessageHook needs a method filter_message, {hook!r} has none")
        self._filter_hooks.append(hook)

    @property
    def state(self) -> ServiceState:
        """Where in its life the consumer is."""
        return self._state

    def counters(self) -> Mapping[Event, int]:
        """Counts of rare events since the consumer was made: stuck windows, failed send-backs and so on."""
        return self._counters.snapshot()

    def windows(self) -> Mapping[MessageQueue, WindowSnapshot]:
        """The queues that this member owns now, those of the retry topic too, with their windows.

        A copy, for display and diagnosis: it asks no server, and takes about 10 microseconds per 1,000 messages cached.
        Each window is seen as a whole, the windows one after the other. Any thread may call it, also often.
        Empty unless the consumer is running.
        """
        with self._lock:
            parts = self._parts
        return {} if parts is None else parts.windows()

    def start(self) -> None:
        """Check the settings, connect, join the group and begin to consume. Blocks until brokers know this member.

        Raises:
            ConfigError: a setting is out of range, no listener, no subscription, no name server.
            IllegalStateError: started before; or the group has a consumer in this client already.
            BrokerError: every broker refuses this client for want of permission, or one refuses an expression.
            RocketMQError: no name server could be reached. ``start`` can be tried again.

        Source: DefaultMQPushConsumerImpl.start.
        """
        self._check_not_forked()
        listener = self._check()
        self._shutdown_asked = False
        self._enter(ServiceState.STARTING)
        try:
            parts = self._join_group(listener)
        except BaseException:
            self._enter(ServiceState.CREATE_JUST)
            raise
        with self._lock:
            self._parts = parts
            for subscription in self._subscriptions.values():
                if subscription not in parts.subscriptions:  # made while start was under way
                    parts.subscribe(subscription)
        self._enter(ServiceState.RUNNING)
        if self._shutdown_asked:
            self.shutdown()
            return
        self._warn_of_batch_size()

    def _join_group(self, listener: MessageListenerConcurrently | MessageListenerOrderly) -> Parts:
        parts = self._make_parts(listener)
        try:
            parts.join_group()
        except BaseException:
            parts.leave_group(FAILED_START_AWAIT_MS)
            raise
        return parts

    def _make_parts(self, listener: MessageListenerConcurrently | MessageListenerOrderly) -> Parts:
        with self._lock:
            subscriptions = list(self._subscriptions.values())
        if self.endpoints is not None:
            from rocketmq_py.grpc_consumer_parts import GrpcConsumerParts

            return GrpcConsumerParts(self._setup(listener), subscriptions)
        client = process_clients.acquire(self)
        try:
            return ConsumerParts(self._setup(listener), client, subscriptions)
        except BaseException:
            process_clients.release(client)
            raise

    def _setup(self, listener: MessageListenerConcurrently | MessageListenerOrderly) -> ConsumerSetup:
        return ConsumerSetup(
            group=self.with_namespace(self.group),
            config=self,
            runtime=self._runtime,
            listener=listener,
            hooks=self._hooks,
            filter_hooks=self._filter_hooks,
            counters=self._counters,
            made_at=self._made_at,
        )

    def shutdown(self) -> None:
        """Stop pulling, consume what is cached, commit, leave the group.

        Waits at most ``await_termination_millis_when_shutdown`` for cached messages; those not consumed by then stay
        uncommitted and come again elsewhere. May be called twice, before ``start``, from a listener (whose own message
        is then not waited for) and from a signal handler.

        Source: DefaultMQPushConsumerImpl.shutdown, whose order differs (deviations).
        """
        if self._forked():
            return  # the parent's consumer goes on
        with self._lock:
            if self._state is ServiceState.CREATE_JUST:
                self._state = ServiceState.SHUTDOWN_ALREADY
            # While start() is under way: it ends what it started.
            self._shutdown_asked = self._state is ServiceState.STARTING
            if self._state is not ServiceState.RUNNING or self._parts is None:
                return
            self._state = ServiceState.STOPPING
            parts, self._parts = self._parts, None
        try:
            parts.leave_group(self.await_termination_millis_when_shutdown)
        finally:
            self._enter(ServiceState.SHUTDOWN_ALREADY)

    def suspend(self) -> None:
        """Stop pulling and rebalancing; what is cached is still consumed. Source: suspend.

        Raises:
            IllegalStateError: the consumer is not running.
        """
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Undo ``suspend``; never waits for the rebalance that follows. Source: resume.

        Raises:
            IllegalStateError: the consumer is not running.
        """
        self._set_paused(paused=False)

    def fetch_subscribe_message_queues(self, topic: str) -> list[MessageQueue]:
        """The readable queues of a topic, sorted, whoever owns them; asks a name server if they are not known.

        Source: DefaultMQPushConsumerImpl.fetchSubscribeMessageQueues.

        Raises:
            BrokerError: the topic does not exist.
            IllegalStateError: the consumer is not running.
            RocketMQError: no name server could be asked.
        """
        queues = self._running().fetch_subscribe_message_queues(self.with_namespace(topic))
        if not queues:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"the topic [{topic}] not exist: no queue can be read")
        return sorted(MessageQueue(topic, mq.broker_name, mq.queue_id) for mq in queues)

    def reset_offset_by_timestamp(self, timestamp_ms: int) -> None:
        """Go on at the messages stored at or after a moment, in all queues that this member owns.

        The queues pause for 10 s, as when an operator resets them. Source: resetOffsetByTimeStamp.

        Args:
            timestamp_ms: ms since 1970.

        Raises:
            IllegalStateError: the consumer is not running.
            RocketMQError: a broker could not be asked; nothing was changed for its topic.
        """
        check_range("timestamp_ms", timestamp_ms, 0, 2**63 - 1)
        self._running().reset_offset_by_timestamp(timestamp_ms)

    def send_message_back(self, msg: MessageExt, delay_level: int) -> None:
        """Have a message come again through the retry topic, whatever its listener answers; blocks up to 8 s.

        Source: DefaultMQPushConsumer.sendMessageBack.

        Args:
            msg: a message that this consumer got.
            delay_level: -1 dead-letter topic, 0 the broker decides, 1..18 that level.

        Raises:
            IllegalStateError: the consumer is not running.
            ConnectError: it could not be stored; the log says why.
        """
        check_range("delay_level", delay_level, -1, INT_MAX)
        if not self._running().send_message_back(msg, delay_level):
            raise ConnectError(f"message {msg.msg_id} could not be sent back, see the log for the reason")

    def update_core_pool_size(self, core_pool_size: int) -> None:
        """Have so many consume threads from now on; those too many end when they have done what is queued.

        Source: DefaultMQPushConsumer.updateCorePoolSize, which ignores values that it does not like (deviations).

        Raises:
            ConfigError: not 1 to ``consume_thread_max``.
            IllegalStateError: the consumer is not running.
        """
        check_range("core_pool_size", core_pool_size, 1, self.consume_thread_max)
        self._running().update_core_pool_size(core_pool_size)

    def _set_paused(self, paused: bool) -> None:
        self._running().set_paused(paused)

    def __repr__(self) -> str:
        return f"<DefaultMQPushConsumer {self.group} {self._state.value} {sorted(self._subscriptions)}>"

    def _running(self) -> Parts:
        self._check_not_forked()
        with self._lock:
            parts = self._parts
        if parts is None:
            raise IllegalStateError(f"the consumer is {self._state.value}, not RUNNING")
        return parts

    def _forked(self) -> bool:
        parts = self._parts
        return parts is not None and parts.forked

    def _check_not_forked(self) -> None:
        if self._forked():
            raise IllegalStateError(FORKED.format("consumer"))

    def _check(self) -> MessageListenerConcurrently | MessageListenerOrderly:
        self.check_consumer(self.with_namespace(self.group))
        if self.namespace:
            outside = [topic for topic in self._subscriptions if self.with_namespace(topic) != topic]
            if outside:
                raise ConfigError(f"set namespace before subscribe(): {', '.join(outside)} was subscribed without it")
        if not self._subscriptions:
            raise ConfigError("nothing is subscribed: call subscribe(topic) before start()")
        if self._listener is None:
            raise ConfigError("no listener (messageListener is null): call register_message_listener() before start()")
        return self._listener

    def _enter(self, state: ServiceState) -> None:
        with self._lock:
            if state not in TRANSITIONS[self._state]:
                raise IllegalStateError(
                    f"the consumer is {self._state.value} and cannot become {state.value}; "
                    "a consumer is started once: make a new one"
                )
            self._state = state

    def _warn_of_batch_size(self) -> None:
        per_pull = min(self.pull_batch_size, BROKER_PULL_BATCH_MAX)
        if self.consume_message_batch_max_size > per_pull:
            _log.warning(
                "group %s: consume_message_batch_max_size is %s, but a listener call gets what one pull brings, at "
                "most %s (pull_batch_size is %s; brokers give %s unless maxTransferCountOnMessageInMemory is raised)",
                self.group, self.consume_message_batch_max_size, per_pull, self.pull_batch_size,
                BROKER_PULL_BATCH_MAX,
            )  # fmt: skip
