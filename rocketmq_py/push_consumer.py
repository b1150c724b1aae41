"""The push consumer: builds its parts, starts and ends them in order. The only place where core and wire are joined."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, Self

from rocketmq_py.client_instance import FORKED, MQClientInstance, process_clients
from rocketmq_py.consumer.allocate import AllocateMessageQueueAveragely
from rocketmq_py.consumer.broker_assignment import BrokerAssignment
from rocketmq_py.consumer.consume_message_concurrently_service import ConsumeMessageConcurrentlyService
from rocketmq_py.consumer.consume_message_orderly_service import ConsumeMessageOrderlyService
from rocketmq_py.consumer.consume_message_pop_concurrently_service import ConsumeMessagePopConcurrentlyService
from rocketmq_py.consumer.hooks import ConsumeMessageHook, FilterMessageHook
from rocketmq_py.consumer.local_file_offset_store import LocalFileOffsetStore
from rocketmq_py.consumer.message_popper import MessagePopper, init_mode
from rocketmq_py.consumer.message_puller import MessagePuller
from rocketmq_py.consumer.offset_file import OffsetFile, offset_file_path
from rocketmq_py.consumer.offset_store import OffsetStore, ReadOffsetType, RemoteBrokerOffsetStore
from rocketmq_py.consumer.pop_queues import PopQueues
from rocketmq_py.consumer.pop_settlement import PopSettlement
from rocketmq_py.consumer.ports import Broker, Group, PopBroker
from rocketmq_py.consumer.process_queue import WindowSnapshot
from rocketmq_py.consumer.rebalance import RebalanceImpl
from rocketmq_py.consumer.reset_offset import OffsetReset
from rocketmq_py.consumer.running_info import consumer_running_info
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import BrokerError, ConfigError, IllegalStateError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.config import ConsumerConfig, MessageModel, check_names, check_range
from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly, check_listener
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.running_info import ConsumeMessageDirectlyResult, ConsumerRunningInfo
from rocketmq_py.model.subscription import (
    SUB_ALL,
    MessageSelector,
    SubscriptionData,
    build_selected,
    build_subscription_data,
)
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.bodies import ConsumerData
from rocketmq_py.runtime import Mutex, Runtime, ThreadRuntime, thread_stacks
from rocketmq_py.trace.consume_message_trace_hook import ConsumeMessageTraceHook
from rocketmq_py.trace.message_trace import CONSUME, MessageTrace

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


class DefaultMQPushConsumer(ConsumerConfig):
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

    def __init__(self, consumer_group: str, **settings: Any) -> None:
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
        self._parts: _Parts | None = None
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
            parts.rebalance.subscribe(subscription)
            parts.client.rebalance_immediately()

    def unsubscribe(self, topic: str) -> None:
        """Stop consuming a topic; also while running. Its queues are given up at the next rebalance, at once."""
        self._check_not_forked()
        topic = self.with_namespace(topic)
        with self._lock:
            self._subscriptions.pop(topic, None)
            parts = self._parts
        if parts is not None:
            parts.rebalance.unsubscribe(topic)
            parts.client.rebalance_immediately()

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
        self._check()
        self._shutdown_asked = False
        self._enter(ServiceState.STARTING)
        try:
            parts = self._join_group()
        except BaseException:
            self._enter(ServiceState.CREATE_JUST)
            raise
        with self._lock:
            self._parts = parts
            for subscription in self._subscriptions.values():
                if subscription not in parts.subscriptions:  # made while start was under way
                    parts.rebalance.subscribe(subscription)
        self._enter(ServiceState.RUNNING)
        if self._shutdown_asked:
            self.shutdown()
            return
        self._warn_of_batch_size()

    def _join_group(self) -> _Parts:
        client = process_clients.acquire(self)
        try:
            with self._lock:
                subscriptions = list(self._subscriptions.values())
            parts = _Parts(self, client, self._listener, subscriptions)  # type: ignore[arg-type] # checked
        except BaseException:
            process_clients.release(client)
            raise
        try:
            parts.join_group()
        except BaseException:
            parts.leave_group(FAILED_START_AWAIT_MS)
            raise
        return parts

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

    def update_core_pool_size(self, core_pool_size: int) -> None:
        """Have so many consume threads from now on; those too many end when they have done what is queued.

        Source: DefaultMQPushConsumer.updateCorePoolSize, which ignores values that it does not like (deviations).

        Raises:
            ConfigError: not 1 to ``consume_thread_max``.
            IllegalStateError: the consumer is not running.
        """
        self._check_not_forked()
        check_range("core_pool_size", core_pool_size, 1, self.consume_thread_max)
        with self._lock:
            parts = self._parts
        if parts is None:
            raise IllegalStateError(f"the consumer is {self._state.value}, not RUNNING")
        parts.update_core_pool_size(core_pool_size)

    def _set_paused(self, paused: bool) -> None:
        self._check_not_forked()
        with self._lock:
            parts = self._parts
        if parts is None:
            raise IllegalStateError(f"the consumer is {self._state.value}, not RUNNING")
        parts.puller.paused = parts.rebalance.paused = paused
        if parts.pops is not None:
            parts.pops.popper.paused = paused
        if not paused:
            parts.client.rebalance_immediately()

    def __enter__(self) -> Self:
        """``start``."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """``shutdown``."""
        self.shutdown()

    def __repr__(self) -> str:
        return f"<DefaultMQPushConsumer {self.group} {self._state.value} {sorted(self._subscriptions)}>"

    def _forked(self) -> bool:
        parts = self._parts
        return parts is not None and parts.client.forked

    def _check_not_forked(self) -> None:
        if self._forked():
            raise IllegalStateError(FORKED.format("consumer"))

    def _check(self) -> None:
        self.check_consumer(self.with_namespace(self.group))
        if self.namespace:
            outside = [topic for topic in self._subscriptions if self.with_namespace(topic) != topic]
            if outside:
                raise ConfigError(f"set namespace before subscribe(): {', '.join(outside)} was subscribed without it")
        if not self._subscriptions:
            raise ConfigError("nothing is subscribed: call subscribe(topic) before start()")
        if self._listener is None:
            raise ConfigError("no listener (messageListener is null): call register_message_listener() before start()")

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


class _Parts:
    """Everything that a running consumer consists of. Satisfies ``client_instance.ConsumerInner``."""

    def __init__(
        self,
        consumer: DefaultMQPushConsumer,
        shared: MQClientInstance,
        listener: MessageListenerConcurrently | MessageListenerOrderly,
        subscriptions: Sequence[SubscriptionData],
    ) -> None:
        runtime, config, group = consumer._runtime, consumer, consumer.with_namespace(consumer.group)
        self._config = config
        self._clock = runtime.clock
        self._group = group
        self._core_pool_size = config.consume_thread_min
        orderly = isinstance(listener, MessageListenerOrderly)
        clustering = config.message_model is MessageModel.CLUSTERING
        self.client = shared
        broker: Broker = self.client.broker
        client: Group = self.client
        send_back = SendMessageBack(
            group,
            config.effective_max_reconsume_times(orderly),
            broker,
            RateLimitedLog(runtime.clock, _log),
            config.namespace,
        )
        self.pops: _PopParts | None = None
        if not config.client_rebalance and clustering and isinstance(listener, MessageListenerConcurrently):
            self.pops = _PopParts(
                group,
                consumer,
                shared,
                listener,
                send_back,
                lambda topic: self.rebalance.newest_subscription(topic),  # noqa: PLW0108 - made below
            )
        self._offset_store = self._make_offset_store(runtime, broker)
        self.rebalance = RebalanceImpl(
            group=group,
            config=config,
            strategy=config.allocate_message_queue_strategy or AllocateMessageQueueAveragely(),
            runtime=runtime,
            broker=broker,
            client=client,
            offset_store=self._offset_store,
            dispatch=lambda request, delay_ms: self.puller.execute_pull_request_later(request, delay_ms),  # noqa: PLW0108 - made below
            orderly=orderly,
            assignment=None if self.pops is None else self.pops.assignment,
        )
        consume = check_listener(listener)
        stats = shared.consumer_stats.group(group)
        self._consume_service: ConsumeMessageConcurrentlyService | ConsumeMessageOrderlyService
        if orderly:
            self._consume_service = ConsumeMessageOrderlyService(
                group=group,
                config=config,
                listener=consume,
                runtime=runtime,
                offset_store=self._offset_store,
                send_back=send_back,
                hooks=consumer._hooks,
                counters=consumer._counters,
                stats=stats,
                locks=self.rebalance.locks,
            )
        else:
            self._consume_service = ConsumeMessageConcurrentlyService(
                group=group,
                config=config,
                listener=consume,
                runtime=runtime,
                offset_store=self._offset_store,
                send_back=send_back,
                hooks=consumer._hooks,
                counters=consumer._counters,
                stats=stats,
                windows=self.rebalance.windows,
            )
        self.puller = MessagePuller(
            group=group,
            config=config,
            runtime=runtime,
            broker=broker,
            client=client,
            dispatch=self.client.pulls,
            offset_store=self._offset_store,
            counters=consumer._counters,
            stats=stats,
            subscription=self.rebalance.subscription,
            newest_subscription=self.rebalance.newest_subscription,
            consume=self._consume_service.submit_consume_request,
            offset_illegal=self.rebalance.correct_offset,
            orderly=orderly,
            first_locked_offset=self.rebalance.compute_pull_from_where if self.rebalance.locks is not None else None,
            filter_hooks=consumer._filter_hooks,
        )
        self._offset_reset = OffsetReset(
            group=group,
            windows=self.rebalance.windows,
            offset_store=self._offset_store,
            dispatch=self.client.pulls,
            give_up=self.rebalance.remove_process_queue,
            rebalance=self.client.rebalance_immediately,
        )
        self._orderly = orderly
        self._hooks = consumer._hooks
        self._counters = consumer._counters
        self._runtime = runtime
        self._trace: MessageTrace | None = None
        self._trace_hook: ConsumeMessageTraceHook | None = None
        self.joined = False
        self.subscriptions = subscriptions
        for subscription in subscriptions:
            self.rebalance.subscribe(subscription)
        if clustering:  # broadcasting does not retry
            retry_topic = names.retry_topic(group)
            self.rebalance.subscribe(build_subscription_data(retry_topic, SUB_ALL, runtime.clock.wall_ms()))

    def _make_offset_store(self, runtime: Runtime, broker: Broker) -> OffsetStore:
        config, warnings = self._config, RateLimitedLog(runtime.clock, _log)
        if config.offset_store is not None:
            store: OffsetStore = config.offset_store
            return store
        if config.message_model is MessageModel.CLUSTERING:
            return RemoteBrokerOffsetStore(self._group, broker, warnings)
        path = offset_file_path(config.local_offset_store_dir, self.client.client_id, self._group)
        return LocalFileOffsetStore(self._group, OffsetFile(path, warnings), runtime, warnings)

    # Life.

    def join_group(self) -> None:
        """Register, learn routes, let brokers know, begin. Source: DefaultMQPushConsumerImpl.start, second half."""
        self._offset_store.load()
        if not self.client.register_consumer(self):
            raise IllegalStateError(
                f"the consumer group {self._group} has a consumer in client {self.client.client_id} already: "
                "use another group or another instance_name"
            )
        for topic in self.rebalance.topics():
            try:
                found = self.client.update_topic_route(topic)
            except BrokerError as error:
                _log.warning("group %s: no route of topic %s: %s", self._group, topic, error)
                continue
            if not found and not topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
                _log.warning(
                    "group %s: topic %s does not exist (yet); it is looked for every %s ms",
                    self._group, topic, self._config.poll_name_server_interval,
                )  # fmt: skip
        self.client.check_client_in_broker(self._group, self.subscriptions)
        self._start_trace()
        self._consume_service.start()
        self.puller.running = True
        if self.pops is not None:
            self.pops.popper.running = True
        if not self.client.send_heartbeat_to_all_brokers() and (refusal := self.client.refusal) is not None:
            raise refusal
        self.joined = True
        self.client.rebalance_immediately()

    def leave_group(self, await_ms: int) -> None:
        """Stop in an order that loses nothing: no new pulls, drain, drop, commit, leave."""
        self.joined = False
        self.puller.shutdown()
        if self.pops is not None:
            self.pops.popper.running = False
        self.rebalance.paused = True
        try:
            if not self._drain(await_ms):
                _log.warning(
                    "group %s: not all cached messages were consumed within %s ms, the rest comes again elsewhere",
                    self._group, await_ms,
                )  # fmt: skip
        finally:
            # Also when Ctrl-C ends the waiting: a member that has not left keeps its queues and consumes none of them.
            self._leave()

    def _drain(self, await_ms: int) -> bool:
        if self.pops is None:
            return self._consume_service.shutdown(await_ms)
        ends_ms = self._clock.monotonic_ms() + await_ms
        finished = False
        try:
            finished = self._consume_service.shutdown(await_ms)
        finally:
            popped_finished = self.pops.service.shutdown(max(ends_ms - self._clock.monotonic_ms(), 0))
        return finished and popped_finished

    def _leave(self) -> None:
        owned = self.rebalance.destroy()  # from here on late results change no offset
        try:
            self._offset_store.persist_at_shutdown([mq for mq, queue in owned if self.rebalance.may_commit(queue)])
            self.rebalance.unlock_idle(owned)  # after the commit: the next owner asks for it at once
        finally:
            try:
                self.client.unregister_consumer(self)
                self._end_trace()  # others have the queues by now: sending what waits may take a while
            finally:
                process_clients.release(self.client)

    def _start_trace(self) -> None:
        """Source: the end of DefaultMQPushConsumer.start, where the first messages have gone by already."""
        if not self._config.enable_msg_trace:
            return
        self._trace = MessageTrace(
            client=self.client,
            group=self._group,
            kind=CONSUME,
            topic=self._config.customized_trace_topic or names.RMQ_SYS_TRACE_TOPIC,
            batch_num=self._config.trace_msg_batch_num,
            runtime=self._runtime,
            on_lost=lambda contexts: self._counters.count(Event.TRACE_LOST, contexts),
        )
        self._trace_hook = ConsumeMessageTraceHook(self._trace.dispatcher, self._runtime.clock)
        self._hooks.append(self._trace_hook)

    def _end_trace(self) -> None:
        if self._trace_hook is not None:
            self._hooks.remove(self._trace_hook)
        if self._trace is not None:
            self._trace.shutdown()

    def windows(self) -> dict[MessageQueue, WindowSnapshot]:
        """See ``DefaultMQPushConsumer.windows``."""
        return {
            mq: queue.snapshot(self._offset_store.read_offset(mq, ReadOffsetType.READ_FROM_MEMORY))
            for mq, queue in self.rebalance.windows()
            if not queue.dropped
        }

    # What operators ask of a consumer.

    def update_core_pool_size(self, size: int) -> None:
        """See ``DefaultMQPushConsumer.update_core_pool_size``."""
        self._core_pool_size = size
        self._consume_service.update_core_pool_size(size)
        if self.pops is not None:
            self.pops.service.update_core_pool_size(size)

    def consumer_running_info(self, jstack: bool) -> ConsumerRunningInfo:
        return consumer_running_info(
            group=self._group,
            config=self._config,
            client_id=self.client.client_id,
            orderly=self._orderly,
            start_timestamp=self._config._made_at,
            subscriptions=self.rebalance.subscriptions_to_announce(),
            windows=self.rebalance.windows(),
            popped=() if self.pops is None else self.pops.assignment.pops.queues(),
            offset_store=self._offset_store,
            stats=self.client.consumer_stats,
            clock=self._runtime.clock,
            core_pool_size=self._core_pool_size,
            jstack=thread_stacks() if jstack else None,
        )

    def consumer_status(self, topic: str) -> dict[MessageQueue, int]:
        return self._offset_store.clone_offset_table(topic)

    def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
        return self._consume_service.consume_message_directly(msg)

    def reset_offset(self, topic: str, offsets: Mapping[MessageQueue, int]) -> None:
        self._offset_reset.reset(topic, offsets)

    # What the client asks of a consumer.

    @property
    def group(self) -> str:
        return self._group

    def heartbeat(self) -> ConsumerData:
        return ConsumerData(
            group=self._group,
            consume_from_where=self._config.consume_from_where.value,
            unit_mode=self._config.unit_mode,
            message_model=self._config.message_model.value,
            subscriptions=self.rebalance.subscriptions_to_announce(),
        )

    def topics(self) -> Sequence[str]:
        return self.rebalance.topics()

    def update_topic_subscribe_info(self, topic: str, queues: Sequence[MessageQueue]) -> bool:
        return self.rebalance.update_topic_subscribe_info(topic, queues)

    def is_subscribe_topic_need_update(self, topic: str) -> bool:
        return self.rebalance.is_subscribe_topic_need_update(topic)

    def do_rebalance(self) -> bool:
        return self.rebalance.do_rebalance()

    def persist_consumer_offset(self) -> None:
        try:
            self._offset_store.persist_all([mq for mq, _ in self.rebalance.windows()], self.rebalance.withheld())
        except RocketMQError:
            _log.exception("group %s: committing offsets failed", self._group)


class _PopParts:
    """What a consumer consists of beside the rest when a broker assigns its queues and may have them popped."""

    def __init__(
        self,
        group: str,
        consumer: DefaultMQPushConsumer,
        shared: MQClientInstance,
        listener: MessageListenerConcurrently,
        send_back: SendMessageBack,
        subscription: Callable[[str], SubscriptionData | None],
    ) -> None:
        runtime, config, counters = consumer._runtime, consumer, consumer._counters
        stats = shared.consumer_stats.group(group)
        broker: PopBroker = shared.pop_broker
        settlement = PopSettlement(group, broker, counters, RateLimitedLog(runtime.clock, _log))
        self.service = ConsumeMessagePopConcurrentlyService(
            group=group,
            config=config,
            listener=check_listener(listener),
            runtime=runtime,
            settlement=settlement,
            send_back=send_back,
            hooks=consumer._hooks,
            counters=counters,
            stats=stats,
        )
        self.popper = MessagePopper(
            group=group,
            config=config,
            runtime=runtime,
            broker=broker,
            dispatch=shared.pulls,
            counters=counters,
            stats=stats,
            subscription=subscription,
            settlement=settlement,
            consume=self.service.submit_pop_consume_request,
            filter_hooks=consumer._filter_hooks,
        )
        queues = PopQueues(group, runtime.clock, lambda: init_mode(config), self.popper.execute_pop_pull_request_later)
        strategy = config.allocate_message_queue_strategy or AllocateMessageQueueAveragely()
        self.assignment = BrokerAssignment(group, strategy.get_name(), shared, queues, runtime.clock)
