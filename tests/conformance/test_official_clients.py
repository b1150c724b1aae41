"""Upstream's Java clients of every kind, and its Go client, against the embedded broker."""

from __future__ import annotations

import subprocess
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.apache.cluster import TESTS
from tests.apache.go_programs import go_program
from tests.apache.jars import program_command
from tests.conformance.collector import eventually
from tests.embedded import EmbeddedProcess

COUNT = 30
QUEUES = 3


class Program:
    """A program that says tab-separated lines and ends when its standard input does; a context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[list[str]] = []
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=each, daemon=True) for each in (self._read, self._read_errors)]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n").split("\t"))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors = [*self._errors[-30:], line]

    def wait_until_said(self, word: str, timeout_s: float) -> None:
        def said() -> bool:
            assert self._process.poll() is None, "".join(self._errors)
            return [word] in self.lines

        eventually(said, timeout_s, word)

    def got(self) -> dict[str, list[tuple[int, int, str]]]:
        """Queue, offset and body of what each consumer got."""
        found: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for fields in list(self.lines):
            if fields[0] == "got":
                found[fields[1]].append((int(fields[2]), int(fields[3]), fields[4]))
        return found

    def answers(self) -> dict[str, str]:
        """What else it said, by its first word."""
        return {fields[0]: fields[1] for fields in self.lines if len(fields) == 2 and fields[0] != "sent"}

    def end(self) -> None:
        """End it in good order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0, "".join(self._errors)

    def __enter__(self) -> Self:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(10)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def check_consumed(program: Program, expected: set[str], everybody: Sequence[str], timeout_s: float) -> None:
    """Every consumer gets each message once, the orderly one in the order of the queues."""
    eventually(
        lambda: all({body for _, _, body in program.got()[name]} == expected for name in everybody),
        timeout_s, "everything at every consumer",
    )  # fmt: skip
    for name in everybody:
        assert Counter(body for _, _, body in program.got()[name]) == Counter(expected), name
    for queue_id in range(QUEUES):
        offsets = [offset for queue, offset, _ in program.got()["orderly"] if queue == queue_id]
        assert offsets == sorted(offsets)


@pytest.mark.behaviour("AB-23")
def test_java_consumers_of_every_kind_and_a_java_producer_work_against_the_embedded_broker(
    embedded: EmbeddedProcess, java: None, tmp_path: Path
) -> None:
    suffix = uuid.uuid4().hex[:8]
    topic = f"java-{suffix}"
    embedded.create_topic(topic, QUEUES)
    options = [*TESTS.jvm, f"-Drocketmq.client.localOffsetStoreDir={tmp_path}"]
    command = program_command("JavaClients", embedded.namesrv_addr, topic, suffix, str(COUNT), options=options)
    with Program(command) as program:
        program.wait_until_said("done", 120)
        assert Counter(fields[1] for fields in program.lines if fields[0] == "sent") == {"SEND_OK": COUNT + 2}
        assert program.answers() == {
            "max offset": "true", "min offset": "0", "by id": "sync-0", "by unique id": "sync-0", "by key": "sync-0",
            "earliest": "true", "by time": "0", "reply": "replied",
        }  # fmt: skip
        numbered = {f"{kind}-{number}" for kind in ("sync", "batch") for number in range(COUNT)}
        names = ("concurrent", "broadcast-1", "broadcast-2", "assigned", "orderly")
        check_consumed(program, numbered | {"delayed", "request"}, names, 60)
        program.end()
    for group in ("concurrent", "assigned", "orderly"):
        assert embedded.committed_offsets(f"{group}-{suffix}", topic) == embedded.max_offsets(topic)
    assert set(embedded.committed_offsets(f"broadcast-{suffix}", topic).values()) == {-1}


@pytest.mark.apache
@pytest.mark.behaviour("AB-24")
def test_go_consumers_and_a_go_producer_work_against_the_embedded_broker(
    embedded: EmbeddedProcess, tmp_path: Path
) -> None:
    program_file = go_program(".", tmp_path)
    suffix = uuid.uuid4().hex[:8]
    topic = f"go-{suffix}"
    embedded.create_topic(topic, QUEUES)
    embedded.create_group(f"concurrent-{suffix}")  # it looks for new routes every 30 s only
    with Program([str(program_file), embedded.namesrv_addr, topic, suffix, str(COUNT)]) as program:
        program.wait_until_said("done", 60)
        assert Counter(fields[1] for fields in program.lines if fields[0] == "sent") == {"0": COUNT + 2}
        numbered = {f"{kind}-{number}" for kind in ("sync", "batch") for number in range(COUNT)}
        check_consumed(program, numbered | {"delayed"}, ("concurrent", "broadcast", "orderly"), 60)
        assert Counter(fields[1] for fields in program.lines if fields[0] == "failed") == {f"sync-{COUNT - 1}": 1}
        # Before the end: a Go consumer that is stopped right behind a listener call does not commit that any more.
        ends = [embedded.max_offsets(topic)] * 2
        groups = (f"concurrent-{suffix}", f"orderly-{suffix}")
        eventually(lambda: [embedded.committed_offsets(group, topic) for group in groups] == ends, 30, "its commits")
        program.end()
