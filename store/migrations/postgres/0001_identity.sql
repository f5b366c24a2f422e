-- One row an identifier. `universal_id` follows from the identifier alone and never changes; `canonical_id` is that of
-- the strongest identifier of the person. The ids of a person are the universal ids of its rows: the canonical one and
-- its aliases. Ids are compared byte by byte, whatever the language of the database is.
CREATE TABLE resolved_identities (
    universal_id     text COLLATE "C" NOT NULL PRIMARY KEY,
    canonical_id     text COLLATE "C" NOT NULL,
    identifier_type  text NOT NULL,
    identifier_value text NOT NULL,
    first_seen_at    timestamptz NOT NULL
);
CREATE INDEX resolved_identities_by_person ON resolved_identities (canonical_id);

-- Identifiers that were seen together, by their universal ids: the strongest of a sighting with each of the others.
-- The first source that said so is kept.
CREATE TABLE identity_graph (
    universal_id_a text COLLATE "C" NOT NULL,
    universal_id_b text COLLATE "C" NOT NULL,
    source         text NOT NULL,
    first_seen_at  timestamptz NOT NULL,
    PRIMARY KEY (universal_id_a, universal_id_b)
);

-- Entries of one person have rising numbers: whoever adds one holds the person's lock.
CREATE TABLE identity_audit_log (
    entry_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action             text NOT NULL,
    universal_id       text COLLATE "C" NOT NULL,
    other_universal_id text COLLATE "C",
    identifier_type    text,
    identifier_value   text,
    source             text NOT NULL,
    at                 timestamptz NOT NULL
);
CREATE INDEX identity_audit_log_by_person ON identity_audit_log (universal_id, entry_id);
CREATE INDEX identity_audit_log_by_other ON identity_audit_log (other_universal_id, entry_id)
    WHERE other_universal_id IS NOT NULL;

-- Written by readiness checks.
CREATE TABLE identity_ping (
    id integer PRIMARY KEY CHECK (id = 1),
    at timestamptz NOT NULL
);
