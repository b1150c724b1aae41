"""Messages of a queue from an offset on that a filter lets through. Source: DefaultMessageStore.getMessage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.message_filter import MessageFilter
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.errors import StoreError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.remoting.message_codec import decode_stored

BATCH_MAX_COUNT = 32
"""Messages per request. Source: maxTransferCountOnMessageInMemory."""
BATCH_MAX_BYTES = 256 * 1024
"""Source: maxTransferBytesOnMessageInMemory. The first message goes out whatever its size."""
SCAN_MAX_COUNT = 800
"""Messages looked at per request when it filters by tags: one request must not keep the others waiting."""
SCAN_PROPERTIES_MAX_COUNT = 200
"""The same when it filters by properties: then the messages themselves are read."""
SCAN_PROPERTIES_MAX_CHARACTERS = 200_000
"""The same, of expressions: one of 1,000 characters is asked about 200 messages, a longer one about fewer."""
SCAN_PROPERTIES_MAX_BYTES = 4 * 1024 * 1024
"""Bytes read then; the first messages are looked at whatever their size."""

T = TypeVar("T")


@dataclass(slots=True)
class GetMessageResult:
    """What a queue has.

    Attributes:
        code: what a pull is answered.
        status: Java's name of the case.
        next_begin_offset: where to go on; behind what was passed over.
        messages: queue offset and bytes.
    """

    code: ResponseCode
    status: str
    next_begin_offset: int
    messages: list[tuple[int, bytes]] = field(default_factory=list)


def get_message(
    commit_log: CommitLog, key: QueueKey, offset: int, max_count: int, message_filter: MessageFilter
) -> GetMessageResult:
    """Read a queue. Raises ``StoreError``."""
    low, high = commit_log.min_offset(key), commit_log.max_offset(key)
    if high == 0:
        if offset == 0:
            return GetMessageResult(ResponseCode.PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE", 0)
        return GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "NO_MESSAGE_IN_QUEUE", 0)
    if offset < low:
        return GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_TOO_SMALL", low)
    if offset == high:
        return GetMessageResult(ResponseCode.PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE", offset)
    if offset > high:
        return GetMessageResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY", high)
    batch = _Batch(offset, max(1, min(max_count, BATCH_MAX_COUNT)))
    if message_filter.wants_everything:
        for place, data in _sound(commit_log.read, key, offset, batch.wanted):
            if not batch.add(place, data):
                break
        if not batch.messages:
            return GetMessageResult(ResponseCode.PULL_NOT_FOUND, "OFFSET_FOUND_NULL", offset)
    elif message_filter.needs_properties:
        _filter_by_properties(commit_log, key, message_filter, batch)
    else:
        _filter_by_tags(commit_log, key, message_filter, batch)
    if not batch.messages:
        return GetMessageResult(ResponseCode.PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE", batch.scanned_to)
    return GetMessageResult(ResponseCode.SUCCESS, "FOUND", batch.scanned_to, batch.messages)


class _Batch:
    """What is collected."""

    def __init__(self, offset: int, wanted: int) -> None:
        self.scanned_to = offset
        self.wanted = wanted
        self._began_at = offset
        self.messages: list[tuple[int, bytes]] = []
        self._size = 0

    @property
    def has_begun(self) -> bool:
        """Whether a message was looked at; what follows it may be told of later."""
        return self.scanned_to > self._began_at

    @property
    def is_full(self) -> bool:
        return len(self.messages) >= self.wanted

    def add(self, place: int, data: bytes) -> bool:
        """Take one more; False when it has no room."""
        self._size += len(data)
        if self.messages and self._size > BATCH_MAX_BYTES:
            return False
        self.messages.append((place, data))
        self.scanned_to = place + 1
        return True

    def passed_over(self, place: int) -> None:
        self.scanned_to = place + 1


def _sound(read: Callable[[QueueKey, int, int], list[T]], key: QueueKey, offset: int, count: int) -> list[T]:
    """What can be read, ``count`` messages or fewer of them. Raises ``StoreError`` when the first cannot."""
    while True:
        try:
            return read(key, offset, count)
        except StoreError:
            if count <= 1:
                raise
            count //= 2


def _filter_by_tags(commit_log: CommitLog, key: QueueKey, message_filter: MessageFilter, batch: _Batch) -> None:
    for place, physical_offset, tags_code in _sound(commit_log.scan, key, batch.scanned_to, SCAN_MAX_COUNT):
        if not message_filter.is_matched(tags_code, dict):
            batch.passed_over(place)
            continue
        try:
            data = commit_log.look_message_by_offset(physical_offset) or b""
        except StoreError:
            if not batch.has_begun:
                raise
            return
        if not batch.add(place, data) or batch.is_full:
            return


def _filter_by_properties(commit_log: CommitLog, key: QueueKey, message_filter: MessageFilter, batch: _Batch) -> None:
    length = len(message_filter.subscription.sub_string)
    end = batch.scanned_to + min(SCAN_PROPERTIES_MAX_COUNT, SCAN_PROPERTIES_MAX_CHARACTERS // max(length, 1))
    looked_at_bytes = 0
    while batch.scanned_to < end and looked_at_bytes < SCAN_PROPERTIES_MAX_BYTES:
        try:
            rows = _sound(commit_log.read, key, batch.scanned_to, min(BATCH_MAX_COUNT, end - batch.scanned_to))
        except StoreError:
            if not batch.has_begun:
                raise
            return
        if not rows:
            return
        for place, data in rows:
            looked_at_bytes += len(data)
            if not message_filter.is_matched(0, lambda data=data: decode_stored(data).properties):  # type: ignore[misc]
                batch.passed_over(place)
            elif not batch.add(place, data) or batch.is_full:
                return
