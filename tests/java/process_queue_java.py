"""Upstream's ProcessQueue in a JVM of its own, driven line by line (see ProcessQueueDriver.java)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.apache.jars import JavaError, program_command


class JavaProcessQueue:
    """Runs commands on upstream's ProcessQueue; a context manager."""

    def __init__(self) -> None:
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command = program_command("ProcessQueueDriver", options=options)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, commands: Sequence[str]) -> list[str]:
        """One answer per command; ``!ClassName`` for an exception."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise JavaError("the driver has no pipes")
        stdin.write("\n".join([*commands, ".", ""]))
        stdin.flush()
        answers = [stdout.readline().removesuffix("\n") for _ in commands]
        if self._process.poll() is not None:
            raise JavaError(f"the driver exited with {self._process.returncode}")
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
