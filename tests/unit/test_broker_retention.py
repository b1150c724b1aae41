"""What the embedded broker deletes: what is old, what is too much, and what belonged to a deleted topic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from rocketmq_py.broker import clean_commit_log_service as cleaning
from rocketmq_py.broker.clean_commit_log_service import CLEAN_RESOURCE_INTERVAL_MS, CleanCommitLogService
from rocketmq_py.broker.commit_log import DISK_RESERVE_BYTES, CommitLog, MessageInner
from rocketmq_py.broker.store import PAGE_BYTES, QueueKey
from rocketmq_py.broker.topic_config import SCHEDULE_TOPIC
from rocketmq_py.errors import StoreError
from tests.unit.broker_rig import TOPIC, Client, Rig, found, messages

RESERVED_MS = 60_000
MIB = 1024 * 1024


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, reserved_ms=RESERVED_MS)
    rig.create_topic(queues=2)
    yield rig
    rig.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    client = rig.client()
    client.heartbeat()
    return client


def bounds(client: Client, queue_id: int = 0, topic: str = TOPIC) -> tuple[int, int]:
    fields = {"topic": topic, "queueId": queue_id}
    return int(client.ask(31, fields).ext_fields["offset"]), int(client.ask(30, fields).ext_fields["offset"])


def pull(client: Client, offset: int, queue_id: int = 0) -> tuple[int, list[bytes], int]:
    return found(client.pull(offset, queue_id=queue_id, sysFlag=4, subscription="*"))


def a_round(rig: Rig) -> None:
    rig.loop.advance(CLEAN_RESOURCE_INTERVAL_MS)


@pytest.mark.behaviour("DU-01")
def test_messages_older_than_the_reserved_time_go_and_queues_begin_later(rig: Rig, client: Client) -> None:
    for number in range(3):
        client.send(b"old %d" % number)
    client.send(b"old", queue_id=1)
    rig.loop.advance(RESERVED_MS - 30_000)
    for number in range(2):
        client.send(b"young %d" % number)
    rig.loop.advance(30_000 - 2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert bounds(client) == (0, 5)
    rig.loop.advance(3 * CLEAN_RESOURCE_INTERVAL_MS)

    def looks_right() -> None:
        assert bounds(client) == (3, 5)
        assert bounds(client, 1) == (1, 1)
        assert pull(client, 3) == (0, [b"young 0", b"young 1"], 5)
        too_small = client.pull(1, sysFlag=4, subscription="*")
        assert (too_small.code, too_small.remark) == (21, "OFFSET_TOO_SMALL")
        assert {name: too_small.ext_fields[name] for name in ("nextBeginOffset", "minOffset", "maxOffset")} == {
            "nextBeginOffset": "3", "minOffset": "3", "maxOffset": "5",
        }  # fmt: skip
        assert pull(client, 0, queue_id=1) == (21, [], 1)

    looks_right()
    rig.reopen()
    client = rig.client()
    client.heartbeat()
    looks_right()
    assert client.send(b"more", queue_id=1).ext_fields["queueOffset"] == "1"


@pytest.mark.behaviour("DU-01")
def test_a_store_that_lost_all_messages_to_time_gives_no_offset_and_no_id_again(rig: Rig, client: Client) -> None:
    first = client.send().ext_fields["msgId"]
    last = client.send().ext_fields["msgId"]
    rig.loop.advance(RESERVED_MS + 2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert bounds(client) == (2, 2)
    rig.reopen()
    answer = rig.client().send()
    assert answer.ext_fields["queueOffset"] == "2"
    assert answer.ext_fields["msgId"] > last > first


@pytest.mark.behaviour("DU-01")
def test_without_a_reserved_time_nothing_gets_too_old(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.create_topic()
    client = rig.client()
    client.send()
    rig.loop.advance(3 * RESERVED_MS)
    assert bounds(client) == (0, 1)
    rig.close()


@pytest.mark.behaviour("DU-01")
def test_an_offset_by_time_and_a_message_by_id_know_of_what_is_gone(rig: Rig, client: Client) -> None:
    gone = int(client.send().ext_fields["msgId"][16:], 16)
    rig.loop.advance(RESERVED_MS)
    client.send(b"young")
    rig.loop.advance(2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert client.ask(29, {"topic": TOPIC, "queueId": 0, "timestamp": 0}).ext_fields["offset"] == "1"
    assert client.ask(33, {"offset": gone}).code == 1
    back = client.ask(36, {"group": "group", "offset": gone, "delayLevel": 0})
    assert (back.code, back.remark) == (1, f"look message by offset failed, {gone}")


@pytest.mark.behaviour("DU-02")
def test_beyond_the_bytes_allowed_the_oldest_go_and_the_file_shrinks(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_bytes=2 * MIB)
    rig.create_topic(queues=2)
    client = rig.client()
    for number in range(300):
        client.send(os.urandom(20_000), queue_id=number % 2)
    rig.store.close()  # written back: the file is as large as it gets
    rig.loop.__init__(rig.clock)  # type: ignore[misc]
    rig.open()
    before = (tmp_path / "store.db").stat().st_size
    assert before > 6_000_000
    a_round(rig)
    client = rig.client()
    (low, high), (other_low, other_high) = bounds(client), bounds(client, 1)
    assert high == other_high == 150
    assert abs(low - other_low) <= 1  # the oldest, whatever queue they are in
    assert 40 < high - low < 55
    pages, free = rig.store.pages()
    assert (pages - free) * PAGE_BYTES <= 2 * MIB
    assert (tmp_path / "store.db").stat().st_size == pages * PAGE_BYTES <= 2 * MIB + 70 * PAGE_BYTES
    assert len(messages(client.pull(low, sysFlag=4, subscription="*"))) > 0
    rig.close()


@pytest.mark.behaviour("DU-02")
def test_free_pages_stay_as_long_as_they_are_few(tmp_path: Path) -> None:
    rig = Rig(tmp_path, reserved_ms=RESERVED_MS)
    rig.create_topic()
    client = rig.client()
    for _ in range(20):
        client.send(os.urandom(20_000))
    rig.loop.advance(RESERVED_MS)
    pages, _ = rig.store.pages()
    a_round(rig)
    assert bounds(client) == (20, 20)
    assert rig.store.pages()[0] == pages
    assert rig.store.pages()[1] > 20
    rig.close()


@pytest.mark.behaviour("DU-03")
def test_a_delayed_message_stays_until_it_has_been_delivered(tmp_path: Path) -> None:
    rig = Rig(tmp_path, levels="1s 100s", reserved_ms=RESERVED_MS)
    rig.create_topic()
    client = rig.client()
    client.send(b"soon", properties={"DELAY": "1"})
    client.send(b"late", properties={"DELAY": "2"})
    rig.loop.advance(99_000)
    assert bounds(client, 0, SCHEDULE_TOPIC) == (1, 1)
    assert bounds(client, 1, SCHEDULE_TOPIC) == (0, 1)
    assert bounds(client) == (1, 1)
    rig.loop.advance(2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert pull(client, 1) == (0, [b"late"], 2)
    assert bounds(client, 1, SCHEDULE_TOPIC) == (1, 1)
    rig.close()


def put(rig: Rig, topic: str, count: int = 3) -> CommitLog:
    log: CommitLog = rig.controller.commit_log
    log.put([MessageInner(topic, 0, b"body", {}) for _ in range(count)], lambda error: None)
    rig.loop.run()
    return log


@pytest.mark.behaviour("DU-03")
@pytest.mark.parametrize("topic", ["rmq_sys_other", "rmq_sys_REVIVE_LOG_x"])
def test_what_the_broker_keeps_for_itself_stays_while_nobody_says_how_far_it_may_go(rig: Rig, topic: str) -> None:
    log = put(rig, topic)
    rig.loop.advance(RESERVED_MS + 2 * CLEAN_RESOURCE_INTERVAL_MS)
    key = QueueKey(topic, 0)
    assert log.min_offset(key) == 0
    rig.controller.cleaner.keep(lambda asked: 2 if asked == key else None, topic)
    a_round(rig)
    assert log.min_offset(key) == 2


@pytest.mark.behaviour("DU-03")
def test_whoever_still_needs_a_message_of_any_topic_keeps_it_and_what_is_behind_it(rig: Rig, client: Client) -> None:
    needed: dict[QueueKey, int] = {QueueKey(TOPIC, 0): 1}
    rig.controller.cleaner.keep(needed.get)
    for queue_id in (0, 1):
        for _ in range(3):
            client.send(queue_id=queue_id)
    rig.loop.advance(RESERVED_MS + 2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert (bounds(client), bounds(client, 1)) == ((1, 3), (3, 3))
    needed.clear()
    a_round(rig)
    assert bounds(client) == (3, 3)


@pytest.mark.behaviour("DU-04")
def test_a_step_asks_once_for_each_queue_what_is_needed(rig: Rig, client: Client) -> None:
    asked: list[QueueKey] = []
    rig.controller.cleaner.keep(asked.append)
    for _ in range(20):
        client.send()
    rig.loop.advance(RESERVED_MS + CLEAN_RESOURCE_INTERVAL_MS)
    assert bounds(client) == (20, 20)
    assert asked == [QueueKey(TOPIC, 0)]


@pytest.mark.behaviour("DU-04")
def test_a_step_deletes_a_bounded_number_and_others_are_answered_before_the_next(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "STEP_MAX_COUNT", 10)
    for _ in range(25):
        client.send()
    rig.loop.advance(RESERVED_MS)
    rig.loop.hold_commits = True
    rig.loop.advance(CLEAN_RESOURCE_INTERVAL_MS)
    assert bounds(client) == (10, 25)
    asked = client.begin(
        310, {"a": "p", "b": TOPIC, "c": "TBW102", "d": 4, "e": 1, "f": 0, "g": 1, "h": 0, "i": "UNIQ_KEY\1x\2"}, b"x"
    )
    rig.loop.end_commit()  # of the first step: the second is one group with the send
    assert bounds(client) == (20, 25)
    rig.loop.end_commit()
    answer = client.answer(asked)
    assert answer is not None
    assert answer.code == 0
    assert bounds(client) == (25, 25)
    rig.loop.end_commit()


@pytest.mark.behaviour("DU-03")
def test_a_young_message_whose_moment_was_damaged_stays_until_it_is_old(rig: Rig, client: Client) -> None:
    client.send(b"young")
    change(rig, "UPDATE message SET stored_ms = 0")
    a_round(rig)
    assert pull(client, 0) == (0, [b"young"], 1)
    rig.loop.advance(RESERVED_MS)
    assert bounds(client) == (1, 1)


@pytest.mark.behaviour("DU-03")
def test_a_damaged_message_goes_when_it_is_old(rig: Rig, client: Client) -> None:
    client.send(b"damaged")
    change(rig, "UPDATE message SET crc = crc + 1")
    rig.loop.advance(RESERVED_MS + CLEAN_RESOURCE_INTERVAL_MS)
    assert bounds(client) == (1, 1)


@pytest.mark.behaviour("DU-03")
def test_timers_stay_while_the_first_of_them_is_not_found(rig: Rig, client: Client) -> None:
    for number in range(3):
        client.send(properties={"UNIQ_KEY": f"id {number}", "TIMER_DELAY_SEC": str(1_000 + number)})
    change(rig, "DELETE FROM message WHERE id = 1")
    rig.loop.advance(RESERVED_MS + 2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert [head.id for head in rig.store.messages.heads(0, 9)] == [2, 3]


def change(rig: Rig, statement: str) -> None:
    """Change the store with its own means."""
    with closing(apsw.Connection(str(rig.store.directory / "store.db"))) as plain:
        plain.execute(statement)


@pytest.mark.behaviour("DU-04")
def test_large_messages_are_deleted_few_at_a_time(rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "STEP_MAX_BYTES", 25_000)
    for _ in range(5):
        client.send(bytes(10_000))
    client.send(bytes(100_000))
    rig.loop.advance(RESERVED_MS)
    rig.loop.hold_commits = True
    rig.loop.advance(CLEAN_RESOURCE_INTERVAL_MS)
    begins = []
    for _ in range(4):
        begins.append(bounds(client)[0])
        rig.loop.end_commit()
    assert begins == [2, 4, 5, 6]


@pytest.mark.behaviour("DU-04")
def test_what_must_stay_does_not_hide_what_is_behind_it(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "STEP_MAX_COUNT", 5)
    put(rig, "RMQ_SYS_TRANS_HALF_TOPIC", 12)
    client.send()
    rig.loop.advance(RESERVED_MS + 2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert bounds(client) == (1, 1)


@pytest.mark.behaviour("DU-05")
def test_queues_of_a_deleted_topic_are_gone_at_once_and_their_messages_soon(rig: Rig, client: Client) -> None:
    for _ in range(3):
        client.send()
    log = rig.controller.commit_log
    log.delete_queues(TOPIC, lambda error: None)
    rig.loop.run()
    assert bounds(client) == (0, 0)
    assert client.send(b"anew").ext_fields["queueOffset"] == "0"
    rig.reopen()
    client = rig.client()
    assert pull(client, 0) == (0, [b"anew"], 1)
    assert len(rig.store.messages.heads(0, 100)) == 4
    assert len(rig.store.messages.dropped_queues()) == 1
    a_round(rig)
    assert [head.id for head in rig.store.messages.heads(0, 100)] == [4]
    assert rig.store.messages.dropped_queues() == []
    assert pull(client, 0) == (0, [b"anew"], 1)


@pytest.mark.behaviour("DU-05")
def test_a_topic_deleted_while_a_message_of_its_is_being_written_begins_anew(rig: Rig, client: Client) -> None:
    log, key = rig.controller.commit_log, QueueKey(TOPIC, 0)
    told: list[StoreError | None] = []
    message = MessageInner(TOPIC, 0, b"body", {})
    log.put([message, message], told.append)
    log.delete_queues(TOPIC, told.append)
    assert log.put([message], told.append)[0].queue_offset == 0
    rig.loop.run()
    assert told == [None, None, None]
    assert (log.min_offset(key), log.max_offset(key)) == (0, 1)
    rig.reopen()
    assert bounds(rig.client()) == (0, 1)


@pytest.mark.behaviour("DU-06")
def test_on_a_full_disk_sends_are_refused_and_taken_again_when_there_is_room(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = int(client.send().ext_fields["msgId"][16:], 16)
    room: list[int] = [DISK_RESERVE_BYTES - 1]
    monkeypatch.setattr(rig.store, "free_bytes", lambda: room[0])
    rig.loop.advance(1_000)
    for refused in (client.send(), client.ask(36, {"group": "group", "offset": offset, "delayLevel": 0})):
        assert refused.code == 14
        assert refused.remark is not None
        assert "the broker's disk is full. Make room" in refused.remark
    assert pull(client, 0)[0] == 0
    assert client.ask(15, {"consumerGroup": "group", "topic": TOPIC, "queueId": 0, "commitOffset": 1}).code == 0
    rig.loop.advance(RESERVED_MS + 2 * CLEAN_RESOURCE_INTERVAL_MS)
    assert bounds(client) == (1, 1)  # what is old goes all the same
    room[0] = DISK_RESERVE_BYTES
    rig.loop.advance(1_000)
    assert client.send().code == 0


@pytest.mark.behaviour("DU-06")
def test_a_store_that_has_failed_is_not_cleaned_any_more(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client.send()
    broken: Callable[[int], None] = lambda last_id: (_ for _ in ()).throw(OSError("broken"))  # noqa: E731
    monkeypatch.setattr(rig.store, "commit", broken)
    rig.loop.advance(RESERVED_MS + 2 * CLEAN_RESOURCE_INTERVAL_MS)
    errors = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert len(errors) == 1
    assert client.send().code == 1
    assert isinstance(rig.controller.cleaner, CleanCommitLogService)
