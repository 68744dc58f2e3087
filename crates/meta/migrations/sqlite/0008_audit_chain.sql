-- The optional chain of the activity log: each line's `link` follows from the one before it in its chain (a subscription, or a tenant).
-- A chain's row says how far it goes, and up to where its lines were forgotten; `purged_seal` says that the server forgot them.

ALTER TABLE audit ADD COLUMN chain TEXT;
ALTER TABLE audit ADD COLUMN n INTEGER;
ALTER TABLE audit ADD COLUMN link TEXT;
CREATE UNIQUE INDEX audit_by_chain ON audit (chain, n) WHERE chain IS NOT NULL;

CREATE TABLE audit_chains (
    chain       TEXT    NOT NULL PRIMARY KEY,
    n           INTEGER NOT NULL,
    link        TEXT    NOT NULL,
    purged_n    INTEGER NOT NULL,
    purged_link TEXT    NOT NULL,
    purged_seal TEXT    NOT NULL
) STRICT;
