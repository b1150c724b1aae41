"""How a topic's queues are divided among the members of a group.

Every member computes this by itself; they agree because all sort queues and client ids alike and use the same strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rocketmq_py.model.message_queue import MessageQueue


class AllocateMessageQueueStrategy(Protocol):
    """One way to divide. Source: AllocateMessageQueueStrategy."""

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """The queues of ``current_cid``. Both lists come sorted.

        Raises:
            ValueError: there is no current client id, no queue or no member.
        """
        ...

    def get_name(self) -> str:
        """Name of the strategy; nothing here asks for it, Java tells it brokers that assign queues themselves."""
        ...


class AllocateMessageQueueAveragely:
    """Contiguous blocks of equal size, the first ones bigger by one where it does not divide evenly.

    Source: AllocateMessageQueueAveragely.
    """

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """See ``AllocateMessageQueueStrategy.allocate``; a client that is not a member gets nothing."""
        if not is_member(current_cid, mq_all, cid_all):
            return []
        index, members, queues = cid_all.index(current_cid), len(cid_all), len(mq_all)
        block, rest = divmod(queues, members)
        start = index * block + min(index, rest)
        return list(mq_all[start : start + block + (1 if index < rest else 0)])

    def get_name(self) -> str:
        """AVG."""
        return "AVG"


def is_member(current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> bool:
    """Whether the client takes part. Source: AbstractAllocateMessageQueueStrategy.check.

    Raises:
        ValueError: there is no current client id, no queue or no member.
    """
    if not current_cid:
        raise ValueError("currentCID is empty")
    if not mq_all:
        raise ValueError("mqAll is null or mqAll empty")
    if not cid_all:
        raise ValueError("cidAll is null or cidAll empty")
    return current_cid in cid_all
