"""What tests of popping share: a broker that notes what it is asked, and messages with receipts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import PopResult
from tests.unit.support import GROUP, message

PopWaiting = tuple[PopCall, Callable[[PopResult], None], Callable[[Exception], None]]

POP_TIME = 1_690_000_000_000
"""By a broker whose clock differs a lot from the test's."""


class PopBroker:
    """Answers pops as the test says. An error that handling the answer raises fails the pop, as the wire does it.

    Attributes:
        acked: offsets of the messages acknowledged.
        topics: the topics that settlements named.
        put_off: offset and ms of the messages put off.
        failing: the error that settlements end with, if any.
        refusing: the error that settlements raise at once, if any.
    """

    def __init__(self) -> None:
        self.waiting: list[PopWaiting] = []
        self.acked: list[int] = []
        self.topics: set[str] = set()
        self.put_off: list[tuple[int, int]] = []
        self.failing: RocketMQError | None = None
        self.refusing: RocketMQError | None = None

    def pop_message(
        self, call: PopCall, on_result: Callable[[PopResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        self.waiting.append((call, on_result, on_error))

    def ack_message(
        self, group: str, topic: str, msg: MessageExt, timeout_ms: int, on_error: Callable[[Exception], None]
    ) -> None:
        assert (group, timeout_ms) == (GROUP, 3_000)
        self.topics.add(topic)
        self.acked.append(msg.queue_offset)
        self._settle(on_error)

    def change_invisible_time(
        self,
        group: str,
        topic: str,
        msg: MessageExt,
        invisible_ms: int,
        timeout_ms: int,
        on_error: Callable[[Exception], None],
    ) -> None:
        assert (group, timeout_ms) == (GROUP, 3_000)
        self.topics.add(topic)
        self.put_off.append((msg.queue_offset, invisible_ms))
        self._settle(on_error)

    def _settle(self, on_error: Callable[[Exception], None]) -> None:
        if self.refusing is not None:
            raise self.refusing
        if self.failing is not None:
            on_error(self.failing)

    def answer(self, result: PopResult) -> None:
        _, on_result, on_error = self.waiting.pop(0)
        try:
            on_result(result)
        except Exception as error:  # noqa: BLE001 - as remoting.connection does
            on_error(error)

    def fail(self, error: Exception) -> None:
        _, _, on_error = self.waiting.pop(0)
        on_error(error)


def popped(offset: int, *, receipt: str | None = None, invisible_ms: int = 60_000, **fields: Any) -> MessageExt:
    """A message as a pop brings it."""
    if receipt is None:
        receipt = f"{offset} {POP_TIME} {invisible_ms} 0 0 broker-a 0 {offset}"
    return message(offset, properties={"POP_CK": receipt, **fields.pop("properties", {})}, **fields)
