"""Which messages a subscription wants, as far as a broker can tell. Source: ExpressionMessageFilter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rocketmq_py.broker.sql_filter import SqlExpression, SqlFilterError, compile_sql
from rocketmq_py.errors import BrokerError, ConfigError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.subscription import SQL92, SUB_ALL, TAG, SubscriptionData, build_subscription_data

EXPRESSION_MAX_LENGTH = 32_767
"""Characters of a tag expression."""


class MessageFilter:
    """A subscription ready to be asked.

    Attributes:
        wants_everything: nothing needs to be compared.
        needs_properties: the hash of the tag is not enough.

    Raises:
        SqlFilterError: its expression cannot be read.
    """

    __slots__ = ("_code_set", "_expression", "needs_properties", "subscription", "wants_everything")

    def __init__(self, subscription: SubscriptionData) -> None:
        self.subscription = subscription
        self.needs_properties = not is_tag_type(subscription.expression_type)
        self._expression: SqlExpression | None = compile_sql(subscription.sub_string) if self.needs_properties else None
        self._code_set = subscription.code_set
        self.wants_everything = not self.needs_properties and subscription.sub_string in {"", SUB_ALL}

    def is_matched(self, tags_code: int, properties: Callable[[], Mapping[str, str]]) -> bool:
        """Whether a message may be wanted; the consumer compares the tags themselves.

        Args:
            tags_code: Java hash of its tag, 0 for none.
            properties: gives its properties; called only when they are needed.
        """
        if self._expression is not None:
            return self._expression.matches(properties())
        return self.wants_everything or tags_code in self._code_set


def is_tag_type(expression_type: str | None) -> bool:
    """Source: ExpressionType.isTagType."""
    return not expression_type or expression_type == TAG


def read_filter(topic: str, expression_type: str | None, expression: str | None, sub_version: int) -> MessageFilter:
    """A subscription that comes with a request, not with the heartbeat. Source: FilterAPI.build.

    Raises:
        BrokerError: it cannot be read.
    """
    if len(expression or "") > EXPRESSION_MAX_LENGTH:
        raise BrokerError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, "the expression is too long")
    if not is_tag_type(expression_type) and expression_type != SQL92:
        raise BrokerError(
            ResponseCode.SUBSCRIPTION_PARSE_FAILED,
            f"an expression of the type {expression_type!r:.40}: possible are TAG and SQL92",
        )
    try:
        if is_tag_type(expression_type):
            return MessageFilter(build_subscription_data(topic, expression, sub_version))
        return MessageFilter(SubscriptionData(topic, expression or "", sub_version=sub_version, expression_type=SQL92))
    except (ConfigError, SqlFilterError) as error:
        raise BrokerError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, str(error)) from None
