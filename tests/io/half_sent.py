"""A client of HTTP/2 that begins requests and does not finish them. A library would send each as a whole."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from rocketmq_py.grpc_v2.methods import METHODS

_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_END_HEADERS, _ACK = 4, 1
_INITIAL_WINDOW = 65_535
_FRAME_MAX = 16_384


class HalfSentRequests:
    """One connection with so many calls, each of which announces a message and sends all of it but its end.

    Attributes:
        sent: bytes that the server's windows let through.
        ended: calls that the server has ended.
    """

    def __init__(self, address: str, method: str, calls: int, size: int) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._received = b""
        self._initial = _INITIAL_WINDOW
        self._windows = dict.fromkeys((0, *range(1, 2 * calls, 2)), _INITIAL_WINDOW)
        self._left = dict.fromkeys(range(1, 2 * calls, 2), size - 1)
        self.sent = 0
        self.ended: set[int] = set()
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
        headers = {
            ":method": "POST", ":scheme": "http", ":path": METHODS[method].path, ":authority": "x", "te": "trailers",
            "content-type": "application/grpc", "x-mq-client-id": "half",
        }  # fmt: skip
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        for stream in self._left:
            self._send(stream, _frame(_HEADERS, _END_HEADERS, stream, block), 0)
            self._send(stream, _frame(_DATA, 0, stream, b"\0" + size.to_bytes(4, "big")), 5)

    def close(self) -> None:
        self._socket.close()

    def send_for(self, seconds: float) -> None:
        """Send whatever the windows allow."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._send_some()

    def send_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Send whatever the windows allow until a condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s"
            self._send_some()

    def _send_some(self) -> None:
        self._read()
        for stream, left in self._left.items():
            size = min(_FRAME_MAX, left, self._windows[stream], self._windows[0])
            if size > 0 and stream not in self.ended:
                self._left[stream] -= size
                self._send(stream, _frame(_DATA, 0, stream, bytes(size)), size)

    def _send(self, stream: int, frame: bytes, counts: int) -> None:
        self._socket.settimeout(30)
        self._socket.sendall(frame)
        self._windows[stream] -= counts
        self._windows[0] -= counts
        self.sent += counts

    def _read(self) -> None:
        self._socket.settimeout(0.01)
        try:
            self._received += self._socket.recv(65_536)
        except TimeoutError:
            return
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                return
            kind, flags, stream = self._received[3], self._received[4], int.from_bytes(self._received[5:9], "big")
            payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            self._take(kind, flags, stream, payload)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2], "big") == 4:  # the initial window of streams
                    initial = int.from_bytes(payload[at + 2 : at + 6], "big")
                    for each in self._left:
                        self._windows[each] += initial - self._initial
                    self._initial = initial
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS:
            self.ended.add(stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()
