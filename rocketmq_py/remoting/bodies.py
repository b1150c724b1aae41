"""JSON bodies of requests and replies.

Keys that are not known are ignored: brokers of other versions send more or fewer. Types are checked: what comes out can
be relied on.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_origin, get_type_hints

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import QueueAssignment
from rocketmq_py.model.route import BrokerData, QueueData, TopicRouteData
from rocketmq_py.model.running_info import (
    ConsumeMessageDirectlyResult,
    ConsumerRunningInfo,
    ConsumeStatus,
    PopProcessQueueInfo,
    ProcessQueueInfo,
)
from rocketmq_py.model.subscription import TAG, SubscriptionData
from rocketmq_py.remoting.json_fields import as_object as _object
from rocketmq_py.remoting.json_fields import checked as _checked
from rocketmq_py.remoting.json_fields import field as _field
from rocketmq_py.remoting.json_fields import int32 as _int

QUEUE_NUMS_MAX = 65_536
"""Queues of a topic that are believed: every one of them will be an object here."""

_INTEGER = re.compile(r"-?[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class ConsumerData:
    """What a heartbeat tells of a consumer. Source: ConsumerData, ConsumeType, MessageModel.

    Attributes:
        group: name of its group.
        consume_from_where: where a new group starts, a name of ``ConsumeFromWhere``.
        subscriptions: all that the group wants: a broker forgets what is missing here.
        unit_mode: marks a multi-site deployment.
        consume_type: CONSUME_PASSIVELY for push, CONSUME_ACTIVELY for pull.
        message_model: CLUSTERING or BROADCASTING.
    """

    group: str
    consume_from_where: str
    subscriptions: Collection[SubscriptionData]
    unit_mode: bool = False
    consume_type: str = "CONSUME_PASSIVELY"
    message_model: str = "CLUSTERING"


def encode_heartbeat(client_id: str, producer_groups: Iterable[str], consumers: Iterable[ConsumerData]) -> bytes:
    """Body of HEART_BEAT. Source: HeartbeatData, without its version 2."""
    return fastjson.dumps(
        {
            "clientID": client_id,
            "consumerDataSet": [
                {
                    "consumeFromWhere": consumer.consume_from_where,
                    "consumeType": consumer.consume_type,
                    "groupName": consumer.group,
                    "messageModel": consumer.message_model,
                    "subscriptionDataSet": [subscription_fields(each) for each in consumer.subscriptions],
                    "unitMode": consumer.unit_mode,
                }
                for consumer in consumers
            ],
            "heartbeatFingerprint": 0,
            "producerDataSet": [{"groupName": group} for group in producer_groups],
            "withoutSub": False,
        }
    )


def encode_check_client_config(client_id: str, group: str, subscription: SubscriptionData) -> bytes:
    """Body of CHECK_CLIENT_CONFIG. Source: CheckClientRequestBody."""
    return fastjson.dumps(
        {"clientId": client_id, "group": group, "subscriptionData": subscription_fields(subscription)}
    )


def subscription_fields(subscription: SubscriptionData) -> dict[str, object]:
    """A subscription as part of a body. Source: SubscriptionData."""
    return {
        "classFilterMode": False,
        "codeSet": sorted(subscription.code_set),
        "expressionType": subscription.expression_type,
        "subString": subscription.sub_string,
        "subVersion": subscription.sub_version,
        "tagsSet": sorted(subscription.tags_set),
        "topic": subscription.topic,
    }


def parse_consumer_id_list(body: bytes) -> list[str]:
    """Client ids of a group's members, in no order, out of the reply to GET_CONSUMER_LIST_BY_GROUP.

    Raises:
        ProtocolError: it is malformed.
    """
    members = _field(_object(fastjson.loads(body), "the reply"), "consumerIdList", list)
    return [_checked(member, str, "a client id") for member in members]


def encode_consumer_id_list(client_ids: Sequence[str]) -> bytes:
    """The reply to GET_CONSUMER_LIST_BY_GROUP."""
    return fastjson.dumps({"consumerIdList": list(client_ids)})


class Heartbeat(NamedTuple):
    """What a client tells of itself."""

    client_id: str
    producer_groups: list[str]
    consumers: list[ConsumerData]


def parse_heartbeat(body: bytes) -> Heartbeat:
    """Client id, producers and consumers out of HEART_BEAT.

    Raises:
        ProtocolError: it is malformed.
    """
    heartbeat = _object(fastjson.loads_request(body), "a heartbeat")
    producers = _checked(heartbeat.get("producerDataSet") or [], list, "producerDataSet")
    return Heartbeat(
        _field(heartbeat, "clientID", str),
        [_field(_object(each, "a producer"), "groupName", str) for each in producers],
        [_consumer_data(_object(each, "a consumer")) for each in _field(heartbeat, "consumerDataSet", list)],
    )


def _consumer_data(fields: Mapping[Any, Any]) -> ConsumerData:
    return ConsumerData(
        group=_field(fields, "groupName", str),
        consume_from_where=str(fields.get("consumeFromWhere")),
        subscriptions=[
            parse_subscription(_object(each, "a subscription")) for each in _field(fields, "subscriptionDataSet", list)
        ],
        unit_mode=fields.get("unitMode") is True,
        consume_type=str(fields.get("consumeType")),
        message_model=str(fields.get("messageModel")),
    )


def parse_subscription(fields: Mapping[Any, Any]) -> SubscriptionData:
    """A subscription within a body. Raises ``ProtocolError``."""
    return SubscriptionData(
        topic=_field(fields, "topic", str),
        sub_string=_field(fields, "subString", str),
        tags_set=frozenset(
            _checked(tag, str, "a tag") for tag in _checked(fields.get("tagsSet") or [], list, "tagsSet")
        ),
        code_set=frozenset(_tag_hash(code) for code in _checked(fields.get("codeSet") or [], list, "codeSet")),
        sub_version=_field(fields, "subVersion", int),
        expression_type=str(fields.get("expressionType") or TAG),
    )


def _tag_hash(value: object) -> int:
    """The Go client writes it as text, which fastjson takes for the number."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    return _int(value, "a tag's hash")


def parse_check_client(body: bytes) -> tuple[str, str]:
    """Kind of expression and expression that CHECK_CLIENT_CONFIG asks about; TAG when it tells none.

    Raises:
        ProtocolError: it is malformed.
    """
    asked = _object(fastjson.loads_request(body), "the request")
    subscription = _object(asked.get("subscriptionData"), "a subscription")
    return str(subscription.get("expressionType") or TAG), str(subscription.get("subString") or "")


class BatchAck(NamedTuple):
    """Messages of one batch that are done.

    Attributes:
        retry: kind of the topic they lie in.
        bits: little-endian; bit i stands for ``start_offset + i``.
    """

    group: str
    topic: str
    retry: str
    start_offset: int
    queue_id: int
    revive_queue_id: int
    pop_time: int
    invisible_time: int
    bits: bytes

    @property
    def message_count(self) -> int:
        """How many bits are set."""
        return int.from_bytes(self.bits).bit_count()

    def indexes(self) -> Iterator[int]:
        """Which bits are set."""
        for place, byte in enumerate(self.bits):
            for bit in range(8):
                if byte >> bit & 1:
                    yield place * 8 + bit


BITS_MAX_BYTES = 8_192
"""Of one batch: a batch has 32 messages, and lies within what one pop looks at."""


def parse_batch_ack(body: bytes) -> list[BatchAck]:
    """Body of BATCH_ACK_MESSAGE; fields have a short and a long name.

    Raises:
        ProtocolError: it is malformed.
    """
    if not body:
        return []
    asked = _object(fastjson.loads_request(body), "the request")
    return [_batch_ack(_object(each, "a batch")) for each in _checked(asked.get("acks") or [], list, "acks")]


def _batch_ack(fields: Mapping[Any, Any]) -> BatchAck:
    def value(short: str, long: str) -> Any:
        return fields.get(short, fields.get(long))

    try:
        bits = base64.b64decode(_checked(value("b", "bitSet"), str, "bitSet"), validate=True)
    except ValueError:
        raise ProtocolError("the bits of a batch are no base64") from None
    if len(bits) > BITS_MAX_BYTES:
        raise ProtocolError(f"the bits of a batch have {len(bits)} bytes, possible are {BITS_MAX_BYTES}")
    return BatchAck(
        _checked(value("c", "consumerGroup"), str, "consumerGroup"),
        _checked(value("t", "topic"), str, "topic"),
        str(value("r", "retry") or "0"),
        _checked(value("so", "startOffset"), int, "startOffset"),
        _int(value("q", "queueId"), "queueId"),
        _int(value("rq", "reviveQueueId"), "reviveQueueId"),
        _checked(value("pt", "popTime"), int, "popTime"),
        _checked(value("it", "invisibleTime"), int, "invisibleTime"),
        bits,
    )


class LockBatch(NamedTuple):
    """Which queues a client wants to lock or unlock."""

    group: str
    client_id: str
    mqs: set[MessageQueue]


def encode_lock_batch(asked: LockBatch) -> bytes:
    """Body of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ."""
    return fastjson.dumps(
        {
            "clientId": asked.client_id,
            "consumerGroup": asked.group,
            "mqSet": sorted(asked.mqs),
            "onlyThisBroker": False,
        }
    )


def parse_locked(body: bytes) -> set[MessageQueue]:
    """The queues in the reply to LOCK_BATCH_MQ.

    Raises:
        ProtocolError: it is malformed.
    """
    return _queue_set(_object(fastjson.loads(body), "a reply"), "lockOKMQSet")


def parse_lock_batch(body: bytes) -> LockBatch:
    """Body of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ.

    Raises:
        ProtocolError: it is malformed.
    """
    fields = _object(fastjson.loads_request(body), "the request")
    return LockBatch(_field(fields, "consumerGroup", str), _field(fields, "clientId", str), _queue_set(fields, "mqSet"))


def _queue_set(fields: Mapping[Any, Any], name: str) -> set[MessageQueue]:
    return {_queue_of(_object(each, "a queue")) for each in _field(fields, name, list)}


def encode_locked(mqs: Iterable[MessageQueue]) -> bytes:
    """The reply to LOCK_BATCH_MQ: what is held now."""
    return fastjson.dumps({"lockOKMQSet": sorted(mqs)})


def encode_consumer_running_info(info: ConsumerRunningInfo) -> bytes:
    """The answer to GET_CONSUMER_RUNNING_INFO. Source: ConsumerRunningInfo."""
    fields: dict[str, object] = {
        "mqPopTable": {mq: _pop_process_queue_info(each) for mq, each in info.mq_pop_table.items()},
        "mqTable": {mq: _process_queue_info(each) for mq, each in info.mq_table.items()},
        "properties": info.properties,
        "statusTable": {topic: _consume_status(each) for topic, each in info.status_table.items()},
        "subscriptionSet": [subscription_fields(each) for each in info.subscriptions],
        "userConsumerInfo": {},
    }
    if info.jstack is not None:
        fields["jstack"] = info.jstack
    return fastjson.dumps(fields)


def _pop_process_queue_info(info: PopProcessQueueInfo) -> dict[str, object]:
    return {
        "droped": info.dropped,
        "lastPopTimestamp": info.last_pop_timestamp,
        "waitAckCount": info.wait_ack_count,
    }


def _process_queue_info(info: ProcessQueueInfo) -> dict[str, object]:
    return {
        "cachedMsgCount": info.cached_msg_count,
        "cachedMsgMaxOffset": info.cached_msg_max_offset,
        "cachedMsgMinOffset": info.cached_msg_min_offset,
        "cachedMsgSizeInMiB": info.cached_msg_size_in_mib,
        "commitOffset": info.commit_offset,
        "droped": info.dropped,
        "lastConsumeTimestamp": info.last_consume_timestamp,
        "lastLockTimestamp": info.last_lock_timestamp,
        "lastPullTimestamp": info.last_pull_timestamp,
        "locked": info.locked,
        "transactionMsgCount": info.transaction_msg_count,
        "transactionMsgMaxOffset": info.transaction_msg_max_offset,
        "transactionMsgMinOffset": info.transaction_msg_min_offset,
        "tryUnlockTimes": info.try_unlock_times,
    }


def _consume_status(status: ConsumeStatus) -> dict[str, object]:
    return {
        "consumeFailedMsgs": status.consume_failed_msgs,
        "consumeFailedTPS": status.consume_failed_tps,
        "consumeOKTPS": status.consume_ok_tps,
        "consumeRT": status.consume_rt,
        "pullRT": status.pull_rt,
        "pullTPS": status.pull_tps,
    }


def encode_consumer_status(offsets: Mapping[MessageQueue, int]) -> bytes:
    """The answer to GET_CONSUMER_STATUS_FROM_CLIENT. Source: GetConsumerStatusBody."""
    return fastjson.dumps({"consumerTable": {}, "messageQueueTable": offsets})


def encode_consume_message_directly_result(result: ConsumeMessageDirectlyResult) -> bytes:
    """The answer to CONSUME_MESSAGE_DIRECTLY. Source: ConsumeMessageDirectlyResult."""
    fields: dict[str, object] = {
        "autoCommit": result.auto_commit,
        "consumeResult": result.consume_result.value,
        "order": result.order,
        "spentTimeMills": result.spent_time_mills,
    }
    if result.remark is not None:
        fields["remark"] = result.remark
    return fastjson.dumps(fields)


def parse_consumer_status(body: bytes) -> dict[MessageQueue, int]:
    """Offsets by queue out of the answer to GET_CONSUMER_STATUS_FROM_CLIENT; none out of an empty one.

    Raises:
        ProtocolError: it is malformed.
    """
    if not body:
        return {}
    table = _object(_object(fastjson.loads_request(body), "the answer").get("messageQueueTable"), "messageQueueTable")
    return {_checked(mq, MessageQueue, "a queue"): _checked(offset, int, "an offset") for mq, offset in table.items()}


def parse_reset_offset(body: bytes) -> dict[MessageQueue, int]:
    """Where to go on, by queue, out of RESET_CONSUMER_CLIENT_OFFSET; an empty body says nothing.

    Brokers write a map with queues as keys, or a list when the request came from an operator of the C++ kind.

    Raises:
        ProtocolError: it is malformed, or an offset is negative or has more than 63 bits.

    Source: ResetOffsetBody, ResetOffsetBodyForC.
    """
    if not body:
        return {}
    table = _object(fastjson.loads(body), "the request").get("offsetTable")
    if isinstance(table, list):
        entries = [_object(each, "an offset") for each in table]
        table = {_queue_of(entry): entry.get("offset") for entry in entries}
    offsets = {_checked(mq, MessageQueue, "a queue"): offset for mq, offset in _object(table, "offsetTable").items()}
    for mq, offset in offsets.items():
        if not 0 <= _checked(offset, int, f"the offset of {mq}") < 2**63:
            raise ProtocolError(f"the offset of {mq} is {offset:.100}")
    return offsets


def encode_query_assignment(topic: str, group: str, client_id: str, strategy_name: str, message_model: str) -> bytes:
    """Body of QUERY_ASSIGNMENT. Source: QueryAssignmentRequestBody."""
    return fastjson.dumps(
        {
            "clientId": client_id,
            "consumerGroup": group,
            "messageModel": message_model,
            "strategyName": strategy_name,
            "topic": topic,
        }
    )


class QueryAssignment(NamedTuple):
    """What a member asks its broker for."""

    topic: str
    group: str
    client_id: str
    strategy_name: str
    message_model: str


def parse_query_assignment(body: bytes) -> QueryAssignment:
    """Body of QUERY_ASSIGNMENT.

    Raises:
        ProtocolError: it is malformed.
    """
    fields = _object(fastjson.loads_request(body), "the request")
    names = ("topic", "consumerGroup", "clientId", "strategyName", "messageModel")
    return QueryAssignment(*[_field(fields, name, str) for name in names])


class SetMessageRequestMode(NamedTuple):
    """How a group is to get a topic's messages."""

    topic: str
    group: str
    mode: str
    pop_share_queue_num: int


def encode_message_request_mode(asked: SetMessageRequestMode) -> bytes:
    """Body of SET_MESSAGE_REQUEST_MODE."""
    return fastjson.dumps(
        {
            "topic": asked.topic, "consumerGroup": asked.group, "mode": asked.mode,
            "popShareQueueNum": asked.pop_share_queue_num,
        }
    )  # fmt: skip


def parse_message_request_mode(body: bytes) -> SetMessageRequestMode:
    """Body of SET_MESSAGE_REQUEST_MODE.

    Raises:
        ProtocolError: it is malformed.
    """
    fields = _object(fastjson.loads_request(body), "the request")
    mode = _field(fields, "mode", str)
    if mode not in {"PULL", "POP"}:
        raise ProtocolError(f"the mode is PULL or POP, not {mode:.100}")
    share = _int(fields.get("popShareQueueNum", 0), "popShareQueueNum")
    return SetMessageRequestMode(_field(fields, "topic", str), _field(fields, "consumerGroup", str), mode, share)


def parse_assignment(body: bytes) -> QueueAssignment | None:
    """The reply to QUERY_ASSIGNMENT; None when the broker cannot tell (yet), and nothing is to change.

    Whatever is not to be popped is to be pulled; entries without a queue are skipped, as in Java.

    Raises:
        ProtocolError: it is malformed.
    """
    told = _object(fastjson.loads(body), "the reply").get("messageQueueAssignments")
    if told is None:
        return None
    modes: dict[bool, set[MessageQueue]] = {True: set(), False: set()}
    for each in _checked(told, list, "messageQueueAssignments"):
        assignment = _object(each, "an assignment")
        if assignment.get("messageQueue") is not None:
            modes[assignment.get("mode") == "POP"].add(_queue_of(_object(assignment["messageQueue"], "a queue")))
    if len(modes[True]) + len(modes[False]) > QUEUE_NUMS_MAX:
        raise ProtocolError(f"more than {QUEUE_NUMS_MAX} queues are assigned")
    return QueueAssignment(pull=frozenset(modes[False]), pop=frozenset(modes[True]))


def _queue_of(fields: Mapping[Any, Any]) -> MessageQueue:
    queue_id = _int(fields.get("queueId"), "queueId")
    return MessageQueue(_field(fields, "topic", str), _field(fields, "brokerName", str), queue_id)


def parse_config(body: bytes, known: type) -> dict[str, Any]:
    """The fields that ``known`` has, of their types, out of a configuration of a topic or group.

    Raises:
        ProtocolError: it is malformed.
    """
    return _config(fastjson.loads_request(body), get_type_hints(known))


def parse_config_list(body: bytes, name: str, known: type) -> list[dict[str, Any]]:
    """The same out of a list of configurations.

    Raises:
        ProtocolError: it is malformed.
    """
    types = get_type_hints(known)
    return [_config(each, types) for each in _field(_object(fastjson.loads_request(body), "the request"), name, list)]


def _config(value: object, types: Mapping[str, Any]) -> dict[str, Any]:
    told = _object(value, "a configuration")
    return {name: _config_field(told[name], kind, name) for name, kind in types.items() if told.get(name) is not None}


def _config_field(value: object, kind: Any, name: str) -> object:
    if kind is int:
        return _int(value, name)
    if get_origin(kind) is dict:
        fields = _object(value, name)
        if kind == dict[str, str]:
            return {_checked(key, str, name): _checked(each, str, name) for key, each in fields.items()}
        return {_checked(key, str, name): each for key, each in fields.items()}
    return _checked(value, kind, name)


def parse_topic_route(body: bytes) -> TopicRouteData:
    """The reply to GET_ROUTEINFO_BY_TOPIC; ids of brokers may be quoted or bare.

    Raises:
        ProtocolError: it is malformed.
    """
    route = _object(fastjson.loads(body), "a route")
    queue_datas = tuple(_queue_data(_object(each, "a queueData")) for each in _field(route, "queueDatas", list))
    total = sum(max(data.read_queue_nums, data.write_queue_nums) for data in queue_datas)
    if total > QUEUE_NUMS_MAX:
        raise ProtocolError(f"a route with {total} queues, believed are {QUEUE_NUMS_MAX}")
    return TopicRouteData(
        queue_datas,
        tuple(parse_broker_data(_object(each, "a brokerData")) for each in _field(route, "brokerDatas", list)),
        None if route.get("orderTopicConf") is None else _field(route, "orderTopicConf", str),
        bool(route.get("topicQueueMappingByBroker")),
    )


def _queue_data(fields: Mapping[Any, Any]) -> QueueData:
    return QueueData(
        _field(fields, "brokerName", str),
        _queue_nums(fields, "readQueueNums"),
        _queue_nums(fields, "writeQueueNums"),
        _field(fields, "perm", int),
        _field(fields, "topicSysFlag", int) if "topicSysFlag" in fields else 0,
    )


def _queue_nums(fields: Mapping[Any, Any], name: str) -> int:
    nums = _field(fields, name, int)
    if not 0 <= nums <= QUEUE_NUMS_MAX:
        raise ProtocolError(f"{name} is {nums}, believed are 0 to {QUEUE_NUMS_MAX}")
    return nums


def parse_broker_data(fields: Mapping[Any, Any]) -> BrokerData:
    """A broker within a body. Raises ``ProtocolError``."""
    addresses = _object(fields.get("brokerAddrs"), "brokerAddrs")
    return BrokerData(
        _field(fields, "cluster", str),
        _field(fields, "brokerName", str),
        {_broker_id(key): _checked(address, str, "a broker's address") for key, address in addresses.items()},
    )


def _broker_id(key: object) -> int:
    try:
        if isinstance(key, str | int) and -(2**63) <= int(key) < 2**63:
            return int(key)
    except ValueError:
        pass
    raise ProtocolError(f"{key!r:.100} is no broker id")
