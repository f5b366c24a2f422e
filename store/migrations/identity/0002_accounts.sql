-- Accounts at providers that were added while hosts run. What they hold is sealed by the hosts' key.
CREATE TABLE provider_accounts (
    provider   TEXT NOT NULL,
    account    TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (provider, account)
) WITHOUT ROWID;
