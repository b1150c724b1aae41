"""Consumers on a gRPC port when what they are connected to dies, or the network between them does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from rocketmq_py import DefaultMQProducer, Message
from rocketmq_py.consumer.stats import Event
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import GRPC_SERVERS, ApacheProxyGrpc, EmbeddedGrpc
from tests.grpc.relay import Relay

pytestmark = pytest.mark.parametrize("server", GRPC_SERVERS, indirect=True)

GrpcServer = ApacheProxyGrpc | EmbeddedGrpc
FULL = os.environ.get("ROCKETMQ_PY_FULL") == "1"


@pytest.fixture
def relay(server: GrpcServer) -> Iterator[Relay]:
    with Relay(server.consumer_address["endpoints"]) as relay:
        yield relay


def test_after_a_crash_of_the_server_consumption_goes_on_by_itself(
    server: GrpcServer, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    collector = Collector()
    consumer = start_consumer(group, topic, collector)
    before = send(topic, 100)
    collector.wait_for_bodies(before)
    server.kill_grpc()
    expected = []
    if isinstance(server, ApacheProxyGrpc):  # the broker lives on
        with DefaultMQProducer("around", namesrv_addr=server.cluster.namesrv_addr) as producer:
            expected = [b"while it is gone %d" % number for number in range(100)]
            producer.send([Message(topic, body) for body in expected])
    eventually(lambda: consumer.counters()[Event.PULL_FAILED] > 0, 30, "noticed")
    if FULL:
        time.sleep(60)
    server.start_grpc()
    expected += send(topic, 100, size=200)
    collector.wait_for_bodies(expected, 60)


def test_when_every_connection_is_cut_again_and_again_consumption_goes_on_by_itself(
    server: GrpcServer, relay: Relay, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    collector = Collector()
    start_consumer(server.group(), topic, collector, endpoints=relay.endpoints, heartbeat_broker_interval=1_000)
    sent: list[bytes] = []
    for number in range(2):
        sent += send(topic, 200, size=100 + number)
        # A proxy that is interrupted in an answer keeps what it had written of it hidden for a minute.
        if FULL:
            eventually(lambda: len(collector.bodies()) > number * 200, 30, "some of them")  # noqa: B023 - called here only
        else:
            collector.wait_for_bodies(sent, 120)
        relay.cut()
    sent += send(topic, 200, size=200)
    collector.wait_for_bodies(sent, 120)


def test_in_a_connection_that_fell_silent_nothing_is_lost_and_consumption_goes_on_by_itself(
    server: GrpcServer, relay: Relay, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    collector = Collector()
    start_consumer(
        server.group(), topic, collector, endpoints=relay.endpoints, heartbeat_broker_interval=500,
        mq_client_api_timeout=1_000,
    )  # fmt: skip
    collector.wait_for_bodies(send(topic, 100))
    before = relay.connections
    relay.freeze()
    swallowed = send(topic, 100, size=200)  # by receives that the server still holds
    eventually(lambda: relay.connections > before, 30, "a new connection")
    collector.wait_for_bodies(send(topic, 100, size=300), 30)
    collector.wait_for_bodies(swallowed, 60)
