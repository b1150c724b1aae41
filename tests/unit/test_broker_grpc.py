"""The RPCs of the embedded broker, on a virtual clock: clients, routes and sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.grpc.context import GrpcProxyError
from rocketmq_py.broker.grpc.message_group import queue_of
from rocketmq_py.broker.grpc.shares import UNREAD_MAX_BYTES, ReadShares, Unread, UnreadShares
from rocketmq_py.errors import BrokerError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model import fastjson
from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting import bodies
from tests.unit.broker_rig import GROUP, TOPIC, messages
from tests.unit.grpc_rig import ENDPOINTS, GrpcClient, GrpcRig, Stream, message

ORDERED = {"consumeMessageOrderly": True}


@pytest.mark.behaviour("GS-42")
def test_whose_time_to_read_runs_out_when_another_needs_the_memory_costs_that_one_nothing() -> None:
    async def write(shares: UnreadShares, unread: Unread) -> None:
        async with unread.writing:
            shares.begin(unread)
            await asyncio.Event().wait()

    async def play() -> None:
        shares, loop = UnreadShares(), asyncio.get_running_loop()
        slow = Unread("slow", UNREAD_MAX_BYTES, asyncio.timeout(60))
        other = Unread("other", 10, asyncio.timeout(60))
        reading = asyncio.create_task(write(shares, slow))
        await asyncio.sleep(0)
        # In one turn of the loop: its time is over, and before it learns of that the other begins.
        slow.writing.reschedule(loop.time())
        loop.call_soon(shares.begin, other)
        errors: list[object] = []
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        with pytest.raises(TimeoutError):
            await reading
        assert errors == []
        assert shares.has_room("other")

    asyncio.run(play())


@pytest.mark.behaviour("GS-42")
@pytest.mark.parametrize(("grace_s", "given_up"), [(0, [0, 1]), (3_600, [])])
def test_of_too_many_requests_that_are_not_finished_the_longest_are_given_up_after_a_grace(
    grace_s: float, given_up: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocketmq_py.broker.grpc.shares.READS_ALL_MAX", 2)
    monkeypatch.setattr("rocketmq_py.broker.grpc.shares.READ_LOOK_INTERVAL_S", 0)
    monkeypatch.setattr("rocketmq_py.broker.grpc.shares.READ_GRACE_S", grace_s)
    ended: list[int] = []

    async def read(shares: ReadShares, number: int) -> None:
        try:
            async with shares.turn(f"connection {number}", 60):
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(number)

    async def play() -> None:
        shares = ReadShares()
        reading = [asyncio.create_task(read(shares, number)) for number in range(4)]
        for _ in range(100):
            await asyncio.sleep(0)
        assert ended == given_up
        assert [task.done() for task in reading] == [number in given_up for number in range(4)]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    asyncio.run(play())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GrpcRig]:
    made = GrpcRig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(rig: GrpcRig) -> GrpcClient:
    return rig.grpc_client()


def members(rig: GrpcRig, group: str = GROUP) -> list[str]:
    answer = rig.client().ask(38, {"consumerGroup": group})
    return bodies.parse_consumer_id_list(answer.body) if answer.code == 0 else []


def stored_messages(rig: GrpcRig, queue_id: int = 0) -> list[MessageExt]:
    consumer = rig.client()
    consumer.heartbeat(client_id="reader", group="readers")
    return messages(consumer.pull(queue_id=queue_id, consumerGroup="readers"))


# Settings.


@pytest.mark.behaviour("GS-01")
def test_a_producer_is_told_how_to_retry_and_what_a_body_may_weigh(rig: GrpcRig, client: GrpcClient) -> None:
    told = client.settings(client.producer_settings())
    policy = told.backoff_policy
    assert (policy.max_attempts, policy.exponential_backoff.initial.ToMilliseconds()) == (3, 10)
    assert (policy.exponential_backoff.max.ToMilliseconds(), policy.exponential_backoff.multiplier) == (1_000, 2)
    assert (told.publishing.max_body_size, told.publishing.validate_message_type) == (4 * 1024 * 1024, True)
    assert [topic.name for topic in told.publishing.topics] == [TOPIC]
    assert told.HasField("metric")
    assert not told.metric.on


@pytest.mark.behaviour("GS-01")
def test_a_consumer_is_told_what_its_groups_configuration_is_now(rig: GrpcRig, client: GrpcClient) -> None:
    told = client.settings(client.consumer_settings())
    assert (told.backoff_policy.max_attempts, told.subscription.fifo) == (17, False)
    delays = [each.ToSeconds() for each in told.backoff_policy.customized_backoff.next]
    assert delays == [1, 5, 10, 30, *(60 * each for each in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 60, 120))]
    assert told.subscription.receive_batch_size == 32
    assert told.subscription.long_polling_timeout.ToSeconds() == 20
    rig.put_group(consumeMessageOrderly=True, retryMaxTimes=3)
    again = client.settings(client.consumer_settings())
    assert (again.backoff_policy.max_attempts, again.subscription.fifo) == (4, True)
    assert len(again.backoff_policy.customized_backoff.next) == 18


@pytest.mark.behaviour("GS-01")
def test_a_consumer_is_told_its_groups_own_delays(rig: GrpcRig, client: GrpcClient) -> None:
    exponential = {"initial": 1_500, "max": 60_000, "multiplier": 3}
    rig.put_group(groupRetryPolicy={"type": "EXPONENTIAL", "exponentialRetryPolicy": exponential})
    backoff = client.settings(client.consumer_settings()).backoff_policy.exponential_backoff
    assert (backoff.initial.ToMilliseconds(), backoff.max.ToMilliseconds(), backoff.multiplier) == (1_500, 60_000, 3)
    rig.put_group(groupRetryPolicy={"type": "EXPONENTIAL"})
    backoff = client.settings(client.consumer_settings()).backoff_policy.exponential_backoff
    assert (backoff.initial.ToSeconds(), backoff.max.ToSeconds(), backoff.multiplier) == (5, 7_200, 2)
    rig.put_group(groupRetryPolicy={"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [100, 2_000]}})
    delays = client.settings(client.consumer_settings()).backoff_policy.customized_backoff.next
    assert [each.ToMilliseconds() for each in delays] == [100, 2_000]
    for odd in ({"type": 3}, {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": "soon"}}):
        rig.put_group(groupRetryPolicy=odd)
        assert len(client.settings(client.consumer_settings()).backoff_policy.customized_backoff.next) == 18


@pytest.mark.behaviour("GS-02")
@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (pb.Settings(client_type=pb.PUSH_CONSUMER), pb.BAD_REQUEST),
        (pb.Settings(publishing=pb.Publishing(topics=[pb.Resource(name="TBW102")])), pb.ILLEGAL_TOPIC),
        (pb.Settings(subscription=pb.Subscription()), pb.ILLEGAL_CONSUMER_GROUP),
        (
            pb.Settings(client_type=pb.PULL_CONSUMER, subscription=pb.Subscription(group=pb.Resource(name="g"))),
            pb.UNRECOGNIZED_CLIENT_TYPE,
        ),
        (
            pb.Settings(
                client_type=pb.PUSH_CONSUMER,
                subscription=pb.Subscription(
                    group=pb.Resource(name="g"),
                    subscriptions=[pb.SubscriptionEntry(expression=pb.FilterExpression(type=pb.TAG, expression="||"))],
                ),
            ),
            pb.ILLEGAL_FILTER_EXPRESSION,
        ),
    ],
)
def test_settings_that_make_no_sense_end_the_stream(client: GrpcClient, settings: pb.Settings, code: pb.Code) -> None:
    with pytest.raises(GrpcProxyError) as caught:
        client.settings(settings)
    assert caught.value.code == code


@pytest.mark.behaviour("GS-42")
def test_settings_are_bounded_one_by_one_and_together(client: GrpcClient, rig: GrpcRig) -> None:
    def told(size: int, client_id: str) -> int:
        each = rig.grpc_client(client_id)
        settings = each.consumer_settings()
        settings.user_agent.version = "x" * size
        try:
            each.settings(settings)
        except GrpcProxyError as error:
            return error.code
        return pb.OK

    assert told(300_000, "a") == pb.BAD_REQUEST
    codes = [told(250_000, str(number)) for number in range(270)]
    assert codes == [pb.OK] * 268 + [pb.TOO_MANY_REQUESTS] * 2
    assert rig.grpc_client("0").terminate() == pb.OK
    assert [told(250_000, "b"), told(0, "1"), told(1_000, "c")] == [pb.OK] * 3


@pytest.mark.behaviour("GS-42")
def test_settings_that_the_broker_does_not_take_are_not_kept(
    rig: GrpcRig, client: GrpcClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = rig.grpc_client("known")
    known.settings(known.consumer_settings())
    monkeypatch.setattr("rocketmq_py.broker.consumer_manager.MEMBERS_MAX", 0)
    for each in (client, known):
        with pytest.raises(BrokerError, match="possible are 0"):
            each.settings(each.consumer_settings(group="another"))
    assert client.heartbeat() == pb.UNRECOGNIZED_CLIENT_TYPE
    assert rig.application.clients.channel("client") is None
    assert known.heartbeat() == pb.OK
    assert members(rig) == ["known"]


# Presence.


@pytest.mark.behaviour("GS-03")
def test_a_consumer_is_a_member_of_its_group_until_it_says_that_it_leaves(rig: GrpcRig, client: GrpcClient) -> None:
    client.settings(client.consumer_settings())
    assert members(rig) == ["client"]
    assert client.terminate() == pb.OK
    assert members(rig) == []
    assert client.heartbeat() == pb.UNRECOGNIZED_CLIENT_TYPE, "its settings are forgotten"
    assert client.terminate() == pb.UNRECOGNIZED_CLIENT_TYPE


@pytest.mark.behaviour("GS-03")
def test_a_heartbeat_needs_settings_and_of_a_consumer_its_group(rig: GrpcRig, client: GrpcClient) -> None:
    assert client.heartbeat() == pb.UNRECOGNIZED_CLIENT_TYPE
    client.settings(client.consumer_settings())
    assert client.heartbeat() == pb.OK
    assert client.heartbeat(group=None) == pb.ILLEGAL_CONSUMER_GROUP
    producer = rig.grpc_client("producer")
    producer.settings(producer.producer_settings())
    assert producer.heartbeat(group=None) == pb.OK


@pytest.mark.behaviour("GS-04")
def test_a_client_whose_stream_broke_stays_while_it_sends_heartbeats(rig: GrpcRig, client: GrpcClient) -> None:
    client.settings(client.consumer_settings())
    rig.application.clients.stream_closed("client", client.stream)
    for _ in range(5):
        rig.loop.advance(10_000)
        assert client.heartbeat() == pb.OK
        assert members(rig) == ["client"]
    rig.loop.advance(21_000)
    assert members(rig) == [], "silent since"
    assert client.heartbeat() == pb.OK
    assert members(rig) == ["client"], "a heartbeat brings it back"


@pytest.mark.behaviour("GS-04")
def test_a_client_that_is_silent_for_two_minutes_is_forgotten(rig: GrpcRig, client: GrpcClient) -> None:
    client.settings(client.consumer_settings())
    rig.loop.advance(119_000)
    assert members(rig) == ["client"]
    rig.loop.advance(12_000)
    assert members(rig) == []
    assert client.stream.closed


@pytest.mark.behaviour("GS-04")
def test_the_last_stream_of_a_client_counts(rig: GrpcRig, client: GrpcClient) -> None:
    first, client.stream = client.stream, Stream()
    second = client.stream
    client.settings(client.consumer_settings())
    rig.application.clients.stream_closed("client", first)
    rig.loop.advance(60_000)
    assert members(rig) == ["client"]
    assert len(second.told) == 1


# Routes.


def route(client: GrpcClient, topic: str = TOPIC, endpoints: pb.Endpoints | None = ENDPOINTS) -> Any:
    return client.ask("QueryRoute", pb.QueryRouteRequest(topic=pb.Resource(name=topic), endpoints=endpoints))


@pytest.mark.behaviour("GS-05")
def test_a_route_names_every_queue_at_the_address_by_which_the_client_came(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(queues=2)
    answer = route(client)
    assert answer.status.code == pb.OK
    assert [(queue.id, queue.permission) for queue in answer.message_queues] == [(0, pb.READ_WRITE), (1, pb.READ_WRITE)]
    assert {queue.broker.id for queue in answer.message_queues} == {0}
    assert answer.message_queues[0].broker.endpoints == ENDPOINTS
    assert list(answer.message_queues[0].accept_message_types) == [pb.NORMAL]
    own = route(client, endpoints=None).message_queues[0].broker.endpoints
    assert [(address.host, address.port) for address in own.addresses] == [("127.0.0.1", 8081)]


@pytest.mark.behaviour("GS-05")
@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("FIFO", [pb.FIFO]),
        ("DELAY", [pb.DELAY]),
        ("TRANSACTION", [pb.TRANSACTION]),
        ("PRIORITY", [pb.PRIORITY]),
        ("MIXED", [pb.NORMAL, pb.FIFO, pb.DELAY, pb.TRANSACTION]),
        ("ODD", [pb.MESSAGE_TYPE_UNSPECIFIED]),
    ],
)
def test_a_route_tells_which_messages_the_topic_takes(
    rig: GrpcRig, client: GrpcClient, kind: str, types: list[pb.MessageType]
) -> None:
    rig.put_topic(kind=kind)
    assert list(route(client).message_queues[0].accept_message_types) == types


@pytest.mark.behaviour("GS-05")
@pytest.mark.parametrize(("perm", "permission"), [(4, pb.READ), (2, pb.WRITE), (0, pb.NONE)])
def test_a_route_tells_what_may_be_done_with_a_queue(
    rig: GrpcRig, client: GrpcClient, perm: int, permission: pb.Permission
) -> None:
    rig.put_topic(perm=perm)
    assert [queue.permission for queue in route(client).message_queues] == [permission]


@pytest.mark.behaviour("GS-05")
@pytest.mark.parametrize(
    ("topic", "code"),
    [("missing", pb.TOPIC_NOT_FOUND), ("", pb.ILLEGAL_TOPIC), ("a b", pb.ILLEGAL_TOPIC), ("TBW102", pb.ILLEGAL_TOPIC)],
)
def test_a_topic_that_is_none_has_no_route(client: GrpcClient, topic: str, code: pb.Code) -> None:
    assert route(client, topic).status.code == code


def assignments(client: GrpcClient, topic: str = TOPIC, group: str = GROUP) -> Any:
    return client.ask(
        "QueryAssignment", pb.QueryAssignmentRequest(topic=pb.Resource(name=topic), group=pb.Resource(name=group))
    )


@pytest.mark.behaviour("GS-06")
def test_a_group_receives_from_all_queues_at_once_an_ordered_one_from_each(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(queues=3)
    assert [each.message_queue.id for each in assignments(client).assignments] == [-1]
    rig.put_group(consumeMessageOrderly=True)
    assert [each.message_queue.id for each in assignments(client).assignments] == [0, 1, 2]


@pytest.mark.behaviour("GS-06")
def test_a_topic_that_may_not_be_read_has_no_assignment(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(perm=2)
    assert assignments(client).status.code == pb.FORBIDDEN
    assert assignments(client, "missing").status.code == pb.TOPIC_NOT_FOUND
    assert assignments(client, group="").status.code == pb.ILLEGAL_CONSUMER_GROUP


# Sends.


@pytest.mark.behaviour("GS-07")
def test_a_message_is_stored_with_all_that_its_producer_gave(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic()
    sent = message(b"hello", tag="TagA", keys=["k1", "k2"], properties={"colour": "red"}, trace_context="trace")
    sent.system_properties.born_timestamp.FromMilliseconds(1_234)
    answer = client.send(sent)
    assert answer.status.code == pb.OK
    assert [(entry.message_id, entry.offset) for entry in answer.entries] == [("id", 0)]
    (stored,) = stored_messages(rig)
    assert (stored.body, stored.tags, stored.keys, stored.msg_id) == (b"hello", "TagA", "k1 k2", "id")
    assert stored.get_property("colour") == "red"
    assert stored.born_timestamp == 1_234
    assert stored.get_property("__BORNHOST") == "10.0.0.1:999"


@pytest.mark.behaviour("GS-08")
def test_each_of_several_messages_has_its_own_entry(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic()
    answer = client.send(message(b"1", message_id="a"), message(b"2", message_id="b"))
    assert [(entry.message_id, entry.offset) for entry in answer.entries] == [("a", 0), ("b", 1)]
    assert [stored.body for stored in stored_messages(rig)] == [b"1", b"2"]


BIG = "x" * 16_385
REFUSED = [
    (message(topic=""), pb.ILLEGAL_TOPIC),
    (message(topic="rmq_sys_x"), pb.ILLEGAL_TOPIC),
    (message(topic="missing"), pb.TOPIC_NOT_FOUND),
    (message(body=b""), pb.MESSAGE_BODY_EMPTY),
    (message(body=b"x" * (4 * 1024 * 1024 + 1)), pb.MESSAGE_BODY_TOO_LARGE),
    (message(properties={f"p{number}": "" for number in range(129)}), pb.MESSAGE_PROPERTIES_TOO_LARGE),
    (message(properties={"p": BIG}), pb.MESSAGE_PROPERTIES_TOO_LARGE),
    (message(properties={"UNIQ_KEY": "x"}), pb.ILLEGAL_MESSAGE_PROPERTY_KEY),
    (message(properties={"p": "\x01"}), pb.ILLEGAL_MESSAGE_PROPERTY_KEY),
    (message(tag=" "), pb.ILLEGAL_MESSAGE_TAG),
    (message(tag="a|b"), pb.ILLEGAL_MESSAGE_TAG),
    (message(keys=["\x7f"]), pb.ILLEGAL_MESSAGE_KEY),
    (message(keys=[" "]), pb.ILLEGAL_MESSAGE_KEY),
    (message(message_id=" "), pb.ILLEGAL_MESSAGE_ID),
    (message(message_group="x" * 64), pb.ILLEGAL_MESSAGE_GROUP),
    (message(message_group=" "), pb.ILLEGAL_MESSAGE_GROUP),
    (message(message_group="g"), pb.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE),
    (message(priority=1), pb.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE),
    (message(message_type=pb.TRANSACTION), pb.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE),
    (message(delivery_ms=10**14), pb.ILLEGAL_DELIVERY_TIME),
]


@pytest.mark.behaviour("GS-09")
@pytest.mark.parametrize(("sent", "code"), REFUSED, ids=lambda value: pb.Code.Name(value) if type(value) is int else "")
def test_a_message_that_is_not_acceptable_is_refused_by_its_code(
    rig: GrpcRig, client: GrpcClient, sent: pb.Message, code: pb.Code
) -> None:
    rig.put_topic()
    assert client.send(message(topic=sent.topic.name), sent).status.code == code
    assert not stored_messages(rig), "nor is the good one before it stored"


@pytest.mark.behaviour("GS-09")
def test_messages_of_several_topics_and_none_and_too_many_messages_are_refused(
    rig: GrpcRig, client: GrpcClient
) -> None:
    rig.put_topic()
    assert client.send().status.code == pb.MESSAGE_CORRUPTED
    assert client.send(*[message()] * 1_000).status.code == pb.OK
    assert client.send(*[message()] * 1_001).status.code == pb.BAD_REQUEST
    assert client.send(message(), message(topic="other")).status.code == pb.MESSAGE_CORRUPTED
    rig.put_topic("readonly", perm=4)
    assert client.send(message(topic="readonly")).status.code == pb.FORBIDDEN


@pytest.mark.behaviour("GS-09")
def test_what_just_fits_is_taken(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(kind="FIFO")
    sent = message(b"x" * (4 * 1024 * 1024), message_group="g" * 63, properties={f"p{n}": "" for n in range(128)})
    assert client.send(sent).status.code == pb.OK


@pytest.mark.behaviour("GS-10")
def test_a_message_group_always_goes_to_the_same_queue(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(kind="FIFO", queues=4)
    sent = [message(str(number).encode(), message_group=f"group{number % 8}") for number in range(32)]
    assert client.send(*sent).status.code == pb.OK
    places = {stored.body: queue_id for queue_id in range(4) for stored in stored_messages(rig, queue_id)}
    assert len(places) == 32
    for number in range(32):
        assert places[str(number).encode()] == queue_of(f"group{number % 8}", 4)
    assert len(set(places.values())) > 1


@pytest.mark.behaviour("GS-10")
@pytest.mark.parametrize(
    ("message_group", "queues"),
    [  # as Guava says
        ("group0", (0, 1, 1, 1, 7, 7, 793)),
        ("order-42", (0, 0, 2, 3, 3, 10, 753)),
        ("订单", (0, 1, 1, 1, 7, 7, 50)),
        ("a\U0001f600b", (0, 1, 1, 3, 3, 11, 70)),
    ],
)
def test_the_queue_of_a_message_group_is_the_one_that_upstreams_proxy_chooses(
    message_group: str, queues: tuple[int, ...]
) -> None:
    assert tuple(queue_of(message_group, count) for count in (1, 2, 3, 4, 8, 16, 1_024)) == queues


@pytest.mark.behaviour("GS-10")
def test_a_priority_is_the_number_of_its_queue(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic(kind="PRIORITY", queues=3)
    client.send(*(message(str(priority).encode(), priority=priority) for priority in (0, 1, 2, 99)))
    found = [[stored.body for stored in stored_messages(rig, queue_id)] for queue_id in range(3)]
    assert found == [[b"0"], [b"1"], [b"2", b"99"]]


@pytest.mark.behaviour("GS-11")
def test_a_store_that_failed_is_an_error_of_each_message(rig: GrpcRig, client: GrpcClient) -> None:
    rig.put_topic()
    rig.close()
    answer = client.send(message())
    assert answer.status.code == pb.INTERNAL_SERVER_ERROR
    assert "nothing more is stored" in answer.entries[0].status.message
    rig.open()


# Questions of operators.


@pytest.mark.behaviour("GS-39")
def test_an_operators_questions_reach_the_client_on_its_stream_and_its_answers_the_operator(
    rig: GrpcRig, client: GrpcClient
) -> None:
    rig.put_topic()
    client.settings(client.consumer_settings())
    operator = rig.client()
    asked = operator.begin(307, {"consumerGroup": GROUP, "clientId": "client", "jstackEnable": "true"})
    nonce = client.stream.told[-1].print_thread_stack_trace_command.nonce
    trace = pb.ThreadStackTrace(nonce=nonce, thread_stack_trace="at work")
    client.tell(pb.TelemetryCommand(status=pb.Status(code=pb.OK), thread_stack_trace=trace))
    answer = operator.answer(asked)
    assert answer is not None
    assert fastjson.loads(answer.body)["jstack"] == "at work"

    msg_id = operator.send(b"this one").ext_fields["msgId"]
    for code, result in ((pb.OK, "CR_SUCCESS"), (pb.FAILED_TO_CONSUME_MESSAGE, "CR_LATER")):
        asked = operator.begin(309, {"consumerGroup": GROUP, "clientId": "client", "msgId": msg_id, "topic": TOPIC})
        command = client.stream.told[-1].verify_message_command
        assert command.message.body == b"this one"
        verified = pb.VerifyMessageResult(nonce=command.nonce)
        client.tell(pb.TelemetryCommand(status=pb.Status(code=code), verify_message_result=verified))
        answer = operator.answer(asked)
        assert answer is not None
        assert fastjson.loads(answer.body)["consumeResult"] == result
        client.tell(pb.TelemetryCommand(status=pb.Status(code=code), verify_message_result=verified))


@pytest.mark.behaviour("GS-39")
def test_a_client_that_does_not_answer_an_operator_has_questions_in_bounded_number(
    rig: GrpcRig, client: GrpcClient
) -> None:
    client.settings(client.consumer_settings())
    operator = rig.client()
    fields = {"consumerGroup": GROUP, "clientId": "client", "jstackEnable": "true"}
    asked = [operator.begin(307, fields) for _ in range(101)]
    for told in client.stream.told[1:]:
        trace = pb.ThreadStackTrace(nonce=told.print_thread_stack_trace_command.nonce)
        client.tell(pb.TelemetryCommand(status=pb.Status(code=pb.UNSUPPORTED), thread_stack_trace=trace))
    answers = [operator.answer(each) for each in asked]
    assert answers[0] is None, "forgotten"
    assert all(answer is not None and answer.code == 1 for answer in answers[1:])
