-- Directory, custom roles, locks. `identity_changes` grows with every write that may change who may do what: whoever keeps
-- decisions in memory compares it first.

ALTER TABLE principals ADD COLUMN login TEXT NOT NULL DEFAULT '';
ALTER TABLE principals ADD COLUMN body TEXT NOT NULL DEFAULT '{}';
CREATE UNIQUE INDEX principals_by_login ON principals (tenant, login) WHERE login <> '';

ALTER TABLE role_assignments ADD COLUMN body TEXT NOT NULL DEFAULT '{}';

CREATE TABLE role_definitions (
    id     TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (id),
    body   TEXT NOT NULL
) STRICT;

CREATE TABLE locks (
    key   TEXT NOT NULL PRIMARY KEY,
    scope TEXT NOT NULL,
    level TEXT NOT NULL,
    body  TEXT NOT NULL
) STRICT;
CREATE INDEX locks_by_scope ON locks (scope);

CREATE TABLE group_members (
    group_id TEXT NOT NULL REFERENCES principals (id) ON DELETE CASCADE,
    member   TEXT NOT NULL REFERENCES principals (id) ON DELETE CASCADE,
    PRIMARY KEY (group_id, member)
) STRICT;
CREATE INDEX group_members_by_member ON group_members (member);

CREATE TABLE applications (
    id     TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (id),
    app_id TEXT NOT NULL UNIQUE,
    body   TEXT NOT NULL
) STRICT;

-- `owner`: an application id, or a principal's object id.
CREATE TABLE credentials (
    id         TEXT    NOT NULL PRIMARY KEY,
    owner      TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    verifier   TEXT    NOT NULL,
    expires_ms INTEGER NOT NULL,
    body       TEXT    NOT NULL
) STRICT;
CREATE INDEX credentials_by_owner ON credentials (owner, id);

CREATE TABLE identity_changes (
    id INTEGER NOT NULL PRIMARY KEY,
    n  INTEGER NOT NULL
) STRICT;
INSERT INTO identity_changes (id, n) VALUES (1, 0);
