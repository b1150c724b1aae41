"""The offset window: what to keep unfinished offsets in.

The same steps (``peers/PQBench.java`` defines them) run on ``ProcessQueue`` as it is, on the same rules over other
structures, and on upstream's ProcessQueue in Java. Every returned offset goes into a checksum, and all must be equal.
"""

from __future__ import annotations

import heapq
import json
import subprocess
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sortedcontainers import SortedDict

from rocketmq_py.consumer.process_queue import NO_OFFSET, ProcessQueue
from rocketmq_py.model.message import MessageExt
from tests.apache.jars import missing_tools, program_command

MESSAGES = 20_000
BLOCK = 32
JAVA_ROUNDS = 20
PATTERNS = ("in_order", "random", "stuck_head")
WINDOWS = (32, 1_000, 10_000)
BATCHES = (1, 32)
MASK = 2**64 - 1


class Window(Protocol):
    def put_message(self, msgs: Sequence[MessageExt]) -> object: ...

    def remove_message(self, msgs: Sequence[MessageExt]) -> int: ...


class _Plain:
    """The rules of put and remove, without a lock, a clock and sizes: what a structure could save at most."""

    def __init__(self) -> None:
        self._unfinished: dict[int, MessageExt] = {}
        self._max = 0

    def put_message(self, msgs: Sequence[MessageExt]) -> None:
        for msg in msgs:
            if msg.queue_offset not in self._unfinished:
                self._insert(msg.queue_offset)
                self._max = msg.queue_offset
            self._unfinished[msg.queue_offset] = msg

    def remove_message(self, msgs: Sequence[MessageExt]) -> int:
        if not self._unfinished:
            return NO_OFFSET
        for msg in msgs:
            if self._unfinished.pop(msg.queue_offset, None) is not None:
                self._delete(msg.queue_offset)
        return self._lowest() if self._unfinished else self._max + 1

    def _insert(self, offset: int) -> None: ...

    def _delete(self, offset: int) -> None: ...

    def _lowest(self) -> int:
        raise NotImplementedError


class InsertionOrder(_Plain):
    """A plain dict: pulls are ascending, so its first key is the lowest. Wrong as soon as an offset is put late."""

    def _lowest(self) -> int:
        return next(iter(self._unfinished))


class LazyDeque(_Plain):
    """A dict and a deque of offsets, whose finished front is thrown away. Wrong as soon as an offset is put late."""

    def __init__(self) -> None:
        super().__init__()
        self._order: deque[int] = deque()

    def _insert(self, offset: int) -> None:
        self._order.append(offset)

    def _lowest(self) -> int:
        while self._order[0] not in self._unfinished:
            self._order.popleft()
        return self._order[0]


class LazyHeap(_Plain):
    """A dict and a heap of offsets, whose finished top is thrown away. Right for any order; keeps what is finished."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[int] = []

    def _insert(self, offset: int) -> None:
        heapq.heappush(self._heap, offset)

    def _lowest(self) -> int:
        while self._heap[0] not in self._unfinished:
            heapq.heappop(self._heap)
        return self._heap[0]


class SortedArray(_Plain):
    """A dict and one sorted list, changed by bisection. Right for any order; every change moves the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._offsets: list[int] = []

    def _insert(self, offset: int) -> None:
        insort(self._offsets, offset)

    def _delete(self, offset: int) -> None:
        del self._offsets[bisect_left(self._offsets, offset)]

    def _lowest(self) -> int:
        return self._offsets[0]


class BareSortedDict(_Plain):
    """What ProcessQueue uses, under the rules alone: the difference to it is locks, clock, sizes and start times."""

    def __init__(self) -> None:
        super().__init__()
        tree: SortedDict = SortedDict()
        self._unfinished = tree
        self._offsets = tree.keys()

    def _lowest(self) -> int:
        lowest: int = self._offsets[0]
        return lowest


STRUCTURES: dict[str, Callable[[], Window]] = {
    "ProcessQueue (SortedDict)": ProcessQueue,
    "bare SortedDict": BareSortedDict,
    "insertion order": InsertionOrder,
    "lazy deque": LazyDeque,
    "lazy heap": LazyHeap,
    "sorted array": SortedArray,
}


class Step(NamedTuple):
    put: bool
    messages: list[MessageExt]


@lru_cache(maxsize=1)
def steps(pattern: str, window: int, batch: int) -> list[Step]:
    """See PQBench.java."""
    messages = [MessageExt(queue_offset=offset, body=b"x" * 1024) for offset in range(MESSAGES)]
    made: list[Step] = []
    pending: list[MessageExt] = []
    first = following = 0
    x = 7
    while following < MESSAGES or first < len(pending):
        size = len(pending) - first
        if following < MESSAGES and (size + BLOCK <= window or size <= 1):
            block = messages[following : following + BLOCK]
            made.append(Step(True, block))
            pending += block
            following += len(block)
            continue
        removed: list[MessageExt] = []
        for _ in range(min(batch, size)):
            if pattern == "random":
                x = (x * 6364136223846793005 + 1442695040888963407) & MASK
                index = (x >> 33) % len(pending)
                pending[index], pending[-1] = pending[-1], pending[index]
                removed.append(pending.pop())
            elif pattern == "stuck_head" and len(pending) - first > 1:
                removed.append(pending[first + 1])
                pending[first + 1] = pending[first]
                first += 1
            elif pattern == "stuck_head" and following < MESSAGES:
                break
            else:
                removed.append(pending[first])
                first += 1
        made.append(Step(False, removed))
    return made


def run(make: Callable[[], Window], todo: Sequence[Step]) -> list[int]:
    window = make()
    put, remove = window.put_message, window.remove_message
    returned = []
    for is_put, messages in todo:
        if is_put:
            put(messages)
        else:
            returned.append(remove(messages))
    return returned


def checksum(returned: Sequence[int]) -> int:
    value = 0
    for offset in returned:
        value = (value * 31 + offset) & MASK
    return value


@pytest.fixture(scope="module")
def java() -> Iterator[dict[tuple[str, int, int], dict[str, float]]]:
    """What upstream's ProcessQueue made of the same steps; empty where there is no Java."""
    if missing_tools() is not None:
        yield {}
        return
    command = program_command("PQBench", str(MESSAGES), str(JAVA_ROUNDS))
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    yield {(row["pattern"], row["window"], row["batch"]): row for row in rows}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_put_and_remove(
    benchmark: BenchmarkFixture,
    java: dict[tuple[str, int, int], dict[str, float]],
    pattern: str,
    window: int,
    batch: int,
    structure: str,
) -> None:
    todo = steps(pattern, window, batch)
    returned: list[int] = benchmark.pedantic(  # type: ignore[no-untyped-call]
        run, (STRUCTURES[structure], todo), rounds=3, warmup_rounds=1
    )
    sums = {checksum(returned), checksum(run(SortedArray, todo))}
    row = java.get((pattern, window, batch))
    if row is not None:
        sums.add(int(row["checksum"]))
    assert len(sums) == 1, "the structures returned different offsets"
    benchmark.group = f"{pattern}, window {window}, batch {batch}"
    if benchmark.stats is not None:
        ns = benchmark.stats.stats.min / MESSAGES * 1e9
        upstream = f"{row['ns_per_message']:.0f}" if row else "no Java"
        print(f"\n{benchmark.group}: {structure} {ns:.0f} ns per message, upstream's ProcessQueue in Java {upstream}")
