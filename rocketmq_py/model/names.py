"""Topic names with a meaning, and which names are legal. Source: MixAll, NamespaceUtil, Validators, TopicValidator."""

from __future__ import annotations

import re

from rocketmq_py.errors import ConfigError

RETRY_GROUP_TOPIC_PREFIX = "%RETRY%"
DLQ_GROUP_TOPIC_PREFIX = "%DLQ%"
DEFAULT_CONSUMER_GROUP = "DEFAULT_CONSUMER"
CLIENT_INNER_PRODUCER_GROUP = "CLIENT_INNER_PRODUCER"
AUTO_CREATE_TOPIC_KEY_TOPIC = "TBW102"
"""The broker's template for topics that are created by the first send."""
RMQ_SYS_TRACE_TOPIC = "RMQ_SYS_TRACE_TOPIC"
"""Where trace records go unless another topic is named."""

GROUP_MAX_LENGTH = 120
TOPIC_MAX_LENGTH = 127

_LEGAL = re.compile(r"[%|a-zA-Z0-9_-]+")


def retry_topic(group: str) -> str:
    """Topic through which a group's failed messages come back."""
    return RETRY_GROUP_TOPIC_PREFIX + group


def dlq_topic(group: str) -> str:
    """Topic in which a group's messages end that failed too often."""
    return DLQ_GROUP_TOPIC_PREFIX + group


def check_group(group: str) -> None:
    """Refuse an illegal group name with ``ConfigError``. Source: Validators.checkGroup."""
    _check_text("a group", group)
    if not group or not group.strip():
        raise ConfigError("the specified group is blank: give the consumer or producer a group name")
    if len(group) > GROUP_MAX_LENGTH:
        raise ConfigError(f"group {group[:40]!r}... is longer than group max length {GROUP_MAX_LENGTH}")
    if not _LEGAL.fullmatch(group):
        raise ConfigError(f"the specified group [{group}] contains illegal characters, allowing only %|a-zA-Z0-9_-")


def check_topic(topic: str) -> None:
    """Refuse an illegal topic name with ``ConfigError``. Source: Validators.checkTopic."""
    _check_text("a topic", topic)
    if not topic or not topic.strip():
        raise ConfigError("the specified topic is blank")
    if len(topic) > TOPIC_MAX_LENGTH and not topic.startswith((RETRY_GROUP_TOPIC_PREFIX, DLQ_GROUP_TOPIC_PREFIX)):
        raise ConfigError(f"topic {topic[:40]!r}... is longer than topic max length {TOPIC_MAX_LENGTH}")
    if not _LEGAL.fullmatch(topic):
        raise ConfigError(f"the specified topic [{topic}] contains illegal characters, allowing only %|a-zA-Z0-9_-")


def _check_text(what: str, name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"the name of {what} is a str, not {type(name).__name__}")
