"""The same commands of upstream's mqadmin against the embedded broker and against Apache's: they print the same."""

from __future__ import annotations

import difflib
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQPushConsumer,
    MessageListenerConcurrently,
)
from rocketmq_py.model.results import Messages
from tests.apache.cluster import ApacheCluster
from tests.apache.mqadmin import MQAdmin
from tests.conformance.collector import eventually
from tests.embedded import EmbeddedProcess

QUEUES = 2


def succeed(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS


def run_scenario(server: ApacheCluster | EmbeddedProcess, topic: str, group: str, folder: Path) -> dict[str, str]:
    """What each step prints, without what differs from run to run."""
    printed: dict[str, str] = {}
    names = {server.namesrv_addr: "NAMESRV", server.broker_addr: "BROKER", str(folder): "FOLDER"}
    with MQAdmin(server.namesrv_addr, folder) as admin:

        def step(name: str, *args: str) -> str:
            printed[name] = admin.run(*args)
            return printed[name]

        def send(number: int) -> str:
            sent = step(
                f"send {number}", "sendMessage", "-t", topic, "-p", f"body {number}", "-k", f"k{number} both",
                "-c", "TagA", "-b", "broker-a", "-i", str(number % QUEUES),
            )  # fmt: skip
            msg_id = re.search(r"SEND_OK +(\w+)", sent)
            assert msg_id is not None, sent
            return msg_id[1]

        step("make a topic", "updateTopic", "-c", "DefaultCluster", "-t", topic, "-r", str(QUEUES), "-w", str(QUEUES),
             "-a", "+message.type=NORMAL")  # fmt: skip
        eventually(lambda: server.route(topic) is not None, 30, "the route")
        step("route", "topicRoute", "-t", topic, "-l")
        step("make a group", "updateSubGroup", "-c", "DefaultCluster", "-g", group, "-r", "3", "-q", "2")
        server.create_topic(f"%RETRY%{group}", 2)
        unique_ids = [send(number) for number in range(3)]
        names |= {unique_id: f"ID{number}" for number, unique_id in enumerate(unique_ids)}
        step("state", "topicStatus", "-t", topic)
        eventually(lambda: unique_ids[2] in admin.run("queryMsgByKey", "-t", topic, "-k", "both"), 20, "the index")
        step("by key", "queryMsgByKey", "-t", topic, "-k", "both")
        step("by one key", "queryMsgByKey", "-t", topic, "-k", "k1")
        step("by no key", "queryMsgByKey", "-t", topic, "-k", "none")
        found = step("by unique key", "queryMsgByUniqueKey", "-t", topic, "-i", unique_ids[1])
        physical_offset = re.search(r"CommitLog Offset: +(\d+)", found)
        assert physical_offset is not None, found
        port = int(server.broker_addr.partition(":")[2])
        offset_id = f"7F000001{port:08X}{int(physical_offset[1]):016X}"
        names[offset_id] = "OFFSET-ID"
        step("by id", "queryMsgById", "-t", topic, "-i", offset_id, "-f", "UTF-8")
        step("by offset", "queryMsgByOffset", "-t", topic, "-b", "broker-a", "-i", "1", "-o", "0", "-f", "UTF-8")
        step("consume", "consumeMessage", "-t", topic, "-b", "broker-a", "-i", "0")
        step("places", "queryCq", "-t", topic, "-q", "0", "-i", "0", "-c", "2", "-b", server.broker_addr)

        consumer = DefaultMQPushConsumer(
            group, namesrv_addr=server.namesrv_addr, persist_consumer_offset_interval=1_000
        )
        consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
        consumer.subscribe(topic)
        consumer.register_message_listener(MessageListenerConcurrently(succeed))
        with consumer:
            eventually(lambda: sum(server.committed_offsets(group, topic).values()) == 3, 30, "the commits")
            (client_id,) = server.consumer_ids(group)
            names[client_id] = "MEMBER"
            step("progress", "consumerProgress", "-g", group, "-t", topic)
            step("connections", "consumerConnection", "-g", group)
            step("status of the group", "consumerStatus", "-g", group)
            step("status of a member", "consumerStatus", "-g", group, "-i", client_id)
            step("consume directly", "queryMsgById", "-t", topic, "-i", offset_id, "-g", group, "-d", client_id)
            step("no such member", "consumerStatus", "-g", group, "-i", "nobody")
        step("reset", "resetOffsetByTime", "-g", group, "-t", topic, "-s", "0")
        step("progress after the reset", "consumerProgress", "-g", group, "-t", topic)
        step("nobody is connected", "consumerConnection", "-g", group)
        step("clean places", "cleanExpiredCQ", "-c", "DefaultCluster")
        step("clean topics", "cleanUnusedTopic", "-b", server.broker_addr)
        listed = admin.run("topicList", "-c")
        assert re.search(rf"DefaultCluster +{topic} +{group}", listed), listed
        cluster = admin.run("clusterList")
        assert re.search(rf"DefaultCluster +broker-a +0 +{re.escape(server.broker_addr)} +V5_5_0 .* true", cluster), (
            cluster
        )
        assert "brokerVersionDesc" in admin.run("brokerStatus", "-b", server.broker_addr)
        assert re.search(r"brokerName += +broker-a", admin.run("getBrokerConfig", "-b", server.broker_addr))
        # How many a second, and within which span, depends on when the samples are taken, every 10 s.
        counted = re.compile(rf"(?m)^({topic} +{group} +3)( +\d+\.\d\d){{2}}( +[1-3]){{2}}$")
        eventually(lambda: counted.search(step("counters", "statsAll", "-t", topic)) is not None, 30, "the samples")
        printed["counters"] = counted.sub(r"\1 RATES COUNTS", printed["counters"])
        # No command asks for the lowest offset of all groups.
        step_back = {"consumerGroup": "TOOLS_CONSUMER", "topic": topic, "queueId": 0, "commitOffset": 1}
        server.call(server.broker_addr, 15, step_back).checked("a commit")
        for without in ("", "TOOLS_CONSUMER"):
            fields = {"topic": topic, "compareGroup": group, "filterGroups": without}
            answer = server.call(server.broker_addr, 308, fields).checked("the lowest offsets")
            printed[f"lowest offsets without {without or 'none'}"] = answer.body.decode()
        step("pop", "setConsumeMode", "-c", "DefaultCluster", "-t", topic, "-g", group, "-m", "POP", "-q", "1")
        step("keep a text", "updateKvConfig", "-s", "ns", "-k", "key", "-v", "value")
        step("forget a text", "deleteKvConfig", "-s", "ns", "-k", "key")
        step("delete the group", "deleteSubGroup", "-c", "DefaultCluster", "-g", group, "-r", "true")
        step("delete the topic", "deleteTopic", "-c", "DefaultCluster", "-t", topic)
        step("no route", "topicRoute", "-t", topic)
        assert topic not in admin.run("topicList")
    return {name: comparable(text, names) for name, text in printed.items()}


def comparable(text: str, names: Mapping[str, str]) -> str:
    """Without what differs from run to run; lines sorted, because Java's tables have no order."""
    for value, name in names.items():
        text = text.replace(value, name)
    for pattern, name in (
        (r"\d{4}-\d\d-\d\d[ -]\d\d:\d\d:\d\d(?:[,.]\d+)?|\b1\d{12}\b|\b20\d{15}\b", "MOMENT"),
        (r"(?<=physicSize=)\d+|(?<=storeSize=)\d+", "N"),
        (r"(?<=CommitLog Offset:)\s+\d+|(?<=commitLogOffset=)\d+|(?<=physicOffset=)\d+", "N"),
        (r"(?<=msgId=)[0-9A-F]{32}", "OFFSET-ID"),
        (r"(@ID\d)@\d+", r"\1@N"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"(?<=spentTimeMills=)\d+", "N"),
        (r"(?<=Consume TPS:) \S+|(?<=Topic Put TPS:) \S+", "N"),
        (r"#Consumer Properties#(.|\n)*?(?=#Consumer Subscription#)", ""),  # settings of a client
        (r"#Consumer RT&TPS#(.|\n)*?(?=#User Consume Info#|$)", ""),  # rates
        (r"/tmp/\S+|MOMENT/\S+", "FILE"),
        (r"(?m)^\s+(at |\.\.\. \d+ more).*|^(See|For more information).*", ""),
        (r"[ \t]+", " "),
    ):
        text = re.sub(pattern, name, text)
    return "\n".join(sorted(line.strip() for line in text.splitlines() if line.strip()))


@pytest.mark.behaviour("AB-22")
def test_mqadmin_prints_the_same_of_the_embedded_broker_as_of_apaches(
    embedded: EmbeddedProcess, apache: ApacheCluster, tmp_path: Path
) -> None:
    suffix = uuid.uuid4().hex[:8]
    printed = {}
    for name, server in (("embedded", embedded), ("apache", apache)):
        folder = tmp_path / name
        folder.mkdir()
        printed[name] = run_scenario(server, f"mqadmin-{suffix}", f"admins-{suffix}", folder)
    differences = {
        step: list(difflib.ndiff(theirs.splitlines(), printed["embedded"][step].splitlines()))
        for step, theirs in printed["apache"].items()
        if printed["embedded"][step] != theirs
    }
    assert differences == {}
