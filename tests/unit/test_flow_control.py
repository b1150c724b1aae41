from __future__ import annotations

import pytest

from rocketmq_py.consumer.flow_control import MIB, Limit, exceeded_limit
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.testing import ManualClock
from tests.unit.support import message, messages

CONFIG = ConsumerConfig(pull_threshold_for_queue=10, pull_threshold_size_for_queue=2, consume_concurrently_max_span=100)


def window(*offsets: int, size: int = 0) -> ProcessQueue:
    queue = ProcessQueue(ManualClock())
    queue.put_message([message(offsets[0], size), *messages(*offsets[1:], size=0)])
    return queue


@pytest.mark.behaviour("FC-01")
def test_a_window_at_the_count_limit_is_pulled_and_one_above_is_not() -> None:
    assert exceeded_limit(window(*range(10)), CONFIG) is None
    assert exceeded_limit(window(*range(11)), CONFIG) == (Limit.COUNT, 11, 10)


@pytest.mark.behaviour("FC-02")
@pytest.mark.parametrize(
    ("size", "exceeded"),
    [(2 * MIB, None), (3 * MIB - 1, None), (3 * MIB, (Limit.SIZE, 3, 2)), (4 * MIB, (Limit.SIZE, 4, 2))],
)
def test_sizes_are_compared_in_whole_mib(size: int, exceeded: object) -> None:
    assert exceeded_limit(window(0, size=size), CONFIG) == exceeded


@pytest.mark.behaviour("FC-03")
def test_a_window_may_span_the_limit_but_not_more() -> None:
    assert exceeded_limit(window(7, 107), CONFIG) is None
    assert exceeded_limit(window(7, 108), CONFIG) == (Limit.SPAN, 101, 100)


@pytest.mark.behaviour("FC-01", "FC-02", "FC-03")
def test_the_limits_are_looked_at_in_the_order_count_size_span() -> None:
    everything = window(*range(10), 500, size=3 * MIB)
    assert exceeded_limit(everything, CONFIG) == (Limit.COUNT, 11, 10)
    everything.remove_message(messages(1, size=0))
    assert exceeded_limit(everything, CONFIG) == (Limit.SIZE, 3, 2)
    everything.remove_message([message(0, MIB)])
    assert exceeded_limit(everything, CONFIG) == (Limit.SPAN, 498, 100)
    everything.remove_message(messages(500, size=0))
    assert exceeded_limit(everything, CONFIG) is None


@pytest.mark.behaviour("FC-01", "FC-02", "FC-03")
def test_an_empty_window_is_pulled() -> None:
    assert exceeded_limit(ProcessQueue(ManualClock()), ConsumerConfig()) is None
