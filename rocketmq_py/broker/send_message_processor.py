"""Sends, batches, and messages that consumers send back. Source: SendMessageProcessor and its base class."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import replace

from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, integer, refusal, required, success
from rocketmq_py.broker.commit_log import CommitLog, MessageInner, Place, Stored
from rocketmq_py.broker.delayed_messages import DelayedMessages
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.broker.schedule_message_service import ScheduleMessageService
from rocketmq_py.broker.topic_config import TopicConfig, TopicConfigManager
from rocketmq_py.broker.transactional_message_service import TransactionalMessageService
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError, ProtocolError, StoreError
from rocketmq_py.model import names
from rocketmq_py.model.codes import PermName, RequestCode, ResponseCode, TopicSysFlag
from rocketmq_py.model.config import INT_MAX
from rocketmq_py.model.message import TIMER_PROPERTIES, MessageConst, parse_properties
from rocketmq_py.model.recall_handle import RecallHandle
from rocketmq_py.model.unique_id import create_uniq_id
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import PROPERTIES_MAX_BYTES, decode_batch, decode_stored

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Source: MessageStoreConfig.maxMessageSize."""

BATCH_MAX_COUNT = 10_000
"""Messages of a batch: others must not wait long behind it."""

REGION = "DefaultRegion"

DLQ_QUEUES = 1
FIRST_RETRY_LEVEL = 3
"""Delay level of a first retry when the consumer leaves it to the broker. Source: handleRetryAndDLQ."""

INT_DIGITS = 10

_PREPARED = 0x4

# With one of them a message is of another kind, and its priority is forgotten. Source: TopicMessageType.
_GO_BEFORE_PRIORITY = TIMER_PROPERTIES | {MessageConst.DELAY_TIME_LEVEL, MessageConst.SHARDING_KEY}

# The V2 header is V1 with short names.
_V1_NAMES = {
    "a": "producerGroup",
    "b": "topic",
    "c": "defaultTopic",
    "d": "defaultTopicQueueNums",
    "e": "queueId",
    "f": "sysFlag",
    "g": "bornTimestamp",
    "h": "flag",
    "i": "properties",
    "j": "reconsumeTimes",
    "k": "unitMode",
    "l": "maxReconsumeTimes",
    "m": "batch",
}


class SendMessageProcessor:
    """Takes messages in. On the loop's thread only."""

    def __init__(
        self,
        *,
        clock: Clock,
        commit_log: CommitLog,
        topics: TopicConfigManager,
        schedule: ScheduleMessageService,
        delays: DelayedMessages,
        locks: RebalanceLockManager,
        transactions: TransactionalMessageService,
        statuses: MessageStatusManager,
        cluster: str,
        broker_name: str,
        store_host: bytes,
    ) -> None:
        self._clock = clock
        self._commit_log = commit_log
        self._topics = topics
        self._schedule = schedule
        self._delays = delays
        self._locks = locks
        self._transactions = transactions
        self._statuses = statuses
        self._cluster = cluster
        self._broker_name = broker_name
        self._store_host = store_host

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.SEND_MESSAGE: self.send_message,
            RequestCode.SEND_MESSAGE_V2: self.send_message,
            RequestCode.SEND_BATCH_MESSAGE: self.send_message,
            RequestCode.CONSUMER_SEND_MSG_BACK: self.consumer_send_msg_back,
        }

    # Sends.

    def send_message(self, channel: Channel, request: RemotingCommand) -> RemotingCommand | None:
        """Store one message or a batch; answered once it is on the disk."""
        message = self.message_of(channel, request)
        topic, queue_id = message.topic, message.queue_id
        is_batch = (
            request.code == RequestCode.SEND_BATCH_MESSAGE or request.ext_fields.get("batch", "").lower() == "true"
        )
        if is_batch:
            messages = self._parts(message)
        else:
            self._check(message)
            message = self._placed_by_priority(message)
            queue_id = message.queue_id
            messages = [self._retried(message, request) if _is_retry(topic) else message]
        is_half = not is_batch and _is_half(message)
        if not is_half:
            messages = [self._delays.handle(each) for each in messages]
        transaction_id = message.properties[MessageConst.UNIQ_KEY]

        def stored(error: StoreError | None) -> None:
            if request.is_oneway:
                return
            if error is not None:
                channel.write(refusal(request, ResponseCode.SYSTEM_ERROR, str(error)))
                return
            fields = {**self.answer_fields(queue_id, places), "transactionId": transaction_id}
            if not is_batch:
                fields |= self._recall_handle(messages[0])
            channel.write(success(request, fields))

        places = self.put(messages, stored, half=is_half)
        if _is_retry(topic):
            group = topic.removeprefix(names.RETRY_GROUP_TOPIC_PREFIX)
            dead = messages[0].topic.startswith(names.DLQ_GROUP_TOPIC_PREFIX)
            self._statuses.resent(group, message.properties, dead=dead)
        return None

    def answer_fields(self, queue_id: int, places: Sequence[Place]) -> dict[str, object]:
        """What the sender of messages is told. Source: SendMessageResponseHeader."""
        return {
            "msgId": ",".join(self._message_id(place) for place in places),
            "queueId": queue_id,
            "queueOffset": places[0].queue_offset,
            "MSG_REGION": REGION,
            "TRACE_ON": "true",
        }

    def message_of(self, channel: Channel, request: RemotingCommand) -> MessageInner:
        """The message that a send brings, its topic made if it may be; without a queue it gets any.

        The request's fields have the names of the first version afterwards.

        Raises:
            BrokerError: it cannot be taken.
        """
        if request.code not in {RequestCode.SEND_MESSAGE, RequestCode.SEND_REPLY_MESSAGE}:
            request.ext_fields = {_V1_NAMES.get(name, name): text for name, text in request.ext_fields.items()}
        self._check_capacity()
        topic = required(request, "topic")
        config = self._topic_to_send_to(topic, request)
        queue_id = integer(request, "queueId", bits=32)
        if queue_id >= config.queues:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER, f"the topic {topic} has {config.queues} queues, {queue_id} is none"
            )
        if queue_id < 0:
            queue_id = random.randrange(config.writeQueueNums)
        return self._message(channel, request, topic, queue_id)

    def _check_capacity(self) -> None:
        if self._commit_log.is_busy:
            raise BrokerError(ResponseCode.SYSTEM_BUSY, "[REJECTREQUEST] too much waits for the disk, try again")
        if self._commit_log.is_disk_full:
            raise BrokerError(
                ResponseCode.SERVICE_NOT_AVAILABLE,
                "service not available now: the broker's disk is full. Make room, it goes on by itself then",
            )

    def put(self, messages: Sequence[MessageInner], stored: Stored, *, half: bool = False) -> list[Place]:
        """Store messages, or one as a half message; see ``CommitLog.put``.

        Raises:
            BrokerError: a message does not fit the format; none is stored.
        """
        try:
            if half:
                return self._transactions.put_half(messages[0], stored)
            return self._commit_log.put(messages, stored)
        except (ConfigError, struct.error) as error:
            raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, str(error)) from None

    def _topic_to_send_to(self, topic: str, request: RemotingCommand) -> TopicConfig:
        """Source: AbstractSendMessageProcessor.msgCheck, TopicConfigManager.createTopicInSendMessageMethod."""
        self._topics.check_name(topic)
        config = self._topics.topic(topic)
        if config is None and _is_retry(topic):
            group = self._topics.ensure_group(topic.removeprefix(names.RETRY_GROUP_TOPIC_PREFIX))
            if group is not None:
                config = self._topics.ensure_topic(topic, group.retryQueueNums, sys_flag=_unit_sub(request))
        if config is None:
            template = self._topics.topic(request.ext_fields.get("defaultTopic", ""))
            if template is None or not template.perm & PermName.INHERIT:
                raise BrokerError(
                    ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist, apply first please! Create it first"
                )
            wanted = integer(request, "defaultTopicQueueNums", 4, bits=32)
            queues = max(1, min(wanted, template.writeQueueNums))
            config = self._topics.ensure_topic(
                topic, queues, sys_flag=TopicSysFlag.UNIT if _is_unit_mode(request) else 0
            )
        if not config.perm & PermName.WRITE:
            raise BrokerError(ResponseCode.NO_PERMISSION, f"sending to the topic {topic} is forbidden")
        return config

    def _message(self, channel: Channel, request: RemotingCommand, topic: str, queue_id: int) -> MessageInner:
        raw = request.ext_fields.get("properties", "")
        if len(raw.encode()) > PROPERTIES_MAX_BYTES:
            raise BrokerError(
                ResponseCode.MESSAGE_ILLEGAL, f"the properties have more than {PROPERTIES_MAX_BYTES} bytes"
            )
        return MessageInner(
            topic,
            queue_id,
            request.body,
            self._properties(parse_properties(raw.encode())),
            integer(request, "flag", 0, bits=32),
            integer(request, "sysFlag", 0, bits=32),
            integer(request, "bornTimestamp", self._clock.wall_ms()),
            channel.remote_host,
            integer(request, "reconsumeTimes", 0, bits=32),
        )

    def _properties(self, properties: dict[str, str]) -> dict[str, str]:
        properties.pop("POP_CK", None)
        if MessageConst.UNIQ_KEY not in properties:
            properties[MessageConst.UNIQ_KEY] = create_uniq_id(self._clock)
        properties[MessageConst.MSG_REGION] = REGION
        properties[MessageConst.TRACE_SWITCH] = "true"
        properties[MessageConst.CLUSTER] = self._cluster
        return properties

    @staticmethod
    def _check(message: MessageInner) -> None:
        if not message.body:
            raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, "the body of a message must not be empty")
        if len(message.body) > MAX_MESSAGE_BYTES:
            raise BrokerError(
                ResponseCode.MESSAGE_ILLEGAL,
                f"a body of {len(message.body)} bytes, this broker takes {MAX_MESSAGE_BYTES}",
            )
        if message.sys_flag & _PREPARED and not _is_half(message):
            raise BrokerError(
                ResponseCode.MESSAGE_ILLEGAL, "a half message has the property TRAN_MSG, this one has not"
            )

    def _placed_by_priority(self, message: MessageInner) -> MessageInner:
        """A priority is the number of a queue, whichever the sender chose. Source: SendMessageProcessor.sendMessage."""
        text = message.properties.get(MessageConst.PRIORITY, "")
        config = self._topics.topic(message.topic)
        if config is None or len(text) > INT_DIGITS or not (text.isascii() and text.isdigit()) or int(text) > INT_MAX:
            return message
        if _is_half(message) or not message.properties.keys().isdisjoint(_GO_BEFORE_PRIORITY):
            others = {name: value for name, value in message.properties.items() if name != MessageConst.PRIORITY}
            return replace(message, properties=others)
        return replace(message, queue_id=min(int(text), config.writeQueueNums - 1))

    def _parts(self, batch: MessageInner) -> list[MessageInner]:
        """Source: MessageExtBatch, DefaultMessageStore.putMessages."""
        self._check(batch)
        if _is_half(batch):
            raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, "a batch cannot be sent in a transaction")
        if _is_retry(batch.topic):
            raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, "batch request does not support retry group " + batch.topic)
        try:
            parts = decode_batch(batch.body)
        except ProtocolError as error:
            raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, str(error)) from None
        if len(parts) > BATCH_MAX_COUNT:
            raise BrokerError(
                ResponseCode.MESSAGE_ILLEGAL, f"a batch of {len(parts)} messages, this broker takes {BATCH_MAX_COUNT}"
            )
        messages = []
        for part in parts:
            # As they are: upstream adds nothing of its own to the parts of a batch.
            message = replace(batch, body=part.body, properties=dict(part.properties), flag=part.flag)
            self._check(message)
            if _is_half(message):
                raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, "messages of a batch cannot be sent in a transaction")
            if message.properties.get(MessageConst.DELAY_TIME_LEVEL, "0") != "0" or (
                TIMER_PROPERTIES & message.properties.keys()
            ):
                raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, "messages of a batch cannot be delayed")
            messages.append(message)
        if not messages:
            raise BrokerError(ResponseCode.MESSAGE_ILLEGAL, "a batch without messages")
        return messages

    def _recall_handle(self, message: MessageInner) -> dict[str, str]:
        """By what the sender can recall a message that waits. Source: attachRecallHandle."""
        properties = message.properties
        if message.timer_key is None or _is_retry(properties[MessageConst.REAL_TOPIC]):
            return {}
        deliver_ms = int(properties[MessageConst.TIMER_OUT_MS]) + 1
        uniq_key = properties[MessageConst.UNIQ_KEY]
        handle = RecallHandle(properties[MessageConst.REAL_TOPIC], self._broker_name, deliver_ms, uniq_key)
        return {"recallHandle": str(handle)}

    def _message_id(self, place: Place) -> str:
        return (self._store_host + place.physical_offset.to_bytes(8, "big")).hex().upper()

    # Retries and dead letters.

    def _retried(self, message: MessageInner, request: RemotingCommand) -> MessageInner:
        """A message sent to a retry topic as any other. Source: handleRetryAndDLQ.

        Dead when it failed more often than allowed, or while any member holds a queue of the group locked: an orderly
        consumer sends so what it has given up.
        """
        name = message.topic.removeprefix(names.RETRY_GROUP_TOPIC_PREFIX)
        group = self._topics.ensure_group(name)
        if group is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group not exist, {name}")
        limit = integer(request, "maxReconsumeTimes", group.retryMaxTimes, bits=32)
        if message.reconsume_times <= limit and self._locks.is_lock_all_expired(name):
            return message
        return self._dead(message, name, delay="-1")

    def _dead(self, message: MessageInner, group: str, delay: str) -> MessageInner:
        topic = names.dlq_topic(group)
        self._topics.ensure_topic(topic, DLQ_QUEUES)
        properties = {**message.properties, MessageConst.DELAY_TIME_LEVEL: delay}
        return replace(message, topic=topic, queue_id=0, properties=properties)

    def consumer_send_msg_back(self, channel: Channel, request: RemotingCommand) -> RemotingCommand | None:
        """Store a failed message once more, for later. Source: AbstractSendMessageProcessor.consumerSendMsgBack."""
        self._check_capacity()
        name = required(request, "group")
        group = self._topics.ensure_group(name)
        if group is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group not exist, {name}")
        if group.retryQueueNums <= 0:
            return success(request)
        offset, level = integer(request, "offset"), integer(request, "delayLevel", bits=32)
        data = self._commit_log.look_message_by_offset(offset)
        if data is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {offset}")
        original = decode_stored(data)
        head = original.head
        limit = integer(request, "maxReconsumeTimes", group.retryMaxTimes, bits=32)
        properties = original.properties
        properties.setdefault(MessageConst.RETRY_TOPIC, original.topic)
        properties.setdefault(MessageConst.ORIGIN_MESSAGE_ID, self._message_id(Place(0, offset)))
        properties[MessageConst.WAIT_STORE_MSG_OK] = "false"
        message = MessageInner(
            names.retry_topic(name), 0, original.body, properties, head.flag,
            head.sys_flag, head.born_timestamp, head.born_host, min(head.reconsume_times + 1, INT_MAX),
        )  # fmt: skip
        if head.reconsume_times >= limit or level < 0:
            message = self._dead(message, name, delay="0")
        else:
            retry_topic = self._topics.ensure_topic(message.topic, group.retryQueueNums, sys_flag=_unit_sub(request))
            if not retry_topic.perm & PermName.WRITE:
                raise BrokerError(
                    ResponseCode.NO_PERMISSION, f"the topic[{message.topic}] sending message is forbidden"
                )
            # Of the topic, not of the group: the group may have been given more queues since, which nobody reads.
            queue_id = random.randrange(min(retry_topic.readQueueNums, retry_topic.writeQueueNums))
            level = level or max(1, FIRST_RETRY_LEVEL + head.reconsume_times)
            message = self._schedule.delayed(replace(message, queue_id=queue_id), level)

        self.put([message], answer_when_stored(channel, request, success(request)))
        self._statuses.sent_back(name, data, dead=message.topic == names.dlq_topic(name))
        return None


def _is_half(message: MessageInner) -> bool:
    """Source: SendMessageProcessor.sendMessage; what clients before 4.6.1 send back is none, whatever it says."""
    properties = message.properties
    if properties.get(MessageConst.TRANSACTION_PREPARED, "").lower() != "true":
        return False
    return message.reconsume_times <= 0 or properties.get(MessageConst.DELAY_TIME_LEVEL, "0") == "0"


def _is_unit_mode(request: RemotingCommand) -> bool:
    return request.ext_fields.get("unitMode", "").lower() == "true"


def _unit_sub(request: RemotingCommand) -> int:
    """Mark of a retry topic that a request of a unit makes."""
    return TopicSysFlag.UNIT_SUB if _is_unit_mode(request) else 0


def _is_retry(topic: str) -> bool:
    return topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX)
