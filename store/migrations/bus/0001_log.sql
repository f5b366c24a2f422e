-- Names this log for good, so that offsets committed in an older log that was deleted are never mistaken for offsets in
-- this one.
CREATE TABLE log (
    log_id TEXT NOT NULL
);
INSERT INTO log (log_id) VALUES (lower(hex(randomblob(16))));

CREATE TABLE topics (
    topic_id    INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    next_offset INTEGER NOT NULL
);

-- A table with row ids: its rows are appended to the end of one tree, and values of a kilobyte stay on their page.
CREATE TABLE records (
    topic_id       INTEGER NOT NULL REFERENCES topics (topic_id),
    record_offset  INTEGER NOT NULL,
    record_key     TEXT    NOT NULL,
    value          BLOB    NOT NULL,
    headers        TEXT,
    appended_at_ms INTEGER NOT NULL
);
CREATE UNIQUE INDEX records_by_offset ON records (topic_id, record_offset);

CREATE TABLE ping (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
);
