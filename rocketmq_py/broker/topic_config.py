"""Which topics and groups there are, and how they are configured.

Source: TopicConfig, TopicConfigManager, SubscriptionGroupConfig, SubscriptionGroupManager.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rocketmq_py.broker.commit_log import CommitLog, Stored
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.broker.store.configuration_table import delete_group, delete_topic, put_group, put_topic
from rocketmq_py.clock import Clock
from rocketmq_py.errors import BrokerError, ConfigError
from rocketmq_py.model import names
from rocketmq_py.model.codes import PermName, ResponseCode

READ_WRITE = PermName.READ | PermName.WRITE
SCHEDULE_TOPIC = "SCHEDULE_TOPIC_XXXX"
"""Delayed messages wait here, in the queue of their level. Source: TopicValidator.RMQ_SYS_SCHEDULE_TOPIC."""
TIMER_TOPIC = "rmq_sys_wheel_timer"
"""Messages for a moment of their own wait here. Source: TimerMessageStore.TIMER_TOPIC."""

HALF_TOPIC = "RMQ_SYS_TRANS_HALF_TOPIC"
"""Messages of transactions that are not decided. Source: TopicValidator.RMQ_SYS_TRANS_HALF_TOPIC."""
OP_TOPIC = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
"""Which of them have been decided. Source: TopicValidator.RMQ_SYS_TRANS_OP_HALF_TOPIC."""
MAX_TIME_TOPIC = "TRANS_CHECK_MAX_TIME_TOPIC"
"""Those for which nobody answered. Source: TopicValidator.RMQ_SYS_TRANS_CHECK_MAX_TIME_TOPIC."""

DEFAULT_TEMPLATE_QUEUES = 8
QUEUES_MAX = 1_024
"""Queues that a topic may have here; upstream sets no limit."""

TOPIC_MAX_LENGTH = 255
"""Also for retry and dead-letter topics. Source: TopicValidator, RETRY_OR_DLQ_TOPIC_MAX_LENGTH."""

NAMES_MAX = 20_000
"""Topics and groups, each: their names come over the wire. Upstream sets no limit."""

SYSTEM_TOPICS = frozenset(
    {SCHEDULE_TOPIC, TIMER_TOPIC, HALF_TOPIC, OP_TOPIC, MAX_TIME_TOPIC, names.AUTO_CREATE_TOPIC_KEY_TOPIC}
)


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """Configuration of a topic; fields as in the protocol's JSON."""

    topicName: str  # noqa: N815
    readQueueNums: int = 16  # noqa: N815
    writeQueueNums: int = 16  # noqa: N815
    perm: int = READ_WRITE
    topicFilterType: str = "SINGLE_TAG"  # noqa: N815
    topicSysFlag: int = 0  # noqa: N815
    order: bool = False
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def queues(self) -> int:
        """Queues that exist: those that may be read or written."""
        return max(self.readQueueNums, self.writeQueueNums)


@dataclass(frozen=True, slots=True)
class SubscriptionGroupConfig:
    """Configuration of a consumer group; fields as in the protocol's JSON."""

    groupName: str  # noqa: N815
    consumeEnable: bool = True  # noqa: N815
    consumeFromMinEnable: bool = True  # noqa: N815
    consumeBroadcastEnable: bool = True  # noqa: N815
    consumeMessageOrderly: bool = False  # noqa: N815
    retryQueueNums: int = 1  # noqa: N815
    retryMaxTimes: int = 16  # noqa: N815
    groupRetryPolicy: dict[str, Any] = field(default_factory=lambda: {"type": "CUSTOMIZED"})  # noqa: N815
    brokerId: int = 0  # noqa: N815
    whichBrokerWhenConsumeSlowly: int = 1  # noqa: N815
    notifyConsumerIdsChangedEnable: bool = True  # noqa: N815
    groupSysFlag: int = 0  # noqa: N815
    consumeTimeoutMinute: int = 15  # noqa: N815
    attributes: dict[str, str] = field(default_factory=dict)


class DataVersion:
    """How often a table has changed since the broker was started, and when. Source: DataVersion."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counter = 0
        self._changed_ms = clock.wall_ms()

    def next(self) -> None:
        """Note a change."""
        self._counter += 1
        self._changed_ms = self._clock.wall_ms()

    def fields(self) -> dict[str, int]:
        """As part of a body."""
        return {"counter": self._counter, "stateVersion": 0, "timestamp": self._changed_ms}


class TopicConfigManager:
    """Owner of both tables. Changes are seen at once and stored soon."""

    def __init__(self, store: MessageStore, commit_log: CommitLog, clock: Clock) -> None:
        self._commit_log = commit_log
        self.topic_version = DataVersion(clock)
        self.group_version = DataVersion(clock)
        self._topics = {name: TopicConfig(**config) for name, config in store.configurations.topics().items()}
        self._groups = {
            name: SubscriptionGroupConfig(**config) for name, config in store.configurations.groups().items()
        }

    def topic(self, name: str) -> TopicConfig | None:
        """A topic that clients may use; the template for new ones is one, too."""
        if name == names.AUTO_CREATE_TOPIC_KEY_TOPIC:
            return TopicConfig(name, DEFAULT_TEMPLATE_QUEUES, DEFAULT_TEMPLATE_QUEUES, READ_WRITE | PermName.INHERIT)
        return self._topics.get(name)

    def topics(self) -> list[str]:
        """Names of all topics, those of the system too."""
        return sorted({*self._topics, *SYSTEM_TOPICS})

    def topic_table(self) -> dict[str, TopicConfig]:
        """Configurations of all topics that were made, by name."""
        return dict(self._topics)

    def group_table(self) -> dict[str, SubscriptionGroupConfig]:
        """Configurations of all groups, by name."""
        return dict(self._groups)

    @staticmethod
    def check_name(name: str) -> None:
        """Refuse topics that clients may neither send to nor create.

        Raises:
            BrokerError: it is not legal, or the broker's own.
        """
        try:
            names.check_topic(name)
        except ConfigError as error:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, str(error)) from None
        if len(name) > TOPIC_MAX_LENGTH:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"the topic is longer than {TOPIC_MAX_LENGTH}")
        if name in SYSTEM_TOPICS:
            raise BrokerError(ResponseCode.INVALID_PARAMETER, f"the topic {name} is the broker's own")

    def put_topic(self, config: TopicConfig, stored: Stored) -> None:
        """Create or change a topic.

        Raises:
            BrokerError: there are too many.
        """
        if self._topics.get(config.topicName) == config:
            stored(None)
            return
        _check_room(self._topics, config.topicName)
        self._topics[config.topicName] = config
        self.topic_version.next()
        self._commit_log.write([put_topic(config.topicName, asdict(config))], stored)

    def delete_topic(self, name: str, stored: Stored) -> None:
        """Forget a topic and its queues; their messages go soon."""
        self._topics.pop(name, None)
        self.topic_version.next()
        self._commit_log.write([delete_topic(name)], _ignore)
        self._commit_log.delete_queues(name, stored)  # in the same transaction

    def delete_group(self, name: str, stored: Stored) -> None:
        """Forget a group."""
        self._groups.pop(name, None)
        self.group_version.next()
        self._commit_log.write([delete_group(name)], stored)

    def ensure_topic(self, name: str, queues: int, perm: int = READ_WRITE, sys_flag: int = 0) -> TopicConfig:
        """A topic, created when it is not there, or has no queue: for retries, dead letters and first sends.

        A group without retry queues has a retry topic without any. It gets some once the group does.
        """
        config = self._topics.get(name)
        if config is None or config.queues == 0 < queues:
            config = TopicConfig(name, queues, queues, perm, topicSysFlag=sys_flag)
            self.put_topic(config, _ignore)
        return config

    def group(self, name: str) -> SubscriptionGroupConfig | None:
        """A group that exists."""
        return self._groups.get(name)

    def put_group(self, config: SubscriptionGroupConfig, stored: Stored) -> None:
        """Create or change a group.

        Raises:
            BrokerError: there are too many.
        """
        if self._groups.get(config.groupName) == config:
            stored(None)
            return
        _check_room(self._groups, config.groupName)
        self._groups[config.groupName] = config
        self.group_version.next()
        self._commit_log.write([put_group(config.groupName, asdict(config))], stored)

    def ensure_group(self, name: str) -> SubscriptionGroupConfig | None:
        """A group, created when it is not there; None when its name is not legal."""
        config = self._groups.get(name)
        if config is None and _is_legal_group(name):
            config = SubscriptionGroupConfig(name)
            self.put_group(config, _ignore)
        return config


def _check_room(table: Mapping[str, object], name: str) -> None:
    if name not in table and len(table) >= NAMES_MAX:
        raise BrokerError(
            ResponseCode.SYSTEM_BUSY, f"this broker has {len(table)} topics or groups, the most it takes: {name} is new"
        )


def _is_legal_group(name: str) -> bool:
    try:
        names.check_group(name)
    except ValueError:
        return False
    return True


def _ignore(error: Exception | None) -> None:
    """Whoever needed it goes on; when the store has failed, everybody is told at the next send."""
