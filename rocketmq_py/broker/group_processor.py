"""Making, changing, deleting and describing groups. Source: the group requests of AdminBrokerProcessor."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from rocketmq_py.broker import attributes
from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, required, success, when_all
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.topic_config import QUEUES_MAX, SubscriptionGroupConfig, TopicConfigManager
from rocketmq_py.errors import BrokerError, ConfigError
from rocketmq_py.model import fastjson, names
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand


class GroupProcessor:
    """What administrators ask of groups. On the loop's thread only."""

    def __init__(
        self,
        *,
        topics: TopicConfigManager,
        offsets: ConsumerOffsetManager,
        stats: BrokerStatsManager,
        statuses: MessageStatusManager,
    ) -> None:
        self._topics = topics
        self._offsets = offsets
        self._stats = stats
        self._statuses = statuses

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: self.update_and_create_subscription_group,
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST: self.update_and_create_subscription_group_list,
            RequestCode.DELETE_SUBSCRIPTIONGROUP: self.delete_subscription_group,
            RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG: self.get_subscription_group,
            RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG: self.get_all_subscription_group,
        }

    def update_and_create_subscription_group(self, channel: Channel, request: RemotingCommand) -> None:
        """Create or change a group; answered once it is stored. Behaviour: AB-07."""
        config = self._checked(bodies.parse_config(request.body, SubscriptionGroupConfig))
        self._topics.put_group(config, answer_when_stored(channel, request, success(request)))

    def update_and_create_subscription_group_list(self, channel: Channel, request: RemotingCommand) -> None:
        """Create or change groups, all or none of them; answered once they are stored. Behaviour: AB-07."""
        told = bodies.parse_config_list(request.body, "groupConfigList", SubscriptionGroupConfig)
        configs = [self._checked(fields) for fields in told]
        stored = when_all(len(configs), answer_when_stored(channel, request, success(request)))
        for config in configs:
            self._topics.put_group(config, stored)

    def _checked(self, fields: dict[str, Any]) -> SubscriptionGroupConfig:
        if "groupName" not in fields:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, "The specified group is blank.")
        config = SubscriptionGroupConfig(**fields)
        try:
            names.check_group(config.groupName)
        except ConfigError as error:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, str(error)) from None
        if not 0 <= config.retryQueueNums <= QUEUES_MAX:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"retryQueueNums is {config.retryQueueNums}")
        known = self._topics.group(config.groupName)
        current = None if known is None else known.attributes
        modification = attributes.modification_of(config.attributes)
        return replace(config, attributes=attributes.altered(current, modification, attributes.OF_GROUPS))

    def delete_subscription_group(self, channel: Channel, request: RemotingCommand) -> None:
        """Forget a group, and what it has committed if that is asked for. Behaviour: AB-08."""
        name = required(request, "groupName")
        clean = request.ext_fields.get("cleanOffset", "").lower() == "true"
        stored = when_all(2 if clean else 1, answer_when_stored(channel, request, success(request)))
        self._topics.delete_group(name, stored)
        self._stats.group_deleted(name)
        self._statuses.forget_group(name)
        if clean:
            self._offsets.remove_offset(name, stored)

    def get_subscription_group(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how a group is configured; asking makes it, as upstream does. Behaviour: AB-07."""
        config = self._topics.ensure_group(required(request, "group"))
        if config is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, "No group in this broker")
        return success(request, body=fastjson.dumps(asdict(config)))

    def get_all_subscription_group(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how all groups are configured. Behaviour: AB-07."""
        table = self._topics.group_table()
        body = {
            "dataVersion": self._topics.group_version.fields(),
            "forbiddenTable": {},
            "subscriptionGroupTable": {name: asdict(config) for name, config in table.items()},
        }
        return success(request, {"totalGroupNum": len(table)}, fastjson.dumps(body))
