"""What several test modules make consumers of: short constructors, a core on a virtual clock, a recording dispatch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.allocate import AllocateMessageQueueAveragely, AllocateMessageQueueStrategy
from rocketmq_py.consumer.broker_assignment import BrokerAssignment
from rocketmq_py.consumer.consume_message_concurrently_service import ConsumeMessageConcurrentlyService
from rocketmq_py.consumer.consume_message_orderly_service import ConsumeMessageOrderlyService
from rocketmq_py.consumer.consumer_stats_manager import ConsumerStatsManager
from rocketmq_py.consumer.hooks import ConsumeMessageHook
from rocketmq_py.consumer.message_popper import PopRequest, init_mode
from rocketmq_py.consumer.message_puller import MessagePuller
from rocketmq_py.consumer.offset_store import RemoteBrokerOffsetStore
from rocketmq_py.consumer.pop_queues import PopQueues
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.pull_message_service import PullMessageService
from rocketmq_py.consumer.rebalance import RebalanceImpl
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters
from rocketmq_py.model.config import ConsumeFromWhere, ConsumerConfig
from rocketmq_py.model.listener import ConsumeConcurrently, ConsumeOrderly
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.model.running_info import ConsumeMessageDirectlyResult, ConsumerRunningInfo
from rocketmq_py.model.subscription import build_subscription_data
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import FakeBroker, InlineExecutor, ManualRuntime

GROUP = "group"
RETRY_TOPIC = "%RETRY%group"
TOPIC = "topic"
ME = "127.0.0.1@test"
OTHER = "127.0.0.1@zzz"
"""Another member; sorts behind ``ME``."""

SUCCESS = ConsumeConcurrentlyStatus.CONSUME_SUCCESS
LATER = ConsumeConcurrentlyStatus.RECONSUME_LATER


def mq(queue_id: int = 0, topic: str = TOPIC) -> MessageQueue:
    return MessageQueue(topic, "broker-a", queue_id)


def message(offset: int, size: int = 1, **fields: Any) -> MessageExt:
    fields.setdefault("topic", TOPIC)
    fields.setdefault("body", b"x" * size)
    return MessageExt(queue_offset=offset, broker_name="broker-a", **fields)


def messages(*offsets: int, size: int = 1) -> list[MessageExt]:
    return [message(offset, size) for offset in offsets]


def offsets(msgs: Messages) -> list[int]:
    return [msg.queue_offset for msg in msgs]


def succeed(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
    return SUCCESS


class NotOperated:
    """For consumers that a client knows by their outside only: no operator asks them."""

    def consumer_running_info(self, jstack: bool) -> ConsumerRunningInfo:
        raise NotImplementedError

    def consumer_status(self, topic: str) -> dict[MessageQueue, int]:
        raise NotImplementedError

    def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
        raise NotImplementedError

    def reset_offset(self, topic: str, offsets: Mapping[MessageQueue, int]) -> None:
        raise NotImplementedError


class Dispatch:
    """A pull dispatch that only notes what it is asked for."""

    def __init__(self) -> None:
        self.jobs: list[tuple[int, Callable[[], None]]] = []

    def execute_later(self, delay_ms: int, job: Callable[[], None]) -> None:
        self.jobs.append((delay_ms, job))

    @property
    def delays(self) -> list[int]:
        return [delay_ms for delay_ms, _ in self.jobs]

    def run_next(self) -> None:
        _, job = self.jobs.pop(0)
        job()


class Core:
    """A consumer as ``push_consumer`` builds it, on a virtual clock and a broker in memory.

    Alone in its group and subscribed to ``TOPIC`` unless told otherwise. Nothing runs until the test rebalances.
    """

    def __init__(
        self,
        listener: ConsumeConcurrently = succeed,
        *,
        orderly: ConsumeOrderly | None = None,
        broker: FakeBroker | None = None,
        strategy: AllocateMessageQueueStrategy | None = None,
        hooks: list[ConsumeMessageHook] | None = None,
        queues: int = 1,
        expression: str = "*",
        assigned_by_broker: bool = False,
        **settings: Any,
    ) -> None:
        settings.setdefault("consume_from_where", ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
        logger = logging.getLogger(__name__)
        self.config = ConsumerConfig(**settings)
        self.runtime = ManualRuntime()
        self.clock = self.runtime.manual_clock
        self.broker = broker or FakeBroker(ME)
        self.broker.members[GROUP] = [ME]
        self.counters = ConsumerCounters()
        self.stats_manager = ConsumerStatsManager(self.clock, self.runtime.scheduler("stats"))
        self.hooks = hooks or []
        self.store = RemoteBrokerOffsetStore(GROUP, self.broker, RateLimitedLog(self.runtime.clock, logger))
        strategy = strategy or AllocateMessageQueueAveragely()
        self.pops: list[tuple[PopRequest, int]] = []  # with the delays after which they are to begin
        self.pop_queues = PopQueues(
            GROUP,
            self.clock,
            lambda: init_mode(self.config),
            lambda request, delay_ms: self.pops.append((request, delay_ms)),
        )
        self.rebalance = RebalanceImpl(
            group=GROUP,
            config=self.config,
            strategy=strategy,
            runtime=self.runtime,
            broker=self.broker,
            client=self.broker,
            offset_store=self.store,
            dispatch=lambda request, delay_ms: self.puller.execute_pull_request_later(request, delay_ms),  # noqa: PLW0108 - made below
            orderly=orderly is not None,
            assignment=BrokerAssignment(GROUP, strategy.get_name(), self.broker, self.pop_queues, self.clock)
            if assigned_by_broker
            else None,
        )
        parts: dict[str, Any] = {
            "group": GROUP,
            "config": self.config,
            "runtime": self.runtime,
            "offset_store": self.store,
            "send_back": SendMessageBack(
                GROUP,
                self.config.effective_max_reconsume_times(orderly is not None),
                self.broker,
                RateLimitedLog(self.runtime.clock, logger),
            ),
            "hooks": self.hooks,
            "counters": self.counters,
            "stats": self.stats_manager.group(GROUP),
        }
        if orderly is None:
            self.service = ConsumeMessageConcurrentlyService(listener=listener, windows=self.rebalance.windows, **parts)
        else:
            self.orderly_service = ConsumeMessageOrderlyService(listener=orderly, locks=self.rebalance.locks, **parts)
        submit = (self.service if orderly is None else self.orderly_service).submit_consume_request
        self.pulls = PullMessageService(self.runtime)
        self.puller = MessagePuller(
            group=GROUP,
            config=self.config,
            runtime=self.runtime,
            broker=self.broker,
            client=self.broker,
            dispatch=self.pulls,
            offset_store=self.store,
            counters=self.counters,
            stats=self.stats_manager.group(GROUP),
            subscription=self.rebalance.subscription,
            newest_subscription=self.rebalance.newest_subscription,
            consume=submit,
            offset_illegal=self.rebalance.correct_offset,
            orderly=orderly is not None,
            first_locked_offset=self.rebalance.compute_pull_from_where if self.rebalance.locks is not None else None,
        )
        self.rebalance.subscribe(build_subscription_data(TOPIC, expression, self.clock.wall_ms()))
        self.rebalance.update_topic_subscribe_info(TOPIC, [mq(number) for number in range(queues)])
        self.puller.running = True

    @property
    def pool(self) -> InlineExecutor[object]:
        """The consume threads."""
        (pool,) = self.runtime.pools.values()
        return pool

    @property
    def windows(self) -> dict[MessageQueue, ProcessQueue]:
        return dict(self.rebalance.windows())

    def join(self, members: list[str]) -> None:
        """Be one of these members, and known to the others already."""
        self.broker.members[GROUP] = members
        if members != [ME]:
            assert self.rebalance.do_rebalance() is False

    def begin(self) -> None:
        """Rebalance, and begin the first pulls."""
        self.rebalance.do_rebalance()
        self.runtime.advance(500)

    def committed(self, queue: MessageQueue) -> int | None:
        """What the broker has after a commit."""
        self.store.persist_all(list(self.windows), self.rebalance.withheld())
        return self.broker.offsets.get((GROUP, queue))


class VirtualEvent:
    """An event on a virtual clock: whoever waits for it lets the world go on, until it is up or the time is over.

    Args:
        go_on: ``go_on(end_ms)`` does the next thing, or lets time pass, at most until then.
    """

    def __init__(self, clock: Clock, go_on: Callable[[int], object]) -> None:
        self._clock = clock
        self._go_on = go_on
        self._up = False

    def set(self) -> None:
        self._up = True

    def clear(self) -> None:
        self._up = False

    def is_set(self) -> bool:
        return self._up

    def wait(self, timeout_ms: int) -> bool:
        end_ms = self._clock.monotonic_ms() + max(timeout_ms, 0)
        while not self._up and self._clock.monotonic_ms() < end_ms:
            self._go_on(end_ms)
        return self._up
