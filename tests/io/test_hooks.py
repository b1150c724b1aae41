"""RPC hooks around requests over a connection."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rocketmq_py import ClientError, DefaultMQProducer, Message, RemotingCommand
from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
from rocketmq_py.remoting.rpc_hook import AclClientRPCHook
from tests.io.calls import begin, request
from tests.io.cluster import HEARTBEAT, MEMBERS, PULL, ROUTE, SEND_V2, UPDATE_OFFSET
from tests.io.conftest import MakeClient, MakeCluster, MakeConsumer, MakeServer
from tests.io.server import BOUND_S, answer_ok, eventually


class Notes:
    """Writes down what it is called with, and on which thread."""

    def __init__(self, fails: bool = False) -> None:
        self._fails = fails
        self.before: list[tuple[str, int, bytes]] = []
        self.after: list[tuple[str, int, int, bytes]] = []
        self.threads: list[str] = []

    def do_before_request(self, address: str, request: RemotingCommand) -> None:
        self.before.append((address, request.code, request.body))
        if self._fails:
            raise ValueError("oops")
        request.ext_fields["added"] = "by the hook"

    def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
        assert request.ext_fields["added"] == "by the hook"
        self.after.append((address, request.code, response.code, response.body))
        self.threads.append(threading.current_thread().name)


@pytest.mark.behaviour("RH-01")
def test_hooks_are_called_around_requests_of_every_kind_and_what_they_add_is_sent(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    hook = Notes()
    server, client = make_server(answer_ok), make_client(hooks=[hook])
    assert client.invoke_sync(server.address, request(b"sync", own="field"), 5_000).body == b"sync"
    outcome = begin(client, server, b"async")
    assert outcome.told.wait(BOUND_S)
    client.invoke_oneway(server.address, request(b"oneway"), 5_000)
    assert eventually(lambda: len(server.seen) == 3)
    assert [body for _, _, body in hook.before] == [b"sync", b"async", b"oneway"]
    assert {(address, code) for address, code, _ in hook.before} == {(server.address, HEARTBEAT)}
    assert hook.after == [(server.address, HEARTBEAT, 0, b"sync"), (server.address, HEARTBEAT, 0, b"async")]
    assert [seen.fields["added"] for seen in server.seen] == ["by the hook"] * 3
    assert server.seen[0].fields["own"] == "field"
    assert [seen.oneway for seen in server.seen] == [False, False, True]


@pytest.mark.behaviour("RH-02")
def test_a_hook_that_fails_fails_the_request_once_and_nothing_is_sent(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    server, client = make_server(answer_ok), make_client(hooks=[Notes(fails=True)])
    for call in (client.invoke_sync, client.invoke_oneway):
        with pytest.raises(ClientError, match="an RPC hook failed: ValueError"):
            call(server.address, request(), 5_000)
    outcome = begin(client, server)
    assert outcome.told.wait(BOUND_S), "an asynchronous request that nobody was told about: a pull like this is lost"
    assert isinstance(outcome.errors[0], ClientError)
    assert outcome.count == 1
    assert server.seen == []


@pytest.mark.behaviour("RH-01", "SE-02")
def test_every_request_of_consumers_and_producers_is_signed_after_the_users_hook(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    cluster, hook = make_cluster(), Notes()
    keys: dict[str, Any] = {"access_key": "ak", "secret_key": "secret", "rpc_hook": hook}
    cluster.store(b"one")
    consumer = make_consumer(cluster, persist_consumer_offset_interval=200, **keys)
    assert consumer.has(b"one")
    with DefaultMQProducer("producer", namesrv_addr=cluster.address, **keys) as producer:
        producer.send(Message("topic", b"body"))
    wanted = {ROUTE, HEARTBEAT, MEMBERS, PULL, SEND_V2, UPDATE_OFFSET}

    def seen() -> list[Any]:
        return [*cluster.name_server.seen, *cluster.broker.seen]

    assert eventually(lambda: wanted <= {each.code for each in seen()})
    for each in seen():
        checked = RemotingCommand(each.code, ext_fields=dict(each.fields), body=each.body)
        assert checked.ext_fields["added"] == "by the hook"
        told = checked.ext_fields.pop("Signature")
        AclClientRPCHook("ak", "secret").do_before_request("", checked)
        assert told == checked.ext_fields["Signature"]


@pytest.mark.behaviour("NS-06")
def test_with_namespace_v2_every_request_names_it_and_is_signed_with_it(
    make_cluster: MakeCluster, make_consumer: MakeConsumer, make_server: MakeServer
) -> None:
    cluster = make_cluster()
    settings: dict[str, Any] = {"namespace_v2": "ns", "access_key": "ak", "secret_key": "secret"}
    cluster.store(b"one")
    consumer = make_consumer(cluster, enable_msg_trace=True, **settings)
    assert consumer.has(b"one")
    with DefaultMQProducer("producer", namesrv_addr=cluster.address, **settings) as producer:
        producer.send(Message("topic", b"body"))
    clusters = make_server(lambda peer, seen: peer.reply(seen, body=b'{"brokerAddrTable":{},"clusterAddrTable":{}}'))
    with DefaultMQAdminExt(namesrv_addr=clusters.address, **settings) as admin:
        admin.examine_broker_cluster_info()
    consumer.consumer.shutdown()
    seen = [*cluster.name_server.seen, *cluster.broker.seen, *clusters.seen]
    assert {ROUTE, HEARTBEAT, MEMBERS, PULL, SEND_V2} <= {each.code for each in seen}
    for each in seen:
        assert (each.fields["nsd"], each.fields["ns"]) == ("true", "ns")
        told = RemotingCommand(each.code, ext_fields=dict(each.fields), body=each.body)
        AclClientRPCHook("ak", "secret").do_before_request("", told)
        assert told.ext_fields["Signature"] == each.fields["Signature"]
    (sent,) = (each for each in cluster.broker.seen if each.code == SEND_V2)
    assert sent.fields["b"] == "topic"


@pytest.mark.behaviour("RH-02")
def test_a_pull_whose_hook_fails_is_tried_again(make_cluster: MakeCluster, make_consumer: MakeConsumer) -> None:
    class Moody:
        pulls = 0

        def do_before_request(self, address: str, request: RemotingCommand) -> None:
            if request.code == PULL:
                self.pulls += 1
                if self.pulls == 1:
                    raise ValueError("not now")

        def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None:
            raise ValueError("never mind")

    cluster = make_cluster()
    cluster.store(b"one")
    assert make_consumer(cluster, rpc_hook=Moody()).has(b"one")
