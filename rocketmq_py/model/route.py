"""Where a topic lives. Source: TopicRouteData, QueueData, BrokerData."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueData:
    """The queues that a topic has on one broker name.

    Attributes:
        broker_name: name shared by a master and its slaves.
        read_queue_nums: queues 0 to this, exclusive, may be read.
        write_queue_nums: queues 0 to this, exclusive, may be written.
        perm: bits of ``PermName``.
        topic_sys_flag: bits that the broker keeps for the topic.
    """

    broker_name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0


@dataclass(frozen=True, slots=True)
class BrokerData:
    """The servers behind one broker name.

    Attributes:
        cluster: name of the cluster.
        broker_name: name shared by a master and its slaves.
        broker_addrs: broker id to ``host:port``; id 0 is the master.
    """

    cluster: str
    broker_name: str
    broker_addrs: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class TopicRouteData:
    """All that a name server tells about a topic.

    Attributes:
        queue_datas: one entry per broker name.
        broker_datas: one entry per broker name.
        order_topic_conf: ``brokerA:4;brokerB:8`` where an operator fixed the queues to write to, else None.
        is_static: a static topic: its queues are mapped to those of brokers by tables that this client does not read.
    """

    queue_datas: tuple[QueueData, ...]
    broker_datas: tuple[BrokerData, ...]
    order_topic_conf: str | None = None
    is_static: bool = False
