"""The listeners that hand over only what was not consumed yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, overload

from rocketmq_py.batch import FanOut
from rocketmq_py.clock import SystemClock
from rocketmq_py.consumer.consume_result import OrderlyAction, come_again, orderly_action
from rocketmq_py.errors import ConfigError
from rocketmq_py.idempotence.sqlite import SqliteTransaction
from rocketmq_py.idempotence.store import IdempotenceStore, KeyState, MemoryStore
from rocketmq_py.model.listener import MessageListenerConcurrently, MessageListenerOrderly, check_listener
from rocketmq_py.model.message import MessageConst, MessageExt
from rocketmq_py.model.results import (
    ConsumeConcurrentlyContext,
    ConsumeConcurrentlyStatus,
    ConsumeOrderlyContext,
    ConsumeOrderlyStatus,
    Messages,
)
from rocketmq_py.rate_limited_log import RateLimitedLog

_log = logging.getLogger(__name__)

Key = Callable[[MessageExt], str | None]


@overload
def idempotent(
    listener: MessageListenerConcurrently, key: Key | str = ..., store: IdempotenceStore | None = ...
) -> MessageListenerConcurrently: ...
@overload
def idempotent(
    listener: MessageListenerOrderly, key: Key | str = ..., store: IdempotenceStore | None = ...
) -> MessageListenerOrderly: ...
def idempotent(
    listener: MessageListenerConcurrently | MessageListenerOrderly,
    key: Key | str = "msg_id",
    store: IdempotenceStore | None = None,
) -> MessageListenerConcurrently | MessageListenerOrderly:
    """Make a listener of the same kind that hands each key's message over until it succeeded, and then no more.

    Args:
        listener: what consumes.
        key: ``msg_id``, the producer's id, which every redelivery of a message keeps; ``keys``, the business keys that
            the producer set; or a function of the message.
        store: where keys are remembered, one per group; None: a ``MemoryStore``, for what this process consumed.

    A message without a key, or whose function raises, fails with a warning; it is not handed over.

    Raises:
        ConfigError: an argument is none of these, or the listener and the store do not go together.

    Source: not in Java.
    """
    key_of = _key_of(key)
    store = MemoryStore() if store is None else store
    if not callable(getattr(store, "claim", None)):
        raise ConfigError(f"store is an object with a method claim(keys), not {store!r}")
    consume = check_listener(listener)
    if isinstance(store, SqliteTransaction) and isinstance(listener, FanOut):
        raise ConfigError(
            "a SqliteTransaction is one thread's, and fan_out calls its handler on others, outside of the transaction: "
            "use another store, or no fan_out"
        )
    if isinstance(listener, MessageListenerConcurrently):
        return _Concurrently(listener, consume, key_of, store)
    return _Orderly(listener, consume, key_of, store)


class _Concurrently(MessageListenerConcurrently):
    """Behaviour: ID-01 to ID-04."""

    def __init__(
        self, listener: MessageListenerConcurrently, consume: Any, key_of: Key, store: IdempotenceStore
    ) -> None:
        super().__init__()
        self._listener = listener
        self._consume = consume
        self._key_of = key_of
        self._store = store
        self._warnings = RateLimitedLog(SystemClock(), _log)

    def consume_message(self, msgs: Messages, context: ConsumeConcurrentlyContext) -> ConsumeConcurrentlyStatus | None:
        """See ``MessageListener.consume_message``."""
        places: dict[str, list[int]] = {}  # a key's messages in this batch: the first one is handed over for all
        failed: set[int] = set()
        for index, msg in enumerate(msgs):
            try:
                places.setdefault(_checked_key(self._key_of, msg), []).append(index)
            except Exception as error:  # noqa: BLE001 - border: the user's function; the others of the batch go on
                failed.add(index)
                self._warnings.warning(type(error), "message %s is not consumed: %s", msg.msg_id, error)
        if places:
            status = self._claimed(msgs, context, places, failed)
            if not isinstance(status, ConsumeConcurrentlyStatus):
                return status  # it is reported as what it is, and all come again
        if len(failed) == len(msgs):
            return ConsumeConcurrentlyStatus.RECONSUME_LATER
        if failed:
            context.failed_indexes = failed
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS

    def consumer_started(self) -> None:
        """See ``MessageListener.consumer_started``."""
        self._listener.consumer_started()

    def consumer_stopped(self) -> None:
        """See ``MessageListener.consumer_stopped``."""
        self._listener.consumer_stopped()

    def _claimed(
        self, msgs: Messages, context: ConsumeConcurrentlyContext, places: Mapping[str, list[int]], failed: set[int]
    ) -> ConsumeConcurrentlyStatus | None:
        """Hand over what is new; adds the messages that come again to ``failed``."""
        claim = self._store.claim(list(places))
        done: list[str] = []
        status: ConsumeConcurrentlyStatus | None = ConsumeConcurrentlyStatus.CONSUME_SUCCESS
        fresh = [key for key in places if claim.states[key] is KeyState.CLAIMED]
        try:
            if fresh:
                inner = ConsumeConcurrentlyContext(context.message_queue)
                inner.delay_level_when_next_consume = context.delay_level_when_next_consume
                status = self._consume(tuple(msgs[places[key][0]] for key in fresh), inner)
                if KeyState.CONSUMING not in claim.states.values():  # theirs must not go to the dead letters with ours
                    context.delay_level_when_next_consume = inner.delay_level_when_next_consume
                again = set(come_again(status, inner, len(fresh)))
                done = [key for index, key in enumerate(fresh) if index not in again]
        finally:
            settled = set(claim.settle(done))
        for key, indexes in places.items():
            if claim.states[key] is not KeyState.CONSUMED and key not in settled:
                failed.update(indexes)
        return status


class _Orderly(MessageListenerOrderly):
    """Behaviour: ID-05."""

    def __init__(self, listener: MessageListenerOrderly, consume: Any, key_of: Key, store: IdempotenceStore) -> None:
        super().__init__()
        self._listener = listener
        self._consume = consume
        self._key_of = key_of
        self._store = store

    def consume_message(self, msgs: Messages, context: ConsumeOrderlyContext) -> ConsumeOrderlyStatus | None:
        """See ``MessageListener.consume_message``. A key that another call has claimed holds the queue."""
        first: dict[str, MessageExt] = {}
        for msg in msgs:
            first.setdefault(_checked_key(self._key_of, msg), msg)
        claim = self._store.claim(list(first))
        done: list[str] = []
        status: ConsumeOrderlyStatus | None = ConsumeOrderlyStatus.SUCCESS
        try:
            if KeyState.CONSUMING in claim.states.values():
                status = ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
            elif fresh := [key for key in first if claim.states[key] is KeyState.CLAIMED]:
                status = self._consume(tuple(first[key] for key in fresh), context)
                if not context.auto_commit:
                    raise ConfigError(
                        "an idempotent listener must leave auto_commit on: what is marked as consumed cannot be rolled "
                        "back"
                    )
                if isinstance(status, ConsumeOrderlyStatus) and orderly_action(status, True) is OrderlyAction.COMMIT:
                    done = fresh
        finally:
            settled = claim.settle(done)
        return status if len(settled) == len(done) else ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT

    def consumer_started(self) -> None:
        """See ``MessageListener.consumer_started``."""
        self._listener.consumer_started()

    def consumer_stopped(self) -> None:
        """See ``MessageListener.consumer_stopped``."""
        self._listener.consumer_stopped()


def _msg_id(msg: MessageExt) -> str | None:
    properties = msg.properties
    # A message without a producer's id has a new id in the retry topic; there it carries the first one.
    return properties.get(MessageConst.UNIQ_KEY) or properties.get(MessageConst.ORIGIN_MESSAGE_ID) or msg.offset_msg_id


_KEYS: Mapping[str, Key] = {"msg_id": _msg_id, "keys": lambda msg: msg.keys}


def _key_of(key: object) -> Key:
    if isinstance(key, str) and key in _KEYS:
        return _KEYS[key]
    if callable(key):
        return key
    raise ConfigError(f"key is 'msg_id', 'keys' or a function of a message, not {key!r}")


def _checked_key(key_of: Key, msg: MessageExt) -> str:
    key: object = key_of(msg)
    if not isinstance(key, str) or not key:
        raise ConfigError(
            f"its key is {key!r}, not a text: have producers set it, or give idempotent() a function that answers "
            "something for every message"
        )
    return key
