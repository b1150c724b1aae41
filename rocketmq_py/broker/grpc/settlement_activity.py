"""What becomes of a received message: done, later, or dead.

Source: AckMessageActivity, ChangeInvisibleDurationActivity, ForwardMessageToDLQActivity.
"""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.broker.grpc.context import (
    ENTRIES_MAX,
    GrpcProxyError,
    ProxyContext,
    check_group,
    check_invisible_ms,
    check_topic,
    ok,
    status_of,
    succeeded,
    summed_up,
)
from rocketmq_py.broker.grpc.converter import ms_of
from rocketmq_py.broker.grpc.message_service import LocalMessageService
from rocketmq_py.broker.grpc.receipt_handles import Receipt, ReceiptHandleManager
from rocketmq_py.broker.pop_consumer_service import PopConsumerService
from rocketmq_py.errors import BrokerError, RocketMQError, StoreError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand

Told = Callable[[pb.Status], None]


class SettlementActivity:
    """Settles messages by their handles. On the loop's thread only."""

    def __init__(
        self, service: LocalMessageService, pop_service: PopConsumerService, receipts: ReceiptHandleManager
    ) -> None:
        self._service = service
        self._pop_service = pop_service
        self._receipts = receipts
        # By group, topic and handle, whoever waits until it is on the disk.
        self._settling: dict[tuple[str, str, str], list[Told]] = {}

    def ack_message(
        self, context: ProxyContext, request: pb.AckMessageRequest, done: Callable[[pb.AckMessageResponse], None]
    ) -> None:
        """Messages are done. Each entry has its own result; acknowledging twice is no error."""
        group, topic = check_group(request.group), check_topic(request.topic)
        if not 0 < len(request.entries) <= ENTRIES_MAX:
            raise GrpcProxyError(pb.BAD_REQUEST, f"{len(request.entries)} entries, possible are 1 to {ENTRIES_MAX}")
        results: dict[int, pb.AckMessageResultEntry] = {}

        def answer(index: int, status: pb.Status) -> None:
            entry = request.entries[index]
            results[index] = pb.AckMessageResultEntry(
                message_id=entry.message_id, receipt_handle=entry.receipt_handle, status=status
            )
            if len(results) == len(request.entries):
                told = [results[each] for each in range(len(results))]
                done(pb.AckMessageResponse(status=summed_up(each.status for each in told), entries=told))

        for index, entry in enumerate(request.entries):
            self._ack(group, topic, entry.receipt_handle, _at(answer, index))

    def _ack(self, group: str, topic: str, handle: str, told: Told) -> None:
        if self._receipts.is_settled(group, topic, handle):
            told(ok())
            return
        try:
            receipt = self._receipts.find(group, topic, handle)
        except GrpcProxyError as error:
            told(status_of(error))
            return
        self._settle(receipt, handle, self._ack_given, told)

    def _ack_given(self, receipt: Receipt, told: Told) -> None:
        """Acknowledge a message, unless it was taken from its consumer: then it comes again in any case."""
        if self._pop_service.receipt_counts(receipt.held.group, receipt.real_topic, receipt.info):
            self.ack(receipt, told)
        else:
            told(_invalid("the message is not held by this receipt (any more)"))

    def _settle(self, receipt: Receipt, handle: str, settle: Callable[[Receipt, Told], None], told: Told) -> None:
        """Settle a message; whoever asks for the same meanwhile hears the same, and that when it is on the disk."""
        key = receipt.held.group, receipt.held.topic, handle
        waiting = self._settling.get(key)
        if waiting is not None:
            waiting.append(told)
            return
        waiting = self._settling[key] = [told]

        def answered(status: pb.Status) -> None:
            del self._settling[key]
            if status.code == pb.OK:
                self._receipts.settled(receipt, handle)
            for each in waiting:
                each(status)

        settle(receipt, answered)

    def ack(self, receipt: Receipt, told: Told) -> None:
        """A message is done; told once that is on the disk, or why not."""

        def stored(error: StoreError | None) -> None:
            told(ok() if error is None else status_of(error))

        try:
            self._pop_service.ack(receipt.held.group, receipt.real_topic, receipt.info, stored)
        except RocketMQError as error:
            told(status_of_receipt(error))

    def change_invisible_duration(
        self,
        context: ProxyContext,
        request: pb.ChangeInvisibleDurationRequest,
        done: Callable[[pb.ChangeInvisibleDurationResponse], None],
    ) -> None:
        """A message comes again at another time.

        Deviation: a refusal carries the old handle, upstream's an empty one, which some clients keep.
        """
        handle = request.receipt_handle

        def told(status: pb.Status, new: str) -> None:
            done(pb.ChangeInvisibleDurationResponse(status=status, receipt_handle=new))

        try:
            group, topic = check_group(request.group), check_topic(request.topic)
            invisible_ms = ms_of(request.invisible_duration)
            check_invisible_ms(invisible_ms)
            receipt = self._receipts.find(group, topic, handle)
            new = self._receipts.put_off(
                receipt, handle, invisible_ms, suspend=request.suspend,
                stored=lambda error: told(ok() if error is None else status_of(error), handle if error else new),
            )  # fmt: skip
        except RocketMQError as error:
            told(status_of_receipt(error), handle)

    def forward_message_to_dead_letter_queue(
        self,
        context: ProxyContext,
        request: pb.ForwardMessageToDeadLetterQueueRequest,
        done: Callable[[pb.ForwardMessageToDeadLetterQueueResponse], None],
    ) -> None:
        """A message is dead: it moves to the group's dead-letter topic. Twice is no error and makes no second copy."""
        group, topic = check_group(request.group), check_topic(request.topic)
        handle = request.receipt_handle
        if self._receipts.is_settled(group, topic, handle):
            done(pb.ForwardMessageToDeadLetterQueueResponse(status=ok()))
            return
        receipt = self._receipts.find(group, topic, handle)

        def bury(receipt: Receipt, told: Told) -> None:
            self.bury(context, receipt, told)

        def answered(status: pb.Status) -> None:
            done(pb.ForwardMessageToDeadLetterQueueResponse(status=status))

        self._settle(receipt, handle, bury, answered)

    def bury(self, context: ProxyContext, receipt: Receipt, told: Told) -> None:
        """Write a message into the dead-letter topic and acknowledge it. It must be held: else nobody's dies twice.

        Both are asked for in the same moment, so both are in one transaction of the store.
        """
        if receipt.physical_offset is None:
            told(_invalid("the receipt does not tell where the message lies"))
            return
        if not self._pop_service.is_held(receipt.held.group, receipt.real_topic, receipt.info):
            told(_invalid("the message is not held by this receipt (any more)"))
            return
        fields = {
            "offset": receipt.physical_offset,
            "group": receipt.held.group,
            "delayLevel": -1,
            "originTopic": receipt.held.topic,
            "maxReconsumeTimes": 0,
        }
        statuses: list[pb.Status] = []

        def both(status: pb.Status) -> None:
            statuses.append(status)
            if len(statuses) == 2:
                told(next((each for each in statuses if each.code != pb.OK), status))

        def sent_back(answer: RemotingCommand) -> None:
            both(_status(answer))

        self._service.ask(context, RequestCode.CONSUMER_SEND_MSG_BACK, fields, sent_back)
        if statuses and statuses[0].code != pb.OK:  # refused at once: the message is not to be lost
            told(statuses[0])
        else:
            self.ack(receipt, both)


_NOT_HELD = frozenset({ResponseCode.NO_MESSAGE, ResponseCode.MESSAGE_ILLEGAL})
"""What the broker says of a receipt that does not count (any more). Clients try again for ever unless they hear so."""


def status_of_receipt(error: RocketMQError) -> pb.Status:
    """What a client is told of an error of the receipt that it gave."""
    if isinstance(error, BrokerError) and error.code in _NOT_HELD:
        return pb.Status(code=pb.INVALID_RECEIPT_HANDLE, message=error.remark)
    return status_of(error)


def _invalid(text: str) -> pb.Status:
    return pb.Status(code=pb.INVALID_RECEIPT_HANDLE, message=text)


def _status(answer: RemotingCommand) -> pb.Status:
    try:
        succeeded(answer)
    except RocketMQError as error:
        return status_of(error)
    return ok()


def _at(answer: Callable[[int, pb.Status], None], index: int) -> Told:
    return lambda status: answer(index, status)
