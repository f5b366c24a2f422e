CREATE TABLE timing_explanations (
    reference    TEXT NOT NULL PRIMARY KEY,
    universal_id TEXT NOT NULL,
    decided_at   TEXT NOT NULL,
    body         TEXT NOT NULL
);

CREATE TABLE ping (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
);
