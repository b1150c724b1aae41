"""Options that do not go together, or do not exist, end with 2 and a sentence that says what to give instead."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from rocketmq_py.cli.app import app


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["status"], "give MSG_ID, or --group and --state"),
        (["status", "ID", "--group", "g", "--state", "W"], "not both"),
        (["status", "--group", "g", "--state", "consumed"], "'consumed' is not one of W, TCP, TCS, TCF, CL, CS, CF"),
        (["status", "--state", "W"], "goes with --group"),
        (["status", "--group", "g", "--state", "W", "--topic", "t"], "of all topics"),
        (["topic", "create", "t", "--type", "KIND"], "'NORMAL', 'FIFO', 'DELAY', 'TRANSACTION', 'PRIORITY', 'MIXED'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_clear_words(
    args: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMESRV_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())
