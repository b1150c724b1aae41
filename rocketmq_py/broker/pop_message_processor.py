"""Pops that wait, and who asks whether there is something to pop.

``PopMessageProcessor.pop`` is the whole of a pop without the protocol; the handlers read and write headers.

Source: PopMessageProcessor, NotificationProcessor, PollingInfoProcessor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, held_bytes, integer, refusal, required, success
from rocketmq_py.broker.commit_log import Arrival
from rocketmq_py.broker.loop import Loop
from rocketmq_py.broker.message_filter import read_filter
from rocketmq_py.broker.pop_consumer_service import PopBatch, PopCall, PopConsumerService, PopResult
from rocketmq_py.broker.pop_long_polling_service import (
    ALL_QUEUES,
    PollingKey,
    PollingResult,
    PopLongPollingService,
)
from rocketmq_py.broker.store import QueueKey
from rocketmq_py.broker.topic_config import TopicConfig, TopicConfigManager
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, RocketMQError, StoreError
from rocketmq_py.model.codes import PermName, RequestCode, ResponseCode
from rocketmq_py.model.extra_info import retry_of
from rocketmq_py.model.results import ConsumeInitMode
from rocketmq_py.remoting.frame import RemotingCommand

MAX_MSG_NUMS = 32
"""Messages that one pop may ask for."""

ATTEMPT_ID_MAX_LENGTH = 1_024
"""It is stored with the batch. Upstream sets no limit."""

TIMEOUT_TOO_MUCH_MS = 500
"""A request that is over for longer when it arrives is not looked at. Source: PopMessageRequestHeader."""


@dataclass(frozen=True, slots=True)
class PopRequest:
    """What a member asks for, and how long it waits.

    Attributes:
        queue_id: -1 for all queues.
        born_ms: when it asked, wall ms.
        poll_ms: how long it may be kept waiting from then on; 0 to be answered at once.
        expression: None or empty for everything.
        attempt_id: of an orderly pop; the same one gets the same messages again.
        size: bytes that it keeps in memory while it waits, beside what stands here.
    """

    group: str
    topic: str
    queue_id: int
    max_nums: int
    invisible_ms: int
    born_ms: int
    poll_ms: int
    expression_type: str | None = None
    expression: str | None = None
    init_mode: int = ConsumeInitMode.MAX
    order: bool = False
    attempt_id: str | None = None
    size: int = 0


_TAG_BYTES = 150

PopAnswer = Callable[[ResponseCode, PopResult], None]
"""Told SUCCESS with messages, or POLLING_TIMEOUT or POLLING_FULL without any."""


class PopMessageProcessor:
    """Answers pops and notifications, now or later. On the loop's thread only."""

    def __init__(
        self,
        *,
        loop: Loop,
        clock: Clock,
        topics: TopicConfigManager,
        service: PopConsumerService,
        stats: BrokerStatsManager,
    ) -> None:
        self._clock = clock
        self._topics = topics
        self._service = service
        self._stats = stats
        self.polling = PopLongPollingService(loop, clock)
        self._notifications = PopLongPollingService(loop, clock, notify_last=True)

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.POP_MESSAGE: self.pop_message,
            RequestCode.NOTIFICATION: self.notification,
            RequestCode.POLLING_INFO: self.polling_info,
        }

    # Who waits.

    def notify_message_arriving(self, arrivals: Sequence[Arrival]) -> None:
        """Wake who waits for one of these messages."""
        self.polling.notify_message_arriving(arrivals)
        self._notifications.notify_message_arriving(arrivals)

    def notify(self, group: str, topic: str, queue_id: int) -> None:
        """Wake one who waits for a queue of a topic, and one who waits for all of them."""
        for key in (PollingKey(topic, group, ALL_QUEUES), PollingKey(topic, group, queue_id)):
            self.polling.notify(key)
            self._notifications.notify(key)

    def channel_closed(self, owner: object) -> None:
        """Forget what somebody waits for who is gone."""
        self.polling.channel_closed(owner)
        self._notifications.channel_closed(owner)

    # Pop.

    def pop(
        self, request: PopRequest, owner: object, answer: PopAnswer, refused: Callable[[RocketMQError], None]
    ) -> None:
        """Give messages out as soon as there are some.

        Args:
            request: what is wanted.
            owner: whose request it is: for ``channel_closed``, after which it waits no more.
            answer: told the messages once their leases are on the disk, or that there are none.
            refused: told why not, instead.
        """
        try:
            call = self._checked(request)

            def done(result: PopResult, error: StoreError | None) -> None:
                if error is not None:
                    result.tell_written(False)
                    refused(error)
                elif result.batches:
                    self._stats.inc_group_get_nums(request.group, request.topic, len(result.messages))
                    answer(ResponseCode.SUCCESS, result)
                else:
                    self._wait(request, call, owner, result, answer, refused)
                if error is None and result.rest_num > 0:
                    self.polling.notify(PollingKey(call.topic, call.group, call.queue_id))

            self._service.pop(call, done)
        except RocketMQError as error:
            refused(error)

    def _wait(
        self,
        request: PopRequest,
        call: PopCall,
        owner: object,
        result: PopResult,
        answer: PopAnswer,
        refused: Callable[[RocketMQError], None],
    ) -> None:
        polled = self.polling.polling(
            PollingKey(call.topic, call.group, call.queue_id), request.born_ms, request.poll_ms,
            call.message_filter, lambda: self.pop(request, owner, answer, refused), owner,
            request.size + len(request.expression or ""),
        )  # fmt: skip
        if polled is PollingResult.POLLING_FULL:
            answer(ResponseCode.POLLING_FULL, result)
        elif polled is not PollingResult.POLLING_SUC:
            answer(ResponseCode.POLLING_TIMEOUT, result)

    def _checked(self, request: PopRequest) -> PopCall:
        """Source: PopMessageProcessor.processRequest, in its order."""
        if self._clock.wall_ms() - request.born_ms - request.poll_ms > TIMEOUT_TOO_MUCH_MS:
            raise BrokerError(
                ResponseCode.POLLING_TIMEOUT,
                "the pop is over already: it took too long, or the clocks of client and broker differ",
            )
        if not 0 < request.max_nums <= MAX_MSG_NUMS:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER,
                f"a pop of {request.max_nums} messages: possible are 1 to {MAX_MSG_NUMS}",
            )
        if request.invisible_ms < 0:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"an invisible time of {request.invisible_ms} ms")
        if len(request.attempt_id or "") > ATTEMPT_ID_MAX_LENGTH:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"the attempt id is longer than {ATTEMPT_ID_MAX_LENGTH}")
        self._checked_topic(request.group, request.topic, request.queue_id)
        message_filter = read_filter(request.topic, request.expression_type, request.expression, 0)
        return PopCall(
            request.group, request.topic, max(request.queue_id, ALL_QUEUES), request.max_nums, request.invisible_ms,
            message_filter, request.init_mode, request.order, request.attempt_id,
        )  # fmt: skip

    def _checked_topic(self, group_name: str, topic: str, queue_id: int) -> TopicConfig:
        config = self._topics.topic(topic)
        if config is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist, apply first please!")
        if not config.perm & PermName.READ:
            raise BrokerError(ResponseCode.NO_PERMISSION, f"the topic[{topic}] peeking message is forbidden")
        if queue_id >= config.readQueueNums:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER,
                f"queueId[{queue_id}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{config.readQueueNums}]",
            )
        group = self._topics.ensure_group(group_name)
        if group is None:
            raise BrokerError(
                ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group [{group_name}] does not exist"
            )
        if not group.consumeEnable:
            raise BrokerError(ResponseCode.NO_PERMISSION, f"subscription group no permission, {group_name}")
        return config

    def pop_message(self, channel: Channel, request: RemotingCommand) -> None:
        """Pop; answered when there is something, or the time is over."""
        fields = request.ext_fields
        pop = PopRequest(
            required(request, "consumerGroup"),
            required(request, "topic"),
            integer(request, "queueId", bits=32),
            integer(request, "maxMsgNums", bits=32),
            integer(request, "invisibleTime"),
            self._born_ms(request),
            integer(request, "pollTime"),
            fields.get("expType"),
            fields.get("exp"),
            integer(request, "initMode", ConsumeInitMode.MIN, bits=32),
            fields.get("order", "").lower() == "true",
            fields.get("attemptId"),
            _size(request),
        )

        def answer(code: ResponseCode, result: PopResult) -> None:
            reply = _pop_answer(request, code, result)
            reply.written = result.tell_written
            channel.write(reply)

        def refused(error: RocketMQError) -> None:
            code = error.code if isinstance(error, BrokerError) else ResponseCode.SYSTEM_ERROR
            text = error.remark if isinstance(error, BrokerError) else str(error)
            channel.write(refusal(request, code, text))

        self.pop(pop, channel, answer, refused)

    def _born_ms(self, request: RemotingCommand) -> int:
        return integer(request, "bornTime", 0) or self._clock.wall_ms()

    # Notifications.

    def notification(self, channel: Channel, request: RemotingCommand) -> RemotingCommand | None:
        """Say whether there is something to pop; answered when there is, or the time is over."""
        born_ms = self._born_ms(request)
        return self._notification(channel, request, born_ms)

    def _notification(self, channel: Channel, request: RemotingCommand, born_ms: int) -> RemotingCommand | None:
        group, topic = required(request, "consumerGroup"), required(request, "topic")
        queue_id = integer(request, "queueId", bits=32)
        config = self._checked_topic(group, topic, queue_id)
        order = request.ext_fields.get("order", "").lower() == "true"
        attempt_id = request.ext_fields.get("attemptId")
        queues = [queue_id] if queue_id >= 0 else range(config.readQueueNums)
        keys = [QueueKey(topic, each) for each in queues]
        keys += [QueueKey(each, 0) for each in self._service.retry_topics(group, topic)]
        if any(self._service.has_message(group, key, order=order, attempt_id=attempt_id) for key in keys):
            return success(request, {"hasMsg": "true", "pollingFull": "false"})

        def again() -> None:
            try:
                answer = self._notification(channel, request, born_ms)
            except BrokerError as error:
                answer = refusal(request, error.code, error.remark)
            if answer is not None:
                channel.write(answer)

        polled = self._notifications.polling(
            PollingKey(topic, group, max(queue_id, ALL_QUEUES)), born_ms, integer(request, "pollTime"), None, again,
            channel, _size(request),
        )  # fmt: skip
        if polled is PollingResult.POLLING_SUC:
            return None
        is_full = "true" if polled is PollingResult.POLLING_FULL else "false"
        return success(request, {"hasMsg": "false", "pollingFull": is_full})

    def polling_info(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how many pops of a queue wait."""
        group, topic = required(request, "consumerGroup"), required(request, "topic")
        queue_id = integer(request, "queueId", bits=32)
        self._checked_topic(group, topic, queue_id)
        return success(request, {"pollingNum": self.polling.polling_num(PollingKey(topic, group, queue_id))})


def _size(request: RemotingCommand) -> int:
    # Of a tag there are a text and a number, in two sets.
    return held_bytes(request) + _TAG_BYTES * request.ext_fields.get("exp", "").count("||")


def _pop_answer(request: RemotingCommand, code: ResponseCode, result: PopResult) -> RemotingCommand:
    """Source: PopMessageProcessor.processRequest, ExtraInfoUtil.build..."""
    answer = RemotingCommand.response(request.opaque, code, "FOUND" if result.batches else "NO_MESSAGE_IN_QUEUE")
    answer.ext_fields = {
        "popTime": str(result.pop_ms),
        "invisibleTime": str(result.invisible_ms),
        "reviveQid": str(result.revive_queue_id),
        "restNum": str(result.rest_num),
        "startOffsetInfo": ";".join(_info(batch, batch.start_offset) for batch in result.batches),
        "msgOffsetInfo": ";".join(
            _info(batch, ",".join(str(message.receipt.queue_offset) for message in batch.messages))
            for batch in result.batches
        ),
    }
    counts = ";".join(text for batch in result.batches for text in _order_counts(batch))
    if counts:
        answer.ext_fields["orderCountInfo"] = counts
    answer.body = b"".join(message.data for message in result.messages)
    return answer


def _info(batch: PopBatch, value: object) -> str:
    return f"{retry_of(batch.topic)} {batch.queue_id} {value}"


def _order_counts(batch: PopBatch) -> list[str]:
    """How often messages of an orderly pop came before: each, and the least of all for old clients."""
    if batch.order_info is None:
        return []
    counts = batch.order_info.consumed_count
    retry = retry_of(batch.topic)
    each = [f"{retry} qo{batch.queue_id}%{offset} {count}" for offset, count in counts.items()]
    least = min(counts.values()) if len(counts) == len(batch.order_info.offsets) else 0
    return [*each, _info(batch, least)]
