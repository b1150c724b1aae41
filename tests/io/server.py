"""A small server on a loopback socket that does what a test says, and its own few lines of the remoting protocol.

Nothing here is taken from the package: an error that both ends shared would not be seen.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

BOUND_S = 10.0
"""How long a test waits for something that must happen; a good run never waits this long."""

RESPONSE = 1
ONEWAY = 2


def eventually(condition: Callable[[], object], bound_s: float = BOUND_S) -> bool:
    """Whether the condition comes true in time; asked again and again."""
    deadline = time.monotonic() + bound_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.004)
    return True


def stays(condition: Callable[[], object], for_s: float) -> bool:
    """Whether the condition is true now and all the time."""
    return not eventually(lambda: not condition(), for_s)


# The protocol.


def encode(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack(">II", 4 + len(raw) + len(body), len(raw)) + raw + body


def encode_reply(
    opaque: int, code: int = 0, fields: Mapping[str, str] | None = None, body: bytes = b"", remark: str | None = None
) -> bytes:
    header = {"code": code, "flag": RESPONSE, "language": "JAVA", "opaque": opaque, "version": 513, "remark": remark}
    return encode({**header, "extFields": dict(fields or {})}, body)


def encode_ask(
    code: int, opaque: int = 1, fields: Mapping[str, str] | None = None, oneway: bool = False, body: bytes = b""
) -> bytes:
    """A request that a server makes."""
    header = {"code": code, "flag": ONEWAY if oneway else 0, "language": "JAVA", "opaque": opaque, "version": 513}
    return encode({**header, "extFields": dict(fields or {})}, body)


def stored_message(
    offset: int,
    body: bytes = b"hello",
    *,
    topic: str = "topic",
    queue_id: int = 0,
    properties: Mapping[str, str] | None = None,
    sys_flag: int = 0,
) -> bytes:
    """A message as brokers store it, written from the description of the format."""
    named = {"UNIQ_KEY": f"key-{queue_id}-{offset}", **(properties or {})}
    raw = "".join(f"{name}\x01{value}\x02" for name, value in named.items()).encode()
    host = socket.inet_aton("127.0.0.1") + struct.pack(">i", 10911)
    tail = (
        struct.pack(">i", len(body)) + body + bytes((len(topic),)) + topic.encode() + struct.pack(">H", len(raw)) + raw
    )
    crc = zlib.crc32(body) & 0x7FFFFFFF
    middle = struct.pack(">iiiqqiq", crc, queue_id, 0, offset, 4096 + offset, sys_flag, 1_700_000_000_000)
    middle += host + struct.pack(">q", 1_700_000_000_001) + host + struct.pack(">iq", 0, 0)
    return struct.pack(">ii", 8 + len(middle) + len(tail), -626_843_481) + middle + tail


@dataclass(frozen=True)
class Seen:
    """A command as it came from the client."""

    code: int
    opaque: int
    flag: int
    remark: str | None
    fields: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def oneway(self) -> bool:
        return bool(self.flag & ONEWAY)

    @property
    def is_response(self) -> bool:
        return bool(self.flag & RESPONSE)


def decode(frame: bytes) -> Seen:
    (header_size,) = struct.unpack_from(">I", frame)
    header = json.loads(frame[4 : 4 + header_size])
    return Seen(
        header["code"], header["opaque"], header["flag"], header.get("remark"), header.get("extFields") or {},
        frame[4 + header_size :],
    )  # fmt: skip


# The server.


class Peer:
    """One connection that a client made."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.ended = threading.Event()
        self.seen: list[Seen] = []
        self.broken: str | None = None  # what was wrong with the client's bytes
        self._send_lock = threading.Lock()

    def send(self, data: bytes) -> bool:
        with self._send_lock:
            try:
                self.sock.sendall(data)
            except OSError:
                return False
            return True

    def reply(
        self, to: Seen, code: int = 0, fields: Mapping[str, str] | None = None, body: bytes = b"", remark: str = ""
    ) -> bool:
        return self.send(encode_reply(to.opaque, code, fields, body, remark))

    def close(self) -> None:
        """End the connection as a server that shuts down does."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """End it as a server that crashed does: RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_hard()

    def close_hard(self) -> None:
        # No shutdown before it: that would send FIN first, and the linger of 0 could not reset any more.
        self.sock.close()


Handle = Callable[[Peer, Seen], None]


def answer_ok(peer: Peer, seen: Seen) -> None:
    """Answer SUCCESS to everything, with the request's body."""
    if not seen.oneway:
        peer.reply(seen, body=seen.body)


def answer_nothing(peer: Peer, seen: Seen) -> None:
    """Read and be silent."""


class Server:
    """Accepts, reads frames, hands them to ``handle`` on the connection's thread.

    Attributes:
        peers: connections so far, also those that ended.
        reading: while cleared nothing is read.
    """

    def __init__(
        self,
        handle: Handle = answer_ok,
        *,
        on_accept: Callable[[Peer], bool] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.handle = handle
        self._tls = tls
        self._on_accept = on_accept
        self.peers: list[Peer] = []
        self.reading = threading.Event()
        self.reading.set()
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind((host, port))
        self._listener.listen(512)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def seen(self) -> list[Seen]:
        """Everything from all connections."""
        return [seen for peer in list(self.peers) for seen in list(peer.seen)]

    def codes(self) -> list[int]:
        return [seen.code for seen in self.seen]

    def count(self, code: int) -> int:
        return self.codes().count(code)

    def open_peers(self) -> list[Peer]:
        return [peer for peer in list(self.peers) if not peer.ended.is_set()]

    def stop(self) -> None:
        self._stopped = True
        self.reading.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in list(self.peers):
            peer.close()
        for thread in list(self._threads):
            thread.join(BOUND_S)

    def _run(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="fake-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock, len(self.peers))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peers.append(peer)
            if self._on_accept is not None and not self._on_accept(peer):
                peer.ended.set()
                continue
            self._run(lambda peer=peer: self._read(peer))  # type: ignore[misc]

    def _read(self, peer: Peer) -> None:
        data = bytearray()
        try:
            if self._tls is not None:
                peer.sock = self._tls.wrap_socket(peer.sock, server_side=True)
            while not self._stopped:
                self.reading.wait(BOUND_S * 3)
                more = peer.sock.recv(262_144)
                if not more:
                    break
                data += more
                while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
                    end = 4 + int.from_bytes(data[:4], "big")
                    seen = decode(bytes(data[4:end]))
                    del data[:end]
                    peer.seen.append(seen)
                    self.handle(peer, seen)
        except OSError:
            pass
        except ValueError as error:
            peer.broken = repr(error)
        finally:
            if data:
                peer.broken = peer.broken or f"{len(data)} bytes of an unfinished frame"
            peer.ended.set()
            peer.sock.close()


class BlackHole:
    """An address whose packets vanish: nothing refuses, nothing accepts."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._fillers: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        for _ in range(4):  # the queue of connections not yet accepted has room for one or two
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self._listener.getsockname())
            self._fillers.append(filler)

    def stop(self) -> None:
        for sock in (*self._fillers, self._listener):
            sock.close()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
