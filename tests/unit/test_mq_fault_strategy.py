from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.model.config import ProducerConfig
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting.mq_fault_strategy import MQFaultStrategy
from rocketmq_py.testing import ManualClock

QUEUES = [MessageQueue("topic", broker, number) for broker in ("a", "b", "c") for number in range(2)]


class Rig:
    """A strategy on a clock that the test moves."""

    def __init__(self, **settings: object) -> None:
        self.clock = ManualClock()
        self.config = ProducerConfig(**{"send_latency_fault_enable": True, **settings})  # type: ignore[arg-type]
        self.strategy = MQFaultStrategy(self.config, self.clock)
        self.turn = 0

    def brokers(self, sends: int = 12, last: str | None = None, queues: Sequence[MessageQueue] = QUEUES) -> set[str]:
        """Which brokers get these sends."""
        self.turn += sends
        turns = range(self.turn - sends, self.turn)
        return {self.strategy.select_one_message_queue(queues, turn, last).broker_name for turn in turns}


@pytest.mark.behaviour("PR-09")
def test_without_tolerance_queues_take_turns_and_failures_are_forgotten() -> None:
    rig = Rig(send_latency_fault_enable=False)
    rig.strategy.update_fault_item("a", 60_000, isolation=True, reachable=False)
    chosen = Counter(rig.strategy.select_one_message_queue(QUEUES, turn) for turn in range(12))
    assert chosen == dict.fromkeys(QUEUES, 2)


@pytest.mark.behaviour("PR-09")
@pytest.mark.parametrize("tolerant", [False, True])
def test_after_a_failure_another_broker_is_chosen_if_there_is_one(tolerant: bool) -> None:
    rig = Rig(send_latency_fault_enable=tolerant)
    assert rig.brokers(last="b") == {"a", "c"}
    assert rig.brokers(last="b", queues=QUEUES[2:4]) == {"b"}


@pytest.mark.behaviour("PR-10")
@pytest.mark.parametrize(
    ("latency_ms", "avoided_ms"),
    [(0, 0), (549, 0), (550, 2_000), (1_799, 2_000), (1_800, 5_000), (3_000, 6_000), (5_000, 10_000), (15_000, 30_000)],
)
def test_a_slow_broker_is_avoided_as_long_as_the_table_says(latency_ms: int, avoided_ms: int) -> None:
    rig = Rig()
    rig.strategy.update_fault_item("a", latency_ms, isolation=False)
    if avoided_ms:
        rig.clock.advance(avoided_ms - 1)
        assert rig.brokers() == {"b", "c"}
        rig.clock.advance(1)
    assert rig.brokers() == {"a", "b", "c"}


@pytest.mark.behaviour("PR-10")
def test_a_broker_that_failed_counts_as_if_it_had_taken_10_s() -> None:
    rig = Rig()
    rig.strategy.note_failure("a", 1)
    rig.clock.advance(9_999)
    assert rig.brokers() == {"b", "c"}
    rig.clock.advance(1)
    assert rig.brokers() == {"a", "b", "c"}


@pytest.mark.behaviour("PR-10")
def test_a_fast_answer_does_not_shorten_the_time_but_a_slower_one_lengthens_it() -> None:
    rig = Rig()
    rig.strategy.update_fault_item("a", 5_000, isolation=False)
    rig.strategy.update_fault_item("a", 1, isolation=False)
    rig.strategy.update_fault_item("a", 600, isolation=False)
    rig.clock.advance(9_999)
    assert rig.brokers() == {"b", "c"}
    rig.strategy.update_fault_item("a", 1_800, isolation=False)
    rig.clock.advance(4_999)
    assert rig.brokers() == {"b", "c"}
    rig.clock.advance(1)
    assert rig.brokers() == {"a", "b", "c"}


@pytest.mark.behaviour("PR-10")
def test_when_every_broker_is_avoided_the_reachable_ones_are_taken_and_else_any() -> None:
    rig = Rig(start_detector_enable=True)
    for broker in "abc":
        rig.strategy.note_failure(broker, 1)
    assert rig.brokers() == {"a", "b", "c"}
    rig.strategy.update_fault_item("b", 1, isolation=True)
    assert rig.brokers() == {"b"}


@pytest.mark.behaviour("PR-10")
def test_the_wall_clock_and_settings_changed_meanwhile() -> None:
    rig = Rig(latency_max=(10, 20), not_available_duration=(1, 100))
    rig.strategy.update_fault_item("a", 25, isolation=False)
    rig.clock.shift_wall(3_600_000)
    assert rig.brokers() == {"b", "c"}
    rig.config.send_latency_fault_enable = False
    assert rig.brokers() == {"a", "b", "c"}


@pytest.mark.behaviour("PR-11")
def test_without_a_detector_a_failed_broker_stays_reachable_because_nobody_would_find_it_again() -> None:
    rig = Rig()
    rig.strategy.note_failure("a", 1)
    assert rig.strategy.tolerance.is_reachable("a")
    rig.clock.advance(10_000)
    for broker in "bc":
        rig.strategy.note_failure(broker, 1)
    assert rig.brokers() == {"a"}


@pytest.mark.behaviour("PR-11")
def test_the_detector_finds_a_broker_again_and_forgets_one_that_is_gone() -> None:
    rig = Rig(start_detector_enable=True)
    tolerance = rig.strategy.tolerance
    for broker in "ab":
        rig.strategy.note_failure(broker, 1)
    asked: list[tuple[str, str]] = []
    alive: set[str] = set()

    def detect(name: str, address: str) -> bool:
        asked.append((name, address))
        return name in alive

    def resolve(name: str) -> str | None:
        return f"{name}:1" if name != "b" else None

    tolerance.detect_by_one_round(resolve, detect, 2_000)
    assert asked == [("a", "a:1")]
    assert (tolerance.is_reachable("a"), tolerance.is_reachable("b"), tolerance.is_available("b")) == (
        False,
        True,
        True,
    )
    alive.add("a")
    rig.clock.advance(1_999)
    tolerance.detect_by_one_round(resolve, detect, 2_000)
    assert not tolerance.is_reachable("a")
    rig.clock.advance(1)
    tolerance.detect_by_one_round(resolve, detect, 2_000)
    assert tolerance.is_reachable("a")
    assert len(asked) == 2


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20_000), st.booleans(), st.booleans()), max_size=20),
    st.sampled_from([None, "a", "b", "c"]),
    st.integers(0, 1_000),
)
def test_a_queue_is_always_found_and_never_an_avoided_one_while_another_will_do(
    reports: list[tuple[str, int, bool, bool]], last: str | None, turn: int
) -> None:
    rig = Rig()
    for broker, latency_ms, isolation, reachable in reports:
        rig.strategy.update_fault_item(broker, latency_ms, isolation, reachable)
        rig.clock.advance(100)
    tolerance = rig.strategy.tolerance
    chosen = rig.strategy.select_one_message_queue(QUEUES, turn, last).broker_name
    others = {"a", "b", "c"} - {last}
    best = {broker for broker in others if tolerance.is_available(broker)}
    second = {broker for broker in others if tolerance.is_reachable(broker)}
    assert chosen in (best or second or {"a", "b", "c"})
