"""How a topic's queues are divided among the members of a group.

Every member computes this by itself; they agree because all sort queues and client ids alike and use the same strategy,
made with the same arguments.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.message_queue import MessageQueue

VIRTUAL_NODE_CNT = 10
"""Places on the ring per member, by default. Source: AllocateMessageQueueConsistentHash."""

_log = logging.getLogger(__name__)


class AllocateMessageQueueStrategy(Protocol):
    """One way to divide. Called on the rebalance thread. Source: AllocateMessageQueueStrategy."""

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """The queues of ``current_cid``. Both lists come sorted, every queue and every member once.

        Raises:
            ValueError: there is no current client id, no queue or no member.
        """
        ...

    def get_name(self) -> str:
        """Name of the strategy; nothing here asks for it, Java tells it brokers that assign queues themselves."""
        ...


class AllocateMessageQueueAveragely:
    """Contiguous blocks of equal size, the first ones bigger by one where it does not divide evenly.

    Behaviour: AL-01, AL-02. Source: AllocateMessageQueueAveragely.
    """

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """See ``AllocateMessageQueueStrategy.allocate``; a client that is not a member gets nothing."""
        if not is_member(consumer_group, current_cid, mq_all, cid_all):
            return []
        index, members, queues = cid_all.index(current_cid), len(cid_all), len(mq_all)
        block, rest = divmod(queues, members)
        start = index * block + min(index, rest)
        return list(mq_all[start : start + block + (1 if index < rest else 0)])

    def get_name(self) -> str:
        """AVG."""
        return "AVG"


class AllocateMessageQueueAveragelyByCircle:
    """Queues are dealt out one by one, as cards are: neighbours, often of one broker, go to different members.

    Behaviour: AL-02, AL-03. Source: AllocateMessageQueueAveragelyByCircle.
    """

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """See ``AllocateMessageQueueStrategy.allocate``; a client that is not a member gets nothing."""
        if not is_member(consumer_group, current_cid, mq_all, cid_all):
            return []
        return list(mq_all[cid_all.index(current_cid) :: len(cid_all)])

    def get_name(self) -> str:
        """AVG_BY_CIRCLE."""
        return "AVG_BY_CIRCLE"


class AllocateMessageQueueByConfig:
    """The list that this member was told, whoever else there is: dividing is up to whoever writes the lists.

    It is the answer for every topic: a topic's rebalance takes all that it names. The retry topic's queue is consumed
    only by a member whose list names it, too.

    Behaviour: AL-04. Source: AllocateMessageQueueByConfig.

    Attributes:
        message_queue_list: the queues; a change counts from the next rebalance on. Default: none (Java: null).
    """

    def __init__(self, message_queue_list: list[MessageQueue] | None = None) -> None:
        self.message_queue_list = [] if message_queue_list is None else message_queue_list

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """The list itself, unchecked."""
        return self.message_queue_list

    def get_name(self) -> str:
        """CONFIG."""
        return "CONFIG"


class AllocateMessageQueueByMachineRoom:
    """Blocks of equal size, of the queues of some machine rooms only; what is left over goes one by one to the first.

    A broker's room is what its name has before the one ``@`` in it. Queues of other rooms, and of brokers whose names
    tell no room, go to nobody, those of the retry topic among them.

    Behaviour: AL-02, AL-05. Source: AllocateMessageQueueByMachineRoom.
    """

    def __init__(self, consumeridcs: Collection[str]) -> None:
        """Take the rooms whose queues this group consumes.

        Raises:
            ConfigError: it is none, or one text instead of a collection of them.
        """
        if isinstance(consumeridcs, str) or not isinstance(consumeridcs, Collection):
            raise ConfigError(f"consumeridcs is a collection of machine rooms, not {consumeridcs!r}")
        self.consumeridcs = frozenset(consumeridcs)

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """See ``AllocateMessageQueueStrategy.allocate``; a client that is not a member gets nothing."""
        if not is_member(consumer_group, current_cid, mq_all, cid_all):
            return []
        queues = [mq for mq in mq_all if _room_in_name(mq.broker_name) in self.consumeridcs]
        index, members = cid_all.index(current_cid), len(cid_all)
        block = len(queues) // members
        left_over = queues[block * members :]
        return queues[index * block : (index + 1) * block] + left_over[index : index + 1]

    def get_name(self) -> str:
        """MACHINE_ROOM."""
        return "MACHINE_ROOM"


def _room_in_name(broker_name: str) -> str | None:
    # Java's split drops what is empty at the end: "room@broker@" names a room, too.
    parts = broker_name.rstrip("@").split("@")
    return parts[0] if len(parts) == 2 else None


class AllocateMessageQueueConsistentHash:
    """Members and queues on a ring of hashes; a queue goes to the next member on it.

    A member that comes takes queues from others, one that goes leaves its own: all other queues stay where they are.
    Shares may differ much.

    Behaviour: AL-02, AL-06, AL-07. Source: AllocateMessageQueueConsistentHash, ConsistentHashRouter.
    """

    def __init__(
        self, virtual_node_cnt: int = VIRTUAL_NODE_CNT, custom_hash_function: Callable[[str], int] | None = None
    ) -> None:
        """Set up the ring's places.

        Args:
            virtual_node_cnt: places per member, 0 or more; more make shares more even. With 0 nobody gets anything.
            custom_hash_function: where a text lies on the ring. Every process must compute the same: Python's ``hash``
                will not do. Default: the first four bytes of the MD5.

        Raises:
            ConfigError: less than 0 places.
        """
        if virtual_node_cnt < 0:
            raise ConfigError(f"illegal virtualNodeCnt :{virtual_node_cnt}")
        self._virtual_node_cnt = virtual_node_cnt
        self._hash = custom_hash_function or _md5_hash

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """See ``AllocateMessageQueueStrategy.allocate``; a client that is not a member gets nothing."""
        if not is_member(consumer_group, current_cid, mq_all, cid_all):
            return []
        # Where two have the same place, the last one has it.
        ring = {self._hash(f"{cid}-{number}"): cid for cid in cid_all for number in range(self._virtual_node_cnt)}
        places = sorted(ring)
        if not places:
            return []
        return [
            mq for mq in mq_all if ring[places[bisect_left(places, self._hash(str(mq))) % len(places)]] == current_cid
        ]

    def get_name(self) -> str:
        """CONSISTENT_HASH."""
        return "CONSISTENT_HASH"


def _md5_hash(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4], "big")


class MachineRoomResolver(Protocol):
    """Who stands in which machine room. Source: AllocateMachineRoomNearby.MachineRoomResolver."""

    def broker_deploy_in(self, message_queue: MessageQueue) -> str:
        """The room of the queue's broker; never empty."""
        ...

    def consumer_deploy_in(self, client_id: str) -> str:
        """The room of a member; never empty."""
        ...


class AllocateMachineRoomNearby:
    """Queues go to members in the same machine room; those of rooms without a member are shared by all.

    Behaviour: AL-02, AL-08. Source: AllocateMachineRoomNearby.
    """

    def __init__(
        self,
        allocate_message_queue_strategy: AllocateMessageQueueStrategy,
        machine_room_resolver: MachineRoomResolver,
    ) -> None:
        """Take the strategy that divides within a room, and who knows the rooms.

        Raises:
            ConfigError: one of them is None, or lacks its methods.
        """
        if allocate_message_queue_strategy is None:
            raise ConfigError("allocateMessageQueueStrategy is null")
        if machine_room_resolver is None:
            raise ConfigError("machineRoomResolver is null")
        for owner, method in (
            (allocate_message_queue_strategy, "allocate"),
            (machine_room_resolver, "broker_deploy_in"),
            (machine_room_resolver, "consumer_deploy_in"),
        ):
            if isinstance(owner, type) or not callable(getattr(owner, method, None)):
                raise ConfigError(f"dividing by machine rooms needs an object with the method {method}, not {owner!r}")
        self._strategy = allocate_message_queue_strategy
        self._resolver = machine_room_resolver

    def allocate(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> list[MessageQueue]:
        """See ``AllocateMessageQueueStrategy.allocate``; a client that is not a member gets nothing.

        Raises:
            ValueError: as there, and when the resolver knows no room for a queue or a member.
        """
        if not is_member(consumer_group, current_cid, mq_all, cid_all):
            return []
        queues_by_room: defaultdict[str, list[MessageQueue]] = defaultdict(list)
        for mq in mq_all:
            queues_by_room[_room(self._resolver.broker_deploy_in(mq), f"mq {mq}")].append(mq)
        members_by_room: defaultdict[str, list[str]] = defaultdict(list)
        for cid in cid_all:
            members_by_room[_room(self._resolver.consumer_deploy_in(cid), f"consumer id {cid}")].append(cid)

        mine: list[MessageQueue] = []
        my_room = self._resolver.consumer_deploy_in(current_cid)
        if near := queues_by_room.pop(my_room, None):
            mine += self._strategy.allocate(consumer_group, current_cid, near, members_by_room[my_room])
        for room, queues in sorted(queues_by_room.items()):
            if room not in members_by_room:
                mine += self._strategy.allocate(consumer_group, current_cid, queues, cid_all)
        return mine

    def get_name(self) -> str:
        """MACHINE_ROOM_NEARBY- and the name of the strategy within a room."""
        return f"MACHINE_ROOM_NEARBY-{self._strategy.get_name()}"


def _room(room: str, whose: str) -> str:
    if not room:
        raise ValueError(f"Machine room is null for {whose}")
    return room


def is_member(consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> bool:
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
    if current_cid in cid_all:
        return True
    _log.info("[BUG] ConsumerGroup: %s The consumerId: %s not in cidAll: %s", consumer_group, current_cid, cid_all)
    return False
