-- The trace of the delivery that brought the event: 32 hexadecimal digits. Events stored before have none. No index: the
-- way leads from a row to its trace, and the other way one narrow column is read.
ALTER TABLE email_events ADD COLUMN IF NOT EXISTS trace_id Nullable(String) CODEC(ZSTD(1)) AFTER delivery_latency_ms;
