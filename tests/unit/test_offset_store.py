from __future__ import annotations

import logging

import pytest

from rocketmq_py.consumer.offset_store import NO_OFFSET, OFFSET_UNKNOWN, ReadOffsetType, RemoteBrokerOffsetStore
from rocketmq_py.errors import BrokerError, RequestTimeoutError
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import FakeBroker, ManualClock
from tests.unit.support import GROUP, mq

MEMORY = ReadOffsetType.READ_FROM_MEMORY
STORE = ReadOffsetType.READ_FROM_STORE
MEMORY_FIRST = ReadOffsetType.MEMORY_FIRST_THEN_STORE


class Broker(FakeBroker):
    """Refuses the commits of the queues told."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[MessageQueue] = set()
        self.queries = 0
        self.waited_for: list[MessageQueue] = []

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        if mq in self.refused:
            raise RequestTimeoutError("no answer")
        super().update_consumer_offset(group, mq, offset)

    def commit_consumer_offset(self, group: str, mq: MessageQueue, offset: int, timeout_ms: int) -> None:
        assert timeout_ms == 1_000
        self.waited_for.append(mq)
        super().commit_consumer_offset(group, mq, offset, timeout_ms)

    def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
        self.queries += 1
        assert timeout_ms == 5_000
        return super().query_consumer_offset(group, mq, timeout_ms)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def store(broker: Broker) -> RemoteBrokerOffsetStore:
    return RemoteBrokerOffsetStore(GROUP, broker, RateLimitedLog(ManualClock(), logging.getLogger(__name__)))


@pytest.mark.behaviour("OS-01")
@pytest.mark.parametrize(("offset", "increase_only"), [(5, True), (5, False), (0, True), (-1, False)])
def test_the_first_offset_of_a_queue_is_noted_as_it_is(
    store: RemoteBrokerOffsetStore, offset: int, increase_only: bool
) -> None:
    store.update_offset(mq(), offset, increase_only)
    assert store.read_offset(mq(), MEMORY) == offset


@pytest.mark.behaviour("OS-01")
@pytest.mark.parametrize(
    ("offset", "increase_only", "expected"),
    [(11, True, 11), (10, True, 10), (9, True, 10), (0, True, 10), (11, False, 11), (9, False, 9), (0, False, 0)],
)
def test_an_offset_goes_back_only_when_it_may(
    store: RemoteBrokerOffsetStore, offset: int, increase_only: bool, expected: int
) -> None:
    store.update_offset(mq(), 10, increase_only=True)
    store.update_offset(mq(), offset, increase_only)
    assert store.read_offset(mq(), MEMORY) == expected


@pytest.mark.behaviour("OS-02")
@pytest.mark.parametrize("increase_only", [True, False])
def test_a_frozen_offset_is_not_changed_by_late_results(store: RemoteBrokerOffsetStore, increase_only: bool) -> None:
    store.update_offset(mq(), 10, increase_only=True)
    store.update_and_freeze_offset(mq(), 3)
    store.update_offset(mq(), 20, increase_only)
    assert store.read_offset(mq(), MEMORY) == 3


@pytest.mark.behaviour("OS-02")
def test_a_queue_without_an_offset_can_be_frozen_and_freezing_again_overwrites(store: RemoteBrokerOffsetStore) -> None:
    store.update_and_freeze_offset(mq(), 3)
    store.update_and_freeze_offset(mq(), 7)
    store.update_offset(mq(), 20, increase_only=True)
    assert store.read_offset(mq(), MEMORY) == 7


@pytest.mark.behaviour("OS-02")
def test_what_the_store_answers_does_not_thaw_a_frozen_offset(store: RemoteBrokerOffsetStore, broker: Broker) -> None:
    broker.offsets[GROUP, mq()] = 50
    store.update_and_freeze_offset(mq(), 3)
    assert store.read_offset(mq(), STORE) == 50
    assert store.read_offset(mq(), MEMORY) == 3


@pytest.mark.behaviour("OS-02", "OS-05")
def test_only_forgetting_a_queue_undoes_the_freeze(store: RemoteBrokerOffsetStore) -> None:
    store.update_and_freeze_offset(mq(), 3)
    store.remove_offset(mq())
    assert store.read_offset(mq(), MEMORY) == NO_OFFSET
    store.update_offset(mq(), 20, increase_only=True)
    assert store.read_offset(mq(), MEMORY) == 20


@pytest.mark.behaviour("OS-03")
def test_reading_memory_asks_nobody(store: RemoteBrokerOffsetStore, broker: Broker) -> None:
    broker.offsets[GROUP, mq()] = 50
    assert store.read_offset(mq(), MEMORY) == NO_OFFSET == -1
    assert broker.queries == 0


@pytest.mark.behaviour("OS-03")
def test_memory_first_asks_the_store_only_when_memory_knows_nothing(
    store: RemoteBrokerOffsetStore, broker: Broker
) -> None:
    broker.offsets[GROUP, mq()] = 50
    assert store.read_offset(mq(), MEMORY_FIRST) == 50
    store.update_offset(mq(), 60, increase_only=True)
    assert store.read_offset(mq(), MEMORY_FIRST) == 60
    assert broker.queries == 1


@pytest.mark.behaviour("OS-03")
def test_what_the_store_answers_is_noted_in_memory_even_if_it_is_less(
    store: RemoteBrokerOffsetStore, broker: Broker
) -> None:
    store.update_offset(mq(), 60, increase_only=True)
    broker.offsets[GROUP, mq()] = 50
    assert store.read_offset(mq(), STORE) == 50
    assert store.read_offset(mq(), MEMORY) == 50


@pytest.mark.behaviour("OS-03")
@pytest.mark.parametrize("kind", [STORE, MEMORY_FIRST])
def test_a_store_without_an_offset_says_so_and_memory_stays_empty(
    store: RemoteBrokerOffsetStore, kind: ReadOffsetType
) -> None:
    assert store.read_offset(mq(), kind) == NO_OFFSET
    assert store.clone_offset_table() == {}


@pytest.mark.behaviour("OS-03")
@pytest.mark.parametrize("error", [BrokerError(1, "system error"), RequestTimeoutError("no answer")])
def test_a_store_that_cannot_be_asked_is_something_else_than_no_offset(
    store: RemoteBrokerOffsetStore, broker: Broker, error: BrokerError | RequestTimeoutError
) -> None:
    broker.failing["query_consumer_offset"] = error
    store.update_offset(mq(), 60, increase_only=True)
    assert store.read_offset(mq(), STORE) == OFFSET_UNKNOWN == -2
    assert store.read_offset(mq(1), MEMORY_FIRST) == OFFSET_UNKNOWN
    assert store.clone_offset_table() == {mq(): 60}


@pytest.mark.behaviour("OS-03")
def test_an_offset_of_0_is_an_offset(store: RemoteBrokerOffsetStore, broker: Broker) -> None:
    broker.offsets[GROUP, mq()] = 0
    assert store.read_offset(mq(), STORE) == 0
    assert store.clone_offset_table() == {mq(): 0}


@pytest.mark.behaviour("OS-04")
def test_persisting_all_commits_what_is_owned_and_forgets_the_rest_uncommitted(
    store: RemoteBrokerOffsetStore, broker: Broker
) -> None:
    for number in range(3):
        store.update_offset(mq(number), 10 + number, increase_only=True)
    store.persist_all([mq(0), mq(2), mq(9)])
    assert broker.offsets == {(GROUP, mq(0)): 10, (GROUP, mq(2)): 12}
    assert store.clone_offset_table() == {mq(0): 10, mq(2): 12}


@pytest.mark.behaviour("OS-04")
def test_persisting_all_of_nothing_does_nothing(store: RemoteBrokerOffsetStore, broker: Broker) -> None:
    store.update_offset(mq(), 10, increase_only=True)
    store.persist_all([])
    assert broker.offsets == {}
    assert store.clone_offset_table() == {mq(): 10}


@pytest.mark.behaviour("OS-04")
def test_a_commit_that_fails_keeps_the_offset_and_does_not_stop_the_others(
    store: RemoteBrokerOffsetStore, broker: Broker
) -> None:
    for number in range(3):
        store.update_offset(mq(number), 10, increase_only=True)
    broker.refused = {mq(0)}
    store.persist_all([mq(number) for number in range(3)])
    assert set(broker.offsets) == {(GROUP, mq(1)), (GROUP, mq(2))}
    broker.refused = set()
    store.persist_all([mq(number) for number in range(3)])
    assert broker.offsets[GROUP, mq(0)] == 10


@pytest.mark.behaviour("OS-06")
def test_persisting_one_queue_commits_it_if_it_is_known(store: RemoteBrokerOffsetStore, broker: Broker) -> None:
    store.update_offset(mq(0), 10, increase_only=True)
    store.update_and_freeze_offset(mq(1), 20)
    store.update_offset(mq(2), 30, increase_only=True)
    for number in (0, 1, 9):
        store.persist(mq(number))
    assert broker.offsets == {(GROUP, mq(0)): 10, (GROUP, mq(1)): 20}


@pytest.mark.behaviour("OS-06")
def test_persisting_a_queue_never_raises(store: RemoteBrokerOffsetStore, broker: Broker) -> None:
    store.update_offset(mq(0), 10, increase_only=True)
    broker.refused = {mq(0)}
    store.persist(mq(0))
    assert store.read_offset(mq(0), MEMORY) == 10


@pytest.mark.behaviour("OS-05")
def test_the_table_can_be_copied_of_one_topic_or_of_all(store: RemoteBrokerOffsetStore) -> None:
    store.load()
    store.update_offset(mq(0), 10, increase_only=True)
    store.update_offset(mq(0, "elsewhere"), 20, increase_only=True)
    assert store.clone_offset_table() == {mq(0): 10, mq(0, "elsewhere"): 20}
    copy = store.clone_offset_table("elsewhere")
    assert copy == {mq(0, "elsewhere"): 20}
    copy.clear()
    store.remove_offset(mq(7))
    assert len(store.clone_offset_table()) == 2


@pytest.mark.behaviour("OS-04")
def test_a_queue_given_up_while_others_are_committed_is_not_committed_any_more() -> None:
    committed: list[tuple[MessageQueue, int]] = []

    class GivesTheOtherUp(FakeBroker):
        def update_consumer_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
            committed.append((queue, offset))
            mine.remove_offset(mq(1))

    mine = RemoteBrokerOffsetStore(GROUP, GivesTheOtherUp(), RateLimitedLog(ManualClock(), logging.getLogger("test")))
    mine.update_offset(mq(0), 5, increase_only=True)
    mine.update_offset(mq(1), 7, increase_only=True)
    mine.persist_all([mq(0), mq(1)])
    assert committed == [(mq(0), 5)]


@pytest.mark.behaviour("OS-07")
def test_the_last_commits_are_waited_for_and_queues_without_an_offset_left_out(
    broker: Broker, store: RemoteBrokerOffsetStore
) -> None:
    store.update_offset(mq(0), 10, increase_only=True)
    store.update_offset(mq(1), 0, increase_only=True)
    store.persist_at_shutdown([mq(0), mq(1), mq(2)])
    assert broker.waited_for == [mq(0), mq(1)]
    assert broker.offsets == {(GROUP, mq(0)): 10, (GROUP, mq(1)): 0}


@pytest.mark.behaviour("OS-07")
def test_a_broker_that_does_not_answer_a_last_commit_is_waited_for_once_and_told_all_the_same(
    broker: Broker, store: RemoteBrokerOffsetStore
) -> None:
    broker.failing["commit_consumer_offset"] = RequestTimeoutError("no answer")
    other = MessageQueue("topic", "broker-b", 0)
    for queue in (mq(0), mq(1), other):
        store.update_offset(queue, 10, increase_only=True)
    broker.refused.add(mq(1))
    store.persist_at_shutdown([mq(0), mq(1), other])
    assert broker.waited_for == [mq(0), other]
    assert broker.offsets == {(GROUP, mq(0)): 10, (GROUP, other): 10}
