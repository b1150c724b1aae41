"""Administration by commands, as people and scripts use them: on our broker and on Apache's with the same results."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    Message,
    SendResult,
)
from rocketmq_py.cli.app import app
from rocketmq_py.model import fastjson
from rocketmq_py.model.codes import VERSION_DESC
from rocketmq_py.model.results import Messages
from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
from tests.administration import call
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import StartConsumer
from tests.conformance.servers import ApacheBroker, Embedded, Server
from tests.embedded import EmbeddedProcess

pytestmark = pytest.mark.parametrize("server", ["embedded", "apache-broker"], indirect=True)

Run = Callable[..., Result]
COUNT = 12
QUEUES = 3


@pytest.fixture
def run(server: Server) -> Run:
    """Run a command in this process; its exit code must be the one told."""

    def command(*args: object, code: int = 0) -> Result:
        done = CliRunner().invoke(app, [*map(str, args), "--namesrv", server.namesrv_addr])
        assert done.exit_code == code, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return command


def told(done: Result) -> Any:
    return json.loads(done.stdout)


def lines(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def send(producer: DefaultMQProducer, topic: str, count: int = COUNT) -> list[SendResult]:
    return [producer.send(Message(topic, b"%d" % number)) for number in range(count)]


@pytest.mark.behaviour("AC-01")
def test_a_topic_is_created_shown_changed_and_deleted(server: Server, run: Run, producer: DefaultMQProducer) -> None:
    topic = f"made-{time.monotonic_ns()}"
    attributes = ("--attribute", "queue.type=SimpleCQ", "--attribute", "reserve.time=-1")
    made = told(run("topic", "create", topic, "--queues", QUEUES, "--type", "NORMAL", *attributes, "--json"))
    expected = {
        "broker": "broker-a", "read_queues": QUEUES, "write_queues": QUEUES, "perm": "rw",
        "attributes": {"message.type": "NORMAL", "queue.type": "SimpleCQ", "reserve.time": "-1"},
    }  # fmt: skip
    assert made == {"topic": topic, "brokers": [expected]}
    assert "'topic update' changes it" in run("topic", "create", topic, code=1).stderr
    send(producer, topic, QUEUES)
    shown = told(run("topic", "show", topic, "--json"))
    assert shown["brokers"] == [expected]
    assert [(each["queue_id"], each["max_offset"] - each["min_offset"]) for each in shown["queues"]] == [
        (queue, 1) for queue in range(QUEUES)
    ]
    assert all(abs(each["last_update_timestamp"] - time.time() * 1_000) < 60_000 for each in shown["queues"])
    assert told(run("topic", "stats", topic, "--json"))["queues"] == shown["queues"]
    (broker,) = told(run("topic", "route", topic, "--json"))["broker_datas"]
    assert broker["broker_name"] == "broker-a"
    listed = told(run("topic", "list", "--json"))
    assert topic in listed
    assert not {"TBW102", "broker-a", "DefaultCluster", "SCHEDULE_TOPIC_XXXX"} & set(listed)
    assert {topic, "TBW102"} <= set(told(run("topic", "list", "--all", "--json")))

    changed = told(run("topic", "update", topic, "--read-queues", QUEUES + 1, "--perm", "r", "--json"))
    assert changed["brokers"] == [{**expected, "read_queues": QUEUES + 1, "perm": "r"}]
    changed = told(run("topic", "update", topic, "--type", "FIFO", "--attribute", "reserve.time=", "--json"))
    assert changed["brokers"][0]["attributes"] == {"message.type": "FIFO", "queue.type": "SimpleCQ"}
    assert "SimpleCQ" in run("topic", "show", topic).stdout
    assert "unheard.of" in run("topic", "update", topic, "--attribute", "unheard.of=1", code=1).stderr
    assert "nothing to change" in run("topic", "update", topic, code=2).stderr
    assert told(run("topic", "delete", topic, "--yes", "--json")) == {"deleted": topic}
    assert "No topic route info" in run("topic", "show", topic, code=1).stderr
    assert "No topic route info" in run("topic", "delete", topic, "--yes", code=1).stderr


@pytest.mark.behaviour("AC-01")
def test_what_is_deleted_is_asked_about(server: Server, run: Run) -> None:
    topic = server.topic()
    assert "--yes" in run("topic", "delete", topic, code=2).stderr  # standard input is empty
    assert topic in told(run("topic", "list", "--json"))


@pytest.mark.behaviour("AC-02")
def test_a_group_is_created_shown_changed_and_deleted(
    server: Server, run: Run, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    group, topic = f"made-{time.monotonic_ns()}", server.topic(queues=QUEUES)
    made = told(run("group", "create", group, "--retry-max-times", 3, "--json"))
    expected = {
        "broker": "broker-a", "enabled": True, "broadcast": True, "orderly": False, "retry_queues": 1,
        "retry_max_times": 3,
    }  # fmt: skip
    assert made == {"group": group, "brokers": [expected]}
    assert "'group update' changes it" in run("group", "create", group, code=1).stderr
    changed = told(run("group", "update", group, "--no-broadcast", "--json"))
    assert changed["brokers"] == [{**expected, "broadcast": False}]
    assert "nothing to change" in run("group", "update", group, code=2).stderr
    assert "no broker knows the group" in run("group", "update", "nobody", "--disabled", code=1).stderr

    send(producer, topic)
    collector = Collector()
    consumer = start_consumer(group, topic, collector)
    collector.wait_until(lambda: len(collector.deliveries) == COUNT, 60, "all")
    shown = told(run("group", "show", group, "--json"))
    assert [member["language"] for member in shown["members"]] == ["PYTHON"]
    assert shown["subscriptions"] == {topic: "*", f"%RETRY%{group}": "*"}
    assert shown["message_model"] == "CLUSTERING"
    assert VERSION_DESC in run("group", "show", group).stdout
    assert told(run("group", "consume-mode", group, "--topic", topic, "--mode", "pop", "--json")) == {
        "group": group, "topic": topic, "mode": "pop", "share_queues": 0,
    }  # fmt: skip
    with DefaultMQAdminExt(namesrv_addr=server.namesrv_addr) as admin:
        (address,) = admin.all_master_addresses().values()
    modes = fastjson.loads(call(address, 402).checked("modes").body)["messageRequestModeMap"]
    assert modes[topic][group]["mode"] == "POP"
    refused = run("group", "delete", group, "--yes", code=1).stderr
    assert "has 1 member, whose next pull would make it anew: stop it first" in refused
    (listed,) = [each for each in told(run("group", "list", "--json")) if each["group"] == group]
    assert (listed["members"], listed["message_model"]) == (1, "CLUSTERING")
    consumer.shutdown()
    eventually(lambda: not told(run("group", "show", group, "--json"))["members"], 30, "no members")
    assert told(run("group", "show", group, "--json"))["lag"][topic] == 0

    gone = told(run("group", "delete", group, "--with-topics", "--yes", "--json"))
    assert gone == {"deleted": group, "brokers": ["broker-a"], "topics": [f"%RETRY%{group}"]}
    assert set(server.committed_offsets(group, topic).values()) == {-1}
    assert "no broker knows the group" in run("group", "show", group, code=1).stderr
    assert group not in [each["group"] for each in told(run("group", "list", "--all", "--json"))]


@pytest.fixture
def consumed(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> tuple[str, str, DefaultMQPushConsumer]:
    """A topic with COUNT messages in 3 queues, consumed and committed by a group whose member runs on."""
    topic, group = server.topic(queues=QUEUES), server.group()
    send(producer, topic)
    collector = Collector()
    consumer = start_consumer(group, topic, collector, persist_consumer_offset_interval=500)
    collector.wait_until(lambda: len(collector.deliveries) == COUNT, 60, "all")
    return topic, group, consumer


def places(done: Result, field: str) -> dict[int, Any]:
    return {each["queue_id"]: each[field] for each in told(done)["queues"]}


@pytest.mark.behaviour("AC-03", "AC-04")
def test_the_offsets_of_a_group_that_does_not_run_are_shown_and_reset(
    server: Server, run: Run, producer: DefaultMQProducer, consumed: tuple[str, str, DefaultMQPushConsumer],
    start_consumer: StartConsumer,
) -> None:  # fmt: skip
    topic, group, consumer = consumed
    consumer.shutdown()
    everywhere = dict.fromkeys(range(QUEUES), COUNT // QUEUES)
    shown = run("offset", "show", "--group", group, "--topic", topic, "--json")
    assert (places(shown, "committed"), told(shown)["lag"]) == (everywhere, 0)
    nobody = run("offset", "show", "--group", server.group(), "--topic", topic, "--json")
    assert (set(places(nobody, "committed").values()), told(nobody)["lag"]) == ({None}, COUNT)

    assert "has not consumed yet" in run("offset", "show", "--group", "nobody", code=1).stderr
    assert len(run("offset", "show", "--group", "nobody", "--topic", "nothing", code=1).stderr.splitlines()) == 1

    of_it = ("--group", group, "--topic", topic, "--json")
    dry = run("offset", "reset", *of_it, "--to", "first", "--dry-run")
    assert places(dry, "after") == dict.fromkeys(range(QUEUES), 0)
    assert set(places(dry, "way").values()) == {None}
    assert server.committed_offsets(group, topic) == everywhere
    for how in ([], ["--dry-run"]):
        unknown = run("offset", "reset", "--group", "nobody", "--topic", topic, "--to", "first", *how, code=1)
        assert (unknown.stdout, len(unknown.stderr.splitlines())) == ("", 1)
        assert "does not know the group nobody" in unknown.stderr

    done = run("offset", "reset", *of_it, "--to", "first")
    assert (places(done, "before"), set(places(done, "way").values())) == (everywhere, {"stored"})
    assert server.committed_offsets(group, topic) == dict.fromkeys(range(QUEUES), 0)
    collector = Collector()
    again = start_consumer(group, topic, collector)
    collector.wait_until(lambda: len(collector.deliveries) == COUNT, 60, "all once more")
    again.shutdown()

    run("offset", "reset", *of_it, "--to", "2", "--queue", "1")
    assert server.committed_offsets(group, topic) == {**everywhere, 1: 2}
    wrong = run("offset", "reset", *of_it, "--to", "99", code=2)
    assert "offset 99 is not in every queue" in wrong.stderr
    assert f"broker-a/0: 0 to {COUNT // QUEUES}" in wrong.stderr
    assert "has no such queue" in run("offset", "reset", *of_it, "--to", "first", "--queue", "7", code=2).stderr
    assert "not 'never'" in run("offset", "reset", *of_it, "--to", "never", code=2).stderr

    time.sleep(0.01)
    moment = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    send(producer, topic)
    run("offset", "reset", *of_it, "--to", "last")
    assert server.committed_offsets(group, topic) == dict.fromkeys(range(QUEUES), 2 * COUNT // QUEUES)
    run("offset", "reset", *of_it, "--to", moment)
    assert server.committed_offsets(group, topic) == everywhere


@pytest.mark.behaviour("AC-04")
def test_the_offsets_of_a_group_that_runs_are_reset_by_its_broker(
    server: Server, run: Run, consumed: tuple[str, str, DefaultMQPushConsumer]
) -> None:
    topic, group, _ = consumed
    of_it = ("--group", group, "--topic", topic, "--to")
    done = run("offset", "reset", *of_it, "1", "--json")
    assert (told(done)["members"], set(places(done, "way").values())) == (1, {"broker"})
    assert server.committed_offsets(group, topic) == dict.fromkeys(range(QUEUES), 1)
    assert "the broker tells members at their next pull" in run("offset", "reset", *of_it, "first").stdout
    # The member goes on there (tests/apache/test_operators.py); what it commits of before counts no more.
    assert server.committed_offsets(group, topic) == dict.fromkeys(range(QUEUES), 0)


@pytest.mark.behaviour("AC-04")
def test_the_offsets_of_a_group_that_runs_are_reset_through_its_members(
    server: Server, run: Run, consumed: tuple[str, str, DefaultMQPushConsumer]
) -> None:
    assert isinstance(server, Embedded | ApacheBroker)
    cluster = server.cluster
    topic, group, _ = consumed
    for queue in range(QUEUES):  # as the member does after 10 s
        fields = {"consumerGroup": group, "topic": topic, "queueId": queue, "commitOffset": COUNT // QUEUES}
        cluster.call(cluster.broker_addr, 15, fields).checked("commit")
    cluster.call(cluster.broker_addr, 25, body=b"useServerSideResetOffset=false").checked("change a setting")
    try:
        of_it = ("--group", group, "--topic", topic, "--json", "--to")
        assert "stop them first" in run("offset", "reset", *of_it, "1", code=1).stderr
        assert server.committed_offsets(group, topic) == dict.fromkeys(range(QUEUES), COUNT // QUEUES)
        done = run("offset", "reset", *of_it, "first")
        assert (places(done, "after"), set(places(done, "way").values())) == (
            dict.fromkeys(range(QUEUES), 0),
            {"members"},
        )
        eventually(lambda: sum(server.committed_offsets(group, topic).values()) == 0, 30, "the member's commit")
    finally:
        cluster.call(cluster.broker_addr, 25, body=b"useServerSideResetOffset=true").checked("change it back")


@pytest.mark.behaviour("AC-05", "AC-06")
def test_dead_letters_are_listed_shown_and_sent_again_as_they_were(
    server: Server, run: Run, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(queues=QUEUES), server.group()
    failing = True

    def verdict(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.delay_level_when_next_consume = -1  # to the dead letters at once
        return ConsumeConcurrentlyStatus.RECONSUME_LATER if failing else ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    collector = Collector(verdict)
    start_consumer(group, topic, collector)
    sent = [
        producer.send(Message(topic, b"%d" % number, tags="T", keys=f"k{number}", properties={"color": "red"}, flag=5))
        for number in range(3)
    ]

    def dead() -> int:
        return sum(each["messages"] for each in told(run("dlq", "list", "--json")) if each["group"] == group)

    eventually(lambda: dead() == 3, 30, "three dead letters")
    failing = False
    of_it = ("--group", group, "--json")
    shown = lines(run("dlq", "show", *of_it))
    assert {each["msg_id"] for each in shown} == {each.msg_id for each in sent}
    assert {(each["origin_topic"], each["tags"], each["resent"]) for each in shown} == {(topic, "T", False)}
    assert [each["queue_offset"] for each in lines(run("dlq", "show", *of_it, "--limit", 2))] == [0, 1]
    assert len(lines(run("dlq", "show", *of_it, "--id", shown[1]["offset_msg_id"]))) == 1

    dry = lines(run("dlq", "resend", *of_it, "--all", "--dry-run"))
    assert dry[-1] == {"group": group, "dry_run": True, "resent": 3}
    assert len(collector.deliveries) == 3

    one = lines(run("dlq", "resend", *of_it, "--id", sent[0].msg_id))
    assert [each.get("msg_id") for each in one] == [sent[0].msg_id, None]
    assert one[0]["as"]["broker"] == "broker-a"
    collector.wait_until(lambda: len(collector.deliveries) == 4, 30, "the one sent again")
    refused = run("dlq", "resend", *of_it, "--all", "--topic", "SCHEDULE_TOPIC_XXXX", code=1)
    assert (refused.stdout, "SCHEDULE_TOPIC_XXXX" in refused.stderr) == ("", True)
    everything = lines(run("dlq", "resend", *of_it, "--all"))
    assert [each["to"] for each in everything[:-1]] == [topic] * 3
    collector.wait_until(lambda: len(collector.deliveries) == 7, 30, "all sent again")
    for msg in collector.deliveries[3:]:
        (first,) = [each for each in collector.deliveries[:3] if each.msg_id == msg.msg_id]
        for name in ("topic", "body", "tags", "keys", "flag"):
            assert getattr(msg, name) == getattr(first, name), name
        assert (msg.get_property("color"), msg.reconsume_times) == ("red", 0)
        assert (msg.get_property("RETRY_TOPIC"), msg.get_property("ORIGIN_MESSAGE_ID")) == (None, None)

    # The copies stay, and are not sent once more unless that is wanted.
    (listed,) = [each for each in told(run("dlq", "list", "--json")) if each["group"] == group]
    assert (listed["messages"], listed["not_resent"]) == (3, 0)
    assert {each["resent"] for each in lines(run("dlq", "show", *of_it))} == {True}
    assert lines(run("dlq", "resend", *of_it, "--all"))[-1]["resent"] == 0
    assert lines(run("dlq", "resend", *of_it, "--all", "--again", "--dry-run"))[-1]["resent"] == 3
    assert f"the copies stay in %DLQ%{group}" in run("dlq", "resend", "--group", group, "--all").stdout
    assert "has no dead letter nothing" in run("dlq", "show", *of_it, "--id", "nothing", code=1).stderr
    assert "has no dead letters" in run("dlq", "show", "--group", server.group(), code=1).stderr
    run("dlq", "resend", "--group", group, code=2)
    run("dlq", "resend", "--group", group, "--id", "x", "--again", code=2)


@pytest.mark.behaviour("AC-07")
def test_a_live_member_is_looked_into(
    server: Server, run: Run, consumed: tuple[str, str, DefaultMQPushConsumer]
) -> None:
    topic, group, _ = consumed
    (member,) = told(run("inspect", "--group", group, "--stacks", "--json"))["members"]
    assert [each["queue_id"] for each in member["queues"] if each["topic"] == topic] == list(range(QUEUES))
    assert all(each["cached_msg_count"] == 0 for each in member["queues"])
    assert member["subscriptions"][topic] == "*"
    assert "ConsumeMessageThread" in member["stacks"]
    text = run("inspect", "--group", group, "--client", member["client_id"]).stdout
    assert re.search(rf"^{topic} +broker-a +2 ", text, re.MULTILINE)
    assert "has no member nobody" in run("inspect", "--group", group, "--client", "nobody", code=1).stderr
    assert "has no members now" in run("inspect", "--group", server.group(), code=1).stderr


ROOT = Path(__file__).parents[2]


def test_the_commands_as_printed_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMESRV_ADDR", server.namesrv_addr)
    page = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(rocketmq-py topic create .*?)^```$", page, re.MULTILINE | re.DOTALL)
    unique = str(time.monotonic_ns())
    for line in block.splitlines():
        name, *words = re.sub("orders|billing", lambda match: match[0] + unique, line).split()
        assert name == "rocketmq-py"
        done = CliRunner().invoke(app, words)
        assert (done.exit_code, done.stderr) == (0, ""), line


@pytest.mark.behaviour("AC-08", "AC-09")
def test_a_bench_measures_on_a_topic_of_its_own_and_leaves_nothing(server: Server, run: Run) -> None:
    before = told(run("topic", "list", "--all", "--json"))
    measured = told(
        run("bench", "--count", 300, "--size", 50, "--batch", 10, "--producers", 2, "--queues", 2, "--json")
    )
    assert measured["complete"] is True
    assert (measured["produce"]["messages"], measured["consume"]["messages"]) == (300, 300)
    assert measured["produce"]["per_second"] == pytest.approx(300 / measured["produce"]["seconds"])
    assert sorted(measured["produce"]["send_ms"]) == measured["produce"]["send_ms"]
    left = set(told(run("topic", "list", "--all", "--json"))) - set(before)
    assert not [topic for topic in left if "bench-" in topic]
    if isinstance(server, Embedded):
        broker = server.cluster
        assert isinstance(broker, EmbeddedProcess)
        # Sound, though a broker works on it and topics were deleted.
        assert told(run("inspect", "--check", broker.directory, "--json"))["problems"] == []
