"""Commands and their options. Exit codes: 0 done, 1 not (all) done, refused or not there, 2 wrong use.

A command imports what it does when it is called: a broker starts without the client.
"""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from rocketmq_py import __version__
from rocketmq_py.cli.dlq import app as dlq_app
from rocketmq_py.cli.group import app as group_app
from rocketmq_py.cli.offset import app as offset_app
from rocketmq_py.cli.options import AdminNameServers, AsJson, Cluster, NameServers, errors_as_messages, parse_moment
from rocketmq_py.cli.topic import app as topic_app
from rocketmq_py.model.config import CONSUME_TIMESTAMP_FORMAT, ConsumeFromWhere
from rocketmq_py.model.delay_level import DEFAULT_DELAY_LEVELS
from rocketmq_py.model.message_status import MessageStatus


class Flush(Enum):
    """Whether a send is answered when the message is on the disk, or before."""

    SYNC = "sync"
    ASYNC = "async"


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

app.add_typer(topic_app, name="topic")
app.add_typer(group_app, name="group")
app.add_typer(offset_app, name="offset")
app.add_typer(dlq_app, name="dlq")


Endpoints = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--endpoints", help="A proxy's gRPC port, host:port, instead of --namesrv.", show_default=False,
    ),
]  # fmt: skip


def _address(context: typer.Context, namesrv: str | None, endpoints: str | None) -> dict[str, str | None]:
    """Where to connect to, as a setting. NAMESRV_ADDR may be set for others: endpoints win."""
    if endpoints is None:
        return {"namesrv_addr": namesrv}
    if _is_given(context, "namesrv"):
        raise typer.BadParameter("--namesrv and --endpoints are two ways: give one", param_hint="--endpoints")
    return {"endpoints": endpoints}


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
    context: typer.Context,
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
    from rocketmq_py.cli import send as sending

    if source not in (None, "-"):
        raise typer.BadParameter("the only source is '-', standard input", param_hint="SOURCE")
    if source == "-" and any(_is_given(context, name) for name in ("count", "size")):
        raise typer.BadParameter("--count and --size are of generated text, not of standard input", param_hint="SOURCE")
    bodies = sending.lines(sys.stdin.buffer) if source == "-" else sending.generated(count, size)
    with errors_as_messages():
        sent = sending.send(_address(context, namesrv, endpoints), topic, bodies, batch=batch, tags=tags, keys=keys)
    typer.echo(f"sent {sent} message{'' if sent == 1 else 's'} to {topic}")


@app.command()
def consume(
    context: typer.Context,
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
    from rocketmq_py.cli import consume as consuming

    where, moment = _consume_from(start)
    with errors_as_messages():
        complete = consuming.consume(
            _address(context, namesrv, endpoints),
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


_TRANSACTIONS = "Transactions that are not decided"
"""A panel of their own, and short types: else their names would not fit into 80 columns."""


@app.command()
def broker(
    data: Annotated[Path, typer.Option(file_okay=False, help="Directory of the store; made when it does not exist.")],
    namesrv_port: Annotated[int, typer.Option(min=0, max=65_535, help="Name server's port; 0: any free one.")] = 9876,
    broker_port: Annotated[int, typer.Option(min=0, max=65_535, help="Broker's port; 0: any free one.")] = 10911,
    grpc_port: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0, max=65_535, help="Port for RocketMQ 5 (gRPC) clients, as a proxy's; 0: any free one. Default: none."
        ),
    ] = None,
    message_delay_level: Annotated[
        str, typer.Option(help="Delays by level, the first is level 1.")
    ] = DEFAULT_DELAY_LEVELS,
    flush: Annotated[
        Flush, typer.Option(help="async is unsafe: a power cut may lose acknowledged messages.")
    ] = Flush.SYNC,
    transaction_time_out: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_TRANSACTIONS,
            min=1,
            help="Ms after which the producer of an open transaction is asked.",
        ),
    ] = 6_000,
    transaction_check_interval: Annotated[
        int,
        typer.Option(metavar="N", rich_help_panel=_TRANSACTIONS, min=1, help="Ms between rounds of such questions."),
    ] = 30_000,
    transaction_check_max: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_TRANSACTIONS, min=1, help="Questions about one message; then it is given up."
        ),
    ] = 15,
    message_status: Annotated[
        bool,
        typer.Option(
            "--message-status", help="Keep what becomes of messages, of topics without the attribute message.status."
        ),
    ] = False,
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
    with errors_as_messages():
        from rocketmq_py.cli import broker as brokering  # needs an extra

        brokering.serve(
            data,
            namesrv_port=namesrv_port,
            broker_port=broker_port,
            grpc_port=grpc_port,
            message_delay_level=message_delay_level,
            synchronous=flush is Flush.SYNC,
            transaction_time_out=transaction_time_out,
            transaction_check_interval=transaction_check_interval,
            transaction_check_max=transaction_check_max,
            message_status=message_status,
            host=host,
            broker_ip1=broker_ip1,
            access_keys=None if access_keys is None else brokering.read_access_keys(access_keys),
            file_reserved_time=retention_hours,
            max_bytes=max_bytes,
            as_json=as_json,
        )


@app.command()
def status(
    msg_id: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Message whose history is shown, by its msg_id or its offset_msg_id.", show_default=False),
    ] = None,
    group: Annotated[Optional[str], typer.Option(help="Consumer group; with MSG_ID: only this one.")] = None,  # noqa: UP045
    state: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help=f"List the group's messages that stand so: {', '.join(each.value for each in MessageStatus)}."
        ),
    ] = None,
    topic: Annotated[Optional[str], typer.Option(help="The message's topic. Default: any.")] = None,  # noqa: UP045
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 1_000,
    namesrv: AdminNameServers = None,
    as_json: AsJson = False,
) -> None:
    """What became of a message, for every group; or a group's messages of one status. The embedded broker knows."""
    from rocketmq_py.cli import status as stating

    states = [each.value for each in MessageStatus]
    if (msg_id is None) is (state is None):
        raise typer.BadParameter("give MSG_ID, or --group and --state, not both", param_hint="MSG_ID")
    if state is not None and state not in states:
        raise typer.BadParameter(f"{state!r} is not one of {', '.join(states)}", param_hint="--state")
    if state is not None and (group is None or topic is not None):
        raise typer.BadParameter("goes with --group, and lists its messages of all topics", param_hint="--state")
    with errors_as_messages():
        if msg_id is not None:
            stating.show(namesrv, msg_id, topic, group, as_json)
        elif group is not None:
            stating.list_messages(namesrv, group, MessageStatus(state), limit, as_json)


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
    with errors_as_messages():
        from rocketmq_py.cli import demo as demonstrating  # needs extras

        limit_s = seconds + demonstrating.WAIT_S if timeout is None else timeout
        complaints = demonstrating.demo(demonstrating.Plan(namesrv, count, seconds, limit_s))
    if complaints is None:
        complaints = ["interrupted by a signal, nothing was checked"]
    for complaint in complaints:
        typer.echo(f"error: {complaint}", err=True)
    if complaints:
        raise typer.Exit(1)


@app.command()
def inspect(
    namesrv: AdminNameServers = None,
    group: Annotated[str | None, typer.Option(help="Group whose members are asked.", show_default=False)] = None,
    client: Annotated[str | None, typer.Option(help="Only this member, by its id.", show_default=False)] = None,
    stacks: Annotated[bool, typer.Option("--stacks", help="With the stacks of its process's threads.")] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, exists=True, show_default=False,
            help="Directory of an embedded broker's store: look at all of it; ends with 1 when it is damaged.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Look into the members of a group: their queues and rates. Or, with --check, into a store."""
    from rocketmq_py.cli import inspect as inspecting

    if (group is None) is (check is None):
        raise typer.BadParameter("either --group or --check", param_hint="--group / --check")
    if check is not None and (client is not None or stacks):
        raise typer.BadParameter("--client and --stacks are of a group's members", param_hint="--check")
    with errors_as_messages():
        if check is not None:
            raise typer.Exit(0 if inspecting.inspect_store(check, as_json=as_json) else 1)
        assert group is not None  # noqa: S101 - see above
        inspecting.inspect_members(namesrv, group, client, stacks=stacks, as_json=as_json)


@app.command()
def bench(
    namesrv: AdminNameServers = None,
    cluster: Cluster = None,
    count: Annotated[int, typer.Option(min=1, max=10_000_000, help="Messages.")] = 20_000,
    size: Annotated[int, typer.Option(min=1, help="Bytes of each body.")] = 1_000,
    queues: Annotated[int, typer.Option(min=1, help="Queues of the topic, on each broker.")] = 8,
    producers: Annotated[int, typer.Option(min=1, max=256, help="Threads that send.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Messages per send.")] = 1,
    consume_batch: Annotated[int, typer.Option(min=1, max=1_024, help="Messages per listener call at most.")] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Give up after so many seconds.")] = 120,
    as_json: AsJson = False,
) -> None:
    """Measure how fast messages are produced and consumed, on a topic of its own that is deleted afterwards."""
    from rocketmq_py.cli import bench as benching

    plan = benching.Plan(namesrv, cluster, count, size, queues, producers, batch, consume_batch, timeout)
    with errors_as_messages():
        complete = benching.bench(plan, as_json=as_json)
    raise typer.Exit(0 if complete else 1)


def _consume_from(text: str) -> tuple[ConsumeFromWhere, str | None]:
    if text == "first":
        return ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, None
    if text == "last":
        return ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, None
    moment = parse_moment(text)
    if moment is None:
        raise typer.BadParameter("'first', 'last' or a moment like 2026-01-31T12:00:00", param_hint="--from")
    return ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, moment.strftime(CONSUME_TIMESTAMP_FORMAT)
