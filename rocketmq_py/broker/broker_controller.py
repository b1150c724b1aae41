"""Joins the broker's parts, and gives every request to whoever answers it. Source: BrokerController."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from rocketmq_py.broker.ack_message_processor import AckMessageProcessor
from rocketmq_py.broker.authentication import Authentication
from rocketmq_py.broker.broker2client import Broker2Client
from rocketmq_py.broker.broker_config import BrokerConfig
from rocketmq_py.broker.broker_info_processor import BrokerInfoProcessor
from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, refusal
from rocketmq_py.broker.clean_commit_log_service import CleanCommitLogService
from rocketmq_py.broker.client_manage_processor import ClientManageProcessor
from rocketmq_py.broker.commit_log import Arrival, CommitLog
from rocketmq_py.broker.connection_processor import ConnectionProcessor
from rocketmq_py.broker.consumer_manager import ConsumerManager
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.delayed_messages import DelayedMessages
from rocketmq_py.broker.end_transaction_processor import EndTransactionProcessor
from rocketmq_py.broker.group_processor import GroupProcessor
from rocketmq_py.broker.kv_config_manager import KVConfigManager
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.message_request_mode_manager import MessageRequestModeManager
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.message_status_processor import MessageStatusProcessor
from rocketmq_py.broker.name_server import NameServer
from rocketmq_py.broker.offset_processor import OffsetProcessor
from rocketmq_py.broker.pop_consumer_service import PopConsumerService
from rocketmq_py.broker.pop_message_processor import PopMessageProcessor
from rocketmq_py.broker.producer_manager import ProducerManager
from rocketmq_py.broker.pull_message_processor import PullMessageProcessor
from rocketmq_py.broker.query_assignment_processor import QueryAssignmentProcessor
from rocketmq_py.broker.query_message_processor import QueryMessageProcessor
from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.broker.recall_message_processor import RecallMessageProcessor
from rocketmq_py.broker.reply_message_processor import ReplyMessageProcessor
from rocketmq_py.broker.schedule_message_service import ScheduleMessageService
from rocketmq_py.broker.send_message_processor import SendMessageProcessor
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.broker.timer_message_store import TimerMessageStore
from rocketmq_py.broker.topic_config import HALF_TOPIC, OP_TOPIC, SCHEDULE_TOPIC, TIMER_TOPIC, TopicConfigManager
from rocketmq_py.broker.topic_processor import TopicProcessor
from rocketmq_py.broker.transactional_message_service import TransactionalMessageService, TransactionSettings
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.message import pack_host
from rocketmq_py.remoting.frame import RemotingCommand

CLUSTER_NAME = "DefaultCluster"
BROKER_NAME = "broker-a"

CHANNEL_SCAN_INTERVAL_MS = 10_000

_log = logging.getLogger(__name__)


class Processor(Protocol):
    """Whoever answers some requests."""

    def handlers(self) -> dict[int, Handler]:
        """What it answers, by code."""
        ...


class Dispatcher:
    """Answers requests by their code: what one port serves.

    Args:
        authentication: asked before anything is done; None: everybody may ask everything.
    """

    def __init__(self, handlers: dict[int, Handler], authentication: Authentication | None = None) -> None:
        self._handlers = handlers
        self._authentication = authentication

    def on_request(self, channel: Channel, request: RemotingCommand) -> None:
        """Answer a request, or take the answer to one of ours."""
        if request.is_response:
            self.on_response(channel, request)
            return
        handler = self._handlers.get(request.code)
        answer: RemotingCommand | None
        try:
            if self._authentication is not None:
                self._authentication.check(request)
            if handler is None:
                raise BrokerError(  # noqa: TRY301 - one way to refuse
                    ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f" request type {request.code} not supported"
                )
            answer = handler(channel, request)
        except BrokerError as error:
            answer = refusal(request, error.code, error.remark)
        except RocketMQError as error:
            answer = refusal(request, ResponseCode.SYSTEM_ERROR, str(error))
        except Exception as error:  # noqa: BLE001 - border: one request's fault must not stop the others
            _log.exception("answering %r of %s failed", request, channel.remote_address)
            answer = refusal(request, ResponseCode.SYSTEM_ERROR, f"internal error, see the broker's log: {error}")
        if answer is not None and not request.is_oneway:
            channel.write(answer)

    def on_response(self, channel: Channel, response: RemotingCommand) -> None:
        """An answer of a client: for nobody here, because nothing is asked."""

    def on_close(self, channel: Channel) -> None:
        """Nothing is kept per connection."""


class BrokerController(Dispatcher):
    """A whole broker and its name server without sockets, threads and clocks. On the loop's thread only.

    Args:
        host: address that clients are told to connect to.
        port: of the broker.
        delay_levels_ms: delays by level, from 1 on.
        transactions: when producers are asked about theirs.
        message_status: whether the statuses of messages are kept of topics that do not say.
        reserved_ms, max_bytes: what is kept, see ``CleanCommitLogService``.
        authentication: of the broker; the name server answers everybody, as upstream's does.
        enable_retry_topic_v2: what was popped comes back by retry topics of the second form.

    Attributes:
        pops, pop_service: pop, acknowledge and put off for servers of other protocols.
    """

    def __init__(
        self,
        *,
        store: MessageStore,
        loop: Loop,
        clock: Clock,
        host: str,
        port: int,
        delay_levels_ms: list[int],
        transactions: TransactionSettings | None = None,
        message_status: bool = False,
        reserved_ms: int | None = None,
        max_bytes: int | None = None,
        authentication: Authentication | None = None,
        enable_retry_topic_v2: bool = False,
    ) -> None:
        store_host = pack_host((host, port))
        address = join_address(host, port)
        levels = " ".join(f"{each // 1_000}s" for each in delay_levels_ms)
        settings = transactions or TransactionSettings()
        others = {
            "messageDelayLevel": levels,
            "transactionTimeOut": settings.transaction_time_out,
            "transactionCheckInterval": settings.transaction_check_interval,
            "transactionCheckMax": settings.transaction_check_max,
        }
        config = BrokerConfig(CLUSTER_NAME, BROKER_NAME, address, others=others)
        self._loop = loop
        self._clock = clock
        self.commit_log = commit_log = CommitLog(store, loop, clock, store_host, self._on_arrival)
        topics = TopicConfigManager(store, commit_log, clock)
        self._stats = stats = BrokerStatsManager(loop, clock)
        self._broker2client = broker2client = Broker2Client(loop)
        self._consumers = consumers = ConsumerManager(broker2client)
        self._producers = producers = ProducerManager()
        self._offsets = offsets = ConsumerOffsetManager(store, commit_log, loop)
        self._schedule = schedule = ScheduleMessageService(
            commit_log, loop, clock, delay_levels_ms, store.offsets.delay_offsets()
        )
        self._timers = TimerMessageStore(store.timers, commit_log, loop, clock)
        self.cleaner = CleanCommitLogService(
            store=store, commit_log=commit_log, loop=loop, clock=clock, reserved_ms=reserved_ms, max_bytes=max_bytes
        )
        self.cleaner.keep(schedule.first_needed, SCHEDULE_TOPIC)
        self.cleaner.keep(self._timers.first_needed, TIMER_TOPIC)
        locks = RebalanceLockManager(clock=clock)
        self._transactions = TransactionalMessageService(
            commit_log=commit_log, topics=topics, offsets=offsets, producers=producers, broker2client=broker2client,
            loop=loop, clock=clock, broker_name=BROKER_NAME, settings=settings,
        )  # fmt: skip
        self.cleaner.keep(self._transactions.first_needed, HALF_TOPIC)
        self.cleaner.keep(self._transactions.first_needed, OP_TOPIC)
        self._statuses = statuses = MessageStatusManager(
            table=store.statuses, commit_log=commit_log, topics=topics, consumers=consumers, offsets=offsets,
            loop=loop, clock=clock, default=message_status,
        )  # fmt: skip
        self._pulls = PullMessageProcessor(
            loop=loop, clock=clock, commit_log=commit_log, topics=topics, consumers=consumers, offsets=offsets,
            stats=stats, statuses=statuses,
        )  # fmt: skip
        sends = SendMessageProcessor(
            clock=clock, commit_log=commit_log, topics=topics, schedule=schedule,
            delays=DelayedMessages(schedule, self._timers), locks=locks, transactions=self._transactions,
            statuses=statuses, cluster=CLUSTER_NAME, broker_name=BROKER_NAME, store_host=store_host,
        )  # fmt: skip
        self.pop_service = PopConsumerService(
            table=store.pops, commit_log=commit_log, loop=loop, clock=clock, topics=topics, offsets=offsets,
            statuses=statuses, broker_name=BROKER_NAME, on_revived=self._on_revived,
            enable_retry_topic_v2=enable_retry_topic_v2,
        )  # fmt: skip
        self.pops = PopMessageProcessor(loop=loop, clock=clock, topics=topics, service=self.pop_service, stats=stats)
        self.cleaner.keep(self.pop_service.first_needed)
        processors: list[Processor] = [
            sends,
            RecallMessageProcessor(topics=topics, timers=self._timers, broker_name=BROKER_NAME),
            self._pulls,
            self.pops,
            AckMessageProcessor(self.pop_service),
            ReplyMessageProcessor(
                clock=clock, sends=sends, producers=producers, broker2client=broker2client, broker_addr=address
            ),
            EndTransactionProcessor(
                transactions=self._transactions, clock=clock, transaction_time_out=settings.transaction_time_out
            ),
            QueryMessageProcessor(commit_log),
            MessageStatusProcessor(statuses=statuses, commit_log=commit_log, topics=topics),
            ClientManageProcessor(
                clock=clock, topics=topics, consumers=consumers, producers=producers, locks=locks, statuses=statuses
            ),
            QueryAssignmentProcessor(
                config=config, topics=topics, consumers=consumers, modes=MessageRequestModeManager(store, commit_log)
            ),
            TopicProcessor(
                commit_log=commit_log, topics=topics, offsets=offsets, pops=self.pop_service, stats=stats,
                statuses=statuses,
                broker_name=BROKER_NAME,
            ),
            GroupProcessor(topics=topics, offsets=offsets, stats=stats, statuses=statuses),
            OffsetProcessor(
                clock=clock, config=config, commit_log=commit_log, topics=topics, consumers=consumers,
                offsets=offsets, stats=stats, broker2client=broker2client, statuses=statuses,
            ),
            ConnectionProcessor(
                clock=clock, commit_log=commit_log, topics=topics, consumers=consumers, producers=producers,
                broker2client=broker2client, broker_name=BROKER_NAME,
            ),
            BrokerInfoProcessor(
                clock=clock, config=config, commit_log=commit_log, schedule=schedule, stats=stats,
                directory=store.directory,
            ),
        ]  # fmt: skip
        super().__init__(
            {code: handler for each in processors for code, handler in each.handlers().items()}, authentication
        )
        topics.ensure_topic(CLUSTER_NAME + names.REPLY_TOPIC_POSTFIX, 1)
        name_server = NameServer(topics, KVConfigManager(store, commit_log), CLUSTER_NAME, BROKER_NAME, address)
        self.name_server = Dispatcher(name_server.handlers())

    def start(self) -> None:
        """Begin what runs by itself."""
        self._pulls.holds.start()
        self._schedule.start()
        self._transactions.start()
        self._statuses.start()
        self._stats.start()
        self._timers.start()
        self.pop_service.start()
        self.cleaner.start()
        self._loop.call_later(CHANNEL_SCAN_INTERVAL_MS, self._scan_channels)

    def _scan_channels(self) -> None:
        self._loop.call_later(CHANNEL_SCAN_INTERVAL_MS, self._scan_channels)
        now_ms = self._clock.monotonic_ms()
        for channel in self._consumers.silent(now_ms) | self._producers.silent(now_ms):
            _log.warning("no heartbeat from %s, its connection is closed", channel.remote_address)
            self.on_close(channel)
            channel.close()

    def _on_arrival(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            self._stats.inc_topic_put_nums(arrival.key.topic, 1)
            if arrival.key.topic == SCHEDULE_TOPIC:
                self._schedule.on_arrival(arrival)
            elif arrival.key.topic == TIMER_TOPIC:
                self._timers.on_arrival(arrival)
        self._pulls.holds.notify_arriving(arrivals)
        self.pops.notify_message_arriving(arrivals)

    def _on_revived(self, group: str, topic: str, queue_id: int) -> None:
        self.pops.notify(group, topic, queue_id)

    def on_close(self, channel: Channel) -> None:
        """A client's connection has ended."""
        self._pulls.holds.channel_closed(channel)
        self.pops.channel_closed(channel)
        self._consumers.channel_closed(channel)
        self._producers.channel_closed(channel)
        self._broker2client.channel_closed(channel)

    def on_response(self, channel: Channel, response: RemotingCommand) -> None:
        """An answer of a client to a request of ours."""
        self._broker2client.on_response(channel, response)

    def when_stored(self, job: Callable[[], None]) -> None:
        """Store committed offsets and statuses, and run a job once everything is on the disk."""
        self._offsets.flush()
        self._statuses.flush()

        def idle() -> None:
            self.commit_log.note_ends()
            self.commit_log.when_idle(job)

        self.commit_log.when_idle(idle)


def join_address(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
