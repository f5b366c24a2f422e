-- The trace of the delivery that brought the event: 32 hexadecimal digits. Events stored before have none.
ALTER TABLE email_events ADD COLUMN trace_id TEXT;
