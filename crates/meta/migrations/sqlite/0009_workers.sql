-- The computers that run virtual machines beside the server's own. A worker is there until its lease ends; its row stays, since machines
-- that were placed on it name it.

CREATE TABLE workers (
    id             TEXT    NOT NULL PRIMARY KEY,
    name           TEXT    NOT NULL,
    body           TEXT    NOT NULL,
    seen_ms        INTEGER NOT NULL,
    lease_until_ms INTEGER NOT NULL
) STRICT;
