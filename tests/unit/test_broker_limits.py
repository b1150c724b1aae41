"""Attacks on the embedded broker's memory by clients that speak the protocol well: each meets its limit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocketmq_py.broker import (
    consumer_manager,
    consumer_offset_manager,
    kv_config_manager,
    pop_long_polling_service,
    producer_manager,
    pull_request_hold_service,
    rebalance_lock_manager,
)
from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.remoting import bodies
from rocketmq_py.testing import ManualClock
from tests.unit.broker_pop_support import NOTIFICATION, POP, pop_fields
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.create_topic(queues=4)
    yield rig
    rig.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    client = rig.client()
    client.heartbeat()
    return client


@pytest.mark.behaviour("LI-03")
def test_pulls_that_are_large_are_answered_at_once_when_they_would_fill_the_memory(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_request_hold_service, "HELD_MAX_BYTES", 100_000)
    fields = client.pull_fields(sysFlag=2)
    large = [client.begin(11, {**fields, "more": "x" * 40_000}) for _ in range(3)]
    assert [client.answer(opaque) is None for opaque in large] == [True, True, False]
    body = client.begin(11, fields, b"x" * 40_000)
    tags = client.begin(11, {**fields, "sysFlag": 6, "subscription": "||".join(map(str, range(1_000)))})
    assert [answer.code for opaque in (body, tags) if (answer := client.answer(opaque))] == [19, 19]
    small = client.begin(11, fields)
    assert client.answer(small) is None
    client.send()  # all that wait are answered: their room is free again
    assert client.answer(large[0]) is not None
    again = [client.begin(11, {**client.pull_fields(1, sysFlag=2), "more": "x" * 40_000}) for _ in range(3)]
    assert [client.answer(opaque) is None for opaque in again] == [True, True, False]


@pytest.mark.behaviour("LI-03")
@pytest.mark.parametrize("code", [POP, NOTIFICATION])
def test_so_are_pops_and_notifications(rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(pop_long_polling_service, "POLLING_MAX_BYTES", 100_000)
    fields = pop_fields(pollTime=10_000, more="x" * 40_000)
    asked = [client.begin(code, fields) for _ in range(3)]
    rig.loop.run()
    assert [client.answer(opaque) is None for opaque in asked] == [True, True, False]
    rig.loop.advance(11_000)  # their time is over
    assert client.answer(asked[0]) is not None
    again = client.begin(code, fields)
    rig.loop.run()
    assert client.answer(again) is None


@pytest.mark.behaviour("LI-04")
def test_producers_without_number_are_refused_and_leave_room_when_they_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_manager, "CONNECTIONS_MAX", 2)

    def heartbeat(client: Client, group: str) -> int:
        return client.ask(34, body=bodies.encode_heartbeat(f"client-{id(client)}", [group], [])).code

    first, second = rig.client(), rig.client()
    assert [heartbeat(first, group) for group in "abca"] == [0, 0, 2, 0]
    assert heartbeat(second, "a") == 2
    rig.controller.on_close(first)
    assert heartbeat(second, "a") == 0


@pytest.mark.behaviour("EB-25")
def test_a_heartbeat_of_very_many_groups_is_refused(client: Client) -> None:
    def heartbeat(count: int) -> int:
        groups = [f"group-{number}" for number in range(count)]
        return client.ask(34, body=bodies.encode_heartbeat("client", groups, [])).code

    assert [heartbeat(1_001), heartbeat(1_000)] == [29, 0]


@pytest.mark.behaviour("LI-04")
def test_members_without_number_are_refused_and_leave_room_when_they_go(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_manager, "MEMBERS_MAX", 3)
    other = rig.client()
    assert [other.heartbeat(group=f"group-{number}").code for number in range(4)] == [0, 0, 2, 2]
    assert client.heartbeat().code == 0
    assert other.heartbeat(group="group-1").code == 0
    rig.controller.on_close(other)
    third = rig.client()
    assert [third.heartbeat(group=f"group-{number}").code for number in range(4)] == [0, 0, 2, 2]


@pytest.mark.behaviour("LI-04")
def test_subscriptions_without_number_are_refused_and_leave_room_when_they_go(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_manager, "SUBSCRIPTIONS_MAX_BYTES", 50_000)
    other = rig.client()
    many_tags = "||".join(f"tag-{number}" for number in range(200))
    assert [other.heartbeat(group=f"group-{number}", topic=many_tags).code for number in range(2)] == [0, 2]
    assert other.heartbeat(group="group-0", topic=many_tags).code == 0  # the same again needs no more
    assert client.heartbeat().code == 0
    rig.controller.on_close(other)
    assert client.heartbeat(topic=many_tags).code == 0


@pytest.mark.behaviour("LI-04")
def test_committed_offsets_without_number_are_refused_and_those_known_go_on(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_offset_manager, "OFFSETS_MAX", 2)

    def commit(queue_id: int, offset: int) -> int:
        fields = {"consumerGroup": GROUP, "topic": TOPIC, "queueId": queue_id, "commitOffset": offset}
        return client.ask(15, fields).code

    assert [commit(queue_id, 1) for queue_id in range(3)] == [0, 0, 2]
    assert commit(0, 2) == 0


@pytest.mark.behaviour("LI-04")
def test_locks_without_number_are_refused_and_old_ones_leave_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rebalance_lock_manager, "LOCKS_MAX", 3)
    clock = ManualClock()
    locks = RebalanceLockManager(clock=clock)
    queues = [MessageQueue("topic", "broker", number) for number in range(5)]
    with caplog.at_level(logging.WARNING):
        assert locks.try_lock_batch("group", queues, "a") == {*queues[:3]}
    assert "there are 3 locks already" in caplog.text
    assert locks.try_lock_batch("group", queues, "a") == {*queues[:3]}
    locks.unlock_batch("group", queues[:1], "a")
    assert locks.try_lock("other", queues[4], "b")
    assert locks.entry_count == 3
    clock.advance(200_000)
    assert locks.try_lock_batch("third", queues, "c") == {*queues[:3]}
    assert locks.entry_count == 3


@pytest.mark.behaviour("LI-04")
def test_texts_at_the_name_server_are_bounded_together(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_config_manager, "CHARACTERS_MAX", 100)

    def ask(code: int, key: str, length: int = 0) -> int:
        fields = {"namespace": "n", "key": key, "value": "x" * length}
        return client.ask(code, fields, to=rig.controller.name_server).code

    assert [ask(100, "a", 48), ask(100, "b", 48), ask(100, "c", 0)] == [0, 0, 2]
    assert [ask(100, "a", 49), ask(100, "a", 46), ask(100, "c", 0)] == [2, 0, 0], "what is replaced makes room"
    rig.reopen()
    assert [ask(100, "d", 0), ask(102, "b"), ask(102, "b"), ask(100, "d", 48), ask(100, "e", 0)] == [2, 0, 0, 0, 2]
