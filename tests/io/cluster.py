"""A name server and brokers that know as much of the protocol as a consumer needs, and lie where a test wants it."""

from __future__ import annotations

import json
import ssl
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.io.server import Peer, Seen, Server, stored_message

TOPIC = "topic"

MIB = 1024 * 1024

PULL, SEND_V2, SEND_BATCH = 11, 310, 320
QUERY_OFFSET, UPDATE_OFFSET, SEARCH_OFFSET, MAX_OFFSET, MIN_OFFSET = 14, 15, 29, 30, 31
HEARTBEAT, UNREGISTER, SEND_BACK, MEMBERS, NOTIFY = 34, 35, 36, 38, 40
LOCK, UNLOCK = 41, 42
ROUTE, RECALL = 105, 370

NOT_FOUND, RETRY_NOW, OFFSET_MOVED, NO_OFFSET, NO_TOPIC = 19, 20, 21, 22, 17

Script = Callable[[Peer, Seen], bool]
"""Deals with a request in the place of the cluster; False: the cluster shall."""


class Cluster:
    """One name server and some brokers.

    Attributes:
        scripts: by request code; looked at before anything else.
        committed: offsets by (group, topic, broker, queue).
        members: what GET_CONSUMER_LIST answers; None: whoever sent heartbeats.
        routes: bodies of route answers by topic.
    """

    def __init__(
        self, brokers: Sequence[str] = ("broker-a",), queues: int = 1, tls: ssl.SSLContext | None = None
    ) -> None:
        self._lock = threading.RLock()
        self.scripts: dict[int, Script] = {}
        self.committed: dict[tuple[str, str, str, int], int] = {}
        self.members: list[Any] | None = None
        self._heard: dict[str, dict[str, None]] = {}  # group -> client ids
        self._messages: dict[tuple[str, str, int], list[bytes]] = {}
        self._held: list[tuple[str, Peer, Seen]] = []
        self.brokers: dict[str, Server] = {}
        for name in brokers:
            self.brokers[name] = Server(self._handler(name), tls=tls)
        self.name_server = Server(self._handler(""), tls=tls)
        self.routes: dict[str, Any] = {TOPIC: self.route(queues)}

    def route(self, queues: int, topic: str = TOPIC) -> dict[str, Any]:
        return route(queues, {name: server.address for name, server in self.brokers.items()})

    @property
    def address(self) -> str:
        return self.name_server.address

    @property
    def broker(self) -> Server:
        """The only one, or the first."""
        return next(iter(self.brokers.values()))

    def name_of(self, address: str) -> str:
        return next(name for name, server in self.brokers.items() if server.address == address)

    def stop(self) -> None:
        for server in (self.name_server, *self.brokers.values()):
            server.stop()

    def store(
        self,
        *bodies: bytes,
        queue_id: int = 0,
        broker: str = "",
        topic: str = TOPIC,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Append messages, and answer the pulls that wait for them."""
        broker = broker or next(iter(self.brokers))
        with self._lock:
            stored = self._messages.setdefault((topic, broker, queue_id), [])
            for body in bodies:
                stored.append(stored_message(len(stored), body, topic=topic, queue_id=queue_id, properties=properties))
            held, self._held = self._held, []
        for name, peer, seen in held:
            self._pull(name, peer, seen)

    def held_pulls(self) -> list[Seen]:
        with self._lock:
            return [seen for _, _, seen in self._held]

    def pulls(self, queue_id: int = 0, topic: str = TOPIC) -> list[Seen]:
        """Pulls of a queue so far."""
        return [
            seen
            for server in self.brokers.values()
            for seen in server.seen
            if seen.code == PULL and seen.fields["queueId"] == str(queue_id) and seen.fields["topic"] == topic
        ]

    def _handler(self, name: str) -> Callable[[Peer, Seen], None]:
        def handle(peer: Peer, seen: Seen) -> None:
            script = self.scripts.get(seen.code)
            if script is not None and script(peer, seen):
                return
            self.handle(name, peer, seen)

        return handle

    def handle(self, name: str, peer: Peer, seen: Seen) -> None:
        """What an honest server does."""
        fields = seen.fields
        if seen.code == ROUTE:
            route = self.routes.get(fields["topic"])
            if route is None:
                peer.reply(seen, NO_TOPIC, remark="no such topic")
            else:
                peer.reply(seen, body=route if isinstance(route, bytes) else json.dumps(route).encode())
        elif seen.code == HEARTBEAT:
            data = json.loads(seen.body)
            with self._lock:
                for consumer in data["consumerDataSet"]:
                    self._heard.setdefault(consumer["groupName"], {})[data["clientID"]] = None
            peer.reply(seen)
        elif seen.code == MEMBERS:
            with self._lock:
                members = (
                    self.members if self.members is not None else list(self._heard.get(fields["consumerGroup"], ()))
                )
            peer.reply(seen, body=json.dumps({"consumerIdList": members}).encode())
        elif seen.code == UNREGISTER:
            with self._lock:
                self._heard.get(fields.get("consumerGroup", ""), {}).pop(fields["clientID"], None)
            peer.reply(seen)
        elif seen.code == QUERY_OFFSET:
            offset = self.committed.get(self._place(name, fields))
            peer.reply(seen, NO_OFFSET if offset is None else 0, {} if offset is None else {"offset": str(offset)})
        elif seen.code == UPDATE_OFFSET:
            self.committed[self._place(name, fields)] = int(fields["commitOffset"])
        elif seen.code in (MAX_OFFSET, SEARCH_OFFSET):
            count = len(self._messages.get((fields["topic"], name, int(fields["queueId"])), ()))
            peer.reply(seen, fields={"offset": str(count)})
        elif seen.code == MIN_OFFSET:
            peer.reply(seen, fields={"offset": "0"})
        elif seen.code == PULL:
            self._pull(name, peer, seen)
        elif seen.code in (SEND_V2, SEND_BATCH):
            reply_sent(peer, seen)
        elif not seen.oneway and not seen.is_response:
            peer.reply(seen)

    def _place(self, name: str, fields: Mapping[str, str]) -> tuple[str, str, str, int]:
        return fields["consumerGroup"], fields["topic"], name, int(fields["queueId"])

    def _pull(self, name: str, peer: Peer, seen: Seen) -> None:
        fields = seen.fields
        if int(fields["sysFlag"]) & 1:
            self.committed[self._place(name, fields)] = int(fields["commitOffset"])
        with self._lock:
            stored = self._messages.get((fields["topic"], name, int(fields["queueId"])), [])
            offset = int(fields["queueOffset"])
            if offset == len(stored):
                self._held.append((name, peer, seen))
                return
        if not 0 <= offset < len(stored):
            moved = 0 if offset < 0 else len(stored)
            reply_pull(peer, seen, moved, len(stored), code=OFFSET_MOVED)
            return
        found = stored[offset : offset + int(fields["maxMsgNums"])]
        reply_pull(peer, seen, offset + len(found), len(stored), b"".join(found))


def route(queues: int, addresses: Mapping[str, str]) -> dict[str, Any]:
    return {
        "queueDatas": [
            {"brokerName": name, "readQueueNums": queues, "writeQueueNums": queues, "perm": 6} for name in addresses
        ],
        "brokerDatas": [
            {"cluster": "c", "brokerName": name, "brokerAddrs": {"0": address}} for name, address in addresses.items()
        ],
    }


def reply_pull(
    peer: Peer, seen: Seen, next_offset: int | str, max_offset: int | str = 0, body: bytes = b"", code: int = 0
) -> bool:
    fields = {
        "nextBeginOffset": str(next_offset), "minOffset": "0", "maxOffset": str(max_offset),
        "suggestWhichBrokerId": "0",
    }  # fmt: skip
    return peer.reply(seen, code, fields, body)


def reply_sent(peer: Peer, seen: Seen, offset: int = 0) -> bool:
    fields = {"msgId": "00" * 16, "queueId": seen.fields.get("e", "0"), "queueOffset": str(offset)}
    return peer.reply(seen, fields=fields)


# Bodies of answers to a pull that cannot be read.

GOOD = stored_message(5, b"body")
BOMB = zlib.compress(b"\0" * (160 * MIB), 1)

BAD_BODIES = {
    "cut short": GOOD + GOOD[:-3],
    "one byte": b"\x01",
    "size 0": b"\0\0\0\0" + GOOD[4:],
    "negative size": b"\xff\xff\xff\xff" + GOOD[4:],
    "size of 2 GiB": b"\x7f\xff\xff\xff" + GOOD[4:],
    "wrong magic": GOOD[:4] + b"\0\0\0\0" + GOOD[8:],
    "noise": bytes(range(256)) * 4,
    "compressed, but is not": stored_message(5, b"plain text", sys_flag=0x1),
    "compressed, cut short": stored_message(5, zlib.compress(b"text" * 500)[:-6], sys_flag=0x301),
    "compressed by nobody knows what": stored_message(5, b"text", sys_flag=0x501),
    "a bomb": stored_message(5, BOMB, sys_flag=0x301),
    "bombs": stored_message(5, zlib.compress(b"\0" * (5 * MIB)), sys_flag=0x301) * 32,
}
