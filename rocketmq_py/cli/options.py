"""Options that several commands have, and how errors reach people."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Optional

import typer

from rocketmq_py.errors import ConfigError, RocketMQError

NameServers = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--namesrv",
        envvar="NAMESRV_ADDR",
        help="Name servers or a proxy's remoting port, host:port, several separated by ';'.",
    ),
]
AdminNameServers = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--namesrv",
        envvar="NAMESRV_ADDR",
        help="Name servers, host:port, several separated by ';'. A proxy takes no administration.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Tell it as JSON.")]
Cluster = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Cluster whose masters are meant; may be left out where there is one only."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def parse_moment(text: str) -> datetime | None:
    """A moment like 2026-01-31T12:00:00, of this machine's time zone unless it names one; None when it is none."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost.

    Raises:
        ConfigError: there is nobody to ask: without a terminal ``--yes`` must be given.
        typer.Exit: the answer is no.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        typer.echo(err=True)
        raise ConfigError("nobody answers on standard input: --yes does it without a question") from None
    if not agreed:
        raise typer.Exit(1)


class errors_as_messages:  # noqa: N801 - reads as a statement
    """One line instead of a traceback for everything that the user can mend."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RocketMQError):
            typer.echo(f"error: {' '.join(str(error).splitlines())}", err=True)  # name servers add a line with a link
            raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error
