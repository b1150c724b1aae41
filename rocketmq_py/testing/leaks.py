"""What a test left running: threads of this package, and connections to a broker."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from rocketmq_py.runtime import PackageThread, Runtime, ThreadRuntime

SETTLE_MS = 5_000
"""How long what is ending may take to end."""
POLL_MS = 10

BROKER_THREADS = "EmbeddedBroker"
"""How the threads of embedded brokers are named: the session's may be started anew within a test."""

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")


class LeakCheck:
    """Notes what there is now; ``left`` tells what there is more later.

    Sockets are looked for where the system has a ``/proc`` (Linux), threads everywhere.

    Args:
        ports: of the servers, connections to which count.
    """

    def __init__(self, ports: Collection[int], runtime: Runtime | None = None) -> None:
        self._ports = ports
        self._runtime = runtime or ThreadRuntime()
        self._threads = _threads()
        self._sockets = _connections(ports)

    def left(self) -> list[str]:
        """What was started since and still runs, in words; empty once all has ended. Waits up to 5 s for that."""
        now_ms, pause = self._runtime.clock.monotonic_ms, self._runtime.event()
        ends_ms = now_ms() + SETTLE_MS
        while (left := self._now()) and now_ms() < ends_ms:
            pause.wait(POLL_MS)
        return left

    def _now(self) -> list[str]:
        threads = [f"thread {thread.name}" for thread in _threads() - self._threads if thread.is_alive()]
        sockets = [f"connection to port {port}" for _, port in _connections(self._ports) - self._sockets]
        return sorted(threads) + sorted(sockets)


def _threads() -> set[threading.Thread]:
    running = {thread for thread in threading.enumerate() if isinstance(thread, PackageThread)}
    return {thread for thread in running if not thread.name.startswith(BROKER_THREADS)}


def _connections(ports: Collection[int]) -> set[tuple[str, int]]:
    """Sockets of this process whose other end is one of these ports: inode and port."""
    mine = set(_open_files())
    return {(inode, port) for inode, port in _remote_ports() if port in ports and f"socket:[{inode}]" in mine}


def _open_files() -> Iterator[str]:
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return  # there is no /proc
    for number in numbers:
        with contextlib.suppress(OSError):  # it has just been closed
            yield os.readlink(f"/proc/self/fd/{number}")


def _remote_ports() -> Iterator[tuple[str, int]]:
    for table in _TABLES:
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield fields[9], int(fields[2].rpartition(":")[2], 16)
