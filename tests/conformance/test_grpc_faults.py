"""Consumers on a gRPC port when what they are connected to dies."""

from __future__ import annotations

import pytest

from rocketmq_py import DefaultMQProducer, Message
from rocketmq_py.consumer.stats import Event
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import GRPC_SERVERS, ApacheProxyGrpc, EmbeddedGrpc


@pytest.mark.parametrize("server", GRPC_SERVERS, indirect=True)
def test_after_a_crash_of_the_server_consumption_goes_on_by_itself(
    server: ApacheProxyGrpc | EmbeddedGrpc, send: SendBodies, start_consumer: StartConsumer
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
    server.start_grpc()
    expected += send(topic, 100, size=200)
    collector.wait_for_bodies(expected, 60)
