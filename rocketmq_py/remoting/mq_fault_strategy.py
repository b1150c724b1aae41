"""Which queue a message goes to, and which brokers are avoided for a while.

Pure: brokers are known by what sends report about them. Source: MQFaultStrategy, LatencyFaultToleranceImpl,
TopicPublishInfo.selectOneMessageQueue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rocketmq_py.clock import Clock
from rocketmq_py.model.config import ProducerConfig
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.runtime import Mutex

ISOLATION_LATENCY_MS = 10_000
"""A broker that failed counts as if it had taken so long."""

DETECTOR_PERIOD_MS = 3_000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _FaultItem:
    """What is known of a broker; moments by the monotonic clock."""

    available_from_ms: int
    reachable: bool = True
    next_check_ms: int = 0


class LatencyFaultTolerance:
    """Remembers which brokers are to be avoided. Lock: ``_lock``; nothing is called out to while it is held.

    A broker nobody reported is available and reachable. Items are as many as brokers were ever sent to; the detector
    forgets those that no route names any more.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Mutex()
        self._items: dict[str, _FaultItem] = {}

    def update_fault_item(self, broker_name: str, not_available_ms: int, reachable: bool) -> None:
        """Note how a send to a broker went; a time already longer stays.

        Args:
            broker_name: which broker.
            not_available_ms: how long it is to be avoided from now on; 0 ends no earlier time.
            reachable: False: until a detector, or a send, finds it reachable.
        """
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            item = self._items.setdefault(broker_name, _FaultItem(now_ms))
            isolated = not_available_ms > 0 and now_ms + not_available_ms > item.available_from_ms
            if isolated:
                item.available_from_ms = now_ms + not_available_ms
            item.reachable = reachable
        if isolated:
            _log.info("broker %s is avoided for %s ms", broker_name, not_available_ms)
        if not reachable:
            _log.info("broker %s is avoided until it is found reachable", broker_name)

    def is_available(self, broker_name: str) -> bool:
        """Whether the time for which it is avoided is over."""
        with self._lock:
            item = self._items.get(broker_name)
            return item is None or self._clock.monotonic_ms() >= item.available_from_ms

    def is_reachable(self, broker_name: str) -> bool:
        """Whether nothing is known that speaks against it."""
        with self._lock:
            item = self._items.get(broker_name)
            return item is None or item.reachable

    def detect_by_one_round(
        self, resolve: Callable[[str], str | None], detect: Callable[[str, str], bool], interval_ms: int
    ) -> None:
        """Ask every broker known here whether it is back, none more often than every ``interval_ms``.

        Args:
            resolve: address of a broker; None: it is gone and forgotten.
            detect: whether the broker of a name answers at its address; may block.
            interval_ms: see above.
        """
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            due = [name for name, item in self._items.items() if now_ms >= item.next_check_ms]
            for name in due:
                self._items[name].next_check_ms = now_ms + interval_ms
        for name in due:
            address = resolve(name)
            alive = address is not None and detect(name, address)
            with self._lock:
                item = self._items.get(name)
                if address is None:
                    self._items.pop(name, None)
                elif alive and item is not None and not item.reachable:
                    item.reachable = True
                    _log.info("broker %s is reachable again", name)


class MQFaultStrategy:
    """Chooses queues for one producer. Any thread may call it.

    Args:
        config: read at every call: settings may change while the producer runs.
    """

    def __init__(self, config: ProducerConfig, clock: Clock) -> None:
        self._config = config
        self.tolerance = LatencyFaultTolerance(clock)

    def select_one_message_queue(
        self, queues: Sequence[MessageQueue], turn: int, last_broker_name: str | None = None
    ) -> MessageQueue:
        """The first queue from ``turn`` on that will do.

        Another broker than the last one, if there is one; with latency tolerance an available one, else a reachable
        one; else whatever has its turn.

        Args:
            queues: not empty.
            turn: counts up from send to send.
            last_broker_name: the broker of the attempt that failed.
        """
        filters: list[Callable[[str], bool]] = [lambda name: True]
        if self._config.send_latency_fault_enable:
            filters = [self.tolerance.is_available, self.tolerance.is_reachable]
        for allowed in filters:
            for step in range(len(queues)):
                queue = queues[(turn + step) % len(queues)]
                if queue.broker_name != last_broker_name and allowed(queue.broker_name):
                    return queue
        return queues[turn % len(queues)]

    def update_fault_item(self, broker_name: str, latency_ms: int, isolation: bool, reachable: bool = True) -> None:
        """Note how an attempt went; nothing without latency tolerance.

        Args:
            broker_name: which broker.
            latency_ms: how long it took.
            isolation: whether the broker failed: it counts as slower than it was.
            reachable: whether it may still be reached.
        """
        if self._config.send_latency_fault_enable:
            duration_ms = self._not_available_ms(ISOLATION_LATENCY_MS if isolation else latency_ms)
            self.tolerance.update_fault_item(broker_name, duration_ms, reachable)

    def note_failure(self, broker_name: str, latency_ms: int) -> None:
        """Note that a broker failed. Only a detector could end "not reachable", so without one it stays reachable."""
        self.update_fault_item(broker_name, latency_ms, True, not self._config.start_detector_enable)

    def _not_available_ms(self, latency_ms: int) -> int:
        steps = list(zip(self._config.latency_max, self._config.not_available_duration, strict=True))
        return next((duration_ms for least_ms, duration_ms in reversed(steps) if latency_ms >= least_ms), 0)
