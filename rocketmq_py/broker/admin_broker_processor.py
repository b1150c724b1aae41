"""Topics, groups, offsets of queues, and single messages. Source: AdminBrokerProcessor, QueryMessageProcessor."""

from __future__ import annotations

from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, integer, required, success
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import (
    QUEUES_MAX,
    READ_WRITE,
    SubscriptionGroupConfig,
    TopicConfig,
    TopicConfigManager,
)
from rocketmq_py.errors import BrokerError, ConfigError
from rocketmq_py.model import names
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand

PERM_MAX = 7


class AdminBrokerProcessor:
    """What administrators and starting consumers ask for. On the loop's thread only."""

    def __init__(self, *, commit_log: CommitLog, topics: TopicConfigManager) -> None:
        self._commit_log = commit_log
        self._topics = topics

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.UPDATE_AND_CREATE_TOPIC: self.update_and_create_topic,
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: self.update_and_create_subscription_group,
            RequestCode.GET_MAX_OFFSET: self.get_max_offset,
            RequestCode.GET_MIN_OFFSET: self.get_min_offset,
            RequestCode.SEARCH_OFFSET_BY_TIMESTAMP: self.search_offset_by_timestamp,
            RequestCode.VIEW_MESSAGE_BY_ID: self.view_message_by_id,
        }

    def update_and_create_topic(self, channel: Channel, request: RemotingCommand) -> None:
        """Create or change a topic; answered once it is stored."""
        name = required(request, "topic")
        self._topics.check_name(name)
        read, write = integer(request, "readQueueNums", bits=32), integer(request, "writeQueueNums", bits=32)
        perm = integer(request, "perm", READ_WRITE, bits=32)
        if not (0 < read <= QUEUES_MAX and 0 < write <= QUEUES_MAX and 0 <= perm <= PERM_MAX):
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER,
                f"{read} and {write} queues to read and write, permission {perm}: possible are 1 to {QUEUES_MAX} and "
                f"0 to {PERM_MAX}",
            )
        config = TopicConfig(
            name,
            read,
            write,
            perm,
            required(request, "topicFilterType"),
            integer(request, "topicSysFlag", 0, bits=32),
            request.ext_fields.get("order", "false").lower() == "true",
            _attributes(request.ext_fields.get("attributes", "")),
        )
        self._topics.put_topic(config, answer_when_stored(channel, request, success(request)))

    def update_and_create_subscription_group(self, channel: Channel, request: RemotingCommand) -> None:
        """Create or change a group; answered once it is stored."""
        fields = bodies.parse_group_config(request.body, SubscriptionGroupConfig)
        if "groupName" not in fields:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, "The specified group is blank.")
        config = SubscriptionGroupConfig(**fields)
        try:
            names.check_group(config.groupName)
        except ConfigError as error:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, str(error)) from None
        if not 0 <= config.retryQueueNums <= QUEUES_MAX:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"retryQueueNums is {config.retryQueueNums}")
        self._topics.put_group(config, answer_when_stored(channel, request, success(request)))

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

    def view_message_by_id(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Give one message by its physical offset."""
        offset = integer(request, "offset")
        data = self._commit_log.look_message_by_offset(offset)
        if data is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"can not find message by the offset, {offset}")
        return success(request, body=data)


def _queue(request: RemotingCommand) -> QueueKey:
    return QueueKey(required(request, "topic"), integer(request, "queueId", bits=32))


def _attributes(text: str) -> dict[str, str]:
    """``+key=value`` pairs, separated by commas. Source: AttributeParser."""
    pairs = (each.strip().removeprefix("+").partition("=") for each in text.split(",") if each.strip().startswith("+"))
    return {name: value for name, _, value in pairs if name}
