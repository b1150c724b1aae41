from __future__ import annotations

from typing import Any

import pytest

from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.errors import BrokerError, ConnectError
from rocketmq_py.model.config import ConsumeFromWhere
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages, QueueAssignment
from tests.unit.support import GROUP, ME, OTHER, RETRY_TOPIC, SUCCESS, TOPIC, Core, message, mq

ALL_QUEUES = mq(-1)
POP_RETRY_V1, POP_RETRY_V2 = f"%RETRY%{GROUP}_{TOPIC}", f"%RETRY%{GROUP}+{TOPIC}"
NOT_SUPPORTED = BrokerError(3, "request type 400 not supported", "host:1")

PULL_TWO = QueueAssignment(pull=frozenset({mq(0), mq(1)}))
POP = QueueAssignment(pop=frozenset({ALL_QUEUES}))
NOTHING = QueueAssignment()


class Assigned(Core):
    """A core whose broker assigns queues; its first rebalance, which takes nothing, is over."""

    def __init__(self, assigned: QueueAssignment | None = PULL_TWO, **settings: Any) -> None:
        super().__init__(queues=4, assigned_by_broker=True, **settings)
        if assigned is not None:
            self.broker.assignments[TOPIC] = assigned
        self.rebalance.do_rebalance()

    def assign(self, assigned: QueueAssignment | None) -> bool:
        if assigned is None:
            del self.broker.assignments[TOPIC]
        else:
            self.broker.assignments[TOPIC] = assigned
        return self.rebalance.do_rebalance()

    @property
    def popped(self) -> dict[MessageQueue, PopProcessQueue]:
        return dict(self.pop_queues.queues())

    @property
    def topics(self) -> set[str]:
        return set(self.rebalance.topics())


# Asking.


@pytest.mark.behaviour("PA-01")
def test_what_a_broker_assigns_to_be_pulled_is_taken() -> None:
    core = Assigned()
    assert core.windows == {}  # at the first rebalance the last owners have only just been told
    assert core.rebalance.do_rebalance() is True
    assert set(core.windows) == {mq(0), mq(1)}
    core.runtime.advance(499)
    assert core.broker.pulls == []
    core.runtime.advance(1)
    assert {call.mq for call in core.broker.pulls} == {mq(0), mq(1)}


@pytest.mark.behaviour("PA-01")
def test_a_broker_that_cannot_tell_changes_nothing_and_is_asked_again_soon(caplog: pytest.LogCaptureFixture) -> None:
    core = Assigned()
    core.begin()
    assert core.assign(None) is False
    assert set(core.windows) == {mq(0), mq(1)}
    assert "does it know the strategy AVG?" in caplog.text


@pytest.mark.behaviour("PA-01")
@pytest.mark.parametrize("error", [ConnectError("no broker"), BrokerError(1, "system error")])
def test_a_broker_that_fails_changes_nothing_and_is_asked_again_soon(error: Exception) -> None:
    core = Assigned()
    core.begin()
    core.broker.failing["query_assignment"] = error  # type: ignore[assignment]
    assert core.rebalance.do_rebalance() is False
    assert set(core.windows) == {mq(0), mq(1)}


@pytest.mark.behaviour("PA-02")
def test_where_brokers_assign_nothing_the_members_divide_the_queues(caplog: pytest.LogCaptureFixture) -> None:
    core = Core(queues=4, assigned_by_broker=True)
    core.broker.failing["query_assignment"] = NOT_SUPPORTED
    core.join([ME, OTHER])
    assert core.rebalance.do_rebalance() is True
    assert set(core.windows) == {mq(0), mq(1)}
    assert "host:1 does not assign queues (client_rebalance is False)" in caplog.text
    assert set(core.rebalance.topics()) == {TOPIC}

    del core.broker.failing["query_assignment"]  # the broker was renewed
    core.broker.assignments[TOPIC] = POP
    assert core.rebalance.do_rebalance() is True
    assert core.windows == {}
    assert [mq for mq, _ in core.pop_queues.queues()] == [ALL_QUEUES]


@pytest.mark.behaviour("PA-02")
def test_once_brokers_assigned_queues_one_that_cannot_is_only_asked_again() -> None:
    core = Assigned(POP)
    core.broker.failing["query_assignment"] = NOT_SUPPORTED
    assert core.rebalance.do_rebalance() is False
    assert set(core.popped) == {ALL_QUEUES}
    assert core.windows == {}


@pytest.mark.behaviour("PA-03")
def test_a_topic_without_a_route_is_not_asked_about_and_in_balance() -> None:
    core = Assigned()
    core.begin()
    core.broker.failing["query_assignment"] = ConnectError("no broker")
    core.rebalance.update_topic_subscribe_info(TOPIC, [])
    assert core.rebalance.do_rebalance() is True


# Popping.


@pytest.mark.behaviour("PA-04")
@pytest.mark.parametrize(
    ("where", "mode"),
    [(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, 0), (ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, 1)],
)
def test_what_a_broker_assigns_to_be_popped_is_popped_after_500_ms(where: ConsumeFromWhere, mode: int) -> None:
    core = Assigned(POP, consume_from_where=where)
    assert set(core.popped) == {ALL_QUEUES}
    ((request, delay_ms),) = core.pops
    assert (request.mq, request.pop_process_queue, request.init_mode) == (ALL_QUEUES, core.popped[ALL_QUEUES], mode)
    assert delay_ms == 500
    assert core.rebalance.do_rebalance() is True
    assert len(core.pops) == 1


@pytest.mark.behaviour("PA-04")
def test_brokers_hear_of_a_new_view_of_the_topic() -> None:
    core = Assigned(POP)
    heartbeats = core.broker.heartbeats
    core.rebalance.do_rebalance()
    assert core.broker.heartbeats == heartbeats  # nothing changed
    core.assign(NOTHING)
    assert core.broker.heartbeats == heartbeats + 1


@pytest.mark.behaviour("PA-05")
def test_a_popped_queue_no_longer_assigned_is_dropped() -> None:
    core = Assigned(POP)
    queue = core.popped[ALL_QUEUES]
    core.assign(QueueAssignment(pop=frozenset({mq(2)})))
    assert queue.dropped is True
    assert set(core.popped) == {mq(2)}
    assert [request.mq for request, _ in core.pops] == [ALL_QUEUES, mq(2)]


@pytest.mark.behaviour("PA-05")
def test_a_queue_that_nobody_popped_for_long_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    core = Assigned(POP)
    queue = core.popped[ALL_QUEUES]
    core.clock.advance(120_001)
    core.rebalance.do_rebalance()
    assert queue.dropped is True
    assert core.popped[ALL_QUEUES].dropped is False
    assert len(core.pops) == 2
    assert "nobody popped" in caplog.text


@pytest.mark.behaviour("PA-05")
def test_a_topic_no_longer_subscribed_is_popped_no_more() -> None:
    core = Assigned(POP)
    queue = core.popped[ALL_QUEUES]
    core.rebalance.unsubscribe(TOPIC)
    core.rebalance.do_rebalance()
    assert queue.dropped is True
    assert core.popped == {}


@pytest.mark.behaviour("PA-05")
def test_a_consumer_that_ends_pops_no_more() -> None:
    core = Assigned(POP)
    queue = core.popped[ALL_QUEUES]
    core.rebalance.destroy()
    assert queue.dropped is True
    core.rebalance.do_rebalance()
    assert core.popped == {}


# The switch.


@pytest.mark.behaviour("PA-06")
def test_a_topic_is_switched_from_pull_to_pop_and_back() -> None:
    core = Assigned()
    core.begin()
    window = core.windows[mq(0)]
    core.store.update_offset(mq(0), 7, increase_only=True)
    core.assign(POP)
    assert window.dropped is True
    assert core.windows == {}
    assert core.broker.offsets[GROUP, mq(0)] == 7
    assert set(core.popped) == {ALL_QUEUES}

    popped = core.popped[ALL_QUEUES]
    core.broker.offsets[GROUP, mq(0)] = 9  # a pop commits at the broker
    core.assign(PULL_TWO)
    assert popped.dropped is True
    assert core.popped == {}
    assert set(core.windows) == {mq(0), mq(1)}
    core.runtime.advance(500)
    assert {(call.mq, call.offset) for call in core.broker.pulls} >= {(mq(0), 9)}


@pytest.mark.behaviour("PA-07")
@pytest.mark.parametrize("assigned", [PULL_TWO, NOTHING])
def test_while_a_topic_is_pulled_its_pop_retry_topics_are_subscribed_once(assigned: QueueAssignment) -> None:
    # Also by a member that has no queues: the retry topic's may be its own.
    core = Assigned(POP)
    assert core.topics == {TOPIC}
    core.assign(assigned)
    core.rebalance.do_rebalance()
    assert core.topics == {TOPIC, POP_RETRY_V1, POP_RETRY_V2}
    version = core.rebalance.subscription(POP_RETRY_V1)
    assert version is not None
    assert version.sub_string == "*"
    core.clock.advance(20_000)
    core.rebalance.do_rebalance()
    assert core.rebalance.subscription(POP_RETRY_V1) is version


@pytest.mark.behaviour("PA-07")
def test_their_queues_are_pulled_and_given_up_when_the_topic_is_popped_again() -> None:
    core = Assigned()
    core.begin()
    retry = MessageQueue(POP_RETRY_V1, "broker-a", 0)
    core.rebalance.update_topic_subscribe_info(POP_RETRY_V1, [retry])
    core.broker.assignments[POP_RETRY_V1] = QueueAssignment(pull=frozenset({retry}))
    assert core.rebalance.do_rebalance() is False  # its first rebalance
    core.rebalance.do_rebalance()
    assert retry in core.windows
    window = core.windows[retry]
    core.assign(POP)
    assert window.dropped is True
    assert core.windows == {}
    assert core.topics == {TOPIC}


@pytest.mark.behaviour("PA-07")
def test_they_go_with_their_topic_and_a_retry_topic_has_none() -> None:
    core = Assigned()
    core.begin()
    core.rebalance.unsubscribe(TOPIC)
    core.rebalance.do_rebalance()
    assert core.topics == set()
    assert core.windows == {}


@pytest.mark.behaviour("PA-08")
@pytest.mark.parametrize(
    ("topic", "properties", "shown"),
    [
        (POP_RETRY_V1, {}, TOPIC),
        (POP_RETRY_V2, {}, TOPIC),
        (f"%RETRY%{GROUP}_to_pic", {}, "to_pic"),
        (RETRY_TOPIC, {"RETRY_TOPIC": TOPIC}, TOPIC),
        (RETRY_TOPIC, {}, RETRY_TOPIC),
        (f"%RETRY%{GROUP}s", {"RETRY_TOPIC": TOPIC}, f"%RETRY%{GROUP}s"),
        (f"%RETRY%{GROUP}_", {}, f"%RETRY%{GROUP}_"),
        (TOPIC, {"RETRY_TOPIC": "other"}, TOPIC),
    ],
)
def test_what_is_pulled_from_a_pop_retry_topic_shows_its_original_topic(
    topic: str, properties: dict[str, str], shown: str
) -> None:
    seen: list[str] = []

    def listen(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        seen.extend(msg.topic for msg in msgs)
        return SUCCESS

    core = Core(listen)
    core.begin()
    msg = message(0, topic=topic, properties=properties)
    window = core.windows[mq()]
    window.put_message([msg])
    core.service.submit_consume_request([msg], window, MessageQueue(topic, "broker-a", 0))
    assert seen == [shown]
