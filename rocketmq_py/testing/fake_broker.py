"""A broker in memory, for tests of the consumer core: it satisfies ``consumer.ports.Broker`` and ``Group``."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping

from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PullResult, PullStatus, QueueAssignment


class FakeBroker:
    """Queues, offsets and members in plain dicts; answers pulls when the test says ``answer_pulls``.

    One thread only.

    Attributes:
        offsets: committed offsets by (group, queue).
        members: client ids by group.
        locks: client id of the holder by (group, queue).
        assignments: what a broker that assigns queues answers, by topic.
        sent_back: (message, delay level) of every send-back.
        retry_messages: (topic, body, properties) of what came as a normal message instead.
        heartbeats: how many were sent.
        rebalances_asked: how often a rebalance was asked for.
        failing: names of methods that raise the error given.
    """

    def __init__(self, client_id: str = "127.0.0.1@test") -> None:
        self._client_id = client_id
        self._queues: defaultdict[MessageQueue, list[MessageExt]] = defaultdict(list)
        self._min_offset: dict[MessageQueue, int] = {}
        self._waiting: deque[tuple[PullCall, Callable[[PullResult], None], Callable[[Exception], None]]] = deque()
        self.offsets: dict[tuple[str, MessageQueue], int] = {}
        self.members: dict[str, list[str]] = {}
        self.locks: dict[tuple[str, MessageQueue], str] = {}
        self.assignments: dict[str, QueueAssignment] = {}
        self.sent_back: list[tuple[MessageExt, int]] = []
        self.retry_messages: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.heartbeats = 0
        self.rebalances_asked = 0
        self.failing: dict[str, RocketMQError] = {}

    # What the test does.

    def store(self, mq: MessageQueue, *bodies: bytes, tags: str | None = None) -> None:
        """Append messages to a queue."""
        stored = self._queues[mq]
        for body in bodies:
            offset = len(stored)
            stored.append(
                MessageExt(
                    topic=mq.topic,
                    body=body,
                    tags=tags,
                    queue_id=mq.queue_id,
                    queue_offset=offset,
                    broker_name=mq.broker_name,
                    properties={"UNIQ_KEY": f"{mq.topic}-{mq.queue_id}-{offset}"},
                )
            )

    def expire(self, mq: MessageQueue, below_offset: int) -> None:
        """Forget the messages of a queue below an offset."""
        self._min_offset[mq] = below_offset

    @property
    def pulls(self) -> list[PullCall]:
        """Pulls that wait for an answer."""
        return [call for call, _, _ in self._waiting]

    def answer_pulls(self, rounds: int = 1) -> int:
        """Answer every waiting pull that has an answer, the follow-ups too, at most ``rounds`` times each.

        Returns:
            How many were answered. A pull at the end of its queue goes on waiting.
        """
        answered = 0
        for _ in range(rounds):
            for _ in range(len(self._waiting)):
                call, on_result, on_error = self._waiting.popleft()
                if "pull_message" in self.failing:
                    on_error(self.failing["pull_message"])
                elif (result := self._pulled(call)).status is PullStatus.NO_NEW_MSG:
                    self._waiting.append((call, on_result, on_error))
                    continue
                else:
                    on_result(result)
                answered += 1
        return answered

    def answer_empty(self, status: PullStatus, next_begin_offset: int) -> None:
        """Answer the oldest waiting pull without messages."""
        call, on_result, _ = self._waiting.popleft()
        on_result(PullResult(status, next_begin_offset, 0, self.max_offset(call.mq), []))

    def _pulled(self, call: PullCall) -> PullResult:
        low, high = self._min_offset.get(call.mq, 0), len(self._queues[call.mq])
        if not low <= call.offset <= high:
            return PullResult(PullStatus.OFFSET_ILLEGAL, low if call.offset < low else high, low, high, [])
        found = self._queues[call.mq][call.offset : call.offset + call.batch_size]
        status = PullStatus.FOUND if found else PullStatus.NO_NEW_MSG
        return PullResult(status, call.offset + len(found), low, high, list(found))

    def _fail(self, method: str) -> None:
        if method in self.failing:
            raise self.failing[method]

    # consumer.ports.Broker

    def pull_message(
        self, call: PullCall, on_result: Callable[[PullResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        """See ``Broker.pull_message``; the commit happens when the pull comes, not when it is answered."""
        if call.commit_offset > 0:
            self.offsets[call.group, call.mq] = call.commit_offset
        self._waiting.append((call, on_result, on_error))

    def send_message_back(
        self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
    ) -> None:
        """See ``Broker.send_message_back``."""
        self._fail("send_message_back")
        self.sent_back.append((msg, delay_level))

    def send_retry_message(self, topic: str, body: bytes, flag: int, properties: Mapping[str, str]) -> None:
        """See ``Broker.send_retry_message``."""
        self._fail("send_retry_message")
        self.retry_messages.append((topic, body, properties))

    def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
        """See ``Broker.query_consumer_offset``."""
        self._fail("query_consumer_offset")
        return self.offsets.get((group, mq))

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        """See ``Broker.update_consumer_offset``."""
        self._fail("update_consumer_offset")
        self.offsets[group, mq] = offset

    def commit_consumer_offset(self, group: str, mq: MessageQueue, offset: int, timeout_ms: int) -> None:
        """See ``Broker.commit_consumer_offset``."""
        self._fail("commit_consumer_offset")
        self.offsets[group, mq] = offset

    def lock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
    ) -> set[MessageQueue]:
        """See ``Broker.lock_batch_mq``: whoever asks first holds a queue; locks never end by themselves."""
        self._fail("lock_batch_mq")
        return {mq for mq in mqs if self.locks.setdefault((group, mq), client_id) == client_id}

    def unlock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int, oneway: bool
    ) -> None:
        """See ``Broker.unlock_batch_mq``."""
        self._fail("unlock_batch_mq")
        for mq in mqs:
            if self.locks.get((group, mq)) == client_id:
                del self.locks[group, mq]

    def max_offset(self, mq: MessageQueue) -> int:
        """See ``Broker.max_offset``."""
        self._fail("max_offset")
        return len(self._queues[mq])

    def search_offset(self, mq: MessageQueue, timestamp_ms: int) -> int:
        """See ``Broker.search_offset``."""
        self._fail("search_offset")
        stamps = [msg.store_timestamp for msg in self._queues[mq]]
        return next((offset for offset, stamp in enumerate(stamps) if stamp >= timestamp_ms), len(stamps))

    # consumer.ports.Group

    @property
    def client_id(self) -> str:
        """See ``Group.client_id``."""
        return self._client_id

    def find_consumer_id_list(self, topic: str, group: str) -> list[str] | None:
        """See ``Group.find_consumer_id_list``."""
        return self.members.get(group)

    def query_assignment(
        self, topic: str, group: str, strategy_name: str, message_model: str
    ) -> QueueAssignment | None:
        """See ``Group.query_assignment``."""
        self._fail("query_assignment")
        return self.assignments.get(topic)

    def send_heartbeat_to_all_brokers(self) -> bool:
        """See ``Group.send_heartbeat_to_all_brokers``."""
        self.heartbeats += 1
        return True

    def send_heartbeat_soon(self) -> None:
        """See ``Group.send_heartbeat_soon``."""
        self.heartbeats += 1

    def rebalance_immediately(self) -> None:
        """See ``Group.rebalance_immediately``."""
        self.rebalances_asked += 1

    def rebalance_later(self, delay_ms: int) -> None:
        """See ``Group.rebalance_later``."""
        self.rebalances_asked += 1
