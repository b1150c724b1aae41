"""Which messages wait before they are delivered, and how. Source: HookUtils.handleScheduleMessage."""

from __future__ import annotations

from dataclasses import replace

from rocketmq_py.broker.commit_log import MessageInner
from rocketmq_py.broker.schedule_message_service import ScheduleMessageService
from rocketmq_py.broker.timer_message_store import TimerMessageStore
from rocketmq_py.model.message import TIMER_PROPERTIES, MessageConst


class DelayedMessages:
    """Gives a message to whoever keeps it until it is due."""

    def __init__(self, schedule: ScheduleMessageService, timers: TimerMessageStore) -> None:
        self._schedule = schedule
        self._timers = timers

    def handle(self, message: MessageInner) -> MessageInner:
        """A message as it is to be stored: as it waits, or as it is. A delay level wins over a timer.

        Raises:
            BrokerError: its timer is not legal.
        """
        text = message.properties.get(MessageConst.DELAY_TIME_LEVEL, "0")
        level = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        if level <= 0:
            return self._timers.timed(message)
        properties = {name: text for name, text in message.properties.items() if name not in TIMER_PROPERTIES}
        return self._schedule.delayed(replace(message, properties=properties), level)
