"""SQL92 expressions of the embedded broker. What upstream says to them: tests/java/test_sql_filter_differential.py."""

from __future__ import annotations

import pytest

from rocketmq_py.broker.sql_filter import CACHE_MAX_COUNT, EXPRESSION_MAX_LENGTH, SqlFilterError, compile_sql

PROPERTIES = {"a": "5", "b": "text", "c": "5.5", "yes": "true", "quoted": "it's", "empty": ""}


@pytest.mark.behaviour("SQ-01")
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a = 5", True),
        ("a <> 5", False),
        ("a > 4 AND a < 6", True),
        ("a >= 5 and a <= 5", True),
        ("a BETWEEN 5 AND 7", True),
        ("a NOT BETWEEN 5 AND 7", False),
        ("c > 5.4 AND c < 5.6e0", True),
        ("b = 'text'", True),
        ("b IN ('x', 'text')", True),
        ("b NOT IN ('x', 'text')", False),
        ("quoted = 'it''s'", True),
        ("yes = TRUE", True),
        ("yes = false", False),
        ("b CONTAINS 'ex' AND b NOT CONTAINS 'y'", True),
        ("b STARTSWITH 'te' AND b NOT ENDSWITH 'te'", True),
        ("a > - 6 /* comment */ AND -- another\n +a = 5", True),
        ("NOT (a = 5 OR b = 'x')", False),
        ("a = 5 OR b = 'x' AND b = 'y'", True),
        ("a = 10L OR a > 9999999999", False),
        ("in_stock IS NULL AND a IS NOT NULL", True),
    ],
)
def test_expressions_are_what_sql_says(expression: str, expected: bool) -> None:
    assert compile_sql(expression).evaluate(PROPERTIES) is expected
    assert compile_sql(expression).matches(PROPERTIES) is expected


@pytest.mark.behaviour("SQ-02")
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("none = 5", None),
        ("none <> 5", None),
        ("none > 5", None),
        ("none = 5 OR a = 5", True),
        ("none = 5 AND a = 4", False),
        ("none = 5 OR a = 4", None),
        ("none = 5 AND a = 5", None),
        ("NOT (none = 5)", None),
        ("none IN ('x')", None),
        ("none NOT IN ('x')", None),
        ("none BETWEEN 1 AND 2", None),
        ("none CONTAINS 'x'", False),
        ("none NOT CONTAINS 'x'", False),
        ("none IS NULL", True),
        ("NULL OR a = 5", True),
        ("NULL", None),
        # Odd, and so upstream.
        ("'x' = none", False),
        ("'x' <> none", True),
        ("none = nothing", True),
        ("a", False),
        ("yes", False),
        ("NOT a = 5", False),
        ("b CONTAINS ''", False),
    ],
)
def test_what_is_unknown_stays_unknown_unless_the_rest_decides(expression: str, expected: bool | None) -> None:
    assert compile_sql(expression).evaluate(PROPERTIES) is expected
    assert compile_sql(expression).matches(PROPERTIES) is (expected is True)


@pytest.mark.behaviour("SQ-03")
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("c > 5", None),  # 5.5 is no Integer
        ("b > 5", None),
        ("b = 5 OR a = 5", None),  # what cannot be compared ends it all
        ("a = 5 OR b = 5", True),  # unless it is not looked at
        ("c = 5.5", True),
        ("a > 4.9", True),
        ("a < c", True),
        ("b > a", None),
        ("TRUE = yes", None),
        ("5 = 5.0 AND 5 = 5", True),
        ("a > 1e-3", True),
        ("empty = ''", True),
    ],
)
def test_texts_are_compared_as_what_they_are_compared_with(expression: str, expected: bool | None) -> None:
    assert compile_sql(expression).evaluate(PROPERTIES) is expected


@pytest.mark.behaviour("SQ-04")
@pytest.mark.parametrize(
    "expression",
    [
        "", " ", "a >", "a > 5 AND", "a b", "a = 5)", "(a = 5", "a = NULL", "NULL <> a", "5", "'x'", "-a", "a > 'x'",
        "a > TRUE", "TRUE = 5", "5 IN ('x')", "a IN ()", "a IN (5)", "a BETWEEN 3 AND 1", "a BETWEEN 'a' AND 'b'",
        "a = 0.0", "a = 1e999", "a = 9223372036854775808", "a LIKE 'x%'", "a = 'x", "a # b", "a = \"x\"", "a == 5",
        "a CONTAINS 5", "(a = 5) > 3", "a > 5 -- without an end", "a = 5 garbage",
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(SqlFilterError, match="Invalid MessageSelector"):
        compile_sql(expression)


@pytest.mark.behaviour("SQ-04")
def test_a_refusal_says_where() -> None:
    with pytest.raises(SqlFilterError, match=r"line 2, column 4 on: ! 3"):
        compile_sql("a > 5 AND\n b ! 3")


@pytest.mark.behaviour("SQ-05")
def test_no_expression_costs_more_than_a_bound() -> None:
    with pytest.raises(SqlFilterError, match="characters, this broker reads"):
        compile_sql("a = 'x" + "x" * EXPRESSION_MAX_LENGTH)
    with pytest.raises(SqlFilterError, match="nested more than 100 deep"):
        compile_sql("NOT " * 150 + "a")
    with pytest.raises(SqlFilterError, match="nested more than 100 deep"):
        compile_sql("a" + " = a" * 150)
    assert compile_sql("(" * 3_000 + "a = 5" + ")" * 3_000).matches(PROPERTIES)
    assert compile_sql(" AND ".join(["a = 5"] * 800)).matches(PROPERTIES)
    for number in range(2 * CACHE_MAX_COUNT):
        compile_sql(f"a = {number}")
    assert compile_sql.cache_info().currsize == CACHE_MAX_COUNT
