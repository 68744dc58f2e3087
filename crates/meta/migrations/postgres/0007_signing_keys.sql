-- The keys that access tokens are signed with, sealed. `predecessor`: the key that it followed, so that of two servers that make a
-- new one at once only one does; empty of the first, the key's own id of one that only verifies.

CREATE TABLE signing_keys (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    predecessor   TEXT COLLATE "C" NOT NULL UNIQUE,
    sealed        TEXT COLLATE "C" NOT NULL,
    created_ms    BIGINT NOT NULL,
    signs_from_ms BIGINT NOT NULL,
    ends_ms       BIGINT NOT NULL
);
