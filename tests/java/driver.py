"""Upstream's own classes in a JVM of their own, driven line by line by one of the ``*Driver.java`` programs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from tests.apache.jars import JavaError, program_command


class JavaDriver:
    """Runs commands on a driver; a context manager."""

    def __init__(self, program: str, *args: str, options: Iterable[str] = ()) -> None:
        small = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command = program_command(program, *args, options=[*small, *options])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")

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
