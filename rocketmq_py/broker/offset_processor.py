"""Offsets of queues, and how far groups are.

Source: ConsumerManageProcessor, the offset requests of AdminBrokerProcessor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from rocketmq_py.broker.broker2client import Broker2Client
from rocketmq_py.broker.broker_config import BrokerConfig
from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, integer, refusal, required, success
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.consumer_manager import ConsumerManager
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import TopicConfig, TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError
from rocketmq_py.model import fastjson
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand

CQ_MAX_COUNT = 800
"""Messages of which one request lists the places."""

VERSION_OF_RESETS = 28
"""Older clients cannot be told of a reset. Source: MQVersion.Version.V3_0_7_SNAPSHOT."""

_log = logging.getLogger(__name__)

_LONG_MAX = (1 << 63) - 1


class OffsetProcessor:
    """Tells and changes offsets. On the loop's thread only."""

    def __init__(
        self,
        *,
        clock: Clock,
        config: BrokerConfig,
        commit_log: CommitLog,
        topics: TopicConfigManager,
        consumers: ConsumerManager,
        offsets: ConsumerOffsetManager,
        stats: BrokerStatsManager,
        broker2client: Broker2Client,
        statuses: MessageStatusManager,
    ) -> None:
        self._clock = clock
        self._config = config
        self._commit_log = commit_log
        self._topics = topics
        self._consumers = consumers
        self._offsets = offsets
        self._stats = stats
        self._broker2client = broker2client
        self._statuses = statuses

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.QUERY_CONSUMER_OFFSET: self.query_consumer_offset,
            RequestCode.UPDATE_CONSUMER_OFFSET: self.update_consumer_offset,
            RequestCode.GET_MAX_OFFSET: self.get_max_offset,
            RequestCode.GET_MIN_OFFSET: self.get_min_offset,
            RequestCode.SEARCH_OFFSET_BY_TIMESTAMP: self.search_offset_by_timestamp,
            RequestCode.GET_EARLIEST_MSG_STORETIME: self.get_earliest_msg_storetime,
            RequestCode.GET_ALL_CONSUMER_OFFSET: self.get_all_consumer_offset,
            RequestCode.GET_CONSUME_STATS: self.get_consume_stats,
            RequestCode.GET_BROKER_CONSUME_STATS: self.fetch_all_consume_stats_in_broker,
            RequestCode.QUERY_CONSUME_TIME_SPAN: self.query_consume_time_span,
            RequestCode.QUERY_TOPIC_CONSUME_BY_WHO: self.query_topic_consume_by_who,
            RequestCode.QUERY_TOPICS_BY_CONSUMER: self.query_topics_by_consumer,
            RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER: self.query_subscription_by_consumer,
            RequestCode.QUERY_CONSUME_QUEUE: self.query_consume_queue,
            RequestCode.INVOKE_BROKER_TO_RESET_OFFSET: self.reset_offset,
            RequestCode.CLONE_GROUP_OFFSET: self.clone_group_offset,
            RequestCode.QUERY_CORRECTION_OFFSET: self.query_correction_offset,
        }

    # A group's offset in one queue.

    def query_consumer_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a committed offset."""
        key = _queue(request)
        offset = self._offsets.query_offset(required(request, "consumerGroup"), key)
        if offset < 0 and request.ext_fields.get("setZeroIfNotFound") != "false" and self._is_young(key):
            offset = 0
        if offset < 0:
            return refusal(request, ResponseCode.QUERY_NOT_FOUND, "Not found, maybe this group consumer boot first")
        return success(request, {"offset": offset})

    def _is_young(self, key: QueueKey) -> bool:
        """Message 0 is still there: a new group begins there, whatever it asked for. Source: queryConsumerOffset."""
        return self._commit_log.min_offset(key) == 0 and self._commit_log.max_offset(key) > 0

    def update_consumer_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Commit an offset; one from before a reset is taken for read, and nothing changes. Behaviour: AB-10."""
        group, key = required(request, "consumerGroup"), _queue(request)
        if self._topics.group(group) is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {group} not exist!")
        topic = self._topics.topic(key.topic)
        if topic is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"Topic {key.topic} not exist!")
        if not 0 <= key.queue_id < topic.queues:  # upstream takes any: offsets without number
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER, f"topic {key.topic} has {topic.queues} queues, {key.queue_id} is none"
            )
        offset = integer(request, "commitOffset")
        if offset < 0:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"{offset} is no offset")
        if self._offsets.has_offset_reset(group, key):
            return refusal(request, ResponseCode.SUCCESS, "Offset has been previously reset")
        self._statuses.passed(group, key, self._offsets.query_offset(group, key), offset)
        self._offsets.commit_offset(group, key, offset)
        return success(request)

    # A queue.

    def get_max_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a queue's end; 0 for one that is not there, as upstream."""
        return success(request, {"offset": self._commit_log.max_offset(_queue(request))})

    def get_min_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a queue's first offset."""
        return success(request, {"offset": self._commit_log.min_offset(_queue(request))})

    def search_offset_by_timestamp(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell the first offset stored at or after a moment; with ``upper`` the last one stored until then."""
        key, moment_ms = _queue(request), integer(request, "timestamp")
        if request.ext_fields.get("boundaryType", "lower").lower() == "upper":
            offset = max(self._commit_log.search_offset(key, moment_ms + 1) - 1, self._commit_log.min_offset(key))
        else:
            offset = self._commit_log.search_offset(key, moment_ms)
        return success(request, {"offset": offset})

    def get_earliest_msg_storetime(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell when a queue's first message came, -1 when there is none. Behaviour: AB-09."""
        return success(request, {"timestamp": self._earliest_ms(_queue(request))})

    def _earliest_ms(self, key: QueueKey) -> int:
        return self._stored_ms(key, self._commit_log.min_offset(key))

    def _stored_ms(self, key: QueueKey, offset: int) -> int:
        stored_ms = self._commit_log.stored_ms(key, offset)
        return -1 if stored_ms is None else stored_ms

    def query_consume_queue(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell where a queue's messages lie, and what a group wants of them. Behaviour: AB-09."""
        key, index = _queue(request), integer(request, "index")
        if not self._commit_log.max_offset(key):
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"{key.queue_id}@{key.topic} is not exist!")
        body: dict[str, object] = {
            "maxQueueIndex": self._commit_log.max_offset(key),
            "minQueueIndex": self._commit_log.min_offset(key),
        }
        group = request.ext_fields.get("consumerGroup")
        if group:
            subscription = self._consumers.subscriptions(group).get(key.topic)
            if subscription is None:
                body["filterData"] = f"{group}@{key.topic} is not online!"
            else:
                body["subscriptionData"] = bodies.subscription_fields(subscription)
        count = min(integer(request, "count", bits=32), CQ_MAX_COUNT)
        if not self._commit_log.min_offset(key) <= index < self._commit_log.max_offset(key):
            answer = success(request)
            answer.remark = f"Index {index} of {key.queue_id}@{key.topic} is not exist!"
            return answer
        body["queueData"] = [
            {"physicOffset": place, "physicSize": size, "tagsCode": tags_code}
            for place, size, tags_code in self._commit_log.places(key, index, max(count, 0))
        ]
        return success(request, body=fastjson.dumps(body))

    # How far groups are.

    def get_all_consumer_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell all committed offsets. Behaviour: AB-11."""
        table = {f"{topic}@{group}": committed for group, topic, committed in self._offsets.table()}
        return success(request, body=fastjson.dumps({"offsetTable": table}))

    def get_consume_stats(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how far a group is in every queue of a topic, some topics, or all that it has consumed.

        Behaviour: AB-11.
        """
        group = required(request, "consumerGroup")
        listed = [each for each in dict.fromkeys(request.ext_fields.get("topicList", "").split(";")) if each]
        topic = request.ext_fields.get("topic", "")
        wanted = listed or self._subscribed(group, [topic] if topic else self._offsets.which_topic_by_consumer(group))
        return success(request, body=fastjson.dumps(self._consume_stats(group, wanted)))

    def query_correction_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell by queue the lowest offset of all groups; the highest number where one group is behind it.

        Upstream deletes what the groups have committed that are to be left out; here they are only left out.
        Behaviour: AB-11.
        """
        topic, compared = required(request, "topic"), required(request, "compareGroup")
        without = request.ext_fields.get("filterGroups", "").split(",")
        offsets = self._offsets.query_min_offset_in_all_group(topic, without)
        for queue_id, lowest in offsets.items():
            if lowest > self._offsets.query_offset(compared, QueueKey(topic, queue_id)) >= 0:
                offsets[queue_id] = _LONG_MAX
        return success(request, body=fastjson.dumps({"correctionOffsets": offsets}))

    def _subscribed(self, group: str, topics: Iterable[str]) -> list[str]:
        """Without what a group that is online does not want any more."""
        subscriptions = self._consumers.subscriptions(group)
        return [topic for topic in topics if not subscriptions or topic in subscriptions]

    def _consume_stats(self, group: str, topics: Iterable[str]) -> dict[str, object]:
        """Source: ConsumeStats."""
        table: dict[MessageQueue, dict[str, int]] = {}
        tps = 0.0
        for topic in topics:
            config = self._topics.topic(topic)
            if config is None:
                continue
            for queue_id in range(config.readQueueNums):
                table[self._mq(topic, queue_id)] = self._offset_wrapper(group, QueueKey(topic, queue_id))
            tps += self._stats.tps_group_get_nums(group, topic)
        return {"consumeTps": tps, "offsetTable": table}

    def _offset_wrapper(self, group: str, key: QueueKey) -> dict[str, int]:
        """Source: OffsetWrapper."""
        consumed = max(self._offsets.query_offset(group, key), 0)
        return {
            "brokerOffset": self._commit_log.max_offset(key),
            "consumerOffset": consumed,
            "lastTimestamp": max(self._stored_ms(key, consumed - 1), 0),
            "pullOffset": max(consumed, self._offsets.query_pull_offset(group, key)),
        }

    def fetch_all_consume_stats_in_broker(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how far all groups are in all that they have consumed. Behaviour: AB-11."""
        ordered_only = request.ext_fields.get("isOrder", "").lower() == "true"
        listed, behind, in_flight = [], 0, 0
        for group in self._topics.group_table():
            consumed = []
            for topic in self._subscribed(group, self._offsets.which_topic_by_consumer(group)):
                config = self._topics.topic(topic)
                if config is None or (ordered_only and not config.order):
                    continue
                stats = self._consume_stats(group, [topic])
                consumed.append(stats)
                wrappers = stats["offsetTable"].values()  # type: ignore[attr-defined]
                behind += sum(each["brokerOffset"] - each["consumerOffset"] for each in wrappers)
                in_flight += sum(each["pullOffset"] - each["consumerOffset"] for each in wrappers)
            listed.append({group: consumed})
        body = {
            "brokerAddr": self._config.broker_addr,
            "consumeStatsList": listed,
            "totalDiff": behind,
            "totalInflightDiff": in_flight,
        }
        return success(request, body=fastjson.dumps(body))

    def query_consume_time_span(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell when the messages came between which a group is. Behaviour: AB-11."""
        topic, group = required(request, "topic"), required(request, "group")
        config = self._existing(topic)
        spans = [self._time_span(group, QueueKey(topic, queue_id)) for queue_id in range(config.writeQueueNums)]
        return success(request, body=fastjson.dumps({"consumeTimeSpanSet": spans}))

    def _time_span(self, group: str, key: QueueKey) -> dict[str, object]:
        """Source: QueueTimeSpan."""
        end, consumed = self._commit_log.max_offset(key), self._offsets.query_offset(group, key)
        first_ms = self._earliest_ms(key)
        next_ms = self._stored_ms(key, consumed) if 0 <= consumed < end else -1
        return {
            "consumeTimeStamp": self._stored_ms(key, consumed - 1) if consumed > 0 else first_ms,
            "delayTime": self._clock.wall_ms() - next_ms if next_ms >= 0 else 0,
            "maxTimeStamp": self._stored_ms(key, end - 1),
            "messageQueue": self._mq(*key),
            "minTimeStamp": first_ms,
        }

    # Who consumes what.

    def query_topic_consume_by_who(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Name the groups that want a topic, or have. Behaviour: AB-12."""
        topic = required(request, "topic")
        groups = {*self._consumers.query_topic_consume_by_who(topic), *self._offsets.which_group_by_topic(topic)}
        return success(request, body=fastjson.dumps({"groupList": sorted(groups)}))

    def query_topics_by_consumer(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Name the topics in which a group has committed offsets. Behaviour: AB-12."""
        topics = sorted(self._offsets.which_topic_by_consumer(required(request, "group")))
        return success(request, body=fastjson.dumps({"brokerAddr": self._config.broker_addr, "topicList": topics}))

    def query_subscription_by_consumer(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell what a group wants of a topic now. Behaviour: AB-12."""
        group, topic = required(request, "group"), required(request, "topic")
        subscription = self._consumers.subscriptions(group).get(topic)
        body: dict[str, object] = {"group": group, "topic": topic}
        if subscription is not None:
            body["subscriptionData"] = bodies.subscription_fields(subscription)
        return success(request, body=fastjson.dumps(body))

    # Changes by operators.

    def clone_group_offset(self, channel: Channel, request: RemotingCommand) -> None:
        """Have one group go on where another one is; answered once that is stored. Behaviour: AB-13."""
        source, target = required(request, "srcGroup"), required(request, "destGroup")
        topic = request.ext_fields.get("topic", "").strip()
        topics: Iterable[str] = [topic] if topic else self._offsets.which_topic_by_consumer(source)
        if request.ext_fields.get("offline", "").lower() != "true":
            topics = self._subscribed(source, topics)
        for each in topics:
            if self._topics.topic(each) is not None:
                self._offsets.clone_offset(source, target, each)
        self._offsets.flush(answer_when_stored(channel, request, success(request)))

    def reset_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand | None:
        """Have a group go on at another moment or offset. Behaviour: AB-10.

        The offsets are committed, and every pull of such a queue is told where to go on. With
        ``useServerSideResetOffset`` off the members are told instead, and commit themselves.
        """
        topic, group = required(request, "topic"), required(request, "group")
        config = self._existing(topic)
        if not self._config.use_server_side_reset_offset:
            return self._reset_at_members(request, group, config)
        self._reset_here(channel, request, group, config)
        return None

    def _reset_here(self, channel: Channel, request: RemotingCommand, group: str, config: TopicConfig) -> None:
        """Source: resetOffsetInner."""
        if self._topics.group(group) is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {group} does not exist")
        topic, queue_id = config.topicName, integer(request, "queueId", -1, bits=32)
        timestamp_ms, offset = integer(request, "timestamp", -1), integer(request, "offset", -1)
        if queue_id >= config.queues:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER, f"the topic {topic} has {config.queues} queues, {queue_id} is none"
            )
        if queue_id < 0:
            wanted = {
                each: self._offset_at(QueueKey(topic, each), timestamp_ms) for each in range(config.readQueueNums)
            }
        elif offset == -1:
            wanted = {queue_id: self._offset_at(QueueKey(topic, queue_id), timestamp_ms)}
        else:
            key = QueueKey(topic, queue_id)
            low, high = self._commit_log.min_offset(key), self._commit_log.max_offset(key)
            if not low <= offset <= high:
                raise BrokerError(
                    ResponseCode.SYSTEM_ERROR, f"Target offset {offset} not in consume queue range [{low}-{high}]"
                )
            wanted = {queue_id: offset}
        for each, target in wanted.items():
            self._offsets.assign_reset_offset(group, QueueKey(topic, each), target)
        table = {self._mq(topic, each): target for each, target in wanted.items()}
        _log.info("[reset-offset] %s: group %s, %s", channel.remote_address, group, table)
        answer = success(request, body=fastjson.dumps({"offsetTable": table}))
        self._offsets.flush(answer_when_stored(channel, request, answer))

    def _reset_at_members(self, request: RemotingCommand, group: str, config: TopicConfig) -> RemotingCommand:
        """Source: Broker2Client.resetOffset."""
        topic, timestamp_ms = config.topicName, integer(request, "timestamp")
        is_force = request.ext_fields.get("isForce", "").lower() == "true"
        table: dict[MessageQueue, int] = {}
        for queue_id in range(config.writeQueueNums):
            key = QueueKey(topic, queue_id)
            consumed = self._offsets.query_offset(group, key)
            if consumed < 0:
                raise BrokerError(ResponseCode.SYSTEM_ERROR, f"THe consumer group <{group}> not exist")
            target = self._offset_at(key, timestamp_ms)
            table[self._mq(topic, queue_id)] = target if is_force or target < consumed else consumed
        members = self._consumers.members(group)
        if not members:
            raise BrokerError(
                ResponseCode.CONSUMER_NOT_ONLINE,
                f"Consumer not online, so can not reset offset, Group: {group} Topic: {topic} "
                f"Timestamp: {timestamp_ms}",
            )
        old = next((member for member in members if member.version < VERSION_OF_RESETS), None)
        if old is not None:
            raise BrokerError(
                ResponseCode.SYSTEM_ERROR, f"the client does not support this feature. version={old.version}"
            )
        body = _offset_list(table) if request.language == "CPP" else fastjson.dumps({"offsetTable": table})
        fields = {"group": group, "topic": topic, "timestamp": timestamp_ms, "isForce": str(is_force).lower()}
        for member in members:
            self._broker2client.invoke_oneway(member.channel, RequestCode.RESET_CONSUMER_CLIENT_OFFSET, fields, body)
        return success(request, body=fastjson.dumps({"offsetTable": table}))

    def _offset_at(self, key: QueueKey, timestamp_ms: int) -> int:
        if timestamp_ms < 0:
            return self._commit_log.max_offset(key)
        return self._commit_log.search_offset(key, timestamp_ms)

    def _existing(self, topic: str) -> TopicConfig:
        config = self._topics.topic(topic)
        if config is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist")
        return config

    def _mq(self, topic: str, queue_id: int) -> MessageQueue:
        return MessageQueue(topic, self._config.broker_name, queue_id)


def _offset_list(table: Mapping[MessageQueue, int]) -> bytes:
    """Operators of the C++ kind have clients that read a list. Source: ResetOffsetBodyForC."""
    entries = [
        {"brokerName": mq.broker_name, "offset": offset, "queueId": mq.queue_id, "topic": mq.topic}
        for mq, offset in table.items()
    ]
    return fastjson.dumps({"offsetTable": entries})


def _queue(request: RemotingCommand) -> QueueKey:
    return QueueKey(required(request, "topic"), integer(request, "queueId", bits=32))
