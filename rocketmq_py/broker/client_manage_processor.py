"""Heartbeats, members and locks.

Source: ClientManageProcessor, the list of ConsumerManageProcessor, and the lock requests of AdminBrokerProcessor.
"""

from __future__ import annotations

from rocketmq_py.broker.channel import Channel, Handler, refusal, required, success
from rocketmq_py.broker.client_channel_info import ClientChannelInfo
from rocketmq_py.broker.consumer_manager import ConsumerManager
from rocketmq_py.broker.message_filter import is_tag_type, read_filter
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.producer_manager import ProducerManager
from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError
from rocketmq_py.model import names
from rocketmq_py.model.codes import RequestCode, ResponseCode, TopicSysFlag
from rocketmq_py.remoting import bodies, message_status_bodies
from rocketmq_py.remoting.frame import RemotingCommand

BODY_MAX_BYTES = 1024 * 1024
"""Of heartbeats and lock requests: others wait while one is read. Those of thousands of queues are smaller."""

GROUPS_MAX = 1_000
"""Groups of one heartbeat: each is noted, and in the log when it joins and when it leaves."""

CLIENT_ID_MAX_LENGTH = 1_024


class ClientManageProcessor:
    """What members of groups ask for. On the loop's thread only."""

    def __init__(
        self,
        *,
        clock: Clock,
        topics: TopicConfigManager,
        consumers: ConsumerManager,
        producers: ProducerManager,
        locks: RebalanceLockManager,
        statuses: MessageStatusManager,
    ) -> None:
        self._topics = topics
        self._clock = clock
        self._consumers = consumers
        self._producers = producers
        self._locks = locks
        self._statuses = statuses

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.HEART_BEAT: self.heart_beat,
            RequestCode.UNREGISTER_CLIENT: self.unregister_client,
            RequestCode.CHECK_CLIENT_CONFIG: self.check_client_config,
            RequestCode.GET_CONSUMER_LIST_BY_GROUP: self.get_consumer_list_by_group,
            RequestCode.LOCK_BATCH_MQ: self.lock_batch_mq,
            RequestCode.UNLOCK_BATCH_MQ: self.unlock_batch_mq,
        }

    def heart_beat(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Note who consumes what; makes groups and their retry topics."""
        client_id, producer_groups, consumers = bodies.parse_heartbeat(_bounded(request))
        if len(client_id) > CLIENT_ID_MAX_LENGTH:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"the client id is longer than {CLIENT_ID_MAX_LENGTH}")
        count = len(producer_groups) + len(consumers)
        if count > GROUPS_MAX:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER, f"a heartbeat of {count} groups, this broker takes {GROUPS_MAX}"
            )
        info = ClientChannelInfo(channel, client_id, request.language, request.version, self._clock.monotonic_ms())
        for data in consumers:
            group = self._topics.ensure_group(data.group)
            if group is None:
                continue
            sys_flag = TopicSysFlag.UNIT_SUB if data.unit_mode else 0
            self._topics.ensure_topic(names.retry_topic(data.group), group.retryQueueNums, sys_flag=sys_flag)
            self._consumers.register(info, data, notify=group.notifyConsumerIdsChangedEnable)
        for name in producer_groups:
            self._producers.register(name, info)
        # No version 2: clients send everything each time.
        fields = {"IS_SUPPORT_HEART_BEAT_V2": "false", "IS_SUB_CHANGE": "true"}
        if self._statuses.is_on_for(subscription.topic for data in consumers for subscription in data.subscriptions):
            fields[message_status_bodies.ANNOUNCED] = "true"
        return success(request, fields)

    def unregister_client(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """A member or a producer leaves."""
        producer_group = request.ext_fields.get("producerGroup")
        if producer_group:
            self._producers.unregister(producer_group, channel)
        name = request.ext_fields.get("consumerGroup")
        if name:
            group = self._topics.group(name)
            self._consumers.unregister(channel, name, notify=group is None or group.notifyConsumerIdsChangedEnable)
        return success(request)

    def check_client_config(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Say whether a subscription can be served."""
        expression_type, expression = bodies.parse_check_client(_bounded(request))
        if not is_tag_type(expression_type):
            read_filter("", expression_type, expression, 0)
        return success(request)

    def get_consumer_list_by_group(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Name a group's members."""
        group = required(request, "consumerGroup")
        client_ids = self._consumers.client_ids(group)
        if not client_ids:
            return refusal(request, ResponseCode.SYSTEM_ERROR, f"no consumer for this group, {group}")
        return success(request, body=bodies.encode_consumer_id_list(client_ids))

    def lock_batch_mq(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Lock queues for an orderly consumer; answers which it holds."""
        wanted = bodies.parse_lock_batch(_bounded(request))
        held = self._locks.try_lock_batch(wanted.group, wanted.mqs, wanted.client_id)
        return success(request, body=bodies.encode_locked(held))

    def unlock_batch_mq(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Give locks back."""
        wanted = bodies.parse_lock_batch(_bounded(request))
        self._locks.unlock_batch(wanted.group, wanted.mqs, wanted.client_id)
        return success(request)


def _bounded(request: RemotingCommand) -> bytes:
    if len(request.body) > BODY_MAX_BYTES:
        raise BrokerError(
            ResponseCode.INVALID_PARAMETER, f"a body of {len(request.body)} bytes, this broker reads {BODY_MAX_BYTES}"
        )
    return request.body
