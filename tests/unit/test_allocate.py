from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.consumer.allocate import (
    AllocateMachineRoomNearby,
    AllocateMessageQueueAveragely,
    AllocateMessageQueueAveragelyByCircle,
    AllocateMessageQueueByConfig,
    AllocateMessageQueueByMachineRoom,
    AllocateMessageQueueConsistentHash,
    AllocateMessageQueueStrategy,
)
from rocketmq_py.errors import ConfigError
from rocketmq_py.model.message_queue import MessageQueue
from tests.unit.support import GROUP, mq

averagely = AllocateMessageQueueAveragely()
by_circle = AllocateMessageQueueAveragelyByCircle()
by_hash = AllocateMessageQueueConsistentHash()


class RoomsInNames:
    """Rooms are what names have before the dash; who says otherwise is listed."""

    def __init__(self, **others: str) -> None:
        self._others = others

    def broker_deploy_in(self, message_queue: MessageQueue) -> str:
        return self._room(message_queue.broker_name)

    def consumer_deploy_in(self, client_id: str) -> str:
        return self._room(client_id)

    def _room(self, name: str) -> str:
        return self._others.get(name, name.split("-", maxsplit=1)[0])


nearby = AllocateMachineRoomNearby(averagely, RoomsInNames())

DIVIDING = [
    averagely,
    by_circle,
    by_hash,
    AllocateMessageQueueByMachineRoom({"broker"}),
    nearby,
    AllocateMachineRoomNearby(by_circle, RoomsInNames()),
]
"""Strategies that ask who is there."""


def named(strategy: AllocateMessageQueueStrategy) -> str:
    return strategy.get_name()


def cids(members: int) -> list[str]:
    return [f"CID-{number:02d}" for number in range(members)]


def shares(
    queues: int, members: int, strategy: AllocateMessageQueueStrategy = averagely, broker: str = "broker-a"
) -> list[list[int]]:
    mqs = [MessageQueue("topic", broker, number) for number in range(queues)]
    return [[found.queue_id for found in strategy.allocate(GROUP, cid, mqs, cids(members))] for cid in cids(members)]


def owners(
    strategy: AllocateMessageQueueStrategy, mqs: list[MessageQueue], members: list[str]
) -> dict[MessageQueue, str]:
    """Who has which queue; a queue with two owners is an error."""
    found: dict[MessageQueue, str] = {}
    for cid in members:
        for each in strategy.allocate(GROUP, cid, mqs, members):
            assert each not in found
            found[each] = cid
    return found


def as_java_computes_it(queues: int, members: int, index: int) -> list[int]:
    """AllocateMessageQueueAveragely.allocate, line by line."""
    rest = queues % members
    bigger = rest > 0 and index < rest
    average = 1 if queues <= members else queues // members + (1 if bigger else 0)
    start = index * average if bigger else index * average + rest
    return [(start + number) % queues for number in range(min(average, queues - start))]


@pytest.mark.behaviour("AL-01")
@pytest.mark.parametrize(
    ("queues", "members", "expected"),
    [
        (10, 4, [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]),
        (3, 4, [[0], [1], [2], []]),
        (7, 2, [[0, 1, 2, 3], [4, 5, 6]]),
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (1, 1, [[0]]),
    ],
)
def test_queues_are_divided_into_contiguous_blocks_the_bigger_ones_first(
    queues: int, members: int, expected: list[list[int]]
) -> None:
    assert shares(queues, members) == expected


@pytest.mark.behaviour("AL-01")
@given(queues=st.integers(1, 80), members=st.integers(1, 40))
def test_every_queue_has_exactly_one_owner_and_shares_differ_by_one_at_most(queues: int, members: int) -> None:
    parts = shares(queues, members)
    assert sorted(number for part in parts for number in part) == list(range(queues))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.behaviour("AL-01")
@given(queues=st.integers(1, 80), members=st.integers(1, 40))
def test_the_shares_are_those_of_java(queues: int, members: int) -> None:
    assert shares(queues, members) == [as_java_computes_it(queues, members, index) for index in range(members)]


@pytest.mark.behaviour("AL-02")
@pytest.mark.parametrize("strategy", DIVIDING, ids=named)
def test_a_client_that_is_no_member_gets_nothing(
    strategy: AllocateMessageQueueStrategy, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert strategy.allocate(GROUP, "CID-9", [mq(0)], ["CID-0", "CID-1"]) == []
    assert caplog.messages == ["[BUG] ConsumerGroup: group The consumerId: CID-9 not in cidAll: ['CID-0', 'CID-1']"]


@pytest.mark.behaviour("AL-02")
@pytest.mark.parametrize("strategy", DIVIDING, ids=named)
@pytest.mark.parametrize(
    ("cid", "mqs", "members", "text"),
    [
        ("", [mq(0)], ["CID-0"], "currentCID is empty"),
        ("CID-0", [], ["CID-0"], "mqAll is null or mqAll empty"),
        ("CID-0", [mq(0)], [], "cidAll is null or cidAll empty"),
    ],
)
def test_dividing_nothing_among_nobody_is_an_error(
    strategy: AllocateMessageQueueStrategy, cid: str, mqs: list[MessageQueue], members: list[str], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        strategy.allocate(GROUP, cid, mqs, members)


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (averagely, "AVG"),
        (by_circle, "AVG_BY_CIRCLE"),
        (AllocateMessageQueueByConfig(), "CONFIG"),
        (AllocateMessageQueueByMachineRoom([]), "MACHINE_ROOM"),
        (by_hash, "CONSISTENT_HASH"),
        (nearby, "MACHINE_ROOM_NEARBY-AVG"),
        (AllocateMachineRoomNearby(nearby, RoomsInNames()), "MACHINE_ROOM_NEARBY-MACHINE_ROOM_NEARBY-AVG"),
    ],
)
def test_strategies_are_named_as_brokers_know_them(strategy: AllocateMessageQueueStrategy, name: str) -> None:
    assert strategy.get_name() == name


@pytest.mark.behaviour("AL-03")
@pytest.mark.parametrize(
    ("queues", "members", "expected"),
    [
        (10, 4, [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]),
        (3, 4, [[0], [1], [2], []]),
        (8, 2, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (1, 1, [[0]]),
    ],
)
def test_by_circle_queues_are_dealt_out_one_by_one(queues: int, members: int, expected: list[list[int]]) -> None:
    assert shares(queues, members, by_circle) == expected


@pytest.mark.behaviour("AL-03")
@given(queues=st.integers(1, 80), members=st.integers(1, 40))
def test_by_circle_every_queue_has_exactly_one_owner_and_shares_differ_by_one_at_most(
    queues: int, members: int
) -> None:
    parts = shares(queues, members, by_circle)
    assert sorted(number for part in parts for number in part) == list(range(queues))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.behaviour("AL-04")
def test_by_config_the_list_is_the_answer_whoever_asks_and_whatever_there_is() -> None:
    queues = [mq(3), mq(1), mq(0, "other topic")]
    by_config = AllocateMessageQueueByConfig(queues)
    assert by_config.allocate(GROUP, "CID-9", [], []) is queues
    by_config.message_queue_list = [mq(2)]
    assert by_config.allocate(GROUP, "", [mq(0)], ["CID-0"]) == [mq(2)]


@pytest.mark.behaviour("AL-04")
def test_by_config_without_a_list_is_nothing() -> None:
    assert AllocateMessageQueueByConfig().allocate(GROUP, "CID-0", [mq(0)], ["CID-0"]) == []


@pytest.mark.behaviour("AL-05")
@pytest.mark.parametrize(
    ("queues", "members", "expected"),
    [
        (10, 4, [[0, 1, 8], [2, 3, 9], [4, 5], [6, 7]]),
        (3, 4, [[0], [1], [2], []]),
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
)
def test_by_machine_room_blocks_are_of_equal_size_and_the_rest_goes_one_by_one_to_the_first(
    queues: int, members: int, expected: list[list[int]]
) -> None:
    strategy = AllocateMessageQueueByMachineRoom(["room"])
    assert shares(queues, members, strategy, broker="room@broker") == expected


@pytest.mark.behaviour("AL-05")
@pytest.mark.parametrize(
    ("broker", "belongs"),
    [
        ("room@b", True),
        ("room@b@", True),
        ("room@b@@", True),
        ("other@b", False),
        ("room", False),
        ("room@", False),
        ("room@b@c", False),
        ("@room@b", False),
        ("@room", False),
        ("@", False),
        ("", False),
    ],
)
def test_by_machine_room_a_brokers_room_stands_before_the_one_at_sign_of_its_name(broker: str, belongs: bool) -> None:
    strategy = AllocateMessageQueueByMachineRoom({"room"})
    assert shares(1, 1, strategy, broker) == [[0] if belongs else []]


@pytest.mark.behaviour("AL-05")
def test_by_machine_room_a_broker_may_be_in_the_room_without_a_name() -> None:
    assert shares(1, 1, AllocateMessageQueueByMachineRoom({""}), "@b") == [[0]]


@pytest.mark.behaviour("AL-05")
@pytest.mark.parametrize("rooms", ["room", None, 7])
def test_by_machine_room_needs_a_collection_of_rooms(rooms: Any) -> None:
    with pytest.raises(ConfigError, match="consumeridcs is a collection of machine rooms"):
        AllocateMessageQueueByMachineRoom(rooms)


@pytest.mark.behaviour("AL-05")
@given(rooms=st.lists(st.sampled_from(["x@b", "y@b", "z@b", "b"]), min_size=1, max_size=60), members=st.integers(1, 20))
def test_by_machine_room_every_queue_of_the_rooms_has_exactly_one_owner_and_no_other_has_one(
    rooms: list[str], members: int
) -> None:
    mqs = sorted(MessageQueue("topic", broker, number) for number, broker in enumerate(rooms))
    found = owners(AllocateMessageQueueByMachineRoom({"x", "y"}), mqs, cids(members))
    assert sorted(found) == [each for each in mqs if each.broker_name in {"x@b", "y@b"}]


@pytest.mark.behaviour("AL-06")
def test_by_hash_queues_go_to_the_next_member_on_the_ring_as_in_java() -> None:
    mqs = [MessageQueue("topic_test", "brokerName", number) for number in range(6)]
    assert [
        [found.queue_id for found in by_hash.allocate(GROUP, cid, mqs, ["CID-0", "CID-1"])]
        for cid in ("CID-0", "CID-1")
    ] == [[1, 3, 4, 5], [0, 2]]


@pytest.mark.behaviour("AL-06")
def test_by_hash_a_queue_goes_to_the_first_place_at_or_behind_its_own_and_from_the_end_to_the_lowest() -> None:
    places = {"a-0": 10, "b-0": 20, str(mq(0)): 10, str(mq(1)): 11, str(mq(2)): 20, str(mq(3)): 21, str(mq(4)): 0}
    strategy = AllocateMessageQueueConsistentHash(1, places.__getitem__)
    mqs = [mq(number) for number in range(5)]
    assert strategy.allocate(GROUP, "a", mqs, ["a", "b"]) == [mq(0), mq(3), mq(4)]
    assert strategy.allocate(GROUP, "b", mqs, ["a", "b"]) == [mq(1), mq(2)]


@pytest.mark.behaviour("AL-06")
def test_by_hash_of_two_members_at_one_place_the_last_has_it() -> None:
    strategy = AllocateMessageQueueConsistentHash(3, lambda text: 7)
    assert owners(strategy, [mq(0), mq(1)], ["a", "b"]) == {mq(0): "b", mq(1): "b"}


@pytest.mark.behaviour("AL-06")
def test_by_hash_without_places_nobody_gets_anything_and_less_than_none_is_refused() -> None:
    assert owners(AllocateMessageQueueConsistentHash(0), [mq(0)], ["a", "b"]) == {}
    with pytest.raises(ConfigError, match="illegal virtualNodeCnt :-1"):
        AllocateMessageQueueConsistentHash(-1)


@pytest.mark.behaviour("AL-06")
@given(queues=st.integers(1, 40), members=st.integers(1, 20), places=st.integers(1, 30))
def test_by_hash_every_queue_has_exactly_one_owner(queues: int, members: int, places: int) -> None:
    mqs = [mq(number) for number in range(queues)]
    assert sorted(owners(AllocateMessageQueueConsistentHash(places), mqs, cids(members))) == mqs


@pytest.mark.behaviour("AL-07")
@given(queues=st.integers(1, 40), members=st.integers(2, 20), data=st.data())
def test_by_hash_a_member_that_comes_or_goes_moves_only_its_own_queues(
    queues: int, members: int, data: st.DataObject
) -> None:
    mqs = [mq(number) for number in range(queues)]
    everybody = cids(members)
    one = data.draw(st.sampled_from(everybody))
    with_it = owners(by_hash, mqs, everybody)
    without_it = owners(by_hash, mqs, [cid for cid in everybody if cid != one])
    assert {each for each in mqs if with_it[each] != without_it[each]} == {each for each in mqs if with_it[each] == one}


def in_rooms(*brokers: str) -> list[MessageQueue]:
    return [MessageQueue("topic", broker, number) for broker in brokers for number in range(4)]


@pytest.mark.behaviour("AL-08")
def test_nearby_queues_go_to_members_in_their_room_and_those_of_empty_rooms_to_all() -> None:
    members = ["x-1", "x-2", "y-1", "z-1"]
    found = owners(nearby, in_rooms("v-b", "w-b", "x-b", "y-b"), members)
    assert {each: found[each] for each in in_rooms("x-b")} == dict(
        zip(in_rooms("x-b"), ["x-1", "x-1", "x-2", "x-2"], strict=True)
    )
    assert {found[each] for each in in_rooms("y-b")} == {"y-1"}
    for nobodys in ("v-b", "w-b"):
        assert [found[each] for each in in_rooms(nobodys)] == members


@pytest.mark.behaviour("AL-08")
def test_nearby_the_own_rooms_queues_come_first_then_those_of_empty_rooms_sorted() -> None:
    got = nearby.allocate(GROUP, "x-1", in_rooms("c-b", "x-b", "a-b", "y-b"), ["x-1", "y-1"])
    assert [(each.broker_name, each.queue_id) for each in got] == [
        ("x-b", 0), ("x-b", 1), ("x-b", 2), ("x-b", 3), ("a-b", 0), ("a-b", 1), ("c-b", 0), ("c-b", 1),
    ]  # fmt: skip


@pytest.mark.behaviour("AL-08")
@given(
    brokers=st.lists(st.sampled_from(["u-b", "v-b", "w-b", "x-b"]), min_size=1, max_size=40),
    members=st.lists(
        st.sampled_from([f"{room}-{number}" for room in "uvwz" for number in range(4)]), min_size=1, unique=True
    ),
    inner=st.sampled_from([averagely, by_circle, by_hash]),
)
def test_nearby_every_queue_has_exactly_one_owner_and_a_near_one_where_there_is_one(
    brokers: list[str], members: list[str], inner: AllocateMessageQueueStrategy
) -> None:
    mqs = sorted(MessageQueue("topic", broker, number) for number, broker in enumerate(brokers))
    found = owners(AllocateMachineRoomNearby(inner, RoomsInNames()), mqs, sorted(members))
    assert sorted(found) == mqs
    rooms = {cid[0] for cid in members}
    for each, cid in found.items():
        assert cid[0] == each.broker_name[0] or each.broker_name[0] not in rooms


@pytest.mark.behaviour("AL-08")
@pytest.mark.parametrize(
    ("unknown", "text"),
    [
        ("broker-a", r"Machine room is null for mq MessageQueue \[topic=topic, brokerName=broker-a, queueId=0\]"),
        ("CID-1", "Machine room is null for consumer id CID-1"),
    ],
)
def test_nearby_a_queue_or_member_without_a_room_is_an_error_that_names_it(unknown: str, text: str) -> None:
    strategy = AllocateMachineRoomNearby(averagely, RoomsInNames(**{unknown: ""}))
    with pytest.raises(ValueError, match=text):
        strategy.allocate(GROUP, "CID-0", [mq(0)], ["CID-0", "CID-1"])


@pytest.mark.behaviour("AL-08")
def test_nearby_needs_a_strategy_and_somebody_who_knows_the_rooms() -> None:
    nothing: Any = None
    strangers: list[Any] = [object(), RoomsInNames, AllocateMessageQueueAveragely]
    for stranger in strangers:
        with pytest.raises(ConfigError, match="needs an object with the method allocate"):
            AllocateMachineRoomNearby(stranger, RoomsInNames())
        with pytest.raises(ConfigError, match="needs an object with the method broker_deploy_in"):
            AllocateMachineRoomNearby(AllocateMessageQueueAveragely(), stranger)
    with pytest.raises(ConfigError, match="allocateMessageQueueStrategy is null"):
        AllocateMachineRoomNearby(nothing, RoomsInNames())
    with pytest.raises(ConfigError, match="machineRoomResolver is null"):
        AllocateMachineRoomNearby(averagely, nothing)
