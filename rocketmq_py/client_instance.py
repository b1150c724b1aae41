"""What the consumers and producers of one client id share: connections, routes, heartbeats, timers, pull and rebalance.

Source: MQClientInstance, MQClientManager.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rocketmq_py.client_remoting_processor import ClientRemotingProcessor
from rocketmq_py.clock import Clock
from rocketmq_py.consumer.consumer_stats_manager import ConsumerStatsManager
from rocketmq_py.consumer.pull_message_service import PullMessageService
from rocketmq_py.consumer.rebalance_service import RebalanceService
from rocketmq_py.errors import BrokerError, ConfigError, ConnectError, ProtocolError, RocketMQError, TransportError
from rocketmq_py.model import names
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.config import CONNECTION_SETTINGS, ClientConfig, ConsumerConfig, MessageModel, ProducerConfig
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.producer_hooks import ProducerHooks
from rocketmq_py.model.results import QueueAssignment
from rocketmq_py.model.route import TopicRouteData
from rocketmq_py.model.subscription import TAG, SubscriptionData
from rocketmq_py.model.unique_id import local_ip
from rocketmq_py.operator_requests import OperatedConsumer, OperatorRequests
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.broker_api import BrokerApi
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_messages
from rocketmq_py.remoting.message_sender import MessageSender
from rocketmq_py.remoting.pop_api import PopApi
from rocketmq_py.remoting.remoting_client import RemotingClient
from rocketmq_py.remoting.route_table import RouteTable
from rocketmq_py.remoting.rpc_hook import hooks_of
from rocketmq_py.remoting.tls import client_context
from rocketmq_py.request_reply import RequestFutureHolder
from rocketmq_py.runtime import Mutex, Runtime, ThreadRuntime

FIRST_ROUTE_REFRESH_MS = 10
FIRST_HEARTBEAT_MS = 1_000
FIRST_PERSIST_MS = 10_000
HEARTBEAT_LOCK_MS = 10_000
"""How long a heartbeat waits for the one before it, which may wait for a broker that is gone."""
HEARTBEAT_SOON_MS = 1_000
"""A heartbeat asked for out of turn comes at most once in this time."""
MISSING_ROUTE_RETRIES_MS = (0, 1_000, 5_000, 5_000, 5_000, 5_000, 5_000)
"""After each heartbeat, until the next: the broker makes the retry topic then, and a topic that does not exist yet may
be made by the first send. Java looks every 30 s."""

FORKED = "this {0} was started before the process was forked and works in the parent only: make a new one here"

_log = logging.getLogger(__name__)


TransactionCheck = Callable[[str, MessageExt, RemotingCommand], None]
"""``check(address, half_message, request)``: a broker asks how a transaction stands. On the I/O thread."""


@dataclass(slots=True)
class _Producer:
    """What the client knows of a producer. Source: MQProducerInner.

    Attributes:
        topics: those it has sent to.
    """

    check_transaction: TransactionCheck | None
    topics: set[str] = field(default_factory=set)


class ConsumerInner(OperatedConsumer, Protocol):
    """What the client needs of a consumer. Source: MQConsumerInner."""

    @property
    def group(self) -> str:
        """Name of the group."""
        ...

    @property
    def joined(self) -> bool:
        """Whether every broker has been told of it.

        Until then nothing wakes the rebalance: it would find a broker that knows no such member, and the next one
        comes a second later.
        """
        ...

    def heartbeat(self) -> bodies.ConsumerData:
        """What brokers are told about it."""
        ...

    def topics(self) -> Collection[str]:
        """Topics whose routes it needs."""
        ...

    def update_topic_subscribe_info(self, topic: str, queues: Sequence[MessageQueue]) -> bool:
        """Take the readable queues of a topic; True when they changed."""
        ...

    def is_subscribe_topic_need_update(self, topic: str) -> bool:
        """Whether it waits for the queues of this topic."""
        ...

    def do_rebalance(self) -> bool:
        """Rebalance; False: try again soon."""
        ...

    def persist_consumer_offset(self) -> None:
        """Commit offsets."""
        ...


class MQClientInstance:
    """Made and ended through ``ClientRegistry``. Satisfies ``consumer.ports.Group``; its ``broker`` does ``Broker``.

    Lock: ``_lock`` guards the registrations; ``_heartbeat_lock`` is held while heartbeats are sent, so that one asked
    for after a change tells of the change.

    Attributes:
        refusal: why the last heartbeats were refused, if every broker refused them for want of permission.
    """

    def __init__(self, client_id: str, config: ClientConfig, runtime: Runtime) -> None:
        self._client_id = client_id
        self._pid = os.getpid()
        self._name_servers = config.name_servers()
        self._settings = {name: getattr(config, name) for name in CONNECTION_SETTINGS}
        tls = client_context(config)
        self._name_server_in_use = 0
        self._runtime = runtime
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()
        self._consumers: dict[str, ConsumerInner] = {}
        self._producers: dict[str, _Producer] = {}
        self._heartbeat_lock = runtime.lock()
        self._heartbeat_soon = False
        self.refusal: BrokerError | None = None
        self._looks = 0
        self.routes = RouteTable()
        self.processor = ClientRemotingProcessor(runtime)
        self.processor.register(
            RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, self._notify_consumer_ids_changed, blocks=False
        )
        self.processor.register(RequestCode.CHECK_TRANSACTION_STATE, self._check_transaction_state, blocks=False)
        self.processor.register(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, self._receive_reply_message, blocks=False)
        for code, handler in OperatorRequests(runtime, self._consumer_of).handlers().items():
            self.processor.register(code, handler)
        self._remoting = RemotingClient(runtime, self.processor.process, hooks_of(config), tls)
        self.broker = BrokerApi(
            self._remoting, self.routes, self.make_sender(), runtime.clock, self.update_topic_route,
            config.mq_client_api_timeout,
        )  # fmt: skip
        self.pop_broker = PopApi(self._remoting, self.routes, self.update_topic_route)
        self.pulls = PullMessageService(runtime)
        self._rebalance_service = RebalanceService(runtime, self._do_rebalance)
        self._timers = runtime.scheduler("MQClientFactoryScheduledThread")
        self.request_futures = RequestFutureHolder(
            runtime.clock, lambda: runtime.scheduler("RequestHouseKeepingService")
        )
        self._timers.schedule_at_fixed_rate(
            FIRST_ROUTE_REFRESH_MS, config.poll_name_server_interval, self._refresh_routes
        )
        self._timers.schedule_at_fixed_rate(FIRST_HEARTBEAT_MS, config.heartbeat_broker_interval, self._send_heartbeat)

        self._timers.schedule_at_fixed_rate(
            FIRST_PERSIST_MS, config.persist_consumer_offset_interval, self._persist_offsets
        )
        self.consumer_stats = ConsumerStatsManager(runtime.clock, self._timers)
        self._ended = False

    @property
    def client_id(self) -> str:
        """``ip@instance``, and ``@unit`` if there is one."""
        return self._client_id

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, in which the client's threads do not exist: it can do nothing here."""
        return os.getpid() != self._pid

    def abandon(self) -> None:
        """In a forked child: close the copies of the connections, so that they end when the parent ends them."""
        self._remoting.abandon()

    @property
    def name_servers(self) -> list[str]:
        """Addresses as configured."""
        return self._name_servers

    def differing_settings(self, config: ClientConfig) -> list[str]:
        """Names of the settings of its connections that a configuration has otherwise."""
        return [
            name
            for name, value in self._settings.items()
            if (getattr(config, name) is not value if name == "rpc_hook" else getattr(config, name) != value)
        ]

    # Registrations.

    def register_consumer(self, consumer: ConsumerInner) -> bool:
        """Add a consumer; False when its group is in this client already."""
        with self._lock:
            if consumer.group in self._consumers:
                return False
            self._consumers[consumer.group] = consumer
            return True

    def unregister_consumer(self, consumer: ConsumerInner) -> None:
        """Remove a consumer, if it is registered, and tell the brokers."""
        with self._lock:
            if self._consumers.get(consumer.group) is not consumer:
                return
            del self._consumers[consumer.group]
        self._unregister("", consumer.group)

    def register_producer(self, group: str, check_transaction: TransactionCheck | None = None) -> bool:
        """Add a producer; False when its group is in this client already."""
        with self._lock:
            if group in self._producers:
                return False
            self._producers[group] = _Producer(check_transaction)
            return True

    def make_sender(
        self,
        group: str = names.CLIENT_INNER_PRODUCER_GROUP,
        config: ProducerConfig | None = None,
        hooks: ProducerHooks | None = None,
    ) -> MessageSender:
        """What a producer sends with; the defaults are those of the sends that nobody made a producer for."""
        clock = self._runtime.clock
        return MessageSender(self._remoting, self.routes, clock, self.update_topic_route, group, config, hooks)

    def unregister_producer(self, group: str) -> None:
        """Remove a producer and tell the brokers."""
        with self._lock:
            known = self._producers.pop(group, None)
        if known is not None:
            self._unregister(group, "")

    def _unregister(self, producer_group: str, consumer_group: str) -> None:
        # Behind a heartbeat that is under way and still tells of the group: it would bring the member back.
        if self._heartbeat_lock.acquire(HEARTBEAT_LOCK_MS):
            self._heartbeat_lock.release()
        for address in self.routes.broker_addresses(masters_only=False):
            if self._remoting.connection(address) is None:
                continue  # whoever is not connected has forgotten this client already
            try:
                self.broker.unregister_client(address, self._client_id, producer_group, consumer_group)
            except RocketMQError as error:
                # A broker that permits nothing does not know this client either, and whoever asked was told so.
                refused = isinstance(error, BrokerError) and error.code == ResponseCode.NO_PERMISSION
                level = logging.INFO if refused else logging.WARNING
                _log.log(level, "telling %s that this client leaves failed: %s", address, error)

    # Routes.

    def update_topic_route(self, topic: str) -> bool:
        """Ask the name servers for a topic's route; False when they know none.

        Raises:
            ConnectError: no name server could be reached.
            ConfigError: it is a static topic.
            RocketMQError: one answered with an error or nonsense.

        Source: MQClientInstance.updateTopicRouteInfoFromNameServer.
        """
        try:
            address, route = self._ask_name_servers(topic)
        except BrokerError as error:
            if error.code == ResponseCode.TOPIC_NOT_EXIST:
                return False
            raise
        if route.is_static:
            # Its queue numbers are not those of the brokers: messages would come from, and offsets go to, wrong queues.
            raise ConfigError(
                f"topic {topic} is a static (logical) topic; this client cannot use such topics yet: use a normal one"
            )
        self._note_proxy(address, route)
        known = set(self.routes.broker_addresses(masters_only=False))
        if self.routes.update(topic, route):
            _log.info("route of topic %s: %s", topic, route)
        queues = self.routes.subscribe_queues(topic)
        with self._lock:
            consumers = list(self._consumers.values())
        changed = [consumer for consumer in consumers if consumer.update_topic_subscribe_info(topic, queues)]
        if any(consumer.joined for consumer in changed):  # Java waits for the next turn (deviations)
            if known.issuperset(self.routes.broker_addresses(masters_only=False)):
                self.rebalance_immediately()
            else:
                self._timers.schedule(0, self._meet_new_brokers)
        return True

    def _meet_new_brokers(self) -> None:
        """A broker that has had no heartbeat can tell nobody who the members are, and refuses their pulls."""
        self.send_heartbeat_to_all_brokers()
        self.rebalance_immediately()

    def _ask_name_servers(self, topic: str) -> tuple[str, TopicRouteData]:
        first = self._name_server_in_use
        failures: list[str] = []
        for step in range(len(self._name_servers)):
            number = (first + step) % len(self._name_servers)
            address = self._name_servers[number]
            try:
                route = self.broker.topic_route(address, topic)
            except BrokerError as failure:
                if failure.code != ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
                    raise
                failures.append(
                    f"{address} is no name server, it answers as a broker does; name servers mostly have port 9876"
                )
            except (TransportError, ProtocolError) as failure:
                failures.append(str(failure))
            else:
                self._name_server_in_use = number
                return address, route
        raise ConnectError(f"no name server can be reached, check namesrv_addr: {'; '.join(failures)}")

    def await_next_try(self, topic: str, timeout_ms: int) -> int:
        """Wait, on a thread of the user's, while a send to a topic would fail without a try; the ms waited.

        That is: while name servers, or if its route is known all its brokers, could not be reached a moment ago.
        """
        masters = self.routes.masters_of(topic)
        return self._remoting.await_next_try(self._name_servers if masters is None else masters, timeout_ms)

    def _note_proxy(self, answered: str, route: TopicRouteData) -> None:
        connection = self._remoting.connection(answered)
        own = {answered, connection.peer if connection else answered}
        addresses = {address for broker in route.broker_datas for address in broker.broker_addrs.values()}
        if addresses and addresses <= own:
            for address in addresses:
                self.routes.note_proxy(address)

    def note_published_topic(self, group: str, topic: str) -> None:
        """Keep the route of a topic fresh to which a producer sends."""
        with self._lock:
            producer = self._producers.get(group)
            if producer is not None:
                producer.topics.add(topic)

    def _refresh_routes(self) -> None:
        with self._lock:
            topics = {topic for consumer in self._consumers.values() for topic in consumer.topics()}
            topics.update(*(producer.topics for producer in self._producers.values()))
        for topic in sorted(topics):
            try:
                self.update_topic_route(topic)
            except RocketMQError as error:
                if self._ended:
                    return  # a question under way when the client was shut down
                self._warnings.warning(("refresh route", topic), "cannot refresh the route of %s: %s", topic, error)
                if isinstance(error, TransportError):
                    return  # no name server at all: the other topics would only wait as long

    def _look_for_missing_routes(self, retries_ms: Sequence[int] = MISSING_ROUTE_RETRIES_MS) -> None:
        """Ask for the routes of topics that a consumer waits for; again a few times, until the next turn comes."""
        with self._lock:
            missing = {
                topic
                for consumer in self._consumers.values()
                for topic in consumer.topics()
                if consumer.is_subscribe_topic_need_update(topic)
            }
            self._looks += 1  # a newer look takes the place of the one under way
            number = self._looks
        if missing and retries_ms:
            self._timers.schedule(retries_ms[0], lambda: self._look_again(number, missing, retries_ms[1:]))

    def _look_again(self, number: int, topics: Collection[str], retries_ms: Sequence[int]) -> None:
        if number != self._looks:
            return
        for topic in topics:
            try:
                self.update_topic_route(topic)
            except RocketMQError as error:
                _log.debug("the route of %s is still missing: %s", topic, error)
        self._look_for_missing_routes(retries_ms)

    # Heartbeats and members.

    def send_heartbeat_to_all_brokers(self) -> bool:
        """Tell every broker of every route what this client is; True when at least one heard it.

        Source: MQClientInstance.sendHeartbeatToAllBrokerWithLock.
        """
        if not self._heartbeat_lock.acquire(HEARTBEAT_LOCK_MS):
            return False
        try:
            return self._send_heartbeats()
        finally:
            self._heartbeat_lock.release()
            self._look_for_missing_routes()

    def _send_heartbeat(self) -> None:
        self.send_heartbeat_to_all_brokers()

    def _send_heartbeats(self) -> bool:
        with self._lock:
            consumers = list(self._consumers.values())
            producers = list(self._producers)
        if not consumers and not producers:
            return False
        body = bodies.encode_heartbeat(self._client_id, producers, [consumer.heartbeat() for consumer in consumers])
        heard = False
        failures: list[RocketMQError] = []
        for address in self.routes.broker_addresses(masters_only=not consumers):
            try:
                self.broker.heartbeat(address, body)
                heard = True
            except RocketMQError as error:
                failures.append(error)
                self._warnings.warning(("heartbeat", address), "heartbeat to %s failed: %s", address, error)
        refusals = [
            error for error in failures if isinstance(error, BrokerError) and error.code == ResponseCode.NO_PERMISSION
        ]
        self.refusal = refusals[0] if refusals and not heard and len(refusals) == len(failures) else None
        return heard

    def check_client_in_broker(self, group: str, subscriptions: Iterable[SubscriptionData]) -> None:
        """Ask a broker of each topic whether it takes the expression, unless it consists of tags.

        Raises:
            BrokerError: it does not. TransportError: it could not be asked.

        Behaviour: FI-03. Source: MQClientInstance.checkClientInBroker, for all groups of the client there.
        """
        for subscription in subscriptions:
            if subscription.expression_type == TAG:
                continue
            address = self.routes.random_broker_of(subscription.topic)
            if address is None:
                continue
            self.broker.check_client_config(address, self._client_id, group, subscription)
            if self.routes.is_proxy(address):
                _log.warning(
                    "group %s: the expression %r of topic %s is not checked: a proxy takes a wrong one for none and "
                    "lets every message through", group, subscription.sub_string, subscription.topic,
                )  # fmt: skip

    def send_heartbeat_soon(self) -> None:
        """See ``consumer.ports.Group.send_heartbeat_soon``."""
        with self._lock:
            if self._heartbeat_soon:
                return
            self._heartbeat_soon = True

        def send() -> None:
            with self._lock:
                self._heartbeat_soon = False
            self.send_heartbeat_to_all_brokers()

        self._timers.schedule(HEARTBEAT_SOON_MS, send)

    def find_consumer_id_list(self, topic: str, group: str) -> list[str] | None:
        """See ``consumer.ports.Group.find_consumer_id_list``. Source: MQClientInstance.findConsumerIdList."""
        try:
            address = self.routes.random_broker_of(topic)
            if address is None:
                self.update_topic_route(topic)
                address = self.routes.random_broker_of(topic)
            return None if address is None else self.broker.consumer_id_list(address, group)
        except RocketMQError as error:
            self._warnings.warning(("members", group), "cannot ask for the members of group %s: %s", group, error)
            return None

    def query_assignment(
        self, topic: str, group: str, strategy_name: str, message_model: str
    ) -> QueueAssignment | None:
        """See ``consumer.ports.Group.query_assignment``. Source: MQClientInstance.queryAssignment."""
        address = self.routes.random_broker_of(topic)
        if address is None:
            self.update_topic_route(topic)
            address = self.routes.random_broker_of(topic)
        if address is None:
            return None
        return self.broker.query_assignment(address, topic, group, self._client_id, strategy_name, message_model)

    def _persist_offsets(self) -> None:
        with self._lock:
            consumers = list(self._consumers.values())
        for consumer in consumers:
            consumer.persist_consumer_offset()

    # Rebalance.

    def rebalance_immediately(self) -> None:
        """See ``consumer.ports.Group.rebalance_immediately``."""
        self._rebalance_service.wakeup()

    def rebalance_later(self, delay_ms: int) -> None:
        """See ``consumer.ports.Group.rebalance_later``."""
        self._timers.schedule(delay_ms, self.rebalance_immediately)

    def _do_rebalance(self) -> bool:
        with self._lock:
            consumers = list(self._consumers.values())
        return all([consumer.do_rebalance() for consumer in consumers])

    def _notify_consumer_ids_changed(self, address: str, request: RemotingCommand) -> None:
        group = request.ext_fields.get("consumerGroup", "")
        _log.info("%s: the members of group %s changed", address, group)
        consumer = self._consumer_of(group)
        if consumer is None or consumer.joined:
            self.rebalance_immediately()

    # Producers.

    def _check_transaction_state(self, address: str, request: RemotingCommand) -> None:
        """Source: ClientRemotingProcessor.checkTransactionState."""
        messages = decode_messages(request.body)
        if len(messages) != 1:
            raise ProtocolError(f"a question about a transaction holds {len(messages)} messages, not one")
        msg = messages[0]
        group = msg.get_property(MessageConst.PRODUCER_GROUP)
        with self._lock:
            producer = self._producers.get(group) if group is not None else None
        if producer is None or producer.check_transaction is None:
            self._warnings.warning(
                ("transaction", group), "%s asks about a transaction of group %s, which has no such producer here",
                address, group,
            )  # fmt: skip
            return
        producer.check_transaction(address, msg, request)

    def _receive_reply_message(self, address: str, request: RemotingCommand) -> None:
        self.request_futures.receive_reply(request, self._runtime.clock.wall_ms())

    def _consumer_of(self, group: str) -> ConsumerInner | None:
        with self._lock:
            return self._consumers.get(group)

    # End.

    def shutdown(self) -> None:
        """End all threads and connections; blocks for a few seconds at most."""
        self._ended = True
        self.pulls.shutdown()
        self._timers.shutdown()
        self.request_futures.shutdown()
        self._rebalance_service.shutdown()
        self.processor.shutdown()
        self._remoting.shutdown()


class ClientRegistry:
    """The clients of one process by client id. Source: MQClientManager.

    Lock: ``_lock`` guards the table; clients are made under it, so that no id has two, but ended outside.

    A forked child begins with an empty table; what it inherited knows that it is a copy (``MQClientInstance.forked``).

    Behaviour: CI-07.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = Mutex()
        self._clients: dict[str, tuple[MQClientInstance, int]] = {}  # with the number of users
        self._looks_after_forks = False

    def acquire(self, config: ClientConfig) -> MQClientInstance:
        """The client of the configuration's id, made if need be; give it back with ``release``.

        Raises:
            ConfigError: there are no name servers, or the client of this id exists and uses others, or other
                credentials, TLS or hook; or a file for TLS cannot be used.
        """
        client_id = build_client_id(config, self._runtime.clock)
        name_servers = config.name_servers()
        with self._lock:
            if not self._looks_after_forks and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._begin_anew)
                self._looks_after_forks = True
            known = self._clients.get(client_id)
            client, users = known or (MQClientInstance(client_id, config, self._runtime), 0)
            if client.name_servers != name_servers:
                raise ConfigError(
                    f"the client {client_id} of this process uses the name servers {client.name_servers}: "
                    f"give the one for {name_servers} another instance_name"
                )
            if different := client.differing_settings(config):
                raise ConfigError(
                    f"the client {client_id} of this process was made with another {', '.join(different)}: "
                    "give this one another instance_name"
                )
            self._clients[client_id] = (client, users + 1)
            return client

    def _begin_anew(self) -> None:
        # The old lock may be held by a thread that does not exist here.
        clients, self._clients, self._lock = self._clients, {}, Mutex()
        for client, _ in clients.values():
            client.abandon()

    def release(self, client: MQClientInstance) -> None:
        """Give a client back; the last user ends it, which takes a few seconds at most."""
        with self._lock:
            known, users = self._clients[client.client_id]
            if users > 1:
                self._clients[client.client_id] = (known, users - 1)
                return
            del self._clients[client.client_id]
        client.shutdown()


def build_client_id(config: ClientConfig, clock: Clock) -> str:
    """``ip@instance[@unit]``; an instance named DEFAULT becomes ``pid#ms-and-count``: no two members share an id.

    Broadcasting consumers keep DEFAULT: the id is part of the path of their offsets' file.

    Source: ClientConfig.buildMQClientId, changeInstanceNameToPID.
    """
    instance = config.instance_name
    broadcasting = isinstance(config, ConsumerConfig) and config.message_model is MessageModel.BROADCASTING
    if instance == "DEFAULT" and not broadcasting:
        instance = f"{os.getpid()}#{clock.wall_ms()}{next(_instances):03d}"
    parts = [config.client_ip or local_ip(), instance]
    if config.unit_name:
        parts.append(config.unit_name)
    return "@".join(parts)


_instances = itertools.count()

process_clients = ClientRegistry(ThreadRuntime())
"""The clients of this process. Making it starts nothing."""
