-- What storage accounts hold. `revision` is new with every write of a row, `etag` only with those that clients see.

CREATE TABLE containers (
    account     TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    etag        TEXT COLLATE "C" NOT NULL,
    revision    TEXT COLLATE "C" NOT NULL,
    created_ms  BIGINT NOT NULL,
    modified_ms BIGINT NOT NULL,
    body        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, name)
);

-- `snapshot` is `~` for the blob itself, so that it comes after its snapshots.
CREATE TABLE blobs (
    account     TEXT COLLATE "C" NOT NULL,
    container   TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    snapshot    TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    kind        TEXT COLLATE "C" NOT NULL,
    size        BIGINT NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    etag        TEXT COLLATE "C" NOT NULL,
    revision    TEXT COLLATE "C" NOT NULL,
    created_ms  BIGINT NOT NULL,
    modified_ms BIGINT NOT NULL,
    body        TEXT COLLATE "C" NOT NULL,
    content     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, container, name, snapshot)
);
CREATE INDEX blobs_unsettled ON blobs (state, modified_ms) WHERE state <> 'Stored';

CREATE TABLE block_lists (
    blob      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account   TEXT COLLATE "C" NOT NULL,
    container TEXT COLLATE "C" NOT NULL,
    blocks    TEXT COLLATE "C" NOT NULL
);
CREATE INDEX block_lists_by_container ON block_lists (account, container);
