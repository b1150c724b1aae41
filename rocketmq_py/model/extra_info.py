"""The receipt of a popped message: by what it is acknowledged or put off. Source: ExtraInfoUtil.

It travels as a text of eight fields, the property POP_CK.
"""

from __future__ import annotations

from typing import NamedTuple

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model import names

NORMAL_TOPIC = "0"
RETRY_TOPIC = "1"
RETRY_TOPIC_V2 = "2"

_FIELDS = 8
_LONG_DIGITS = 19


class ExtraInfo(NamedTuple):
    """What a broker needs to find a popped message again.

    Attributes:
        ck_queue_offset: first offset of the batch that the broker gave from this queue.
        pop_time: when it was popped, ms since 1970 by the broker's clock.
        invisible_time: ms from then on during which nobody else gets it.
        revive_queue_id: number of the broker's queue that keeps the lease.
        retry: kind of the topic it lies in: ``NORMAL_TOPIC``, ``RETRY_TOPIC`` or ``RETRY_TOPIC_V2``.
        broker_name: the broker's name.
        queue_id: its queue.
        queue_offset: its offset there.
    """

    ck_queue_offset: int
    pop_time: int
    invisible_time: int
    revive_queue_id: int
    retry: str
    broker_name: str
    queue_id: int
    queue_offset: int

    @classmethod
    def parse(cls, text: str | None) -> ExtraInfo:
        """Read a receipt; fields behind the eighth are ignored.

        Raises:
            ProtocolError: there is none, or it is malformed.
        """
        fields = (text or "").split(" ")
        if len(fields) < _FIELDS:
            raise ProtocolError(f"a popped message without a usable POP_CK: {text!r:.200}")
        offset, pop_time, invisible, revive, retry, broker, queue, queue_offset = fields[:_FIELDS]
        try:
            return cls(
                long_of(offset), long_of(pop_time), long_of(invisible), long_of(revive), retry, broker,
                long_of(queue), long_of(queue_offset),
            )  # fmt: skip
        except ValueError:
            raise ProtocolError(
                f"a popped message whose POP_CK has fields that are no numbers: {text!r:.200}"
            ) from None

    def __str__(self) -> str:
        """The receipt as it travels."""
        return " ".join(map(str, self))

    def real_topic(self, topic: str, group: str) -> str:
        """The topic in which the message really lies; ``topic`` is the one popped. Source: getRealTopic."""
        if self.retry == RETRY_TOPIC:
            return names.pop_retry_topic_v1(group, topic)
        if self.retry == RETRY_TOPIC_V2:
            return names.pop_retry_topic_v2(group, topic)
        return topic


def retry_of(topic: str) -> str:
    """Kind of a topic, by its name. Source: ExtraInfoUtil.getRetry."""
    if not topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
        return NORMAL_TOPIC
    return RETRY_TOPIC_V2 if "+" in topic else RETRY_TOPIC


def long_of(text: str) -> int:
    """A 64-bit integer in plain digits.

    Raises:
        ValueError: it is none.
    """
    digits = text[1:] if text.startswith("-") else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > _LONG_DIGITS:
        raise ValueError(text)
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(text)
    return value
