"""What the embedded broker answers to pulls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.remoting import bodies
from tests.unit.broker_rig import GROUP, TOPIC, Client, Rig, found, messages

COMMIT, SUSPEND, SUBSCRIPTION = 1, 2, 4


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.create_topic()
    yield rig
    rig.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    client = rig.client()
    client.heartbeat()
    return client


def fill(client: Client, count: int, size: int = 4, tags: str | None = None) -> list[bytes]:
    bodies = [f"{number}".encode().ljust(size, b".") for number in range(count)]
    for body in bodies:
        assert client.send(body, properties={"UNIQ_KEY": "id", **({"TAGS": tags} if tags else {})}).code == 0
    return bodies


# Offsets.


@pytest.mark.behaviour("EB-01")
@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, (0, 4)), (3, (0, 4)), (4, (19, 4)), (5, (21, 4)), (99, (21, 4)), (-1, (21, 0))],
)
def test_an_offset_within_the_queue_is_served_its_end_has_nothing_new_and_others_are_mended(
    client: Client, offset: int, expected: tuple[int, int]
) -> None:
    fill(client, 4)
    code, bodies, next_offset = found(client.pull(offset))
    assert (code, next_offset) == expected
    assert len(bodies) == (4 - offset if code == 0 else 0)


@pytest.mark.behaviour("EB-01")
@pytest.mark.parametrize(("offset", "code"), [(0, 19), (5, 21), (-1, 21)])
def test_an_empty_queue_has_nothing_new_at_0_and_mends_other_offsets_to_0(
    client: Client, offset: int, code: int
) -> None:
    answer = client.pull(offset)
    assert (answer.code, answer.ext_fields["nextBeginOffset"]) == (code, "0")


@pytest.mark.behaviour("EB-02")
def test_a_pull_brings_at_most_32_messages_and_256_kib_but_always_the_first(client: Client) -> None:
    small = fill(client, 40)
    assert found(client.pull(maxMsgNums=100)) == (0, small[:32], 32)
    assert found(client.pull(maxMsgNums=5)) == (0, small[:5], 5)
    large = fill(client, 3, size=100_000)
    assert found(client.pull(40)) == (0, large[:2], 42)
    client.send(b"x" * 400_000)
    assert len(messages(client.pull(43))) == 1


@pytest.mark.behaviour("EB-02")
def test_an_answer_tells_the_queues_bounds_and_that_the_master_goes_on(client: Client) -> None:
    fill(client, 4)
    fields = client.pull(1, maxMsgNums=1).ext_fields
    assert fields == {"suggestWhichBrokerId": "0", "nextBeginOffset": "2", "minOffset": "0", "maxOffset": "4"}


# Filters.


@pytest.mark.behaviour("EB-03")
def test_only_messages_with_a_wanted_tag_come_and_what_is_passed_over_counts(rig: Rig, client: Client) -> None:
    for number in range(20):
        client.send(b"%d" % number, properties={"TAGS": "A" if number % 5 == 0 else "B"})
    client.heartbeat(topic="A || C")
    assert found(client.pull(subVersion=1)) == (0, [b"0", b"5", b"10", b"15"], 20)
    assert found(client.pull(1, maxMsgNums=1, subVersion=1)) == (0, [b"5"], 6)
    assert client.pull(16, subVersion=1).code == 20
    assert client.pull(16, subVersion=1).ext_fields["nextBeginOffset"] == "20"


@pytest.mark.behaviour("EB-03")
def test_a_heartbeat_whose_expression_comes_without_its_hashes_gets_nothing(rig: Rig) -> None:
    client = rig.client()
    client.send(b"a", properties={"TAGS": "A"})
    heartbeat(client, "A", expression_type="TAG")
    assert found(client.pull()) == (20, [], 1)


@pytest.mark.behaviour("EB-03")
def test_one_pull_looks_at_800_messages_at_most(client: Client) -> None:
    fill(client, 900, tags="B")
    client.heartbeat(topic="A")
    assert found(client.pull()) == (20, [], 800)
    assert found(client.pull(800)) == (20, [], 900)


@pytest.mark.behaviour("EB-03")
def test_a_subscription_in_the_request_counts_without_a_heartbeat(rig: Rig) -> None:
    client = rig.client()
    client.send(b"a", properties={"TAGS": "A"})
    client.send(b"b", properties={"TAGS": "B"})
    assert found(client.pull(sysFlag=SUBSCRIPTION, subscription="B")) == (0, [b"b"], 2)
    assert found(client.pull(sysFlag=SUBSCRIPTION, subscription="B", expressionType="")) == (0, [b"b"], 2)
    assert client.pull(sysFlag=SUBSCRIPTION, subscription="||").code == 23


@pytest.mark.behaviour("SQ-06")
def test_a_pull_by_an_sql_expression_brings_what_matches_and_passes_over_the_rest(rig: Rig, client: Client) -> None:
    for number in range(250):
        client.send(b"%d" % number, properties={"n": str(number), "TAGS": "A" if number % 2 else "B"})
    sql: dict[str, Any] = {"sysFlag": SUBSCRIPTION, "expressionType": "SQL92"}
    assert found(client.pull(subscription="n BETWEEN 3 AND 6 AND TAGS = 'A'", **sql)) == (0, [b"3", b"5"], 200)
    assert found(client.pull(subscription="n IN ('3', '7')", **sql)) == (0, [b"3", b"7"], 200)
    assert found(client.pull(subscription="n > 230", **sql)) == (20, [], 200)
    assert found(client.pull(200, subscription="n > 230 AND TAGS = 'A'", maxMsgNums=2, **sql)) == (
        0, [b"231", b"233"], 234,
    )  # fmt: skip
    long = " OR ".join(["n = '245'"] * 600)
    assert found(client.pull(subscription=long, **sql)) == (20, [], 200_000 // len(long))
    assert found(client.pull(240, subscription=long, **sql)) == (0, [b"245"], 250)
    assert client.pull(subscription="n >", **sql).code == 23
    assert client.pull(sysFlag=SUBSCRIPTION, subscription="n", expressionType="XPATH").code == 23


@pytest.mark.behaviour("SQ-06")
def test_an_sql_expression_of_the_heartbeat_counts_and_a_wrong_one_is_named_at_the_pull(
    rig: Rig, client: Client
) -> None:
    client.send(b"0", properties={"n": "1"})
    client.send(b"1", properties={"n": "2"})
    heartbeat(client, "n > 1")
    assert found(client.pull()) == (0, [b"1"], 2)
    asked = client.begin(11, client.pull_fields(2, sysFlag=SUSPEND))
    client.send(b"2", properties={"n": "0"})
    rig.loop.run()
    assert client.answer(asked) is None
    client.send(b"3", properties={"n": "3"})
    rig.loop.run()
    answer = client.answer(asked)
    assert answer is not None
    assert found(answer) == (0, [b"3"], 4)
    heartbeat(client, "n >", 2_000)
    assert client.pull().code == 27


def heartbeat(client: Client, expression: str, version: int = 1_000, expression_type: str = "SQL92") -> None:
    wanted = SubscriptionData(TOPIC, expression, sub_version=version + 1_000, expression_type=expression_type)
    data = bodies.ConsumerData(GROUP, "CONSUME_FROM_LAST_OFFSET", [wanted], message_model="CLUSTERING")
    assert client.ask(34, body=bodies.encode_heartbeat("client", [], [data])).code == 0


@pytest.mark.behaviour("EB-03")
def test_a_lite_pull_is_a_pull(client: Client) -> None:
    bodies = fill(client, 2)
    assert found(client.ask(361, client.pull_fields(sysFlag=16 | SUBSCRIPTION, subscription="*"))) == (0, bodies, 2)


# Refusals.


@pytest.mark.behaviour("EB-04")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"topic": "nowhere"}, 17),
        ({"queueId": 1}, 29),
        ({"queueId": -1}, 29),
        ({"subVersion": 2}, 25),
        ({"consumerGroup": "strangers"}, 24),
        ({"consumerGroup": "not legal!"}, 26),
        ({"consumerGroup": ""}, 1),
        ({"queueOffset": "x"}, 1),
        ({"queueOffset": str(2**63)}, 1),
        ({"maxMsgNums": ""}, 1),
    ],
)
def test_a_pull_that_cannot_be_served_is_refused_by_its_code(
    client: Client, change: dict[str, object], code: int
) -> None:
    answer = client.pull(**{"topic": TOPIC, **change})  # type: ignore[arg-type]
    assert (answer.code, answer.ext_fields) == (code, {})


@pytest.mark.behaviour("EB-04")
def test_a_topic_that_is_not_in_the_groups_subscription_is_refused(rig: Rig, client: Client) -> None:
    rig.create_topic("other")
    assert client.pull(topic="other").code == 24


@pytest.mark.behaviour("EB-04")
def test_a_topic_without_read_permission_is_refused(rig: Rig, client: Client) -> None:
    rig.create_topic(TOPIC, perm=2)
    assert client.pull().code == 16


# Commits.


@pytest.mark.behaviour("EB-05")
def test_a_pull_commits_the_offset_it_carries_whatever_it_finds(client: Client) -> None:
    fill(client, 4)
    client.pull(4, sysFlag=COMMIT, commitOffset=3)
    assert client.ask(14, {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0}).ext_fields["offset"] == "3"
    client.pull(4, sysFlag=0, commitOffset=4)
    assert client.ask(14, {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0}).ext_fields["offset"] == "3"


# Long polling.


@pytest.mark.behaviour("EB-06")
def test_a_pull_at_the_end_is_held_and_answered_when_a_message_is_on_the_disk(rig: Rig, client: Client) -> None:
    opaque = client.begin(11, client.pull_fields(0, sysFlag=SUSPEND))
    rig.loop.advance(1_000)
    assert client.answer(opaque) is None
    rig.loop.hold_commits = True
    rig.client().begin(310, {"b": TOPIC, "e": 0, "i": ""}, b"new")
    rig.loop.run()
    assert client.answer(opaque) is None
    rig.loop.end_commit()
    answer = client.answer(opaque)
    assert answer is not None
    assert found(answer) == (0, [b"new"], 1)


@pytest.mark.behaviour("EB-06")
def test_a_held_pull_is_answered_with_nothing_by_the_first_sweep_after_its_time(rig: Rig, client: Client) -> None:
    opaque = client.begin(11, client.pull_fields(0, sysFlag=SUSPEND, suspendTimeoutMillis=6_000))
    rig.loop.advance(9_999)
    assert client.answer(opaque) is None
    rig.loop.advance(1)
    answer = client.answer(opaque)
    assert answer is not None
    assert (answer.code, answer.ext_fields["nextBeginOffset"]) == (19, "0")


@pytest.mark.behaviour("EB-06")
def test_a_message_that_does_not_match_wakes_nobody_but_the_sweep_moves_the_queue_on(rig: Rig, client: Client) -> None:
    client.heartbeat(topic="A")
    opaque = client.begin(11, client.pull_fields(0, sysFlag=SUSPEND))
    rig.client().send(b"b", properties={"TAGS": "B"})
    assert client.answer(opaque) is None
    rig.loop.advance(5_000)
    answer = client.answer(opaque)
    assert answer is not None
    assert (answer.code, answer.ext_fields["nextBeginOffset"]) == (20, "1")


@pytest.mark.behaviour("EB-06")
def test_every_held_pull_of_a_queue_is_answered_once(rig: Rig, client: Client) -> None:
    opaques = [client.begin(11, client.pull_fields(0, sysFlag=SUSPEND)) for _ in range(3)]
    fill(client, 2)
    rig.loop.advance(20_000)
    for opaque in opaques:
        assert len([each for each in client.written if each.is_response and each.opaque == opaque]) == 1


@pytest.mark.behaviour("EB-22")
def test_held_pulls_are_answered_some_at_a_time_and_each_once(rig: Rig, client: Client) -> None:
    opaques = [client.begin(11, client.pull_fields(0, sysFlag=SUSPEND)) for _ in range(100)]
    before = len(client.written)
    rig.client().begin(310, {"b": TOPIC, "e": 0, "i": ""}, b"new")
    answered: list[int] = []
    while rig.loop.turn():
        answered.append(len(client.written) - before - sum(answered))
    assert 0 < max(answered) <= 16
    assert sorted(each.opaque for each in client.written[before:]) == opaques


@pytest.mark.behaviour("EB-22")
def test_held_pulls_that_want_none_of_many_new_messages_are_looked_at_some_at_a_time(rig: Rig) -> None:
    clients = [rig.client() for _ in range(2)]
    for client in clients:
        for _ in range(40):
            client.begin(
                11,
                client.pull_fields(0, expressionType="SQL92", sysFlag=SUSPEND | SUBSCRIPTION, subscription="a = '1'"),
            )
        wanted = client.begin(
            11, client.pull_fields(0, expressionType="SQL92", sysFlag=SUSPEND | SUBSCRIPTION, subscription="a = '2'")
        )
    rig.client().begin(310, {"b": TOPIC, "e": 0, "i": "a\x012\x02"}, b"new")
    turns = 0
    while rig.loop.turn():
        turns += 1
    assert turns > 80 * 16 // 256
    assert [len(client.written) for client in clients] == [1, 1]
    assert clients[1].written[0].opaque == wanted


@pytest.mark.behaviour("EB-22")
def test_what_comes_while_pulls_are_looked_at_is_looked_at_next(rig: Rig, client: Client) -> None:
    client.heartbeat(topic="A")
    for _ in range(600):
        client.begin(11, client.pull_fields(0, sysFlag=SUSPEND))
    before = len(client.written)
    sender = rig.client()
    sender.begin(310, {"b": TOPIC, "e": 0, "i": "TAGS\x01B\x02"}, b"b")
    for _ in range(3):  # its commit, and the first of the pulls
        rig.loop.turn()
    sender.begin(310, {"b": TOPIC, "e": 0, "i": "TAGS\x01A\x02"}, b"a")
    rig.loop.run()
    answers = client.written[before:]
    assert len(answers) == 600
    assert {(each.code, each.ext_fields["nextBeginOffset"]) for each in answers} == {(0, "2")}


@pytest.mark.behaviour("EB-06")
def test_without_the_wish_to_wait_nothing_is_held(client: Client) -> None:
    assert client.pull(0).code == 19


@pytest.mark.behaviour("EB-06")
def test_the_checks_are_made_again_when_a_held_pull_is_answered(rig: Rig, client: Client) -> None:
    opaque = client.begin(11, client.pull_fields(0, sysFlag=SUSPEND))
    client.ask(35, {"clientID": "client", "consumerGroup": GROUP})
    rig.client().send(b"new")
    answer = client.answer(opaque)
    assert answer is not None
    assert answer.code == 24


@pytest.mark.behaviour("EB-06")
def test_what_a_connection_waited_for_is_forgotten_with_it(rig: Rig, client: Client) -> None:
    other = rig.client()
    opaques = [client.begin(11, client.pull_fields(0, sysFlag=SUSPEND)) for _ in range(3)]
    stays = other.begin(11, other.pull_fields(0, sysFlag=SUSPEND | SUBSCRIPTION, subscription="*"))
    rig.controller.on_close(client)
    rig.client().send(b"new")
    assert [client.answer(opaque) for opaque in opaques] == [None] * 3
    assert other.answer(stays) is not None
