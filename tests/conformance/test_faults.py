"""Nothing is lost when consumers and brokers die, and bad input is answered clearly."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from rocketmq_py import (
    BrokerError,
    ConfigError,
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    DefaultMQPushConsumer,
    IllegalStateError,
    Message,
    MessageListenerConcurrently,
    TransportError,
)
from rocketmq_py.model.results import Messages
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import Server


class ConsumerProcess:
    """``rocketmq-py consume --json`` in a process of its own, whose lines are noted as they come."""

    def __init__(self, server: Server, topic: str, group: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rocketmq_py", "consume", "--namesrv", server.namesrv_addr, "--topic", topic,
             "--group", group, "--from", "first", "--json"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.bodies: Counter[str] = Counter()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                self.bodies[json.loads(line)["body"]] += 1

    def wait_for_new(self, old: set[str], count: int) -> None:
        """Wait until so many messages came that are not among the old ones."""
        eventually(lambda: len(self.bodies.keys() - old) >= count, 60, f"{count} more messages")

    def end(self, number: signal.Signals) -> int:
        """Send a signal; returns the exit code once everything printed was read."""
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


def test_a_consumer_killed_in_the_middle_loses_nothing_and_repeats_little(server: Server, send: SendBodies) -> None:
    topic, group = server.topic(), server.group()
    sent = {body.decode() for body in send(topic, 20_000)}
    counts: Counter[str] = Counter()
    kills = 3
    for _ in range(kills):
        process = ConsumerProcess(server, topic, group)
        process.wait_for_new(set(counts), 2_000)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        counts += process.bodies
    last = ConsumerProcess(server, topic, group)
    eventually(lambda: not sent - last.bodies.keys() - counts.keys(), 90, "everything")
    assert last.end(signal.SIGTERM) == 0
    counts += last.bodies
    assert set(counts) == sent
    pull_threshold_for_queue, pull_batch_size = 1_000, 32
    assert sum(counts.values()) - len(sent) <= kills * 8 * (pull_threshold_for_queue + pull_batch_size)
    eventually(
        lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 10, "committed offsets = ends"
    )


def test_a_broker_restart_loses_nothing(server: Server, send: SendBodies, start_consumer: StartConsumer) -> None:
    topic, group = server.topic(), server.group()
    release = threading.Event()

    def hold(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        release.wait(60)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    before = send(topic, 500, size=100)
    collector = Collector(hold)
    consumer = start_consumer(group, topic, collector)
    collector.wait_until(lambda: len(collector.deliveries) >= 20, 30, "twenty in the listener")
    server.restart_broker()
    release.set()
    eventually(lambda: _try_send(send, topic), 60, "a send after the restart")
    after = send(topic, 500, size=101)
    collector.wait_for_bodies(before + after, timeout_s=90)
    # Not the messages but the end of each queue: a send that counts as failed may have been stored all the same, later.
    eventually(lambda: finished(collector, server.max_offsets(topic)), 60, "each queue to its end")
    consumer.shutdown()
    assert server.committed_offsets(group, topic) == server.max_offsets(topic)


def finished(collector: Collector, ends: dict[int, int]) -> bool:
    """Whether the last message of every queue was delivered."""
    delivered = collector.places()
    return all((queue, end - 1) in delivered for queue, end in ends.items() if end)


def _try_send(send: SendBodies, topic: str) -> bool:
    try:
        send(topic, 1, size=102)
    except (BrokerError, TransportError):
        return False
    return True


def test_shutdown_waits_for_the_listener_and_commits_what_it_finished(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(queues=1), server.group()
    started = threading.Event()

    def slow(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        started.set()
        time.sleep(0.5)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    send(topic, 10)
    consumer = start_consumer(group, topic, Collector(slow))
    assert started.wait(30)
    consumer.shutdown()
    eventually(lambda: server.committed_offsets(group, topic) == {0: 10}, 10, "all ten are committed")
    consumer.shutdown()


def test_shutdown_from_inside_the_listener_ends_the_consumer(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic(queues=1)
    ended = threading.Event()

    def end(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        consumer.shutdown()
        ended.set()
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    consumer = start_consumer(server.group(), topic, Collector(end), await_termination_millis_when_shutdown=1_000)
    send(topic, 1)
    assert ended.wait(30)
    assert consumer.state.value == "SHUTDOWN_ALREADY"


def test_shutdown_from_a_signal_handler_ends_the_consumer(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(queues=1), server.group()
    collector = Collector()
    consumer = start_consumer(group, topic, collector)
    collector.wait_for_bodies(send(topic, 10))
    before = signal.signal(signal.SIGUSR1, lambda *_: consumer.shutdown())
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert consumer.state.value == "SHUTDOWN_ALREADY"
    eventually(lambda: server.committed_offsets(group, topic) == {0: 10}, 10, "all ten are committed")


def test_an_unknown_topic_is_said_and_consumed_once_it_exists(
    server: Server, send: SendBodies, start_consumer: StartConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"late-{os.getpid()}-{time.time_ns()}"
    collector = Collector()
    with caplog.at_level(logging.WARNING):
        start_consumer(server.group(), topic, collector, poll_name_server_interval=500)
    assert any(re.search(f"topic {topic} does not exist", record.getMessage()) for record in caplog.records)
    server.create_topic(topic, 4)
    collector.wait_for_bodies(send(topic, 10))


def test_a_second_consumer_of_the_same_group_in_one_client_is_refused_and_the_first_goes_on(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    collector = Collector()
    start_consumer(group, topic, collector, instance_name="one-client")
    with pytest.raises(IllegalStateError, match="has a consumer in client"):
        start_consumer(group, topic, Collector(), instance_name="one-client")
    collector.wait_for_bodies(send(topic, 10))


def test_a_body_that_is_too_large_is_refused_by_the_client_and_by_the_broker(server: Server) -> None:
    topic = server.topic()
    big = Message(topic, os.urandom(5 * 1024 * 1024))
    with DefaultMQProducer("big", namesrv_addr=server.namesrv_addr) as producer:
        with pytest.raises(ConfigError, match="the limit is 4194304"):
            producer.send(big)
        producer.max_message_size = 6 * 1024 * 1024
        with pytest.raises((BrokerError, TransportError)):
            producer.send(big)
        producer.send(Message(topic, b"fits"))


@contextmanager
def _talking_rubbish(answer: bytes) -> Iterator[str]:
    """A server on a free port that answers everything with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(OSError):  # the client may hang up first
                    connection.settimeout(5)
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 64, b"\xff" * 64, b"\0\0\0\x0c\0\0\0\x08notjson!", b""],
    ids=["http", "zeros", "ones", "no json", "closed at once"],
)
def test_a_name_server_that_talks_rubbish_makes_start_fail_clearly_and_start_can_be_tried_again(
    server: Server, send: SendBodies, answer: bytes
) -> None:
    topic = server.topic()
    collector = Collector()
    with _talking_rubbish(answer) as address:
        consumer = DefaultMQPushConsumer(server.group(), namesrv_addr=address, mq_client_api_timeout=1_000)
        consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
        consumer.subscribe(topic)
        consumer.register_message_listener(collector)
        with pytest.raises(TransportError, match="no name server can be reached"):
            consumer.start()
    consumer.namesrv_addr = server.namesrv_addr
    with consumer:
        collector.wait_for_bodies(send(topic, 10))


def test_name_servers_that_are_down_are_passed_over(server: Server, send: SendBodies) -> None:
    topic = server.topic()
    collector = Collector()
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    consumer = DefaultMQPushConsumer(server.group(), namesrv_addr=f"{closed};{server.namesrv_addr}")
    consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer.subscribe(topic)
    consumer.register_message_listener(collector)
    with consumer:
        collector.wait_for_bodies(send(topic, 10))


def test_nobody_at_the_address_is_a_clear_error(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    consumer = DefaultMQPushConsumer("group", namesrv_addr=closed)
    consumer.subscribe("topic")
    consumer.register_message_listener(MessageListenerConcurrently(lambda msgs, context: None))
    with pytest.raises(
        TransportError, match=f"no name server can be reached, check namesrv_addr: cannot connect to {closed}"
    ):
        consumer.start()
    consumer.shutdown()


def test_a_consumer_leaves_no_thread_and_no_socket_behind(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic()

    def used() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = used()
    for _ in range(3):
        collector = Collector()
        consumer = start_consumer(server.group(), topic, collector)
        collector.wait_for_bodies(send(topic, 10))
        consumer.shutdown()
    # The producer of this test has connected meanwhile; it keeps one connection to each server it talked to.
    eventually(lambda: used()[0] <= before[0] and used()[1] <= before[1] + 2, 10, f"back to {before}, now {used()}")
