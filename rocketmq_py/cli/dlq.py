"""``rocketmq-py dlq``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rocketmq_py.cli import dead_letters
from rocketmq_py.cli.consume import as_dict
from rocketmq_py.cli.credentials import admin_client, credentials
from rocketmq_py.cli.dead_letters import DeadLetterQueue, as_sent, letters, note_resent, origin_topic
from rocketmq_py.cli.options import AdminNameServers, AsJson, DryRun, errors_as_messages
from rocketmq_py.cli.output import CONTROLS, moment, print_json, print_json_line, table
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.message import MessageExt

if TYPE_CHECKING:
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
    from rocketmq_py.producer import DefaultMQProducer

PRODUCER_GROUP = "rocketmq_py_dlq"
NOTE_EVERY = 32
"""So many are sent again before that is noted: an end in between has them sent twice."""

app = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, send again.")

Group = Annotated[str, typer.Option("--group", help="Consumer group whose dead letters are meant.")]
Id = Annotated[
    str | None, typer.Option("--id", help="Only this message, by its msg_id or its offset_msg_id.", show_default=False)
]


@app.command("list")
def list_groups(namesrv: AdminNameServers = None, as_json: AsJson = False) -> None:
    """Groups with dead letters, how many, and how many of them were not sent again."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        told = [
            _summary(group, dead_letters.queues(admin, group)) for group in dead_letters.groups_with_dead_letters(admin)
        ]
    if as_json:
        print_json(told)
        return
    rows = [(each["group"], each["messages"], each["not_resent"], moment(each["last_timestamp"])) for each in told]
    if rows:
        print(table(("group", "messages", "not sent again", "last one"), rows))


def _summary(group: str, queues: list[DeadLetterQueue]) -> dict[str, Any]:
    return {
        "group": group,
        "messages": sum(queue.end - queue.first for queue in queues),
        "not_resent": sum(queue.end - queue.resent for queue in queues),
        "last_timestamp": max((queue.last_timestamp for queue in queues), default=0),
    }


@app.command()
def show(
    group: Group,
    msg_id: Id = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many at most.")] = None,
    namesrv: AdminNameServers = None,
    as_json: AsJson = False,
) -> None:
    """Dead letters of a group, the oldest first; with --json one object on a line each."""
    shown = 0
    with errors_as_messages(), admin_client(namesrv) as admin:
        for queue, msg in _chosen(admin, group, msg_id, again=True):
            if shown == limit:
                break
            shown += 1
            if as_json:
                print_json_line(_told(queue, msg))
            else:
                print(_line(queue, msg), flush=True)
        if msg_id is not None and not shown:
            raise _not_found(group, msg_id)


@app.command()
def resend(
    group: Group,
    msg_id: Id = None,
    every: Annotated[bool, typer.Option("--all", help="All that were not sent again by an earlier --all.")] = False,
    again: Annotated[bool, typer.Option("--again", help="With --all: those that were, too.")] = False,
    topic: Annotated[
        str | None, typer.Option(help="Send to this topic, not to the one they were sent to.", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    namesrv: AdminNameServers = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again as they were, one or all: to their topic, where all groups get them.

    Body, keys, tag, properties and id are kept, failed deliveries count from 0 again. The copies stay in the
    dead-letter topic until they expire there. The first one that cannot be sent ends it: what was sent is told line by
    line.
    """
    if (msg_id is None) is not every:
        raise typer.BadParameter("either --id or --all", param_hint="--id / --all")
    if again and not every:
        raise typer.BadParameter("only with --all", param_hint="--again")
    with errors_as_messages(), admin_client(namesrv) as admin:
        chosen = _chosen(admin, group, msg_id, again=again or msg_id is not None)
        if dry_run:
            sent = sum(_tell(queue, msg, as_sent(msg, topic).topic, None, as_json) for queue, msg in chosen)
        else:
            from rocketmq_py.producer import DefaultMQProducer

            with DefaultMQProducer(PRODUCER_GROUP, namesrv_addr=namesrv, **credentials()) as producer:
                sent = _resend(admin, producer, chosen, topic, noting=every, as_json=as_json)
        if msg_id is not None and not sent:
            raise _not_found(group, msg_id)
    summary = f"{'would send' if dry_run else 'sent'} {sent} message{'' if sent == 1 else 's'} again"
    if as_json:
        print_json_line({"group": group, "dry_run": dry_run, "resent": sent})
    else:
        print(f"{summary}; the copies stay in %DLQ%{group}")


def _resend(
    admin: DefaultMQAdminExt,
    producer: DefaultMQProducer,
    chosen: Iterator[tuple[DeadLetterQueue, MessageExt]],
    topic: str | None,
    *,
    noting: bool,
    as_json: bool,
) -> int:
    sent = 0
    progress: dict[DeadLetterQueue, int] = {}
    try:
        for queue, msg in chosen:
            result = producer.send(as_sent(msg, topic))
            sent += 1
            progress[queue] = msg.queue_offset + 1
            new = {"queue_id": result.message_queue.queue_id, "queue_offset": result.queue_offset,
                   "offset_msg_id": result.offset_msg_id, "broker": result.message_queue.broker_name}  # fmt: skip
            _tell(queue, msg, result.message_queue.topic, new, as_json)
            if noting and sent % NOTE_EVERY == 0:
                _note(admin, progress)
    except KeyboardInterrupt:
        raise RocketMQError(f"interrupted: {sent} messages were sent again, the next one perhaps") from None
    finally:
        if noting:
            _note(admin, progress)
    return sent


def _note(admin: DefaultMQAdminExt, progress: dict[DeadLetterQueue, int]) -> None:
    for queue, upto in progress.items():
        if upto > queue.resent:  # --again does not go back
            note_resent(admin, queue, upto)
    progress.clear()


def _chosen(
    admin: DefaultMQAdminExt, group: str, msg_id: str | None, *, again: bool
) -> Iterator[tuple[DeadLetterQueue, MessageExt]]:
    for queue in dead_letters.queues(admin, group):
        for msg in letters(admin, queue, queue.first if again else queue.resent):
            if msg_id in (None, msg.msg_id, msg.offset_msg_id):
                yield queue, msg
                if msg_id is not None:
                    return


def _tell(queue: DeadLetterQueue, msg: MessageExt, topic: str, new: dict[str, Any] | None, as_json: bool) -> bool:
    if as_json:
        print_json_line({**_told(queue, msg), "to": topic, "as": new})
    else:
        place = "" if new is None else f" {new['broker']}/{new['queue_id']} @{new['queue_offset']}"
        print(f"{_line(queue, msg)} -> {topic}{place}".translate(CONTROLS), flush=True)
    return True


def _told(queue: DeadLetterQueue, msg: MessageExt) -> dict[str, Any]:
    return {
        **as_dict(msg),
        "broker": queue.mq.broker_name,
        "offset_msg_id": msg.offset_msg_id,
        "origin_topic": origin_topic(msg),
        "store_timestamp": msg.store_timestamp,
        "resent": msg.queue_offset < queue.resent,
        "properties": dict(msg.properties),
    }


def _line(queue: DeadLetterQueue, msg: MessageExt) -> str:
    body = msg.body[:200].decode(errors="replace")
    return (
        f"{queue.mq.broker_name}/{queue.mq.queue_id} @{msg.queue_offset} {msg.msg_id} {origin_topic(msg) or '-'} "
        f"{moment(msg.store_timestamp)} retries {msg.reconsume_times}"
        f"{f' keys {msg.keys}' if msg.keys else ''}{' sent again' if msg.queue_offset < queue.resent else ''} {body}"
    ).translate(CONTROLS)


def _not_found(group: str, msg_id: str) -> RocketMQError:
    return RocketMQError(f"group {group} has no dead letter {msg_id}")
