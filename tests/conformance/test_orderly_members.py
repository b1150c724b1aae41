"""Orderly members as processes, Java's among them: joined, killed, stopped; invariant I5."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from rocketmq_py import DefaultMQProducer, Message
from tests.apache.cluster import TESTS
from tests.apache.jars import program_command
from tests.conformance.collector import eventually
from tests.conformance.servers import Server

QUEUES = 4
WORK_MS = 5
LEASE_S = 60

FULL = os.environ.get("ROCKETMQ_PY_FULL") == "1"


@dataclass
class Call:
    member: str
    queue: int
    offset: int
    body: str
    began_ns: int
    ended_ns: int | None = None


class Member:
    """A process that tells its listener's calls."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.calls: list[Call] = []
        self._open: dict[int, Call] = {}
        self._started = threading.Event()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *fields = line.rstrip("\n").split("\t")
            if word == "started":
                self._started.set()
            elif word == "begin":
                queue, offset, body, at = fields
                self._open[int(queue)] = call = Call(self.name, int(queue), int(offset), body, int(at))
                self.calls.append(call)
            elif word == "end":
                self._open.pop(int(fields[0])).ended_ns = int(fields[3])

    def wait_started(self) -> None:
        assert self._started.wait(120), f"{self.name} did not start"

    def wait_for_work(self, timeout_s: float, beyond: int = 0) -> None:
        eventually(lambda: len(self.calls) > beyond, timeout_s, f"{self.name} at work")

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def leave(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(40) == 0
        self._reader.join(10)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


StartMember = Callable[..., Member]


@pytest.fixture
def start_member(server: Server) -> Iterator[StartMember]:
    with ExitStack() as running:

        def start(name: str, topic: str, group: str, work_ms: int = WORK_MS) -> Member:
            arguments = (server.namesrv_addr, topic, group, str(work_ms))
            if name.startswith("java"):
                command = program_command("OrderlyMember", *arguments, options=TESTS.jvm)
            else:
                command = [sys.executable, "-m", "tests.conformance.orderly_member", *arguments]
            member = Member(name, command)
            running.callback(member.close)
            return member

        yield start


class Sender:
    """Sends numbered messages to all queues until it is stopped."""

    def __init__(self, producer: DefaultMQProducer, topic: str, interval_s: float = 0.01) -> None:
        self._interval_s = interval_s
        self._producer = producer
        self._topic = topic
        self._stop = threading.Event()
        self.sent: list[str] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for number in itertools.count():
            if self._stop.wait(self._interval_s):
                return
            body = str(number)
            self._producer.send(Message(self._topic, body.encode()))
            self.sent.append(body)

    def stop(self) -> list[str]:
        self._stop.set()
        self._thread.join(30)
        return self.sent


def check_order(members: Sequence[Member], excused: Callable[[Call], bool] = lambda call: False) -> None:
    """Calls of a queue never overlap, but for those excused, and first deliveries come in order.

    A call that never ended, because its member was killed, ends with the broker's lease on its queue.
    """
    by_queue: defaultdict[int, list[Call]] = defaultdict(list)
    for call in sorted((call for member in members for call in member.calls), key=lambda call: call.began_ns):
        by_queue[call.queue].append(call)
    for calls in by_queue.values():
        for before, after in itertools.combinations(calls, 2):
            if before.ended_ns is not None and not excused(before):
                assert before.ended_ns <= after.began_ns, f"two calls at once: {before} and {after}"
        first = list(dict.fromkeys(call.offset for call in calls))
        assert first == sorted(first)


def finish(server: Server, topic: str, group: str, members: Sequence[Member], sent: Sequence[str]) -> None:
    """Wait until everything was consumed and committed."""
    eventually(
        lambda: {call.body for member in members for call in member.calls if call.ended_ns} >= set(sent),
        LEASE_S + 40,
        "every message",
    )
    eventually(
        lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 30, "committed offsets = ends"
    )


@pytest.mark.parametrize("server", ["apache-broker", *(["embedded"] if FULL else [])], indirect=True)
def test_java_and_python_members_join_leave_and_are_killed_and_every_queue_keeps_its_order(
    server: Server, java: None, producer: DefaultMQProducer, start_member: StartMember
) -> None:
    topic, group = server.topic(QUEUES), server.group()
    sender = Sender(producer, topic)
    first = start_member("python-1", topic, group)
    first.wait_for_work(30)
    java_member = start_member("java", topic, group)
    java_member.wait_for_work(server.rebalance_bound_s + 30)
    second = start_member("python-2", topic, group)
    second.wait_for_work(server.rebalance_bound_s + 30)
    first.send_signal(signal.SIGKILL)
    members = [first, java_member, second]
    # Its queues are free once the broker's leases have ended; the others go on meanwhile.
    survivors = [member for member in members if member is not first]
    killed_queues = {call.queue for call in first.calls[-1:]}
    eventually(
        lambda: killed_queues <= {call.queue for member in survivors for call in member.calls[-50:]},
        LEASE_S + server.rebalance_bound_s + 30,
        "the queues of the member that was killed",
    )
    java_member.leave()
    third = start_member("python-3", topic, group)
    third.wait_for_work(server.rebalance_bound_s + 30)
    members.append(third)
    finish(server, topic, group, members, sender.stop())
    check_order(members)


@pytest.mark.parametrize("stopped_s", [35, *([70] if FULL else [])])
@pytest.mark.parametrize("server", ["embedded", *(["apache-broker"] if FULL else [])], indirect=True)
def test_an_owner_that_was_stopped_begins_nothing_and_commits_nothing_before_it_has_locked_again(
    server: Server, producer: DefaultMQProducer, start_member: StartMember, stopped_s: int
) -> None:
    """Stopped for longer than its own 30 s; 70 s are longer than the broker's 60 s, too: another may have locked."""
    topic, group = server.topic(1), server.group()
    sender = Sender(producer, topic, interval_s=0.04)  # a backlog of the time stopped, soon worked off
    owner = start_member("python-1", topic, group, work_ms=10)
    owner.wait_for_work(30, beyond=20)
    owner.send_signal(signal.SIGSTOP)
    time.sleep(0.2)  # lines on their way
    stopped_ns, calls_before = time.monotonic_ns(), len(owner.calls)
    committed = server.committed_offsets(group, topic)
    # A sleep, because a process that is stopped tells nothing; the time itself is what is tested.
    time.sleep(stopped_s)
    assert len(owner.calls) == calls_before
    thief = f"thief-of-{topic}"
    stolen = server.lock(group, topic, 0, thief)
    assert stolen is (stopped_s > LEASE_S)
    resumed_ns = time.monotonic_ns()
    owner.send_signal(signal.SIGCONT)
    if stolen:
        time.sleep(8)  # it asks for its lock after 10 ms and every 3 s, in vain
        begun = [call for call in owner.calls[calls_before:] if call.began_ns > resumed_ns]
        assert begun == []
        assert server.committed_offsets(group, topic) == committed
        server.unlock(group, topic, 0, thief)
    owner.wait_for_work(60, beyond=calls_before + 20)
    finish(server, topic, group, [owner], sender.stop())
    check_order([owner], lambda call: call.began_ns < stopped_ns)
    # What was in the listener came again: its late answer was not carried out.
    last = owner.calls[calls_before - 1]
    if last.ended_ns is not None and last.ended_ns > resumed_ns:
        assert [call.offset for call in owner.calls].count(last.offset) == 2
