"""``rocketmq-py send``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO

from rocketmq_py.cli.credentials import credentials
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message import Message
from rocketmq_py.producer import DefaultMQProducer

PRODUCER_GROUP = "rocketmq_py_send"


def lines(source: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; empty ones are left out, because a message cannot be empty."""
    return (body for line in source if (body := line.rstrip(b"\r\n")))


def generated(count: int, size: int) -> Iterator[bytes]:
    """``count`` bodies of ``size`` bytes that tell their number."""
    for number in range(count):
        yield f"message {number} ".encode().ljust(size, b".")[:size]


def send(
    address: Mapping[str, Any],
    topic: str,
    bodies: Iterable[bytes],
    *,
    batch: int,
    tags: str | None,
    keys: str | None,
) -> int:
    """Send every body to ``namesrv_addr`` or ``endpoints``; returns how many. Ctrl-C says how many it were."""
    if "endpoints" in address:
        batch = 1  # the gRPC protocol has no batches
    messages = (Message(topic, body, tags=tags, keys=keys) for body in bodies)
    sent = 0
    with DefaultMQProducer(PRODUCER_GROUP, **address, **credentials()) as producer:
        try:
            while some := list(islice(messages, batch)):
                producer.send(some if len(some) > 1 else some[0])
                sent += len(some)
        except KeyboardInterrupt:
            raise RocketMQError(f"interrupted: {sent} messages were sent, the next ones perhaps") from None
    return sent
