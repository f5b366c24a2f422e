-- What the comparison with the control group reads of a decision, apart from its explanation: a hundredth of its size, and
-- in the order of time.
CREATE TABLE timing_trials (
    decided_at   TEXT NOT NULL,
    reference    TEXT NOT NULL,
    universal_id TEXT NOT NULL,
    trial_group  TEXT NOT NULL,
    target_at    TEXT NOT NULL,
    model_at     TEXT NOT NULL,
    propensity   REAL NOT NULL,
    campaign_id  TEXT,
    PRIMARY KEY (decided_at, reference)
) WITHOUT ROWID;
