"""Who reaches the embedded broker, and whose requests it answers."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    MessageListenerConcurrently,
)
from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from tests.administration import call
from tests.apache.jars import program_command
from tests.embedded import EmbeddedProcess
from tests.io.server import eventually

TOPIC = "signed"
KEYS = {"alice": "secret a", "bob": "größe"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path_factory.mktemp("signed"), access_keys=KEYS) as broker:
        yield broker


@pytest.mark.behaviour("LI-01")
@pytest.mark.parametrize("name", KEYS)
def test_our_clients_with_a_known_key_send_and_consume(broker: EmbeddedBroker, name: str) -> None:
    signed: dict[str, Any] = {"namesrv_addr": broker.namesrv_addr, "access_key": name, "secret_key": KEYS[name]}
    came: list[bytes] = []

    def listener(msgs: Any, context: Any) -> ConsumeConcurrentlyStatus:
        came.extend(msg.body for msg in msgs)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    with DefaultMQProducer("producers", **signed) as producer:
        producer.send([Message(f"{TOPIC}-{name}", b"%d" % number) for number in range(5)])
    consumer = DefaultMQPushConsumer(f"consumers-{name}", **signed)
    consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer.subscribe(f"{TOPIC}-{name}", "*")
    consumer.register_message_listener(MessageListenerConcurrently(listener))
    with consumer:
        assert eventually(lambda: len(came) == 5)


@pytest.mark.behaviour("LI-01")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "wants signed requests"),
        ({"access_key": "alice", "secret_key": "guess"}, "check signature failed"),
        ({"access_key": "carol", "secret_key": "secret a"}, "check signature failed"),
    ],
    ids=["no key", "a wrong secret", "an unknown key"],
)
def test_our_clients_without_one_are_told(broker: EmbeddedBroker, keys: dict[str, Any], words: str) -> None:
    with (
        DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr, **keys) as producer,
        pytest.raises(BrokerError, match=words) as refused,
    ):
        producer.send(Message(TOPIC, b"body"))
    assert refused.value.code == 16


@pytest.mark.behaviour("LI-01")
def test_java_s_own_hook_signs_what_is_answered_and_a_wrong_secret_is_told(broker: EmbeddedBroker, java: None) -> None:
    def run(name: str, secret: str) -> str:
        command = program_command("JavaSigned", broker.namesrv_addr, "java", name, secret, "5", options=["-Xmx256m"])
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    assert run("alice", KEYS["alice"]) == "consumed all\n"
    refused = run("alice", "guess")
    assert refused.startswith("refused: ")
    assert "check signature failed" in refused


# Where it listens.


def reaches(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.behaviour("LI-05")
def test_it_listens_at_this_machine_only_unless_told_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedBroker(tmp_path / "default") as broker:
        for told in (broker.namesrv_addr, broker.broker_addr):
            host, port = told.split(":")
            assert host == "127.0.0.1"
            assert reaches(host, int(port))
            assert not reaches("127.0.0.2", int(port))
    assert "may do everything" not in caplog.text
    with EmbeddedBroker(tmp_path / "all", host="0.0.0.0", broker_ip1="127.0.0.3") as broker:
        host, port = broker.broker_addr.split(":")
        assert host == "127.0.0.3"
        assert reaches("127.0.0.2", int(port))
        assert f"whoever reaches {broker.broker_addr} may do everything: give access keys" in caplog.text
        cluster = call(broker.namesrv_addr, 106).body
        assert f"127.0.0.3:{port}".encode() in cluster
    with EmbeddedBroker(tmp_path / "six", host="::1") as broker:
        assert broker.broker_addr.startswith("[::1]:")
        with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
            assert producer.send(Message("topic", b"body")).queue_offset == 0


@pytest.mark.behaviour("LI-05")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "an address of this machine with broker_ip1 .on the command line --broker-ip1"),
        ({"host": "::"}, "tell them an address of this machine with broker_ip1"),
        ({"host": "my-host"}, "host is an IP address, not 'my-host'"),
        ({"broker_ip1": ""}, "broker_ip1 is an IP address, not ''"),
        ({"file_reserved_time": -1}, "file_reserved_time Out of range"),
        ({"max_bytes": 1}, "max_bytes Out of range"),
        ({"access_keys": {}}, "give at least one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EmbeddedBroker(tmp_path, **settings)


@pytest.mark.behaviour("LI-05")
def test_the_command_takes_keys_from_a_file_and_the_rest_as_options(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(json.dumps(KEYS))
    options = ("--access-keys", str(tmp_path / "keys"), "--host", "127.0.0.1", "--retention-hours", "1")
    with EmbeddedProcess(tmp_path / "data", *options, "--max-bytes", str(2**30)) as broker:
        assert call(broker.broker_addr, 30, {"topic": TOPIC, "queueId": 0}).code == 16
        with DefaultMQProducer(
            "producers", namesrv_addr=broker.namesrv_addr, access_key="bob", secret_key=KEYS["bob"]
        ) as producer:
            assert producer.send(Message(TOPIC, b"body")).queue_offset == 0
