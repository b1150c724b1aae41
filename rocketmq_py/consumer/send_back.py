"""How a failed message comes again: back to its broker, or as a new message to the retry topic.

Source: DefaultMQPushConsumerImpl.sendMessageBack, sendMessageBackAsNormalMessage.
"""

from __future__ import annotations

import copy

from rocketmq_py.consumer.ports import Broker
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.rate_limited_log import RateLimitedLog

SEND_BACK_TIMEOUT_MS = 5_000
FIRST_RETRY_DELAY_LEVEL = 3
"""Level of the first retry, 10 s by default; each further one is a level higher."""


class SendMessageBack:
    """Sends failed messages of one group back. Called on consume threads and the expiry sweep; blocks up to 5 s.

    Args:
        group: with its namespace.
        namespace: in which the topics of the messages are, or None.
    """

    def __init__(
        self,
        group: str,
        max_reconsume_times: int,
        broker: Broker,
        warnings: RateLimitedLog,
        namespace: str | None = None,
    ) -> None:
        self._namespace = namespace
        self._group = group
        self._max_reconsume_times = max_reconsume_times
        self._broker = broker
        self._warnings = warnings

    def send(self, msg: MessageExt, delay_level: int) -> bool:
        """Try the broker, then the retry topic.

        Args:
            msg: a message that failed.
            delay_level: -1 dead-letter topic, 0 the broker decides, 1..18 that level. The second way ignores it.

        Returns:
            False when both ways failed: the message must stay in the window.

        Behaviour: SB-01, SB-02.
        """
        if self._namespace:
            msg = _in_namespace(self._namespace, msg)
        try:
            self._broker.send_message_back(
                self._group, msg, delay_level, self._max_reconsume_times, SEND_BACK_TIMEOUT_MS
            )
        except RocketMQError as error:
            self._warnings.warning(
                ("send back", self._group),
                "group %s: cannot send message %s (queue %s offset %s) back, sending it to the retry topic instead: %s",
                self._group, msg.msg_id, msg.queue_id, msg.queue_offset, error,
            )  # fmt: skip
            return self.send_as_normal_message(msg)
        return True

    def send_as_normal_message(self, msg: MessageExt) -> bool:
        """Send it to the retry topic as a new message, its count raised by one: the only way for orderly consumers.

        Source: ConsumeMessageOrderlyService.sendMessageBack, DefaultMQPushConsumerImpl.sendMessageBackAsNormalMessage.
        """
        # A copy: in Java the message and its substitute share one property map (deviations).
        properties = {name: value for name, value in msg.properties.items() if name not in _LOCAL_PROPERTIES}
        properties.setdefault(MessageConst.ORIGIN_MESSAGE_ID, msg.msg_id)
        properties[MessageConst.RETRY_TOPIC] = names.wrap_namespace(self._namespace, msg.topic)
        # + 1: the broker puts a message into the dead-letter topic once the count is above the maximum.
        properties[MessageConst.RECONSUME_TIME] = str(msg.reconsume_times + 1)
        properties[MessageConst.MAX_RECONSUME_TIMES] = str(self._max_reconsume_times)
        properties[MessageConst.DELAY_TIME_LEVEL] = str(FIRST_RETRY_DELAY_LEVEL + msg.reconsume_times)
        try:
            self._broker.send_retry_message(names.retry_topic(self._group), msg.body, msg.flag, properties)
        except RocketMQError as error:
            self._warnings.warning(
                ("send as normal message", self._group),
                "group %s: message %s (queue %s offset %s) could not be sent to the retry topic either, "
                "it is consumed again here: %s",
                self._group, msg.msg_id, msg.queue_id, msg.queue_offset, error,
            )  # fmt: skip
            return False
        return True


def _in_namespace(namespace: str, msg: MessageExt) -> MessageExt:
    """The message with its topic as brokers know it; a copy, because the listener may still look at the message."""
    msg = copy.copy(msg)
    msg._topic = names.wrap_namespace(namespace, msg.topic)
    return msg


_LOCAL_PROPERTIES = frozenset(
    {MessageConst.MIN_OFFSET, MessageConst.MAX_OFFSET, MessageConst.TRANSACTION_PREPARED}
)  # the first two tell of a pull, the third would begin a transaction
