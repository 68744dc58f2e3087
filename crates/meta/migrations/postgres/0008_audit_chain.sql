-- The optional chain of the activity log: each line's `link` follows from the one before it in its chain (a subscription, or a tenant).
-- A chain's row says how far it goes, and up to where its lines were forgotten; `purged_seal` says that the server forgot them.

ALTER TABLE audit ADD COLUMN chain TEXT COLLATE "C";
ALTER TABLE audit ADD COLUMN n BIGINT;
ALTER TABLE audit ADD COLUMN link TEXT COLLATE "C";
CREATE UNIQUE INDEX audit_by_chain ON audit (chain, n) WHERE chain IS NOT NULL;

CREATE TABLE audit_chains (
    chain       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    n           BIGINT NOT NULL,
    link        TEXT COLLATE "C" NOT NULL,
    purged_n    BIGINT NOT NULL,
    purged_link TEXT COLLATE "C" NOT NULL,
    purged_seal TEXT COLLATE "C" NOT NULL
);
