"""``rocketmq-py bench``: how fast one process produces, and another consumes, on a topic of its own.

Producing ends when the last send is acknowledged: nothing else counts. Consuming begins afterwards, with a new group,
and is timed from the first message to the last in the listener; that it was all is known from what is committed then.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from rocketmq_py.cli.credentials import admin_client, credentials
from rocketmq_py.cli.output import print_json
from rocketmq_py.cli.signals import EndWish, end_wish
from rocketmq_py.clock import SystemClock
from rocketmq_py.errors import BrokerError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.admin import SubscriptionGroupConfig, TopicConfig
from rocketmq_py.model.config import ConsumeFromWhere
from rocketmq_py.model.listener import MessageListenerConcurrently
from rocketmq_py.model.message import Message
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
from rocketmq_py.producer import DefaultMQProducer
from rocketmq_py.push_consumer import DefaultMQPushConsumer

SEND_TIMEOUT_MS = 10_000
THREAD_END_S = 2 * SEND_TIMEOUT_MS / 1_000
_SUCCESS = ConsumeConcurrentlyStatus.CONSUME_SUCCESS  # to ask an enum class for a member takes as long as a call


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        namesrv: name servers; None: those of the environment.
        cluster: where the topic is made; None: the only one that there is.
        count: messages.
        size: bytes of a body.
        queues: of the topic, on each broker.
        producers: threads that send, each waits for its answer before it sends again.
        batch: messages per send.
        consume_batch: messages per listener call at most.
        timeout_s: after which it is over, finished or not.
    """

    namesrv: str | None
    cluster: str | None
    count: int
    size: int
    queues: int
    producers: int
    batch: int
    consume_batch: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Produced:
    """What producing came to.

    Attributes:
        messages: acknowledged.
        seconds: from the first send to the last acknowledgement.
        per_second: messages.
        mib_per_second: of bodies.
        send_ms: how long a send took: median, 99 of 100, longest.
    """

    messages: int
    seconds: float
    per_second: float
    mib_per_second: float
    send_ms: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Consumed:
    """What consuming came to.

    Attributes:
        messages: given to the listener.
        seconds: from the first of them to the last.
        per_second: messages over that time; 0 when there were fewer than two.
        first_message_s: from ``start`` to the first message.
        complete: whether every queue was committed to its end.
    """

    messages: int
    seconds: float
    per_second: float
    first_message_s: float
    complete: bool


class Counting(MessageListenerConcurrently):
    """Counts under a lock: `+=` alone may lose a count between threads.

    Attributes:
        count: messages so far.
        first_s: monotonic seconds of the first call.
        last_s: monotonic seconds of the call that reached what is wanted.
        done: set then.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self.count = 0
        self.first_s = self.last_s = 0.0
        self.done = threading.Event()

    def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        """Count them."""
        with self._lock:
            if not self.count:
                self.first_s = monotonic_s()
            self.count += len(msgs)
            if self.count >= self._wanted and not self.done.is_set():
                self.last_s = monotonic_s()
                self.done.set()
        return _SUCCESS


def monotonic_s() -> float:
    """Seconds of a clock that only goes forward."""
    return SystemClock.monotonic_ns() / 1e9


class _Producing:
    """Threads that send until all is sent, the time is over, or one of them fails."""

    def __init__(self, plan: Plan, producer: DefaultMQProducer, topic: str, wish: EndWish, deadline_s: float) -> None:
        self._plan = plan
        self._producer = producer
        self._topic = topic
        self._wish = wish
        self._deadline_s = deadline_s
        self._lock = threading.Lock()  # guards all below
        self._left = plan.count
        self._sent = 0
        self._times_ms: list[float] = []
        self._error: RocketMQError | None = None

    def run(self) -> Produced:
        """Send.

        Raises:
            RocketMQError: a send failed.
        """
        threads = [
            threading.Thread(target=self._send, name=f"Bench_{number}", daemon=True)
            for number in range(self._plan.producers)
        ]
        start_s = monotonic_s()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(self._deadline_s - monotonic_s(), 0) + THREAD_END_S)
        seconds = monotonic_s() - start_s
        with self._lock:
            if self._error is not None:
                raise self._error
            sent, times = self._sent, sorted(self._times_ms)
        rate = sent / seconds
        return Produced(sent, seconds, rate, rate * self._plan.size / 2**20, _percentiles(times))

    def _send(self) -> None:
        body = b"x" * self._plan.size
        while count := self._take():
            messages = [Message(self._topic, body) for _ in range(count)]
            start_s = monotonic_s()
            try:
                self._producer.send(messages if count > 1 else messages[0])
            except RocketMQError as error:
                with self._lock:
                    self._error = self._error or error
                return
            spent_ms = (monotonic_s() - start_s) * 1_000
            with self._lock:
                self._sent += count
                self._times_ms.append(spent_ms)

    def _take(self) -> int:
        """How many to send next."""
        with self._lock:
            if self._error is not None or self._wish.asked or monotonic_s() > self._deadline_s:
                return 0
            count = min(self._plan.batch, self._left)
            self._left -= count
            return count


def _percentiles(ordered: list[float]) -> tuple[float, float, float]:
    if not ordered:
        return 0.0, 0.0, 0.0
    return ordered[len(ordered) // 2], ordered[math.ceil(len(ordered) * 0.99) - 1], ordered[-1]


def bench(plan: Plan, *, as_json: bool) -> bool:
    """Measure, and tell it; whether all was sent and consumed in time.

    Raises:
        RocketMQError: a server cannot be reached, or refuses.
    """
    with end_wish() as wish, ExitStack() as stack:
        admin = stack.enter_context(admin_client(plan.namesrv))
        topic, group = stack.enter_context(_own_topic(admin, plan))
        deadline_s = monotonic_s() + plan.timeout_s
        with DefaultMQProducer(
            f"{group}-producers", namesrv_addr=plan.namesrv, send_msg_timeout=SEND_TIMEOUT_MS, **credentials()
        ) as producer:
            produced = _Producing(plan, producer, topic, wish, deadline_s).run()
        consumed = _consume(admin, plan, topic, group, produced.messages, wish, deadline_s)
    complete = produced.messages == plan.count and consumed.complete
    if as_json:
        print_json(
            {"complete": complete, "plan": _told(plan), "produce": asdict(produced), "consume": asdict(consumed)}
        )
    else:
        print(_text(plan, produced, consumed))
        if not complete:
            print("not all was sent and consumed in time")
    return complete


@contextmanager
def _own_topic(admin: DefaultMQAdminExt, plan: Plan) -> Iterator[tuple[str, str]]:
    """A topic and a group that are gone afterwards."""
    topic = f"bench-{os.getpid()}-{SystemClock().wall_ms()}"
    group = f"{topic}-group"
    masters = list(admin.master_addresses(plan.cluster).values())
    admin.create_and_update_topic_config(masters, TopicConfig(topic, plan.queues, plan.queues))
    try:
        admin.create_and_update_subscription_group_config(masters, SubscriptionGroupConfig(group))
        yield topic, group
    except BaseException:
        with suppress(RocketMQError):  # the first error is the one to tell
            _delete(admin, masters, topic, group)
        raise
    _delete(admin, masters, topic, group)


def _delete(admin: DefaultMQAdminExt, masters: Iterable[str], topic: str, group: str) -> None:
    admin.delete_topic(topic)
    for address in masters:
        admin.delete_subscription_group(address, group, remove_offset=True)
    with suppress(BrokerError):  # when nothing was consumed it is not there
        admin.delete_topic(names.retry_topic(group))


def _consume(
    admin: DefaultMQAdminExt, plan: Plan, topic: str, group: str, wanted: int, wish: EndWish, deadline_s: float
) -> Consumed:
    counting = Counting(wanted)
    consumer = DefaultMQPushConsumer(
        group,
        namesrv_addr=plan.namesrv,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        consume_message_batch_max_size=plan.consume_batch,
        **credentials(),
    )
    consumer.subscribe(topic)
    consumer.register_message_listener(counting)
    start_s = monotonic_s()
    with consumer:  # the end commits
        if wanted:
            wish.wait(counting.done, max(deadline_s - monotonic_s(), 0))
        last_s = counting.last_s or monotonic_s()
    count = counting.count
    if not count:
        return Consumed(0, 0.0, 0.0, 0.0, complete=False)
    seconds = last_s - counting.first_s
    return Consumed(
        count,
        seconds,
        count / seconds if seconds > 0 else 0.0,
        counting.first_s - start_s,
        counting.done.is_set() and _committed_to_the_end(admin, topic, group),
    )


def _committed_to_the_end(admin: DefaultMQAdminExt, topic: str, group: str) -> bool:
    # The last commits are one-way: a broker may not have dealt with them yet.
    tick = threading.Event()
    for _ in range(50):
        if not any(offsets.lag for offsets in admin.examine_consume_stats(group, topic).offset_table.values()):
            return True
        tick.wait(0.1)
    return False


def _told(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name != "namesrv"}


def _text(plan: Plan, produced: Produced, consumed: Consumed) -> str:
    median, most, longest = produced.send_ms
    return (
        f"produced {produced.messages} messages of {plan.size} bytes in {produced.seconds:.2f} s: "
        f"{produced.per_second:,.0f}/s, {produced.mib_per_second:.1f} MiB/s\n"
        f"  {plan.producers} threads, {plan.batch} per send; a send took {median:.2f} ms (median), "
        f"{most:.2f} ms (99 of 100), {longest:.2f} ms (longest)\n"
        f"consumed {consumed.messages} in {consumed.seconds:.2f} s: {consumed.per_second:,.0f}/s\n"
        f"  up to {plan.consume_batch} per listener call; the first {consumed.first_message_s:.2f} s after the start"
    )
