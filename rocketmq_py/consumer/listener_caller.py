"""Calls the user's listener, tells the hooks, and makes sense of whatever comes back.

Source: the middle part of ConsumeRequest.run, which the consume services of Java have each of their own.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from rocketmq_py.consumer.consume_result import come_again, return_type
from rocketmq_py.consumer.hooks import (
    CONSUME_CONTEXT_TYPE,
    ConsumeMessageContext,
    ConsumeMessageHook,
    run_after,
    run_before,
)
from rocketmq_py.consumer.stats import ConsumerCounters, Event
from rocketmq_py.errors import ConfigError
from rocketmq_py.model import names
from rocketmq_py.model.config import ConsumerConfig, MessageModel
from rocketmq_py.model.listener import Consume, ConsumeConcurrently, ContextT
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyStatus,
)
from rocketmq_py.model.running_info import CMResult
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Runtime

_log = logging.getLogger(__name__)

_MINUTE_MS = 60_000
_GOOD = (ConsumeConcurrentlyStatus.CONSUME_SUCCESS, ConsumeOrderlyStatus.SUCCESS, ConsumeOrderlyStatus.COMMIT)

REMARK_MAX_LENGTH = 1_000
"""Characters of a listener's error that an operator is told."""

DIRECT_RESULTS: Mapping[ConsumeConcurrentlyStatus | ConsumeOrderlyStatus, CMResult] = {
    ConsumeConcurrentlyStatus.CONSUME_SUCCESS: CMResult.CR_SUCCESS,
    ConsumeConcurrentlyStatus.RECONSUME_LATER: CMResult.CR_LATER,
    ConsumeOrderlyStatus.SUCCESS: CMResult.CR_SUCCESS,
    ConsumeOrderlyStatus.COMMIT: CMResult.CR_COMMIT,
    ConsumeOrderlyStatus.ROLLBACK: CMResult.CR_ROLLBACK,
    ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT: CMResult.CR_LATER,
}
"""What operators are told of each status; of any other answer CR_RETURN_NULL."""

StatusT = TypeVar("StatusT", bound=ConsumeConcurrentlyStatus | ConsumeOrderlyStatus)


class DirectOutcome(NamedTuple):
    """How a call on an operator's demand ended; fields as in ``ConsumeMessageDirectlyResult``."""

    consume_result: CMResult
    remark: str | None
    spent_time_mills: int


class ListenerCaller(Generic[ContextT, StatusT]):
    """One per consumer; called on its consume threads, several at once.

    Args:
        none_means: the status that hooks are told when the listener gave none.
    """

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        listener: Consume[ContextT, StatusT],
        none_means: StatusT,
        runtime: Runtime,
        hooks: Sequence[ConsumeMessageHook],
        counters: ConsumerCounters,
    ) -> None:
        self._group = group
        self._listener = listener
        self._none_means = none_means
        self._status_type = type(none_means)
        self._hooks = hooks
        self._counters = counters
        self._now_ms = runtime.clock.monotonic_ms
        self._consume_timeout_ms = config.consume_timeout * _MINUTE_MS
        self._namespace = config.namespace
        self._retry_topic = names.retry_topic(group)
        self._then = "they are consumed again later"
        if config.message_model is MessageModel.BROADCASTING and isinstance(none_means, ConsumeConcurrentlyStatus):
            self._then = "they are passed over, broadcasting consumers do not retry"
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._listener_errors = RateLimitedLog(runtime.clock, _log, interval_ms=1_000)

    def call(
        self, msgs: Sequence[MessageExt], mq: MessageQueue, context: ContextT, timeout_ms: int | None = None
    ) -> StatusT | None:
        """Hand messages to the listener.

        Args:
            msgs: the batch.
            mq: its queue.
            context: what the listener may say beside its status.
            timeout_ms: from when on hooks are told TIME_OUT; None: the consume timeout.

        Returns:
            Its status; None when it raised or answered anything else. Hot: once per message at batch size 1.
        """
        before = self._before(msgs, mq) if self._hooks or self._namespace or mq.topic[0] == "%" else None
        status: StatusT | None = None
        raised = False
        try:
            answer: object = self._listener(tuple(msgs), context)
        except BaseException as error:  # noqa: BLE001 - border: whatever the user's code raises means "again later"
            raised = True
            self._listener_errors.warning(
                (type(error), mq),
                "group %s: the listener raised %r for %s messages from offset %s of %s; %s",
                self._group, error, len(msgs), msgs[0].queue_offset, mq, self._then, with_traceback=True,
            )  # fmt: skip
        else:
            if type(answer) is self._status_type:
                status = answer
            else:
                self._report_no_status(answer, msgs, mq)
        if before is not None:
            self._after(before, status, raised, self._consume_timeout_ms if timeout_ms is None else timeout_ms)
        return status

    def _before(self, msgs: Sequence[MessageExt], mq: MessageQueue) -> tuple[ConsumeMessageContext, int] | None:
        """Restore topics, and tell the hooks, if there are any; what they were told, and when."""
        if self._namespace or mq.topic.startswith(self._retry_topic):
            self._restore_topics(msgs)
        if not self._hooks:
            return None
        context = ConsumeMessageContext(self._group, tuple(msgs), mq, namespace=self._namespace)
        run_before(self._hooks, context)
        return context, self._now_ms()

    def _after(
        self, before: tuple[ConsumeMessageContext, int], status: StatusT | None, raised: bool, timeout_ms: int
    ) -> None:
        context, begin_ms = before
        kind = return_type(status, raised, self._now_ms() - begin_ms, timeout_ms)
        context.props[CONSUME_CONTEXT_TYPE] = kind.value
        context.status = (status or self._none_means).value
        context.success = status in _GOOD
        run_after(self._hooks, context)

    def call_directly(self, msg: MessageExt, context: ContextT) -> DirectOutcome:
        """Hand the listener one message that an operator chose, and tell no hook.

        Source: the common part of ConsumeMessageConcurrentlyService.consumeMessageDirectly and
        ConsumeMessageOrderlyService's.
        """
        self._restore_topics([msg])
        begin_ms = self._now_ms()
        remark = None
        try:
            answer = self._listener((msg,), context)
        except BaseException as error:  # noqa: BLE001 - border: the operator is told whatever the user's code raises
            result, remark = CMResult.CR_THROW_EXCEPTION, _in_short(error)
        else:
            result = DIRECT_RESULTS[answer] if isinstance(answer, self._status_type) else CMResult.CR_RETURN_NULL
        return DirectOutcome(result, remark, self._now_ms() - begin_ms)

    def _restore_topics(self, msgs: Sequence[MessageExt]) -> None:
        """Show retried messages under their original topic, and topics without the namespace.

        After a switch from pop to pull what was popped and failed comes from pop-retry topics. Behaviour: PA-08.

        Source: resetRetryAndNamespace, tryResetPopRetryTopic.
        """
        for msg in msgs:
            if msg.topic == self._retry_topic:
                original = msg.get_property(MessageConst.RETRY_TOPIC)
            else:
                original = names.normal_topic(self._group, msg.topic)
            if original:
                msg._topic = original
            if self._namespace:
                msg._topic = names.without_namespace(self._namespace, msg.topic)

    def _report_no_status(self, answer: object, msgs: Sequence[MessageExt], mq: MessageQueue) -> None:
        what = f"None instead of a {self._status_type.__name__}"
        if answer is not None:
            self._counters.count(Event.UNKNOWN_RESULT)
            what = f"{_shown(answer)}, which is no {self._status_type.__name__},"
            if inspect.iscoroutine(answer):
                answer.close()
        self._warnings.warning(
            ("no status", type(answer)),
            "group %s: the listener returned %s for %s messages from offset %s of %s; %s",
            self._group, what, len(msgs), msgs[0].queue_offset, mq, self._then,
        )  # fmt: skip


class ConcurrentListenerCaller(ListenerCaller[ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus]):
    """What the services of a concurrent listener, pulling and popping, share."""

    def __init__(
        self,
        *,
        group: str,
        config: ConsumerConfig,
        listener: ConsumeConcurrently,
        runtime: Runtime,
        hooks: Sequence[ConsumeMessageHook],
        counters: ConsumerCounters,
    ) -> None:
        super().__init__(
            group=group,
            config=config,
            listener=listener,
            none_means=ConsumeConcurrentlyStatus.RECONSUME_LATER,
            runtime=runtime,
            hooks=hooks,
            counters=counters,
        )

    def failed_indexes(
        self, status: ConsumeConcurrentlyStatus | None, context: ConsumeConcurrentlyContext, size: int
    ) -> Sequence[int]:
        """Which messages of a batch of ``size`` must come again, ascending, by what the listener answered."""
        try:
            return come_again(status, context, size)
        except ConfigError as error:
            self._warnings.warning("come again", "group %s: %s; the batch is consumed again later", self._group, error)
            return range(size)


def batches(msgs: Sequence[MessageExt], size: int) -> list[tuple[MessageExt, ...]]:
    """Consecutive pieces of ``size``, the last one shorter; as tuples, which listeners get as they are."""
    if size == 1:
        return list(zip(msgs, strict=True))
    return [tuple(msgs[start : start + size]) for start in range(0, len(msgs), size)]


def _shown(answer: object) -> str:
    try:
        return f"{answer!r:.200}"
    except Exception:  # noqa: BLE001 - border: a user's class may fail to show itself
        return f"an object of type {type(answer).__name__}"


def _in_short(error: BaseException) -> str:
    """The error and where it was raised. Source: UtilAll.exceptionSimpleDesc."""
    text = "".join(traceback.format_exception_only(error)).strip()[:REMARK_MAX_LENGTH]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text}, {frames[-1].name}({frames[-1].filename}:{frames[-1].lineno})" if frames else text
