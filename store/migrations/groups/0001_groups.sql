-- How far each consumer group has come, and which member reads a partition now.
CREATE TABLE group_partitions (
    log_id              TEXT    NOT NULL,
    group_name          TEXT    NOT NULL,
    topic               TEXT    NOT NULL,
    topic_partition     INTEGER NOT NULL,
    committed_offset    INTEGER NOT NULL DEFAULT 0, -- the first offset that is not committed
    member              TEXT,
    lease_expires_at_ms INTEGER NOT NULL DEFAULT 0,
    active_at_ms        INTEGER NOT NULL,
    PRIMARY KEY (log_id, group_name, topic, topic_partition)
) WITHOUT ROWID;

CREATE TABLE ping (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
);
