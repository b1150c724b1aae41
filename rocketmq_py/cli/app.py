"""Commands and their options. Exit codes: 0 done, 1 not all messages came or were sent, 2 wrong use."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from rocketmq_py import __version__
from rocketmq_py.cli import consume as consuming
from rocketmq_py.cli import send as sending
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.config import CONSUME_TIMESTAMP_FORMAT, ConsumeFromWhere
from rocketmq_py.model.delay_level import DEFAULT_DELAY_LEVELS


class Flush(Enum):
    """Whether a send is answered when the message is on the disk, or before."""

    SYNC = "sync"
    ASYNC = "async"


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

NameServers = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--namesrv",
        envvar="NAMESRV_ADDR",
        help="Name servers or a proxy's remoting port, host:port, several separated by ';'.",
    ),
]


Endpoints = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--endpoints", help="A proxy's gRPC port, host:port, instead of --namesrv.", show_default=False,
    ),
]  # fmt: skip


def _address(namesrv: str | None, endpoints: str | None) -> dict[str, str | None]:
    """Where to connect to, as a setting. NAMESRV_ADDR may be set for others: endpoints win."""
    return {"namesrv_addr": namesrv} if endpoints is None else {"endpoints": endpoints}


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rocketmq_py {__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Tell the version.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """RocketMQ from the command line."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


@app.command()
def send(
    topic: Annotated[str, typer.Option(help="Topic to send to.")],
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="'-' sends one message per line of standard input.", show_default=False),
    ] = None,
    namesrv: NameServers = None,
    endpoints: Endpoints = None,
    count: Annotated[int, typer.Option(min=1, help="Messages to send, of generated text.")] = 1,
    size: Annotated[int, typer.Option(min=1, help="Bytes of each generated body.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Messages per request.")] = 1,
    tags: Annotated[Optional[str], typer.Option(help="Tag of every message.")] = None,  # noqa: UP045
    keys: Annotated[Optional[str], typer.Option(help="Business key of every message.")] = None,  # noqa: UP045
) -> None:
    """Send messages."""
    if source not in (None, "-"):
        raise typer.BadParameter("the only source is '-', standard input", param_hint="SOURCE")
    bodies = sending.lines(sys.stdin.buffer) if source == "-" else sending.generated(count, size)
    with _errors_as_messages():
        sent = sending.send(_address(namesrv, endpoints), topic, bodies, batch=batch, tags=tags, keys=keys)
    typer.echo(f"sent {sent} message{'' if sent == 1 else 's'} to {topic}")


@app.command()
def consume(
    topic: Annotated[str, typer.Option(help="Topic to consume.")],
    group: Annotated[str, typer.Option(help="Consumer group.")],
    namesrv: NameServers = None,
    endpoints: Endpoints = None,
    tags: Annotated[str, typer.Option(help="Tag expression, 'TagA || TagB'.")] = "*",
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where a new group starts: first, last, or a moment, 2026-01-31T12:00:00. A group that has consumed "
            "goes on where it was; on a young queue a broker begins at the first message in any case.",
        ),
    ] = "last",
    count: Annotated[Optional[int], typer.Option(min=1, help="End after so many messages.")] = None,  # noqa: UP045
    timeout: Annotated[
        float | None, typer.Option(min=0, max=1e7, help="End after so many seconds, counted from the start.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per message.")] = False,
    orderly: Annotated[
        bool, typer.Option("--orderly", help="Each queue in order, one message after the other.")
    ] = False,
    broadcast: Annotated[
        bool, typer.Option("--broadcast", help="Get every message, whoever else is in the group.")
    ] = False,
) -> None:
    """Consume messages and print them, until --count came, --timeout is over, or Ctrl-C."""
    where, moment = _consume_from(start)
    with _errors_as_messages():
        complete = consuming.consume(
            _address(namesrv, endpoints),
            topic,
            group,
            tags=tags,
            where=where,
            moment=moment,
            count=count,
            timeout_s=timeout,
            as_json=as_json,
            orderly=orderly,
            broadcast=broadcast,
        )
    raise typer.Exit(0 if complete else 1)


@app.command()
def broker(
    data: Annotated[Path, typer.Option(file_okay=False, help="Directory of the store; made when it does not exist.")],
    namesrv_port: Annotated[int, typer.Option(min=0, max=65_535, help="Name server's port; 0: any free one.")] = 9876,
    broker_port: Annotated[int, typer.Option(min=0, max=65_535, help="Broker's port; 0: any free one.")] = 10911,
    message_delay_level: Annotated[
        str, typer.Option(help="Delays by level, the first is level 1.")
    ] = DEFAULT_DELAY_LEVELS,
    flush: Annotated[
        Flush, typer.Option(help="async is unsafe: a power cut may lose acknowledged messages.")
    ] = Flush.SYNC,
    host: Annotated[
        str, typer.Option(help="IP address to listen at; 0.0.0.0: all. Default: this machine only.")
    ] = "127.0.0.1",
    broker_ip1: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--broker-ip1", help="IP address that clients are told to connect to. Default: --host."),
    ] = None,
    access_keys: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            dir_okay=False,
            exists=True,
            help="File with a JSON object of secret keys by access key: requests are checked.",
        ),
    ] = None,
    retention_hours: Annotated[
        int, typer.Option(min=0, help="Delete messages that are older, consumed or not; 0: none.")
    ] = 72,
    max_bytes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=16 * 1024 * 1024, help="Delete the oldest messages when the store has more bytes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell the addresses as a JSON object.")] = False,
) -> None:
    """Run a name server and broker on this machine, until Ctrl-C. For development, tests and demos."""
    with _errors_as_messages():
        from rocketmq_py.cli import broker as brokering  # needs an extra

        brokering.serve(
            data,
            namesrv_port=namesrv_port,
            broker_port=broker_port,
            message_delay_level=message_delay_level,
            synchronous=flush is Flush.SYNC,
            host=host,
            broker_ip1=broker_ip1,
            access_keys=None if access_keys is None else brokering.read_access_keys(access_keys),
            file_reserved_time=retention_hours,
            max_bytes=max_bytes,
            as_json=as_json,
        )


@app.command()
def demo(
    namesrv: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name servers of a RocketMQ that runs, host:port. Default: a broker of the demo's own."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Messages to send.")] = 20_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Send them over so many seconds.")] = 12,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Give up after so many seconds. Default: two minutes more than --seconds."),
    ] = None,
) -> None:
    """Watch two members share queues, fail, retry and commit; ends with 1 when a message is missing."""
    with _errors_as_messages():
        from rocketmq_py.cli import demo as demonstrating  # needs extras

        limit_s = seconds + demonstrating.WAIT_S if timeout is None else timeout
        complaints = demonstrating.demo(demonstrating.Plan(namesrv, count, seconds, limit_s))
    if complaints is None:
        complaints = ["interrupted by a signal, nothing was checked"]
    for complaint in complaints:
        typer.echo(f"error: {complaint}", err=True)
    if complaints:
        raise typer.Exit(1)


def _consume_from(text: str) -> tuple[ConsumeFromWhere, str | None]:
    if text == "first":
        return ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, None
    if text == "last":
        return ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, None
    try:
        moment = datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise typer.BadParameter("'first', 'last' or a moment like 2026-01-31T12:00:00", param_hint="--from") from None
    return ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, moment.strftime(CONSUME_TIMESTAMP_FORMAT)


class _errors_as_messages:  # noqa: N801 - reads as a statement
    """One line instead of a traceback for everything that the user can mend."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RocketMQError):
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error
