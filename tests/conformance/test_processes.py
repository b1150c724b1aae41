"""Forks, and interpreters that end: what a consumer does to the process that it lives in."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from tests.conformance.servers import Server

COMMON = """
import json, os, sys, threading, time
from rocketmq_py import *

namesrv, topic, group = sys.argv[1:]
got = []


def consumer_of(group, **settings):
    consumer = DefaultMQPushConsumer(group, namesrv_addr=namesrv, **settings)
    consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer.subscribe(topic)

    def listen(msgs, context):
        got.extend(msg.body.decode() for msg in msgs)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    consumer.register_message_listener(MessageListenerConcurrently(listen))
    consumer.start()
    return consumer


def wait_for(body):
    deadline = time.monotonic() + 30
    while body not in got:
        assert time.monotonic() < deadline, f"{body} did not come: {got}"
        time.sleep(0.02)
"""

FORK = """
producer = DefaultMQProducer("producers", namesrv_addr=namesrv, instance_name="one")
producer.start()
consumer = consumer_of(group, instance_name="one")
producer.send(Message(topic, b"before"))
wait_for("before")

reading, writing = os.pipe()
child = os.fork()
if child == 0:
    told = {}
    for name, call in {
        "send": lambda: producer.send(Message(topic, b"never")),
        "start": consumer.start,
        "subscribe": lambda: consumer.subscribe("other"),
        "resume": consumer.resume,
    }.items():
        try:
            call()
        except IllegalStateError as error:
            told[name] = str(error)
    consumer.shutdown()
    producer.shutdown()
    got.clear()
    with DefaultMQProducer("producers", namesrv_addr=namesrv, instance_name="one") as own_producer:
        own_producer.send(Message(topic, b"of the child"))
    own = consumer_of(group + "-child", instance_name="one")
    wait_for("of the child")
    own.shutdown()
    os.write(writing, json.dumps(told).encode())
    os._exit(0)
_, status = os.waitpid(child, 0)
producer.send(Message(topic, b"after"))
wait_for("after")
consumer.shutdown()
producer.shutdown()
print(json.dumps({"status": status, "told": json.loads(os.read(reading, 10_000)), "got": sorted(got)}))
"""

ENDS = """
consumer = consumer_of(group)
threading.Thread(target=lambda: None).start()
print(json.dumps("running"))
"""

LISTENER_AT_WORK = """
producer = DefaultMQProducer("producers", namesrv_addr=namesrv)
producer.start()
producer.send(Message(topic, b"stuck"))
working = threading.Event()
consumer = DefaultMQPushConsumer(group, namesrv_addr=namesrv)
consumer.consume_from_where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
consumer.subscribe(topic)


def stuck(msgs, context):
    working.set()
    time.sleep(1_000)


consumer.register_message_listener(MessageListenerConcurrently(stuck))
consumer.start()
assert working.wait(30)
print(json.dumps("running"))
"""


def run(server: Server, script: str) -> object:
    program = textwrap.dedent(COMMON) + script
    group = server.group()
    server.create_group(f"{group}-child")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, server.namesrv_addr, server.topic(), group],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.behaviour("CI-07")
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_forked_child_is_told_so_and_may_make_clients_of_its_own_and_the_parent_goes_on(server: Server) -> None:
    result = run(server, FORK)
    assert isinstance(result, dict)
    assert result["status"] == 0
    assert set(result["told"]) == {"send", "start", "subscribe", "resume"}
    assert all("make a new one here" in text for text in result["told"].values())
    assert result["got"] == ["after", "before", "of the child"]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("script", [ENDS, LISTENER_AT_WORK], ids=["idle", "listener at work"])
def test_an_interpreter_ends_although_a_consumer_was_never_shut_down(server: Server, script: str) -> None:
    assert run(server, script) == "running"
