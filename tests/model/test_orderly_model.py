"""Orderly members of a group on virtual clocks, paused, cut off, joining and leaving at random: invariant I5.

Each member has a core and a clock of its own; the broker's locks are those of ``RebalanceLockManager``, on a clock that
never stops. A paused member does nothing, then finds that time has jumped, as a process does after SIGSTOP.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import pytest

from rocketmq_py.broker.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.errors import RequestTimeoutError
from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeOrderlyContext, ConsumeOrderlyStatus, Messages, PullResult
from rocketmq_py.testing import FakeBroker, ManualClock
from tests.unit.support import GROUP, Core, mq

QUEUES = [mq(0), mq(1), mq(2)]
MESSAGES = 25
LEASE_MS = 60_000
SEEDS = 400 if os.environ.get("ROCKETMQ_PY_FULL") else 30


@dataclass
class Call:
    member: str
    queue: MessageQueue
    offsets: list[int]
    began: int
    ended: int = -1
    paused: bool = False


class World:
    """What all members share."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.lock_manager = RebalanceLockManager(clock=self.clock)
        self.leases: dict[MessageQueue, tuple[str, int]] = {}
        self.offsets: dict[tuple[str, MessageQueue], int] = {}
        self.members: list[Member] = []
        self.calls: list[Call] = []
        self.done: defaultdict[MessageQueue, set[int]] = defaultdict(set)
        self.violations: list[str] = []
        self.depth = 0
        self.calm = False
        self.names = itertools.count()

    @property
    def now(self) -> int:
        return self.clock.monotonic_ms()

    def listed(self) -> list[str]:
        """The members that the brokers know: those they have given up hearing from are missing."""
        return [member.name for member in self.live() if not (member.paused and member.unheard)]

    def live(self) -> list[Member]:
        return [member for member in self.members if not member.gone]

    def awake(self) -> list[Member]:
        return [member for member in self.live() if not member.paused]

    def join(self) -> None:
        member = Member(self, f"127.0.0.1@{next(self.names)}")
        self.members.append(member)
        self.tell()
        member.core.orderly_service.start()

    def tell(self) -> None:
        """Who is in the group now, as the brokers see it."""
        for member in self.members:
            member.broker.members[GROUP] = self.listed()

    def step(self) -> None:
        """One of the things that may happen next."""
        chance = self.random.random()
        awake = self.awake()
        member = self.random.choice(awake) if awake else None
        if chance < 0.04 and len(self.live()) < 3 and not self.calm:
            self.join()
        elif chance < 0.07 and len(self.live()) > 1 and member is not None and not self.calm:
            member.leave(killed=self.random.random() < 0.5)
        elif chance < 0.10 and member is not None and not self.calm:
            member.pause(self.random.choice([5_000, 25_000, 35_000, 70_000, 100_000]))
        elif chance < 0.14 and member is not None and not self.calm:
            member.broker.cut_off = not member.broker.cut_off
        elif chance < 0.45:
            self.pass_time(self.random.choice([10, 10, 100, 500, 1_000, 3_000, 10_000]))
        elif member is not None:
            self.random.choice([member.rebalance, member.pull, member.consume, member.consume])()

    def pass_time(self, ms: int) -> None:
        self.clock.advance(ms)
        self.tell()
        for member in self.live():
            member.keep_up()

    def commit(self, name: str, queue: MessageQueue, offset: int) -> None:
        holder, renewed = self.leases.get(queue, (name, self.now))
        low = next(n for n in range(MESSAGES + 1) if n not in self.done[queue])
        for wrong, what in (
            (holder != name and self.now - renewed <= LEASE_MS, f"while {holder} holds the lock"),
            (offset > low, f"passes {low}, which is not finished"),
            (offset < self.offsets.get((GROUP, queue), 0), f"goes back from {self.offsets.get((GROUP, queue))}"),
        ):
            if wrong:
                self.violations.append(f"{self.now}: {name} commits {offset} of {queue.queue_id} {what}")
        self.offsets[GROUP, queue] = offset


class Broker(FakeBroker):
    """One member's view of the broker."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name)
        self.world = world
        self.offsets = world.offsets
        self.cut_off = False
        for queue in QUEUES:
            self.store(queue, *[b"x"] * MESSAGES)

    def check(self) -> None:
        if self.cut_off:
            raise RequestTimeoutError("cut off")

    def pull_message(
        self, call: PullCall, on_result: Callable[[PullResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        if call.commit_offset > 0 and not self.cut_off:
            self.world.commit(self.client_id, call.mq, call.commit_offset)
        super().pull_message(
            # What it commits was looked at above.
            call._replace(commit_offset=0),
            on_result,
            on_error,
        )

    def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
        self.check()
        return super().query_consumer_offset(group, mq, timeout_ms)

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        self.check()
        self.world.commit(self.client_id, mq, offset)

    def commit_consumer_offset(self, group: str, mq: MessageQueue, offset: int, timeout_ms: int) -> None:
        self.update_consumer_offset(group, mq, offset)

    def lock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
    ) -> set[MessageQueue]:
        self.check()
        held = self.world.lock_manager.try_lock_batch(group, mqs, client_id)
        self.world.leases.update(dict.fromkeys(held, (client_id, self.world.now)))
        return held

    def unlock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int, oneway: bool
    ) -> None:
        self.check()
        self.world.lock_manager.unlock_batch(group, mqs, client_id)
        for queue in mqs:
            if self.world.leases.get(queue, ("", 0))[0] == client_id:
                del self.world.leases[queue]


class Member:
    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.broker = Broker(world, name)
        self.core = Core(orderly=self.listen, broker=self.broker, queues=len(QUEUES))
        self.core.clock.advance(world.now - self.core.clock.monotonic_ms())
        self.core.pool.held = True
        self.paused_until = 0
        self.unheard = False
        self.gone = False

    @property
    def paused(self) -> bool:
        return self.world.now < self.paused_until

    def keep_up(self) -> None:
        """After a pause the clock jumps at once; what came due meanwhile runs then."""
        if not self.paused and not self.gone:
            self.core.clock.advance(self.world.now - self.core.clock.monotonic_ms())
            self.core.runtime.advance(0)

    def pause(self, ms: int) -> None:
        self.paused_until = self.world.now + ms
        self.unheard = self.world.random.random() < 0.5
        self.world.tell()

    def rebalance(self) -> None:
        self.core.rebalance.do_rebalance()

    def pull(self) -> None:
        if not self.broker.cut_off:
            self.broker.answer_pulls()

    def consume(self) -> None:
        self.core.pool.run_all()

    def leave(self, killed: bool) -> None:
        if any(call.ended < 0 and call.member == self.name for call in self.world.calls):
            killed = True  # its listener is at work further out on this one thread; it must not return to a dead core
        if not killed:
            self.core.puller.shutdown()
            self.core.rebalance.paused = True
            self.core.orderly_service.shutdown(0)
            owned = self.core.rebalance.windows()
            self.core.rebalance.destroy()
            self.core.store.persist_at_shutdown(
                [queue for queue, window in owned if self.core.rebalance.may_commit(window)]
            )
            self.core.rebalance.unlock_idle(owned)
        self.gone = True
        self.world.tell()

    def listen(self, msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        """Takes a while in which others, and other threads of this member, go on; it may be paused in the middle."""
        world, queue = self.world, context.message_queue
        call = Call(self.name, queue, [msg.queue_offset for msg in msgs], world.now)
        world.calls.append(call)
        if world.depth < 3:
            world.depth += 1
            for _ in range(0 if world.calm else world.random.choice([0, 0, 2, 30])):
                world.step()
            if not world.calm and world.random.random() < 0.06:
                self.pause(world.random.choice([35_000, 70_000]))
            while self.paused and not self.gone:
                call.paused = True
                world.pass_time(2_000)
                for _ in range(5):
                    world.step()
            world.depth -= 1
        call.ended = world.now
        if self.gone:
            return ConsumeOrderlyStatus.SUCCESS  # nobody hears it
        if not world.calm and world.random.random() < 0.1:
            return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
        world.done[queue].update(call.offsets)
        return ConsumeOrderlyStatus.SUCCESS


def overlaps(calls: Collection[Call], killed: Mapping[str, bool]) -> list[str]:
    """Two calls of a queue at once, unless the earlier one was itself stopped (or its process killed) in the middle."""
    found = []
    by_queue: defaultdict[MessageQueue, list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.began):
        by_queue[call.queue].append(call)
    for of_queue in by_queue.values():
        for before, after in itertools.combinations(of_queue, 2):
            excused = before.paused or killed[before.member] or before.ended - before.began > LEASE_MS
            if before.ended > after.began and not excused:
                found.append(f"{before} and {after}")
    return found


@pytest.mark.behaviour("OR-01", "OR-04", "OR-06", "QL-03", "QL-04", "RB-14", "RB-15", "RB-16")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_to_its_members_a_queue_is_consumed_by_one_at_a_time_in_order_and_to_its_end(
    seed: int,
) -> None:
    world = World(seed)
    world.join()
    world.join()
    for _ in range(250):
        world.step()
    world.calm = True
    for member in world.live():
        member.paused_until = 0
        member.broker.cut_off = False
    world.pass_time(1)  # those that were paused find out what time it is
    for _ in range(3_000):
        if all(world.offsets.get((GROUP, queue)) == MESSAGES for queue in QUEUES):
            break
        for member in world.live():
            member.rebalance()
            member.pull()
            member.consume()
            member.core.store.persist_all(list(member.core.windows), member.core.rebalance.withheld())
        world.pass_time(1_000)
    assert world.violations == []
    assert overlaps(world.calls, {member.name: member.gone for member in world.members}) == []
    for queue in QUEUES:
        first = list(dict.fromkeys(offset for call in world.calls if call.queue == queue for offset in call.offsets))
        assert first == sorted(first)
        assert world.offsets[GROUP, queue] == MESSAGES
