"""Messages for a moment of their own in the embedded broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from rocketmq_py.broker import timer_message_store
from rocketmq_py.broker.timer_message_store import TIMER_MAX_DELAY_MS
from rocketmq_py.broker.topic_config import TIMER_TOPIC
from rocketmq_py.model.recall_handle import RecallHandle
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import encode_batch
from tests.unit.broker_rig import TOPIC, Client, Rig, messages

SUBSCRIPTION = 4
RECALL = 370


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.clock.advance(-rig.clock.wall_ms() % 1_000 + 300)  # 300 ms behind a full second
    rig.create_topic()
    yield rig
    rig.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.client()


def send(client: Client, body: bytes = b"a", uniq_key: str = "id", **properties: Any) -> RemotingCommand:
    texts = {"UNIQ_KEY": uniq_key, **{name: str(value) for name, value in properties.items()}}
    return client.send(body, properties=texts)


def came(client: Client, offset: int = 0) -> list[bytes]:
    return [msg.body for msg in messages(client.pull(offset, sysFlag=SUBSCRIPTION, subscription="*"))]


def recall(client: Client, handle: str, **more: Any) -> RemotingCommand:
    asked = {"producerGroup": "p", "topic": TOPIC, "recallHandle": handle, **more}
    return client.ask(RECALL, asked)


@pytest.mark.behaviour("TM-01")
@pytest.mark.parametrize("way", ["TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS"])
def test_a_timer_message_comes_within_a_second_after_its_moment_and_never_before(
    rig: Rig, client: Client, way: str
) -> None:
    moment = {"TIMER_DELAY_SEC": 5, "TIMER_DELAY_MS": 5_000, "TIMER_DELIVER_MS": rig.clock.wall_ms() + 5_000}[way]
    properties: dict[str, Any] = {way: moment, "TAGS": "A"}
    answer = send(client, **properties)
    assert (answer.code, answer.ext_fields["queueOffset"]) == (0, "0")
    assert client.ask(30, {"topic": TIMER_TOPIC, "queueId": 0}).ext_fields["offset"] == "1"
    sent_ms = rig.clock.wall_ms()
    rig.loop.advance(4_999)
    assert came(client) == []
    rig.loop.advance(1_001)
    (msg,) = messages(client.pull(0, sysFlag=SUBSCRIPTION, subscription="A"))
    assert (msg.topic, msg.tags, msg.body) == (TOPIC, "A", b"a")
    out_ms = (sent_ms + 5_000) // 1_000 * 1_000
    assert msg.get_property("TIMER_OUT_MS") == str(out_ms)
    assert msg.get_property("TIMER_ENQUEUE_MS") == str(sent_ms)
    assert msg.get_property("TIMER_DEQUEUE_MS") == str(out_ms + 1_000)


@pytest.mark.behaviour("TM-01")
def test_a_moment_at_a_full_second_is_met_exactly(rig: Rig, client: Client) -> None:
    moment = rig.clock.wall_ms() // 1_000 * 1_000 + 3_000
    send(client, TIMER_DELIVER_MS=moment)
    rig.loop.advance(moment - rig.clock.wall_ms() - 1)
    assert came(client) == []
    rig.loop.advance(1)
    assert came(client) == [b"a"]


@pytest.mark.behaviour("TM-02")
def test_what_is_due_already_is_delivered_at_once_and_a_delay_level_wins(rig: Rig, client: Client) -> None:
    send(client, b"past", TIMER_DELIVER_MS=1)
    send(client, b"now", TIMER_DELAY_SEC=0)
    send(client, b"level", TIMER_DELAY_SEC=60, DELAY=1)
    send(client, b"seconds first", TIMER_DELAY_SEC=2, TIMER_DELAY_MS=60_000, TIMER_DELIVER_MS=1)
    assert came(client) == [b"past", b"now"]
    rig.loop.advance(1_000)
    assert came(client, 2) == [b"level"]
    rig.loop.advance(2_000)
    assert came(client, 3) == [b"seconds first"]


@pytest.mark.behaviour("TM-02")
@pytest.mark.parametrize(
    "properties",
    [
        {"TIMER_DELAY_MS": TIMER_MAX_DELAY_MS + 1},
        {"TIMER_DELAY_SEC": 2**63 - 1},
        {"TIMER_DELAY_SEC": "soon"},
        {"TIMER_DELIVER_MS": "false"},
    ],
)
def test_a_moment_too_far_away_or_no_number_is_refused(client: Client, properties: dict[str, Any]) -> None:
    assert send(client, **properties).code == 13
    assert send(client, TIMER_DELAY_MS=TIMER_MAX_DELAY_MS).code == 0


@pytest.mark.behaviour("TM-02")
def test_a_timer_that_is_to_take_another_one_back_is_refused_and_not_delivered_instead(client: Client) -> None:
    answer = send(client, TIMER_DELAY_MS=1_000, TIMER_DEL_UNIQKEY="id")
    assert answer.code == 13
    assert "RECALL_MESSAGE" in (answer.remark or "")


@pytest.mark.behaviour("TM-03")
def test_timers_come_in_the_order_of_their_moments_whatever_was_sent_first(rig: Rig, client: Client) -> None:
    for delay in (30, 10, 20, 40):
        send(client, b"%d" % delay, TIMER_DELAY_SEC=delay)
    rig.loop.advance(35_000)
    assert came(client) == [b"10", b"20", b"30"]


@pytest.mark.behaviour("TM-03")
def test_more_than_one_go_takes_is_delivered_whole(rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer_message_store, "DELIVER_MAX_COUNT", 3)
    for number in range(10):
        send(client, b"%d" % number, TIMER_DELAY_SEC=5)
    rig.loop.advance(6_000)
    assert came(client) == [b"%d" % number for number in range(10)]


@pytest.mark.behaviour("TM-04")
def test_timers_outlive_the_end_of_the_broker_and_none_comes_twice(rig: Rig, client: Client) -> None:
    send(client, b"first", TIMER_DELAY_SEC=5)
    send(client, b"second", TIMER_DELAY_SEC=50)
    rig.loop.advance(6_000)
    rig.crash()
    client = rig.client()
    rig.loop.advance(30_000)
    assert came(client) == [b"first"]
    rig.clock.advance(60_000)
    rig.crash()
    client = rig.client()
    rig.loop.advance(1)
    assert came(client) == [b"first", b"second"]


@pytest.mark.behaviour("TM-04")
def test_a_message_with_no_room_for_stamps_is_delivered_without_them(rig: Rig, client: Client) -> None:
    room = 32_767 - 200
    send(client, x="x" * room, TIMER_DELAY_SEC=5)
    send(client, b"b", TIMER_DELAY_SEC=5)
    rig.loop.advance(6_000)
    assert came(client) == [b"a", b"b"]


@pytest.mark.behaviour("TM-05")
def test_a_timer_message_can_be_recalled_before_its_moment(rig: Rig, client: Client) -> None:
    handle = send(client, b"recalled", "1", TIMER_DELAY_SEC=5).ext_fields["recallHandle"]
    send(client, b"kept", "2", TIMER_DELAY_SEC=5)
    parsed = RecallHandle.parse(handle)
    assert parsed == (TOPIC, "broker-a", (rig.clock.wall_ms() + 5_000) // 1_000 * 1_000 + 1, "1")
    answer = recall(client, handle)
    assert (answer.code, answer.ext_fields["msgId"]) == (0, "1")
    assert recall(client, handle).code == 0
    rig.loop.advance(6_000)
    assert came(client) == [b"kept"]
    assert recall(client, handle).code == 604
    assert "recallHandle" not in client.send().ext_fields


@pytest.mark.behaviour("TM-05")
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"topic": "none"}, 17),
        ({"recallHandle": ""}, 604),
        ({"recallHandle": "?"}, 604),
        ({"recallHandle": "djEgYQ=="}, 604),
        ({"recallHandle": str(RecallHandle("other", "broker-a", 1, "id"))}, 604),
        ({"recallHandle": str(RecallHandle(TOPIC, "broker-b", 1, "id"))}, 604),
        ({"recallHandle": str(RecallHandle(TOPIC, "broker-a", 1, "id"))}, 604),
        ({"recallHandle": str(RecallHandle(TOPIC, "broker-a", 2**62, "id"))}, 604),
    ],
)
def test_a_recall_that_means_nothing_is_refused(client: Client, wrong: dict[str, Any], code: int) -> None:
    handle = send(client, TIMER_DELAY_SEC=5).ext_fields["recallHandle"]
    assert recall(client, handle, **wrong).code == code


@pytest.mark.behaviour("TM-02")
def test_messages_of_a_batch_have_no_timers_and_nobody_sends_to_the_timers_topic(client: Client) -> None:
    batch = {"a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "m": "true"}
    assert client.ask(320, batch, encode_batch([(b"a", 0, {"TIMER_DELAY_SEC": "5"})])).code == 13
    assert client.send(topic=TIMER_TOPIC).code == 29


@pytest.mark.behaviour("TM-04")
def test_a_timer_whose_message_is_not_found_stays_and_others_go_on(rig: Rig, client: Client) -> None:
    send(client, b"damaged", TIMER_DELAY_SEC=5)
    send(client, b"whole", TIMER_DELAY_SEC=6)
    send(client, b"later", TIMER_DELAY_SEC=60)
    rig.loop.run()
    with closing(apsw.Connection(str(rig.store.directory / "store.db"))) as plain:
        plain.execute("DELETE FROM message WHERE id = 1")
    rig.loop.advance(10_000)
    assert came(client) == [b"whole"]
    assert [row.id for row in rig.store.timers.first(10, 2**62)] == [1, 3]
