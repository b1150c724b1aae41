"""Pulls. Source: PullMessageProcessor, DefaultMessageStore.getMessage, in their order of checks."""

from __future__ import annotations

from dataclasses import dataclass

from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, integer, refusal, required
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.consumer_manager import BROADCASTING, ConsumerManager
from rocketmq_py.broker.consumer_offset_manager import ConsumerOffsetManager
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.message_filter import is_matched, wants_everything
from rocketmq_py.broker.pull_request_hold_service import HeldPull, PullRequestHoldService
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError, RocketMQError
from rocketmq_py.model.codes import MASTER_ID, PermName, PullSysFlag, RequestCode, ResponseCode
from rocketmq_py.model.subscription import TAG, SubscriptionData, build_subscription_data
from rocketmq_py.remoting.frame import RemotingCommand

BATCH_MAX_COUNT = 32
"""Messages per pull. Source: maxTransferCountOnMessageInMemory."""
BATCH_MAX_BYTES = 256 * 1024
"""Source: maxTransferBytesOnMessageInMemory. The first message goes out whatever its size."""
EXPRESSION_MAX_LENGTH = 32_767
SCAN_MAX_COUNT = 800
"""Messages looked at per pull when it filters: one pull must not keep the others waiting."""


@dataclass(slots=True)
class GetMessageResult:
    """What a queue has for a pull."""

    code: ResponseCode
    status: str
    next_begin_offset: int
    body: bytes = b""
    count: int = 0


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
    ) -> None:
        self._clock = clock
        self._commit_log = commit_log
        self._topics = topics
        self._consumers = consumers
        self._offsets = offsets
        self._stats = stats
        self.holds = PullRequestHoldService(loop, clock, commit_log.max_offset, self._answer_held)

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {RequestCode.PULL_MESSAGE: self.pull_message, RequestCode.LITE_PULL_MESSAGE: self.pull_message}

    def pull_message(self, channel: Channel, request: RemotingCommand) -> RemotingCommand | None:
        """Answer a pull, or hold it while there is nothing new."""
        key, subscription = self._checked(request)
        offset = integer(request, "queueOffset")
        flags = integer(request, "sysFlag", bits=32)
        commit_offset = integer(request, "commitOffset", 0)
        group = required(request, "consumerGroup")
        reset = self._offsets.query_then_erase_reset_offset(group, key)
        if reset is not None:
            # The offset that it carries is from before: upstream commits it over the one that an operator has set.
            return self._answer(request, key, GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_RESET", reset))
        result = self._get_message(key, offset, integer(request, "maxMsgNums", bits=32), subscription)
        if flags & PullSysFlag.COMMIT_OFFSET and commit_offset >= 0:
            self._offsets.commit_offset(group, key, commit_offset)
        if result.code == ResponseCode.PULL_NOT_FOUND and flags & PullSysFlag.SUSPEND:
            due_ms = self._clock.monotonic_ms() + integer(request, "suspendTimeoutMillis", 0)
            if self.holds.suspend(key, HeldPull(channel, request, offset, subscription, due_ms)):
                return None
        return self._answer(request, key, result)

    def _answer_held(self, pull: HeldPull) -> None:
        """Every check again: the group may have gone meanwhile. Source: executeRequestWhenWakeup."""
        request = pull.request
        try:
            key, subscription = self._checked(request)
            count = integer(request, "maxMsgNums", bits=32)
            reset = self._offsets.query_then_erase_reset_offset(required(request, "consumerGroup"), key)
            if reset is None:
                result = self._get_message(key, pull.offset, count, subscription)
            else:
                result = GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_RESET", reset)
            answer = self._answer(request, key, result)
        except BrokerError as error:
            answer = refusal(request, error.code, error.remark)
        except RocketMQError as error:
            answer = refusal(request, ResponseCode.SYSTEM_ERROR, str(error))
        pull.channel.write(answer)

    def _checked(self, request: RemotingCommand) -> tuple[QueueKey, SubscriptionData]:
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
        return QueueKey(topic, queue_id), self._subscription(request, name, topic, group.consumeBroadcastEnable)

    def _subscription(self, request: RemotingCommand, name: str, topic: str, may_broadcast: bool) -> SubscriptionData:
        fields = request.ext_fields
        if integer(request, "sysFlag", bits=32) & PullSysFlag.SUBSCRIPTION:
            if (fields.get("expressionType") or TAG) != TAG:
                raise _no_sql()
            if len(fields.get("subscription", "")) > EXPRESSION_MAX_LENGTH:
                raise BrokerError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, "the expression is too long")
            try:
                return build_subscription_data(topic, fields.get("subscription"), integer(request, "subVersion", 0))
            except ConfigError as error:
                raise BrokerError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, str(error)) from None
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
        if subscription.expression_type != TAG:
            raise _no_sql()
        return subscription

    def _get_message(
        self, key: QueueKey, offset: int, max_count: int, subscription: SubscriptionData
    ) -> GetMessageResult:
        low, high = self._commit_log.min_offset(key), self._commit_log.max_offset(key)
        if high == 0:
            if offset == 0:
                return GetMessageResult(ResponseCode.PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE", 0)
            return GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "NO_MESSAGE_IN_QUEUE", 0)
        if offset < low:
            return GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_TOO_SMALL", low)
        if offset == high:
            return GetMessageResult(ResponseCode.PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE", offset)
        if offset > high:
            return GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY", high)
        count = max(1, min(max_count, BATCH_MAX_COUNT))
        if wants_everything(subscription):
            return _batch(self._commit_log.read(key, offset, count), offset)
        return self._filtered(key, offset, count, subscription)

    def _filtered(self, key: QueueKey, offset: int, count: int, subscription: SubscriptionData) -> GetMessageResult:
        scanned_to, size = offset, 0
        found: list[bytes] = []
        for place, physical_offset, tags_code in self._commit_log.scan(key, offset, SCAN_MAX_COUNT):
            if is_matched(subscription, tags_code):
                data = self._commit_log.look_message_by_offset(physical_offset) or b""
                if found and size + len(data) > BATCH_MAX_BYTES:
                    break
                found.append(data)
                size += len(data)
            scanned_to = place + 1
            if len(found) == count:
                break
        if not found:
            return GetMessageResult(ResponseCode.PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE", scanned_to)
        return GetMessageResult(ResponseCode.SUCCESS, "FOUND", scanned_to, b"".join(found), len(found))

    def _answer(self, request: RemotingCommand, key: QueueKey, result: GetMessageResult) -> RemotingCommand:
        group = required(request, "consumerGroup")
        self._offsets.commit_pull_offset(group, key, result.next_begin_offset)
        if result.count:
            self._stats.inc_group_get_nums(group, key.topic, result.count)
        answer = RemotingCommand.response(request.opaque, result.code, result.status)
        answer.ext_fields = {
            "suggestWhichBrokerId": str(MASTER_ID),
            "nextBeginOffset": str(result.next_begin_offset),
            "minOffset": str(self._commit_log.min_offset(key)),
            "maxOffset": str(self._commit_log.max_offset(key)),
        }
        answer.body = result.body
        return answer


def _batch(rows: list[tuple[int, bytes]], offset: int) -> GetMessageResult:
    size = 0
    for index, (place, data) in enumerate(rows):
        size += len(data)
        if index and size > BATCH_MAX_BYTES:
            rows = rows[:index]
            break
        offset = place + 1
    if not rows:
        return GetMessageResult(ResponseCode.PULL_NOT_FOUND, "OFFSET_FOUND_NULL", offset)
    return GetMessageResult(ResponseCode.SUCCESS, "FOUND", offset, b"".join([data for _, data in rows]), len(rows))


def _no_sql() -> BrokerError:
    return BrokerError(ResponseCode.SYSTEM_ERROR, "The broker does not support consumer to filter message by SQL92")
