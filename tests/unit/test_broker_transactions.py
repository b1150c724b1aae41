"""Transactions at the embedded broker: half messages, their ends, and the questions about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import HALF_TOPIC, MAX_TIME_TOPIC, OP_TOPIC
from rocketmq_py.broker.transactional_message_service import TransactionSettings
from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_message_id, decode_messages
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig, found, messages

COMMIT, ROLLBACK, UNKNOWN = 8, 12, 0
CHECK, END = 39, 37
PRODUCERS = "producers"
SETTINGS = TransactionSettings(transaction_time_out=6_000, transaction_check_interval=30_000, transaction_check_max=3)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, transactions=SETTINGS)
    rig.create_topic(queues=2)
    yield rig
    rig.close()


def join(client: Client, group: str = PRODUCERS) -> Client:
    assert client.ask(34, body=bodies.encode_heartbeat("producer", [group], [])).code == 0
    return client


@pytest.fixture
def producer(rig: Rig) -> Client:
    return join(rig.client())


@pytest.fixture
def consumer(rig: Rig) -> Client:
    client = rig.client()
    client.heartbeat()
    return client


def send_half(client: Client, rig: Rig, body: bytes = b"half", **more: Any) -> RemotingCommand:
    named = {"UNIQ_KEY": "the-id", "TRAN_MSG": "true", "PGROUP": PRODUCERS, "TAGS": "T", **more.pop("properties", {})}
    answer = client.send(body, queue_id=1, properties=named, f=4, g=rig.clock.wall_ms(), **more)
    assert answer.code == 0, answer
    return answer


def end_fields(sent: RemotingCommand, outcome: int, **more: Any) -> dict[str, object]:
    return {
        "producerGroup": PRODUCERS,
        "tranStateTableOffset": sent.ext_fields["queueOffset"],
        "commitLogOffset": decode_message_id(sent.ext_fields["msgId"])[2],
        "commitOrRollback": outcome,
        "fromTransactionCheck": "false",
        "msgId": "the-id",
        **more,
    }


def end(client: Client, sent: RemotingCommand, outcome: int, **more: Any) -> RemotingCommand:
    return client.ask(END, end_fields(sent, outcome, **more))


def questions(client: Client) -> list[tuple[RemotingCommand, MessageExt]]:
    return [(asked, decode_messages(asked.body)[0]) for asked in client.pushed(CHECK)]


def answer_question(client: Client, asked: RemotingCommand, outcome: int) -> RemotingCommand:
    fields = {name: asked.ext_fields[name] for name in ("tranStateTableOffset", "commitLogOffset", "msgId")}
    return client.ask(
        END, {**fields, "producerGroup": PRODUCERS, "commitOrRollback": outcome, "fromTransactionCheck": "true"}
    )


def delivered(client: Client, queue_id: int = 1) -> list[bytes]:
    answer = client.pull(queue_id=queue_id)
    return found(answer)[1] if answer.code == 0 else []


def ends_of(rig: Rig, topic: str) -> int:
    return rig.controller.commit_log.max_offset(QueueKey(topic, 0))


@pytest.mark.behaviour("ET-01")
def test_a_half_message_is_seen_by_nobody_until_it_is_committed(rig: Rig, producer: Client, consumer: Client) -> None:
    sent = send_half(producer, rig)
    assert sent.ext_fields["queueId"] == "1"
    assert sent.ext_fields["transactionId"] == "the-id"
    assert delivered(consumer) == []
    assert end(producer, sent, COMMIT).code == 0
    (message,) = messages(consumer.pull(queue_id=1))
    assert (message.body, message.queue_offset, message.tags) == (b"half", 0, "T")
    assert message.sys_flag & 0xC == COMMIT
    assert message.prepared_transaction_offset == decode_message_id(sent.ext_fields["msgId"])[2]
    properties = message.properties
    assert properties["__transactionId__"] == properties["UNIQ_KEY"] == "the-id"
    assert properties["PGROUP"] == PRODUCERS
    assert not {"REAL_TOPIC", "REAL_QID", "DELAY"} & set(properties)
    assert (ends_of(rig, HALF_TOPIC), ends_of(rig, OP_TOPIC)) == (1, 1)


@pytest.mark.behaviour("ET-01")
def test_consumers_are_told_the_transaction_of_a_committed_message_also_when_it_comes_again(
    rig: Rig, producer: Client, consumer: Client
) -> None:
    end(producer, send_half(producer, rig), COMMIT)
    (message,) = messages(consumer.pull(queue_id=1))
    assert message.transaction_id == "the-id"
    fields = {"offset": message.commit_log_offset, "group": GROUP, "delayLevel": 1}
    assert consumer.ask(36, fields).code == 0
    rig.loop.advance(1_000)
    consumer.heartbeat(**{TOPIC: "*", f"%RETRY%{GROUP}": "*"})
    (retried,) = messages(consumer.pull(topic=f"%RETRY%{GROUP}"))
    assert (retried.body, retried.transaction_id) == (b"half", "the-id")
    assert ends_of(rig, HALF_TOPIC) == 1


@pytest.mark.behaviour("ET-01")
def test_a_pull_that_waits_gets_a_committed_message_at_once(rig: Rig, producer: Client, consumer: Client) -> None:
    sent = send_half(producer, rig)
    pull = consumer.begin(11, consumer.pull_fields(queue_id=1, sysFlag=2))
    rig.loop.run()
    assert consumer.answer(pull) is None
    end(producer, sent, COMMIT)
    answer = consumer.answer(pull)
    assert answer is not None
    assert found(answer)[1] == [b"half"]


@pytest.mark.behaviour("ET-01")
def test_a_half_message_that_is_rolled_back_is_never_delivered(rig: Rig, producer: Client, consumer: Client) -> None:
    sent = send_half(producer, rig)
    assert end(producer, sent, ROLLBACK).code == 0
    assert end(producer, sent, COMMIT).code == 0
    rig.loop.advance(300_000)
    assert delivered(consumer) == []
    assert questions(producer) == []


@pytest.mark.behaviour("ET-02")
def test_an_end_that_is_told_twice_delivers_once(rig: Rig, producer: Client, consumer: Client) -> None:
    sent = send_half(producer, rig)
    assert [end(producer, sent, outcome).code for outcome in (COMMIT, COMMIT, ROLLBACK)] == [0, 0, 0]
    assert delivered(consumer) == [b"half"]


@pytest.mark.behaviour("ET-03")
def test_ends_that_do_not_fit_their_half_message_are_refused(rig: Rig, producer: Client, consumer: Client) -> None:
    normal = producer.send(b"no half message")
    sent = send_half(producer, rig)
    remarks: dict[str, dict[str, Any]] = {
        "The producer group wrong": {"producerGroup": "others"},
        "The transaction state table offset wrong": {"tranStateTableOffset": 7},
        "Find prepared transaction message failed": {"commitLogOffset": 4_711},
    }
    for remark, fields in remarks.items():
        answer = end(producer, sent, COMMIT, **fields)
        assert (answer.code, answer.remark) == (1, remark)
    assert end(producer, normal, COMMIT).remark == "Find prepared transaction message failed"
    opaque = producer.begin(END, end_fields(sent, UNKNOWN))
    rig.loop.run()
    assert producer.answer(opaque) is None
    assert delivered(consumer) == []


@pytest.mark.behaviour("ET-04")
def test_a_producer_is_asked_after_the_time_out_and_then_once_per_round(
    rig: Rig, producer: Client, consumer: Client
) -> None:
    rig.loop.advance(25_000)
    sent = send_half(producer, rig, b"compressed", properties={"own": "value"})
    rig.loop.advance(5_000)
    assert questions(producer) == []  # 5 s old in the first round
    rig.loop.advance(30_000)
    ((asked, message),) = questions(producer)
    assert asked.is_oneway
    assert (message.topic, message.queue_id, message.body) == (TOPIC, 1, b"compressed")
    assert (message.get_property("own"), message.get_property("TRANSACTION_CHECK_TIMES")) == ("value", "1")
    assert message.transaction_id == asked.ext_fields["transactionId"] == asked.ext_fields["msgId"] == "the-id"
    assert asked.ext_fields["offsetMsgId"] == message.offset_msg_id != sent.ext_fields["msgId"]
    assert asked.ext_fields["tranStateTableOffset"] == str(message.queue_offset)
    assert (asked.ext_fields["topic"], asked.ext_fields["bname"]) == (HALF_TOPIC, "broker-a")
    rig.loop.advance(30_000)
    assert len(questions(producer)) == 2
    assert answer_question(producer, questions(producer)[1][0], COMMIT).code == 0
    assert delivered(consumer) == [b"compressed"]
    rig.loop.advance(300_000)
    assert len(questions(producer)) == 2


@pytest.mark.behaviour("ET-02")
def test_an_end_that_names_an_older_copy_ends_the_transaction_too(rig: Rig, producer: Client, consumer: Client) -> None:
    sent = send_half(producer, rig)
    rig.loop.advance(60_000)
    first, second = [asked for asked, _ in questions(producer)]
    assert end(producer, sent, COMMIT).code == 0
    for asked in (first, second):
        assert answer_question(producer, asked, COMMIT).code == 0
    assert delivered(consumer) == [b"half"]
    rig.loop.advance(300_000)
    assert len(questions(producer)) == 2


@pytest.mark.behaviour("ET-05")
def test_after_too_many_questions_the_message_goes_where_operators_find_it(
    rig: Rig, producer: Client, consumer: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sent = send_half(producer, rig)
    rig.loop.advance(150_000)
    assert [message.get_property("TRANSACTION_CHECK_TIMES") for _, message in questions(producer)] == ["1", "2", "3"]
    consumer.heartbeat(topic="*", **{MAX_TIME_TOPIC: "*"})
    (given_up,) = messages(consumer.pull(topic=MAX_TIME_TOPIC))
    assert (given_up.body, given_up.get_property("REAL_TOPIC")) == (b"half", TOPIC)
    assert "nobody answered for the half message the-id of producer group producers" in caplog.text
    assert end(producer, sent, COMMIT).code == 0
    assert delivered(consumer) == []


@pytest.mark.behaviour("ET-06")
def test_a_message_may_say_for_how_long_nobody_is_to_be_asked_and_is_then_bound_to_it(
    rig: Rig, producer: Client, consumer: Client
) -> None:
    sent = send_half(producer, rig, properties={"CHECK_IMMUNITY_TIME_IN_SECONDS": "40"})
    rig.loop.advance(30_000)
    assert questions(producer) == []
    rig.loop.advance(30_000)
    ((asked, _),) = questions(producer)
    answer = end(producer, sent, COMMIT)
    assert (answer.code, answer.remark) == (604, "too late by 20000 ms, the producer is asked")
    assert delivered(consumer) == []
    assert answer_question(producer, asked, COMMIT).code == 0
    assert delivered(consumer) == [b"half"]


@pytest.mark.behaviour("ET-06")
@pytest.mark.parametrize("text", ["-1", "nonsense", "1e3"])
def test_an_immunity_that_is_none_is_the_brokers(rig: Rig, producer: Client, text: str) -> None:
    send_half(producer, rig, properties={"CHECK_IMMUNITY_TIME_IN_SECONDS": text})
    rig.loop.advance(30_000)
    assert len(questions(producer)) == 1


@pytest.mark.behaviour("ET-04")
def test_another_member_of_the_group_is_asked_when_the_producer_is_gone(rig: Rig, producer: Client) -> None:
    send_half(producer, rig)
    rig.controller.on_close(producer)
    rig.loop.advance(30_000)
    other = join(rig.client())
    stranger = join(rig.client(), "others")
    rig.loop.advance(30_000)
    assert len(questions(other)) == 1
    assert questions(stranger) == questions(producer) == []


@pytest.mark.behaviour("ET-07")
@pytest.mark.parametrize("restart", [Rig.reopen, Rig.crash])
def test_open_transactions_and_their_counts_survive_a_restart_and_ended_ones_stay_ended(
    rig: Rig, producer: Client, restart: Any
) -> None:
    open_one = send_half(producer, rig, b"open")
    committed = send_half(producer, rig, b"committed")
    rolled_back = send_half(producer, rig, b"rolled back")
    end(producer, committed, COMMIT)
    end(producer, rolled_back, ROLLBACK)
    rig.loop.advance(30_000)
    restart(rig)
    producer, consumer = join(rig.client()), rig.client()
    consumer.heartbeat()
    assert delivered(consumer) == [b"committed"]
    for sent in (committed, rolled_back):
        assert end(producer, sent, COMMIT).code == 0
    assert delivered(consumer) == [b"committed"]
    rig.loop.advance(30_000)
    ((asked, message),) = questions(producer)
    assert (message.body, message.get_property("TRANSACTION_CHECK_TIMES")) == (b"open", "2")
    restart(rig)
    producer, consumer = join(rig.client()), rig.client()
    consumer.heartbeat()
    assert end(producer, open_one, COMMIT).code == 0
    assert delivered(consumer) == [b"committed", b"open"]
    assert answer_question(producer, asked, COMMIT).code == 0
    restart(rig)
    producer = join(rig.client())
    rig.loop.advance(300_000)
    assert questions(producer) == []


@pytest.mark.behaviour("ET-07")
def test_what_is_decided_is_not_read_again_at_the_next_start(rig: Rig, producer: Client) -> None:
    for number in range(3):
        end(producer, send_half(producer, rig, b"%d" % number), COMMIT)
    rig.loop.advance(32_000)
    offsets = rig.controller._offsets
    assert [offsets.query_offset("CID_RMQ_SYS_TRANS", QueueKey(topic, 0)) for topic in (HALF_TOPIC, OP_TOPIC)] == [3, 3]


@pytest.mark.behaviour("ET-07")
def test_a_half_message_stays_until_it_is_decided_however_old_it_is(tmp_path: Path) -> None:
    rig = Rig(tmp_path, transactions=SETTINGS, reserved_ms=60_000)
    rig.create_topic(queues=2)
    producer = join(rig.client())
    sent = send_half(producer, rig, properties={"CHECK_IMMUNITY_TIME_IN_SECONDS": "86400"})
    decided = send_half(producer, rig)
    end(producer, decided, ROLLBACK)
    rig.loop.advance(600_000)
    first = QueueKey(HALF_TOPIC, 0)
    assert rig.controller.commit_log.min_offset(first) == 0
    join(producer)
    assert end(producer, sent, COMMIT).code == 0
    rig.loop.advance(600_000)
    assert rig.controller.commit_log.min_offset(first) == 2
    rig.close()


@pytest.mark.behaviour("ET-08")
def test_many_open_transactions_are_asked_about_slice_by_slice(
    rig: Rig, producer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.broker.transactional_message_service.SLICE_MAX_COUNT", 2)
    count = 5
    for number in range(count):
        send_half(producer, rig, b"%d" % number)
    rig.loop.advance(30_000)
    assert sorted(int(message.body) for _, message in questions(producer)) == list(range(count))


@pytest.mark.behaviour("ET-08")
def test_half_messages_that_cannot_be_are_refused(rig: Rig, producer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = producer.send(b"x", f=4)
    assert (answer.code, answer.remark) == (13, "a half message has the property TRAN_MSG, this one has not")
    assert producer.send(b"x", topic=HALF_TOPIC).code == 29
    batch = producer.send(b"", properties={"TRAN_MSG": "true", "UNIQ_KEY": "x"}, m="true")
    assert batch.code == 13
    monkeypatch.setattr("rocketmq_py.broker.transactional_message_service.OPEN_MAX_COUNT", 1)
    send_half(producer, rig)
    refused = producer.send(b"x", properties={"TRAN_MSG": "true", "UNIQ_KEY": "x", "PGROUP": PRODUCERS}, f=4)
    assert (refused.code, refused.remark) == (2, "1 transactions are open, try again later")


@pytest.mark.behaviour("ET-08")
def test_what_a_producer_says_of_questions_that_the_broker_asks_is_not_believed(
    rig: Rig, producer: Client, consumer: Client
) -> None:
    first = send_half(producer, rig, b"first")
    send_half(
        producer, rig, b"second",
        properties={"TRAN_PREPARED_QUEUE_OFFSET": "0", "TRANSACTION_CHECK_TIMES": "99", "DELAY": "3"},
    )  # fmt: skip
    assert end(producer, first, COMMIT).code == 0
    rig.loop.advance(30_000)
    ((asked, message),) = questions(producer)
    assert (message.body, message.get_property("TRANSACTION_CHECK_TIMES")) == (b"second", "1")
    answer_question(producer, asked, COMMIT)
    assert delivered(consumer) == [b"first", b"second"]
