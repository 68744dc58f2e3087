-- What sign-ins leave behind until it is redeemed or expires: codes, refresh tokens, assertions that were used. `id` is a hash
-- of what the client holds, so that the table opens nothing to who reads it.

CREATE TABLE sign_in_tickets (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    kind       TEXT COLLATE "C" NOT NULL,
    session    TEXT COLLATE "C" NOT NULL,
    state      TEXT COLLATE "C" NOT NULL,
    expires_ms BIGINT NOT NULL,
    body       TEXT COLLATE "C" NOT NULL
);
CREATE INDEX sign_in_tickets_by_session ON sign_in_tickets (session);
CREATE INDEX sign_in_tickets_by_expiry ON sign_in_tickets (expires_ms);

-- How often a password was tried, until when these guesses count.
CREATE TABLE sign_in_guesses (
    subject  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    n        BIGINT NOT NULL,
    until_ms BIGINT NOT NULL
);
CREATE INDEX sign_in_guesses_by_end ON sign_in_guesses (until_ms);
