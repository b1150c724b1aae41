"""What the embedded broker answers to pops, and what becomes of what was popped."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from rocketmq_py.broker import pop_consumer_service, pop_long_polling_service
from rocketmq_py.broker.pop_long_polling_service import POP_POLLING_SIZE, WOKEN_MAX_COUNT
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting.message_codec import decode_messages, encode_batch
from tests.unit.broker_pop_support import (
    ACK,
    BATCH_ACK,
    CHANGE,
    NOTIFICATION,
    POLLING_INFO,
    POP,
    RETRY,
    ack,
    pop,
    pop_fields,
    pop_now,
    popped,
    put_off,
    settle,
)
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.create_topic()
    yield rig
    rig.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.client()


def bodies(msgs: list[MessageExt]) -> list[bytes]:
    return [msg.body for msg in msgs]


def fill(client: Client, count: int, **more: Any) -> list[bytes]:
    sent = [b"%d" % number for number in range(count)]
    for body in sent:
        assert client.send(body, **more).code == 0
    return sent


# Popping.


@pytest.mark.behaviour("EP-01")
def test_a_pop_gives_messages_of_all_queues_with_what_receipts_are_made_of(rig: Rig, client: Client) -> None:
    rig.create_topic("two", 2)
    client.send(b"0", "two", 0)
    client.send(b"1", "two", 1)
    client.send(b"2", "two", 1)
    answer = pop(client, topic="two")
    told = answer.ext_fields
    assert (answer.code, answer.remark) == (0, "FOUND")
    assert (told["invisibleTime"], told["reviveQid"], told["restNum"]) == ("60000", "0", "0")
    assert int(told["popTime"]) == rig.clock.wall_ms()
    assert told["startOffsetInfo"] == "0 0 0;0 1 0"
    assert told["msgOffsetInfo"] == "0 0 0;0 1 0,1"
    assert "orderCountInfo" not in told
    assert bodies(popped(answer)) == [b"0", b"1", b"2"]
    client.send(b"3", "two", 1)
    assert pop(client, topic="two", queueId=1).ext_fields["reviveQid"] == "1"


@pytest.mark.behaviour("EP-01")
def test_what_is_popped_is_nobody_elses_and_the_rest_is_told(client: Client) -> None:
    sent = fill(client, 40)
    answer = pop(client)
    assert bodies(popped(answer)) == sent[:32]
    assert answer.ext_fields["restNum"] == "8"
    assert bodies(pop_now(client)) == sent[32:]
    answer = pop(client)
    assert (answer.code, answer.remark) == (210, "NO_MESSAGE_IN_QUEUE")
    assert client.ask(14, {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0}).ext_fields["offset"] == "40"
    assert bodies(pop_now(client, consumerGroup="other")) == sent[:32]


@pytest.mark.behaviour("EP-02")
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"maxMsgNums": 33}, 29),
        ({"maxMsgNums": 0}, 29),
        ({"invisibleTime": -1}, 29),
        ({"bornTime": 1}, 210),
        ({"topic": "none"}, 17),
        ({"queueId": 1}, 29),
        ({"consumerGroup": "%%%^"}, 26),
        ({"exp": "||"}, 23),
        ({"order": "true", "attemptId": "x" * 1_025}, 29),
        ({"expType": "SQL92", "exp": "a >"}, 23),
        ({"expType": "XPATH", "exp": "a"}, 23),
    ],
)
def test_a_pop_that_cannot_be_served_is_refused(client: Client, wrong: dict[str, Any], code: int) -> None:
    client.send()
    assert pop(client, **wrong).code == code
    assert pop(client).code == 0


@pytest.mark.behaviour("EP-02")
def test_groups_that_may_not_consume_and_topics_that_may_not_be_read_are_not_popped(rig: Rig, client: Client) -> None:
    rig.create_topic("secret", 1, perm=2)
    assert pop(client, topic="secret").code == 16
    assert client.ask(200, body=json.dumps({"groupName": "off", "consumeEnable": False}).encode()).code == 0
    assert pop(client, consumerGroup="off").code == 16


@pytest.mark.behaviour("EP-03")
def test_only_what_the_filter_lets_through_comes_and_what_is_passed_over_is_gone_for_the_group(client: Client) -> None:
    for number in range(10):
        client.send(b"%d" % number, properties={"TAGS": "A" if number % 3 == 0 else "B", "n": str(number)})
    assert bodies(pop_now(client, exp="A")) == [b"0", b"3", b"6", b"9"]
    assert pop(client).code == 210
    assert bodies(pop_now(client, consumerGroup="sql", expType="SQL92", exp="n > 7")) == [b"8", b"9"]
    assert pop(client, consumerGroup="none", exp="C").code == 210
    assert pop(client, consumerGroup="none").code == 210


@pytest.mark.behaviour("EP-03")
def test_a_pop_passes_over_a_bounded_number_of_messages_and_goes_on_where_it_waits(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pop_consumer_service, "PASSED_OVER_MAX_COUNT", 4)
    rig.create_topic("wide", 6)
    for queue_id in range(6):
        for body in (b"1", b"2", b"3"):
            client.send(body, topic="wide", queue_id=queue_id, properties={"TAGS": "B"})
    client.send(b"wanted", topic="wide", queue_id=5, properties={"TAGS": "A"})
    # After two queues of three there are the others, and the first of them the next time.
    answer = pop(client, topic="wide", exp="A")
    assert (answer.code, answer.ext_fields["restNum"]) == (210, "13")
    opaque = client.begin(POP, pop_fields(topic="wide", exp="A", pollTime=10_000, bornTime=rig.clock.wall_ms()))
    rig.loop.run()
    found = client.answer(opaque)
    assert found is not None
    assert (found.code, found.ext_fields["restNum"]) == (0, "0")
    assert [msg.body for msg in decode_messages(found.body)] == [b"wanted"]


@pytest.mark.behaviour("EP-03")
def test_a_group_begins_at_the_first_message_of_a_young_queue_whatever_it_asked_for(client: Client) -> None:
    sent = fill(client, 3)
    assert bodies(pop_now(client, initMode=1)) == sent


# Leases.


@pytest.mark.behaviour("EP-04")
def test_what_is_not_acknowledged_in_time_comes_again_as_a_retry(rig: Rig, client: Client) -> None:
    client.send(b"acked")
    client.send(b"lost", properties={"UNIQ_KEY": "id", "KEYS": "k", "TAGS": "A"})
    first_ms = rig.clock.wall_ms()
    acked, lost = pop_now(client, invisibleTime=5_000)
    assert (lost.reconsume_times, lost.get_property("1ST_POP_TIME")) == (0, str(first_ms))
    assert ack(client, acked) == 0
    rig.loop.advance(4_900)
    assert pop(client).code == 210
    rig.loop.advance(1_000)
    (again,) = pop_now(client)
    assert (again.body, again.topic, again.keys, again.tags, again.reconsume_times) == (b"lost", TOPIC, "k", "A", 1)
    assert (again.get_property("1ST_POP_TIME"), again.get_property("ORIGIN_GROUP")) == (str(first_ms), GROUP)
    receipt = ExtraInfo.parse(again.get_property("POP_CK"))
    assert (receipt.retry, receipt.queue_id, receipt.queue_offset) == ("1", 0, 0)
    assert receipt.pop_time == rig.clock.wall_ms()
    assert ack(client, again) == 0
    rig.loop.advance(120_000)
    assert pop(client).code == 210
    assert client.ask(30, {"topic": RETRY, "queueId": 0}).ext_fields["offset"] == "1"


@pytest.mark.behaviour("EP-04")
def test_a_retry_that_fails_again_is_one_more_retry_in_the_same_topic(rig: Rig, client: Client) -> None:
    client.send(b"poison")
    for times in range(5):
        (msg,) = pop_now(client, invisibleTime=1_000)
        assert msg.reconsume_times == times
        rig.loop.advance(2_000)
    assert client.ask(30, {"topic": RETRY, "queueId": 0}).ext_fields["offset"] == "5"


@pytest.mark.behaviour("EP-04")
def test_a_message_that_says_it_failed_as_often_as_can_be_said_comes_again_and_keeps_no_other(
    rig: Rig, client: Client
) -> None:
    client.send(b"often", j=2**31 - 1)
    client.send(b"once")
    assert bodies(pop_now(client)) == [b"often", b"once"]
    rig.loop.advance(70_000)
    again = pop_now(client)
    assert [(msg.body, msg.reconsume_times) for msg in again] == [(b"often", 2**31 - 1), (b"once", 1)]


@pytest.mark.behaviour("EP-05")
def test_only_the_receipt_of_the_last_delivery_acknowledges_and_the_others_are_no_error(
    rig: Rig, client: Client
) -> None:
    client.send(b"a")
    (msg,) = pop_now(client)
    forged = ExtraInfo.parse(msg.get_property("POP_CK"))._replace(pop_time=1)
    assert ack(client, msg, receipt=str(forged)) == 0
    assert ack(client, msg) == 0
    assert ack(client, msg) == 0
    rig.loop.advance(120_000)
    assert pop(client).code == 210


@pytest.mark.behaviour("EP-05")
def test_an_acknowledgement_with_a_forged_receipt_ends_no_lease(rig: Rig, client: Client) -> None:
    client.send(b"a")
    (msg,) = pop_now(client)
    forged = ExtraInfo.parse(msg.get_property("POP_CK"))._replace(pop_time=1)
    assert ack(client, msg, receipt=str(forged)) == 0
    rig.loop.advance(61_000)
    assert bodies(pop_now(client)) == [b"a"]


@pytest.mark.behaviour("EP-05")
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"topic": "none"}, 17),
        ({"queueId": 7}, 13),
        ({"offset": 9}, 208),
        ({"offset": -1}, 208),
        ({"extraInfo": "x"}, 1),
    ],
)
def test_what_was_never_there_is_neither_acknowledged_nor_put_off(
    client: Client, wrong: dict[str, Any], code: int
) -> None:
    client.send(b"a")
    (msg,) = pop_now(client)
    assert settle(client, ACK, msg, **wrong).code == code
    assert settle(client, CHANGE, msg, invisibleTime=1, **wrong).code == code


@pytest.mark.behaviour("EP-06")
def test_putting_off_gives_a_new_receipt_and_the_old_one_has_no_effect_any_more(rig: Rig, client: Client) -> None:
    client.send(b"a")
    (msg,) = pop_now(client)
    old = ExtraInfo.parse(msg.get_property("POP_CK"))
    rig.loop.advance(1_000)
    answer = put_off(client, msg, 10_000)
    told = answer.ext_fields
    assert told == {"popTime": str(rig.clock.wall_ms()), "invisibleTime": "10000", "reviveQid": "0"}
    new = str(old._replace(pop_time=int(told["popTime"]), invisible_time=10_000))
    assert ack(client, msg) == 0  # no effect
    assert put_off(client, msg, 1).code == 208
    rig.loop.advance(9_000)
    answer = put_off(client, msg, 30_000, receipt=new)
    new = str(old._replace(pop_time=int(answer.ext_fields["popTime"]), invisible_time=30_000))
    rig.loop.advance(29_000)
    assert pop(client).code == 210
    assert ack(client, msg, receipt=new) == 0
    rig.loop.advance(120_000)
    assert pop(client).code == 210


@pytest.mark.behaviour("EP-06")
def test_a_message_put_off_comes_again_when_that_time_is_over(rig: Rig, client: Client) -> None:
    client.send(b"a")
    (msg,) = pop_now(client)
    assert put_off(client, msg, 2_000).code == 0
    rig.loop.advance(3_000)
    assert bodies(pop_now(client)) == [b"a"]


@pytest.mark.behaviour("EP-07")
def test_a_batch_of_acknowledgements_has_a_bit_for_each_offset(rig: Rig, client: Client) -> None:
    fill(client, 12)
    msgs = pop_now(client)
    receipt = ExtraInfo.parse(msgs[0].get_property("POP_CK"))
    bits = sum(1 << index for index in range(12) if index not in (3, 9)).to_bytes(2, "little")
    batch = {
        "c": GROUP, "t": TOPIC, "r": "0", "so": 0, "q": 0, "rq": receipt.revive_queue_id, "pt": receipt.pop_time,
        "it": 60_000, "b": base64.b64encode(bits).decode(),
    }  # fmt: skip
    assert client.ask(BATCH_ACK, body=json.dumps({"brokerName": "broker-a", "acks": [batch]}).encode()).code == 0
    rig.loop.advance(61_000)
    again = pop_now(client)
    assert bodies(again) == [b"3", b"9"]
    receipt = ExtraInfo.parse(again[0].get_property("POP_CK"))
    long = {
        "consumerGroup": GROUP, "topic": TOPIC, "retry": "1", "startOffset": 0, "queueId": 0,
        "reviveQueueId": receipt.revive_queue_id, "popTime": receipt.pop_time, "invisibleTime": 60_000,
        "bitSet": base64.b64encode(b"\x03").decode(),
    }  # fmt: skip
    assert client.ask(BATCH_ACK, body=json.dumps({"acks": [long, {**long, "topic": "none"}]}).encode()).code == 0
    rig.loop.advance(61_000)
    assert pop(client).code == 210
    assert client.ask(BATCH_ACK, body=b"").code == 208
    assert client.ask(BATCH_ACK, body=b'{"acks":[]}').code == 208
    assert client.ask(BATCH_ACK, body=json.dumps({"acks": [{**batch, "b": "?"}]}).encode()).code == 1
    for more, code in (0, 0), (1, 29):
        many = {**batch, "b": base64.b64encode(b"\xff" * 256 + b"\x01" * more).decode()}
        assert client.ask(BATCH_ACK, body=json.dumps({"acks": [many] * 2}).encode()).code == code


@pytest.mark.behaviour("EP-08")
def test_leases_and_what_is_acknowledged_outlive_the_end_of_the_broker(rig: Rig, client: Client) -> None:
    fill(client, 3)
    msgs = pop_now(client, invisibleTime=10_000)
    assert ack(client, msgs[0]) == 0
    rig.crash()
    client = rig.client()
    assert pop(client).code == 210
    assert ack(client, msgs[2]) == 0
    rig.loop.advance(9_000)
    assert pop(client).code == 210
    rig.loop.advance(2_000)
    assert bodies(pop_now(client)) == [b"1"]


@pytest.mark.behaviour("EP-08")
def test_no_answer_to_a_pop_goes_out_before_its_leases_are_on_the_disk(rig: Rig, client: Client) -> None:
    fill(client, 2)
    rig.loop.hold_commits = True
    asked = client.begin(POP, pop_fields())
    rig.loop.run()
    assert client.answer(asked) is None
    other = client.begin(POP, pop_fields())
    rig.loop.run()
    assert client.answer(other) is not None  # nothing is left for it
    rig.loop.end_commit()
    assert client.answer(asked) is not None


@pytest.mark.behaviour("EP-08")
def test_a_wall_clock_that_is_set_neither_ends_nor_prolongs_leases(rig: Rig, client: Client) -> None:
    client.send(b"a")
    pop_now(client, invisibleTime=10_000)
    rig.clock.shift_wall(3_600_000)
    rig.loop.advance(9_000)
    assert pop(client).code == 210
    rig.clock.shift_wall(-7_200_000)
    rig.loop.advance(2_000)
    assert bodies(pop_now(client, invisibleTime=10_000)) == [b"a"]
    rig.clock.shift_wall(-3_600_000)
    rig.crash()
    client = rig.client()
    rig.loop.advance(11_000)
    assert bodies(pop_now(client)) == [b"a"]


@pytest.mark.behaviour("EP-09")
def test_above_a_number_of_leases_nothing_more_of_a_queue_is_popped(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pop_consumer_service, "INFLIGHT_MAX_COUNT", 4)
    fill(client, 6)
    msgs = pop_now(client, maxMsgNums=4)
    assert pop(client).code == 210
    ack(client, msgs[0])
    assert bodies(pop_now(client)) == [b"4", b"5"]


@pytest.mark.behaviour("EP-10")
def test_a_retry_is_popped_first_in_every_fifth_pop_and_else_last(rig: Rig, client: Client) -> None:
    client.send(b"fails")
    pop_now(client, invisibleTime=1)
    rig.loop.advance(1_000)
    fill(client, 5)
    first = [pop_now(client, maxMsgNums=1)[0].body for _ in range(5)]
    assert first == [b"0", b"1", b"2", b"3", b"fails"]
    assert bodies(pop_now(client)) == [b"4"]


@pytest.mark.behaviour("EP-11")
def test_retries_can_come_by_topics_of_the_second_form(tmp_path: Path) -> None:
    rig = Rig(tmp_path, enable_retry_topic_v2=True)
    rig.create_topic()
    client = rig.client()
    client.send(b"a")
    pop_now(client, invisibleTime=1_000)
    rig.loop.advance(2_000)
    (again,) = pop_now(client)
    receipt = ExtraInfo.parse(again.get_property("POP_CK"))
    assert (again.body, receipt.retry) == (b"a", "2")
    assert client.ask(30, {"topic": f"%RETRY%{GROUP}+{TOPIC}", "queueId": 0}).ext_fields["offset"] == "1"
    assert ack(client, again) == 0
    rig.loop.advance(120_000)
    assert pop(client).code == 210
    rig.close()


# Operators.


@pytest.mark.behaviour("EP-16")
def test_a_reset_is_where_a_pop_goes_on_and_what_was_leased_comes_no_more(rig: Rig, client: Client) -> None:
    fill(client, 5)
    msgs = pop_now(client, invisibleTime=5_000)
    asked = {"group": GROUP, "topic": TOPIC, "queueId": 0, "offset": 3, "timestamp": -1, "isForce": "true"}
    assert client.ask(222, asked).code == 0
    again = pop_now(client, invisibleTime=60_000)
    assert bodies(again) == [b"3", b"4"]
    assert ack(client, msgs[3]) == 0  # by the receipt of the other delivery: no effect
    rig.crash()
    client = rig.client()
    rig.loop.advance(10_000)
    assert pop(client).code == 210
    rig.loop.advance(60_000)
    assert bodies(pop_now(client)) == [b"3", b"4"]


@pytest.mark.behaviour("EP-16")
def test_a_reset_counts_although_the_message_there_cannot_be_read(rig: Rig, client: Client) -> None:
    fill(client, 5)
    assert bodies(pop_now(client, invisibleTime=5_000)) == [b"0", b"1", b"2", b"3", b"4"]
    with closing(apsw.Connection(str(rig.directory / "store.db"))) as other:
        other.execute("UPDATE message SET crc = crc + 1 WHERE queue_offset = 3")
    asked = {"group": GROUP, "topic": TOPIC, "queueId": 0, "offset": 3, "timestamp": -1, "isForce": "true"}
    assert client.ask(222, asked).code == 0
    assert pop(client).code == 1
    rig.loop.run()
    rig.crash()
    rig.loop.advance(10_000)
    assert rig.controller.commit_log.max_offset(QueueKey(RETRY, 0)) == 0  # what was leased comes no more


@pytest.mark.behaviour("EP-16")
def test_a_reset_ends_the_block_of_an_orderly_group(rig: Rig, client: Client) -> None:
    fill(client, 3)
    msgs = pop_orderly(client)
    asked = {"group": GROUP, "topic": TOPIC, "queueId": 0, "offset": 1, "timestamp": -1, "isForce": "true"}
    assert client.ask(222, asked).code == 0
    ack(client, msgs[2])
    assert [(msg.body, msg.reconsume_times) for msg in pop_orderly(client, "2")] == [(b"1", 0), (b"2", 0)]


@pytest.mark.behaviour("EP-16")
def test_nothing_of_a_deleted_topic_comes_by_the_next_of_its_name(rig: Rig, client: Client) -> None:
    fill(client, 2)
    pop_now(client, invisibleTime=1_000)
    assert client.ask(215, {"topic": TOPIC}).code == 0
    rig.create_topic()
    sent = fill(client, 3)
    rig.crash()
    client = rig.client()
    rig.loop.advance(5_000)
    assert bodies(pop_now(client)) == sent
    assert pop(client).code == 210


# Waiting.


@pytest.mark.behaviour("EP-12")
def test_a_pop_waits_until_there_is_a_message_it_wants(rig: Rig, client: Client) -> None:
    asked = client.begin(POP, pop_fields(pollTime=15_000, exp="A"))
    client.send(b"b", properties={"TAGS": "B"})  # offset 0 wakes everybody
    client.send(b"b", properties={"TAGS": "B"})
    rig.loop.advance(10_000)
    assert client.answer(asked) is None
    client.send(b"a", properties={"TAGS": "A"})
    rig.loop.run()
    answer = client.answer(asked)
    assert answer is not None
    assert bodies(popped(answer)) == [b"a"]


@pytest.mark.behaviour("EP-12")
def test_a_pop_that_waited_in_vain_is_answered_just_before_its_time_is_over(rig: Rig, client: Client) -> None:
    asked = client.begin(POP, pop_fields(pollTime=3_000))
    rig.loop.advance(2_900)
    assert client.answer(asked) is None
    rig.loop.advance(99)
    answer = client.answer(asked)
    assert answer is not None
    assert answer.code == 210


@pytest.mark.behaviour("EP-12")
def test_one_message_wakes_one_of_those_that_wait_and_a_retry_does_too(rig: Rig, client: Client) -> None:
    asked = [client.begin(POP, pop_fields(pollTime=15_000, invisibleTime=2_000)) for _ in range(2)]
    info = {"consumerGroup": GROUP, "topic": TOPIC, "queueId": -1}
    assert client.ask(POLLING_INFO, info).ext_fields == {"pollingNum": "2"}
    client.send(b"a")
    rig.loop.run()
    assert [client.answer(each) is None for each in asked] == [False, True]
    rig.loop.advance(3_000)
    again = client.answer(asked[1])
    assert again is not None
    assert bodies(popped(again)) == [b"a"]
    assert client.ask(POLLING_INFO, info).ext_fields == {"pollingNum": "0"}


@pytest.mark.behaviour("EP-12")
def test_more_messages_than_a_pop_takes_wake_the_next(rig: Rig, client: Client) -> None:
    asked = [client.begin(POP, pop_fields(pollTime=15_000, maxMsgNums=2)) for _ in range(3)]
    parts = [(b"%d" % number, 0, {"UNIQ_KEY": "id"}) for number in range(5)]

    send = {"a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "m": "true"}
    assert client.ask(320, send, encode_batch(parts)).code == 0
    rig.loop.run()
    answers = [client.answer(each) for each in asked]
    assert [bodies(popped(each)) for each in answers if each] == [[b"0", b"1"], [b"2", b"3"], [b"4"]]


@pytest.mark.behaviour("EP-13")
def test_too_many_that_wait_are_told_so_and_those_that_hang_up_make_room(rig: Rig, client: Client) -> None:
    for _ in range(POP_POLLING_SIZE + 1):
        client.begin(POP, pop_fields(pollTime=15_000))
    other = rig.client()
    assert pop(other, pollTime=15_000).code == 209
    rig.controller.on_close(client)
    asked = other.begin(POP, pop_fields(pollTime=15_000))
    other.send(b"a")
    rig.loop.run()
    assert other.answer(asked) is not None
    assert [each for each in client.written if each.is_response] == []


@pytest.mark.behaviour("EB-22")
def test_pops_that_are_over_together_are_answered_some_at_a_time_and_each_once(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = rig.client()
    opaques = [client.begin(POP, pop_fields(pollTime=1_000)) for _ in range(30)]
    for _ in range(30):
        gone.begin(POP, pop_fields(pollTime=1_000))
    answered: list[int] = []

    def run() -> None:
        while rig.loop.turn():
            answered.append(len(client.written) + len(gone.written) - sum(answered))
            if len(client.written) == len(opaques):
                rig.controller.on_close(gone)

    rig.loop.run()
    monkeypatch.setattr(rig.loop, "run", run)
    rig.loop.advance(1_000)
    assert max(answered) == WOKEN_MAX_COUNT
    assert sorted(each.opaque for each in client.written) == opaques
    assert len(gone.written) < WOKEN_MAX_COUNT  # those behind are forgotten


@pytest.mark.behaviour("EB-22")
def test_new_messages_are_compared_with_pops_that_wait_some_at_a_time(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pop_long_polling_service, "COMPARED_MAX_COUNT", 10)
    client.send(b"0", properties={"TAGS": "B"})  # offset 0 wakes everybody
    for number in range(40):
        client.begin(POP, pop_fields(consumerGroup=f"g{number}", pollTime=15_000, exp="A"))
    wanted = client.begin(POP, pop_fields(consumerGroup="wanted", pollTime=15_000, exp="B"))
    before = len(client.written)
    client.begin(310, {"b": TOPIC, "e": 0, "i": "TAGS\x01B\x02"}, b"1")
    turns = 0
    while rig.loop.turn():
        turns += 1
    assert turns > 40 * 2 // 10
    assert {each.opaque for each in client.written[before:]} >= {wanted}
    assert len(client.written) == before + 2  # and the answer to the send


@pytest.mark.behaviour("EP-12")
def test_of_very_many_messages_each_group_looks_for_itself_and_gets_what_it_wants(rig: Rig, client: Client) -> None:
    asked = [client.begin(POP, pop_fields(pollTime=15_000, exp="A")) for _ in range(3)]
    parts = [(b"%d" % number, 0, {"UNIQ_KEY": "id", "TAGS": "A" if number > 995 else "B"}) for number in range(1_100)]
    send = {"a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "m": "true"}
    assert client.ask(320, send, encode_batch(parts)).code == 0
    rig.loop.run()
    answers = [client.answer(each) for each in asked]
    got = [body for each in answers if each for body in bodies(popped(each))]
    assert sorted(map(int, got)) == list(range(996, 996 + 96))


@pytest.mark.behaviour("EP-13")
def test_pops_that_wait_hold_bounded_memory(rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pop_long_polling_service, "POLLING_MAX_BYTES", 100_000)
    asked = [client.begin(POP, pop_fields(pollTime=15_000, exp=f"{'x' * 20_000}{number}")) for number in range(3)]
    codes = [answer.code for each in asked if (answer := client.answer(each)) is not None]
    assert codes == [209]
    rig.controller.on_close(client)
    other = rig.client()
    assert other.answer(other.begin(POP, pop_fields(pollTime=15_000, exp="x" * 20_000))) is None


@pytest.mark.behaviour("EP-09")
def test_above_a_number_of_leases_altogether_nothing_is_popped(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pop_consumer_service, "LEASES_MAX_COUNT", 4)
    fill(client, 6)
    msgs = pop_now(client, maxMsgNums=4)
    assert pop(client, consumerGroup="other").code == 210
    ack(client, msgs[0])
    assert pop(client, consumerGroup="other").code == 0


@pytest.mark.behaviour("EP-14")
def test_a_notification_says_whether_there_is_something_to_pop(rig: Rig, client: Client) -> None:
    asked = {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0, "pollTime": 5_000, "bornTime": 0}
    assert client.ask(NOTIFICATION, {**asked, "pollTime": 0}).ext_fields == {"hasMsg": "false", "pollingFull": "false"}
    waiting = client.begin(NOTIFICATION, asked)
    rig.loop.run()
    assert client.answer(waiting) is None
    client.send(b"a")
    rig.loop.run()
    answer = client.answer(waiting)
    assert answer is not None
    assert answer.ext_fields == {"hasMsg": "true", "pollingFull": "false"}
    pop_now(client, invisibleTime=1_000)
    assert client.ask(NOTIFICATION, {**asked, "pollTime": 0}).ext_fields["hasMsg"] == "false"
    rig.loop.advance(2_000)
    assert client.ask(NOTIFICATION, {**asked, "pollTime": 0}).ext_fields["hasMsg"] == "true"
    vain = client.begin(NOTIFICATION, {**asked, "consumerGroup": "other", "topic": TOPIC, "queueId": -1})
    rig.loop.run()
    assert client.answer(vain) is not None  # there is something for a group that never popped


# Orderly.


def pop_orderly(client: Client, attempt: str = "1", **more: Any) -> list[MessageExt]:
    return pop_now(client, order="true", attemptId=attempt, **more)


@pytest.mark.behaviour("EP-15")
def test_a_queue_popped_orderly_is_blocked_until_all_is_done_and_goes_on_behind(rig: Rig, client: Client) -> None:
    fill(client, 5)
    msgs = pop_orderly(client, maxMsgNums=3)
    assert ExtraInfo.parse(msgs[0].get_property("POP_CK")).revive_queue_id == 999
    assert pop(client, order="true", attemptId="2").code == 210
    assert ack(client, msgs[1]) == 0
    assert ack(client, msgs[0]) == 0
    assert pop(client, order="true", attemptId="2").code == 210
    assert client.ask(14, {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0}).ext_fields["offset"] == "2"
    assert ack(client, msgs[2]) == 0
    assert bodies(pop_orderly(client, "2")) == [b"3", b"4"]


@pytest.mark.behaviour("EP-15")
def test_the_attempt_that_got_a_batch_gets_it_again_and_the_count_does_not_grow(rig: Rig, client: Client) -> None:
    fill(client, 2)
    assert bodies(pop_orderly(client)) == [b"0", b"1"]
    again = pop_orderly(client)
    assert [(msg.body, msg.reconsume_times) for msg in again] == [(b"0", 0), (b"1", 0)]


@pytest.mark.behaviour("EP-15")
def test_after_the_time_the_batch_comes_again_from_the_first_that_is_not_done(rig: Rig, client: Client) -> None:
    fill(client, 4)
    msgs = pop_orderly(client, maxMsgNums=3, invisibleTime=5_000)
    ack(client, msgs[0])
    ack(client, msgs[2])
    rig.loop.advance(4_999)
    assert pop(client, order="true", attemptId="2").code == 210
    rig.loop.advance(1)
    answer = pop(client, order="true", attemptId="2")
    assert [(msg.body, msg.reconsume_times) for msg in popped(answer, True)] == [(b"1", 1), (b"2", 1), (b"3", 0)]
    assert answer.ext_fields["orderCountInfo"] == "0 qo0%1 1;0 qo0%2 1;0 0 0"
    assert ack(client, msgs[1]) == 0  # of an earlier batch: no effect
    assert client.ask(14, {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0}).ext_fields["offset"] == "1"
    assert ack(client, msgs[0]) == 0  # below what is committed


@pytest.mark.behaviour("EP-15")
def test_a_message_put_off_holds_its_queue_until_then_and_wakes_who_waits(rig: Rig, client: Client) -> None:
    fill(client, 2)
    msgs = pop_orderly(client, invisibleTime=60_000)
    answer = put_off(client, msgs[0], 3_000)
    assert answer.ext_fields == {
        "popTime": str(ExtraInfo.parse(msgs[0].get_property("POP_CK")).pop_time), "invisibleTime": "3000",
        "reviveQid": "999",
    }  # fmt: skip
    ack(client, msgs[1])
    waiting = client.begin(POP, pop_fields(order="true", attemptId="2", pollTime=15_000))
    rig.loop.advance(2_900)
    assert client.answer(waiting) is None
    rig.loop.advance(200)
    found = client.answer(waiting)
    assert found is not None
    assert bodies(popped(found, True)) == [b"0", b"1"]


@pytest.mark.behaviour("EP-15")
def test_the_last_acknowledgement_wakes_who_waits_for_the_queue(rig: Rig, client: Client) -> None:
    fill(client, 2)
    (msg,) = pop_orderly(client, maxMsgNums=1)
    waiting = client.begin(POP, pop_fields(order="true", attemptId="2", pollTime=15_000))
    rig.loop.run()
    assert client.answer(waiting) is None
    ack(client, msg)
    rig.loop.run()
    found = client.answer(waiting)
    assert found is not None
    assert bodies(popped(found, True)) == [b"1"]


@pytest.mark.behaviour("EP-15")
def test_an_offset_that_was_not_given_out_is_refused_and_nothing_comes_by_the_retry_topic(
    rig: Rig, client: Client
) -> None:
    fill(client, 3)
    (msg,) = pop_orderly(client, maxMsgNums=1, invisibleTime=1_000)
    assert ack(client, msg, offset=2) == 13
    rig.loop.advance(60_000)
    assert client.ask(30, {"topic": RETRY, "queueId": 0}).ext_fields["offset"] == "0"
    assert bodies(pop_orderly(client, "2")) == [b"0", b"1", b"2"]


@pytest.mark.behaviour("EP-15")
def test_a_block_outlives_the_end_of_the_broker(rig: Rig, client: Client) -> None:
    fill(client, 3)
    msgs = pop_orderly(client, maxMsgNums=2, invisibleTime=10_000)
    ack(client, msgs[1])
    rig.crash()
    client = rig.client()
    waiting = client.begin(POP, pop_fields(order="true", attemptId="2", pollTime=15_000))
    rig.loop.advance(9_900)
    assert client.answer(waiting) is None
    rig.loop.advance(200)
    found = client.answer(waiting)
    assert found is not None
    assert [(msg.body, msg.reconsume_times) for msg in popped(found, True)] == [(b"0", 1), (b"1", 1), (b"2", 0)]
