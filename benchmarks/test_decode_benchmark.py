"""The wire's hot path: what a pulled message costs before anybody looks at it.

``sketch`` is the decode loop of the hot-path experiment from which the package's speed was planned: IPv4 and one magic
only, nothing checked. It is measured beside ours, so that figures of different machines can be compared.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rocketmq_py.model.message import MessageExt, PullBounds
from rocketmq_py.remoting.frame import FrameReader, RemotingCommand, encode, encode_request
from rocketmq_py.remoting.message_codec import decode_messages, encode_message

COUNT = 32
PROPERTIES = {
    "KEYS": "k1",
    "UNIQ_KEY": "7F0000010001002A9F000000000E87D3",
    "CLUSTER": "DefaultCluster",
    "MSG_REGION": "DefaultRegion",
    "WAIT": "true",
    "TAGS": "TagA",
    "TRACE_ON": "true",
}
BOUNDS = PullBounds(0, 1_000_000, "broker-a")


def stored_messages(size: int) -> bytes:
    """What a broker sends for a pull of ``COUNT`` messages."""
    return b"".join(
        encode_message(
            MessageExt(
                topic="BenchTopic", body=b"x" * size, queue_id=2, queue_offset=offset, properties=PROPERTIES,
                commit_log_offset=offset * 1_300, born_timestamp=1_763_640_000_123, store_timestamp=1_763_640_000_127,
                born_host=("192.168.1.2", 51_234), store_host=("192.168.1.2", 10_911),
            )
        )
        for offset in range(COUNT)
    )  # fmt: skip


def per_message(benchmark: BenchmarkFixture, messages: int = COUNT) -> None:
    """Tell microseconds per message; with --benchmark-disable nothing was measured."""
    if benchmark.stats is not None:
        benchmark.extra_info["us per message"] = round(benchmark.stats.stats.min / messages * 1e6, 3)
        print(f"\n{benchmark.name}: {benchmark.extra_info['us per message']} us per message")


class Sketched:
    __slots__ = (
        "body", "born", "flag", "phys", "props", "props_cache", "queue_id", "queue_offset", "reconsume_times", "size",
        "store", "sys_flag", "topic",
    )  # fmt: skip


_SKETCH_HEAD = struct.Struct(">iiiiiqqiqiiqiiiqi")


def sketch(data: bytes) -> list[Any]:
    """As in the experiment."""
    position, found, total, new = 0, [], len(data), Sketched.__new__
    while position < total:
        (size, _, _, queue_id, _, offset, _, sys_flag, born, _, _, _, _, _, times, _, body_size) = (
            _SKETCH_HEAD.unpack_from(data, position)
        )
        message: Any = new(Sketched)
        at = position + 88
        message.queue_id = queue_id
        message.queue_offset = offset
        message.body = data[at : at + body_size]
        at += body_size
        at += 1 + data[at]
        properties_size = (data[at] << 8) | data[at + 1]
        message.props = data[at + 2 : at + 2 + properties_size]
        message.topic = "BenchTopic"
        message.reconsume_times = times
        message.born = born
        message.size = size
        message.sys_flag = sys_flag
        found.append(message)
        position += size
    return found


@pytest.mark.parametrize("size", [1_024, 100])
def test_sketch(benchmark: BenchmarkFixture, size: int) -> None:
    assert len(benchmark(sketch, stored_messages(size))) == COUNT
    per_message(benchmark)


@pytest.mark.parametrize("size", [1_024, 100])
def test_decode_messages(benchmark: BenchmarkFixture, size: int) -> None:
    assert len(benchmark(decode_messages, stored_messages(size), BOUNDS)) == COUNT
    per_message(benchmark)


def test_decode_messages_and_read_every_tag(benchmark: BenchmarkFixture) -> None:
    data = stored_messages(1_024)
    assert benchmark(lambda: [message.tags for message in decode_messages(data, BOUNDS)]) == ["TagA"] * COUNT
    per_message(benchmark)


def test_pull_reply_from_the_stream_to_messages(benchmark: BenchmarkFixture) -> None:
    fields = {"suggestWhichBrokerId": "0", "nextBeginOffset": "32", "minOffset": "0", "maxOffset": "1000000"}
    reply = encode(RemotingCommand(0, 7, 1, "FOUND", fields, stored_messages(1_024)))
    reader = FrameReader()

    def receive() -> list[MessageExt]:
        reader.get_buffer()[: len(reply)] = reply  # what recv_into does
        reader.received(len(reply))
        [command] = reader
        return decode_messages(command.body, BOUNDS)

    assert len(benchmark(receive)) == COUNT
    per_message(benchmark)


def test_encode_a_pull_request(benchmark: BenchmarkFixture) -> None:
    fields = {
        "consumerGroup": "BenchGroup", "topic": "BenchTopic", "queueId": "3", "queueOffset": "123456",
        "maxMsgNums": "32", "sysFlag": "7", "commitOffset": "123000", "suspendTimeoutMillis": "15000",
        "subscription": "*", "subVersion": "1763640000123", "expressionType": "TAG", "bname": "broker-a",
    }  # fmt: skip
    assert benchmark(encode_request, 11, 7, fields)[4:8]
    per_message(benchmark, 1)
