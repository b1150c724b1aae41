"""Joins the broker's parts, and gives every request to whoever answers it. Source: BrokerController."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rocketmq_py.broker.admin_broker_processor import AdminBrokerProcessor
from rocketmq_py.broker.channel import Channel, Handler, refusal
from rocketmq_py.broker.client_manage_processor import ClientManageProcessor
from rocketmq_py.broker.commit_log import Arrival, CommitLog
from rocketmq_py.broker.consumer_manager import ConsumerManager
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.name_server import NameServer
from rocketmq_py.broker.pull_message_processor import PullMessageProcessor
from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.broker.schedule_message_service import ScheduleMessageService
from rocketmq_py.broker.send_message_processor import SendMessageProcessor
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.broker.topic_config import SCHEDULE_TOPIC, TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, RocketMQError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.message import pack_host
from rocketmq_py.remoting.frame import RemotingCommand

CLUSTER_NAME = "DefaultCluster"
BROKER_NAME = "broker-a"

CHANNEL_SCAN_INTERVAL_MS = 10_000

_log = logging.getLogger(__name__)


class Dispatcher:
    """Answers requests by their code: what one port serves."""

    def __init__(self, handlers: dict[int, Handler]) -> None:
        self._handlers = handlers

    def on_request(self, channel: Channel, request: RemotingCommand) -> None:
        """Answer a request; answers of clients are for nobody, because nothing is asked of them."""
        if request.is_response:
            return
        handler = self._handlers.get(request.code)
        answer: RemotingCommand | None
        try:
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

    def on_close(self, channel: Channel) -> None:
        """Nothing is kept per connection."""


class BrokerController(Dispatcher):
    """A whole broker and its name server without sockets, threads and clocks. On the loop's thread only.

    Args:
        host: address that clients are told to connect to.
        port: of the broker.
        delay_levels_ms: delays by level, from 1 on.
    """

    def __init__(
        self, *, store: MessageStore, loop: Loop, clock: Clock, host: str, port: int, delay_levels_ms: list[int]
    ) -> None:
        store_host = pack_host((host, port))
        self._loop = loop
        self._commit_log = CommitLog(store, loop, clock, store_host, self._on_arrival)
        topics = TopicConfigManager(store, self._commit_log)
        self._consumers = ConsumerManager(clock)
        self._offsets = ConsumerOffsetManager(store, self._commit_log, loop)
        self._schedule = ScheduleMessageService(
            self._commit_log, loop, clock, delay_levels_ms, store.offsets.delay_offsets()
        )
        locks = RebalanceLockManager(clock=clock)
        self._pulls = PullMessageProcessor(
            loop=loop, clock=clock, commit_log=self._commit_log, topics=topics, consumers=self._consumers,
            offsets=self._offsets,
        )  # fmt: skip
        sends = SendMessageProcessor(
            clock=clock, commit_log=self._commit_log, topics=topics, schedule=self._schedule, locks=locks,
            cluster=CLUSTER_NAME, store_host=store_host,
        )  # fmt: skip
        clients = ClientManageProcessor(
            commit_log=self._commit_log, topics=topics, consumers=self._consumers, offsets=self._offsets, locks=locks
        )
        admin = AdminBrokerProcessor(commit_log=self._commit_log, topics=topics)
        super().__init__({**sends.handlers(), **self._pulls.handlers(), **clients.handlers(), **admin.handlers()})
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.name_server = Dispatcher(NameServer(topics, CLUSTER_NAME, BROKER_NAME, address).handlers())

    def start(self) -> None:
        """Begin what runs by itself."""
        self._pulls.holds.start()
        self._schedule.start()
        self._loop.call_later(CHANNEL_SCAN_INTERVAL_MS, self._scan_channels)

    def _scan_channels(self) -> None:
        self._loop.call_later(CHANNEL_SCAN_INTERVAL_MS, self._scan_channels)
        self._consumers.scan_not_active_channels()

    def _on_arrival(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            if arrival.key.topic == SCHEDULE_TOPIC:
                self._schedule.on_arrival(arrival)
        self._pulls.holds.notify_arriving(arrivals)

    def on_close(self, channel: Channel) -> None:
        """A client's connection has ended."""
        self._pulls.holds.channel_closed(channel)
        self._consumers.channel_closed(channel)

    def when_stored(self, job: Callable[[], None]) -> None:
        """Store committed offsets, and run a job once everything is on the disk."""
        self._offsets.flush()
        self._commit_log.when_idle(job)
