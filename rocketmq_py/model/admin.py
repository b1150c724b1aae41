"""What administrators read and change: topics, groups, clusters, offsets, members.

Source: TopicConfig, SubscriptionGroupConfig, ClusterInfo, TopicStatsTable, ConsumeStats, ConsumerConnection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rocketmq_py.model.codes import PermName
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.route import BrokerData

PERMISSIONS = {PermName.READ: "r", PermName.WRITE: "w", PermName.INHERIT: "x"}
"""Signs of permissions. Source: PermName.perm2String, where a topic that others are made from has an X."""


def perm_text(perm: int) -> str:
    """A topic's permission as letters: ``rw``, ``r``, ``w``; ``-`` for none."""
    return "".join(sign for bit, sign in PERMISSIONS.items() if perm & bit) or "-"


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """A topic on one broker.

    Attributes:
        topic_name: its name.
        read_queue_nums: queues 0 to this, exclusive, may be read.
        write_queue_nums: queues 0 to this, exclusive, may be written.
        perm: bits of ``PermName``.
        topic_filter_type: SINGLE_TAG or MULTI_TAG.
        topic_sys_flag: bits that the broker keeps for the topic.
        order: whether the name server keeps an order configuration for it.
        attributes: such as ``message.type``: NORMAL, FIFO, DELAY, TRANSACTION, PRIORITY, MIXED. What is to be changed
            needs to have only those that change; one with an empty value is removed.
    """

    topic_name: str
    read_queue_nums: int = 8
    write_queue_nums: int = 8
    perm: int = PermName.READ | PermName.WRITE
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: int = 0
    order: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubscriptionGroupConfig:
    """A consumer group on one broker.

    Attributes:
        group_name: its name.
        consume_enable: whether it may consume at all.
        consume_broadcast_enable: whether its members may be broadcasting ones.
        consume_message_orderly: whether messages that are popped come in order.
        retry_queue_nums: queues of its retry topic; 0: nothing is retried.
        retry_max_times: retries after which a message goes to the dead-letter topic.
        consume_timeout_minute: minutes that a message may take when it is popped in order.
        notify_consumer_ids_changed_enable: whether members are told when others come and go.
        others: further fields as the broker has them, by their names in JSON.
    """

    group_name: str
    consume_enable: bool = True
    consume_broadcast_enable: bool = True
    consume_message_orderly: bool = False
    retry_queue_nums: int = 1
    retry_max_times: int = 16
    consume_timeout_minute: int = 15
    notify_consumer_ids_changed_enable: bool = True
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """Which brokers there are.

    Attributes:
        broker_addr_table: by broker name.
        cluster_addr_table: broker names by cluster.
    """

    broker_addr_table: Mapping[str, BrokerData]
    cluster_addr_table: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class TopicOffset:
    """Ends of one queue.

    Attributes:
        min_offset: first offset that is still there.
        max_offset: the offset that the next message gets.
        last_update_timestamp: when the last message was stored, ms since 1970; 0: never.
    """

    min_offset: int
    max_offset: int
    last_update_timestamp: int


@dataclass(frozen=True, slots=True)
class OffsetWrapper:
    """How far a group is in one queue.

    Attributes:
        broker_offset: the queue's end.
        consumer_offset: committed; 0 also where nothing is committed.
        pull_offset: where the last pull ended, or ``consumer_offset`` when that is higher.
        last_timestamp: when the last message consumed was stored, ms since 1970; 0: none, or it is gone.
    """

    broker_offset: int
    consumer_offset: int
    pull_offset: int
    last_timestamp: int

    @property
    def lag(self) -> int:
        """Messages that are not committed."""
        return self.broker_offset - self.consumer_offset


@dataclass(frozen=True, slots=True)
class ConsumeStats:
    """How far a group is.

    Attributes:
        offset_table: by queue.
        consume_tps: messages per second, in the last minute.
    """

    offset_table: Mapping[MessageQueue, OffsetWrapper]
    consume_tps: float


@dataclass(frozen=True, slots=True)
class Connection:
    """A member as its broker sees it.

    Attributes:
        client_id: ``ip@instance``.
        client_addr: where its connection comes from.
        language: what it is written in, as it says.
        version: ordinal of ``MQVersion``.
    """

    client_id: str
    client_addr: str
    language: str
    version: int


@dataclass(frozen=True, slots=True)
class ConsumerConnection:
    """The members of a group, and what the last heartbeat told of it.

    Attributes:
        connections: sorted by client id.
        subscriptions: expressions by topic.
        consume_type: CONSUME_PASSIVELY for push, CONSUME_ACTIVELY for pull, CONSUME_POP.
        message_model: CLUSTERING or BROADCASTING.
        consume_from_where: where the group starts where nothing is committed.
    """

    connections: tuple[Connection, ...]
    subscriptions: Mapping[str, str]
    consume_type: str
    message_model: str
    consume_from_where: str
