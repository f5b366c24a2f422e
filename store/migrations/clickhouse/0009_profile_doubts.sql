-- Consumers that cannot update profiles, whose readers believe none meanwhile. A row says what was true of its consumer at its
-- time; a consumer's last one counts.
CREATE TABLE IF NOT EXISTS profile_doubts (
    consumer String,
    doubts   Bool,
    at       DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(at)
ORDER BY consumer;
