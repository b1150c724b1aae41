"""What the embedded broker asks of its clients: operators' requests, replies; and how it divides queues for members."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocketmq_py.model import fastjson
from rocketmq_py.model.message import format_properties, parse_properties
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig, body_of, messages

MS = 1_000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.create_topic(queues=4)
    yield rig
    rig.close()


@pytest.fixture
def operator(rig: Rig) -> Client:
    return rig.client()


@pytest.fixture
def member(rig: Rig) -> Client:
    member = rig.client()
    member.heartbeat("member")
    return member


def answered(client: Client, opaque: int) -> RemotingCommand:
    answer = client.answer(opaque)
    assert answer is not None
    return answer


# Connections.


@pytest.mark.behaviour("AB-01")
def test_members_and_producers_are_listed_with_language_and_version(rig: Rig, operator: Client, member: Client) -> None:
    member.produce_as("member", "P1", "P2")
    connection = {
        "clientId": "member", "clientAddr": member.remote_address, "language": "PYTHON", "version": 513,
    }  # fmt: skip
    listed = body_of(operator.ask(203, {"consumerGroup": GROUP}))
    assert listed["connectionSet"] == [connection]
    assert list(listed["subscriptionTable"]) == [TOPIC]
    assert (listed["consumeType"], listed["messageModel"], listed["consumeFromWhere"]) == (
        "CONSUME_PASSIVELY", "CLUSTERING", "CONSUME_FROM_LAST_OFFSET",
    )  # fmt: skip
    assert body_of(operator.ask(204, {"producerGroup": "P1"})) == {"connectionSet": [connection]}
    rig.loop.advance(MS)
    every = body_of(operator.ask(328))["data"]
    assert set(every) == {"P1", "P2"}
    assert every["P1"][0]["lastUpdateTimestamp"] == rig.clock.wall_ms() - MS
    member.ask(35, {"clientID": "member", "producerGroup": "P1", "consumerGroup": GROUP})
    assert operator.ask(204, {"producerGroup": "P1"}).code == 1
    assert operator.ask(203, {"consumerGroup": GROUP}).code == 206
    rig.controller.on_close(member)
    assert body_of(operator.ask(328)) == {"data": {}}


@pytest.mark.behaviour("AB-01")
def test_a_producer_that_sends_no_heartbeats_is_hung_up_on(rig: Rig, operator: Client) -> None:
    producer = rig.client()
    producer.produce_as("p", "P1")
    rig.loop.advance(131 * MS)
    assert producer.closed
    assert operator.ask(204, {"producerGroup": "P1"}).code == 1


# Relays.


def running_info(operator: Client, client_id: str = "member") -> int:
    return operator.begin(307, {"consumerGroup": GROUP, "clientId": client_id, "jstackEnable": "true"})


@pytest.mark.behaviour("AB-02")
def test_running_info_is_asked_of_the_member_and_its_answer_handed_on(operator: Client, member: Client) -> None:
    asked = running_info(operator)
    (request,) = member.pushed(307)
    assert not request.is_oneway
    assert request.ext_fields == {"consumerGroup": GROUP, "clientId": "member", "jstackEnable": "true"}
    stranger_answer = RemotingCommand.response(request.opaque, 0)
    operator._rig.controller.on_request(operator, stranger_answer)
    assert operator.answer(asked) is None
    member.respond(request, 1, b"all of it", "a remark")
    answer = answered(operator, asked)
    assert (answer.code, answer.body, answer.remark) == (1, b"all of it", "a remark")
    member.respond(request, 0, b"twice")
    assert answered(operator, asked).body == b"all of it"


@pytest.mark.behaviour("AB-02")
def test_a_member_that_does_not_answer_or_hangs_up_is_told_apart(rig: Rig, operator: Client, member: Client) -> None:
    silent = running_info(operator)
    rig.loop.advance(10 * MS - 1)
    assert operator.answer(silent) is None
    rig.loop.advance(1)
    assert answered(operator, silent).code == 207
    gone = running_info(operator)
    rig.controller.on_close(member)
    assert answered(operator, gone).code == 1
    rig.loop.advance(20 * MS)
    absent = running_info(operator)
    assert "not online" in str(answered(operator, absent).remark)


@pytest.mark.behaviour("AB-02")
def test_a_member_of_an_old_version_is_not_asked(rig: Rig, operator: Client) -> None:
    old = rig.client()
    data = bodies.ConsumerData(GROUP, "CONSUME_FROM_LAST_OFFSET", [])
    heartbeat = RemotingCommand(34, 1, body=bodies.encode_heartbeat("old", [], [data]), version=61)
    rig.controller.on_request(old, heartbeat)
    assert "too low" in str(answered(operator, running_info(operator, "old")).remark)
    assert old.pushed(307) == []


@pytest.mark.behaviour("AB-02")
def test_offsets_in_memory_are_asked_of_all_members_and_who_is_silent_is_left_out(
    rig: Rig, operator: Client, member: Client
) -> None:
    others = [rig.client() for _ in range(3)]
    for number, other in enumerate(others):
        other.heartbeat(f"other-{number}")
    asked = operator.begin(223, {"group": GROUP, "topic": TOPIC, "clientAddr": ""})
    mq = MessageQueue(TOPIC, "broker-a", 1)
    member.respond(member.pushed(221)[0], 0, bodies.encode_consumer_status({mq: 7}))
    others[0].respond(others[0].pushed(221)[0], 0, b"nonsense")
    others[1].respond(others[1].pushed(221)[0], 1, b"", "no such group")
    assert operator.answer(asked) is None
    rig.loop.advance(5 * MS)
    assert fastjson.loads(answered(operator, asked).body)["consumerTable"] == {"member": {mq: 7}}
    alone = operator.begin(223, {"group": GROUP, "topic": TOPIC, "clientAddr": "member"})
    assert [len(other.pushed(221)) for other in others] == [1, 1, 1]
    member.respond(member.pushed(221)[1], 0)
    assert fastjson.loads(answered(operator, alone).body)["consumerTable"] == {"member": {}}
    assert body_of(operator.ask(223, {"group": GROUP, "topic": TOPIC, "clientAddr": "none"}))["consumerTable"] == {}
    assert operator.ask(223, {"group": "none", "topic": TOPIC}).code == 1


@pytest.mark.behaviour("AB-03")
def test_a_message_is_handed_to_the_member_that_is_to_consume_it(operator: Client, member: Client) -> None:
    msg_id = operator.send(b"this one").ext_fields["msgId"]
    fields = {"consumerGroup": GROUP, "clientId": "member", "msgId": msg_id, "topic": TOPIC}
    asked = operator.begin(309, fields)
    (request,) = member.pushed(309)
    assert request.ext_fields == {**fields, "brokerName": "broker-a", "topicSysFlag": "0", "groupSysFlag": "0"}
    assert [msg.body for msg in messages(request)] == [b"this one"]
    member.respond(request, 0, b'{"consumeResult":"CR_SUCCESS"}')
    assert answered(operator, asked).body == b'{"consumeResult":"CR_SUCCESS"}'
    missing = msg_id[:16] + f"{99:016X}"
    assert operator.ask(309, {**fields, "msgId": missing}).code == 1
    assert operator.ask(309, {**fields, "msgId": "no id"}).code == 1


# Replies.


def begin_reply(client: Client, asker: str | None, code: int = 325) -> int:
    properties = {"CORRELATION_ID": "c1", **({} if asker is None else {"REPLY_TO_CLIENT": asker})}
    names = "abcdefghi" if code == 325 else (
        "producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp",
        "flag", "properties",
    )  # fmt: skip
    values = ["repliers", "DefaultCluster_REPLY_TOPIC", "TBW102", 4, 0, 0, 5, 3, format_properties(properties)]
    opaque = client.begin(code, dict(zip(names, values, strict=True)), b"the reply")
    client._rig.loop.run()
    return opaque


@pytest.mark.behaviour("AB-15")
@pytest.mark.parametrize("code", [324, 325])
def test_a_reply_is_pushed_to_whoever_asked_and_then_the_replier_is_answered(rig: Rig, code: int) -> None:
    asker, replier = rig.client(), rig.client()
    asker.produce_as("asker", "P")
    opaque = begin_reply(replier, "asker", code)
    (pushed,) = asker.pushed(326)
    assert not pushed.is_oneway
    assert pushed.body == b"the reply"
    fields = pushed.ext_fields
    assert (fields["topic"], fields["flag"], fields["bornTimestamp"]) == ("DefaultCluster_REPLY_TOPIC", "3", "5")
    assert (fields["bornHost"], fields["storeHost"]) == (replier.remote_address, "127.0.0.1:10911")
    properties = parse_properties(fields["properties"].encode())
    assert properties["CORRELATION_ID"] == "c1"
    assert properties["PUSH_REPLY_TIME"] == fields["storeTimestamp"] == str(rig.clock.wall_ms())
    assert replier.answer(opaque) is None
    asker.respond(pushed)
    answer = answered(replier, opaque)
    assert (answer.code, answer.ext_fields["queueOffset"]) == (0, "0")
    stored = replier.ask(33, {"offset": int(answer.ext_fields["msgId"][16:], 16)})
    assert messages(stored)[0].body == b"the reply"


@pytest.mark.behaviour("AB-15")
def test_a_reply_that_cannot_be_delivered_is_an_error_for_the_replier(rig: Rig) -> None:
    asker, replier = rig.client(), rig.client()
    assert "is null" in str(answered(replier, begin_reply(replier, None)).remark)
    assert "not found" in str(answered(replier, begin_reply(replier, "asker")).remark)
    asker.produce_as("asker", "P")
    refused = begin_reply(replier, "asker")
    asker.respond(asker.pushed(326)[0], 1)
    assert answered(replier, refused).code == 1
    silent = begin_reply(replier, "asker")
    rig.loop.advance(10 * MS)
    assert answered(replier, silent).code == 1


# Assignment.


def assignment(client: Client, client_id: str = "member", **more: object) -> dict[str, object]:
    asked = {
        "topic": TOPIC, "consumerGroup": GROUP, "clientId": client_id, "strategyName": "AVG",
        "messageModel": "CLUSTERING", **more,
    }  # fmt: skip
    return dict(body_of(client.ask(400, body=json.dumps(asked).encode())))


def queues(client: Client, client_id: str = "member", **more: object) -> list[tuple[int, str]]:
    told = assignment(client, client_id, **more)["messageQueueAssignments"]
    assert isinstance(told, list)
    return [(each["messageQueue"]["queueId"], each["mode"]) for each in told]


@pytest.mark.behaviour("AB-16")
def test_queues_are_divided_among_the_members_as_they_would_themselves(rig: Rig, member: Client) -> None:
    rig.client().heartbeat("other")
    assert queues(member) == [(0, "PULL"), (1, "PULL")]
    assert queues(member, "other") == [(2, "PULL"), (3, "PULL")]
    assert queues(member, strategyName="AVG_BY_CIRCLE") == [(0, "PULL"), (2, "PULL")]
    assert queues(member, messageModel="BROADCASTING") == [(number, "PULL") for number in range(4)]
    assert queues(member, "stranger") == []
    for unknown in ({"topic": "none"}, {"consumerGroup": "none"}, {"strategyName": "ODD"}):
        assert assignment(member, **unknown) == {}


def set_mode(client: Client, mode: str = "POP", share: int = 0, **more: object) -> int:
    asked = {"topic": TOPIC, "consumerGroup": GROUP, "mode": mode, "popShareQueueNum": share, **more}
    return client.ask(401, body=json.dumps(asked).encode()).code


@pytest.mark.behaviour("AB-17")
def test_a_group_that_is_to_pop_shares_the_queues(rig: Rig, operator: Client) -> None:
    assert set_mode(operator) == 0
    rig.reopen()
    clients = [rig.client() for _ in range(5)]
    for number, client in enumerate(clients[:4]):
        client.heartbeat(f"m{number}")
    assert queues(operator, "m0") == [(-1, "POP")]
    assert set_mode(operator, share=1) == 0
    assert queues(operator, "m0") == [(0, "POP"), (1, "POP")]
    assert queues(operator, "m3") == [(0, "POP"), (3, "POP")]
    assert queues(operator, "stranger") == []
    clients[4].heartbeat("m4")  # more members than queues
    assert queues(operator, "m4") == [(0, "POP")]
    assert set_mode(operator, share=4) == 0
    assert queues(operator, "m4") == [(-1, "POP")]
    told = body_of(operator.ask(402))["messageRequestModeMap"]
    mode = {"topic": TOPIC, "consumerGroup": GROUP, "mode": "POP", "popShareQueueNum": 4}
    assert told == {TOPIC: {GROUP: mode}}
    assert set_mode(operator, "PULL") == 0
    assert queues(operator, "m4") == []


@pytest.mark.behaviour("AB-17")
@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"topic": f"%RETRY%{GROUP}"}, 16),
        ({"topic": "none"}, 17),
        ({"consumerGroup": "not legal"}, 26),
        ({"mode": "X"}, 1),
    ],
)
def test_a_mode_that_cannot_be_set_is_refused(operator: Client, more: dict[str, object], code: int) -> None:
    assert set_mode(operator, **{"mode": "POP", **more}) == code  # type: ignore[arg-type]
