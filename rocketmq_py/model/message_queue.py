"""One queue of a topic on one broker."""

from __future__ import annotations

from typing import NamedTuple


class MessageQueue(NamedTuple):
    """Address of a queue; compares and sorts by topic, broker name, queue id, as Java's ``MessageQueue``."""

    topic: str
    broker_name: str
    queue_id: int

    def __str__(self) -> str:
        """Java's text form, byte for byte: consistent hashing hashes it."""
        return f"MessageQueue [topic={self.topic}, brokerName={self.broker_name}, queueId={self.queue_id}]"
