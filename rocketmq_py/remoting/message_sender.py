"""Sends messages: chooses a queue, sends, tries another broker when that fails.

Source: DefaultMQProducerImpl.sendDefaultImpl, sendKernelImpl; MQClientAPIImpl.sendMessage, sendMessageAsync.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence

from rocketmq_py.clock import Clock
from rocketmq_py.errors import (
    BrokerError,
    ConfigError,
    ConnectError,
    ProtocolError,
    RequestTimeoutError,
    RocketMQError,
    TransportError,
)
from rocketmq_py.model import names
from rocketmq_py.model.codes import MessageSysFlag, RequestCode, ResponseCode
from rocketmq_py.model.compression import compress
from rocketmq_py.model.config import ProducerConfig
from rocketmq_py.model.message import Message, MessageConst, format_properties
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.producer_hooks import (
    CheckForbiddenContext,
    CommunicationMode,
    MessageType,
    ProducerHooks,
    SendMessageContext,
    SendMessageHook,
    run_guarded,
)
from rocketmq_py.model.recall_handle import RecallHandle
from rocketmq_py.model.results import SendResult, SendStatus
from rocketmq_py.model.unique_id import create_uniq_id, local_ip
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.mq_fault_strategy import MQFaultStrategy
from rocketmq_py.remoting.outgoing_message import OutgoingMessage
from rocketmq_py.remoting.remoting_client import CONTROL_LANE, RemotingClient, Request
from rocketmq_py.remoting.route_table import RouteTable

REPLY_MESSAGE_FLAG = "reply"
"""Value of ``MSG_TYPE`` in a reply to a request. Source: MixAll.REPLY_MESSAGE_FLAG."""

# Codes after which another broker, or the same one a moment later, may take the message. Source: retryResponseCodes.
_RETRY_CODES = frozenset({1, 2, 14, 16, 17, 204, 205, 1500})

_SEND_STATUS = {
    ResponseCode.SUCCESS: SendStatus.SEND_OK,
    ResponseCode.FLUSH_DISK_TIMEOUT: SendStatus.FLUSH_DISK_TIMEOUT,
    ResponseCode.FLUSH_SLAVE_TIMEOUT: SendStatus.FLUSH_SLAVE_TIMEOUT,
    ResponseCode.SLAVE_NOT_AVAILABLE: SendStatus.SLAVE_NOT_AVAILABLE,
}

_START_DELIVER_TIME = "__STARTDELIVERTIME"

Done = Callable[[SendResult | Exception], None]

_log = logging.getLogger(__name__)


class Sending:
    """One send with all its attempts; made by ``MessageSender.begin``, touched by one thread at a time.

    Attributes:
        message: with its unique id.
        deadline_ms: when all attempts must have ended, by the monotonic clock.
        context: what hooks are told of the attempt under way; None without hooks.
    """

    __slots__ = (
        "_turn",
        "body",
        "context",
        "deadline_ms",
        "failed_broker",
        "message",
        "queues",
        "send_hooks",
        "sys_flag",
    )

    def __init__(
        self, message: OutgoingMessage, body: bytes, sys_flag: int, deadline_ms: int, queues: Sequence[MessageQueue],
        turn: int,
    ) -> None:  # fmt: skip
        self.message = message
        self.body = body
        self.sys_flag = sys_flag
        self.deadline_ms = deadline_ms
        self.queues = queues
        self.failed_broker: str | None = None
        self.send_hooks: tuple[SendMessageHook, ...] = ()
        self.context: SendMessageContext | None = None
        self._turn = turn

    @property
    def msg_id(self) -> str:
        """The producer's id of the message; of a batch the ids of all its messages, comma separated."""
        return ",".join(self.message.msg_ids) or self.message.properties[MessageConst.UNIQ_KEY]

    def next_turn(self) -> int:
        """Where the next attempt begins to look for a queue."""
        self._turn += 1
        return self._turn


class MessageSender:
    """Sends for one producer. Any thread may call it.

    Args:
        refresh_route: asks a name server for a topic's route; False when it knows none.
        group: the producer's group.
        config: read at every send: settings may change while the producer runs.
    """

    def __init__(
        self,
        remoting: RemotingClient,
        routes: RouteTable,
        clock: Clock,
        refresh_route: Callable[[str], bool],
        group: str = names.CLIENT_INNER_PRODUCER_GROUP,
        config: ProducerConfig | None = None,
        hooks: ProducerHooks | None = None,
    ) -> None:
        self._remoting = remoting
        self._routes = routes
        self._clock = clock
        self._refresh_route = refresh_route
        self._group = group
        self._config = config or ProducerConfig()
        self._hooks = hooks or ProducerHooks()
        self._turn = itertools.count()
        self.faults = MQFaultStrategy(self._config, clock)

    def publish_queues(self, topic: str) -> list[MessageQueue]:
        """Queues that may be sent to, sorted by broker and number; under the short topic, if there is a namespace.

        A topic that does not exist yet gets the queues that the broker will give it at the first send, if brokers are
        configured to create topics. Source: tryToFindTopicPublishInfo.

        Raises:
            BrokerError: the topic does not exist and is not created by a send.
            TransportError: no name server could be reached.
        """
        full = self._config.with_namespace(topic)
        queues = self._routes.publish_queues(full)
        if not queues and self._refresh_route(full):
            queues = self._routes.publish_queues(full)
        template = names.AUTO_CREATE_TOPIC_KEY_TOPIC
        if not queues and not self._routes.knows(full) and self._refresh_route(template):
            queues = [
                MessageQueue(full, queue.broker_name, queue.queue_id)
                for queue in self._routes.publish_queues(template)
                if queue.queue_id < self._config.default_topic_queue_nums
            ]
        if not queues:
            raise BrokerError(
                ResponseCode.TOPIC_NOT_EXIST,
                f"topic {full} has no queue that can be written to: create it, or check its permissions",
            )
        return queues if full == topic else [queue._replace(topic=topic) for queue in queues]

    # The three ways to send.

    def send(
        self, message: OutgoingMessage, timeout_ms: int, *, queue: MessageQueue | None = None, retries: int = 0
    ) -> SendResult:
        """Send, at most ``1 + retries`` times within ``timeout_ms``, to ``queue`` alone or to any queue of the topic.

        Raises:
            BrokerError: the (last) broker refused it.
            TransportError: no answer; the message may be stored all the same.
            Exception: what a hook that forbids it raises.
        """
        sending = self.begin(message, self._clock.monotonic_ms() + timeout_ms, queue)
        error: RocketMQError | None = None
        stored: SendResult | None = None
        for attempt in range(1 + retries):
            left_ms = sending.deadline_ms - self._clock.monotonic_ms()
            if attempt and left_ms <= 0:
                break
            per_request_ms = self._config.send_msg_max_timeout_per_request
            if attempt < retries and per_request_ms > -1:
                left_ms = min(left_ms, per_request_ms)
            chosen = self._choose(sending)
            try:
                result = self._attempt(sending, chosen, left_ms)
            except (BrokerError, TransportError) as failure:
                error, sending.failed_broker = failure, chosen.broker_name
                if isinstance(failure, BrokerError) and failure.code not in _RETRY_CODES:
                    if stored is not None:
                        return stored
                    raise
                _log.info("sending %s to %s failed, attempt %s: %s", sending.msg_id, chosen, attempt + 1, failure)
            else:
                if result.send_status is SendStatus.SEND_OK or not self._config.retry_another_broker_when_not_store_ok:
                    return result
                stored, sending.failed_broker = result, chosen.broker_name
        if stored is not None:
            return stored
        raise error or RequestTimeoutError(f"sending to topic {message.topic} took longer than {timeout_ms} ms")

    def _attempt(self, sending: Sending, queue: MessageQueue, timeout_ms: int) -> SendResult:
        began_ms = self._clock.monotonic_ms()
        try:
            address = self._address_of(queue)
        except ConnectError:  # no route leads to it: nothing is known against the broker
            self.faults.update_fault_item(queue.broker_name, self._clock.monotonic_ms() - began_ms, isolation=False)
            raise
        self._before(sending, queue, address, CommunicationMode.SYNC)
        outcome: SendResult | Exception | None = None
        try:
            request = self._request(sending, queue)
            left_ms = timeout_ms - (self._clock.monotonic_ms() - began_ms)
            began_ms = self._clock.monotonic_ms()
            reply = self._remoting.invoke_sync(address, request, left_ms, _doing(sending))
            outcome = result = self._result(sending, queue, reply, address)
        except Exception as failure:
            outcome = failure
            if isinstance(failure, (BrokerError, TransportError)):
                self.faults.note_failure(queue.broker_name, self._clock.monotonic_ms() - began_ms)
            raise
        finally:
            self.after(sending, outcome)
        self.faults.update_fault_item(queue.broker_name, self._clock.monotonic_ms() - began_ms, isolation=False)
        return result

    def send_oneway(self, message: OutgoingMessage, timeout_ms: int, *, queue: MessageQueue | None = None) -> None:
        """Send once and await no answer.

        Raises:
            BrokerError: the topic does not exist.
            TransportError: no connection could be made, or it broke before the bytes were handed to the system.
            Exception: what a hook that forbids it raises.
        """
        sending = self.begin(message, self._clock.monotonic_ms() + timeout_ms, queue)
        chosen = self._choose(sending)
        began_ms = self._clock.monotonic_ms()
        address = self._address_of(chosen)
        self._before(sending, chosen, address, CommunicationMode.ONEWAY)
        outcome: Exception | None = None
        try:
            left_ms = sending.deadline_ms - self._clock.monotonic_ms()
            self._remoting.invoke_oneway(address, self._request(sending, chosen), left_ms)
        except Exception as failure:
            outcome = failure
            if isinstance(failure, TransportError):
                self.faults.note_failure(chosen.broker_name, self._clock.monotonic_ms() - began_ms)
            raise
        finally:
            self.after(sending, outcome)
        self.faults.update_fault_item(chosen.broker_name, self._clock.monotonic_ms() - began_ms, isolation=False)

    def send_async(self, sending: Sending, retries: int, done: Done) -> None:
        """Send, at most ``1 + retries`` times until the deadline; another attempt only when there was no answer.

        Args:
            sending: made by ``begin``.
            retries: further attempts.
            done: called once with the result or the error, on the I/O thread or a helper's; ``after`` is the caller's.

        Raises:
            Exception: nothing was sent and ``done`` will not be called: the broker is not in the route, or a hook
                forbids it.
        """
        queue = self._choose(sending)
        address = self._address_of(queue)
        self._before(sending, queue, address, CommunicationMode.ASYNC)
        self._invoke(sending, queue, address, retries, done)

    def _invoke(self, sending: Sending, queue: MessageQueue, address: str, retries: int, done: Done) -> None:
        began_ms = self._clock.monotonic_ms()

        def reply(command: RemotingCommand) -> None:
            took_ms = self._clock.monotonic_ms() - began_ms
            try:
                result = self._result(sending, queue, command, address)
            except RocketMQError as error:
                self.faults.note_failure(queue.broker_name, took_ms)
                done(error)
            else:
                self.faults.update_fault_item(queue.broker_name, took_ms, isolation=False)
                done(result)

        def failed(error: Exception) -> None:
            self.faults.note_failure(queue.broker_name, self._clock.monotonic_ms() - began_ms)
            sending.failed_broker = queue.broker_name
            left = retries
            # A broker that no route leads to any more uses up an attempt and is passed over.
            while left > 0 and isinstance(error, TransportError):
                left -= 1
                if sending.deadline_ms - self._clock.monotonic_ms() <= 0:
                    break
                again = self._choose(sending)
                address_again = self._master_of(again.broker_name)
                if address_again is not None:
                    _log.info("sending %s to %s failed, again to %s: %s", sending.msg_id, queue, again, error)
                    try:
                        self._invoke(sending, again, address_again, left, done)
                    except Exception as failure:  # noqa: BLE001 - border: whoever waits must be told
                        done(failure)
                    return
            done(error)

        left_ms = sending.deadline_ms - began_ms
        lane = (address, CONTROL_LANE)
        self._remoting.invoke_async(lane, self._request(sending, queue), left_ms, reply, failed)

    def recall_message(self, topic: str, recall_handle: str, timeout_ms: int) -> str:
        """See ``DefaultMQProducer.recall_message``. Source: DefaultMQProducerImpl.recallMessage."""
        if topic.startswith(names.GROUP_TOPIC_PREFIXES):
            raise ConfigError(f"messages of {topic} cannot be recalled: it holds retries or dead letters")
        topic = self._config.with_namespace(topic)
        try:
            broker_name = RecallHandle.parse(recall_handle).broker_name
        except ProtocolError:
            raise ConfigError(f"{recall_handle!r:.100} is not the recall handle of a send's result") from None
        # Any broker of the topic: it may be a proxy that has the broker behind it.
        address = self._found_master_of(broker_name, topic) or self._routes.random_broker_of(topic)
        if address is None:
            raise ConnectError(f"no broker of topic {topic} is known, nor {broker_name} of the recall handle")
        fields = {"producerGroup": self._group, "topic": topic, "recallHandle": recall_handle, "bname": broker_name}
        request = Request(RequestCode.RECALL_MESSAGE, fields)
        reply = self._remoting.invoke_ok(address, request, timeout_ms, f"recall a message of topic {topic}")
        return reply.ext_fields.get("msgId", "")

    # Detection.

    def detect_brokers(self) -> None:
        """Ask the brokers that failed whether they are back; on a thread of its own, see ``start_detector_enable``."""
        self.faults.tolerance.detect_by_one_round(self._master_of, self._answers, self._config.detect_interval)

    def _master_of(self, broker_name: str) -> str | None:
        broker = self._routes.find_broker(broker_name, only_this=True)
        return broker.address if broker is not None else None

    def _found_master_of(self, broker_name: str, topic: str) -> str | None:
        """``_master_of``; where it is not known, the topic's route is asked for first."""
        address = self._master_of(broker_name)
        if address is None:
            self._refresh_route(topic)
            address = self._master_of(broker_name)
        return address

    def _answers(self, broker_name: str, address: str) -> bool:
        # Any answer will do; Java takes an error, such as "no such topic", for no answer.
        fields = {"topic": names.AUTO_CREATE_TOPIC_KEY_TOPIC, "queueId": "0", "bname": broker_name}
        try:
            self._remoting.invoke_sync(
                address, Request(RequestCode.GET_MAX_OFFSET, fields), self._config.detect_timeout
            )
        except RocketMQError as error:
            _log.debug("broker %s does not answer: %s", broker_name, error)
            return False
        return True

    # Their parts.

    def begin(self, message: OutgoingMessage, deadline_ms: int, queue: MessageQueue | None = None) -> Sending:
        """Make ready to send: unique id, compression, the queues to choose from. May ask for a route.

        Raises:
            BrokerError, TransportError: see ``publish_queues``.
            MissingExtraError: the library that compresses is not installed.
        """
        message.properties.setdefault(MessageConst.UNIQ_KEY, create_uniq_id(self._clock))
        if self._config.namespace:
            names.check_topic(self._config.with_namespace(message.topic))  # it may be too long with it
            message.properties[MessageConst.INSTANCE_ID] = self._config.namespace
        body, sys_flag = message.body, 0
        if not message.is_batch and len(body) >= self._config.compress_msg_body_over_howmuch:
            body, sys_flag = self._compressed(body)
        if message.properties.get(MessageConst.TRANSACTION_PREPARED) == "true":
            sys_flag |= MessageSysFlag.TRANSACTION_PREPARED_TYPE
        queues = [queue] if queue else self.publish_queues(message.topic)
        return Sending(message, body, sys_flag, deadline_ms, queues, next(self._turn) - 1)

    def _compressed(self, body: bytes) -> tuple[bytes, int]:
        flag = self._config.compress_type.value
        compressed = compress(body, flag, self._config.compress_level)
        if len(compressed) >= len(body):
            return body, 0
        return compressed, MessageSysFlag.COMPRESSED | flag

    def _choose(self, sending: Sending) -> MessageQueue:
        return self.faults.select_one_message_queue(sending.queues, sending.next_turn(), sending.failed_broker)

    def _address_of(self, queue: MessageQueue) -> str:
        address = self._found_master_of(queue.broker_name, self._config.with_namespace(queue.topic))
        if address is None:
            raise ConnectError(f"broker {queue.broker_name} of {queue} has no master now")
        return address

    def _before(self, sending: Sending, queue: MessageQueue, address: str, mode: CommunicationMode) -> None:
        """Ask the hooks that may forbid it, then tell those that look on."""
        message, hooks = sending.message, self._hooks
        for forbidding in hooks.check_forbidden:
            forbidding.check_forbidden(
                CheckForbiddenContext(self._group, message, queue, address, mode, self._config.unit_mode)
            )
        sending.context = None
        sending.send_hooks = hooks.send_message
        if sending.send_hooks:
            born_host = self._config.client_ip or local_ip()
            sending.context = SendMessageContext(
                self._group, message, queue, address, born_host, mode, _message_type(message)
            )
            for hook in sending.send_hooks:
                run_guarded(hook, hook.send_message_before, sending.context)

    def after(self, sending: Sending, outcome: SendResult | Exception | None) -> None:
        """Tell the hooks that were told before how it ended; None: nobody knows."""
        context = sending.context
        if context is None:
            return
        if isinstance(outcome, SendResult):
            context.send_result = outcome
        else:
            context.exception = outcome
        for hook in sending.send_hooks:
            run_guarded(hook, hook.send_message_after, context)

    def _request(self, sending: Sending, queue: MessageQueue) -> Request:
        message = sending.message
        code = RequestCode.SEND_MESSAGE_V2
        if message.is_batch:
            code = RequestCode.SEND_BATCH_MESSAGE
        elif message.properties.get(MessageConst.MESSAGE_TYPE) == REPLY_MESSAGE_FLAG:
            code = RequestCode.SEND_REPLY_MESSAGE_V2
        return Request(code, self._fields(sending, queue), sending.body)

    def _fields(self, sending: Sending, queue: MessageQueue) -> dict[str, str]:
        """The short names of SendMessageRequestHeaderV2."""
        message = sending.message
        properties = message.properties
        fields = {
            "a": self._group,
            "b": self._config.with_namespace(message.topic),
            "c": names.AUTO_CREATE_TOPIC_KEY_TOPIC,
            "d": str(self._config.default_topic_queue_nums),
            "e": str(queue.queue_id),
            "f": str(sending.sys_flag),
            "g": str(self._clock.wall_ms()),
            "h": str(message.flag),
            "i": format_properties(properties),
            "j": "0",
            "k": "true" if self._config.unit_mode else "false",
            "m": "true" if message.is_batch else "false",
            "n": queue.broker_name,
        }
        if message.topic.startswith(names.RETRY_GROUP_TOPIC_PREFIX):
            # Kept in the properties, so every attempt has them: Java's second attempt loses both (deviations).
            if MessageConst.RECONSUME_TIME in properties:
                fields["j"] = properties[MessageConst.RECONSUME_TIME]
            if MessageConst.MAX_RECONSUME_TIMES in properties:
                fields["l"] = properties[MessageConst.MAX_RECONSUME_TIMES]
        return fields

    def _result(self, sending: Sending, queue: MessageQueue, reply: RemotingCommand, address: str) -> SendResult:
        """Source: MQClientAPIImpl.processSendResponse."""
        status = _SEND_STATUS.get(reply.code)  # type: ignore[call-overload]
        if status is None:
            raise BrokerError(reply.code, reply.remark or "", address, _doing(sending))
        fields = reply.ext_fields
        return SendResult(
            send_status=status,
            msg_id=sending.msg_id,
            message_queue=MessageQueue(queue.topic, queue.broker_name, reply.integer("queueId")),
            queue_offset=reply.integer("queueOffset"),
            offset_msg_id=fields.get("msgId", ""),
            transaction_id=fields.get("transactionId"),
            recall_handle=fields.get("recallHandle"),
            region_id=fields.get(MessageConst.MSG_REGION) or "DefaultRegion",
            trace_on=fields.get(MessageConst.TRACE_SWITCH) != "false",
        )


def _doing(sending: Sending) -> str:
    return f"send a message to topic {sending.message.topic}"


def _message_type(message: Message) -> MessageType:
    if _START_DELIVER_TIME in message.properties or MessageConst.DELAY_TIME_LEVEL in message.properties:
        return MessageType.Delay_Msg
    if message.properties.get(MessageConst.TRANSACTION_PREPARED) == "true":
        return MessageType.Trans_Msg_Half
    return MessageType.Normal_Msg
