"""Which messages a subscription wants, as far as a broker can tell. Source: DefaultMessageFilter."""

from __future__ import annotations

from rocketmq_py.model.subscription import SUB_ALL, SubscriptionData


def is_matched(subscription: SubscriptionData, tags_code: int) -> bool:
    """Whether a message with this hash of a tag may be wanted; the consumer compares the tags themselves."""
    return wants_everything(subscription) or tags_code in subscription.code_set


def wants_everything(subscription: SubscriptionData) -> bool:
    """Whether nothing needs to be compared."""
    return subscription.sub_string == SUB_ALL or not subscription.code_set
