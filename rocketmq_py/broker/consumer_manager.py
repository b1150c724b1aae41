"""Who consumes in which group, and what each group wants.

Source: ConsumerManager, ConsumerGroupInfo, DefaultConsumerIdsChangeListener. A member is a connection, not a client id:
that is why a client with two connections is listed twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from rocketmq_py.broker.broker2client import Broker2Client
from rocketmq_py.broker.channel import Channel
from rocketmq_py.broker.client_channel_info import ClientChannelInfo
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.remoting.bodies import ConsumerData

MEMBERS_MAX = 100_000
"""Of all groups together: one heartbeat may name thousands. Upstream sets no limit."""

SUBSCRIPTIONS_MAX_BYTES = 256 * 1024 * 1024
"""What groups want, all together, roughly as it is in memory."""

BROADCASTING = "BROADCASTING"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ConsumerGroupInfo:
    """A group with members. What is told of the whole group is what its last heartbeat said."""

    message_model: str
    consume_type: str = ""
    consume_from_where: str = ""
    members: dict[Channel, ClientChannelInfo] = field(default_factory=dict)
    subscriptions: dict[str, SubscriptionData] = field(default_factory=dict)
    size: int = 0  # of the subscriptions, in bytes


class ConsumerManager:
    """Owner of the members of all groups; on the loop's thread only."""

    def __init__(self, broker2client: Broker2Client) -> None:
        self._broker2client = broker2client
        self._groups: dict[str, ConsumerGroupInfo] = {}
        self._member_count = 0
        self._bytes = 0

    def group(self, name: str) -> ConsumerGroupInfo | None:
        """A group that has members."""
        return self._groups.get(name)

    def client_ids(self, group: str) -> list[str]:
        """Client ids of a group's members, one per connection."""
        return [member.client_id for member in self.members(group)]

    def members(self, group: str) -> list[ClientChannelInfo]:
        """The members of a group, one per connection."""
        info = self._groups.get(group)
        return [] if info is None else list(info.members.values())

    def find_channel(self, group: str, client_id: str) -> ClientChannelInfo | None:
        """A member by its client id."""
        return next((member for member in self.members(group) if member.client_id == client_id), None)

    def subscriptions(self, group: str) -> dict[str, SubscriptionData]:
        """What a group wants now, by topic; nothing while it has no members."""
        info = self._groups.get(group)
        return {} if info is None else info.subscriptions

    def query_topic_consume_by_who(self, topic: str) -> Iterable[str]:
        """Groups with members that want a topic."""
        return [group for group, info in self._groups.items() if topic in info.subscriptions]

    def register(self, member: ClientChannelInfo, data: ConsumerData, *, notify: bool) -> None:
        """Note a heartbeat. The subscriptions of the group become those told here, whoever else is in it.

        Raises:
            BrokerError: there are too many members, or too many subscriptions.
        """
        info = self._groups.get(data.group)
        size = sum([_size(each) for each in data.subscriptions])
        self._check_room(info, member.channel, size)
        if info is None:
            info = self._groups[data.group] = ConsumerGroupInfo(data.message_model)
        info.message_model = data.message_model
        info.consume_type = data.consume_type
        info.consume_from_where = data.consume_from_where
        self._bytes += size - info.size
        info.size = size
        known = info.members.get(member.channel)
        self._member_count += known is None
        changed = known is None
        if known is None or known.client_id != member.client_id:
            _log.info("group %s: %s joined from %s", data.group, member.client_id, member.channel.remote_address)
        info.members[member.channel] = member
        changed = self._update_subscriptions(info, data) or changed
        if changed and notify:
            self._notify(data.group, info)

    def _check_room(self, info: ConsumerGroupInfo | None, channel: Channel, size: int) -> None:
        is_new = info is None or channel not in info.members
        was = 0 if info is None else info.size
        if (is_new and self._member_count >= MEMBERS_MAX) or self._bytes - was + size > SUBSCRIPTIONS_MAX_BYTES:
            raise BrokerError(
                ResponseCode.SYSTEM_BUSY,
                f"this broker has {self._member_count} members with {self._bytes} bytes of subscriptions: possible are "
                f"{MEMBERS_MAX} and {SUBSCRIPTIONS_MAX_BYTES}",
            )

    @staticmethod
    def _update_subscriptions(info: ConsumerGroupInfo, data: ConsumerData) -> bool:
        wanted = {subscription.topic: subscription for subscription in data.subscriptions}
        changed = wanted.keys() != info.subscriptions.keys()
        for topic, subscription in wanted.items():
            known = info.subscriptions.get(topic)
            if known is not None and known.sub_version >= subscription.sub_version:
                wanted[topic] = known
        info.subscriptions = wanted
        return changed

    def unregister(self, channel: Channel, group: str, *, notify: bool) -> None:
        """Remove a member."""
        info = self._groups.get(group)
        member = None if info is None else info.members.pop(channel, None)
        if info is None or member is None:
            return
        _log.info("group %s: %s left", group, member.client_id)
        self._member_count -= 1
        if not info.members:
            self._bytes -= info.size
            del self._groups[group]
        elif notify:
            self._notify(group, info)

    def channel_closed(self, channel: Channel) -> None:
        """Remove a connection from all groups."""
        for group in [name for name, info in self._groups.items() if channel in info.members]:
            self.unregister(channel, group, notify=True)

    def silent(self, now_ms: int) -> set[Channel]:
        """Connections of members that send no heartbeats any more."""
        return {
            member.channel
            for info in self._groups.values()
            for member in info.members.values()
            if member.is_silent(now_ms)
        }

    def _notify(self, group: str, info: ConsumerGroupInfo) -> None:
        if info.message_model == BROADCASTING:
            return
        for channel in info.members:
            self._broker2client.invoke_oneway(
                channel, RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": group}
            )


def _size(subscription: SubscriptionData) -> int:
    """Bytes in memory, roughly: a tag is a text and a number, in two sets."""
    return 500 + len(subscription.topic) + len(subscription.sub_string) + 150 * len(subscription.tags_set)
