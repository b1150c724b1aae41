"""What a running consumer consists of: made by ``start``, thrown away by ``shutdown``. Joins core and wire."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rocketmq_py.client_instance import MQClientInstance, process_clients
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
from rocketmq_py.consumer.pop_failures import DelayTableFailures
from rocketmq_py.consumer.pop_queues import PopQueues
from rocketmq_py.consumer.pop_settlement import PopSettlement
from rocketmq_py.consumer.pop_terms import RemotingPopTerms
from rocketmq_py.consumer.ports import Broker, Group, PopBroker, StatusBroker
from rocketmq_py.consumer.process_queue import WindowSnapshot
from rocketmq_py.consumer.rebalance import RebalanceImpl
from rocketmq_py.consumer.reset_offset import OffsetReset
from rocketmq_py.consumer.running_info import consumer_running_info
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.consumer.status_acknowledger import StatusAcknowledger
from rocketmq_py.errors import BrokerError, IllegalStateError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.config import ConsumerConfig, MessageModel
from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly, check_listener
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.running_info import ConsumeMessageDirectlyResult, ConsumerRunningInfo
from rocketmq_py.model.subscription import (
    SUB_ALL,
    SubscriptionData,
    build_subscription_data,
)
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.bodies import ConsumerData
from rocketmq_py.runtime import Runtime, operators_stacks
from rocketmq_py.trace.consume_message_trace_hook import ConsumeMessageTraceHook
from rocketmq_py.trace.message_trace import CONSUME, MessageTrace

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsumerSetup:
    """What a user set up before ``start``.

    Attributes:
        group: its name, with the namespace.
        config: the settings; some are read again while the consumer runs.
        runtime: maker of threads and timers.
        listener: of either kind, checked.
        hooks: called around every listener call; the list may grow.
        filter_hooks: may leave out pulled messages; the list may grow.
        counters: rare events.
        made_at: when the consumer was made, ms since 1970.
    """

    group: str
    config: ConsumerConfig
    runtime: Runtime
    listener: MessageListenerConcurrently | MessageListenerOrderly
    hooks: list[ConsumeMessageHook]
    filter_hooks: list[FilterMessageHook]
    counters: ConsumerCounters
    made_at: int


class ConsumerParts:
    """Everything that a running consumer consists of. Satisfies ``client_instance.ConsumerInner``."""

    def __init__(
        self,
        setup: ConsumerSetup,
        shared: MQClientInstance,
        subscriptions: Sequence[SubscriptionData],
    ) -> None:
        runtime, config, group, listener = setup.runtime, setup.config, setup.group, setup.listener
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
        self._send_back = send_back
        self._broker = broker
        self.pops: PopParts | None = None
        if not config.client_rebalance and clustering and isinstance(listener, MessageListenerConcurrently):
            self.pops = PopParts(
                setup,
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
                hooks=setup.hooks,
                counters=setup.counters,
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
                hooks=setup.hooks,
                counters=setup.counters,
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
            counters=setup.counters,
            stats=stats,
            subscription=self.rebalance.subscription,
            newest_subscription=self.rebalance.newest_subscription,
            consume=self._consume_service.submit_consume_request,
            offset_illegal=self.rebalance.correct_offset,
            orderly=orderly,
            first_locked_offset=self.rebalance.compute_pull_from_where if self.rebalance.locks is not None else None,
            filter_hooks=setup.filter_hooks,
        )
        self._offset_reset = OffsetReset(
            group=group,
            windows=self.rebalance.windows,
            offset_store=self._offset_store,
            dispatch=self.client.pulls,
            give_up=self.rebalance.remove_process_queue,
            rebalance=self.client.rebalance_immediately,
        )
        self._acknowledger: StatusAcknowledger | None = None
        if clustering:  # a broadcasting member consumes for itself, the broker keeps no statuses of that
            status_broker: StatusBroker = self.client.broker
            warnings = RateLimitedLog(runtime.clock, _log)
            self._acknowledger = StatusAcknowledger(group, status_broker, runtime, setup.counters, warnings)
        self._orderly = orderly
        self._listener = listener
        self._made_at = setup.made_at
        self._hooks = setup.hooks
        self._counters = setup.counters
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

    # Subscriptions and life.

    @property
    def forked(self) -> bool:
        """See ``MQClientInstance.forked``."""
        return self.client.forked

    def subscribe(self, subscription: SubscriptionData) -> None:
        """Consume a further topic, or by another expression."""
        self.rebalance.subscribe(subscription)
        self.client.rebalance_immediately()

    def unsubscribe(self, topic: str) -> None:
        """Consume a topic no more."""
        self.rebalance.unsubscribe(topic)
        self.client.rebalance_immediately()

    def set_paused(self, paused: bool) -> None:
        """Pull no more, or again."""
        self.puller.paused = self.rebalance.paused = paused
        if self.pops is not None:
            self.pops.popper.paused = paused
        if not paused:
            self.client.rebalance_immediately()

    def join_group(self) -> None:
        """Register, learn routes, let brokers know, begin. Source: DefaultMQPushConsumerImpl.start, second half."""
        self._listener.consumer_started()
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
                    "group %s: topic %s does not exist (yet); it is looked for every few seconds", self._group, topic
                )
        self.client.check_client_in_broker(self._group, self.subscriptions)
        self._start_trace()
        self._consume_service.start()
        self.puller.running = True
        if self.pops is not None:
            self.pops.popper.running = True
        if not self.client.send_heartbeat_to_all_brokers() and (refusal := self.client.refusal) is not None:
            raise refusal
        self.joined = True
        self._look_whether_to_acknowledge()
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

    def _stop_listener(self) -> None:
        """Before others have the queues: a listener with a pool begins nothing more for them."""
        try:
            self._listener.consumer_stopped()
        except BaseException:  # noqa: BLE001 - border: neither the listener nor Ctrl-C may keep the group's queues
            _log.exception("group %s: the listener's consumer_stopped failed", self._group)

    def _leave(self) -> None:
        owned = self.rebalance.destroy()  # from here on late results change no offset
        self._stop_listener()
        try:
            if self._acknowledger is not None:
                self._acknowledger.shutdown()
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
            topic=self._config.customized_trace_topic,
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

    def _look_whether_to_acknowledge(self) -> None:
        if self._acknowledger is not None and self.joined:
            self._consume_service.acknowledge = self._acknowledger.look()

    def windows(self) -> dict[MessageQueue, WindowSnapshot]:
        """See ``DefaultMQPushConsumer.windows``."""
        return {
            mq: queue.snapshot(self._offset_store.read_offset(mq, ReadOffsetType.READ_FROM_MEMORY))
            for mq, queue in self.rebalance.windows()
            if not queue.dropped
        }

    # What users ask of a consumer besides.

    def fetch_subscribe_message_queues(self, topic: str) -> frozenset[MessageQueue]:
        """See ``DefaultMQPushConsumer.fetch_subscribe_message_queues``."""
        if not self.rebalance.topic_queues(topic):
            self.client.update_topic_route(topic)
        return self.rebalance.topic_queues(topic) or frozenset(self.client.routes.subscribe_queues(topic))

    def reset_offset_by_timestamp(self, timestamp_ms: int) -> None:
        """See ``DefaultMQPushConsumer.reset_offset_by_timestamp``."""
        for topic in self.rebalance.topics():
            queues = self.rebalance.topic_queues(topic)
            self._offset_reset.reset(topic, {mq: self._broker.search_offset(mq, timestamp_ms) for mq in queues})

    def send_message_back(self, msg: MessageExt, delay_level: int) -> bool:
        """See ``DefaultMQPushConsumer.send_message_back``."""
        return self._send_back.send(msg, delay_level)

    # What operators ask of a consumer.

    def update_core_pool_size(self, size: int) -> None:
        """See ``DefaultMQPushConsumer.update_core_pool_size``."""
        self._core_pool_size = size
        self._consume_service.update_core_pool_size(size)
        if self.pops is not None:
            self.pops.service.update_core_pool_size(size)

    def consumer_running_info(self, jstack: bool) -> ConsumerRunningInfo:
        """See ``OperatedConsumer.consumer_running_info``."""
        return consumer_running_info(
            group=self._group,
            config=self._config,
            client_id=self.client.client_id,
            orderly=self._orderly,
            start_timestamp=self._made_at,
            subscriptions=self.rebalance.subscriptions_to_announce(),
            windows=self.rebalance.windows(),
            popped=() if self.pops is None else self.pops.assignment.pops.queues(),
            offset_store=self._offset_store,
            stats=self.client.consumer_stats,
            clock=self._runtime.clock,
            core_pool_size=self._core_pool_size,
            jstack=operators_stacks.text() if jstack else None,
        )

    def consumer_status(self, topic: str) -> dict[MessageQueue, int]:
        """See ``OperatedConsumer.consumer_status``."""
        self.rebalance.windows()  # settles: the store has what is finished
        return self._offset_store.clone_offset_table(topic)

    def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
        """See ``OperatedConsumer.consume_message_directly``."""
        return self._consume_service.consume_message_directly(msg)

    def reset_offset(self, topic: str, offsets: Mapping[MessageQueue, int]) -> None:
        """See ``OperatedConsumer.reset_offset``."""
        self._offset_reset.reset(topic, offsets)

    # What the client asks of a consumer.

    @property
    def group(self) -> str:
        """See ``ConsumerInner.group``."""
        return self._group

    def heartbeat(self) -> ConsumerData:
        """See ``ConsumerInner.heartbeat``."""
        return ConsumerData(
            group=self._group,
            consume_from_where=self._config.consume_from_where.value,
            unit_mode=self._config.unit_mode,
            message_model=self._config.message_model.value,
            subscriptions=self.rebalance.subscriptions_to_announce(),
        )

    def topics(self) -> Sequence[str]:
        """See ``ConsumerInner.topics``."""
        return self.rebalance.topics()

    def update_topic_subscribe_info(self, topic: str, queues: Sequence[MessageQueue]) -> bool:
        """See ``ConsumerInner.update_topic_subscribe_info``."""
        return self.rebalance.update_topic_subscribe_info(topic, queues)

    def is_subscribe_topic_need_update(self, topic: str) -> bool:
        """See ``ConsumerInner.is_subscribe_topic_need_update``."""
        return self.rebalance.is_subscribe_topic_need_update(topic)

    def do_rebalance(self) -> bool:
        """See ``ConsumerInner.do_rebalance``."""
        return self.rebalance.do_rebalance()

    def persist_consumer_offset(self) -> None:
        """See ``ConsumerInner.persist_consumer_offset``; a good moment to look at the last heartbeats' answers, too."""
        self._look_whether_to_acknowledge()
        try:
            self._offset_store.persist_all([mq for mq, _ in self.rebalance.windows()], self.rebalance.withheld())
        except RocketMQError:
            _log.exception("group %s: committing offsets failed", self._group)


class PopParts:
    """What a consumer consists of beside the rest when a broker assigns its queues and may have them popped."""

    def __init__(
        self,
        setup: ConsumerSetup,
        shared: MQClientInstance,
        listener: MessageListenerConcurrently,
        send_back: SendMessageBack,
        subscription: Callable[[str], SubscriptionData | None],
    ) -> None:
        runtime, config, group, counters = setup.runtime, setup.config, setup.group, setup.counters
        stats = shared.consumer_stats.group(group)
        broker: PopBroker = shared.pop_broker
        settlement = PopSettlement(group, broker, counters, RateLimitedLog(runtime.clock, _log))
        failures = DelayTableFailures(
            group=group,
            config=config,
            clock=runtime.clock,
            settlement=settlement,
            send_back=send_back,
            counters=counters,
        )
        self.service = ConsumeMessagePopConcurrentlyService(
            group=group,
            config=config,
            listener=check_listener(listener),
            runtime=runtime,
            settlement=settlement,
            failures=failures,
            hooks=setup.hooks,
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
            failures=failures,
            terms=RemotingPopTerms(config),
            consume=self.service.submit_pop_consume_request,
            filter_hooks=setup.filter_hooks,
        )
        queues = PopQueues(group, runtime.clock, lambda: init_mode(config), self.popper.execute_pop_pull_request_later)
        strategy = config.allocate_message_queue_strategy or AllocateMessageQueueAveragely()
        self.assignment = BrokerAssignment(group, strategy.get_name(), shared, queues, runtime.clock)
