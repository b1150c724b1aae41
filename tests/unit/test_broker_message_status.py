"""What the embedded broker tells of messages: who was given them, what became of them, and what it forgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker import message_status_manager
from rocketmq_py.broker.status_runs import Run, StatusRuns
from rocketmq_py.broker.store import QueueKey, status_table
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.message_status import Fact
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_message_id
from rocketmq_py.remoting.message_status_bodies import Cursor, cursor_fields, encode_acknowledgement
from tests.unit.broker_pop_support import ACK, ack, pop_now, put_off, settle
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig, body_of, messages

UPDATE, QUERY = 901001, 901002
RETRY_TOPIC = f"%RETRY%{GROUP}"
DLQ_TOPIC = f"%DLQ%{GROUP}"


class StatusClient(Client):
    """A consumer whose connection writes, or breaks, when the test says so."""

    holds = False

    def write(self, command: RemotingCommand) -> None:
        super().write(command)
        if command.written is not None and not self.holds:
            command.written(True)

    def tell(self, *, written: bool) -> None:
        """The replies that were held are written, or the connection ends."""
        for command in self.written:
            if command.written is not None:
                command.written(written)
                command.written = None


class StatusRig(Rig):
    _number = 40_000

    def client(self) -> StatusClient:
        self._number += 1
        return StatusClient(self, self._number)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[StatusRig]:
    rig = StatusRig(tmp_path, message_status=True)
    rig.create_topic()
    yield rig
    rig.close()


@pytest.fixture
def client(rig: StatusRig) -> StatusClient:
    client = rig.client()
    client.heartbeat()
    return client


def send(client: Client, *ids: str, topic: str = TOPIC, queue_id: int = 0) -> list[RemotingCommand]:
    return [client.send(id_.encode(), properties={"UNIQ_KEY": id_}, topic=topic, queue_id=queue_id) for id_ in ids]


def told(client: Client, msg_id: str, group: str = GROUP) -> dict[str, Any]:
    (message,) = body_of(client.ask(QUERY, {"msgId": msg_id}))["messages"]
    found: dict[str, Any] = next(each for each in message["groups"] if each["group"] == group)
    return found


def status(client: Client, msg_id: str, group: str = GROUP) -> tuple[str, int]:
    of = told(client, msg_id, group)
    return of["status"], of["attempt"]


def story(client: Client, msg_id: str) -> str:
    return " ".join(change["status"] for change in told(client, msg_id)["history"])


def listed(client: Client, of: str, **fields: object) -> list[str]:
    answer = client.ask(QUERY, {"consumerGroup": GROUP, "status": of, **fields})
    return [message["msgId"] for message in body_of(answer)["messages"]]


def commit(client: Client, offset: int, topic: str = TOPIC, queue_id: int = 0) -> None:
    fields = {"consumerGroup": GROUP, "topic": topic, "queueId": queue_id, "commitOffset": offset}
    assert client.ask(15, fields).code == 0
    client._rig.loop.run()


def acknowledge(client: Client, *spans: tuple[int, int], topic: str = TOPIC) -> RemotingCommand:
    mq = MessageQueue(topic, "broker-a", 0)
    return client.ask(UPDATE, {"consumerGroup": GROUP}, encode_acknowledgement((mq, *span) for span in spans))


def send_back(client: Client, offset_msg_id: str, **more: object) -> None:
    fields = {"group": GROUP, "offset": decode_message_id(offset_msg_id)[2], "delayLevel": 1, **more}
    assert client.ask(36, fields).code == 0


def retried(rig: Rig, client: Client, offset: int = 0) -> str:
    """Let a sent-back message come again, and pull it; its offset id."""
    rig.loop.advance(1_500)
    (message,) = messages(client.pull(offset, topic=RETRY_TOPIC, sysFlag=4, subscription="*"))
    return message.offset_msg_id


@pytest.mark.behaviour("SM-05")
def test_a_message_waits_is_given_delivered_and_consumed_when_the_offset_passes_it(
    rig: StatusRig, client: StatusClient
) -> None:
    send(client, "a", "b")
    assert status(client, "a") == ("W", 0)
    client.holds = True
    client.pull()
    assert status(client, "a") == ("TCP", 1)
    client.tell(written=True)
    assert status(client, "a") == status(client, "b") == ("TCS", 1)
    commit(client, 1)
    assert [status(client, each)[0] for each in "ab"] == ["CS", "TCS"]
    client.pull(2, commitOffset=2, sysFlag=1)
    assert story(client, "b") == "TCP TCS CS"
    (first, *_) = told(client, "a")["history"]
    assert first == {"at": rig.clock.wall_ms(), "attempt": 1, "status": "TCP"}


@pytest.mark.behaviour("SM-05")
def test_a_connection_that_breaks_while_the_reply_is_written_leaves_a_failed_delivery(client: StatusClient) -> None:
    send(client, "a")
    client.holds = True
    client.pull()
    client.tell(written=False)
    assert status(client, "a") == ("TCF", 1)
    client.pull()
    client.tell(written=True)
    assert status(client, "a") == ("TCS", 1)
    assert story(client, "a") == "TCP TCF TCP TCS"


@pytest.mark.behaviour("SM-05")
def test_a_pull_that_waits_delivers_too_and_what_a_filter_passes_over_is_not_given(
    rig: StatusRig, client: StatusClient
) -> None:
    client.heartbeat(topic="T")
    pull = client.begin(11, client.pull_fields(sysFlag=2))
    client.send(b"other", properties={"UNIQ_KEY": "other", "TAGS": "U"})
    client.send(b"wanted", properties={"UNIQ_KEY": "wanted", "TAGS": "T"})
    rig.loop.run()
    assert client.answer(pull) is not None
    commit(client, 2)
    assert (status(client, "other"), status(client, "wanted")) == (("W", 0), ("CS", 1))
    assert told(client, "other")["passed"] is True


@pytest.mark.behaviour("SM-06")
def test_a_message_that_is_sent_back_comes_again_as_a_new_attempt_and_is_then_consumed(
    rig: StatusRig, client: StatusClient
) -> None:
    (sent, _) = send(client, "a", "b")
    client.pull()
    send_back(client, sent.ext_fields["msgId"])
    assert status(client, "a") == ("CL", 1)
    commit(client, 2)
    assert (status(client, "a"), status(client, "b")) == (("CL", 1), ("CS", 1))
    retried(rig, client)
    assert status(client, "a") == ("TCS", 2)
    commit(client, 1, topic=RETRY_TOPIC)
    assert status(client, "a") == ("CS", 2)
    assert story(client, "a") == "TCP TCS CL TCP TCS CS"


@pytest.mark.behaviour("SM-06")
def test_a_message_that_fails_too_often_is_a_dead_letter(rig: StatusRig, client: StatusClient) -> None:
    (sent,) = send(client, "a")
    client.pull()
    send_back(client, sent.ext_fields["msgId"], maxReconsumeTimes=1)
    again = retried(rig, client)
    send_back(client, again, maxReconsumeTimes=1)
    commit(client, 1, topic=RETRY_TOPIC)
    assert status(client, "a") == ("CF", 2)
    assert listed(client, "CF") == ["a"]
    assert story(client, "a") == "TCP TCS CL TCP TCS CF"


@pytest.mark.behaviour("SM-06")
@pytest.mark.parametrize(("times", "expected"), [(1, "CL"), (17, "CF")])
def test_what_an_orderly_consumer_sends_to_the_retry_topic_is_known_by_its_id(
    rig: StatusRig, client: StatusClient, times: int, expected: str
) -> None:
    send(client, "a")
    client.pull()
    properties = {"UNIQ_KEY": "a", "RETRY_TOPIC": TOPIC, "ORIGIN_MESSAGE_ID": "a", "RECONSUME_TIME": str(times)}
    assert client.send(b"a", topic=RETRY_TOPIC, properties=properties, j=times, l=16).code == 0
    assert status(client, "a") == (expected, 1)


@pytest.mark.behaviour("SM-07")
def test_an_acknowledgement_makes_it_exact_although_an_older_message_holds_the_offset_back(
    client: StatusClient,
) -> None:
    send(client, "a", "b", "c", "d")
    client.pull()
    assert acknowledge(client, (1, 3)).code == 0
    assert [status(client, each)[0] for each in "abcd"] == ["TCS", "CS", "CS", "TCS"]
    # Of what does not exist, or is another's, nothing is noted.
    assert acknowledge(client, (-5, 0), (4, 1 << 62)).code == 0
    assert acknowledge(client, (0, 1), topic="nowhere").code == 0
    assert [status(client, each)[0] for each in "abcd"] == ["TCS", "CS", "CS", "TCS"]


@pytest.mark.behaviour("SM-07")
def test_an_acknowledgement_of_a_retried_message_is_one_of_its_origin_and_a_late_one_changes_nothing(
    rig: StatusRig, client: StatusClient
) -> None:
    (sent,) = send(client, "a")
    client.pull()
    send_back(client, sent.ext_fields["msgId"])
    acknowledge(client, (0, 1))
    assert status(client, "a") == ("CL", 1)
    retried(rig, client)
    acknowledge(client, (0, 1), topic=RETRY_TOPIC)
    assert status(client, "a") == ("CS", 2)


@pytest.mark.behaviour("SM-07")
def test_an_acknowledgement_reads_no_more_retried_messages_than_the_bound_says(
    rig: StatusRig, client: StatusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.broker.message_status_manager.RETRIES_PASSED_MAX_COUNT", 5)
    send(client, "1")
    client.pull()
    send(client, *map(str, range(4)), topic=RETRY_TOPIC)
    log, count = rig.controller.commit_log, 0
    read = log.read

    def counted(key: QueueKey, offset: int, wanted: int) -> Any:
        nonlocal count
        rows = read(key, offset, wanted)
        count += len(rows)
        return rows

    monkeypatch.setattr(log, "read", counted)
    body = encode_acknowledgement([(MessageQueue(RETRY_TOPIC, "broker-a", 0), 0, 4)] * 20)
    assert client.ask(UPDATE, {"consumerGroup": GROUP}, body).code == 0
    assert count == 5


@pytest.mark.behaviour("SM-07")
@pytest.mark.parametrize(
    ("group", "body", "code"),
    [
        ("nobody", b'{"consumed":[]}', 26),
        (GROUP, b"", 1),
        (GROUP, b"[]", 1),
        (GROUP, b'{"consumed":[{"topic":"t","queueId":0,"spans":[[1]]}]}', 1),
        (GROUP, b'{"consumed":[{"topic":"t","queueId":"0","spans":[[0,1]]}]}', 1),
        (GROUP, b'{"consumed":[{"topic":"t","queueId":0,"spans":[' + b"[0,1]," * 1_000 + b"[0,1]]}]}", 1),
        (GROUP, b" " * 300_000, 29),
    ],
)
def test_nonsense_is_refused(client: StatusClient, group: str, body: bytes, code: int) -> None:
    assert client.ask(UPDATE, {"consumerGroup": group}, body).code == code


@pytest.mark.behaviour("SM-08")
def test_every_group_has_its_own_and_broadcasting_ones_have_none(rig: StatusRig, client: StatusClient) -> None:
    send(client, "a")
    other, broadcasting = rig.client(), rig.client()
    other.heartbeat(group="other")
    broadcasting.heartbeat(group="all", model="BROADCASTING")
    client.pull()
    broadcasting.pull(consumerGroup="all")
    assert status(client, "a") == ("TCS", 1)
    assert status(client, "a", "other") == ("W", 0)
    assert status(client, "a", "all") == ("W", 0)


@pytest.mark.behaviour("SM-08")
def test_it_is_on_or_off_per_topic_and_heartbeats_are_answered_accordingly(tmp_path: Path) -> None:
    def create(client: Client, topic: str, attributes: str) -> None:
        fields = {
            "topic": topic, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG",
            "attributes": attributes,
        }  # fmt: skip
        assert client.ask(17, fields).code == 0

    for default in (True, False):
        rig = StatusRig(tmp_path / str(default), message_status=default)
        client = rig.client()
        create(client, "on", "+message.status=true")
        create(client, "off", "+message.status=false")
        create(client, "unsaid", "")
        kept = {"on": True, "off": False, "unsaid": default}
        for topic, expected in kept.items():
            announced = client.heartbeat(**{topic: "*"}).ext_fields.get("MESSAGE_STATUS_ACK")
            assert announced == ("true" if expected else None)
            send(client, topic, topic=topic)
            (answer,) = [client.pull(topic=topic)]
            assert (answer.written is not None) is expected
            assert client.ask(QUERY, {"msgId": topic}).code == (0 if expected else 22)
        rig.close()


@pytest.mark.behaviour("SM-09")
@pytest.mark.parametrize("restart", [Rig.reopen, Rig.crash])
def test_what_is_stored_survives_and_what_was_being_written_counts_as_broken(
    rig: StatusRig, client: StatusClient, restart: Any
) -> None:
    (sent, *_) = send(client, "a", "b", "c")
    client.pull(maxMsgNums=1)
    send_back(client, sent.ext_fields["msgId"])
    client.holds = True
    client.pull(1, maxMsgNums=1)
    rig.loop.advance(1_000)
    client.pull(2)  # after the last store
    restart(rig)
    client = rig.client()
    client.heartbeat()
    expected = "TCF" if restart is Rig.reopen else "W"
    assert [status(client, each)[0] for each in "abc"] == ["CL", "TCF", expected]
    acknowledge(client, (1, 3))
    assert [status(client, each)[0] for each in "abc"] == ["CL", "CS", "CS"]
    retried(rig, client)
    assert status(client, "a") == ("TCS", 2)


@pytest.mark.behaviour("SM-15")
def test_what_is_told_of_a_message_is_what_a_crash_leaves_whatever_happens_meanwhile(
    rig: StatusRig, client: StatusClient
) -> None:
    send(client, "a")
    client.holds = True
    client.pull()
    question = client.begin(QUERY, {"msgId": "a"})
    client.tell(written=True)
    rig.loop.run()
    answer = client.answer(question)
    assert answer is not None
    rig.crash()
    ((of_group,), (left,)) = (
        [each for each in body_of(reply)["messages"][0]["groups"] if each["group"] == GROUP]
        for reply in (answer, rig.client().ask(QUERY, {"msgId": "a"}))
    )
    assert of_group["status"] == "TCP"
    assert left["history"][:-1] == of_group["history"] == [{"at": rig.clock.wall_ms(), "attempt": 1, "status": "TCP"}]
    assert left["status"] == "TCF"


@pytest.mark.behaviour("SM-12")
def test_messages_of_a_group_are_listed_by_status_part_by_part(rig: StatusRig, client: StatusClient) -> None:
    rig.create_topic("second", queues=2)
    client.heartbeat(topic="*", second="*")
    ids = [f"id-{number}" for number in range(9)]
    sent = send(client, *ids[:5]) + send(client, *ids[5:7], topic="second", queue_id=1)
    send(client, *ids[7:], topic="second", queue_id=0)
    client.pull()
    client.pull(topic="second", queue_id=1)
    for answer in sent[1::2]:
        send_back(client, answer.ext_fields["msgId"])
    assert listed(client, "CL") == ["id-5", "id-1", "id-3"]
    assert listed(client, "TCS") == ["id-6", "id-0", "id-2", "id-4"]
    assert listed(client, "W") == ["id-7", "id-8"]
    assert listed(client, "CS") == []
    seen: list[str] = []
    cursor: dict[str, object] = {}
    while True:
        answer = body_of(client.ask(QUERY, {"consumerGroup": GROUP, "status": "TCS", "count": 3, **cursor}))
        seen += [message["msgId"] for message in answer["messages"]]
        if "following" not in answer:
            break
        cursor = answer["following"]
    assert seen == listed(client, "TCS")
    assert client.ask(QUERY, {"consumerGroup": GROUP, "status": "X"}).remark == (
        "'X' is no status, those are W, TCP, TCS, TCF, CL, CS, CF"
    )


@pytest.mark.behaviour("SM-12")
def test_a_broker_that_keeps_no_statuses_says_so_instead_of_listing_nothing(tmp_path: Path) -> None:
    rig = StatusRig(tmp_path, message_status=False)
    rig.create_topic()
    client = rig.client()
    client.heartbeat()
    send(client, "a")
    client.pull()
    answer = client.ask(QUERY, {"consumerGroup": GROUP, "status": "CF"})
    assert answer.code == 22
    assert "--message-status" in str(answer.remark)
    kept = {"topic": "kept", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG"}
    assert client.ask(17, {**kept, "attributes": "+message.status=true"}).code == 0
    assert listed(client, "CF") == []
    rig.close()


@pytest.mark.behaviour("SM-12")
def test_a_run_longer_than_an_answer_goes_on_inside(client: StatusClient) -> None:
    ids = [f"{number}" for number in range(5)]
    send(client, *ids)
    client.pull()
    at = Cursor()
    seen: list[str] = []
    for _ in range(3):
        fields = {"consumerGroup": GROUP, "status": "TCS", "count": 2, **cursor_fields(at)}
        answer = body_of(client.ask(QUERY, fields))
        seen += [message["msgId"] for message in answer["messages"]]
        if following := answer.get("following"):
            at = Cursor(following["behindTopic"], 0, following["behindFirst"], following["behindOffset"])
    assert seen == ids


@pytest.mark.behaviour("SM-12")
def test_a_message_is_found_by_the_producers_id_or_the_brokers_each_time_it_was_sent(client: StatusClient) -> None:
    (first,) = send(client, "a")
    send(client, "a")
    client.pull(maxMsgNums=1)
    found = body_of(client.ask(QUERY, {"msgId": "a", "topic": TOPIC}))["messages"]
    assert [(message["queueOffset"], message["groups"][0]["status"]) for message in found] == [(0, "TCS"), (1, "W")]
    (message,) = body_of(client.ask(QUERY, {"msgId": first.ext_fields["msgId"]}))["messages"]
    assert (message["msgId"], message["offsetMsgId"], message["topic"]) == ("a", first.ext_fields["msgId"], TOPIC)
    answer = client.ask(QUERY, {"msgId": "unknown"})
    assert (answer.code, "is the id right" in str(answer.remark)) == (22, True)


@pytest.mark.behaviour("SM-13")
def test_a_deleted_topic_and_a_deleted_group_are_forgotten(rig: StatusRig, client: StatusClient) -> None:
    send(client, "a")
    client.pull()
    commit(client, 1)
    assert client.ask(215, {"topic": TOPIC}).code == 0
    rig.create_topic()
    send(client, "b")
    assert status(client, "b") == ("W", 0)
    client.pull()
    assert status(client, "b") == ("TCS", 1)
    assert client.ask(207, {"groupName": GROUP}).code == 0
    assert listed(client, "TCS") == []
    rig.loop.advance(61_000)
    assert rig.store.statuses.statuses() == []


@pytest.mark.behaviour("SM-13")
def test_there_are_no_more_runs_nor_changes_than_the_bounds_say(
    rig: StatusRig, client: StatusClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rocketmq_py.broker.message_status_manager.RUNS_MAX_COUNT", 3)
    monkeypatch.setattr("rocketmq_py.broker.message_status_manager.HISTORY_MAX_COUNT", 4)
    send(client, *"abcde")
    client.pull()
    acknowledge(client, (1, 2), (3, 4))
    rig.loop.advance(61_000)
    assert [status(client, each)[0] for each in "abcde"] == ["W", "W", "TCS", "CS", "TCS"]
    assert "there are too many" in caplog.text
    assert len(rig.store.statuses.history(QueueKey(TOPIC, 0), 3)) == 3


@pytest.mark.behaviour("SM-09")
def test_statuses_wait_for_the_next_group_of_messages_or_a_second(rig: StatusRig, client: StatusClient) -> None:
    send(client, "a")
    client.pull()
    rig.loop.run()
    assert rig.store.statuses.statuses() == []
    rig.loop.advance(1_000)
    (row,) = rig.store.statuses.statuses()
    assert (row.first, row.end, row.status, row.attempt) == (0, 1, "TCS", 1)
    assert json.loads(json.dumps(told(client, "a")))["passed"] is False


@pytest.mark.behaviour("SM-14")
def test_a_popped_message_is_delivered_put_off_and_acknowledged_by_its_receipt(client: StatusClient) -> None:
    send(client, "a", "b")
    first, second = pop_now(client)
    assert [status(client, each) for each in "ab"] == [("TCS", 1), ("TCS", 1)]
    assert ack(client, first) == 0
    changed = put_off(client, second, 30_000)
    assert [status(client, each) for each in "ab"] == [("CS", 1), ("CL", 1)]
    # Put off and done without another delivery.
    receipt = ExtraInfo.parse(second.get_property("POP_CK"))._replace(
        pop_time=int(changed.ext_fields["popTime"]), invisible_time=30_000
    )
    assert settle(client, ACK, second, str(receipt)).code == 0
    assert story(client, "b") == "TCP TCS CL CS"


@pytest.mark.behaviour("SM-14")
def test_what_is_not_acknowledged_in_time_comes_again_as_the_next_attempt_of_the_same_message(
    rig: StatusRig, client: StatusClient
) -> None:
    send(client, "a")
    (first,) = pop_now(client, invisibleTime=2_000)
    rig.loop.advance(4_000)
    assert status(client, "a") == ("CL", 1)
    (again,) = pop_now(client)
    assert status(client, "a") == ("TCS", 2)
    assert ack(client, first) == 0  # by an old receipt: no effect
    assert status(client, "a") == ("TCS", 2)
    assert ack(client, again) == 0
    assert status(client, "a") == ("CS", 2)
    assert story(client, "a") == "TCP TCS CL TCP TCS CS"


@pytest.mark.behaviour("SM-14")
def test_an_orderly_pop_tells_too_and_a_pop_whose_connection_breaks_is_tcf(client: StatusClient) -> None:
    send(client, "a", "b")
    client.holds = True
    first, _ = pop_now(client, order="true")
    client.tell(written=False)
    assert [status(client, each) for each in "ab"] == [("TCF", 1), ("TCF", 1)]
    client.holds = False
    assert ack(client, first) == 0
    assert [status(client, each) for each in "ab"] == [("CS", 1), ("TCF", 1)]


@pytest.mark.behaviour("SM-12")
def test_others_are_answered_while_many_topics_are_searched_for_an_id(rig: StatusRig) -> None:
    client = rig.client()
    for number in range(100):
        rig.create_topic(f"other-{number}")
    client.send(properties={"UNIQ_KEY": "wanted"})
    order: list[str] = []
    rig.loop.run()
    asked = client.begin(QUERY, {"msgId": "wanted"})

    def look() -> None:
        order.append("found" if client.answer(asked) else "searching")
        if order[-1] == "searching":
            rig.loop.call_soon(look)

    look()
    rig.loop.run()
    assert order.count("searching") > 5
    (message,) = body_of(next(each for each in client.written if each.opaque == asked))["messages"]
    assert message["topic"] == TOPIC


@pytest.mark.behaviour("SM-16")
def test_of_very_many_changes_the_newest_are_told_and_the_last_one_is_found(
    rig: StatusRig, client: StatusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_table, "CHANGES_MAX_COUNT", 5)
    monkeypatch.setattr(status_table, "LAST_MAX_COUNT", 5)
    send(client, "a", "b")
    for _ in range(6):
        client.pull(0, maxMsgNums=1)
        rig.loop.advance(10)
    client.pull(1)
    assert story(client, "a") == "TCS TCP TCS TCP TCS"
    assert story(client, "b") == "TCP TCS"
    since = [each["at"] for each in body_of(client.ask(QUERY, {"consumerGroup": GROUP, "status": "TCS"}))["messages"]]
    assert since == [told(client, each)["history"][-1]["at"] for each in "ab"]


@pytest.mark.behaviour("SM-17")
@pytest.mark.parametrize("how", ["acknowledged", "passed"])
def test_others_are_answered_while_very_many_messages_that_stood_unlike_come_to_stand_alike(
    rig: StatusRig, client: StatusClient, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(message_status_manager, "RUNS_SLICE_COUNT", 4)
    send(client, *(str(number) for number in range(41)))
    for number in range(0, 40, 2):
        client.pull(number, maxMsgNums=1)
    acknowledge(client, *((number, number + 1) for number in range(0, 40, 4)))
    sizes: list[int] = []
    apply = StatusRuns.apply

    def applied(runs: StatusRuns, fact: Fact, first: int, end: int) -> list[Run]:
        changes = apply(runs, fact, first, end)
        sizes.append(len(changes))
        return changes

    monkeypatch.setattr(StatusRuns, "apply", applied)
    if how == "acknowledged":
        span = encode_acknowledgement([(MessageQueue(TOPIC, "broker-a", 0), 0, 41)])
        asked = client.begin(UPDATE, {"consumerGroup": GROUP}, span)
    else:
        asked = client.begin(15, {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0, "commitOffset": 41})
        commit(rig.client(), 41)  # once more meanwhile
    order: list[str] = []
    while rig.loop.turn():
        order.append("others")
    assert (answer := client.answer(asked)) is not None
    assert answer.code == 0
    assert 0 < max(sizes) <= 4 * 2 * 3  # twice as many messages wait between them, each may change three times
    assert len(sizes) >= 5
    assert how == "passed" or len(order) >= 5
    assert len(listed(client, "CS")) == (41 if how == "acknowledged" else 20)
