"""What tests of receipts share: a broker that notes what it is asked."""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.consumer.ports import OnDone
from rocketmq_py.errors import BrokerError, ConnectError
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import PopResult
from tests.unit.support import GROUP, TOPIC

SILENT = ConnectError("the proxy is gone")
BUSY = BrokerError(2, "busy")
VOID = BrokerError(40_013, "INVALID_RECEIPT_HANDLE")


class ReceiptBroker:
    """Answers at once as the test says.

    Attributes:
        asked: what it was asked, in order: kind, offset, and a number that belongs to it.
        failing: what requests end with; None: they succeed.
        held: requests wait for ``answer_all``.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.failing: Exception | None = None
        self.held = False
        self.waiting: list[OnDone] = []
        self.suspended: list[int] = []
        self.pops: list[tuple[PopCall, Callable[[PopResult], None], Callable[[Exception], None]]] = []

    def pop_message(
        self, call: PopCall, on_result: Callable[[PopResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        self.pops.append((call, on_result, on_error))

    def ack_message(self, group: str, topic: str, msg: MessageExt, timeout_ms: int, on_done: OnDone) -> None:
        self._note("ack", group, topic, msg, 0, on_done)

    def change_invisible_duration(
        self, group: str, topic: str, msg: MessageExt, invisible_ms: int, timeout_ms: int, on_done: OnDone, *,
        suspend: bool = False,
    ) -> None:  # fmt: skip
        if suspend:
            self.suspended.append(msg.queue_offset)
        self._note("put off", group, topic, msg, invisible_ms, on_done)

    def forward_to_dead_letter_queue(
        self, group: str, topic: str, msg: MessageExt, attempt: int, max_attempts: int, timeout_ms: int, on_done: OnDone
    ) -> None:
        self._note("dead letter", group, topic, msg, attempt, on_done)

    def _note(self, kind: str, group: str, topic: str, msg: MessageExt, number: int, on_done: OnDone) -> None:
        assert (group, topic) == (GROUP, TOPIC)
        self.asked.append((kind, msg.queue_offset, number))
        if self.held:
            self.waiting.append(on_done)
        else:
            on_done(self.failing)

    def answer_all(self, error: Exception | None = None) -> None:
        waiting, self.waiting = self.waiting, []
        for on_done in waiting:
            on_done(error)
