"""What the documentation says about the code must hold: examples run, pictures fit, links lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from docs.make_diagrams import PARTS, pages, up_to_date
from rocketmq_py.cli.app import app
from rocketmq_py.consumer.stats import Event
from rocketmq_py.model.config import ClientConfig, ConsumerConfig, ProducerConfig

ROOT = Path(__file__).parents[2]
PAGES = [*pages(), ROOT / "README.md"]

_RUNNABLE = re.compile(r"^```python\n(# runnable\n.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_SETTING = re.compile(r"^\| `(?P<name>[a-z_0-9]+)` \| (?P<default>[^|]+) \|", re.MULTILINE)

_LOCK = re.compile(r"\b(Mutex|\.lock)\(\)")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _examples() -> list[tuple[str, str]]:
    return [
        (f"{_name(path)}:{text.count(chr(10), 0, match.start()) + 2}", match[1])
        for path in PAGES
        for text in [_text(path)]
        for match in _RUNNABLE.finditer(text)
    ]


@pytest.mark.parametrize(("place", "code"), [pytest.param(place, code, id=place) for place, code in _examples()])
def test_examples_marked_runnable_run(place: str, code: str) -> None:
    exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_there_are_runnable_examples() -> None:
    assert len(_examples()) >= 3


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    page = _text(path)
    assert up_to_date(page) == page, "run: python -m docs.make_diagrams"


def test_every_generated_part_stands_in_a_page() -> None:
    everything = "".join(map(_text, PAGES))
    assert [name for name in PARTS if f"<!-- generated: {name} -->" not in everything] == []


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = _HEADING.findall(_FENCED.sub("", _text(path)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_links_lead_to_files_headings_and_tests_that_exist(path: Path) -> None:
    broken = []
    for match in _LINK.finditer(_FENCED.sub("", _text(path))):
        address, _, anchor = match["target"].partition("#")
        if address.startswith(("http:", "https:")):
            continue
        target = (path.parent / address).resolve() if address else path
        named = re.fullmatch(r"`(test_\w+)`", match["text"])
        if (
            not target.exists()
            or (anchor and anchor not in _anchors(target))
            or (named and f"def {named[1]}(" not in _text(target))
        ):
            broken.append(match[0])
    assert broken == []


@pytest.mark.parametrize("config", [ClientConfig, ConsumerConfig, ProducerConfig])
def test_the_table_of_settings_names_every_setting_with_its_default(config: type) -> None:
    told = {match["name"]: match["default"].strip() for match in _SETTING.finditer(_text(ROOT / "docs" / "README.md"))}
    for field in dataclasses.fields(config):
        assert field.name in told
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            assert told[field.name].replace(",", "") == str(field.default), field.name


def _locks() -> Iterator[str]:
    """``Class.attribute`` of every lock of the client."""
    package = ROOT / "rocketmq_py"
    for path in package.rglob("*.py"):
        text = _text(path)
        if path.relative_to(package).parts[0] in {"broker", "cli", "testing", "runtime.py"} or not _LOCK.search(text):
            continue
        for owner in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)):
            for node in ast.walk(owner):
                if isinstance(node, ast.Assign) and _LOCK.search(ast.unparse(node.value)):
                    yield from (f"{owner.name}.{at.attr}" for at in node.targets if isinstance(at, ast.Attribute))


def test_the_table_of_locks_names_every_lock() -> None:
    locks = set(_locks())
    assert len(locks) > 40
    told = _text(ROOT / "docs" / "internals" / "concurrency.md")
    assert [lock for lock in sorted(locks) if f"`{lock}`" not in told] == []


def test_what_the_map_of_java_says_is_not_there_has_no_other_row() -> None:
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", _text(ROOT / "docs" / "internals" / "java-map.md"), re.MULTILINE)
    missing = {name for java, here in rows if here.startswith("not there") for name in re.findall(r"`(\w+)`", java)}
    assert len(missing) > 10
    there = {name for java, here in rows if not here.startswith("not there") for name in re.findall(r"`(\w+)`", java)}
    assert missing & there == set()


def test_files_that_the_map_of_java_names_exist() -> None:
    text = _text(ROOT / "docs" / "internals" / "java-map.md")
    files = set(re.findall(r"`([a-z_/]+/[a-z_]+\.py)`", text))
    assert len(files) > 40
    assert [name for name in sorted(files) if not (ROOT / "rocketmq_py" / name).is_file()] == []


def test_names_in_modules_that_the_map_of_java_names_exist() -> None:
    """Such as `pop_failures.POP_DELAY_LEVEL`: a name moves, and its row is forgotten."""
    modules = {path.stem: path for path in (ROOT / "rocketmq_py").rglob("*.py")}
    rows = re.findall(r"^\| `.+? \| (.+) \|$", _text(ROOT / "docs" / "internals" / "java-map.md"), re.MULTILINE)
    told = [name for here in rows for name in re.findall(r"`([a-z_]+)\.([A-Za-z]\w+)", here) if name[1] != "py"]
    named = [(module, name) for module, name in told if module in modules]
    assert len(named) > 10
    assert [each for each in named if not re.search(rf"\b{each[1]}\b", _text(modules[each[0]]))] == []


def test_the_table_of_counters_names_every_counter() -> None:
    told = set(re.findall(r"^\| `([A-Z_]+)` \|", _text(ROOT / "docs" / "README.md"), re.MULTILINE))
    assert {event.name for event in Event} <= told


def test_the_map_of_files_names_every_module() -> None:
    map_of_files = _text(ROOT / "docs" / "internals" / "architecture.md")
    package = ROOT / "rocketmq_py"
    elsewhere = {"__init__.py", "broker", "testing"}  # told as wholes
    modules = [path.relative_to(package) for path in package.rglob("*.py")]
    assert [
        str(module) for module in modules if elsewhere.isdisjoint(module.parts) and f"`{module}`" not in map_of_files
    ] == []


def test_the_page_on_the_broker_names_every_module_of_it() -> None:
    page = _text(ROOT / "docs" / "internals" / "broker.md")
    broker = ROOT / "rocketmq_py" / "broker"
    as_a_whole = {"__init__.py", *(path.name for path in (broker / "store").glob("*_table.py"))}
    modules = {path.name for path in broker.rglob("*.py")} - as_a_whole
    assert sorted(name for name in modules if f"`{name}`" not in page and f"/{name}`" not in page) == []


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_what_follows_a_table_is_no_row_of_it(path: Path) -> None:
    assert re.findall(r"^\|.*\n([^|\n].*)$", _FENCED.sub("", _text(path)), re.MULTILINE) == []


def _options(command: Any, path: str = "rocketmq-py") -> Iterator[tuple[str, str]]:
    """Each command with each of its options' longest names."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _options(inner, f"{path} {name}")
    if not hasattr(command, "commands"):
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--help" not in parameter.opts:
                yield path, max(parameter.opts, key=len)


def test_every_option_of_every_command_stands_in_its_usage() -> None:
    page = _text(ROOT / "docs" / "README.md")
    usage: dict[str, str] = {}
    before = ""
    for fenced in re.findall(r"^```text\n(rocketmq-py.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for each in re.split(r"\n(?=rocketmq-py)", fenced.replace(" [-v]", "")):
            name = " ".join(itertools.takewhile(lambda word: re.fullmatch(r"[a-z][a-z-]*", word), each.split()))
            usage[name] = usage.get(name, "") + (each if "[the same" not in each else before)
            before = each
    everywhere = {"--namesrv", "--json"}  # said once, of all commands of the administration
    missing = [
        (path, option)
        for path, option in _options(get_command(app))
        if option not in everywhere and option not in usage.get(path, "")
    ]
    assert missing == []
