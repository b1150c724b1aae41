"""Sends messages: chooses a queue, sends, tries another broker when that fails.

Source: DefaultMQProducerImpl.sendDefaultImpl, sendKernelImpl; MQFaultStrategy without latency tolerance.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConnectError, RequestTimeoutError, RocketMQError, TransportError
from rocketmq_py.model import names
from rocketmq_py.model.codes import MessageSysFlag, RequestCode, ResponseCode
from rocketmq_py.model.message import MessageConst, format_properties
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import SendResult, SendStatus
from rocketmq_py.model.unique_id import create_uniq_id
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import compress
from rocketmq_py.remoting.remoting_client import RemotingClient, Request
from rocketmq_py.remoting.route_table import RouteTable

DEFAULT_COMPRESS_OVER_BYTES = 4_096
DEFAULT_TOPIC_QUEUE_NUMS = 4

# Codes after which another broker, or the same one a moment later, may take the message. Source: retryResponseCodes.
_RETRY_CODES = frozenset({1, 2, 14, 16, 17, 204, 205, 1500})

_SEND_STATUS = {
    ResponseCode.SUCCESS: SendStatus.SEND_OK,
    ResponseCode.FLUSH_DISK_TIMEOUT: SendStatus.FLUSH_DISK_TIMEOUT,
    ResponseCode.FLUSH_SLAVE_TIMEOUT: SendStatus.FLUSH_SLAVE_TIMEOUT,
    ResponseCode.SLAVE_NOT_AVAILABLE: SendStatus.SLAVE_NOT_AVAILABLE,
}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class OutgoingMessage:
    """A message, or an encoded batch, on its way out.

    Attributes:
        properties: of the message, or of the batch as a whole; the unique id is added when it is missing.
        msg_ids: ids of a batch's messages; empty for a single message.
    """

    topic: str
    body: bytes
    flag: int
    properties: dict[str, str]
    msg_ids: Sequence[str] = field(default=())

    @property
    def is_batch(self) -> bool:
        """Whether the body is an encoded batch."""
        return bool(self.msg_ids)


class MessageSender:
    """One per client. Any thread may send; it blocks until the broker answered.

    Args:
        refresh_route: asks a name server for a topic's route; False when it knows none.
    """

    def __init__(
        self, remoting: RemotingClient, routes: RouteTable, clock: Clock, refresh_route: Callable[[str], bool]
    ) -> None:
        self._remoting = remoting
        self._routes = routes
        self._clock = clock
        self._refresh_route = refresh_route
        self._turn = itertools.count()

    def publish_queues(self, topic: str, new_topic_queues: int = DEFAULT_TOPIC_QUEUE_NUMS) -> list[MessageQueue]:
        """Queues that may be sent to, sorted by broker and number.

        A topic that does not exist yet gets the queues that the broker will give it at the first send, if brokers are
        configured to create topics. Source: tryToFindTopicPublishInfo.

        Raises:
            BrokerError: the topic does not exist and is not created by a send.
            TransportError: no name server could be reached.
        """
        queues = self._routes.publish_queues(topic)
        if not queues and self._refresh_route(topic):
            queues = self._routes.publish_queues(topic)
        template = names.AUTO_CREATE_TOPIC_KEY_TOPIC
        if not queues and not self._routes.knows(topic) and self._refresh_route(template):
            queues = [
                MessageQueue(topic, queue.broker_name, queue.queue_id)
                for queue in self._routes.publish_queues(template)
                if queue.queue_id < new_topic_queues
            ]
        if not queues:
            raise BrokerError(
                ResponseCode.TOPIC_NOT_EXIST,
                f"topic {topic} has no queue that can be written to: create it, or check its permissions",
            )
        return queues

    def send(
        self,
        group: str,
        message: OutgoingMessage,
        timeout_ms: int,
        *,
        retries: int,
        queue: MessageQueue | None = None,
        compress_over_bytes: int = DEFAULT_COMPRESS_OVER_BYTES,
        new_topic_queues: int = DEFAULT_TOPIC_QUEUE_NUMS,
    ) -> SendResult:
        """Send, at most ``1 + retries`` times within ``timeout_ms``, to ``queue`` alone or to any queue of the topic.

        Raises:
            BrokerError: the (last) broker refused it.
            TransportError: no answer; the message may be stored all the same.
        """
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        msg_id = message.properties.setdefault(MessageConst.UNIQ_KEY, create_uniq_id(self._clock))
        body, sys_flag = message.body, 0
        if not message.is_batch and len(body) >= compress_over_bytes:
            body, sys_flag = _compressed(body)
        fields = _fields(group, message, sys_flag, new_topic_queues, self._clock.wall_ms())
        queues = [queue] if queue else self.publish_queues(message.topic, new_topic_queues)
        start = next(self._turn)
        failed_broker = ""
        error: RocketMQError | None = None
        for attempt in range(1 + retries):
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if attempt and left_ms <= 0:
                break
            chosen = _choose(queues, start + attempt, failed_broker)
            try:
                return self._send_to(chosen, message, fields, body, left_ms, msg_id)
            except (BrokerError, TransportError) as failure:
                error, failed_broker = failure, chosen.broker_name
                if isinstance(failure, BrokerError) and failure.code not in _RETRY_CODES:
                    raise
                _log.info("sending %s to %s failed, attempt %s: %s", msg_id, chosen, attempt + 1, failure)
        raise error or RequestTimeoutError(f"sending to topic {message.topic} took longer than {timeout_ms} ms")

    def _send_to(
        self, queue: MessageQueue, message: OutgoingMessage, fields: dict[str, str], body: bytes, left_ms: int,
        msg_id: str,
    ) -> SendResult:  # fmt: skip
        broker = self._routes.find_broker(queue.broker_name, only_this=True)
        if broker is None:
            self._refresh_route(queue.topic)
            broker = self._routes.find_broker(queue.broker_name, only_this=True)
        if broker is None:
            raise ConnectError(f"broker {queue.broker_name} of {queue} has no master now")
        fields = {**fields, "e": str(queue.queue_id), "n": queue.broker_name}
        code = RequestCode.SEND_BATCH_MESSAGE if message.is_batch else RequestCode.SEND_MESSAGE_V2
        doing = f"send a message to topic {message.topic}"
        reply = self._remoting.invoke_sync(broker.address, Request(code, fields, body), left_ms, doing)
        status = _SEND_STATUS.get(reply.code)  # type: ignore[call-overload]
        if status is None:
            raise BrokerError(reply.code, reply.remark or "", broker.address, doing)
        return _result(status, reply, queue, ",".join(message.msg_ids) or msg_id)


def _compressed(body: bytes) -> tuple[bytes, int]:
    compressed = compress(body, MessageSysFlag.COMPRESSION_ZLIB)
    if len(compressed) >= len(body):
        return body, 0
    return compressed, MessageSysFlag.COMPRESSED | MessageSysFlag.COMPRESSION_ZLIB


def _choose(queues: Sequence[MessageQueue], turn: int, failed_broker: str) -> MessageQueue:
    """The next queue in turn, on another broker than the one that just failed if there is one."""
    for step in range(len(queues)):
        queue = queues[(turn + step) % len(queues)]
        if queue.broker_name != failed_broker:
            return queue
    return queues[turn % len(queues)]


def _fields(group: str, message: OutgoingMessage, sys_flag: int, new_topic_queues: int, now_ms: int) -> dict[str, str]:
    """The short names of SendMessageRequestHeaderV2, but for the queue's (e, n)."""
    properties = message.properties
    fields = {
        "a": group,
        "b": message.topic,
        "c": names.AUTO_CREATE_TOPIC_KEY_TOPIC,
        "d": str(new_topic_queues),
        "f": str(sys_flag),
        "g": str(now_ms),
        "h": str(message.flag),
        "i": format_properties(properties),
        "j": "0",
        "k": "false",
        "m": "true" if message.is_batch else "false",
    }
    if message.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
        # Taken once, before the first attempt: Java's second attempt loses both (deviations).
        if MessageConst.RECONSUME_TIME in properties:
            fields["j"] = properties[MessageConst.RECONSUME_TIME]
        if MessageConst.MAX_RECONSUME_TIMES in properties:
            fields["l"] = properties[MessageConst.MAX_RECONSUME_TIMES]
    return fields


def _result(status: SendStatus, reply: RemotingCommand, queue: MessageQueue, msg_id: str) -> SendResult:
    fields = reply.ext_fields
    return SendResult(
        send_status=status,
        msg_id=msg_id,
        message_queue=MessageQueue(queue.topic, queue.broker_name, reply.integer("queueId")),
        queue_offset=reply.integer("queueOffset"),
        offset_msg_id=fields.get("msgId", ""),
        transaction_id=fields.get("transactionId"),
    )
