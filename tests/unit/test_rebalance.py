from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from rocketmq_py.consumer.stats import Event
from rocketmq_py.errors import ConnectError, RequestTimeoutError
from rocketmq_py.model.config import ConsumeFromWhere
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages, PullStatus
from rocketmq_py.model.subscription import SubscriptionData, build_subscription_data
from rocketmq_py.testing import FakeBroker
from tests.unit.support import GROUP, ME, OTHER, RETRY_TOPIC, SUCCESS, TOPIC, Core, messages, mq


class Broker(FakeBroker):
    """Does what the test says while a heartbeat is being sent, and notes which queues' commits came."""

    def __init__(self) -> None:
        super().__init__(ME)
        self.during_heartbeat: Callable[[], object] = lambda: None
        self.commits: list[tuple[MessageQueue, int]] = []

    def send_heartbeat_to_all_brokers(self) -> bool:
        self.during_heartbeat()
        return super().send_heartbeat_to_all_brokers()

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        super().update_consumer_offset(group, mq, offset)
        self.commits.append((mq, offset))


class Strategy:
    """Gives what the test says."""

    def __init__(self, *mine: MessageQueue) -> None:
        self.mine: Sequence[MessageQueue] | None = mine
        self.error: Exception | None = None
        self.asked: list[tuple[str, str, list[MessageQueue], list[str]]] = []

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        self.asked.append((consumer_group, current_cid, list(mq_all), list(cid_all)))
        if self.error is not None and mq_all[0].topic == TOPIC:
            raise self.error
        return [queue for queue in self.mine or () if queue.topic == mq_all[0].topic]

    def get_name(self) -> str:
        return "TEST"


def pulled(core: Core) -> list[tuple[MessageQueue, int]]:
    """Which queues are being pulled, from where."""
    return [(call.mq, call.offset) for call in core.broker.pulls]


def announced(core: Core) -> list[SubscriptionData]:
    return core.rebalance.subscriptions_to_announce()


# Gaining queues.


@pytest.mark.behaviour("RB-01")
def test_a_member_alone_takes_every_queue_and_pulls_it_from_where_the_group_was() -> None:
    core = Core(queues=3)
    core.broker.offsets[GROUP, mq(1)] = 40
    assert core.rebalance.do_rebalance() is True
    core.runtime.advance(0)
    assert set(core.windows) == {mq(0), mq(1), mq(2)}
    assert pulled(core) == [(mq(0), 0), (mq(1), 40), (mq(2), 0)]


@pytest.mark.behaviour("RB-01")
def test_of_several_members_each_takes_its_own_share() -> None:
    core = Core(queues=4)
    core.join([OTHER, ME])
    assert core.rebalance.do_rebalance() is True
    assert set(core.windows) == {mq(0), mq(1)}


@pytest.mark.behaviour("RB-13")
def test_a_member_that_joins_others_reads_no_offset_before_they_had_a_second_to_commit() -> None:
    core = Core(queues=2)
    core.broker.members[GROUP] = [OTHER, "127.0.0.1@aaa"]
    assert core.rebalance.do_rebalance() is False
    core.broker.members[GROUP] = [OTHER, ME]
    assert core.rebalance.do_rebalance() is False
    assert core.windows == {}
    core.broker.offsets[GROUP, mq(0)] = 70
    assert core.rebalance.do_rebalance() is True
    core.runtime.advance(500)
    assert pulled(core) == [(mq(0), 70)]


@pytest.mark.behaviour("RB-13")
def test_a_member_known_to_the_others_takes_further_queues_at_once() -> None:
    core = Core(queues=2)
    core.join([ME, OTHER])
    core.begin()
    core.broker.members[GROUP] = [ME]
    assert core.rebalance.do_rebalance() is True
    assert set(core.windows) == {mq(0), mq(1)}


@pytest.mark.behaviour("RB-13")
def test_a_topic_subscribed_anew_is_joined_anew() -> None:
    core = Core(queues=2)
    core.begin()
    core.broker.members[GROUP] = [ME, OTHER]
    core.rebalance.unsubscribe(TOPIC)
    core.rebalance.subscribe(build_subscription_data(TOPIC, "*", 1))
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(0), mq(1)])
    assert core.rebalance.do_rebalance() is False
    assert core.rebalance.do_rebalance() is True


@pytest.mark.behaviour("RB-01")
def test_the_strategy_gets_queues_and_members_sorted_whatever_order_they_came_in() -> None:
    strategy = Strategy()
    core = Core(queues=0, strategy=strategy)
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(10), mq(9), mq(0)])
    core.broker.members[GROUP] = [OTHER, ME, "10.0.0.1@a"]
    core.rebalance.do_rebalance()  # joins
    assert strategy.asked == [(GROUP, ME, [mq(0), mq(9), mq(10)], ["10.0.0.1@a", ME, OTHER])]


@pytest.mark.behaviour("RB-01")
def test_a_member_listed_twice_counts_once() -> None:
    core = Core(queues=4)
    core.join([ME, OTHER, OTHER, ME])
    core.rebalance.do_rebalance()
    assert set(core.windows) == {mq(0), mq(1)}


@pytest.mark.behaviour("RB-01")
def test_a_rebalance_that_changes_nothing_touches_nothing() -> None:
    core = Core(queues=2)
    core.begin()
    windows, heartbeats, subscription = core.windows, core.broker.heartbeats, core.rebalance.subscription(TOPIC)
    assert core.rebalance.do_rebalance() is True
    core.runtime.advance(1_000)
    assert core.windows == windows
    assert len(core.broker.pulls) == 2
    assert core.broker.heartbeats == heartbeats
    assert core.rebalance.subscription(TOPIC) is subscription


@pytest.mark.behaviour("RB-01")
def test_what_was_in_memory_of_a_queue_gained_is_forgotten_also_when_it_was_frozen() -> None:
    core = Core()
    core.store.update_and_freeze_offset(mq(), 99)
    core.broker.offsets[GROUP, mq()] = 5
    core.begin()
    assert pulled(core) == [(mq(), 5)]
    core.store.update_offset(mq(), 6, increase_only=True)
    assert core.store.clone_offset_table() == {mq(): 6}


@pytest.mark.behaviour("RB-08")
@pytest.mark.parametrize(("members", "delay_ms"), [([ME], 0), ([ME, OTHER], 500)])
def test_the_first_pull_comes_at_once_when_alone_and_after_500_ms_when_another_may_still_commit(
    members: list[str], delay_ms: int
) -> None:
    core = Core()
    core.join(members)
    core.rebalance.do_rebalance()
    core.runtime.advance(max(delay_ms - 1, 0))
    if delay_ms:
        assert pulled(core) == []
        core.runtime.advance(1)
    assert pulled(core) == [(mq(), 0)]


# Losing queues.


@pytest.mark.behaviour("RB-02")
def test_a_queue_lost_is_dropped_committed_and_forgotten_and_its_pulls_end() -> None:
    core = Core(queues=2)
    core.begin()
    lost = core.windows[mq(1)]
    core.store.update_offset(mq(0), 7, increase_only=True)
    core.store.update_offset(mq(1), 8, increase_only=True)
    core.broker.members[GROUP] = [ME, OTHER]
    assert core.rebalance.do_rebalance() is True
    assert set(core.windows) == {mq(0)}
    assert lost.dropped is True
    assert core.broker.offsets == {(GROUP, mq(1)): 8}
    assert core.store.clone_offset_table() == {mq(0): 7}
    core.broker.answer_empty(PullStatus.NO_NEW_MSG, 0)
    core.broker.answer_empty(PullStatus.NO_NEW_MSG, 0)
    assert pulled(core) == [(mq(0), 0)]


@pytest.mark.behaviour("RB-02")
def test_a_queue_lost_and_gained_again_gets_a_new_window_and_starts_at_the_committed_offset() -> None:
    strategy = Strategy(mq())
    core = Core(strategy=strategy)
    core.begin()
    old = core.windows[mq()]
    old.put_message(messages(0, 1))
    core.store.update_offset(mq(), 1, increase_only=True)
    strategy.mine = ()
    core.rebalance.do_rebalance()
    strategy.mine = (mq(),)
    core.begin()
    assert core.windows[mq()] is not old
    assert core.windows[mq()].msg_count == 0
    assert pulled(core)[-1] == (mq(), 1)


@pytest.mark.behaviour("RB-02")
def test_giving_one_queue_up_leaves_the_others_and_giving_up_what_is_not_owned_does_nothing() -> None:
    core = Core(queues=2, broker=(broker := Broker()))
    core.begin()
    core.store.update_offset(mq(0), 4, increase_only=True)
    core.store.update_offset(mq(5), 4, increase_only=True)
    core.rebalance.remove_process_queue(mq(0))
    core.rebalance.remove_process_queue(mq(5))
    assert set(core.windows) == {mq(1)}
    assert broker.commits == [(mq(0), 4)]


@pytest.mark.behaviour("RB-02")
def test_destroying_drops_every_window_and_commits_nothing() -> None:
    core = Core(queues=2)
    core.begin()
    windows = list(core.windows.values())
    core.store.update_offset(mq(0), 4, increase_only=True)
    core.rebalance.destroy()
    assert core.windows == {}
    assert [window.dropped for window in windows] == [True, True]
    assert core.broker.offsets == {}


@pytest.mark.behaviour("RB-02")
def test_a_consumer_that_was_destroyed_while_it_asked_where_to_start_takes_nothing() -> None:
    class Destroying(FakeBroker):
        def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
            core.rebalance.destroy()
            return super().query_consumer_offset(group, mq, timeout_ms)

    core = Core(queues=2, broker=Destroying(ME))
    core.begin()
    assert core.windows == {}
    assert pulled(core) == []


@pytest.mark.behaviour("RB-03")
def test_a_queue_that_nobody_pulled_for_120_s_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    core = Core()
    core.begin()
    old = core.windows[mq()]
    core.store.update_offset(mq(), 9, increase_only=True)
    core.clock.advance(119_500)
    core.rebalance.do_rebalance()
    assert core.windows[mq()] is old
    core.clock.advance(1)
    assert core.rebalance.do_rebalance() is True
    assert old.dropped is True
    assert core.windows[mq()] is not old
    core.runtime.advance(0)
    assert pulled(core)[-1] == (mq(), 9)
    assert "[BUG]" in caplog.text


@pytest.mark.behaviour("RB-06")
def test_queues_of_a_topic_no_longer_subscribed_are_given_up_with_their_offsets_committed() -> None:
    core = Core()
    core.begin()
    window = core.windows[mq()]
    core.store.update_offset(mq(), 9, increase_only=True)
    core.rebalance.unsubscribe(TOPIC)
    assert core.rebalance.do_rebalance() is True
    assert core.windows == {}
    assert window.dropped is True
    assert core.broker.offsets == {(GROUP, mq()): 9}


# What cannot be told now.


@pytest.mark.behaviour("RB-04")
@pytest.mark.parametrize("members", [None, []])
def test_without_a_member_list_everything_stays_as_it_is_to_be_tried_again_soon(members: list[str] | None) -> None:
    core = Core(queues=2)
    core.begin()
    before = core.windows
    del core.broker.members[GROUP]
    if members is not None:
        core.broker.members[GROUP] = members
    assert core.rebalance.do_rebalance() is False
    assert core.windows == before
    assert not any(window.dropped for window in before.values())


@pytest.mark.behaviour("RB-04")
def test_a_member_list_without_this_member_takes_all_queues_away_to_be_tried_again_soon() -> None:
    core = Core(queues=2)
    core.begin()
    core.broker.members[GROUP] = [OTHER]
    assert core.rebalance.do_rebalance() is False
    assert core.windows == {}


@pytest.mark.behaviour("RB-04")
def test_without_a_route_everything_stays_as_it_is_and_the_topic_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = Core(queues=2)
    core.begin()
    before = core.windows
    core.rebalance.update_topic_subscribe_info(TOPIC, [])
    assert core.rebalance.do_rebalance() is True
    assert core.windows == before
    assert "topic topic has no readable queues" in caplog.text


@pytest.mark.behaviour("RB-04")
def test_a_retry_topic_without_a_route_is_nothing_to_speak_of(caplog: pytest.LogCaptureFixture) -> None:
    core = Core()
    core.rebalance.subscribe(build_subscription_data(RETRY_TOPIC, "*", 1))
    assert core.rebalance.do_rebalance() is True
    assert RETRY_TOPIC not in caplog.text


@pytest.mark.behaviour("RB-05")
@pytest.mark.parametrize("error", [ValueError("mine"), ConnectError("broke")])
def test_a_strategy_that_raises_leaves_the_topic_as_it_is_to_be_tried_again_soon_and_the_other_topics_go_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = Strategy(mq(0), mq(0, "zzz"))
    core = Core(strategy=strategy)
    core.begin()
    strategy.error = error
    core.rebalance.subscribe(build_subscription_data("zzz", "*", 1))
    core.rebalance.update_topic_subscribe_info("zzz", [mq(0, "zzz")])
    assert core.rebalance.do_rebalance() is False
    assert set(core.windows) == {mq(0), mq(0, "zzz")}
    assert f"rebalance of {TOPIC} failed" in caplog.text
    strategy.error = None
    assert core.rebalance.do_rebalance() is True


@pytest.mark.behaviour("RB-05")
def test_a_strategy_that_gives_queues_nobody_has_asks_for_nothing_of_other_topics() -> None:
    strategy = Strategy()
    strategy.mine = None
    core = Core(strategy=strategy)
    assert core.rebalance.do_rebalance() is True
    assert core.windows == {}


@pytest.mark.behaviour("RB-05")
def test_a_queue_whose_offset_cannot_be_read_is_not_taken_and_tried_again_soon() -> None:
    core = Core(queues=2)
    core.broker.failing["query_consumer_offset"] = RequestTimeoutError("no answer")
    assert core.rebalance.do_rebalance() is False
    assert core.windows == {}
    del core.broker.failing["query_consumer_offset"]
    core.broker.offsets[GROUP, mq(0)] = 7
    assert core.rebalance.do_rebalance() is True
    core.runtime.advance(0)
    assert pulled(core) == [(mq(0), 7), (mq(1), 0)]


@pytest.mark.behaviour("RB-05")
def test_one_queue_that_cannot_be_taken_does_not_keep_the_others() -> None:
    class OneQueueSilent(FakeBroker):
        def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
            if mq.queue_id == 0:
                raise RequestTimeoutError("no answer")
            return super().query_consumer_offset(group, mq, timeout_ms)

    core = Core(queues=2, broker=OneQueueSilent(ME))
    assert core.rebalance.do_rebalance() is False
    core.runtime.advance(0)
    assert pulled(core) == [(mq(1), 0)]


@pytest.mark.behaviour("RB-05")
@pytest.mark.parametrize(
    ("takes_ms", "asked"), [(999, ["broker-a", "broker-a", "broker-b"]), (1_000, ["broker-a", "broker-b"])]
)
def test_a_broker_that_is_slow_to_fail_is_asked_once_a_round_and_the_others_go_on(
    takes_ms: int, asked: list[str]
) -> None:
    queries: list[str] = []

    class OneBrokerSilent(FakeBroker):
        def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
            queries.append(mq.broker_name)
            if mq.broker_name == "broker-a":
                core.clock.advance(takes_ms)
                raise RequestTimeoutError("no answer")
            return 7

    other = MessageQueue(TOPIC, "broker-b", 0)
    core = Core(broker=OneBrokerSilent(ME))
    core.rebalance.update_topic_subscribe_info(TOPIC, [mq(0), mq(1), other])
    assert core.rebalance.do_rebalance() is False
    assert queries == asked
    assert set(core.windows) == {other}


@pytest.mark.behaviour("RB-11")
def test_a_suspended_consumer_does_not_rebalance_and_is_asked_again_soon() -> None:
    core = Core()
    core.rebalance.paused = True
    assert core.rebalance.do_rebalance() is False
    assert core.windows == {}
    core.rebalance.paused = False
    assert core.rebalance.do_rebalance() is True


@pytest.mark.behaviour("RB-11")
def test_a_rebalance_under_way_stops_at_the_next_topic_when_the_consumer_ends() -> None:
    core = Core(broker=(broker := Broker()))
    core.rebalance.subscribe(build_subscription_data("zzz", "*", 1))
    core.rebalance.update_topic_subscribe_info("zzz", [mq(0, "zzz")])
    broker.during_heartbeat = lambda: setattr(core.rebalance, "paused", True)
    assert core.rebalance.do_rebalance() is False
    assert set(core.windows) == {mq(0)}


# Where to start.

FIRST = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
LAST = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
TIMESTAMP = ConsumeFromWhere.CONSUME_FROM_TIMESTAMP


@pytest.mark.behaviour("RB-07")
@pytest.mark.parametrize(
    ("where", "topic", "stored", "expected"),
    [
        (LAST, TOPIC, 3, 3),
        (FIRST, TOPIC, 3, 3),
        (TIMESTAMP, TOPIC, 3, 3),
        (LAST, TOPIC, 0, 0),
        (TIMESTAMP, RETRY_TOPIC, 0, 0),
        (LAST, TOPIC, None, 5),
        (FIRST, TOPIC, None, 0),
        (TIMESTAMP, TOPIC, None, 2),
        (LAST, RETRY_TOPIC, None, 0),
        (FIRST, RETRY_TOPIC, None, 0),
        (TIMESTAMP, RETRY_TOPIC, None, 5),
    ],
)
def test_where_a_queue_starts(where: ConsumeFromWhere, topic: str, stored: int | None, expected: int) -> None:
    class Searching(FakeBroker):
        def search_offset(self, mq: MessageQueue, timestamp_ms: int) -> int:
            assert timestamp_ms == core.config.consume_timestamp_ms()
            return 2

    core = Core(consume_from_where=where, broker=Searching(ME), consume_timestamp="20240203040506")
    core.broker.store(mq(0, topic), *[b"body"] * 5)
    if stored is not None:
        core.broker.offsets[GROUP, mq(0, topic)] = stored
    assert core.rebalance.compute_pull_from_where(mq(0, topic)) == expected


@pytest.mark.behaviour("RB-07")
@pytest.mark.parametrize(
    ("where", "topic", "failing"),
    [
        *[(where, topic, "query_consumer_offset") for where in ConsumeFromWhere for topic in (TOPIC, RETRY_TOPIC)],
        (LAST, TOPIC, "max_offset"),
        (TIMESTAMP, RETRY_TOPIC, "max_offset"),
        (TIMESTAMP, TOPIC, "search_offset"),
    ],
)
def test_a_broker_that_cannot_tell_is_an_error_and_never_offset_0(
    where: ConsumeFromWhere, topic: str, failing: str
) -> None:
    core = Core(consume_from_where=where)
    core.broker.failing[failing] = RequestTimeoutError("no answer")
    core.rebalance.subscribe(build_subscription_data(topic, "*", 1))
    core.rebalance.update_topic_subscribe_info(topic, [mq(0, topic)])
    core.rebalance.do_rebalance()
    assert mq(0, topic) not in core.windows


@pytest.mark.behaviour("RB-07")
@pytest.mark.parametrize("where", [LAST, TIMESTAMP])
def test_a_negative_offset_from_the_broker_is_an_error(where: ConsumeFromWhere) -> None:
    class Negative(FakeBroker):
        def max_offset(self, mq: MessageQueue) -> int:
            return -1

        def search_offset(self, mq: MessageQueue, timestamp_ms: int) -> int:
            return -1

    core = Core(consume_from_where=where, broker=Negative(ME))
    assert core.rebalance.do_rebalance() is False
    assert core.windows == {}


# Telling the brokers.


@pytest.mark.behaviour("RB-09")
def test_after_a_change_pulls_name_a_new_version_only_when_the_heartbeat_has_told_it() -> None:
    core = Core(broker=(broker := Broker()))
    old = core.rebalance.subscription(TOPIC)
    assert old is not None
    core.clock.advance(1_000)
    during: list[tuple[int, int]] = []

    def look() -> None:
        (announced,) = core.rebalance.subscriptions_to_announce()
        known = core.rebalance.subscription(TOPIC)
        assert known is not None
        during.append((announced.sub_version, known.sub_version))

    broker.during_heartbeat = look
    core.begin()
    assert during == [(old.sub_version + 1_000, old.sub_version)]
    (pull,) = core.broker.pulls
    assert pull.subscription.sub_version == old.sub_version + 1_000
    assert core.rebalance.subscriptions_to_announce() == [pull.subscription]


@pytest.mark.behaviour("RB-09")
def test_another_expression_is_told_first_and_what_comes_meanwhile_is_filtered_by_it() -> None:
    got: list[bytes] = []

    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        got.extend(msg.body for msg in msgs)
        return SUCCESS

    core = Core(listener, broker=(broker := Broker()), expression="TagA")
    core.broker.store(mq(), b"a", tags="TagA")
    core.broker.store(mq(), b"b", tags="TagB")
    core.begin()
    known = core.rebalance.subscription(TOPIC)
    changed = build_subscription_data(TOPIC, "TagB", core.clock.wall_ms() + 1)
    core.rebalance.subscribe(changed)
    assert core.rebalance.subscription(TOPIC) is known
    core.broker.answer_pulls()
    core.pool.run_all()
    assert got == [b"b"]
    told = []
    broker.during_heartbeat = lambda: told.append((core.rebalance.subscription(TOPIC), *announced(core)))
    core.rebalance.do_rebalance()
    assert told == [(known, changed)]
    assert core.rebalance.subscription(TOPIC) is changed


@pytest.mark.behaviour("RB-09")
def test_a_subscription_changed_while_the_heartbeat_is_sent_is_not_lost() -> None:
    core = Core(broker=(broker := Broker()))
    changed = build_subscription_data(TOPIC, "TagB", core.clock.wall_ms() + 1)
    broker.during_heartbeat = lambda: core.rebalance.subscribe(changed)
    assert core.rebalance.do_rebalance() is True
    assert core.rebalance.newest_subscription(TOPIC) is changed
    assert announced(core) == [changed]
    broker.during_heartbeat = lambda: None
    core.rebalance.do_rebalance()
    assert core.rebalance.subscription(TOPIC) is changed


@pytest.mark.behaviour("RB-09")
def test_a_topic_unsubscribed_while_the_heartbeat_is_sent_stays_unsubscribed() -> None:
    core = Core(broker=(broker := Broker()))
    broker.during_heartbeat = lambda: core.rebalance.unsubscribe(TOPIC)
    assert core.rebalance.do_rebalance() is True
    assert core.rebalance.subscription(TOPIC) is None
    assert core.rebalance.subscriptions_to_announce() == []
    core.rebalance.do_rebalance()
    assert core.windows == {}


@pytest.mark.behaviour("RB-09")
def test_a_loss_is_told_too() -> None:
    core = Core(queues=2)
    core.begin()
    heartbeats = core.broker.heartbeats
    core.broker.members[GROUP] = [ME, OTHER]
    core.rebalance.do_rebalance()
    assert core.broker.heartbeats == heartbeats + 1


# The topic's limits.


@pytest.mark.behaviour("RB-10")
@pytest.mark.parametrize(("queues", "count", "size"), [(1, 100, 10), (3, 33, 3), (7, 14, 1), (20, 5, 1)])
def test_limits_of_the_topic_are_spread_over_the_queues_owned_at_least_1_each(
    queues: int, count: int, size: int
) -> None:
    core = Core(queues=queues, pull_threshold_for_topic=100, pull_threshold_size_for_topic=10)
    core.begin()
    assert (core.config.pull_threshold_for_queue, core.config.pull_threshold_size_for_queue) == (count, size)


@pytest.mark.behaviour("RB-10")
def test_the_queues_of_all_topics_share_the_limits() -> None:
    core = Core(queues=2, pull_threshold_for_topic=100)
    core.rebalance.subscribe(build_subscription_data("other", "*", 1))
    core.rebalance.update_topic_subscribe_info("other", [mq(0, "other"), mq(1, "other")])
    core.begin()
    assert core.config.pull_threshold_for_queue == 25


@pytest.mark.behaviour("RB-10")
def test_without_limits_of_the_topic_those_of_the_queue_stay() -> None:
    core = Core(queues=4)
    core.begin()
    assert (core.config.pull_threshold_for_queue, core.config.pull_threshold_size_for_queue) == (1_000, 100)


@pytest.mark.behaviour("RB-10")
def test_the_limits_follow_when_queues_go() -> None:
    core = Core(queues=4, pull_threshold_for_topic=100)
    core.begin()
    core.broker.members[GROUP] = [ME, OTHER]
    core.rebalance.do_rebalance()
    assert core.config.pull_threshold_for_queue == 50


# The tables.


@pytest.mark.behaviour("RB-12")
def test_queues_are_noted_for_subscribed_topics_only_and_only_a_change_is_one() -> None:
    core = Core(queues=2)
    rebalance = core.rebalance
    assert rebalance.update_topic_subscribe_info("elsewhere", [mq(0, "elsewhere")]) is False
    assert rebalance.update_topic_subscribe_info(TOPIC, [mq(1), mq(0)]) is False
    assert rebalance.update_topic_subscribe_info(TOPIC, [mq(0)]) is True
    assert rebalance.is_subscribe_topic_need_update(TOPIC) is False
    assert rebalance.is_subscribe_topic_need_update("elsewhere") is False
    rebalance.subscribe(build_subscription_data("elsewhere", "*", 1))
    assert rebalance.is_subscribe_topic_need_update("elsewhere") is True
    assert set(rebalance.topics()) == {TOPIC, "elsewhere"}


@pytest.mark.behaviour("RB-12")
def test_a_topic_subscribed_again_waits_for_its_queues_anew() -> None:
    core = Core(queues=2)
    core.rebalance.unsubscribe(TOPIC)
    core.rebalance.subscribe(build_subscription_data(TOPIC, "*", 1))
    assert core.rebalance.is_subscribe_topic_need_update(TOPIC) is True


# All of it together.


@pytest.mark.behaviour("PL-08", "OS-02")
def test_an_offset_below_the_queues_first_is_mended_and_the_queue_goes_on_there() -> None:
    core = Core()
    core.broker.store(mq(), *[b"body"] * 10)
    core.broker.expire(mq(), 6)
    core.begin()
    core.broker.answer_pulls()
    core.runtime.advance(0)
    assert core.windows == {}
    assert core.broker.offsets == {(GROUP, mq()): 6}
    assert core.broker.rebalances_asked == 1
    assert core.counters.snapshot()[Event.OFFSET_ILLEGAL] == 1
    core.begin()
    core.broker.answer_pulls()
    assert core.committed(mq()) == 10
