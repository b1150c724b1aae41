"""A listener that makes redelivery harmless: what was consumed is not consumed again.

Every message has a key; a store knows of each key whether it is being consumed or was. A listener call claims the keys
of its batch, hands over the messages whose keys are new, and settles: consumed, or free again. What another call has
claimed comes again later. Stores in memory, in SQLite and in Redis remember a claim for a time, because its owner may
die; ``SqliteTransaction`` needs no such time: effect and mark are one transaction on the user's connection.
"""

from rocketmq_py.idempotence.listener import idempotent
from rocketmq_py.idempotence.redis import RedisStore
from rocketmq_py.idempotence.sqlite import SqliteStore, SqliteTransaction
from rocketmq_py.idempotence.store import Claim, IdempotenceStore, KeyState, MemoryStore

__all__ = [
    "Claim",
    "IdempotenceStore",
    "KeyState",
    "MemoryStore",
    "RedisStore",
    "SqliteStore",
    "SqliteTransaction",
    "idempotent",
]
