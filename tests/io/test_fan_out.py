"""Fan-out on real threads and executors, and within a real consumer."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rocketmq_py.batch import FanOut, Outcome, OutcomeState, fan_out
from rocketmq_py.errors import BrokerError, RequestTimeoutError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.status import GrpcStatusError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import ConsumeConcurrentlyContext
from tests.io.conftest import MakeCluster, MakeConsumer
from tests.io.server import eventually
from tests.unit.support import LATER, SUCCESS, message, messages, mq

PATIENCE_S = 30


def call(fan: FanOut, count: int) -> tuple[object, ConsumeConcurrentlyContext]:
    context = ConsumeConcurrentlyContext(mq())
    return fan.consume_message(messages(*range(count)), context), context


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("FanOutThread_")]


@pytest.mark.behaviour("FO-01", "FO-04")
@pytest.mark.parametrize("own_pool", [True, False])
def test_the_messages_of_a_batch_are_handled_at_the_same_time_and_told_as_they_end(own_pool: bool) -> None:
    together = threading.Barrier(8)
    turns = [threading.Event() for _ in range(8)]
    turns[7].set()
    told: list[Outcome] = []

    def handle(msg: MessageExt) -> None:
        together.wait(PATIENCE_S)
        assert turns[msg.queue_offset].wait(PATIENCE_S)
        if msg.queue_offset:
            turns[msg.queue_offset - 1].set()

    with ThreadPoolExecutor(8) as executor:
        fan = fan_out(handle, 8 if own_pool else executor, on_results=told.extend)
        assert call(fan, 8)[0] is SUCCESS
        # Each lets the one before it go on just before it ends itself, so neighbours may change places.
        assert [abs(outcome.place - number) <= 4 for number, outcome in enumerate(reversed(told))] == [True] * 8
        fan.shutdown()


@pytest.mark.behaviour("FO-01")
@pytest.mark.parametrize("own_pool", [True, False])
def test_at_the_first_failure_what_waits_is_not_begun_and_what_runs_is_waited_for(own_pool: bool) -> None:
    begun: list[int] = []
    ended: list[int] = []
    failed = threading.Event()

    def handle(msg: MessageExt) -> bool:
        begun.append(msg.queue_offset)
        if msg.queue_offset == 0:
            failed.set()
            return False
        assert failed.wait(PATIENCE_S)
        time.sleep(0.1)
        ended.append(msg.queue_offset)
        return True

    with ThreadPoolExecutor(2) as executor:
        told: list[Outcome] = []
        fan = fan_out(handle, 2 if own_pool else executor, on_results=told.extend)
        assert call(fan, 50)[0] is LATER
        assert sorted(ended) == sorted(offset for offset in begun if offset), "the straggler had ended"
        assert len(begun) < 50
        assert sum(outcome.state is OutcomeState.CANCELLED for outcome in told) == 50 - len(begun)
        before = list(begun)
        fan.shutdown()
    assert begun == before


@pytest.mark.behaviour("FO-06")
@pytest.mark.parametrize("own_pool", [True, False])
def test_after_the_time_out_nothing_more_is_begun_and_what_runs_counts_as_it_ends(own_pool: bool) -> None:
    begun: list[int] = []

    def handle(msg: MessageExt) -> None:
        begun.append(msg.queue_offset)
        time.sleep(0.3)

    with ThreadPoolExecutor(1) as executor:
        fan = fan_out(handle, 1 if own_pool else executor, "each", timeout_ms=100)
        status, context = call(fan, 5)
        assert status is SUCCESS
        assert context.failed_indexes == frozenset(range(5)) - set(begun)
        assert begun == [0]
        fan.shutdown()


@pytest.mark.behaviour("FO-06")
def test_with_the_last_consumer_the_pool_ends_and_what_waited_for_it_is_not_begun() -> None:
    begun: list[int] = []
    running, goes_on = threading.Event(), threading.Event()

    def handle(msg: MessageExt) -> None:
        begun.append(msg.queue_offset)
        running.set()
        assert goes_on.wait(PATIENCE_S)

    fan = fan_out(handle, 1, "prefix")
    fan.consumer_started()
    fan.consumer_started()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call(fan, 3)))
    thread.start()
    assert running.wait(PATIENCE_S)
    fan.consumer_stopped()
    assert len(pool_threads()) == 1, "another consumer uses it"
    fan.consumer_stopped()
    fan.shutdown()
    goes_on.set()
    thread.join(PATIENCE_S)
    ((status, context),) = answers
    assert (status, context.ack_index, begun) == (SUCCESS, 0, [0])
    assert eventually(lambda: not pool_threads(), PATIENCE_S)
    assert call(fan, 2)[0] is SUCCESS, "it can be used again"
    fan.shutdown()
    assert eventually(lambda: not pool_threads(), PATIENCE_S)


@pytest.mark.behaviour("FO-06")
def test_a_consumer_that_ends_ends_the_pool_of_its_listener(
    make_cluster: MakeCluster, make_consumer: MakeConsumer
) -> None:
    handled: list[bytes] = []
    fan = fan_out(lambda msg: handled.append(msg.body), 2, "each")
    cluster = make_cluster()
    cluster.store(b"one", b"two")
    consumer = make_consumer(cluster, start=False).consumer
    consumer.register_message_listener(fan)
    consumer.start()
    assert eventually(lambda: sorted(handled) == [b"one", b"two"], PATIENCE_S)
    assert len(pool_threads()) == 2
    consumer.shutdown()
    assert eventually(lambda: not pool_threads(), PATIENCE_S)


@pytest.mark.behaviour("FO-06")
def test_shutdowns_in_the_middle_of_everything_leave_no_call_waiting() -> None:
    fan = fan_out(lambda msg: time.sleep(0.0002), 4)
    ended = threading.Event()
    problems: list[object] = []

    def consume() -> None:
        while not ended.is_set():
            status, _ = call(fan, 8)
            if status not in (SUCCESS, LATER):
                problems.append(status)

    threads = [threading.Thread(target=consume) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        fan.shutdown()
        time.sleep(0.001)
    ended.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    fan.shutdown()
    assert problems == []
    assert eventually(lambda: not pool_threads(), PATIENCE_S)


@pytest.mark.behaviour("FO-04")
def test_a_message_can_be_given_to_another_process() -> None:
    msg = message(7, body=b"body", keys="k", tags="t", reconsume_times=2)
    copy = pickle.loads(pickle.dumps(msg))
    assert (copy.body, copy.keys, copy.tags, copy.queue_offset, copy.reconsume_times, copy.broker_name) == (
        b"body", "k", "t", 7, 2, "broker-a",
    )  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_can_come_back_from_another_process(protocol: int) -> None:
    """Of a pool of processes whose handler sends, too: an error that cannot be read there breaks the whole pool."""
    for error in (
        BrokerError(208, "no such message", "host:1", "view a message"),
        GrpcStatusError(pb.Status(code=pb.TOPIC_NOT_FOUND, message="no route"), "host:1", "Query route"),
        RequestTimeoutError("no answer"),
    ):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.behaviour("FO-06")
def test_an_executor_that_ends_in_the_middle_loses_no_message() -> None:
    running, goes_on = threading.Event(), threading.Event()

    def handle(msg: MessageExt) -> None:
        running.set()
        assert goes_on.wait(PATIENCE_S)

    executor = ThreadPoolExecutor(1)
    fan = fan_out(handle, executor, "each")
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call(fan, 4)))
    thread.start()
    assert running.wait(PATIENCE_S)
    executor.shutdown(wait=False, cancel_futures=True)
    goes_on.set()
    thread.join(PATIENCE_S)
    ((status, context),) = answers
    assert (status, context.failed_indexes) == (SUCCESS, {1, 2, 3})
