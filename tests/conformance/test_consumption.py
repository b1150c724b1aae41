"""What every server must give a concurrent consumer."""

from __future__ import annotations

import threading
import time
from datetime import datetime

import pytest

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQProducer,
    Message,
)
from rocketmq_py.model.results import DELAY_TO_DLQ, Messages
from tests.conformance.collector import Collector, eventually
from tests.conformance.conftest import SendBodies, StartConsumer
from tests.conformance.servers import ON_BOTH_WIRES, Server

on_both_wires = pytest.mark.parametrize("server", ON_BOTH_WIRES, indirect=True)

SUCCESS = ConsumeConcurrentlyStatus.CONSUME_SUCCESS
LATER = ConsumeConcurrentlyStatus.RECONSUME_LATER


@on_both_wires
@pytest.mark.parametrize("batch_size", [1, 32])
def test_every_message_is_consumed_and_every_queue_committed_to_its_end(
    server: Server, send: SendBodies, start_consumer: StartConsumer, batch_size: int
) -> None:
    topic, group = server.topic(), server.group()
    bodies = send(topic, 4_000)
    collector = Collector()
    consumer = start_consumer(group, topic, collector, consume_message_batch_max_size=batch_size)
    collector.wait_for_bodies(bodies)
    consumer.shutdown()
    assert set(collector.bodies()) == set(bodies)
    assert max(collector.batch_sizes) <= batch_size
    eventually(
        lambda: server.committed_offsets(group, topic) == server.max_offsets(topic), 10, "committed offsets = ends"
    )


@on_both_wires
def test_messages_sent_while_the_consumer_waits_arrive(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    collector = Collector()
    start_consumer(server.group(), topic, collector)
    for _ in range(3):
        collector.wait_for_bodies(send(topic, 100))


@on_both_wires
def test_a_failed_message_comes_again_through_the_retry_topic(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic = server.topic()

    def fail_first(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        return LATER if msgs[0].reconsume_times == 0 else SUCCESS

    collector = Collector(fail_first)
    consumer = start_consumer(server.group(), topic, collector)
    sent = producer.send(Message(topic, b"again", tags="T", keys="k", properties={"own": "property"}))
    collector.wait_until(lambda: len(collector.deliveries) >= 2, 60, "the retry")
    consumer.shutdown()
    first, second = collector.deliveries
    assert (first.reconsume_times, second.reconsume_times) == (0, 1)
    assert (second.topic, second.body, second.msg_id, second.tags, second.keys, second.get_property("own")) == (
        topic, b"again", sent.msg_id, "T", "k", "property",
    )  # fmt: skip


@on_both_wires
def test_a_listener_that_raises_or_answers_none_gets_its_messages_again(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic()

    def fail(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        if msgs[0].reconsume_times == 0:
            raise ValueError("on purpose")
        return None if msgs[0].reconsume_times == 1 else SUCCESS

    collector = Collector(fail)
    start_consumer(server.group(), topic, collector)
    (body,) = send(topic, 1)
    collector.wait_until(lambda: len(collector.deliveries) >= 3, 60, "two retries")
    assert [msg.reconsume_times for msg in collector.deliveries] == [0, 1, 2]
    assert set(collector.bodies()) == {body}


@on_both_wires
def test_a_message_that_always_fails_ends_in_the_dead_letter_topic_after_the_limit(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    server.create_topic(f"%DLQ%{group}", 1)
    collector = Collector(lambda msgs, context: LATER)
    start_consumer(group, topic, collector, max_reconsume_times=2)
    send(topic, 1)
    eventually(lambda: server.max_offsets(f"%DLQ%{group}") == {0: 1}, 60, "one dead letter")
    assert [msg.reconsume_times for msg in collector.deliveries] == [0, 1, 2]


@on_both_wires
def test_delay_level_minus_one_sends_a_failed_message_to_the_dead_letter_topic_at_once(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    server.create_topic(f"%DLQ%{group}", 1)

    def give_up(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        context.delay_level_when_next_consume = DELAY_TO_DLQ
        return LATER

    collector = Collector(give_up)
    start_consumer(group, topic, collector)
    send(topic, 1)
    eventually(lambda: server.max_offsets(f"%DLQ%{group}") == {0: 1}, 60, "one dead letter")
    assert len(collector.deliveries) == 1


def test_only_messages_behind_the_ack_index_come_again(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic(queues=1)
    acknowledged: list[bytes] = []

    def acknowledge_half(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if msgs[0].reconsume_times == 0:
            context.ack_index = len(msgs) // 2 - 1
            acknowledged.extend(msg.body for msg in msgs[: len(msgs) // 2])
        return SUCCESS

    bodies = send(topic, 20)
    collector = Collector(acknowledge_half)
    start_consumer(
        server.group(), topic, collector, consume_message_batch_max_size=32, consume_thread_min=1, consume_thread_max=1
    )
    failed = set(bodies) - set(acknowledged)
    collector.wait_until(lambda: len(collector.deliveries) >= len(bodies) + len(bodies) // 2, 60, "retries")
    counts = collector.bodies()
    failed = set(bodies) - set(acknowledged)
    assert {body for body, count in counts.items() if count == 2} == failed
    assert {body for body, count in counts.items() if count == 1} == set(acknowledged)


def test_only_subscribed_tags_are_delivered_even_when_hashes_collide(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    # Java's hashes of "Aa" and "BB" are equal, so the broker lets both pass.
    wanted = send(topic, 20, tags="Aa")
    also_wanted = [body + b"C" for body in wanted]
    other = DefaultMQProducer("others", namesrv_addr=server.namesrv_addr)
    with other:
        for body in wanted:
            other.send([Message(topic, body + b"B", tags="BB"), Message(topic, body + b"C", tags="C")])
            other.send(Message(topic, body + b"-"))
    collector = Collector()
    consumer = start_consumer(group, topic, collector, tags="Aa || C")
    collector.wait_for_bodies(wanted + also_wanted)
    # What was filtered is committed all the same.
    ends = {queue: end for queue, end in server.max_offsets(topic).items() if end}

    def passed_over() -> bool:
        windows = {mq.queue_id: window for mq, window in consumer.windows().items() if mq.topic == topic}
        return all(queue in windows and windows[queue].next_commit == end for queue, end in ends.items())

    eventually(passed_over, 40, "everything consumed or passed over")
    consumer.shutdown()
    eventually(lambda: ends.items() <= server.committed_offsets(group, topic).items(), 10, "committed to the end")
    assert set(collector.bodies()) == {*wanted, *also_wanted}


def test_two_members_share_the_queues_and_one_takes_over_when_the_other_leaves(
    server: Server, producer: DefaultMQProducer, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    first, second = Collector(), Collector()
    start_consumer(group, topic, first)
    leaving = start_consumer(group, topic, second)
    everything: list[bytes] = []

    def send_to_all_queues() -> list[bytes]:
        sent = [f"{len(everything) + number}".encode() for number in range(16)]
        for body in sent:
            producer.send(Message(topic, body))
        everything.extend(sent)
        return sent

    def came() -> set[bytes]:
        return set(first.bodies()) | set(second.bodies())

    def shared() -> bool:
        round_of = set(send_to_all_queues())
        eventually(lambda: came() >= round_of, server.rebalance_bound_s, "a message in each queue")
        queues = [{msg.queue_id for msg in member.deliveries if msg.body in round_of} for member in (first, second)]
        return not queues[0] & queues[1] and len(queues[0]) == len(queues[1]) == 4

    eventually(shared, server.rebalance_bound_s, "four queues for each of the two")
    leaving.shutdown()
    send_to_all_queues()
    eventually(
        lambda: came() == set(everything), server.rebalance_bound_s, "the queues of the one that left taken over"
    )


# A proxy tells nobody: there the old owner goes on for up to 20 s, and what it has not committed comes again.
@pytest.mark.parametrize("server", ["embedded", "apache-broker"], indirect=True)
def test_a_member_that_joins_gets_nothing_again_that_was_finished(
    server: Server, producer: DefaultMQProducer, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic, group = server.topic(), server.group()
    first, second = Collector(), Collector()
    start_consumer(group, topic, first)
    finished = send(topic, 800)
    first.wait_for_bodies(finished)
    start_consumer(group, topic, second)

    def gets_its_share() -> bool:
        for _ in range(8):
            producer.send(Message(topic, b"after"))
        return bool(second.deliveries)

    eventually(gets_its_share, server.rebalance_bound_s, "a message at the second member")
    again = set(finished) & set(second.bodies())
    assert not again, f"{len(again)} finished messages came again"


def test_a_slow_listener_occupies_all_threads_not_one(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic(queues=1)
    together = threading.Barrier(20)

    def wait_for_the_others(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        if msgs[0].queue_offset < 20:
            together.wait(30)
        return SUCCESS

    bodies = send(topic, 32)
    collector = Collector(wait_for_the_others)
    start_consumer(server.group(), topic, collector)
    collector.wait_for_bodies(bodies)
    assert not together.broken


def test_a_new_group_starts_where_it_was_told_to(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic(queues=1)
    old = send(topic, 10, size=100)
    time.sleep(2.1)  # consume_timestamp has whole seconds
    moment = datetime.now().strftime("%Y%m%d%H%M%S")
    time.sleep(1.1)
    new = send(topic, 10, size=101)
    everything, since = Collector(), Collector()
    start_consumer(server.group(), topic, everything)
    group = server.group()
    where = ConsumeFromWhere.CONSUME_FROM_TIMESTAMP
    consumer = start_consumer(group, topic, since, consume_from_where=where, consume_timestamp=moment)
    everything.wait_for_bodies(old + new)
    since.wait_for_bodies(new)
    consumer.shutdown()
    # Of a queue as young as this one the broker says that a new group is at 0, whatever the group wants (see docs).
    assert set(since.bodies()) in ({*new}, {*old, *new})


def test_consumers_of_two_groups_share_one_client_when_they_have_the_same_instance_name(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    bodies = send(topic, 200)
    first, second = Collector(), Collector()
    start_consumer(server.group(), topic, first, instance_name="shared")
    start_consumer(server.group(), topic, second, instance_name="shared")
    first.wait_for_bodies(bodies)
    second.wait_for_bodies(bodies)


@on_both_wires
def test_a_consumer_that_was_suspended_goes_on_when_it_is_resumed(
    server: Server, send: SendBodies, start_consumer: StartConsumer
) -> None:
    topic = server.topic()
    collector = Collector()
    consumer = start_consumer(server.group(), topic, collector)
    collector.wait_for_bodies(send(topic, 10))
    consumer.suspend()
    consumer.resume()
    collector.wait_for_bodies(send(topic, 10, size=120))
