"""The same expressions and properties into upstream's SqlFilter and ours: every answer must be the same.

Expressions are random but seeded: half of them by the grammar, with operands of every type where they fit and where
they do not; half of them words in any order. ``ROCKETMQ_PY_FULL=1`` tries fifty times as many.

One difference is wanted: upstream does not look at what stands behind the end of an expression, ours refuses it.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Iterator

import pytest

from rocketmq_py.broker.sql_filter import SqlFilterError, compile_sql
from tests.java.driver import JavaDriver

EXPRESSIONS = 100_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 2_000
AT_ONCE = 500

NAMES = ("a", "b", "c", "_d", "$e", "missing", "notable", "TAGS")
VALUES = (
    "", "0", "1", "5", "-5", "+5", "5.0", "5.5", "5.", ".5", "1e3", "1E-3", "0x1p3", "0x.8p1", "5d", "5f", "5L", " 5 ",
    "1_0", "2147483647", "2147483648", "-2147483648", "9223372036854775807", "9223372036854775808", "1e999", "-1e999",
    "-0.0", "0.0", "NaN", "Infinity", "-Infinity", "true", "TRUE", "false", "text", "tex", "it's", "\u0665", "\uff15",
    "\u00e4\U0001f600", "null", "0005", "--5",
)  # fmt: skip
NUMBERS = (
    "0", "1", "5", "5L", "10l", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "5.5", "5.",
    ".5", "5e0", "1.5E-3", "0.0", "1e999", "1e-999", "007", "5d",
)  # fmt: skip
TEXTS = ("''", "'5'", "'5.5'", "'text'", "'te'", "'it''s'", "'true'", "'\u00e4\U0001f600'", "'a\nb'")
LITERALS = (*NUMBERS, *TEXTS, "TRUE", "false", "NULL", "null")
COMPARISONS = ("=", "<>", ">", ">=", "<", "<=")
WORDS = (
    *NAMES, *LITERALS, *COMPARISONS, "AND", "or", "NOT", "BETWEEN", "IN", "IS", "CONTAINS", "STARTSWITH", "ENDSWITH",
    "(", ")", ",", "+", "-", "--", "-- x\n", "/* y */", "/*", "'", "#", "==", "!=", ".", "LIKE", "\"q\"", "andy", "IN(",
)  # fmt: skip
SPACES = (" ", " ", " ", "  ", "\t", "\n", " /* * */ ", " -- c\r\n", "")

pytestmark = pytest.mark.behaviour("SQ-01", "SQ-02", "SQ-03", "SQ-04")


@pytest.fixture(scope="module")
def java_filter(java: None) -> Iterator[JavaDriver]:
    with JavaDriver("SqlFilterDriver") as driver:
        yield driver


class Writer:
    """Writes expressions by upstream's grammar."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def expression(self, depth: int) -> str:
        kind = self._rng.random()
        if depth <= 0 or kind < 0.3:
            return self.comparison(depth)
        if kind < 0.5:
            return f"({self.expression(depth - 1)})"
        if kind < 0.65:
            return f"NOT {self.expression(depth - 1)}"
        if kind < 0.7:
            return self.operand(depth)
        operator = self._rng.choice(("AND", "OR", "and", "Or", "=", "<>"))
        return f"{self.expression(depth - 1)} {operator} {self.expression(depth - 1)}"

    def comparison(self, depth: int) -> str:
        choose = self._rng.choice
        left, negated = self.operand(depth), choose(("", "NOT "))
        match choose(("compare", "compare", "compare", "null", "between", "in", "search")):
            case "compare":
                return f"{left} {choose(COMPARISONS)} {self.operand(depth)}"
            case "null":
                return f"{left} IS {negated}NULL"
            case "between":
                return f"{left} {negated}BETWEEN {self.operand(depth)} AND {self.operand(depth)}"
            case "in":
                texts = ", ".join(choose(TEXTS) for _ in range(self._rng.randrange(1, 7)))
                return f"{left} {negated}IN ({texts})"
        return f"{left} {negated}{choose(('CONTAINS', 'StartsWith', 'ENDSWITH'))} {choose(TEXTS)}"

    def operand(self, depth: int) -> str:
        kind = self._rng.random()
        if kind < 0.55:
            return self._rng.choice(NAMES)
        if kind < 0.75:
            return self._rng.choice(NUMBERS)
        if kind < 0.9:
            return self._rng.choice(LITERALS)
        if kind < 0.95 and depth > 0:
            return f"({self.expression(depth - 1)})"
        return f"{self._rng.choice(('-', '+', '- -', 'NOT '))}{self.operand(depth - 1)}"

    def soup(self) -> str:
        words = [self._rng.choice(WORDS) for _ in range(self._rng.randrange(1, 9))]
        return "".join(word + self._rng.choice(SPACES) for word in words)


def _properties(rng: random.Random) -> dict[str, str]:
    return {name: rng.choice(VALUES) for name in NAMES if name != "missing" and rng.random() < 0.8}


def _command(expression: str, properties: dict[str, str]) -> str:
    words = [expression, *(word for pair in properties.items() for word in pair)]
    return " ".join(base64.b64encode(word.encode()).decode() or "-" for word in words)


def _ours(expression: str, properties: dict[str, str]) -> str:
    try:
        value = compile_sql(expression).evaluate(properties)
    except SqlFilterError:
        return "refused"
    return {True: "true", False: "false", None: "null"}[value]


def _check(cases: list[tuple[str, dict[str, str]]], java_filter: JavaDriver) -> list[str]:
    answers = java_filter.run([_command(*case) for case in cases])
    for (expression, properties), answer in zip(cases, answers, strict=True):
        expected = "refused" if answer == "trailing" else answer
        ours = _ours(expression, properties)
        assert ours == expected, f"{expression!r} with {properties}: Java {answer}, ours {ours}"
    return answers


def test_random_expressions_mean_the_same_to_both(java_filter: JavaDriver) -> None:
    rng = random.Random(92)
    writer = Writer(rng)
    answers: list[str] = []
    for _ in range(EXPRESSIONS // AT_ONCE):
        expressions = [writer.expression(rng.randrange(4)) if n % 2 else writer.soup() for n in range(AT_ONCE)]
        answers += _check([(expression, _properties(rng)) for expression in expressions], java_filter)
    # They say everything, and often enough.
    assert min(answers.count(answer) for answer in ("refused", "trailing", "true", "false", "null")) > EXPRESSIONS / 200


def test_every_value_compares_with_every_literal_as_upstream_compares_them(java_filter: JavaDriver) -> None:
    cases = [
        (expression, {"a": value})
        for literal in LITERALS
        for operator in ("=", "<")
        for expression in (f"a {operator} {literal}", f"{literal} {operator} a")
        for value in VALUES
    ]
    cases += [
        (f"a {operator} b", {"a": one, "b": other}) for operator in ("=", ">") for one in VALUES for other in VALUES
    ]
    _check(cases, java_filter)
