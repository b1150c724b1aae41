"""docs/internals/behaviours.md and the tests must tell the same: found by reading the sources, whichever tests run."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "internals" / "behaviours.md"

_ROW = re.compile(r"^\| (?P<id>[A-Z]{2}-\d{2}) \| (?P<sentence>.+) \| (?P<source>.+) \| (?P<test>.+) \|$", re.MULTILINE)
_LINK = re.compile(r"\[`(?P<name>\w+)`\]\((?P<path>[^)]+)\)")
_RANGE = re.compile(r"\b([A-Z]{2})-(\d{2}) to \1-(\d{2})\b")
_ID = re.compile(r"\b[A-Z]{2}-\d{2}\b")


class Row(NamedTuple):
    """A line of the table; its test is named as (file, function)."""

    id: str
    sentence: str
    source: str
    test: tuple[Path, str]


class Marked(NamedTuple):
    """A test that carries a marker; "" stands for every test of the file."""

    path: Path
    name: str


@cache
def rows() -> list[Row]:
    found = []
    for match in _ROW.finditer(TABLE.read_text(encoding="utf-8")):
        link = _LINK.fullmatch(match["test"])
        assert link is not None, f"{match['id']}: {match['test']} is no link to a test"
        found.append(
            Row(
                match["id"], match["sentence"], match["source"], ((TABLE.parent / link["path"]).resolve(), link["name"])
            )
        )
    return found


@cache
def markers() -> dict[str, set[Marked]]:
    """Which tests carry which id."""
    found: defaultdict[str, set[Marked]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name, marks = node.name, node.decorator_list
            elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]:
                name, marks = "", [node.value]
            else:
                continue
            for mark in marks:
                for id_ in ids_of(mark):
                    found[id_].add(Marked(path, name))
    return found


def ids_of(mark: ast.expr) -> Iterator[str]:
    """The ids of a marker, also in a list of markers; nothing for other markers."""
    for node in ast.walk(mark):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.behaviour":
            for argument in node.args:
                if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                    raise TypeError(f"{ast.unparse(node)}: write the ids as plain texts")
                yield argument.value


def ids_in(text: str) -> set[str]:
    """The ids that a text names, those between the ends of a range too."""
    found = set(_ID.findall(text))
    for letters, first, last in _RANGE.findall(text):
        found |= {f"{letters}-{number:02d}" for number in range(int(first), int(last) + 1)}
    return found


@cache
def named_in_docstrings() -> dict[str, set[str]]:
    """Which files' docstrings name which id."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "rocketmq_py").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for id_ in ids_in(ast.get_docstring(node) or ""):
                    found[id_].add(str(path.relative_to(ROOT)))
    return found


def test_there_is_a_table_whose_ids_are_unique_and_in_order_within_their_letters() -> None:
    ids = [row.id for row in rows()]
    assert len(ids) > 100
    assert len(set(ids)) == len(ids)
    by_letters: defaultdict[str, list[int]] = defaultdict(list)
    for id_ in ids:
        by_letters[id_[:2]].append(int(id_[3:]))
    assert {letters: list(range(1, len(numbers) + 1)) for letters, numbers in by_letters.items()} == by_letters


def test_every_line_that_looks_like_a_row_is_read_as_one() -> None:
    looking = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if re.match(r"^\|\s*[A-Z]{2}-", line)]
    assert len(looking) == len(rows())


def test_every_row_has_a_test_with_its_marker() -> None:
    assert [row.id for row in rows() if row.id not in markers()] == []


def test_every_marker_has_a_row() -> None:
    known = {row.id for row in rows()}
    assert {id_: tests for id_, tests in markers().items() if id_ not in known} == {}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_the_test_that_a_row_names_carries_its_marker(row: Row) -> None:
    assert Marked(*row.test) in markers()[row.id]


def test_every_behaviour_that_a_docstring_names_has_a_row() -> None:
    known = {row.id for row in rows()}
    assert {id_: files for id_, files in named_in_docstrings().items() if id_ not in known} == {}


def test_docstrings_name_behaviours_at_all() -> None:
    assert {"PQ-03", "CC-05", "PL-03", "RB-07", "OS-04", "SB-02"} <= set(named_in_docstrings())
    assert ids_in("Behaviour: PL-01 to PL-03, RB-07. UTF-16 and x86-64") == {"PL-01", "PL-02", "PL-03", "RB-07"}
