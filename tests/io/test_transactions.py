"""A transactional producer against a broker that asks what a test says."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rocketmq_py import (
    ConfigError,
    LocalTransactionState,
    Message,
    SendStatus,
    TransactionMQProducer,
    transaction_producer,
)
from rocketmq_py.errors import BrokerError
from tests.io.cluster import SEND_V2, TOPIC, Cluster
from tests.io.conftest import MakeCluster, MakeProducer
from tests.io.server import Peer, Seen, encode_ask, eventually, stays, stored_message

END, CHECK = 37, 39
COMMIT, ROLLBACK, UNKNOW = LocalTransactionState
PREPARED = 4


class Listener:
    """Answers ``answer``; raises it when it is an exception."""

    def __init__(self, answer: Any = COMMIT) -> None:
        self.answer = answer
        self.executed: list[Message] = []
        self.checked: list[Any] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def execute_local_transaction(self, msg: Message, arg: Any) -> Any:
        self.executed.append(msg)
        return self._answer()

    def check_local_transaction(self, msg: Any) -> Any:
        self.checked.append(msg)
        self.go_on.wait(10)
        return self._answer()

    def _answer(self) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def start(make_producer: MakeProducer, cluster: Cluster, listener: Any, **settings: Any) -> TransactionMQProducer:
    producer = make_producer(cluster, TransactionMQProducer, transaction_listener=listener, **settings)
    assert isinstance(producer, TransactionMQProducer)
    return producer


def ends(cluster: Cluster) -> list[Seen]:
    return [seen for seen in cluster.broker.seen if seen.code == END]


def ask(cluster: Cluster, group: str = "producers", offset: int = 5, **properties: str) -> None:
    """Ask about a half message as brokers do: one-way."""
    named = {"UNIQ_KEY": "the-id", "TRAN_MSG": "true", **({"PGROUP": group} if group else {}), **properties}
    fields = {
        "topic": "RMQ_SYS_TRANS_HALF_TOPIC",
        "tranStateTableOffset": str(offset),
        "commitLogOffset": str(4096 + offset),
        "msgId": "the-id",
        "transactionId": "the-id",
        "bname": "broker-a",
    }
    body = stored_message(offset, b"half", properties=named)
    cluster.broker.peers[-1].send(encode_ask(CHECK, 7, fields, oneway=True, body=body))


@pytest.mark.behaviour("TX-01")
@pytest.mark.parametrize(("state", "number"), [(COMMIT, "8"), (ROLLBACK, "12"), (UNKNOW, "0")])
def test_a_half_message_is_marked_and_its_end_names_it(
    state: LocalTransactionState, number: str, make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    offset_msg_id = "7F00000100002A9F0000000000001234"
    fields = {"msgId": offset_msg_id, "queueId": "0", "queueOffset": "17", "transactionId": "tx"}
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, fields=fields)
    listener = Listener(state)
    producer = start(make_producer, cluster, listener)
    mine = Message(TOPIC, b"body", delay_time_level=3)
    sent = producer.send_message_in_transaction(mine)
    (half,) = [seen for seen in cluster.broker.seen if seen.code == SEND_V2]
    assert int(half.fields["f"]) & PREPARED
    assert "TRAN_MSG\x01true\x02" in half.fields["i"]
    assert "PGROUP\x01producers\x02" in half.fields["i"]
    assert "DELAY" not in half.fields["i"]
    assert eventually(lambda: ends(cluster))
    (end,) = ends(cluster)
    assert end.oneway
    assert end.fields == {
        "topic": TOPIC,
        "producerGroup": "producers",
        "tranStateTableOffset": "17",
        "commitLogOffset": str(0x1234),
        "commitOrRollback": number,
        "fromTransactionCheck": "false",
        "msgId": sent.msg_id,
        "transactionId": "tx",
        "bname": "broker-a",
    }
    assert (sent.local_transaction_state, sent.transaction_id, sent.queue_offset) == (state, "tx", 17)
    assert listener.executed[0].transaction_id == sent.msg_id
    assert listener.executed[0].get_property("__transactionId__") == "tx"
    assert mine.properties == {"DELAY": "3", "WAIT": "true"}


@pytest.mark.behaviour("TX-04")
def test_a_message_that_was_not_stored_well_is_rolled_back_without_running_the_local_transaction(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    fields = {"msgId": "7F00000100002A9F0000000000001234", "queueId": "0", "queueOffset": "17"}
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, 12, fields)
    listener = Listener()
    sent = start(make_producer, cluster, listener).send_message_in_transaction(Message(TOPIC, b"body"))
    assert (sent.send_status, sent.local_transaction_state) == (SendStatus.FLUSH_SLAVE_TIMEOUT, ROLLBACK)
    assert listener.executed == []
    assert eventually(lambda: ends(cluster))
    assert ends(cluster)[0].fields["commitOrRollback"] == "12"


@pytest.mark.behaviour("TX-04")
def test_an_error_of_the_local_transaction_is_told_to_the_broker_as_a_remark(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    listener = Listener(ValueError("x" * 5_000))
    sent = start(make_producer, cluster, listener).send_message_in_transaction(Message(TOPIC, b"body"))
    assert sent.local_transaction_state is UNKNOW
    assert eventually(lambda: ends(cluster))
    (end,) = ends(cluster)
    assert end.fields["commitOrRollback"] == "0"
    assert end.remark is not None
    assert end.remark.startswith("executeLocalTransactionBranch exception: ValueError('xxx")
    assert len(end.remark) == 1_000


@pytest.mark.behaviour("TX-04")
def test_when_the_broker_refuses_the_half_message_or_cannot_be_told_the_end(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    listener = Listener()
    producer = start(make_producer, cluster, listener)
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(seen, 13, remark="illegal")
    with pytest.raises(BrokerError, match="illegal"):
        producer.send_message_in_transaction(Message(TOPIC, b"body"))
    assert listener.executed == []
    # No id that names the half message: it was stored all the same, and the broker will ask.
    cluster.scripts[SEND_V2] = lambda peer, seen: peer.reply(
        seen, fields={"msgId": "nonsense", "queueId": "0", "queueOffset": "1"}
    )
    assert producer.send_message_in_transaction(Message(TOPIC, b"body")).local_transaction_state is COMMIT
    assert ends(cluster) == []


@pytest.mark.behaviour("TX-02")
@pytest.mark.parametrize(
    ("answer", "number"),
    [(COMMIT, "8"), (ROLLBACK, "12"), (UNKNOW, "0"), (None, "0"), ("COMMIT_MESSAGE", "0"), (ValueError("no"), "0")],
    ids=repr,
)
def test_a_question_is_answered_by_what_the_listener_says(
    answer: Any, number: str, make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    listener = Listener(answer)
    producer = start(make_producer, cluster, listener)
    producer.send(Message(TOPIC, b"connects"))
    ask(cluster)
    assert eventually(lambda: ends(cluster))
    (end,) = ends(cluster)
    assert end.fields == {
        "topic": "RMQ_SYS_TRANS_HALF_TOPIC",
        "producerGroup": "producers",
        "tranStateTableOffset": "5",
        "commitLogOffset": "4101",
        "commitOrRollback": number,
        "fromTransactionCheck": "true",
        "msgId": "the-id",
        "transactionId": "the-id",
        "bname": "broker-a",
    }
    assert (listener.checked[0].body, listener.checked[0].transaction_id) == (b"half", "the-id")
    failed = isinstance(answer, Exception)
    assert end.remark == ("checkLocalTransactionState Exception: ValueError('no')" if failed else None)


@pytest.mark.behaviour("TX-02")
def test_a_listener_that_wants_to_end_the_process_does_not_know_and_is_asked_again(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = start(make_producer, cluster, Listener(SystemExit("no")))
    producer.send(Message(TOPIC, b"connects"))
    ask(cluster)
    assert eventually(lambda: len(ends(cluster)) == 1)
    ask(cluster)
    assert eventually(lambda: len(ends(cluster)) == 2)
    assert {end.fields["commitOrRollback"] for end in ends(cluster)} == {"0"}


@pytest.mark.behaviour("TX-05")
def test_questions_wait_for_a_thread_and_those_beyond_the_bound_are_dropped(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    listener = Listener()
    listener.go_on.clear()
    producer = start(make_producer, cluster, listener, check_request_hold_max=2)
    producer.send(Message(TOPIC, b"connects"))
    ask(cluster, offset=1)
    assert eventually(lambda: len(listener.checked) == 1)
    for offset in range(2, 6):
        ask(cluster, offset=offset)
    assert producer.send(Message(TOPIC, b"the connection goes on")).queue_offset == 0
    assert len(listener.checked) == 1
    listener.go_on.set()
    assert eventually(lambda: len(ends(cluster)) == 3)
    assert stays(lambda: len(ends(cluster)) == 3, 0.3)
    assert [end.fields["tranStateTableOffset"] for end in ends(cluster)] == ["1", "2", "3"]


@pytest.mark.behaviour("TX-05")
def test_questions_are_dropped_while_too_many_bytes_of_messages_wait(
    make_cluster: MakeCluster, make_producer: MakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_producer, "CHECKS_WAITING_MAX_BYTES", 1)
    cluster = make_cluster()
    listener = Listener()
    listener.go_on.clear()
    producer = start(make_producer, cluster, listener)
    producer.send(Message(TOPIC, b"connects"))
    ask(cluster, offset=1)
    assert eventually(lambda: len(listener.checked) == 1)
    for offset in range(2, 6):
        ask(cluster, offset=offset)
    assert producer.send(Message(TOPIC, b"the connection goes on")).queue_offset == 0
    listener.go_on.set()
    assert eventually(lambda: len(ends(cluster)) == 2)
    ask(cluster, offset=6)
    assert eventually(lambda: len(ends(cluster)) == 3)
    assert [end.fields["tranStateTableOffset"] for end in ends(cluster)] == ["1", "2", "6"]


@pytest.mark.behaviour("TX-05")
def test_questions_for_nobody_nonsense_and_those_to_a_producer_without_a_listener_are_not_answered(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = start(make_producer, cluster, None)
    producer.send(Message(TOPIC, b"connects"))
    ask(cluster)
    ask(cluster, group="others")
    ask(cluster, group="")
    cluster.broker.peers[-1].send(encode_ask(CHECK, 8, {}, oneway=True, body=b"nonsense"))
    cluster.broker.peers[-1].send(encode_ask(CHECK, 8, {}, oneway=True))
    assert stays(lambda: ends(cluster) == [], 0.3)
    producer.send(Message(TOPIC, b"the connection goes on"))
    listener = Listener()
    producer.transaction_listener = listener
    ask(cluster)
    assert eventually(lambda: ends(cluster))


@pytest.mark.behaviour("TX-05")
def test_a_question_while_the_producer_ends_hurts_nobody(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    listener = Listener()
    listener.go_on.clear()
    producer = start(make_producer, cluster, listener)
    producer.send(Message(TOPIC, b"connects"))
    ask(cluster)
    assert eventually(lambda: listener.checked)
    producer.shutdown()
    listener.go_on.set()
    assert stays(lambda: ends(cluster) == [], 0.2)


@pytest.mark.behaviour("TX-06")
def test_wrong_settings_and_listeners_are_refused(make_cluster: MakeCluster, make_producer: MakeProducer) -> None:
    cluster = make_cluster()
    with pytest.raises(ConfigError, match="has the method execute_local_transaction"):
        start(make_producer, cluster, object())
    with pytest.raises(ConfigError, match=r"is an object, not a class: write Listener\(...\)"):
        start(make_producer, cluster, Listener)
    with pytest.raises(ConfigError, match="check_thread_pool_max_size Out of range"):
        start(make_producer, cluster, Listener(), check_thread_pool_max_size=0)
    with pytest.raises(ConfigError, match="check_thread_pool_min_size Out of range"):
        start(make_producer, cluster, Listener(), check_thread_pool_min_size=2)
    with pytest.raises(ConfigError, match="check_request_hold_max Out of range"):
        start(make_producer, cluster, Listener(), check_request_hold_max=0)
    with pytest.raises(ConfigError, match="did you mean send_msg_timeout"):
        TransactionMQProducer("producers", send_timeout=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="did you mean transaction_listener"):
        TransactionMQProducer("producers", listener=Listener())  # type: ignore[call-arg]
    producer = start(make_producer, cluster, None)
    with pytest.raises(ConfigError, match="TransactionListener is null"):
        producer.send_message_in_transaction(Message(TOPIC, b"body"))
    producer.transaction_listener = Listener()
    with pytest.raises(ConfigError, match="is one Message, not list"):
        producer.send_message_in_transaction([Message(TOPIC, b"body")])  # type: ignore[arg-type]
    assert repr(producer) == "<TransactionMQProducer producers running>"


@pytest.mark.behaviour("TX-03")
def test_a_heartbeat_precedes_the_first_half_message_so_that_the_broker_can_ask(
    make_cluster: MakeCluster, make_producer: MakeProducer
) -> None:
    cluster = make_cluster()
    producer = start(make_producer, cluster, Listener(), heartbeat_broker_interval=600_000)
    order: list[int] = []

    def note(peer: Peer, seen: Seen) -> bool:
        order.append(seen.code)
        return False

    cluster.scripts[34] = cluster.scripts[SEND_V2] = note
    for _ in range(2):
        producer.send_message_in_transaction(Message(TOPIC, b"body"))
    assert order[:2] == [34, SEND_V2]
