"""A relay before a server, which can do as a network does: end connections, or fall silent while they stay open."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Relay:
    """Connections that exist when it is frozen stay silent for ever; later ones work.

    Attributes:
        connections: how many there were.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._frozen = threading.Event()
        self._sockets: list[socket.socket] = []
        self.connections = 0

    @property
    def endpoints(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="relay", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frozen.set()
        _close([self._listener, *self._sockets])

    def freeze(self) -> None:
        """Have every connection that there is fall silent."""
        self._frozen.set()
        self._frozen = threading.Event()

    def cut(self) -> None:
        """End every connection that there is; later ones work."""
        self.freeze()
        sockets, self._sockets = self._sockets, []
        _close(sockets)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                self.connections += 1
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(one, other, self._frozen), name="relay", daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, frozen: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if frozen.is_set():
                return
            sink.sendall(data)
        if not frozen.is_set():
            sink.shutdown(socket.SHUT_WR)


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
