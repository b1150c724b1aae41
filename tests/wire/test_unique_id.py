"""Unique ids: of the form that brokers and tools know, and never twice."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from datetime import datetime

import pytest

from rocketmq_py.clock import SystemClock
from rocketmq_py.model.unique_id import create_uniq_id, java_string_hash, local_ip

IN_CHILDREN = """
import os
from rocketmq_py.clock import SystemClock
from rocketmq_py.model.unique_id import create_uniq_id
clock = SystemClock()
print(create_uniq_id(clock), os.getpid(), flush=True)
for _ in range(3):
    pid = os.fork()
    if not pid:
        for _ in range(20):
            print(create_uniq_id(clock), os.getpid(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    print(create_uniq_id(clock), os.getpid(), flush=True)
"""


class ClockAt:
    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms

    lease_ms = monotonic_ms


def test_an_id_names_the_address_and_process_it_comes_from() -> None:
    unique = create_uniq_id(SystemClock())
    assert len(unique) == 32
    assert unique == unique.upper()
    raw = bytes.fromhex(unique)
    assert socket.inet_ntoa(raw[:4]) == local_ip()
    assert int.from_bytes(raw[4:6], "big") == os.getpid() & 0xFFFF


def test_ids_of_the_same_moment_differ() -> None:
    clock = ClockAt(1_763_640_000_123)
    ids = [create_uniq_id(clock) for _ in range(65_536)]
    assert len(set(ids)) == 65_536
    assert len({each[:28] for each in ids}) == 1


def test_an_id_counts_the_milliseconds_of_the_month_in_local_time() -> None:
    for moment in (
        datetime(2026, 1, 1), datetime(2026, 1, 31, 23, 59, 59), datetime(2026, 2, 1), datetime(2024, 2, 29, 12),
        datetime(2025, 12, 31, 23, 59, 59, 999_000), datetime(2026, 1, 1, 0, 0, 0, 1_000),
    ):  # fmt: skip
        unique = create_uniq_id(ClockAt(round(moment.timestamp() * 1000)))
        month = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        assert int(unique[20:28], 16) == round((moment.timestamp() - month.timestamp()) * 1000)


def test_threads_never_make_the_same_id() -> None:
    found: list[list[str]] = []

    def make() -> None:
        clock = ClockAt(1_763_640_000_456)
        found.append([create_uniq_id(clock) for _ in range(5_000)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [each for part in found for each in part]
    assert len(ids) == len(set(ids)) == 40_000


def test_forked_children_make_ids_of_their_own() -> None:
    done = subprocess.run([sys.executable, "-c", IN_CHILDREN], capture_output=True, text=True, check=True, timeout=60)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 64
    assert len({unique for unique, _ in lines}) == 64
    assert all(int(unique[8:12], 16) == int(pid) & 0xFFFF for unique, pid in lines)
    assert len({unique[12:20] for unique, _ in lines}) == 4  # the random part: one per process


def test_the_address_is_one_of_this_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind((local_ip(), 0))  # only an address of this machine can be bound


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("a", 97), ("Aa", 2112), ("BB", 2112), ("polygenelubricants", -(2**31)), ("\ud800", 0xD800)],
)
def test_a_hash_is_a_signed_32_bit_integer_over_utf16(text: str, expected: int) -> None:
    assert java_string_hash(text) == expected


def test_a_character_beyond_the_basic_plane_counts_as_two() -> None:
    assert java_string_hash("🚀") == 31 * 0xD83D + 0xDE80
