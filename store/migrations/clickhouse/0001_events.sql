-- A person's events lie beside each other in the order of time, a month to a partition: a history reads a few granules of
-- each month, and a part of a month that is merged holds an event once. An event written again keeps its first form,
-- because the version falls with time. Times beyond the year 2100 are a provider's mistake and share a partition, so that
-- they cannot make thousands of them. Granules and compressed blocks are an eighth and a quarter of the usual, so that a
-- person's few rows in each column are read without unpacking thousands of others'; it costs two parts in a hundred of disk.
CREATE TABLE IF NOT EXISTS email_events (
    event_id             String CODEC(ZSTD(1)),
    event_type           LowCardinality(String),
    timestamp            DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    esp                  LowCardinality(String),
    universal_id         String CODEC(ZSTD(1)),
    recipient_email_hash Nullable(String) CODEC(ZSTD(1)),
    campaign_id          LowCardinality(Nullable(String)),
    campaign_name        LowCardinality(Nullable(String)),
    message_id           Nullable(String) CODEC(ZSTD(1)),
    subject              LowCardinality(Nullable(String)),
    click_url            Nullable(String) CODEC(ZSTD(1)),
    bounce_type          LowCardinality(Nullable(String)),
    user_agent           LowCardinality(Nullable(String)),
    ip_address           Nullable(String) CODEC(ZSTD(1)),
    metadata             Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ingested_at          DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    schema_version       UInt16 CODEC(ZSTD(1)),
    account              LowCardinality(String),
    mailbox_provider     LowCardinality(Nullable(String)),
    identifiers          Array(Tuple(kind LowCardinality(String), value String)) CODEC(ZSTD(1)),
    reason               Nullable(String) CODEC(ZSTD(1)),
    tags                 Array(LowCardinality(String)) CODEC(ZSTD(1)),
    is_machine           Nullable(Bool) CODEC(ZSTD(1)),
    provider_event_id    Nullable(String) CODEC(ZSTD(1)),
    plugin               LowCardinality(String),
    machine              Bool CODEC(ZSTD(1)),
    machine_reasons      Array(LowCardinality(String)) CODEC(ZSTD(1)),
    delivery_latency_ms  Nullable(Int64) CODEC(ZSTD(1)),
    version              UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Milli(now64(3)))) CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(least(timestamp, toDateTime64('2100-01-01 00:00:00', 3, 'UTC')))
PRIMARY KEY (universal_id, timestamp)
ORDER BY (universal_id, timestamp, event_id)
SETTINGS index_granularity = 1024, min_compress_block_size = 16384;

-- When each message was sent, kept by the writes to email_events. The key is xxHash64 of person and message, which the
-- reader computes too. Narrow and without partitions, because the reader asks for a thousand at a time and does not know
-- the month.
CREATE TABLE IF NOT EXISTS message_sent_times (
    message_key UInt64 CODEC(NONE),
    sent_at     SimpleAggregateFunction(min, DateTime64(3, 'UTC')) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
ORDER BY message_key
SETTINGS index_granularity = 256;

CREATE MATERIALIZED VIEW IF NOT EXISTS message_sent_times_writer TO message_sent_times AS
SELECT xxHash64(concat(universal_id, assumeNotNull(message_id))) AS message_key, timestamp AS sent_at
FROM email_events
WHERE event_type = 'sent' AND message_id IS NOT NULL;

-- What the latency model learns from. A plain view: it is read once an hour, and a copy ordered by time would cost every
-- write more than it saves those reads.
CREATE VIEW IF NOT EXISTS latency_training AS
SELECT event_id, universal_id, esp, campaign_id, mailbox_provider, timestamp AS delivered_at,
       assumeNotNull(delivery_latency_ms) AS latency_ms
FROM email_events
WHERE delivery_latency_ms IS NOT NULL;

-- Takes a row and forgets it: writing here shows that the server takes writes of this user.
CREATE TABLE IF NOT EXISTS ping (at DateTime64(3, 'UTC')) ENGINE = Null;
