"""The broker's locks, and how queues of orderly consumers are gained and given up."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from rocketmq_py.consumer.message_puller import PullRequest
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.stats import Event
from rocketmq_py.errors import ConnectError, RequestTimeoutError
from rocketmq_py.model.config import MessageModel
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeOrderlyContext, ConsumeOrderlyStatus, Messages
from rocketmq_py.model.subscription import build_subscription_data
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP, ME, OTHER, TOPIC, Core, messages, mq


class Broker(FakeBroker):
    """Notes lock requests and what was done in which order."""

    def __init__(self) -> None:
        super().__init__(ME)
        self.lock_requests: list[tuple[str, list[MessageQueue]]] = []
        self.done: list[str] = []

    def lock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
    ) -> set[MessageQueue]:
        assert timeout_ms == 1_000
        self.lock_requests.append((broker_name, sorted(mqs)))
        return super().lock_batch_mq(group, client_id, broker_name, mqs, timeout_ms)

    def unlock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int, oneway: bool
    ) -> None:
        super().unlock_batch_mq(group, client_id, broker_name, mqs, timeout_ms, oneway)
        self.done.append(f"unlock {sorted(mq.queue_id for mq in mqs)}{' oneway' if oneway else ''}")

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        super().update_consumer_offset(group, mq, offset)
        self.done.append(f"commit {mq.queue_id} {offset}")


def orderly(queues: int = 2, **settings: object) -> tuple[Core, Broker]:
    def listen(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        return ConsumeOrderlyStatus.SUCCESS

    broker = Broker()
    return Core(orderly=listen, broker=broker, queues=queues, **settings), broker  # type: ignore[arg-type]


def locks(core: Core) -> dict[MessageQueue, bool]:
    return {queue: window.holds_lock for queue, window in core.windows.items()}


def lock_all(core: Core) -> None:
    assert core.rebalance.locks is not None
    core.rebalance.locks.lock_all()


# Gaining queues.


@pytest.mark.behaviour("RB-16")
def test_a_queue_is_taken_only_with_its_lock_and_asked_for_again_soon() -> None:
    core, broker = orderly()
    broker.locks[GROUP, mq(0)] = OTHER
    assert core.rebalance.do_rebalance() is False
    assert set(core.windows) == {mq(1)}
    assert broker.rebalances_asked == 1
    del broker.locks[GROUP, mq(0)]
    assert core.rebalance.do_rebalance() is True
    assert locks(core) == {mq(0): True, mq(1): True}


@pytest.mark.behaviour("RB-16")
def test_locks_that_come_when_the_consumer_has_ended_are_given_back() -> None:
    class Late(Broker):
        def lock_batch_mq(
            self,
            group: str,
            client_id: str,
            broker_name: str,
            mqs: Collection[MessageQueue],
            timeout_ms: int,
        ) -> set[MessageQueue]:
            granted = super().lock_batch_mq(group, client_id, broker_name, mqs, timeout_ms)
            assert core.rebalance.destroy() == []
            return granted

    core = Core(
        orderly=lambda msgs, context: ConsumeOrderlyStatus.SUCCESS,
        broker=(broker := Late()),
        queues=2,
    )
    core.rebalance.do_rebalance()
    assert core.windows == {}
    assert broker.locks == {}
    assert broker.done == ["unlock [0, 1] oneway"]


@pytest.mark.behaviour("RB-16")
def test_queues_gained_are_locked_before_their_offsets_are_asked_for_in_one_request_per_broker() -> None:
    core, broker = orderly(queues=0)
    other = MessageQueue(TOPIC, "broker-b", 0)
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(0), mq(1), other])
    broker.failing["query_consumer_offset"] = ConnectError("down")
    assert core.rebalance.do_rebalance() is False
    assert broker.lock_requests == [("broker-a", [mq(0), mq(1)]), ("broker-b", [other])]
    assert core.windows == {}


@pytest.mark.behaviour("RB-16")
def test_a_broker_that_gives_no_lock_does_not_keep_the_queues_of_others() -> None:
    class OneBrokerDown(Broker):
        def lock_batch_mq(
            self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
        ) -> set[MessageQueue]:
            if broker_name == "broker-a":
                raise RequestTimeoutError("no answer")
            return super().lock_batch_mq(group, client_id, broker_name, mqs, timeout_ms)

    core, _ = orderly()
    other = MessageQueue(TOPIC, "broker-b", 0)
    core = Core(orderly=lambda msgs, context: None, broker=OneBrokerDown())
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(0), other])
    assert core.rebalance.do_rebalance() is False
    assert set(core.windows) == {other}


@pytest.mark.behaviour("QL-01")
def test_a_concurrent_or_broadcasting_consumer_locks_nothing() -> None:
    broker = Broker()
    Core(broker=broker).begin()
    core, other = orderly(message_model=MessageModel.BROADCASTING)
    core.begin()
    assert broker.lock_requests == other.lock_requests == []
    assert len(core.windows) == 2


# Renewing.


@pytest.mark.behaviour("QL-01")
def test_renewing_asks_for_every_queue_owned_once_per_broker_but_not_for_those_being_given_away() -> None:
    core, broker = orderly(queues=3)
    core.begin()
    broker.lock_requests.clear()
    core.windows[mq(1)].dropped = True
    lock_all(core)
    assert broker.lock_requests == [("broker-a", [mq(0), mq(2)])]


@pytest.mark.behaviour("QL-02")
def test_a_lock_that_another_member_holds_counts_as_lost_at_once() -> None:
    core, broker = orderly()
    core.begin()
    broker.locks[GROUP, mq(0)] = OTHER
    lock_all(core)
    assert locks(core) == {mq(0): False, mq(1): True}


@pytest.mark.behaviour("QL-03")
def test_a_broker_that_does_not_answer_changes_nothing_and_its_locks_run_out_after_30_s() -> None:
    core, broker = orderly()
    core.begin()
    broker.failing["lock_batch_mq"] = RequestTimeoutError("no answer")
    core.clock.advance(29_500)  # half a second went by at the start
    lock_all(core)
    assert locks(core) == {mq(0): True, mq(1): True}
    core.clock.advance(1)
    assert locks(core) == {mq(0): False, mq(1): False}


@pytest.mark.behaviour("QL-03")
def test_a_machine_that_was_suspended_does_not_believe_in_its_locks() -> None:
    core, _ = orderly()
    core.begin()
    core.clock.suspend(31_000)
    assert locks(core) == {mq(0): False, mq(1): False}
    assert not core.windows[mq(0)].is_pull_expired
    lock_all(core)
    assert locks(core) == {mq(0): True, mq(1): True}


@pytest.mark.behaviour("QL-03")
def test_a_locks_time_runs_from_before_it_was_asked_for() -> None:
    class Slow(Broker):
        def lock_batch_mq(
            self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
        ) -> set[MessageQueue]:
            core.clock.advance(900)
            return super().lock_batch_mq(group, client_id, broker_name, mqs, timeout_ms)

    core = Core(orderly=lambda msgs, context: None, broker=Slow())
    began = core.clock.monotonic_ms()
    core.rebalance.do_rebalance()
    assert core.windows[mq(0)].last_lock_timestamp == began
    core.clock.advance(10_000)
    asked = core.clock.monotonic_ms()
    lock_all(core)
    assert core.windows[mq(0)].last_lock_timestamp == asked


@pytest.mark.behaviour("QL-03")
def test_an_answer_that_comes_late_does_not_set_a_newer_lock_back() -> None:
    queue = ProcessQueue()
    now = queue.last_lock_timestamp
    queue.note_locked(now + 500)
    queue.note_locked(now + 100)
    assert queue.last_lock_timestamp == now + 500


def run_out(core: Core) -> None:
    core.clock.advance(31_000)
    assert set(locks(core).values()) == {False}


@pytest.mark.behaviour("QL-04")
@pytest.mark.parametrize(("here", "stored"), [(5, None), (5, 5), (5, 3)])
def test_a_lock_that_comes_back_goes_on_where_nobody_else_went_further(here: int, stored: int | None) -> None:
    core, broker = orderly(queues=1)
    core.begin()
    old = core.windows[mq(0)]
    core.store.update_offset(mq(0), here, increase_only=False)
    run_out(core)
    broker.offsets.pop((GROUP, mq(0)), None)
    if stored is not None:
        broker.offsets[GROUP, mq(0)] = stored
    lock_all(core)
    assert locks(core) == {mq(0): True}
    assert core.windows[mq(0)] is old


@pytest.mark.behaviour("QL-04")
def test_a_lock_that_comes_back_after_another_member_went_further_begins_anew_and_commits_nothing_old() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    old = core.windows[mq(0)]
    core.store.update_offset(mq(0), 5, increase_only=False)
    run_out(core)
    broker.offsets[GROUP, mq(0)] = 9
    asked = broker.rebalances_asked
    lock_all(core)
    assert old.dropped
    assert core.windows == {}
    assert broker.rebalances_asked == asked + 1
    assert broker.done == []
    core.begin()
    assert broker.pulls[-1].offset == 9


@pytest.mark.behaviour("QL-04")
def test_a_lock_that_comes_back_is_not_held_while_the_offset_cannot_be_asked_for() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    run_out(core)
    broker.failing["query_consumer_offset"] = ConnectError("down")
    lock_all(core)
    assert locks(core) == {mq(0): False}
    broker.failing.clear()
    lock_all(core)
    assert locks(core) == {mq(0): True}


@pytest.mark.behaviour("QL-04")
def test_a_broker_that_locks_but_does_not_tell_offsets_is_asked_once_per_round() -> None:
    asked: list[MessageQueue] = []

    class Silent(Broker):
        def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
            if core.windows:
                asked.append(mq)
                raise RequestTimeoutError("no answer")
            return super().query_consumer_offset(group, mq, timeout_ms)

    core = Core(orderly=lambda msgs, context: ConsumeOrderlyStatus.SUCCESS, broker=Silent(), queues=1)
    core.begin()
    window = core.windows[mq(0)]
    assert core.rebalance.locks is not None
    others = {mq(number): ProcessQueue(core.clock) for number in (1, 2)}
    run_out(core)
    others[mq(2)].note_locked(core.clock.monotonic_ms())
    asked.clear()
    assert core.rebalance.locks.lock({mq(0): window, **others}) == {mq(2)}
    assert asked == [mq(0)]


@pytest.mark.behaviour("QL-04")
def test_while_a_lock_has_run_out_nothing_of_its_queue_is_committed_and_nothing_forgotten() -> None:
    core, _ = orderly(queues=1)
    core.begin()
    core.store.update_offset(mq(0), 5, increase_only=False)
    run_out(core)
    assert core.committed(mq(0)) is None
    lock_all(core)
    assert core.committed(mq(0)) == 5


@pytest.mark.behaviour("PL-08", "QL-04")
def test_an_offset_that_the_broker_does_not_have_is_mended_under_the_lock_only() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    request = PullRequest(mq(0), core.windows[mq(0)], 7)
    run_out(core)
    core.rebalance.correct_offset(request)
    assert broker.done == ["unlock [0] oneway"]
    assert core.windows == {}
    core.begin()
    core.rebalance.correct_offset(PullRequest(mq(0), core.windows[mq(0)], 7))
    assert broker.done[1:] == ["commit 0 7", "commit 0 7", "unlock [0] oneway"]


@pytest.mark.behaviour("PL-08", "OS-02")
def test_a_result_that_comes_while_an_offset_is_mended_changes_nothing() -> None:
    class Late(Broker):
        def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
            super().update_consumer_offset(group, mq, offset)
            core.store.update_offset(mq, 50, increase_only=True)

    core = Core(broker=(broker := Late()))
    core.begin()
    core.rebalance.correct_offset(PullRequest(mq(0), core.windows[mq(0)], 7))
    assert broker.done == ["commit 0 7", "commit 0 7"]


# Giving queues up.


@pytest.mark.behaviour("RB-14")
def test_a_queue_lost_is_committed_before_it_is_unlocked() -> None:
    core, broker = orderly()
    core.join([ME, OTHER])
    core.begin()
    core.store.update_offset(mq(0), 5, increase_only=False)
    broker.members[GROUP] = ["127.0.0.1@aaa", ME, OTHER]
    core.rebalance.do_rebalance()
    assert broker.done[:2] == ["commit 0 5", "unlock [0] oneway"]


def being_consumed(core: Core, queue: MessageQueue) -> ProcessQueue:
    """As if a listener had messages of the queue."""
    window = core.windows[queue]
    assert window.consume_lock.acquire(0)
    return window


@pytest.mark.behaviour("RB-14")
def test_a_queue_lost_while_its_listener_is_at_work_is_given_up_once_that_has_ended() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    core.store.update_offset(mq(0), 5, increase_only=False)
    window = being_consumed(core, mq(0))
    broker.members[GROUP] = [OTHER]
    assert core.rebalance.do_rebalance() is False
    assert window.dropped
    assert window.try_unlock_times == 1
    assert (set(core.windows), broker.done) == ({mq(0)}, [])
    window.consume_lock.release()
    core.rebalance.do_rebalance()
    assert (core.windows, broker.done) == ({}, ["commit 0 5", "unlock [0] oneway"])


@pytest.mark.behaviour("RB-14", "RB-15")
def test_giving_up_waits_half_a_second_for_the_listener_and_not_at_all_once_it_is_overdue() -> None:
    waited: list[int] = []

    class Busy:
        def acquire(self, timeout_ms: int) -> bool:
            waited.append(timeout_ms)
            return False

        def release(self) -> None: ...

    core, broker = orderly(queues=1)
    core.begin()
    core.windows[mq(0)].consume_lock = Busy()
    broker.members[GROUP] = [OTHER]
    core.rebalance.do_rebalance()
    core.runtime.advance(20_001)
    core.rebalance.do_rebalance()
    assert waited == [500, 0]


@pytest.mark.behaviour("RB-14")
@pytest.mark.parametrize(("takes_ms", "committed"), [(5_000, ["commit 0 1"]), (25_000, [])])
def test_what_the_listener_finishes_while_its_queue_is_being_given_up_is_committed_unless_it_was_forced(
    takes_ms: int, committed: list[str]
) -> None:
    def listen(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        broker.members[GROUP] = [OTHER]
        core.rebalance.do_rebalance()
        core.clock.advance(takes_ms)
        core.rebalance.do_rebalance()
        return ConsumeOrderlyStatus.SUCCESS

    broker = Broker()
    core = Core(orderly=listen, broker=broker)
    broker.store(mq(), b"a", b"b")
    core.begin()
    broker.answer_pulls()
    core.rebalance.do_rebalance()
    assert core.windows == {}
    assert [each for each in broker.done if each.startswith("commit")] == committed


@pytest.mark.behaviour("RB-14")
def test_a_queue_that_could_not_be_given_up_and_is_to_be_owned_again_is_given_up_first() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    window = being_consumed(core, mq(0))
    broker.members[GROUP] = [OTHER]
    core.rebalance.do_rebalance()
    broker.members[GROUP] = [ME]
    assert core.rebalance.do_rebalance() is False
    assert core.windows == {mq(0): window}
    window.consume_lock.release()
    assert core.rebalance.do_rebalance() is True
    assert core.windows[mq(0)] is not window
    assert not core.windows[mq(0)].dropped


@pytest.mark.behaviour("RB-15")
def test_20_s_after_the_last_renewal_a_queue_is_given_up_although_its_listener_is_at_work_but_not_unlocked() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    core.store.update_offset(mq(0), 5, increase_only=False)
    being_consumed(core, mq(0))
    broker.members[GROUP] = [OTHER]
    core.clock.advance(19_500)  # half a second went by at the start
    core.rebalance.do_rebalance()
    assert set(core.windows) == {mq(0)}
    core.clock.advance(1)
    core.rebalance.do_rebalance()
    assert core.windows == {}
    assert broker.done == ["commit 0 5"]
    assert broker.locks == {(GROUP, mq(0)): ME}  # until the broker's lease ends


@pytest.mark.behaviour("RB-15")
def test_a_queue_given_up_after_its_lock_ran_out_commits_nothing() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    core.store.update_offset(mq(0), 5, increase_only=False)
    run_out(core)
    broker.members[GROUP] = [OTHER]
    core.rebalance.do_rebalance()
    assert core.windows == {}
    assert broker.done == ["unlock [0] oneway"]


@pytest.mark.behaviour("RB-14")
def test_queues_of_an_orderly_topic_no_longer_subscribed_are_unlocked_too() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    core.store.update_offset(mq(0), 5, increase_only=False)
    window = being_consumed(core, mq(0))
    core.rebalance.unsubscribe(TOPIC)
    core.rebalance.do_rebalance()
    assert broker.done == []
    window.consume_lock.release()
    core.rebalance.do_rebalance()
    assert broker.done == ["commit 0 5", "unlock [0] oneway"]


@pytest.mark.behaviour("QL-05")
def test_at_the_end_locks_are_given_back_but_for_queues_whose_listener_is_at_work() -> None:
    core, broker = orderly(queues=2)
    core.begin()
    being_consumed(core, mq(1))
    owned = core.rebalance.windows()
    core.rebalance.destroy()
    core.rebalance.unlock_idle(owned)
    assert broker.done == ["unlock [0]"]


@pytest.mark.behaviour("QL-05")
def test_a_broker_that_does_not_take_locks_back_costs_nothing() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    broker.failing["unlock_batch_mq"] = ConnectError("down")
    broker.members[GROUP] = [OTHER]
    core.rebalance.do_rebalance()
    assert core.windows == {}


# Broadcasting.


@pytest.mark.behaviour("RB-17")
def test_a_broadcasting_consumer_takes_every_queue_whoever_else_is_there_and_pulls_at_once() -> None:
    core = Core(queues=3, message_model=MessageModel.BROADCASTING)
    core.broker.members[GROUP] = [OTHER]
    assert core.rebalance.do_rebalance() is True
    core.runtime.advance(0)
    assert [call.mq for call in core.broker.pulls] == [mq(0), mq(1), mq(2)]


@pytest.mark.behaviour("RB-17")
def test_a_broadcasting_consumer_gives_up_queues_that_are_gone_and_takes_new_ones() -> None:
    core = Core(queues=2, message_model=MessageModel.BROADCASTING)
    core.begin()
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(1), mq(2)])
    assert core.rebalance.do_rebalance() is True
    assert set(core.windows) == {mq(1), mq(2)}


@pytest.mark.behaviour("CC-16")
def test_what_fails_in_broadcasting_is_passed_over_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    core = Core(lambda msgs, context: None, message_model=MessageModel.BROADCASTING)
    core.broker.store(mq(), b"a", b"b")
    core.begin()
    core.broker.answer_pulls()
    assert core.committed(mq()) == 2
    assert (core.broker.sent_back, core.broker.retry_messages) == ([], [])
    assert core.counters.snapshot()[Event.BROADCAST_DROPPED] == 2
    assert "broadcasting consumers do not retry" in caplog.text
    assert "returned None instead of a ConsumeConcurrentlyStatus" in caplog.text
    assert "again later" not in caplog.text


@pytest.mark.behaviour("CC-16")
def test_what_expires_in_broadcasting_is_passed_over_and_not_sent_to_a_topic_that_nobody_reads() -> None:
    core = Core(message_model=MessageModel.BROADCASTING)
    core.begin()
    msgs = messages(0)
    core.windows[mq()].put_message(msgs)
    core.windows[mq()].begin_consume(msgs)
    core.clock.advance(15 * 60_000 + 1)
    core.service.clean_expired_messages()
    assert core.windows[mq()].msg_count == 0
    assert core.broker.sent_back == []


# Telling the user.


@pytest.mark.behaviour("RB-18")
def test_the_message_queue_listener_is_told_all_and_own_queues_when_they_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[tuple[str, frozenset[MessageQueue], frozenset[MessageQueue]]] = []

    def listener(topic: str, known: frozenset[MessageQueue], mine: frozenset[MessageQueue]) -> None:
        told.append((topic, known, mine))
        raise ValueError("mine")

    core = Core(queues=2, message_queue_listener=listener)
    core.join([ME, OTHER])
    assert core.rebalance.do_rebalance() is True
    core.rebalance.do_rebalance()
    assert told == [(TOPIC, frozenset({mq(0), mq(1)}), frozenset({mq(0)}))]
    assert "the message queue listener failed" in caplog.text


@pytest.mark.behaviour("RB-06")
def test_a_subscription_made_again_takes_its_queues_again() -> None:
    core, broker = orderly(queues=1)
    core.begin()
    core.rebalance.unsubscribe(TOPIC)
    core.rebalance.do_rebalance()
    core.rebalance.subscribe(build_subscription_data(TOPIC, "*", 2))
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(0)])
    assert core.rebalance.do_rebalance() is True
    assert locks(core) == {mq(0): True}
    assert broker.locks == {(GROUP, mq(0)): ME}
