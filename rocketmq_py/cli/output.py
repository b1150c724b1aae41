"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
"""What others wrote must not steer the terminal, nor look like two lines."""


def print_json(value: object) -> None:
    """One document, over several lines."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_json_line(value: object) -> None:
    """One document on one line, at once: whoever reads a pipe wants to see it now."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


_RIGHT = {int, float, type(None)}


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text: numbers to the right, the rest to the left; None is a dash."""
    told = [list(row) for row in rows]
    right = [all(type(row[column]) in _RIGHT for row in told) for column in range(len(heads))]
    cells = [list(heads), *([_cell(value) for value in row] for row in told)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join(
        "   ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
    return str(value).translate(CONTROLS)


def moment(timestamp_ms: int) -> str | None:
    """A moment for people; None for 0 and below, which mean never."""
    if timestamp_ms <= 0:
        return None
    return datetime.fromtimestamp(timestamp_ms / 1_000).astimezone().isoformat(sep=" ", timespec="seconds")[:19]


def version(ordinal: int) -> str:
    """What a client's version is called; the number where it has no such name. Source: MQVersion.getVersionDesc."""
    number = ordinal - _V4_0_0_SNAPSHOT
    if not 0 <= number < 400:
        return str(ordinal)  # of version 3, or later than all that upstream has reserved
    major, rest = divmod(number, 200)
    return f"V{4 + major}_{rest // 20}_{rest % 20 // 2}{'' if number % 2 else '_SNAPSHOT'}"


_V4_0_0_SNAPSHOT = 212
"""``MQVersion`` has two of each version from here to V5_9_9, the second is the released one."""
