"""JSON bodies of requests and replies.

Keys that are not known are ignored: brokers of other versions send more or fewer. Types are checked: what comes out can
be relied on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.route import BrokerData, QueueData, TopicRouteData
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.remoting import fastjson

QUEUE_NUMS_MAX = 65_536
"""Queues of a topic that are believed: every one of them will be an object here."""

T = TypeVar("T")


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
                    "subscriptionDataSet": [_subscription(each) for each in consumer.subscriptions],
                    "unitMode": consumer.unit_mode,
                }
                for consumer in consumers
            ],
            "heartbeatFingerprint": 0,
            "producerDataSet": [{"groupName": group} for group in producer_groups],
            "withoutSub": False,
        }
    )


def _subscription(subscription: SubscriptionData) -> dict[str, object]:
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
        tuple(_broker_data(_object(each, "a brokerData")) for each in _field(route, "brokerDatas", list)),
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


def _broker_data(fields: Mapping[Any, Any]) -> BrokerData:
    addresses = _object(fields.get("brokerAddrs"), "brokerAddrs")
    return BrokerData(
        _field(fields, "cluster", str),
        _field(fields, "brokerName", str),
        {_broker_id(key): _checked(address, str, "a broker's address") for key, address in addresses.items()},
    )


def _broker_id(key: object) -> int:
    try:
        if isinstance(key, str | int):
            return int(key)
    except ValueError:
        pass
    raise ProtocolError(f"{key!r:.100} is no broker id")


def _object(value: object, what: str) -> dict[Any, Any]:
    return _checked(value, dict, what)


def _field(fields: Mapping[Any, Any], name: str, kind: type[T]) -> T:
    return _checked(fields.get(name), kind, name)


def _checked(value: object, kind: type[T], what: str) -> T:
    if type(value) is not kind:  # not isinstance: True is an int
        raise ProtocolError(f"{what} is {type(value).__name__} where {kind.__name__} should be")
    return value
