from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rocketmq_py import ConfigError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.testing.faults import SENDS, Faults

PULL, HEART_BEAT = RequestCode.PULL_MESSAGE, RequestCode.HEART_BEAT


class Channel:
    """A client's connection; notes what it is answered."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int]] = []
        self.closed = False
        self.remote_address = "10.0.0.1:1"

    def write(self, command: RemotingCommand) -> None:
        self.written.append((command.opaque, command.code))

    def close(self) -> None:
        self.closed = True


class Service:
    """Answers everything with success; notes what it carried out."""

    def __init__(self) -> None:
        self.carried_out: list[int] = []
        self.channels: set[Any] = set()
        self.ended: list[Any] = []

    def on_request(self, channel: Any, request: RemotingCommand) -> None:
        self.carried_out.append(request.opaque)
        self.channels.add(channel)
        assert channel.remote_address == "10.0.0.1:1"
        if not request.is_oneway:
            channel.write(RemotingCommand.response(request.opaque, ResponseCode.SUCCESS))

    def on_close(self, channel: Any) -> None:
        self.ended.append(channel)


class Rig:
    def __init__(self) -> None:
        self.faults = Faults()
        self.service = Service()
        self.channel: Any = Channel()
        self._faulty = self.faults.wrap(self.service)
        self._opaque = 0

    def ask(self, code: RequestCode = PULL) -> None:
        self._opaque += 1
        self._faulty.on_request(self.channel, RemotingCommand(code, self._opaque))

    def close(self) -> None:
        self._faulty.on_close(self.channel)


@pytest.mark.behaviour("TP-02")
def test_without_faults_everything_passes_and_a_connection_stays_the_same_to_the_service() -> None:
    rig = Rig()
    rig.ask()
    rig.ask()
    assert rig.channel.written == [(1, 0), (2, 0)]
    rig.close()
    (known,) = rig.service.channels
    assert rig.service.ended == [known]


@pytest.mark.behaviour("TP-02")
def test_a_dropped_request_is_not_carried_out_and_a_dropped_answer_is_not_written() -> None:
    rig = Rig()
    rig.faults.drop(PULL)
    rig.faults.drop_answer(PULL)
    for _ in range(3):
        rig.ask()
    assert rig.service.carried_out == [2, 3]
    assert rig.channel.written == [(3, 0)]
    assert (rig.faults.happened, rig.faults.waiting) == (2, 0)


@pytest.mark.behaviour("TP-02")
def test_a_duplicate_is_carried_out_twice_and_answered_once() -> None:
    rig = Rig()
    rig.faults.duplicate(PULL)
    rig.ask()
    assert rig.service.carried_out == [1, 1]
    assert rig.channel.written == [(1, 0)]


@pytest.mark.behaviour("TP-02")
def test_a_refused_request_and_one_that_ends_the_connection_are_not_carried_out() -> None:
    rig = Rig()
    rig.faults.refuse(PULL, code=ResponseCode.NO_PERMISSION)
    rig.faults.disconnect(PULL)
    rig.ask()
    assert rig.channel.written == [(1, ResponseCode.NO_PERMISSION)]
    rig.ask()
    assert rig.channel.closed
    assert rig.service.carried_out == []


@pytest.mark.behaviour("TP-02")
def test_a_delayed_request_arrives_behind_later_ones() -> None:
    async def ask() -> Rig:
        rig = Rig()
        rig.faults.delay(PULL, ms=1)
        rig.ask()
        rig.ask()
        while len(rig.service.carried_out) < 2:
            await asyncio.sleep(0)
        return rig

    rig = asyncio.run(ask())
    assert rig.service.carried_out == [2, 1]


@pytest.mark.behaviour("TP-02")
def test_faults_meet_the_requests_that_they_name_so_often_and_none_after_clear() -> None:
    rig = Rig()
    rig.faults.drop(*SENDS, times=2)
    rig.ask(PULL)
    rig.ask(RequestCode.SEND_MESSAGE_V2)
    assert (rig.service.carried_out, rig.faults.waiting) == ([1], 1)
    rig.faults.clear()
    rig.ask(RequestCode.SEND_MESSAGE_V2)
    assert rig.service.carried_out == [1, 3]


@pytest.mark.behaviour("TP-02")
def test_what_is_no_fault_is_refused() -> None:
    faults: Any = Faults()
    with pytest.raises(ConfigError, match=r"members of rocketmq_py\.model\.codes\.RequestCode"):
        faults.drop()
    with pytest.raises(ConfigError, match=r"members of rocketmq_py\.model\.codes\.RequestCode"):
        faults.drop(11)
    with pytest.raises(ConfigError, match="times Out of range"):
        faults.drop(HEART_BEAT, times=0)
    with pytest.raises(ConfigError, match="ms Out of range"):
        faults.delay(HEART_BEAT, ms=-1)
    with pytest.raises(ConfigError, match="code Out of range"):
        faults.refuse(HEART_BEAT, code=0)
