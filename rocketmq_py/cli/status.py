"""``rocketmq-py status``: what became of messages, where a broker keeps it."""

from __future__ import annotations

from collections.abc import Iterator

from rocketmq_py.cli import group as groups
from rocketmq_py.cli.credentials import admin_client
from rocketmq_py.cli.output import moment, print_json, print_json_line, table
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.model.message_status import MessageStatus
from rocketmq_py.mq_admin_ext import DefaultMQAdminExt
from rocketmq_py.remoting.message_status_bodies import Cursor, GroupStatus, ListedMessage, MessageHistory

PART_COUNT = 100


def show(namesrv: str | None, msg_id: str, topic: str | None, group: str | None, as_json: bool) -> None:
    """Print a message's history, for every group or for one."""
    with admin_client(namesrv) as admin:
        found = [
            message._replace(groups=[each for each in message.groups if group in (None, each.group)])
            for message in _histories(admin, msg_id, topic)
        ]
        if group is not None and not any(message.groups for message in found):
            groups.known(admin, group)
    if as_json:
        print_json([_told(message) for message in found])
        return
    for message in found:
        stored = moment(message.store_timestamp)
        print(f"{message.topic} queue {message.queue_id} offset {message.queue_offset}, stored {stored}")
        for each in message.groups:
            _print_group(each)


def _histories(admin: DefaultMQAdminExt, msg_id: str, topic: str | None) -> list[MessageHistory]:
    found: list[MessageHistory] = []
    not_found: BrokerError | None = None
    for address in admin.master_addresses().values():
        try:
            found += admin.api.message_histories(address, msg_id, topic)
        except BrokerError as error:
            if error.code != ResponseCode.QUERY_NOT_FOUND:
                raise
            not_found = error
    if not found and not_found is not None:
        raise not_found
    return found


def _print_group(of: GroupStatus) -> None:
    attempt = f", attempt {of.attempt}" if of.attempt else ""
    passed = ", passed by the committed offset" if of.passed and of.status is MessageStatus.WAIT_CONSUMER else ""
    print(f"  {of.group}: {of.status.value}{attempt}{passed}")
    rows = [(moment(change.at_ms), change.status.value, f"attempt {change.attempt}") for change in of.history]
    for line in table(("", "", ""), rows).splitlines()[1:]:
        print(f"    {line}")


def _told(message: MessageHistory) -> dict[str, object]:
    return {
        **message._asdict(),
        "groups": [
            {
                **each._asdict(),
                "status": each.status.value,
                "history": [{**change._asdict(), "status": change.status.value} for change in each.history],
            }
            for each in message.groups
        ],
    }


def list_messages(namesrv: str | None, group: str, status: MessageStatus, limit: int, as_json: bool) -> None:
    """Print the messages of a group that stand so; with JSON one object on a line each."""
    rows = []
    with admin_client(namesrv) as admin:
        for message in _listed(admin, group, status, limit):
            if as_json:
                print_json_line(message._asdict())
            else:
                place = message.topic, message.queue_id, message.queue_offset
                rows.append((message.msg_id, *place, message.attempt, moment(message.at_ms)))
    if rows:
        print(table(("message", "topic", "queue", "offset", "attempt", "since"), rows))


def _listed(admin: DefaultMQAdminExt, group: str, status: MessageStatus, limit: int) -> Iterator[ListedMessage]:
    left = limit
    for address in admin.master_addresses().values():
        at: Cursor | None = Cursor()
        while at is not None and left:
            part = admin.api.messages_with_status(address, group, status, min(left, PART_COUNT), at)
            yield from part.messages
            left -= len(part.messages)
            at = part.following
    if left == limit:
        groups.known(admin, group)  # else nobody sees that its name is misspelt
