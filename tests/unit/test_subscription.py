from __future__ import annotations

from typing import Any

import pytest

from rocketmq_py.errors import ConfigError
from rocketmq_py.model.subscription import MessageSelector, SubscriptionData, build_selected, build_subscription_data


@pytest.mark.behaviour("SU-01")
@pytest.mark.parametrize("expression", [None, "", "*"])
def test_no_expression_and_a_star_mean_everything(expression: str | None) -> None:
    subscription = build_subscription_data("topic", expression, 5)
    assert subscription == SubscriptionData("topic", "*", frozenset(), frozenset(), 5, "TAG")


@pytest.mark.behaviour("SU-01")
@pytest.mark.parametrize(
    ("expression", "tags"),
    [
        ("TagA", {"TagA"}),
        ("TagA||TagB", {"TagA", "TagB"}),
        ("  TagA ||  TagB || TagA ||", {"TagA", "TagB"}),
        ("a|b", {"a|b"}),
        (" * ", {"*"}),
    ],
)
def test_tags_are_separated_by_two_bars(expression: str, tags: set[str]) -> None:
    subscription = build_subscription_data("topic", expression, 5)
    assert subscription.tags_set == tags
    assert subscription.sub_string == expression
    assert len(subscription.code_set) == len(tags)


@pytest.mark.behaviour("SU-01")
def test_brokers_filter_by_java_s_hash_of_a_tag() -> None:
    for tag, code in {"TagA": 2598919, "grüße": 98768023, "😀": 1772899, "polygenelubricants": -(2**31)}.items():
        assert build_subscription_data("topic", tag, 5).code_set == {code}


@pytest.mark.behaviour("SU-02")
@pytest.mark.parametrize("expression", ["||", " || || ", " "])
def test_an_expression_that_names_no_tag_is_refused(expression: str) -> None:
    with pytest.raises(ConfigError, match="names no tag: write 'TagA"):
        build_subscription_data("topic", expression, 5)


@pytest.mark.behaviour("SU-02")
@pytest.mark.parametrize("expression", [3, ["TagA"], b"TagA", False])
def test_an_expression_that_is_no_text_is_refused(expression: Any) -> None:
    with pytest.raises(ConfigError, match="the tag expression of topic topic is a text like"):
        build_subscription_data("topic", expression, 5)


@pytest.mark.behaviour("FI-01")
def test_a_tag_selector_is_read_as_a_tag_expression() -> None:
    for expression in (None, "", "*", "A || B"):
        selected = build_selected("topic", MessageSelector.by_tag(expression), 5)
        assert selected == build_subscription_data("topic", expression, 5)
    with pytest.raises(ConfigError, match="names no tag"):
        build_selected("topic", MessageSelector.by_tag("||"), 5)


@pytest.mark.behaviour("FI-02")
def test_an_sql_selector_is_the_broker_s_to_read_and_has_no_tags() -> None:
    selected = build_selected("topic", MessageSelector.by_sql("a > 5 || TAGS = 'x'"), 5)
    assert selected == SubscriptionData("topic", "a > 5 || TAGS = 'x'", frozenset(), frozenset(), 5, "SQL92")


@pytest.mark.behaviour("FI-02")
@pytest.mark.parametrize("expression", [None, "", "  ", 5])
def test_an_sql_selector_needs_an_expression(expression: Any) -> None:
    with pytest.raises(ConfigError, match="the SQL expression of topic topic is a text like"):
        build_selected("topic", MessageSelector.by_sql(expression), 5)
