"""Consumers on a real proxy's gRPC port when the proxy dies."""

from __future__ import annotations

import pytest

from rocketmq_py import DefaultMQProducer, Message
from rocketmq_py.consumer.stats import Event
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import ApacheProxyGrpc


@pytest.mark.parametrize("server", ["apache-proxy-grpc"], indirect=True)
def test_after_a_crash_of_the_proxy_consumption_goes_on_by_itself(
    server: ApacheProxyGrpc, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    collector = Collector()
    consumer = start_consumer(group, topic, collector)
    before = send(topic, 100)
    collector.wait_for_bodies(before)
    server.cluster.kill_proxy()
    with DefaultMQProducer("around", namesrv_addr=server.cluster.namesrv_addr) as producer:
        during = [b"while it is gone %d" % number for number in range(100)]
        producer.send([Message(topic, body) for body in during])
    eventually(lambda: consumer.counters()[Event.PULL_FAILED] > 0, 30, "noticed")
    server.cluster.start_proxy()
    collector.wait_for_bodies(during, 60)
