"""Upstream's ProcessQueue, driven line by line (see ProcessQueueDriver.java)."""

from __future__ import annotations

from tests.java.driver import JavaDriver


class JavaProcessQueue(JavaDriver):
    """Runs commands on upstream's ProcessQueue; a context manager."""

    def __init__(self) -> None:
        super().__init__("ProcessQueueDriver")
