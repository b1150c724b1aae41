from __future__ import annotations

from collections.abc import Mapping

import pytest

from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.route import BrokerData, QueueData, TopicRouteData
from rocketmq_py.remoting.route_table import FoundBroker, RouteTable

READ, WRITE, BOTH = 4, 2, 6


def broker(name: str, addresses: Mapping[int, str]) -> BrokerData:
    return BrokerData("cluster", name, addresses)


def route(*queues: QueueData, brokers: Mapping[str, Mapping[int, str]], order: str | None = None) -> TopicRouteData:
    return TopicRouteData(queues, tuple(broker(name, addresses) for name, addresses in brokers.items()), order)


def queues(*found: tuple[str, int]) -> list[MessageQueue]:
    return [MessageQueue("topic", name, number) for name, number in found]


@pytest.fixture
def table() -> RouteTable:
    return RouteTable()


@pytest.mark.behaviour("RT-01")
def test_a_topic_without_a_route_has_no_queues_and_no_broker(table: RouteTable) -> None:
    assert table.knows("topic") is False
    assert table.subscribe_queues("topic") == []
    assert table.publish_queues("topic") == []
    assert table.random_broker_of("topic") is None
    assert table.find_broker("b") is None
    assert table.broker_addresses(masters_only=False) == []


@pytest.mark.behaviour("RT-01")
def test_queues_are_read_and_written_as_their_permission_allows(table: RouteTable) -> None:
    brokers = {name: {0: f"{name}:1"} for name in "abc"}
    table.update(
        "topic",
        route(QueueData("c", 2, 1, BOTH), QueueData("a", 2, 3, READ), QueueData("b", 1, 2, WRITE), brokers=brokers),
    )
    assert table.subscribe_queues("topic") == queues(("c", 0), ("c", 1), ("a", 0), ("a", 1))
    assert table.publish_queues("topic") == queues(("b", 0), ("b", 1), ("c", 0))


@pytest.mark.behaviour("RT-01")
def test_a_broker_without_a_master_can_be_read_and_not_written(table: RouteTable) -> None:
    table.update("topic", route(QueueData("a", 1, 1, BOTH), brokers={"a": {1: "a:2"}}))
    assert table.subscribe_queues("topic") == queues(("a", 0))
    assert table.publish_queues("topic") == []


@pytest.mark.behaviour("RT-01")
def test_an_order_configuration_replaces_the_queues_to_write_to(table: RouteTable) -> None:
    brokers = {"a": {0: "a:1"}}
    table.update("topic", route(QueueData("a", 4, 4, BOTH), brokers=brokers, order="a:2;b:1;nonsense;c:x;"))
    assert table.publish_queues("topic") == queues(("a", 0), ("a", 1), ("b", 0))
    assert len(table.subscribe_queues("topic")) == 4


@pytest.mark.behaviour("RT-02")
def test_only_a_route_that_differs_is_a_change(table: RouteTable) -> None:
    first = route(QueueData("a", 1, 1, BOTH), brokers={"a": {0: "a:1"}})
    assert table.update("topic", first) is True
    assert table.knows("topic") is True
    assert table.update("topic", route(QueueData("a", 1, 1, BOTH), brokers={"a": {0: "a:1"}})) is False
    assert table.update("topic", route(QueueData("a", 1, 1, BOTH), brokers={"a": {0: "a:2"}})) is True
    assert table.update("other", first) is True


@pytest.mark.behaviour("RT-02")
def test_a_broker_that_no_route_names_any_more_is_forgotten(table: RouteTable) -> None:
    table.update("topic", route(brokers={"a": {0: "a:1"}, "b": {0: "b:1"}}))
    table.update("other", route(brokers={"b": {0: "b:1", 1: "b:2"}}))
    table.update("topic", route(brokers={"a": {0: "a:9"}}))
    assert sorted(table.broker_addresses(masters_only=False)) == ["a:9", "b:1", "b:2"]
    table.update("other", route(brokers={}))
    assert table.find_broker("b") is None


@pytest.mark.behaviour("RT-03")
def test_of_two_routes_that_name_a_broker_the_newer_answer_counts_as_a_whole(table: RouteTable) -> None:
    table.update("topic", route(brokers={"a": {0: "a:1"}}))
    table.update("forgotten", route(brokers={"a": {0: "a:1", 1: "a:2"}}))
    table.update("topic", route(brokers={"a": {0: "a:9"}}))
    assert table.find_broker("a") == FoundBroker("a:9", False)
    assert table.broker_addresses(masters_only=False) == ["a:9"]


@pytest.mark.behaviour("RT-03")
@pytest.mark.parametrize(
    ("addresses", "broker_id", "only_this", "expected"),
    [
        ({0: "m", 1: "s"}, 0, False, FoundBroker("m", False)),
        ({0: "m", 1: "s"}, 1, False, FoundBroker("s", True)),
        ({0: "m", 2: "s"}, 1, False, FoundBroker("s", True)),
        ({0: "m"}, 1, False, FoundBroker("m", False)),
        ({0: "m"}, 1, True, None),
        ({1: "s"}, 0, False, FoundBroker("s", True)),
        ({1: "s"}, 0, True, None),
        ({0: "m", 1: "s"}, 0, True, FoundBroker("m", False)),
        ({0: "m", 3: "s"}, 1, False, FoundBroker("m", False)),
        ({}, 0, False, None),
    ],
)
def test_a_broker_is_found_by_its_id_else_by_the_next_else_any_of_its_name_unless_only_this_will_do(
    table: RouteTable, addresses: dict[int, str], broker_id: int, only_this: bool, expected: FoundBroker | None
) -> None:
    table.update("topic", route(brokers={"a": addresses}))
    assert table.find_broker("a", broker_id, only_this) == expected


@pytest.mark.behaviour("RT-03")
def test_any_broker_of_a_topic_is_a_master_where_there_is_one(table: RouteTable) -> None:
    table.update("topic", route(brokers={"a": {1: "slave", 0: "master"}, "gone": {}}))
    assert {table.random_broker_of("topic") for _ in range(20)} == {"master"}
    table.update("topic", route(brokers={"a": {1: "slave"}}))
    assert table.random_broker_of("topic") == "slave"
    table.update("topic", route(brokers={"gone": {}}))
    assert table.random_broker_of("topic") is None


@pytest.mark.behaviour("RT-03")
def test_a_topic_on_several_brokers_asks_them_all_in_time(table: RouteTable) -> None:
    table.update("topic", route(brokers={"a": {0: "a:1"}, "b": {0: "b:1"}}))
    assert {table.random_broker_of("topic") for _ in range(200)} == {"a:1", "b:1"}


@pytest.mark.behaviour("RT-03")
def test_every_address_is_listed_once_masters_alone_if_asked(table: RouteTable) -> None:
    table.update("topic", route(brokers={"a": {1: "a:2", 0: "a:1"}, "proxy": {0: "a:1"}}))
    assert table.broker_addresses(masters_only=False) == ["a:1", "a:2"]
    assert table.broker_addresses(masters_only=True) == ["a:1"]


@pytest.mark.behaviour("RT-04")
def test_a_proxy_is_known_by_its_address(table: RouteTable) -> None:
    assert table.is_proxy("a:1") is False
    table.note_proxy("a:1")
    assert table.is_proxy("a:1") is True
    assert table.is_proxy("a:2") is False
