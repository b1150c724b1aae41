"""What clients of one process share, as far as it needs no server. Nothing listens at the address given here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from rocketmq_py.client_instance import ClientRegistry, MQClientInstance, build_client_id
from rocketmq_py.errors import BrokerError, ConfigError, ConnectError, RocketMQError, TransportError
from rocketmq_py.model.codes import RequestCode
from rocketmq_py.model.config import ClientConfig
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.route import BrokerData, TopicRouteData
from rocketmq_py.remoting.bodies import ConsumerData
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.runtime import Lock, Scheduler, ThreadRuntime
from rocketmq_py.testing import ManualClock
from tests.unit.support import NotOperated

NOWHERE = "127.0.0.1:1"


class Consumer(NotOperated):
    """The least that a client asks of a consumer."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.joined = True

    def heartbeat(self) -> ConsumerData:
        return ConsumerData(group=self.group, consume_from_where="CONSUME_FROM_LAST_OFFSET", subscriptions=[])

    def topics(self) -> Sequence[str]:
        return []

    def update_topic_subscribe_info(self, topic: str, queues: Sequence[MessageQueue]) -> bool:
        return False

    def is_subscribe_topic_need_update(self, topic: str) -> bool:
        return False

    def do_rebalance(self) -> bool:
        return True

    def persist_consumer_offset(self) -> None: ...


@pytest.fixture
def registry() -> ClientRegistry:
    return ClientRegistry(ThreadRuntime())


@pytest.fixture
def client(registry: ClientRegistry) -> Iterator[MQClientInstance]:
    client = registry.acquire(ClientConfig(namesrv_addr=NOWHERE, client_ip="10.0.0.1", instance_name="unit"))
    yield client
    registry.release(client)


@pytest.mark.behaviour("CI-01")
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ClientConfig(client_ip="10.0.0.1", instance_name="mine"), "10.0.0.1@mine"),
        (ClientConfig(client_ip="10.0.0.1", instance_name="mine", unit_name="unit"), "10.0.0.1@mine@unit"),
    ],
)
def test_a_client_id_is_address_instance_and_unit(config: ClientConfig, expected: str) -> None:
    assert build_client_id(config, ManualClock()) == expected


@pytest.mark.behaviour("CI-01")
def test_two_clients_with_the_default_instance_never_share_an_id() -> None:
    clock = ManualClock()
    ids = {build_client_id(ClientConfig(), clock) for _ in range(2_000)}
    assert len(ids) == 2_000
    assert not any("DEFAULT" in client_id for client_id in ids)


@pytest.mark.behaviour("CI-02")
def test_the_same_id_is_the_same_client_until_the_last_user_gives_it_back(registry: ClientRegistry) -> None:
    config = ClientConfig(namesrv_addr=NOWHERE, instance_name="shared")
    first = registry.acquire(config)
    assert registry.acquire(config) is first
    registry.release(first)
    again = registry.acquire(config)
    assert again is first
    registry.release(first)
    registry.release(first)
    other = registry.acquire(config)
    assert other is not first
    registry.release(other)


@pytest.mark.behaviour("CI-02")
def test_a_client_of_other_name_servers_is_refused_and_the_first_one_stays(
    registry: ClientRegistry, client: MQClientInstance
) -> None:
    other = ClientConfig(namesrv_addr="127.0.0.1:2", client_ip="10.0.0.1", instance_name="unit")
    with pytest.raises(ConfigError, match=r"give the one for .* another instance_name"):
        registry.acquire(other)
    other.namesrv_addr = NOWHERE
    assert registry.acquire(other) is client
    registry.release(client)


class Hook:
    """One like any other."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__

    def do_before_request(self, address: str, request: RemotingCommand) -> None: ...

    def do_after_response(self, address: str, request: RemotingCommand, response: RemotingCommand) -> None: ...


OTHERWISE: dict[str, dict[str, Any]] = {
    "rpc_hook": {"rpc_hook": Hook()},
    "access_key, secret_key": {"access_key": "a", "secret_key": "s"},
    "secret_key": {"access_key": "right", "secret_key": "hush"},
    "use_tls": {"use_tls": True},
    "namespace_v2": {"namespace_v2": "ns"},
}


@pytest.mark.behaviour("RH-04")
@pytest.mark.parametrize("different", OTHERWISE)
def test_a_client_of_another_hook_other_credentials_or_tls_is_refused_and_the_first_one_stays(
    registry: ClientRegistry, different: str
) -> None:
    def config(**settings: Any) -> ClientConfig:
        return ClientConfig(namesrv_addr=NOWHERE, client_ip="10.0.0.1", instance_name="settings", **settings)

    own: dict[str, Any] = {"rpc_hook": Hook()}
    if different == "secret_key":
        own |= {"access_key": "right", "secret_key": "right"}
    first = registry.acquire(config(**own))
    try:
        with pytest.raises(ConfigError, match=f"was made with another {different}: give this one") as refused:
            registry.acquire(config(**{**own, **OTHERWISE[different]}))
        assert "hush" not in str(refused.value)
        assert registry.acquire(config(**own)) is first
        registry.release(first)
    finally:
        registry.release(first)


@pytest.mark.behaviour("SE-04")
def test_a_file_for_tls_that_cannot_be_read_makes_no_client_and_leaves_no_thread(registry: ClientRegistry) -> None:
    before = set(threading.enumerate())
    config = ClientConfig(namesrv_addr=NOWHERE, use_tls=True, tls_client_trust_cert_path="/nowhere/ca.pem")
    with pytest.raises(ConfigError, match=r"tls_client_trust_cert_path: cannot read certificates from /nowhere/ca.pem"):
        registry.acquire(config)
    assert set(threading.enumerate()) <= before


@pytest.mark.behaviour("CI-03")
def test_a_group_has_one_consumer_in_a_client_and_only_that_one_can_be_removed(client: MQClientInstance) -> None:
    first, second = Consumer("group"), Consumer("group")
    assert client.register_consumer(first) is True
    assert client.register_consumer(second) is False
    client.unregister_consumer(second)
    assert client.register_consumer(second) is False
    client.unregister_consumer(first)
    assert client.register_consumer(second) is True


@pytest.mark.behaviour("CI-03")
def test_a_group_has_one_producer_in_a_client(client: MQClientInstance) -> None:
    assert client.register_producer("group") is True
    assert client.register_producer("group") is False
    client.unregister_producer("group")
    client.unregister_producer("group")
    assert client.register_producer("group") is True


@pytest.mark.behaviour("CI-04")
def test_without_brokers_no_heartbeat_is_heard(client: MQClientInstance) -> None:
    assert client.send_heartbeat_to_all_brokers() is False
    client.register_consumer(Consumer("group"))
    assert client.send_heartbeat_to_all_brokers() is False


@pytest.mark.behaviour("CI-06")
@pytest.mark.parametrize(("error", "asked"), [(TransportError("nobody there"), 1), (BrokerError(1, "busy"), 3)])
def test_a_refresh_of_routes_ends_at_the_first_when_no_name_server_answers(
    registry: ClientRegistry, monkeypatch: pytest.MonkeyPatch, error: RocketMQError, asked: int
) -> None:
    topics: list[str] = []

    def fail(topic: str) -> bool:
        topics.append(topic)
        raise error

    config = ClientConfig(namesrv_addr=NOWHERE, instance_name="refresh", poll_name_server_interval=100_000)
    client = registry.acquire(config)
    try:
        client.register_producer("group")
        for topic in "abc":
            client.note_published_topic("group", topic)
        monkeypatch.setattr(client, "update_topic_route", fail)
        client._refresh_routes()
        assert topics == ["a", "b", "c"][:asked]
    finally:
        registry.release(client)


def test_a_refresh_of_routes_that_the_shutdown_cuts_off_is_no_warning(
    registry: ClientRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = ClientConfig(namesrv_addr=NOWHERE, instance_name="refresh", poll_name_server_interval=100_000)
    client = registry.acquire(config)
    client.register_producer("group")
    client.note_published_topic("group", "topic")

    def cut_off(topic: str) -> bool:
        registry.release(client)
        raise ConnectError("the client was shut down")

    monkeypatch.setattr(client, "update_topic_route", cut_off)
    client._refresh_routes()
    assert "cannot refresh" not in caplog.text


class _AlwaysBusy:
    """A lock that somebody else holds for longer than anybody waits."""

    def acquire(self, timeout_ms: int) -> bool:
        return False

    def release(self) -> None:
        raise RuntimeError("release unlocked lock")


class _BusyRuntime(ThreadRuntime):
    def lock(self) -> Lock:
        return _AlwaysBusy()


@pytest.mark.behaviour("CI-04")
def test_a_heartbeat_that_waited_in_vain_for_another_does_not_give_its_lock_back() -> None:
    client = MQClientInstance("10.0.0.1@unit", ClientConfig(namesrv_addr=NOWHERE), _BusyRuntime())
    try:
        assert client.send_heartbeat_to_all_brokers() is False
    finally:
        client.shutdown()


@pytest.mark.behaviour("CI-05")
def test_nobody_can_tell_the_members_of_a_group_without_a_name_server(client: MQClientInstance) -> None:
    assert client.find_consumer_id_list("topic", "group") is None


class _Timetable:
    """A scheduler that only notes what it is asked for."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[int, int], Callable[[], None]] = {}

    def schedule(self, delay_ms: int, job: Callable[[], None]) -> None: ...

    def schedule_at_fixed_rate(self, initial_delay_ms: int, period_ms: int, job: Callable[[], None]) -> None:
        self.jobs[initial_delay_ms, period_ms] = job

    def shutdown(self) -> None: ...


class _TimetableRuntime(ThreadRuntime):
    def __init__(self) -> None:
        super().__init__()
        self.timetable = _Timetable()

    def scheduler(self, name: str) -> Scheduler:
        return self.timetable if name == "MQClientFactoryScheduledThread" else super().scheduler(name)


@pytest.mark.behaviour("CI-08")
def test_routes_heartbeats_and_commits_have_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    runtime = _TimetableRuntime()
    config = ClientConfig(
        namesrv_addr=NOWHERE,
        poll_name_server_interval=31_000,
        heartbeat_broker_interval=32_000,
        persist_consumer_offset_interval=6_000,
    )
    client = MQClientInstance("10.0.0.1@unit", config, runtime)
    try:
        consumer = Consumer("group")
        monkeypatch.setattr(consumer, "persist_consumer_offset", lambda: done.append("commit"))
        monkeypatch.setattr(client, "update_topic_route", lambda topic: done.append(f"route of {topic}"))
        monkeypatch.setattr(client, "send_heartbeat_to_all_brokers", lambda: done.append("heartbeat"))
        client.register_consumer(consumer)
        client.register_producer("producers")
        client.note_published_topic("producers", "topic")
        for times in ((10, 31_000), (1_000, 32_000), (10_000, 6_000)):
            runtime.timetable.jobs[times]()
        assert done == ["route of topic", "heartbeat", "commit"]
    finally:
        client.shutdown()


@pytest.mark.behaviour("CI-08")
def test_their_times_are_those_of_java_by_default() -> None:
    config = ClientConfig(namesrv_addr=NOWHERE)
    assert config.poll_name_server_interval == config.heartbeat_broker_interval == 30_000
    assert config.persist_consumer_offset_interval == 5_000


@pytest.mark.behaviour("CI-09")
def test_slaves_hear_of_consumers_only_and_without_a_member_nobody_is_told(
    client: MQClientInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(client.broker, "heartbeat", lambda address, body: told.append(address))
    client.routes.update("topic", TopicRouteData((), (BrokerData("c", "broker-a", {0: "a:1", 1: "a:2"}),), None))
    assert client.send_heartbeat_to_all_brokers() is False
    assert told == []
    client.register_producer("producers")
    assert client.send_heartbeat_to_all_brokers() is True
    assert told == ["a:1"]
    client.register_consumer(Consumer("group"))
    client.send_heartbeat_to_all_brokers()
    assert told == ["a:1", "a:1", "a:2"]


@pytest.mark.behaviour("CI-10")
def test_a_notice_of_changed_members_wakes_the_rebalance_whichever_group_it_names_unless_that_still_joins(
    client: MQClientInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []
    consumer = Consumer("group")
    client.register_consumer(consumer)

    def notice(group: str) -> None:
        monkeypatch.setattr(client, "rebalance_immediately", lambda: woken.append(group))
        request = RemotingCommand(RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, ext_fields={"consumerGroup": group})
        assert client.processor.process("a:1", request, lambda answer: None)

    notice("group")
    notice("another")
    consumer.joined = False
    notice("group")
    assert woken == ["group", "another"]
