"""What the embedded broker does with messages that are sent, sent back and delayed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocketmq_py.errors import StoreError
from rocketmq_py.model.message import MessageExt, format_properties
from rocketmq_py.remoting.message_codec import decode_message_id, decode_stored, encode_batch
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig, messages

RETRY, DLQ = f"%RETRY%{GROUP}", f"%DLQ%{GROUP}"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.create_topic(queues=2)
    yield rig
    rig.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    client = rig.client()
    client.heartbeat(**{TOPIC: "*", RETRY: "*"})
    return client


def stored(client: Client, topic: str = TOPIC, queue_id: int = 0) -> list[MessageExt]:
    answer = client.pull(0, topic, queue_id, sysFlag=4, subscription="*")
    return messages(answer) if answer.code == 0 else []


# Sends.


@pytest.mark.behaviour("EB-07")
def test_a_send_is_answered_with_the_place_of_the_message(rig: Rig, client: Client) -> None:
    for number in range(3):
        answer = client.send(b"%d" % number, queue_id=1)
        assert answer.code == 0
        assert {name: answer.ext_fields[name] for name in ("queueId", "queueOffset", "transactionId")} == {
            "queueId": "1", "queueOffset": str(number), "transactionId": "id",
        }  # fmt: skip
        host, port, physical_offset = decode_message_id(answer.ext_fields["msgId"])
        assert (host, port) == ("127.0.0.1", 10_911)
        by_id = client.ask(33, {"offset": physical_offset})
        assert [msg.body for msg in messages(by_id)] == [b"%d" % number]


@pytest.mark.behaviour("EB-07")
def test_everything_that_was_sent_comes_out(rig: Rig, client: Client) -> None:
    client.send(
        b"body", f=0x301, g=1_234, h=7, properties={"TAGS": "T", "KEYS": "k1 k2", "own": "grün", "UNIQ_KEY": "u"}
    )
    got = decode_stored(client.pull(0, sysFlag=4, subscription="*").body)
    assert got.head.sys_flag == 0x301  # whether a body is compressed is told, not checked
    assert (got.topic, got.body, got.head.flag, got.head.born_timestamp) == (TOPIC, b"body", 7, 1_234)
    assert got.head.store_timestamp == rig.clock.wall_ms()
    expected = {"TAGS": "T", "KEYS": "k1 k2", "own": "grün", "UNIQ_KEY": "u"}
    assert {name: got.properties[name] for name in expected} == expected


@pytest.mark.behaviour("EB-07")
def test_a_message_without_an_id_gets_one(client: Client) -> None:
    client.send(properties={})
    (got,) = stored(client)
    assert len(got.msg_id) == 32


@pytest.mark.behaviour("EB-23")
@pytest.mark.parametrize(
    ("priority", "queue_id"),
    [
        ("0", "0"),
        ("1", "1"),
        ("99", "1"),
        ("2147483647", "1"),
        ("2147483648", "0"),
        ("x", "0"),
        ("²", "0"),
        ("-1", "0"),
    ],
)
def test_a_priority_is_the_number_of_the_queue_whichever_its_sender_chose(
    rig: Rig, client: Client, priority: str, queue_id: str
) -> None:
    answer = client.send(queue_id=0, properties={"_SYS_MSG_PRIORITY_": priority})
    assert answer.ext_fields["queueId"] == queue_id
    (got,) = stored(client, queue_id=int(queue_id))
    assert got.get_property("_SYS_MSG_PRIORITY_") == priority


@pytest.mark.behaviour("EB-23")
def test_the_priority_of_a_message_of_another_kind_is_forgotten(rig: Rig, client: Client) -> None:
    client.send(properties={"_SYS_MSG_PRIORITY_": "1", "__SHARDINGKEY": "group"})
    (got,) = stored(client)
    assert got.get_property("_SYS_MSG_PRIORITY_") is None


@pytest.mark.behaviour("EB-07")
def test_the_old_header_with_long_names_is_understood(client: Client) -> None:
    fields = {
        "producerGroup": "p", "topic": TOPIC, "defaultTopic": "TBW102", "defaultTopicQueueNums": 4, "queueId": 0,
        "sysFlag": 0, "bornTimestamp": 1, "flag": 0, "properties": format_properties({"KEYS": "k"}),
    }  # fmt: skip
    assert client.ask(10, fields, b"old").code == 0
    assert [(got.body, got.keys) for got in stored(client)] == [(b"old", "k")]


@pytest.mark.behaviour("EB-07")
def test_a_negative_queue_lets_the_broker_choose(client: Client) -> None:
    assert client.send(queue_id=-1).ext_fields["queueId"] in {"0", "1"}


@pytest.mark.behaviour("EB-08")
def test_the_mark_in_the_header_makes_a_batch_whatever_the_code(client: Client) -> None:
    body = encode_batch([(b"one", 0, {"KEYS": "k"}), (b"two", 0, {})])
    for code, name in ((310, "m"), (10, "batch")):
        fields = {"b": TOPIC, "topic": TOPIC, "e": 0, "queueId": 0, name: "true"}
        assert client.ask(code, fields, body).code == 0
    assert [msg.body for msg in stored(client)] == [b"one", b"two"] * 2
    assert client.send(b"no batch", m="true").code == 13


@pytest.mark.behaviour("EB-08")
def test_the_parts_of_a_batch_keep_their_properties_and_get_none(client: Client) -> None:
    fields = {"b": TOPIC, "e": 0, "i": format_properties({"UNIQ_KEY": "b1,b2"}), "j": 3}
    answer = client.ask(320, fields, encode_batch([(b"one", 0, {"KEYS": "k", "UNIQ_KEY": "b1"}), (b"two", 0, {})]))
    assert answer.ext_fields["transactionId"] == "b1,b2"
    first, second = stored(client)
    assert dict(first.properties) == {"KEYS": "k", "UNIQ_KEY": "b1"}
    assert dict(second.properties) == {}
    assert first.reconsume_times == 3


@pytest.mark.behaviour("EB-08")
def test_a_batch_lies_in_one_queue_in_its_order_and_each_part_has_an_id(client: Client) -> None:
    parts = [(b"%d" % number, number, {"UNIQ_KEY": f"u{number}", "KEYS": f"k{number}"}) for number in range(3)]
    fields = {"a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": 1, "f": 0, "g": 1, "h": 0, "i": "", "m": "true"}
    client.send(b"before", queue_id=1)
    answer = client.ask(320, fields, encode_batch(parts))
    assert (answer.code, answer.ext_fields["queueOffset"], answer.ext_fields["queueId"]) == (0, "1", "1")
    assert len(set(answer.ext_fields["msgId"].split(","))) == 3
    got = stored(client, queue_id=1)[1:]
    assert [(msg.body, msg.queue_offset, msg.keys, msg.flag) for msg in got] == [
        (b"0", 1, "k0", 0), (b"1", 2, "k1", 1), (b"2", 3, "k2", 2),
    ]  # fmt: skip
    assert [msg.offset_msg_id for msg in got] == answer.ext_fields["msgId"].split(",")


@pytest.mark.behaviour("EB-09")
def test_the_first_send_creates_a_topic_with_as_many_queues_as_asked_at_most_8(rig: Rig, client: Client) -> None:
    for topic, wanted, queues in (("new-1", 4, 4), ("new-2", 100, 8), ("new-3", -5, 1)):
        assert client.send(topic=topic, d=wanted).code == 0
        route = client.ask(105, {"topic": topic}, to=rig.controller.name_server)
        assert f'"writeQueueNums":{queues}'.encode() in route.body


@pytest.mark.behaviour("EB-09")
@pytest.mark.parametrize(("unit_mode", "marks"), [("true", [1, 2, 2]), ("false", [0, 0, 0])])
def test_topics_that_a_send_from_a_unit_makes_are_marked(
    rig: Rig, client: Client, unit_mode: str, marks: list[int]
) -> None:
    client.send(b"x")
    (msg,) = stored(client)
    assert client.send(topic="new", k=unit_mode).code == 0
    assert client.send(topic="%RETRY%other", k=unit_mode).code == 0
    assert send_back(client, msg, group="third", unitMode=unit_mode) == 0

    def mark(topic: str) -> object:
        route = json.loads(client.ask(105, {"topic": topic}, to=rig.controller.name_server).body)
        return route["queueDatas"][0]["topicSysFlag"]

    assert [mark("new"), mark("%RETRY%other"), mark("%RETRY%third")] == marks


@pytest.mark.behaviour("EB-09")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"topic": "not.legal"}, 29),
        ({"topic": "%DLQ%" + "x" * 300}, 29),
        ({"queue_id": "1_0"}, 1),
        ({"topic": "SCHEDULE_TOPIC_XXXX"}, 29),
        ({"topic": "TBW102"}, 29),
        ({"topic": ""}, 1),
        ({"queue_id": 2}, 29),
        ({"queue_id": 2**31}, 1),
        ({"topic": "new", "c": "topic"}, 17),
        ({"body": b""}, 13),
        ({"body": b"x" * (4 * 1024 * 1024 + 1)}, 13),
        ({"f": 4}, 13),
        ({"properties": {"TIMER_DELAY_SEC": "soon"}}, 13),
        ({"properties": {"long": "x" * 32_768}}, 13),
        ({"h": "x"}, 1),
        ({"topic": "%RETRY%not legal"}, 29),
    ],
)
def test_a_message_that_cannot_be_taken_is_refused_by_its_code(
    client: Client, change: dict[str, object], code: int
) -> None:
    answer = client.send(**change)  # type: ignore[arg-type]
    assert answer.code == code
    assert stored(client) == []


@pytest.mark.behaviour("EB-09")
@pytest.mark.parametrize("body", [b"", b"\0" * 10, b"noise" * 50], ids=["empty", "cut short", "noise"])
def test_a_batch_that_cannot_be_read_is_refused(client: Client, body: bytes) -> None:
    assert client.ask(320, {"b": TOPIC, "e": 0}, body).code == 13


@pytest.mark.behaviour("EB-09")
def test_a_batch_of_very_many_is_refused(client: Client) -> None:
    body = encode_batch([(b"x", 0, {})] * 10_001)
    assert client.ask(320, {"b": TOPIC, "e": 0}, body).code == 13


@pytest.mark.behaviour("EB-09")
def test_a_topic_without_write_permission_is_refused(rig: Rig, client: Client) -> None:
    rig.create_topic(TOPIC, queues=2, perm=4)
    assert client.send().code == 16


# Group commit.


@pytest.mark.behaviour("EB-10")
def test_nothing_is_answered_or_readable_before_its_commit_and_what_came_meanwhile_shares_the_next_one(
    rig: Rig, client: Client
) -> None:
    rig.loop.hold_commits = True
    first = client.begin(310, {"b": TOPIC, "e": 0, "i": ""}, b"first")
    rig.loop.run()
    later = [client.begin(310, {"b": TOPIC, "e": 0, "i": ""}, b"later") for _ in range(5)]
    rig.loop.run()
    assert [client.answer(opaque) for opaque in (first, *later)] == [None] * 6
    assert stored(client) == []
    rig.loop.end_commit()
    assert client.answer(first) is not None
    assert [client.answer(opaque) for opaque in later] == [None] * 5
    assert len(stored(client)) == 1
    rig.loop.end_commit()
    assert [answer and answer.code for answer in map(client.answer, later)] == [0] * 5
    assert len(stored(client)) == 6


@pytest.mark.behaviour("EB-10")
def test_after_a_failed_commit_nothing_is_acknowledged_any_more_and_reading_goes_on(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.send(b"before")

    def fail(last_id: int) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(rig.store, "commit", fail)
    refused = client.send(b"lost")
    assert refused.code == 1
    assert "until the broker is started again: the disk is full" in (refused.remark or "")
    monkeypatch.undo()
    assert client.send(b"also refused").code == 1
    assert [msg.body for msg in stored(client)] == [b"before"]


@pytest.mark.behaviour("EB-10")
def test_when_too_much_waits_for_the_disk_senders_are_told_to_come_later(rig: Rig, client: Client) -> None:
    rig.loop.hold_commits = True
    body = b"x" * (4 * 1024 * 1024)
    for _ in range(18):
        opaque = client.begin(310, {"b": TOPIC, "e": 0, "i": ""}, body)
    refused = client.answer(opaque)
    assert refused is not None
    assert refused.code == 2


@pytest.mark.behaviour("EB-10")
def test_a_oneway_send_is_stored_and_not_answered(rig: Rig, client: Client) -> None:
    client.begin(310, {"b": TOPIC, "e": 0, "i": ""}, b"oneway", flag=2)
    client.begin(310, {"b": "not.legal", "e": 0, "i": ""}, b"oneway", flag=2)
    answers = len(client.written)
    rig.loop.run()
    assert len(client.written) == answers
    assert [msg.body for msg in stored(client)] == [b"oneway"]


# Delays.


@pytest.mark.behaviour("EB-11")
def test_a_delayed_message_comes_into_its_queue_when_its_level_says(rig: Rig, client: Client) -> None:
    client.send(b"slow", queue_id=1, properties={"DELAY": "2", "UNIQ_KEY": "u", "TAGS": "T"})
    client.send(b"fast", queue_id=1, properties={"DELAY": "1"})
    rig.loop.advance(999)
    assert stored(client, queue_id=1) == []
    rig.loop.advance(1)
    assert [msg.body for msg in stored(client, queue_id=1)] == [b"fast"]
    rig.loop.advance(4_000)
    got = stored(client, queue_id=1)
    assert [(msg.body, msg.topic, msg.queue_offset) for msg in got] == [(b"fast", TOPIC, 0), (b"slow", TOPIC, 1)]
    assert (got[1].msg_id, got[1].tags, got[1].get_property("DELAY")) == ("u", "T", "2")


@pytest.mark.behaviour("EB-11")
def test_a_level_beyond_the_last_is_the_last(rig: Rig, client: Client) -> None:
    client.send(b"clamped", properties={"DELAY": "99"})
    rig.loop.advance(29_999)
    assert stored(client) == []
    rig.loop.advance(1)
    assert len(stored(client)) == 1


@pytest.mark.behaviour("EB-11")
def test_many_delayed_messages_come_in_their_order_once_each(rig: Rig, client: Client) -> None:
    for number in range(250):
        client.send(b"%d" % number, properties={"DELAY": "1"})
    rig.loop.advance(1_000)
    bodies = list(
        itertools.chain.from_iterable(
            [msg.body for msg in messages(client.pull(start, sysFlag=4, subscription="*"))]
            for start in range(0, 250, 32)
        )
    )
    assert bodies == [b"%d" % number for number in range(250)]


@pytest.mark.behaviour("EB-11")
def test_after_a_restart_delayed_messages_come_when_they_were_to_come_and_none_comes_twice(
    rig: Rig, client: Client
) -> None:
    client.send(b"first", properties={"DELAY": "1"})
    client.send(b"second", properties={"DELAY": "2"})
    rig.loop.advance(1_000)
    rig.reopen()
    client = rig.client()
    rig.loop.advance(3_999)
    assert [msg.body for msg in stored(client)] == [b"first"]
    rig.loop.advance(1)
    assert [msg.body for msg in stored(client)] == [b"first", b"second"]


@pytest.mark.behaviour("EB-11")
def test_a_wall_clock_that_is_set_back_delays_nothing_by_more_than_its_level(rig: Rig, client: Client) -> None:
    client.send(b"body", properties={"DELAY": "1"})
    rig.clock.shift_wall(-3_600_000)
    rig.reopen()
    rig.loop.advance(1_000)
    assert len(stored(rig.client())) == 1


# Retries and dead letters.


def send_back(client: Client, msg: MessageExt, level: int = 0, **more: object) -> int:
    fields = {
        "offset": msg.commit_log_offset, "group": GROUP, "delayLevel": level, "originMsgId": msg.msg_id,
        "originTopic": msg.topic, "unitMode": "false", **more,
    }  # fmt: skip
    return client.ask(36, fields).code


@pytest.mark.behaviour("EB-12")
def test_a_message_sent_back_comes_again_through_the_retry_topic_each_time_later(rig: Rig, client: Client) -> None:
    client.send(b"failing", properties={"UNIQ_KEY": "u", "TAGS": "T"})
    (msg,) = stored(client)
    assert send_back(client, msg) == 0
    rig.loop.advance(9_999)
    assert stored(client, RETRY) == []
    rig.loop.advance(1)
    (again,) = stored(client, RETRY)
    assert (again.body, again.reconsume_times, again.msg_id, again.tags) == (b"failing", 1, "u", "T")
    assert again.get_property("RETRY_TOPIC") == TOPIC
    assert again.get_property("ORIGIN_MESSAGE_ID") == msg.offset_msg_id
    assert send_back(client, again) == 0
    rig.loop.advance(30_000)
    last = stored(client, RETRY)[1]
    assert (last.reconsume_times, last.get_property("ORIGIN_MESSAGE_ID")) == (2, msg.offset_msg_id)
    assert last.get_property("RETRY_TOPIC") == TOPIC


@pytest.mark.behaviour("EB-12")
@pytest.mark.parametrize(("limit", "dead"), [(1, False), (0, True), (-1, True)])
def test_a_message_that_failed_as_often_as_allowed_is_dead(rig: Rig, client: Client, limit: int, dead: bool) -> None:
    client.send(b"failing")
    (msg,) = stored(client)
    assert send_back(client, msg, level=1, maxReconsumeTimes=limit) == 0
    rig.loop.advance(1_000)
    assert (len(stored(client, DLQ) if dead else []), len(stored(client, RETRY))) == (dead, not dead)


@pytest.mark.behaviour("EB-12")
def test_a_message_that_says_it_failed_as_often_as_can_be_said_is_sent_back_all_the_same(client: Client) -> None:
    client.send(b"often", j=2**31 - 1)
    (msg,) = stored(client)
    assert send_back(client, msg) == 0
    (dead,) = stored(client, DLQ)
    assert dead.reconsume_times == 2**31 - 1


@pytest.mark.behaviour("EB-12")
def test_a_negative_level_means_dead_at_once(client: Client) -> None:
    client.send(b"failing")
    (msg,) = stored(client)
    assert send_back(client, msg, level=-1) == 0
    (letter,) = stored(client, DLQ)
    assert (letter.body, letter.reconsume_times, letter.get_property("RETRY_TOPIC")) == (b"failing", 1, TOPIC)
    assert letter.get_property("DELAY") == "0"


@pytest.mark.behaviour("EB-12")
def test_the_limit_of_the_group_counts_when_the_request_names_none(rig: Rig, client: Client) -> None:
    assert client.ask(200, body=f'{{"groupName":"{GROUP}","retryMaxTimes":0}}'.encode()).code == 0
    client.send(b"failing")
    (msg,) = stored(client)
    send_back(client, msg)
    assert len(stored(client, DLQ)) == 1


@pytest.mark.behaviour("EB-12")
def test_a_retry_topic_that_may_not_be_written_refuses(rig: Rig, client: Client) -> None:
    rig.create_topic(RETRY, perm=4)
    client.send(b"failing")
    (msg,) = stored(client)
    assert send_back(client, msg) == 16


@pytest.mark.behaviour("EB-12")
@pytest.mark.parametrize("times", [-5, -50])
def test_a_message_with_a_count_of_failures_below_0_comes_again_all_the_same(
    rig: Rig, client: Client, times: int
) -> None:
    client.send(b"failing", j=times)
    (msg,) = stored(client)
    assert send_back(client, msg) == 0
    rig.loop.advance(30_000)
    assert len(stored(client, RETRY)) == 1


@pytest.mark.behaviour("EB-12")
def test_retries_go_to_queues_of_the_retry_topic_that_are_read(rig: Rig, client: Client) -> None:
    client.ask(200, body=f'{{"groupName":"{GROUP}","retryQueueNums":8}}'.encode())
    client.send(b"failing")
    (msg,) = stored(client)
    for _ in range(20):
        assert send_back(client, msg, level=1) == 0
    rig.loop.advance(1_000)
    assert len(stored(client, RETRY)) == 20


@pytest.mark.behaviour("EB-12")
def test_without_retry_queues_a_message_sent_back_is_discarded(rig: Rig, client: Client) -> None:
    client.ask(200, body=f'{{"groupName":"{GROUP}","retryQueueNums":0}}'.encode())
    client.send(b"failing")
    (msg,) = stored(client)
    assert send_back(client, msg) == 0
    rig.loop.advance(60_000)
    assert stored(client, RETRY) == []


@pytest.mark.behaviour("EB-12")
@pytest.mark.parametrize(
    ("change", "code"), [({"offset": 99}, 1), ({"group": "not legal!"}, 26), ({"delayLevel": "x"}, 1)]
)
def test_a_send_back_that_makes_no_sense_is_refused(client: Client, change: dict[str, object], code: int) -> None:
    client.send()
    (msg,) = stored(client)
    assert send_back(client, msg, **change) == code  # type: ignore[arg-type]


@pytest.mark.behaviour("EB-13")
@pytest.mark.parametrize(("times", "dead"), [(2, False), (3, True)])
def test_a_message_sent_to_the_retry_topic_is_dead_when_it_failed_more_often_than_allowed(
    rig: Rig, client: Client, times: int, dead: bool
) -> None:
    assert client.send(b"again", RETRY, properties={"DELAY": "1"}, j=times, l=2).code == 0
    rig.loop.advance(1_000)
    (msg,) = stored(client, DLQ if dead else RETRY)
    assert (msg.reconsume_times, msg.get_property("DELAY")) == (times, "-1" if dead else "1")


@pytest.mark.behaviour("EB-13")
def test_a_send_to_the_retry_topic_of_a_group_nobody_knows_creates_both(client: Client) -> None:
    assert client.send(b"again", "%RETRY%unknown").code == 0
    assert [msg.body for msg in stored(client, "%RETRY%unknown")] == [b"again"]


@pytest.mark.behaviour("EB-13")
def test_while_a_queue_of_the_group_is_locked_what_is_sent_to_its_retry_topic_is_dead(rig: Rig, client: Client) -> None:
    body = (
        f'{{"consumerGroup":"{GROUP}","clientId":"c","mqSet":[{{"topic":"t","brokerName":"broker-a","queueId":0}}]}}'
    ).encode()
    assert client.ask(41, body=body).body == b'{"lockOKMQSet":[{"brokerName":"broker-a","queueId":0,"topic":"t"}]}'
    client.send(b"given up", RETRY, j=1, l=16)
    assert len(stored(client, DLQ)) == 1
    client.ask(42, body=body)
    client.send(b"again", RETRY, j=1, l=16)
    assert len(stored(client, RETRY)) == 1
