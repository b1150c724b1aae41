"""Which messages of a queue an orderly group has popped last, and which of them are done.

The unit of order is the queue. While a message of the last batch is neither acknowledged nor visible again, nobody gets
anything of the queue, but the attempt that got the batch gets it again. Source: ConsumerOrderInfoManager.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from rocketmq_py.broker.store import QueueKey, Write
from rocketmq_py.broker.store.pop_table import PopTable, delete_order_info, put_order_info
from rocketmq_py.clock import Clock

CLEAN_SPAN_FROM_LAST_MS = 24 * 3600 * 1000
"""What was not popped from for longer is forgotten when the broker starts. Upstream looks every few seconds."""

ILLEGAL_OFFSET = -1
"""Nothing of this kind was given out."""
NO_NEED_COMMIT = -2
"""It belongs to an earlier batch."""


class OrderKey(NamedTuple):
    """A queue as a group pops it."""

    group: str
    topic: str
    queue_id: int


@dataclass(slots=True)
class OrderInfo:
    """The last batch of a queue. Times are wall ms.

    Attributes:
        offsets: queue offsets of the batch, ascending.
        next_visible_ms: by offset, when it comes back; of the others when ``invisible_ms`` is over.
        consumed_count: by offset, how often an earlier attempt got it; only those above 0.
        acked: indexes of the offsets that are done.
        suspended: offsets whose coming back is no attempt.
        done_behind: offsets behind the batch that are done: an earlier batch was longer.
    """

    attempt_id: str | None
    pop_ms: int
    invisible_ms: int
    offsets: list[int]
    last_consume_ms: int
    next_visible_ms: dict[int, int] = field(default_factory=dict)
    consumed_count: dict[int, int] = field(default_factory=dict)
    acked: list[int] = field(default_factory=list)
    suspended: list[int] = field(default_factory=list)
    done_behind: list[int] = field(default_factory=list)

    def visible_ms(self) -> list[int]:
        """When each message that is not done comes back."""
        acked = set(self.acked)
        default = self.pop_ms + self.invisible_ms
        return [
            self.next_visible_ms.get(offset, default) for index, offset in enumerate(self.offsets) if index not in acked
        ]

    def next_offset(self) -> int:
        """The first offset that is not done, or the one behind the batch."""
        acked = set(self.acked)
        for index, offset in enumerate(self.offsets):
            if index not in acked:
                return offset
        return self.offsets[-1] + 1


class ConsumerOrderInfoManager:
    """Owner of the last batches; on the loop's thread only. Changes are made at once, and returned to be stored."""

    def __init__(self, table: PopTable, clock: Clock) -> None:
        self._clock = clock
        oldest_ms = clock.wall_ms() - CLEAN_SPAN_FROM_LAST_MS
        self._table = {
            OrderKey(*key): info
            for key, text in table.order_infos().items()
            if (info := _parsed(text)).last_consume_ms >= oldest_ms
        }

    def keys(self) -> list[OrderKey]:
        """Queues with a last batch."""
        return list(self._table)

    def update(
        self,
        attempt_id: str | None,
        key: OrderKey,
        pop_ms: int,
        invisible_ms: int,
        offsets: Iterable[int],
        *,
        skip_done: bool = False,
    ) -> tuple[OrderInfo, Write]:
        """Note a batch that is given out; with ``skip_done`` what of it was acknowledged before stays so."""
        info = OrderInfo(attempt_id, pop_ms, invisible_ms, list(offsets), self._clock.wall_ms())
        previous = self._table.get(key)
        if previous is not None:
            if skip_done:
                done = {previous.offsets[index] for index in previous.acked}.union(previous.done_behind)
                info.acked = [index for index, offset in enumerate(info.offsets) if offset in done]
                info.done_behind = sorted(offset for offset in done if offset > info.offsets[-1])
            if attempt_id is not None and previous.attempt_id == attempt_id:
                info.consumed_count = previous.consumed_count
            else:
                info.consumed_count = {
                    offset: count
                    for offset in info.offsets
                    if offset in previous.offsets
                    and (count := previous.consumed_count.get(offset, 0) + (offset not in previous.suspended))
                }
        self._table[key] = info
        return info, _stored(key, info)

    def check_block(self, attempt_id: str | None, key: OrderKey) -> bool:
        """Whether nothing of a queue may be given out now."""
        info = self._table.get(key)
        if info is None or (info.attempt_id is not None and info.attempt_id == attempt_id):
            return False
        now_ms = self._clock.wall_ms()
        return any(now_ms < visible_ms for visible_ms in info.visible_ms())

    def is_last_batch(self, key: OrderKey, pop_ms: int) -> bool:
        """Whether what was given out at this moment can be acknowledged: nothing has been given out since."""
        info = self._table.get(key)
        return info is None or info.pop_ms == pop_ms

    def lock_free_ms(self, key: OrderKey) -> int | None:
        """When a queue that is blocked is not blocked any more at the latest; None when it is not blocked."""
        info = self._table.get(key)
        latest_ms = max(info.visible_ms(), default=0) if info is not None else 0
        return latest_ms if latest_ms > self._clock.wall_ms() else None

    def commit_and_next(self, key: OrderKey, offset: int, pop_ms: int) -> tuple[int, Write | None]:
        """Note that a message is done; the offset to commit, ``NO_NEED_COMMIT`` or ``ILLEGAL_OFFSET``."""
        info = self._table.get(key)
        if info is None:
            return offset + 1, None
        if pop_ms != info.pop_ms:
            return NO_NEED_COMMIT, None
        if offset not in info.offsets:
            return ILLEGAL_OFFSET, None
        index = info.offsets.index(offset)
        if index not in info.acked:
            info.acked.append(index)
        return info.next_offset(), _stored(key, info)

    def is_held(self, key: OrderKey, offset: int, pop_ms: int) -> bool:
        """Whether a message is of the last batch, as it was popped then, and not done."""
        info = self._table.get(key)
        if info is None or pop_ms != info.pop_ms or offset not in info.offsets:
            return False
        return info.offsets.index(offset) not in info.acked

    def update_next_visible_time(
        self, key: OrderKey, offset: int, pop_ms: int, next_visible_ms: int, suspend: bool = False
    ) -> Write | None:
        """Note when a message comes back; None when it is not of the last batch."""
        info = self._table.get(key)
        if info is None or pop_ms != info.pop_ms or offset not in info.offsets:
            return None
        info.next_visible_ms[offset] = next_visible_ms
        info.suspended = [each for each in info.suspended if each != offset] + [offset] * suspend
        return _stored(key, info)

    def clear_block(self, key: OrderKey) -> Write:
        """Forget a queue's last batch, because the group begins elsewhere."""
        self._table.pop(key, None)
        return delete_order_info(key)


def _stored(key: OrderKey, info: OrderInfo) -> Write:
    return put_order_info(key, json.dumps(asdict(info)))


def _parsed(text: str) -> OrderInfo:
    info = OrderInfo(**json.loads(text))
    # Keys of JSON are texts.
    info.next_visible_ms = {int(offset): ms for offset, ms in info.next_visible_ms.items()}
    info.consumed_count = {int(offset): count for offset, count in info.consumed_count.items()}
    return info


def queue_of(key: OrderKey) -> QueueKey:
    """The queue itself."""
    return QueueKey(key.topic, key.queue_id)
