"""Faults between clients and the embedded broker: what gets lost, comes late, twice, or ends a connection."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.config import check_range
from rocketmq_py.remoting.frame import ONEWAY_FLAG, RemotingCommand
from rocketmq_py.remoting.server import ServerChannel, Service
from rocketmq_py.runtime import Mutex

SENDS = (RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE)
"""All requests that store a producer's messages."""


class _Kind(Enum):
    DROP = "drop"
    DROP_ANSWER = "drop_answer"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    REFUSE = "refuse"
    DISCONNECT = "disconnect"


class _Fault(NamedTuple):
    kind: _Kind
    codes: frozenset[int]
    value: int  # ms, or the answer's code


class Faults:
    """What goes wrong with requests, by their codes: ``faults.drop(RequestCode.PULL_MESSAGE, times=2)``.

    Any thread. Each call adds a fault for the next ``times`` requests with one of the codes; of several that fit, the
    first added is used up first. Both the broker's requests and the name server's pass here.
    """

    def __init__(self) -> None:
        self._lock = Mutex()  # guards the two below
        self._waiting: list[_Fault] = []
        self._happened = 0

    def drop(self, *codes: RequestCode, times: int = 1) -> None:
        """The request never arrives: its sender waits in vain, until its time-out (of a pull: 30 s)."""
        self._add(_Kind.DROP, codes, times)

    def drop_answer(self, *codes: RequestCode, times: int = 1) -> None:
        """The request is carried out, and its answer is lost."""
        self._add(_Kind.DROP_ANSWER, codes, times)

    def delay(self, *codes: RequestCode, ms: int, times: int = 1) -> None:
        """The request arrives ``ms`` later, 0 to 3,600,000."""
        check_range("ms", ms, 0, 3_600_000)
        self._add(_Kind.DELAY, codes, times, ms)

    def duplicate(self, *codes: RequestCode, times: int = 1) -> None:
        """The request is carried out twice: of a send, the message is stored twice with the same id."""
        self._add(_Kind.DUPLICATE, codes, times)

    def refuse(self, *codes: RequestCode, code: int = ResponseCode.SYSTEM_BUSY, times: int = 1) -> None:
        """The request is answered with an error and not carried out."""
        check_range("code", int(code), 1, 32_767)
        self._add(_Kind.REFUSE, codes, times, int(code))

    def disconnect(self, *codes: RequestCode, times: int = 1) -> None:
        """The connection ends when the request arrives."""
        self._add(_Kind.DISCONNECT, codes, times)

    def clear(self) -> None:
        """Nothing goes wrong any more; ``happened`` counts from 0 again."""
        with self._lock:
            self._waiting.clear()
            self._happened = 0

    @property
    def happened(self) -> int:
        """How many requests met a fault since the last ``clear``; the fixture's begin with the test."""
        with self._lock:
            return self._happened

    @property
    def waiting(self) -> int:
        """How many faults have not happened yet."""
        with self._lock:
            return len(self._waiting)

    def _add(self, kind: _Kind, codes: tuple[RequestCode, ...], times: int, value: int = 0) -> None:
        check_range("times", times, 1, 100_000)
        wrong = [code for code in codes if not isinstance(code, RequestCode)]
        if wrong or not codes:
            raise ConfigError(
                f"say which requests, by members of rocketmq_py.model.codes.RequestCode (SENDS are all sends), "
                f"not {wrong or 'none'}"
            )
        with self._lock:
            self._waiting += [_Fault(kind, frozenset(codes), value)] * times

    def take(self, code: int) -> tuple[str, int] | None:
        """Use up the fault that a request meets: its kind and value; None: all goes well."""
        with self._lock:
            for index, fault in enumerate(self._waiting):
                if code in fault.codes:
                    del self._waiting[index]
                    self._happened += 1
                    return fault.kind.value, fault.value
        return None

    def wrap(self, service: Service) -> Service:
        """For ``EmbeddedBroker(wrap=...)``."""
        return _FaultyService(self, service)


class _FaultyService:
    """Stands before a service. On the loop's thread only."""

    def __init__(self, faults: Faults, service: Service) -> None:
        self._faults = faults
        self._service = service
        self._channels: dict[ServerChannel, _DeafChannel] = {}

    def on_request(self, channel: ServerChannel, request: RemotingCommand) -> None:
        known = self._channels.setdefault(channel, _DeafChannel(channel))
        fault = None if request.is_response else self._faults.take(request.code)
        if fault is None:
            self._pass_on(known, request)
        else:
            self._happen(known, request, *fault)

    def _happen(self, channel: _DeafChannel, request: RemotingCommand, kind: str, value: int) -> None:
        match _Kind(kind):
            case _Kind.DROP_ANSWER:
                channel.lost.add(request.opaque)
                self._pass_on(channel, request)
            case _Kind.DELAY:
                asyncio.get_running_loop().call_later(value / 1_000, lambda: self._pass_on(channel, request))
            case _Kind.DUPLICATE:
                self._pass_on(channel, request)
                self._pass_on(channel, dataclasses.replace(request, flag=request.flag | ONEWAY_FLAG))
            case _Kind.REFUSE:
                channel.write(RemotingCommand.response(request.opaque, value, "a fault made by the test"))
            case _Kind.DISCONNECT:
                channel.close()
            case _Kind.DROP:
                pass

    def _pass_on(self, channel: _DeafChannel, request: RemotingCommand) -> None:
        self._service.on_request(channel, request)  # type: ignore[arg-type] # it is all of a channel that services use

    def on_close(self, channel: ServerChannel) -> None:
        self._service.on_close(self._channels.pop(channel, channel))  # type: ignore[arg-type]


class _DeafChannel:
    """A connection some of whose answers are lost."""

    def __init__(self, channel: ServerChannel) -> None:
        self._channel = channel
        self.lost: set[int] = set()  # opaques
        self.close: Callable[[], None] = channel.close

    def __getattr__(self, name: str) -> object:
        return getattr(self._channel, name)

    def write(self, command: RemotingCommand) -> None:
        if command.is_response and command.opaque in self.lost:
            self.lost.discard(command.opaque)
        else:
            self._channel.write(command)
