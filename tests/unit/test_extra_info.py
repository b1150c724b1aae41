from __future__ import annotations

import pytest

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.extra_info import ExtraInfo, retry_of
from rocketmq_py.model.names import normal_topic

RECEIPT = "5 1700000000000 60000 3 1 broker-a 2 7"


@pytest.mark.behaviour("PO-23")
def test_a_receipt_is_read_and_written_as_it_travels() -> None:
    receipt = ExtraInfo.parse(RECEIPT)
    assert receipt == ExtraInfo(5, 1_700_000_000_000, 60_000, 3, "1", "broker-a", 2, 7)
    assert str(receipt) == RECEIPT
    assert ExtraInfo.parse(RECEIPT + " later field") == receipt


@pytest.mark.behaviour("PO-23")
@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "5 1700000000000 60000 3 1 broker-a 2",
        "x 1700000000000 60000 3 1 broker-a 2 7",
        "5 1700000000000 60000 3 1 broker-a 2 7_0",
        "5 1700000000000 60000 3 1 broker-a 2 \u0667",
        "5 1700000000000 60000 3 1 broker-a 2 9223372036854775808",
        "5 1700000000000 60000 3 1 broker-a 2 " + "9" * 5_000,
        "5  60000 3 1 broker-a 2 7",
    ],
)
def test_what_is_no_receipt_is_refused(text: str | None) -> None:
    with pytest.raises(ProtocolError, match="POP_CK"):
        ExtraInfo.parse(text)


@pytest.mark.behaviour("PO-24")
@pytest.mark.parametrize(
    ("retry", "real"), [("0", "topic"), ("1", "%RETRY%group_topic"), ("2", "%RETRY%group+topic"), ("7", "topic")]
)
def test_a_receipt_tells_the_topic_in_which_the_message_lies(retry: str, real: str) -> None:
    assert ExtraInfo(0, 0, 0, 0, retry, "broker-a", 0, 0).real_topic("topic", "group") == real


@pytest.mark.behaviour("PO-24")
@pytest.mark.parametrize(
    ("topic", "retry"), [("topic", "0"), ("to+pic", "0"), ("%RETRY%group_topic", "1"), ("%RETRY%group+topic", "2")]
)
def test_the_kind_of_a_topic_follows_from_its_name(topic: str, retry: str) -> None:
    assert retry_of(topic) == retry


@pytest.mark.parametrize(
    ("topic", "normal"),
    [
        ("%RETRY%group_topic", "topic"),
        ("%RETRY%group_to_pic", "to_pic"),
        ("%RETRY%group+topic", "topic"),
        ("%RETRY%group", None),
        ("%RETRY%groups", None),
        ("topic", None),
    ],
)
def test_a_pop_retry_topic_tells_the_topic_it_belongs_to(topic: str, normal: str | None) -> None:
    assert normal_topic("group", topic) == normal
