"""Administration: topics, groups, offsets, members. Source: DefaultMQAdminExt, DefaultMQAdminExtImpl, CommandUtil."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, Unpack

from rocketmq_py.errors import BrokerError, ConfigError, ConnectError, IllegalStateError, ProtocolError, TransportError
from rocketmq_py.model import names
from rocketmq_py.model.admin import (
    ClusterInfo,
    ConsumerConnection,
    ConsumeStats,
    OffsetWrapper,
    SubscriptionGroupConfig,
    TopicConfig,
    TopicOffset,
)
from rocketmq_py.model.codes import MASTER_ID, ResponseCode
from rocketmq_py.model.config import ClientConfig, check_names
from rocketmq_py.model.life_cycle import StartedByWith
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.route import BrokerData, TopicRouteData
from rocketmq_py.model.running_info import ConsumerRunningInfo
from rocketmq_py.model.settings import ClientSettings
from rocketmq_py.remoting.admin_api import AdminApi
from rocketmq_py.remoting.bodies import SetMessageRequestMode
from rocketmq_py.remoting.remoting_client import RemotingClient
from rocketmq_py.remoting.rpc_hook import hooks_of
from rocketmq_py.remoting.tls import client_context
from rocketmq_py.runtime import Mutex, Runtime, ThreadRuntime

T = TypeVar("T")

SERVER_SIDE_RESET = "useServerSideResetOffset"
"""A broker's setting: it keeps where members are to go on, and tells them at their next pull. Source: BrokerConfig."""


class DefaultMQAdminExt(ClientConfig, StartedByWith):
    """Asks and changes what name servers and brokers know. Settings are attributes and keywords, see ``ClientConfig``.

    Any thread may call it; every method waits for its answers, each at most ``mq_client_api_timeout`` ms (5,000 here),
    and raises

    - ``BrokerError`` when a server refuses, ``code`` says why: TOPIC_NOT_EXIST for a topic that no name server knows,
    - ``TransportError`` when one does not answer, ``ProtocolError`` when it answers nonsense,
    - ``IllegalStateError`` before ``start`` and after ``shutdown``.

    What is read comes from a master, or from any of its slaves when it is away; what is changed goes to masters.
    Unlike consumers and producers it is no client that brokers know: it sends no heartbeats.

    Args:
        **settings: see ``ClientConfig``; ``namespace`` is not looked at: names are those that brokers know.

    Raises:
        ConfigError: there is no such setting.
    """

    __slots__ = ("_api", "_closed", "_lock", "_name_servers", "_remoting", "_runtime")

    def __init__(self, **settings: Unpack[ClientSettings]) -> None:
        check_names(ClientConfig, settings)
        super().__init__(**ClientSettings(mq_client_api_timeout=5_000) | settings)  # Java: timeoutMillis
        self._runtime: Runtime = ThreadRuntime()
        self._lock = Mutex()  # guards the three below
        self._remoting: RemotingClient | None = None
        self._api: AdminApi | None = None
        self._closed = False
        self._name_servers: list[str] = []

    def start(self) -> None:
        """Make ready; connects to nothing yet.

        Raises:
            ConfigError: a setting is out of range, or there is no name server.
            IllegalStateError: started before.
        """
        self.check_client()
        name_servers = self.name_servers()
        tls = client_context(self)
        with self._lock:
            if self._api is not None or self._closed:
                raise IllegalStateError("an admin client is started once: make a new one")
            self._name_servers = name_servers
            self._remoting = RemotingClient(self._runtime, lambda *_: False, hooks_of(self), tls)
            self._api = AdminApi(self._remoting, self.mq_client_api_timeout)

    def shutdown(self) -> None:
        """Close the connections. May be called twice and before ``start``."""
        with self._lock:
            self._closed = True
            remoting, self._remoting, self._api = self._remoting, None, None
        if remoting is not None:
            remoting.shutdown()

    @property
    def api(self) -> AdminApi:
        """Requests to one server, by its address."""
        api = self._api
        if api is None:
            raise IllegalStateError("the admin client is not running: call start()")
        return api

    # Where things are.

    def examine_broker_cluster_info(self) -> ClusterInfo:
        """Which clusters and brokers there are."""
        return self._from_a_name_server(self.api.cluster_info)

    def examine_topic_route_info(self, topic: str) -> TopicRouteData:
        """Where a topic lives. ``BrokerError`` TOPIC_NOT_EXIST: nowhere."""
        return self._from_a_name_server(lambda address: self.api.topic_route(address, topic))

    def fetch_all_topic_list(self) -> list[str]:
        """Names of all topics, sorted; with those of the system, and names of clusters and brokers among them."""
        return self._from_a_name_server(self.api.topic_list)

    def master_addresses(self, cluster: str | None = None) -> dict[str, str]:
        """Addresses of a cluster's masters by broker name. Source: CommandUtil.fetchMasterAddrByClusterName.

        Args:
            cluster: None: the only one that there is.

        Raises:
            ConfigError: there is no such cluster, or there are several and none is named, or it has no master now.
        """
        info = self.examine_broker_cluster_info()
        known = sorted(info.cluster_addr_table)
        if cluster is None:
            if len(known) != 1:
                raise ConfigError(f"which cluster? The name server knows {', '.join(known) or 'none'}")
            cluster = known[0]
        if cluster not in info.cluster_addr_table:
            raise ConfigError(f"there is no cluster {cluster}: the name server knows {', '.join(known) or 'none'}")
        brokers = [info.broker_addr_table.get(name) for name in sorted(info.cluster_addr_table[cluster])]
        masters = {
            broker.broker_name: broker.broker_addrs[MASTER_ID]
            for broker in brokers
            if broker is not None and MASTER_ID in broker.broker_addrs
        }
        if not masters:
            raise ConfigError(f"no broker of the cluster {cluster} has a master now")
        return masters

    def all_master_addresses(self) -> dict[str, str]:
        """Addresses of all masters of all clusters by broker name."""
        return {
            name: broker.broker_addrs[MASTER_ID]
            for name, broker in sorted(self.examine_broker_cluster_info().broker_addr_table.items())
            if MASTER_ID in broker.broker_addrs
        }

    def masters_of_topic(self, topic: str) -> dict[str, str]:
        """Addresses of the masters that have a topic, by broker name.

        Raises:
            ConnectError: one of its brokers has no master now: a change would reach a part of the topic only.
        """
        masters = {}
        for broker in self.examine_topic_route_info(topic).broker_datas:
            if MASTER_ID not in broker.broker_addrs:
                raise ConnectError(f"broker {broker.broker_name} of topic {topic} has no master now")
            masters[broker.broker_name] = broker.broker_addrs[MASTER_ID]
        return masters

    def _from_a_name_server(self, ask: Callable[[str], T]) -> T:
        """The answer of the first name server that gives one."""
        failures = []
        for address in self._name_servers:
            try:
                return ask(address)
            except (TransportError, ProtocolError) as error:
                failures.append(str(error))
        raise ConnectError(f"no name server can be reached, check namesrv_addr: {'; '.join(failures)}")

    def _brokers_of(self, topic: str) -> list[str]:
        """Addresses of a topic's brokers, a master where there is one. Source: BrokerData.selectBrokerAddr."""
        brokers = self.examine_topic_route_info(topic).broker_datas
        return [address for broker in brokers if (address := _select_broker_addr(broker)) is not None]

    # Topics.

    def create_and_update_topic_config(self, addresses: Iterable[str], config: TopicConfig) -> None:
        """Create or change a topic on these brokers, one after the other, until one fails."""
        names.check_topic(config.topic_name)
        for address in addresses:
            self.api.create_topic(address, config)

    def examine_topic_config(self, address: str, topic: str) -> TopicConfig | None:
        """A topic on one broker; None when it is not there."""
        return _unless(ResponseCode.TOPIC_NOT_EXIST, lambda: self.api.topic_config(address, topic))

    def examine_topic_stats(self, topic: str) -> dict[MessageQueue, TopicOffset]:
        """Ends of all queues of a topic, sorted."""
        found: dict[MessageQueue, TopicOffset] = {}
        for address in self._brokers_of(topic):
            found.update(self.api.topic_stats(address, topic))
        return dict(sorted(found.items()))

    def query_topic_consume_by_who(self, topic: str) -> list[str]:
        """Groups that consume a topic or have offsets in it; of all brokers, Java asks one."""
        return sorted(
            {group for address in self._brokers_of(topic) for group in self.api.topic_consumed_by(address, topic)}
        )

    def delete_topic(self, topic: str) -> None:
        """Delete a topic with its messages: on all its masters, then at all name servers.

        In this order a name server cannot hear of it again from a broker.
        """
        for address in self.masters_of_topic(topic).values():
            self.api.delete_topic_in_broker(address, topic)
        for address in self._name_servers:
            self.api.delete_topic_in_name_server(address, topic)

    # Groups.

    def create_and_update_subscription_group_config(
        self, addresses: Iterable[str], config: SubscriptionGroupConfig
    ) -> None:
        """Create or change a group on these brokers, one after the other, until one fails."""
        names.check_group(config.group_name)
        for address in addresses:
            self.api.create_subscription_group(address, config)

    def examine_subscription_groups(self, address: str) -> Mapping[str, SubscriptionGroupConfig]:
        """All groups of one broker by name."""
        return self.api.subscription_groups(address)

    def delete_subscription_group(self, address: str, group: str, *, remove_offset: bool = False) -> None:
        """Delete a group on one broker, with what it has committed there if told so."""
        self.api.delete_subscription_group(address, group, remove_offset)

    def set_message_request_mode(self, topic: str, group: str, mode: str, pop_share_queue_num: int = 0) -> None:
        """Have a group pull or pop a topic, on all masters of the topic, one after the other, until one fails.

        Members made with ``client_rebalance=False`` follow within 20 s, others pull.

        Args:
            topic: its name.
            group: its name.
            mode: ``PULL`` or ``POP``.
            pop_share_queue_num: of how many members behind it a member pops the queues, too; 0: of all.
        """
        for address in self.masters_of_topic(topic).values():
            self.api.set_message_request_mode(address, SetMessageRequestMode(topic, group, mode, pop_share_queue_num))

    def examine_consumer_connection_info(self, group: str) -> ConsumerConnection | None:
        """A group's members; None when there are none.

        Members tell all brokers of their topics, so the first broker that knows any knows all. Java asks one at random.
        """
        for address in self.all_master_addresses().values():
            members = self.api.consumer_connections(address, group)
            if members is not None:
                return members
        return None

    def get_consumer_running_info(self, group: str, client_id: str, *, jstack: bool = False) -> ConsumerRunningInfo:
        """What a member tells of itself, through the first broker that it is connected to.

        Args:
            group: its group.
            client_id: as ``examine_consumer_connection_info`` tells it.
            jstack: with the stacks of all threads of its process.

        Raises:
            BrokerError: CONSUMER_NOT_ONLINE: no broker knows such a member; others.
        """
        for address in self.all_master_addresses().values():
            members = self.api.consumer_connections(address, group)
            if members is not None and any(client_id == member.client_id for member in members.connections):
                return self.api.consumer_running_info(address, group, client_id, jstack)
        raise BrokerError(
            ResponseCode.CONSUMER_NOT_ONLINE, f"group {group} has no member {client_id} now", doing="ask a member"
        )

    # Offsets.

    def examine_consume_stats(self, group: str, topic: str | None = None) -> ConsumeStats:
        """How far a group is in a topic, or in all that it has offsets in and, while it runs, subscribes to.

        Asks the brokers of the topic (Java: of the group's retry topic, which may not be on all of them), or, without
        one, of the retry topic. ``BrokerError`` TOPIC_NOT_EXIST: the topic, or the group's retry topic, is not there.
        """
        found: dict[MessageQueue, OffsetWrapper] = {}
        tps = 0.0
        for address in self._brokers_of(topic or names.retry_topic(group)):
            stats = self.api.consume_stats(address, group, topic)
            found.update(stats.offset_table)
            tps += stats.consume_tps
        return ConsumeStats(dict(sorted(found.items())), tps)

    def resets_at_brokers(self, address: str) -> bool:
        """Whether a broker resets offsets by itself; others do it through the members, and by moments only."""
        try:
            return self.api.broker_config(address).get(SERVER_SIDE_RESET, "").lower() == "true"
        except BrokerError as error:
            if error.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
                return False
            raise


def _select_broker_addr(broker: BrokerData) -> str | None:
    """The master's address, or any slave's. Source: BrokerData.selectBrokerAddr."""
    addresses = broker.broker_addrs
    return addresses.get(MASTER_ID) or (random.choice(list(addresses.values())) if addresses else None)


def _unless(code: ResponseCode, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except BrokerError as error:
        if error.code != code:
            raise
        return None
