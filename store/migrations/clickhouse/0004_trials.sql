-- What the comparison with the control group reads of a decision: columns of their own, so that it never reads the bodies.
ALTER TABLE timing_explanations
    ADD COLUMN IF NOT EXISTS trial_group       LowCardinality(Nullable(String)),
    ADD COLUMN IF NOT EXISTS trial_target_at   Nullable(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS trial_model_at    Nullable(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS trial_propensity  Nullable(Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS trial_campaign_id LowCardinality(Nullable(String));
