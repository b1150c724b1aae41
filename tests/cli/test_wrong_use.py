"""Options that do not go together, or do not exist, end with 2 and a sentence that says what to give instead."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from rocketmq_py.cli.app import app
from rocketmq_py.cli.options import confirm, errors_as_messages


@pytest.mark.behaviour("AC-11")
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["status"], "give MSG_ID, or --group and --state"),
        (["status", "ID", "--group", "g", "--state", "W"], "not both"),
        (["status", "--group", "g", "--state", "consumed"], "'consumed' is not one of W, TCP, TCS, TCF, CL, CS, CF"),
        (["status", "--state", "W"], "goes with --group"),
        (["status", "--group", "g", "--state", "W", "--topic", "t"], "of all topics"),
        (["send", "--topic", "t", "--namesrv", "h:1", "--endpoints", "h:2"], "are two ways: give one"),
        (["send", "--topic", "t", "-", "--count", "3"], "are of generated text, not of standard input"),
        (["send", "--topic", "t", "-", "--size", "100"], "are of generated text, not of standard input"),
        (["consume", "--topic", "t", "--group", "g", "--namesrv", "h:1", "--endpoints", "h:2"], "give one"),
        (["inspect", "--check", ".", "--stacks"], "are of a group's members"),
        (["topic", "create", "%RETRY%g"], "would be a topic of the group g: brokers make such a topic when"),
        (["topic", "create", "%DLQ%g"], "would be a topic of the group g: brokers make such a topic when"),
        (["topic", "create", "t", "--type", "KIND"], "'NORMAL', 'FIFO', 'DELAY', 'TRANSACTION', 'PRIORITY', 'MIXED'"),
        (["topic", "create", "t", "--attribute", "message.status"], "is not NAME=VALUE, such as message.status=true"),
        (["topic", "create", "t", "--attribute", "a=b,+c=d"], "is not NAME=VALUE"),
        (
            ["topic", "update", "t", "--type", "FIFO", "--attribute", "message.type=DELAY"],
            "message.type is given twice",
        ),
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


@pytest.mark.behaviour("AC-11")
def test_a_question_that_nobody_answers_says_what_to_give() -> None:
    asking = typer.Typer()

    @asking.command()
    def ask(yes: bool = False) -> None:
        with errors_as_messages():
            confirm("Delete it?", yes)
        typer.echo("deleted")

    unanswered = CliRunner().invoke(asking, [], input="")
    assert unanswered.exit_code == 2
    assert "--yes does it without a question" in unanswered.output
    assert CliRunner().invoke(asking, [], input="n\n").exit_code == 1
    assert "deleted" in CliRunner().invoke(asking, [], input="y\n").output
    assert "deleted" in CliRunner().invoke(asking, ["--yes"]).output


@pytest.mark.behaviour("AC-11")
def test_the_help_of_a_broker_tells_whole_names_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(app, ["broker", "--help"]).output
    for name in ("--transaction-time-out", "--transaction-check-interval", "--transaction-check-max", "--grpc-port"):
        assert f"{name} " in told
    assert "…" not in told
