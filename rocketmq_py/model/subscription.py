"""What a group wants of a topic. Source: SubscriptionData, FilterAPI."""

from __future__ import annotations

from dataclasses import dataclass

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.unique_id import java_string_hash

SUB_ALL = "*"
TAG = "TAG"


@dataclass(frozen=True, slots=True)
class SubscriptionData:
    """A subscription as brokers get it in the heartbeat.

    Attributes:
        topic: topic subscribed to.
        sub_string: the expression as written, ``*`` for everything.
        tags_set: tags wanted; empty for everything.
        code_set: Java string hashes of the tags: all that the broker filters by, so clients filter again.
        sub_version: wall clock ms; a broker keeps the newest and refuses pulls that name a newer one than it knows.
        expression_type: ``TAG``.
    """

    topic: str
    sub_string: str = SUB_ALL
    tags_set: frozenset[str] = frozenset()
    code_set: frozenset[int] = frozenset()
    sub_version: int = 0
    expression_type: str = TAG


def build_subscription_data(topic: str, expression: str | None, now_ms: int) -> SubscriptionData:
    """Read a tag expression: None, empty or ``*`` for all, else tags separated by ``||``.

    Raises:
        ConfigError: only separators are there, or it is not a text.

    Source: FilterAPI.buildSubscriptionData.
    """
    if expression is not None and not isinstance(expression, str):
        raise ConfigError(f"the tag expression of topic {topic} is a text like 'TagA || TagB', not {expression!r}")
    if not expression or expression == SUB_ALL:
        return SubscriptionData(topic, sub_version=now_ms)
    tags = frozenset(tag for part in expression.split("||") if (tag := part.strip()))
    if not tags:
        raise ConfigError(
            f"the tag expression {expression!r} of topic {topic} names no tag: write 'TagA || TagB' or '*'"
        )
    return SubscriptionData(topic, expression, tags, frozenset(map(java_string_hash, tags)), now_ms)
