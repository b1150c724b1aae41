"""SQL92 expressions over message properties. Source: SqlFilter, SelectorParser.jj and the filter module's expressions.

Every property is a text, or NULL when the message has none of that name. An expression is TRUE, FALSE or unknown
(NULL), and a message matches when it is TRUE. Numbers are Java's: a literal is an Integer, a Long or a Double, and a
text that is compared with one is converted to the literal's type; when it is none, evaluating fails and the message
does not match.

What is odd here is so upstream, and clients rely on it: ``NOT a = 5`` is ``(NOT a) = 5``; ``'x' = a`` without ``a`` is
FALSE but ``a = 'x'`` is unknown; ``0.0`` is refused; a property alone is never TRUE.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rocketmq_py.errors import MissingExtraError, RocketMQError

try:
    import lark
except ImportError:
    raise MissingExtraError(
        "the embedded broker needs lark: pip install 'rocketmq-py[broker]' (in a clone '.[broker]')"
    ) from None

EXPRESSION_MAX_LENGTH = 8_192
"""Characters: others wait while one is read. Upstream sets no limit."""

DEPTH_MAX = 100
"""Operators inside each other; ``AND`` and ``OR`` in a row count once. Java's limit is its stack."""

CACHE_MAX_COUNT = 100
"""Source: SelectorParser.PARSE_CACHE."""

_GRAMMAR = r"""
?start: disjunction
?disjunction: conjunction (_OR conjunction)+ -> disjunction | conjunction
?conjunction: equality (_AND equality)+ -> conjunction | equality
?equality: comparison
    | equality "=" comparison -> equal
    | equality "<>" comparison -> not_equal
    | equality _IS _NULL -> is_null
    | equality _IS _NOT _NULL -> is_not_null
?comparison: unary
    | comparison ">" unary -> greater
    | comparison ">=" unary -> greater_equal
    | comparison "<" unary -> less
    | comparison "<=" unary -> less_equal
    | comparison _CONTAINS STRING -> contains
    | comparison _NOT _CONTAINS STRING -> not_contains
    | comparison _STARTSWITH STRING -> starts_with
    | comparison _NOT _STARTSWITH STRING -> not_starts_with
    | comparison _ENDSWITH STRING -> ends_with
    | comparison _NOT _ENDSWITH STRING -> not_ends_with
    | comparison _BETWEEN unary _AND unary -> between
    | comparison _NOT _BETWEEN unary _AND unary -> not_between
    | comparison _IN "(" STRING ("," STRING)* ")" -> within
    | comparison _NOT _IN "(" STRING ("," STRING)* ")" -> not_within
?unary: "+" unary
    | "-" unary -> negative
    | _NOT unary -> negation
    | primary
?primary: STRING -> text
    | DECIMAL -> decimal
    | FLOATING -> floating
    | _TRUE -> true
    | _FALSE -> false
    | _NULL -> null
    | ID -> variable
    | "(" disjunction ")"

_NOT.2: /NOT(?![A-Z0-9_$])/i
_AND.2: /AND(?![A-Z0-9_$])/i
_OR.2: /OR(?![A-Z0-9_$])/i
_BETWEEN.2: /BETWEEN(?![A-Z0-9_$])/i
_IN.2: /IN(?![A-Z0-9_$])/i
_TRUE.2: /TRUE(?![A-Z0-9_$])/i
_FALSE.2: /FALSE(?![A-Z0-9_$])/i
_NULL.2: /NULL(?![A-Z0-9_$])/i
_IS.2: /IS(?![A-Z0-9_$])/i
_CONTAINS.2: /CONTAINS(?![A-Z0-9_$])/i
_STARTSWITH.2: /STARTSWITH(?![A-Z0-9_$])/i
_ENDSWITH.2: /ENDSWITH(?![A-Z0-9_$])/i
ID: /[A-Z_$][A-Z0-9_$]*/i
FLOATING.2: /[0-9]+\.[0-9]*(E[+-]?[0-9]+)?|\.[0-9]+(E[+-]?[0-9]+)?|[0-9]+E[+-]?[0-9]+/i
DECIMAL: /0|[1-9][0-9]*L?/i
STRING: /'(''|[^'])*'/
SPACE: /[ \t\n\r\f]+/
LINE_COMMENT.2: /--[^\n\r]*(\r\n|\n|\r)/
BLOCK_COMMENT: /\/\*[^*]*\*(\*|[^*\/][^*]*\*)*\//
%ignore SPACE
%ignore LINE_COMMENT
%ignore BLOCK_COMMENT
"""


class SqlFilterError(RocketMQError):
    """An expression that cannot be read."""


class _EvaluationError(Exception):
    """Java would throw here; the message does not match."""


class _Long(int):
    """A number of Java's type Long; a plain ``int`` is an Integer, a ``float`` a Double."""


Value = None | bool | int | float | str
Properties = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of an expression: what it evaluates to, and what it may be combined with."""

    evaluate: Callable[[Properties], Value]
    depth: int = 1
    is_boolean: bool = False
    is_constant: bool = False
    name: str | None = None  # of a property


class SqlExpression:
    """A compiled expression."""

    def __init__(self, node: _Node) -> None:
        self._evaluate = node.evaluate

    def evaluate(self, properties: Properties) -> bool | None:
        """TRUE, FALSE or unknown; unknown, too, where Java throws."""
        try:
            value = self._evaluate(properties)
        except _EvaluationError:
            return None
        return value if isinstance(value, bool) else None

    def matches(self, properties: Properties) -> bool:
        """Whether the message is wanted."""
        return self.evaluate(properties) is True


@functools.lru_cache(CACHE_MAX_COUNT)
def compile_sql(expression: str) -> SqlExpression:
    """Read an expression.

    Raises:
        SqlFilterError: it cannot be read; the text says where and why.
    """
    if len(expression) > EXPRESSION_MAX_LENGTH:
        raise _refused(f"{len(expression)} characters, this broker reads {EXPRESSION_MAX_LENGTH}")
    try:
        tree = _parser().parse(expression)
        return SqlExpression(_boolean(tree))  # type: ignore[arg-type] # made by _Builder
    except lark.exceptions.VisitError as error:
        raise error.orig_exc from None
    except lark.exceptions.UnexpectedInput as error:
        if isinstance(error, lark.exceptions.UnexpectedToken) and error.token.type == "$END":
            raise _refused("The expression ends where something must follow") from None
        rest = expression[error.pos_in_stream or 0 :]
        raise _refused(f"Not understood from line {error.line}, column {error.column} on: {rest:.60}") from None
    except lark.exceptions.LarkError as error:
        raise _refused(str(error)) from None


@functools.cache
def _parser() -> lark.Lark:
    return lark.Lark(_GRAMMAR, parser="lalr", lexer="basic", transformer=_Builder())


def _refused(why: str) -> SqlFilterError:
    return SqlFilterError(f"Invalid MessageSelector. {why}")


def _boolean(node: _Node) -> _Node:
    """Source: SelectorParser.asBooleanExpression, UnaryExpression.createBooleanCast."""
    if node.is_boolean:
        return node
    if node.name is None:
        raise _refused("The expression will not result in a boolean value")
    evaluate = node.evaluate
    # A property is a text, never a Boolean.
    return _deeper(lambda properties: None if evaluate(properties) is None else False, node)


def _deeper(evaluate: Callable[[Properties], Value], *nodes: _Node, is_boolean: bool = True) -> _Node:
    depth = 1 + max(node.depth for node in nodes)
    if depth > DEPTH_MAX:
        raise _refused(f"Operators are nested more than {DEPTH_MAX} deep")
    return _Node(evaluate, depth, is_boolean)


def _constant(value: Value, *, is_boolean: bool = False) -> _Node:
    return _Node(lambda properties: value, is_boolean=is_boolean, is_constant=True)


def _value(node: _Node) -> Value:
    return node.evaluate({})


class _Builder(lark.Transformer[lark.Token, _Node]):
    """Makes nodes from the leaves up, so no depth of brackets costs stack."""

    # Literals and properties.

    def text(self, children: list[lark.Token]) -> _Node:
        return _constant(_decoded(children[0]))

    def decimal(self, children: list[lark.Token]) -> _Node:
        number = int(children[0].rstrip("lL")) if len(children[0]) <= 20 else 1 << 63
        if number >= 1 << 63:
            raise _refused(f"{children[0]:.40} is no Long")
        return _constant(number if number < 1 << 31 else _Long(number))

    def floating(self, children: list[lark.Token]) -> _Node:
        number = float(children[0])
        if not 0 < number < float("inf"):
            raise _refused(f"{children[0]:.40} is too large or too small for a Double")
        return _constant(number)

    def true(self, children: list[_Node]) -> _Node:
        return _constant(True, is_boolean=True)

    def false(self, children: list[_Node]) -> _Node:
        return _constant(False, is_boolean=True)

    def null(self, children: list[_Node]) -> _Node:
        return _constant(None, is_boolean=True)

    def variable(self, children: list[lark.Token]) -> _Node:
        name = str(children[0])
        return _Node(lambda properties: properties.get(name), name=name)

    # Logic. Source: LogicExpression; a row of one operator is evaluated like its pairs from the left.

    def disjunction(self, children: list[_Node]) -> _Node:
        return self._decided_by(True, children)

    def conjunction(self, children: list[_Node]) -> _Node:
        return self._decided_by(False, children)

    def _decided_by(self, decisive: bool, children: list[_Node]) -> _Node:
        nodes = [_boolean(child) for child in children]
        parts = [node.evaluate for node in nodes]

        def evaluate(properties: Properties) -> Value:
            result: Value = not decisive
            for part in parts:
                value = part(properties)
                if value is decisive:
                    return decisive
                if value is None:
                    result = None
            return result

        return _deeper(evaluate, *nodes)

    def negation(self, children: list[_Node]) -> _Node:
        return self._negated(_boolean(children[0]))

    def _negated(self, node: _Node) -> _Node:
        evaluate = node.evaluate

        def negated(properties: Properties) -> Value:
            value = evaluate(properties)
            return None if value is None else not value

        return _deeper(negated, node)

    def negative(self, children: list[_Node]) -> _Node:
        """Source: UnaryExpression.createNegate: NULL for what is no number, a text of digits too."""
        evaluate = children[0].evaluate

        def negative(properties: Properties) -> Value:
            value = evaluate(properties)
            if value is None or isinstance(value, str | bool):
                return None
            return _Long(-value) if isinstance(value, _Long) else -value

        return _deeper(negative, children[0], is_boolean=False)

    # Comparisons. Source: ComparisonExpression.

    def equal(self, children: list[_Node]) -> _Node:
        left, right = children
        for node in children:
            if node.is_constant and _value(node) is None:
                raise _refused("NULL cannot be compared: write IS NULL")
        if left.is_constant and left.is_boolean and right.is_constant and not right.is_boolean:
            raise _refused("TRUE and FALSE cannot be compared with another literal")

        def evaluate(properties: Properties) -> Value:
            one, other = left.evaluate(properties), right.evaluate(properties)
            if one is None:
                return True if other is None else None
            return False if other is None else _compare(one, other) == 0

        return _deeper(evaluate, left, right)

    def not_equal(self, children: list[_Node]) -> _Node:
        return self._negated(self.equal(children))

    def is_null(self, children: list[_Node]) -> _Node:
        evaluate = children[0].evaluate
        return _deeper(lambda properties: evaluate(properties) is None, children[0])

    def is_not_null(self, children: list[_Node]) -> _Node:
        evaluate = children[0].evaluate
        return _deeper(lambda properties: evaluate(properties) is not None, children[0])

    def greater(self, children: list[_Node]) -> _Node:
        return self._ordered(lambda order: order > 0, *children)

    def greater_equal(self, children: list[_Node]) -> _Node:
        return self._ordered(lambda order: order >= 0, *children)

    def less(self, children: list[_Node]) -> _Node:
        return self._ordered(lambda order: order < 0, *children)

    def less_equal(self, children: list[_Node]) -> _Node:
        return self._ordered(lambda order: order <= 0, *children)

    def _ordered(self, holds: Callable[[int], bool], left: _Node, right: _Node) -> _Node:
        for node in (left, right):
            if node.is_boolean or (node.is_constant and isinstance(_value(node), str)):
                raise _refused("Only numbers and properties can be compared by >, >=, < and <=")

        def evaluate(properties: Properties) -> Value:
            one = left.evaluate(properties)
            if one is None:
                return None
            other = right.evaluate(properties)
            if other is None:
                return None
            if isinstance(one, str) and isinstance(other, str):
                return holds(_compare(_double(one), _double(other)))
            return holds(_compare(one, other))

        return _deeper(evaluate, left, right)

    def between(self, children: list[_Node]) -> _Node:
        value, low, high = children
        conjunction = [self.greater_equal([value, low]), self.less_equal([value, high])]
        if low.is_constant and high.is_constant:
            first, last = _value(low), _value(high)
            # Numbers: else the comparisons were refused.
            if isinstance(first, int | float) and isinstance(last, int | float) and _compare(last, first) < 0:
                raise _refused(f"Illegal values of between, {first} must be less than or equal to {last}")
        return self.conjunction(conjunction)

    def not_between(self, children: list[_Node]) -> _Node:
        value, low, high = children
        return self.disjunction([self.less([value, low]), self.greater([value, high])])

    def within(self, children: list[Any]) -> _Node:
        return self._listed(children, expected=True)

    def not_within(self, children: list[Any]) -> _Node:
        return self._listed(children, expected=False)

    def _listed(self, children: list[Any], *, expected: bool) -> _Node:
        node, *tokens = children
        if node.name is None:
            raise _refused("A property is expected before IN")
        texts = frozenset(_decoded(token) for token in tokens)
        evaluate = node.evaluate

        def listed(properties: Properties) -> Value:
            value = evaluate(properties)
            return None if value is None else (value in texts) is expected

        return _deeper(listed, node)

    def contains(self, children: tuple[_Node, lark.Token]) -> _Node:
        return self._searched(children, lambda text, wanted: wanted in text)

    def not_contains(self, children: tuple[_Node, lark.Token]) -> _Node:
        return self._searched(children, lambda text, wanted: wanted not in text)

    def starts_with(self, children: tuple[_Node, lark.Token]) -> _Node:
        return self._searched(children, lambda text, wanted: text.startswith(wanted))

    def not_starts_with(self, children: tuple[_Node, lark.Token]) -> _Node:
        return self._searched(children, lambda text, wanted: not text.startswith(wanted))

    def ends_with(self, children: tuple[_Node, lark.Token]) -> _Node:
        return self._searched(children, lambda text, wanted: text.endswith(wanted))

    def not_ends_with(self, children: tuple[_Node, lark.Token]) -> _Node:
        return self._searched(children, lambda text, wanted: not text.endswith(wanted))

    def _searched(self, children: tuple[_Node, lark.Token], holds: Callable[[str, str], bool]) -> _Node:
        """FALSE, never unknown, for what is no text, and for an empty text that is searched; the NOT forms too."""
        node, wanted = children[0], _decoded(children[1])

        def searched(properties: Properties) -> Value:
            if not wanted:
                return False
            value = node.evaluate(properties)
            return isinstance(value, str) and holds(value, wanted)

        return _deeper(searched, node)


def _decoded(token: lark.Token) -> str:
    return token[1:-1].replace("''", "'")


# Java's types.

_DOUBLE = struct.Struct(">d")
_BITS = struct.Struct(">q")
_NAN_BITS = 0x7FF8000000000000


def _compare(one: bool | int | float | str, other: bool | int | float | str) -> int:
    """Source: ComparisonExpression.__compare with convertStringExpressions: -1 for what cannot be compared."""
    if isinstance(one, bool):
        if isinstance(other, str):
            raise _EvaluationError  # Java casts the Boolean to String
        return _order(one, other) if isinstance(other, bool) else -1
    if isinstance(other, bool):
        return _order(one.lower() == "true", other) if isinstance(one, str) else -1
    if isinstance(one, str):
        return _order(one, other) if isinstance(other, str) else _compare(_converted(one, other), other)
    if isinstance(other, str):
        return _compare(one, _converted(other, one))
    if isinstance(one, float) or isinstance(other, float):
        return _double_order(float(one), float(other))
    return _order(one, other)


def _order(one: int | str, other: int | str) -> int:
    return 0 if one == other else 1 if one > other else -1  # type: ignore[operator] # two of a kind


def _double_order(one: float, other: float) -> int:
    """Source: Double.compare: NaN is above all, and -0.0 is below 0.0."""
    return _order(_double_key(one), _double_key(other))


def _double_key(number: float) -> int:
    """The bits of a Double as a number of the same order."""
    if math.isnan(number):
        return _NAN_BITS
    bits: int = _BITS.unpack(_DOUBLE.pack(number))[0]
    return bits if bits >= 0 else -(1 << 63) - bits - 1


def _converted(text: str, like: int | float) -> int | float:
    if isinstance(like, float):
        return _double(text)
    return _Long(_integer(text, 63)) if isinstance(like, _Long) else _integer(text, 31)


_JAVA_DOUBLE = re.compile(
    r"[+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fFdD]?"
    r"|0[xX](?:[0-9a-fA-F]+\.?|[0-9a-fA-F]*\.[0-9a-fA-F]+)[pP][+-]?[0-9]+[fFdD]?)"
)
_JAVA_SPACE = "".join(map(chr, range(33)))


def _double(text: str) -> float:
    """Source: Double.valueOf."""
    text = text.strip(_JAVA_SPACE)
    if not _JAVA_DOUBLE.fullmatch(text):
        raise _EvaluationError
    if "x" in text or "X" in text:
        try:
            return float.fromhex(text.rstrip("fFdD"))
        except OverflowError:
            return float("-inf") if text.startswith("-") else float("inf")
    return float(text.rstrip("fFdD"))


def _integer(text: str, bits: int) -> int:
    """Source: Integer.valueOf, Long.valueOf: any Unicode's decimal digits, no spaces."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits.isdecimal() or max(digits) > "\uffff":
        raise _EvaluationError
    try:
        number = int(text)
    except ValueError:  # thousands of digits
        raise _EvaluationError from None
    if not -(1 << bits) <= number < 1 << bits:
        raise _EvaluationError
    return number
