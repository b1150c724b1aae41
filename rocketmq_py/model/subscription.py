"""What a group wants of a topic. Source: SubscriptionData, FilterAPI, MessageSelector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.unique_id import java_string_hash

SUB_ALL = "*"
TAG = "TAG"
SQL92 = "SQL92"


@dataclass(frozen=True, slots=True)
class MessageSelector:
    """An expression with its language, for ``subscribe``. Made by ``by_tag`` and ``by_sql``.

    Attributes:
        expression_type: ``TAG`` or ``SQL92``.
        expression: as written.
    """

    expression_type: str
    expression: str | None

    @classmethod
    def by_tag(cls, expression: str | None) -> Self:
        """Tags separated by ``||``; None, empty or ``*`` for everything."""
        return cls(TAG, expression)

    @classmethod
    def by_sql(cls, expression: str) -> Self:
        """A condition on message properties, ``TAGS`` among them: ``a > 5 AND region = 'eu' AND TAGS IS NOT NULL``.

        The broker alone evaluates it; it needs ``enablePropertyFilter=true`` there.
        """
        return cls(SQL92, expression)


@dataclass(frozen=True, slots=True)
class SubscriptionData:
    """A subscription as brokers get it in the heartbeat.

    Attributes:
        topic: topic subscribed to.
        sub_string: the expression as written, ``*`` for everything.
        tags_set: tags wanted; empty for everything.
        code_set: Java string hashes of the tags: all that the broker filters by, so clients filter again.
        sub_version: wall clock ms; a broker keeps the newest and refuses pulls that name a newer one than it knows.
        expression_type: ``TAG`` or ``SQL92``.
    """

    topic: str
    sub_string: str = SUB_ALL
    tags_set: frozenset[str] = frozenset()
    code_set: frozenset[int] = frozenset()
    sub_version: int = 0
    expression_type: str = TAG


def build_selected(topic: str, selector: MessageSelector, now_ms: int) -> SubscriptionData:
    """Read a selector. An SQL expression is the broker's to read, so it has no tags.

    Raises:
        ConfigError: a tag expression that ``build_subscription_data`` refuses, or an SQL expression without a word.

    Source: FilterAPI.build.
    """
    if selector.expression_type == TAG:
        return build_subscription_data(topic, selector.expression, now_ms)
    expression = selector.expression
    if not isinstance(expression, str) or not expression.strip():
        raise ConfigError(
            f"the SQL expression of topic {topic} is a text like \"a > 5 AND b = 'x'\", not {expression!r}"
        )
    return SubscriptionData(topic, expression, sub_version=now_ms, expression_type=selector.expression_type)


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
