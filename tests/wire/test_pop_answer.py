"""Answers to a pop: every message gets its receipt, or the answer is an error."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from rocketmq_py.errors import BrokerError, ProtocolError
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeInitMode, PopResult, PopStatus
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import encode_message
from rocketmq_py.remoting.pop_api import (
    parse_msg_offset_info,
    parse_order_count_info,
    parse_start_offset_info,
    pop_result,
)

TOPIC, GROUP = "topic", "group"
RETRY_V1, RETRY_V2 = "%RETRY%group_topic", "%RETRY%group+topic"
POP_TIME = 1_700_000_000_000
ALL_QUEUES = MessageQueue(TOPIC, "broker-a", -1)
EVERYTHING = SubscriptionData(TOPIC)

#: as a broker writes it onto a message of the retry topic whose name it replaces by the original one
BROKER_RECEIPT = f"0 {POP_TIME} 4000 0 1 broker-a 0 2"


@dataclass(frozen=True)
class Call(PopCall):
    """A pop as the core asks for it."""

    group: str = GROUP
    mq: MessageQueue = ALL_QUEUES
    subscription: SubscriptionData = EVERYTHING
    max_nums: int = 32
    invisible_ms: int = 60_000
    init_mode: ConsumeInitMode = ConsumeInitMode.MAX
    poll_ms: int = 15_000
    timeout_ms: int = 25_000


def stored(queue: int, offset: int, topic: str = TOPIC, **properties: str) -> MessageExt:
    return MessageExt(topic=topic, body=b"body", queue_id=queue, queue_offset=offset, properties=properties)


def answer(*msgs: MessageExt, order: bool = False, without: str = "", **fields: str) -> PopResult:
    ext_fields = {
        "popTime": str(POP_TIME), "invisibleTime": "60000", "reviveQid": "3", "restNum": "0", **fields,
    }  # fmt: skip
    ext_fields.pop(without, None)
    reply = RemotingCommand(0, ext_fields=ext_fields, body=b"".join(map(encode_message, msgs)))
    return pop_result(reply, Call(order=order), "host:1")


def receipts(result: PopResult) -> list[str | None]:
    return [msg.get_property("POP_CK") for msg in result.messages]


@pytest.mark.behaviour("PO-25")
@pytest.mark.parametrize(
    ("code", "status"),
    [(209, PopStatus.POLLING_FULL), (210, PopStatus.POLLING_NOT_FOUND), (19, PopStatus.POLLING_NOT_FOUND)],
)
def test_an_answer_without_messages_needs_no_fields(code: int, status: PopStatus) -> None:
    assert pop_result(RemotingCommand(code), Call(), "host:1") == PopResult(status, [])


@pytest.mark.behaviour("PO-25")
def test_any_other_code_is_an_error() -> None:
    with pytest.raises(BrokerError, match="timerWheelEnable") as refused:
        pop_result(RemotingCommand(1, remark="timerWheelEnable is false"), Call(), "host:1")
    assert (refused.value.code, refused.value.address) == (1, "host:1")


@pytest.mark.behaviour("PO-26")
def test_messages_of_several_queues_and_kinds_get_the_receipts_of_their_places() -> None:
    result = answer(
        stored(0, 5), stored(0, 7), stored(1, 9), stored(0, 2, RETRY_V1), stored(0, 4, RETRY_V2),
        startOffsetInfo="0 0 5;0 1 9;1 0 2;2 0 4", msgOffsetInfo="0 0 5,7;0 1 9;1 0 2;2 0 4",
    )  # fmt: skip
    assert result.status is PopStatus.FOUND
    assert receipts(result) == [
        f"5 {POP_TIME} 60000 3 0 broker-a 0 5",
        f"5 {POP_TIME} 60000 3 0 broker-a 0 7",
        f"9 {POP_TIME} 60000 3 0 broker-a 1 9",
        f"2 {POP_TIME} 60000 3 1 broker-a 0 2",
        f"4 {POP_TIME} 60000 3 2 broker-a 0 4",
    ]
    assert {msg.topic for msg in result.messages} == {TOPIC}
    assert {msg.broker_name for msg in result.messages} == {"broker-a"}
    assert {msg.get_property("1ST_POP_TIME") for msg in result.messages} == {str(POP_TIME)}
    assert {msg.get_property("MAX_OFFSET") for msg in result.messages} == {None}


@pytest.mark.behaviour("PO-26")
def test_a_receipt_that_the_broker_wrote_is_kept_and_tells_the_message_s_place() -> None:
    result = answer(
        stored(0, 2), stored(0, 2, POP_CK=BROKER_RECEIPT, **{"1ST_POP_TIME": "5"}),
        startOffsetInfo="0 0 2;1 0 2", msgOffsetInfo="0 0 2;1 0 2",
    )  # fmt: skip
    assert receipts(result) == [f"2 {POP_TIME} 60000 3 0 broker-a 0 2", BROKER_RECEIPT]
    assert [msg.get_property("1ST_POP_TIME") for msg in result.messages] == [str(POP_TIME), "5"]


@pytest.mark.behaviour("PO-26")
def test_the_offset_that_the_answer_tells_is_the_one_to_settle_by(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    result = answer(stored(0, 5), stored(0, 6), startOffsetInfo="0 0 5", msgOffsetInfo="0 0 5,8")
    assert receipts(result) == [f"5 {POP_TIME} 60000 3 0 broker-a 0 5", f"5 {POP_TIME} 60000 3 0 broker-a 0 8"]
    assert "lies at offset 8" in caplog.text


@pytest.mark.behaviour("PO-26")
def test_without_start_offsets_the_first_message_of_a_queue_begins_its_batch() -> None:
    result = answer(stored(0, 5), stored(1, 9), stored(0, 7))
    assert receipts(result) == [
        f"5 {POP_TIME} 60000 3 0 broker-a 0 5",
        f"9 {POP_TIME} 60000 3 0 broker-a 1 9",
        f"5 {POP_TIME} 60000 3 0 broker-a 0 7",
    ]


@pytest.mark.behaviour("PO-26")
@pytest.mark.parametrize("order", [True, False])
def test_only_an_ordered_pop_counts_deliveries_by_the_answer(order: bool) -> None:
    result = answer(
        stored(0, 5), stored(0, 6), stored(1, 9), order=order,
        startOffsetInfo="0 0 5;0 1 9", msgOffsetInfo="0 0 5,6;0 1 9", orderCountInfo="0 0 2;0 qo0%6 4",
    )  # fmt: skip
    assert [msg.reconsume_times for msg in result.messages] == ([2, 4, 0] if order else [0, 0, 0])


@pytest.mark.behaviour("PO-27")
@pytest.mark.parametrize(
    "fields",
    [
        {"startOffsetInfo": "0 1 5", "msgOffsetInfo": "0 0 5"},
        {"startOffsetInfo": "0 0 5", "msgOffsetInfo": "0 1 5"},
        {"startOffsetInfo": "0 0 5", "msgOffsetInfo": ""},
        {"startOffsetInfo": "1 0 5", "msgOffsetInfo": "1 0 5"},
        {"startOffsetInfo": "0 0", "msgOffsetInfo": "0 0 5"},
        {"startOffsetInfo": "0 0 5", "msgOffsetInfo": "0 0 5;0 0 6"},
        {"startOffsetInfo": "0 0 5;", "msgOffsetInfo": "0 0 5"},
        {"startOffsetInfo": "0 0 five", "msgOffsetInfo": "0 0 5"},
        {"startOffsetInfo": "0 0 5", "msgOffsetInfo": "0 0 5,"},
        {"without": "popTime"},
        {"popTime": "-1"},
        {"invisibleTime": "soon"},
        {"reviveQid": "9" * 5_000},
    ],
)
def test_an_answer_that_tells_no_usable_receipts_is_an_error(fields: Mapping[str, str]) -> None:
    with pytest.raises(ProtocolError):
        answer(stored(0, 5), **fields)  # type: ignore[arg-type] # order is none of the fields


@pytest.mark.behaviour("PO-27")
def test_so_is_a_broken_receipt_of_the_broker_s_own() -> None:
    with pytest.raises(ProtocolError, match="POP_CK"):
        answer(stored(0, 5, POP_CK="0 1 2"), startOffsetInfo="0 0 5", msgOffsetInfo="0 0 5")


def test_the_fields_of_an_answer_are_read_by_kind_and_queue() -> None:
    assert parse_start_offset_info("0 0 5;1 3 7") == {"0@0": 5, "1@3": 7}
    assert parse_msg_offset_info("0 0 5,6;2 1 9") == {"0@0": [5, 6], "2@1": [9]}
    assert parse_order_count_info("0 0 1;0 qo0%6 2") == {"0@0": 1, "0@qo0%6": 2}
    assert (parse_start_offset_info(None), parse_msg_offset_info(""), parse_order_count_info(None)) == ({}, {}, {})
