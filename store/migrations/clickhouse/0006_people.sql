-- Who has any event at all, kept by the writes to email_events: the consumer asks it of thousands of people at a time, and here
-- that reads one number of each instead of a granule of events in every part. The key is xxHash64 of the person, which the
-- reader computes too.
CREATE TABLE IF NOT EXISTS known_people (person_key UInt64 CODEC(NONE))
ENGINE = ReplacingMergeTree
ORDER BY person_key
SETTINGS index_granularity = 256;

CREATE MATERIALIZED VIEW IF NOT EXISTS known_people_writer TO known_people AS
SELECT xxHash64(universal_id) AS person_key FROM email_events;

INSERT INTO known_people SELECT DISTINCT xxHash64(universal_id) FROM email_events;
