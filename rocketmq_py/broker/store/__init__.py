"""The store: one SQLite file. ``MessageStore`` is the whole; a module per subject knows its tables' SQL.

A subject is a module with functions that make ``Write``s and, if something is read back, a class that reads. Its tables
stand in ``schema.py``. ``CommitLog.write`` makes ``Write``s durable, alone or together with messages.
"""

from rocketmq_py.broker.store.database import CHECKPOINT, PAGE_BYTES, Write
from rocketmq_py.broker.store.message_store import Changes, MessageStore
from rocketmq_py.broker.store.message_table import Head, QueueKey, QueueState, Row, checksum, head_checksum
from rocketmq_py.broker.store.schema import APPLICATION_ID, SCHEMA_VERSION

__all__ = [
    "APPLICATION_ID",
    "CHECKPOINT",
    "PAGE_BYTES",
    "SCHEMA_VERSION",
    "Changes",
    "Head",
    "MessageStore",
    "QueueKey",
    "QueueState",
    "Row",
    "Write",
    "checksum",
    "head_checksum",
]
