"""Who is connected, and what operators ask of one of them through the broker. Source: AdminBrokerProcessor."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from rocketmq_py.broker.broker2client import TIMED_OUT, Answered, Broker2Client
from rocketmq_py.broker.channel import Channel, Handler, refusal, required, success
from rocketmq_py.broker.client_channel_info import ClientChannelInfo
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.consumer_manager import ConsumerManager
from rocketmq_py.broker.producer_manager import ProducerManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, RocketMQError
from rocketmq_py.model import fastjson
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_message_id

STATUS_TIMEOUT_MS = 5_000
"""How long one member is asked for its offsets. Source: Broker2Client.getConsumeStatus."""

VERSION_OF_RELAYS = 62
"""Older clients are not asked. Source: MQVersion.Version.V3_1_8_SNAPSHOT."""

_log = logging.getLogger(__name__)


class ConnectionProcessor:
    """Lists connections, and hands requests on to clients. On the loop's thread only."""

    def __init__(
        self,
        *,
        clock: Clock,
        commit_log: CommitLog,
        topics: TopicConfigManager,
        consumers: ConsumerManager,
        producers: ProducerManager,
        broker2client: Broker2Client,
        broker_name: str,
    ) -> None:
        self._clock = clock
        self._commit_log = commit_log
        self._topics = topics
        self._consumers = consumers
        self._producers = producers
        self._broker2client = broker2client
        self._broker_name = broker_name

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.GET_CONSUMER_CONNECTION_LIST: self.get_consumer_connection_list,
            RequestCode.GET_PRODUCER_CONNECTION_LIST: self.get_producer_connection_list,
            RequestCode.GET_ALL_PRODUCER_INFO: self.get_all_producer_info,
            RequestCode.GET_CONSUMER_RUNNING_INFO: self.get_consumer_running_info,
            RequestCode.CONSUME_MESSAGE_DIRECTLY: self.consume_message_directly,
            RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS: self.get_consumer_status,
        }

    # Lists.

    def get_consumer_connection_list(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a group's members and what it wants. Behaviour: AB-01."""
        name = required(request, "consumerGroup")
        info = self._consumers.group(name)
        if info is None:
            raise BrokerError(ResponseCode.CONSUMER_NOT_ONLINE, f"the consumer group[{name}] not online")
        subscriptions = info.subscriptions
        connections = {
            "connectionSet": [member.connection() for member in info.members.values()],
            "consumeFromWhere": info.consume_from_where,
            "consumeType": info.consume_type,
            "messageModel": info.message_model,
            "subscriptionTable": {topic: bodies.subscription_fields(each) for topic, each in subscriptions.items()},
        }
        return success(request, body=fastjson.dumps(connections))

    def get_producer_connection_list(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a group's producers. Behaviour: AB-01."""
        name = required(request, "producerGroup")
        connections = [info.connection() for info in self._producers.connections(name)]
        if not connections:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"the producer group[{name}] not exist")
        return success(request, body=fastjson.dumps({"connectionSet": connections}))

    def get_all_producer_info(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell all producers by group. Behaviour: AB-01."""
        table = {
            group: [self._producer_info(info) for info in infos] for group, infos in self._producers.groups().items()
        }
        return success(request, body=fastjson.dumps({"data": table}))

    def _producer_info(self, info: ClientChannelInfo) -> dict[str, object]:
        """Source: ProducerInfo."""
        return {
            "clientId": info.client_id,
            "language": info.language,
            "lastUpdateTimestamp": self._clock.wall_ms() - (self._clock.monotonic_ms() - info.heard_ms),
            "remoteIP": info.channel.remote_address,
            "version": info.version,
        }

    # Relays.

    def get_consumer_running_info(self, channel: Channel, request: RemotingCommand) -> None:
        """Have a member tell all about itself. Behaviour: AB-02."""
        self._call_consumer(channel, request, request.ext_fields, b"")

    def consume_message_directly(self, channel: Channel, request: RemotingCommand) -> None:
        """Have a member consume one message now; the answer says how that went. Behaviour: AB-03."""
        group, topic = required(request, "consumerGroup"), request.ext_fields.get("topic", "")
        offset = decode_message_id(required(request, "msgId"))[2]
        data = self._commit_log.look_message_by_offset(offset)
        if data is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"can not find message by the offset, {offset}")
        fields = {**request.ext_fields, "brokerName": self._broker_name}
        topic_config, group_config = self._topics.topic(topic), self._topics.group(group)
        if topic_config is not None:
            fields["topicSysFlag"] = str(topic_config.topicSysFlag)
        if group_config is not None:
            fields["groupSysFlag"] = str(group_config.groupSysFlag)
        self._call_consumer(channel, request, fields, data)

    def _call_consumer(
        self, channel: Channel, request: RemotingCommand, fields: Mapping[str, str], body: bytes
    ) -> None:
        group, client_id = required(request, "consumerGroup"), required(request, "clientId")
        member = self._consumers.find_channel(group, client_id)
        if member is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"The Consumer <{group}> <{client_id}> not online")
        if member.version < VERSION_OF_RELAYS:
            raise BrokerError(
                ResponseCode.SYSTEM_ERROR,
                f"The Consumer <{client_id}> Version <{member.version}> too low to finish, please upgrade it",
            )

        def answered(answer: RemotingCommand | None, reason: str) -> None:
            if answer is not None:
                relayed = RemotingCommand.response(request.opaque, answer.code, answer.remark)
                relayed.ext_fields, relayed.body = answer.ext_fields, answer.body
            elif reason == TIMED_OUT:
                relayed = refusal(
                    request, ResponseCode.CONSUME_MSG_TIMEOUT, f"consumer <{group}> <{client_id}> Timeout: {reason}"
                )
            else:
                relayed = refusal(
                    request, ResponseCode.SYSTEM_ERROR, f"invoke consumer <{group}> <{client_id}> Exception: {reason}"
                )
            if not request.is_oneway:
                channel.write(relayed)

        self._broker2client.invoke(member.channel, request.code, fields, body, answered)

    def get_consumer_status(self, channel: Channel, request: RemotingCommand) -> None:
        """Have all members, or one, tell their offsets; who does not answer is left out. Behaviour: AB-02."""
        group, topic = required(request, "group"), request.ext_fields.get("topic", "")
        wanted = request.ext_fields.get("clientAddr", "")
        members = [each for each in self._consumers.members(group) if wanted in ("", each.client_id)]
        if not self._consumers.members(group):
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"No Any Consumer online in the consumer group: [{group}]")
        _Survey(channel, request, members).ask(self._broker2client, {"group": group, "topic": topic})


class _Survey:
    """One question to many members; whoever asked is answered when all have, or their time is over."""

    def __init__(self, channel: Channel, request: RemotingCommand, members: list[ClientChannelInfo]) -> None:
        self._channel = channel
        self._request = request
        self._members = members
        self._open = len(members)
        self._told: dict[str, Mapping[MessageQueue, int]] = {}

    def ask(self, broker2client: Broker2Client, fields: Mapping[str, str]) -> None:
        if not self._members:
            self._answer()
        for member in self._members:
            broker2client.invoke(
                member.channel, RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT, fields, b"",
                self._answered_by(member.client_id), STATUS_TIMEOUT_MS,
            )  # fmt: skip

    def _answered_by(self, client_id: str) -> Answered:
        def answered(answer: RemotingCommand | None, reason: str) -> None:
            self._open -= 1
            if answer is None:
                _log.warning("%s does not tell its offsets: %s", client_id, reason)
            elif answer.code == ResponseCode.SUCCESS:
                try:
                    self._told[client_id] = bodies.parse_consumer_status(answer.body)
                except RocketMQError as error:
                    _log.warning("%s tells nonsense of its offsets: %s", client_id, error)
            if not self._open:
                self._answer()

        return answered

    def _answer(self) -> None:
        body = fastjson.dumps({"consumerTable": self._told, "messageQueueTable": {}})
        if not self._request.is_oneway:
            self._channel.write(success(self._request, body=body))
