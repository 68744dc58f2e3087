-- What storage accounts hold. `revision` is new with every write of a row, `etag` only with those that clients see.

CREATE TABLE containers (
    account     TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    etag        TEXT    NOT NULL,
    revision    TEXT    NOT NULL,
    created_ms  INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    body        TEXT    NOT NULL,
    PRIMARY KEY (account, name)
) STRICT;

-- `snapshot` is `~` for the blob itself, so that it comes after its snapshots.
CREATE TABLE blobs (
    account     TEXT    NOT NULL,
    container   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    snapshot    TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    state       TEXT    NOT NULL,
    etag        TEXT    NOT NULL,
    revision    TEXT    NOT NULL,
    created_ms  INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    body        TEXT    NOT NULL,
    content     TEXT    NOT NULL,
    PRIMARY KEY (account, container, name, snapshot)
) STRICT;
CREATE INDEX blobs_unsettled ON blobs (state, modified_ms) WHERE state <> 'Stored';

CREATE TABLE block_lists (
    blob      TEXT NOT NULL PRIMARY KEY,
    account   TEXT NOT NULL,
    container TEXT NOT NULL,
    blocks    TEXT NOT NULL
) STRICT;
CREATE INDEX block_lists_by_container ON block_lists (account, container);
