"""Upstream's mqadmin, one JVM for many commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.apache.jars import JavaError, program_command


class MQAdmin:
    """Commands against one name server; a context manager. Files that commands write come to lie in ``folder``."""

    def __init__(self, namesrv_addr: str, folder: Path) -> None:
        self._namesrv_addr = namesrv_addr
        small = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dtls.enable=false")
        self._process = subprocess.Popen(
            program_command("AdminScript", options=[*small, f"-Djava.io.tmpdir={folder}"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=folder,
            env={**os.environ, "ROCKETMQ_HOME": str(folder)},
        )

    def run(self, *args: str) -> str:
        """What a command prints, its errors too."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise JavaError("mqadmin has no pipes")
        stdin.write("\t".join([*args, "-n", self._namesrv_addr]) + "\n")
        stdin.flush()
        lines: list[str] = []
        for line in stdout:
            if line == ".\n":
                return "".join(lines)
            lines.append(line)
        raise JavaError(f"mqadmin ended with {self._process.wait()} at {args}: {''.join(lines)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
