-- When an explanation was stored, by which it is removed one day: `decided_at` may be any time that a caller asked about.
-- Those that are there already begin to age now.
ALTER TABLE timing_explanations ADD COLUMN saved_at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE timing_explanations SET saved_at_ms = unixepoch() * 1000;
CREATE INDEX explanations_by_age ON timing_explanations (saved_at_ms);
