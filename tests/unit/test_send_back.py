from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.errors import BrokerError, ConnectError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import FakeBroker, ManualClock
from tests.unit.support import GROUP, RETRY_TOPIC, message


class Broker(FakeBroker):
    """Notes with what each send-back was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int, int]] = []
        self.flags: list[int] = []

    def send_message_back(
        self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
    ) -> None:
        self.asked.append((group, delay_level, max_reconsume_times, timeout_ms))
        super().send_message_back(group, msg, delay_level, max_reconsume_times, timeout_ms)

    def send_retry_message(self, topic: str, body: bytes, flag: int, properties: Mapping[str, str]) -> None:
        self.flags.append(flag)
        super().send_retry_message(topic, body, flag, properties)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def send_back(broker: Broker) -> SendMessageBack:
    return SendMessageBack(GROUP, 16, broker, RateLimitedLog(ManualClock(), logging.getLogger(__name__)))


def refuse(broker: Broker, *methods: str) -> None:
    for method in methods:
        broker.failing[method] = ConnectError("broker-a has no master now")


@pytest.mark.behaviour("SB-01")
@pytest.mark.parametrize("delay_level", [-1, 0, 5])
def test_a_failed_message_goes_back_to_its_broker_with_the_delay_level_asked_for(
    send_back: SendMessageBack, broker: Broker, delay_level: int
) -> None:
    failed = message(3)
    assert send_back.send(failed, delay_level) is True
    assert broker.sent_back == [(failed, delay_level)]
    assert broker.asked == [(GROUP, delay_level, 16, 5_000)]
    assert broker.retry_messages == []


@pytest.mark.behaviour("SB-02")
def test_when_the_broker_refuses_it_is_sent_to_the_retry_topic_as_a_new_message(
    send_back: SendMessageBack, broker: Broker
) -> None:
    refuse(broker, "send_message_back")
    properties = {"UNIQ_KEY": "id-1", "KEYS": "k", "own": "v", "MIN_OFFSET": "1", "MAX_OFFSET": "9", "TRAN_MSG": "true"}
    failed = message(3, body=b"body", flag=4, reconsume_times=2, properties=properties)
    assert send_back.send(failed, -1) is True
    assert broker.retry_messages == [
        (
            RETRY_TOPIC,
            b"body",
            {
                "UNIQ_KEY": "id-1",
                "KEYS": "k",
                "own": "v",
                "ORIGIN_MESSAGE_ID": "id-1",
                "RETRY_TOPIC": "topic",
                "RECONSUME_TIME": "3",
                "MAX_RECONSUME_TIMES": "16",
                "DELAY": "5",
            },
        )
    ]
    assert broker.flags == [4]


@pytest.mark.behaviour("SB-02")
def test_the_new_message_keeps_the_first_messages_id_over_many_retries(
    send_back: SendMessageBack, broker: Broker
) -> None:
    refuse(broker, "send_message_back")
    properties = {"UNIQ_KEY": "id-2", "ORIGIN_MESSAGE_ID": "id-1", "RETRY_TOPIC": "stale", "DELAY": "1"}
    send_back.send(message(3, properties=properties), 0)
    ((_, _, sent),) = broker.retry_messages
    assert sent["ORIGIN_MESSAGE_ID"] == "id-1"
    assert (sent["RETRY_TOPIC"], sent["DELAY"], sent["RECONSUME_TIME"]) == ("topic", "3", "1")


@pytest.mark.behaviour("SB-02")
def test_the_listeners_message_does_not_change_when_it_is_sent_again(
    send_back: SendMessageBack, broker: Broker
) -> None:
    refuse(broker, "send_message_back")
    failed = message(3, properties={"UNIQ_KEY": "id-1", "TRAN_MSG": "true"})
    before = dict(failed.properties)
    send_back.send(failed, 0)
    assert dict(failed.properties) == before
    assert failed.reconsume_times == 0


@pytest.mark.behaviour("SB-03")
@pytest.mark.parametrize("error", [ConnectError("no master"), BrokerError(16, "no permission")])
def test_when_both_ways_fail_it_says_so_and_raises_nothing(
    send_back: SendMessageBack, broker: Broker, error: ConnectError | BrokerError, caplog: pytest.LogCaptureFixture
) -> None:
    broker.failing.update({"send_message_back": error, "send_retry_message": error})
    assert send_back.send(message(3, properties={"UNIQ_KEY": "id-1"}), 0) is False
    assert "message id-1 (queue 0 offset 3) could not be sent to the retry topic either" in caplog.text


@pytest.mark.behaviour("NS-05")
def test_brokers_get_the_topic_with_its_namespace_and_the_listeners_message_keeps_the_short_one(broker: Broker) -> None:
    warnings = RateLimitedLog(ManualClock(), logging.getLogger(__name__))
    send_back = SendMessageBack("ns%group", 16, broker, warnings, "ns")
    failed = message(3)
    assert send_back.send(failed, 0) is True
    ((sent, _),) = broker.sent_back
    assert (sent.topic, sent.queue_offset, sent.body, failed.topic) == ("ns%topic", 3, failed.body, "topic")
    refuse(broker, "send_message_back")
    assert send_back.send(failed, 0) is True
    assert send_back.send_as_normal_message(failed) is True
    for topic, _, properties in broker.retry_messages:
        assert (topic, properties["RETRY_TOPIC"], failed.topic) == ("%RETRY%ns%group", "ns%topic", "topic")
    assert len(broker.retry_messages) == 2
