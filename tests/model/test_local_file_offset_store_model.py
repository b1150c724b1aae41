"""The file store against two plain dicts, whatever fails, is damaged, or is killed in between; then a real process.

What was stored is there again, whichever step of a write failed and however often the consumer was started anew; what
was not stored is in memory. A damaged file costs nothing that its backup has.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rocketmq_py.consumer.local_file_offset_store import LocalFileOffsetStore
from rocketmq_py.consumer.offset_file import OffsetFile
from rocketmq_py.consumer.offset_store import NO_OFFSET, ReadOffsetType
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.testing import ManualRuntime
from tests.unit.disk import FailingFiles, Killed
from tests.unit.support import GROUP, mq

pytestmark = pytest.mark.behaviour("LF-01", "LF-02", "LF-03", "LF-06", "LF-07")

FULL = settings.get_current_profile_name() == "full"
QUEUES = [mq(0), mq(1), mq(0, "another")]
queues = st.sampled_from(QUEUES)
offsets = st.integers(0, 30)


class Consumers(RuleBasedStateMachine):
    """One consumer after the other on the same file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "client" / GROUP / "offsets.json"
        self.stored: dict[MessageQueue, int] = {}
        self.start()

    def start(self) -> None:
        runtime = ManualRuntime()
        warnings = RateLimitedLog(runtime.clock, logging.getLogger(__name__))
        self.files = FailingFiles()
        self.store = LocalFileOffsetStore(GROUP, OffsetFile(str(self.path), warnings, self.files), runtime, warnings)
        self.store.load()
        self.memory = dict(self.stored)
        self.unstored: dict[MessageQueue, int] = {}
        self.frozen: set[MessageQueue] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(queue=queues, offset=offsets, increase_only=st.booleans())
    def update(self, queue: MessageQueue, offset: int, increase_only: bool) -> None:
        self.store.update_offset(queue, offset, increase_only)
        self.note(queue, offset, increase_only)

    def note(self, queue: MessageQueue, offset: int, increase_only: bool) -> None:
        if queue not in self.frozen:
            self.memory[queue] = max(offset, self.memory.get(queue, offset)) if increase_only else offset

    @rule(queue=queues, offset=offsets)
    def freeze(self, queue: MessageQueue, offset: int) -> None:
        self.store.update_and_freeze_offset(queue, offset)
        self.memory[queue] = offset
        self.frozen.add(queue)

    @rule(queue=queues)
    def remove(self, queue: MessageQueue) -> None:
        self.store.remove_offset(queue)
        self.memory.pop(queue, None)
        self.frozen.discard(queue)

    @rule(queue=queues)
    def read(self, queue: MessageQueue) -> None:
        expected = (self.stored | self.unstored).get(queue, NO_OFFSET)
        assert self.store.read_offset(queue, ReadOffsetType.READ_FROM_STORE) == expected
        if expected != NO_OFFSET:
            self.note(queue, expected, increase_only=False)

    @rule(some=st.lists(queues, unique=True), one=st.booleans())
    def persist(self, some: list[MessageQueue], one: bool) -> None:
        self.stored |= self.persisted(some, one)
        self.unstored = {}

    @rule(some=st.lists(queues, unique=True), one=st.booleans(), step=st.integers(0, 6))
    def persist_on_a_full_disk(self, some: list[MessageQueue], one: bool, step: int) -> None:
        self.files.steps, self.files.fail_at = 0, step
        wanted = self.persisted(some, one)
        self.files.fail_at = -1
        self.unstored = wanted if self.files.steps > step else {}
        self.settle(wanted)

    @rule(some=st.lists(queues, min_size=1, unique=True), step=st.integers(0, 6))
    def killed_while_persisting(self, some: list[MessageQueue], step: int) -> None:
        self.files.steps, self.files.fail_at, self.files.dead = 0, step, True
        wanted = self.wanted(some)
        with suppress(Killed):
            self.store.persist_all(some)
        self.files.dead = False
        self.settle(wanted)
        self.start()

    def persisted(self, some: list[MessageQueue], one: bool) -> dict[MessageQueue, int]:
        """Persist, and say what was to be stored."""
        if one and some:
            some = some[:1]
            self.store.persist(some[0])
        else:
            self.store.persist_all(some)
        return self.wanted(some)

    def wanted(self, some: list[MessageQueue]) -> dict[MessageQueue, int]:
        return self.unstored | {queue: self.memory[queue] for queue in some if queue in self.memory}

    def settle(self, wanted: dict[MessageQueue, int]) -> None:
        """All of it is stored or nothing."""
        found = dict(OffsetFile(str(self.path), RateLimitedLog(ManualRuntime().clock, logging.getLogger())).read())
        assert found in (self.stored, self.stored | wanted)
        self.stored = found

    @rule()
    def start_again(self) -> None:
        self.start()

    @precondition(lambda self: self.stored and self.path.exists() and self.backup_has_all())
    @rule(length=st.integers(0, 50))
    def damage(self, length: int) -> None:
        self.path.write_bytes(self.path.read_bytes()[:length])

    def backup_has_all(self) -> bool:
        backup = Path(f"{self.path}.bak")
        if not backup.exists():
            return False
        copy = Path(f"{self.path}.copy")
        copy.write_bytes(backup.read_bytes())
        file = OffsetFile(str(copy), RateLimitedLog(ManualRuntime().clock, logging.getLogger()))
        return file.read() == self.stored

    @invariant()
    def memory_is_as_expected(self) -> None:
        assert self.store.clone_offset_table() == self.memory


TestConsumers = Consumers.TestCase
TestConsumers.settings = settings(max_examples=2_000 if FULL else 100, stateful_step_count=40)


WRITER = """
import logging, sys
from rocketmq_py.consumer.local_file_offset_store import LocalFileOffsetStore
from rocketmq_py.consumer.offset_file import OffsetFile
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import ThreadRuntime
from tests.unit.support import GROUP, mq

runtime = ThreadRuntime()
warnings = RateLimitedLog(runtime.clock, logging.getLogger())
store = LocalFileOffsetStore(GROUP, OffsetFile(sys.argv[1], warnings), runtime, warnings)
store.load()
first = store.clone_offset_table().get(mq(0), 0)
for offset in range(first + 1, first + 1_000_000):
    for number in range(50):
        store.update_offset(mq(number), offset, increase_only=True)
    store.persist_all([mq(number) for number in range(50)])
    print(offset, flush=True)
"""


def test_a_process_that_is_killed_at_any_moment_loses_nothing_that_it_had_stored(tmp_path: Path) -> None:
    path = tmp_path / "client" / GROUP / "offsets.json"
    told = 0
    for kill in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        ) as writer:
            assert writer.stdout is not None
            for _ in range(3 + kill):
                told = int(writer.stdout.readline())
            writer.kill()
            for line in writer.stdout:
                told = int(line)
        found = OffsetFile(str(path), RateLimitedLog(ManualRuntime().clock, logging.getLogger())).read()
        assert set(found) == {mq(number) for number in range(50)}
        assert set(found.values()) <= {told, told + 1}
        assert len(set(found.values())) == 1
    leftovers = [name for name in os.listdir(path.parent) if name.endswith(".tmp")]
    assert len(leftovers) <= 8
