"""Texts that clients leave at the name server, by namespace and key. Source: KVConfigManager."""

from __future__ import annotations

import json

from rocketmq_py.broker.commit_log import CommitLog, Stored
from rocketmq_py.broker.store import MessageStore
from rocketmq_py.broker.store.setting_table import delete_setting, put_setting
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode

_KIND = "kv config"

ENTRIES_MAX = 10_000
VALUE_MAX_CHARACTERS = 65_536
CHARACTERS_MAX = 16 * 1024 * 1024
"""Of all entries together, with their names: they are in memory, and a namespace is one answer."""


class KVConfigManager:
    """Owner of the table; on the loop's thread only."""

    def __init__(self, store: MessageStore, commit_log: CommitLog) -> None:
        self._commit_log = commit_log
        self._table: dict[tuple[str, str], str] = {}
        for name, value in store.settings.settings(_KIND).items():
            namespace, key = json.loads(name)
            self._table[namespace, key] = value
        self._characters = sum([_size(place, value) for place, value in self._table.items()])

    def get(self, namespace: str, key: str) -> str | None:
        """A text, None when there is none."""
        return self._table.get((namespace, key))

    def namespace(self, namespace: str) -> dict[str, str]:
        """All texts of a namespace by key."""
        return {key: value for (each, key), value in self._table.items() if each == namespace}

    def put(self, namespace: str, key: str, value: str, stored: Stored) -> None:
        """Keep a text.

        Raises:
            BrokerError: there are too many, or it is too long.
        """
        if len(namespace) + len(key) + len(value) > VALUE_MAX_CHARACTERS:
            raise BrokerError(
                ResponseCode.INVALID_PARAMETER, f"the entry has more than {VALUE_MAX_CHARACTERS} characters"
            )
        if (namespace, key) not in self._table and len(self._table) >= ENTRIES_MAX:
            raise BrokerError(ResponseCode.SYSTEM_BUSY, f"there are {ENTRIES_MAX} entries, the most that are kept")
        was = self._size_of(namespace, key)
        grown = self._characters - was + _size((namespace, key), value)
        if grown > max(CHARACTERS_MAX, self._characters):  # an older version may have kept more
            raise BrokerError(
                ResponseCode.SYSTEM_BUSY, f"the entries would have {grown} characters, {CHARACTERS_MAX} are kept"
            )
        self._characters = grown
        self._table[namespace, key] = value
        self._commit_log.write([put_setting(_KIND, json.dumps([namespace, key]), value)], stored)

    def delete(self, namespace: str, key: str, stored: Stored) -> None:
        """Forget a text."""
        self._characters -= self._size_of(namespace, key)
        self._table.pop((namespace, key), None)
        self._commit_log.write([delete_setting(_KIND, json.dumps([namespace, key]))], stored)

    def _size_of(self, namespace: str, key: str) -> int:
        value = self._table.get((namespace, key))
        return 0 if value is None else _size((namespace, key), value)


def _size(place: tuple[str, str], value: str) -> int:
    return sum(map(len, place)) + len(value)
