"""``rocketmq-py demo``: a group of two members at work, and whether anything was lost.

The main thread looks on, draws and decides when it is over; one thread sends; the members' own threads consume.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from rocketmq_py.cli.demo_view import Event, Outcome, Picture, QueueOutcome, QueueRow, View, opened_view, summary
from rocketmq_py.cli.signals import EndWish, end_wish
from rocketmq_py.client_instance import MQClientInstance, process_clients
from rocketmq_py.clock import SystemClock
from rocketmq_py.consumer.process_queue import WindowSnapshot
from rocketmq_py.consumer.stats import Event as Counted
from rocketmq_py.errors import BrokerError, RequestTimeoutError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.config import ConsumeFromWhere
from rocketmq_py.model.listener import MessageListenerConcurrently
from rocketmq_py.model.message import Message, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Messages
from rocketmq_py.producer import DefaultMQProducer
from rocketmq_py.push_consumer import DefaultMQPushConsumer

QUEUES = 8
BATCH_MAX = 8
"""Messages per request: 20,000 requests in 12 s would leave a machine with two cores little time for the rest."""
SEND_TICK_S = 0.01
DRAW_S = 0.125
COMMITTED_INTERVAL_MS = 1_000
"""How often the broker is asked what is committed."""
RATE_SPAN_S = 1.0

FAIL_EVERY_MAX = 500
FAILURES_WANTED = 40
TWICE_EVERY = 10
"""Of the messages that fail every so many-th fails a second time."""

SHORT_DELAYS = " ".join(["1s"] * 18)
"""Of the embedded broker. The first retry has level 3, which is 10 s elsewhere."""

WAIT_S = 120
"""How long retries and a rebalance may take after the last send. With default delays a second retry takes 40 s."""
ROUTE_TIMEOUT_S = 30.0
COMMIT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_MS = 3_000
SENDER_END_S = 10.0
MISSING_NAMED = 10

INTRODUCTION = (
    f"a topic has {QUEUES} queues, each message is in one; the members of a group share the queues",
    "when member 2 joins, queues move to it (a rebalance); each waits a moment for its last owner",
    "a queue is committed up to its first unfinished message; finished ones above it are holes:",
    "if the queue moves, they come a second time (duplicates)",
    "a message that fails goes to the retry topic and comes again later",
)

_BODY = b"demo message "
_now_ms = SystemClock().monotonic_ms


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        namesrv: name servers of a RocketMQ that runs; None: a broker of the demo's own.
        count: messages.
        seconds: over which they are sent.
        timeout_s: after which it is over, finished or not.
    """

    namesrv: str | None
    count: int
    seconds: float
    timeout_s: float

    def failures_of(self, number: int) -> int:
        """How often this message fails before it succeeds."""
        every = max(2, min(FAIL_EVERY_MAX, self.count // FAILURES_WANTED))
        if number % every != every - 1:
            return 0
        return 2 if number // every % TWICE_EVERY == TWICE_EVERY // 2 else 1


def pause_s(number: int) -> float:
    """How long the listener has this message: most take no time, a few so long that others overtake them."""
    if number % 256 == 11:
        return 0.4
    return 0.02 * (1 + number // 16 % 6) if number % 16 == 7 else 0.0


def shortcomings(outcome: Outcome) -> list[str]:
    """What is not as it must be, a sentence each; nothing when all is well."""
    found = []
    if outcome.time_over:
        found.append("the time was over (--timeout): what follows had not happened yet")
    if outcome.sent < outcome.planned:
        found.append(f"only {outcome.sent} of {outcome.planned} messages were sent")
    if outcome.missing:
        some = ", ".join(str(number) for number in outcome.missing[:MISSING_NAMED])
        more = ", ..." if len(outcome.missing) > MISSING_NAMED else ""
        found.append(f"{len(outcome.missing)} of {outcome.sent} messages were not consumed: {some}{more}")
    if not outcome.queues:
        found.append("the broker could not tell any queue's end")
    found.extend(
        f"queue {queue.name} ends at {queue.end} and is committed to {queue.committed}"
        for queue in outcome.queues
        if queue.committed != queue.end
    )
    return found


class Ledger:
    """What was sent and delivered; any thread may note it.

    Lock: ``_lock`` guards every change. A single number may be read without it, and ``sent`` by its only writer.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._delivered = bytearray(count)  # by number of the message: 0 never, 1 once or more often
        self._events: deque[Event] = deque()
        self._came_back: set[tuple[MessageQueue, int]] = set()  # places in the retry topic
        self._again = 0  # duplicates since the last look: there are too many for a line each
        self.sent = self.consumed = self.failed = self.retried = self.duplicates = 0
        self.ends: Counter[MessageQueue] = Counter()
        self.error: RocketMQError | None = None

    def note_sent(self, queue: MessageQueue, first_offset: int, messages: int) -> None:
        """A broker acknowledged so many messages."""
        with self._lock:
            self.sent += messages
            self.ends[queue] = max(self.ends[queue], first_offset + messages)

    def note_failed(self, number: int, msg: MessageExt, queue: MessageQueue) -> None:
        """A listener is about to answer "later"."""
        with self._lock:
            self._note_return(msg, queue)
            self.failed += 1
            attempt = msg.reconsume_times + 1
            text = f"message {number}: attempt {attempt} fails on purpose, it goes to the retry topic"
            self._events.append(Event(text, kind="failed"))

    def note_consumed(self, number: int, msg: MessageExt, queue: MessageQueue) -> None:
        """A listener is about to answer "success"."""
        with self._lock:
            self._note_return(msg, queue)
            self.consumed += 1
            attempt = msg.reconsume_times + 1
            if self._delivered[number]:
                self.duplicates += 1
                self._again += 1
            elif attempt > 1:
                self.retried += 1
                self._events.append(
                    Event(f"message {number}: came through the retry topic, attempt {attempt} succeeds", kind="retried")
                )
            self._delivered[number] = 1

    def _note_return(self, msg: MessageExt, queue: MessageQueue) -> None:
        if msg.reconsume_times:
            self._came_back.add((queue, msg.queue_offset))

    @property
    def came_back(self) -> int:
        """Messages that came out of the retry topic, each place in it once."""
        with self._lock:
            return len(self._came_back)

    def missing(self) -> list[int]:
        """Numbers of the messages that were sent, in order, and not consumed."""
        with self._lock:
            return [number for number in range(self.sent) if not self._delivered[number]]

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
            if self._again:
                text = f"messages delivered again that had succeeded, but were not committed: {self._again}"
                events.append(Event(text, kind="duplicate"))
                self._again = 0
            return events


class Member(MessageListenerConcurrently):
    """A member of the group: a consumer and its listener."""

    def __init__(
        self, name: str, plan: Plan, ledger: Ledger, over: threading.Event, *, namesrv: str, topic: str, group: str
    ) -> None:
        self.name = name
        self._plan = plan
        self._ledger = ledger
        self._over = over
        self.consumer = DefaultMQPushConsumer(
            group, namesrv_addr=namesrv, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
        )
        self.consumer.subscribe(topic)
        self.consumer.register_message_listener(self)

    def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        """Take its time, then fail or succeed, as planned for this message."""
        (msg,) = msgs  # consume_message_batch_max_size is 1
        number = int(msg.body.removeprefix(_BODY))
        if pause := pause_s(number):
            self._over.wait(pause)
        if msg.reconsume_times < self._plan.failures_of(number):
            self._ledger.note_failed(number, msg, context.message_queue)
            return ConsumeConcurrentlyStatus.RECONSUME_LATER
        self._ledger.note_consumed(number, msg, context.message_queue)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    @property
    def sent_back(self) -> int:
        """Failed messages that a broker took to bring them again."""
        return self.consumer.counters()[Counted.SENT_BACK]


class Sender:
    """Sends the messages in small batches, evenly over the time, on a thread of its own."""

    def __init__(self, plan: Plan, ledger: Ledger, over: threading.Event, producer: DefaultMQProducer, topic: str):
        self._plan = plan
        self._ledger = ledger
        self._over = over
        self._producer = producer
        self._topic = topic
        self._thread = threading.Thread(target=self._run, name="DemoSender", daemon=True)

    def send(self, numbers: Iterable[int]) -> None:
        """Send some messages together.

        Raises:
            RocketMQError: they could not be sent.
        """
        messages = [Message(self._topic, b"%s%d" % (_BODY, number)) for number in numbers]
        result = self._producer.send(messages if len(messages) > 1 else messages[0])
        self._ledger.note_sent(result.message_queue, result.queue_offset, len(messages))

    def start(self) -> None:
        """Begin to send what is left."""
        self._thread.start()

    def end(self) -> None:
        """Wait until the thread has ended, which ``over`` brings about."""
        if self._thread.is_alive():
            self._thread.join(SENDER_END_S)

    def _run(self) -> None:
        try:
            began_ms, first = _now_ms(), self._ledger.sent
            while self._ledger.sent < self._plan.count and not self._over.wait(SEND_TICK_S):
                part = (_now_ms() - began_ms) / 1_000 / self._plan.seconds
                due = min(self._plan.count, first + math.ceil(part * (self._plan.count - first)))
                while (next_one := self._ledger.sent) < due and not self._over.is_set():
                    self.send(range(next_one, min(due, next_one + BATCH_MAX)))
        except RocketMQError as error:
            self._ledger.error = error


class Demo:
    """One run. All methods on the main thread."""

    def __init__(self, plan: Plan, wish: EndWish) -> None:
        self._plan = plan
        self._wish = wish
        self._ledger = Ledger(plan.count)
        self._over = threading.Event()
        self._tick = threading.Event()  # never set: waited for with a timeout
        self._began_ms = _now_ms()
        self._members: list[Member] = []
        self._mqs: list[MessageQueue] = []  # of the topic
        self._owners: dict[MessageQueue, str] = {}  # as told
        self._history: deque[tuple[float, int, int]] = deque()
        self._committed: dict[MessageQueue, int] = {}  # as the broker told last
        self._next_look_ms = 0

    def run(self) -> Outcome | None:
        """Run to the end; what came of it, or None after an interruption.

        Raises:
            RocketMQError: a server cannot be reached, or refuses.
        """
        with ExitStack() as stack:
            namesrv = _embedded_broker(stack) if self._plan.namesrv is None else self._plan.namesrv
            self._began_ms = _now_ms()
            name = f"demo-{os.getpid()}-{SystemClock().wall_ms()}"  # nobody else's
            self._topic, self._group = name, f"{name}-group"
            producer = stack.enter_context(
                DefaultMQProducer(f"{name}-producer", namesrv_addr=namesrv, instance_name=name,
                                  default_topic_queue_nums=QUEUES)
            )  # fmt: skip
            client = process_clients.acquire(producer)  # the producer's own, for routes and offsets
            stack.callback(process_clients.release, client)
            _check_servers(client)
            sender = Sender(self._plan, self._ledger, self._over, producer, self._topic)
            stack.callback(sender.end)
            stack.callback(self._over.set)
            view = stack.enter_context(opened_view())
            sender.send([0])  # creates the topic, with as many queues as the producer says
            self._wait_for_route(client)
            self._join(stack, namesrv)
            sender.start()
            self._look_on(view, client, lambda: self._join(stack, namesrv))
            self._over.set()
            sender.end()
            if self._wish.asked:
                return None
            for member in self._members:
                member.consumer.shutdown()
            return self._outcome(client)

    def _join(self, stack: ExitStack, namesrv: str) -> None:
        member = Member(
            f"member {len(self._members) + 1}", self._plan, self._ledger, self._over,
            namesrv=namesrv, topic=self._topic, group=self._group,
        )  # fmt: skip
        stack.enter_context(member.consumer)
        self._members.append(member)

    def _wait_for_route(self, client: MQClientInstance) -> None:
        deadline_ms = _now_ms() + ROUTE_TIMEOUT_S * 1_000
        while not client.update_topic_route(self._topic) and not self._wish.asked:
            if _now_ms() > deadline_ms:
                raise RequestTimeoutError(
                    f"the topic {self._topic} was created, but after {ROUTE_TIMEOUT_S:.0f} s the name server has no "
                    "route of it"
                )
            self._tick.wait(DRAW_S)
        self._mqs = client.routes.subscribe_queues(self._topic)

    def _look_on(self, view: View, client: MQClientInstance, join: Callable[[], None]) -> None:
        """Draw until everything is consumed, the time is over, a send failed or a signal came."""
        view.tell([Event(line) for line in INTRODUCTION])
        view.tell([Event(f"member 1 joined {self._group}")])
        finished = False
        while not finished and not self._wish.asked and self._elapsed_s < self._plan.timeout_s:
            if self._ledger.error is not None:
                raise self._ledger.error
            if len(self._members) == 1 and self._ledger.sent >= self._plan.count // 2:
                join()
                view.tell([Event("member 2 joined: the queues are divided anew")])
            # In this order: a window that is empty has told what it sent back, see _phase.
            windows = self._windows()
            phase, left = self._phase(windows)
            finished = left == 0
            view.tell(self._rebalanced(windows))
            view.tell(self._ledger.take_events())
            self._ask_what_is_committed(client, windows)
            view.show(self._picture(windows, phase, left))
            if not finished:
                self._tick.wait(DRAW_S)

    def _ask_what_is_committed(self, client: MQClientInstance, mqs: Iterable[MessageQueue]) -> None:
        """Ask the broker, now and then: a member's own number runs ahead of what was told."""
        if _now_ms() < self._next_look_ms:
            return
        self._next_look_ms = _now_ms() + COMMITTED_INTERVAL_MS
        for mq in mqs:
            try:
                committed = client.broker.query_consumer_offset(self._group, mq, REQUEST_TIMEOUT_MS)
            except RocketMQError:
                return  # the next look may be luckier; the members' own requests say what is wrong
            if committed is not None:
                self._committed[mq] = committed

    @property
    def _elapsed_s(self) -> float:
        return (_now_ms() - self._began_ms) / 1_000

    def _windows(self) -> dict[MessageQueue, tuple[str, WindowSnapshot]]:
        return {
            mq: (member.name, window) for member in self._members for mq, window in member.consumer.windows().items()
        }

    def _phase(self, windows: Mapping[MessageQueue, tuple[str, WindowSnapshot]]) -> tuple[str, int]:
        """What it waits for, and how many of them; 0: everything is done."""
        ledger, bound = self._ledger, f"for at most {self._plan.timeout_s:.0f} s in all"
        if left := self._plan.count - ledger.sent:
            return "sending", left
        reached = {mq: window.next_offset or 0 for mq, (_, window) in windows.items()}
        unread = sum(max(end - reached.get(mq, 0), 0) for mq, end in ledger.ends.items())
        if left := unread + sum(window.cached for _, window in windows.values()):
            return f"all sent, waiting for the rest to be consumed, {bound}", left
        # A message moved by a rebalance may fail twice and come back twice: every one sent back is waited for.
        if (left := sum(member.sent_back for member in self._members) - ledger.came_back) > 0:
            delay = "1 s" if self._plan.namesrv is None else "10 s unless configured otherwise, a second time 30 s"
            return f"waiting for failed messages to come through the retry topic (delay: {delay}), {bound}", left
        return ("waiting for missing messages, " + bound, left) if (left := len(ledger.missing())) else ("all done", 0)

    def _rebalanced(self, windows: Mapping[MessageQueue, tuple[str, WindowSnapshot]]) -> list[Event]:
        """Who took what, once every queue has an owner again: queues change hands one by one."""
        moved: dict[tuple[str, str], list[MessageQueue]] = {}
        if not windows.keys() >= {*self._mqs, *self._owners}:
            return []
        for mq in sorted(windows, key=self._order):
            owner, before = windows[mq][0], self._owners.get(mq, "")
            if owner != before:
                moved.setdefault((before, owner), []).append(mq)
                self._owners[mq] = owner
        return [
            Event(f"rebalance: {owner} took {', '.join(map(self._name, mqs))}{f' from {before}' if before else ''}")
            for (before, owner), mqs in moved.items()
        ]

    def _name(self, mq: MessageQueue) -> str:
        several = len({each.broker_name for each in self._mqs}) > 1
        name = "retry" if mq.topic != self._topic else str(mq.queue_id)
        return f"{mq.broker_name}/{name}" if several else name

    def _picture(self, windows: Mapping[MessageQueue, tuple[str, WindowSnapshot]], phase: str, left: int) -> Picture:
        ledger, elapsed_s = self._ledger, self._elapsed_s
        self._history.append((elapsed_s, ledger.sent, ledger.consumed))
        while len(self._history) > 2 and self._history[1][0] <= elapsed_s - RATE_SPAN_S:
            self._history.popleft()
        then_s, sent, consumed = self._history[0]
        span_s = max(elapsed_s - then_s, DRAW_S)
        rows = []
        for mq in sorted({*self._mqs, *windows}, key=self._order):
            owner, window = windows.get(mq, ("", None))
            end = max(ledger.ends[mq], window.next_offset or 0 if window else 0)
            rows.append(QueueRow(self._name(mq), end, owner, window, self._committed.get(mq)))
        return Picture(
            elapsed_s, phase, left, self._plan.count, ledger.sent, ledger.consumed, (ledger.sent - sent) / span_s,
            (ledger.consumed - consumed) / span_s, ledger.failed, ledger.retried, ledger.duplicates, rows,
        )  # fmt: skip

    def _order(self, mq: MessageQueue) -> tuple[bool, MessageQueue]:
        return mq.topic != self._topic, mq  # the retry topic last

    def _outcome(self, client: MQClientInstance) -> Outcome:
        # Commits are one-way: a broker may not have dealt with the last ones yet.
        deadline_ms = _now_ms() + COMMIT_TIMEOUT_S * 1_000
        ledger = self._ledger
        missing, queues = ledger.missing(), self._queues(client)
        while not missing and any(each.committed < each.end for each in queues) and _now_ms() < deadline_ms:
            self._tick.wait(DRAW_S)
            queues = self._queues(client)
        return Outcome(
            self._plan.count, ledger.sent, ledger.consumed, ledger.failed, ledger.retried, ledger.duplicates, missing,
            queues, time_over=self._elapsed_s >= self._plan.timeout_s,
        )  # fmt: skip

    def _queues(self, client: MQClientInstance) -> list[QueueOutcome]:
        mqs = [
            mq
            for topic in (self._topic, names.retry_topic(self._group))
            if client.update_topic_route(topic)
            for mq in client.routes.subscribe_queues(topic)
        ]
        return [
            QueueOutcome(
                self._name(mq),
                client.broker.max_offset(mq),
                client.broker.query_consumer_offset(self._group, mq, REQUEST_TIMEOUT_MS) or 0,
            )
            for mq in sorted(mqs, key=self._order)
        ]


def _check_servers(client: MQClientInstance) -> None:
    """Find out whether a send creates a topic. Before the first one: after it the client's threads log errors, too.

    Raises:
        RocketMQError: it does not, or no server can be reached.
    """
    if not client.update_topic_route(names.AUTO_CREATE_TOPIC_KEY_TOPIC):
        remark = "no broker creates a topic at the first send, which the demo needs: set autoCreateTopicEnable=true"
        raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, remark)


def _embedded_broker(stack: ExitStack) -> str:
    """Start a broker that ends with the stack; the address of its name server."""
    from rocketmq_py.broker.embedded_broker import EmbeddedBroker  # needs an extra

    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rocketmq-py-demo-"))
    # Not synchronous: after a power cut nobody wants these messages.
    broker = EmbeddedBroker(directory, message_delay_level=SHORT_DELAYS, synchronous=False)
    return stack.enter_context(broker).namesrv_addr


def demo(plan: Plan) -> list[str] | None:
    """Run the demo and print the tables.

    Returns:
        What is not as it must be; None: a signal ended it before that was known.
    """
    with end_wish() as wish:
        outcome = Demo(plan, wish).run()
    if outcome is None:
        return None
    print(f"\n{summary(outcome)}", flush=True)
    found = shortcomings(outcome)
    if not found:
        print("\nnothing is missing: every message was consumed, every queue is committed to its end", flush=True)
    return found
