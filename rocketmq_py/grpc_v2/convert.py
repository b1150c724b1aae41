"""Messages and settings, between the protocol's words and ours. Pure.

What a producer set as system property appears under the name that it has in the remoting protocol (``KEYS``,
``__SHARDINGKEY``), so that a listener need not know by which wire a message came.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol

from rocketmq_py.errors import ConfigError, ProtocolError, RocketMQError
from rocketmq_py.grpc_v2.bodies import check_digest, decoded, digest_of
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.delay_level import DEFAULT_DELAY_LEVELS, parse_delay_levels
from rocketmq_py.model.message import (
    RESERVED_PROPERTIES,
    MessageConst,
    MessageExt,
    MessageHead,
    PullBounds,
    pack_host,
    v6_hosts,
)
from rocketmq_py.model.retry_policy import ConsumerTerms, ProducerTerms, RetryPolicy
from rocketmq_py.model.subscription import SQL92, SubscriptionData

_NO_HOST = pack_host(("0.0.0.0", 0))  # noqa: S104 - a value, nothing is bound

_HOSTS_CACHE_COUNT = 256

# Properties of the half message that say nothing to a consumer; the proxy leaves them among the user's.
_HIDDEN = ("__transactionId__", "TRANSACTION_CHECK_TIMES", "CHECK_IMMUNITY_TIME_IN_SECONDS")


class ReceivedMessage(MessageExt):
    """A message that came by the gRPC wire.

    Attributes:
        receipt: what it is settled with; a newer one takes its place when its invisible time was changed.
        endpoints: the server that gave it, which must be told.
        corrupted: why its body cannot be shown; None when it can.
    """

    __slots__ = ("corrupted", "endpoints", "receipt")

    receipt: str
    endpoints: Endpoints | None
    corrupted: RocketMQError | None


def received(message: pb.Message, topic: str, endpoints: Endpoints, broker_name: str = "") -> ReceivedMessage:
    """A message as consumers get it, under the topic that was asked for.

    Never raises: what is wrong with its body is noted in it. Hot: once per message received.
    """
    system = message.system_properties
    properties: dict[str, str] = dict(message.user_properties)
    for name in _HIDDEN:
        properties.pop(name, None)
    properties[MessageConst.UNIQ_KEY] = system.message_id
    if system.HasField("tag"):
        properties[MessageConst.TAGS] = system.tag
    if system.keys:
        properties[MessageConst.KEYS] = " ".join(system.keys)
    if system.HasField("message_group"):
        properties[MessageConst.SHARDING_KEY] = system.message_group
    if system.message_type != pb.NORMAL:
        _put_rare(properties, system)
    attempt = system.delivery_attempt - 1 if system.delivery_attempt > 1 else 0
    body, corrupted = message.body, None
    try:
        if system.HasField("body_digest"):
            check_digest(system.body_digest, body)
        if system.body_encoding != pb.IDENTITY:
            body = decoded(system.body_encoding, body)
    except RocketMQError as error:
        corrupted = error
    born_host, store_host = _packed(system.born_host), _packed(system.store_host)
    result = ReceivedMessage.__new__(ReceivedMessage)
    result.body = body
    result.queue_offset = system.queue_offset
    result._topic = topic
    result._properties = properties
    result._raw_properties = b""
    result._reconsume_times = attempt
    result._bounds = PullBounds(-1, -1, broker_name) if broker_name else None
    result._head = MessageHead(
        0, 0, 0, system.queue_id, 0, system.queue_offset, 0, v6_hosts(born_host, store_host),
        _ms(system.born_timestamp), born_host,
        _ms(system.store_timestamp), store_host, attempt, 0,
    )  # fmt: skip
    result.receipt = system.receipt_handle
    result.endpoints = endpoints
    result.corrupted = corrupted
    return result


def _put_rare(properties: dict[str, str], system: pb.SystemProperties) -> None:
    if system.HasField("delivery_timestamp"):
        properties[MessageConst.TIMER_DELIVER_MS] = str(_ms(system.delivery_timestamp))
    if system.HasField("priority"):
        properties[MessageConst.PRIORITY] = str(system.priority)
    if system.message_type == pb.TRANSACTION:
        properties[MessageConst.TRANSACTION_PREPARED] = "true"
    if system.HasField("trace_context"):
        properties[MessageConst.TRACE_CONTEXT] = system.trace_context
    if system.HasField("dead_letter_queue"):
        properties[MessageConst.DLQ_ORIGIN_TOPIC] = system.dead_letter_queue.topic
        properties[MessageConst.DLQ_ORIGIN_MESSAGE_ID] = system.dead_letter_queue.message_id


def _ms(moment: Any) -> int:
    """A timestamp or duration in ms. Unlike ``ToMilliseconds`` it takes whatever a server sends."""
    seconds: int = moment.seconds
    nanos: int = moment.nanos
    return seconds * 1000 + nanos // 1_000_000


@lru_cache(_HOSTS_CACHE_COUNT)  # reading an address costs as much as all the rest of a message
def _packed(text: str) -> bytes:
    """A host as the head of a message has it; one that says nothing when it is unreadable."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or (":" in host and not host.startswith("[")):
        host, port = text, "0"  # an address alone, perhaps IPv6
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        return address.packed + int(port).to_bytes(4, "big")
    except (ValueError, OverflowError):
        return _NO_HOST


class Outgoing(Protocol):
    """What is sent: a producer's message with the properties that it has in the remoting protocol."""

    @property
    def topic(self) -> str: ...  # noqa: D102
    @property
    def body(self) -> bytes: ...  # noqa: D102
    @property
    def properties(self) -> Mapping[str, str]: ...  # noqa: D102


_DELAY_LEVELS_MS = parse_delay_levels(DEFAULT_DELAY_LEVELS)

# What becomes a system property, or means nothing to a proxy.
_NOT_THE_USERS = RESERVED_PROPERTIES | {MessageConst.SHARDING_KEY, MessageConst.PRIORITY, MessageConst.TRANSACTION_ID}


def outgoing(message: Outgoing, topic: str, now_ms: int, born_host: str) -> pb.Message:
    """A message as it travels; its type follows from what it has. Bodies are never compressed here: a proxy could not
    say with what.

    Args:
        message: with its unique id.
        topic: as servers know it.
        now_ms: ms since 1970.
        born_host: this machine's address.
    """
    properties = message.properties
    users = {name: value for name, value in properties.items() if name not in _NOT_THE_USERS}
    result = pb.Message(topic=resource(topic), body=message.body, user_properties=users)
    system = result.system_properties
    system.message_id = properties[MessageConst.UNIQ_KEY]
    system.body_digest.CopyFrom(digest_of(message.body))
    system.body_encoding = pb.IDENTITY
    system.born_timestamp.FromMilliseconds(now_ms)
    system.born_host = born_host
    system.message_type = pb.NORMAL
    if tag := properties.get(MessageConst.TAGS):
        system.tag = tag
    if keys := properties.get(MessageConst.KEYS):
        system.keys.extend(keys.split())
    if (priority := properties.get(MessageConst.PRIORITY)) is not None:
        system.priority = int(priority)
        system.message_type = pb.PRIORITY
    if (group := properties.get(MessageConst.SHARDING_KEY)) is not None:
        system.message_group = group
        system.message_type = pb.FIFO
    if (deliver_ms := _deliver_ms(properties, now_ms)) is not None:
        try:
            system.delivery_timestamp.FromMilliseconds(deliver_ms)
        except ValueError:
            raise ConfigError(f"{deliver_ms} ms since 1970 is behind the year 9999: deliver it earlier") from None
        system.message_type = pb.DELAY
    if properties.get(MessageConst.TRANSACTION_PREPARED) == "true":
        system.message_type = pb.TRANSACTION
    return result


def _deliver_ms(properties: Mapping[str, str], now_ms: int) -> int | None:
    """When it is to be delivered, if it says so."""
    if level := properties.get(MessageConst.DELAY_TIME_LEVEL):
        return now_ms + _DELAY_LEVELS_MS[min(int(level), len(_DELAY_LEVELS_MS)) - 1]
    if seconds := properties.get(MessageConst.TIMER_DELAY_SEC):
        return now_ms + int(seconds) * 1_000
    if delay_ms := properties.get(MessageConst.TIMER_DELAY_MS):
        return now_ms + int(delay_ms)
    moment = properties.get(MessageConst.TIMER_DELIVER_MS)
    return None if moment is None else int(moment)


def filter_expression(subscription: SubscriptionData) -> pb.FilterExpression:
    """What a consumer wants of a topic."""
    kind = pb.SQL if subscription.expression_type == SQL92 else pb.TAG
    return pb.FilterExpression(type=kind, expression=subscription.sub_string)


def resource(name: str) -> pb.Resource:
    """A topic or group."""
    return pb.Resource(name=name)


def consumer_terms(settings: pb.Settings) -> ConsumerTerms:
    """What a server decided about a consumer.

    Raises:
        ProtocolError: these are no settings of a consumer, or they cannot be meant.
    """
    if not settings.HasField("subscription"):
        raise ProtocolError("a server sent a consumer settings without a subscription")
    subscription, default = settings.subscription, ConsumerTerms()
    batch = subscription.receive_batch_size if subscription.HasField("receive_batch_size") else 0
    poll_ms = _ms(subscription.long_polling_timeout)
    return ConsumerTerms(
        retry=retry_policy(settings.backoff_policy, default.retry),
        fifo=subscription.fifo,
        receive_batch_size=batch if batch > 0 else default.receive_batch_size,
        long_polling_ms=poll_ms if poll_ms > 0 else default.long_polling_ms,
    )


def producer_terms(settings: pb.Settings) -> ProducerTerms:
    """What a server decided about a producer.

    Raises:
        ProtocolError: these are no settings of a producer.
    """
    if not settings.HasField("publishing"):
        raise ProtocolError("a server sent a producer settings without publishing")
    publishing, default = settings.publishing, ProducerTerms()
    return ProducerTerms(
        retry=retry_policy(settings.backoff_policy, default.retry),
        max_body_size=publishing.max_body_size if publishing.max_body_size > 0 else default.max_body_size,
        validate_message_type=publishing.validate_message_type,
    )


def retry_policy(policy: pb.RetryPolicy, default: RetryPolicy) -> RetryPolicy:
    """A policy of retries; what a server leaves out is as in ``default``."""
    attempts = policy.max_attempts if policy.max_attempts > 0 else default.max_attempts
    strategy = policy.WhichOneof("strategy")
    if strategy == "exponential_backoff":
        backoff = policy.exponential_backoff
        return RetryPolicy(
            attempts,
            initial_ms=max(_ms(backoff.initial), 0),
            max_ms=max(_ms(backoff.max), 0),
            multiplier=max(backoff.multiplier, 1.0),
        )
    if strategy == "customized_backoff" and policy.customized_backoff.next:
        return RetryPolicy(attempts, tuple(max(_ms(delay), 0) for delay in policy.customized_backoff.next))
    return RetryPolicy(attempts, default.delays_ms, default.initial_ms, default.max_ms, default.multiplier)


def subscription_entries(subscriptions: Iterable[SubscriptionData]) -> list[Any]:
    """What a consumer subscribes to."""
    return [
        pb.SubscriptionEntry(topic=resource(each.topic), expression=filter_expression(each)) for each in subscriptions
    ]
