-- The computers that run virtual machines beside the server's own. A worker is there until its lease ends; its row stays, since machines
-- that were placed on it name it.

CREATE TABLE workers (
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name           TEXT COLLATE "C" NOT NULL,
    body           TEXT COLLATE "C" NOT NULL,
    seen_ms        BIGINT NOT NULL,
    lease_until_ms BIGINT NOT NULL
);
