"""What ``rocketmq-py demo`` shows: pictures of a running group, live or as lines, and the table at the end."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rocketmq_py.consumer.process_queue import WindowSnapshot

LINES_BESIDE_EVENTS = 19
EVENTS_MIN, EVENTS_MAX, EVENTS_FREQUENT = 5, 12, 2
COLUMNS_BESIDE_STRIP = 64
"""Of the live table, with offsets of five digits and `` +9999`` behind the strip."""
STRIP_MIN, STRIP_MAX = 12, 64
PLAIN_INTERVAL_S = 1.0
PLAIN_ALIKE_MAX = 3
"""Events of a kind that the plain view prints; the live one has a list that scrolls."""

UNFINISHED, FINISHED = "#", "."


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line.

    Attributes:
        kind: what many alike have in common, of which a few are enough; "" for what is rare.
    """

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue at one moment.

    Attributes:
        end: offset of the next message to be sent to it, as far as is known here.
        owner: the member that has it, or "" while it changes hands; ``window`` is None then.
        committed: what the broker told last; None: nothing yet.
    """

    name: str
    end: int
    owner: str
    window: WindowSnapshot | None
    committed: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """The demo at one moment.

    Attributes:
        phase: what it does or waits for.
        left: how many messages of that are left.
    """

    elapsed_s: float
    phase: str
    left: int
    planned: int
    sent: int
    consumed: int
    sent_per_s: float
    consumed_per_s: float
    failed: int
    retried: int
    duplicates: int
    rows: Sequence[QueueRow]


@dataclass(frozen=True, slots=True)
class QueueOutcome:
    """A queue at the end, as its broker tells."""

    name: str
    end: int
    committed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        sent: messages that a broker acknowledged.
        consumed: deliveries that succeeded.
        failed: deliveries that failed, on purpose; a message may fail twice.
        retried: messages that succeeded when they came again through the retry topic.
        duplicates: deliveries of messages that had succeeded before.
        missing: numbers of messages sent and not consumed.
        time_over: it was ended because it took too long.
    """

    planned: int
    sent: int
    consumed: int
    failed: int
    retried: int
    duplicates: int
    missing: Sequence[int]
    queues: Sequence[QueueOutcome]
    time_over: bool = False

    @property
    def committed_to_the_end(self) -> int:
        """Queues of which nothing is left."""
        return sum(queue.committed == queue.end for queue in self.queues)


class View(Protocol):
    """Draws pictures. Used by one thread."""

    def tell(self, events: Iterable[Event]) -> None:
        """Take what happened since the last call."""
        ...

    def show(self, picture: Picture) -> None:
        """Show the demo as it is now."""
        ...


@contextmanager
def opened_view() -> Iterator[View]:
    """Live drawing on a terminal, plain lines elsewhere."""
    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield PlainView()
        return
    with Live(console=console, auto_refresh=False) as live:
        view = LiveView(console, live)
        with _log_told_to(view):
            yield view


class PlainView:
    """A few lines per second."""

    def __init__(self) -> None:
        self._next_s = PLAIN_INTERVAL_S
        self._phase = ""
        self._told: Counter[str] = Counter()

    def tell(self, events: Iterable[Event]) -> None:
        """Print what is rare, and the first of each kind."""
        for event in events:
            if event.kind:
                self._told[event.kind] += 1
            told = self._told[event.kind]
            if told <= PLAIN_ALIKE_MAX:
                _print(f"  {event.text}{' (others are only counted)' if told == PLAIN_ALIKE_MAX else ''}")

    def show(self, picture: Picture) -> None:
        """Print where it stands, once per second."""
        if picture.phase != self._phase:
            self._phase = picture.phase
            _print(f"{picture.elapsed_s:5.1f} s  {picture.phase}")
        if picture.elapsed_s < self._next_s:
            return
        self._next_s = picture.elapsed_s + PLAIN_INTERVAL_S
        _print(
            f"{picture.elapsed_s:5.1f} s  sent {picture.sent} of {picture.planned} ({picture.sent_per_s:.0f}/s), "
            f"consumed {picture.consumed} ({picture.consumed_per_s:.0f}/s), failed {picture.failed}, "
            f"retried {picture.retried}, duplicates {picture.duplicates}; {picture.left} left"
        )
        windows = "  ".join(f"{row.name}:{'/'.join(_window_cells(row))}" for row in picture.rows)
        _print(f"         queue:first unfinished/holes/committed  {windows}")


class LiveView:
    """Drawn over itself: header, progress, a row per queue, the last events. Any thread may ``tell``."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._lock = threading.Lock()
        self._rare: deque[str] = deque(maxlen=EVENTS_MAX)
        self._frequent: deque[str] = deque(maxlen=EVENTS_FREQUENT)  # apart: they would drive the others out at once

    def tell(self, events: Iterable[Event]) -> None:
        """Note for the next drawing."""
        with self._lock:
            for event in events:
                (self._frequent if event.kind else self._rare).append(event.text)

    def show(self, picture: Picture) -> None:
        """Put what was told and the picture on the terminal."""
        with self._lock:
            events = [*self._rare, *self._frequent]
        self._live.update(drawing(picture, events, *self._console.size), refresh=True)


def drawing(picture: Picture, events: Sequence[str], width: int, height: int) -> Group:
    """The live view as something that rich can draw; fits 80 columns and 24 lines when there are nine rows."""
    header = Text.assemble(
        ("rocketmq-py demo", "bold"), f"  {picture.elapsed_s:.1f} s  ",
        (f"{picture.phase}: {picture.left} left", "cyan"), overflow="ellipsis", no_wrap=True,
    )  # fmt: skip
    progress = Table.grid(padding=(0, 1))
    for name, number, per_s in (
        ("sent", picture.sent, picture.sent_per_s),
        ("consumed", picture.consumed, picture.consumed_per_s),
    ):
        bar = ProgressBar(picture.planned, min(number, picture.planned), width=width // 3)
        progress.add_row(name, bar, f"{number} of {picture.planned}", f"{per_s:6.0f}/s")
    counts = Text(
        f"failed on purpose {picture.failed}, retried {picture.retried}, duplicates {picture.duplicates}\n",
        overflow="ellipsis", no_wrap=True,
    )  # fmt: skip
    rows = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("queue", "owner", "end", "first", "holes", "committed"):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("window", no_wrap=True)
    strip_width = min(max(width - COLUMNS_BESIDE_STRIP, STRIP_MIN), STRIP_MAX)
    for row in picture.rows:
        signs = Text(strip(row.window, strip_width) if row.window else "")
        signs.highlight_regex(f"[{UNFINISHED}]+", "yellow")
        signs.highlight_regex(r"\.+", "green")
        rows.add_row(row.name, row.owner or "-", str(row.end), *_window_cells(row), signs)
    legend = Text(
        f"first: lowest unfinished offset; window from there on: {UNFINISHED} unfinished, {FINISHED} finished (hole)\n",
        "dim", overflow="ellipsis", no_wrap=True,
    )  # fmt: skip
    shown = min(max(height - LINES_BESIDE_EVENTS, EVENTS_MIN), EVENTS_MAX)
    lines = Text("\n".join(events[-shown:]), overflow="ellipsis", no_wrap=True)
    return Group(header, progress, counts, rows, legend, lines)


def strip(window: WindowSnapshot, width: int) -> str:
    """A window's first ``width`` offsets as signs, and how many more there are: ``#..#.. +12``."""
    first, end = window.first_unfinished, window.next_offset
    if first is None or end is None:
        return ""
    unfinished = set(window.unfinished)
    signs = (UNFINISHED if offset in unfinished else FINISHED for offset in range(first, min(end, first + width)))
    more = end - first - width
    return "".join(signs) + (f" +{more}" if more > 0 else "")


def summary(outcome: Outcome) -> str:
    """The tables at the end, and what duplicates are."""
    queues = table(
        ("queue", "end of queue", "committed"), [(each.name, each.end, each.committed) for each in outcome.queues]
    )
    totals = table(
        ("sent", "consumed", "failed", "retried", "duplicates", "missing", "committed = end of queue"),
        [(
            outcome.sent, outcome.consumed, outcome.failed, outcome.retried, outcome.duplicates, len(outcome.missing),
            f"{outcome.committed_to_the_end} of {len(outcome.queues)} queues",
        )],
    )  # fmt: skip
    duplicates = (
        "\n\nconsumed = sent + duplicates. When a queue moves, what was finished above its first\n"
        "unfinished message (the holes of its window) is not committed, so its new owner\n"
        "gets it again: delivery is at least once."
    )
    return f"{queues}\n\n{totals}{duplicates if outcome.duplicates else ''}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text, aligned to the right."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join(
        "   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _window_cells(row: QueueRow) -> tuple[str, str, str]:
    """First unfinished offset, holes, committed."""
    window = row.window
    first = None if window is None else window.first_unfinished
    holes = "-" if window is None else str(len(window.holes))
    return "-" if first is None else str(first), holes, "-" if row.committed is None else str(row.committed)


@contextmanager
def _log_told_to(view: View) -> Iterator[None]:
    """Log records as events: written to the terminal they would tear the drawing."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, [_EventHandler(view)]
    try:
        yield
    finally:
        root.handlers = before


class _EventHandler(logging.Handler):
    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        self._view.tell([Event(f"{record.levelname}: {record.getMessage()}")])


def _print(line: str) -> None:
    print(line, flush=True)  # whoever reads a pipe wants to see it now
