-- The hash of an address that nobody has. A role with another pepper gets another hash, and everybody would be a stranger to it.
CREATE TABLE identity_pepper_check (
    id   smallint PRIMARY KEY CHECK (id = 1),
    hash text NOT NULL
);
