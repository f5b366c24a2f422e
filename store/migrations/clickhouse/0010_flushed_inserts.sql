-- An insert is answered when its rows are on the disk: the consumer then commits the records that they come from, and nobody reads
-- those again. By default the server leaves its files to the operating system, which writes them within half a minute. Merges need
-- no such setting: the parts that one replaces stay for eight minutes. profile_doubts is written once in an outage, and what it
-- tells must hold for as long as the outdated profiles do. Explanations are not flushed, as in the embedded engine.
ALTER TABLE email_events MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE message_sent_times MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE known_people MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE profile_doubts MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
