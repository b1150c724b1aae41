"""What operators do with upstream's own ``mqadmin``, and what they see: the same as with Java's consumer."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    LocalTransactionState,
    Message,
    SendResult,
    TransactionMQProducer,
)
from rocketmq_py.consumer.stats import Event
from rocketmq_py.model import fastjson
from rocketmq_py.model.results import Messages
from tests.administration import call
from tests.apache.cluster import TESTS, ApacheCluster
from tests.apache.jars import QUIET, compile_java, java_command
from tests.conformance.collector import Collector, eventually
from tests.conformance.test_java_members import JAVA_MEMBER, JavaMember

QUEUES = 4
COUNT = 40


@pytest.fixture(scope="module")
def cluster(java: None) -> Iterator[ApacheCluster]:
    """A cluster of its own: its broker keeps traces, and its way of resetting offsets is switched."""
    with ApacheCluster(broker_config={"traceTopicEnable": True}) as cluster:
        yield cluster


@pytest.fixture
def topic(cluster: ApacheCluster, request: pytest.FixtureRequest) -> str:
    name = f"T-{zlib.crc32(request.node.name.encode()):x}"
    cluster.create_topic(name, QUEUES)
    return name


@pytest.fixture
def group(cluster: ApacheCluster, topic: str) -> str:
    """With its retry topic, so that a consumer owns that from the first rebalance on."""
    name = f"G{topic}"
    cluster.create_group(name)
    cluster.create_topic(f"%RETRY%{name}", 1)
    return name


@pytest.fixture
def send(cluster: ApacheCluster) -> Iterator[Callable[[str, int], list[SendResult]]]:
    with DefaultMQProducer("operators", namesrv_addr=cluster.namesrv_addr, send_msg_timeout=10_000) as producer:
        yield lambda topic, count: [
            producer.send(Message(topic, f"{number}".encode(), keys=f"k{number}")) for number in range(count)
        ]


StartConsumer = Callable[..., DefaultMQPushConsumer]


@pytest.fixture
def start(cluster: ApacheCluster) -> Iterator[StartConsumer]:
    """Start a consumer from the first offset on; it is shut down when the test ends."""
    with ExitStack() as running:

        def start_consumer(group: str, topic: str, collector: Collector, **settings: Any) -> DefaultMQPushConsumer:
            settings.setdefault("consume_from_where", ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
            consumer = DefaultMQPushConsumer(group, namesrv_addr=cluster.namesrv_addr, **settings)
            consumer.subscribe(topic)
            consumer.register_message_listener(collector)
            running.callback(consumer.shutdown)
            consumer.start()
            return consumer

        yield start_consumer


def client_id(cluster: ApacheCluster, group: str) -> str:
    eventually(lambda: len(cluster.consumer_ids(group)) == 1, 30, "one member")
    (only,) = cluster.consumer_ids(group)
    return only


def sections(running_info: str) -> dict[str, list[str]]:
    """Lines of ``consumerStatus`` by heading: ``#Consumer Properties#`` and so on."""
    found: dict[str, list[str]] = {}
    for line in running_info.splitlines():
        heading = re.fullmatch(r"#([^#]+)#", line)
        if heading:
            found[heading[1]] = []
        elif line.strip():
            found[list(found)[-1]].append(line)
    return found


def rates(running_info: str, topic: str) -> dict[str, float]:
    heading, *rows = sections(running_info)["Consumer RT&TPS"]
    (row,) = [row.split() for row in rows if row.split()[0] == topic]
    names = [name.strip() for name in heading.split("#")[2:]]
    return dict(zip(names, map(float, row[1:]), strict=True))


def windows(running_info: str) -> dict[tuple[str, int], dict[str, str]]:
    """The details of ``#Consumer MQ Detail#`` by topic and queue."""
    found = {}
    for row in sections(running_info)["Consumer MQ Detail"][1:]:
        topic, _, queue_id, detail = row.split(maxsplit=3)
        fields = re.fullmatch(r"ProcessQueueInfo \[(.*)\]", detail)
        assert fields is not None, row
        found[topic, int(queue_id)] = dict(each.split("=") for each in fields[1].split(", "))
    return found


@pytest.mark.behaviour("OP-09")
def test_consumer_status_shows_the_same_as_of_a_java_consumer(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer, tmp_path: Path,
    send: Callable[[str, int], list[SendResult]],
) -> None:  # fmt: skip
    send(topic, COUNT)

    def fail_one(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        time.sleep(0.02)  # that there is a time to be shown
        failed = msgs[0].body == b"7" and msgs[0].reconsume_times == 0
        return ConsumeConcurrentlyStatus.RECONSUME_LATER if failed else ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    collector = Collector(fail_one)
    start(group, topic, collector)
    collector.wait_until(lambda: len(collector.deliveries) == COUNT + 1, 60, "all, and one retry")
    java_group = f"{group}-java"
    cluster.create_group(java_group)
    cluster.create_topic(f"%RETRY%{java_group}", 1)
    source = tmp_path / "JavaMember.java"
    source.write_text(JAVA_MEMBER)
    options = [*TESTS.jvm, f"-Drmq.logback.configurationFile={QUIET}", f"-Duser.home={tmp_path}"]
    arguments = (cluster.namesrv_addr, topic, java_group, "success")
    java_member = JavaMember(java_command(compile_java([source]), "JavaMember", *arguments, options=options))
    try:
        java_member.wait_started()
        eventually(lambda: len(java_member.deliveries()) == COUNT, 60, "every message at the Java consumer")
        ours = ""

        def sampled() -> bool:
            nonlocal ours
            ours = cluster.mqadmin("consumerStatus", "-g", group, "-i", client_id(cluster, group))
            return rates(ours, topic)["ConsumeOK TPS"] > 0

        eventually(sampled, 60, "the first sample")
        java = cluster.mqadmin("consumerStatus", "-g", java_group, "-i", java_member.client_id)
    finally:
        java_member.close()

    assert list(sections(ours)) == list(sections(java))
    for name in ("Consumer Offset", "Consumer MQ Detail", "Consumer RT&TPS", "Consumer Pop Detail"):
        assert sections(ours)[name][0] == sections(java)[name][0]
    java_names = {line.split(":")[0].strip() for line in sections(java)["Consumer Properties"]}
    properties = dict(line.split(":", 1) for line in sections(ours)["Consumer Properties"])
    shown = {name.strip(): value.strip() for name, value in properties.items()}
    assert {name for name in java_names if name.startswith("PROP_")} <= set(shown)
    assert {"consumeFromWhere", "pullBatchSize", "consumerGroup", "clientIP", "instanceName"} <= java_names & set(shown)
    assert shown["PROP_NAMESERVER_ADDR"] == f"{cluster.namesrv_addr};"
    assert shown["PROP_CONSUME_TYPE"] == "CONSUME_PASSIVELY"
    assert f"{shown['clientIP']}@{shown['instanceName']}" == client_id(cluster, group)

    assert [re.sub(r"%RETRY%\S+", "%RETRY%", line).split() for line in sections(ours)["Consumer Subscription"]] == [
        re.sub(r"%RETRY%\S+", "%RETRY%", line).split() for line in sections(java)["Consumer Subscription"]
    ]
    our_windows, java_windows = windows(ours), windows(java)
    for number in range(QUEUES):
        window, java_window = our_windows[topic, number], java_windows[topic, number]
        assert list(window) == list(java_window)
        moments = {"lastLockTimestamp", "lastPullTimestamp", "lastConsumeTimestamp"}
        assert {name: value for name, value in window.items() if name not in moments} == {
            name: value for name, value in java_window.items() if name not in moments
        }
        assert window["commitOffset"] == str(COUNT // QUEUES)
    shown_rates = rates(ours, topic)
    assert shown_rates["Consume RT"] >= 20
    assert shown_rates["Pull TPS"] > 0
    assert shown_rates["ConsumeFailed TPS"] > 0
    assert rates(ours, f"%RETRY%{group}")["ConsumeOK TPS"] > 0


@pytest.mark.behaviour("OP-09")
def test_consumer_status_of_a_group_analyses_its_members_and_fetches_their_stacks(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer
) -> None:
    start(group, topic, Collector())
    member = client_id(cluster, group)
    printed = cluster.mqadmin("consumerStatus", "-g", group, "-s")
    assert re.search(rf"1 +{re.escape(member)} +V5_5_0 +\d+/", printed)
    assert "Same subscription in the same group of consumer" in printed
    assert "Rebalance OK" in printed
    alone = cluster.mqadmin("consumerStatus", "-g", group, "-i", member, "-s")
    stacks = "\n".join(sections(alone)["Consumer jstack"])
    assert re.search(r"^ConsumeMessageThread_\S+_1 +TID: \d+$", stacks, re.MULTILINE)
    assert re.search(r"^RemotingIO +IoLoop._run\(.*connection.py:\d+\)$", stacks, re.MULTILINE)


@pytest.mark.behaviour("OP-10")
def test_progress_and_connection_show_a_python_member(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer,
    send: Callable[[str, int], list[SendResult]],
) -> None:  # fmt: skip
    send(topic, COUNT)
    collector = Collector()
    start(group, topic, collector)
    collector.wait_until(lambda: len(collector.deliveries) == COUNT, 60, "all messages")
    eventually(lambda: sum(cluster.committed_offsets(group, topic).values()) == COUNT, 30, "the commits")
    progress = [line.split() for line in cluster.mqadmin("consumerProgress", "-g", group).splitlines()]
    each = COUNT // QUEUES
    assert sorted(row[2:7] for row in progress if row[:1] == [topic]) == [
        [str(number), str(each), str(each), "0", "0"] for number in range(QUEUES)
    ]
    connection = cluster.mqadmin("consumerConnection", "-g", group)
    assert re.search(
        rf"^{re.escape(client_id(cluster, group))} +127.0.0.1:\d+ +PYTHON +V5_5_0$", connection, re.MULTILINE
    )
    assert "ConsumeType: CONSUME_PASSIVELY" in connection
    assert "MessageModel: CLUSTERING" in connection
    assert "ConsumeFromWhere: CONSUME_FROM_FIRST_OFFSET" in connection


@pytest.mark.behaviour("OP-11")
def test_a_broker_asks_for_the_offsets_in_memory(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer,
    send: Callable[[str, int], list[SendResult]],
) -> None:  # fmt: skip
    send(topic, COUNT)
    collector = Collector()
    start(group, topic, collector)
    collector.wait_until(lambda: len(collector.deliveries) == COUNT, 60, "all messages")
    member = client_id(cluster, group)

    def told() -> list[int]:
        # mqadmin has no command for it: this is the request that its library makes.
        reply = call(cluster.broker_addr, 223, {"topic": topic, "group": group, "clientAddr": member})
        table = fastjson.loads(reply.checked("consumer status").body)["consumerTable"][member]
        assert {mq.topic for mq in table} == {topic}
        return sorted(table.values())

    eventually(lambda: told() == [COUNT // QUEUES] * QUEUES, 30, "the offsets")


@pytest.mark.behaviour("OP-12")
@pytest.mark.parametrize(
    ("verdict", "result"),
    [("LATER", "CR_LATER"), ("RAISE", "CR_THROW_EXCEPTION")],
)
def test_a_message_is_consumed_directly(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer, verdict: str, result: str,
    send: Callable[[str, int], list[SendResult]],
) -> None:  # fmt: skip
    (sent,) = send(topic, 1)

    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if len(collector.deliveries) == 1:
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS
        if verdict == "RAISE":
            raise ValueError("on purpose")
        return ConsumeConcurrentlyStatus.RECONSUME_LATER

    collector = Collector(listener)
    start(group, topic, collector)
    collector.wait_until(lambda: len(collector.deliveries) == 1, 60, "the message")
    printed = cluster.mqadmin(
        "queryMsgById", "-t", topic, "-i", sent.offset_msg_id, "-g", group, "-d", client_id(cluster, group)
    )
    assert f"[order=false, autoCommit=true, consumeResult={result}, remark=" in printed
    assert ("remark=ValueError: on purpose, listener(" in printed) is (verdict == "RAISE")
    first, again = collector.deliveries
    assert (again.msg_id, again.body, again.topic, again.queue_id) == (first.msg_id, b"0", topic, first.queue_id)
    assert cluster.max_offsets(f"%RETRY%{group}") == {0: 0}  # whatever it answered: nothing came of it


def reset(cluster: ApacheCluster, topic: str, group: str, moment: str) -> dict[int, int]:
    """Offsets by queue, as mqadmin says they will be."""
    printed = cluster.mqadmin("resetOffsetByTime", "-g", group, "-t", topic, "-s", moment)
    return {
        int(row[1]): int(row[2]) for line in printed.splitlines() if len(row := line.split()) == 3 and row[1].isdigit()
    }


@pytest.mark.behaviour("RO-06")
@pytest.mark.parametrize("where", ["server", "client"])
def test_offsets_reset_by_an_operator_are_consumed_from_while_the_consumer_runs(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer, where: str,
    send: Callable[[str, int], list[SendResult]],
) -> None:  # fmt: skip
    cluster.mqadmin(
        "updateBrokerConfig", "-b", cluster.broker_addr, "-k", "useServerSideResetOffset",
        "-v", "true" if where == "server" else "false",
    )  # fmt: skip
    send(topic, COUNT)
    collector = Collector()
    consumer = start(group, topic, collector, persist_consumer_offset_interval=1_000)
    collector.wait_until(lambda: len(collector.deliveries) == COUNT, 60, "all messages")
    eventually(lambda: sum(cluster.committed_offsets(group, topic).values()) == COUNT, 30, "the commits")

    assert reset(cluster, topic, group, "0") == dict.fromkeys(range(QUEUES), 0)
    collector.wait_until(lambda: len(collector.deliveries) == 2 * COUNT, 60, "all messages once more")
    assert set(collector.bodies().values()) == {2}
    eventually(lambda: sum(cluster.committed_offsets(group, topic).values()) == COUNT, 30, "the commits again")
    assert (consumer.counters()[Event.OFFSET_ILLEGAL] > 0) is (where == "server")

    # Forth: what lies in between is not consumed any more.
    consumer.suspend()
    time.sleep(1.5)  # until the pulls that the broker holds have come back empty or not at all
    send(topic, QUEUES)
    assert reset(cluster, topic, group, "now") == dict.fromkeys(range(QUEUES), COUNT // QUEUES + 1)
    consumer.resume()
    send(topic, QUEUES)
    eventually(
        lambda: sum(cluster.committed_offsets(group, topic).values()) == COUNT + 2 * QUEUES, 60, "the last commits"
    )


@pytest.mark.behaviour("TR-09")
def test_traces_arrive_and_mqadmin_reads_them(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer,
    send: Callable[[str, int], list[SendResult]],
) -> None:  # fmt: skip
    first, *_ = sent = send(topic, 25)

    def fail_first(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        failed = msgs[0].msg_id == first.msg_id and msgs[0].reconsume_times == 0
        return ConsumeConcurrentlyStatus.RECONSUME_LATER if failed else ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    collector = Collector(fail_first)
    consumer = start(group, topic, collector, enable_msg_trace=True)
    collector.wait_until(lambda: len(collector.deliveries) == 26, 60, "all, and one retry")
    consumer.shutdown()  # sends what waits
    assert consumer.counters()[Event.TRACE_LOST] == 0

    def seen(msg_id: str) -> list[str]:
        """Status of every listener call for a message; None when it cannot be found (yet)."""
        printed = cluster.mqadmin("queryMsgTraceById", "-i", msg_id)
        rows = [line.split() for line in printed.splitlines()]
        assert all(row[1] == group for row in rows if row[:1] == ["Sub"])
        return sorted(row[-1] for row in rows if row[:1] == ["Sub"])

    eventually(lambda: seen(first.msg_id) == ["failed", "success"], 60, "the trace of the message that failed once")
    assert seen(sent[-1].msg_id) == ["success"]
    assert seen("k3") == []  # it is found by keys, too, but mqadmin compares ids


@pytest.mark.behaviour("TR-10")
def test_mqadmin_reads_the_traces_of_what_was_sent(cluster: ApacheCluster, topic: str) -> None:
    class Commit:
        def execute_local_transaction(self, msg: Message, arg: Any) -> LocalTransactionState:
            return LocalTransactionState.COMMIT_MESSAGE

        def check_local_transaction(self, msg: Any) -> LocalTransactionState:
            return LocalTransactionState.COMMIT_MESSAGE

    producer = TransactionMQProducer(
        "traced", transaction_listener=Commit(), namesrv_addr=cluster.namesrv_addr, send_msg_timeout=10_000,
        enable_msg_trace=True,
    )  # fmt: skip
    with producer:
        producer.send(Message(topic, b"single", tags="T", keys="k"))
        producer.send([Message(topic, b"1"), Message(topic, b"2")])
        half = producer.send_message_in_transaction(Message(topic, b"half"))

    def seen() -> list[list[str]]:
        """What mqadmin tells of the half message; it reads every record of the trace message for that."""
        printed = cluster.mqadmin("queryMsgTraceById", "-i", half.msg_id)
        return [words for line in printed.splitlines() if (words := line.split())[:1] == ["Pub"]]

    rows: list[list[str]] = []

    def found() -> bool:
        rows[:] = seen()
        return len(rows) == 1

    # On a busy machine mqadmin often gives up asking for the route.
    eventually(found, 120, "the trace of the half message")
    ((_, group, _, _, _, took, status),) = rows
    assert (group, status) == ("traced", "success")
    assert re.fullmatch(r"\d+ms", took)


@pytest.mark.behaviour("TR-09")
def test_traces_go_to_another_topic_when_one_is_named(
    cluster: ApacheCluster, topic: str, group: str, start: StartConsumer,
    send: Callable[[str, int], list[SendResult]],
) -> None:  # fmt: skip
    traces = f"{topic}-traces"
    cluster.create_topic(traces, 1)
    (sent,) = send(topic, 1)
    collector = Collector()
    consumer = start(group, topic, collector, enable_msg_trace=True, customized_trace_topic=traces)
    collector.wait_until(lambda: len(collector.deliveries) == 1, 60, "the message")
    eventually(lambda: sum(cluster.max_offsets(traces).values()) == 1, 30, "the trace, 5 s later, without a shutdown")
    consumer.shutdown()
    reader = Collector()
    start(f"{group}-reader", traces, reader, enable_msg_trace=True, customized_trace_topic=traces)
    reader.wait_until(lambda: len(reader.deliveries) == 1, 60, "the record")
    (record,) = reader.deliveries
    assert record.keys == f"{sent.msg_id} k0"
    assert [line.split(b"\x01")[0] for line in record.body.split(b"\x02")[:-1]] == [b"SubBefore", b"SubAfter"]
