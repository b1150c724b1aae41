"""What is started and shut down, as a ``with`` statement does it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class StartedByWith(ABC):
    """Started on the way into a ``with`` statement, shut down on the way out, whatever happened within."""

    __slots__ = ()

    @abstractmethod
    def start(self) -> None:
        """Begin."""

    @abstractmethod
    def shutdown(self) -> None:
        """End."""

    def __enter__(self) -> Self:
        """``start``."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """``shutdown``."""
        self.shutdown()
