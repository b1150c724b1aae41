"""What a file of offsets looks like, byte for byte as Java's. Source: OffsetSerializeWrapper.

It is not quite JSON: the keys of the one table are objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.model.message_queue import MessageQueue

MAX_FILE_BYTES = fastjson.MAX_TOLERANT_CHARACTERS
"""What is read and written at most: room for some 10,000 queues."""

_FILE = '{{\n\t"offsetTable":{{\n{}\n\t}}\n}}'
_ENTRY = '\t\t{{\n\t\t\t"brokerName":{},\n\t\t\t"queueId":{},\n\t\t\t"topic":{}\n\t\t}}:{}'


def to_json(offsets: Mapping[MessageQueue, int]) -> bytes:
    """The content of a file, sorted by queue."""
    entries = [
        _ENTRY.format(_text(mq.broker_name), mq.queue_id, _text(mq.topic), offset)
        for mq, offset in sorted(offsets.items())
    ]
    return _FILE.format(",\n".join(entries)).encode()


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def from_json(content: bytes) -> dict[MessageQueue, int]:
    """Read a file; white space and the order of members do not count.

    Keys that are texts with the object in them are read, too; Java does not.

    Raises:
        ProtocolError: it is larger than ``MAX_FILE_BYTES``, or not what this module and Java write.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ProtocolError(f"it has more than {MAX_FILE_BYTES} bytes")
    root = fastjson.loads(content)
    table = root.get("offsetTable") if isinstance(root, dict) else None
    if not isinstance(table, dict):
        raise ProtocolError("it has no offsetTable")
    return {_queue(key): _offset(value) for key, value in table.items()}


def _queue(key: Any) -> MessageQueue:
    if isinstance(key, str):
        keys = list(fastjson.loads(f"{{{key}:0}}"))
        key = keys[0] if len(keys) == 1 else None
    if not isinstance(key, MessageQueue):
        raise ProtocolError(f"the key {key!r:.200} is no queue")
    return key


def _offset(value: Any) -> int:
    # -1 is what Java writes for a queue of which nothing is consumed.
    if type(value) is not int or not -1 <= value < 2**63:
        raise ProtocolError(f"{value!r:.200} is no offset")
    return value
