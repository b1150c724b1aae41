"""Files of which the Nth step fails, or in the middle of which the process dies."""

from __future__ import annotations

import errno

from rocketmq_py.consumer.offset_file import DiskFiles


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class FailingFiles(DiskFiles):
    """Real files; the step with this number fails, counted from 0, and with ``dead`` all behind it.

    A write that fails leaves the first half of what it was to write. Numbers below 0 fail nothing.
    """

    def __init__(self, step: int = -1, *, dead: bool = False) -> None:
        self.fail_at = step
        self.dead = dead
        self.steps = 0

    def read(self, path: str, limit: int) -> bytes | None:
        self._step()
        return super().read(path, limit)

    def make_directory(self, path: str) -> None:
        self._step()
        super().make_directory(path)

    def write(self, path: str, content: bytes) -> None:
        try:
            self._step()
        except (OSError, Killed):
            super().write(path, content[: len(content) // 2])
            raise
        super().write(path, content)

    def replace(self, source: str, target: str) -> None:
        self._step()
        super().replace(source, target)

    def sync_directory(self, path: str) -> None:
        self._step()
        super().sync_directory(path)

    def remove(self, path: str) -> None:
        if not (self.dead and self.steps > self.fail_at >= 0):
            super().remove(path)

    def _step(self) -> None:
        step, self.steps = self.steps, self.steps + 1
        if self.dead and step >= self.fail_at >= 0:
            raise Killed
        if step == self.fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
