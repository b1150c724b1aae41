"""What a consumer checks before it asks any server. Nothing listens at the name server's address given here."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rocketmq_py import (
    ConfigError,
    DefaultMQPushConsumer,
    IllegalStateError,
    MessageListenerConcurrently,
    MessageSelector,
    TransportError,
)
from rocketmq_py.consumer.stats import Event
from rocketmq_py.push_consumer import TRANSITIONS, ServiceState
from tests.unit.support import succeed

NOWHERE = "127.0.0.1:1"
BOUND_S = 10.0


def make_consumer(**settings: Any) -> DefaultMQPushConsumer:
    """One that only needs a name server to start."""
    consumer = DefaultMQPushConsumer("unit", **{"namesrv_addr": NOWHERE, **settings})
    consumer.subscribe("topic")
    consumer.register_message_listener(MessageListenerConcurrently(succeed))
    return consumer


@pytest.mark.behaviour("LC-01")
def test_every_state_can_be_reached_and_the_last_one_is_final() -> None:
    reached = {ServiceState.CREATE_JUST}
    for _ in ServiceState:
        reached |= {state for known in reached for state in TRANSITIONS[known]}
    assert reached == set(ServiceState) == set(TRANSITIONS)
    assert [state for state, next_states in TRANSITIONS.items() if not next_states] == [ServiceState.SHUTDOWN_ALREADY]


@pytest.mark.behaviour("LC-02")
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"namesrv_addr": "nonsense"}, "is not of the form host:port"),
        ({"pull_batch_size": 0}, "pull_batch_size Out of range"),
        ({"consume_timestamp": "yesterday"}, "consume_timestamp is invalid"),
    ],
)
def test_wrong_settings_are_refused_at_the_start_which_can_be_tried_again(settings: dict[str, Any], text: str) -> None:
    consumer = make_consumer(**settings)
    for _ in range(2):
        with pytest.raises(ConfigError, match=text):
            consumer.start()
        assert consumer.state is ServiceState.CREATE_JUST


@pytest.mark.behaviour("LC-02")
def test_a_consumer_needs_a_subscription_and_a_listener() -> None:
    consumer = DefaultMQPushConsumer("unit", namesrv_addr=NOWHERE)
    with pytest.raises(ConfigError, match="nothing is subscribed"):
        consumer.start()
    consumer.subscribe("topic")
    with pytest.raises(ConfigError, match="messageListener is null"):
        consumer.start()
    consumer.register_message_listener(MessageListenerConcurrently(succeed))
    consumer.unsubscribe("topic")
    with pytest.raises(ConfigError, match="nothing is subscribed"):
        consumer.start()


@pytest.mark.behaviour("LC-02")
def test_an_illegal_topic_expression_or_listener_is_refused_when_it_is_given() -> None:
    consumer = DefaultMQPushConsumer("unit")
    with pytest.raises(ConfigError, match="contains illegal characters"):
        consumer.subscribe("a topic")
    with pytest.raises(ConfigError, match="names no tag"):
        consumer.subscribe("topic", "||")
    with pytest.raises(ConfigError, match="wrap a function"):
        consumer.register_message_listener(succeed)  # type: ignore[arg-type]


@pytest.mark.behaviour("LC-02", "CF-03")
def test_a_setting_that_does_not_exist_is_refused_by_the_constructor_and_as_an_attribute() -> None:
    with pytest.raises(ConfigError, match="did you mean consume_thread_m"):
        DefaultMQPushConsumer("unit", consume_threads=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        DefaultMQPushConsumer("unit").consume_threads = 1  # type: ignore[attr-defined]


@pytest.mark.behaviour("LC-03")
def test_a_start_without_a_reachable_name_server_fails_leaves_nothing_behind_and_can_be_tried_again() -> None:
    before = set(threading.enumerate())
    consumer = make_consumer()
    for _ in range(2):
        with pytest.raises(TransportError, match="no name server can be reached"):
            consumer.start()
        assert consumer.state is ServiceState.CREATE_JUST
    for thread in set(threading.enumerate()) - before:
        thread.join(BOUND_S)
    assert set(threading.enumerate()) <= before


@pytest.mark.behaviour("LC-03")
def test_with_does_not_swallow_the_failed_start() -> None:
    with pytest.raises(TransportError), make_consumer():
        raise AssertionError("not reached")


@pytest.mark.behaviour("LC-04")
def test_a_consumer_may_be_shut_down_before_its_start_and_twice_but_then_not_started() -> None:
    consumer = make_consumer()
    consumer.shutdown()
    consumer.shutdown()
    assert consumer.state is ServiceState.SHUTDOWN_ALREADY
    with pytest.raises(IllegalStateError, match="make a new one"):
        consumer.start()
    with pytest.raises(IllegalStateError, match="register the listener before start"):
        consumer.register_message_listener(MessageListenerConcurrently(succeed))


@pytest.mark.behaviour("LC-04")
def test_only_a_running_consumer_can_be_suspended_and_resumed() -> None:
    consumer = make_consumer()
    for change in (consumer.suspend, consumer.resume):
        with pytest.raises(IllegalStateError, match="not RUNNING"):
            change()


@pytest.mark.behaviour("LC-05")
def test_consumers_are_told_apart_however_alike_their_settings_are() -> None:
    first, second = make_consumer(consume_timestamp="20240101000000"), make_consumer(consume_timestamp="20240101000000")
    assert first != second
    assert len({first, second}) == 2


def test_its_text_tells_group_state_and_topics_and_its_counters_start_at_0() -> None:
    consumer = make_consumer()
    assert repr(consumer) == "<DefaultMQPushConsumer unit CREATE_JUST ['topic']>"
    assert consumer.counters() == dict.fromkeys(Event, 0)


@pytest.mark.behaviour("LC-02")
@pytest.mark.parametrize("expression", ["A && B", "A,B", "A|B", "a > 3", "*||A"])
def test_what_looks_like_an_operator_in_an_expression_is_logged(
    expression: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_consumer().subscribe("topic", expression)
    assert "only || joins tags" in caplog.text


@pytest.mark.behaviour("LC-02")
def test_an_ordinary_expression_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    make_consumer().subscribe("topic", "TagA || tag-b || T_3 ||")
    assert caplog.text == ""


@pytest.mark.behaviour("LC-02")
def test_a_hook_without_its_methods_is_refused() -> None:
    hook: Any = lambda context: None  # noqa: E731
    with pytest.raises(ConfigError, match="needs a method consume_message_before"):
        make_consumer().register_consume_message_hook(hook)


@pytest.mark.behaviour("LC-02")
@pytest.mark.parametrize("name", [3, b"bytes"])
def test_names_that_are_no_texts_are_refused_in_clear_words(name: Any) -> None:
    with pytest.raises(ConfigError, match="the name of a topic is a str"):
        make_consumer().subscribe(name)
    for namespace in (None, "ns"):
        consumer = DefaultMQPushConsumer(name, namesrv_addr=NOWHERE, namespace=namespace)
        with pytest.raises(ConfigError, match="the name of a group is a str"):
            consumer.start()
    with pytest.raises(ConfigError, match="namesrv_addr is one text"):
        make_consumer(namesrv_addr=[NOWHERE]).start()


@pytest.mark.behaviour("LC-02")
def test_a_filter_hook_without_its_method_is_refused() -> None:
    hook: Any = lambda context: None  # noqa: E731
    with pytest.raises(ConfigError, match="needs a method filter_message"):
        make_consumer().register_filter_message_hook(hook)


@pytest.mark.behaviour("NS-02")
def test_subscribing_and_unsubscribing_mean_the_topic_of_the_namespace() -> None:
    consumer = DefaultMQPushConsumer("unit", namesrv_addr=NOWHERE, namespace="ns")
    consumer.subscribe("one")
    consumer.subscribe("two", MessageSelector.by_sql("a > 5"))
    assert "['ns%one', 'ns%two']" in repr(consumer)
    consumer.unsubscribe("one")
    assert "['ns%two']" in repr(consumer)


@pytest.mark.behaviour("NS-02")
def test_a_namespace_that_comes_after_a_subscription_is_refused_at_the_start() -> None:
    consumer = make_consumer()
    consumer.namespace = "ns"
    with pytest.raises(ConfigError, match=r"set namespace before subscribe\(\): topic was subscribed without it"):
        consumer.start()


@pytest.mark.behaviour("NS-02")
def test_names_are_checked_with_their_namespace() -> None:
    with pytest.raises(ConfigError, match="longer than topic max length"):
        make_consumer(namespace="n" * 125).subscribe("topic")
    consumer = DefaultMQPushConsumer("g" * 120, namesrv_addr=NOWHERE, namespace="ns")
    with pytest.raises(ConfigError, match="longer than group max length"):
        consumer.start()
    with pytest.raises(ConfigError, match="contains illegal characters"):
        DefaultMQPushConsumer("unit", namespace="a%b").subscribe("topic")
