"""Long polls. Source: ReceiveMessageActivity, ReceiveMessageResponseStreamWriter, PopMessageResultFilterImpl."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rocketmq_py.broker.grpc.client_activity import ClientActivity
from rocketmq_py.broker.grpc.context import (
    GrpcProxyError,
    ProxyContext,
    check_group,
    check_invisible_ms,
    check_topic,
    ok,
    status_of,
)
from rocketmq_py.broker.grpc.converter import expression_type, message_of, ms_of
from rocketmq_py.broker.grpc.receipt_handles import (
    AUTO_RENEW_INVISIBLE_MS,
    HeldMessage,
    Receipt,
    ReceiptHandleManager,
)
from rocketmq_py.broker.grpc.settings import LONG_POLLING_MAX_MS, LONG_POLLING_MIN_MS, RECEIVE_BATCH_SIZE
from rocketmq_py.broker.grpc.settlement_activity import SettlementActivity
from rocketmq_py.broker.pop_consumer_service import PopResult
from rocketmq_py.broker.pop_long_polling_service import ALL_QUEUES
from rocketmq_py.broker.pop_message_processor import PopMessageProcessor, PopRequest
from rocketmq_py.broker.topic_config import SubscriptionGroupConfig, TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError, RocketMQError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.message import MessageConst
from rocketmq_py.model.results import ConsumeInitMode
from rocketmq_py.model.subscription import MessageSelector, SubscriptionData, build_selected
from rocketmq_py.remoting.message_codec import StoredMessage, decode_stored

INVISIBLE_MIN_MS = 10_000
"""Source: minInvisibleTimeMillsForRecv."""

POLLING_TIME_VERSION = "5.0.3"
"""Clients from this version on know ILLEGAL_POLLING_TIME; compared as text, as upstream does."""

Frames = Sequence[pb.ReceiveMessageResponse]

_log = logging.getLogger(__name__)


class Polling:
    """A long poll."""

    def __init__(self, pops: PopMessageProcessor) -> None:
        self._pops = pops
        self._result: PopResult | None = None

    def answered(self, result: PopResult) -> None:
        """This is what it found."""
        self._result = result

    def tell_written(self, written: bool) -> None:
        """Whether all that it found has left for the client; after what did not leave was put back."""
        if self._result is not None:
            self._result.tell_written(written)

    def cancel(self) -> None:
        """Its client does not wait any more. Messages that are under way come all the same."""
        self._pops.channel_closed(self)


class ReceiveMessageActivity:
    """Pops for consumers. On the loop's thread only."""

    def __init__(
        self,
        *,
        clock: Clock,
        pops: PopMessageProcessor,
        topics: TopicConfigManager,
        clients: ClientActivity,
        receipts: ReceiptHandleManager,
        settlements: SettlementActivity,
    ) -> None:
        self._clock = clock
        self._pops = pops
        self._topics = topics
        self._clients = clients
        self._receipts = receipts
        self._settlements = settlements

    def receive_message(
        self, context: ProxyContext, request: pb.ReceiveMessageRequest, done: Callable[[Frames], None]
    ) -> Polling:
        """Pop, or wait for something to pop.

        Args:
            context: of the call.
            request: what is wanted.
            done: gets all that is to be written, in order; called once, unless the call is cancelled before.

        Returns:
            what to cancel when the client does not wait any more.

        Raises:
            GrpcProxyError: the request is not acceptable.
        """
        topic, group = check_topic(request.message_queue.topic), check_group(request.group)
        poll_ms = self._poll_ms(context, request)
        invisible_ms = AUTO_RENEW_INVISIBLE_MS
        if not request.auto_renew:
            invisible_ms = ms_of(request.invisible_duration)
            check_invisible_ms(invisible_ms, INVISIBLE_MIN_MS)
        elif self._clients.channel(context.client_id) is None:
            # Upstream says MESSAGE_NOT_FOUND and brings the messages back: the consumer would never hear why.
            raise GrpcProxyError(
                pb.UNRECOGNIZED_CLIENT_TYPE, "messages are renewed for clients that told their settings only"
            )
        if request.batch_size <= 0:
            raise GrpcProxyError(pb.BAD_REQUEST, f"a batch size of {request.batch_size}: it is an integer from 1")
        subscription = _subscription(topic, request.filter_expression)
        config = self._topics.group(group) or SubscriptionGroupConfig(group)
        wanted = PopRequest(
            group=group,
            topic=topic,
            queue_id=ALL_QUEUES,  # whatever queue is named: the broker chooses among all
            max_nums=min(request.batch_size, RECEIVE_BATCH_SIZE),
            invisible_ms=invisible_ms,
            born_ms=self._clock.wall_ms(),
            poll_ms=poll_ms,
            expression_type=subscription.expression_type,
            expression=subscription.sub_string,
            init_mode=ConsumeInitMode.MAX,
            order=config.consumeMessageOrderly,
            attempt_id=request.attempt_id if request.HasField("attempt_id") else None,
            skip_done=True,
        )
        polling = Polling(self._pops)

        def answered(code: ResponseCode, result: PopResult) -> None:
            if code == ResponseCode.POLLING_FULL:
                refused(BrokerError(code, "too many polls wait already"))
                return
            polling.answered(result)
            messages = self._delivered(context, request, subscription, result)
            done(self._frames(ok() if messages else _nothing(), messages))

        def refused(error: RocketMQError) -> None:
            over = isinstance(error, BrokerError) and error.code == ResponseCode.POLLING_TIMEOUT
            done(self._frames(_nothing() if over else status_of(error)))

        self._pops.pop(wanted, polling, answered, refused)
        return polling

    def refused(self, error: Exception) -> Frames:
        """What to write when a request is not acceptable."""
        return self._frames(status_of(error))

    def undelivered(self, request: pb.ReceiveMessageRequest, frames: Frames) -> None:
        """These could not be written: others get their messages soon."""
        for frame in frames:
            if frame.HasField("message"):
                handle = frame.message.system_properties.receipt_handle
                try:
                    receipt = self._receipts.find(request.group.name, request.message_queue.topic.name, handle)
                except GrpcProxyError as error:
                    _log.info("a message that could not be written comes again when its time is over: %s", error)
                else:
                    self._receipts.put_back(receipt)

    def _frames(self, status: pb.Status, messages: Sequence[pb.Message] = ()) -> Frames:
        last = pb.ReceiveMessageResponse()
        last.delivery_timestamp.FromMilliseconds(self._clock.wall_ms())
        return [
            pb.ReceiveMessageResponse(status=status),
            *[pb.ReceiveMessageResponse(message=message) for message in messages],
            last,
        ]

    def _poll_ms(self, context: ProxyContext, request: pb.ReceiveMessageRequest) -> int:
        remaining_ms = context.remaining_ms
        if request.HasField("long_polling_timeout"):
            wanted_ms = ms_of(request.long_polling_timeout)
        elif remaining_ms is None:
            wanted_ms = LONG_POLLING_MAX_MS
        else:
            settings = self._clients.settings(context.client_id)
            wanted_ms = remaining_ms - (0 if settings is None else ms_of(settings.request_timeout) // 2)
        poll_ms = min(max(wanted_ms, LONG_POLLING_MIN_MS), LONG_POLLING_MAX_MS)
        if remaining_ms is None or poll_ms <= remaining_ms:
            return poll_ms
        if remaining_ms >= LONG_POLLING_MIN_MS:
            return remaining_ms
        knows = context.client_version >= POLLING_TIME_VERSION
        raise GrpcProxyError(
            pb.ILLEGAL_POLLING_TIME if knows else pb.BAD_REQUEST,
            f"the deadline leaves {remaining_ms} ms, a poll takes {LONG_POLLING_MIN_MS} at least",
        )

    def _delivered(
        self,
        context: ProxyContext,
        request: pb.ReceiveMessageRequest,
        subscription: SubscriptionData,
        result: PopResult,
    ) -> list[pb.Message]:
        """The messages for the consumer; those it does not want, or has failed at too often, are settled here."""
        group, topic = request.group.name, request.message_queue.topic.name
        config = self._topics.group(group) or SubscriptionGroupConfig(group)
        messages = []
        for popped in result.messages:
            stored = decode_stored(popped.data)
            # A producer may have written a negative number.
            reconsume_times = max(popped.consumed_count or stored.head.reconsume_times, 0)
            held = HeldMessage.of(group, topic, popped.receipt)
            receipt = Receipt(held, popped.receipt, stored.head.commit_log_offset)
            if not _is_wanted(stored, subscription):
                self._settlements.ack(receipt, _logged)
            elif reconsume_times > config.retryMaxTimes:
                self._settlements.bury(context, receipt, _logged)
            else:
                handle = self._receipts.delivered(
                    context.client_id, receipt, auto_renew=request.auto_renew, reconsume_times=reconsume_times
                )
                messages.append(message_of(stored, topic=topic, receipt_handle=handle, reconsume_times=reconsume_times))
        return messages


def _subscription(topic: str, wanted: pb.FilterExpression) -> SubscriptionData:
    try:
        return build_selected(topic, MessageSelector(expression_type(wanted.type), wanted.expression), 0)
    except ConfigError as error:
        raise GrpcProxyError(pb.ILLEGAL_FILTER_EXPRESSION, str(error)) from None


def _is_wanted(stored: StoredMessage, subscription: SubscriptionData) -> bool:
    """The broker looks at hashes of tags only."""
    tags = subscription.tags_set
    return not tags or stored.properties.get(MessageConst.TAGS) in tags


def _nothing() -> pb.Status:
    return pb.Status(code=pb.MESSAGE_NOT_FOUND, message="no new message")


def _logged(status: pb.Status) -> None:
    if status.code != pb.OK:
        _log.warning("settling a message for a consumer failed, it comes again: %s", status.message)
