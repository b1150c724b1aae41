"""Gathers what operators are told about a consumer.

Source: DefaultMQPushConsumerImpl.consumerRunningInfo, MQClientInstance.consumerRunningInfo, MixAll.object2Properties.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields, replace
from enum import Enum

from rocketmq_py.clock import Clock
from rocketmq_py.consumer.consumer_stats_manager import ConsumerStatsManager
from rocketmq_py.consumer.offset_store import OFFSET_UNKNOWN, OffsetStore, ReadOffsetType
from rocketmq_py.consumer.pop_process_queue import PopProcessQueue
from rocketmq_py.consumer.process_queue import ProcessQueue
from rocketmq_py.model.codes import VERSION_DESC
from rocketmq_py.model.config import ConsumerConfig
from rocketmq_py.model.message_queue import MessageQueue
from rocketmq_py.model.running_info import ConsumerRunningInfo, PopProcessQueueInfo, ProcessQueueInfo
from rocketmq_py.model.subscription import SubscriptionData

CONSUME_PASSIVELY = "CONSUME_PASSIVELY"
"""The consume type of a push consumer. Source: ConsumeType."""

_JAVA_NAMES = {"client_ip": "clientIP", "use_tls": "useTLS"}
_SECRET_WORDS = frozenset({"key", "secret", "token", "password", "hook"})


def consumer_running_info(
    *,
    group: str,
    config: ConsumerConfig,
    client_id: str,
    orderly: bool,
    start_timestamp: int,
    subscriptions: Collection[SubscriptionData],
    windows: Iterable[tuple[MessageQueue, ProcessQueue]],
    popped: Iterable[tuple[MessageQueue, PopProcessQueue]],
    offset_store: OffsetStore,
    stats: ConsumerStatsManager,
    clock: Clock,
    core_pool_size: int,
    jstack: str | None,
) -> ConsumerRunningInfo:
    """All about one consumer, as it is now. May ask brokers for offsets: not on the I/O thread.

    ``start_timestamp`` is when the consumer was made, ms since 1970; ``jstack`` the stacks of all threads, if they were
    asked for.

    Behaviour: OP-02.
    """
    client_ip, instance_name, *_ = client_id.split("@")
    properties = config_properties(config)
    properties |= {
        "clientIP": client_ip,
        "instanceName": instance_name,
        "consumerGroup": group,
        "PROP_CONSUMEORDERLY": _text(orderly),
        "PROP_THREADPOOL_CORE_SIZE": str(core_pool_size),
        "PROP_CONSUMER_START_TIMESTAMP": str(start_timestamp),
        "PROP_NAMESERVER_ADDR": "".join(f"{address};" for address in config.name_servers()),
        "PROP_CONSUME_TYPE": CONSUME_PASSIVELY,
        "PROP_CLIENT_VERSION": VERSION_DESC,
    }
    return ConsumerRunningInfo(
        properties=properties,
        subscriptions=subscriptions,
        mq_table=_mq_table(windows, offset_store, clock),
        status_table={each.topic: stats.consume_status(group, each.topic) for each in subscriptions},
        jstack=jstack,
        mq_pop_table=_mq_pop_table(popped, clock),
    )


def config_properties(config: ConsumerConfig) -> dict[str, str]:
    """The settings by their Java names, as text; without those that are None and those that may hold a secret.

    Behaviour: OP-03.
    """
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {
        _java_name(name): _text(value)
        for name, value in values.items()
        if value is not None and not _SECRET_WORDS & set(name.split("_"))
    }


def _java_name(name: str) -> str:
    first, *rest = name.split("_")
    return _JAVA_NAMES.get(name) or first + "".join(word.capitalize() for word in rest)


def _text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Enum():
            return value.name
        case str() | int() | float():
            return str(value)
    return type(value).__name__  # a strategy, a listener: its text may show anything


def _mq_table(
    windows: Iterable[tuple[MessageQueue, ProcessQueue]], offset_store: OffsetStore, clock: Clock
) -> dict[MessageQueue, ProcessQueueInfo]:
    table = {}
    where = ReadOffsetType.MEMORY_FIRST_THEN_STORE
    since_1970_ms = clock.wall_ms() - clock.monotonic_ms()
    for mq, queue in windows:
        offset = offset_store.read_offset(mq, where)
        if offset == OFFSET_UNKNOWN:
            where = ReadOffsetType.READ_FROM_MEMORY  # every further one could cost as long, and the operator waits 10 s
        info = queue.fill_process_queue_info(offset)
        table[mq] = replace(
            info,
            last_lock_timestamp=info.last_lock_timestamp + clock.wall_ms() - clock.lease_ms(),
            last_pull_timestamp=info.last_pull_timestamp + since_1970_ms,
            last_consume_timestamp=info.last_consume_timestamp + since_1970_ms,
        )
    return table


def _mq_pop_table(
    popped: Iterable[tuple[MessageQueue, PopProcessQueue]], clock: Clock
) -> dict[MessageQueue, PopProcessQueueInfo]:
    since_1970_ms = clock.wall_ms() - clock.monotonic_ms()
    infos = {mq: queue.fill_pop_process_queue_info() for mq, queue in popped}
    return {mq: replace(info, last_pop_timestamp=info.last_pop_timestamp + since_1970_ms) for mq, info in infos.items()}
