"""What a producer checks before it asks any server. Nothing listens at the name server's address given here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rocketmq_py import ConfigError, DefaultMQProducer, IllegalStateError, Message, TransportError
from rocketmq_py.errors import BrokerError

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def producer() -> Iterator[DefaultMQProducer]:
    with DefaultMQProducer("unit", namesrv_addr=NOWHERE, max_message_size=1_000) as producer:
        yield producer


def refused(producer: DefaultMQProducer, message: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        producer.send(message, **options)
    return str(error.value)


@pytest.mark.behaviour("PR-01")
@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message("topic", b""), "the body of a message is empty"),
        (Message("topic", b"x" * 1_001), "the body has 1001 bytes, the limit is 1000"),
        (Message("", b"x"), "topic is blank"),
        (Message("a topic", b"x"), "contains illegal characters"),
        (Message("t" * 128, b"x"), "longer than topic max length 127"),
        (Message("topic", b"x", properties={"own": "v" * 32_767}), "the limit is 32767"),
        (Message("topic", b"x", keys="ü" * 16_380), "the limit is 32767"),
    ],
    ids=["empty", "too large", "no topic", "illegal topic", "long topic", "large properties", "large keys"],
)
def test_a_message_that_no_broker_takes_is_refused_at_once(
    producer: DefaultMQProducer, message: Message, text: str
) -> None:
    assert text in refused(producer, message)
    assert text in refused(producer, [Message("topic", b"x"), message])


@pytest.mark.behaviour("PR-02")
@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "a batch needs at least one message"),
        ([Message("a", b"x"), Message("b", b"x")], "must have the same topic and wait_store_msg_ok"),
        (
            [Message("a", b"x"), Message("a", b"x", wait_store_msg_ok=False)],
            "must have the same topic and wait_store_msg_ok",
        ),
        ([Message("a", b"x", delay_time_level=1)], "delayed messages and messages to retry topics cannot be"),
        ([Message("a", b"x", delay_time_ms=1)], "delayed messages and messages to retry topics cannot be"),
        ([Message("%RETRY%group", b"x")], "delayed messages and messages to retry topics cannot be"),
        ([Message("a", b"x" * 900), Message("a", b"x" * 900)], "the limit is 1000: split it"),
        (["text"], "a batch consists of Message objects, not str"),
    ],
    ids=["none", "topics", "waiting", "delayed", "timer", "retry topic", "too large", "no message"],
)
def test_messages_that_cannot_be_stored_together_are_refused_at_once(
    producer: DefaultMQProducer, messages: Sequence[Any], text: str
) -> None:
    assert text in refused(producer, messages)


@pytest.mark.behaviour("PR-02")
def test_a_selector_can_be_called(producer: DefaultMQProducer) -> None:
    assert "called with (queues, message, arg), 3 cannot" in refused(producer, Message("a", b"x"), selector=3)


@pytest.mark.behaviour("PR-02")
def test_a_batch_has_no_selector(producer: DefaultMQProducer) -> None:
    text = refused(producer, [Message("a", b"x")], selector=lambda queues, message, arg: queues[0])
    assert "give the selector a single message" in text


@pytest.mark.behaviour("PR-03")
def test_a_name_server_that_cannot_be_reached_is_a_transport_error_that_says_so(producer: DefaultMQProducer) -> None:
    with pytest.raises(
        TransportError, match=f"no name server can be reached, check namesrv_addr: cannot connect to {NOWHERE}"
    ):
        producer.send(Message("topic", b"x"))
    with pytest.raises(TransportError):
        producer.fetch_publish_message_queues("topic")


@pytest.mark.behaviour("PR-04")
def test_a_producer_sends_only_between_start_and_shutdown() -> None:
    producer = DefaultMQProducer("unit", namesrv_addr=NOWHERE)
    with pytest.raises(IllegalStateError, match="the producer is not started"):
        producer.send(Message("topic", b"x"))
    producer.start()
    producer.shutdown()
    with pytest.raises(IllegalStateError, match="the producer was shut down"):
        producer.send(Message("topic", b"x"))
    producer.shutdown()
    with pytest.raises(IllegalStateError, match="started once: make a new one"):
        producer.start()


@pytest.mark.behaviour("PR-04")
def test_a_producer_shut_down_before_its_start_cannot_be_started() -> None:
    producer = DefaultMQProducer("unit", namesrv_addr=NOWHERE)
    producer.shutdown()
    with pytest.raises(IllegalStateError):
        producer.start()


@pytest.mark.behaviour("PR-04")
def test_a_producer_is_started_once(producer: DefaultMQProducer) -> None:
    with pytest.raises(IllegalStateError):
        producer.start()


@pytest.mark.behaviour("PR-04")
def test_two_producers_of_a_group_need_two_instances_and_a_failed_start_leaves_the_first_alone() -> None:
    options: dict[str, Any] = {"namesrv_addr": NOWHERE, "instance_name": "shared"}
    with DefaultMQProducer("unit", **options) as first:
        second = DefaultMQProducer("unit", **options)
        with pytest.raises(IllegalStateError, match="use another group or another instance_name"):
            second.start()
        second.shutdown()
        with pytest.raises(TransportError):
            first.send(Message("topic", b"x"))
        with DefaultMQProducer("other", **options):
            pass
        with DefaultMQProducer("unit", **{**options, "instance_name": "own"}):
            pass
    with DefaultMQProducer("unit", **options):
        pass


@pytest.mark.behaviour("PR-05")
@pytest.mark.parametrize(
    ("group", "settings", "text"),
    [
        ("", {}, "group is blank"),
        ("unit", {"send_msg_timeout": 0}, "send_msg_timeout Out of range"),
        ("unit", {"namesrv_addr": "nonsense"}, "is not of the form host:port"),
        ("unit", {"namesrv_addr": ""}, "no name server"),
    ],
)
def test_wrong_settings_are_refused_at_the_start_which_can_be_tried_again(
    group: str, settings: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NAMESRV_ADDR", raising=False)
    producer = DefaultMQProducer(group, **{"namesrv_addr": NOWHERE, **settings})
    with pytest.raises(ConfigError, match=text):
        producer.start()
    producer.group, producer.send_msg_timeout, producer.namesrv_addr = "unit", 3_000, NOWHERE
    with producer:
        pass


@pytest.mark.behaviour("CF-03", "PR-05")
def test_a_setting_that_does_not_exist_is_refused_by_the_constructor() -> None:
    with pytest.raises(ConfigError, match="did you mean send_msg_timeout"):
        DefaultMQProducer("unit", send_timeout=1)  # type: ignore[call-arg]


@pytest.mark.behaviour("PR-05")
def test_producers_are_told_apart_however_alike_their_settings_are() -> None:
    first, second = DefaultMQProducer("a"), DefaultMQProducer("b")
    assert first != second
    assert len({first, second}) == 2


def test_the_flags_of_errors_say_what_to_do() -> None:
    assert (TransportError.retriable, TransportError.refresh_route, ConfigError.retriable) == (True, True, False)
    unknown_topic = BrokerError(17, "no route", "a:1", "send")
    assert (unknown_topic.retriable, unknown_topic.refresh_route) == (True, True)
    assert str(unknown_topic) == "send: CODE: 17 no route (from a:1)"
    assert BrokerError(13, "").retriable is False
    assert str(BrokerError(13, "")) == "CODE: 13"
