from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from rocketmq_py.consumer.offset_store import NO_OFFSET, OFFSET_UNKNOWN
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.consumer.running_info import config_properties, consumer_running_info
from rocketmq_py.errors import RequestTimeoutError
from rocketmq_py.model.config import ConsumeFromWhere, ConsumerConfig
from rocketmq_py.model.results import QueueAssignment
from rocketmq_py.model.running_info import ConsumerRunningInfo, ConsumeStatus, PopProcessQueueInfo, ProcessQueueInfo
from rocketmq_py.remoting.bodies import encode_consumer_running_info
from rocketmq_py.runtime import STACKS_INTERVAL_MS, ThreadStacks, thread_stacks
from rocketmq_py.testing import ManualClock
from tests.unit.support import GROUP, TOPIC, Core, messages, mq

STARTED = 1_600_000_000_000


def info_of(core: Core, jstack: str | None = None) -> ConsumerRunningInfo:
    return consumer_running_info(
        group=GROUP,
        config=core.config,
        client_id="10.0.0.1@77#1@unit",
        orderly=False,
        start_timestamp=STARTED,
        subscriptions=core.rebalance.subscriptions_to_announce(),
        windows=core.rebalance.windows(),
        popped=core.pop_queues.queues(),
        offset_store=core.store,
        stats=core.stats_manager,
        clock=core.clock,
        core_pool_size=7,
        jstack=jstack,
    )


@pytest.mark.behaviour("OP-01")
def test_a_window_tells_its_lowest_and_highest_offset_and_what_an_orderly_listener_has_taken() -> None:
    clock = ManualClock(start_ms=1_000)
    queue = ProcessQueue(clock)
    queue.put_message(messages(*range(5, 10), size=1024 * 1024))
    clock.advance(10)
    queue.take_messages(2)
    queue.locked = True
    queue.try_unlock_times = 3
    queue.last_lock_timestamp, queue.last_pull_timestamp = 7, 8
    assert queue.fill_process_queue_info(4) == ProcessQueueInfo(
        commit_offset=4, cached_msg_min_offset=7, cached_msg_max_offset=9, cached_msg_count=3, cached_msg_size_in_mib=5,
        transaction_msg_min_offset=5, transaction_msg_max_offset=6, transaction_msg_count=2, locked=True,
        try_unlock_times=3, last_lock_timestamp=7, dropped=False, last_pull_timestamp=8, last_consume_timestamp=1_010,
    )  # fmt: skip


@pytest.mark.behaviour("OP-01")
def test_an_empty_window_tells_zeros() -> None:
    info = ProcessQueue(ManualClock()).fill_process_queue_info(NO_OFFSET)
    assert (info.cached_msg_min_offset, info.cached_msg_max_offset, info.cached_msg_count) == (0, 0, 0)
    assert (info.transaction_msg_min_offset, info.transaction_msg_max_offset, info.transaction_msg_count) == (0, 0, 0)
    assert (info.commit_offset, info.cached_msg_size_in_mib, info.locked, info.dropped) == (NO_OFFSET, 0, False, False)


@pytest.mark.behaviour("OP-02")
def test_a_running_consumer_tells_its_settings_subscriptions_windows_and_rates() -> None:
    core = Core(queues=2, namesrv_addr="a:1;b:2", consume_thread_min=3)
    core.broker.store(mq(1), b"1", b"2")
    core.begin()
    core.pool.held = True
    core.broker.answer_pulls()
    core.store.update_offset(mq(1), 0, increase_only=True)
    core.runtime.advance(10_000)
    info = info_of(core)
    assert {name: value for name, value in info.properties.items() if name.startswith("PROP")} == {
        "PROP_CONSUMEORDERLY": "false",
        "PROP_THREADPOOL_CORE_SIZE": "7",
        "PROP_CONSUMER_START_TIMESTAMP": str(STARTED),
        "PROP_NAMESERVER_ADDR": "a:1;b:2;",
        "PROP_CONSUME_TYPE": "CONSUME_PASSIVELY",
        "PROP_CLIENT_VERSION": "V5_5_0",
    }
    assert info.properties["consumerGroup"] == GROUP
    assert (info.properties["clientIP"], info.properties["instanceName"]) == ("10.0.0.1", "77#1")
    assert [each.topic for each in info.subscriptions] == [TOPIC]
    assert set(info.mq_table) == {mq(0), mq(1)}
    window = info.mq_table[mq(1)]
    assert (window.commit_offset, window.cached_msg_max_offset, window.cached_msg_count) == (0, 1, 2)
    assert info.mq_table[mq(0)].commit_offset == NO_OFFSET
    assert info.status_table == {TOPIC: core.stats_manager.consume_status(GROUP, TOPIC)}
    assert info.status_table[TOPIC].pull_tps == 0.2
    assert info.jstack is None
    assert info_of(core, "stacks").jstack == "stacks"


@pytest.mark.behaviour("OP-02")
def test_moments_are_told_by_the_wall_clock_though_they_are_kept_by_the_other() -> None:
    core = Core(namesrv_addr="a:1")
    core.begin()
    core.clock.shift_wall(5_000_000)
    (info,) = info_of(core).mq_table.values()
    (window,) = core.windows.values()
    assert info.last_pull_timestamp == window.last_pull_timestamp + 5_000_000
    assert info.last_consume_timestamp == window.last_consume_timestamp + 5_000_000
    assert info.last_lock_timestamp == window.last_lock_timestamp + 5_000_000


@pytest.mark.behaviour("PO-35")
def test_a_popping_consumer_tells_its_popped_queues_moments_by_the_wall_clock() -> None:
    core = Core(namesrv_addr="a:1", assigned_by_broker=True)
    core.broker.assignments[TOPIC] = QueueAssignment(pop=frozenset({mq(-1)}))
    core.rebalance.do_rebalance()
    core.clock.shift_wall(5_000_000)
    ((_, queue),) = core.pop_queues.queues()
    queue.inc_found_msg(3)
    info = info_of(core)
    assert info.mq_pop_table == {mq(-1): PopProcessQueueInfo(3, False, queue.last_pop_timestamp + 5_000_000)}
    assert info.mq_table == {}
    told = encode_consumer_running_info(info)
    assert b'"mqPopTable":{{"brokerName":"broker-a","queueId":-1,"topic":"topic"}:{"droped":false,' in told


@pytest.mark.behaviour("OP-02")
def test_an_offset_that_is_not_in_memory_is_asked_for_until_a_broker_does_not_answer() -> None:
    core = Core(queues=3, namesrv_addr="a:1")
    core.begin()
    for number in range(3):
        core.store.remove_offset(mq(number))
    core.broker.offsets[GROUP, mq(1)] = 7
    assert [info_of(core).mq_table[mq(number)].commit_offset for number in range(3)] == [NO_OFFSET, 7, NO_OFFSET]
    core.store.remove_offset(mq(1))
    core.broker.failing["query_consumer_offset"] = RequestTimeoutError("no answer")
    table = info_of(core).mq_table
    assert sorted(info.commit_offset for info in table.values()) == [OFFSET_UNKNOWN, NO_OFFSET, NO_OFFSET]


def test_a_topic_of_which_nothing_was_ever_counted_has_rates_of_0() -> None:
    assert info_of(Core(namesrv_addr="a:1")).status_table == {TOPIC: ConsumeStatus()}


class _Strategy:
    def __repr__(self) -> str:
        return "password=1234"


@pytest.mark.behaviour("OP-03")
def test_settings_are_told_by_their_java_names_without_what_is_none() -> None:
    config = ConsumerConfig(
        client_ip="10.0.0.1", consume_from_where=ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, unit_mode=True,
        consume_timestamp="20260101000000", allocate_message_queue_strategy=_Strategy(),
    )  # fmt: skip
    properties = config_properties(config)
    assert properties["clientIP"] == "10.0.0.1"
    assert properties["consumeFromWhere"] == "CONSUME_FROM_TIMESTAMP"
    assert (properties["unitMode"], properties["postSubscriptionWhenPull"]) == ("true", "false")
    assert properties["pullTimeDelayMillsWhenException"] == "1000"
    assert properties["consumeTimestamp"] == "20260101000000"
    assert properties["allocateMessageQueueStrategy"] == "_Strategy"
    assert "unitName" not in properties


@pytest.mark.behaviour("OP-03")
def test_settings_that_may_hold_a_secret_are_not_told() -> None:
    from dataclasses import dataclass

    @dataclass(kw_only=True, slots=True, eq=False)
    class Secretive(ConsumerConfig):
        access_key: str = "visible?"
        secret_key: str = "visible?"
        security_token: str = "visible?"
        tls_key_password: str = "visible?"

    properties = config_properties(Secretive())
    assert "visible?" not in properties.values()
    assert len(properties) > 20


@pytest.mark.behaviour("OP-08")
def test_the_stacks_of_all_threads_are_told_with_their_names_innermost_call_first() -> None:
    inside, leave = threading.Event(), threading.Event()

    def stand_still() -> None:
        inside.set()
        leave.wait(30)

    thread = threading.Thread(target=stand_still, name="standing")
    thread.start()
    try:
        assert inside.wait(30)
        stacks = thread_stacks().split("\n\n")
    finally:
        leave.set()
        thread.join()
    (standing,) = [stack for stack in stacks if stack.lstrip("\n").startswith("standing ")]
    lines = standing.strip().splitlines()
    assert lines[0].split() == ["standing", "TID:", str(thread.ident)]
    assert all(line.startswith(f"{'standing':<40}") for line in lines)
    functions = [line[40:].partition("(")[0].rpartition(".")[2] for line in lines[1:]]
    assert functions.index("wait") < functions.index("stand_still") < functions.index("run")


@pytest.mark.behaviour("OP-08")
def test_a_deep_stack_is_told_in_part() -> None:
    def sink(depth: int) -> str:
        return thread_stacks() if depth == 0 else sink(depth - 1)

    assert sink(500).count("sink(") < 250


FORK_WHILE_ANOTHER_THREAD_HOLDS_THE_LOCK = """
import os, signal, threading
from rocketmq_py.runtime import operators_stacks
held, told = threading.Event(), threading.Event()
def hold():
    with operators_stacks._lock:
        held.set()
        told.wait()
operators_stacks.text()
thread = threading.Thread(target=hold, name="of the parent")
thread.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    def in_the_child():
        return operators_stacks.text()
    print("in_the_child" in in_the_child(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
told.set()
"""


@pytest.mark.behaviour("OP-13")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_forked_while_stacks_are_written_down_tells_its_own() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK_WHILE_ANOTHER_THREAD_HOLDS_THE_LOCK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.behaviour("OP-13")
def test_stacks_are_written_down_once_a_second_however_often_they_are_asked_for() -> None:
    clock = ManualClock()
    stacks = ThreadStacks(clock)

    def first_asker() -> str:
        return stacks.text()

    first = first_asker()
    clock.advance(STACKS_INTERVAL_MS - 1)
    assert stacks.text() is first
    assert "first_asker" in first
    clock.advance(1)
    assert "first_asker" not in stacks.text()
