from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.consumer.allocate import AllocateMessageQueueAveragely
from rocketmq_py.model.message_queue import MessageQueue
from tests.unit.support import GROUP, mq

averagely = AllocateMessageQueueAveragely()


def shares(queues: int, members: int) -> list[list[int]]:
    cids = [f"CID-{number:02d}" for number in range(members)]
    mqs = [mq(number) for number in range(queues)]
    return [[found.queue_id for found in averagely.allocate(GROUP, cid, mqs, cids)] for cid in cids]


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
def test_a_client_that_is_no_member_gets_nothing() -> None:
    assert averagely.allocate(GROUP, "CID-9", [mq(0)], ["CID-0", "CID-1"]) == []


@pytest.mark.behaviour("AL-02")
@pytest.mark.parametrize(
    ("cid", "mqs", "cids", "text"),
    [
        ("", [mq(0)], ["CID-0"], "currentCID is empty"),
        ("CID-0", [], ["CID-0"], "mqAll is null or mqAll empty"),
        ("CID-0", [mq(0)], [], "cidAll is null or cidAll empty"),
    ],
)
def test_dividing_nothing_among_nobody_is_an_error(
    cid: str, mqs: list[MessageQueue], cids: list[str], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        averagely.allocate(GROUP, cid, mqs, cids)


@pytest.mark.behaviour("AL-01")
def test_the_strategy_is_named_as_brokers_know_it() -> None:
    assert averagely.get_name() == "AVG"
