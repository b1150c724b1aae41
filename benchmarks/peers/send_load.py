"""Producers that cost next to nothing: each connection has one send in flight, all of them in one thread.

Arguments: BROKER TOPIC QUEUES CONNECTIONS BATCH BODY_BYTES SECONDS. Prints one JSON line.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import time

from rocketmq_py.model.message import format_properties
from rocketmq_py.remoting.frame import encode_request
from rocketmq_py.remoting.message_codec import encode_batch

_LENGTH = struct.Struct(">i")


def frame(topic: str, queue_id: int, batch: int, size: int) -> bytes:
    """What a DefaultMQProducer sends."""
    properties = {"UNIQ_KEY": "C00002023ED8A20175BB6952698D0000", "WAIT": "true"}
    fields = {
        "a": "bench", "b": topic, "c": "TBW102", "d": "4", "e": str(queue_id), "f": "0", "g": "1700000000000",
        "h": "0", "i": format_properties(properties), "j": "0", "k": "false", "m": "true" if batch > 1 else "false",
        "n": "broker-a",
    }  # fmt: skip
    body = b"x" * size
    if batch == 1:
        return encode_request(310, 1, fields, body)
    return encode_request(320, 1, fields, encode_batch([(body, 0, properties)] * batch))


def main() -> None:
    broker, topic, *numbers = sys.argv[1:]
    queues, connections, batch, size, seconds = map(int, numbers)
    host, port = broker.rsplit(":", 1)
    frames = [frame(topic, queue, batch, size) for queue in range(queues)]
    selector = selectors.DefaultSelector()
    for number in range(connections):
        sock = socket.create_connection((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(sock, selectors.EVENT_READ, frames[number % queues])
        sock.sendall(frames[number % queues])
    answered = 0
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(1):
            peer = key.fileobj
            assert isinstance(peer, socket.socket)
            answer = peer.recv(65_536)
            assert _LENGTH.unpack_from(answer)[0] == len(answer) - 4, "an answer came in pieces"
            assert b'"code":0,' in answer, answer
            answered += 1
            peer.sendall(key.data)
    elapsed = time.perf_counter() - start
    print(json.dumps({"messages": answered * batch, "seconds": elapsed, "per_second": answered * batch / elapsed}))


if __name__ == "__main__":
    main()
