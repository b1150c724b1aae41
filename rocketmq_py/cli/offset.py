"""``rocketmq-py offset``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rocketmq_py.cli.credentials import admin_client
from rocketmq_py.cli.offset_reset import QueueReset, Way, carry_out, check, parse_target, plan
from rocketmq_py.cli.options import AdminNameServers, AsJson, DryRun, errors_as_messages
from rocketmq_py.cli.output import moment, print_json, table
from rocketmq_py.errors import BrokerError, RocketMQError
from rocketmq_py.model.codes import ResponseCode

if TYPE_CHECKING:
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt

app = typer.Typer(no_args_is_help=True, help="Offsets of groups: show them, reset them.")

Group = Annotated[str, typer.Option("--group", help="Consumer group.")]


@app.command()
def show(
    group: Group,
    topic: Annotated[str | None, typer.Option(help="Only of this topic.")] = None,
    namesrv: AdminNameServers = None,
    as_json: AsJson = False,
) -> None:
    """What a group has committed in each queue, and its lag. Without --topic: all topics that it has offsets in."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        told = _progress(admin, group, topic)
    if as_json:
        print_json(told)
        return
    rows = [
        (each["topic"], each["broker"], each["queue_id"], each["end"], each["committed"], each["lag"],
         each["in_flight"], moment(each["last_timestamp"]))
        for each in told["queues"]
    ]  # fmt: skip
    print(table(("topic", "broker", "queue", "end", "committed", "lag", "in flight", "last consumed was stored"), rows))
    print(f"\nlag {told['lag']}, {told['consume_tps']:.1f} messages/s")


def _progress(admin: DefaultMQAdminExt, group: str, topic: str | None) -> dict[str, Any]:
    try:
        stats = admin.examine_consume_stats(group, topic)
    except BrokerError as error:
        if error.code != ResponseCode.TOPIC_NOT_EXIST or topic is not None:
            raise
        raise RocketMQError(f"group {group} has not consumed yet: it has no retry topic") from None
    masters = admin.all_master_addresses()
    queues = []
    for mq, offsets in stats.offset_table.items():
        # A 0 is also what brokers tell where nothing is committed.
        committed: int | None = offsets.consumer_offset
        if committed == 0 and mq.broker_name in masters:
            committed = admin.api.committed_offset(masters[mq.broker_name], group, mq)
        queues.append(
            {
                "topic": mq.topic,
                "broker": mq.broker_name,
                "queue_id": mq.queue_id,
                "end": offsets.broker_offset,
                "committed": committed,
                "lag": offsets.lag,
                "in_flight": offsets.pull_offset - offsets.consumer_offset,
                "last_timestamp": offsets.last_timestamp,
            }
        )
    lag = sum(offsets.lag for offsets in stats.offset_table.values())
    return {"group": group, "lag": lag, "consume_tps": stats.consume_tps, "queues": queues}


@app.command()
def reset(
    group: Group,
    topic: Annotated[str, typer.Option(help="Topic.")],
    to: Annotated[
        str,
        typer.Option(help="Where to go on: first, last, a moment like 2026-01-31T12:00:00, or an offset."),
    ],
    broker: Annotated[str | None, typer.Option(help="Only queues of this broker, by its name.")] = None,
    queue: Annotated[int | None, typer.Option(min=0, help="Only queues of this number.")] = None,
    dry_run: DryRun = False,
    namesrv: AdminNameServers = None,
    as_json: AsJson = False,
) -> None:
    """Have a group go on elsewhere: consume again what it has consumed, or pass over what it has not.

    Where nobody runs, the committed offset is written. Where members run, their brokers tell them.
    """
    with errors_as_messages():
        target = parse_target(to)
        with admin_client(namesrv) as admin:
            resets = plan(admin, group, topic, target, broker, queue)
            members = admin.examine_consumer_connection_info(group)
            check(admin, group, resets, members)
            try:
                if not dry_run:
                    carry_out(admin, group, target, resets, members)
            finally:  # when it fails half way: what was done
                running = 0 if members is None else len(members.connections)
                _tell(group, topic, running, resets, dry_run=dry_run, as_json=as_json)


def _tell(group: str, topic: str, members: int, resets: Sequence[QueueReset], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        told = [
            {
                "broker": each.mq.broker_name,
                "queue_id": each.mq.queue_id,
                "first": each.first,
                "end": each.end,
                "before": each.before,
                "after": each.after,
                "way": None if each.way is None else each.way.value,
            }
            for each in resets
        ]
        print_json({"group": group, "topic": topic, "members": members, "dry_run": dry_run, "queues": told})
        return
    rows = [
        (each.mq.broker_name, each.mq.queue_id, each.first, each.end, each.before, each.after, _effect(each),
         "dry run" if dry_run else _DONE[each.way])
        for each in resets
    ]  # fmt: skip
    print(table(("broker", "queue", "first", "end", "committed", "new", "effect", ""), rows))


_DONE = {
    Way.STORED: "done: committed offset written, no member runs",
    Way.BROKER: "done: the broker tells members at their next pull",
    Way.MEMBERS: "done: the broker told the members, they go on there in about 10 s",
    None: "not done",
}


def _effect(reset: QueueReset) -> str:
    if reset.before is None:
        return f"{reset.end - reset.after} to consume"
    change = reset.after - reset.before
    return "none" if not change else f"{change} passed over" if change > 0 else f"{-change} again"
