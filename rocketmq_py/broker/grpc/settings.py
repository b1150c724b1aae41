"""What clients told of themselves, and what they are told to do. Source: GrpcClientSettingsManager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rocketmq_py.broker.grpc.context import INVISIBLE_MAX_MS
from rocketmq_py.broker.send_message_processor import MAX_MESSAGE_BYTES
from rocketmq_py.broker.topic_config import SubscriptionGroupConfig, TopicConfigManager
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb

PRODUCER_MAX_ATTEMPTS = 3
PRODUCER_BACKOFF_INITIAL_MS = 10
PRODUCER_BACKOFF_MAX_MS = 1_000
PRODUCER_BACKOFF_MULTIPLIER = 2

RECEIVE_BATCH_SIZE = 32
LONG_POLLING_MIN_MS = 5_000
LONG_POLLING_MAX_MS = 20_000

LITE_SUBSCRIPTION_QUOTA = 2_000
LITE_TOPIC_MAX_LENGTH = 64

CLIENTS_MAX = 20_000
"""Clients whose settings are kept: their ids come over the wire."""

SETTINGS_MAX_BYTES = 256 * 1024
"""Of one client, as they are on the wire."""
ALL_SETTINGS_MAX_BYTES = 64 * 1024 * 1024
"""Of all clients together. Upstream sets no limit."""

_MINUTE_MS = 60_000
RETRY_DELAYS_MS = (
    *(1_000, 5_000, 10_000, 30_000),
    *(minutes * _MINUTE_MS for minutes in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 60, 120)),
)
"""How long a consumer is to wait between attempts. Source: CustomizedRetryPolicy."""
DELAYS_MAX = 100

EXPONENTIAL_INITIAL_MS = 5_000
EXPONENTIAL_MAX_MS = 2 * 60 * _MINUTE_MS
EXPONENTIAL_MULTIPLIER = 2
"""Source: ExponentialRetryPolicy."""


class GrpcClientSettingsManager:
    """Owner of the settings, by client id; on the loop's thread only."""

    def __init__(self, topics: TopicConfigManager) -> None:
        self._topics = topics
        self._settings: dict[str, pb.Settings] = {}
        self._bytes = 0

    def put(self, client_id: str, settings: pb.Settings) -> bool:
        """Keep what a client told; False when there are too many, or too large ones, already."""
        known = self._settings.get(client_id)
        if known is None and len(self._settings) >= CLIENTS_MAX:
            return False
        grown = self._bytes + settings.ByteSize() - (0 if known is None else known.ByteSize())
        if grown > ALL_SETTINGS_MAX_BYTES:
            return False
        self._bytes = grown
        self._settings[client_id] = settings
        return True

    def told(self, client_id: str) -> pb.Settings | None:
        """What the client told."""
        return self._settings.get(client_id)

    def remove(self, client_id: str) -> pb.Settings | None:
        """Forget a client; what it told."""
        removed = self._settings.pop(client_id, None)
        if removed is not None:
            self._bytes -= removed.ByteSize()
        return removed

    def merged(self, client_id: str) -> pb.Settings | None:
        """What the client told, and what it is to do by what the group's configuration is now."""
        told = self._settings.get(client_id)
        if told is None:
            return None
        settings = pb.Settings()
        settings.CopyFrom(told)
        if settings.HasField("publishing"):
            _merge_publishing(settings)
        else:
            name = settings.subscription.group.name
            merge_subscription(settings, self._topics.group(name) or SubscriptionGroupConfig(name))
        settings.metric.on = False
        return settings


def _merge_publishing(settings: pb.Settings) -> None:
    policy = settings.backoff_policy
    policy.max_attempts = PRODUCER_MAX_ATTEMPTS
    policy.exponential_backoff.initial.FromMilliseconds(PRODUCER_BACKOFF_INITIAL_MS)
    policy.exponential_backoff.max.FromMilliseconds(PRODUCER_BACKOFF_MAX_MS)
    policy.exponential_backoff.multiplier = PRODUCER_BACKOFF_MULTIPLIER
    settings.publishing.max_body_size = MAX_MESSAGE_BYTES
    settings.publishing.validate_message_type = True


def merge_subscription(settings: pb.Settings, group: SubscriptionGroupConfig) -> None:
    """What a consumer of this group is to do."""
    policy = settings.backoff_policy
    policy.max_attempts = group.retryMaxTimes + 1
    _merge_backoff(policy, group.groupRetryPolicy)
    subscription = settings.subscription
    subscription.fifo = group.consumeMessageOrderly
    subscription.receive_batch_size = RECEIVE_BATCH_SIZE
    subscription.long_polling_timeout.FromMilliseconds(LONG_POLLING_MAX_MS)
    subscription.lite_subscription_quota = LITE_SUBSCRIPTION_QUOTA
    subscription.max_lite_topic_size = LITE_TOPIC_MAX_LENGTH


def _merge_backoff(policy: pb.RetryPolicy, told: Mapping[str, Any]) -> None:
    """The group's own delays; upstream's where it has none, or what it has is none. Source: GroupRetryPolicy."""
    exponential, customized = told.get("exponentialRetryPolicy"), told.get("customizedRetryPolicy")
    if told.get("type") == "EXPONENTIAL":
        fields = exponential if isinstance(exponential, dict) else {}
        backoff = policy.exponential_backoff
        backoff.initial.FromMilliseconds(_delay_ms(fields.get("initial"), EXPONENTIAL_INITIAL_MS))
        backoff.max.FromMilliseconds(_delay_ms(fields.get("max"), EXPONENTIAL_MAX_MS))
        backoff.multiplier = _delay_ms(fields.get("multiplier"), EXPONENTIAL_MULTIPLIER)
        return
    wanted = customized.get("next") if isinstance(customized, dict) else None
    delays_ms = [_delay_ms(each, 0) for each in wanted] if isinstance(wanted, list) and wanted else RETRY_DELAYS_MS
    del policy.customized_backoff.next[:]
    for delay_ms in delays_ms[:DELAYS_MAX]:
        policy.customized_backoff.next.add().FromMilliseconds(delay_ms)


def _delay_ms(value: object, otherwise: int) -> int:
    return value if type(value) is int and 0 < value <= INVISIBLE_MAX_MS else otherwise
