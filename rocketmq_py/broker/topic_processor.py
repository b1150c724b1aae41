"""Making, changing, deleting and describing topics. Source: the topic requests of AdminBrokerProcessor."""

from __future__ import annotations

from dataclasses import asdict, replace

from rocketmq_py.broker import attributes
from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, integer, required, success, when_all
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.pop_consumer_service import PopConsumerService
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import QUEUES_MAX, READ_WRITE, SYSTEM_TOPICS, TopicConfig, TopicConfigManager
from rocketmq_py.errors import BrokerError
from rocketmq_py.model import fastjson, names
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand

PERM_MAX = 7

FILTER_TYPES = "SINGLE_TAG", "MULTI_TAG"
"""Source: TopicFilterType."""


class TopicProcessor:
    """What administrators ask of topics. On the loop's thread only."""

    def __init__(
        self,
        *,
        commit_log: CommitLog,
        topics: TopicConfigManager,
        offsets: ConsumerOffsetManager,
        pops: PopConsumerService,
        stats: BrokerStatsManager,
        statuses: MessageStatusManager,
        broker_name: str,
    ) -> None:
        self._commit_log = commit_log
        self._topics = topics
        self._offsets = offsets
        self._pops = pops
        self._stats = stats
        self._statuses = statuses
        self._broker_name = broker_name

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.UPDATE_AND_CREATE_TOPIC: self.update_and_create_topic,
            RequestCode.UPDATE_AND_CREATE_TOPIC_LIST: self.update_and_create_topic_list,
            RequestCode.DELETE_TOPIC_IN_BROKER: self.delete_topic,
            RequestCode.GET_TOPIC_CONFIG: self.get_topic_config,
            RequestCode.GET_ALL_TOPIC_CONFIG: self.get_all_topic_config,
            RequestCode.GET_TOPIC_STATS_INFO: self.get_topic_stats_info,
            RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER: self.get_system_topic_list,
        }

    def update_and_create_topic(self, channel: Channel, request: RemotingCommand) -> None:
        """Create or change a topic; answered once it is stored. Behaviour: AB-04."""
        config = TopicConfig(
            required(request, "topic"),
            integer(request, "readQueueNums", bits=32),
            integer(request, "writeQueueNums", bits=32),
            integer(request, "perm", READ_WRITE, bits=32),
            required(request, "topicFilterType"),
            integer(request, "topicSysFlag", 0, bits=32),
            request.ext_fields.get("order", "false").lower() == "true",
        )
        config = self._checked(config, request.ext_fields.get("attributes", ""))
        self._topics.put_topic(config, answer_when_stored(channel, request, success(request)))

    def update_and_create_topic_list(self, channel: Channel, request: RemotingCommand) -> None:
        """Create or change topics, all or none of them; answered once they are stored. Behaviour: AB-04."""
        configs = []
        for fields in bodies.parse_config_list(request.body, "topicConfigList", TopicConfig):
            told = TopicConfig(**{"topicName": "", **fields})
            configs.append(self._checked(told, attributes.modification_of(told.attributes)))
        stored = when_all(len(configs), answer_when_stored(channel, request, success(request)))
        for config in configs:
            self._topics.put_topic(config, stored)

    def _checked(self, config: TopicConfig, modification: str) -> TopicConfig:
        self._topics.check_name(config.topicName)
        read, write, perm = config.readQueueNums, config.writeQueueNums, config.perm
        if not (0 < read <= QUEUES_MAX and 0 < write <= QUEUES_MAX and 0 <= perm <= PERM_MAX):
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER,
                f"{read} and {write} queues to read and write, permission {perm}: possible are 1 to {QUEUES_MAX} and "
                f"0 to {PERM_MAX}",
            )
        if config.topicFilterType not in FILTER_TYPES:  # clients cannot read the list of topics that has another one
            raise BrokerError(
                ResponseCode.SYSTEM_ERROR, f"topicFilterType = [{config.topicFilterType:.40}] value invalid"
            )
        known = self._topics.topic(config.topicName)
        current = None if known is None else known.attributes
        return replace(config, attributes=attributes.altered(current, modification))

    def delete_topic(self, channel: Channel, request: RemotingCommand) -> None:
        """Forget a topic, what groups have committed there, and its retry topics of pop. Behaviour: AB-05."""
        topic = request.ext_fields.get("topic", "")
        if not topic.strip():
            raise BrokerError(ResponseCode.INVALID_PARAMETER, "The specified topic is blank.")
        if topic in SYSTEM_TOPICS:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"The topic[{topic}] is conflict with system topic.")
        doomed = [topic]
        for group in self._offsets.which_group_by_topic(topic):
            retry_topics = names.pop_retry_topic_v1(group, topic), names.pop_retry_topic_v2(group, topic)
            doomed += [each for each in retry_topics if self._topics.topic(each) is not None]
        stored = when_all(3 * len(doomed), answer_when_stored(channel, request, success(request)))
        for each in doomed:
            self._topics.delete_topic(each, stored)
            self._offsets.clean_offset_by_topic(each, stored)
            self._pops.forget_topic(each, stored)
            self._stats.topic_deleted(each)
            self._statuses.forget_topic(each)

    def get_topic_config(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how a topic is configured. Behaviour: AB-04."""
        topic = required(request, "topic")
        config = self._topics.topic(topic)
        if config is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"No topic in this broker. topic: {topic}")
        return success(request, body=fastjson.dumps(asdict(config)))

    def get_all_topic_config(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how all topics are configured. Behaviour: AB-04."""
        table = self._topics.topic_table()
        version = self._topics.topic_version.fields()
        body = {
            "dataVersion": version,
            "mappingDataVersion": version,
            "topicConfigTable": {name: asdict(config) for name, config in table.items()},
            "topicQueueMappingDetailMap": {},
        }
        return success(request, {"totalTopicNum": len(table)}, fastjson.dumps(body))

    def get_topic_stats_info(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell first and next offset of every queue, and when its last message came. Behaviour: AB-06."""
        topic = required(request, "topic")
        config = self._topics.topic(topic)
        if config is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist")
        table = {
            MessageQueue(topic, self._broker_name, queue_id): self._topic_offset(QueueKey(topic, queue_id))
            for queue_id in range(config.queues)
        }
        stats = {"offsetTable": table, "topicPutTps": self._stats.tps_topic_put_nums(topic)}
        return success(request, body=fastjson.dumps(stats))

    def _topic_offset(self, key: QueueKey) -> dict[str, int]:
        """Source: TopicOffset."""
        end = self._commit_log.max_offset(key)
        return {
            "lastUpdateTimestamp": self._commit_log.stored_ms(key, end - 1) or 0,
            "maxOffset": end,
            "minOffset": self._commit_log.min_offset(key),
        }

    def get_system_topic_list(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Name the topics that are not the users'."""
        return success(request, body=fastjson.dumps({"topicList": sorted(SYSTEM_TOPICS)}))
