"""Ids that producers give to messages, and Java's string hash. Source: MessageClientIDSetter, String.hashCode."""

from __future__ import annotations

import contextlib
import os
import socket
from datetime import datetime, timedelta

from rocketmq_py.clock import Clock
from rocketmq_py.runtime import Mutex

LOOPBACK = "127.0.0.1"

_SIOCGIFADDR = 0x8915
_COUNTER_MASK = 0xFFFF


class _Process:
    """What the ids of one process have in common. Lock: ``lock`` guards the counter and the month."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        address = socket.inet_aton(local_ip())
        # Java has its class loader's hash here. Random bits also tell containers apart, which often have the same
        # address and pid.
        self.prefix = (address + (self.pid & 0xFFFF).to_bytes(2, "big") + os.urandom(4)).hex().upper()
        self.lock = Mutex()
        self._month_start_ms = 0
        self._month_end_ms = 0
        self._counter = 0

    def next_suffix(self, now_ms: int) -> str:
        """Time within the month and a counter; the caller holds the lock."""
        if not self._month_start_ms <= now_ms < self._month_end_ms:
            start = datetime.fromtimestamp(now_ms / 1000).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            end = (start + timedelta(days=32)).replace(day=1)
            self._month_start_ms, self._month_end_ms = int(start.timestamp() * 1000), int(end.timestamp() * 1000)
        counter = self._counter
        self._counter = (counter + 1) & _COUNTER_MASK
        return f"{now_ms - self._month_start_ms:08X}{counter:04X}"


_process: _Process | None = None


def create_uniq_id(clock: Clock) -> str:
    """Make a ``UNIQ_KEY``: 32 upper-case hex digits, never twice in a process nor in its forked children.

    Address (4 bytes), low half of the pid (2), random (4), ms since the month began in local time (4), counter (2).
    65,536 ids within one ms would exhaust the counter.

    Source: MessageClientIDSetter.createUniqID.
    """
    global _process  # noqa: PLW0603 - one per process, as Java's static: two producers must not make the same id
    process = _process
    if process is None or process.pid != os.getpid():
        # A forked child starts anew instead of taking the lock it inherited: nobody is left there to release it.
        process = _process = _Process()
    now_ms = clock.wall_ms()
    with process.lock:
        suffix = process.next_suffix(now_ms)
    return process.prefix + suffix


def local_ip() -> str:
    """IPv4 address of this machine: the first interface's that is not the loopback; without one ``127.0.0.1``.

    Asks the kernel only: no packet is sent and no name is resolved.
    """
    with contextlib.suppress(ImportError, OSError):  # not POSIX; or a sandbox without interfaces
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
            for _, name in socket.if_nameindex():
                interface = name.encode().ljust(40, b"\0")  # struct ifreq
                with contextlib.suppress(OSError):  # an interface without IPv4 address
                    address = socket.inet_ntoa(fcntl.ioctl(kernel.fileno(), _SIOCGIFADDR, interface)[20:24])
                    if not address.startswith("127."):
                        return address
    return LOOPBACK


def java_string_hash(text: str) -> int:
    """``String.hashCode``: a signed 32-bit integer over the UTF-16 units, a character beyond U+FFFF counting as two."""
    result = 0
    units = text.encode("utf-16-be", "surrogatepass")
    for high, low in zip(units[::2], units[1::2], strict=True):
        result = (31 * result + (high << 8 | low)) & 0xFFFFFFFF
    return result - (1 << 32) if result >= 1 << 31 else result
