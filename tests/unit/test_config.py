from __future__ import annotations

import dataclasses
import inspect
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import pytest

from rocketmq_py import DefaultMQProducer, DefaultMQPushConsumer
from rocketmq_py.consumer.allocate import AllocateMessageQueueAveragely
from rocketmq_py.errors import ConfigError
from rocketmq_py.model.config import (
    ClientConfig,
    CompressionType,
    ConsumeFromWhere,
    ConsumerConfig,
    ProducerConfig,
    check_names,
    split_address,
)
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.settings import ClientSettings, ConsumerSettings, ProducerSettings

INT_MAX = 2**31 - 1

CLIENT_RANGES = [
    ("poll_name_server_interval", 1, INT_MAX),
    ("heartbeat_broker_interval", 1, INT_MAX),
    ("persist_consumer_offset_interval", 1, INT_MAX),
    ("mq_client_api_timeout", 1, INT_MAX),
]
CONSUMER_RANGES = [
    *CLIENT_RANGES,
    ("consume_thread_min", 1, 1_000),
    ("consume_thread_max", 1, 1_000),
    ("consume_concurrently_max_span", 1, 65_535),
    ("pull_threshold_for_queue", 1, 65_535),
    ("pull_threshold_for_topic", 1, 6_553_500),
    ("pull_threshold_size_for_queue", 1, 1_024),
    ("pull_threshold_size_for_topic", 1, 102_400),
    ("pull_interval", 0, 65_535),
    ("consume_message_batch_max_size", 1, 1_024),
    ("pull_batch_size", 1, 1_024),
    ("pop_invisible_time", 5_000, 300_000),
    ("pop_batch_nums", 1, 32),
    ("pop_threshold_for_queue", 0, INT_MAX),
    ("pull_batch_size_in_bytes", 1, INT_MAX),
    ("max_reconsume_times", -1, INT_MAX),
    ("consume_timeout", 1, INT_MAX // 60_000),
    ("pull_time_delay_mills_when_exception", 0, INT_MAX),
    ("trace_msg_batch_num", 1, 20),
    ("await_termination_millis_when_shutdown", 0, INT_MAX),
]
PRODUCER_RANGES = [
    *CLIENT_RANGES,
    ("send_msg_timeout", 1, INT_MAX),
    ("retry_times_when_send_failed", 0, 100),
    ("compress_msg_body_over_howmuch", 0, INT_MAX),
    ("max_message_size", 1, INT_MAX),
    ("default_topic_queue_nums", 1, 65_535),
    ("retry_times_when_send_async_failed", 0, 100),
    ("compress_level", 0, 9),
    ("back_pressure_for_async_send_num", 10, INT_MAX),
    ("back_pressure_for_async_send_size", 1 << 20, INT_MAX),
    ("detect_timeout", 1, INT_MAX),
    ("detect_interval", 1, INT_MAX),
]
MAY_BE_OFF = {"pull_threshold_for_topic", "pull_threshold_size_for_topic"}


def wrong_values(name: str, low: int, high: int) -> list[object]:
    below = -2 if low == 1 and name in MAY_BE_OFF else low - 1
    return [below, high + 1, float(low), str(low), None, True]


def check_consumer(**settings: Any) -> None:
    # The number of threads is one setting in fact: the wide one lets each be tested alone.
    wide = {"consume_thread_min": 1, "consume_thread_max": 1_000}
    ConsumerConfig(**{**wide, **settings}).check_consumer("group")


def check_producer(**settings: Any) -> None:
    ProducerConfig(**settings).check_producer("group")


def test_the_defaults_are_java_s_and_legal() -> None:
    config = ConsumerConfig()
    config.check_consumer("group")
    assert config.consume_from_where is ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    assert (config.consume_thread_min, config.consume_thread_max) == (20, 20)
    assert (config.consume_concurrently_max_span, config.pull_threshold_for_queue) == (2_000, 1_000)
    assert (config.pull_threshold_for_topic, config.pull_threshold_size_for_queue) == (-1, 100)
    assert (config.pull_threshold_size_for_topic, config.pull_interval) == (-1, 0)
    assert (config.consume_message_batch_max_size, config.pull_batch_size) == (1, 32)
    assert (config.pop_invisible_time, config.pop_batch_nums) == (60_000, 32)
    assert (config.pop_threshold_for_queue, config.client_rebalance) == (96, True)
    assert (config.pull_batch_size_in_bytes, config.post_subscription_when_pull) == (262_144, False)
    assert (config.max_reconsume_times, config.consume_timeout) == (-1, 15)
    assert (config.persist_consumer_offset_interval, config.pull_time_delay_mills_when_exception) == (5_000, 1_000)
    assert (config.poll_name_server_interval, config.heartbeat_broker_interval) == (30_000, 30_000)
    assert (config.mq_client_api_timeout, config.instance_name, config.unit_mode) == (3_000, "DEFAULT", False)
    ProducerConfig().check_producer("group")
    assert (ProducerConfig().send_msg_timeout, ProducerConfig().retry_times_when_send_failed) == (3_000, 2)
    assert (ProducerConfig().compress_msg_body_over_howmuch, ProducerConfig().max_message_size) == (4_096, 4_194_304)


@pytest.mark.behaviour("CF-01")
@pytest.mark.parametrize(("name", "low", "high"), CONSUMER_RANGES, ids=str)
def test_a_consumer_s_setting_may_lie_at_both_ends_of_its_range_and_not_beyond(name: str, low: int, high: int) -> None:
    check_consumer(**{name: low})
    check_consumer(**{name: high})
    for wrong in wrong_values(name, low, high):
        with pytest.raises(ConfigError) as refused:
            check_consumer(**{name: wrong})
        assert str(refused.value) == f"{name} Out of range [{low}, {high}]: {wrong!r}"


@pytest.mark.behaviour("CF-01")
@pytest.mark.parametrize(("name", "low", "high"), PRODUCER_RANGES, ids=str)
def test_a_producer_s_setting_may_lie_at_both_ends_of_its_range_and_not_beyond(name: str, low: int, high: int) -> None:
    check_producer(**{name: low})
    check_producer(**{name: high})
    for wrong in wrong_values(name, low, high):
        with pytest.raises(ConfigError) as refused:
            check_producer(**{name: wrong})
        assert str(refused.value) == f"{name} Out of range [{low}, {high}]: {wrong!r}"


@pytest.mark.behaviour("CF-01")
def test_what_a_producer_is_given_several_of_is_looked_at_too() -> None:
    check_producer(send_msg_max_timeout_per_request=-1, compress_type=CompressionType.ZSTD, compress_level=22)
    check_producer(topics=["a", "b"], latency_max=(), not_available_duration=())
    for settings, text in (
        ({"send_msg_max_timeout_per_request": 0}, "send_msg_max_timeout_per_request Out of range"),
        ({"compress_type": "ZLIB"}, "compress_type is a CompressionType, not 'ZLIB'"),
        ({"topics": "one"}, "topics are several names, not the one text 'one'"),
        ({"topics": None}, "topics is a list or tuple, not None"),
        ({"latency_max": 5}, "latency_max is a list or tuple, not 5"),
        ({"topics": ["a topic"]}, "illegal characters"),
        ({"latency_max": (1, 2)}, "latency_max has 2 steps, not_available_duration 7"),
        ({"latency_max": (1, 2), "not_available_duration": (0, -1)}, "not_available_duration Out of range"),
    ):
        with pytest.raises(ConfigError, match=text):
            check_producer(**settings)


@pytest.mark.behaviour("CF-01")
@pytest.mark.parametrize("config", [ConsumerConfig, ProducerConfig])
def test_what_is_on_or_off_is_a_bool_for_a_text_would_count_as_on(config: type[ClientConfig]) -> None:
    check = check_consumer if config is ConsumerConfig else check_producer
    switches = [field.name for field in dataclasses.fields(config) if isinstance(field.default, bool)]
    assert len(switches) >= 6
    for name in switches:
        for wrong in ("false", 0, None):
            with pytest.raises(ConfigError) as refused:
                check(**{name: wrong})
            assert str(refused.value) == f"{name} is True or False, not {wrong!r}"


@pytest.mark.behaviour("CF-01")
def test_the_parts_of_the_client_s_id_are_texts() -> None:
    for name in ("instance_name", "unit_name", "client_ip"):
        with pytest.raises(ConfigError, match=f"{name} is a text .*, not 5"):
            check_consumer(**{name: 5})


@pytest.mark.behaviour("CF-01")
@pytest.mark.parametrize("name", sorted(MAY_BE_OFF))
def test_a_limit_of_the_topic_is_off_at_minus_1_and_may_not_be_0(name: str) -> None:
    check_consumer(**{name: -1})
    with pytest.raises(ConfigError, match=f"{name} Out of range"):
        check_consumer(**{name: 0})


@pytest.mark.behaviour("CF-01")
def test_fewer_threads_at_most_than_at_least_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"consume_thread_min \(21\) is larger than consume_thread_max \(20\)"):
        ConsumerConfig(consume_thread_min=21).check_consumer("group")


@pytest.mark.behaviour("CF-01")
def test_the_first_wrong_setting_in_java_s_order_is_named() -> None:
    wrong: dict[str, object] = {name: -2 for name, _, _ in CONSUMER_RANGES}
    wrong |= {"consume_timestamp": "never", "consume_from_where": None, "allocate_message_queue_strategy": 3}
    in_order = ["illegal characters", *(name for name, _, _ in CLIENT_RANGES)]
    named = []
    group = "a group"
    for _ in range(1 + 3 + len(CONSUMER_RANGES)):
        try:
            ConsumerConfig(**wrong).check_consumer(group)  # type: ignore[arg-type]
        except ConfigError as refused:
            text = str(refused)
            if "illegal characters" in text:
                named.append("illegal characters")
                group = "group"
                continue
            name = text.partition(" ")[0]
            named.append(name)
            del wrong[name]
    in_order += ["consume_from_where", "consume_timestamp", "allocate_message_queue_strategy"]
    in_order += [name for name, _, _ in CONSUMER_RANGES[len(CLIENT_RANGES) :]]
    assert named == in_order


@pytest.mark.behaviour("CF-01")
@pytest.mark.parametrize("where", ["CONSUME_FROM_LAST_OFFSET", None, 1])
def test_where_to_start_is_a_member_of_the_enumeration(where: object) -> None:
    with pytest.raises(ConfigError, match="consume_from_where is a ConsumeFromWhere, not"):
        ConsumerConfig(consume_from_where=where).check_consumer("group")  # type: ignore[arg-type]


@pytest.mark.behaviour("CF-01")
def test_a_strategy_that_brokers_are_told_of_has_a_name() -> None:
    class Nameless:
        def allocate(self, *args: object) -> list[MessageQueue]:
            return []

    check_consumer(allocate_message_queue_strategy=Nameless())
    check_consumer(client_rebalance=False, allocate_message_queue_strategy=AllocateMessageQueueAveragely())
    with pytest.raises(ConfigError, match="has no get_name"):
        check_consumer(client_rebalance=False, allocate_message_queue_strategy=Nameless())


@pytest.mark.behaviour("CF-01")
def test_a_strategy_has_a_method_allocate() -> None:
    check_consumer(allocate_message_queue_strategy=AllocateMessageQueueAveragely())
    with pytest.raises(ConfigError, match="needs a method allocate, 'AVG' has none"):
        check_consumer(allocate_message_queue_strategy="AVG")
    with pytest.raises(ConfigError, match=r"is an object, not a class: write AllocateMessageQueueAveragely\(\.\.\.\)"):
        check_consumer(allocate_message_queue_strategy=AllocateMessageQueueAveragely)


@pytest.mark.behaviour("CF-01")
def test_the_folder_of_offsets_is_a_path() -> None:
    for folder in ("~/.rocketmq_offsets", "/base", Path("here")):
        check_consumer(local_offset_store_dir=folder)
    for wrong in ("", None, 7, b"/base"):
        with pytest.raises(ConfigError, match="local_offset_store_dir is the path of a folder, not"):
            check_consumer(local_offset_store_dir=wrong)


@pytest.mark.behaviour("CF-02")
@pytest.mark.parametrize("timestamp", ["", "2024-02-03", "20240203", "20241303040506", "now", None, 20240203040506])
def test_a_consume_timestamp_of_another_form_is_refused(timestamp: object) -> None:
    with pytest.raises(ConfigError, match="consume_timestamp is invalid, the valid format is yyyyMMddHHmmss"):
        ConsumerConfig(consume_timestamp=timestamp).check_consumer("group")  # type: ignore[arg-type]


@pytest.mark.behaviour("CF-02")
def test_the_consume_timestamp_is_local_time_by_default_half_an_hour_ago() -> None:
    moment = datetime(2024, 2, 3, 4, 5, 6)
    assert ConsumerConfig(consume_timestamp="20240203040506").consume_timestamp_ms() == moment.timestamp() * 1000
    ago = datetime.now() - datetime.fromtimestamp(ConsumerConfig().consume_timestamp_ms() / 1000)
    assert timedelta(minutes=30) <= ago < timedelta(minutes=31)


@pytest.mark.behaviour("CF-01")
@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("", "group is blank"),
        ("  ", "group is blank"),
        ("g" * 121, "longer than group max length 120"),
        ("a.b", r"\[a\.b\] contains illegal characters"),
        ("DEFAULT_CONSUMER", "can not equal DEFAULT_CONSUMER"),
    ],
)
def test_an_illegal_group_is_refused(group: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ConsumerConfig().check_consumer(group)


@pytest.mark.behaviour("CF-01")
def test_an_illegal_trace_topic_is_refused() -> None:
    check_consumer(customized_trace_topic="traces")
    with pytest.raises(ConfigError, match="contains illegal characters"):
        check_consumer(customized_trace_topic="my traces")


def test_an_empty_instance_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="instance_name is a text that is not empty"):
        ProducerConfig(instance_name="").check_producer("group")


@pytest.mark.behaviour("CF-03")
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("consume_thread", "did you mean consume_thread_min or consume_thread_max?"),
        ("consumeTimeout", "did you mean consume_timeout?"),
        ("pull_batchsize", "did you mean pull_batch_size"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused_with_the_names_it_may_be(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_names(ConsumerConfig, {"namesrv_addr": "a:1", name: 1})
    text = str(refused.value)
    assert text.startswith(f"there is no setting {name!r}: ")
    assert all(word in text for word in hint.removesuffix("?").split(" "))


@pytest.mark.behaviour("CF-03")
def test_a_setting_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"^there is no setting 'zzzzzz'$"):
        check_names(ProducerConfig, {"zzzzzz": 1})
    check_names(ProducerConfig, {"send_msg_timeout": 1, "instance_name": "a"})


@pytest.mark.behaviour("CF-01")
@pytest.mark.parametrize(("configured", "effective"), [(-1, 16), (0, 0), (3, 3)])
def test_minus_1_reconsume_times_are_16(configured: int, effective: int) -> None:
    assert ConsumerConfig(max_reconsume_times=configured).effective_max_reconsume_times() == effective


# Addresses.


@pytest.mark.behaviour("CF-04")
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9876", ("127.0.0.1", 9876)),
        ("name-server.example:1", ("name-server.example", 1)),
        ("[::1]:9876", ("::1", 9876)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
    ],
)
def test_addresses_are_host_and_port_ipv6_in_brackets(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.behaviour("CF-04")
@pytest.mark.parametrize(
    "address",
    [
        "", "localhost", ":9876", "localhost:", "localhost:0", "localhost:65536", "localhost:-1", "localhost:abc",
        "localhost:" + "9" * 5_000,
        "localhost:9876 ", "::1:9876", "[::1]", "[]:9876", "localhost:\N{FULLWIDTH DIGIT NINE}", "localhost:1_0",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="not of the form host:port"):
        split_address(address)


@pytest.mark.behaviour("CF-04")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:1", ["a:1"]),
        ("a:1;b:2", ["a:1", "b:2"]),
        (" a:1 ; ;[::1]:2;", ["a:1", "[::1]:2"]),
        ("http://a:1;http://b:2", ["a:1", "b:2"]),
    ],
)
def test_name_servers_are_separated_by_semicolons(text: str, expected: list[str]) -> None:
    assert ClientConfig(namesrv_addr=text).name_servers() == expected


@pytest.mark.behaviour("CF-04")
def test_commas_between_name_servers_are_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match="separate them by ';'"):
        ClientConfig(namesrv_addr="a:1,b:2").name_servers()


@pytest.mark.behaviour("CF-05")
def test_without_a_setting_the_environment_says_where_the_name_servers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMESRV_ADDR", "env:1;env:2")
    assert ClientConfig().name_servers() == ["env:1", "env:2"]
    assert ClientConfig(namesrv_addr="set:3").name_servers() == ["set:3"]
    assert ClientConfig().namesrv_addr is None


@pytest.mark.behaviour("CF-05")
@pytest.mark.parametrize("text", [None, "", " ; ", ";"])
def test_without_any_name_server_the_error_says_what_to_do(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAMESRV_ADDR", raising=False)
    with pytest.raises(ConfigError, match=r"give namesrv_addr='host:port' .* or set NAMESRV_ADDR"):
        ClientConfig(namesrv_addr=text).name_servers()


@pytest.mark.behaviour("CF-04")
def test_one_wrong_address_of_several_is_named() -> None:
    with pytest.raises(ConfigError, match="'b' is not of the form"):
        ClientConfig(namesrv_addr="a:1;b").name_servers()


SECURITY = [
    ({"access_key": "a"}, "access_key and secret_key belong together"),
    ({"secret_key": "s"}, "access_key and secret_key belong together"),
    ({"security_token": "s"}, "needs an access_key and a secret_key"),
    ({"access_key": "", "secret_key": "s"}, "access_key is a text that is not empty, or None; it is empty"),
    ({"access_key": "a", "secret_key": b"hush"}, "secret_key is a text that is not empty, or None; it is bytes"),
    ({"use_tls": "yes"}, "use_tls is True or False, not 'yes'"),
    ({"use_tls": True, "tls_insecure": 1}, "tls_insecure is True or False"),
    ({"tls_client_trust_cert_path": "ca.pem"}, "is set, but use_tls is not"),
    ({"use_tls": True, "tls_client_cert_path": 5}, "tls_client_cert_path is the path of a file"),
    ({"use_tls": True, "tls_client_key_path": "key.pem"}, "needs the certificate, too"),
    ({"use_tls": True, "tls_client_key_password": b"hush"}, "tls_client_key_password is a text, not bytes"),
    ({"rpc_hook": print}, "rpc_hook needs a method do_before_request"),
    ({"namespace_v2": 2}, "namespace_v2 is a text or None, not 2"),
    ({"namespace": "a%b"}, "the namespace .* contains illegal characters"),
]


@pytest.mark.behaviour("SE-08")
@pytest.mark.parametrize(("settings", "text"), SECURITY)
def test_settings_of_connections_that_do_not_go_together_are_refused_without_showing_secrets(
    settings: dict[str, Any], text: str
) -> None:
    for check in (check_consumer, check_producer):
        with pytest.raises(ConfigError, match=text) as error:
            check(**settings)
        assert "hush" not in str(error.value)


@pytest.mark.behaviour("SE-03")
@pytest.mark.parametrize("config", [ConsumerConfig, ProducerConfig, ClientConfig])
def test_a_configuration_does_not_show_what_is_secret(config: Any) -> None:
    shown = repr(config(access_key="ak", secret_key="hush1", security_token="hush2", tls_client_key_password="hush3"))
    assert "hush" not in shown
    assert "access_key='ak'" in shown


@pytest.mark.behaviour("CF-06")
@pytest.mark.parametrize(
    ("config", "settings"),
    [(ClientConfig, ClientSettings), (ConsumerConfig, ConsumerSettings), (ProducerConfig, ProducerSettings)],
)
def test_keywords_have_the_names_and_types_of_the_settings(config: type[ClientConfig], settings: type[Any]) -> None:
    wanted = {field.name: field.type for field in dataclasses.fields(config)}
    known = {name: line for each in (ClientSettings, settings) for name, line in inspect.get_annotations(each).items()}
    missing = [f"    {name}: {kind}" for name, kind in wanted.items() if _text(known.get(name)) != kind]
    assert not missing, "write into model/settings.py:\n" + "\n".join(missing)
    assert known.keys() == wanted.keys()


def _text(annotation: Any) -> object:
    """As it is written."""
    return getattr(annotation, "__forward_arg__", annotation)


@pytest.mark.behaviour("CF-06")
def test_a_type_checker_knows_settings_by_name_and_type() -> None:
    """Judged by mypy, with the rest: an ``ignore`` that it does not need is an error, too."""
    consumer = DefaultMQPushConsumer("unit", consume_thread_max=3, namesrv_addr="h:1")
    assert assert_type(consumer.consume_thread_max, int) == 3
    assert assert_type(consumer.unit_mode, bool) is False
    DefaultMQPushConsumer("unit", consume_thread_max="3")  # type: ignore[arg-type]
    consumer.pull_batch_size = "32"  # type: ignore[assignment]
    DefaultMQProducer("unit", send_msg_timeout="3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        DefaultMQProducer("unit", send_timeout=3)  # type: ignore[call-arg]
