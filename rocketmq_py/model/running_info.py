"""What a consumer tells operators about itself.

Source: ConsumerRunningInfo, ProcessQueueInfo, PopProcessQueueInfo, ConsumeStatus, ConsumeMessageDirectlyResult,
CMResult.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.subscription import SubscriptionData


@dataclass(frozen=True, slots=True)
class ConsumeStatus:
    """Rates of one topic. All are 0 until the first sample, 10 s after the first message at most.

    Attributes:
        pull_rt: ms that a pull took which found messages, on average over the last minute.
        pull_tps: messages pulled per second, over the last minute.
        consume_rt: ms that a listener call took, on average over the last minute, or over the last hour when the sum
            of the minute is 0.
        consume_ok_tps: messages consumed per second, over the last minute.
        consume_failed_tps: messages that failed per second, over the last minute.
        consume_failed_msgs: messages that failed in the last hour, as of the last full ten minutes of the client.
    """

    pull_rt: float = 0.0
    pull_tps: float = 0.0
    consume_rt: float = 0.0
    consume_ok_tps: float = 0.0
    consume_failed_tps: float = 0.0
    consume_failed_msgs: int = 0


@dataclass(frozen=True, slots=True)
class ProcessQueueInfo:
    """A window as operators see it. Offsets of what is empty are 0, as in Java.

    Attributes:
        commit_offset: what the next commit tells the broker; -1: nothing known, -2: the broker could not be asked.
        cached_msg_min_offset: lowest offset that is not taken by an orderly listener.
        cached_msg_max_offset: highest such offset.
        cached_msg_count: how many such messages there are.
        cached_msg_size_in_mib: whole MiB of bodies, of the taken messages too.
        transaction_msg_min_offset: lowest offset that an orderly listener has taken and not committed.
        transaction_msg_max_offset: highest such offset.
        transaction_msg_count: how many such messages there are.
        locked: whether the broker's lock is believed to be held.
        try_unlock_times: failed attempts to give an orderly queue away.
        last_lock_timestamp: when the broker last granted the lock, ms.
        dropped: whether the queue was taken away.
        last_pull_timestamp: when the last pull was attempted, ms.
        last_consume_timestamp: when something was last finished or taken, ms.
    """

    commit_offset: int
    cached_msg_min_offset: int
    cached_msg_max_offset: int
    cached_msg_count: int
    cached_msg_size_in_mib: int
    transaction_msg_min_offset: int
    transaction_msg_max_offset: int
    transaction_msg_count: int
    locked: bool
    try_unlock_times: int
    last_lock_timestamp: int
    dropped: bool
    last_pull_timestamp: int
    last_consume_timestamp: int


@dataclass(frozen=True, slots=True)
class PopProcessQueueInfo:
    """A popped queue as operators see it.

    Attributes:
        wait_ack_count: messages popped and not settled.
        dropped: whether the queue was taken away.
        last_pop_timestamp: when the last pop was attempted, ms.
    """

    wait_ack_count: int
    dropped: bool
    last_pop_timestamp: int


@dataclass(frozen=True, slots=True)
class ConsumerRunningInfo:
    """All about one consumer.

    Attributes:
        properties: its settings by their Java names, as text, and what Java calls ``PROP_...``.
        subscriptions: what it is subscribed to, the retry topic too.
        mq_table: its windows; timestamps in ms since 1970.
        status_table: its rates by topic.
        jstack: the stacks of all threads of the process, when they were asked for.
        mq_pop_table: the queues that it pops; timestamps in ms since 1970.
    """

    properties: Mapping[str, str]
    subscriptions: Collection[SubscriptionData]
    mq_table: Mapping[MessageQueue, ProcessQueueInfo]
    status_table: Mapping[str, ConsumeStatus]
    jstack: str | None = None
    mq_pop_table: Mapping[MessageQueue, PopProcessQueueInfo] = field(default_factory=dict)


class CMResult(Enum):
    """How a message consumed on demand ended. Source: CMResult."""

    CR_SUCCESS = "CR_SUCCESS"
    CR_LATER = "CR_LATER"
    CR_ROLLBACK = "CR_ROLLBACK"
    CR_COMMIT = "CR_COMMIT"
    CR_THROW_EXCEPTION = "CR_THROW_EXCEPTION"
    CR_RETURN_NULL = "CR_RETURN_NULL"


@dataclass(frozen=True, slots=True)
class ConsumeMessageDirectlyResult:
    """Answer to CONSUME_MESSAGE_DIRECTLY.

    Attributes:
        order: whether the consumer is orderly.
        auto_commit: what the orderly listener's context says; True for a concurrent one.
        consume_result: what the listener answered.
        remark: what it raised, in short.
        spent_time_mills: ms that it took.
    """

    order: bool
    auto_commit: bool
    consume_result: CMResult
    remark: str | None
    spent_time_mills: int
