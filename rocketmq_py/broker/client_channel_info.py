"""A client that a broker knows through its heartbeats. Source: ClientChannelInfo."""

from __future__ import annotations

from dataclasses import dataclass

from rocketmq_py.broker.channel import Channel

CHANNEL_EXPIRED_TIMEOUT_MS = 120_000
"""A client that sends no heartbeat for so long is gone. Source: BrokerConfig.channelExpiredTimeout."""


@dataclass(slots=True)
class ClientChannelInfo:
    """One connection of a client.

    Attributes:
        language: name of the client's language.
        version: the client's ``MQVersion`` ordinal.
        heard_ms: when its last heartbeat came, monotonic ms.
    """

    channel: Channel
    client_id: str
    language: str
    version: int
    heard_ms: int

    def is_silent(self, now_ms: int) -> bool:
        """Whether it has sent no heartbeat for too long."""
        return now_ms - self.heard_ms > CHANNEL_EXPIRED_TIMEOUT_MS

    def connection(self) -> dict[str, object]:
        """As part of a body. Source: Connection."""
        return {
            "clientAddr": self.channel.remote_address,
            "clientId": self.client_id,
            "language": self.language,
            "version": self.version,
        }
