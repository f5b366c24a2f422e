-- What the audit of arrivals reads of a decision: columns of their own, so that it never reads the bodies.
ALTER TABLE timing_explanations
    ADD COLUMN IF NOT EXISTS forecast_trigger_at       Nullable(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS forecast_target_at        Nullable(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS forecast_esp              LowCardinality(Nullable(String)),
    ADD COLUMN IF NOT EXISTS forecast_mailbox_provider LowCardinality(Nullable(String)),
    ADD COLUMN IF NOT EXISTS forecast_campaign_id      LowCardinality(Nullable(String));
