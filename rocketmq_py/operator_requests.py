"""Requests that operators make of a client, through its brokers. Source: ClientRemotingProcessor.

What a consumer answers is its own matter (``OperatedConsumer``); here are headers, bodies and unknown groups.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.codes import RequestCode, ResponseCode
from rocketmq_py.model.message import MessageExt, PullBounds
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.running_info import ConsumeMessageDirectlyResult, ConsumerRunningInfo
from rocketmq_py.remoting import bodies
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_messages
from rocketmq_py.runtime import Runtime

_log = logging.getLogger(__name__)


class OperatedConsumer(Protocol):
    """What operators may ask of a consumer. Called on threads that may wait."""

    def consumer_running_info(self, jstack: bool) -> ConsumerRunningInfo:
        """All about it; with the stacks of all threads of the process if wanted."""
        ...

    def consumer_status(self, topic: str) -> Mapping[MessageQueue, int]:
        """Offsets in memory of a topic's queues; of all queues for ""."""
        ...

    def consume_message_directly(self, msg: MessageExt) -> ConsumeMessageDirectlyResult:
        """Have the listener consume this message now."""
        ...

    def reset_offset(self, topic: str, offsets: Mapping[MessageQueue, int]) -> None:
        """Go on at these offsets."""
        ...


class OperatorRequests:
    """Handlers of operators' requests, one set per client.

    Args:
        consumer_of: the consumer of a group, None when the client has none.
    """

    def __init__(self, runtime: Runtime, consumer_of: Callable[[str], OperatedConsumer | None]) -> None:
        self._consumer_of = consumer_of
        self._consuming = runtime.lock()

    def handlers(self) -> Mapping[int, Callable[[str, RemotingCommand], RemotingCommand | None]]:
        """Who answers which code; all of them may wait."""
        return {
            RequestCode.RESET_CONSUMER_CLIENT_OFFSET: self._reset_offset,
            RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT: self._consumer_status,
            RequestCode.GET_CONSUMER_RUNNING_INFO: self._consumer_running_info,
            RequestCode.CONSUME_MESSAGE_DIRECTLY: self._consume_message_directly,
        }

    def _reset_offset(self, address: str, request: RemotingCommand) -> None:
        """Behaviour: RO-05. Source: resetOffset."""
        group, topic = request.ext_fields.get("group", ""), request.ext_fields.get("topic", "")
        _log.info(
            "%s: an operator resets the offsets of group %s, topic %s, to the moment %s",
            address, group, topic, request.ext_fields.get("timestamp"),
        )  # fmt: skip
        offsets = bodies.parse_reset_offset(request.body)
        consumer = self._consumer_of(group)
        if consumer is None:
            _log.info("[reset-offset] group %s has no consumer in this client", group)
        else:
            consumer.reset_offset(topic, offsets)

    def _consumer_status(self, address: str, request: RemotingCommand) -> RemotingCommand:
        """Behaviour: OP-06. Source: getConsumeStatus."""
        consumer = self._consumer_of(request.ext_fields.get("group", ""))
        offsets = {} if consumer is None else consumer.consumer_status(request.ext_fields.get("topic", ""))
        return _success(request, bodies.encode_consumer_status(offsets))

    def _consumer_running_info(self, address: str, request: RemotingCommand) -> RemotingCommand:
        """Behaviour: OP-05. Source: getConsumerRunningInfo."""
        group = request.ext_fields.get("consumerGroup", "")
        consumer = self._consumer_of(group)
        if consumer is None:
            return _no_such_group(request, group)
        jstack = request.ext_fields.get("jstackEnable", "").lower() == "true"
        return _success(request, bodies.encode_consumer_running_info(consumer.consumer_running_info(jstack)))

    def _consume_message_directly(self, address: str, request: RemotingCommand) -> RemotingCommand:
        """Behaviour: OP-07. Source: consumeMessageDirectly."""
        group = request.ext_fields.get("consumerGroup", "")
        consumer = self._consumer_of(group)
        if consumer is None:
            return _no_such_group(request, group)
        msgs = decode_messages(request.body, PullBounds(-1, -1, request.ext_fields.get("brokerName", "")))
        if len(msgs) != 1:
            raise ProtocolError(f"one message is to be consumed, {len(msgs)} came")
        # One at a time: a listener that hangs must not stop the answers to everything else.
        if not self._consuming.acquire(0):
            return RemotingCommand.response(
                request.opaque, ResponseCode.SYSTEM_BUSY, "another message is being consumed directly: try again later"
            )
        try:
            result = consumer.consume_message_directly(msgs[0])
        finally:
            self._consuming.release()
        _log.info("%s: group %s consumed message %s directly: %s", address, group, msgs[0].msg_id, result)
        return _success(request, bodies.encode_consume_message_directly_result(result))


def _success(request: RemotingCommand, body: bytes) -> RemotingCommand:
    answer = RemotingCommand.response(request.opaque, ResponseCode.SUCCESS)
    answer.body = body
    return answer


def _no_such_group(request: RemotingCommand, group: str) -> RemotingCommand:
    return RemotingCommand.response(
        request.opaque, ResponseCode.SYSTEM_ERROR, f"The Consumer Group <{group}> not exist in this consumer"
    )
