"""Which queue a message group goes to, the same at every proxy. Source: Hashing.consistentHash of Guava."""

from __future__ import annotations

from rocketmq_py.model.unique_id import java_string_hash

_MULTIPLIER = 2_862_933_555_777_941_757
_MASK = 2**64 - 1


def queue_of(message_group: str, queues: int) -> int:
    """The queue of a message group among so many: few move when a topic gets more."""
    state = java_string_hash(message_group) & _MASK
    candidate = 0
    while True:
        state = _MULTIPLIER * state + 1 & _MASK
        following = int((candidate + 1) / (((state >> 33) + 1) / 2**31))
        if following >= queues:
            return candidate
        candidate = following
