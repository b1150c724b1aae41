"""Topic names with a meaning, and which names are legal. Source: MixAll, NamespaceUtil, Validators, TopicValidator."""

from __future__ import annotations

import re

from rocketmq_py.errors import ConfigError

RETRY_GROUP_TOPIC_PREFIX = "%RETRY%"
DLQ_GROUP_TOPIC_PREFIX = "%DLQ%"
GROUP_TOPIC_PREFIXES = RETRY_GROUP_TOPIC_PREFIX, DLQ_GROUP_TOPIC_PREFIX
"""Of topics that belong to a group: its retried messages, its dead letters."""
DEFAULT_CONSUMER_GROUP = "DEFAULT_CONSUMER"
CLIENT_INNER_PRODUCER_GROUP = "CLIENT_INNER_PRODUCER"
AUTO_CREATE_TOPIC_KEY_TOPIC = "TBW102"
"""The broker's template for topics that are created by the first send."""
TOOLS_CONSUMER_GROUP = "TOOLS_CONSUMER"
"""The group of operators' tools, which every broker has. Source: MixAll."""
RMQ_SYS_TRACE_TOPIC = "RMQ_SYS_TRACE_TOPIC"
"""Where trace records go unless another topic is named."""

GROUP_MAX_LENGTH = 120
TOPIC_MAX_LENGTH = 127

NAMESPACE_SEPARATOR = "%"
REPLY_TOPIC_POSTFIX = "_REPLY_TOPIC"
"""Behind the cluster's name: where replies to requests go. Java puts it into the namespace (deviations)."""
SYSTEM_TOPIC_PREFIX = "rmq_sys_"
SYSTEM_CONSUMER_GROUP_PREFIX = "CID_RMQ_SYS_"
SYSTEM_TOPICS = frozenset(
    "TBW102 SCHEDULE_TOPIC_XXXX BenchmarkTest RMQ_SYS_TRANS_HALF_TOPIC RMQ_SYS_TRACE_TOPIC RMQ_SYS_TRANS_OP_HALF_TOPIC "
    "TRANS_CHECK_MAX_TIME_TOPIC SELF_TEST_TOPIC OFFSET_MOVED_EVENT CHECKPOINT_TOPIC".split()
)
"""Source: TopicValidator."""

_LEGAL = re.compile(r"[%|a-zA-Z0-9_-]+")
_LEGAL_NAMESPACE = re.compile(r"[|a-zA-Z0-9_-]+")


def retry_topic(group: str) -> str:
    """Topic through which a group's failed messages come back."""
    return RETRY_GROUP_TOPIC_PREFIX + group


def dlq_topic(group: str) -> str:
    """Topic in which a group's messages end that failed too often."""
    return DLQ_GROUP_TOPIC_PREFIX + group


def wrap_namespace(namespace: str | None, resource: str) -> str:
    """The name by which brokers know a topic or group of a namespace: ``ns%topic``, ``%RETRY%ns%group``.

    Names of the system, and names that are in the namespace already, stay as they are. Source: NamespaceUtil.
    """
    if not namespace or not resource or _is_system_resource(resource) or is_in_namespace(namespace, resource):
        return resource
    prefix, rest = _split_prefix(resource)
    return f"{prefix}{namespace}{NAMESPACE_SEPARATOR}{rest}"


def without_namespace(namespace: str | None, resource: str) -> str:
    """Undo ``wrap_namespace``; names that are not in the namespace stay as they are. Source: NamespaceUtil."""
    if not namespace or not is_in_namespace(namespace, resource):
        return resource
    prefix, rest = _split_prefix(resource)
    return prefix + rest[len(namespace) + len(NAMESPACE_SEPARATOR) :]


def is_in_namespace(namespace: str, resource: str) -> bool:
    """Whether the name of a topic or group says that it belongs to a namespace."""
    return not _is_system_resource(resource) and _split_prefix(resource)[1].startswith(namespace + NAMESPACE_SEPARATOR)


def _split_prefix(resource: str) -> tuple[str, str]:
    for prefix in GROUP_TOPIC_PREFIXES:
        if resource.startswith(prefix):
            return prefix, resource[len(prefix) :]
    return "", resource


def _is_system_resource(resource: str) -> bool:
    return (
        resource in SYSTEM_TOPICS
        or resource.startswith((SYSTEM_TOPIC_PREFIX, SYSTEM_CONSUMER_GROUP_PREFIX))
        or resource.endswith(REPLY_TOPIC_POSTFIX)
    )


def check_namespace(namespace: str) -> None:
    """Refuse an illegal namespace with ``ConfigError``: ``%`` ends it in the names of its topics."""
    _check_text("a namespace", namespace)
    if not _LEGAL_NAMESPACE.fullmatch(namespace):
        raise ConfigError(f"the namespace [{namespace}] contains illegal characters, allowing only |a-zA-Z0-9_-")


def pop_retry_topic_v1(group: str, topic: str) -> str:
    """Topic through which a group's popped and failed messages of one topic come back. Source: KeyBuilder."""
    return f"{RETRY_GROUP_TOPIC_PREFIX}{group}_{topic}"


def pop_retry_topic_v2(group: str, topic: str) -> str:
    """The same on brokers with ``enableRetryTopicV2``. Source: KeyBuilder.buildPopRetryTopicV2."""
    return f"{RETRY_GROUP_TOPIC_PREFIX}{group}+{topic}"


def normal_topic(group: str, pop_retry_topic: str) -> str | None:
    """The topic that a group's pop-retry topic belongs to; None when it is no such topic.

    Source: KeyBuilder.parseNormalTopic.
    """
    for prefix in (pop_retry_topic_v1(group, ""), pop_retry_topic_v2(group, "")):
        if pop_retry_topic.startswith(prefix):
            return pop_retry_topic[len(prefix) :]
    return None


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
    if len(topic) > TOPIC_MAX_LENGTH and not topic.startswith(GROUP_TOPIC_PREFIXES):
        raise ConfigError(f"topic {topic[:40]!r}... is longer than topic max length {TOPIC_MAX_LENGTH}")
    if not _LEGAL.fullmatch(topic):
        raise ConfigError(f"the specified topic [{topic}] contains illegal characters, allowing only %|a-zA-Z0-9_-")


def _check_text(what: str, name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"the name of {what} is a str, not {type(name).__name__}")
