"""``rocketmq-py consume``."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rocketmq_py.cli.credentials import credentials
from rocketmq_py.cli.output import CONTROLS
from rocketmq_py.cli.signals import end_wish
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.config import ConsumeFromWhere, MessageModel
from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    Messages,
)


def consume(
    address: Mapping[str, Any],
    topic: str,
    group: str,
    *,
    tags: str,
    where: ConsumeFromWhere,
    moment: str | None,
    count: int | None,
    timeout_s: float | None,
    as_json: bool,
    orderly: bool,
    broadcast: bool,
) -> bool:
    """Print messages until ``count`` came, the time is over, or a signal asks for the end.

    ``address`` is ``namesrv_addr`` or ``endpoints``.

    Returns:
        False when the time was over before ``count`` came, or nobody reads any more.

    Raises:
        RocketMQError: standard output cannot be written.
    """
    done = threading.Event()
    printer = _Printer(count, as_json, done.set)
    model = MessageModel.BROADCASTING if broadcast else MessageModel.CLUSTERING
    from rocketmq_py.push_consumer import DefaultMQPushConsumer

    consumer = DefaultMQPushConsumer(group, **address, consume_from_where=where, message_model=model, **credentials())
    if moment is not None:
        consumer.consume_timestamp = moment
    consumer.subscribe(topic, tags)
    # Broadcasting passes over what a concurrent listener does not take; an orderly one gets it again at the next start.
    in_order = orderly or broadcast
    consumer.register_message_listener(
        MessageListenerOrderly(printer.in_order) if in_order else MessageListenerConcurrently(printer.in_any_order)
    )
    with end_wish() as wish, consumer:
        in_time = wish.wait(done, timeout_s)
    if printer.failure is not None and not isinstance(printer.failure, BrokenPipeError):
        raise RocketMQError(f"cannot write: {printer.failure.strerror}")
    return printer.failure is None and (in_time or count is None)


class _Printer:
    """Writes each message before it is acknowledged. With a count, what comes beyond it is left to others."""

    def __init__(self, count: int | None, as_json: bool, end: Callable[[], None]) -> None:
        self._left = count
        self._as_json = as_json
        self._end = end
        self._lock = threading.Lock()
        self.failure: OSError | None = None

    def in_any_order(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus:
        """What is not printed goes back to the retry topic and reaches whoever consumes next."""
        context.ack_index = self._print(msgs) - 1
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    def in_order(self, msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus:
        """What is not printed stays uncommitted, and its queue waits until this member leaves."""
        if self._print(msgs) == len(msgs):
            return ConsumeOrderlyStatus.SUCCESS
        return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT

    def _print(self, msgs: Messages) -> int:
        """Print one batch, unbroken by others; returns how many of its messages were printed."""
        with self._lock:
            for index, msg in enumerate(msgs):
                if self._left == 0 or not self._write(self._line(msg) + "\n"):
                    return index
                if self._left is not None:
                    self._left -= 1
                    if self._left == 0:
                        self._end()
        return len(msgs)

    def _write(self, line: str) -> bool:
        if self.failure is None:
            try:
                # As bytes: what a terminal's encoding cannot show must not fail the message.
                sys.stdout.buffer.write(line.encode())
                sys.stdout.buffer.flush()
            except OSError as error:
                # Whoever read has gone (`| head`), or the disk is full. What the interpreter flushes goes nowhere.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                self.failure = error
                self._end()
        return self.failure is None

    def _line(self, msg: MessageExt) -> str:
        if self._as_json:
            return json.dumps(as_dict(msg), ensure_ascii=False)
        text = msg.body.decode(errors="replace").translate(CONTROLS)
        return f"{msg.topic} {msg.broker_name}/{msg.queue_id} @{msg.queue_offset} {msg.msg_id} {text}"


def as_dict(msg: MessageExt) -> dict[str, object]:
    """What ``--json`` tells of a message; ``body`` is text when it is UTF-8, else there is ``body_base64``."""
    told: dict[str, object] = {
        "topic": msg.topic,
        "queue_id": msg.queue_id,
        "queue_offset": msg.queue_offset,
        "msg_id": msg.msg_id,
        "keys": msg.keys,
        "tags": msg.tags,
        "reconsume_times": msg.reconsume_times,
        "born_timestamp": msg.born_timestamp,
    }
    try:
        told["body"] = msg.body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = base64.b64encode(msg.body).decode()
    return told
