"""JSON bodies of administrators' requests. As in ``bodies``: unknown keys are ignored, types are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.model.admin import (
    ClusterInfo,
    Connection,
    ConsumerConnection,
    ConsumeStats,
    OffsetWrapper,
    SubscriptionGroupConfig,
    TopicConfig,
    TopicOffset,
)
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.running_info import ConsumerRunningInfo, ConsumeStatus, PopProcessQueueInfo, ProcessQueueInfo
from rocketmq_py.remoting.bodies import parse_broker_data, parse_subscription
from rocketmq_py.remoting.json_fields import as_object, checked, field

_GROUP_FIELDS = {
    "groupName": "group_name",
    "consumeEnable": "consume_enable",
    "consumeBroadcastEnable": "consume_broadcast_enable",
    "consumeMessageOrderly": "consume_message_orderly",
    "retryQueueNums": "retry_queue_nums",
    "retryMaxTimes": "retry_max_times",
    "consumeTimeoutMinute": "consume_timeout_minute",
    "notifyConsumerIdsChangedEnable": "notify_consumer_ids_changed_enable",
}
_GROUP_KINDS: dict[str, type] = {
    "groupName": str,
    "retryQueueNums": int,
    "retryMaxTimes": int,
    "consumeTimeoutMinute": int,
}  # else bool


def parse_names(body: bytes, name: str) -> list[str]:
    """``topicList`` or ``groupList``, sorted.

    Raises:
        ProtocolError: it is malformed.
    """
    told = as_object(fastjson.loads(body), "the reply").get(name)
    return sorted(checked(each, str, "a name") for each in checked(told or [], list, name))


def parse_cluster_info(body: bytes) -> ClusterInfo:
    """The reply to GET_BROKER_CLUSTER_INFO. Raises ``ProtocolError``."""
    told = as_object(fastjson.loads(body), "the reply")
    brokers = as_object(told.get("brokerAddrTable") or {}, "brokerAddrTable")
    clusters = as_object(told.get("clusterAddrTable") or {}, "clusterAddrTable")
    return ClusterInfo(
        {name: parse_broker_data(as_object(each, "a broker")) for name, each in brokers.items()},
        {
            name: frozenset(checked(each, str, "a broker's name") for each in checked(members, list, "a cluster"))
            for name, members in clusters.items()
        },
    )


def parse_topic_config(body: bytes) -> TopicConfig:
    """The reply to GET_TOPIC_CONFIG. Raises ``ProtocolError``."""
    told = as_object(fastjson.loads(body), "a topic's configuration")
    attributes = as_object(told.get("attributes") or {}, "attributes")
    return TopicConfig(
        field(told, "topicName", str),
        field(told, "readQueueNums", int),
        field(told, "writeQueueNums", int),
        field(told, "perm", int),
        field(told, "topicFilterType", str),
        field(told, "topicSysFlag", int),
        told.get("order") is True,
        {checked(name, str, "an attribute"): checked(value, str, name) for name, value in attributes.items()},
    )


def parse_subscription_groups(body: bytes) -> dict[str, SubscriptionGroupConfig]:
    """The reply to GET_ALL_SUBSCRIPTIONGROUP_CONFIG, by name. Raises ``ProtocolError``."""
    told = as_object(fastjson.loads(body), "the reply")
    groups = as_object(told.get("subscriptionGroupTable") or {}, "subscriptionGroupTable")
    return {name: _group(as_object(each, "a group's configuration")) for name, each in groups.items()}


def _group(told: Mapping[Any, Any]) -> SubscriptionGroupConfig:
    fields: dict[str, Any] = {
        name: checked(told[key], _GROUP_KINDS.get(key, bool), key)
        for key, name in _GROUP_FIELDS.items()
        if told.get(key) is not None
    }
    if "group_name" not in fields:
        raise ProtocolError("a group's configuration tells no groupName")
    return SubscriptionGroupConfig(
        **fields, others={key: value for key, value in told.items() if key not in _GROUP_FIELDS}
    )


def encode_subscription_group(config: SubscriptionGroupConfig) -> bytes:
    """Body of UPDATE_AND_CREATE_SUBSCRIPTIONGROUP. Attributes that have no sign are set: brokers tell them without."""
    others = dict(config.others)
    if isinstance(attributes := others.get("attributes"), dict):
        others["attributes"] = {
            key if key.startswith(("+", "-")) else f"+{key}": value for key, value in attributes.items()
        }
    return fastjson.dumps({**others, **{key: getattr(config, name) for key, name in _GROUP_FIELDS.items()}})


def parse_topic_stats(body: bytes) -> dict[MessageQueue, TopicOffset]:
    """The reply to GET_TOPIC_STATS_INFO. Raises ``ProtocolError``."""
    return {
        mq: TopicOffset(
            field(each, "minOffset", int), field(each, "maxOffset", int), field(each, "lastUpdateTimestamp", int)
        )
        for mq, each in _by_queue(as_object(fastjson.loads(body), "the reply"), "offsetTable").items()
    }


def parse_consume_stats(body: bytes) -> ConsumeStats:
    """The reply to GET_CONSUME_STATS; brokers before 5.0 tell no ``pullOffset``. Raises ``ProtocolError``."""
    told = as_object(fastjson.loads(body), "the reply")
    return ConsumeStats(
        {
            mq: OffsetWrapper(
                field(each, "brokerOffset", int),
                field(each, "consumerOffset", int),
                checked(each.get("pullOffset", each.get("consumerOffset")), int, "pullOffset"),
                field(each, "lastTimestamp", int),
            )
            for mq, each in _by_queue(told, "offsetTable").items()
        },
        _number(told.get("consumeTps", 0)),
    )


def parse_consumer_connection(body: bytes) -> ConsumerConnection:
    """The reply to GET_CONSUMER_CONNECTION_LIST. Raises ``ProtocolError``."""
    told = as_object(fastjson.loads(body), "the reply")
    connections = [
        as_object(each, "a connection") for each in checked(told.get("connectionSet") or [], list, "members")
    ]
    subscriptions = as_object(told.get("subscriptionTable") or {}, "subscriptionTable")
    return ConsumerConnection(
        tuple(
            sorted(
                (
                    Connection(
                        field(each, "clientId", str),
                        field(each, "clientAddr", str),
                        str(each.get("language")),
                        field(each, "version", int),
                    )
                    for each in connections
                ),
                key=lambda connection: connection.client_id,
            )
        ),
        {topic: field(as_object(each, "a subscription"), "subString", str) for topic, each in subscriptions.items()},
        str(told.get("consumeType")),
        str(told.get("messageModel")),
        str(told.get("consumeFromWhere")),
    )


def parse_running_info(body: bytes) -> ConsumerRunningInfo:
    """The reply to GET_CONSUMER_RUNNING_INFO; clients of other versions and languages leave fields out.

    Raises:
        ProtocolError: it is malformed.
    """
    told = as_object(fastjson.loads(body), "the reply")
    properties = as_object(told.get("properties") or {}, "properties")
    subscriptions = checked(told.get("subscriptionSet") or [], list, "subscriptionSet")
    jstack = told.get("jstack")
    return ConsumerRunningInfo(
        properties={str(name): str(value) for name, value in properties.items()},
        subscriptions=[parse_subscription(as_object(each, "a subscription")) for each in subscriptions],
        mq_table={mq: _window(each) for mq, each in _by_queue(told, "mqTable").items()},
        status_table={
            str(topic): _status(as_object(each, "a status"))
            for topic, each in as_object(told.get("statusTable") or {}, "statusTable").items()
        },
        jstack=None if jstack is None else checked(jstack, str, "jstack"),
        mq_pop_table={
            mq: PopProcessQueueInfo(
                _int(each, "waitAckCount"), each.get("droped") is True, _int(each, "lastPopTimestamp")
            )
            for mq, each in _by_queue(told, "mqPopTable").items()
        },
    )


def _window(told: Mapping[Any, Any]) -> ProcessQueueInfo:
    return ProcessQueueInfo(
        _int(told, "commitOffset"), _int(told, "cachedMsgMinOffset"), _int(told, "cachedMsgMaxOffset"),
        _int(told, "cachedMsgCount"), _int(told, "cachedMsgSizeInMiB"), _int(told, "transactionMsgMinOffset"),
        _int(told, "transactionMsgMaxOffset"), _int(told, "transactionMsgCount"), told.get("locked") is True,
        _int(told, "tryUnlockTimes"), _int(told, "lastLockTimestamp"), told.get("droped") is True,
        _int(told, "lastPullTimestamp"), _int(told, "lastConsumeTimestamp"),
    )  # fmt: skip


def _status(told: Mapping[Any, Any]) -> ConsumeStatus:
    return ConsumeStatus(
        _number(told.get("pullRT", 0)), _number(told.get("pullTPS", 0)), _number(told.get("consumeRT", 0)),
        _number(told.get("consumeOKTPS", 0)), _number(told.get("consumeFailedTPS", 0)), _int(told, "consumeFailedMsgs"),
    )  # fmt: skip


def _int(told: Mapping[Any, Any], name: str) -> int:
    return checked(told.get(name, 0), int, name)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProtocolError(f"a rate is {type(value).__name__}")
    return float(value)


def _by_queue(told: Mapping[Any, Any], name: str) -> dict[MessageQueue, dict[Any, Any]]:
    table = as_object(told.get(name) or {}, name)
    return {checked(mq, MessageQueue, "a queue"): as_object(each, "an entry") for mq, each in table.items()}
