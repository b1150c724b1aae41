"""What a user hands over to learn how an asynchronous send or request ended."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import SendResult

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_log = logging.getLogger(__name__)


class Callback(Protocol[T_contra]):
    """Exactly one of the two methods is called, once, on a callback thread. It may block; its errors are logged."""

    def on_success(self, result: T_contra, /) -> None:
        """It succeeded."""
        ...

    def on_exception(self, error: Exception, /) -> None:
        """It failed; ``error`` is what the blocking call would have raised."""
        ...


class _Functions(Generic[T]):
    """Two functions as a ``Callback``; a subclass may define the methods instead.

    Args:
        on_success: called with the result; None: nothing is done.
        on_exception: called with the error; None: it is logged.
    """

    _success: Callable[[T], object] | None = None
    _exception: Callable[[Exception], object] | None = None

    def __init__(
        self,
        on_success: Callable[[T], object] | None = None,
        on_exception: Callable[[Exception], object] | None = None,
    ) -> None:
        self._success = on_success
        self._exception = on_exception

    def on_success(self, result: T, /) -> None:
        """See ``Callback.on_success``."""
        if self._success is not None:
            self._success(result)

    def on_exception(self, error: Exception, /) -> None:
        """See ``Callback.on_exception``."""
        if self._exception is not None:
            self._exception(error)
        else:
            _log.warning("an asynchronous send or request failed, and nobody wanted to know: %s", error)


class SendCallback(_Functions[SendResult]):
    """For ``send_async``: gets the ``SendResult``, or the error that ``send`` would have raised.

    Either subclass it and define ``on_success(result)`` and ``on_exception(error)``, or hand two functions over.
    Exactly one is called, once, on a callback thread; it may block. Source: SendCallback.
    """


class RequestCallback(_Functions[MessageExt]):
    """For ``request_async``: gets the reply, or the error that ``request`` would have raised.

    Used as ``SendCallback``. Source: RequestCallback.
    """


def check_callback(callback: object) -> None:
    """Refuse what is no callback with ``ConfigError``."""
    for name in ("on_success", "on_exception"):
        method = getattr(callback, name, None)
        if not callable(method):
            raise ConfigError(
                f"a callback has the methods on_success and on_exception, {callback!r} has no {name}: "
                "use SendCallback(on_success, on_exception) for two functions"
            )
        if inspect.iscoroutinefunction(method):
            raise ConfigError(f"{name} of the callback is async, which is not supported: define a plain function")
