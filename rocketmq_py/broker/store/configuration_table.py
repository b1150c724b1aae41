"""Configurations of topics and groups, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rocketmq_py.broker.store.database import Database, Write


def put_topic(name: str, config: Mapping[str, Any]) -> Write:
    """A topic's configuration, new or changed."""
    return Write("INSERT OR REPLACE INTO topic VALUES (?1, ?2, checksum(?1, ?2))", [(name, json.dumps(config))])


def put_group(name: str, config: Mapping[str, Any]) -> Write:
    """A group's configuration, new or changed."""
    return Write(
        "INSERT OR REPLACE INTO consumer_group VALUES (?1, ?2, checksum(?1, ?2))", [(name, json.dumps(config))]
    )


def delete_topic(name: str) -> Write:
    """A topic that is to be forgotten."""
    return Write("DELETE FROM topic WHERE name = ?", [(name,)])


def delete_group(name: str) -> Write:
    """A group that is to be forgotten."""
    return Write("DELETE FROM consumer_group WHERE name = ?", [(name,)])


class ConfigurationTable:
    """Reads configurations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def topics(self) -> dict[str, dict[str, Any]]:
        """Topic configurations by name. Raises ``StoreError``."""
        return self._by_name("SELECT name, config, crc = checksum(name, config) FROM topic")

    def groups(self) -> dict[str, dict[str, Any]]:
        """Group configurations by name. Raises ``StoreError``."""
        return self._by_name("SELECT name, config, crc = checksum(name, config) FROM consumer_group")

    def _by_name(self, query: str) -> dict[str, dict[str, Any]]:
        return {name: json.loads(config) for name, config in self._database.intact(query)}
