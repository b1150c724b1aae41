"""The whole exception tree on one screen.

Branch on the flags, not on the class: ``retriable`` says that the same call may succeed later or elsewhere,
``refresh_route`` that the route which led here is stale.
"""

from __future__ import annotations

import copyreg
from typing import ClassVar


class RocketMQError(Exception):
    """Base of everything that this package raises on purpose."""

    retriable: ClassVar[bool] = False
    refresh_route: ClassVar[bool] = False


class ClientError(RocketMQError):
    """You can mend it: the call or the configuration is wrong."""


class ConfigError(ClientError, ValueError):
    """A setting, a listener or a message is not acceptable; the text names it and the accepted range."""


class IllegalStateError(ClientError):
    """The object is not in a state in which it can do this (not started, already shut down, started twice)."""


class MissingExtraError(ClientError, ImportError):
    """An optional dependency is needed; the text says which extra to install."""


class StoreError(RocketMQError):
    """The embedded broker's store, a file of offsets or of keys cannot be used; the text says what to do."""


class BrokerError(RocketMQError):
    """A broker, proxy or name server answered with an error code.

    Attributes:
        code: response code, see ``model.codes.ResponseCode``.
        remark: the server's own words, may be empty.
        address: who answered, ``host:port``.
    """

    # Source: DefaultMQProducer.retryResponseCodes; 25 and 215 are pull's own "try again".
    _RETRIABLE: ClassVar[frozenset[int]] = frozenset({1, 2, 14, 16, 17, 25, 204, 205, 215, 1500})
    _STALE_ROUTE: ClassVar[frozenset[int]] = frozenset({17, 501})

    def __init__(self, code: int, remark: str, address: str = "", doing: str = "") -> None:
        self.code = code
        self.remark = remark
        self.address = address
        text = f"CODE: {code} {remark}".rstrip()
        if doing:
            text = f"{doing}: {text}"
        if address:
            text = f"{text} (from {address})"
        super().__init__(text)

    def __reduce__(self) -> tuple[object, ...]:
        """Another process gets it as it is: ``Exception`` would call the constructor with the text alone."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    @property
    def retriable(self) -> bool:  # type: ignore[override]
        """Whether the same request may succeed later or on another broker."""
        return self.code in self._RETRIABLE

    @property
    def refresh_route(self) -> bool:  # type: ignore[override]
        """Whether the route that led to this broker should be asked for again."""
        return self.code in self._STALE_ROUTE


class TransportError(RocketMQError):
    """Bytes did not get through."""

    retriable = True
    refresh_route = True


class ConnectError(TransportError):
    """No connection could be made, or it broke before the answer came."""


class RequestTimeoutError(TransportError):
    """No answer within the time allowed; the request may or may not have been carried out."""


class TooManyRequestsError(RocketMQError):
    """So much is under way already that this was not even begun; wait until some of it has ended."""

    retriable = True


class ProtocolError(RocketMQError):
    """The peer sent something that is not the protocol: a bad frame costs its connection, a bad answer its request."""
