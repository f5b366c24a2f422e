-- A query reads every part of every month that has the person, and each costs it about a millisecond. The server's own merges stop
-- at some six to ten parts a month: a month to which nothing was added for a day becomes one.
ALTER TABLE email_events MODIFY SETTING min_age_to_force_merge_seconds = 86400, min_age_to_force_merge_on_partition_only = 1;
