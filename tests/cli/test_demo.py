"""``rocketmq-py demo`` as a person runs it, and its verdict as a function of counts."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rocketmq_py.cli.demo import Ledger, Plan, shortcomings
from rocketmq_py.cli.demo_view import Outcome, Picture, QueueOutcome, QueueRow, drawing, strip, summary, table
from rocketmq_py.consumer.process_queue import WindowSnapshot
from rocketmq_py.model.message_queue import MessageQueue
from tests.embedded import EmbeddedProcess
from tests.io.cluster import Cluster
from tests.unit.support import message

BOUND_S = 60.0
DEMO = [sys.executable, "-m", "rocketmq_py", "demo"]
GOOD = Outcome(
    planned=100, sent=100, consumed=103, failed=4, retried=4, duplicates=3, missing=(),
    queues=[QueueOutcome("0", 60, 60), QueueOutcome("retry", 4, 4)],
)  # fmt: skip


def environment(temporary: Path) -> dict[str, str]:
    """Its temporary directories are made where the test can see what is left of them."""
    return {**os.environ, "TMPDIR": str(temporary), "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}


def run(temporary: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *args], capture_output=True, text=True, timeout=BOUND_S, env=environment(temporary)
    )  # fmt: skip


def totals(output: str) -> dict[str, str]:
    """The last table's only row by its heads."""
    lines = output.splitlines()
    (at,) = (number for number, line in enumerate(lines) if "committed = end of queue" in line)
    heads, cells = (re.split(r" {2,}", lines[at + step].strip()) for step in (0, 1))
    return dict(zip(heads, cells, strict=True))


def queue_rows(output: str) -> dict[str, tuple[int, int]]:
    """Of each queue its end and what is committed."""
    rows = re.findall(r"^ *(retry|\d+) {3,}(\d+) {3,}(\d+)$", output, re.MULTILINE)
    return {name: (int(end), int(committed)) for name, end, committed in rows}


def check_tables(output: str, count: int) -> None:
    row = totals(output)
    consumed, duplicates = int(row["consumed"]), int(row["duplicates"])
    assert int(row["sent"]) == count
    assert consumed == count + duplicates
    assert int(row["retried"]) > 0
    assert row["missing"] == "0"
    assert row["committed = end of queue"] == "9 of 9 queues"
    rows = queue_rows(output)
    assert list(rows) == [*"01234567", "retry"]
    assert all(end == committed for end, committed in rows.values())
    assert sum(end for name, (end, _) in rows.items() if name != "retry") == count
    assert rows["retry"][0] >= int(row["retried"])


# Whole runs.


def test_two_members_consume_everything_and_commit_to_the_end(tmp_path: Path) -> None:
    ended = run(tmp_path, "--count", "1600", "--seconds", "3")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "\x1b" not in ended.stdout
    for text in (
        "rebalance: member 1 took 0, 1, 2, 3, 4, 5, 6, 7",
        "member 2 joined",
        "rebalance: member 2 took 4, 5, 6, 7",
        "fails on purpose, it goes to the retry topic",
        "came through the retry topic, attempt 2 succeeds",
        "queue:first unfinished/holes/committed",
        "nothing is missing",
    ):
        assert text in ended.stdout
    check_tables(ended.stdout, 1600)
    assert list(tmp_path.iterdir()) == []


def test_it_does_the_same_against_servers_that_run_already(tmp_path: Path) -> None:
    with EmbeddedProcess(tmp_path / "data") as server:
        ended = run(tmp_path, "--namesrv", server.namesrv_addr, "--count", "400", "--seconds", "1.5")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    check_tables(ended.stdout, 400)


def test_servers_that_create_no_topics_are_refused_with_advice(tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        ended = run(tmp_path, "--namesrv", cluster.address)
    finally:
        cluster.stop()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"error: .*set autoCreateTopicEnable=true\n", ended.stderr)


def test_a_terminal_gets_a_live_view_and_the_same_tables(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [*DEMO, "--count", "400", "--seconds", "1.5"], stdin=terminal, stdout=terminal, stderr=terminal,
        env=environment(tmp_path),
    )  # fmt: skip
    os.close(terminal)
    output = b""
    try:
        while piece := os.read(screen, 65_536):
            output += piece
    except OSError:
        pass  # Linux says so when the last writer is gone
    finally:
        os.close(screen)
    assert process.wait(BOUND_S) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode()).replace("\r", "")
    assert "\x1b[" in output.decode()
    for shown in ("lowest unfinished", "member 2 joined", "400 of 400"):
        assert shown in text
    check_tables(text, 400)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_soon_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*DEMO, "--seconds", "30"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    )
    assert process.stdout is not None
    for line in process.stdout:
        if " s  sent " in line:
            break
    assert len(list(tmp_path.iterdir())) == 1
    began = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=BOUND_S)
    assert time.monotonic() - began < 15
    assert process.returncode == 1
    assert errors.endswith("error: interrupted by a signal, nothing was checked\n")
    assert "Traceback" not in output + errors
    assert list(tmp_path.iterdir()) == []


def test_it_gives_up_when_the_time_is_over_and_tells_what_is_missing(tmp_path: Path) -> None:
    ended = run(tmp_path, "--count", "4000", "--seconds", "20", "--timeout", "1")
    assert ended.returncode == 1
    assert re.search(r"^error: only \d+ of 4000 messages were sent$", ended.stderr, re.MULTILINE)
    assert "nothing is missing" not in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("namesrv", "code", "text"),
    [
        ("127.0.0.1:1", 1, "no name server can be reached"),
        ("nonsense", 2, "is not of the form host:port"),
    ],
)
def test_an_address_of_no_use_is_one_line(tmp_path: Path, namesrv: str, code: int, text: str) -> None:
    ended = run(tmp_path, "--namesrv", namesrv)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert re.fullmatch(rf"error: .*{text}.*\n", ended.stderr)


# The verdict.


def test_when_everything_is_there_nothing_falls_short() -> None:
    assert shortcomings(GOOD) == []


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ({"sent": 99}, ["only 99 of 100 messages were sent"]),
        ({"missing": (7, 9)}, ["2 of 100 messages were not consumed: 7, 9"]),
        (
            {"missing": range(30)},
            ["30 of 100 messages were not consumed: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."],
        ),
        (
            {"queues": [QueueOutcome("0", 60, 59), QueueOutcome("retry", 4, 0)]},
            ["queue 0 ends at 60 and is committed to 59", "queue retry ends at 4 and is committed to 0"],
        ),
        ({"queues": [QueueOutcome("0", 60, 61)]}, ["queue 0 ends at 60 and is committed to 61"]),
        ({"queues": []}, ["the broker could not tell any queue's end"]),
    ],
)
def test_what_is_missing_or_not_committed_is_said(change: dict[str, object], sentences: list[str]) -> None:
    assert shortcomings(replace(GOOD, **change)) == sentences  # type: ignore[arg-type]


def test_the_summary_shows_both_tables_and_explains_duplicates_if_there_are_any() -> None:
    text = summary(GOOD)
    assert queue_rows(text) == {"0": (60, 60), "retry": (4, 4)}
    assert totals(text)["committed = end of queue"] == "2 of 2 queues"
    assert "at least once" in text
    assert "at least once" not in summary(replace(GOOD, duplicates=0))


def test_the_ledger_tells_retries_duplicates_and_what_is_missing() -> None:
    ledger, queue, retry = Ledger(4), MessageQueue("t", "b", 0), MessageQueue("%RETRY%g", "b", 0)
    ledger.note_sent(queue, 0, 3)
    ledger.note_consumed(0, message(0), queue)
    ledger.note_consumed(0, message(0), queue)
    ledger.note_failed(1, message(1), queue)
    assert (ledger.consumed, ledger.duplicates, ledger.failed, ledger.came_back) == (2, 1, 1, 0)
    assert ledger.missing() == [1, 2]
    ledger.note_consumed(1, message(0, reconsume_times=1), retry)
    assert (ledger.retried, ledger.came_back, ledger.missing()) == (1, 1, [2])
    failed, retried, again = ledger.take_events()
    assert (failed.kind, retried.kind) == ("failed", "retried")
    assert again.text.startswith("messages delivered again")
    assert again.text.endswith(": 1")
    assert ledger.take_events() == []


@pytest.mark.parametrize("count", [2, 80, 400, 20_000])
def test_some_messages_fail_first_and_a_few_of_them_twice(count: int) -> None:
    plan = Plan(None, count, 1, 1)
    failures = [plan.failures_of(number) for number in range(count)]
    assert 0 < sum(map(bool, failures)) <= max(1, count // 2)
    assert max(failures) == (2 if count > 10 else 1)


# What is drawn.


@pytest.mark.parametrize(
    ("window", "signs"),
    [
        (WindowSnapshot((), None, None), ""),
        (WindowSnapshot((), 7, 7), ""),
        (WindowSnapshot((3, 6), 8, 3), "#..#."),
        (WindowSnapshot((3,), 11, 3), "#......."),
        (WindowSnapshot((3,), 15, 3), "#....... +4"),
    ],
)
def test_a_window_is_a_strip_of_signs_from_its_first_unfinished_offset(window: WindowSnapshot, signs: str) -> None:
    assert strip(window, 8) == signs


def test_a_table_is_aligned_to_the_right() -> None:
    assert table(("a", "long"), [(100, 1), (2, 22)]) == "  a   long\n100      1\n  2     22"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (130, 40)])
def test_the_live_view_fits_its_terminal(width: int, height: int) -> None:
    window = WindowSnapshot((12_000, 12_005), 12_900, 12_000)
    rows = [QueueRow(name, 12_900, "member 1", window) for name in [*"0123456", "retry"]]
    rows.append(QueueRow("7", 12_900, "", None))
    picture = Picture(131.5, "waiting " * 30, 3, 100_000, 100_000, 100_000, 1_700, 1_700, 40, 40, 90, rows)
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as drawn:
        console.print(drawing(picture, [f"event {number} " * 30 for number in range(20)], width, height))
    lines = drawn.get().splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert len(set(map(len, (line for line in lines if "12000" in line)))) == 1
    assert "#....#....." in drawn.get()
    assert "event 19" in lines[-1]
