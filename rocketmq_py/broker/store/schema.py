"""Which tables there are, by the version of the store that brought them.

A store of an older version gets what it lacks in one transaction when it is opened. What has been released is never
changed: whoever needs more adds to the newest version while it is not released, and begins a new one after that.

SQLite has no checksums in its tables. ``checksum(...)``, an SQL function of ours, is a CRC over a row's values: what is
written has it, and whoever reads compares.

Rows that belong to a message go with it: a table of such rows has a trigger on the deletion of messages.
"""

from __future__ import annotations

APPLICATION_ID = 0x524D5150  # "RMQP"

_MESSAGES = """
CREATE TABLE queue (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, queue_id INTEGER NOT NULL, UNIQUE (topic, queue_id));
CREATE TABLE message (
    id INTEGER PRIMARY KEY,        -- physical offset
    queue INTEGER NOT NULL,
    queue_offset INTEGER NOT NULL,
    tags_code INTEGER NOT NULL,    -- Java hash of the tag, 0 for none; of a delayed message when it is due, wall ms
    stored_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL             -- as it goes to consumers
);
CREATE UNIQUE INDEX message_by_queue ON message (queue, queue_offset);
"""

_CONFIGURATIONS = """
CREATE TABLE topic (name TEXT PRIMARY KEY, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE consumer_group (name TEXT PRIMARY KEY, config TEXT NOT NULL) WITHOUT ROWID;
"""

_OFFSETS = """
CREATE TABLE consumer_offset (
    consumer_group TEXT, topic TEXT, queue_id INTEGER, offset INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, queue_id)
) WITHOUT ROWID;
CREATE TABLE delay_offset (level INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
"""

_CHECKSUMS = """
ALTER TABLE queue ADD COLUMN min_offset INTEGER NOT NULL DEFAULT 0;  -- what is below has been deleted
ALTER TABLE queue ADD COLUMN known_end INTEGER NOT NULL DEFAULT 0;   -- it ended there or behind it
ALTER TABLE queue ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE queue SET crc = checksum(id, topic, queue_id, min_offset, known_end);
ALTER TABLE topic ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE topic SET crc = checksum(name, config);
ALTER TABLE consumer_group ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE consumer_group SET crc = checksum(name, config);
ALTER TABLE consumer_offset ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE consumer_offset SET crc = checksum(consumer_group, topic, queue_id, offset);
ALTER TABLE delay_offset ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE delay_offset SET crc = checksum(level, offset);
"""

_RETENTION = """
CREATE TABLE deleted (id INTEGER PRIMARY KEY CHECK (id = 1), last_id INTEGER NOT NULL, crc INTEGER NOT NULL);
INSERT INTO deleted VALUES (1, 0, checksum(0));  -- highest message id deleted
"""

_KEYS = """
CREATE TABLE message_key (
    place INTEGER,                 -- id >> 10, in 32 bits behind it a hash of topic and key
    id INTEGER,                    -- of the message
    PRIMARY KEY (place, id)
) WITHOUT ROWID;
CREATE TRIGGER message_key_goes AFTER DELETE ON message BEGIN
    DELETE FROM message_key
    WHERE place >= OLD.id >> 10 << 32 AND place < (OLD.id >> 10) + 1 << 32 AND NOT EXISTS (
        SELECT 1 FROM message WHERE id >= OLD.id >> 10 << 10 AND id < (OLD.id >> 10) + 1 << 10
    );
END;
"""

_SETTINGS = """
CREATE TABLE setting (kind TEXT, name TEXT, value TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, name))
WITHOUT ROWID;
"""

_POP = """
CREATE TABLE pop_lease (
    consumer_group TEXT, topic TEXT, queue_id INTEGER, offset INTEGER,
    pop_ms INTEGER NOT NULL,       -- wall ms
    invisible_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,     -- how often giving it back failed
    suspended INTEGER NOT NULL,    -- 1: coming back is no attempt
    crc INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, queue_id, offset)
) WITHOUT ROWID;
CREATE TABLE pop_order (
    consumer_group TEXT, topic TEXT, queue_id INTEGER,
    info TEXT NOT NULL,            -- JSON
    crc INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, queue_id)
) WITHOUT ROWID;
"""

_TIMERS = """
CREATE TABLE timer (
    due_ms INTEGER,                -- wall ms
    id INTEGER,                    -- of the message
    key TEXT NOT NULL,             -- by which it can be recalled
    crc INTEGER NOT NULL,
    PRIMARY KEY (due_ms, id)
) WITHOUT ROWID;
"""

_STATUSES = """
CREATE TABLE message_status (
    consumer_group TEXT, topic TEXT, queue_id INTEGER, first INTEGER,
    until INTEGER NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, queue_id, first)
) WITHOUT ROWID;
CREATE INDEX message_status_by_status ON message_status (consumer_group, status, topic, queue_id, first);
CREATE TABLE status_history (
    id INTEGER PRIMARY KEY,
    consumer_group TEXT NOT NULL, topic TEXT NOT NULL, queue_id INTEGER NOT NULL,
    first INTEGER NOT NULL, until INTEGER NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE INDEX status_history_by_queue ON status_history (topic, queue_id, first);
"""

VERSIONS = (
    (_MESSAGES, _CONFIGURATIONS, _OFFSETS),
    (_CHECKSUMS, _RETENTION, _KEYS, _SETTINGS, _STATUSES, _POP, _TIMERS),
)
"""By version, from 1 on, the tables of each subject that it added."""

SCHEMA_VERSION = len(VERSIONS)

INDEXES = "CREATE INDEX IF NOT EXISTS timer_by_id ON timer (id);"
"""Indexes that came without a version of their own, because others can do without: made when a store is opened."""


def script(version: int) -> str:
    """What a store of a version lacks; 0 for a new one."""
    return "".join(subject for subjects in VERSIONS[version:] for subject in subjects)
