"""What a running ``SimpleConsumer`` consists of. Source: SimpleConsumerImpl of the Java gRPC client."""

from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import Callable

from rocketmq_py.errors import BrokerError, IllegalStateError, RequestTimeoutError
from rocketmq_py.grpc_v2.client import GrpcClient
from rocketmq_py.grpc_v2.consumer_role import ConsumerRole
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.receipt_api import ReceiptApi
from rocketmq_py.model.calls import PopCall
from rocketmq_py.model.codes import MASTER_ID, ResponseCode
from rocketmq_py.model.config import ClientConfig
from rocketmq_py.model.message import MessageExt
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.results import ConsumeInitMode
from rocketmq_py.model.subscription import SubscriptionData
from rocketmq_py.runtime import Mutex, Runtime

ROUTE_REFRESH_MS = 30_000
ALL_QUEUES = -1

_log = logging.getLogger(__name__)


class SimpleClient:
    """Any thread may call it. Lock: ``_lock`` guards the routes.

    Args:
        subscriptions: those of this moment.
    """

    def __init__(
        self, group: str, config: ClientConfig, runtime: Runtime, subscriptions: Callable[[], list[SubscriptionData]]
    ) -> None:
        self._group = group
        self._config = config
        self._runtime = runtime
        self._subscriptions = subscriptions
        self._turn = itertools.count()
        self._lock = Mutex()
        self._routes: dict[str, tuple[int, list[MessageQueue]]] = {}
        role = ConsumerRole(
            group, pb.SIMPLE_CONSUMER, Endpoints.parse(config.endpoints), config.mq_client_api_timeout, subscriptions
        )
        self.client = GrpcClient(config, role, runtime)
        self._api = ReceiptApi(self.client, runtime, group)
        try:
            self.client.start()
        except BaseException:
            self.client.close()
            raise

    def receive(self, max_nums: int, invisible_ms: int, await_ms: int) -> list[MessageExt]:
        """See ``SimpleConsumer.receive``: from one broker of one topic, in turn."""
        subscriptions = self._subscriptions()
        if not subscriptions:
            raise IllegalStateError("nothing is subscribed: call subscribe(topic) before receive()")
        turn = next(self._turn)
        subscription = subscriptions[turn % len(subscriptions)]
        brokers = self._brokers(subscription.topic)
        mq = brokers[turn // len(subscriptions) % len(brokers)]
        timeout_ms = await_ms + self._config.mq_client_api_timeout
        call = PopCall(
            self._group, mq, subscription, max_nums, invisible_ms, ConsumeInitMode.MAX, await_ms, timeout_ms,
            attempt=uuid.uuid4().hex,
        )  # fmt: skip
        result = self._api.receive(call, invisible_ms)
        for msg, error in result.corrupted:
            _log.warning("group %s: message %s cannot be shown, it comes again: %s", self._group, msg.msg_id, error)
        return result.messages

    def _brokers(self, topic: str) -> list[MessageQueue]:
        now_ms = self._runtime.clock.monotonic_ms()
        with self._lock:
            known = self._routes.get(topic)
        if known is not None and now_ms - known[0] < ROUTE_REFRESH_MS:
            return known[1]
        brokers = sorted(
            {
                MessageQueue(topic, queue.broker.name, ALL_QUEUES)
                for queue in self.client.query_route(topic)
                if queue.broker.id == MASTER_ID and queue.permission in {pb.READ, pb.READ_WRITE}
            }
        )
        if not brokers:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"topic {topic} has no queue that can be read")
        with self._lock:
            self._routes[topic] = now_ms, brokers
        return brokers

    def ack(self, topic: str, msg: MessageExt) -> None:
        """See ``SimpleConsumer.ack``."""
        timeout_ms = self._config.mq_client_api_timeout
        self._await(lambda done: self._api.ack_message(self._group, topic, msg, timeout_ms, done))

    def change_invisible_duration(self, topic: str, msg: MessageExt, invisible_ms: int) -> None:
        """See ``SimpleConsumer.change_invisible_duration``."""
        timeout_ms = self._config.mq_client_api_timeout
        self._await(
            lambda done: self._api.change_invisible_duration(self._group, topic, msg, invisible_ms, timeout_ms, done)
        )

    def _await(self, request: Callable[[Callable[[Exception | None], None]], None]) -> None:
        ended = self._runtime.event()
        outcome: list[Exception | None] = []

        def done(error: Exception | None) -> None:
            outcome.append(error)
            ended.set()

        request(done)
        # A request that waits for company has its own time-out behind that of the one before.
        if not ended.wait(3 * self._config.mq_client_api_timeout):
            raise RequestTimeoutError("the server has not answered in time")
        if outcome[0] is not None:
            raise outcome[0]

    def close(self) -> None:
        """End receives, leave."""
        self._api.stop_receiving()
        self.client.leave()
        self.client.close()
        self._api.shutdown(0)
