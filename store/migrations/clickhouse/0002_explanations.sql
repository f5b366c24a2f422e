-- Why each decision was what it was, found by its reference. The first form stays, because the version falls with time.
CREATE TABLE IF NOT EXISTS timing_explanations (
    reference    String CODEC(ZSTD(1)),
    universal_id String CODEC(ZSTD(1)),
    decided_at   DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    body         String CODEC(ZSTD(3)),
    version      UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Milli(now64(3)))) CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(decided_at)
ORDER BY reference
SETTINGS index_granularity = 1024;
