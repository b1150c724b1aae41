"""Pops and what becomes of what was popped, as a client of the embedded broker asks for them."""

from __future__ import annotations

from typing import Any

from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeInitMode, PopStatus
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.pop_api import pop_result
from tests.unit.broker_rig import GROUP, TOPIC, Client

POP, ACK, BATCH_ACK, CHANGE, NOTIFICATION, POLLING_INFO = 200050, 200051, 200151, 200053, 200054, 200055
RETRY = f"%RETRY%{GROUP}_{TOPIC}"


def pop_call(topic: str = TOPIC, group: str = GROUP, *, order: bool = False) -> PopCall:
    """As the client describes a pop to whoever reads its answer."""
    queues = MessageQueue(topic, "broker-a", -1)
    return PopCall(group, queues, SubscriptionData(topic), 32, 60_000, ConsumeInitMode.MIN, 0, 0, order)


def pop_fields(**more: Any) -> dict[str, object]:
    return {
        "consumerGroup": GROUP, "topic": TOPIC, "queueId": -1, "maxMsgNums": 32, "invisibleTime": 60_000,
        "pollTime": 0, "bornTime": 0, "initMode": 0, "expType": "TAG", "exp": "*", "order": "false", **more,
    }  # fmt: skip


def pop(client: Client, **more: Any) -> RemotingCommand:
    return client.ask(POP, pop_fields(**more))


def popped(answer: RemotingCommand, order: bool = False) -> list[MessageExt]:
    result = pop_result(answer, pop_call(order=order), "broker")
    assert (result.status is PopStatus.FOUND) is bool(result.messages)
    return result.messages


def pop_now(client: Client, **more: Any) -> list[MessageExt]:
    return popped(pop(client, **more), more.get("order") == "true")


def settle(client: Client, code: int, msg: MessageExt, receipt: str | None = None, **more: Any) -> RemotingCommand:
    text = receipt or msg.get_property("POP_CK")
    info = ExtraInfo.parse(text)
    return client.ask(
        code,
        {
            "consumerGroup": GROUP, "topic": info.real_topic(TOPIC, GROUP), "queueId": info.queue_id,
            "extraInfo": text, "offset": info.queue_offset, **more,
        },
    )  # fmt: skip


def ack(client: Client, msg: MessageExt, **more: Any) -> int:
    return settle(client, ACK, msg, **more).code


def put_off(client: Client, msg: MessageExt, ms: int, **more: Any) -> RemotingCommand:
    return settle(client, CHANGE, msg, invisibleTime=ms, **more)
