from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.message import (
    RESERVED_PROPERTIES,
    Message,
    MessageExt,
    PullBounds,
    format_properties,
    pack_host,
    parse_properties,
    unpack_host,
)
from rocketmq_py.remoting.message_codec import decode_messages, encode_message

BOUNDS = PullBounds(3, 99, "broker-a")


def from_wire(bounds: PullBounds | None = BOUNDS, **fields: Any) -> MessageExt:
    """A message as it comes from a pull."""
    (found,) = decode_messages(encode_message(MessageExt(**fields)), bounds)
    return found


# Messages to send.


@pytest.mark.behaviour("MS-01")
def test_tags_keys_delay_and_waiting_are_properties() -> None:
    message = Message(
        "topic", b"body", tags="a", keys=["k1", "k2"], delay_time_level=3, properties={"own": "v"}, flag=7
    )
    assert message.properties == {"own": "v", "TAGS": "a", "KEYS": "k1 k2", "DELAY": "3", "WAIT": "true"}
    assert (message.tags, message.keys, message.delay_time_level) == ("a", "k1 k2", 3)
    assert (message.topic, message.body, message.flag, message.wait_store_msg_ok) == ("topic", b"body", 7, True)


@pytest.mark.behaviour("MS-01")
@pytest.mark.parametrize("level", [-1, 3.0, "3", True, None])
def test_a_delay_level_is_an_integer_from_0(level: Any) -> None:
    assert "DELAY" not in Message("topic", b"body", delay_time_level=0).properties
    with pytest.raises(ConfigError, match="delay_time_level is an integer from 0"):
        Message("topic", b"body", delay_time_level=level)


@pytest.mark.behaviour("PR-16")
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("delay_time_sec", "TIMER_DELAY_SEC"),
        ("delay_time_ms", "TIMER_DELAY_MS"),
        ("deliver_time_ms", "TIMER_DELIVER_MS"),
    ],
)
def test_the_time_of_a_timer_message_is_a_property(name: str, key: str) -> None:
    def make(time: Any, **more: Any) -> Message:
        return Message("topic", b"body", **{name: time}, **more)

    message = make(2**40)
    assert (message.properties[key], message.is_timer) == (str(2**40), True)
    assert not make(0).is_timer
    for wrong in (-1, 1.5, "1", True, None):
        with pytest.raises(ConfigError, match=f"the time of {key} is an integer from 0"):
            make(wrong)
    with pytest.raises(ConfigError, match="give one of delay_time_level, delay_time_sec"):
        make(1, delay_time_level=1)


@pytest.mark.behaviour("TX-01")
def test_a_message_to_send_has_a_transaction_id_only_in_a_transaction() -> None:
    message = Message("topic", b"body")
    message.properties["UNIQ_KEY"] = "id"
    in_none = message.transaction_id
    message.properties["TRAN_MSG"] = "true"
    assert (in_none, message.transaction_id, message.get_property("UNIQ_KEY")) == (None, "id", "id")


@pytest.mark.behaviour("MS-01")
def test_a_plain_message_has_none_of_them() -> None:
    message = Message("topic", b"body", wait_store_msg_ok=False)
    assert message.properties == {"WAIT": "false"}
    assert (message.tags, message.keys, message.delay_time_level) == (None, None, 0)
    assert message.wait_store_msg_ok is False
    assert Message("topic", b"body", keys="one key").keys == "one key"


@pytest.mark.behaviour("MS-01")
@pytest.mark.parametrize("body", ["text", None, 3, [1, 2]])
def test_a_body_that_is_no_bytes_is_refused(body: Any) -> None:
    with pytest.raises(ConfigError, match=f"is bytes, not {type(body).__name__}"):
        Message("topic", body)


@pytest.mark.behaviour("MS-01")
def test_the_body_is_copied_so_that_changing_the_buffer_does_not_change_the_message() -> None:
    buffer = bytearray(b"body")
    message = Message("topic", cast(bytes, buffer))
    buffer[:] = b"else"
    assert message.body == b"body"
    assert Message("topic", cast(bytes, memoryview(b"body"))).body == b"body"


@pytest.mark.behaviour("MS-02")
@pytest.mark.parametrize("name", sorted(RESERVED_PROPERTIES))
def test_a_property_that_rocketmq_reads_itself_cannot_be_set(name: str) -> None:
    with pytest.raises(ConfigError, match="is used by RocketMQ itself: choose another name"):
        Message("topic", b"body", properties={name: "v"})


@pytest.mark.behaviour("MS-02")
@pytest.mark.parametrize(("name", "value"), [("", "v"), ("n", ""), ("n\x01", "v"), ("n", "v\x02"), ("n", 3), (3, "v")])
def test_a_property_that_would_break_the_separators_is_refused(name: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"is not a text or is empty|holds U"):
        Message("topic", b"body").put_user_property(name, value)


@pytest.mark.behaviour("MS-02")
@pytest.mark.parametrize("fields", [{"tags": "a\x01"}, {"keys": "a\x02"}, {"keys": ["a", "b\x01"]}])
def test_so_are_such_tags_and_keys(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"holds U\+0001 or U\+0002"):
        Message("topic", b"body", **fields)


# Messages received.


@pytest.mark.behaviour("MS-03")
def test_a_message_tells_everything_the_wire_told() -> None:
    fields: dict[str, Any] = {
        "topic": "topic",
        "body": b"body",
        "queue_id": 3,
        "queue_offset": 7,
        "flag": 4,
        "commit_log_offset": 1_000,
        "born_timestamp": 11,
        "store_timestamp": 12,
        "born_host": ("10.0.0.1", 1),
        "store_host": ("10.0.0.2", 10_911),
        "reconsume_times": 2,
        "prepared_transaction_offset": 5,
    }
    message = from_wire(**fields, tags="a", keys="k", properties={"own": "v", "UNIQ_KEY": "id"})
    assert {name: getattr(message, name) for name in fields} == fields
    assert (message.tags, message.keys, message.msg_id) == ("a", "k", "id")
    assert message.broker_name == "broker-a"
    assert message.get_property("own") == "v"
    assert message.get_property("none") is None
    assert message.head.queue_offset == 7
    assert "queue_offset=7" in repr(message)


@pytest.mark.behaviour("MS-03")
@pytest.mark.parametrize("name", ["topic", "queue_id", "reconsume_times", "tags", "msg_id", "properties", "unheard_of"])
def test_a_message_is_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(from_wire(), name, "x")


@pytest.mark.behaviour("MS-03")
def test_its_properties_are_read_only_too() -> None:
    message = from_wire(properties={"own": "v"})
    with pytest.raises(TypeError):
        message.properties["own"] = "else"  # type: ignore[index]


@pytest.mark.behaviour("MS-03")
def test_messages_are_equal_only_to_themselves() -> None:
    message = from_wire(topic="topic", queue_offset=1)
    assert message == message
    assert message != from_wire(topic="topic", queue_offset=1)


@pytest.mark.behaviour("MS-04")
def test_a_property_that_is_not_utf_8_is_read_as_java_reads_it_and_hurts_no_other() -> None:
    stored = encode_message(MessageExt(body=b"body", queue_offset=7, properties={"own": "é", "b": "c"}, tags="a"))
    (message,) = decode_messages(stored.replace("é".encode(), b"\xc3\x28"), BOUNDS)
    assert message.get_property("own") == "\ufffd("
    assert (message.body, message.queue_offset, message.tags, message.get_property("b")) == (b"body", 7, "a", "c")
    assert message.get_property("MAX_OFFSET") == "99"


@pytest.mark.behaviour("MS-05")
def test_the_bounds_of_the_queue_are_the_pull_s_whatever_the_message_itself_says() -> None:
    message = from_wire(properties={"MAX_OFFSET": "1", "MIN_OFFSET": "0", "own": "v"})
    assert (message.get_property("MIN_OFFSET"), message.get_property("MAX_OFFSET")) == ("3", "99")
    assert dict(message.properties) == {"MIN_OFFSET": "3", "MAX_OFFSET": "99", "own": "v"}


@pytest.mark.behaviour("MS-05")
def test_a_message_that_came_by_no_pull_has_no_bounds_and_no_broker() -> None:
    message = from_wire(bounds=None, properties={"own": "v"})
    assert (message.get_property("MAX_OFFSET"), message.broker_name) == (None, "")
    assert dict(message.properties) == {"own": "v"}
    assert MessageExt(broker_name="broker-a").get_property("MAX_OFFSET") is None


@pytest.mark.behaviour("MS-06")
def test_the_broker_s_id_is_its_address_and_the_physical_offset() -> None:
    message = from_wire(store_host=("10.0.0.2", 10_911), commit_log_offset=0x123456789A)
    assert message.offset_msg_id == "0A000002" + "00002A9F" + "000000123456789A"
    assert message.msg_id == message.offset_msg_id


@pytest.mark.behaviour("MS-06")
def test_ipv6_hosts_are_told_and_make_a_longer_id() -> None:
    message = from_wire(born_host=("::1", 5), store_host=("fe80::2", 10_911))
    assert (message.born_host, message.store_host) == (("::1", 5), ("fe80::2", 10_911))
    assert message.sys_flag & (MessageSysFlag.BORNHOST_V6 | MessageSysFlag.STOREHOST_V6) == 0x30
    assert message.offset_msg_id == "FE800000000000000000000000000002" + "00002A9F" + "0" * 16


@pytest.mark.behaviour("MS-06")
def test_only_a_message_of_a_transaction_has_a_transaction_id() -> None:
    assert from_wire(properties={"UNIQ_KEY": "id"}).transaction_id is None
    assert from_wire(properties={"UNIQ_KEY": "id", "TRAN_MSG": "false"}).transaction_id is None
    assert from_wire(properties={"UNIQ_KEY": "id", "TRAN_MSG": "true"}).transaction_id == "id"


# Properties and hosts as bytes.

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x01\x02"), min_size=1, max_size=8)


@pytest.mark.behaviour("MS-07")
@given(st.dictionaries(_TEXT, _TEXT, max_size=5))
def test_properties_written_are_read_back(properties: dict[str, str]) -> None:
    assert parse_properties(format_properties(properties).encode()) == properties


@pytest.mark.behaviour("MS-07")
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", {}),
        (b"a\x01b", {"a": "b"}),
        (b"a\x01b\x02", {"a": "b"}),
        (b"a\x02\x02b\x01c\x02", {"b": "c"}),
        (b"\x01c\x02a\x01\x02b\x01d\x02", {"b": "d"}),
        (b"a\x01b\x01c\x02", {"a": "b\x01c"}),
        (b"a\x011\x02a\x012\x02", {"a": "2"}),
    ],
)
def test_pieces_without_a_name_or_a_value_are_skipped(raw: bytes, expected: dict[str, str]) -> None:
    assert parse_properties(raw) == expected


@pytest.mark.behaviour("MS-07")
def test_properties_without_a_value_are_not_written() -> None:
    assert format_properties({"a": "", "b": "c"}) == "b\x01c\x02"


@pytest.mark.behaviour("MS-07")
@given(st.binary(max_size=40))
def test_whatever_the_bytes_are_properties_can_be_read(raw: bytes) -> None:
    assert all(name and value for name, value in parse_properties(raw).items())


@pytest.mark.behaviour("MS-06")
@given(st.tuples(st.ip_addresses().map(str), st.integers(0, 65_535)))
def test_hosts_packed_are_unpacked(host: tuple[str, int]) -> None:
    packed = pack_host(host)
    assert len(packed) == (20 if ":" in host[0] else 8)
    address, port = unpack_host(packed)
    assert (pack_host((address, port)), port) == (packed, host[1])
