"""Members, offsets, locks, topics and routes of the embedded broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocketmq_py.model import fastjson
from rocketmq_py.remoting import bodies
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig, body_of

NOTIFY = 40


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.create_topic(queues=2)
    yield rig
    rig.close()


def members(client: Client, group: str = GROUP) -> list[str]:
    answer = client.ask(38, {"consumerGroup": group})
    return list(body_of(answer)["consumerIdList"]) if answer.code == 0 else []


def offset(client: Client, queue_id: int = 0, **more: object) -> int:
    answer = client.ask(14, {"consumerGroup": GROUP, "topic": TOPIC, "queueId": queue_id, **more})
    assert answer.code in (0, 22)
    return int(answer.ext_fields["offset"]) if answer.code == 0 else -1


def commit(client: Client, value: int, group: str = GROUP, topic: str = TOPIC, queue_id: int = 0) -> int:
    fields = {"consumerGroup": group, "topic": topic, "queueId": queue_id, "commitOffset": value}
    return client.ask(15, fields).code


# Members.


@pytest.mark.behaviour("EB-14")
def test_a_heartbeat_makes_a_member_the_group_and_its_retry_topic(rig: Rig) -> None:
    client = rig.client()
    assert members(client) == []
    answer = client.heartbeat("me")
    assert (answer.code, answer.ext_fields["IS_SUB_CHANGE"]) == (0, "true")
    assert members(client) == ["me"]
    route = body_of(client.ask(105, {"topic": f"%RETRY%{GROUP}"}, to=rig.controller.name_server))
    assert route["queueDatas"][0]["readQueueNums"] == 1


@pytest.mark.behaviour("EB-14")
@pytest.mark.parametrize("unit_mode", [False, True])
def test_the_retry_topic_of_a_group_that_consumes_in_a_unit_is_marked(rig: Rig, unit_mode: bool) -> None:
    client = rig.client()
    data = bodies.ConsumerData(GROUP, "CONSUME_FROM_LAST_OFFSET", [], unit_mode=unit_mode)
    assert client.ask(34, body=bodies.encode_heartbeat("me", [], [data])).code == 0
    route = body_of(client.ask(105, {"topic": f"%RETRY%{GROUP}"}, to=rig.controller.name_server))
    assert route["queueDatas"][0]["topicSysFlag"] == (2 if unit_mode else 0)


@pytest.mark.behaviour("EB-14")
def test_a_group_without_members_is_an_error_not_an_empty_list(rig: Rig) -> None:
    answer = rig.client().ask(38, {"consumerGroup": GROUP})
    assert (answer.code, answer.remark) == (1, f"no consumer for this group, {GROUP}")


@pytest.mark.behaviour("EB-14")
def test_every_member_is_told_of_a_new_one_before_it_is_answered(rig: Rig) -> None:
    first, second = rig.client(), rig.client()
    first.heartbeat("first")
    assert first.written[0].code == NOTIFY
    assert first.written[0].is_oneway
    second.heartbeat("second")
    second.heartbeat("second")
    assert [len(first.pushed(NOTIFY)), len(second.pushed(NOTIFY))] == [2, 1]
    assert first.pushed(NOTIFY)[-1].ext_fields == {"consumerGroup": GROUP}
    assert members(first) == ["first", "second"]


@pytest.mark.behaviour("AB-24")
def test_hashes_of_tags_may_be_texts_as_the_go_client_writes_them(rig: Rig) -> None:
    def heartbeat(code: object) -> dict[str, object]:
        subscription = {"topic": TOPIC, "subString": "T", "tagsSet": ["T"], "codeSet": [code], "subVersion": 1}
        consumer = {"groupName": GROUP, "subscriptionDataSet": [subscription]}
        return {"clientID": "go", "producerDataSet": [], "consumerDataSet": [consumer]}

    client = rig.client()
    assert client.ask(34, body=json.dumps(heartbeat("84")).encode()).code == 0
    table = body_of(client.ask(203, {"consumerGroup": GROUP}))["subscriptionTable"]
    assert table[TOPIC]["codeSet"] == [84]
    for wrong in ("8x", "9999999999", None):
        assert client.ask(34, body=json.dumps(heartbeat(wrong)).encode()).code == 1


@pytest.mark.behaviour("EB-14")
@pytest.mark.parametrize("how", ["says so", "hangs up"])
def test_the_others_are_told_when_a_member_leaves(rig: Rig, how: str) -> None:
    stays, leaves = rig.client(), rig.client()
    stays.heartbeat("stays")
    leaves.heartbeat("leaves")
    before = len(stays.pushed(NOTIFY))
    if how == "says so":
        assert leaves.ask(35, {"clientID": "leaves", "consumerGroup": GROUP}).code == 0
    else:
        rig.controller.on_close(leaves)
    assert len(stays.pushed(NOTIFY)) == before + 1
    assert members(stays) == ["stays"]


@pytest.mark.behaviour("EB-14")
def test_a_topic_that_a_group_adds_or_drops_is_told_and_another_expression_is_not(rig: Rig) -> None:
    client = rig.client()
    client.heartbeat()
    told = len(client.pushed(NOTIFY))
    client.heartbeat(**{TOPIC: "A"})
    assert len(client.pushed(NOTIFY)) == told
    client.heartbeat(**{TOPIC: "A", "other": "*"})
    assert len(client.pushed(NOTIFY)) == told + 1
    client.heartbeat(**{TOPIC: "A"})
    assert len(client.pushed(NOTIFY)) == told + 2


@pytest.mark.behaviour("EB-14")
def test_broadcasting_groups_are_told_nothing(rig: Rig) -> None:
    client = rig.client()
    client.heartbeat(model="BROADCASTING")
    assert client.pushed(NOTIFY) == []


@pytest.mark.behaviour("EB-14")
def test_a_member_without_a_heartbeat_for_two_minutes_is_hung_up_on(rig: Rig) -> None:
    silent, beating = rig.client(), rig.client()
    silent.heartbeat("silent")
    for _ in range(5):
        rig.loop.advance(30_000)
        beating.heartbeat("beating")
    assert (silent.closed, beating.closed) == (True, False)
    assert members(beating) == ["beating"]


@pytest.mark.behaviour("EB-14")
def test_a_heartbeat_that_would_keep_everybody_waiting_is_refused(rig: Rig) -> None:
    client = rig.client()
    assert client.ask(34, body=b" " * (1024 * 1024 + 1)).code == 29
    assert client.heartbeat("x" * 1_025).code == 29
    assert members(client) == []


@pytest.mark.behaviour("EB-14")
@pytest.mark.parametrize("field", ['"tagsSet":5', '"codeSet":true', '"codeSet":[1.5]', '"subVersion":"1"'])
def test_a_subscription_with_a_wrong_type_is_an_error_that_names_it(rig: Rig, field: str) -> None:
    subscription = f'{{"topic":"t","subString":"*","subVersion":1,{field}}}'
    consumer = f'{{"groupName":"g","subscriptionDataSet":[{subscription}]}}'
    answer = rig.client().ask(34, body=f'{{"clientID":"c","consumerDataSet":[{consumer}]}}'.encode())
    assert answer.code == 1
    assert "internal error" not in (answer.remark or "")


@pytest.mark.behaviour("EB-14")
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"clientID":"c","consumerDataSet":[5]}', b'{"clientID":5,"consumerDataSet":[]}']
)
def test_a_heartbeat_that_is_none_is_an_error_of_its_own(rig: Rig, body: bytes) -> None:
    client = rig.client()
    assert client.ask(34, body=body).code == 1
    client.heartbeat("me")
    assert members(client) == ["me"]


# Offsets.


@pytest.mark.behaviour("EB-15")
def test_a_committed_offset_is_told_and_survives_a_restart(rig: Rig) -> None:
    client = rig.client()
    client.heartbeat()
    assert commit(client, 7) == 0
    assert offset(client) == 7
    assert commit(client, 3) == 0
    rig.loop.advance(1_000)
    rig.close()  # as after a crash: nothing is flushed at the end
    rig.open()
    assert offset(rig.client()) == 3


@pytest.mark.behaviour("EB-15")
def test_without_an_offset_a_queue_with_its_first_message_begins_at_0_unless_asked_otherwise(rig: Rig) -> None:
    client = rig.client()
    assert offset(client) == -1
    client.send()
    assert offset(client) == 0
    assert offset(client, setZeroIfNotFound="false") == -1
    assert offset(client, queue_id=1) == -1


@pytest.mark.behaviour("EB-15")
@pytest.mark.parametrize(("group", "topic", "code"), [("nobody", TOPIC, 26), (GROUP, "nowhere", 17)])
def test_a_commit_for_an_unknown_group_or_topic_is_refused(rig: Rig, group: str, topic: str, code: int) -> None:
    client = rig.client()
    client.heartbeat()
    assert commit(client, 1, group, topic) == code
    assert commit(client, -1) == 1
    assert commit(client, 1, queue_id=2) == commit(client, 1, queue_id=-1) == 29


@pytest.mark.behaviour("EB-15")
def test_the_bounds_of_a_queue_and_the_offset_of_a_moment(rig: Rig) -> None:
    client = rig.client()
    stored_ms = []
    for _ in range(4):
        client.send()
        stored_ms.append(rig.clock.wall_ms())
        rig.loop.advance(100)
    where = {"topic": TOPIC, "queueId": 0}

    def at(moment_ms: int, **more: object) -> int:
        return int(client.ask(29, {**where, "timestamp": moment_ms, **more}).ext_fields["offset"])

    assert [client.ask(code, where).ext_fields["offset"] for code in (30, 31)] == ["4", "0"]
    assert client.ask(30, {"topic": "nowhere", "queueId": 0}).ext_fields["offset"] == "0"
    assert [at(0), at(stored_ms[2]), at(stored_ms[2] + 1), at(stored_ms[3] + 1)] == [0, 2, 3, 4]
    assert at(stored_ms[3] + 1, boundaryType="upper") == 3
    assert at(0, boundaryType="upper") == 0


@pytest.mark.behaviour("EB-15")
def test_a_message_that_is_not_there_cannot_be_viewed(rig: Rig) -> None:
    assert rig.client().ask(33, {"offset": 1}).code == 1


# Locks.


def lock_body(client_id: str, *queues: int) -> bytes:
    mqs = [{"topic": TOPIC, "brokerName": "broker-a", "queueId": queue} for queue in queues]
    return json.dumps({"consumerGroup": GROUP, "clientId": client_id, "mqSet": mqs}).encode()


@pytest.mark.behaviour("EB-16")
def test_queues_are_locked_renewed_taken_over_after_60_s_and_given_back(rig: Rig) -> None:
    client = rig.client()

    def lock(client_id: str, *queues: int) -> set[int]:
        told = body_of(client.ask(41, body=lock_body(client_id, *queues)))
        return {mq["queueId"] for mq in told["lockOKMQSet"]}

    assert lock("a", 0, 1) == {0, 1}
    assert lock("b", 0) == set()
    rig.loop.advance(60_000)
    assert lock("a", 1) == {1}
    rig.loop.advance(1)
    assert lock("b", 0, 1) == {0}
    assert client.ask(42, body=lock_body("b", 1)).code == 0
    assert lock("b", 1) == set()
    client.ask(42, body=lock_body("a", 1))
    assert lock("b", 1) == {1}


@pytest.mark.behaviour("EB-16")
@pytest.mark.parametrize("body", [b"", b"{}", b'{"consumerGroup":"g","clientId":"c","mqSet":[{"topic":1}]}'])
def test_a_lock_request_that_is_none_is_refused(rig: Rig, body: bytes) -> None:
    assert rig.client().ask(41, body=body).code == 1


# Topics, groups, routes.


@pytest.mark.behaviour("EB-17")
def test_a_route_names_the_queues_and_this_broker(rig: Rig) -> None:
    answer = rig.client().ask(105, {"topic": TOPIC}, to=rig.controller.name_server)
    route = body_of(answer)
    assert route["queueDatas"] == [
        {"brokerName": "broker-a", "perm": 6, "readQueueNums": 2, "topicSysFlag": 0, "writeQueueNums": 2}
    ]
    (broker,) = route["brokerDatas"]
    assert (broker["cluster"], broker["brokerName"]) == ("DefaultCluster", "broker-a")
    assert broker["brokerAddrs"] == {"0": "127.0.0.1:10911"}


@pytest.mark.behaviour("EB-17")
def test_old_clients_get_the_broker_id_as_a_bare_number(rig: Rig) -> None:
    client = rig.client()
    from rocketmq_py.remoting.frame import RemotingCommand

    for version, fields, expected in (
        (400, {}, b'{0:"127.0.0.1:10911"}'),
        (401, {}, b'{"0":"127.0.0.1:10911"}'),
        (0, {"acceptStandardJsonOnly": "true"}, b'{"0":"127.0.0.1:10911"}'),
    ):
        rig.controller.name_server.on_request(
            client, RemotingCommand(105, 1, 0, None, {"topic": TOPIC, **fields}, version=version)
        )
        assert expected in client.written[-1].body


@pytest.mark.behaviour("EB-17")
def test_a_topic_that_is_not_there_has_no_route_and_the_template_of_new_ones_has(rig: Rig) -> None:
    ask = rig.client().ask
    assert ask(105, {"topic": "nowhere"}, to=rig.controller.name_server).code == 17
    template = body_of(ask(105, {"topic": "TBW102"}, to=rig.controller.name_server))["queueDatas"][0]
    assert (template["perm"], template["writeQueueNums"]) == (7, 8)


@pytest.mark.behaviour("EB-17")
def test_the_cluster_and_the_list_of_topics_are_told(rig: Rig) -> None:
    client = rig.client()
    cluster = fastjson.loads(client.ask(106, to=rig.controller.name_server).body)
    assert cluster["brokerAddrTable"]["broker-a"]["brokerAddrs"] == {0: "127.0.0.1:10911"}
    assert cluster["clusterAddrTable"] == {"DefaultCluster": ["broker-a"]}
    assert TOPIC in body_of(client.ask(206, to=rig.controller.name_server))["topicList"]


@pytest.mark.behaviour("EB-18")
def test_topics_and_groups_survive_a_restart(rig: Rig) -> None:
    client = rig.client()
    rig.create_topic("another", queues=5, perm=4)
    assert client.ask(200, body=b'{"groupName":"configured","retryMaxTimes":3,"retryQueueNums":2}').code == 0
    rig.reopen()
    client = rig.client()
    (queues,) = body_of(client.ask(105, {"topic": "another"}, to=rig.controller.name_server))["queueDatas"]
    assert (queues["readQueueNums"], queues["perm"]) == (5, 4)
    client.heartbeat(group="configured")
    (retry,) = body_of(client.ask(105, {"topic": "%RETRY%configured"}, to=rig.controller.name_server))["queueDatas"]
    assert retry["readQueueNums"] == 2


@pytest.mark.behaviour("EB-18")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"topic": "not.legal"}, 29),
        ({"topic": "SCHEDULE_TOPIC_XXXX"}, 29),
        ({"topic": ""}, 1),
        ({"readQueueNums": 0}, 29),
        ({"writeQueueNums": 1_025}, 29),
        ({"perm": 8}, 29),
        ({"readQueueNums": "x"}, 1),
        ({"topicFilterType": ""}, 1),
        ({"topicFilterType": "single_tag"}, 1),
    ],
)
def test_a_topic_that_makes_no_sense_is_refused(rig: Rig, change: dict[str, object], code: int) -> None:
    fields = {
        "topic": "new", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6, "topicFilterType": "SINGLE_TAG", **change,
    }  # fmt: skip
    assert rig.client().ask(17, fields).code == code


@pytest.mark.behaviour("EB-18")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 1), (b"{}", 29), (b'{"groupName":5}', 1), (b'{"groupName":"not legal!"}', 29),
        (b'{"groupName":"g","retryMaxTimes":"3"}', 1), (b'{"groupName":"g","retryQueueNums":-1}', 29),
    ],
)  # fmt: skip
def test_a_group_that_makes_no_sense_is_refused(rig: Rig, body: bytes, code: int) -> None:
    assert rig.client().ask(200, body=body).code == code


@pytest.mark.behaviour("EB-18")
def test_names_without_number_do_not_fill_the_memory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocketmq_py.broker.topic_config.NAMES_MAX", 10)
    client = rig.client()
    answers = [client.send(topic=f"flood-{number}").code for number in range(20)]
    assert answers[:3] == [0, 0, 0]
    assert answers[-1] == 2
    groups = [client.heartbeat(group=f"flood-{number}").code for number in range(20)]
    assert groups[-1] == 2
    assert client.send().code == 0


# Anything else.


@pytest.mark.behaviour("EB-19")
def test_what_is_not_known_is_refused_by_name_and_harms_nothing(rig: Rig) -> None:
    client = rig.client()
    answer = client.ask(9_999)
    assert (answer.code, answer.remark) == (3, " request type 9999 not supported")
    assert client.ask(105, {"topic": TOPIC}).code == 3  # the broker is no name server
    assert client.send().code == 0


@pytest.mark.behaviour("SQ-06")
def test_an_expression_is_checked_when_a_client_asks(rig: Rig) -> None:
    client = rig.client()
    sql = b'{"clientId":"c","group":"g","subscriptionData":{"topic":"t","subString":"a > 1","expressionType":"SQL92"}}'
    assert client.ask(46, body=sql).code == 0
    assert client.ask(46, body=sql.replace(b"> 1", b">")).code == 23
    assert client.ask(46, body=sql.replace(b"SQL92", b"XPATH")).code == 23
    assert client.ask(46, body=sql.replace(b"SQL92", b"TAG").replace(b"> 1", b">")).code == 0
