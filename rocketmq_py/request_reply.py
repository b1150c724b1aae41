"""Requests that are answered by a message: who awaits which reply, and what a reply looks like.

A request is an ordinary message that names the asking client and a correlation id; its consumer sends the reply to a
broker, which pushes it over the asking client's connection.

Source: RequestFutureHolder, RequestResponseFuture, MessageUtil, ClientRemotingProcessor.receiveReplyMessage.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import NamedTuple

from rocketmq_py.clock import Clock
from rocketmq_py.errors import ConfigError, ProtocolError, RequestTimeoutError, RocketMQError, TooManyRequestsError
from rocketmq_py.model import names
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.compression import decompress
from rocketmq_py.model.config import split_address
from rocketmq_py.model.message import Message, MessageConst, MessageExt, parse_properties
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_sender import REPLY_MESSAGE_FLAG
from rocketmq_py.runtime import Mutex, Scheduler

REQUESTS_MAX = 65_536
"""Requests of one client that await their replies."""

EXPIRY_PERIOD_MS = 1_000
"""How exactly time-outs of asynchronous requests are kept. Source: RequestFutureHolder.startScheduledTask."""

Settle = Callable[[MessageExt | Exception], None]

_log = logging.getLogger(__name__)


class _Future(NamedTuple):
    """One request that awaits its reply. Source: RequestResponseFuture."""

    deadline_ms: int
    owner: object
    settle: Settle


class RequestFutureHolder:
    """The requests of one client that await a reply, by correlation id. Any thread may call it.

    Lock: ``_lock`` guards the table; whoever waits is told without it.

    Args:
        make_timers: makes what looks for requests whose time is over, at the first request: a thread of its own, which
            no silent server holds up.
    """

    def __init__(self, clock: Clock, make_timers: Callable[[], Scheduler]) -> None:
        self._clock = clock
        self._make_timers = make_timers
        self._timers: Scheduler | None = None
        self._closed = False
        self._lock = Mutex()
        self._futures: dict[str, _Future] = {}

    def put(self, correlation_id: str, timeout_ms: int, owner: object, settle: Settle) -> None:
        """Await a reply.

        Args:
            correlation_id: by which the reply is known.
            timeout_ms: after which it is awaited no more.
            owner: see ``fail``.
            settle: called once with the reply or an error, unless the request is removed before; must not block.

        Raises:
            TooManyRequestsError: ``REQUESTS_MAX`` await one already.
        """
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        with self._lock:
            if len(self._futures) >= REQUESTS_MAX:
                raise TooManyRequestsError(f"{REQUESTS_MAX} requests of this client await their replies already")
            self._futures[correlation_id] = _Future(deadline_ms, owner, settle)
            if self._timers is None and not self._closed:
                self._timers = self._make_timers()
                self._timers.schedule_at_fixed_rate(EXPIRY_PERIOD_MS, EXPIRY_PERIOD_MS, self._expire)

    def shutdown(self) -> None:
        """Look for overdue requests no more."""
        with self._lock:
            self._closed = True
            timers = self._timers
        if timers is not None:
            timers.shutdown()

    def remove(self, correlation_id: str) -> None:
        """Await it no more."""
        with self._lock:
            self._futures.pop(correlation_id, None)

    def settle(self, correlation_id: str | None, outcome: MessageExt | Exception) -> bool:
        """Tell whoever waits; False when nobody does (any more)."""
        with self._lock:
            future = self._futures.pop(correlation_id, None) if correlation_id is not None else None
        if future is not None:
            future.settle(outcome)
        return future is not None

    def fail(self, owner: object, error: Exception) -> None:
        """Fail every request of an owner that ends."""
        with self._lock:
            own = [id_ for id_, future in self._futures.items() if future.owner is owner]
        for id_ in own:
            self.settle(id_, error)

    def _expire(self) -> None:
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            overdue = [id_ for id_, future in self._futures.items() if future.deadline_ms <= now_ms]
        for id_ in overdue:
            self.settle(id_, RequestTimeoutError("the request was sent, but no reply came in time"))

    def receive_reply(self, command: RemotingCommand, received_ms: int) -> None:
        """A broker pushes a reply; on the I/O thread.

        Args:
            command: PUSH_REPLY_MESSAGE_TO_CLIENT.
            received_ms: when it came, ms since 1970.

        Raises:
            RocketMQError: it cannot be read. Whoever awaits it is told the same.
        """
        properties = parse_properties(command.ext_fields.get("properties", "").encode())
        correlation_id = properties.get(MessageConst.CORRELATION_ID)
        properties[MessageConst.REPLY_MESSAGE_ARRIVE_TIME] = str(received_ms)
        try:
            reply = _reply(command, properties)
        except RocketMQError as error:
            self.settle(correlation_id, error)
            raise
        if not self.settle(correlation_id, reply):
            _log.warning("a reply from %s came that nobody awaits (any more): %s", reply.born_host, correlation_id)


def _reply(command: RemotingCommand, properties: dict[str, str]) -> MessageExt:
    fields = command.ext_fields
    sys_flag = command.integer("sysFlag")
    body = decompress(command.body, sys_flag) if sys_flag & MessageSysFlag.COMPRESSED else command.body
    return MessageExt(
        topic=fields.get("topic", ""),
        body=body,
        queue_id=command.integer("queueId"),
        properties=properties,
        flag=command.integer("flag"),
        born_timestamp=command.integer("bornTimestamp"),
        store_timestamp=command.integer("storeTimestamp"),
        born_host=_host(fields, "bornHost"),
        store_host=_host(fields, "storeHost"),
        reconsume_times=command.integer("reconsumeTimes") if "reconsumeTimes" in fields else 0,
    )


def _host(fields: dict[str, str], name: str) -> tuple[str, int]:
    # Java writes an IPv6 address without brackets.
    host, _, port = fields.get(name, "").rpartition(":")
    host = host.strip("[]").partition("%")[0]
    try:
        return split_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ConfigError as error:
        raise ProtocolError(f"the field {name} is no address: {error}") from None


def prepare_request(message: Message, client_id: str, timeout_ms: int) -> str:
    """Turn an outgoing message into a request; its correlation id. Source: prepareSendRequest."""
    correlation_id = str(uuid.uuid4())
    message.properties[MessageConst.CORRELATION_ID] = correlation_id
    message.properties[MessageConst.MESSAGE_REPLY_TO_CLIENT] = client_id
    message.properties[MessageConst.MESSAGE_TTL] = str(timeout_ms)
    return correlation_id


def create_reply_message(request_message: Message | MessageExt, body: bytes) -> Message:
    """The reply to a request that a listener got; send it with any producer.

    Raises:
        ConfigError: the message is no request, or the body is no bytes.

    Source: MessageUtil.createReplyMessage.
    """
    copied = {
        name: request_message.get_property(name)
        for name in (MessageConst.CORRELATION_ID, MessageConst.MESSAGE_REPLY_TO_CLIENT, MessageConst.MESSAGE_TTL)
    }
    cluster = request_message.get_property(MessageConst.CLUSTER)
    if cluster is None:
        raise ConfigError(
            "create reply message fail, requestMessage error, property[CLUSTER] is null: give the message as the "
            "listener got it"
        )
    if copied[MessageConst.CORRELATION_ID] is None or copied[MessageConst.MESSAGE_REPLY_TO_CLIENT] is None:
        raise ConfigError("the message is no request: it was not sent by DefaultMQProducer.request")
    reply = Message(cluster + names.REPLY_TOPIC_POSTFIX, body)
    reply.properties[MessageConst.MESSAGE_TYPE] = REPLY_MESSAGE_FLAG
    reply.properties.update({name: value for name, value in copied.items() if value is not None})
    return reply


def get_reply_to_client(message: Message | MessageExt) -> str | None:
    """The client id that awaits the reply, None for a message that is no request. Source: MessageUtil."""
    return message.get_property(MessageConst.MESSAGE_REPLY_TO_CLIENT)
