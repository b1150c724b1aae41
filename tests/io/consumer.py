"""A consumer that notes what its listener got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rocketmq_py import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeFromWhere,
    DefaultMQPushConsumer,
    MessageExt,
    MessageListenerConcurrently,
)
from tests.io.cluster import TOPIC, Cluster
from tests.io.server import BOUND_S, eventually

GROUP = "group"


class Consumer:
    """A consumer that notes what its listener got."""

    def __init__(
        self, cluster: Cluster, listener: Callable[[MessageExt], object] | None = None, **settings: Any
    ) -> None:
        settings = {
            "namesrv_addr": cluster.address,
            "client_ip": "127.0.0.1",
            "consume_from_where": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            "consume_thread_min": 2,
            "consume_thread_max": 20,
            "mq_client_api_timeout": 500,
            "pull_time_delay_mills_when_exception": 100,
            "await_termination_millis_when_shutdown": 1_000,
            **settings,
        }
        self.got: list[MessageExt] = []
        self._listener = listener
        self.consumer = DefaultMQPushConsumer(settings.pop("group", GROUP), **settings)
        self.consumer.subscribe(TOPIC)
        self.consumer.register_message_listener(MessageListenerConcurrently(self._consume))

    def _consume(self, msgs: Any, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        for msg in msgs:
            self.got.append(msg)
            if self._listener is not None:
                self._listener(msg)
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    def bodies(self) -> list[bytes]:
        return [msg.body for msg in list(self.got)]

    def has(self, *bodies: bytes, bound_s: float = BOUND_S) -> bool:
        return eventually(lambda: set(bodies) <= set(self.bodies()), bound_s)
