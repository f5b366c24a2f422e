-- Accounts at providers that were added while hosts run. What they hold is sealed by the hosts' key.
CREATE TABLE provider_accounts (
    provider   text COLLATE "C" NOT NULL,
    account    text COLLATE "C" NOT NULL,
    sealed     bytea NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (provider, account)
);
