"""The embedded broker as users run it: ``rocketmq-py broker`` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.administration import Administration, ClusterError, free_ports
from tests.apache.cluster import FAST_DELAYS


class EmbeddedProcess(Administration):
    """A broker on a folder of its own and on ports that stay the same when it is started again."""

    def __init__(self, directory: Path | None = None, *options: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.directory = directory or Path(self._folder.name) / "data"
        self._ports = free_ports(0, 1, 2)
        self._options = options
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    @property
    def namesrv_addr(self) -> str:
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def broker_addr(self) -> str:
        return f"127.0.0.1:{self._ports[1]}"

    @property
    def grpc_addr(self) -> str:
        """What clients of the gRPC protocol are given as endpoints."""
        return f"127.0.0.1:{self._ports[2]}"

    def start(self) -> dict[str, Any]:
        """Start it; what it says when it is ready."""
        command = [
            sys.executable, "-m", "rocketmq_py", "broker", "--data", str(self.directory), "--json",
            "--namesrv-port", str(self._ports[0]), "--broker-port", str(self._ports[1]),
            "--grpc-port", str(self._ports[2]),
            "--message-delay-level", FAST_DELAYS, *self._options,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=10)
            raise ClusterError(f"the broker did not start: {errors}")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it in good order; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        process.communicate(timeout=30)
        return process.returncode

    def restart_broker(self) -> None:
        """Kill it and start it on the same data."""
        self.kill()
        self.start()
