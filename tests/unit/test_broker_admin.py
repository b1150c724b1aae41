"""What administrators ask of the embedded broker: topics, groups, offsets, messages, settings."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.broker_stats_manager import SAMPLE_MS, SLICE_COUNT, BrokerStatsManager
from rocketmq_py.broker.store.message_table import delete_messages
from rocketmq_py.model import fastjson
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting.frame import RemotingCommand
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig, body_of, found, messages

MS = 1_000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.create_topic(queues=2)
    yield rig
    rig.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.client()


def table_of(answer: RemotingCommand) -> Any:
    """A body with objects as keys."""
    assert answer.code == 0, answer
    return fastjson.loads(answer.body)


def mq(queue_id: int = 0, topic: str = TOPIC) -> MessageQueue:
    return MessageQueue(topic, "broker-a", queue_id)


def create(client: Client, topic: str, **more: object) -> RemotingCommand:
    fields = {"topic": topic, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG"}
    return client.ask(17, fields | more)


def make_group(client: Client, group: str = GROUP, **more: object) -> RemotingCommand:
    return client.ask(200, body=json.dumps({"groupName": group, **more}).encode())


def commit(client: Client, offset: int, queue_id: int = 0, group: str = GROUP, topic: str = TOPIC) -> RemotingCommand:
    fields = {"consumerGroup": group, "topic": topic, "queueId": queue_id, "commitOffset": offset}
    return client.ask(15, fields)


def committed(client: Client, queue_id: int = 0, group: str = GROUP, topic: str = TOPIC) -> int:
    fields = {"consumerGroup": group, "topic": topic, "queueId": queue_id, "setZeroIfNotFound": "false"}
    answer = client.ask(14, fields)
    return int(answer.ext_fields["offset"]) if answer.code == 0 else -1


# Topics.


@pytest.mark.behaviour("AB-04")
def test_a_topic_is_described_as_it_was_made(rig: Rig, client: Client) -> None:
    assert create(client, "other", readQueueNums=3, order="true", attributes="+message.type=FIFO").code == 0
    config = {
        "topicName": "other", "readQueueNums": 3, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG",
        "topicSysFlag": 0, "order": True, "attributes": {"message.type": "FIFO"},
    }  # fmt: skip
    rig.reopen()
    assert body_of(client.ask(351, {"topic": "other"})) == config
    every = client.ask(21)
    assert body_of(every)["topicConfigTable"]["other"] == config
    assert int(every.ext_fields["totalTopicNum"]) == len(body_of(every)["topicConfigTable"])
    assert client.ask(351, {"topic": "none"}).code == 17


@pytest.mark.behaviour("AB-04")
@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        ("+message.type=FIFO", "", {"message.type": "FIFO"}),
        ("+message.type=FIFO", "+message.type=DELAY", {"message.type": "DELAY"}),
        ("+message.type=FIFO", "-message.type", {}),
        ("+message.type=FIFO,+reserve.time=-1", "-message.type", {"reserve.time": "-1"}),
        ("+queue.type=SimpleCQ", "+queue.type=SimpleCQ", None),
        ("", "-message.type", None),
        ("", "+unheard.of=1", None),
        ("", "+message.type=ODD", None),
        ("", "message.type=FIFO", None),
        ("", "+message.type", None),
        ("", "-message.type=FIFO", None),
        ("", "+message.type=FIFO,-message.type", None),
        ("+queue.type=BatchCQ", None, None),
        ("-message.type", None, None),
    ],
)
def test_attributes_are_added_changed_and_removed_one_by_one(
    client: Client, first: str, second: str | None, result: dict[str, str] | None
) -> None:
    answer = create(client, "other", attributes=first)
    if second is not None:
        assert answer.code == 0
        answer = create(client, "other", attributes=second)
    assert answer.code == (1 if result is None else 0)
    if result is not None:
        assert body_of(client.ask(351, {"topic": "other"}))["attributes"] == result


@pytest.mark.behaviour("AB-04")
def test_topics_are_made_by_the_list_and_none_when_one_is_wrong(client: Client) -> None:
    listed: list[dict[str, object]] = [
        {"topicName": name, "readQueueNums": 1, "writeQueueNums": 2} for name in ("one", "two")
    ]
    listed[0]["attributes"] = {"+message.type": "FIFO"}
    wrong = {"topicConfigList": [{"topicName": "three"}, {"topicName": "not legal"}]}
    assert client.ask(18, body=json.dumps(wrong).encode()).code == 29
    assert client.ask(351, {"topic": "three"}).code == 17
    # The second time the first one is unchanged.
    for topics in (listed[:1], listed):
        assert client.ask(18, body=json.dumps({"topicConfigList": topics}).encode()).code == 0
    assert body_of(client.ask(351, {"topic": "one"}))["attributes"] == {"message.type": "FIFO"}
    assert body_of(client.ask(351, {"topic": "two"}))["writeQueueNums"] == 2
    assert client.ask(18, body=b'{"topicConfigList":[]}').code == 0


@pytest.mark.behaviour("AB-05")
def test_a_deleted_topic_is_gone_with_its_offsets_and_begins_anew(rig: Rig, client: Client) -> None:
    make_group(client)
    client.send(b"old")
    client.heartbeat()
    commit(client, 1)
    create(client, f"%RETRY%{GROUP}_{TOPIC}")
    assert client.ask(215, {"topic": TOPIC}).code == 0
    assert client.ask(216, {"topic": TOPIC}, to=rig.controller.name_server).code == 0
    for topic in (TOPIC, f"%RETRY%{GROUP}_{TOPIC}"):
        assert client.ask(105, {"topic": topic}, to=rig.controller.name_server).code == 17
    assert client.pull().code == 17
    rig.reopen()
    assert client.ask(351, {"topic": TOPIC}).code == 17
    rig.create_topic()
    client.heartbeat()
    assert (committed(client), client.pull().code) == (-1, 19)
    client.send(b"new")
    rig.reopen()
    client.heartbeat()
    assert found(client.pull()) == (0, [b"new"], 1)


@pytest.mark.behaviour("AB-05")
def test_a_topic_deleted_and_made_again_while_a_message_is_being_written_loses_and_mixes_nothing(
    rig: Rig, client: Client
) -> None:
    rig.loop.hold_commits = True
    fields = {"a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": ""}
    client.begin(310, fields, b"being written")
    rig.loop.run()
    client.begin(215, {"topic": TOPIC})
    client.begin(
        17, {"topic": TOPIC, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG"}
    )
    again = client.begin(310, fields, b"again")
    rig.loop.end_commit()
    rig.loop.end_commit()
    answer = client.answer(again)
    assert answer is not None
    assert answer.ext_fields["queueOffset"] == "0"
    rig.loop.hold_commits = False
    rig.reopen()
    client.heartbeat()
    assert found(client.pull()) == (0, [b"again"], 1)


@pytest.mark.behaviour("AB-05")
@pytest.mark.parametrize(("topic", "code"), [("", 29), ("TBW102", 29), ("none", 0)])
def test_deleting_what_is_the_brokers_own_is_refused_and_what_is_not_there_is_gone(
    client: Client, topic: str, code: int
) -> None:
    assert client.ask(215, {"topic": topic}).code == code


@pytest.mark.behaviour("AB-06")
def test_the_state_of_a_topic_tells_bounds_and_the_moment_of_the_last_message(rig: Rig, client: Client) -> None:
    client.send(queue_id=1)
    rig.loop.advance(5 * MS)
    client.send(queue_id=1)
    last_ms = rig.clock.wall_ms()
    rig.loop.advance(60 * MS)
    stats = table_of(client.ask(202, {"topic": TOPIC}))
    assert stats["offsetTable"] == {
        mq(0): {"minOffset": 0, "maxOffset": 0, "lastUpdateTimestamp": 0},
        mq(1): {"minOffset": 0, "maxOffset": 2, "lastUpdateTimestamp": last_ms},
    }
    assert stats["topicPutTps"] == pytest.approx(2 / 60)
    assert client.ask(202, {"topic": "none"}).code == 17


# Groups.


@pytest.mark.behaviour("AB-07")
def test_a_group_is_described_as_it_was_made_with_upstreams_defaults(rig: Rig, client: Client) -> None:
    assert make_group(client, retryMaxTimes=3, attributes={"+priority.factor": "7"}, unheardOf=1).code == 0
    rig.reopen()
    expected = {
        "groupName": GROUP, "consumeEnable": True, "consumeFromMinEnable": True, "consumeBroadcastEnable": True,
        "consumeMessageOrderly": False, "retryQueueNums": 1, "retryMaxTimes": 3,
        "groupRetryPolicy": {"type": "CUSTOMIZED"}, "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1,
        "notifyConsumerIdsChangedEnable": True, "groupSysFlag": 0, "consumeTimeoutMinute": 15,
        "attributes": {"priority.factor": "7"},
    }  # fmt: skip
    assert body_of(client.ask(352, {"group": GROUP})) == expected
    every = client.ask(201)
    assert body_of(every)["subscriptionGroupTable"] == {GROUP: expected}
    assert every.ext_fields["totalGroupNum"] == "1"
    assert body_of(client.ask(352, {"group": "asked-for"}))["retryMaxTimes"] == 16
    assert client.ask(352, {"group": "not legal"}).code == 26


@pytest.mark.behaviour("AB-07")
def test_groups_are_made_by_the_list_and_none_when_one_is_wrong(client: Client) -> None:
    listed = [{"groupName": "one", "retryMaxTimes": 1}, {"groupName": "two"}]
    wrong = json.dumps({"groupConfigList": [*listed, {"groupName": "not legal"}]}).encode()
    assert client.ask(225, body=wrong).code == 29
    assert body_of(client.ask(201))["subscriptionGroupTable"] == {}
    assert client.ask(225, body=json.dumps({"groupConfigList": listed}).encode()).code == 0
    assert list(body_of(client.ask(201))["subscriptionGroupTable"]) == ["one", "two"]


@pytest.mark.behaviour("AB-27")
def test_attributes_of_a_group_are_changed_one_by_one_and_those_that_are_not_named_stay(client: Client) -> None:
    def attributes(**more: str) -> tuple[int, object]:
        answer = make_group(client, attributes=more) if more else make_group(client)
        return answer.code, body_of(client.ask(352, {"group": GROUP}))["attributes"]

    assert attributes(**{"+priority.factor": "0"}) == (0, {"priority.factor": "0"})
    assert attributes(**{"+priority.factor": "100"}) == (0, {"priority.factor": "100"})
    assert attributes() == (0, {"priority.factor": "100"})
    for wrong in ({"+priority.factor": "101"}, {"priority.factor": "1"}, {"+lite.bind.topic": "t"}, {"-unheard": ""}):
        assert attributes(**wrong) == (1, {"priority.factor": "100"})
    assert attributes(**{"-priority.factor": ""}) == (0, {})
    listed = [{"groupName": "one"}, {"groupName": "two", "attributes": {"-priority.factor": ""}}]
    answer = client.ask(225, body=json.dumps({"groupConfigList": listed}).encode())
    assert (answer.code, answer.remark) == (
        1, "only add attribute is supported while creating topic. key: priority.factor"
    )  # fmt: skip
    assert list(body_of(client.ask(201))["subscriptionGroupTable"]) == [GROUP]


@pytest.mark.behaviour("AB-08")
@pytest.mark.parametrize("clean", [True, False])
def test_a_deleted_group_is_gone_and_its_offsets_when_asked_for(rig: Rig, client: Client, clean: bool) -> None:
    make_group(client)
    commit(client, 7)
    assert client.ask(207, {"groupName": GROUP, "cleanOffset": str(clean).lower()}).code == 0
    assert body_of(client.ask(201))["subscriptionGroupTable"] == {}
    assert commit(client, 8).code == 26
    rig.reopen()
    assert committed(client) == (-1 if clean else 7)


# Offsets.


@pytest.mark.behaviour("AB-09")
def test_the_first_moment_of_a_queue_and_the_places_of_its_messages_are_told(rig: Rig, client: Client) -> None:
    began_ms = rig.clock.wall_ms()
    offsets = [int(client.send(b"x" * size, properties={"TAGS": "T"}).ext_fields["msgId"][16:], 16) for size in (1, 2)]
    fields = {"topic": TOPIC, "queueId": 0}
    assert client.ask(32, fields).ext_fields["timestamp"] == str(began_ms)
    assert client.ask(32, {"topic": TOPIC, "queueId": 1}).ext_fields["timestamp"] == "-1"
    client.heartbeat()
    listed = body_of(client.ask(321, {**fields, "index": 0, "count": 9, "consumerGroup": GROUP}))
    assert (listed["minQueueIndex"], listed["maxQueueIndex"]) == (0, 2)
    assert [each["physicOffset"] for each in listed["queueData"]] == offsets
    assert [each["tagsCode"] for each in listed["queueData"]] == [ord("T")] * 2
    first, second = (each["physicSize"] for each in listed["queueData"])
    assert second - first == 1
    assert len(client.ask(33, {"offset": offsets[0]}).body) == first
    assert listed["subscriptionData"]["topic"] == TOPIC
    assert (
        "not online"
        in body_of(client.ask(321, {**fields, "index": 1, "count": 1, "consumerGroup": "no"}))["filterData"]
    )
    assert "not exist" in str(client.ask(321, {**fields, "index": 2, "count": 1}).remark)
    assert client.ask(321, {"topic": TOPIC, "queueId": 1, "index": 0, "count": 1}).code == 1


def prepared(rig: Rig, client: Client) -> list[int]:
    """Four messages in queue 0, 10 s apart, all consumed; when each came."""
    make_group(client)
    moments = []
    for _ in range(4):
        moments.append(rig.clock.wall_ms())
        client.send()
        rig.loop.advance(10 * MS)
    client.heartbeat()
    commit(client, 4)
    return moments


@pytest.mark.behaviour("AB-10")
def test_a_reset_is_committed_told_to_the_next_pull_and_not_undone_by_older_commits(rig: Rig, client: Client) -> None:
    moments = prepared(rig, client)
    answer = client.ask(222, {"group": GROUP, "topic": TOPIC, "timestamp": moments[2], "isForce": "true"})
    assert table_of(answer)["offsetTable"] == {mq(0): 2, mq(1): 0}
    assert (committed(client), committed(client, 1)) == (2, 0)
    late = commit(client, 4)
    assert (late.code, late.remark, committed(client)) == (0, "Offset has been previously reset", 2)
    pull = client.pull(4, sysFlag=3, commitOffset=4)
    assert (pull.code, pull.remark, pull.ext_fields["nextBeginOffset"]) == (21, "OFFSET_RESET", "2")
    assert committed(client) == 2
    assert client.pull(4).code == 19
    assert commit(client, 3).remark is None
    assert committed(client) == 3
    rig.reopen()
    assert committed(client) == 3


@pytest.mark.behaviour("AB-10")
def test_a_reset_is_told_to_a_pull_that_is_held(rig: Rig, client: Client) -> None:
    prepared(rig, client)
    held = client.begin(11, client.pull_fields(4, sysFlag=2, suspendTimeoutMillis=MS))
    client.ask(222, {"group": GROUP, "topic": TOPIC, "queueId": 0, "offset": 1, "timestamp": -1, "isForce": "true"})
    rig.loop.advance(6 * MS)
    answer = client.answer(held)
    assert answer is not None
    assert (answer.code, answer.ext_fields["nextBeginOffset"]) == (21, "1")


@pytest.mark.behaviour("AB-10")
@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"timestamp": -1}, {0: 4, 1: 0}),
        ({"timestamp": 0}, {0: 0, 1: 0}),
        ({"timestamp": 2**62}, {0: 4, 1: 0}),
        ({"timestamp": -1, "queueId": 0, "offset": 4}, {0: 4}),
        ({"timestamp": 0, "queueId": 0, "offset": -1}, {0: 0}),
        ({"timestamp": -1, "queueId": 0, "offset": 5}, 1),
        ({"timestamp": -1, "queueId": 2, "offset": 0}, 29),
        ({"timestamp": -1, "group": "none"}, 26),
        ({"timestamp": -1, "topic": "none"}, 17),
    ],
)
def test_a_reset_may_name_a_moment_the_end_or_an_offset(
    rig: Rig, client: Client, fields: dict[str, object], result: dict[int, int] | int
) -> None:
    prepared(rig, client)
    answer = client.ask(222, {"group": GROUP, "topic": TOPIC, "isForce": "true", **fields})
    if isinstance(result, int):
        assert answer.code == result
        assert committed(client) == 4
    else:
        assert table_of(answer)["offsetTable"] == {mq(queue_id): offset for queue_id, offset in result.items()}


@pytest.mark.behaviour("AB-10")
@pytest.mark.parametrize(("force", "expected"), [("true", 3), ("false", 1)])
def test_members_are_told_of_a_reset_when_the_broker_leaves_it_to_them(
    rig: Rig, client: Client, force: str, expected: int
) -> None:
    moments = prepared(rig, client)
    assert client.ask(25, body=b"useServerSideResetOffset=false\n").code == 0
    asked = {"group": GROUP, "topic": TOPIC, "timestamp": moments[3], "isForce": force}
    assert client.ask(222, asked).code == 1  # queue 1 has no committed offset
    commit(client, 1)
    commit(client, 0, queue_id=1)
    assert table_of(client.ask(222, asked))["offsetTable"] == {mq(0): expected, mq(1): 0}
    (told,) = client.pushed(220)
    assert told.is_oneway
    assert fastjson.loads(told.body)["offsetTable"] == {mq(0): expected, mq(1): 0}
    assert (told.ext_fields["group"], told.ext_fields["topic"]) == (GROUP, TOPIC)
    assert committed(client) == 1  # it commits itself
    rig.controller.on_request(
        client, RemotingCommand(222, 999, 0, None, {k: str(v) for k, v in asked.items()}, b"", "CPP")
    )
    listed = json.loads(client.pushed(220)[-1].body)["offsetTable"]
    assert {"topic": TOPIC, "brokerName": "broker-a", "queueId": 0, "offset": expected} in listed
    client.ask(35, {"clientID": "client", "consumerGroup": GROUP})
    assert client.ask(222, asked).code == 206


@pytest.mark.behaviour("AB-11")
def test_progress_tells_ends_what_is_committed_what_is_under_way_and_since_when(rig: Rig, client: Client) -> None:
    moments = prepared(rig, client)
    commit(client, 2)
    client.pull(2, maxMsgNums=1)
    stats = table_of(client.ask(208, {"consumerGroup": GROUP}))
    nothing = {"brokerOffset": 0, "consumerOffset": 0, "pullOffset": 0, "lastTimestamp": 0}
    wrapper = {"brokerOffset": 4, "consumerOffset": 2, "pullOffset": 3, "lastTimestamp": moments[1]}
    assert stats["offsetTable"] == {mq(0): wrapper, mq(1): nothing}
    rig.loop.advance(60 * MS)
    for listed in ({}, {"topicList": f"{TOPIC};{TOPIC}"}):  # named twice it counts once
        assert table_of(client.ask(208, {"consumerGroup": GROUP, **listed}))["consumeTps"] == pytest.approx(1 / 60)
    every = table_of(client.ask(317, {"isOrder": "false"}))
    assert every["consumeStatsList"][0][GROUP][0]["offsetTable"] == stats["offsetTable"]
    assert (every["totalDiff"], every["totalInflightDiff"]) == (2, 1)
    assert table_of(client.ask(317, {"isOrder": "true"}))["totalDiff"] == 0
    assert table_of(client.ask(43))["offsetTable"] == {f"{TOPIC}@{GROUP}": {0: 2}}


@pytest.mark.behaviour("AB-11")
def test_progress_leaves_out_what_a_group_that_is_online_does_not_want_unless_it_is_listed(
    rig: Rig, client: Client
) -> None:
    prepared(rig, client)
    rig.create_topic("other")
    commit(client, 0, topic="other")

    def topics(**fields: object) -> set[str]:
        stats = table_of(client.ask(208, {"consumerGroup": GROUP, **fields}))
        return {each.topic for each in stats["offsetTable"]}

    assert topics() == {TOPIC}
    assert topics(topic="other") == set()
    assert topics(topicList=f"other;{TOPIC};none") == {"other", TOPIC}
    client.ask(35, {"clientID": "client", "consumerGroup": GROUP})
    assert topics() == {"other", TOPIC}
    assert topics(topic="other") == {"other"}


@pytest.mark.behaviour("AB-11")
def test_the_span_of_time_between_which_a_group_is(rig: Rig, client: Client) -> None:
    moments = prepared(rig, client)
    commit(client, 2)
    spans = {
        each["messageQueue"]["queueId"]: each
        for each in body_of(client.ask(303, {"topic": TOPIC, "group": GROUP}))["consumeTimeSpanSet"]
    }
    assert spans[0] == {
        "messageQueue": {"topic": TOPIC, "brokerName": "broker-a", "queueId": 0},
        "minTimeStamp": moments[0], "maxTimeStamp": moments[3], "consumeTimeStamp": moments[1],
        "delayTime": rig.clock.wall_ms() - moments[2],
    }  # fmt: skip
    assert (spans[1]["minTimeStamp"], spans[1]["consumeTimeStamp"], spans[1]["delayTime"]) == (-1, -1, 0)
    assert client.ask(303, {"topic": "none", "group": GROUP}).code == 17


@pytest.mark.behaviour("AB-12")
def test_who_consumes_what_is_known_from_offsets_and_from_members(rig: Rig, client: Client) -> None:
    prepared(rig, client)
    client.heartbeat("member", "newcomers")
    assert body_of(client.ask(300, {"topic": TOPIC})) == {"groupList": [GROUP, "newcomers"]}
    assert body_of(client.ask(343, {"group": GROUP})) == {"brokerAddr": "127.0.0.1:10911", "topicList": [TOPIC]}
    told = body_of(client.ask(345, {"group": "newcomers", "topic": TOPIC}))
    assert (told["group"], told["topic"], told["subscriptionData"]["subString"]) == ("newcomers", TOPIC, "*")
    assert "subscriptionData" not in body_of(client.ask(345, {"group": GROUP, "topic": "other"}))


@pytest.mark.behaviour("AB-13")
@pytest.mark.parametrize("topic", ["", TOPIC])
def test_a_group_goes_on_where_another_one_is(rig: Rig, client: Client, topic: str) -> None:
    prepared(rig, client)
    assert client.ask(314, {"srcGroup": GROUP, "destGroup": "copy", "topic": topic, "offline": "false"}).code == 0
    rig.reopen()
    assert (committed(client, group="copy"), committed(client, 1, group="copy")) == (4, -1)


# Messages.


def query(client: Client, key: str, topic: str = TOPIC, *, begin: int = 0, end: int = 2**62, **more: object) -> Any:
    fields = {"topic": topic, "key": key, "maxNum": 64, "beginTimestamp": begin, "endTimestamp": end, **more}
    answer = client.ask(12, fields)
    if answer.code == 22:
        return []
    assert answer.code == 0
    return [msg.body.decode() for msg in messages(answer)]


@pytest.mark.behaviour("AB-14")
def test_messages_are_found_by_every_key_and_by_their_producers_id_the_oldest_first(rig: Rig, client: Client) -> None:
    rig.create_topic("other")
    moments = []
    for number in range(3):
        moments.append(rig.clock.wall_ms())
        keys = f"k{number}  both both"
        client.send(f"{number}".encode(), properties={"UNIQ_KEY": f"ID{number}", "KEYS": keys})
        rig.loop.advance(MS)
    client.send(b"elsewhere", "other", properties={"UNIQ_KEY": "ID9", "KEYS": "both"})
    rig.reopen()
    assert query(client, "k1") == ["1"]
    assert query(client, "ID2", _UNIQUE_KEY_QUERY="true") == ["2"]
    assert query(client, "both") == ["0", "1", "2"]
    assert query(client, "both", maxNum=2) == ["1", "2"]
    assert query(client, "both", maxNum=0) == []
    assert query(client, "both", begin=moments[1], end=moments[1]) == ["1"]
    assert query(client, "both", "other") == ["elsewhere"]
    assert query(client, "none") == []
    assert query(client, "k1", indexType="K") == ["1"]
    assert query(client, "k1", indexType="T") == []
    answer = client.ask(12, {"topic": TOPIC, "key": "k0", "maxNum": 1, "beginTimestamp": 0, "endTimestamp": 2**62})
    assert int(answer.ext_fields["indexLastUpdatePhyoffset"]) == rig.store.last_id
    assert int(answer.ext_fields["indexLastUpdateTimestamp"]) >= moments[-1]


@pytest.mark.behaviour("AB-14")
def test_of_many_messages_with_a_key_the_newest_are_found_over_all_buckets(rig: Rig, client: Client) -> None:
    for start in range(0, 5_000, 1_000):
        parts = b"".join(_part(f"{start + number}".encode()) for number in range(1_000))
        assert client.ask(320, {
            "a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "m": "true",
        }, parts).code == 0  # fmt: skip
    assert query(client, "all", maxNum=100) == [str(number) for number in range(5_000 - 64, 5_000)]
    assert len(query(client, "all", _UNIQUE_KEY_QUERY="true")) == 32


def _part(body: bytes) -> bytes:
    properties = b"KEYS\x01all\x02"
    head = (0).to_bytes(12, "big") + len(body).to_bytes(4, "big")
    part = head + body + len(properties).to_bytes(2, "big") + properties
    return (len(part) + 4).to_bytes(4, "big") + part


@pytest.mark.behaviour("AB-14")
@pytest.mark.parametrize(("deleted", "left"), [(2, 6), (3, 0)])
def test_keys_go_with_the_last_message_of_their_bucket(rig: Rig, client: Client, deleted: int, left: int) -> None:
    for number in range(3):
        client.send(properties={"UNIQ_KEY": f"ID{number}", "KEYS": "all"})
    heads = rig.store.messages.heads(0, deleted)
    rig.controller.commit_log.write(delete_messages(heads), lambda error: None)
    rig.loop.run()
    assert len(query(client, "all")) == 3 - deleted
    rig.close()
    with closing(sqlite3.connect(rig.directory / "store.db")) as store:
        assert store.execute("SELECT count(*) FROM message_key").fetchall() == [(left,)]


@pytest.mark.behaviour("AB-14")
def test_a_query_finds_no_more_than_one_answer_can_hold(rig: Rig, client: Client) -> None:
    for _ in range(4):
        client.send(bytes(4 * 1024 * 1024), properties={"KEYS": "large"})
    fields = {"topic": TOPIC, "key": "large", "maxNum": 64, "beginTimestamp": 0, "endTimestamp": 2**62}
    assert len(messages(client.ask(12, fields))) == 1
    assert len(client.ask(12, fields).body) > 4 * 1024 * 1024


@pytest.mark.behaviour("AB-26")
def test_a_static_topic_is_refused_before_anything_is_made(rig: Rig, client: Client) -> None:
    fields = {"topic": "static", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6, "topicFilterType": "SINGLE_TAG"}
    mapping = {"topic": "static", "bname": "broker-a", "totalQueues": 4, "epoch": 1, "hostedQueues": {}}
    answer = client.ask(513, {**fields, "force": "true"}, json.dumps(mapping).encode())
    assert (answer.code, answer.remark) == (3, " request type 513 not supported")
    assert client.ask(351, {"topic": "static", "lo": "true"}).code == 17


@pytest.mark.behaviour("AB-26")
@pytest.mark.parametrize("marks", [{"lo": "true"}, {"lo": "false", "bname": "broker-a"}, {"bname": "another"}])
def test_what_static_topics_add_to_requests_changes_nothing_for_others(
    rig: Rig, client: Client, marks: dict[str, str]
) -> None:
    prepared(rig, client)
    of_queue = {"topic": TOPIC, "queueId": 0}
    assert commit(client, 2).code == 0
    committed = {**of_queue, "consumerGroup": GROUP}
    for code, asked in (
        (30, of_queue), (31, of_queue), (29, {**of_queue, "timestamp": 0}), (32, of_queue), (14, committed),
        (351, {"topic": TOPIC}), (11, client.pull_fields()),
    ):  # fmt: skip
        plain, marked = client.ask(code, asked), client.ask(code, {**asked, **marks})
        assert plain.code == 0
        assert (marked.code, marked.ext_fields, marked.body) == (plain.code, plain.ext_fields, plain.body)


# The broker itself.


@pytest.mark.behaviour("AB-18")
def test_the_broker_tells_how_much_came_and_went_and_how_it_is(rig: Rig, client: Client) -> None:
    prepared(rig, client)
    client.pull(0)
    client.send(properties={"DELAY": "2"})
    rig.loop.advance(2 * MS)
    info = body_of(client.ask(28))["table"]
    assert (info["msgPutTotalTodayNow"], info["msgGetTotalTodayNow"]) == ("5", "4")
    assert [float(each) for each in info["getTransferredTps"].split()] == pytest.approx([0.4, 4 / 43, 4 / 43], rel=0.1)
    assert info["brokerVersionDesc"] == "V5_5_0"
    assert info["earliestMessageTimeStamp"] == str(rig.clock.wall_ms() - 42 * MS)
    assert 0 < float(info["commitLogDiskRatio"]) < 1
    assert info["scheduleMessageOffset_2"] == "0,1"
    assert info["runtime"] == "[ 0 days, 0 hours, 0 minutes, 42 seconds ]"
    assert all(isinstance(value, str) for value in info.values())
    rig.loop.advance(4 * MS)
    assert table_of(client.ask(45))["offsetTable"][2] == 1
    for name in ("msgPutTotalTodayMorning", "msgPutTotalYesterdayMorning"):
        rig.clock.shift_wall(24 * 3_600 * MS)
        rig.loop.advance(MS)
        assert body_of(client.ask(28))["table"][name] == "6"


@pytest.mark.behaviour("AB-18")
def test_what_came_to_a_topic_and_went_to_a_group_is_told_by_minute_hour_and_day(rig: Rig, client: Client) -> None:
    prepared(rig, client)
    client.pull(0)
    rig.loop.advance(10 * MS)
    for name, key in (("TOPIC_PUT_NUMS", TOPIC), ("GROUP_GET_NUMS", f"{TOPIC}@{GROUP}")):
        told = body_of(client.ask(315, {"statsName": name, "statsKey": key}))
        assert {span: each["sum"] for span, each in told.items()} == {"statsDay": 0, "statsHour": 0, "statsMinute": 4}
    rig.loop.advance(3_600 * MS)
    told = body_of(client.ask(315, {"statsName": "TOPIC_PUT_NUMS", "statsKey": TOPIC}))
    assert told["statsDay"] == {"avgpt": 1.0, "sum": 4, "tps": pytest.approx(4 / 3_600)}
    assert told["statsHour"]["sum"] == 4
    assert told["statsMinute"] == {"avgpt": 0.0, "sum": 0, "tps": 0.0}
    answer = client.ask(315, {"statsName": "TOPIC_PUT_SIZE", "statsKey": TOPIC})
    assert (answer.code, answer.remark) == (1, f"The stats <TOPIC_PUT_SIZE> <{TOPIC}> not exist")


@pytest.mark.behaviour("AB-18")
def test_many_counters_are_sampled_slice_by_slice_each_as_it_is_at_its_moment(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = BrokerStatsManager(rig.loop, rig.clock)
    stats.start()
    count = 2 * SLICE_COUNT + 1
    last = str(count - 1)
    for number in range(count):
        stats.inc_topic_put_nums(str(number), 1)
    sampled, call_soon = [], rig.loop.call_soon

    def between(job: Callable[[], None]) -> None:
        sampled.append(sum(stats.tps_topic_put_nums(str(number)) > 0 for number in range(count)))
        rig.clock.advance(500)
        stats.inc_topic_put_nums(last, 1)
        call_soon(job)

    with monkeypatch.context() as patch:
        patch.setattr(rig.loop, "call_soon", between)
        rig.loop.advance(SAMPLE_MS + 2 * MS)
    assert sampled == [SLICE_COUNT, 2 * SLICE_COUNT]
    assert stats.tps_topic_put_nums("0") == pytest.approx(0.1)
    told = stats.stats_data("TOPIC_PUT_NUMS", last)
    assert told is not None
    assert told["statsMinute"] == {"avgpt": 1.0, "sum": 3, "tps": pytest.approx(0.3)}
    rig.loop.advance(60 * SAMPLE_MS)
    told = stats.stats_data("TOPIC_PUT_NUMS", last)
    assert told is not None
    assert told["statsHour"] == {"avgpt": 1.0, "sum": 3, "tps": pytest.approx(3 / 600, rel=0.01)}


@pytest.mark.behaviour("AB-11")
def test_the_lowest_offset_of_all_groups_is_told_and_whether_one_is_behind_it(rig: Rig, client: Client) -> None:
    prepared(rig, client)
    for group, offset in (("one", 3), ("two", 2), ("three", 1)):
        make_group(client, group)
        assert commit(client, offset, group=group).code == 0

    def told(compare: str, without: str) -> dict[int, int]:
        fields = {"topic": TOPIC, "compareGroup": compare, "filterGroups": without}
        found: dict[int, int] = table_of(client.ask(308, fields))["correctionOffsets"]
        return found

    assert told("one", "") == {0: 1}
    assert told("three", "three") == {0: 2**63 - 1}
    assert told("nobody", "three,two") == {0: 3}
    assert told("nobody", "") == {0: 1}  # nobody's offset was forgotten


@pytest.mark.behaviour("AB-25")
@pytest.mark.parametrize("code", [306, 316])
def test_what_is_to_be_cleaned_by_hand_upstream_is_clean_here(rig: Rig, client: Client, code: int) -> None:
    assert client.ask(code).code == 0


@pytest.mark.behaviour("AB-19")
def test_settings_are_told_and_those_that_can_be_changed_are(rig: Rig, client: Client) -> None:
    def settings() -> dict[str, str]:
        return dict(line.split("=") for line in client.ask(26).body.decode().splitlines())

    before = settings()
    assert (before["brokerName"], before["listenPort"], before["brokerIP1"]) == ("broker-a", "10911", "127.0.0.1")
    assert (before["messageDelayLevel"], before["useServerSideResetOffset"]) == ("1s 5s 10s 30s", "true")
    assert client.ask(25, body=b"useServerSideResetOffset=false\nbrokerName=b").code == 29
    assert client.ask(25, body=b"useServerSideResetOffset=perhaps").code == 29
    assert settings() == before
    assert client.ask(25, body=b"# a comment\nuseServerSideResetOffset = false\n").code == 0
    assert settings() == before | {"useServerSideResetOffset": "false"}
    assert b"orderMessageEnable=false" in client.ask(319, to=rig.controller.name_server).body


@pytest.mark.behaviour("AB-20")
def test_the_name_server_lists_topics_by_cluster_and_names_the_system(rig: Rig, client: Client) -> None:
    server = rig.controller.name_server
    topics = body_of(client.ask(206, to=server))["topicList"]
    assert {TOPIC, "TBW102", "SCHEDULE_TOPIC_XXXX", "DefaultCluster_REPLY_TOPIC"} <= set(topics)
    assert body_of(client.ask(224, {"cluster": "DefaultCluster"}, to=server))["topicList"] == topics
    assert body_of(client.ask(224, {"cluster": "other"}, to=server))["topicList"] == []
    system = body_of(client.ask(304, to=server))
    assert system == {"brokerAddr": "127.0.0.1:10911", "topicList": ["DefaultCluster", "broker-a"]}
    assert "TBW102" in body_of(client.ask(305))["topicList"]


@pytest.mark.behaviour("AB-21")
def test_texts_are_kept_for_clients_by_namespace_and_key(rig: Rig, client: Client) -> None:
    place = {"namespace": "ns", "key": 'k"1'}
    assert client.ask(101, place, to=rig.controller.name_server).code == 22
    assert client.ask(100, {**place, "value": "one"}, to=rig.controller.name_server).code == 0
    assert client.ask(100, {"namespace": "ns", "key": "k2", "value": ""}, to=rig.controller.name_server).code == 0
    assert client.ask(100, {**place, "value": "x" * 70_000}, to=rig.controller.name_server).code == 29
    rig.reopen()
    server = rig.controller.name_server
    assert client.ask(101, place, to=server).ext_fields == {"value": "one"}
    assert body_of(client.ask(219, {"namespace": "ns"}, to=server)) == {"table": {'k"1': "one", "k2": ""}}
    assert client.ask(102, place, to=server).code == 0
    rig.reopen()
    assert client.ask(101, place, to=rig.controller.name_server).code == 22
    assert client.ask(219, {"namespace": "other"}, to=rig.controller.name_server).code == 22
