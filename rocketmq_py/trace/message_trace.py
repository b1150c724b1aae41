"""Joins a dispatcher to the client through which its records are sent. Source: AsyncTraceDispatcher, its producer."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from rocketmq_py.client_instance import MQClientInstance
from rocketmq_py.model import names
from rocketmq_py.model.message import MessageConst
from rocketmq_py.remoting.outgoing_message import OutgoingMessage
from rocketmq_py.runtime import Runtime
from rocketmq_py.trace.async_trace_dispatcher import AsyncTraceDispatcher

GROUP_NAME_PREFIX = "_INNER_TRACE_PRODUCER"
PRODUCE, CONSUME = "PRODUCE", "CONSUME"
"""Who is traced, as part of the name of the producer group."""

SEND_TIMEOUT_MS = 5_000
SEND_RETRIES = 2

_numbers = itertools.count(1)


class MessageTrace:
    """The trace of one consumer or producer, sent through its own client (Java: through another client).

    Args:
        group: the traced group.
        kind: ``PRODUCE`` or ``CONSUME``.
        topic: where records go; None: RMQ_SYS_TRACE_TOPIC.
        batch_num: see ``AsyncTraceDispatcher``, as ``on_lost``.
    """

    def __init__(
        self,
        *,
        client: MQClientInstance,
        group: str,
        kind: str,
        topic: str | None,
        batch_num: int,
        runtime: Runtime,
        on_lost: Callable[[int], object] = lambda contexts: None,
    ) -> None:
        self._client = client
        self._producer_group = f"{GROUP_NAME_PREFIX}-{group}-{kind}-{next(_numbers)}"
        client.register_producer(self._producer_group)
        self._sender = client.make_sender(self._producer_group)
        self.dispatcher = AsyncTraceDispatcher(
            group, topic or names.RMQ_SYS_TRACE_TOPIC, batch_num, runtime, self._send, on_lost
        )

    def _send(self, topic: str, body: bytes, keys: str) -> None:
        self._client.note_published_topic(self._producer_group, topic)
        properties = {MessageConst.KEYS: keys, MessageConst.WAIT_STORE_MSG_OK: "true"}
        message = OutgoingMessage(topic, body, 0, properties)
        self._sender.send(message, SEND_TIMEOUT_MS, retries=SEND_RETRIES)

    def shutdown(self) -> None:
        """Send what waits, at most 5 s long, and forget the producer group."""
        try:
            self.dispatcher.shutdown()
        finally:
            self._client.unregister_producer(self._producer_group)
