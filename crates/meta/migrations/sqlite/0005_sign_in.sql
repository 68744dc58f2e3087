-- What sign-ins leave behind until it is redeemed or expires: codes, refresh tokens, assertions that were used. `id` is a hash
-- of what the client holds, so that the table opens nothing to who reads it.

CREATE TABLE sign_in_tickets (
    id         TEXT    NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL,
    session    TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    expires_ms INTEGER NOT NULL,
    body       TEXT    NOT NULL
) STRICT;
CREATE INDEX sign_in_tickets_by_session ON sign_in_tickets (session);
CREATE INDEX sign_in_tickets_by_expiry ON sign_in_tickets (expires_ms);

-- How often a password was tried, until when these guesses count.
CREATE TABLE sign_in_guesses (
    subject  TEXT    NOT NULL PRIMARY KEY,
    n        INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX sign_in_guesses_by_end ON sign_in_guesses (until_ms);
