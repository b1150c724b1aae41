from __future__ import annotations

import zlib

import pytest

from rocketmq_py import ConfigError, Message, MessageExt, create_reply_message
from rocketmq_py.errors import ProtocolError, RequestTimeoutError, TooManyRequestsError
from rocketmq_py.model.codes import MessageSysFlag, RequestCode
from rocketmq_py.model.message import format_properties
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.request_reply import RequestFutureHolder, get_reply_to_client, prepare_request
from rocketmq_py.testing import ManualRuntime

FIELDS = {
    "producerGroup": "group",
    "topic": "cluster_REPLY_TOPIC",
    "queueId": "3",
    "sysFlag": "0",
    "bornTimestamp": "1700000000000",
    "flag": "7",
    "reconsumeTimes": "1",
    "bornHost": "10.0.0.1:4711",
    "storeHost": "fe80:0:0:0:1:2:3:4%eth0:10911",
    "storeTimestamp": "1700000000001",
}


class Rig:
    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.holder = RequestFutureHolder(self.runtime.clock, lambda: self.runtime.scheduler("timers"))
        self.told: dict[str, MessageExt | Exception] = {}

    def put(self, id_: str, timeout_ms: int = 10_000, owner: object = "owner") -> None:
        self.holder.put(id_, timeout_ms, owner, lambda outcome: self.told.__setitem__(id_, outcome))

    def push(self, id_: str | None, body: bytes = b"reply", **fields: str) -> None:
        properties = {"own": "value"} | ({"CORRELATION_ID": id_} if id_ is not None else {})
        ext_fields = {**FIELDS, "properties": format_properties(properties), **fields}
        command = RemotingCommand(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, ext_fields=ext_fields, body=body)
        self.holder.receive_reply(command, 1_234)


@pytest.mark.behaviour("RR-01")
def test_a_reply_reaches_who_asked_with_all_that_the_broker_told() -> None:
    rig = Rig()
    rig.put("x")
    rig.put("y")
    rig.push("y")
    assert list(rig.told) == ["y"]
    reply = rig.told["y"]
    assert isinstance(reply, MessageExt)
    assert (reply.topic, reply.body, reply.queue_id, reply.flag) == ("cluster_REPLY_TOPIC", b"reply", 3, 7)
    assert (reply.born_host, reply.store_host) == (("10.0.0.1", 4711), ("fe80::1:2:3:4", 10911))
    assert (reply.born_timestamp, reply.store_timestamp, reply.reconsume_times) == (1700000000000, 1700000000001, 1)
    assert (reply.get_property("own"), reply.get_property("ARRIVE_TIME")) == ("value", "1234")


@pytest.mark.behaviour("RR-01")
def test_a_compressed_reply_is_decompressed() -> None:
    rig = Rig()
    rig.put("x")
    flag = MessageSysFlag.COMPRESSED | MessageSysFlag.COMPRESSION_ZLIB
    rig.push("x", zlib.compress(b"reply" * 100), sysFlag=str(flag))
    assert isinstance(rig.told["x"], MessageExt)
    assert rig.told["x"].body == b"reply" * 100


@pytest.mark.behaviour("RR-02")
def test_a_second_reply_one_that_comes_too_late_and_one_without_an_id_are_dropped() -> None:
    rig = Rig()
    rig.put("x")
    rig.put("removed")
    rig.holder.remove("removed")
    rig.push("x", b"first")
    first = rig.told["x"]
    for id_ in ("x", "removed", "unknown", None):
        rig.push(id_, b"second")
    assert rig.told == {"x": first}


@pytest.mark.behaviour("RR-02")
@pytest.mark.parametrize(
    "wrong",
    [{"bornHost": "nonsense"}, {"queueId": "x"}, {"sysFlag": "769"}, {"storeHost": ""}],
    ids=["host", "queue", "compression", "no host"],
)
def test_a_reply_that_cannot_be_read_fails_its_request_and_is_answered_with_an_error(wrong: dict[str, str]) -> None:
    rig = Rig()
    rig.put("x")
    with pytest.raises(ProtocolError):
        rig.push("x", b"reply", **wrong)
    assert isinstance(rig.told["x"], ProtocolError)


@pytest.mark.behaviour("RR-03")
def test_a_request_whose_time_is_over_is_told_so_within_a_second() -> None:
    rig = Rig()
    rig.put("short", 1_500)
    rig.put("long", 60_000)
    rig.runtime.advance(1_400)
    assert rig.told == {}
    rig.runtime.advance(1_100)
    assert list(rig.told) == ["short"]
    assert isinstance(rig.told["short"], RequestTimeoutError)


@pytest.mark.behaviour("RR-04")
def test_the_requests_of_a_producer_that_ends_fail_and_no_others() -> None:
    rig = Rig()
    rig.put("mine", owner="me")
    rig.put("other", owner="you")
    error = ValueError("over")
    rig.holder.fail("me", error)
    assert rig.told == {"mine": error}


@pytest.mark.behaviour("RR-04")
def test_requests_that_await_replies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocketmq_py.request_reply.REQUESTS_MAX", 2)
    rig = Rig()
    rig.put("a")
    rig.put("b")
    with pytest.raises(TooManyRequestsError):
        rig.put("c")
    rig.push("a")
    rig.put("c")


@pytest.mark.behaviour("RR-05")
def test_a_reply_goes_to_the_topic_of_the_cluster_and_names_the_request() -> None:
    request = Message("topic", b"question")
    correlation_id = prepare_request(request, "client@1", 3_000)
    assert correlation_id != prepare_request(Message("topic", b"question"), "client@1", 3_000)
    received = MessageExt(topic="topic", properties={**request.properties, "CLUSTER": "cluster"})
    reply = create_reply_message(received, b"answer")
    assert (reply.topic, reply.body) == ("cluster_REPLY_TOPIC", b"answer")
    assert reply.get_property("MSG_TYPE") == "reply"
    assert reply.get_property("CORRELATION_ID") == correlation_id
    assert (reply.get_property("REPLY_TO_CLIENT"), reply.get_property("TTL")) == ("client@1", "3000")
    assert get_reply_to_client(received) == "client@1"


@pytest.mark.behaviour("RR-05")
def test_what_is_no_request_cannot_be_replied_to() -> None:
    with pytest.raises(ConfigError, match=r"property\[CLUSTER\] is null"):
        create_reply_message(MessageExt(topic="topic"), b"answer")
    with pytest.raises(ConfigError, match="the message is no request"):
        create_reply_message(MessageExt(topic="topic", properties={"CLUSTER": "cluster"}), b"answer")
    assert get_reply_to_client(MessageExt(topic="topic")) is None
