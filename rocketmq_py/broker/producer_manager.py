"""Which producers are connected. Source: ProducerManager."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rocketmq_py.broker.channel import Channel
from rocketmq_py.broker.client_channel_info import ClientChannelInfo
from rocketmq_py.errors import BrokerError
from rocketmq_py.model.codes import ResponseCode

GROUPS_MAX = 20_000
"""Producer groups: their names come over the wire. Upstream sets no limit."""

CONNECTIONS_MAX = 100_000
"""Of all groups together: one heartbeat may name thousands. Upstream sets no limit."""

_log = logging.getLogger(__name__)


class ProducerManager:
    """Owner of the connections of all producers, by group; on the loop's thread only."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[Channel, ClientChannelInfo]] = {}
        self._clients: dict[str, Channel] = {}
        self._count = 0  # of connections, once per group
        self._turns = 0

    def register(self, group: str, info: ClientChannelInfo) -> None:
        """Note a heartbeat.

        Raises:
            BrokerError: there are too many groups or connections.
        """
        if group not in self._groups and len(self._groups) >= GROUPS_MAX:
            raise BrokerError(ResponseCode.SYSTEM_BUSY, f"{GROUPS_MAX} producer groups are connected, {group} is new")
        if self._count >= CONNECTIONS_MAX and info.channel not in self._groups.get(group, {}):
            raise BrokerError(
                ResponseCode.SYSTEM_BUSY, f"producers have {CONNECTIONS_MAX} connections, all that may be"
            )
        connections = self._groups.setdefault(group, {})
        if info.channel not in connections:
            self._count += 1
            _log.info("producer group %s: %s joined from %s", group, info.client_id, info.channel.remote_address)
        connections[info.channel] = info
        self._clients[info.client_id] = info.channel

    def unregister(self, group: str, channel: Channel) -> None:
        """A producer leaves a group."""
        connections = self._groups.get(group, {})
        info = connections.pop(channel, None)
        if info is None:
            return
        self._count -= 1
        _log.info("producer group %s: %s left", group, info.client_id)
        if not connections:
            del self._groups[group]
        if self._clients.get(info.client_id) is channel:
            del self._clients[info.client_id]

    def channel_closed(self, channel: Channel) -> None:
        """Remove a connection from all groups."""
        for group in [name for name, connections in self._groups.items() if channel in connections]:
            self.unregister(group, channel)

    def silent(self, now_ms: int) -> set[Channel]:
        """Connections of producers that send no heartbeats any more."""
        return {info.channel for infos in self._groups.values() for info in infos.values() if info.is_silent(now_ms)}

    def find_channel(self, client_id: str) -> Channel | None:
        """The connection of a client; None when it has none, or none as a producer."""
        return self._clients.get(client_id)

    def available_channel(self, group: str) -> Channel | None:
        """One of a group's connections, another one each time; None when it has none."""
        channels = list(self._groups.get(group, {}))
        if not channels:
            return None
        self._turns += 1
        return channels[self._turns % len(channels)]

    def connections(self, group: str) -> Iterable[ClientChannelInfo]:
        """The producers of a group."""
        return self._groups.get(group, {}).values()

    def groups(self) -> dict[str, list[ClientChannelInfo]]:
        """All producers by group."""
        return {group: list(connections.values()) for group, connections in self._groups.items()}
