"""``rocketmq-py inspect``: a member's windows, or a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rocketmq_py.cli.credentials import admin_client
from rocketmq_py.cli.output import moment, print_json, table
from rocketmq_py.errors import RocketMQError
from rocketmq_py.model.running_info import ConsumerRunningInfo

_WINDOW_HEADS = (
    "topic", "broker", "queue", "commit", "cached", "lowest", "highest", "taken", "locked", "last pull",
    "last consumed",
)  # fmt: skip
_RATE_HEADS = ("topic", "pulled/s", "ms per pull", "consumed/s", "failed/s", "ms per call", "failed in the last hour")


def inspect_members(namesrv: str | None, group: str, client_id: str | None, *, stacks: bool, as_json: bool) -> None:
    """Tell what the members of a group, or one of them, say of themselves.

    Raises:
        RocketMQError: there is no member, or it does not answer.
    """
    with admin_client(namesrv) as admin:
        members = admin.examine_consumer_connection_info(group)
        if members is None:
            raise RocketMQError(f"group {group} has no members now")
        ids = [member.client_id for member in members.connections] if client_id is None else [client_id]
        told = {each: admin.get_consumer_running_info(group, each, jstack=stacks) for each in ids}
    if as_json:
        print_json({"group": group, "members": [_as_dict(each, info) for each, info in told.items()]})
    else:
        print("\n\n".join(_as_text(each, info) for each, info in told.items()))


def _as_dict(client_id: str, info: ConsumerRunningInfo) -> dict[str, Any]:
    fields = {
        "client_id": client_id,
        "properties": dict(info.properties),
        "subscriptions": {each.topic: each.sub_string for each in info.subscriptions},
        "queues": [
            {"topic": mq.topic, "broker": mq.broker_name, "queue_id": mq.queue_id, **asdict(window)}
            for mq, window in sorted(info.mq_table.items())
        ],
        "pop_queues": [
            {"topic": mq.topic, "broker": mq.broker_name, "queue_id": mq.queue_id, **asdict(window)}
            for mq, window in sorted(info.mq_pop_table.items())
        ],
        "rates": {topic: asdict(status) for topic, status in sorted(info.status_table.items())},
    }
    return fields if info.jstack is None else {**fields, "stacks": info.jstack}


def _as_text(client_id: str, info: ConsumerRunningInfo) -> str:
    version = info.properties.get("PROP_CLIENT_VERSION", "")
    parts = [f"member {client_id} {version}".rstrip()]
    windows = [
        (mq.topic, mq.broker_name, mq.queue_id, each.commit_offset, each.cached_msg_count,
         each.cached_msg_min_offset if each.cached_msg_count else None,
         each.cached_msg_max_offset if each.cached_msg_count else None,
         each.transaction_msg_count, each.locked, moment(each.last_pull_timestamp), moment(each.last_consume_timestamp))
        for mq, each in sorted(info.mq_table.items())
    ]  # fmt: skip
    if windows:
        parts.append(table(_WINDOW_HEADS, windows))
    popped = [
        (mq.topic, mq.broker_name, mq.queue_id, each.wait_ack_count, moment(each.last_pop_timestamp))
        for mq, each in sorted(info.mq_pop_table.items())
    ]
    if popped:
        parts.append(table(("topic", "broker", "queue", "popped, not settled", "last pop"), popped))
    rates = [
        (topic, each.pull_tps, each.pull_rt, each.consume_ok_tps, each.consume_failed_tps, each.consume_rt,
         each.consume_failed_msgs)
        for topic, each in sorted(info.status_table.items())
    ]  # fmt: skip
    if rates:
        parts.append(table(_RATE_HEADS, rates))
    if info.jstack is not None:
        parts.append(info.jstack)
    return "\n\n".join(parts)


def inspect_store(directory: Path, *, as_json: bool) -> bool:
    """Look at a whole store of the embedded broker; whether it is sound.

    Raises:
        StoreError: it cannot be read at all.
    """
    from rocketmq_py.broker.store.check import check  # needs an extra

    found = check(directory)
    sound = not found.count
    if as_json:
        print_json({"store": str(directory), "sound": sound, **asdict(found)})
        return sound
    for problem in found.problems:
        print(problem)
    if found.count > len(found.problems):
        print(f"and {found.count - len(found.problems)} more")
    verdict = "sound" if sound else f"damaged: {_so_many(found.count, 'problem')}. Restore a copy"
    held = f"{_so_many(found.messages, 'message')} in {_so_many(found.queues, 'queue')}"
    print(f"store {directory}, version {found.version}: {held}, {verdict}")
    return sound


def _so_many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
