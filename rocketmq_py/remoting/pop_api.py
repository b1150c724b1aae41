"""The requests about popped messages. Satisfies ``consumer.ports.PopBroker``.

Source: PullAPIWrapper.popAsync, MQClientAPIImpl.popMessageAsync, processPopResponse, ackMessageAsync,
changeInvisibleTimeAsync.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeVar

from rocketmq_py.errors import BrokerError, ConnectError, ProtocolError
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.codes import MASTER_ID, RequestCode, ResponseCode
from rocketmq_py.model.extra_info import ExtraInfo, long_of, retry_of
from rocketmq_py.model.message import MessageConst, MessageExt, PullBounds
from rocketmq_py.model.results import PopResult, PopStatus
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_messages
from rocketmq_py.remoting.remoting_client import CONTROL_LANE, RemotingClient, Request
from rocketmq_py.remoting.route_table import RouteTable

_POP_STATUS = {
    ResponseCode.SUCCESS: PopStatus.FOUND,
    ResponseCode.POLLING_FULL: PopStatus.POLLING_FULL,
    ResponseCode.POLLING_TIMEOUT: PopStatus.POLLING_NOT_FOUND,
    ResponseCode.PULL_NOT_FOUND: PopStatus.POLLING_NOT_FOUND,
}

_log = logging.getLogger(__name__)

T = TypeVar("T")

OnError = Callable[[Exception], None]


class PopApi:
    """Pops, acknowledgements and delays, always at the master. None of them blocks.

    Args:
        refresh_route: asks a name server for a topic's route, once, when a broker is not known.
    """

    def __init__(self, remoting: RemotingClient, routes: RouteTable, refresh_route: Callable[[str], object]) -> None:
        self._remoting = remoting
        self._routes = routes
        self._refresh_route = refresh_route

    def pop_message(self, call: PopCall, on_result: Callable[[PopResult], None], on_error: OnError) -> None:
        """See ``consumer.ports.PopBroker.pop_message``."""
        mq, subscription = call.mq, call.subscription
        ext_fields = {
            "consumerGroup": call.group,
            "topic": mq.topic,
            "queueId": str(mq.queue_id),
            "maxMsgNums": str(call.max_nums),
            "invisibleTime": str(call.invisible_ms),
            "pollTime": str(call.poll_ms),
            # The broker puts its own time in the place of 0. Java sends this machine's: a clock that is behind makes
            # the broker refuse every pop, one that is ahead makes it hold them longer than the client waits.
            "bornTime": "0",
            "initMode": str(int(call.init_mode)),
            "expType": subscription.expression_type,
            "exp": subscription.sub_string,
            "order": "true" if call.order else "false",
            "bname": mq.broker_name,
        }

        def reply(command: RemotingCommand, address: str) -> None:
            on_result(pop_result(command, call, address))

        self._invoke(
            mq.broker_name, mq.topic, Request(RequestCode.POP_MESSAGE, ext_fields), call.timeout_ms, reply, on_error
        )

    def ack_message(self, group: str, topic: str, msg: MessageExt, timeout_ms: int, on_error: OnError) -> None:
        """See ``consumer.ports.PopBroker.ack_message``. Source: DefaultMQPushConsumerImpl.ackAsync."""
        self._settle(RequestCode.ACK_MESSAGE, group, topic, msg, {}, timeout_ms, on_error)

    def change_invisible_time(
        self, group: str, topic: str, msg: MessageExt, invisible_ms: int, timeout_ms: int, on_error: OnError
    ) -> None:
        """See ``consumer.ports.PopBroker.change_invisible_time``. Source: changePopInvisibleTimeAsync.

        The new receipt in the answer is of no use: nobody here settles a message twice.
        """
        fields = {"invisibleTime": str(invisible_ms)}
        self._settle(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, group, topic, msg, fields, timeout_ms, on_error)

    def _settle(
        self,
        code: RequestCode,
        group: str,
        topic: str,
        msg: MessageExt,
        fields: Mapping[str, str],
        timeout_ms: int,
        on_error: OnError,
    ) -> None:
        text = msg.get_property(MessageConst.POP_CK)
        receipt = ExtraInfo.parse(text)
        real_topic = receipt.real_topic(topic, group)
        ext_fields = {
            "consumerGroup": group,
            "topic": real_topic,
            "queueId": str(receipt.queue_id),
            "extraInfo": str(text),
            "offset": str(receipt.queue_offset),
            "bname": receipt.broker_name,
            **fields,
        }

        def reply(command: RemotingCommand, address: str) -> None:
            if command.code != ResponseCode.SUCCESS:
                doing = f"settle offset {receipt.queue_offset} of {real_topic} queue {receipt.queue_id}"
                raise BrokerError(command.code, command.remark or "", address, doing)

        self._invoke(receipt.broker_name, topic, Request(code, ext_fields), timeout_ms, reply, on_error)

    def _invoke(
        self,
        broker_name: str,
        topic: str,
        request: Request,
        timeout_ms: int,
        on_reply: Callable[[RemotingCommand, str], None],
        on_error: OnError,
    ) -> None:
        """Ask a broker's master, after one refresh of the topic's route if it is not known."""

        def send(address: str) -> None:
            self._remoting.invoke_async(
                (address, CONTROL_LANE), request, timeout_ms, lambda command: on_reply(command, address), on_error
            )

        def find_and_send() -> None:
            try:
                address = self._found(broker_name, topic)
            except Exception as error:  # noqa: BLE001 - border: a pop that nobody is told about is a queue that stops
                on_error(error)
            else:
                send(address)

        master = self._routes.find_broker(broker_name, MASTER_ID, only_this=True)
        if master is None:
            self._remoting.run_later(find_and_send)
        else:
            send(master.address)

    def _found(self, broker_name: str, topic: str) -> str:
        self._refresh_route(topic)
        master = self._routes.find_broker(broker_name, MASTER_ID, only_this=True)
        if master is None:
            raise ConnectError(f"broker {broker_name} of topic {topic} has no master now")
        return master.address


def pop_result(reply: RemotingCommand, call: PopCall, address: str) -> PopResult:
    """Read the answer to a pop: every message gets its receipt, and the topic that was popped.

    Raises:
        BrokerError: the broker refused.
        ProtocolError: the answer is malformed, or tells no receipt of one of its messages.

    Source: MQClientAPIImpl.processPopResponse.
    """
    status = _POP_STATUS.get(reply.code)  # type: ignore[call-overload]
    if status is None:
        raise BrokerError(reply.code, reply.remark or "", address, f"pop {call.mq}")
    if status is not PopStatus.FOUND:
        return PopResult(status, [])
    broker_name, topic = call.mq.broker_name, call.mq.topic
    messages = decode_messages(reply.body, PullBounds(-1, -1, broker_name))
    pop_time = reply.offset("popTime")
    receipts = _Receipts(reply, broker_name, pop_time, messages)
    counts = parse_order_count_info(reply.ext_fields.get("orderCountInfo"))
    for message in messages:
        properties = message._parsed_properties()
        if not receipts.told:
            properties[MessageConst.POP_CK] = str(receipts.of_first(message))
        elif MessageConst.POP_CK not in properties:  # else the broker wrote it: a message from the retry topic
            properties[MessageConst.POP_CK] = str(receipts.of(message))
            exact = f"{retry_of(message.topic)}@qo{message.queue_id}%{message.queue_offset}"
            count = counts.get(exact, counts.get(_key(retry_of(message.topic), message), 0))
            if call.order and count > 0:
                message._reconsume_times = count
        properties.setdefault(MessageConst.FIRST_POP_TIME, str(pop_time))
        message._topic = topic
    return PopResult(status, messages)


class _Receipts:
    """What an answer tells about the places of its messages.

    Places are looked up by the kind of the topic and the queue id. The list of offsets has one for each message of that
    key, in the same order.
    """

    def __init__(self, reply: RemotingCommand, broker_name: str, pop_time: int, messages: list[MessageExt]) -> None:
        self._broker_name = broker_name
        self._pop_time = pop_time
        self._invisible_time = reply.offset("invisibleTime")
        self._revive_queue_id = reply.offset("reviveQid")
        self._starts = parse_start_offset_info(reply.ext_fields.get("startOffsetInfo"))
        self._offsets = parse_msg_offset_info(reply.ext_fields.get("msgOffsetInfo"))
        self._firsts: dict[tuple[str, int], int] = {}
        self._places: defaultdict[str, list[int]] = defaultdict(list)  # key -> queue offsets as they came
        for message in messages:
            receipt = message.get_property(MessageConst.POP_CK)
            # By a receipt that the broker wrote: then it may have rewritten the topic, too.
            retry = retry_of(message.topic) if receipt is None else ExtraInfo.parse(receipt).retry
            self._places[_key(retry, message)].append(message.queue_offset)

    @property
    def told(self) -> bool:
        """Whether the answer tells places; those of old brokers do not."""
        return bool(self._starts)

    def of_first(self, message: MessageExt) -> ExtraInfo:
        """When no places are told: the first message of a queue begins its batch."""
        start = self._firsts.setdefault((message.topic, message.queue_id), message.queue_offset)
        return self._receipt(message, start, message.queue_offset)

    def of(self, message: MessageExt) -> ExtraInfo:
        """By the places told."""
        key = _key(retry_of(message.topic), message)
        try:
            start = self._starts[key]
            offset = self._offsets[key][self._places[key].index(message.queue_offset)]
        except (KeyError, IndexError):
            raise ProtocolError(
                f"the answer to a pop tells no receipt of offset {message.queue_offset} of queue {message.queue_id} of "
                f"{message.topic}"
            ) from None
        if offset != message.queue_offset:
            _log.debug("message %r lies at offset %s, says the answer to a pop", message, offset)
        return self._receipt(message, start, offset)

    def _receipt(self, message: MessageExt, start: int, offset: int) -> ExtraInfo:
        return ExtraInfo(
            start, self._pop_time, self._invisible_time, self._revive_queue_id, retry_of(message.topic),
            self._broker_name, message.queue_id, offset,
        )  # fmt: skip


def _key(retry: str, message: MessageExt) -> str:
    return f"{retry}@{message.queue_id}"


def parse_start_offset_info(text: str | None) -> dict[str, int]:
    """By ``kind@queue``, the first offset of the batch. Source: ExtraInfoUtil.parseStartOffsetInfo.

    Raises:
        ProtocolError: it is malformed, or tells a key twice.
    """
    return _parsed(text, "startOffsetInfo", long_of)


def parse_msg_offset_info(text: str | None) -> dict[str, list[int]]:
    """By ``kind@queue``, the offsets of the messages. Source: ExtraInfoUtil.parseMsgOffsetInfo.

    Raises:
        ProtocolError: it is malformed, or tells a key twice.
    """
    return _parsed(text, "msgOffsetInfo", lambda value: [long_of(offset) for offset in value.split(",")])


def parse_order_count_info(text: str | None) -> dict[str, int]:
    """By ``kind@queue`` or ``kind@qo<queue>%<offset>``, how often it came. Source: ExtraInfoUtil.parseOrderCountInfo.

    Raises:
        ProtocolError: it is malformed, or tells a key twice.
    """
    return _parsed(text, "orderCountInfo", long_of)


def _parsed(text: str | None, what: str, value_of: Callable[[str], T]) -> dict[str, T]:
    parsed: dict[str, T] = {}
    for part in text.split(";") if text else ():
        fields = part.split(" ")
        key = "@".join(fields[:2])
        if len(fields) != 3 or key in parsed:
            raise ProtocolError(f"the field {what} is malformed or tells a queue twice: {text:.200}")
        try:
            parsed[key] = value_of(fields[2])
        except ValueError:
            raise ProtocolError(f"the field {what} holds what is no offset: {text:.200}") from None
    return parsed
