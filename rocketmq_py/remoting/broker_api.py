"""The requests that this package makes, and the one place where answers become results or errors.

Satisfies ``consumer.ports.Broker``. Source: MQClientAPIImpl, PullAPIWrapper, RemoteBrokerOffsetStore's broker look-ups.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConnectError, ProtocolError, RocketMQError
from rocketmq_py.model.calls import PullCall
from rocketmq_py.model.codes import MASTER_ID, PullSysFlag, RequestCode, ResponseCode
from rocketmq_py.model.message import MessageExt, PullBounds
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import PullResult, PullStatus, QueueAssignment
from rocketmq_py.model.subscription import TAG, SubscriptionData
from rocketmq_py.remoting import bodies, message_status_bodies
from rocketmq_py.remoting.frame import RemotingCommand
from rocketmq_py.remoting.message_codec import decode_messages
from rocketmq_py.remoting.message_sender import MessageSender
from rocketmq_py.remoting.outgoing_message import OutgoingMessage
from rocketmq_py.remoting.proxy_lanes import SHARED_HOLD_MS, ProxyLanes
from rocketmq_py.remoting.remoting_client import CONTROL_LANE, RemotingClient, Request
from rocketmq_py.remoting.route_table import FoundBroker, RouteTable

if TYPE_CHECKING:
    from rocketmq_py.model.route import TopicRouteData

OFFSET_UPDATE_TIMEOUT_MS = 5_000
OFFSET_LOOK_UP_TIMEOUT_MS = 6_000
"""For the first and last offset and the offset of a moment. Source: MQAdminImpl.timeoutMillis."""
QUERY_ASSIGNMENT_TIMEOUT_MS = 3_000
UNREGISTER_TIMEOUT_MS = 1_000
EXPRESSIONS_SINCE_VERSION = 232
"""``MQVersion`` ordinal of V4_1_0_SNAPSHOT, the first that knows expressions other than tags."""
SEND_RETRY_TIMEOUT_MS = 3_000

_PULL_STATUS = {
    ResponseCode.SUCCESS: PullStatus.FOUND,
    ResponseCode.PULL_NOT_FOUND: PullStatus.NO_NEW_MSG,
    ResponseCode.PULL_RETRY_IMMEDIATELY: PullStatus.NO_MATCHED_MSG,
    ResponseCode.PULL_OFFSET_MOVED: PullStatus.OFFSET_ILLEGAL,
}

_log = logging.getLogger(__name__)


class BrokerApi:
    """Requests to brokers (or a proxy), by queue or by address.

    Any thread may call it. Blocking, except ``pull_message`` and the one-way ones.

    Args:
        refresh_route: asks a name server for a topic's route, once, when a broker is not known.
        timeout_ms: for requests without a time-out of their own.
    """

    def __init__(
        self,
        remoting: RemotingClient,
        routes: RouteTable,
        sender: MessageSender,
        clock: Clock,
        refresh_route: Callable[[str], object],
        timeout_ms: int,
    ) -> None:
        self._remoting = remoting
        self._routes = routes
        self._sender = sender
        self._clock = clock
        self._refresh_route = refresh_route
        self._timeout_ms = timeout_ms
        self._lanes: dict[str, ProxyLanes] = {}
        self._versions: dict[str, int] = {}  # of brokers, by address, as their answers to heartbeats tell them
        self._want_acknowledgements: frozenset[str] = frozenset()  # addresses of brokers; replaced, not edited
        self._suggested_broker: dict[MessageQueue, int] = {}  # Java: pullFromWhichNodeTable

    # Pull.

    def pull_message(
        self, call: PullCall, on_result: Callable[[PullResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        """See ``consumer.ports.Broker.pull_message``. Source: PullAPIWrapper.pullKernelImpl, processPullResult."""
        mq = call.mq
        broker = self._routes.find_broker(mq.broker_name, self._suggested_broker.get(mq, MASTER_ID))
        if broker is None:
            self._remoting.run_later(lambda: self._find_and_pull(call, on_result, on_error))
            return
        if call.subscription.expression_type != TAG and self._is_too_old(broker.address):
            self._remoting.run_later(lambda: on_error(_too_old(broker.address, call.subscription)))
            return
        if not self._routes.is_proxy(broker.address):
            self._pull(broker, CONTROL_LANE, call, call.hold_ms, on_result, on_error)
            return
        lanes = self._lanes.setdefault(broker.address, ProxyLanes(self._clock))

        def begin(number: int, shared: bool) -> None:
            left = False

            def leave() -> None:
                # Once, although an error in on_result comes back through on_error.
                nonlocal left
                if not left:
                    left = True
                    lanes.leave(number)

            def result(pulled: PullResult) -> None:
                leave()
                on_result(pulled)

            def error(failure: Exception) -> None:
                leave()
                on_error(failure)

            self._pull(broker, number, call, SHARED_HOLD_MS if shared else call.hold_ms, result, error)

        lanes.enter((call.group, mq), begin)

    def _is_too_old(self, address: str) -> bool:
        # A broker not heard yet is asked: Java takes it for too old.
        return self._versions.get(address, EXPRESSIONS_SINCE_VERSION) < EXPRESSIONS_SINCE_VERSION

    def _find_and_pull(
        self, call: PullCall, on_result: Callable[[PullResult], None], on_error: Callable[[Exception], None]
    ) -> None:
        try:
            self._address_of(call.mq)
        except Exception as error:  # noqa: BLE001 - border: a pull that nobody is told about is a queue that stops
            on_error(error)
        else:
            self.pull_message(call, on_result, on_error)

    def _pull(
        self,
        broker: FoundBroker,
        lane: int,
        call: PullCall,
        hold_ms: int,
        on_result: Callable[[PullResult], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        mq, subscription = call.mq, call.subscription
        # A slave keeps no offsets.
        commits = call.commit_offset > 0 and not broker.is_slave
        sys_flag = PullSysFlag.SUSPEND
        if commits:
            sys_flag |= PullSysFlag.COMMIT_OFFSET
        ext_fields = {
            "consumerGroup": call.group,
            "topic": mq.topic,
            "queueId": str(mq.queue_id),
            "queueOffset": str(call.offset),
            "maxMsgNums": str(call.batch_size),
            "maxMsgBytes": str(call.batch_bytes),
            "commitOffset": str(call.commit_offset if commits else 0),
            "suspendTimeoutMillis": str(hold_ms),
            "subVersion": str(subscription.sub_version),
            "expressionType": subscription.expression_type,
            "bname": mq.broker_name,
        }
        if call.send_subscription:
            sys_flag |= PullSysFlag.SUBSCRIPTION
            ext_fields["subscription"] = subscription.sub_string
        ext_fields["sysFlag"] = str(sys_flag)

        def reply(command: RemotingCommand) -> None:
            on_result(self._pull_result(command, mq, broker.address))

        def slave_failed(failure: Exception) -> None:
            # The master has the messages, too: it is asked next, and may name the slave again. Java asks the slave on.
            self._suggested_broker.pop(mq, None)
            on_error(failure)

        self._remoting.invoke_async(
            (broker.address, lane), Request(RequestCode.PULL_MESSAGE, ext_fields), call.timeout_ms, reply,
            slave_failed if broker.is_slave else on_error,
        )  # fmt: skip

    def _pull_result(self, reply: RemotingCommand, mq: MessageQueue, address: str) -> PullResult:
        status = _PULL_STATUS.get(reply.code)  # type: ignore[call-overload]
        if status is None:
            raise BrokerError(reply.code, reply.remark or "", address, f"pull {mq}")
        next_offset = reply.offset("nextBeginOffset")
        min_offset, max_offset = reply.offset("minOffset", lowest=-1), reply.offset("maxOffset", lowest=-1)
        self._suggested_broker[mq] = reply.integer("suggestWhichBrokerId")
        messages: list[MessageExt] = []
        if status is PullStatus.FOUND:
            messages = decode_messages(reply.body, PullBounds(min_offset, max_offset, mq.broker_name))
            if max([message.queue_offset for message in messages], default=-1) >= next_offset:
                raise ProtocolError(f"a message of {mq} lies behind {next_offset}, where the next pull begins")
        return PullResult(status, next_offset, min_offset, max_offset, messages)

    # Offsets.

    def query_consumer_offset(self, group: str, mq: MessageQueue, timeout_ms: int) -> int | None:
        """See ``consumer.ports.Broker.query_consumer_offset``."""
        address = self._address_of(mq, prefer_master=True).address
        request = Request(RequestCode.QUERY_CONSUMER_OFFSET, {"consumerGroup": group, **_queue_fields(mq)})
        doing = f"query the offset of {mq} for group {group}"
        reply = self._remoting.invoke_sync(address, request, timeout_ms, doing)
        if reply.code == ResponseCode.QUERY_NOT_FOUND:
            return None
        if reply.code != ResponseCode.SUCCESS:
            raise BrokerError(reply.code, reply.remark or "", address, doing)
        return reply.offset("offset")

    def update_consumer_offset(self, group: str, mq: MessageQueue, offset: int) -> None:
        """See ``consumer.ports.Broker.update_consumer_offset``."""
        request = _offset_update(group, mq, offset)
        self._remoting.invoke_oneway(self._address_of(mq).address, request, OFFSET_UPDATE_TIMEOUT_MS)

    def commit_consumer_offset(self, group: str, mq: MessageQueue, offset: int, timeout_ms: int) -> None:
        """See ``consumer.ports.Broker.commit_consumer_offset``."""
        request = _offset_update(group, mq, offset)
        self._remoting.invoke_ok(self._address_of(mq).address, request, timeout_ms, f"commit offset {offset} of {mq}")

    # Locks.

    def lock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int
    ) -> set[MessageQueue]:
        """See ``consumer.ports.Broker.lock_batch_mq``."""
        body = bodies.encode_lock_batch(bodies.LockBatch(group, client_id, set(mqs)))
        request = Request(RequestCode.LOCK_BATCH_MQ, {}, body)
        address = self._master_of(broker_name)
        reply = self._remoting.invoke_ok(address, request, timeout_ms, f"lock {len(mqs)} queues for group {group}")
        return bodies.parse_locked(reply.body)

    def unlock_batch_mq(
        self, group: str, client_id: str, broker_name: str, mqs: Collection[MessageQueue], timeout_ms: int, oneway: bool
    ) -> None:
        """See ``consumer.ports.Broker.unlock_batch_mq``."""
        body = bodies.encode_lock_batch(bodies.LockBatch(group, client_id, set(mqs)))
        request = Request(RequestCode.UNLOCK_BATCH_MQ, {}, body)
        address = self._master_of(broker_name)
        if oneway:
            self._remoting.invoke_oneway(address, request, timeout_ms)
        else:
            self._remoting.invoke_ok(address, request, timeout_ms, f"unlock {len(mqs)} queues for group {group}")

    # Ends of queues.

    def max_offset(self, mq: MessageQueue) -> int:
        """See ``consumer.ports.Broker.max_offset``."""
        return self._offset(RequestCode.GET_MAX_OFFSET, mq, {}, "ask for the last offset")

    def min_offset(self, mq: MessageQueue) -> int:
        """First offset that the queue still has."""
        return self._offset(RequestCode.GET_MIN_OFFSET, mq, {}, "ask for the first offset")

    def search_offset(self, mq: MessageQueue, timestamp_ms: int) -> int:
        """See ``consumer.ports.Broker.search_offset``."""
        fields = {"timestamp": str(timestamp_ms)}
        return self._offset(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, mq, fields, "ask for the offset of a moment")

    def _offset(self, code: RequestCode, mq: MessageQueue, fields: Mapping[str, str], doing: str) -> int:
        address = self._address_of(mq, only_master=True).address
        request = Request(code, {**_queue_fields(mq), **fields})
        reply = self._remoting.invoke_ok(address, request, OFFSET_LOOK_UP_TIMEOUT_MS, f"{doing} of {mq}")
        return reply.integer("offset")

    # Retries.

    def send_message_back(
        self, group: str, msg: MessageExt, delay_level: int, max_reconsume_times: int, timeout_ms: int
    ) -> None:
        """See ``consumer.ports.Broker.send_message_back``."""
        fields = {
            "group": group,
            "offset": str(msg.commit_log_offset),
            "delayLevel": str(delay_level),
            "originMsgId": msg.msg_id,
            "originTopic": msg.topic,
            "maxReconsumeTimes": str(max_reconsume_times),
            "unitMode": "false",
            "bname": msg.broker_name,
        }
        request = Request(RequestCode.CONSUMER_SEND_MSG_BACK, fields)
        self._remoting.invoke_ok(
            self._master_of(msg.broker_name), request, timeout_ms, f"send message {msg.msg_id} back"
        )

    def send_retry_message(self, topic: str, body: bytes, flag: int, properties: Mapping[str, str]) -> None:
        """See ``consumer.ports.Broker.send_retry_message``."""
        message = OutgoingMessage(topic, body, flag, dict(properties))
        self._sender.send(message, SEND_RETRY_TIMEOUT_MS, retries=2)

    # Statuses of messages.

    def wants_acknowledgements(self) -> bool:
        """See ``consumer.ports.StatusBroker.wants_acknowledgements``."""
        return bool(self._want_acknowledgements)

    def acknowledge_statuses(
        self, group: str, broker_name: str, spans: Sequence[tuple[MessageQueue, int, int]], timeout_ms: int
    ) -> None:
        """See ``consumer.ports.StatusBroker.acknowledge_statuses``."""
        address = self._master_of(broker_name)
        if address in self._want_acknowledgements:
            body = message_status_bodies.encode_acknowledgement(spans)
            request = Request(RequestCode.UPDATE_MESSAGE_STATUS, {"consumerGroup": group, "bname": broker_name}, body)
            self._remoting.invoke_ok(address, request, timeout_ms, f"acknowledge statuses of group {group}")

    # Transactions.

    def end_transaction(self, address: str, fields: Mapping[str, str], remark: str | None, timeout_ms: int) -> None:
        """Tell a broker how a transaction ended, one-way.

        Args:
            address: of the broker that has the half message.
            fields: those of EndTransactionRequestHeader.
            remark: why it is not known, for the broker's log.
            timeout_ms: for connecting.
        """
        self._remoting.invoke_oneway(address, Request(RequestCode.END_TRANSACTION, fields, b"", remark), timeout_ms)

    # Groups and routes.

    def topic_route(self, name_server: str, topic: str) -> TopicRouteData:
        """Ask one name server (or proxy) for a topic's route.

        Raises:
            BrokerError: TOPIC_NOT_EXIST and others.
        """
        request = Request(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic, "acceptStandardJsonOnly": "true"})
        reply = self._remoting.invoke_ok(name_server, request, self._timeout_ms, f"ask for the route of topic {topic}")
        return bodies.parse_topic_route(reply.body)

    def heartbeat(self, address: str, body: bytes) -> None:
        """Tell one broker what this client is."""
        request = Request(RequestCode.HEART_BEAT, {}, body)
        reply = self._remoting.invoke_ok(address, request, self._timeout_ms, "send a heartbeat")
        self._versions[address] = reply.version
        wants = reply.ext_fields.get(message_status_bodies.ANNOUNCED) == "true"
        if wants != (address in self._want_acknowledgements):
            self._want_acknowledgements ^= {address}
        if "MSG_REGION" in reply.ext_fields:  # only a proxy puts it into every answer
            self._routes.note_proxy(address)

    def check_client_config(self, address: str, client_id: str, group: str, subscription: SubscriptionData) -> None:
        """Ask one broker whether it takes a subscription's expression.

        Raises:
            BrokerError: it does not: SUBSCRIPTION_PARSE_FAILED, SYSTEM_ERROR when it knows no such expressions.
        """
        body = bodies.encode_check_client_config(client_id, group, subscription)
        doing = f"subscribe to topic {subscription.topic} by {subscription.expression_type} {subscription.sub_string!r}"
        self._remoting.invoke_ok(address, Request(RequestCode.CHECK_CLIENT_CONFIG, {}, body), self._timeout_ms, doing)

    def unregister_client(self, address: str, client_id: str, producer_group: str, consumer_group: str) -> None:
        """Tell one broker that a group's member is gone; "" for no such group."""
        fields = {"clientID": client_id, "producerGroup": producer_group, "consumerGroup": consumer_group}
        request = Request(RequestCode.UNREGISTER_CLIENT, {name: value for name, value in fields.items() if value})
        self._remoting.invoke_ok(address, request, UNREGISTER_TIMEOUT_MS, f"unregister client {client_id}")

    def consumer_id_list(self, address: str, group: str) -> list[str]:
        """Ask one broker for a group's members.

        Raises:
            BrokerError: it knows none (SYSTEM_ERROR), and others.
        """
        request = Request(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": group})
        reply = self._remoting.invoke_ok(address, request, self._timeout_ms, f"ask for the members of group {group}")
        return bodies.parse_consumer_id_list(reply.body)

    def query_assignment(
        self, address: str, topic: str, group: str, client_id: str, strategy_name: str, message_model: str
    ) -> QueueAssignment | None:
        """Ask one broker which queues are this member's; see ``bodies.parse_assignment``.

        Raises:
            BrokerError: it does not assign queues (REQUEST_CODE_NOT_SUPPORTED), and others.
        """
        body = bodies.encode_query_assignment(topic, group, client_id, strategy_name, message_model)
        request = Request(RequestCode.QUERY_ASSIGNMENT, {}, body)
        doing = f"ask for the queues of {topic} that group {group} gives this member"
        reply = self._remoting.invoke_ok(address, request, QUERY_ASSIGNMENT_TIMEOUT_MS, doing)
        return bodies.parse_assignment(reply.body)

    def _master_of(self, broker_name: str) -> str:
        broker = self._routes.find_broker(broker_name, only_this=True)
        if broker is None:
            raise ConnectError(f"broker {broker_name} has no master now")
        return broker.address

    def _address_of(self, mq: MessageQueue, only_master: bool = False, prefer_master: bool = False) -> FoundBroker:
        """Source: the look-ups in RemoteBrokerOffsetStore and MQAdminImpl: one refresh of the route, then give up."""
        broker = self._routes.find_broker(mq.broker_name, MASTER_ID, only_master or prefer_master)
        if broker is None:
            try:
                self._refresh_route(mq.topic)
            except RocketMQError as error:
                _log.debug("refreshing the route of %s failed: %s", mq.topic, error)
            broker = self._routes.find_broker(mq.broker_name, MASTER_ID, only_master)
        if broker is None:
            raise ConnectError(f"broker {mq.broker_name} of {mq} is not in the route of its topic now")
        return broker


def _offset_update(group: str, mq: MessageQueue, offset: int) -> Request:
    fields = {"consumerGroup": group, "commitOffset": str(offset), **_queue_fields(mq)}
    return Request(RequestCode.UPDATE_CONSUMER_OFFSET, fields)


def _too_old(address: str, subscription: SubscriptionData) -> BrokerError:
    remark = f"it is older than 4.1.0 and takes the expression {subscription.sub_string!r} for tags"
    return BrokerError(ResponseCode.VERSION_NOT_SUPPORTED, remark, address, f"pull topic {subscription.topic}")


def _queue_fields(mq: MessageQueue) -> dict[str, str]:
    # bname: brokers ignore it, proxies find the broker by it.
    return {"topic": mq.topic, "queueId": str(mq.queue_id), "bname": mq.broker_name}
