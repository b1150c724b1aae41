"""The same answers to a pop into upstream's own client and ours: every message must get the same receipt.

Commands are those of PopResponseDriver.java, random but seeded. ``ROCKETMQ_PY_FULL=1`` runs ten times as many.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterator

import pytest

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.extra_info import ExtraInfo, retry_of
from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import encode_message
from rocketmq_py.remoting.pop_api import pop_result
from tests.java.driver import JavaDriver
from tests.wire.test_pop_answer import Call

COMMANDS = 10_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 1_000

TOPICS = ("topic", "topic", "topic", "%RETRY%group_topic", "%RETRY%group+topic", "other")
POP_TIME = 1_700_000_000_000


@pytest.fixture(scope="module")
def java_client(java: None) -> Iterator[JavaDriver]:
    with JavaDriver("PopResponseDriver") as client:
        yield client


def answer_of(numbers: random.Random) -> tuple[bool, dict[str, str], bytes]:
    """What a broker may answer: mostly whole, sometimes with a part that is missing, doubled, or of another queue."""
    places = sorted({(numbers.choice(TOPICS), numbers.randrange(3), numbers.randrange(8)) for _ in range(6)})
    numbers.shuffle(places)
    messages = [
        MessageExt(
            topic=topic, body=b"body", queue_id=queue, queue_offset=offset, properties=_receipt(numbers, queue, offset),
            reconsume_times=numbers.randrange(2),
        )
        for topic, queue, offset in places
    ]  # fmt: skip
    offsets: defaultdict[str, list[int]] = defaultdict(list)
    for message in messages:
        receipt = message.get_property("POP_CK")
        retry = retry_of(message.topic) if receipt is None else ExtraInfo.parse(receipt).retry
        offsets[f"{retry} {message.queue_id}"].append(message.queue_offset + numbers.choice((0, 0, 0, 0, 5)))
    starts = [f"{key} {min(found)}" for key, found in offsets.items()]
    places_told = [f"{key} {','.join(map(str, found))}" for key, found in offsets.items()]
    counts = [f"{key} {numbers.randrange(4)}" for key in offsets if numbers.random() < 0.5]
    counts += [
        f"{retry_of(message.topic)} qo{message.queue_id}%{message.queue_offset} {numbers.randrange(4)}"
        for message in messages
        if numbers.random() < 0.3
    ]
    for told in (starts, places_told):
        if numbers.random() < 0.08:
            told.pop()
        if numbers.random() < 0.04 and told:
            told.append(told[0])
        if numbers.random() < 0.04 and told:
            told[0] += numbers.choice((" 1", "x", ",x"))
    fields = {
        "restNum": "0",
        "popTime": str(POP_TIME), "invisibleTime": str(numbers.choice((5_000, 60_000))), "reviveQid": "3",
        "startOffsetInfo": ";".join(starts), "msgOffsetInfo": ";".join(places_told), "orderCountInfo": ";".join(counts),
    }  # fmt: skip
    for name in ("startOffsetInfo", "msgOffsetInfo", "orderCountInfo"):
        if numbers.random() < 0.05 or not fields[name]:
            del fields[name]
    return numbers.random() < 0.5, fields, b"".join(map(encode_message, messages))


def _receipt(numbers: random.Random, queue: int, offset: int) -> dict[str, str]:
    if numbers.random() < 0.7:
        return {}
    receipt = f"{offset} {POP_TIME} 4000 0 {numbers.choice('0112')} broker-a {queue} {offset}"
    return {"POP_CK": receipt, "1ST_POP_TIME": "5"} if numbers.random() < 0.5 else {"POP_CK": receipt}


def ours(order: bool, fields: dict[str, str], body: bytes) -> str:
    try:
        result = pop_result(RemotingCommand(0, ext_fields=fields, body=body), Call(order=order), "host:1")
    except ProtocolError:
        return "!"
    told = []
    for message in result.messages:
        receipt = message.get_property("POP_CK")
        words = (
            message.topic, receipt, message.get_property("1ST_POP_TIME"), message.reconsume_times,
            ExtraInfo.parse(receipt).real_topic("topic", "group"),
        )  # fmt: skip
        told.append("/".join(map(str, words)))
    return "|".join(told)


@pytest.mark.behaviour("PO-26")
def test_every_message_of_a_pop_gets_the_receipt_that_java_gives_it(java_client: JavaDriver) -> None:
    numbers = random.Random(5)
    answers = [answer_of(numbers) for _ in range(COMMANDS)]
    commands = [
        f"{str(order).lower()}|{'&'.join(f'{name}={value}' for name, value in fields.items())}|{body.hex()}"
        for order, fields, body in answers
    ]
    theirs = java_client.run(commands)
    mine = [ours(*answer) for answer in answers]
    assert [
        (command, own, their) for command, own, their in zip(commands, mine, theirs, strict=True) if own != their
    ] == []
    failed = mine.count("!")
    assert 0 < failed < COMMANDS // 2
