from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rocketmq_py.client_remoting_processor import ClientRemotingProcessor
from rocketmq_py.model import fastjson
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    Messages,
)
from rocketmq_py.model.running_info import CMResult, ConsumeMessageDirectlyResult, ConsumerRunningInfo
from rocketmq_py.model.subscription import build_subscription_data
from rocketmq_py.operator_requests import OperatorRequests
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import encode_message
from rocketmq_py.testing import ManualRuntime
from tests.unit.support import GROUP, LATER, RETRY_TOPIC, SUCCESS, TOPIC, Core, message, mq

RESET, STATUS, RUNNING_INFO, CONSUME = 220, 221, 307, 309
ONEWAY = 2


class Operated:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.resets: list[tuple[str, Mapping[MessageQueue, int]]] = []
        self.consumed: list[MessageExt] = []

    def consumer_running_info(self, jstack: bool) -> ConsumerRunningInfo:
        subscription = build_subscription_data(TOPIC, "A||B", 1)
        return ConsumerRunningInfo({"name": "value"}, [subscription], {}, {}, "stacks" if jstack else None)

    def consumer_status(self, topic: str) -> Mapping[MessageQueue, int]:
        return {mq(topic=topic): 7}

    def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
        self.consumed.append(msg)
        return ConsumeMessageDirectlyResult(False, True, CMResult.CR_SUCCESS, None, 5)

    def reset_offset(self, topic: str, offsets: Mapping[MessageQueue, int]) -> None:
        self.resets.append((topic, offsets))


class Rig:
    """A client with one consumer, and a server that asks it."""

    def __init__(self, consumer: Any = None) -> None:
        runtime = ManualRuntime()
        self.consumer = consumer or Operated()
        self.requests = OperatorRequests(runtime, lambda group: self.consumer if group == GROUP else None)
        self._processor = ClientRemotingProcessor(runtime)
        for code, handler in self.requests.handlers().items():
            self._processor.register(code, handler)

    def ask(self, code: int, body: bytes = b"", **fields: str) -> RemotingCommand:
        (answer,) = self._process(RemotingCommand(code, 1, ext_fields=fields, body=body))
        return answer

    def tell(self, code: int, body: bytes = b"", **fields: str) -> None:
        assert self._process(RemotingCommand(code, 1, ONEWAY, ext_fields=fields, body=body)) == []

    def _process(self, request: RemotingCommand) -> list[RemotingCommand]:
        answers: list[RemotingCommand] = []
        assert self._processor.process("broker:1", request, answers.append)
        return answers

    def body(self, code: int, body: bytes = b"", **fields: str) -> Any:
        answer = self.ask(code, body, **fields)
        assert (answer.code, answer.remark) == (0, None)
        return fastjson.loads(answer.body)


@pytest.mark.behaviour("OP-05")
def test_the_running_info_is_answered_with_stacks_when_they_are_asked_for() -> None:
    rig = Rig()
    told = rig.body(RUNNING_INFO, consumerGroup=GROUP, clientId="c", jstackEnable="false")
    assert set(told) == {"mqPopTable", "mqTable", "properties", "statusTable", "subscriptionSet", "userConsumerInfo"}
    assert told["properties"] == {"name": "value"}
    assert told["subscriptionSet"][0]["subString"] == "A||B"
    assert rig.body(RUNNING_INFO, consumerGroup=GROUP, jstackEnable="TRUE")["jstack"] == "stacks"


@pytest.mark.behaviour("OP-05")
@pytest.mark.parametrize("code", [RUNNING_INFO, CONSUME])
def test_a_group_that_is_not_here_is_an_error(code: int) -> None:
    answer = Rig().ask(code, consumerGroup="other")
    assert (answer.code, answer.remark) == (1, "The Consumer Group <other> not exist in this consumer")


@pytest.mark.behaviour("OP-06")
def test_the_offsets_in_memory_are_answered_with_queues_as_keys() -> None:
    answer = Rig().ask(STATUS, group=GROUP, topic=TOPIC)
    assert answer.body == (
        b'{"consumerTable":{},"messageQueueTable":{{"brokerName":"broker-a","queueId":0,"topic":"topic"}:7}}'
    )
    assert Rig().body(STATUS, group="other", topic=TOPIC)["messageQueueTable"] == {}


@pytest.mark.behaviour("OP-07")
def test_a_message_is_consumed_directly_under_the_broker_it_came_from() -> None:
    rig = Rig()
    sent = message(5, body=b"payload", properties={"UNIQ_KEY": "id"})
    told = rig.body(CONSUME, encode_message(sent), consumerGroup=GROUP, brokerName="broker-z")
    assert told == {"autoCommit": True, "consumeResult": "CR_SUCCESS", "order": False, "spentTimeMills": 5}
    (msg,) = rig.consumer.consumed
    assert (msg.body, msg.broker_name, msg.msg_id, msg.queue_offset) == (b"payload", "broker-z", "id", 5)


@pytest.mark.behaviour("OP-07")
def test_only_one_message_at_a_time_is_consumed_directly() -> None:
    class Nested(Operated):
        def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
            answer = rig.ask(CONSUME, encode_message(msg), consumerGroup=GROUP)
            assert answer.code == 2
            assert "try again later" in str(answer.remark)
            return super().consume_message_directly(msg)

    rig = Rig(Nested())
    for _ in range(2):
        assert rig.body(CONSUME, encode_message(message(5)), consumerGroup=GROUP)["consumeResult"] == "CR_SUCCESS"


@pytest.mark.parametrize("body", [b"", b"nonsense", encode_message(message(1)) + encode_message(message(2))])
def test_what_is_not_one_message_is_an_error(body: bytes) -> None:
    rig = Rig()
    assert rig.ask(CONSUME, body, consumerGroup=GROUP).code == 1
    assert rig.consumer.consumed == []


@pytest.mark.behaviour("RO-05")
@pytest.mark.parametrize(
    "body",
    [
        b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"topic"}:4}}',
        b'{"offsetTable":[{"topic":"topic","brokerName":"broker-a","queueId":0,"offset":4}]}',
    ],
    ids=["map", "list"],
)
def test_a_reset_names_queues_as_keys_of_a_map_or_in_a_list(body: bytes) -> None:
    rig = Rig()
    rig.tell(RESET, body, group=GROUP, topic=TOPIC, timestamp="1", isForce="true")
    assert rig.consumer.resets == [(TOPIC, {mq(): 4})]


@pytest.mark.behaviour("RO-05")
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"offsetTable":7}',
        b'{"offsetTable":{"0":4}}',
        b'{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:-1}}',
        b'{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:9223372036854775808}}',
        b'{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:"4"}}',
        b'{"offsetTable":[{"topic":"t","brokerName":"b","queueId":0}]}',
    ],
)
def test_a_reset_that_makes_no_sense_resets_nothing(body: bytes) -> None:
    rig = Rig()
    rig.tell(RESET, body, group=GROUP, topic=TOPIC)
    assert rig.consumer.resets == []


@pytest.mark.behaviour("RO-05")
def test_a_reset_for_another_group_and_one_without_offsets_change_nothing() -> None:
    rig = Rig()
    rig.tell(RESET, b'{"offsetTable":{}}', group="other", topic=TOPIC)
    assert rig.consumer.resets == []
    rig.tell(RESET, group=GROUP, topic=TOPIC)
    assert rig.consumer.resets == [(TOPIC, {})]


# What the concurrent service answers.


@pytest.mark.behaviour("OP-04")
@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (SUCCESS, CMResult.CR_SUCCESS),
        (LATER, CMResult.CR_LATER),
        (None, CMResult.CR_RETURN_NULL),
        ([], CMResult.CR_RETURN_NULL),
        (CMResult.CR_SUCCESS, CMResult.CR_RETURN_NULL),
    ],
)
def test_what_the_listener_answers_to_a_message_consumed_directly_is_told(answer: Any, result: CMResult) -> None:
    calls: list[tuple[Messages, MessageQueue]] = []

    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        calls.append((msgs, context.message_queue))
        core.clock.advance(30)
        return answer  # type: ignore[no-any-return]

    core = Core(listener)
    msg = message(5, queue_id=3)
    assert core.service.consume_message_directly(msg) == ConsumeMessageDirectlyResult(False, True, result, None, 30)
    assert calls == [((msg,), mq(3))]


@pytest.mark.behaviour("OP-04")
def test_an_error_of_the_listener_is_told_in_short_with_its_place() -> None:
    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        raise ValueError("too bad")

    result = Core(listener).service.consume_message_directly(message(5))
    assert result.consume_result is CMResult.CR_THROW_EXCEPTION
    assert str(result.remark).startswith("ValueError: too bad, listener(")
    assert "test_operator_requests.py:" in str(result.remark)


@pytest.mark.behaviour("OP-04")
def test_a_long_error_of_the_listener_is_told_in_part() -> None:
    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        raise ValueError("x" * 1_000_000)

    assert 1_000 <= len(str(Core(listener).service.consume_message_directly(message(5)).remark)) < 1_500


@pytest.mark.behaviour("OP-04")
def test_consuming_directly_shows_the_original_topic_and_changes_neither_window_nor_offset_nor_rates() -> None:
    seen: list[str] = []

    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        seen.append(msgs[0].topic)
        return LATER

    core = Core(listener)
    core.begin()
    msg = message(5, topic=RETRY_TOPIC, properties={"RETRY_TOPIC": TOPIC})
    core.service.consume_message_directly(msg)
    core.runtime.advance(600_000)
    assert seen == [TOPIC]
    assert core.broker.sent_back == []
    assert core.windows[mq()].msg_count == 0
    assert core.store.clone_offset_table() == {}
    assert list(core.stats_manager.group(GROUP)) == []


@pytest.mark.behaviour("OP-04")
@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (ConsumeOrderlyStatus.SUCCESS, CMResult.CR_SUCCESS),
        (ConsumeOrderlyStatus.COMMIT, CMResult.CR_COMMIT),
        (ConsumeOrderlyStatus.ROLLBACK, CMResult.CR_ROLLBACK),
        (ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT, CMResult.CR_LATER),
        (SUCCESS, CMResult.CR_RETURN_NULL),
        (None, CMResult.CR_RETURN_NULL),
    ],
)
def test_an_orderly_listener_has_answers_of_its_own_and_says_whether_it_commits_itself(
    answer: Any, result: CMResult
) -> None:
    def listener(msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        context.auto_commit = False
        return answer  # type: ignore[no-any-return]

    core = Core(orderly=listener)
    told = core.orderly_service.consume_message_directly(message(5))
    assert told == ConsumeMessageDirectlyResult(True, False, result, None, 0)
    assert core.broker.sent_back == []


@pytest.mark.behaviour("OP-04")
def test_an_interrupt_inside_the_listener_is_told_like_any_error() -> None:
    def listener(msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        raise KeyboardInterrupt

    assert Core(listener).service.consume_message_directly(message(5)).consume_result is CMResult.CR_THROW_EXCEPTION
