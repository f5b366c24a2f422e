-- Consumers that cannot update profiles, whose readers believe none meanwhile, and when they last said so.
CREATE TABLE profile_doubts (
    consumer TEXT NOT NULL PRIMARY KEY,
    at_ms    INTEGER NOT NULL
) WITHOUT ROWID;
