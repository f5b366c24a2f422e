-- Delivery delays, newest first, with what tells whether one is read at all: counting those of each provider, and passing over
-- people who are not of the share that is read, takes no look at the events themselves.
DROP INDEX email_events_latency;
CREATE INDEX email_events_latency ON email_events (timestamp, esp, universal_id, delivery_latency_ms)
WHERE delivery_latency_ms IS NOT NULL;
