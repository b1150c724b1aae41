"""Verdicts, contexts and results that cross the borders between user, core and wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue


class ConsumeConcurrentlyStatus(Enum):
    """What a concurrent listener answers."""

    CONSUME_SUCCESS = "CONSUME_SUCCESS"
    RECONSUME_LATER = "RECONSUME_LATER"


MAX_ACK_INDEX = 2**31 - 1
"""Default of ``ack_index``: every message of the batch succeeded."""

DELAY_BROKER_DECIDES = 0
"""``delay_level_when_next_consume``: the broker's level 3 + reconsume times."""

DELAY_TO_DLQ = -1
"""``delay_level_when_next_consume``: no retry, straight to the dead-letter topic."""


class ConsumeConcurrentlyContext:
    """What a concurrent listener may say beside its status.

    Attributes:
        message_queue: the queue of the batch.
        ack_index: with CONSUME_SUCCESS, the index of the last message that succeeded, inclusive (not a count):
            ``0`` acknowledges only the first, ``-1`` none; the rest comes again later. Default: all. Ignored with
            RECONSUME_LATER, and once ``failed_indexes`` is set.
        delay_level_when_next_consume: when failed messages come again: ``-1`` never (dead-letter topic), ``0`` the
            broker decides, 1..18 that delay level.
    """

    # _failed_indexes stays unset until somebody sets it: a context is made for every message at batch size 1.
    __slots__ = ("_failed_indexes", "ack_index", "delay_level_when_next_consume", "message_queue")

    def __init__(self, message_queue: MessageQueue) -> None:
        self.message_queue = message_queue
        self.ack_index = MAX_ACK_INDEX
        self.delay_level_when_next_consume = DELAY_BROKER_DECIDES

    @property
    def failed_indexes(self) -> frozenset[int] | None:
        """With CONSUME_SUCCESS, the indexes of the messages that come again later, all others being done. Not in Java.

        None, the default: ``ack_index`` decides. Setting it sets ``ack_index`` too, to the last message before the
        first failed one, for hooks that look there.

        Raises:
            ConfigError: something else than integers from 0 is set.
        """
        return getattr(self, "_failed_indexes", None)

    @failed_indexes.setter
    def failed_indexes(self, indexes: Iterable[int]) -> None:
        failed = frozenset(indexes)
        if any(isinstance(index, bool) or not isinstance(index, int) or index < 0 for index in failed):
            raise ConfigError(
                f"failed_indexes are integers from 0, the places of messages in the batch, not {indexes!r}"
            )
        self._failed_indexes = failed
        self.ack_index = min(failed) - 1 if failed else MAX_ACK_INDEX


class ConsumeOrderlyStatus(Enum):
    """What an orderly listener answers.

    ``SUCCESS``: done; with ``auto_commit`` off not committed yet. ``SUSPEND_CURRENT_QUEUE_A_MOMENT``: the same messages
    again after a while, the queue waits. ``COMMIT`` and ``ROLLBACK`` are for ``auto_commit`` off: commit everything
    since the last commit, or get all of it again. With ``auto_commit`` on both mean SUCCESS, with a warning.
    """

    SUCCESS = "SUCCESS"
    ROLLBACK = "ROLLBACK"
    COMMIT = "COMMIT"
    SUSPEND_CURRENT_QUEUE_A_MOMENT = "SUSPEND_CURRENT_QUEUE_A_MOMENT"


SUSPEND_AS_CONFIGURED = -1
"""``suspend_current_queue_time_millis`` of a context: what the consumer's setting of that name says."""


class ConsumeOrderlyContext:
    """What an orderly listener may say beside its status.

    Attributes:
        message_queue: the queue of the batch.
        auto_commit: whether SUCCESS commits (True); set it in every call, each has a context of its own. What is set is
            taken as a truth value at once: one that has none is an error of the listener's call.
        suspend_current_queue_time_millis: ms until the messages come again, 10 to 30,000 (others are taken as the
            nearest of these); -1: as the consumer's setting says.
    """

    __slots__ = ("_auto_commit", "message_queue", "suspend_current_queue_time_millis")

    def __init__(self, message_queue: MessageQueue) -> None:
        self.message_queue = message_queue
        self._auto_commit = True
        self.suspend_current_queue_time_millis = SUSPEND_AS_CONFIGURED

    @property
    def auto_commit(self) -> bool:
        """See above."""
        return self._auto_commit

    @auto_commit.setter
    def auto_commit(self, value: bool) -> None:
        self._auto_commit = bool(value)


class PullStatus(Enum):
    """What a pull brought. Source: PullStatus."""

    FOUND = "FOUND"
    NO_NEW_MSG = "NO_NEW_MSG"
    NO_MATCHED_MSG = "NO_MATCHED_MSG"
    OFFSET_ILLEGAL = "OFFSET_ILLEGAL"


@dataclass(slots=True)
class PullResult:
    """Answer to a pull.

    Attributes:
        next_begin_offset: where the next pull starts; may lie before the last one after a reset.
        min_offset: first offset the queue still has.
        max_offset: one past the last offset of the queue.
        messages: only with FOUND, ascending offsets.
    """

    status: PullStatus
    next_begin_offset: int
    min_offset: int
    max_offset: int
    messages: list[MessageExt]


class PopStatus(Enum):
    """What a pop brought. Source: PopStatus."""

    FOUND = "FOUND"
    POLLING_FULL = "POLLING_FULL"
    POLLING_NOT_FOUND = "POLLING_NOT_FOUND"


class ConsumeInitMode(IntEnum):
    """Where a group that never consumed a queue begins to pop. Source: ConsumeInitMode."""

    MIN = 0
    MAX = 1


@dataclass(slots=True)
class PopResult:
    """Answer to a pop.

    Attributes:
        messages: only with FOUND; each carries its receipt (``model.extra_info``) and shows the topic popped.
        corrupted: further ones, whose bodies cannot be shown to anybody; with the reason. Only by the gRPC wire.
    """

    status: PopStatus
    messages: list[MessageExt]
    corrupted: Sequence[tuple[MessageExt, Exception]] = ()


class QueueAssignment(NamedTuple):
    """Which queues of a topic a broker gave to this member. Source: MessageQueueAssignment, MessageRequestMode.

    Attributes:
        pull: to be pulled.
        pop: to be popped; a queue id of -1 stands for all queues of the broker.
    """

    pull: frozenset[MessageQueue] = frozenset()
    pop: frozenset[MessageQueue] = frozenset()


class SendStatus(Enum):
    """How well a broker stored a message; in every case it is stored. Source: SendStatus."""

    SEND_OK = "SEND_OK"
    FLUSH_DISK_TIMEOUT = "FLUSH_DISK_TIMEOUT"
    FLUSH_SLAVE_TIMEOUT = "FLUSH_SLAVE_TIMEOUT"
    SLAVE_NOT_AVAILABLE = "SLAVE_NOT_AVAILABLE"


@dataclass(frozen=True, slots=True)
class SendResult:
    """Answer to a send.

    Attributes:
        send_status: how well it is stored.
        msg_id: the producer's id; of a batch all ids, comma separated.
        message_queue: where it went.
        queue_offset: its place there, of a batch the first one's. Of a delayed message the place in the delay queue.
        offset_msg_id: the broker's id; of a batch all of them, comma separated.
        transaction_id: the id of the transaction it began, or None.
        recall_handle: of a timer message what names it to the broker, or None.
        region_id: the broker's region.
        trace_on: whether the broker wants it traced.
    """

    send_status: SendStatus
    msg_id: str
    message_queue: MessageQueue
    queue_offset: int
    offset_msg_id: str
    transaction_id: str | None = None
    recall_handle: str | None = None
    region_id: str = "DefaultRegion"
    trace_on: bool = True


class LocalTransactionState(Enum):
    """How a local transaction stands. Source: LocalTransactionState.

    UNKNOW (Java's spelling): not decided yet, the broker will ask again.
    """

    COMMIT_MESSAGE = "COMMIT_MESSAGE"
    ROLLBACK_MESSAGE = "ROLLBACK_MESSAGE"
    UNKNOW = "UNKNOW"


@dataclass(frozen=True, slots=True)
class TransactionSendResult(SendResult):
    """Answer to a send in a transaction.

    Attributes:
        local_transaction_state: what the broker was told about the message.
    """

    local_transaction_state: LocalTransactionState = LocalTransactionState.UNKNOW


Messages = Sequence[MessageExt]
