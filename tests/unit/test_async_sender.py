"""The promise that every end is told once, whatever comes together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import pytest

from rocketmq_py import IllegalStateError, MessageQueue, SendCallback, SendResult, SendStatus
from rocketmq_py.errors import ConnectError
from rocketmq_py.model.config import ProducerConfig
from rocketmq_py.remoting.async_sender import AsyncSender, ChooseQueue
from rocketmq_py.remoting.message_sender import MessageSender
from rocketmq_py.remoting.outgoing_message import OutgoingMessage
from rocketmq_py.testing import ManualRuntime

RESULT = SendResult(SendStatus.SEND_OK, "id", MessageQueue("topic", "broker-a", 0), 0, "")


class Network:
    """In the place of a ``MessageSender``: keeps what it is given until the test ends it."""

    def __init__(self) -> None:
        self.sent: list[Callable[[SendResult | Exception], None]] = []
        self.after_calls = 0

    def begin(self, message: OutgoingMessage, deadline_ms: int, queue: MessageQueue | None) -> object:
        return message

    def send_async(self, sending: object, retries: int, done: Callable[[SendResult | Exception], None]) -> None:
        self.sent.append(done)

    def after(self, sending: object, outcome: object) -> None:
        self.after_calls += 1


class Rig:
    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.network = Network()
        self.sender = AsyncSender(cast("MessageSender", self.network), ProducerConfig(), self.runtime)
        self.told: list[Any] = []

    def send(self, choose_queue: ChooseQueue = lambda: None) -> None:
        message = OutgoingMessage("topic", b"body", 0, {})
        self.sender.send(message, SendCallback(self.told.append, self.told.append), 3_000, choose_queue)


@pytest.mark.behaviour("PR-12")
def test_an_end_that_comes_a_second_time_is_dropped() -> None:
    rig = Rig()
    rig.send()
    (done,) = rig.network.sent
    rig.runtime.pools["AsyncSendCallback_"].held = True
    done(RESULT)
    done(ConnectError("closed"))
    rig.runtime.pools["AsyncSendCallback_"].run_all()
    assert rig.told == [RESULT]
    assert rig.network.after_calls == 1


@pytest.mark.behaviour("PR-12")
def test_what_still_waits_for_a_thread_at_the_end_is_told_and_not_sent() -> None:
    rig = Rig()
    rig.send()
    rig.network.sent[0](RESULT)
    rig.runtime.pools["AsyncSenderExecutor_"].held = True
    rig.send()
    rig.sender.shutdown()
    assert [type(end) for end in rig.told] == [SendResult, IllegalStateError]
    assert len(rig.network.sent) == 1
    assert rig.network.after_calls == 1


@pytest.mark.behaviour("PR-06")
def test_what_waited_too_long_for_a_thread_is_not_sent() -> None:
    rig = Rig()
    rig.send()
    senders = rig.runtime.pools["AsyncSenderExecutor_"]
    senders.held = True
    rig.send()
    rig.runtime.advance(3_000)
    senders.run_all()
    assert len(rig.network.sent) == 1
    assert str(rig.told[0]) == "sending to topic topic: no time was left"


@pytest.mark.behaviour("PR-12")
def test_a_selector_that_wants_to_end_the_process_ends_its_send() -> None:
    rig = Rig()
    with pytest.raises(SystemExit):  # the thread of a pool survives it
        rig.send(sys.exit)
    (error,) = rig.told
    assert "SystemExit()" in str(error)
    assert rig.network.sent == []
