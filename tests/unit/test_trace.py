from __future__ import annotations

import logging

import pytest

from rocketmq_py.consumer.hooks import ConsumeMessageContext
from rocketmq_py.errors import RequestTimeoutError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.testing import InlineExecutor, ManualRuntime
from rocketmq_py.trace.async_trace_dispatcher import KEYS_MAX_BYTES, MESSAGE_MAX_BYTES, QUEUE_MAX, AsyncTraceDispatcher
from rocketmq_py.trace.consume_message_trace_hook import ConsumeMessageTraceHook
from rocketmq_py.trace.trace_context import TraceBean, TraceContext, TraceType
from rocketmq_py.trace.trace_data_encoder import encode_records
from tests.unit.support import GROUP, LATER, SUCCESS, TOPIC, Core, message, mq

TRACE_TOPIC = "RMQ_SYS_TRACE_TOPIC"


def bean(number: int = 0, topic: str = TOPIC, keys: str | None = None) -> TraceBean:
    return TraceBean(topic, f"id{number}", keys, 2)


def before(*beans: TraceBean, region_id: str | None = "region") -> TraceContext:
    return TraceContext(TraceType.SUB_BEFORE, 1234, region_id, GROUP, "request", beans)


class Rig:
    """A dispatcher on a virtual clock; its senders run when the test lets them."""

    def __init__(self, batch_num: int = 10, runtime: ManualRuntime | None = None) -> None:
        self.runtime = runtime or ManualRuntime()
        self.sent: list[tuple[str, bytes, str]] = []
        self.lost = 0
        self.error: Exception | None = None
        self.dispatcher = AsyncTraceDispatcher(
            GROUP, TRACE_TOPIC, batch_num, self.runtime, self._send, on_lost=self._on_lost
        )

    @property
    def senders(self) -> InlineExecutor[object]:
        return next(pool for name, pool in self.runtime.pools.items() if name.startswith("MQTraceSendThread_"))

    def _send(self, topic: str, body: bytes, keys: str) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((topic, body, keys))

    def _on_lost(self, contexts: int) -> None:
        self.lost += contexts

    def append(self, count: int) -> list[bool]:
        return [self.dispatcher.append(before(bean(number))) for number in range(count)]

    @property
    def ids_sent(self) -> list[list[str]]:
        return [keys.split() for _, _, keys in self.sent]


@pytest.mark.behaviour("TR-01")
def test_a_record_is_fields_joined_by_1_and_ended_by_2_with_null_for_what_is_not_there() -> None:
    (record,) = encode_records(before(bean(7)))
    assert record.data == "\x01".join(["SubBefore", "1234", "region", GROUP, "request", "id7", "2", "null"]) + "\x02"
    assert record.keys == ["id7"]
    after = TraceContext(
        TraceType.SUB_AFTER, 1234, "region", GROUP, "request", [bean(7, keys="a b"), bean(8)],
        cost_time=30, success=False, context_code=4,
    )  # fmt: skip
    one, two = encode_records(after)
    assert one.data == "\x01".join(["SubAfter", "request", "id7", "30", "false", "a b", "4", "1234", GROUP]) + "\x02"
    assert (one.keys, two.keys) == (["id7", "a", "b"], ["id8"])


@pytest.mark.behaviour("TR-02")
def test_as_soon_as_a_batch_is_there_it_is_sent() -> None:
    rig = Rig(batch_num=3)
    assert rig.append(2) == [True, True]
    assert rig.sent == []
    rig.append(1)
    ((topic, body, keys),) = rig.sent
    assert (topic, keys) == (TRACE_TOPIC, "id0 id1")
    assert body.count(b"\x02") == 3


@pytest.mark.behaviour("TR-02")
def test_a_batch_has_twenty_contexts_at_most_whatever_was_configured() -> None:
    rig = Rig(batch_num=1_000)
    rig.senders.held = True
    rig.append(45)
    assert rig.senders.run_all() == 2
    assert [body.count(b"\x02") for _, body, _ in rig.sent] == [20, 20]


@pytest.mark.behaviour("TR-02")
def test_no_more_senders_are_asked_for_than_there_are() -> None:
    rig = Rig(batch_num=2)
    rig.senders.held = True
    rig.append(100)
    assert rig.senders.run_all() == 2
    assert len(rig.sent) == 50
    rig.append(2)
    assert rig.senders.run_all() == 1


@pytest.mark.behaviour("TR-03")
def test_what_does_not_fit_into_the_queue_is_discarded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.senders.held = True
    assert rig.append(QUEUE_MAX + 5) == [True] * QUEUE_MAX + [False] * 5
    assert rig.lost == 5
    assert caplog.messages == [
        "1 trace contexts for RMQ_SYS_TRACE_TOPIC are lost: they come faster than they can be sent, or after the end"
    ]
    rig.senders.run_all()
    assert sum(body.count(b"\x02") for _, body, _ in rig.sent) == QUEUE_MAX - QUEUE_MAX % 10


@pytest.mark.behaviour("TR-03")
def test_what_cannot_be_sent_is_counted_and_the_next_batch_is_tried_all_the_same() -> None:
    rig = Rig(batch_num=2)
    rig.error = RequestTimeoutError("no answer")
    rig.append(2)
    assert (rig.lost, rig.sent) == (2, [])
    rig.error = None
    rig.append(2)
    assert (rig.lost, len(rig.sent)) == (2, 1)


@pytest.mark.behaviour("TR-04")
def test_fewer_than_a_batch_are_sent_when_nothing_was_sent_for_more_than_five_seconds() -> None:
    rig = Rig()
    rig.append(3)
    rig.runtime.advance(5_999)
    assert rig.sent == []
    rig.runtime.advance(1)
    assert rig.ids_sent == [["id0", "id1", "id2"]]
    rig.append(1)
    rig.runtime.advance(5_000)
    assert len(rig.sent) == 1
    rig.runtime.advance(1_000)
    assert len(rig.sent) == 2


def test_an_empty_queue_sends_nothing() -> None:
    rig = Rig()
    rig.runtime.advance(60_000)
    assert rig.sent == []


@pytest.mark.behaviour("TR-05")
def test_shutting_down_sends_what_waits_and_takes_no_more() -> None:
    rig = Rig()
    rig.append(25)
    rig.dispatcher.shutdown()
    assert sum(body.count(b"\x02") for _, body, _ in rig.sent) == 25
    assert rig.append(1) == [False]
    assert rig.lost == 1
    rig.dispatcher.shutdown()


@pytest.mark.behaviour("TR-05")
def test_what_cannot_be_sent_at_the_end_is_counted_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.append(3)
    rig.senders.held = True
    rig.senders.shutdown(0)  # as if the senders did not get there in time
    rig.dispatcher.shutdown()
    assert rig.lost == 3
    assert "could not be sent within 5000 ms at the end" in caplog.text


@pytest.mark.behaviour("TR-06")
def test_topics_are_sent_apart_and_contexts_without_region_or_messages_not_at_all() -> None:
    rig = Rig(batch_num=5)
    rig.dispatcher.append(before(bean(0), bean(1)))
    rig.dispatcher.append(before(bean(2, "other")))
    rig.dispatcher.append(before(bean(3), region_id=None))
    rig.dispatcher.append(before())
    rig.dispatcher.append(before(bean(4, keys="id0 k")))
    assert rig.ids_sent == [["id0", "id1", "id4", "k"], ["id2"]]


@pytest.mark.behaviour("TR-06")
def test_no_message_is_larger_than_brokers_take_and_no_record_is_cut() -> None:
    rig = Rig(batch_num=1)
    beans = [bean(number, keys="k" * 150) for number in range(1_024)]
    rig.dispatcher.append(before(*beans))
    assert len(rig.sent) > 1
    assert all(len(body) <= MESSAGE_MAX_BYTES and len(keys) <= KEYS_MAX_BYTES for _, body, keys in rig.sent)
    records = b"".join(body for _, body, _ in rig.sent).decode().split("\x02")[:-1]
    assert [record.split("\x01")[5] for record in records] == [f"id{number}" for number in range(1_024)]
    assert {key for ids in rig.ids_sent for key in ids} == {"k" * 150, *(f"id{number}" for number in range(1_024))}


@pytest.mark.behaviour("TR-06")
def test_keys_take_up_no_more_than_the_properties_of_a_message_may() -> None:
    rig = Rig(batch_num=1)
    rig.dispatcher.append(before(*[bean(number, keys=f"{number:0>200}") for number in range(300)]))
    assert len(rig.sent) > 1
    assert all(len(keys) <= KEYS_MAX_BYTES for _, _, keys in rig.sent)


@pytest.mark.behaviour("TR-06")
def test_a_record_that_no_message_can_hold_is_counted_and_takes_no_other_with_it() -> None:
    rig = Rig(batch_num=3)
    ids = ",".join(f"{number:0>32}" for number in range(1_000))  # of a batch that was sent
    rig.dispatcher.append(before(bean(0)))
    rig.dispatcher.append(TraceContext(TraceType.PUB, 1234, "region", GROUP, "", [TraceBean(TOPIC, ids, None)]))
    rig.dispatcher.append(before(bean(1)))
    assert (rig.ids_sent, rig.lost) == ([["id0", "id1"]], 1)


@pytest.mark.behaviour("TR-06")
@pytest.mark.parametrize("keys", ["\u952e" * 10_900, " ".join(f"{number:0>4}" for number in range(6_500))])
def test_what_a_record_takes_up_is_counted_in_bytes_and_with_what_separates_its_keys(keys: str) -> None:
    rig = Rig(batch_num=3)
    for context in (before(bean(0)), before(bean(1, keys=keys)), before(bean(2))):
        rig.dispatcher.append(context)
    assert (rig.ids_sent, rig.lost) == ([["id0", "id2"]], 1)


# The hook.


class Traced(Rig):
    """A consumer with tracing on."""

    def __init__(self, answer: ConsumeConcurrentlyStatus | None = SUCCESS) -> None:
        def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
            self.core.clock.advance(60)
            return answer

        self.core = Core(listener, consume_message_batch_max_size=10)
        super().__init__(batch_num=1, runtime=self.core.runtime)
        self.core.hooks.append(ConsumeMessageTraceHook(self.dispatcher, self.core.clock))
        self.core.rebalance.do_rebalance()

    def consume(self, *msgs: MessageExt) -> list[list[str]]:
        """The fields of every record that came of it."""
        ((queue_of, queue),) = self.core.rebalance.windows()
        queue.put_message(msgs)
        self.core.service.submit_consume_request(list(msgs), queue, queue_of)
        text = b"".join(body for _, body, _ in self.sent).decode()
        return [record.split("\x01") for record in text.split("\x02")[:-1]]


def traced_message(offset: int, region: str | None = "r1", **properties: str) -> MessageExt:
    named = {"UNIQ_KEY": f"id{offset}", **properties}
    if region is not None:
        named["MSG_REGION"] = region
    return message(offset, reconsume_times=1, properties=named)


@pytest.mark.behaviour("TR-07")
@pytest.mark.behaviour("TR-08")
def test_a_listener_call_is_traced_before_and_after_with_the_time_per_message() -> None:
    rig = Traced()
    began = rig.core.clock.wall_ms()
    one, two, three, four = rig.consume(traced_message(0, KEYS="a b"), traced_message(1))
    request = one[4]
    assert one == ["SubBefore", str(began), "r1", GROUP, request, "id0", "1", "a b"]
    assert two == ["SubBefore", str(began), "r1", GROUP, request, "id1", "1", "null"]
    assert three == ["SubAfter", request, "id0", "30", "true", "a b", "0", str(began + 60), GROUP]
    assert four == ["SubAfter", request, "id1", "30", "true", "null", "0", str(began + 60), GROUP]
    assert len(request) == 32


@pytest.mark.behaviour("TR-08")
@pytest.mark.parametrize(("answer", "code"), [(LATER, "4"), (None, "3")])
def test_a_call_that_failed_is_traced_with_the_way_it_failed(
    answer: ConsumeConcurrentlyStatus | None, code: str
) -> None:
    _, after = Traced(answer).consume(traced_message(0))
    assert (after[4], after[6]) == ("false", code)


@pytest.mark.behaviour("TR-07")
def test_messages_whose_producer_switched_the_trace_off_are_left_out() -> None:
    records = Traced().consume(traced_message(0, TRACE_ON="false"), traced_message(1, TRACE_ON="true"))
    assert [record[0] for record in records] == ["SubBefore", "SubAfter"]
    assert records[1][3] == "30"  # per message of the call, those left out too
    rig = Traced()
    assert rig.consume(traced_message(0, TRACE_ON="false")) == []
    assert rig.lost == 0


@pytest.mark.behaviour("TR-07")
def test_the_region_is_that_of_the_last_message_traced() -> None:
    records = Traced().consume(
        traced_message(0, "r1"), traced_message(1, "r2"), traced_message(2, "r3", TRACE_ON="false")
    )
    assert {record[2] for record in records if record[0] == "SubBefore"} == {"r2"}


def test_messages_of_the_trace_topic_itself_are_not_traced() -> None:
    rig = Traced()
    msg = message(0, topic=TRACE_TOPIC, properties={"UNIQ_KEY": "id", "MSG_REGION": "r"})
    assert rig.consume(msg) == []


def test_a_lost_context_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.dispatcher.shutdown()
    with caplog.at_level(logging.WARNING):
        rig.append(10)
    assert len(caplog.messages) == 1


@pytest.mark.behaviour("NS-04")
def test_records_name_the_group_without_its_namespace() -> None:
    rig = Rig()
    hook = ConsumeMessageTraceHook(rig.dispatcher, rig.runtime.clock)
    context = ConsumeMessageContext("ns%group", (traced_message(0),), mq(), namespace="ns")
    hook.consume_message_before(context)
    assert isinstance(context.mq_trace_context, tuple)
    assert context.mq_trace_context[0].group_name == "group"
