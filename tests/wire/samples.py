"""What the tests of the wire have in common: Java's recorded bytes, and strategies for what goes over it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from rocketmq_py.model.message import MessageExt
from rocketmq_py.remoting.frame import LANGUAGES, RemotingCommand
from rocketmq_py.remoting.message_codec import encode_message

GOLDEN = Path(__file__).parent / "golden" / "golden.json"

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LONG_MAX = 2**63 - 1


def golden(kind: str) -> list[Any]:
    """The entries of one kind, as pytest parameters named as they are."""
    import pytest

    entries = json.loads(GOLDEN.read_text(encoding="utf-8"))["entries"]
    return [pytest.param(entry, id=entry["name"]) for entry in entries if entry["kind"] == kind]


def golden_bytes(kind: str) -> list[bytes]:
    """The bytes of the entries of one kind."""
    entries = json.loads(GOLDEN.read_text(encoding="utf-8"))["entries"]
    return [bytes.fromhex(entry["hex"]) for entry in entries if entry["kind"] == kind]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
property_texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x01\x02"), min_size=1, max_size=20
)
properties = st.dictionaries(property_texts, property_texts, max_size=5)
int32 = st.integers(INT_MIN, INT_MAX)
addresses = st.binary(min_size=4, max_size=4).map(socket.inet_ntoa) | st.binary(min_size=16, max_size=16).map(
    lambda packed: socket.inet_ntop(socket.AF_INET6, packed)
)
hosts = st.tuples(addresses, st.integers(0, 65_535))

commands = st.builds(
    RemotingCommand,
    code=int32,
    opaque=int32,
    flag=st.integers(0, 3),
    remark=st.none() | texts,
    ext_fields=st.dictionaries(texts, texts, max_size=6),
    body=st.binary(max_size=300),
    language=st.sampled_from(LANGUAGES),
    version=st.integers(0, 32_767),
)

messages = st.builds(
    MessageExt,
    topic=st.text("abcXYZ_-%|", min_size=1, max_size=200),
    body=st.binary(max_size=300),
    queue_id=st.integers(0, INT_MAX),
    queue_offset=st.integers(0, LONG_MAX),
    properties=properties,
    flag=int32,
    sys_flag=st.sampled_from([0, 0x2, 0x4, 0x8, 0xC]),
    commit_log_offset=st.integers(0, LONG_MAX),
    born_timestamp=st.integers(0, LONG_MAX),
    store_timestamp=st.integers(0, LONG_MAX),
    born_host=hosts,
    store_host=hosts,
    reconsume_times=st.integers(0, INT_MAX),
    prepared_transaction_offset=st.integers(-1, LONG_MAX),
)


def stored(body: bytes = b"hello", **fields: Any) -> bytes:
    """One stored message."""
    fields = {"topic": "topic", "queue_id": 2, "queue_offset": 42, "tags": "TagA", **fields}
    return encode_message(MessageExt(body=body, **fields))


def facts(message: MessageExt) -> dict[str, Any]:
    """All that a message tells, but for what only the stored form has."""
    return {
        "topic": message.topic,
        "body": message.body,
        "queue_id": message.queue_id,
        "queue_offset": message.queue_offset,
        "properties": dict(message.properties),
        "flag": message.flag,
        "sys_flag": message.sys_flag,
        "commit_log_offset": message.commit_log_offset,
        "born_timestamp": message.born_timestamp,
        "store_timestamp": message.store_timestamp,
        "born_host": message.born_host,
        "store_host": message.store_host,
        "reconsume_times": message.reconsume_times,
        "prepared_transaction_offset": message.prepared_transaction_offset,
        "msg_id": message.msg_id,
    }
