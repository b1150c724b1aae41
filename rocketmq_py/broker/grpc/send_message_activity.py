"""Messages come in. Source: SendMessageActivity."""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.broker.grpc.context import (
    ENTRIES_MAX,
    GrpcProxyError,
    ProxyContext,
    check_topic,
    has_control_character,
    ok,
    status_of,
    succeeded,
    summed_up,
)
from rocketmq_py.broker.grpc.converter import (
    BORN_HOST,
    BORN_TIMESTAMP,
    CHECK_IMMUNITY_TIME_IN_SECONDS,
    HIDDEN_PROPERTIES,
    PRIORITY,
    SHARDING_KEY,
    TRACE_CONTEXT,
    message_type,
    ms_of,
)
from rocketmq_py.broker.grpc.message_group import queue_of
from rocketmq_py.broker.grpc.message_service import LocalMessageService
from rocketmq_py.broker.grpc.route_activity import accepted_types
from rocketmq_py.broker.grpc.transaction_id import TransactionId
from rocketmq_py.broker.send_message_processor import MAX_MESSAGE_BYTES
from rocketmq_py.broker.topic_config import TopicConfig, TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import RocketMQError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model import names
from rocketmq_py.model.codes import MessageSysFlag, PermName, RequestCode
from rocketmq_py.model.message import MessageConst, format_properties
from rocketmq_py.remoting.frame import RemotingCommand

USER_PROPERTIES_MAX_COUNT = 128
USER_PROPERTIES_MAX_BYTES = 16_384
"""Of the user's properties, the tag and the keys together. Source: maxUserPropertySize."""
MESSAGE_GROUP_MAX_BYTES = 63
DELAY_MAX_MS = 24 * 60 * 60 * 1_000
RECOVERY_MAX_S = 3_600

ANY_QUEUE = -1


class SendMessageActivity:
    """Checks messages and hands them to the broker. On the loop's thread only."""

    def __init__(self, service: LocalMessageService, topics: TopicConfigManager, clock: Clock) -> None:
        self._service = service
        self._topics = topics
        self._clock = clock

    def send_message(
        self, context: ProxyContext, request: pb.SendMessageRequest, done: Callable[[pb.SendMessageResponse], None]
    ) -> None:
        """Store messages of one topic; answered once all are on the disk, with an entry for each.

        Deviation: upstream stores several as one batch, by the first one's kind, and answers with one entry.

        Raises:
            GrpcProxyError: one of them is not acceptable; none is stored.
        """
        if not request.messages:
            raise GrpcProxyError(pb.MESSAGE_CORRUPTED, "no message to send")
        if len(request.messages) > ENTRIES_MAX:
            raise GrpcProxyError(
                pb.BAD_REQUEST, f"{len(request.messages)} messages at once, this server takes {ENTRIES_MAX}"
            )
        topic = check_topic(request.messages[0].topic)
        if any(message.topic.name != topic for message in request.messages):
            raise GrpcProxyError(pb.MESSAGE_CORRUPTED, "the messages are of several topics")
        properties = [self._properties(context, topic, message) for message in request.messages]
        config = self._topics.topic(topic)
        if config is None:
            raise GrpcProxyError(pb.TOPIC_NOT_FOUND, f"no topic route info for the topic {topic}: create it first")
        if not config.perm & PermName.WRITE:
            raise GrpcProxyError(pb.FORBIDDEN, f"the topic {topic} has no writable queue")
        for each in properties:
            _check_type(config, each)
        entries: dict[int, pb.SendResultEntry] = {}

        def answer(index: int, entry: pb.SendResultEntry) -> None:
            entries[index] = entry
            if len(entries) == len(properties):
                told = [entries[each] for each in range(len(entries))]
                done(pb.SendMessageResponse(status=summed_up(each.status for each in told), entries=told))

        for index, (message, each) in enumerate(zip(request.messages, properties, strict=True)):
            self._send(context, config, message, each, _Entry(index, message, answer))

    def _send(
        self,
        context: ProxyContext,
        config: TopicConfig,
        message: pb.Message,
        properties: dict[str, str],
        entry: _Entry,
    ) -> None:
        flags = MessageSysFlag.COMPRESSED if message.system_properties.body_encoding == pb.GZIP else 0
        if properties.get(MessageConst.TRANSACTION_PREPARED) == "true":
            flags |= MessageSysFlag.TRANSACTION_PREPARED_TYPE
        fields = {
            "a": config.topicName,
            "b": config.topicName,
            "c": "",
            "d": 0,
            "e": _queue(config, properties),
            "f": flags,
            "g": properties.get(BORN_TIMESTAMP) or self._clock.wall_ms(),
            "h": 0,
            "i": format_properties(properties),
            "j": 0,
            "m": "false",
        }
        self._service.ask(context, RequestCode.SEND_MESSAGE_V2, fields, entry.on_answer, body=message.body)

    def _properties(self, context: ProxyContext, topic: str, message: pb.Message) -> dict[str, str]:
        """All that is to be stored with a message. Source: buildMessageProperty, in its order of checks."""
        _check_body(message.body)
        system = message.system_properties
        properties = dict(message.user_properties)
        size = _check_user_properties(properties)
        tag = system.tag
        if tag:
            _check_text(tag, "a tag", pb.ILLEGAL_MESSAGE_TAG)
            if "|" in tag:
                raise GrpcProxyError(pb.ILLEGAL_MESSAGE_TAG, "a tag cannot contain '|'")
            properties[MessageConst.TAGS] = tag
        for key in system.keys:
            if key:
                _check_text(key, "a key", pb.ILLEGAL_MESSAGE_KEY)
        if system.keys:
            properties[MessageConst.KEYS] = " ".join(system.keys)
        size += len(tag.encode()) + sum(len(key.encode()) for key in system.keys)
        if size > USER_PROPERTIES_MAX_BYTES:
            raise GrpcProxyError(
                pb.MESSAGE_PROPERTIES_TOO_LARGE,
                f"properties, tag and keys have {size} bytes, the limit is {USER_PROPERTIES_MAX_BYTES}",
            )
        if not system.message_id.strip():
            raise GrpcProxyError(pb.ILLEGAL_MESSAGE_ID, "the message id is blank")
        if has_control_character(system.message_id):
            raise GrpcProxyError(pb.ILLEGAL_MESSAGE_ID, "the message id contains a control character")
        properties[MessageConst.UNIQ_KEY] = system.message_id
        properties[MessageConst.PRODUCER_GROUP] = topic
        if system.message_type == pb.TRANSACTION:
            properties[MessageConst.TRANSACTION_PREPARED] = "true"
            if system.HasField("orphaned_transaction_recovery_duration"):
                properties[CHECK_IMMUNITY_TIME_IN_SECONDS] = str(_recovery_s(system))
        if system.HasField("delivery_timestamp"):
            properties[MessageConst.TIMER_DELIVER_MS] = str(self._delivery_ms(system))
        if system.message_group:
            _check_text(system.message_group, "a message group", pb.ILLEGAL_MESSAGE_GROUP)
            if len(system.message_group.encode()) > MESSAGE_GROUP_MAX_BYTES:
                raise GrpcProxyError(
                    pb.ILLEGAL_MESSAGE_GROUP, f"a message group has at most {MESSAGE_GROUP_MAX_BYTES} bytes"
                )
            properties[SHARDING_KEY] = system.message_group
        if system.HasField("priority"):
            if system.priority < 0:
                raise GrpcProxyError(pb.BAD_REQUEST, f"{system.priority} is no priority: it is an integer from 0")
            properties[PRIORITY] = str(system.priority)
        if system.trace_context:
            _check_text(system.trace_context, "a trace context", pb.ILLEGAL_MESSAGE_PROPERTY_KEY)
            properties[TRACE_CONTEXT] = system.trace_context
        born_host = system.born_host.strip() or context.remote_address
        _check_text(born_host, "a born host", pb.ILLEGAL_MESSAGE_PROPERTY_KEY)
        properties[BORN_HOST] = born_host
        if system.HasField("born_timestamp") and (born_ms := ms_of(system.born_timestamp)) > 0:
            properties[BORN_TIMESTAMP] = str(born_ms)
        return properties

    def _delivery_ms(self, system: pb.SystemProperties) -> int:
        delivery_ms = ms_of(system.delivery_timestamp)
        if delivery_ms - self._clock.wall_ms() > DELAY_MAX_MS:
            raise GrpcProxyError(pb.ILLEGAL_DELIVERY_TIME, f"a message is delayed by {DELAY_MAX_MS} ms at most")
        return max(delivery_ms, 0)


class _Entry:
    """Makes the entry of one message out of the broker's answer."""

    def __init__(self, index: int, message: pb.Message, answer: Callable[[int, pb.SendResultEntry], None]) -> None:
        self._index = index
        self._message = message
        self._answer = answer

    def on_answer(self, command: RemotingCommand) -> None:
        try:
            self._answer(self._index, self._stored(succeeded(command)))
        except RocketMQError as error:
            self._answer(self._index, pb.SendResultEntry(status=status_of(error)))

    def _stored(self, answer: RemotingCommand) -> pb.SendResultEntry:
        message_id = self._message.system_properties.message_id
        is_half = self._message.system_properties.message_type == pb.TRANSACTION
        return pb.SendResultEntry(
            status=ok(),
            message_id=message_id,
            transaction_id=str(TransactionId.of_answer(answer, message_id)) if is_half else message_id,
            offset=answer.offset("queueOffset"),
            recall_handle=answer.ext_fields.get("recallHandle", ""),
        )


def _queue(config: TopicConfig, properties: dict[str, str]) -> int:
    """Deviation: upstream leaves delayed messages and half messages of a group to it, too, but not several at once."""
    if (message_group := properties.get(SHARDING_KEY)) is not None:
        return queue_of(message_group, config.writeQueueNums)
    if (priority := properties.get(PRIORITY)) is not None:
        return min(int(priority), config.writeQueueNums - 1)
    return ANY_QUEUE


def _check_type(config: TopicConfig, properties: dict[str, str]) -> None:
    if config.topicName.startswith(names.GROUP_TOPIC_PREFIXES):
        return
    kind, accepted = message_type(properties), accepted_types(config)
    if kind not in accepted:
        takes = ", ".join(pb.MessageType.Name(each) for each in accepted)
        raise GrpcProxyError(
            pb.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE,
            f"a {pb.MessageType.Name(kind)} message, the topic {config.topicName} takes {takes}: set its attribute "
            "message.type",
        )


def _check_body(body: bytes) -> None:
    if not body:
        raise GrpcProxyError(pb.MESSAGE_BODY_EMPTY, "the body of a message cannot be empty")
    if len(body) > MAX_MESSAGE_BYTES:
        raise GrpcProxyError(
            pb.MESSAGE_BODY_TOO_LARGE, f"a body of {len(body)} bytes, this server takes {MAX_MESSAGE_BYTES}"
        )


def _check_user_properties(properties: dict[str, str]) -> int:
    """Their size in bytes."""
    if len(properties) > USER_PROPERTIES_MAX_COUNT:
        raise GrpcProxyError(
            pb.MESSAGE_PROPERTIES_TOO_LARGE, f"{len(properties)} properties, the limit is {USER_PROPERTIES_MAX_COUNT}"
        )
    for name, value in properties.items():
        if name in HIDDEN_PROPERTIES:
            raise GrpcProxyError(pb.ILLEGAL_MESSAGE_PROPERTY_KEY, f"the property {name} is used by the system")
        if has_control_character(name) or has_control_character(value):
            raise GrpcProxyError(
                pb.ILLEGAL_MESSAGE_PROPERTY_KEY, f"the property {name!r:.100} contains a control character"
            )
    return sum(len(name.encode()) + len(value.encode()) for name, value in properties.items())


def _check_text(text: str, what: str, code: pb.Code) -> None:
    if not text.strip():
        raise GrpcProxyError(code, f"{what} cannot be blank")
    if has_control_character(text):
        raise GrpcProxyError(code, f"{what} cannot contain a control character")


def _recovery_s(system: pb.SystemProperties) -> int:
    seconds = system.orphaned_transaction_recovery_duration.seconds
    if seconds > RECOVERY_MAX_S:
        raise GrpcProxyError(pb.BAD_REQUEST, f"a transaction is checked after {RECOVERY_MAX_S} s at most")
    return max(seconds, 0)
