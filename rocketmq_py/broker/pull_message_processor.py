"""Pulls. Source: PullMessageProcessor, in its order of checks."""

from __future__ import annotations

from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, integer, refusal, required
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.consumer_manager import BROADCASTING, ConsumerManager
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.get_message import GetMessageResult, get_message
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.message_filter import MessageFilter, read_filter
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.pull_request_hold_service import HeldPull, PullRequestHoldService
from rocketmq_py.broker.sql_filter import SqlFilterError
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, RocketMQError
from rocketmq_py.model.codes import MASTER_ID, PermName, PullSysFlag, RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand


class PullMessageProcessor:
    """Answers pulls, now or later. On the loop's thread only."""

    def __init__(
        self,
        *,
        loop: Loop,
        clock: Clock,
        commit_log: CommitLog,
        topics: TopicConfigManager,
        consumers: ConsumerManager,
        offsets: ConsumerOffsetManager,
        stats: BrokerStatsManager,
        statuses: MessageStatusManager,
    ) -> None:
        self._clock = clock
        self._commit_log = commit_log
        self._topics = topics
        self._consumers = consumers
        self._offsets = offsets
        self._stats = stats
        self._statuses = statuses
        self.holds = PullRequestHoldService(loop, clock, commit_log.max_offset, self._answer_held)

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {RequestCode.PULL_MESSAGE: self.pull_message, RequestCode.LITE_PULL_MESSAGE: self.pull_message}

    def pull_message(self, channel: Channel, request: RemotingCommand) -> RemotingCommand | None:
        """Answer a pull, or hold it while there is nothing new."""
        key, message_filter = self._checked(request)
        offset = integer(request, "queueOffset")
        flags = integer(request, "sysFlag", bits=32)
        commit_offset = integer(request, "commitOffset", 0)
        group = required(request, "consumerGroup")
        reset = self._offsets.query_then_erase_reset_offset(group, key)
        if reset is not None:
            # The offset that it carries is from before: upstream commits it over the one that an operator has set.
            return self._answer(request, key, GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_RESET", reset))
        result = get_message(self._commit_log, key, offset, integer(request, "maxMsgNums", bits=32), message_filter)
        if flags & PullSysFlag.COMMIT_OFFSET and commit_offset >= 0:
            self._statuses.passed(group, key, self._offsets.query_offset(group, key), commit_offset)
            self._offsets.commit_offset(group, key, commit_offset)
        if result.code == ResponseCode.PULL_NOT_FOUND and flags & PullSysFlag.SUSPEND:
            due_ms = self._clock.monotonic_ms() + integer(request, "suspendTimeoutMillis", 0)
            if self.holds.suspend(key, HeldPull(channel, request, offset, message_filter, due_ms)):
                return None
        return self._answer(request, key, result)

    def _answer_held(self, pull: HeldPull) -> None:
        """Every check again: the group may have gone meanwhile. Source: executeRequestWhenWakeup."""
        request = pull.request
        try:
            key, message_filter = self._checked(request)
            count = integer(request, "maxMsgNums", bits=32)
            reset = self._offsets.query_then_erase_reset_offset(required(request, "consumerGroup"), key)
            if reset is None:
                result = get_message(self._commit_log, key, pull.offset, count, message_filter)
            else:
                result = GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_RESET", reset)
            answer = self._answer(request, key, result)
        except BrokerError as error:
            answer = refusal(request, error.code, error.remark)
        except RocketMQError as error:
            answer = refusal(request, ResponseCode.SYSTEM_ERROR, str(error))
        pull.channel.write(answer)

    def _checked(self, request: RemotingCommand) -> tuple[QueueKey, MessageFilter]:
        name, topic = required(request, "consumerGroup"), required(request, "topic")
        group = self._topics.ensure_group(name)
        if group is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group [{name}] does not exist")
        if not group.consumeEnable:
            raise BrokerError(ResponseCode.NO_PERMISSION, f"subscription group no permission, {name}")
        config = self._topics.topic(topic)
        if config is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist, apply first please!")
        if not config.perm & PermName.READ:
            raise BrokerError(ResponseCode.NO_PERMISSION, f"the topic[{topic}] pulling message is forbidden")
        queue_id = integer(request, "queueId", bits=32)
        if not 0 <= queue_id < config.readQueueNums:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER,
                f"queueId[{queue_id}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{config.readQueueNums}]",
            )
        return QueueKey(topic, queue_id), self._filter(request, name, topic, group.consumeBroadcastEnable)

    def _filter(self, request: RemotingCommand, name: str, topic: str, may_broadcast: bool) -> MessageFilter:
        fields = request.ext_fields
        if integer(request, "sysFlag", bits=32) & PullSysFlag.SUBSCRIPTION:
            sub_version = integer(request, "subVersion", 0)
            return read_filter(topic, fields.get("expressionType"), fields.get("subscription"), sub_version)
        info = self._consumers.group(name)
        if info is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_NOT_EXIST, f"the consumer's group info not exist, {name}")
        if info.message_model == BROADCASTING and not may_broadcast:
            raise BrokerError(ResponseCode.NO_PERMISSION, f"the consumer group[{name}] can not consume by broadcast")
        subscription = info.subscriptions.get(topic)
        if subscription is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_NOT_EXIST, f"the consumer's subscription not exist, {topic}")
        if subscription.sub_version < integer(request, "subVersion"):
            raise BrokerError(ResponseCode.SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest")
        try:
            return MessageFilter(subscription)
        except SqlFilterError as error:
            raise BrokerError(
                ResponseCode.FILTER_DATA_NOT_EXIST, f"the expression of the consumer's heartbeat is wrong: {error}"
            ) from None

    def _answer(self, request: RemotingCommand, key: QueueKey, result: GetMessageResult) -> RemotingCommand:
        group = required(request, "consumerGroup")
        self._offsets.commit_pull_offset(group, key, result.next_begin_offset)
        if result.messages:
            self._stats.inc_group_get_nums(group, key.topic, len(result.messages))
        answer = RemotingCommand.response(request.opaque, result.code, result.status)
        answer.ext_fields = {
            "suggestWhichBrokerId": str(MASTER_ID),
            "nextBeginOffset": str(result.next_begin_offset),
            "minOffset": str(self._commit_log.min_offset(key)),
            "maxOffset": str(self._commit_log.max_offset(key)),
        }
        answer.body = b"".join([data for _, data in result.messages])
        answer.written = self._statuses.given(group, key, result.messages)
        return answer
