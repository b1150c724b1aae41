"""Which groups pull a topic and which pop it, when the broker divides queues. Source: MessageRequestModeManager."""

from __future__ import annotations

import json
from typing import NamedTuple

from rocketmq_py.broker.commit_log import CommitLog, Stored
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.broker.store.setting_table import put_setting
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode

_KIND = "message request mode"
_SEPARATOR = "@"
"""Neither topics nor groups may contain it."""

MODES_MAX = 20_000


class MessageRequestMode(NamedTuple):
    """How a group gets a topic's messages.

    Attributes:
        mode: PULL or POP.
        pop_share_queue_num: so many members behind it share what a member pops; 0: everybody pops everything.
    """

    mode: str
    pop_share_queue_num: int = 0


PULL = MessageRequestMode("PULL")


class MessageRequestModeManager:
    """Owner of the modes that were set; on the loop's thread only."""

    def __init__(self, store: MessageStore, commit_log: CommitLog) -> None:
        self._commit_log = commit_log
        self._modes = {
            name: MessageRequestMode(*json.loads(text)) for name, text in store.settings.settings(_KIND).items()
        }

    def mode(self, topic: str, group: str) -> MessageRequestMode:
        """What was set; PULL where nothing was."""
        return self._modes.get(f"{topic}{_SEPARATOR}{group}", PULL)

    def put(self, topic: str, group: str, mode: MessageRequestMode, stored: Stored) -> None:
        """Set a mode.

        Raises:
            BrokerError: there are too many.
        """
        name = f"{topic}{_SEPARATOR}{group}"
        if name not in self._modes and len(self._modes) >= MODES_MAX:
            raise BrokerError(ResponseCode.SYSTEM_BUSY, f"this broker has {MODES_MAX} modes, the most it takes")
        self._modes[name] = mode
        self._commit_log.write([put_setting(_KIND, name, json.dumps(mode))], stored)

    def table(self) -> dict[str, dict[str, dict[str, object]]]:
        """All that was set by topic and group, as part of a body."""
        table: dict[str, dict[str, dict[str, object]]] = {}
        for name, mode in self._modes.items():
            topic, _, group = name.partition(_SEPARATOR)
            table.setdefault(topic, {})[group] = {
                "consumerGroup": group,
                "mode": mode.mode,
                "popShareQueueNum": mode.pop_share_queue_num,
                "topic": topic,
            }
        return table
