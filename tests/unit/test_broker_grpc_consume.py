"""The RPCs of the embedded broker, on a virtual clock: what consumers do."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.message import MessageExt
from tests.unit.broker_rig import GROUP, TOPIC, body_of, messages
from tests.unit.grpc_rig import GrpcClient, GrpcRig, message


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GrpcRig]:
    made = GrpcRig(tmp_path)
    made.put_topic()
    yield made
    made.close()


@pytest.fixture
def client(rig: GrpcRig) -> GrpcClient:
    made = rig.grpc_client()
    made.settings(made.consumer_settings())
    return made


def send(rig: GrpcRig, *bodies: bytes, **system: Any) -> None:
    producer = rig.grpc_client("producer")
    for body in bodies:
        answer = producer.send(message(body, message_id=body.decode(), **system))
        assert answer.status.code == pb.OK, answer


def dead(rig: GrpcRig) -> list[MessageExt]:
    consumer = rig.client()
    consumer.heartbeat(client_id="undertaker", group="undertakers", **{f"%DLQ%{GROUP}": "*"})
    return messages(consumer.pull(topic=f"%DLQ%{GROUP}", consumerGroup="undertakers"))


# Receiving.


@pytest.mark.behaviour("GS-12")
def test_a_received_message_has_all_that_clients_look_at(rig: GrpcRig, client: GrpcClient) -> None:
    sent = message(b"hello", tag="TagA", keys=["k1", "k2"], properties={"colour": "red"}, trace_context="trace")
    sent.system_properties.born_timestamp.FromMilliseconds(1_234)
    rig.grpc_client("producer").send(sent)
    polling = client.receive()
    (got,) = polling.messages
    assert (got.topic.name, got.body, dict(got.user_properties)) == (TOPIC, b"hello", {"colour": "red"})
    system = got.system_properties
    assert (system.message_id, system.tag, list(system.keys)) == ("id", "TagA", ["k1", "k2"])
    assert (system.body_digest.type, system.body_digest.checksum) == (pb.MD5, "5D41402ABC4B2A76B9719D911017C592")
    assert (system.body_encoding, system.message_type) == (pb.IDENTITY, pb.NORMAL)
    assert (system.born_timestamp.ToMilliseconds(), system.born_host) == (1_234, "10.0.0.1:999")
    assert (system.store_timestamp.ToMilliseconds(), system.store_host) == (rig.clock.wall_ms(), "127.0.0.1:10911")
    assert (system.queue_id, system.queue_offset, system.delivery_attempt) == (0, 0, 1)
    assert system.trace_context == "trace"
    assert system.receipt_handle
    assert not system.HasField("message_group")


@pytest.mark.behaviour("GS-12")
def test_a_compressed_body_goes_out_as_it_is_stored(rig: GrpcRig, client: GrpcClient) -> None:
    packed = zlib.compress(b"hello" * 100)
    rig.client().send(packed, f=0x301)
    (got,) = client.receive().messages
    assert (got.body, got.system_properties.body_encoding) == (packed, pb.GZIP)


@pytest.mark.behaviour("GS-13")
def test_a_poll_waits_for_a_message_and_no_longer_than_asked(rig: GrpcRig, client: GrpcClient) -> None:
    polling = client.receive(poll_ms=10_000)
    rig.loop.advance(9_000)
    assert not polling.is_over
    send(rig, b"late")
    assert polling.bodies == [b"late"]
    empty = client.receive(poll_ms=10_000)
    rig.loop.advance(9_500)
    assert not empty.is_over
    rig.loop.advance(600)
    assert empty.code == pb.MESSAGE_NOT_FOUND


@pytest.mark.behaviour("GS-13")
@pytest.mark.parametrize(("asked", "waits"), [(1_000, 5_000), (60_000, 20_000), (None, 20_000)])
def test_a_poll_waits_between_five_and_twenty_seconds(
    rig: GrpcRig, client: GrpcClient, asked: int | None, waits: int
) -> None:
    polling = client.receive(poll_ms=asked)
    rig.loop.advance(waits - 500)
    assert not polling.is_over
    rig.loop.advance(1_000)
    assert polling.code == pb.MESSAGE_NOT_FOUND


@pytest.mark.behaviour("GS-14")
@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"topic": "missing"}, pb.TOPIC_NOT_FOUND),
        ({"topic": ""}, pb.ILLEGAL_TOPIC),
        ({"group": ""}, pb.ILLEGAL_CONSUMER_GROUP),
        ({"expression": "||"}, pb.ILLEGAL_FILTER_EXPRESSION),
        ({"batch": 0}, pb.BAD_REQUEST),
        ({"invisible_ms": 9_999}, pb.ILLEGAL_INVISIBLE_TIME),
        ({"invisible_ms": 12 * 3_600_000 + 1}, pb.ILLEGAL_INVISIBLE_TIME),
    ],
)
def test_a_poll_that_makes_no_sense_is_refused(client: GrpcClient, more: Any, code: pb.Code) -> None:
    polling = client.receive(**more)
    assert polling.code == code
    assert len(polling.frames) == 2


@pytest.mark.behaviour("GS-14")
@pytest.mark.parametrize(("version", "code"), [("5.1.2", pb.ILLEGAL_POLLING_TIME), ("5.0.2", pb.BAD_REQUEST)])
def test_a_deadline_that_is_too_short_for_a_poll_is_told_as_the_client_knows_it(
    rig: GrpcRig, client: GrpcClient, version: str, code: pb.Code
) -> None:
    client.context = replace(client.context, client_version=version, remaining_ms=4_999)
    assert client.receive().code == code
    client.context = replace(client.context, remaining_ms=6_000)
    polling = client.receive()
    rig.loop.advance(6_100)
    assert polling.code == pb.MESSAGE_NOT_FOUND


@pytest.mark.behaviour("GS-14")
def test_messages_are_renewed_only_for_clients_that_told_their_settings(rig: GrpcRig) -> None:
    send(rig, b"1")
    stranger = rig.grpc_client("stranger")
    assert stranger.receive().code == pb.UNRECOGNIZED_CLIENT_TYPE
    assert stranger.receive(invisible_ms=10_000).bodies == [b"1"]


@pytest.mark.behaviour("GS-15")
def test_messages_whose_tag_only_looks_alike_are_acknowledged_for_the_group(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1", tag="Aa")  # the hash of BB
    send(rig, b"2", tag="BB")
    assert client.receive(expression="BB", invisible_ms=10_000).bodies == [b"2"]
    rig.loop.advance(11_000)
    assert [got.body for got in receive_all(rig, client)] == [b"2"], "the other one does not come back"


def receive_all(rig: GrpcRig, client: GrpcClient, **more: Any) -> list[pb.Message]:
    polling = client.receive(**more)
    rig.loop.advance(20_000)
    return [frame.message for frame in polling.frames if frame.HasField("message")]


@pytest.mark.behaviour("GS-15")
def test_an_sql_expression_filters_and_one_that_cannot_be_read_is_told(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1", properties={"price": "5"})
    send(rig, b"2", properties={"price": "50"})
    assert client.receive(kind=pb.SQL, expression="price > 10").bodies == [b"2"]
    for wrong in ("", "price >"):
        assert client.receive(kind=pb.SQL, expression=wrong).code == pb.ILLEGAL_FILTER_EXPRESSION


@pytest.mark.behaviour("GS-16")
def test_a_poll_that_is_given_up_takes_no_message(rig: GrpcRig, client: GrpcClient) -> None:
    polling = client.receive()
    polling.cancel()
    send(rig, b"1")
    assert not polling.is_over
    assert client.receive().bodies == [b"1"]


@pytest.mark.behaviour("GS-16")
def test_what_could_not_be_written_goes_to_others_soon_and_is_no_attempt(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1", b"2")
    polling = client.receive()
    assert len(polling.messages) == 2
    polling.lose(2)  # the second message and the last frame
    (again,) = receive_all(rig, client)
    assert (again.body, again.system_properties.delivery_attempt) == (b"2", 1)


# Settling.


@pytest.mark.behaviour("GS-17")
def test_an_acknowledged_message_does_not_come_back(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1", b"2")
    first, _ = client.receive().messages
    assert client.ack(first).status.code == pb.OK
    assert client.ack(first).status.code == pb.OK, "once more is no error"
    client.terminate()
    client.settings(client.consumer_settings())
    (again,) = receive_all(rig, client)
    assert (again.body, again.system_properties.delivery_attempt) == (b"2", 2)
    assert again.system_properties.message_id == "2"
    assert again.topic.name == TOPIC


@pytest.mark.behaviour("GS-17")
def test_groups_that_are_given_a_message_in_the_same_moment_settle_it_each_for_itself(rig: GrpcRig) -> None:
    clients = {group: rig.grpc_client(group) for group in ("a", "b")}
    for group, client in clients.items():
        client.settings(client.consumer_settings(group=group))
    polls = {group: client.receive(group=group) for group, client in clients.items()}
    send(rig, b"1")
    (first,), (second,) = polls["a"].messages, polls["b"].messages
    assert first.system_properties.receipt_handle == second.system_properties.receipt_handle
    clients["a"].ack(first, group="a")
    assert clients["b"].change(second, 0, group="b").status.code == pb.OK
    rig.loop.advance(2_000)
    (again,) = clients["b"].receive(group="b").messages
    assert clients["b"].ack(again, group="b").status.code == pb.OK


@pytest.mark.behaviour("GS-17")
def test_groups_that_settle_by_the_same_handle_in_the_same_moment_do_so_each_for_itself(rig: GrpcRig) -> None:
    clients = {group: rig.grpc_client(group) for group in ("a", "b")}
    for group, client in clients.items():
        client.settings(client.consumer_settings(group=group))
    polls = {group: client.receive(group=group) for group, client in clients.items()}
    send(rig, b"1")
    for group, client in clients.items():
        (got,) = polls[group].messages
        entry = pb.AckMessageEntry(receipt_handle=got.system_properties.receipt_handle)
        client.begin(
            "AckMessage",
            pb.AckMessageRequest(group=pb.Resource(name=group), topic=pb.Resource(name=TOPIC), entries=[entry]),
        )
    rig.loop.run()
    for group, client in clients.items():
        client.terminate(group)
    rig.loop.advance(2_500)
    assert not clients["b"].receive(group="b", invisible_ms=10_000).is_over


@pytest.mark.behaviour("GS-17")
def test_each_acknowledgement_of_a_request_has_its_own_result(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    (got,) = client.receive().messages
    broken = pb.Message()
    broken.CopyFrom(got)
    broken.system_properties.receipt_handle = "nonsense"
    answer = client.ack(broken, got)
    assert answer.status.code == pb.MULTIPLE_RESULTS
    assert [entry.status.code for entry in answer.entries] == [pb.INVALID_RECEIPT_HANDLE, pb.OK]
    assert answer.entries[0].receipt_handle == "nonsense"
    assert client.ack().status.code == pb.BAD_REQUEST
    assert client.ack(*[broken] * 1_000).status.code == pb.INVALID_RECEIPT_HANDLE
    assert client.ack(*[broken] * 1_001).status.code == pb.BAD_REQUEST


@pytest.mark.behaviour("GS-17")
def test_the_time_of_an_acknowledgement_grows_with_its_entries_only(rig: GrpcRig, client: GrpcClient) -> None:
    def took_s(count: int) -> float:
        entries = [
            pb.AckMessageEntry(receipt_handle=f"0 {rig.clock.wall_ms()} 60000 0 0 broker-a 0 {index} 0")
            for index in range(count)
        ]
        group, topic = pb.Resource(name=GROUP), pb.Resource(name=TOPIC)
        request = pb.AckMessageRequest(group=group, topic=topic, entries=entries)
        began_s = time.thread_time()
        assert client.begin("AckMessage", request)
        return time.thread_time() - began_s

    ratio = min(took_s(1_000) for _ in range(5)) / min(took_s(100) for _ in range(20))
    assert ratio < 25, "ten times the entries"


@pytest.mark.behaviour("GS-18")
@pytest.mark.parametrize(
    "handle",
    ["", "x", "0 1 2 3 4", "a b c d e f g h", "0 1 2 3 0 broker-b 0 0 1", "0 1 2 3 0 broker-a 7 0 1", "0 " * 600],
)
def test_a_handle_that_is_none_is_told_to_be_none(rig: GrpcRig, client: GrpcClient, handle: str) -> None:
    got = message()
    got.system_properties.receipt_handle = handle
    assert client.ack(got).status.code == pb.INVALID_RECEIPT_HANDLE
    changed = client.change(got, 1_000)
    assert (changed.status.code, changed.receipt_handle) == (pb.INVALID_RECEIPT_HANDLE, handle)
    assert client.bury(got).code == pb.INVALID_RECEIPT_HANDLE


@pytest.mark.behaviour("GS-18")
def test_a_handle_with_much_behind_it_is_none_of_ours(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    got = message()
    got.system_properties.receipt_handle = f"0 {rig.clock.wall_ms()} 60000 0 0 broker-a 0 0 0 " + "x" * 10_000
    assert client.ack(got).status.code == pb.INVALID_RECEIPT_HANDLE, "it would be remembered"


@pytest.mark.behaviour("GS-18")
def test_a_handle_whose_time_is_over_counts_no_more(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    (got,) = client.receive(invisible_ms=10_000).messages
    rig.loop.advance(10_001)
    assert client.ack(got).status.code == pb.INVALID_RECEIPT_HANDLE
    assert client.change(got, 1_000).status.code == pb.INVALID_RECEIPT_HANDLE
    assert client.bury(got).code == pb.INVALID_RECEIPT_HANDLE


@pytest.mark.behaviour("GS-19")
def test_a_message_that_is_put_off_comes_back_then_under_a_new_handle(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    (got,) = client.receive().messages
    changed = client.change(got, 30_000)
    assert changed.status.code == pb.OK
    assert changed.receipt_handle not in ("", got.system_properties.receipt_handle)
    assert client.ack(got).status.code == pb.INVALID_RECEIPT_HANDLE, "the old handle is replaced"
    rig.loop.advance(29_000)
    polling = client.receive()
    assert not polling.is_over
    rig.loop.advance(3_000)
    (again,) = polling.messages
    assert again.system_properties.delivery_attempt == 2


@pytest.mark.behaviour("GS-19")
def test_the_new_handle_acknowledges_and_then_nothing_brings_the_message_back(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    (got,) = client.receive().messages
    got.system_properties.receipt_handle = client.change(got, 5_000).receipt_handle
    assert client.ack(got).status.code == pb.OK
    assert client.change(got, 0).status.code == pb.INVALID_RECEIPT_HANDLE
    assert receive_all(rig, client) == []


@pytest.mark.behaviour("GS-19")
@pytest.mark.parametrize("invisible_ms", [-1, 12 * 3_600_000 + 1])
def test_a_time_that_is_none_leaves_the_handle_as_it_is(rig: GrpcRig, client: GrpcClient, invisible_ms: int) -> None:
    send(rig, b"1")
    (got,) = client.receive().messages
    changed = client.change(got, invisible_ms)
    assert changed.status.code == pb.ILLEGAL_INVISIBLE_TIME
    assert changed.receipt_handle == got.system_properties.receipt_handle
    assert client.ack(got).status.code == pb.OK


@pytest.mark.behaviour("GS-20")
def test_a_suspended_message_comes_back_as_the_same_attempt(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    (got,) = client.receive().messages
    assert client.change(got, 1_000, suspend=True).status.code == pb.OK
    (again,) = receive_all(rig, client)
    assert again.system_properties.delivery_attempt == 1


@pytest.mark.behaviour("GS-21")
def test_a_dead_message_moves_to_the_dead_letter_topic_once(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1", tag="TagA")
    (got,) = client.receive().messages
    assert client.bury(got).code == pb.OK
    assert client.bury(got).code == pb.OK, "once more is no error"
    assert [(each.body, each.tags, each.msg_id) for each in dead(rig)] == [(b"1", "TagA", "1")]
    rig.loop.advance(70_000)
    assert receive_all(rig, client) == []
    other = rig.grpc_client("other")
    (buried,) = other.receive(topic=f"%DLQ%{GROUP}", group="undertakers-grpc", invisible_ms=10_000).messages
    letter = buried.system_properties.dead_letter_queue
    assert (letter.topic, letter.message_id) == (TOPIC, "1")
    assert buried.system_properties.message_type == pb.NORMAL


def settling(message: pb.Message) -> tuple[pb.ForwardMessageToDeadLetterQueueRequest, pb.AckMessageRequest]:
    handle, group, topic = message.system_properties.receipt_handle, pb.Resource(name=GROUP), pb.Resource(name=TOPIC)
    entry = pb.AckMessageEntry(receipt_handle=handle)
    return (
        pb.ForwardMessageToDeadLetterQueueRequest(group=group, topic=topic, receipt_handle=handle),
        pb.AckMessageRequest(group=group, topic=topic, entries=[entry]),
    )


@pytest.mark.behaviour("GS-21")
@pytest.mark.parametrize("orderly", [False, True])
def test_calls_that_settle_a_message_at_once_settle_it_once_and_are_answered_when_that_is_stored(
    rig: GrpcRig, client: GrpcClient, orderly: bool
) -> None:
    rig.put_group(consumeMessageOrderly=orderly)
    send(rig, b"1")
    (got,) = client.receive().messages
    forward, ack = settling(got)
    first, second = (client.begin("ForwardMessageToDeadLetterQueue", forward) for _ in range(2))
    acked = client.begin("AckMessage", ack)
    assert (first, second, acked) == ([], [], [])
    rig.loop.run()
    assert [each[0].status.code for each in (first, second, acked)] == [pb.OK] * 3
    assert [each.body for each in dead(rig)] == [b"1"]


@pytest.mark.behaviour("GS-21")
@pytest.mark.parametrize("orderly", [False, True])
def test_a_message_that_is_not_held_does_not_die(rig: GrpcRig, client: GrpcClient, orderly: bool) -> None:
    rig.put_group(consumeMessageOrderly=orderly)
    send(rig, b"1", b"2")
    got, other = client.receive().messages
    assert client.ack(got).status.code == pb.OK
    rig.crash()  # who has what is in the store, which handles are over is not
    again = rig.grpc_client()
    assert again.bury(got).code == pb.INVALID_RECEIPT_HANDLE
    assert again.bury(other).code == pb.OK
    assert [each.body for each in dead(rig)] == [b"2"]


@pytest.mark.behaviour("GS-22")
def test_a_message_that_failed_too_often_is_buried_instead_of_delivered(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_group(retryMaxTimes=1)
    send(rig, b"1")
    for attempt in (1, 2):
        (got,) = receive_all(rig, client)
        assert got.system_properties.delivery_attempt == attempt
        client.change(got, 0)
        rig.loop.advance(2_000)
    assert receive_all(rig, client) == []
    assert [each.body for each in dead(rig)] == [b"1"]


# Renewal.


@pytest.mark.behaviour("GS-23")
def test_a_message_stays_with_a_consumer_that_lives(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    (got,) = client.receive().messages
    for _ in range(60):
        rig.loop.advance(10_000)
        client.heartbeat()
    other = rig.grpc_client("other")
    other.settings(other.consumer_settings())
    assert receive_all(rig, other) == []
    assert client.ack(got).status.code == pb.OK, "by the handle that it was given"
    rig.loop.advance(4_000_000)
    client.settings(client.consumer_settings())
    assert receive_all(rig, client) == []


@pytest.mark.behaviour("GS-23")
def test_a_message_that_nobody_finishes_in_three_hours_goes_to_others(rig: GrpcRig, client: GrpcClient) -> None:
    rig.client().send(b"1", j=-(2**31))  # its attempts are no place in the list of delays
    send(rig, b"2")
    client.receive()
    for _ in range(6 * 60):
        rig.loop.advance(30_000)
        client.heartbeat()
    assert receive_all(rig, client) == []
    rig.loop.advance(30_000)
    client.heartbeat()
    for _ in range(150):  # it is renewed for an hour at a time in the end
        rig.loop.advance(30_000)
        client.heartbeat()
    again = receive_all(rig, client)
    assert {each.body: each.system_properties.delivery_attempt for each in again} == {b"1": 1, b"2": 2}


@pytest.mark.behaviour("GS-24")
def test_what_a_leaving_consumer_holds_goes_to_others_in_a_second(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    client.receive()
    client.terminate()
    other = rig.grpc_client("other")
    other.settings(other.consumer_settings())
    polling = other.receive()
    rig.loop.advance(2_500)
    assert polling.bodies == [b"1"]


@pytest.mark.behaviour("GS-24")
def test_only_what_the_leaving_consumer_holds_goes_to_others_however_little_is_remembered(
    rig: GrpcRig, client: GrpcClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.broker.grpc.receipt_handles.LEASES_MAX", 3)
    staying = rig.grpc_client("staying")
    staying.settings(staying.consumer_settings())
    send(rig, b"forgotten", b"acknowledged", b"held", b"of the other")
    forgotten, acknowledged, held = (client.receive(batch=1).messages[0] for _ in range(3))
    assert staying.receive().bodies == [b"of the other"]
    assert [each.body for each in (forgotten, acknowledged, held)] == [b"forgotten", b"acknowledged", b"held"]
    assert client.ack(acknowledged).status.code == pb.OK
    client.terminate()
    polling = staying.receive()
    rig.loop.advance(2_500)
    assert polling.bodies == [b"held"]


@pytest.mark.behaviour("GS-18")
def test_what_was_taken_from_a_consumer_can_be_settled_by_it_no_more(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    (got,) = client.receive().messages
    client.terminate()
    client.settings(client.consumer_settings())
    assert client.ack(got).status.code == pb.INVALID_RECEIPT_HANDLE, "it comes again in any case"
    assert client.bury(got).code == pb.INVALID_RECEIPT_HANDLE
    rig.loop.advance(2_500)
    (again,) = receive_all(rig, client)
    assert dead(rig) == []
    answer = client.ack(again, again)
    assert [each.status.code for each in answer.entries] == [pb.OK, pb.OK], "the same one twice is no error"


@pytest.mark.behaviour("GS-24")
def test_what_a_crashed_consumer_holds_goes_to_others_after_a_grace(rig: GrpcRig, client: GrpcClient) -> None:
    send(rig, b"1")
    client.receive()
    rig.application.clients.stream_closed("client", client.stream)
    other = rig.grpc_client("other")
    other.settings(other.consumer_settings())
    polling = other.receive()
    rig.loop.advance(14_000)
    assert not polling.is_over, "it may come back"
    polling = other.receive()
    rig.loop.advance(10_000)
    assert polling.bodies == [b"1"]


# What is told of them.


def status(rig: GrpcRig, message_id: str = "1") -> tuple[str, int]:
    """How a message stands for the only group: status and attempt."""
    (found,) = body_of(rig.client().ask(901002, {"msgId": message_id}))["messages"]
    (of,) = found["groups"]
    return of["status"], of["attempt"]


@pytest.mark.behaviour("SM-14")
def test_what_has_left_for_a_client_is_delivered_until_its_consumer_says_otherwise(tmp_path: Path) -> None:
    rig = GrpcRig(tmp_path, message_status=True)
    rig.put_topic()
    client, other = rig.grpc_client(), rig.grpc_client("other")
    for each in (client, other):
        each.settings(each.consumer_settings())
    send(rig, b"1")
    polling = client.receive()
    assert status(rig) == ("TCP", 1)
    polling.leave()
    for _ in range(12):
        rig.loop.advance(10_000)
        client.heartbeat()
        other.heartbeat()
    assert status(rig) == ("TCS", 1), "a lease that the server renews says nothing of the message"
    client.terminate()
    rig.loop.advance(2_500)
    assert status(rig) == ("CL", 1)
    polling = other.receive()
    polling.lose(2)
    assert status(rig) == ("TCF", 2)
    rig.loop.advance(2_500)
    polling = other.receive()
    polling.leave()
    assert status(rig) == ("TCS", 2), "what did not leave was no attempt"
    other.ack(*polling.messages)
    assert status(rig) == ("CS", 2)
    rig.close()


# Order.


@pytest.fixture
def ordered(rig: GrpcRig, client: GrpcClient) -> GrpcClient:
    rig.put_topic(kind="FIFO")
    rig.put_group(consumeMessageOrderly=True, retryMaxTimes=1)
    return client


@pytest.mark.behaviour("GS-25")
def test_an_ordered_queue_gives_nothing_more_until_its_last_batch_is_settled(rig: GrpcRig, ordered: GrpcClient) -> None:
    send(rig, b"1", b"2", b"3", message_group="g")
    one, two = ordered.receive(batch=2).messages
    assert one.system_properties.message_group == "g"
    assert one.system_properties.message_type == pb.FIFO
    polling = ordered.receive(batch=2)
    assert not polling.is_over
    ordered.ack(one)
    assert not polling.is_over
    ordered.ack(two)
    rig.loop.run()
    assert polling.bodies == [b"3"]


@pytest.mark.behaviour("GS-25")
def test_the_same_attempt_gets_the_same_batch_again(rig: GrpcRig, ordered: GrpcClient) -> None:
    send(rig, b"1", message_group="g")
    first = ordered.receive(attempt_id="attempt").messages
    rig.loop.advance(1)
    again = ordered.receive(attempt_id="attempt").messages
    assert [each.body for each in again] == [b"1"]
    assert again[0].system_properties.delivery_attempt == 1
    assert ordered.ack(*first).status.code == pb.INVALID_RECEIPT_HANDLE, "the second delivery replaced the first"
    assert ordered.ack(*again).status.code == pb.OK


@pytest.mark.behaviour("GS-25")
def test_an_ordered_message_that_is_put_off_holds_its_queue_and_comes_back_as_a_new_attempt(
    rig: GrpcRig, ordered: GrpcClient
) -> None:
    send(rig, b"1", b"2", message_group="g")
    one, two = ordered.receive().messages
    polling = ordered.receive()
    assert ordered.change(one, 1_000).status.code == pb.OK
    assert ordered.change(two, 2_000, suspend=True).status.code == pb.OK
    rig.loop.advance(1_900)
    assert not polling.is_over, "the later one counts"
    rig.loop.advance(200)
    assert [each.system_properties.delivery_attempt for each in polling.messages] == [2, 1]


@pytest.mark.behaviour("GS-26")
def test_what_is_done_of_an_ordered_batch_does_not_come_again_with_what_failed(
    rig: GrpcRig, ordered: GrpcClient
) -> None:
    send(rig, b"1", b"2", b"3", message_group="g")
    one, two, three = ordered.receive().messages
    assert ordered.ack(one, three).status.code == pb.OK
    ordered.change(two, 1_000)
    rig.loop.advance(1_100)
    (again,) = ordered.receive().messages
    assert (again.body, again.system_properties.delivery_attempt) == (b"2", 2)
    send(rig, b"4", message_group="g")
    assert ordered.ack(again).status.code == pb.OK
    assert ordered.receive().bodies == [b"4"]


@pytest.mark.behaviour("SM-14")
def test_what_is_done_of_an_ordered_batch_stays_consumed_when_the_rest_comes_again(tmp_path: Path) -> None:
    rig = GrpcRig(tmp_path, message_status=True)
    rig.put_topic(kind="FIFO")
    rig.put_group(consumeMessageOrderly=True)
    client = rig.grpc_client()
    client.settings(client.consumer_settings())
    send(rig, b"1", b"2", message_group="g")
    one, two = client.receive().messages
    client.ack(two)
    client.change(one, 0)
    rig.loop.advance(10)
    assert client.receive().bodies == [b"1"]
    assert [status(rig, each) for each in "12"] == [("TCP", 2), ("CS", 1)]
    rig.close()


@pytest.mark.behaviour("GS-26")
def test_what_is_done_of_a_longer_batch_does_not_come_again_behind_a_shorter_one(
    rig: GrpcRig, ordered: GrpcClient
) -> None:
    send(rig, b"1", b"2", b"3", b"4", message_group="g")
    one, two, three, four = ordered.receive().messages
    ordered.ack(two, four)
    for each in (one, three):
        ordered.change(each, 0)
    rig.loop.advance(10)
    rig.reopen()
    client = rig.grpc_client()
    client.settings(client.consumer_settings())
    for body in (b"1", b"3"):
        (again,) = client.receive(batch=1).messages
        assert again.body == body
        assert client.ack(again).status.code == pb.OK
    assert not client.receive().is_over


@pytest.mark.behaviour("GS-25")
def test_a_dead_ordered_message_lets_its_queue_go_on(rig: GrpcRig, ordered: GrpcClient) -> None:
    send(rig, b"1", b"2", message_group="g")
    (one,) = ordered.receive(batch=1).messages
    assert ordered.bury(one).code == pb.OK
    assert [each.body for each in dead(rig)] == [b"1"]
    assert ordered.receive().bodies == [b"2"]


# Delays.


@pytest.mark.behaviour("GS-31")
def test_a_delayed_message_comes_at_its_moment_and_can_be_taken_back_before(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(kind="DELAY")
    producer = rig.grpc_client("producer")
    due_ms = rig.clock.wall_ms() + 5_000
    sent = [message(body, message_id=body.decode(), delivery_ms=due_ms) for body in (b"kept", b"recalled")]
    answer = producer.send(*sent)
    assert answer.status.code == pb.OK
    recall = pb.RecallMessageRequest(topic=pb.Resource(name=TOPIC), recall_handle=answer.entries[1].recall_handle)
    recalled = producer.ask("RecallMessage", recall)
    assert (recalled.status.code, recalled.message_id) == (pb.OK, "recalled")
    polling = client.receive()
    rig.loop.advance(4_000)
    assert not polling.is_over
    rig.loop.advance(3_000)
    (got,) = polling.messages
    assert (got.body, got.system_properties.message_type) == (b"kept", pb.DELAY)
    assert got.system_properties.delivery_timestamp.ToMilliseconds() == due_ms
    rig.loop.advance(3_000)
    assert not receive_all(rig, client)


@pytest.mark.behaviour("GS-31")
@pytest.mark.parametrize(
    ("topic", "handle", "code"),
    [
        (TOPIC, "nonsense", pb.BAD_REQUEST),
        ("missing", "", pb.TOPIC_NOT_FOUND),
        ("normal", "", pb.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE),
    ],
)
def test_what_cannot_be_recalled_is_told(
    rig: GrpcRig, client: GrpcClient, topic: str, handle: str, code: pb.Code
) -> None:
    rig.put_topic(kind="DELAY")
    rig.put_topic("normal")
    request = pb.RecallMessageRequest(topic=pb.Resource(name=topic), recall_handle=handle)
    assert client.ask("RecallMessage", request).status.code == code


# Transactions.


def half(rig: GrpcRig, producer: GrpcClient, body: bytes = b"half") -> str:
    """Send a half message; the id of its transaction."""
    (entry,) = producer.send(message(body, message_id=body.decode(), message_type=pb.TRANSACTION)).entries
    assert entry.status.code == pb.OK
    return str(entry.transaction_id)


def end(producer: GrpcClient, transaction_id: str, resolution: pb.TransactionResolution) -> pb.Code:
    request = pb.EndTransactionRequest(
        topic=pb.Resource(name=TOPIC), transaction_id=transaction_id, resolution=resolution, source=pb.SOURCE_CLIENT
    )
    code: pb.Code = producer.ask("EndTransaction", request).status.code
    return code


@pytest.fixture
def producer(rig: GrpcRig) -> GrpcClient:
    rig.put_topic(kind="TRANSACTION")
    made = rig.grpc_client("producer")
    made.settings(made.producer_settings())
    return made


@pytest.mark.behaviour("GS-37")
def test_a_half_message_is_delivered_when_it_is_committed_once_and_at_any_time(
    rig: GrpcRig, client: GrpcClient, producer: GrpcClient
) -> None:
    transaction = half(rig, producer)
    polling = client.receive()
    assert not polling.is_over
    assert end(producer, transaction, pb.TRANSACTION_RESOLUTION_UNSPECIFIED) == pb.OK
    for _ in range(4):
        rig.loop.advance(10_000)
        producer.heartbeat(group=None)
    polling = client.receive()
    assert end(producer, transaction, pb.COMMIT) == pb.OK
    assert polling.bodies == [b"half"]
    assert polling.messages[0].system_properties.message_id == "half"
    assert not polling.messages[0].user_properties
    assert end(producer, transaction, pb.COMMIT) == pb.OK
    assert end(producer, transaction, pb.ROLLBACK) == pb.OK
    assert receive_all(rig, client) == [], "it has been ended"


@pytest.mark.behaviour("GS-37")
def test_a_half_message_that_is_rolled_back_is_never_delivered(
    rig: GrpcRig, client: GrpcClient, producer: GrpcClient
) -> None:
    assert end(producer, half(rig, producer), pb.ROLLBACK) == pb.OK
    assert receive_all(rig, client) == []


@pytest.mark.behaviour("GS-37")
@pytest.mark.parametrize("transaction", ["", " ", "nonsense", "0 1", "a b c"])
def test_an_id_that_is_none_ends_no_transaction(producer: GrpcClient, transaction: str) -> None:
    assert end(producer, transaction, pb.COMMIT) == pb.INVALID_TRANSACTION_ID


@pytest.mark.behaviour("GS-38")
def test_a_producer_of_the_topic_is_asked_on_its_stream_and_its_answer_counts(
    rig: GrpcRig, client: GrpcClient, producer: GrpcClient
) -> None:
    half(rig, producer)
    del producer.stream.told[:]
    for _ in range(7):
        rig.loop.advance(10_000)
        producer.heartbeat(group=None)
        if producer.stream.told:
            break
    command = producer.stream.told[0].recover_orphaned_transaction_command
    assert (command.message.body, command.message.topic.name) == (b"half", TOPIC)
    assert command.message.system_properties.message_id == "half"
    assert command.message.system_properties.message_type == pb.TRANSACTION
    assert end(producer, command.transaction_id, pb.COMMIT) == pb.OK
    client.heartbeat()
    assert client.receive().bodies == [b"half"]


@pytest.mark.behaviour("GS-41")
def test_messages_of_higher_priority_come_first(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(kind="PRIORITY", queues=3)
    for priority in (1, 0, 2, 99):
        send(rig, b"%d" % priority, priority=priority)
    assert client.receive().bodies == [b"2", b"99", b"1", b"0"]


@pytest.mark.behaviour("GS-41")
def test_a_group_may_say_that_priorities_do_not_count(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(kind="PRIORITY", queues=3)
    rig.put_group(attributes={"priority.factor": "0"})
    for priority in (1, 0, 2):
        send(rig, b"%d" % priority, priority=priority)
    assert client.receive().bodies == [b"0", b"1", b"2"]
