"""What tests ask a broker and a name server for besides what the package under test asks.

Spoken with the standard library alone: no line is shared with ``rocketmq_py``, where a mistake could hide itself.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import ssl
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

BROKER_NAME = "broker-a"
CLUSTER_NAME = "DefaultCluster"

#: below the range from which a machine takes its outgoing ports, so that a port stays ours while its server is down
_PORTS = range(12_000, 32_000)

#: hypothesis seeds the shared one, in every worker alike
_RANDOM = random.Random()


class ClusterError(Exception):
    """The cluster did not do what was asked; the message carries the tail of its logs where they help."""


@dataclass(frozen=True)
class Reply:
    """A remoting response."""

    code: int
    remark: str
    ext: Mapping[str, str]
    body: bytes

    def checked(self, what: str) -> Reply:
        """This reply, or an exception when it is an error."""
        if self.code != 0:
            raise ClusterError(f"{what}: code {self.code} {self.remark}")
        return self


class Wire:
    """One remoting connection."""

    def __init__(self, addr: str, timeout_s: float = 20.0, tls: ssl.SSLContext | None = None) -> None:
        host, port = addr.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self._opaque = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, code: int, ext: Mapping[str, object] | None = None, body: bytes = b"") -> Reply:
        """Send a request and wait for its response."""
        opaque = self.begin(code, ext, body)
        while True:
            (length,) = struct.unpack(">i", self._receive(4))
            frame = self._receive(length)
            (header_length,) = struct.unpack_from(">i", frame)
            answer = json.loads(frame[4 : 4 + header_length])
            if answer["flag"] & 1 and answer["opaque"] == opaque:
                remark, ext_fields = answer.get("remark") or "", answer.get("extFields") or {}
                return Reply(answer["code"], remark, ext_fields, frame[4 + header_length :])

    def begin(self, code: int, ext: Mapping[str, object] | None = None, body: bytes = b"") -> int:
        """Send a request; its opaque."""
        opaque = next(self._opaque)
        fields = {name: text_of(value) for name, value in (ext or {}).items()}
        command = {"code": code, "language": "OTHER", "version": 513, "opaque": opaque, "flag": 0, "extFields": fields}
        header = json.dumps(command).encode()
        self._socket.sendall(struct.pack(">ii", 4 + len(header) + len(body), len(header)) + header + body)
        return opaque

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            data += piece
        return data


def call(
    addr: str,
    code: int,
    ext: Mapping[str, object] | None = None,
    body: bytes = b"",
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """One request over a connection of its own."""
    with Wire(addr, tls=tls) as wire:
        return wire.call(code, ext, body)


class Administration(ABC):
    """Topics, groups and offsets of a broker.

    Attributes:
        tls: for servers that take no connection in plain text.
    """

    tls: ssl.SSLContext | None = None

    def call(self, addr: str, code: int, ext: Mapping[str, object] | None = None, body: bytes = b"") -> Reply:
        """One request over a connection of its own."""
        return call(addr, code, ext, body, self.tls)

    @property
    @abstractmethod
    def namesrv_addr(self) -> str:
        """Address of the name server."""

    @property
    @abstractmethod
    def broker_addr(self) -> str:
        """Address of the broker."""

    def create_topic(
        self, topic: str, queues: int = 8, perm: int = 6, *, order: bool = False, message_type: str | None = None
    ) -> None:
        """Create or change a topic and wait until the name server routes to it.

        ``message_type`` is NORMAL, FIFO, DELAY, TRANSACTION or MIXED; what the gRPC clients check.
        """
        ext: dict[str, object] = {
            "topic": topic,
            "defaultTopic": "TBW102",
            "readQueueNums": queues,
            "writeQueueNums": queues,
            "perm": perm,
            "topicFilterType": "SINGLE_TAG",
            "topicSysFlag": 0,
            "order": order,
        }
        if message_type is not None:
            ext["attributes"] = f"+message.type={message_type}"
        self.call(self.broker_addr, 17, ext).checked(f"create topic {topic}")
        self.wait_route(topic)

    def create_group(self, group: str, *, retry_max_times: int = 16, orderly: bool = False) -> None:
        """Create or change a consumer group, and its retry topic.

        Without the retry topic a group's first retry waits for the client's next look at the routes, up to 30 s.
        """
        config = {"groupName": group, "retryMaxTimes": retry_max_times, "consumeMessageOrderly": orderly}
        self.call(self.broker_addr, 200, body=json.dumps(config).encode()).checked(f"create group {group}")
        self.create_topic(f"%RETRY%{group}", queues=1)

    def set_consume_mode(self, group: str, topic: str, mode: str) -> None:
        """Have a group pull or pop a topic: PULL or POP. It counts when a member asks for its queues again."""
        asked = {"topic": topic, "consumerGroup": group, "mode": mode, "popShareQueueNum": 0}
        self.call(self.broker_addr, 401, body=json.dumps(asked).encode()).checked(f"set the mode of {group} to {mode}")

    def delete_topic(self, topic: str) -> None:
        """Delete a topic at the broker and at the name server."""
        self.call(self.broker_addr, 215, {"topic": topic}).checked(f"delete topic {topic}")
        self.call(self.namesrv_addr, 216, {"topic": topic}).checked(f"delete topic {topic}")

    def route(self, topic: str, addr: str | None = None) -> dict[str, Any] | None:
        """The topic's route as a name server (or a proxy) tells it; None when it has none."""
        reply = self.call(addr or self.namesrv_addr, 105, {"topic": topic, "acceptStandardJsonOnly": True})
        if reply.code == 17:
            return None
        route: dict[str, Any] = json.loads(reply.checked(f"route of {topic}").body)
        return route

    def wait_route(self, topic: str, addr: str | None = None, timeout_s: float = 30.0) -> None:
        """Wait until a name server (or a proxy) tells a route for the topic."""
        deadline = time.monotonic() + timeout_s
        while self.route(topic, addr) is None:
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {timeout_s:.0f} s for a route of {topic}")
            time.sleep(0.02)

    def max_offsets(self, topic: str) -> dict[int, int]:
        """By queue id, the offset the next message will get."""
        with Wire(self.broker_addr, tls=self.tls) as wire:
            replies = {queue: wire.call(30, {"topic": topic, "queueId": queue}) for queue in self._queues(topic)}
        return {queue: int(reply.checked("max offset").ext["offset"]) for queue, reply in replies.items()}

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """By queue id, the offset from which the group will go on; -1 where it has committed none."""
        offsets = {}
        with Wire(self.broker_addr, tls=self.tls) as wire:
            for queue in self._queues(topic):
                ext = {"consumerGroup": group, "topic": topic, "queueId": queue, "setZeroIfNotFound": False}
                reply = wire.call(14, ext)
                offsets[queue] = -1 if reply.code == 22 else int(reply.checked("committed offset").ext["offset"])
        return offsets

    def consumer_ids(self, group: str) -> list[str]:
        """The client ids that consume in the group now."""
        reply = self.call(self.broker_addr, 38, {"consumerGroup": group})
        if reply.code == 1:  # "no consumer for this group"
            return []
        return sorted(json.loads(reply.checked(f"consumers of {group}").body)["consumerIdList"])

    def lock(self, group: str, topic: str, queue_id: int, client_id: str) -> bool:
        """Lock a queue as a member of the group would; whether it is held now."""
        reply = call(self.broker_addr, 41, body=_lock_body(group, topic, queue_id, client_id)).checked("lock")
        return bool(json.loads(reply.body)["lockOKMQSet"])

    def unlock(self, group: str, topic: str, queue_id: int, client_id: str) -> None:
        """Give the lock back."""
        call(self.broker_addr, 42, body=_lock_body(group, topic, queue_id, client_id)).checked("unlock")

    def _queues(self, topic: str) -> range:
        route = self.route(topic)
        if route is None:
            raise ClusterError(f"topic {topic} does not exist")
        (queues,) = [data for data in route["queueDatas"] if data["brokerName"] == BROKER_NAME]
        return range(max(queues["readQueueNums"], queues["writeQueueNums"]))


def _lock_body(group: str, topic: str, queue_id: int, client_id: str) -> bytes:
    queue = {"topic": topic, "brokerName": BROKER_NAME, "queueId": queue_id}
    return json.dumps({"consumerGroup": group, "clientId": client_id, "mqSet": [queue]}).encode()


def text_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def free_ports(*offsets: int) -> list[int]:
    """Ports at these distances from one another that nobody listens on."""
    while True:
        base = _RANDOM.choice(_PORTS)
        ports = [base + offset for offset in offsets]
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return ports
