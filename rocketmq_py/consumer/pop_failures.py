"""What becomes of popped messages that failed, come too often, or cannot be shown to anybody."""

from __future__ import annotations

import logging
from typing import ClassVar, Protocol

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.pop_settlement import PopSettlement
from rocketmq_py.consumer.send_back import SendMessageBack
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.extra_info import ExtraInfo
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.rate_limited_log import RateLimitedLog

POP_DELAY_LEVEL = (10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200)
"""Seconds until a failed message comes again, by how often it came again already. Not the broker's delay levels."""

GIVE_UP_AGE_MS = POP_DELAY_LEVEL[-1] * 1_000 * 2
"""A message that failed too often is given up once it is older than this."""

_log = logging.getLogger(__name__)


class PopFailures(Protocol):
    """Any thread may call it; nothing blocks or raises.

    Attributes:
        outlives_drop: whether messages are still this member's when their queue was taken away.
    """

    outlives_drop: ClassVar[bool]

    def lease_ms(self, first: MessageExt) -> int:
        """How long the messages that came with this one are this member's alone, from their arrival; 0: not at all."""
        ...

    def again_later(self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue, delay_level: int) -> None:
        """A message failed; the level is the listener's wish."""
        ...

    def give_back(self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue) -> None:
        """This member ends before it could consume a message; called only where leases are renewed by the server."""
        ...

    def too_often(self, msg: MessageExt) -> bool:
        """Whether a message has come so often that the listener is not to get it any more."""
        ...

    def give_up(self, msg: MessageExt, mq: MessageQueue) -> None:
        """Have such a message never come again."""
        ...

    def corrupted(self, msg: MessageExt, mq: MessageQueue, error: Exception) -> None:
        """A message whose body cannot be read has come."""
        ...


class DelayTableFailures:
    """As the classic client does it. Source: ConsumeMessagePopConcurrentlyService, processPopResult."""

    outlives_drop: ClassVar[bool] = False

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        clock: Clock,
        settlement: PopSettlement,
        send_back: SendMessageBack,
        counters: ConsumerCounters,
    ) -> None:
        self._group = group
        self._config = config
        self._clock = clock
        self._settlement = settlement
        self._send_back = send_back
        self._counters = counters
        self._warnings = RateLimitedLog(clock, _log)

    def lease_ms(self, first: MessageExt) -> int:
        """By the receipt of a batch's first message; 0 when that cannot be read.

        The lease counts from the arrival, by this machine's clock: Java compares its own clock with the broker's, and
        consumes nothing at all where they differ by more than the invisible time (deviations).
        """
        try:
            receipt = ExtraInfo.parse(first.get_property(MessageConst.POP_CK))
        except ProtocolError as error:
            self._warnings.warning("receipt", "group %s: %s; it is not consumed", self._group, error)
            return 0
        return receipt.invisible_time if receipt.pop_time > 0 and receipt.invisible_time > 0 else 0

    def again_later(self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue, delay_level: int) -> None:
        """See ``PopFailures.again_later``. Behaviour: PO-09 to PO-11."""
        if delay_level < 0 and self._send_back.send(msg, delay_level):
            self._counters.count(Event.SENT_BACK)
            self._settlement.ack(msg, mq.topic, queue)
        elif msg.reconsume_times >= self._config.effective_max_reconsume_times():
            self._check_need_ack_or_delay(msg, mq, queue)
        else:
            self._change_pop_invisible_time(msg, mq, queue, delay_level if delay_level > 0 else msg.reconsume_times)

    def _check_need_ack_or_delay(self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue) -> None:
        """What failed too often is given up when it is old, and else put off by its age.

        Source: ConsumeMessagePopConcurrentlyService.checkNeedAckOrDelay.
        """
        age_ms = self._clock.wall_ms() - msg.born_timestamp
        if age_ms > GIVE_UP_AGE_MS:
            self._counters.count(Event.POP_GIVEN_UP)
            self._warnings.warning(
                "given up",
                "group %s: message %s (keys %s) failed %s times in %s minutes, it is given up",
                self._group, msg.msg_id, msg.keys, msg.reconsume_times + 1, age_ms // 60_000,
            )  # fmt: skip
            self._settlement.ack(msg, mq.topic, queue)
        else:
            level = sum(age_ms >= seconds * 1_000 for seconds in POP_DELAY_LEVEL)
            self._change_pop_invisible_time(msg, mq, queue, level)

    def _change_pop_invisible_time(
        self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue, delay_level: int
    ) -> None:
        """Have a message come again after the table's delay; a level beyond its ends counts as the end."""
        seconds = POP_DELAY_LEVEL[min(max(delay_level, 0), len(POP_DELAY_LEVEL) - 1)]
        self._settlement.change_invisible_time(msg, mq.topic, seconds * 1_000, queue)

    def give_back(self, msg: MessageExt, mq: MessageQueue, queue: PopProcessQueue) -> None:
        """It comes again by itself when its invisible time has passed."""
        queue.ack(len(msg.body))

    def too_often(self, msg: MessageExt) -> bool:
        """See ``PopFailures.too_often``."""
        return msg.reconsume_times > self._config.effective_max_reconsume_times()

    def give_up(self, msg: MessageExt, mq: MessageQueue) -> None:
        """See ``PopFailures.give_up``."""
        self._counters.count(Event.POP_GIVEN_UP)
        _log.warning("group %s: %r came too often, it is given up", self._group, msg)
        self._settlement.ack(msg, mq.topic)

    def corrupted(self, msg: MessageExt, mq: MessageQueue, error: Exception) -> None:
        """Never called: on the remoting wire a body that cannot be read fails the whole pop."""
        raise error
