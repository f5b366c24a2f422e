-- Times are RFC 3339 texts in UTC with three decimals: all of one width, so they sort as they read, and SQLite's date
-- functions take them. Lists and maps are JSON texts.
CREATE TABLE email_events (
    event_id             TEXT    NOT NULL PRIMARY KEY,
    event_type           TEXT    NOT NULL,
    timestamp            TEXT    NOT NULL,
    esp                  TEXT    NOT NULL,
    universal_id         TEXT    NOT NULL,
    recipient_email_hash TEXT,
    campaign_id          TEXT,
    campaign_name        TEXT,
    message_id           TEXT,
    subject              TEXT,
    click_url            TEXT,
    bounce_type          TEXT,
    user_agent           TEXT,
    ip_address           TEXT,
    metadata             TEXT    NOT NULL,
    ingested_at          TEXT    NOT NULL,
    schema_version       INTEGER NOT NULL,
    account              TEXT    NOT NULL,
    mailbox_provider     TEXT,
    identifiers          TEXT    NOT NULL,
    reason               TEXT,
    tags                 TEXT    NOT NULL,
    is_machine           INTEGER,
    provider_event_id    TEXT,
    plugin               TEXT    NOT NULL,
    machine              INTEGER NOT NULL,
    machine_reasons      TEXT    NOT NULL,
    delivery_latency_ms  INTEGER
);

-- One person's history, and the list of people.
CREATE INDEX email_events_by_person ON email_events (universal_id, timestamp);

-- When a message was sent, answered from the index alone.
CREATE INDEX email_events_sent ON email_events (universal_id, message_id, timestamp) WHERE event_type = 'sent';

-- Delivery delays, newest first.
CREATE INDEX email_events_latency ON email_events (timestamp) WHERE delivery_latency_ms IS NOT NULL;

CREATE TABLE ping (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
);
