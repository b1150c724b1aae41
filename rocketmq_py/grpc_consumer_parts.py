"""What a running consumer consists of when it speaks gRPC. Joins core and wire, as ``consumer_parts`` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from rocketmq_py.consumer.consume_message_pop_concurrently_service import ConsumeMessagePopConcurrentlyService
from rocketmq_py.consumer.consume_message_pop_orderly_service import ConsumeMessagePopOrderlyService
from rocketmq_py.consumer.consumer_stats_manager import ConsumerStatsManager
from rocketmq_py.consumer.message_popper import MessagePopper, init_mode
from rocketmq_py.consumer.pop_consume_timeouts import PopConsumeTimeouts
from rocketmq_py.consumer.pop_failures import PopFailures
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_queues import PopQueues
from rocketmq_py.consumer.pop_terms import GrpcPopTerms
from rocketmq_py.consumer.ports import ReceiptBroker
from rocketmq_py.consumer.process_queue import WindowSnapshot
from rocketmq_py.consumer.pull_message_service import PullMessageService
from rocketmq_py.consumer.rebalance_service import RebalanceService
from rocketmq_py.consumer.receipt_failures import ReceiptFailures
from rocketmq_py.consumer.receipt_settlement import ReceiptSettlement
from rocketmq_py.consumer_parts import ConsumerSetup
from rocketmq_py.errors import BrokerError, ConfigError, IllegalStateError, RocketMQError
from rocketmq_py.grpc_v2.client import GrpcClient
from rocketmq_py.grpc_v2.consumer_role import ConsumerRole
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.receipt_api import ReceiptApi
from rocketmq_py.model.codes import MASTER_ID
from rocketmq_py.model.config import ConsumeFromWhere, ConsumerConfig, MessageModel
from rocketmq_py.model.listener import MessageListenerOrderly, check_listener
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex

SCAN_MS = 5_000
"""Between questions for assignments. Source: PushConsumerImpl."""

FLUSH_MS = 3_000
"""How long the end of a consumer waits for acknowledgements under way."""

ALL_QUEUES = -1
"""A server gives from all queues of a broker, whichever is named."""

_log = logging.getLogger(__name__)


class GrpcConsumerParts:
    """Made by ``start``, thrown away by ``shutdown``; the same methods as ``ConsumerParts``."""

    def __init__(self, setup: ConsumerSetup, subscriptions: Sequence[SubscriptionData]) -> None:
        runtime, config, group, counters = setup.runtime, setup.config, setup.group, setup.counters
        check_grpc_consumer(config)
        self._group = group
        self._config = config
        self._runtime = runtime
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()
        self._subscriptions = {each.topic: each for each in subscriptions}
        self.subscriptions = subscriptions
        self.role = ConsumerRole(
            group, pb.PUSH_CONSUMER, Endpoints.parse(config.endpoints), config.mq_client_api_timeout,
            self.current_subscriptions, unsettled=self._unsettled,
        )  # fmt: skip
        self.client = GrpcClient(config, self.role, runtime)
        scheduler = self.client.scheduler
        self._pulls = PullMessageService(runtime)
        self._stats = ConsumerStatsManager(runtime.clock, scheduler)
        self._api = ReceiptApi(self.client, runtime, group)
        broker: ReceiptBroker = self._api
        self._settlement = ReceiptSettlement(
            group=group,
            broker=broker,
            runtime=runtime,
            scheduler=scheduler,
            timeout_ms=config.mq_client_api_timeout,
            counters=counters,
        )
        self._failures = ReceiptFailures(
            group=group,
            config=config,
            clock=runtime.clock,
            settlement=self._settlement,
            terms=lambda: self.role.terms,
            counters=counters,
        )
        failures: PopFailures = self._failures
        self._setup = setup
        self._orderly = isinstance(setup.listener, MessageListenerOrderly)
        self._core_pool_size = config.consume_thread_min
        self._standard: ConsumeMessagePopConcurrentlyService | None = None
        self._fifo: ConsumeMessagePopOrderlyService | None = None
        self.popper = MessagePopper(
            group=group,
            config=config,
            runtime=runtime,
            broker=broker,
            dispatch=self._pulls,
            counters=counters,
            stats=self._stats.group(group),
            subscription=self.subscription,
            settlement=self._settlement,
            failures=failures,
            terms=GrpcPopTerms(config, lambda: self.role.terms),
            consume=self._consume,
            filter_hooks=setup.filter_hooks,
        )
        self.queues = PopQueues(
            group,
            runtime.clock,
            lambda: init_mode(config),
            self.popper.execute_pop_pull_request_later,
            loops=config.receive_loop_count,
            name=self.client.client_id,
        )
        self._rebalance: RebalanceService | None = None

    # Consuming. Whether a group is consumed in order is the server's to say, and it may say otherwise any time.

    def _consume(self, msgs: list[MessageExt], queue: PopProcessQueue, mq: MessageQueue) -> None:
        """Behaviour: GC-17."""
        fifo = self.role.terms.fifo
        if self._orderly and not fifo:
            self._warnings.warning(
                "not fifo", "group %s: the server does not give messages in order any more: the listener is orderly, "
                "but what it gets may not be (rocketmq-py group update --orderly)", self._group,
            )  # fmt: skip
        service = self._fifo_service() if fifo or self._orderly else self._standard_service()
        service.submit_pop_consume_request(msgs, queue, mq)

    def _standard_service(self) -> ConsumeMessagePopConcurrentlyService:
        with self._lock:
            if self._standard is None:
                setup, scheduler = self._setup, self.client.scheduler
                self._standard = ConsumeMessagePopConcurrentlyService(
                    group=self._group,
                    config=self._config,
                    listener=check_listener(setup.listener),
                    runtime=self._runtime,
                    settlement=self._settlement,
                    failures=self._failures,
                    hooks=setup.hooks,
                    counters=setup.counters,
                    stats=self._stats.group(self._group),
                    timeouts=PopConsumeTimeouts(
                        self._group, self._config, self._runtime, scheduler, self._failures, setup.counters
                    ),
                )
                self._standard.update_core_pool_size(self._core_pool_size)
            return self._standard

    def _fifo_service(self) -> ConsumeMessagePopOrderlyService:
        with self._lock:
            if self._fifo is None:
                setup = self._setup
                self._fifo = ConsumeMessagePopOrderlyService(
                    group=self._group,
                    config=self._config,
                    listener=setup.listener,
                    runtime=self._runtime,
                    scheduler=self.client.scheduler,
                    settlement=self._settlement,
                    terms=lambda: self.role.terms,
                    max_attempts=lambda: self._failures.max_attempts,
                    hooks=setup.hooks,
                    counters=setup.counters,
                    stats=self._stats.group(self._group),
                )
                self._fifo.update_core_pool_size(self._core_pool_size)
            return self._fifo

    def _services(self) -> list[ConsumeMessagePopConcurrentlyService | ConsumeMessagePopOrderlyService]:
        with self._lock:
            return [service for service in (self._standard, self._fifo) if service is not None]

    def _unsettled(self) -> int:
        return self.queues.wait_ack_msg_count()

    # Subscriptions.

    def current_subscriptions(self) -> list[SubscriptionData]:
        """Those of this moment."""
        with self._lock:
            return list(self._subscriptions.values())

    def subscription(self, topic: str) -> SubscriptionData | None:
        """What is wanted of a topic, None when it is not subscribed."""
        with self._lock:
            return self._subscriptions.get(topic)

    def subscribe(self, subscription: SubscriptionData) -> None:
        """Consume a further topic, or by another expression; servers are told at once."""
        with self._lock:
            self._subscriptions[subscription.topic] = subscription
        self._subscriptions_changed()

    def unsubscribe(self, topic: str) -> None:
        """Consume a topic no more."""
        with self._lock:
            self._subscriptions.pop(topic, None)
        self._subscriptions_changed()

    def _subscriptions_changed(self) -> None:
        self.client.sync_settings()
        if self._rebalance is not None:
            self._rebalance.wakeup()

    # Life.

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, in which nothing of this works."""
        return self.client.forked

    def join_group(self) -> None:
        """Let the server know, and begin. Source: ClientImpl.startUp, PushConsumerImpl.startUp."""
        self.client.start()
        if self._orderly and not self.role.terms.fifo:
            raise ConfigError(
                f"the listener is orderly, but the group {self._group} does not consume in order at the server: "
                f"rocketmq-py group create (or update) {self._group} --orderly, or mqadmin updateSubGroup -g "
                f"{self._group} -o true (a proxy knows of it within 20 s); or register a MessageListenerConcurrently"
            )
        for topic in sorted(self._subscriptions):
            try:
                self.client.query_route(topic)
            except BrokerError as error:
                if error.retriable or error.refresh_route:
                    _log.warning("group %s: no route of topic %s (yet): %s", self._group, topic, error)
                else:
                    raise
        self.popper.running = True
        self._rebalance = RebalanceService(self._runtime, self._do_rebalance, SCAN_MS)
        self._rebalance.wakeup()

    def leave_group(self, await_ms: int) -> None:
        """Stop in an order that loses nothing: receive no more, drain, give back, settle, leave."""
        self.popper.running = False
        if self._rebalance is not None:
            self._rebalance.shutdown()
        self._api.stop_receiving()
        ends_ms = self._runtime.clock.monotonic_ms() + await_ms
        try:
            finished = [
                service.shutdown(max(ends_ms - self._runtime.clock.monotonic_ms(), 0)) for service in self._services()
            ]
            if not all(finished):
                _log.warning(
                    "group %s: not all cached messages were consumed within %s ms, the rest comes again elsewhere",
                    self._group, await_ms,
                )  # fmt: skip
        finally:
            self.queues.destroy()
            if not self._settlement.shutdown(FLUSH_MS):
                _log.warning("group %s: not all messages could be settled, they come again", self._group)
            self._pulls.shutdown()
            self.client.leave()
            self.client.close()
            self._api.shutdown(0)

    def set_paused(self, paused: bool) -> None:
        """Receive no more, or again."""
        self.popper.paused = paused

    def _do_rebalance(self) -> bool:
        """Ask from which brokers to receive. Source: PushConsumerImpl.scanAssignments. Behaviour: GC-10."""
        complete = True
        subscriptions = self.current_subscriptions()
        for subscription in subscriptions:
            topic = subscription.topic
            try:
                assigned = self.client.query_assignment(topic, self._group)
            except RocketMQError as error:
                complete = False
                self._warnings.warning(
                    ("assignment", topic, type(error)),
                    "group %s: from where to receive topic %s is not known (yet): %s", self._group, topic, error,
                )  # fmt: skip
                continue
            mqs = {
                MessageQueue(topic, queue.broker.name, ALL_QUEUES)
                for queue in assigned
                if queue.broker.id == MASTER_ID and queue.permission in {pb.READ, pb.READ_WRITE}
            }
            changed, requests = self.queues.update(topic, mqs)
            if changed:
                _log.info("group %s: topic %s is received from %s", self._group, topic, sorted(mqs))
            self.queues.begin(requests, 0)
        self.queues.keep_only([subscription.topic for subscription in subscriptions])
        return complete

    # What users ask of a consumer besides.

    def windows(self) -> Mapping[MessageQueue, WindowSnapshot]:
        """There are none: servers keep what is in flight."""
        return {}

    def fetch_subscribe_message_queues(self, topic: str) -> frozenset[MessageQueue]:
        """See ``DefaultMQPushConsumer.fetch_subscribe_message_queues``."""
        return frozenset(
            MessageQueue(topic, queue.broker.name, queue.id)
            for queue in self.client.query_route(topic)
            if queue.broker.id == MASTER_ID and queue.permission in {pb.READ, pb.READ_WRITE}
        )

    def reset_offset_by_timestamp(self, timestamp_ms: int) -> None:
        """Not offered by the protocol."""
        raise IllegalStateError("a gRPC server keeps the offsets: reset them there (mqadmin resetOffsetByTime)")

    def send_message_back(self, msg: MessageExt, delay_level: int) -> bool:
        """Not offered by the protocol: each message is settled once, by what its listener answers."""
        raise IllegalStateError(
            "with endpoints= a message comes again by its listener's answer: RECONSUME_LATER, "
            "delay_level_when_next_consume"
        )

    def update_core_pool_size(self, size: int) -> None:
        """See ``DefaultMQPushConsumer.update_core_pool_size``."""
        with self._lock:
            self._core_pool_size = size
        for service in self._services():
            service.update_core_pool_size(size)


def check_grpc_consumer(config: ConsumerConfig) -> None:
    """Refuse what cannot work with ``endpoints``, and warn of what has no effect.

    Raises:
        ConfigError: such a setting. Behaviour: GC-11, GC-12.
    """
    if config.message_model is MessageModel.BROADCASTING:
        raise ConfigError("endpoints: the gRPC protocol has no broadcasting: give each member a group of its own")
    for name, why in (
        ("allocate_message_queue_strategy", "the server divides the messages among the members"),
        ("offset_store", "the server keeps the offsets"),
        ("message_queue_listener", "members have no queues of their own"),
        ("rpc_hook", "there are no remoting commands"),
        ("namespace_v2", "remoting requests name it"),
    ):
        if getattr(config, name) is not None:
            raise ConfigError(f"endpoints: {name} cannot work on the gRPC wire: {why}")
    if config.enable_msg_trace:
        raise ConfigError("endpoints: enable_msg_trace is not offered on the gRPC wire")
    if config.unit_mode:
        raise ConfigError("endpoints: unit_mode cannot work on the gRPC wire: it tells no server of the mark")
    if config.consume_from_where is not ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET:
        _log.warning(
            "consume_from_where=%s has no effect with endpoints: where a new group begins is the server's to decide",
            config.consume_from_where.value,
        )
