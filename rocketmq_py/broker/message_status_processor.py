"""Requests about statuses of messages. Not in Java; see ``remoting.message_status_bodies``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, integer, refusal, required, success
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.message_status_manager import MessageStatusManager
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.store.status_table import StatusRow
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.errors import BrokerError, RocketMQError, StoreError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.message import MessageConst, unpack_host
from rocketmq_py.model.message_status import MessageStatus
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import StoredMessage, create_message_id, decode_stored
from rocketmq_py.remoting.message_status_bodies import (
    Change,
    Cursor,
    GroupStatus,
    ListedMessage,
    Listing,
    MessageHistory,
    encode_histories,
    encode_listing,
    parse_acknowledgement,
)

BODY_MAX_BYTES = 256 * 1024
LIST_MAX_COUNT = 100
"""Messages of one answer: each is read."""
TOPICS_MAX_COUNT = 1_000
"""Topics that are searched for an id when none is named."""


class MessageStatusProcessor:
    """What consumers acknowledge and others ask for. On the loop's thread only."""

    def __init__(self, *, statuses: MessageStatusManager, commit_log: CommitLog, topics: TopicConfigManager) -> None:
        self._statuses = statuses
        self._commit_log = commit_log
        self._topics = topics

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.UPDATE_MESSAGE_STATUS: self.update_message_status,
            RequestCode.QUERY_MESSAGE_STATUS: self.query_message_status,
        }

    def update_message_status(self, channel: Channel, request: RemotingCommand) -> None:
        """Note what a consumer has consumed; answered once it is on the disk."""
        group = required(request, "consumerGroup")
        if self._topics.group(group) is None:
            raise BrokerError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {group} not exist!")
        if len(request.body) > BODY_MAX_BYTES:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER,
                f"a body of {len(request.body)} bytes, this broker reads {BODY_MAX_BYTES}",
            )
        spans = parse_acknowledgement(request.body)
        self._statuses.acknowledged(
            group,
            [(QueueKey(topic, queue_id), first, end) for topic, queue_id, first, end in spans],
            lambda: self._statuses.flush(answer_when_stored(channel, request, success(request))),
        )

    def query_message_status(self, channel: Channel, request: RemotingCommand) -> None:
        """Tell a message's history, or which messages of a group stand so; what happened until now is stored first."""
        asked = request.ext_fields
        message_id = required(request, "msgId") if "msgId" in asked else None
        topics = [asked["topic"]] if asked.get("topic") else self._statuses.topics()
        if message_id is not None and len(topics) > TOPICS_MAX_COUNT:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"there are {len(topics)} topics, name the message's")

        def answer(body: Callable[[], bytes]) -> None:
            try:
                channel.write(success(request, body=body()))
            except BrokerError as refused:
                channel.write(refusal(request, refused.code, refused.remark))
            except RocketMQError as failure:
                channel.write(refusal(request, ResponseCode.SYSTEM_ERROR, str(failure)))

        def found(id_: str, messages: list[StoredMessage], error: RocketMQError | None) -> None:
            if error is not None:
                channel.write(refusal(request, ResponseCode.SYSTEM_ERROR, str(error)))
            else:
                answer(lambda: self._histories(id_, messages))

        def stored(error: StoreError | None) -> None:
            if error is not None:
                channel.write(refusal(request, ResponseCode.SYSTEM_ERROR, str(error)))
            elif message_id is not None:
                self._statuses.find(message_id, topics, partial(found, message_id))
            else:
                answer(lambda: self._listing(request))

        self._statuses.flush(stored)

    # By id.

    def _histories(self, message_id: str, found: list[StoredMessage]) -> bytes:
        histories = {
            (history.topic, history.queue_id, history.queue_offset): history
            for history in map(self._history, found)
            if history is not None
        }
        if not histories:
            raise BrokerError(
                ResponseCode.QUERY_NOT_FOUND,
                f"no message {message_id} in a topic whose statuses are kept: is the id right, message.status on?",
            )
        return encode_histories([histories[place] for place in sorted(histories)])

    def _history(self, message: StoredMessage) -> MessageHistory | None:
        told = self._statuses.tell(message)
        if told is None:
            return None
        (key, offset), groups = told
        rows = self._commit_log.read(key, offset, 1)
        if not rows:
            return None
        origin = decode_stored(rows[0][1])
        return MessageHistory(
            origin.properties.get(MessageConst.UNIQ_KEY, ""),
            create_message_id(unpack_host(self._commit_log.store_host), origin.head.commit_log_offset),
            *key,
            offset,
            origin.head.store_timestamp,
            [
                GroupStatus(
                    each.group, each.status, each.attempt, each.passed,
                    [Change(MessageStatus(row.status), row.attempt, row.at_ms) for row in each.history],
                )
                for each in groups
            ],
        )  # fmt: skip

    # By status.

    def _listing(self, request: RemotingCommand) -> bytes:
        group, text = required(request, "consumerGroup"), required(request, "status")
        try:
            status = MessageStatus(text)
        except ValueError:
            known = ", ".join(each.value for each in MessageStatus)
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"{text!r:.20} is no status, those are {known}") from None
        count = max(1, min(integer(request, "count", LIST_MAX_COUNT), LIST_MAX_COUNT))
        at = Cursor(
            request.ext_fields.get("behindTopic", ""), integer(request, "behindQueueId", 0),
            integer(request, "behindFirst", 0), integer(request, "behindOffset", -1),
        )  # fmt: skip
        messages: list[ListedMessage] = []
        following = None
        rows = self._statuses.with_status(group, status, (at.topic, at.queue_id, at.first), count + 1)
        for row, offset in _messages_of(rows, at):
            if len(messages) == count:
                following = at
                break
            at = Cursor(row.topic, row.queue_id, row.first, offset)
            messages.append(self._listed(row, offset))
        if not messages and not self._statuses.topics():
            raise BrokerError(
                ResponseCode.QUERY_NOT_FOUND,
                "no topic's statuses are kept: start the broker with --message-status, or give a topic the attribute "
                "message.status=true",
            )
        return encode_listing(Listing(messages, following))

    def _listed(self, row: StatusRow, offset: int) -> ListedMessage:
        key = QueueKey(row.topic, row.queue_id)
        found = self._commit_log.read(key, offset, 1)
        msg_id = decode_stored(found[0][1]).properties.get(MessageConst.UNIQ_KEY, "") if found else ""
        at_ms = self._statuses.since(row.consumer_group, key, offset)
        return ListedMessage(msg_id, row.topic, row.queue_id, offset, row.attempt, at_ms)


def _messages_of(rows: list[StatusRow], at: Cursor) -> Iterator[tuple[StatusRow, int]]:
    for row in rows:
        goes_on = (row.topic, row.queue_id) == (at.topic, at.queue_id)
        for offset in range(max(row.first, at.queue_offset + 1) if goes_on else row.first, row.end):
            yield row, offset
