"""Upstream's Java consumer and ours as members of one group: they see the same members and divide the queues alike."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    DefaultMQProducer,
    Message,
    MessageExt,
    MessageQueue,
)
from rocketmq_py.consumer.allocate import AllocateMessageQueueAveragely
from rocketmq_py.model.results import Messages
from tests.administration import BROKER_NAME
from tests.apache.cluster import TESTS
from tests.apache.jars import QUIET, compile_java, java_command, program_command
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import StartConsumer
from tests.conformance.servers import Server

QUEUES = 8

#: Arguments: NAMESRV TOPIC GROUP VERDICT. Ends in good order when its standard input does. With the verdict
#: "fail-first" every message fails once.
JAVA_MEMBER = """
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

public final class JavaMember {
    public static void main(String[] args) throws Exception {
        boolean failFirst = args[3].equals("fail-first");
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args[2]);
        consumer.setNamesrvAddr(args[0]);
        consumer.setMqClientApiTimeout(30_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // Its first rebalance and its first timed heartbeat come at the same moment. When they collide, the heartbeat
        // that tells of the new subscription version is left out and the broker refuses its pulls until the next one.
        consumer.setHeartbeatBrokerInterval(1_000);
        consumer.subscribe(args[1], "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt one = messages.get(0);
            say(String.join("\\t", Integer.toString(one.getQueueId()), Integer.toString(one.getReconsumeTimes()),
                one.getTopic(), one.getMsgId(), String.valueOf(one.getTags()), String.valueOf(one.getKeys()),
                String.valueOf(one.getUserProperty("own")), new String(one.getBody(), StandardCharsets.UTF_8)));
            boolean fails = failFirst && one.getReconsumeTimes() == 0;
            return fails ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        say("started " + consumer.buildMQClientId());
        while (System.in.read() >= 0) {
            // only its end means something
        }
        consumer.shutdown();
        System.exit(0);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
"""


class Delivery(NamedTuple):
    """What both clients show of a message."""

    queue_id: int
    reconsume_times: int
    topic: str
    msg_id: str
    tags: str
    keys: str
    own: str
    body: str


def delivery_of(msg: MessageExt) -> Delivery:
    return Delivery(
        msg.queue_id, msg.reconsume_times, msg.topic, msg.msg_id, str(msg.tags), str(msg.keys),
        str(msg.get_property("own")), msg.body.decode(),
    )  # fmt: skip


class Member(Protocol):
    client_id: str

    def deliveries(self) -> list[Delivery]: ...


class PythonMember:
    def __init__(self, collector: Collector, client_id: str) -> None:
        self._collector = collector
        self.client_id = client_id

    def deliveries(self) -> list[Delivery]:
        return [delivery_of(msg) for msg in list(self._collector.deliveries)]


class JavaMember:
    """``JAVA_MEMBER`` as a process of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._deliveries: list[Delivery] = []
        self._started = threading.Event()
        self.client_id = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            fields = line.rstrip("\n").split("\t")
            if word == "started":
                self.client_id = rest
                self._started.set()
            elif len(fields) == len(Delivery._fields):
                self._deliveries.append(Delivery(int(fields[0]), int(fields[1]), *fields[2:]))

    def deliveries(self) -> list[Delivery]:
        return list(self._deliveries)

    def wait_started(self) -> None:
        assert self._started.wait(120), "the Java member did not start"

    def leave(self) -> None:
        """End in good order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._reader.join(10)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


StartJava = Callable[[str, str, str], JavaMember]


@pytest.fixture
def start_java(server: Server, tmp_path: Path) -> Iterator[StartJava]:
    """Start a Java member of a group; it is killed when the test ends."""
    source = tmp_path / "JavaMember.java"
    source.write_text(JAVA_MEMBER)
    class_path = compile_java([source])
    options = [*TESTS.jvm, f"-Drmq.logback.configurationFile={QUIET}", f"-Duser.home={tmp_path}"]
    with ExitStack() as running:

        def start(group: str, topic: str, verdict: str = "success") -> JavaMember:
            arguments = (server.namesrv_addr, topic, group, verdict)
            member = JavaMember(java_command(class_path, "JavaMember", *arguments, options=options))
            running.callback(member.close)
            return member

        yield start


class Traffic:
    """One message to each queue at a time."""

    def __init__(self, producer: DefaultMQProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self.sent: list[str] = []

    def send_round(self) -> dict[str, int]:
        """Bodies just sent, with their queues."""
        round_of = {f"{len(self.sent) + queue}": queue for queue in range(QUEUES)}
        for body, queue in round_of.items():
            message = Message(self._topic, body.encode(), tags="T", keys=f"k{body}", properties={"own": f"p{body}"})
            self._producer.send(message, selector=lambda queues, _, number: queues[number], arg=queue)
        self.sent += round_of
        return round_of


def came(members: Sequence[Member]) -> set[str]:
    return {delivery.body for member in members for delivery in member.deliveries()}


def expected_shares(client_ids: Sequence[str], topic: str) -> Mapping[str, set[int]]:
    """Who should own which queue."""
    queues = [MessageQueue(topic, BROKER_NAME, number) for number in range(QUEUES)]
    allocate = AllocateMessageQueueAveragely().allocate
    return {each: {queue.queue_id for queue in allocate("g", each, queues, client_ids)} for each in client_ids}


def wait_for_shares(
    traffic: Traffic, members: Sequence[Member], topic: str, server: Server, everyone: Sequence[Member]
) -> None:
    """Wait until each message of a round comes once, retries aside, to the member that the strategy says."""
    expected = expected_shares(sorted(member.client_id for member in members), topic)

    def shared() -> bool:
        round_of = traffic.send_round()
        eventually(lambda: came(everyone) >= set(round_of), server.rebalance_bound_s, "a message of each queue")
        actual = {
            member.client_id: sorted(
                round_of[each.body]
                for each in member.deliveries()
                if each.body in round_of and not each.reconsume_times
            )
            for member in everyone
        }
        return {each: queues for each, queues in actual.items() if queues} == {
            each: sorted(queues) for each, queues in expected.items()
        }

    eventually(shared, server.rebalance_bound_s, f"the shares {expected}")


def new_client_id(server: Server, group: str, known: Sequence[Member]) -> str:
    """The id of the one member that is not known yet."""
    others = {member.client_id for member in known}
    eventually(lambda: len(set(server.consumer_ids(group)) - others) == 1, 10, "one new member")
    (client_id,) = set(server.consumer_ids(group)) - others
    return client_id


@pytest.mark.parametrize("server", ["embedded", "apache-broker"], indirect=True)
def test_java_and_python_members_divide_the_queues_alike_and_take_over_from_one_another(
    server: Server, java: None, producer: DefaultMQProducer, start_consumer: StartConsumer,
    start_java: StartJava,
) -> None:  # fmt: skip
    topic, group = server.topic(QUEUES), server.group()
    traffic = Traffic(producer, topic)
    java_member = start_java(group, topic, "success")
    collector = Collector()
    start_consumer(group, topic, collector)
    java_member.wait_started()
    first = PythonMember(collector, new_client_id(server, group, [java_member]))
    wait_for_shares(traffic, [java_member, first], topic, server, [java_member, first])

    collector = Collector()
    leaving = start_consumer(group, topic, collector)
    second = PythonMember(collector, new_client_id(server, group, [java_member, first]))
    everyone: list[Member] = [java_member, first, second]
    wait_for_shares(traffic, everyone, topic, server, everyone)
    assert server.consumer_ids(group) == sorted(member.client_id for member in everyone)

    leaving.shutdown()
    wait_for_shares(traffic, [java_member, first], topic, server, everyone)
    java_member.leave()
    wait_for_shares(traffic, [first], topic, server, everyone)

    eventually(lambda: came(everyone) == set(traffic.sent), 10, "every message")
    eventually(
        lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 15, "committed offsets = ends"
    )


# Client ids begin with the address, so this says who sorts first and thus owns the one queue of the retry topic.
@pytest.mark.parametrize(("python_ip", "python_gets_retries"), [("0", True), ("9", False)], ids=["python", "java"])
@pytest.mark.parametrize("server", ["embedded", "apache-broker"], indirect=True)
def test_what_one_fails_the_other_gets_again_as_the_same_message(
    server: Server, java: None, producer: DefaultMQProducer, start_consumer: StartConsumer,
    start_java: StartJava, python_ip: str, python_gets_retries: bool,
) -> None:  # fmt: skip
    topic, group = server.topic(QUEUES), server.group()
    traffic = Traffic(producer, topic)

    def fail_first(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if msgs[0].reconsume_times == 0:
            return ConsumeConcurrentlyStatus.RECONSUME_LATER
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    java_member = start_java(group, topic, "fail-first")
    collector = Collector(fail_first)
    start_consumer(group, topic, collector, client_ip=f"{python_ip}.python")
    java_member.wait_started()
    python = PythonMember(collector, new_client_id(server, group, [java_member]))
    assert (python.client_id < java_member.client_id) is python_gets_retries
    wait_for_shares(traffic, [java_member, python], topic, server, [java_member, python])

    round_of = traffic.send_round()
    owner, other = (python, java_member) if python_gets_retries else (java_member, python)

    def of_round(member: Member, reconsume_times: int) -> dict[str, Delivery]:
        return {
            each.body: each
            for each in member.deliveries()
            if each.body in round_of and each.reconsume_times == reconsume_times
        }

    eventually(lambda: set(of_round(owner, 1)) == set(round_of), 20, "every retry at the owner of the retry queue")
    failed_by_the_other = of_round(other, 0)
    assert len(failed_by_the_other) == QUEUES // 2
    assert not of_round(other, 1)
    for body, first in failed_by_the_other.items():
        again = of_round(owner, 1)[body]
        assert again == first._replace(queue_id=0, reconsume_times=1)
        assert again[2:] == (topic, first.msg_id, "T", f"k{body}", f"p{body}", body)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_java_producer_and_a_java_consumer_work_against_the_embedded_broker(
    server: Server, java: None, start_java: StartJava
) -> None:
    topic, group, count = server.topic(QUEUES), server.group(), 10_000
    java_member = start_java(group, topic, "success")
    java_member.wait_started()
    command = program_command("JavaProduce", server.namesrv_addr, topic, str(count), options=TESTS.jvm)
    sent = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert sent.returncode == 0, sent.stderr
    expected = {str(number) for number in range(count)}
    eventually(lambda: came([java_member]) == expected, 60, "every message at the Java consumer")
    eventually(
        lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 15, "committed offsets = ends"
    )
    assert all(delivery.keys == f"k{delivery.body}" for delivery in java_member.deliveries())
