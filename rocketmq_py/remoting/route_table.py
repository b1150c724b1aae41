"""Where topics live: pure state, filled by whoever asks a name server.

Source: MQClientInstance.topicRouteTable, brokerAddrTable, topicRouteData2TopicPublishInfo and ...SubscribeInfo.
"""

from __future__ import annotations

import random
from itertools import islice
from typing import NamedTuple

from rocketmq_py.model.codes import MASTER_ID, PermName
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.route import TopicRouteData
from rocketmq_py.remoting.bodies import QUEUE_NUMS_MAX
from rocketmq_py.runtime import Mutex


class FoundBroker(NamedTuple):
    """An address to talk to."""

    address: str
    is_slave: bool


class RouteTable:
    """Owner of all routes of a client. Lock: ``_lock``; nothing is called out to."""

    def __init__(self) -> None:
        self._lock = Mutex()
        self._routes: dict[str, TopicRouteData] = {}
        self._brokers: dict[str, dict[int, str]] = {}  # broker name -> id -> address, of all routes
        self._proxies: set[str] = set()

    def update(self, topic: str, route: TopicRouteData) -> bool:
        """Note a topic's route; False when it is as before. Brokers that no route names any more are forgotten."""
        with self._lock:
            changed = self._routes.get(topic) != route
            self._routes.pop(topic, None)  # to the end: the newest answer about a broker is the one that counts
            self._routes[topic] = route
            brokers: dict[str, dict[int, str]] = {}
            for known in self._routes.values():
                for broker in known.broker_datas:
                    brokers[broker.broker_name] = dict(broker.broker_addrs)
            self._brokers = brokers
            return changed

    def knows(self, topic: str) -> bool:
        """Whether there is a route of the topic."""
        return topic in self._routes

    def subscribe_queues(self, topic: str) -> list[MessageQueue]:
        """Queues that may be read."""
        with self._lock:
            route = self._routes.get(topic)
        return [
            MessageQueue(topic, queue.broker_name, number)
            for queue in (route.queue_datas if route else ())
            if queue.perm & PermName.READ
            for number in range(queue.read_queue_nums)
        ]

    def publish_queues(self, topic: str) -> list[MessageQueue]:
        """Queues that may be written and whose broker has a master, sorted by broker; or the order configuration's."""
        with self._lock:
            route = self._routes.get(topic)
            brokers = self._brokers
        if route is None:
            return []
        if route.order_topic_conf:
            ordered = (
                MessageQueue(topic, name, number)
                for part in route.order_topic_conf.split(";")
                for name, _, count in [part.partition(":")]
                if count.isascii() and count.isdigit() and len(count) < 10
                for number in range(int(count))
            )
            return list(islice(ordered, QUEUE_NUMS_MAX))
        return [
            MessageQueue(topic, queue.broker_name, number)
            for queue in sorted(route.queue_datas, key=lambda data: data.broker_name)
            if queue.perm & PermName.WRITE and MASTER_ID in brokers.get(queue.broker_name, {})
            for number in range(queue.write_queue_nums)
        ]

    def find_broker(self, name: str, broker_id: int = MASTER_ID, only_this: bool = False) -> FoundBroker | None:
        """Address of a broker; unless ``only_this``, another of the same name will do.

        Source: MQClientInstance.findBrokerAddressInSubscribe.
        """
        addresses = self._brokers.get(name)  # replaced, never changed
        if addresses is None:
            return None
        if broker_id == MASTER_ID and MASTER_ID in addresses:
            return FoundBroker(addresses[MASTER_ID], False)
        for wanted in (broker_id, broker_id + 1) if broker_id != MASTER_ID else (broker_id,):
            if wanted in addresses:
                return FoundBroker(addresses[wanted], wanted != MASTER_ID)
        if only_this or not addresses:
            return None
        found = min(addresses)
        return FoundBroker(addresses[found], found != MASTER_ID)

    def random_broker_of(self, topic: str) -> str | None:
        """Address of any broker of the topic, a master where there is one. Source: findBrokerAddrByTopic."""
        with self._lock:
            route = self._routes.get(topic)
        brokers = [broker for broker in (route.broker_datas if route else ()) if broker.broker_addrs]
        if not brokers:
            return None
        addresses = random.choice(brokers).broker_addrs
        return addresses.get(MASTER_ID) or random.choice(list(addresses.values()))

    def masters_of(self, topic: str) -> list[str] | None:
        """Addresses of the masters of a topic; None without a route of it."""
        route = self._routes.get(topic)
        if route is None:
            return None
        return [broker.broker_addrs[MASTER_ID] for broker in route.broker_datas if MASTER_ID in broker.broker_addrs]

    def broker_addresses(self, masters_only: bool) -> list[str]:
        """Every broker address, each once."""
        with self._lock:
            found = [
                address
                for addresses in self._brokers.values()
                for broker_id, address in sorted(addresses.items())
                if broker_id == MASTER_ID or not masters_only
            ]
        return list(dict.fromkeys(found))

    def note_proxy(self, address: str) -> None:
        """Note that a proxy listens at this address."""
        with self._lock:
            self._proxies.add(address)

    def is_proxy(self, address: str) -> bool:
        """Whether a proxy listens there: pulls need connections of their own then (``proxy_lanes``)."""
        return address in self._proxies
