"""Takes back messages that wait for their moment. Source: RecallMessageProcessor.

Deviation: the message is taken out of the timer at once. Upstream stores a second one for the same moment, which takes
the first along when both are due.
"""

from __future__ import annotations

from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, required, success
from rocketmq_py.broker.timer_message_store import TimerMessageStore
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.errors import BrokerError, ProtocolError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.recall_handle import RecallHandle
from rocketmq_py.remoting.frame import RemotingCommand


class RecallMessageProcessor:
    """Answers one request. On the loop's thread only."""

    def __init__(self, *, topics: TopicConfigManager, timers: TimerMessageStore, broker_name: str) -> None:
        self._topics = topics
        self._timers = timers
        self._broker_name = broker_name

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {RequestCode.RECALL_MESSAGE: self.recall_message}

    def recall_message(self, channel: Channel, request: RemotingCommand) -> None:
        """Deliver a message never; answered once that is stored."""
        topic = required(request, "topic")
        if self._topics.topic(topic) is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"recall failed, the topic[{topic}] not exist")
        try:
            handle = RecallHandle.parse(request.ext_fields.get("recallHandle", ""))
        except ProtocolError as error:
            raise BrokerError(ResponseCode.ILLEGAL_OPERATION, str(error)) from None
        if handle.topic != topic:
            raise BrokerError(ResponseCode.ILLEGAL_OPERATION, "recall failed, topic not match")
        if handle.broker_name != self._broker_name:
            raise BrokerError(ResponseCode.ILLEGAL_OPERATION, "recall failed, broker service not available")
        answer = success(request, {"msgId": handle.uniq_key, "MSG_REGION": "DefaultRegion"})
        stored = answer_when_stored(channel, request, answer)
        self._timers.recall(topic, handle.uniq_key, handle.deliver_ms, stored)
