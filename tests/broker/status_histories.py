"""What must hold of every history of a message's status."""

from __future__ import annotations

from collections import defaultdict

from rocketmq_py.broker.status_runs import Run, StatusRuns
from rocketmq_py.broker.store import MessageStore, QueueKey
from rocketmq_py.model.message_status import MessageStatus, step
from rocketmq_py.remoting.message_status_bodies import Change, GroupStatus

CONSUMED = MessageStatus.CONSUMER_SUCCESS


def check_history(told: GroupStatus) -> set[MessageStatus]:
    """Each change is legal, and the last one leads to how the message stands; the statuses that it ever had."""
    status, attempt = MessageStatus.WAIT_CONSUMER, 0
    for change in told.history:
        status, attempt = step(status, attempt, change.status)
        assert (status, attempt) == (change.status, change.attempt), told
    assert (status, attempt) == (told.status, told.attempt), told
    return {change.status for change in told.history}


def check_stored_histories(store: MessageStore, topic: str) -> dict[str, set[tuple[int, int]]]:
    """The same of all messages of a topic; by group, queue ids and offsets of those that it ever consumed."""
    runs: dict[tuple[str, QueueKey], list[Run]] = defaultdict(list)
    for row in store.statuses.statuses():
        run = Run(row.first, row.end, MessageStatus(row.status), row.attempt)
        runs[row.consumer_group, QueueKey(row.topic, row.queue_id)].append(run)
    now = {where: StatusRuns(of_queue) for where, of_queue in runs.items()}
    consumed: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for key, state in store.messages.queues().items():
        for offset in range(state.min_offset, state.max_offset) if key.topic == topic else ():
            changes: dict[str, list[Change]] = {group: [] for group, of in now if of == key}
            for each in store.statuses.history(key, offset):
                changes[each.consumer_group].append(Change(MessageStatus(each.status), each.attempt, each.at_ms))
            for group, history in changes.items():
                run = now[group, key].at(offset)
                if CONSUMED in check_history(GroupStatus(group, run.status, run.attempt, False, history)):
                    consumed[group].add((key.queue_id, offset))
    return consumed
