"""A producer whose messages are delivered when a transaction of its own has succeeded.

A half message is stored first, which no consumer sees. Then the local transaction runs, and the broker is told to
commit or to roll back. When it is not told it asks, again and again, any producer of the group.

Source: TransactionMQProducer, DefaultMQProducerImpl.sendMessageInTransaction, endTransaction, checkTransactionState.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Unpack

from rocketmq_py.client_instance import TransactionCheck
from rocketmq_py.errors import ConfigError, ConnectError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.config import INT_MAX, ProducerConfig, check_names, check_range
from rocketmq_py.model.message import Message, MessageConst, MessageExt
from rocketmq_py.model.producer_hooks import EndTransactionContext, run_guarded
from rocketmq_py.model.results import LocalTransactionState, SendResult, SendStatus, TransactionSendResult
from rocketmq_py.model.settings import ProducerSettings
from rocketmq_py.producer import DefaultMQProducer, GrpcCheck, Running
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_message_id
from rocketmq_py.remoting.outgoing_message import outgoing_single
from rocketmq_py.runtime import WorkerPool

END_AFTER_CHECK_TIMEOUT_MS = 3_000
REMARK_MAX_LENGTH = 1_000
CHECKS_WAITING_MAX_BYTES = 64 * 1024 * 1024

_COMMIT_OR_ROLLBACK = {
    LocalTransactionState.COMMIT_MESSAGE: MessageSysFlag.TRANSACTION_COMMIT_TYPE,
    LocalTransactionState.ROLLBACK_MESSAGE: MessageSysFlag.TRANSACTION_ROLLBACK_TYPE,
    LocalTransactionState.UNKNOW: MessageSysFlag.TRANSACTION_NOT_TYPE,
}

_log = logging.getLogger(__name__)


class TransactionListener(Protocol):
    """The local transactions of a producer. Source: TransactionListener.

    Both answer a ``LocalTransactionState``; an exception, None or anything else means UNKNOW, so the broker asks later.
    """

    def execute_local_transaction(self, msg: Message, arg: Any) -> LocalTransactionState | None:
        """Run the local transaction; on the thread that sends, after the half message was stored.

        Args:
            msg: a copy of the message with ``transaction_id``.
            arg: as given to ``send_message_in_transaction``.
        """
        ...

    def check_local_transaction(self, msg: MessageExt) -> LocalTransactionState | None:
        """How the transaction of a message stands; on a check thread, also for messages of other members."""
        ...


class _Check(NamedTuple):
    """A server's question, and how to answer it."""

    address: str
    msg: MessageExt
    transaction_id: str | None
    size_bytes: int
    tell: Callable[[LocalTransactionState, str | None], None]


class TransactionMQProducer(DefaultMQProducer):
    """Sends messages in transactions, and all that ``DefaultMQProducer`` sends.

    Members of a group must be able to answer for each other. A member that sends nothing gets a broker's questions only
    if ``topics`` names a topic of that broker.

    Args:
        producer_group: name of the group.
        transaction_listener: the local transactions.
        check_thread_pool_min_size: no effect, as long as it is not larger than the maximum.
        check_thread_pool_max_size: threads that answer questions, 1..1000 (1).
        check_request_hold_max: questions that wait for one of them; further ones are dropped, as are those that come
            while 64 MiB of messages wait; the broker asks again.
        **settings: see ``ProducerConfig``.

    Raises:
        ConfigError: there is no such setting.
    """

    __slots__ = (
        "_check_warnings",
        "_checks_waiting",
        "_checks_waiting_bytes",
        "_pool",
        "check_request_hold_max",
        "check_thread_pool_max_size",
        "check_thread_pool_min_size",
        "transaction_listener",
    )

    def __init__(
        self,
        producer_group: str,
        *,
        transaction_listener: TransactionListener | None = None,
        check_thread_pool_min_size: int = 1,
        check_thread_pool_max_size: int = 1,
        check_request_hold_max: int = 2_000,
        **settings: Unpack[ProducerSettings],
    ) -> None:
        own = [name for name in TransactionMQProducer.__slots__ if not name.startswith("_")]
        check_names(ProducerConfig, settings, own)
        super().__init__(producer_group, **settings)
        self.transaction_listener = transaction_listener
        self.check_thread_pool_min_size = check_thread_pool_min_size
        self.check_thread_pool_max_size = check_thread_pool_max_size
        self.check_request_hold_max = check_request_hold_max
        self._check_warnings = RateLimitedLog(self._runtime.clock, _log)
        # Guarded by the lock of the base class; the threads are started by the first question.
        self._pool: WorkerPool[_Check] | None = None
        self._checks_waiting = 0
        self._checks_waiting_bytes = 0

    def start(self) -> None:
        """See ``DefaultMQProducer.start``; what is no transaction listener is refused, too."""
        check_range("check_thread_pool_max_size", self.check_thread_pool_max_size, 1, 1_000)
        check_range("check_thread_pool_min_size", self.check_thread_pool_min_size, 1, self.check_thread_pool_max_size)
        check_range("check_request_hold_max", self.check_request_hold_max, 1, INT_MAX)
        listener = self.transaction_listener
        if isinstance(listener, type):
            raise ConfigError(f"a transaction listener is an object, not a class: write {listener.__name__}(...)")
        for name in ("execute_local_transaction", "check_local_transaction"):
            if listener is not None and not callable(getattr(listener, name, None)):
                raise ConfigError(f"a transaction listener has the method {name}, {listener!r} has none")
        super().start()

    def shutdown(self) -> None:
        """See ``DefaultMQProducer.shutdown``. Questions that wait are dropped: the broker asks again."""
        super().shutdown()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(0)

    def send_message_in_transaction(self, message: Message, arg: Any = None) -> TransactionSendResult:
        """Store a half message, run the local transaction, and tell the broker how it ended.

        The local transaction runs only if the half message was stored as well as was asked for; else the message is
        rolled back. A delay level of the message is ignored. Telling the broker needs no answer: if it is lost, the
        broker asks ``check_local_transaction``.

        Args:
            message: a single one.
            arg: handed to ``execute_local_transaction``.

        Returns:
            What ``send`` returns, and what the broker was told.

        Raises:
            ConfigError: there is no transaction listener, or the message cannot be sent as it is.
            BrokerError, TransportError, IllegalStateError: as in ``send``; the local transaction did not run.
        """
        listener = self.transaction_listener
        if listener is None:
            raise ConfigError("TransactionListener is null: give the producer a transaction_listener")
        if not isinstance(message, Message):
            raise ConfigError(f"a message in a transaction is one Message, not {type(message).__name__}")
        running = self._started()
        outgoing = outgoing_single(message, self.max_message_size)
        outgoing.properties.pop(MessageConst.DELAY_TIME_LEVEL, None)
        outgoing.properties[MessageConst.TRANSACTION_PREPARED] = "true"
        outgoing.properties[MessageConst.PRODUCER_GROUP] = self._wire_group
        topic = self.with_namespace(message.topic)
        running.note_published(topic)
        timeout_ms = self.send_msg_timeout
        timeout_ms -= running.await_next_try(topic, timeout_ms)
        if isinstance(running, Running):
            self._announce(running, message.topic)
        sent = running.sender.send(outgoing, timeout_ms, retries=self.retry_times_when_send_failed)
        state, remark = LocalTransactionState.ROLLBACK_MESSAGE, None
        if sent.send_status is SendStatus.SEND_OK:
            if sent.transaction_id is not None:
                outgoing.properties[MessageConst.TRANSACTION_ID] = sent.transaction_id
            state = LocalTransactionState.UNKNOW
            try:
                state = self._state(listener.execute_local_transaction(outgoing, arg), sent.msg_id)
            except Exception as error:  # noqa: BLE001 - border: the listener is the user's code
                _log.exception("the local transaction of message %s failed, the broker will ask", sent.msg_id)
                remark = f"executeLocalTransactionBranch exception: {error!r}"
        self._end_transaction(outgoing, sent, state, remark)
        fields = {field.name: getattr(sent, field.name) for field in dataclasses.fields(SendResult)}
        return TransactionSendResult(**fields, local_transaction_state=state)

    def _end_transaction(
        self, message: Message, sent: SendResult, state: LocalTransactionState, remark: str | None
    ) -> None:
        """Source: DefaultMQProducerImpl.endTransaction; whatever goes wrong, the broker will ask."""
        broker_name = sent.message_queue.broker_name
        try:
            running = self._started()
            if not isinstance(running, Running):
                self._run_hooks(message, broker_name, sent.msg_id, sent.transaction_id, state, from_check=False)
                running.sender.end_transaction(
                    self.with_namespace(message.topic), broker_name, sent.msg_id, sent.transaction_id or "", state,
                    asked=False,
                )  # fmt: skip
                return
            broker = running.client.routes.find_broker(broker_name, only_this=True)
            address = broker.address if broker is not None else None
            self._run_hooks(message, address, sent.msg_id, sent.transaction_id, state, from_check=False)
            fields = {
                "topic": self.with_namespace(message.topic),
                "commitLogOffset": str(decode_message_id(sent.offset_msg_id or sent.msg_id)[2]),
                "tranStateTableOffset": str(sent.queue_offset),
                "fromTransactionCheck": "false",
                "msgId": sent.msg_id,
                "transactionId": sent.transaction_id,
                "bname": broker_name,
            }
            self._tell(address, fields, state, remark, self.send_msg_timeout)
        except RocketMQError as error:
            _log.warning(
                "the transaction of message %s is %s, but its broker could not be told and will ask: %s",
                sent.msg_id, state.value, error,
            )  # fmt: skip

    def _tell(
        self, address: str | None, fields: dict[str, str | None], state: LocalTransactionState, remark: str | None,
        timeout_ms: int,
    ) -> None:  # fmt: skip
        if address is None:
            raise ConnectError(f"broker {fields['bname']} has no master now")
        fields = {**fields, "producerGroup": self._wire_group, "commitOrRollback": str(_COMMIT_OR_ROLLBACK[state])}
        known = {name: value for name, value in fields.items() if value is not None}
        short = remark[:REMARK_MAX_LENGTH] if remark is not None else None
        self._remoting("end_transaction").client.broker.end_transaction(address, known, short, timeout_ms)

    # Questions of brokers.

    def _transaction_check(self) -> TransactionCheck:
        return self._take_check

    def _grpc_check(self) -> GrpcCheck:
        return self._take_grpc_check

    def _take_check(self, address: str, msg: MessageExt, request: RemotingCommand) -> None:
        """On the I/O thread."""
        asked = request.ext_fields

        def tell(state: LocalTransactionState, remark: str | None) -> None:
            fields = {
                "topic": asked.get("topic"),
                "commitLogOffset": asked.get("commitLogOffset"),
                "tranStateTableOffset": asked.get("tranStateTableOffset"),
                "fromTransactionCheck": "true",
                "msgId": msg.msg_id,
                "transactionId": asked.get("transactionId"),
                "bname": asked.get("bname"),
            }
            self._tell(address, fields, state, remark, END_AFTER_CHECK_TIMEOUT_MS)

        self._take(_Check(address, msg, asked.get("transactionId"), len(request.body), tell))

    def _take_grpc_check(self, address: str, broker: str, msg: MessageExt, transaction_id: str) -> None:
        """On the thread that reads the server's commands. Behaviour: GP-05."""
        topic = msg.topic

        def tell(state: LocalTransactionState, remark: str | None) -> None:
            running = self._started()
            if not isinstance(running, Running):
                running.sender.end_transaction(topic, broker, msg.msg_id, transaction_id, state, asked=True)

        self._take(_Check(address, msg, transaction_id, len(msg.body), tell))

    def _take(self, check: _Check) -> None:
        """Have a question answered on a check thread."""
        with self._lock:
            if self._closed:
                return
            waiting = self._checks_waiting
            full = waiting >= self.check_request_hold_max or self._checks_waiting_bytes >= CHECKS_WAITING_MAX_BYTES
            if self._pool is None:
                size = self.check_thread_pool_max_size
                self._pool = self._runtime.worker_pool("TransactionCheck_", size, self._answer_check)
            if not full:
                self._checks_waiting += 1
                self._checks_waiting_bytes += check.size_bytes
            pool = self._pool
        if full:
            self._check_warnings.warning(
                "full", "%s questions about transactions wait already, one of %s is dropped; it will ask again",
                waiting, check.address,
            )  # fmt: skip
        else:
            pool.submit(check)

    def _answer_check(self, check: _Check) -> None:
        """Source: DefaultMQProducerImpl.checkTransactionState."""
        address, msg, transaction_id, _, tell = check
        with self._lock:
            self._checks_waiting -= 1
            self._checks_waiting_bytes -= check.size_bytes
        listener = self.transaction_listener
        if listener is None:
            self._check_warnings.warning(
                "no listener", "%s asks about the transaction of message %s, but there is no transaction_listener",
                address, msg.msg_id,
            )  # fmt: skip
            return
        state, remark = LocalTransactionState.UNKNOW, None
        msg._topic = names.without_namespace(self.namespace, msg.topic)
        try:
            state = self._state(listener.check_local_transaction(msg), msg.msg_id)
        except BaseException as error:  # noqa: BLE001 - border: the listener is the user's code
            _log.exception("checking the local transaction of message %s failed, the broker will ask again", msg.msg_id)
            remark = f"checkLocalTransactionState Exception: {error!r}"
        self._run_hooks(msg, address, msg.msg_id, transaction_id, state, from_check=True)
        try:
            tell(state, remark)
        except RocketMQError as error:
            self._check_warnings.warning(
                address, "%s could not be told about the transaction of message %s and will ask again: %s",
                address, msg.msg_id, error,
            )  # fmt: skip

    def _state(self, answer: object, msg_id: str) -> LocalTransactionState:
        if isinstance(answer, LocalTransactionState):
            return answer
        if answer is not None:
            self._check_warnings.warning(
                "no state", "the transaction listener answered %r for message %s, which is no LocalTransactionState: "
                "taken as UNKNOW", answer, msg_id,
            )  # fmt: skip
        return LocalTransactionState.UNKNOW

    def _run_hooks(
        self,
        message: Message | MessageExt,
        address: str | None,
        msg_id: str,
        transaction_id: str | None,
        state: LocalTransactionState,
        *,
        from_check: bool,
    ) -> None:
        for hook in self._hooks.end_transaction:
            context = EndTransactionContext(self.group, message, address, msg_id, transaction_id, state, from_check)
            run_guarded(hook, hook.end_transaction, context)
