"""Bytes that Java wrote are read as Java reads them, and written as Java writes them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rocketmq_py.errors import ConfigError, ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.model.message import MessageExt, PullBounds, parse_properties
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.route import BrokerData, QueueData, TopicRouteData
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.model.unique_id import create_uniq_id, java_string_hash
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import FrameReader, RemotingCommand, SerializeType, decode, encode
from rocketmq_py.remoting.message_codec import (
    crc32,
    create_message_id,
    decode_batch,
    decode_message_id,
    decode_messages,
    encode_batch,
    encode_message,
)
from tests.wire.samples import golden

Entry = dict[str, Any]


def raw(entry: Entry) -> bytes:
    return bytes.fromhex(entry["hex"])


def named(name: str, kind: str) -> Entry:
    return next(parameter.values[0] for parameter in golden(kind) if parameter.id == name)


# Commands.


@pytest.mark.parametrize("entry", golden("command"))
def test_a_command_is_read_as_java_reads_it(entry: Entry) -> None:
    frame, expect = raw(entry), entry["expect"]
    reader = FrameReader()
    reader.get_buffer()[: len(frame)] = frame
    reader.received(len(frame))
    command = reader.next_frame()
    assert command is not None
    assert SerializeType(frame[4]).name == expect["serialize_type"]
    assert (command.is_response, command.is_oneway) == (expect["is_response"], expect["is_oneway"])
    assert command == RemotingCommand(
        expect["code"], expect["opaque"], expect["flag"], expect["remark"], expect["ext_fields"] or {},
        bytes.fromhex(expect["body_hex"] or ""), expect["language"], expect["version"],
    )  # fmt: skip


@pytest.mark.parametrize("entry", golden("command"))
def test_a_command_is_written_as_java_writes_it(entry: Entry) -> None:
    frame = raw(entry)
    serialize_type = SerializeType(frame[4])
    written = encode(decode(frame[4:]), serialize_type)
    if serialize_type is SerializeType.ROCKETMQ:
        assert written == frame
    else:  # the order of keys and the escapes are free, and Java adds one key for its own use
        java, own = (json.loads(each[8 : 8 + int.from_bytes(each[5:8], "big")]) for each in (frame, written))
        del java["serializeTypeCurrentRPC"]
        assert own == java
        assert decode(written[4:]) == decode(frame[4:])


def test_a_code_that_a_binary_header_cannot_hold_is_refused_where_java_sends_another_one() -> None:
    pop = decode(raw(named("pop_request_json", "command"))[4:])
    with pytest.raises(ConfigError, match="code 200050 does not fit the 16 bits of a binary header"):
        encode(pop, SerializeType.ROCKETMQ)


# Messages.


def readable_messages() -> list[Any]:
    return [parameter for parameter in golden("message") if parameter.id not in {"compressed_broken", "inner_batch"}]


@pytest.mark.parametrize("entry", readable_messages())
def test_a_stored_message_is_read_as_java_reads_it(entry: Entry) -> None:
    expect = entry["expect"]
    [message] = decode_messages(raw(entry), PullBounds(-1, -1, "broker-a"))
    head = message.head
    assert head.magic & 0xFFFFFFFF == {"V1": 0xDAA320A7, "V2": 0xDAA320AB}[expect["magic"]]
    assert head.store_size == len(raw(entry)) == expect["store_size"]
    assert head.body_crc == crc32(bytes.fromhex(expect["stored_body_hex"] or "")) == expect["body_crc"]
    assert message.body.hex() == (expect["body_hex"] or "")
    for name in (
        "queue_id", "flag", "queue_offset", "commit_log_offset", "sys_flag", "born_timestamp", "store_timestamp",
        "reconsume_times", "prepared_transaction_offset", "topic", "properties",
    ):  # fmt: skip
        assert getattr(message, name) == expect[name], name
    for name in ("born_host", "store_host"):
        address, port = getattr(message, name)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        assert socket.inet_pton(family, address).hex() == expect[name]["ip_hex"]
        assert port == expect[name]["port"]
    assert message.offset_msg_id == expect["msg_id"]
    assert message.broker_name == "broker-a"


@pytest.mark.parametrize("entry", [each for each in readable_messages() if each.id != "v2_short_topic"])
def test_a_stored_message_is_written_as_a_broker_writes_it(entry: Entry) -> None:
    [message] = decode_messages(raw(entry))
    expect = entry["expect"]
    as_stored = MessageExt(
        topic=message.topic, body=bytes.fromhex(expect["stored_body_hex"] or ""), queue_id=message.queue_id,
        queue_offset=message.queue_offset, properties=message.properties, flag=message.flag,
        sys_flag=expect["stored_sys_flag"], commit_log_offset=message.commit_log_offset,
        born_timestamp=message.born_timestamp, store_timestamp=message.store_timestamp, born_host=message.born_host,
        store_host=message.store_host, reconsume_times=message.reconsume_times,
        prepared_transaction_offset=message.prepared_transaction_offset,
    )  # fmt: skip
    assert encode_message(as_stored) == raw(entry)


def test_a_body_that_does_not_decompress_is_an_error_where_java_loses_the_message() -> None:
    broken = named("compressed_broken", "message")
    assert broken["expect"] is None
    with pytest.raises(ProtocolError, match=r"queue 2, offset 42\) has a body that does not decompress"):
        decode_messages(raw(broken))


def test_an_inner_batch_comes_out_as_the_messages_in_it() -> None:
    entry = named("inner_batch", "message")
    found = [
        {
            "queue_offset": message.queue_offset,
            "sys_flag": message.sys_flag,
            "flag": message.flag,
            "topic": message.topic,
            "body_hex": message.body.hex(),
            "properties": dict(message.properties),
        }
        for message in decode_messages(raw(entry))
    ]
    assert found == entry["expect"]["inner_messages"]


def test_all_stored_messages_back_to_back_are_read_in_order() -> None:
    entries = [parameter.values[0] for parameter in readable_messages()]
    messages = decode_messages(b"".join(map(raw, entries)))
    assert [message.offset_msg_id for message in messages] == [entry["expect"]["msg_id"] for entry in entries]
    assert [message.topic for message in messages] == [entry["expect"]["topic"] for entry in entries]


@pytest.mark.parametrize("entry", golden("properties"))
def test_properties_are_read_as_java_reads_them(entry: Entry) -> None:
    assert parse_properties(raw(entry)) == entry["expect"]["properties"]


@pytest.mark.parametrize("entry", golden("batch"))
def test_a_batch_is_read_and_written_as_java_does(entry: Entry) -> None:
    parts = decode_batch(raw(entry))
    assert [{"flag": part.flag, "body_hex": part.body.hex(), "properties": part.properties} for part in parts] == entry[
        "expect"
    ]["messages"]
    assert encode_batch(parts) == raw(entry)


@pytest.mark.parametrize("entry", golden("message_id"))
def test_a_message_id_is_read_and_written_as_java_does(entry: Entry) -> None:
    expect = entry["expect"]
    host, port, offset = decode_message_id(expect["msg_id"])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    assert (socket.inet_pton(family, host).hex(), port, offset) == (
        expect["ip_hex"], expect["port"], expect["offset"],
    )  # fmt: skip
    assert create_message_id((host, port), offset) == expect["msg_id"]


# JSON bodies.


def plain(value: object) -> object:
    """As the recorder writes a body a second time: integer keys as text, object keys as pairs."""
    if isinstance(value, MessageQueue):
        return {"brokerName": value.broker_name, "queueId": value.queue_id, "topic": value.topic}
    if isinstance(value, dict):
        if any(isinstance(key, MessageQueue) for key in value):
            return [[plain(key), plain(each)] for key, each in value.items()]
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


@pytest.mark.parametrize("entry", golden("json"))
def test_a_json_body_is_read_whatever_form_its_keys_have(entry: Entry) -> None:
    value = fastjson.loads(raw(entry))
    expect = entry["expect"]["value"]
    if expect == {"offsetTable": []}:  # an empty map looks like any other
        expect = {"offsetTable": {}}
    assert plain(value) == expect
    assert fastjson.loads(entry["expect"]["text"]) == value


@pytest.mark.parametrize("entry", golden("json"))
def test_a_json_body_written_again_has_the_same_keys_in_the_same_form(entry: Entry) -> None:
    text = entry["expect"]["text"]
    written = fastjson.dumps(fastjson.loads(text)).decode()
    # Escapes, the order in a key and pretty printing are free; all else is byte for byte what Java wrote.
    assert fastjson.loads(written) == fastjson.loads(text)
    if text.isascii() and "\\u" not in text and "\n" not in text:
        assert written == text


def test_a_heartbeat_says_what_javas_says() -> None:
    entry = named("json_heartbeat", "json")
    version = 1_763_640_000_123
    written = bodies.encode_heartbeat(
        "127.0.0.1@1#2",
        ["producers"],
        [
            bodies.ConsumerData(
                group="group",
                consume_from_where="CONSUME_FROM_LAST_OFFSET",
                subscriptions=[
                    SubscriptionData("%RETRY%group", sub_version=version),
                    SubscriptionData(
                        "topic", "TagA || TagB", frozenset({"TagA", "TagB"}), frozenset({2598919, 2598920}), version
                    ),
                ],
            )
        ],
    )
    assert written == raw(entry)


@pytest.mark.parametrize("name", ["json_route", "json_route_standard"])
def test_a_route_is_the_same_with_bare_and_with_quoted_broker_ids(name: str) -> None:
    assert bodies.parse_topic_route(raw(named(name, "json"))) == TopicRouteData(
        (QueueData("broker-a", 8, 4, 6, 0),),
        (BrokerData("DefaultCluster", "broker-a", {0: "127.0.0.1:10911", 1: "127.0.0.1:11911"}),),
    )


# Hashes and unique ids.


@pytest.mark.parametrize("entry", golden("hash"))
def test_a_string_hash_is_javas(entry: Entry) -> None:
    assert java_string_hash(entry["expect"]["text"]) == entry["expect"]["hash"]


class _ClockAt:
    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms

    lease_ms = monotonic_ms


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize("entry", golden("uniq_id"))
def test_a_unique_id_is_dated_as_java_dates_it(entry: Entry) -> None:
    expect = entry["expect"]
    assert expect["time_zone"] == "UTC"
    own = create_uniq_id(_ClockAt(expect["nearly_time_ms"]))
    assert own[20:28] == expect["id"][-12:-4]
