"""What the core asks a wire for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeInitMode
from rocketmq_py.model.subscription import SubscriptionData


class PullCall(NamedTuple):
    """One pull. Source: PullAPIWrapper.pullKernelImpl.

    Attributes:
        offset: first offset wanted.
        commit_offset: consumed offset to commit on the way; 0 or less commits nothing.
        send_subscription: send the expression itself, because the broker is not to look at the last heartbeat's.
        batch_size: most messages wanted.
        batch_bytes: most bytes wanted.
        hold_ms: how long the broker may hold the pull while there is nothing new.
        timeout_ms: when the answer counts as lost.
    """

    group: str
    mq: MessageQueue
    subscription: SubscriptionData
    offset: int
    commit_offset: int
    send_subscription: bool
    batch_size: int
    batch_bytes: int
    hold_ms: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class PopCall:
    """One pop. Source: PullAPIWrapper.popAsync.

    Attributes:
        mq: a queue; the id -1 stands for all queues of the broker.
        max_nums: most messages wanted, at most 32.
        invisible_ms: how long nobody else gets them.
        init_mode: where to begin in a queue that the group never consumed.
        poll_ms: how long the broker may hold the pop while there is nothing.
        timeout_ms: when the answer counts as lost.
        order: give no message of a queue while one of it is unsettled; this consumer never asks for it.
        attempt: names this try: a repetition of it brings the same messages again where queues are consumed in order.
            Only the gRPC wire reads it.
    """

    group: str
    mq: MessageQueue
    subscription: SubscriptionData
    max_nums: int
    invisible_ms: int
    init_mode: ConsumeInitMode
    poll_ms: int
    timeout_ms: int
    order: bool = False
    attempt: str = ""
