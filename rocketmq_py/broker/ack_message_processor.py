"""What becomes of popped messages. Source: AckMessageProcessor, ChangeInvisibleTimeProcessor."""

from __future__ import annotations

from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, integer, refusal, required, success
from rocketmq_py.broker.pop_consumer_service import PopConsumerService
from rocketmq_py.errors import BrokerError, ProtocolError, StoreError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand

ACKS_MAX_COUNT = 1_024
"""Batches that one request may acknowledge: others wait meanwhile."""

MESSAGES_MAX_COUNT = 4_096
"""Messages of all these batches together."""


class AckMessageProcessor:
    """Acknowledgements, and more or less time. On the loop's thread only."""

    def __init__(self, service: PopConsumerService) -> None:
        self._service = service

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.ACK_MESSAGE: self.ack_message,
            RequestCode.BATCH_ACK_MESSAGE: self.batch_ack_message,
            RequestCode.CHANGE_MESSAGE_INVISIBLETIME: self.change_invisible_time,
        }

    def ack_message(self, channel: Channel, request: RemotingCommand) -> None:
        """A message is done; answered once that is stored."""
        self._service.ack(
            required(request, "consumerGroup"), required(request, "topic"), _receipt(request),
            answer_when_stored(channel, request, success(request)),
        )  # fmt: skip

    def batch_ack_message(self, channel: Channel, request: RemotingCommand) -> None:
        """Many messages are done; answered once that is stored."""
        acks = bodies.parse_batch_ack(request.body)
        if not acks:
            raise BrokerError(ResponseCode.NO_MESSAGE, "nothing to acknowledge")
        if len(acks) > ACKS_MAX_COUNT:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER,
                f"{len(acks)} batches to acknowledge, possible are {ACKS_MAX_COUNT}",
            )
        count = sum(ack.message_count for ack in acks)
        if count > MESSAGES_MAX_COUNT:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER, f"{count} messages to acknowledge, possible are {MESSAGES_MAX_COUNT}"
            )
        left = len(acks)
        answer = success(request)

        def stored(error: StoreError | None) -> None:
            nonlocal left
            left -= 1
            if left == 0:  # they are stored in order, and after a failure nothing is
                answer_when_stored(channel, request, answer)(error)

        for ack in acks:
            topic = _receipt_of(ack, 0).real_topic(ack.topic, ack.group)
            receipts = (_receipt_of(ack, index) for index in ack.indexes())
            refused = self._service.ack_batch(ack.group, topic, receipts, stored)
            if refused is not None:
                answer = refusal(request, refused.code, refused.remark)

    def change_invisible_time(self, channel: Channel, request: RemotingCommand) -> None:
        """A message comes back earlier or later; answered with its new receipt once that is stored."""
        answer = success(request)
        receipt = self._service.change_invisible_time(
            required(request, "consumerGroup"), required(request, "topic"), _receipt(request),
            integer(request, "invisibleTime"), answer_when_stored(channel, request, answer),
            suspend=request.ext_fields.get("suspend", "false").lower() == "true",
        )  # fmt: skip
        answer.ext_fields = {
            "popTime": str(receipt.pop_time),
            "invisibleTime": str(receipt.invisible_time),
            "reviveQid": str(receipt.revive_queue_id),
        }


def _receipt(request: RemotingCommand) -> ExtraInfo:
    try:
        receipt = ExtraInfo.parse(required(request, "extraInfo"))
    except ProtocolError as error:
        raise BrokerError(ResponseCode.SYSTEM_ERROR, str(error)) from None
    return receipt._replace(queue_id=integer(request, "queueId", bits=32), queue_offset=integer(request, "offset"))


def _receipt_of(ack: bodies.BatchAck, index: int) -> ExtraInfo:
    return ExtraInfo(
        ack.start_offset, ack.pop_time, ack.invisible_time, ack.revive_queue_id, ack.retry, "", ack.queue_id,
        ack.start_offset + index,
    )  # fmt: skip
