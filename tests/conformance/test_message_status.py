"""What the embedded broker tells of messages that real consumers got, failed, lost and finished."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rocketmq_py import (
    BrokerError,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
)
from rocketmq_py.cli.app import app
from rocketmq_py.model.results import Messages
from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
from rocketmq_py.remoting.frame import encode_request
from rocketmq_py.remoting.message_status_bodies import GroupStatus
from tests.conformance.collector import Collector, eventually
from tests.conformance.servers import Server
from tests.embedded import EmbeddedProcess

SUCCESS, LATER = ConsumeConcurrentlyStatus.CONSUME_SUCCESS, ConsumeConcurrentlyStatus.RECONSUME_LATER


class Scene:
    """A broker, a topic with one queue, a group, and somebody who asks."""

    def __init__(self, broker: EmbeddedProcess, admin: DefaultMQAdminExt, producer: DefaultMQProducer) -> None:
        self.broker = broker
        self.topic = f"topic-{uuid.uuid4().hex[:12]}"
        self.group = f"group-{uuid.uuid4().hex[:12]}"
        self._admin = admin
        self._producer = producer
        broker.create_topic(self.topic, 1)

    def send(self, *bodies: bytes) -> list[str]:
        return [self._producer.send(Message(self.topic, body)).msg_id for body in bodies]

    def told(self, msg_id: str) -> GroupStatus:
        (message,) = self._admin.api.message_histories(self.broker.broker_addr, msg_id, self.topic)
        return next(each for each in message.groups if each.group == self.group)

    def status(self, msg_id: str) -> str:
        of = self.told(msg_id)
        return f"{of.status.value} {of.attempt}"

    def story(self, msg_id: str) -> str:
        return " ".join(change.status.value for change in self.told(msg_id).history)

    def wait_for(self, msg_id: str, expected: str) -> None:
        eventually(lambda: self.status(msg_id) == expected, 60, f"{expected}, it is {self.told(msg_id)}")


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedProcess]:
    with EmbeddedProcess(None, "--message-status") as broker:
        yield broker


@pytest.fixture
def scene(broker: EmbeddedProcess) -> Iterator[Scene]:
    with ExitStack() as stack:
        admin = stack.enter_context(DefaultMQAdminExt(namesrv_addr=broker.namesrv_addr))
        producer = DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr, send_msg_timeout=10_000)
        yield Scene(broker, admin, stack.enter_context(producer))


def consumer(scene: Scene, collector: Collector) -> DefaultMQPushConsumer:
    consumer = DefaultMQPushConsumer(
        scene.group,
        namesrv_addr=scene.broker.namesrv_addr,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        persist_consumer_offset_interval=1_000,
        heartbeat_broker_interval=1_000,
    )
    consumer.subscribe(scene.topic)
    consumer.register_message_listener(collector)
    return consumer


def command(scene: Scene, *args: str) -> Result:
    return CliRunner().invoke(app, ["status", "--namesrv", scene.broker.namesrv_addr, *args])


@pytest.mark.behaviour("SM-06", "SM-07", "SM-12")
def test_success_a_retry_and_a_dead_letter_are_known_exactly_while_a_slow_message_holds_the_offset_back(
    scene: Scene,
) -> None:
    go_on = threading.Event()

    def verdict(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.delay_level_when_next_consume = 1
        (msg,) = msgs
        if msg.body == b"slow":
            assert go_on.wait(60)
        if msg.body == b"dead":
            context.delay_level_when_next_consume = -1
            return LATER
        return LATER if msg.body == b"retried" and msg.reconsume_times == 0 else SUCCESS

    slow, good, retried, dead = scene.send(b"slow", b"good", b"retried", b"dead")
    with consumer(scene, Collector(verdict)):
        scene.wait_for(good, "CS 1")
        scene.wait_for(dead, "CF 1")
        scene.wait_for(retried, "CS 2")
        assert scene.status(slow) == "TCS 1"
        assert max(scene.broker.committed_offsets(scene.group, scene.topic).values()) <= 0
        go_on.set()
        scene.wait_for(slow, "CS 1")
    assert scene.story(good) == scene.story(slow) == "TCP TCS CS"
    assert scene.story(retried) == "TCP TCS CL TCP TCS CS"
    assert scene.story(dead) == "TCP TCS CF"

    shown = command(scene, retried, "--group", scene.group)
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"{scene.topic} queue 0 offset 2, stored 20")
    assert lines[1] == f"  {scene.group}: CS, attempt 2"
    assert [line.split()[2:] for line in lines[2:]] == [
        [status, "attempt", attempt] for status, attempt in zip("TCP TCS CL TCP TCS CS".split(), "111222", strict=True)
    ]
    (as_json,) = json.loads(command(scene, retried, "--topic", scene.topic, "--json").stdout)
    (of_group,) = [each for each in as_json["groups"] if each["group"] == scene.group]
    assert (as_json["msg_id"], of_group["status"], len(of_group["history"])) == (retried, "CS", 6)
    assert listed(scene, "CF") == [(dead, 3, 1)]
    assert [msg_id for msg_id, _, _ in listed(scene, "CS", "--limit", "2")] == [slow, good]


def listed(scene: Scene, status: str, *more: str) -> list[tuple[Any, ...]]:
    done = command(scene, "--group", scene.group, "--state", status, "--json", *more)
    assert done.exit_code == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return [(each["msg_id"], each["queue_offset"], each["attempt"]) for each in messages]


@pytest.mark.behaviour("SM-12")
def test_wrong_use_and_unknown_messages_are_one_line(scene: Scene) -> None:
    unknown = command(scene, "7F0000010A3C251A69D70F1C8C6A0000")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("error: ")
    assert len(unknown.stderr.splitlines()) == 1
    (msg_id,) = scene.send(b"body")
    for of_group in (["--state", "CF"], ["--state", "CF", "--json"], [msg_id], [msg_id, "--json"]):
        typo = command(scene, *of_group, "--group", "typo")
        assert (typo.exit_code, typo.stdout) == (1, "")
        assert typo.stderr == "error: no broker knows the group typo: 'group list' tells which there are\n"
    scene.broker.create_group(scene.group)
    for of_group in (["--state", "CF"], [msg_id]):
        assert command(scene, *of_group, "--group", scene.group).exit_code == 0
    for args in ([], ["--group", "g"], ["--group", "g", "--state", "X"], ["id", "--state", "CF"]):
        assert command(scene, *args).exit_code == 2


@pytest.mark.behaviour("SM-05")
def test_a_connection_that_ends_while_a_reply_is_written_leaves_tcf_and_the_next_one_delivers(scene: Scene) -> None:
    (large,) = scene.send(os.urandom(4 * 1024 * 1024 - 1_000))
    fields = {
        "consumerGroup": scene.group, "topic": scene.topic, "queueId": "0", "queueOffset": "0", "maxMsgNums": "1",
        "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0",
        "expressionType": "TAG",
    }  # fmt: skip
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        host, _, port = scene.broker.broker_addr.rpartition(":")
        sock.connect((host, int(port)))
        sock.sendall(encode_request(11, 1, fields))
        scene.wait_for(large, "TCP 1")
    scene.wait_for(large, "TCF 1")
    with consumer(scene, Collector()):
        scene.wait_for(large, "CS 1")
    assert scene.story(large) == "TCP TCF TCP TCS CS"


@pytest.mark.behaviour("SM-09")
def test_a_broker_that_is_killed_between_delivery_and_success_knows_both_in_the_end(scene: Scene) -> None:
    go_on = threading.Event()

    def verdict(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        assert go_on.wait(60)
        return SUCCESS

    (msg_id,) = scene.send(b"held")
    with consumer(scene, Collector(verdict)):
        scene.wait_for(msg_id, "TCS 1")
        scene.broker.restart_broker()
        assert scene.status(msg_id) in ("TCS 1", "TCP 1", "TCF 1")
        go_on.set()
        eventually(lambda: scene.told(msg_id).status.value == "CS", 60, "consumed")
    assert scene.story(msg_id).startswith("TCP TCS")


@pytest.mark.parametrize("server", ["apache-broker"], indirect=True)
def test_another_broker_says_that_it_does_not_know(server: Server) -> None:
    with DefaultMQAdminExt(namesrv_addr=server.namesrv_addr) as admin:
        (address,) = admin.master_addresses().values()
        with pytest.raises(BrokerError, match="request type 901002 not supported"):
            admin.api.message_histories(address, "id", None)
