"""Where a group is to go on, and how it is told. Source: ResetOffsetByTimeCommand, DefaultMQAdminExtImpl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rocketmq_py.cli.options import parse_moment
from rocketmq_py.errors import BrokerError, ConfigError, IllegalStateError, RocketMQError
from rocketmq_py.model.admin import ConsumerConnection
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.message_queue import MessageQueue

if TYPE_CHECKING:
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt

BEGIN_MS = 0
"""The moment before all messages."""
END_MS = -1
"""What brokers take for the ends of queues."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to go on: at an offset, or at a moment.

    Attributes:
        offset: the same number in every queue; None: by ``timestamp_ms``.
        timestamp_ms: wall ms; ``BEGIN_MS`` or ``END_MS``.
    """

    offset: int | None
    timestamp_ms: int


def parse_target(text: str) -> Target:
    """``first`` or ``earliest``, ``last`` or ``latest``, a number, or a moment.

    Raises:
        ConfigError: it is none of them.
    """
    if text in ("first", "earliest"):
        return Target(None, BEGIN_MS)
    if text in ("last", "latest"):
        return Target(None, END_MS)
    if text.isascii() and text.isdigit() and len(text) < 19:
        return Target(int(text), BEGIN_MS)
    moment = parse_moment(text)
    if moment is None:
        raise ConfigError(f"--to is first, last, an offset, or a moment like 2026-01-31T12:00:00, not {text!r}")
    return Target(None, max(int(moment.timestamp() * 1_000), BEGIN_MS))


class Way(Enum):
    """How a group is told where to go on."""

    STORED = "stored"
    """Nobody runs: the committed offset was written."""
    BROKER = "broker"
    """The broker has written it, and tells the members at their next pull."""
    MEMBERS = "members"
    """The broker has told the members, who go on there and commit it: about ten seconds later."""


@dataclass(slots=True)
class QueueReset:
    """One queue of it.

    Attributes:
        address: of its broker's master.
        first: the queue's first offset.
        end: the queue's end.
        before: what is committed; None: nothing.
        after: where to go on.
        way: how that was done; None: not done (yet).
    """

    mq: MessageQueue
    address: str
    first: int
    end: int
    before: int | None
    after: int
    way: Way | None = None


def plan(
    admin: DefaultMQAdminExt, group: str, topic: str, target: Target, broker: str | None, queue_id: int | None
) -> list[QueueReset]:
    """What a reset would do; changes nothing.

    Args:
        admin: started.
        group: whose offsets.
        topic: of the queues.
        target: where to go on.
        broker: only queues of this broker name; None: of all.
        queue_id: only queues of this number; None: all.

    Raises:
        ConfigError: there are no such queues, or one of them does not have the offset.
    """
    route = admin.examine_topic_route_info(topic)
    readable = {queue.broker_name: queue.read_queue_nums for queue in route.queue_datas}
    resets = []
    for name, address in sorted(admin.masters_of_topic(topic).items()):
        if broker not in (None, name):
            continue
        for mq, ends in sorted(admin.api.topic_stats(address, topic).items()):
            if mq.queue_id >= readable.get(name, 0) or queue_id not in (None, mq.queue_id):
                continue
            after = _after(admin, address, mq, target, ends.min_offset, ends.max_offset)
            before = admin.api.committed_offset(address, group, mq)
            resets.append(QueueReset(mq, address, ends.min_offset, ends.max_offset, before, after))
    if not resets:
        raise ConfigError(f"topic {topic} has no such queue to read: 'topic stats {topic}' shows them")
    outside = [reset for reset in resets if not reset.first <= reset.after <= reset.end]
    if outside:
        places = ", ".join(f"{each.mq.broker_name}/{each.mq.queue_id}: {each.first} to {each.end}" for each in outside)
        raise ConfigError(f"offset {target.offset} is not in every queue, choose with --broker and --queue ({places})")
    return resets


def _after(admin: DefaultMQAdminExt, address: str, mq: MessageQueue, target: Target, first: int, end: int) -> int:
    if target.offset is not None:
        return target.offset
    if target.timestamp_ms == END_MS:
        return end
    if target.timestamp_ms == BEGIN_MS or first == end:
        return first
    return min(max(admin.api.search_offset(address, mq, target.timestamp_ms), first), end)


def check(
    admin: DefaultMQAdminExt, group: str, resets: Sequence[QueueReset], members: ConsumerConnection | None
) -> None:
    """Refuse what brokers would not do; a dry run is to tell it, too.

    Raises:
        IllegalStateError: members run that keep their offsets themselves.
        RocketMQError: a broker of these queues does not know the group.
    """
    if members is not None:
        if members.message_model == "BROADCASTING":
            raise IllegalStateError(
                f"group {group} is a broadcasting one: each member keeps its offsets on its own machine, in "
                "offsets.json"
            )
        return
    for address in dict.fromkeys(reset.address for reset in resets):
        try:
            known = admin.examine_subscription_groups(address)
        except BrokerError:
            continue  # whoever may reset need not be permitted to list; then only the broker tells
        if group not in known:
            raise RocketMQError(
                f"the broker {address} does not know the group {group}, so it keeps no offsets of it: "
                "'group create' makes it, or its first member"
            )


def carry_out(
    admin: DefaultMQAdminExt,
    group: str,
    target: Target,
    resets: Sequence[QueueReset],
    members: ConsumerConnection | None,
) -> None:
    """Reset what was checked, broker by broker; every queue that was done has its ``way`` then, also when this raises.

    Raises:
        IllegalStateError: members run whom the brokers cannot tell that.
        RocketMQError: a broker refused, or could not be asked.
    """
    for address in dict.fromkeys(reset.address for reset in resets):
        there = [reset for reset in resets if reset.address == address]
        if members is None:
            _store(admin, group, there)
        elif admin.resets_at_brokers(address):
            for reset in there:
                _have_broker_reset(admin, group, reset)
        else:
            _have_members_told(admin, group, target, address, there)


def _store(admin: DefaultMQAdminExt, group: str, resets: Sequence[QueueReset]) -> None:
    for reset in resets:
        admin.api.update_consumer_offset(reset.address, group, reset.mq, reset.after)
        reset.way = Way.STORED
        if admin.api.committed_offset(reset.address, group, reset.mq) != reset.after:
            # An earlier reset that no member has heard of yet makes the broker swallow it, without a word.
            _have_broker_reset(admin, group, reset)


def _have_broker_reset(admin: DefaultMQAdminExt, group: str, reset: QueueReset) -> None:
    mq = reset.mq
    admin.api.reset_offset(reset.address, group, mq.topic, BEGIN_MS, mq.queue_id, reset.after)
    reset.way = Way.BROKER


def _have_members_told(
    admin: DefaultMQAdminExt, group: str, target: Target, address: str, resets: Sequence[QueueReset]
) -> None:
    topic = resets[0].mq.topic
    every = [mq for mq in admin.api.topic_stats(address, topic) if mq.topic == topic]
    if target.offset is not None or len(resets) < len(every):
        raise IllegalStateError(
            f"members of group {group} run, and the broker {address} tells them of moments in all queues only: stop "
            "them first, or give first, last or a moment, without --queue"
        )
    try:
        told = admin.api.reset_offset(address, group, topic, target.timestamp_ms)
    except BrokerError as error:
        if error.code == ResponseCode.CONSUMER_NOT_ONLINE:  # they have gone meanwhile
            _store(admin, group, resets)
            return
        raise
    for reset in resets:
        if reset.mq in told:
            reset.after, reset.way = told[reset.mq], Way.MEMBERS
