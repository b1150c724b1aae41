"""What administrators read: bodies as Apache's servers write them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.admin import (
    Connection,
    ConsumerConnection,
    ConsumeStats,
    OffsetWrapper,
    SubscriptionGroupConfig,
    TopicConfig,
    TopicOffset,
    perm_text,
)
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.route import BrokerData
from rocketmq_py.model.running_info import ConsumerRunningInfo, ConsumeStatus, PopProcessQueueInfo, ProcessQueueInfo
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.remoting import admin_bodies, bodies

MQ = MessageQueue("t", "broker-a", 1)
KEY = b'{"brokerName":"broker-a","queueId":1,"topic":"t"}'


def test_clusters_come_with_bare_integers_as_keys() -> None:
    info = admin_bodies.parse_cluster_info(
        b'{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"h:1",1:"h:2"},"brokerName":"broker-a","cluster":"C",'
        b'"enableActingMaster":false}},"clusterAddrTable":{"C":["broker-a"]}}'
    )
    assert info.broker_addr_table == {"broker-a": BrokerData("C", "broker-a", {0: "h:1", 1: "h:2"})}
    assert info.cluster_addr_table == {"C": {"broker-a"}}


def test_a_topic_is_read_with_its_attributes() -> None:
    config = admin_bodies.parse_topic_config(
        b'{"attributes":{"message.type":"FIFO"},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":'
        b'"SINGLE_TAG","topicName":"t","topicSysFlag":0,"writeQueueNums":8}'
    )
    assert config == TopicConfig("t", 4, 8, 6, attributes={"message.type": "FIFO"})


def test_a_group_that_is_written_back_keeps_the_fields_that_nobody_here_knows() -> None:
    body = (
        b'{"dataVersion":{"counter":1},"forbiddenTable":{},"subscriptionGroupTable":{"g":{"attributes":{},"brokerId":0,'
        b'"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,'
        b'"consumeTimeoutMinute":15,"groupName":"g","groupRetryPolicy":{"type":"EXPONENTIAL"},"groupSysFlag":0,'
        b'"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":3,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}}}'
    )
    group = admin_bodies.parse_subscription_groups(body)["g"]
    assert (group.group_name, group.retry_max_times) == ("g", 3)
    assert group.others["groupRetryPolicy"] == {"type": "EXPONENTIAL"}
    again = admin_bodies.parse_subscription_groups(
        b'{"subscriptionGroupTable":{"g":' + admin_bodies.encode_subscription_group(group) + b"}}"
    )
    assert again == {"g": group}


def test_the_attributes_of_a_group_are_written_with_signs_and_told_without() -> None:
    others = {"attributes": {"priority.factor": "5", "-lite.bind.topic": "", "+lite.sub.model": "Shared"}}
    written = json.loads(admin_bodies.encode_subscription_group(SubscriptionGroupConfig("g", others=others)))
    assert written["attributes"] == {"+priority.factor": "5", "-lite.bind.topic": "", "+lite.sub.model": "Shared"}


def test_a_new_group_is_written_with_the_defaults_of_java() -> None:
    written = admin_bodies.encode_subscription_group(SubscriptionGroupConfig("g"))
    assert b'"groupName":"g","consumeEnable":true' in written
    assert b'"retryQueueNums":1,"retryMaxTimes":16,"consumeTimeoutMinute":15' in written


def test_ends_of_queues_are_keyed_by_whole_queues() -> None:
    body = b'{"offsetTable":{' + KEY + b':{"lastUpdateTimestamp":7,"maxOffset":5,"minOffset":2}},"topicPutTps":0.0}'
    assert admin_bodies.parse_topic_stats(body) == {MQ: TopicOffset(2, 5, 7)}


def test_progress_of_an_old_broker_has_no_pull_offset() -> None:
    body = b'{"consumeTps":1.5,"offsetTable":{' + KEY + b':{"brokerOffset":9,"consumerOffset":4,"lastTimestamp":7}}}'
    assert admin_bodies.parse_consume_stats(body) == ConsumeStats({MQ: OffsetWrapper(9, 4, 4, 7)}, 1.5)
    assert OffsetWrapper(9, 4, 4, 7).lag == 5


def test_members_are_sorted() -> None:
    body = (
        b'{"connectionSet":[{"clientAddr":"h:2","clientId":"b","language":"JAVA","version":513},{"clientAddr":"h:1",'
        b'"clientId":"a","language":"PYTHON","version":513}],"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":'
        b'"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{"t":{"subString":"*","topic":"t"}}}'
    )
    assert admin_bodies.parse_consumer_connection(body) == ConsumerConnection(
        (Connection("a", "h:1", "PYTHON", 513), Connection("b", "h:2", "JAVA", 513)),
        {"t": "*"},
        "CONSUME_PASSIVELY",
        "CLUSTERING",
        "CONSUME_FROM_LAST_OFFSET",
    )


def test_what_our_consumer_tells_of_itself_is_read_as_it_was() -> None:
    info = ConsumerRunningInfo(
        {"PROP_CONSUMEORDERLY": "false"},
        [SubscriptionData("t", "*", sub_version=3)],
        {MQ: ProcessQueueInfo(1, 2, 3, 4, 5, 6, 7, 8, True, 9, 10, False, 11, 12)},
        {"t": ConsumeStatus(1.0, 2.0, 3.0, 4.0, 5.0, 6)},
        "a stack",
        {MQ: PopProcessQueueInfo(1, False, 2)},
    )
    assert admin_bodies.parse_running_info(bodies.encode_consumer_running_info(info)) == info


def test_a_client_may_leave_out_nearly_all() -> None:
    info = admin_bodies.parse_running_info(b'{"mqTable":{' + KEY + b':{"commitOffset":5}}}')
    assert info.mq_table[MQ].commit_offset == 5
    assert (info.properties, info.subscriptions, info.status_table, info.jstack) == ({}, [], {}, None)


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (admin_bodies.parse_cluster_info, b'{"clusterAddrTable":{"C":["a",1]}}'),
        (admin_bodies.parse_cluster_info, b"[]"),
        (admin_bodies.parse_topic_config, b'{"topicName":"t"}'),
        (admin_bodies.parse_topic_config, b'{"attributes":{"a":1}}'),
        (
            admin_bodies.parse_subscription_groups,
            b'{"subscriptionGroupTable":{"g":{"retryMaxTimes":"3","groupName":"g"}}}',
        ),
        (admin_bodies.parse_subscription_groups, b'{"subscriptionGroupTable":{"g":{}}}'),
        (admin_bodies.parse_topic_stats, b'{"offsetTable":{"x":{}}}'),
        (admin_bodies.parse_topic_stats, b'{"offsetTable":{' + KEY + b':{"minOffset":1}}}'),
        (admin_bodies.parse_consume_stats, b'{"consumeTps":true}'),
        (admin_bodies.parse_consumer_connection, b'{"connectionSet":[{"clientId":1}]}'),
        (admin_bodies.parse_running_info, b'{"statusTable":{"t":{"pullRT":"1"}}}'),
        (admin_bodies.parse_running_info, b'{"jstack":1}'),
    ],
)
def test_nonsense_is_refused(parse: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(body)


def test_permissions_are_letters() -> None:
    assert [perm_text(perm) for perm in (6, 4, 2, 7, 0)] == ["rw", "r", "w", "rwx", "-"]
