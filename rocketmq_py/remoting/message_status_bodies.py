"""Bodies of the two requests about statuses of messages, which only brokers of this package answer.

A consumer acknowledges with UPDATE_MESSAGE_STATUS once the answer to its heartbeat has the field ``ANNOUNCED``; whoever
wants to know asks with QUERY_MESSAGE_STATUS, by a message's id or by group and status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model import fastjson
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.message_status import MessageStatus

ANNOUNCED = "MESSAGE_STATUS_ACK"
"""Field of the answer to a heartbeat, ``true``: the broker wants to hear what has been consumed."""

SPANS_MAX_COUNT = 1_000
"""Spans of offsets in one acknowledgement."""


def encode_acknowledgement(spans: Iterable[tuple[MessageQueue, int, int]]) -> bytes:
    """Body of UPDATE_MESSAGE_STATUS: what has been consumed, by queue, first offset and one past the last."""
    queues: dict[MessageQueue, list[list[int]]] = {}
    for mq, first, end in spans:
        queues.setdefault(mq, []).append([first, end])
    return fastjson.dumps(
        {"consumed": [{"queueId": mq.queue_id, "spans": many, "topic": mq.topic} for mq, many in queues.items()]}
    )


def parse_acknowledgement(body: bytes) -> list[tuple[str, int, int, int]]:
    """Topic, queue id, first offset and one past the last, of each span.

    Raises:
        ProtocolError: it is malformed, or there are too many.
    """
    found = [
        (_of(queue, "topic", str), _of(queue, "queueId", int), *_span(span))
        for queue in _of(_object(fastjson.loads_request(body)), "consumed", list)
        for span in _of(_object(queue), "spans", list)
    ]
    if len(found) > SPANS_MAX_COUNT:
        raise ProtocolError(f"{len(found)} spans of offsets, at most {SPANS_MAX_COUNT} are taken")
    return found


def _span(span: object) -> tuple[int, int]:
    if type(span) is not list or len(span) != 2 or {type(number) for number in span} != {int}:
        raise ProtocolError(f"no span of offsets: {span!r:.100}")
    return span[0], span[1]


class Change(NamedTuple):
    """A change of a message's status; ``at_ms`` wall ms."""

    status: MessageStatus
    attempt: int
    at_ms: int


class GroupStatus(NamedTuple):
    """How a message stands for a group.

    Attributes:
        attempt: deliveries so far, those that follow on a failed one not counted; 0 for none.
        passed: the group's committed offset is behind the message, whatever became of it.
        history: every change that the broker knows, in order.
    """

    group: str
    status: MessageStatus
    attempt: int
    passed: bool
    history: Sequence[Change]


class MessageHistory(NamedTuple):
    """A message where it was sent to, and how it stands for each group."""

    msg_id: str
    offset_msg_id: str
    topic: str
    queue_id: int
    queue_offset: int
    store_timestamp: int
    groups: Sequence[GroupStatus]


class ListedMessage(NamedTuple):
    """A message that stands as was asked for; ``at_ms`` since when, 0 when that is not known any more."""

    msg_id: str
    topic: str
    queue_id: int
    queue_offset: int
    attempt: int
    at_ms: int


class Cursor(NamedTuple):
    """Where a listing goes on: behind the message at ``queue_offset``, in the run that began at ``first``."""

    topic: str = ""
    queue_id: int = 0
    first: int = 0
    queue_offset: int = -1


class Listing(NamedTuple):
    """Part of a listing; ``following`` None at its end."""

    messages: Sequence[ListedMessage]
    following: Cursor | None


def encode_histories(histories: Sequence[MessageHistory]) -> bytes:
    """The answer to a question about a message."""
    return fastjson.dumps({"messages": [history_fields(each) for each in histories]})


def history_fields(message: MessageHistory) -> dict[str, object]:
    """A message's history as JSON has it."""
    groups = [
        {
            "attempt": each.attempt,
            "group": each.group,
            "history": [
                {"at": change.at_ms, "attempt": change.attempt, "status": change.status.value}
                for change in each.history
            ],
            "passed": each.passed,
            "status": each.status.value,
        }
        for each in message.groups
    ]
    return {
        "groups": groups,
        "msgId": message.msg_id,
        "offsetMsgId": message.offset_msg_id,
        "queueId": message.queue_id,
        "queueOffset": message.queue_offset,
        "storeTimestamp": message.store_timestamp,
        "topic": message.topic,
    }


def parse_histories(body: bytes) -> list[MessageHistory]:
    """Messages of an id.

    Raises:
        ProtocolError: it is malformed.
    """
    return [_history(_object(each)) for each in _of(_object(fastjson.loads(body)), "messages", list)]


def _history(fields: Mapping[Any, Any]) -> MessageHistory:
    return MessageHistory(
        _of(fields, "msgId", str), _of(fields, "offsetMsgId", str), _of(fields, "topic", str),
        _of(fields, "queueId", int), _of(fields, "queueOffset", int), _of(fields, "storeTimestamp", int),
        [_group(_object(each)) for each in _of(fields, "groups", list)],
    )  # fmt: skip


def _group(fields: Mapping[Any, Any]) -> GroupStatus:
    changes = [_object(each) for each in _of(fields, "history", list)]
    return GroupStatus(
        _of(fields, "group", str), _status(fields), _of(fields, "attempt", int), _of(fields, "passed", bool),
        [Change(_status(each), _of(each, "attempt", int), _of(each, "at", int)) for each in changes],
    )  # fmt: skip


def encode_listing(listing: Listing) -> bytes:
    """The answer to a question about a group and a status."""
    fields: dict[str, object] = {"messages": [listed_fields(each) for each in listing.messages]}
    if listing.following is not None:
        fields["following"] = cursor_fields(listing.following)
    return fastjson.dumps(fields)


def listed_fields(message: ListedMessage) -> dict[str, object]:
    """A listed message as JSON has it."""
    return {
        "at": message.at_ms,
        "attempt": message.attempt,
        "msgId": message.msg_id,
        "queueId": message.queue_id,
        "queueOffset": message.queue_offset,
        "topic": message.topic,
    }


def cursor_fields(cursor: Cursor) -> dict[str, object]:
    """A cursor as fields, of the answer and of the next request."""
    return {
        "behindFirst": cursor.first,
        "behindOffset": cursor.queue_offset,
        "behindQueueId": cursor.queue_id,
        "behindTopic": cursor.topic,
    }


def parse_listing(body: bytes) -> Listing:
    """Messages of a group that stand so.

    Raises:
        ProtocolError: it is malformed.
    """
    fields = _object(fastjson.loads(body))
    messages = [
        ListedMessage(
            _of(each, "msgId", str), _of(each, "topic", str), _of(each, "queueId", int), _of(each, "queueOffset", int),
            _of(each, "attempt", int), _of(each, "at", int),
        )
        for each in map(_object, _of(fields, "messages", list))
    ]  # fmt: skip
    if "following" not in fields:
        return Listing(messages, None)
    at = _object(fields["following"])
    return Listing(
        messages,
        Cursor(
            _of(at, "behindTopic", str), _of(at, "behindQueueId", int), _of(at, "behindFirst", int),
            _of(at, "behindOffset", int),
        ),
    )  # fmt: skip


def _status(fields: Mapping[Any, Any]) -> MessageStatus:
    text = _of(fields, "status", str)
    try:
        return MessageStatus(text)
    except ValueError:
        raise ProtocolError(f"{text!r:.100} is no status of a message") from None


def _object(value: object) -> Mapping[Any, Any]:
    if type(value) is not dict:
        raise ProtocolError(f"{type(value).__name__} where an object should be")
    return value


def _of(fields: Mapping[Any, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"{name} is {type(value).__name__} instead of {kind.__name__}")
    return value
