from __future__ import annotations

import pytest

from rocketmq_py.errors import ConfigError
from rocketmq_py.model import names
from rocketmq_py.model.message_queue import MessageQueue


@pytest.mark.behaviour("NM-01")
def test_a_group_s_failed_messages_have_topics_of_their_own() -> None:
    assert names.retry_topic("group") == "%RETRY%group"
    assert names.dlq_topic("group") == "%DLQ%group"


@pytest.mark.behaviour("NM-02")
@pytest.mark.parametrize("name", ["a", "A-Z_0|9%", "g" * 120])
def test_letters_digits_and_a_few_signs_are_legal(name: str) -> None:
    names.check_group(name)
    names.check_topic(name)


@pytest.mark.behaviour("NM-02")
@pytest.mark.parametrize(
    "name", ["a b", "a.b", "grüße", "a/b", "a\n", "\na", "a\x00", "a:b", "\N{FULLWIDTH LATIN CAPITAL LETTER A}"]
)
def test_all_other_signs_are_not(name: str) -> None:
    with pytest.raises(ConfigError, match="contains illegal characters"):
        names.check_group(name)
    with pytest.raises(ConfigError, match="contains illegal characters"):
        names.check_topic(name)


@pytest.mark.behaviour("NM-02")
@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_a_blank_name_is_not_legal(name: str) -> None:
    with pytest.raises(ConfigError, match="group is blank"):
        names.check_group(name)
    with pytest.raises(ConfigError, match="topic is blank"):
        names.check_topic(name)


@pytest.mark.behaviour("NM-02")
def test_a_group_has_120_characters_and_a_topic_127_at_most_unless_it_is_a_group_s_own() -> None:
    names.check_group("g" * 120)
    names.check_topic("t" * 127)
    names.check_topic(names.retry_topic("g" * 120))
    names.check_topic(names.dlq_topic("g" * 122))
    with pytest.raises(ConfigError, match="longer than group max length 120"):
        names.check_group("g" * 121)
    with pytest.raises(ConfigError, match="longer than topic max length 127"):
        names.check_topic("t" * 128)


@pytest.mark.behaviour("NM-03")
def test_queues_sort_by_topic_broker_and_number_and_have_java_s_text_form() -> None:
    queues = [
        MessageQueue("b", "a", 0),
        MessageQueue("a", "b", 1),
        MessageQueue("a", "a", 10),
        MessageQueue("a", "a", 9),
    ]
    assert [tuple(queue) for queue in sorted(queues)] == [("a", "a", 9), ("a", "a", 10), ("a", "b", 1), ("b", "a", 0)]
    assert str(MessageQueue("T", "B", 7)) == "MessageQueue [topic=T, brokerName=B, queueId=7]"
