"""Writes the parts of the pages that come from the code's own tables: life cycle, layers, what orderly answers mean,
statuses of messages.

``python -m docs.make_diagrams`` brings the pages up to date; tests/unit/test_docs_examples.py fails when one is not.
A generated part stands between ``<!-- generated: name -->`` and ``<!-- end of generated -->``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from rocketmq_py.consumer.consume_result import orderly_action
from rocketmq_py.model import message_status
from rocketmq_py.model.results import ConsumeOrderlyStatus
from rocketmq_py.push_consumer import TRANSITIONS, ServiceState

DOCS = Path(__file__).parent

CAUSES: Mapping[tuple[ServiceState, ServiceState], str] = {
    (ServiceState.CREATE_JUST, ServiceState.STARTING): "start()",
    (ServiceState.CREATE_JUST, ServiceState.SHUTDOWN_ALREADY): "shutdown() before start()",
    (ServiceState.STARTING, ServiceState.CREATE_JUST): "start() failed",
    (ServiceState.STARTING, ServiceState.RUNNING): "start() succeeded",
    (ServiceState.RUNNING, ServiceState.STOPPING): "shutdown()",
    (ServiceState.STOPPING, ServiceState.SHUTDOWN_ALREADY): "shutdown() is done",
}
"""What leads from one state to the next. Exactly the pairs of ``TRANSITIONS``."""

_GENERATED = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(?=<!-- end of generated -->)", re.DOTALL)


def service_state() -> str:
    """The life cycle of a consumer as a mermaid state diagram, out of ``push_consumer.TRANSITIONS``."""
    pairs = [
        (state, following) for state in TRANSITIONS for following in ServiceState if following in TRANSITIONS[state]
    ]
    if set(pairs) != set(CAUSES):
        raise ValueError(f"CAUSES does not fit TRANSITIONS: {set(pairs) ^ set(CAUSES)}")
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(TRANSITIONS)).value}"]
    lines += [f"    {state.value} --> {following.value}: {CAUSES[state, following]}" for state, following in pairs]
    lines += [f"    {state.value} --> [*]" for state, following in TRANSITIONS.items() if not following]
    return "\n".join(["```mermaid", *lines, "```", ""])


def layers() -> str:
    """The layers, highest first, out of the contract that import-linter checks."""
    settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (names,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return "\n".join(["```text", *names, "```", ""])


def orderly_actions() -> str:
    """What each answer of an orderly listener means, out of ``consume_result.orderly_action``."""
    lines = ["| answer | `auto_commit` on | off |", "|---|---|---|"]
    for status in ConsumeOrderlyStatus:
        on, off = (orderly_action(status, auto_commit) for auto_commit in (True, False))
        lines.append(f"| `{status.value}` | {on.name.lower()}: {on.value} | {off.name.lower()}: {off.value} |")
    return "\n".join(["", *lines, "", ""])


def message_statuses() -> str:
    """Every legal change of a message's status as a mermaid state diagram, out of ``message_status.TRANSITIONS``."""
    lines = ["stateDiagram-v2", f"    [*] --> {message_status.W.value}: stored"]
    lines += [
        f"    {before.value} --> {after.value}: {cause}"
        for (before, after), cause in message_status.TRANSITIONS.items()
    ]
    return "\n".join(["```mermaid", *lines, "```", ""])


def status_facts() -> str:
    """What each fact means in each status, out of ``message_status.PATHS``."""
    statuses = list(message_status.MessageStatus)
    lines = [
        "| fact | " + " | ".join(f"in {status.value}" for status in statuses) + " |",
        "|---" * (len(statuses) + 1) + "|",
    ]
    for fact, paths in message_status.PATHS.items():
        cells = [
            "-> " + ", ".join(each.value for each in paths[status]) if status in paths else "" for status in statuses
        ]
        lines.append(f"| {fact.value} | " + " | ".join(cells) + " |")
    return "\n".join(["", *lines, "", ""])


PARTS: Mapping[str, Callable[[], str]] = {
    "service-state": service_state,
    "layers": layers,
    "orderly-actions": orderly_actions,
    "message-statuses": message_statuses,
    "status-facts": status_facts,
}


def up_to_date(page: str) -> str:
    """The text of a page with every generated part made anew."""
    return _GENERATED.sub(lambda match: match[1] + PARTS[match[2]](), page)


def pages() -> list[Path]:
    """All pages of the documentation."""
    return sorted(DOCS.rglob("*.md"))


def main() -> None:
    """Rewrite the pages that are not up to date."""
    for path in pages():
        page = path.read_text(encoding="utf-8")
        newer = up_to_date(page)
        if newer != page:
            path.write_text(newer, encoding="utf-8")


if __name__ == "__main__":
    main()
