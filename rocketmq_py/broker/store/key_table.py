"""Messages by key.

A key is a producer's id or one of the words in KEYS, each within its topic. Rows of one time lie together (``bucket``):
were they ordered by their hashes, every new key would change another page, and a commit writes whole pages. A search
looks into one bucket after the other, the newest first. The keys of a bucket go with the last of its messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from rocketmq_py.broker.store.database import Database, Write

_BUCKET_BITS = 12
_BUCKET_ROWS = 1 << _BUCKET_BITS


class KeyRow(NamedTuple):
    """A key to write."""

    bucket: int
    hash: int
    id: int


def key_row(topic: str, key: str, row_id: int) -> KeyRow:
    """A key of the message with this id."""
    return KeyRow(row_id >> _BUCKET_BITS, _hash(topic, key), row_id)


def add_keys(rows: Iterable[KeyRow]) -> Write:
    """Keys of new messages; a message may name one twice."""
    return Write("INSERT OR IGNORE INTO message_key VALUES (?, ?, ?)", rows)


def _hash(topic: str, key: str) -> int:
    text = f"{topic}#{key}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


class KeyTable:
    """Finds messages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, topic: str, key: str, count: int, begin_ms: int, end_ms: int) -> list[int]:
        """Ids of the newest messages with a key, the newest first; two keys of one hash are not told apart.

        They were stored from ``begin_ms`` to ``end_ms``, wall ms, both inclusive. Raises ``StoreError``.
        """
        # Within a bucket the oldest come first, so the last bucket is read to its end.
        rows = self._database.query(
            "WITH RECURSIVE bucket(number, last) AS ("
            "  SELECT max(id) >> ?1, min(id) >> ?1 FROM message"
            "  UNION ALL SELECT number - 1, last FROM bucket WHERE number > last) "
            "SELECT message.id FROM bucket CROSS JOIN message_key ON bucket = number AND hash = ?2 "
            "CROSS JOIN message ON message.id = message_key.id WHERE stored_ms BETWEEN ?3 AND ?4 LIMIT ?5",
            (_BUCKET_BITS, _hash(topic, key), begin_ms, end_ms, count + _BUCKET_ROWS),
        )
        self._database.check_integers(rows)
        return sorted((row[0] for row in rows), reverse=True)[: max(count, 0)]
