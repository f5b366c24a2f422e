-- What senders attach to their messages and delays depend on: the type of campaign, and how large the message is. Both are
-- texts, empty where nothing was attached; the reader knows which to believe.
CREATE OR REPLACE VIEW latency_training AS
SELECT event_id, universal_id, esp, campaign_id, metadata['campaign_type'] AS campaign_type,
       metadata['payload_bytes'] AS payload_bytes, mailbox_provider, timestamp AS delivered_at,
       assumeNotNull(delivery_latency_ms) AS latency_ms
FROM email_events
WHERE delivery_latency_ms IS NOT NULL;
