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


NAMESPACED = [
    ("TOPIC_XXX", "MQ_INST_XXX%TOPIC_XXX"),
    ("%RETRY%GID_XXX", "%RETRY%MQ_INST_XXX%GID_XXX"),
    ("%DLQ%GID_XXX", "%DLQ%MQ_INST_XXX%GID_XXX"),
    ("with%percent", "MQ_INST_XXX%with%percent"),
]


@pytest.mark.behaviour("NS-01")
@pytest.mark.parametrize(("short", "long"), NAMESPACED)
def test_a_namespace_stands_before_the_name_and_behind_the_prefix_of_retry_and_dead_letter_topics(
    short: str, long: str
) -> None:
    assert names.wrap_namespace("MQ_INST_XXX", short) == long
    assert names.wrap_namespace("MQ_INST_XXX", long) == long
    assert names.without_namespace("MQ_INST_XXX", long) == short
    assert names.without_namespace("MQ_INST_XXX", short) == short
    assert names.without_namespace("MQ_INST_XXX1", long) == long
    assert names.retry_topic(names.wrap_namespace("ns", "g")) == names.wrap_namespace("ns", names.retry_topic("g"))


@pytest.mark.behaviour("NS-01")
@pytest.mark.parametrize("namespace", [None, ""])
def test_without_a_namespace_names_stay_as_they_are(namespace: str | None) -> None:
    assert names.wrap_namespace(namespace, "topic") == "topic"
    assert names.without_namespace(namespace, "ns%topic") == "ns%topic"


@pytest.mark.behaviour("NS-01")
@pytest.mark.parametrize(
    "name", ["rmq_sys_topic", "TBW102", "RMQ_SYS_TRACE_TOPIC", "CID_RMQ_SYS_TRANS", "DefaultCluster_REPLY_TOPIC", ""]
)
def test_names_of_the_system_are_in_no_namespace(name: str) -> None:
    assert names.wrap_namespace("ns", name) == name


@pytest.mark.behaviour("NS-01")
@pytest.mark.parametrize("namespace", ["a%b", "a b", "\u00e4", 5])
def test_a_namespace_has_no_percent_which_would_end_it(namespace: str) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        names.check_namespace(namespace)
