-- What the audit of arrivals reads of a decision, in the order of time.
CREATE TABLE timing_forecasts (
    decided_at       TEXT NOT NULL,
    reference        TEXT NOT NULL,
    universal_id     TEXT NOT NULL,
    trigger_at       TEXT NOT NULL,
    target_at        TEXT NOT NULL,
    esp              TEXT,
    mailbox_provider TEXT,
    campaign_id      TEXT,
    PRIMARY KEY (decided_at, reference)
) WITHOUT ROWID;
