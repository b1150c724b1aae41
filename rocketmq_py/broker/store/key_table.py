"""Messages by key.

A key is a producer's id or one of the words in KEYS, each within its topic. Rows of one time lie together, in buckets:
were they ordered by their hashes alone, every new key would change another page, and a commit writes whole pages. A
search looks into one bucket after the other, the newest first. The keys of a bucket go with the last of its messages.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

from rocketmq_py.broker.store.database import Database, Write
from rocketmq_py.model.message import MessageConst

BUCKET_BITS = 10
_BUCKET_ROWS = 1 << BUCKET_BITS

KeyRow = tuple[int, int]
"""A key to write: its place, the message's id."""


def key_rows(topic: str, keys: Iterable[str], row_id: int) -> list[KeyRow]:
    """The keys of the message with this id. Hot: once per message that is stored."""
    topic_hash = _hash(topic + "#", 0)
    bucket = row_id >> BUCKET_BITS << 32
    return [(bucket | _hash(key, topic_hash), row_id) for key in keys]


def keys_of(properties: Mapping[str, str]) -> list[str]:
    """By what a message can be found. Source: IndexService.buildIndex."""
    unique, keys = properties.get(MessageConst.UNIQ_KEY), properties.get(MessageConst.KEYS)
    return [each for each in (unique, *(keys.split(" ") if keys else ())) if each]


def _hash(text: str, value: int) -> int:
    return zlib.crc32(text.encode(errors="surrogatepass"), value)


def add_keys(rows: Iterable[KeyRow]) -> Write:
    """Keys of new messages; a message may name one twice."""
    return Write("INSERT OR IGNORE INTO message_key VALUES (?, ?)", rows)


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
            "SELECT message.id FROM bucket CROSS JOIN message_key ON place = (number << 32 | ?2) "
            "CROSS JOIN message ON message.id = message_key.id WHERE stored_ms BETWEEN ?3 AND ?4 LIMIT ?5",
            (BUCKET_BITS, _hash(key, _hash(topic + "#", 0)), begin_ms, end_ms, count + _BUCKET_ROWS),
        )
        self._database.check_integers(rows)
        return sorted((row[0] for row in rows), reverse=True)[: max(count, 0)]
