"""The servers that the suite runs over. A further one joins as a subclass of ``Server`` and a line in ``SERVERS``."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from typing import Any

from tests.apache.cluster import ApacheCluster
from tests.embedded import EmbeddedProcess


class Server(ABC):
    """What the scenarios need of a server."""

    rebalance_bound_s: float
    """How long a group may take to spread its queues after a member came or went."""

    fixture: str
    """Name of the fixture that starts it."""

    creates_topics: bool
    """Whether the first send to an unknown topic creates it."""

    checks_expressions: bool = True
    """Whether it refuses an expression that it cannot read when a consumer starts."""

    @property
    @abstractmethod
    def namesrv_addr(self) -> str:
        """What a client is given."""

    @property
    def consumer_address(self) -> dict[str, Any]:
        """Where a consumer connects to, as its setting."""
        return {"namesrv_addr": self.namesrv_addr}

    @abstractmethod
    def create_topic(self, topic: str, queues: int, *, message_type: str | None = None) -> None:
        """Create a topic; returns when clients can find it. A proxy looks at the type of its messages."""

    @abstractmethod
    def create_group(self, group: str) -> None:
        """Create a group with its retry topic."""

    @abstractmethod
    def max_offsets(self, topic: str) -> dict[int, int]:
        """End of each queue."""

    @abstractmethod
    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """Committed offset of each queue, -1 for none."""

    @abstractmethod
    def consumer_ids(self, group: str) -> list[str]:
        """Client ids of a group's members."""

    @abstractmethod
    def lock(self, group: str, topic: str, queue_id: int, client_id: str) -> bool:
        """Lock a queue as a member of the group would; whether it is held now."""

    @abstractmethod
    def unlock(self, group: str, topic: str, queue_id: int, client_id: str) -> None:
        """Give the lock back."""

    @abstractmethod
    def restart_broker(self) -> None:
        """Kill the broker and start it again on the same data."""

    def topic(self, queues: int = 8) -> str:
        """A new topic."""
        topic = f"topic-{uuid.uuid4().hex[:12]}"
        self.create_topic(topic, queues)
        return topic

    def group(self) -> str:
        """A new group."""
        group = f"group-{uuid.uuid4().hex[:12]}"
        self.create_group(group)
        return group


class _Administered(Server):
    """A server that is a name server and a broker."""

    rebalance_bound_s = 15
    creates_topics = True

    def __init__(self, cluster: ApacheCluster | EmbeddedProcess) -> None:
        self.cluster = cluster

    @property
    def namesrv_addr(self) -> str:
        return self.cluster.namesrv_addr

    def create_topic(self, topic: str, queues: int, *, message_type: str | None = None) -> None:
        self.cluster.create_topic(topic, queues, message_type=message_type)

    def create_group(self, group: str) -> None:
        self.cluster.create_group(group)

    def max_offsets(self, topic: str) -> dict[int, int]:
        return self.cluster.max_offsets(topic)

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        return self.cluster.committed_offsets(group, topic)

    def consumer_ids(self, group: str) -> list[str]:
        return self.cluster.consumer_ids(group)

    def lock(self, group: str, topic: str, queue_id: int, client_id: str) -> bool:
        return self.cluster.lock(group, topic, queue_id, client_id)

    def unlock(self, group: str, topic: str, queue_id: int, client_id: str) -> None:
        self.cluster.unlock(group, topic, queue_id, client_id)

    def restart_broker(self) -> None:
        self.cluster.restart_broker()


class ApacheBroker(_Administered):
    """Apache's name server and broker."""

    fixture = "apache"


class Embedded(_Administered):
    """The broker of this package, a process of its own."""

    fixture = "embedded"
    cluster: EmbeddedProcess


class ApacheProxyRemoting(_Administered):
    """Apache's proxy in front of the same broker, on its remoting port."""

    fixture = "apache"
    cluster: ApacheCluster

    # It tells no member that another one came: each finds out at its next turn, after at most 20 s.
    rebalance_bound_s = 45
    # It takes every expression, and a wrong one for none.
    checks_expressions = False
    # It checks the type of messages, which a topic has only once it exists.
    creates_topics = False

    @property
    def namesrv_addr(self) -> str:
        return self.cluster.proxy_remoting_addr

    def create_topic(self, topic: str, queues: int, *, message_type: str | None = None) -> None:
        super().create_topic(topic, queues, message_type=message_type)
        self.cluster.wait_route(topic, self.namesrv_addr)


class ApacheProxyGrpc(ApacheProxyRemoting):
    """The same proxy: producers on its remoting port, consumers on its gRPC port."""

    # The members share what comes, not the queues; who left is known at once.
    rebalance_bound_s = 15

    @property
    def consumer_address(self) -> dict[str, Any]:
        return {"endpoints": self.cluster.proxy_grpc_addr}

    def kill_grpc(self) -> None:
        """Kill what consumers are connected to."""
        self.cluster.kill_proxy()

    def start_grpc(self) -> None:
        """Start it again."""
        self.cluster.start_proxy()


SERVERS: dict[str, type[_Administered]] = {
    "embedded": Embedded,
    "apache-broker": ApacheBroker,
    "apache-proxy-remoting": ApacheProxyRemoting,
}


class EmbeddedGrpc(Embedded):
    """The broker of this package: producers on its remoting port, consumers on its gRPC port."""

    @property
    def consumer_address(self) -> dict[str, Any]:
        return {"endpoints": self.cluster.grpc_addr}

    def kill_grpc(self) -> None:
        """Kill what consumers are connected to: all of it."""
        self.cluster.kill()

    def start_grpc(self) -> None:
        """Start it again."""
        self.cluster.start()


GRPC_SERVERS: dict[str, type[_Administered]] = {"embedded-grpc": EmbeddedGrpc, "apache-proxy-grpc": ApacheProxyGrpc}

ON_BOTH_WIRES = [*SERVERS, *GRPC_SERVERS]
"""For scenarios that hold on the gRPC wire, too: ``parametrize("server", ON_BOTH_WIRES, indirect=True)``."""
