"""What commands are made of: tables, targets, dead letters as they were sent."""

from __future__ import annotations

import pytest

from rocketmq_py.cli.credentials import ACCESS_KEY, SECRET_KEY, admin_client, credentials
from rocketmq_py.cli.dead_letters import as_sent, origin_topic
from rocketmq_py.cli.offset_reset import BEGIN_MS, END_MS, Target, parse_target
from rocketmq_py.cli.output import moment, table, version
from rocketmq_py.errors import ConfigError
from rocketmq_py.model.codes import VERSION, VERSION_DESC
from rocketmq_py.model.message import MessageExt


def test_a_table_has_numbers_to_the_right_and_a_dash_for_none() -> None:
    assert table(("name", "count", "ok"), [("a", 1, True), ("bcd", None, False), ("e", 200, True)]) == (
        "name   count   ok\na          1   yes\nbcd        -   no\ne        200   yes"
    )
    assert table(("name", "count"), []) == "name   count"


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    assert "\x1b" not in table(("name",), [("a\x1b[2Jb",)])


def test_moments_of_0_are_none() -> None:
    assert moment(0) is None
    told = moment(1_700_000_000_000)
    assert told is not None
    assert told.startswith("2023-11-1")
    assert len(told) == len("2023-11-14 22:13:20")


@pytest.mark.behaviour("AC-02")
def test_versions_of_members_have_upstreams_names() -> None:
    names = {
        211: "211", 212: "V4_0_0_SNAPSHOT", 213: "V4_0_0", 401: "V4_9_4", 412: "V5_0_0_SNAPSHOT", 513: "V5_5_0",
        611: "V5_9_9", 612: "612", 0: "0", -1: "-1",
    }  # fmt: skip
    assert {ordinal: version(ordinal) for ordinal in names} == names
    assert version(VERSION) == VERSION_DESC


@pytest.mark.behaviour("AC-03")
@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("first", Target(None, BEGIN_MS)),
        ("earliest", Target(None, BEGIN_MS)),
        ("last", Target(None, END_MS)),
        ("latest", Target(None, END_MS)),
        ("0", Target(0, BEGIN_MS)),
        ("42", Target(42, BEGIN_MS)),
        ("2026-01-31T12:00:00+00:00", Target(None, 1_769_860_800_000)),
        ("1960-01-01T00:00:00+00:00", Target(None, BEGIN_MS)),
    ],
)
def test_a_reset_goes_to_an_end_a_number_or_a_moment(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "-1", "tomorrow", "9" * 19, "²"])
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="first, last, an offset, or a moment"):
        parse_target(text)


def test_access_keys_come_from_the_environment_both_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACCESS_KEY, raising=False)
    monkeypatch.delenv(SECRET_KEY, raising=False)
    assert credentials() == {}
    monkeypatch.setenv(ACCESS_KEY, "user")
    with pytest.raises(ConfigError, match="set both ROCKETMQ_ACCESS_KEY and ROCKETMQ_SECRET_KEY"):
        credentials()
    monkeypatch.setenv(SECRET_KEY, "password")
    admin = admin_client("h:1")
    assert (admin.access_key, admin.secret_key) == ("user", "password")


SENDERS = {"TAGS": "T", "KEYS": "k1 k2", "UNIQ_KEY": "ID", "color": "red", "__SHARDINGKEY": "s", "INSTANCE_ID": "ns"}
BROKERS = {
    "RETRY_TOPIC": "orders", "REAL_TOPIC": "%DLQ%g", "REAL_QID": "0", "ORIGIN_MESSAGE_ID": "O", "RECONSUME_TIME": "3",
    "MAX_RECONSUME_TIMES": "3", "DELAY": "5", "WAIT": "false", "CLUSTER": "C", "MSG_REGION": "R", "TRACE_ON": "true",
    "TRAN_MSG": "true", "PGROUP": "p", "POP_CK": "0 1 2", "1ST_POP_TIME": "1", "TIMER_DELAY_MS": "5",
    "TIMER_OUT_MS": "6", "CONSUME_START_TIME": "1",
}  # fmt: skip


@pytest.mark.behaviour("AC-06")
def test_a_dead_letter_goes_out_as_its_sender_sent_it() -> None:
    letter = MessageExt(topic="%DLQ%g", body=b"body", flag=7, properties={**SENDERS, **BROKERS}, reconsume_times=3)
    message = as_sent(letter)
    assert (message.topic, message.body, message.flag) == ("orders", b"body", 7)
    assert message.properties == {**SENDERS, "WAIT": "true"}
    assert as_sent(letter, "elsewhere").topic == "elsewhere"


def test_a_dead_letter_of_a_proxy_tells_its_topic_otherwise() -> None:
    assert origin_topic(MessageExt(topic="%DLQ%g", properties={"DLQ_ORIGIN_TOPIC": "orders"})) == "orders"


def test_a_dead_letter_that_does_not_tell_its_topic_is_not_sent_anywhere() -> None:
    with pytest.raises(ConfigError, match="name one with --topic"):
        as_sent(MessageExt(topic="%DLQ%g", body=b"b"))
