"""JSON bodies: unknown keys are ignored, wrong types refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import QueueAssignment
from rocketmq_py.model.route import BrokerData, QueueData, TopicRouteData
from rocketmq_py.remoting.bodies import (
    QUEUE_NUMS_MAX,
    ConsumerData,
    encode_heartbeat,
    parse_assignment,
    parse_consumer_id_list,
    parse_topic_route,
)
from tests.wire.samples import texts

ROUTE: dict[str, Any] = {
    "queueDatas": [{"brokerName": "a", "readQueueNums": 8, "writeQueueNums": 4, "perm": 6, "topicSysFlag": 1}],
    "brokerDatas": [{"cluster": "c", "brokerName": "a", "brokerAddrs": {"0": "h:1", "1": "h:2"}}],
}
PARSED = TopicRouteData((QueueData("a", 8, 4, 6, 1),), (BrokerData("c", "a", {0: "h:1", 1: "h:2"}),))


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    """The route with one value replaced, or left out when it is ``...``."""
    route = copy.deepcopy(ROUTE)
    inner: Any = route
    for step in path[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return fastjson.dumps(route)


def test_a_route_is_read() -> None:
    assert parse_topic_route(fastjson.dumps(ROUTE)) == PARSED


def test_a_route_may_hold_keys_that_nobody_knows() -> None:
    assert parse_topic_route(changed(("brokerDatas", 0, "enableActingMaster"), False)) == PARSED
    assert parse_topic_route(changed(("new",), [{}])) == PARSED
    assert parse_topic_route(changed(("orderTopicConf",), None)) == PARSED
    assert parse_topic_route(changed(("orderTopicConf",), "a:4")).order_topic_conf == "a:4"


def test_a_route_of_an_old_broker_has_no_system_flag() -> None:
    assert parse_topic_route(changed(("queueDatas", 0, "topicSysFlag"), ...)).queue_datas[0].topic_sys_flag == 0


def test_broker_ids_may_be_bare() -> None:
    assert parse_topic_route(changed(("brokerDatas", 0, "brokerAddrs"), {0: "h:1", 1: "h:2"})) == PARSED


def test_broker_ids_that_all_have_the_same_hash_are_refused() -> None:
    ids = {str(number * (2**61 - 1)): "h:1" for number in range(1, 25_000)}
    with pytest.raises(ProtocolError, match="is no broker id"):
        parse_topic_route(changed(("brokerDatas", 0, "brokerAddrs"), ids))


@pytest.mark.parametrize(("mapping", "is_static"), [(..., False), (None, False), ({}, False), ({"a": {}}, True)])
def test_a_static_topic_is_told_from_others(mapping: object, is_static: bool) -> None:
    body = fastjson.dumps({**ROUTE, **({} if mapping is ... else {"topicQueueMappingByBroker": mapping})})
    assert parse_topic_route(body).is_static is is_static


NO_LIST: list[object] = [..., None, {}, "x", [1], [None]]
NO_INTEGER: list[object] = [..., None, "4", 4.0, True, []]
NO_QUEUE_COUNT: list[object] = [-1, 2**31, QUEUE_NUMS_MAX + 1]
NO_TEXT: list[object] = [..., None, 5, []]
NO_ADDRESSES: list[object] = [
    ..., None, [], {"x": "h:1"}, {"": "h:1"}, {"1.5": "h:1"}, {"0": None}, {"0": 5},
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[((name,), value) for name in ROUTE for value in NO_LIST],
        *[
            (("queueDatas", 0, name), value)
            for name in ("readQueueNums", "writeQueueNums", "perm")
            for value in NO_INTEGER
        ],
        *[(("queueDatas", 0, name), value) for name in ("readQueueNums", "writeQueueNums") for value in NO_QUEUE_COUNT],
        (("queueDatas", 0, "topicSysFlag"), "1"),
        *[((part, 0, "brokerName"), value) for part in ROUTE for value in NO_TEXT],
        *[(("brokerDatas", 0, "cluster"), value) for value in NO_TEXT],
        *[(("brokerDatas", 0, "brokerAddrs"), value) for value in NO_ADDRESSES],
        (("orderTopicConf",), 5),
    ],
)
def test_a_route_with_a_wrong_type_is_refused(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(ProtocolError):
        parse_topic_route(changed(path, value))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"5", b"{}", b"[" * 10_000, b"\xff", b"{:"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    for parse in (parse_topic_route, parse_consumer_id_list):
        with pytest.raises(ProtocolError):
            parse(body)


@given(st.lists(texts))
def test_members_come_out_as_they_are(members: list[str]) -> None:
    assert parse_consumer_id_list(fastjson.dumps({"consumerIdList": members, "more": 1})) == members


@pytest.mark.parametrize("value", [None, {}, "x", [1], [None], [["a"]]])
def test_members_of_a_wrong_type_are_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        parse_consumer_id_list(fastjson.dumps({"consumerIdList": value}))


def test_a_heartbeat_of_a_client_that_does_nothing_is_complete() -> None:
    assert fastjson.loads(encode_heartbeat("id", [], [])) == {
        "clientID": "id",
        "consumerDataSet": [],
        "heartbeatFingerprint": 0,
        "producerDataSet": [],
        "withoutSub": False,
    }


def test_a_heartbeat_tells_how_a_consumer_consumes() -> None:
    consumer = ConsumerData("g", "CONSUME_FROM_FIRST_OFFSET", [], True, "CONSUME_POP", "BROADCASTING")
    [told] = fastjson.loads(encode_heartbeat("id", [], [consumer]))["consumerDataSet"]
    assert told == {
        "groupName": "g",
        "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
        "subscriptionDataSet": [],
        "unitMode": True,
        "consumeType": "CONSUME_POP",
        "messageModel": "BROADCASTING",
    }


def assigned(**changes: object) -> dict[str, object]:
    return {"messageQueue": {"topic": "t", "brokerName": "a", "queueId": 1}, "mode": "PULL", **changes}


def test_an_assignment_tells_which_queues_to_pull_and_which_to_pop() -> None:
    all_queues = {"topic": "t", "brokerName": "a", "queueId": -1}
    told = [
        assigned(), assigned(mode=None), assigned(mode="POP", messageQueue=all_queues, attachments={}),
        assigned(mode="POP", messageQueue=all_queues), assigned(messageQueue=None),
    ]  # fmt: skip
    assert parse_assignment(fastjson.dumps({"messageQueueAssignments": told})) == QueueAssignment(
        pull=frozenset({MessageQueue("t", "a", 1)}), pop=frozenset({MessageQueue("t", "a", -1)})
    )
    assert parse_assignment(fastjson.dumps({"messageQueueAssignments": []})) == QueueAssignment()


@pytest.mark.parametrize("body", [{}, {"messageQueueAssignments": None}])
def test_an_assignment_may_be_unknown(body: dict[str, object]) -> None:
    assert parse_assignment(fastjson.dumps(body)) is None


@pytest.mark.parametrize(
    "told",
    [
        {},
        "POP",
        [1],
        [assigned(messageQueue="t")],
        [assigned(messageQueue={"topic": "t", "brokerName": "a"})],
        [assigned(messageQueue={"topic": 1, "brokerName": "a", "queueId": 1})],
        [assigned(messageQueue={"topic": "t", "brokerName": "a", "queueId": True})],
        [assigned(messageQueue={"topic": "t", "brokerName": "a", "queueId": 2**31})],
    ],
    ids=repr,
)
def test_a_malformed_assignment_is_refused(told: object) -> None:
    with pytest.raises(ProtocolError):
        parse_assignment(fastjson.dumps({"messageQueueAssignments": told}))


def test_an_assignment_without_bounds_is_not_believed() -> None:
    queues = [
        assigned(messageQueue={"topic": "t", "brokerName": "a", "queueId": number})
        for number in range(QUEUE_NUMS_MAX + 1)
    ]
    with pytest.raises(ProtocolError, match="65536"):
        parse_assignment(fastjson.dumps({"messageQueueAssignments": queues}))
