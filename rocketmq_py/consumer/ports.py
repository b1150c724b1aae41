"""What the consumer core needs of the outside: a few small protocols.

A wire satisfies them by its shape alone; ``consumer_parts.py`` joins core and wire, and mypy checks the fit there.
All errors are ``RocketMQError``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from rocketmq_py.model.calls import PopCall, PullCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PopResult, PullResult, QueueAssignment


class Broker(Protocol):
    """Requests about messages and offsets. Blocking, except ``pull_message``; called from any consumer thread."""

    def pull_message(
        self, call: PullCall, on_result: Callable[[PullResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        """Ask for messages; returns at once.

        Exactly one of the two is called later, on a thread of the wire, never from within this call: it must not block.
        """
        ...

    def send_message_back(
        self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
    ) -> None:
        """Have the broker store the message in the group's retry topic, or the dead-letter topic."""
        ...

    def send_retry_message(self, topic: str, body: bytes, flag: int, properties: Mapping[str, str]) -> None:
        """Send a message to a retry topic as any producer would."""
        ...

    def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
        """The committed offset, None when the broker knows none."""
        ...

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        """Commit an offset without waiting for an answer."""
        ...

    def commit_consumer_offset(self, group: str, mq: MessageQueue, offset: int, timeout_ms: int) -> None:
        """Commit an offset and wait until the broker says that it has it."""
        ...

    def lock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
    ) -> set[MessageQueue]:
        """Lock, or renew the locks on, queues of one broker for this member; those that it holds now."""
        ...

    def unlock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int, oneway: bool
    ) -> None:
        """Give locks back; what this member does not hold is left alone."""
        ...

    def max_offset(self, mq: MessageQueue) -> int:
        """One past the last offset of the queue."""
        ...

    def search_offset(self, mq: MessageQueue, timestamp_ms: int) -> int:
        """First offset stored at or after the wall time."""
        ...


class PopSource(Protocol):
    """Where popped messages come from. Does not block; called from any consumer thread and the wire's."""

    def pop_message(
        self, call: PopCall, on_result: Callable[[PopResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        """Ask for messages and their leases; the callbacks are as in ``Broker.pull_message``."""
        ...


class PopBroker(PopSource, Protocol):
    """Requests about popped messages. None of them blocks; called from any consumer thread and the wire's."""

    def ack_message(
        self, group: str, topic: str, msg: MessageExt, timeout_ms: int, on_error: Callable[[Exception], None]
    ) -> None:
        """End the lease of a popped message: it is consumed. ``topic`` is the one popped.

        Raises:
            ProtocolError: the message carries no usable receipt.
        """
        ...

    def change_invisible_time(
        self,
        group: str,
        topic: str,
        msg: MessageExt,
        invisible_ms: int,
        timeout_ms: int,
        on_error: Callable[[Exception], None],
    ) -> None:
        """Have the lease of a popped message end so much later from now: the group gets it again then.

        Raises:
            ProtocolError: the message carries no usable receipt.
        """
        ...


class StatusBroker(Protocol):
    """Requests of a consumer to brokers that keep statuses of messages; only those of this package do."""

    def wants_acknowledgements(self) -> bool:
        """Whether a broker has asked for them in its last answer to a heartbeat."""
        ...

    def acknowledge_statuses(
        self, group: str, broker_name: str, spans: Sequence[tuple[MessageQueue, int, int]], timeout_ms: int
    ) -> None:
        """Say that messages have been consumed: queue, first offset, one past the last; returns when that is stored.

        To a broker that has not asked nothing is said.
        """
        ...


OnDone = Callable[[Exception | None], None]
"""Told once how a request ended: None, or the error. On a thread of the wire or within the call; must not block."""


class ReceiptBroker(PopSource, Protocol):
    """Requests about messages that are settled by a receipt (the gRPC protocol).

    None of them blocks; called from any consumer thread and the wire's. ``topic`` is the one popped.
    """

    def ack_message(self, group: str, topic: str, msg: MessageExt, timeout_ms: int, on_done: OnDone) -> None:
        """The message is consumed. Several that come together travel together."""
        ...

    def change_invisible_duration(
        self, group: str, topic: str, msg: MessageExt, invisible_ms: int, timeout_ms: int, on_done: OnDone, *,
        suspend: bool = False,
    ) -> None:  # fmt: skip
        """The message is to come again so much later from now; ``suspend``: this delivery counts as no attempt."""
        ...

    def forward_to_dead_letter_queue(
        self, group: str, topic: str, msg: MessageExt, attempt: int, max_attempts: int, timeout_ms: int, on_done: OnDone
    ) -> None:
        """The message is given up, and kept for people to look at."""
        ...


class Group(Protocol):
    """What a consumer needs of the client it shares with others. Called from any consumer thread."""

    @property
    def client_id(self) -> str:
        """This member's name in the group."""
        ...

    def find_consumer_id_list(self, topic: str, group: str) -> list[str] | None:
        """Client ids of the group's members; None when nobody could tell (then keep what you have)."""
        ...

    def query_assignment(
        self, topic: str, group: str, strategy_name: str, message_model: str
    ) -> QueueAssignment | None:
        """Ask any broker of the topic which of its queues are this member's; None when it cannot tell (yet).

        Raises:
            BrokerError: it does not assign queues (REQUEST_CODE_NOT_SUPPORTED), and others.
        """
        ...

    def send_heartbeat_to_all_brokers(self) -> bool:
        """Tell the brokers what this client subscribes to; True when at least one heard it."""
        ...

    def send_heartbeat_soon(self) -> None:
        """The same on another thread; several calls become one."""
        ...

    def rebalance_immediately(self) -> None:
        """Wake the rebalance thread."""
        ...

    def rebalance_later(self, delay_ms: int) -> None:
        """Wake the rebalance thread after a while."""
        ...


class PullDispatch(Protocol):
    """Where pulls are set going again. Called from any consumer thread."""

    def execute_later(self, delay_ms: int, job: Callable[[], None]) -> None:
        """Run a short job on the pull thread after a while; dropped once it has stopped."""
        ...
