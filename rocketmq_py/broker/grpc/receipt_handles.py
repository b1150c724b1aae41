"""Who holds which message, and until when: renewed while its consumer lives, given to others when it is gone.

A handle is the receipt of the pop and the message's physical offset, as upstream's proxy writes it. Deviation: a
handle that was superseded, or whose message is settled, is known as such for as long as this server remembers it;
upstream answers OK and does nothing, or brings the message back.

Source: ReceiptHandle, ReceiptHandleProcessor, DefaultReceiptHandleManager.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rocketmq_py.broker.commit_log import Stored
from rocketmq_py.broker.grpc.context import GrpcProxyError, malformed
from rocketmq_py.broker.grpc.settings import RETRY_DELAYS_MS
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.pop_consumer_service import PopConsumerService
from rocketmq_py.clock import Clock
from rocketmq_py.errors import ProtocolError, RocketMQError, StoreError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.extra_info import ExtraInfo

AUTO_RENEW_INVISIBLE_MS = 60_000
"""What an auto-renewed message is first hidden for, whatever the consumer asked. Source: defaultInvisibleTimeMills."""

RENEW_SCAN_MS = 5_000
RENEW_AHEAD_MS = 10_000
RENEW_MAX_MS = 3 * 60 * 60 * 1_000
"""A consumer that has a message for so long does not work at it any more."""

RENEW_STEPS_MS = (60_000, 180_000, 300_000, 600_000, 1_800_000, 3_600_000)
RENEW_FAILURES_MAX = 3

CLEAR_INVISIBLE_MS = 1_000
"""How soon others get what a consumer held that is gone. Source: invisibleTimeMillisWhenClear."""

LEASES_MAX = 200_000
"""Unsettled messages that are remembered; of older ones the broker's own leases are all there is."""

OVER_MAX = 20_000
"""Handles that are remembered when they count no more."""

HANDLE_MAX_LENGTH = 1_024
"""Our own are shorter; handles come over the wire, and those that count no more are remembered."""

_FIELDS = 9

_log = logging.getLogger(__name__)


class HeldMessage(NamedTuple):
    """Which message it is, of which group."""

    group: str
    topic: str
    retry: str
    queue_id: int
    queue_offset: int

    @classmethod
    def of(cls, group: str, topic: str, receipt: ExtraInfo) -> HeldMessage:
        """By its receipt."""
        return cls(group, topic, receipt.retry, receipt.queue_id, receipt.queue_offset)


class Receipt(NamedTuple):
    """What the broker needs to settle a message.

    Attributes:
        held: which message.
        info: the receipt that counts now.
        physical_offset: None when the handle tells none.
    """

    held: HeldMessage
    info: ExtraInfo
    physical_offset: int | None

    @property
    def real_topic(self) -> str:
        """The topic in which the message lies."""
        return self.info.real_topic(self.held.topic, self.held.group)


@dataclass(slots=True)
class _Lease:
    client_id: str
    handle: str
    info: ExtraInfo
    physical_offset: int | None
    auto_renew: bool
    since_ms: int
    reconsume_times: int
    renewals: int = 0
    failures: int = 0


class ReceiptHandleManager:
    """Owner of the leases. On the loop's thread only.

    Args:
        may_renew: whether a client is there.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        clock: Clock,
        pop_service: PopConsumerService,
        broker_name: str,
        may_renew: Callable[[str], bool],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._pop_service = pop_service
        self._broker_name = broker_name
        self._may_renew = may_renew
        self._leases: dict[HeldMessage, _Lease] = {}
        self._held_by: dict[str, dict[HeldMessage, None]] = {}  # the same by client, in the order of delivery
        # By group, topic and handle: groups that are given a message in the same moment get the same handle. Whether
        # the message is settled; else there is a newer handle.
        self._over: dict[tuple[str, str, str], bool] = {}

    def start(self) -> None:
        """Begin to renew."""
        self._loop.call_later(RENEW_SCAN_MS, self._scan)

    @property
    def lease_count(self) -> int:
        """Messages that are held and remembered; for diagnosis."""
        return len(self._leases)

    def delivered(self, client_id: str, receipt: Receipt, *, auto_renew: bool, reconsume_times: int) -> str:
        """A message goes to a client; its handle."""
        handle = _handle(receipt.info, receipt.physical_offset)
        self._forget(receipt.held)  # so that it goes to the end
        self._held_by.setdefault(client_id, {})[receipt.held] = None
        self._leases[receipt.held] = _Lease(
            client_id, handle, receipt.info, receipt.physical_offset, auto_renew, self._clock.monotonic_ms(),
            reconsume_times,
        )  # fmt: skip
        while len(self._leases) > LEASES_MAX:
            self._forget(next(iter(self._leases)))
        return handle

    def _forget(self, held: HeldMessage) -> None:
        lease = self._leases.pop(held, None)
        if lease is not None:
            of_client = self._held_by[lease.client_id]
            del of_client[held]
            if not of_client:
                del self._held_by[lease.client_id]

    def find(self, group: str, topic: str, handle: str) -> Receipt:
        """What a handle stands for now.

        Raises:
            GrpcProxyError: INVALID_RECEIPT_HANDLE: it is none, it was replaced by another one, or its time is over.
        """
        if len(handle) > HANDLE_MAX_LENGTH:
            raise _invalid(f"a receipt of {len(handle)} characters is none of ours")
        try:
            told = ExtraInfo.parse(handle)
        except ProtocolError as error:
            raise malformed(error) from None
        if told.broker_name != self._broker_name:
            raise _invalid(f"the receipt is of the broker {told.broker_name}, this is {self._broker_name}")
        held = HeldMessage.of(group, topic, told)
        fields = handle.split(" ")
        physical_offset = _number(fields[_FIELDS - 1]) if len(fields) >= _FIELDS else None
        lease = self._leases.get(held)
        if (group, topic, handle) in self._over or (lease is not None and lease.handle != handle):
            raise _invalid("the message is acknowledged or dead already, or there is a newer receipt of it")
        if lease is not None:
            told, physical_offset = lease.info, lease.physical_offset
        if self._clock.wall_ms() >= told.pop_time + told.invisible_time:
            raise _invalid("the time of the receipt is over")
        return Receipt(held, told, physical_offset)

    def is_settled(self, group: str, topic: str, handle: str) -> bool:
        """Whether its message is known to be acknowledged or dead."""
        return self._over.get((group, topic, handle), False)

    def settled(self, receipt: Receipt, handle: str) -> None:
        """A message is acknowledged or dead."""
        self._forget(receipt.held)
        self._note_over(receipt.held, handle, settled=True)

    def _note_over(self, held: HeldMessage, handle: str, *, settled: bool) -> None:
        self._over[held.group, held.topic, handle] = settled
        while len(self._over) > OVER_MAX:
            del self._over[next(iter(self._over))]

    def put_off(self, receipt: Receipt, handle: str, invisible_ms: int, *, suspend: bool, stored: Stored) -> str:
        """A consumer changes when a message comes again; its new handle, which is not renewed.

        Raises:
            BrokerError: the message is not held by this receipt (any more).
        """
        info = self._change(receipt, invisible_ms, stored, suspend=suspend)
        new = _handle(info, receipt.physical_offset)
        lease = self._leases.get(receipt.held)
        if lease is not None:
            lease.handle, lease.info, lease.auto_renew = new, info, False
        if new != handle:
            self._note_over(receipt.held, handle, settled=False)
        return new

    def release(self, client_id: str) -> None:
        """A client is gone: what it holds is given to others soon."""
        for held in list(self._held_by.get(client_id, ())):
            lease = self._leases[held]
            if lease.auto_renew:
                self._let_go(held, lease, CLEAR_INVISIBLE_MS)

    # Renewal.

    def _scan(self) -> None:
        self._loop.call_later(RENEW_SCAN_MS, self._scan)
        now_ms, wall_ms = self._clock.monotonic_ms(), self._clock.wall_ms()
        for held, lease in list(self._leases.items()):
            left_ms = lease.info.pop_time + lease.info.invisible_time - wall_ms
            if left_ms <= 0:
                self._forget(held)
            elif lease.auto_renew and left_ms <= RENEW_AHEAD_MS:
                if now_ms - lease.since_ms >= RENEW_MAX_MS:
                    steps = len(RETRY_DELAYS_MS)
                    self._let_go(held, lease, RETRY_DELAYS_MS[min(lease.reconsume_times + 1, steps - 1)])
                elif self._may_renew(lease.client_id):
                    self._renew(held, lease)
                else:
                    self._let_go(held, lease, CLEAR_INVISIBLE_MS)

    def _renew(self, held: HeldMessage, lease: _Lease) -> None:
        step_ms = RENEW_STEPS_MS[min(lease.renewals, len(RENEW_STEPS_MS) - 1)]
        try:
            lease.info = self._change(Receipt(held, lease.info, None), step_ms, _ignore, put_off=False)
        except RocketMQError as error:
            lease.failures += 1
            if lease.failures >= RENEW_FAILURES_MAX:
                _log.warning("the lease of %s cannot be renewed: %s", held, error)
                lease.auto_renew = False
        else:
            lease.renewals += 1
            lease.failures = 0

    def _let_go(self, held: HeldMessage, lease: _Lease, delay_ms: int) -> None:
        self._forget(held)
        self._change_or_note(Receipt(held, lease.info, None), delay_ms)

    def put_back(self, receipt: Receipt) -> None:
        """A message did not reach its consumer: it comes again soon, and that does not count as an attempt."""
        self._forget(receipt.held)
        self._change_or_note(receipt, CLEAR_INVISIBLE_MS, suspend=True, put_off=False)

    def _change_or_note(
        self, receipt: Receipt, invisible_ms: int, *, suspend: bool = False, put_off: bool = True
    ) -> None:
        try:
            self._change(receipt, invisible_ms, _ignore, suspend=suspend, put_off=put_off)
        except RocketMQError as error:
            _log.warning("%s comes again only when its time is over: %s", receipt.held, error)

    def _change(
        self, receipt: Receipt, invisible_ms: int, stored: Stored, *, suspend: bool = False, put_off: bool = True
    ) -> ExtraInfo:
        info = self._pop_service.change_invisible_time(
            receipt.held.group, receipt.real_topic, receipt.info, invisible_ms, stored, suspend=suspend,
            put_off=put_off,
        )  # fmt: skip
        return info._replace(ck_queue_offset=info.queue_offset)  # a batch of its own from here on


def _handle(info: ExtraInfo, physical_offset: int | None) -> str:
    return str(info) if physical_offset is None else f"{info} {physical_offset}"


def _ignore(error: StoreError | None) -> None:
    """When the store has failed, everybody is told at the next request."""


def _invalid(text: str) -> GrpcProxyError:
    return GrpcProxyError(pb.INVALID_RECEIPT_HANDLE, text)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
