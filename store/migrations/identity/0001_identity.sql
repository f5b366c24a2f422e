-- One row an identifier. `universal_id` follows from the identifier alone and never changes; `canonical_id` is that of
-- the strongest identifier of the person. The ids of a person are the universal ids of its rows: the canonical one and
-- its aliases.
CREATE TABLE resolved_identities (
    universal_id     TEXT NOT NULL PRIMARY KEY,
    canonical_id     TEXT NOT NULL,
    identifier_type  TEXT NOT NULL,
    identifier_value TEXT NOT NULL,
    first_seen_at    TEXT NOT NULL
);
CREATE INDEX resolved_identities_by_person ON resolved_identities (canonical_id);

-- Identifiers that were seen together, by their universal ids: the strongest of a sighting with each of the others.
-- The first source that said so is kept.
CREATE TABLE identity_graph (
    universal_id_a TEXT NOT NULL,
    universal_id_b TEXT NOT NULL,
    source         TEXT NOT NULL,
    first_seen_at  TEXT NOT NULL,
    PRIMARY KEY (universal_id_a, universal_id_b)
) WITHOUT ROWID;

CREATE TABLE identity_audit_log (
    entry_id           INTEGER PRIMARY KEY AUTOINCREMENT,
    action             TEXT NOT NULL,
    universal_id       TEXT NOT NULL,
    other_universal_id TEXT,
    identifier_type    TEXT,
    identifier_value   TEXT,
    source             TEXT NOT NULL,
    at                 TEXT NOT NULL
);
CREATE INDEX identity_audit_log_by_person ON identity_audit_log (universal_id);
CREATE INDEX identity_audit_log_by_other ON identity_audit_log (other_universal_id)
    WHERE other_universal_id IS NOT NULL;

CREATE TABLE ping (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
);
