"""Replies to requests: handed to the client that asked, then stored as upstream does. Source: ReplyMessageProcessor."""

from __future__ import annotations

import logging

from rocketmq_py.broker.broker2client import Broker2Client
from rocketmq_py.broker.channel import Channel, Handler, refusal, success
from rocketmq_py.broker.commit_log import MessageInner
from rocketmq_py.broker.producer_manager import ProducerManager
from rocketmq_py.broker.send_message_processor import SendMessageProcessor
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, StoreError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.message import MessageConst, format_properties
from rocketmq_py.remoting.frame import RemotingCommand

_COPIED = (
    "producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp", "flag",
    "reconsumeTimes", "unitMode",
)  # fmt: skip
"""Fields that the asking client gets as the replying one wrote them. Source: ReplyMessageRequestHeader."""

_log = logging.getLogger(__name__)


class ReplyMessageProcessor:
    """Hands replies on. On the loop's thread only."""

    def __init__(
        self, *, clock: Clock, sends: SendMessageProcessor, producers: ProducerManager, broker2client: Broker2Client,
        broker_addr: str,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._sends = sends
        self._producers = producers
        self._broker2client = broker2client
        self._broker_addr = broker_addr

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.SEND_REPLY_MESSAGE: self.send_reply_message,
            RequestCode.SEND_REPLY_MESSAGE_V2: self.send_reply_message,
        }

    def send_reply_message(self, channel: Channel, request: RemotingCommand) -> None:
        """Push a reply to the client that its properties name; the sender hears whether that client took it.

        Behaviour: AB-15.
        """
        message = self._sends.message_of(channel, request)
        asker = message.properties.get(MessageConst.MESSAGE_REPLY_TO_CLIENT)
        if asker is None:
            raise BrokerError(
                ResponseCode.SYSTEM_ERROR,
                f"reply message properties[{MessageConst.MESSAGE_REPLY_TO_CLIENT}] is null",
            )
        target = self._producers.find_channel(asker)
        if target is None:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"push reply message fail, channel of <{asker}> not found.")

        def answered(answer: RemotingCommand | None, reason: str) -> None:
            if answer is not None and answer.code == ResponseCode.SUCCESS:
                self._store(channel, request, message)
                return
            _log.warning("pushing a reply to %s failed: %s", asker, reason if answer is None else answer.remark)
            self._write(
                channel, request, refusal(request, ResponseCode.SYSTEM_ERROR, f"push reply message to {asker}fail.")
            )

        now = str(self._clock.wall_ms())
        fields = {name: request.ext_fields[name] for name in _COPIED if name in request.ext_fields} | {
            "bornHost": channel.remote_address,
            "properties": format_properties({**message.properties, MessageConst.PUSH_REPLY_TIME: now}),
            "storeHost": self._broker_addr,
            "storeTimestamp": now,
        }
        self._broker2client.invoke(target, RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, fields, request.body, answered)

    def _store(self, channel: Channel, request: RemotingCommand, message: MessageInner) -> None:
        def stored(error: StoreError | None) -> None:
            # The reply has come to where it was to go: that it could not be kept as well is for the log.
            if error is not None:
                _log.warning("a reply was pushed, but is not stored: %s", error)
            self._write(channel, request, success(request, self._sends.answer_fields(message.queue_id, places)))

        try:
            places = self._sends.put([message], stored)
        except BrokerError as error:
            self._write(channel, request, refusal(request, error.code, error.remark))

    @staticmethod
    def _write(channel: Channel, request: RemotingCommand, answer: RemotingCommand) -> None:
        if not request.is_oneway:
            channel.write(answer)
