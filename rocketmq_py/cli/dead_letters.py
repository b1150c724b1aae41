"""Dead letters: read them, and send them again as what they were.

A broker cannot delete a single message, so a copy stays in the dead-letter topic until that topic's messages expire.
What was sent again is known by an offset that is committed in the dead-letter topic for the tools' group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rocketmq_py.errors import BrokerError, ConfigError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.message import TIMER_PROPERTIES, Message, MessageConst, MessageExt
from rocketmq_py.model.message_queue import MessageQueue

if TYPE_CHECKING:
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt

PULL_COUNT = 32

NOT_THE_SENDERS = frozenset(
    {
        MessageConst.WAIT_STORE_MSG_OK,  # brokers store their copies with "false"
        MessageConst.DELAY_TIME_LEVEL,
        MessageConst.RETRY_TOPIC,
        MessageConst.REAL_TOPIC,
        MessageConst.REAL_QUEUE_ID,
        MessageConst.TRANSACTION_PREPARED,
        MessageConst.PRODUCER_GROUP,
        MessageConst.ORIGIN_MESSAGE_ID,
        MessageConst.RECONSUME_TIME,
        MessageConst.MAX_RECONSUME_TIMES,
        MessageConst.POP_CK,
        MessageConst.FIRST_POP_TIME,
        MessageConst.CLUSTER,
        MessageConst.MSG_REGION,
        MessageConst.TRACE_SWITCH,
        MessageConst.DLQ_ORIGIN_TOPIC,
        *TIMER_PROPERTIES,
        *"POP_CK_OFFSET ORIGIN_GROUP CONSUME_START_TIME DLQ_ORIGIN_MESSAGE_ID TRAN_PREPARED_QUEUE_OFFSET "
        "TRANSACTION_CHECK_TIMES CHECK_IMMUNITY_TIME_IN_SECONDS TIMER_OUT_MS TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS "
        "TIMER_ROLL_TIMES TIMER_ROLL_LABEL TIMER_DEL_UNIQKEY TIMER_DELAY_LEVEL INNER_NUM INNER_BASE "
        "INNER_MULTI_DISPATCH INNER_MULTI_QUEUE_OFFSET TRANS_OFFSET __CRC32#".split(),
    }
)
"""What brokers and clients wrote on the way, and delays, which are over. The rest is the sender's, its id with it."""


@dataclass(frozen=True, slots=True)
class DeadLetterQueue:
    """A queue of a dead-letter topic.

    Attributes:
        address: of its broker's master.
        first: first offset that is still there.
        end: the queue's end.
        resent: everything below was sent again; ``first`` when nothing was.
        last_timestamp: when the last one came, ms since 1970; 0: never.
    """

    mq: MessageQueue
    address: str
    first: int
    end: int
    resent: int
    last_timestamp: int


def groups_with_dead_letters(admin: DefaultMQAdminExt) -> list[str]:
    """Groups that have a dead-letter topic, sorted."""
    prefix = names.DLQ_GROUP_TOPIC_PREFIX
    return [topic[len(prefix) :] for topic in admin.fetch_all_topic_list() if topic.startswith(prefix)]


def queues(admin: DefaultMQAdminExt, group: str) -> list[DeadLetterQueue]:
    """The queues of a group's dead-letter topic, sorted.

    Raises:
        RocketMQError: the group has no dead letters, or a server cannot be asked.
    """
    topic = names.dlq_topic(group)
    try:
        masters = admin.masters_of_topic(topic)
    except BrokerError as error:
        if error.code != ResponseCode.TOPIC_NOT_EXIST:
            raise
        raise RocketMQError(f"group {group} has no dead letters: there is no topic {topic}") from None
    found = []
    for address in masters.values():
        for mq, ends in admin.api.topic_stats(address, topic).items():
            committed = admin.api.committed_offset(address, names.TOOLS_CONSUMER_GROUP, mq) or 0
            resent = min(max(committed, ends.min_offset), ends.max_offset)
            found.append(
                DeadLetterQueue(mq, address, ends.min_offset, ends.max_offset, resent, ends.last_update_timestamp)
            )
    return sorted(found, key=lambda each: each.mq)


def letters(admin: DefaultMQAdminExt, queue: DeadLetterQueue, start: int) -> Iterator[MessageExt]:
    """Dead letters of one queue from an offset to its end."""
    while start < queue.end:
        msgs, following = admin.api.pull(queue.address, queue.mq, start, min(PULL_COUNT, queue.end - start))
        yield from (msg for msg in msgs if msg.queue_offset < queue.end)
        if following <= start:
            return
        start = following


def origin_topic(msg: MessageExt) -> str | None:
    """The topic that it was sent to; None when its properties do not tell."""
    return msg.get_property(MessageConst.DLQ_ORIGIN_TOPIC) or msg.get_property(MessageConst.RETRY_TOPIC)


def as_sent(msg: MessageExt, topic: str | None = None) -> Message:
    """The message that its sender sent: body, flag, tag, keys, properties and id; to its topic or another one.

    Raises:
        ConfigError: it does not tell its topic, or it has no body.
    """
    to = topic or origin_topic(msg)
    if to is None:
        raise ConfigError(f"message {msg.msg_id} does not tell which topic it was sent to: name one with --topic")
    message = Message(to, msg.body, flag=msg.flag)
    message.properties.update((name, value) for name, value in msg.properties.items() if name not in NOT_THE_SENDERS)
    return message


def note_resent(admin: DefaultMQAdminExt, queue: DeadLetterQueue, upto: int) -> None:
    """Note that everything below an offset was sent again."""
    admin.api.update_consumer_offset(queue.address, names.TOOLS_CONSUMER_GROUP, queue.mq, upto)
