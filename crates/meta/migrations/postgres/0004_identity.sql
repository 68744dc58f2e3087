-- Directory, custom roles, locks. `identity_changes` grows with every write that may change who may do what: whoever keeps
-- decisions in memory compares it first.

ALTER TABLE principals ADD COLUMN login TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE principals ADD COLUMN body TEXT COLLATE "C" NOT NULL DEFAULT '{}';
CREATE UNIQUE INDEX principals_by_login ON principals (tenant, login) WHERE login <> '';

ALTER TABLE role_assignments ADD COLUMN body TEXT COLLATE "C" NOT NULL DEFAULT '{}';

CREATE TABLE role_definitions (
    id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    body   TEXT COLLATE "C" NOT NULL
);

CREATE TABLE locks (
    key   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    scope TEXT COLLATE "C" NOT NULL,
    level TEXT COLLATE "C" NOT NULL,
    body  TEXT COLLATE "C" NOT NULL
);
CREATE INDEX locks_by_scope ON locks (scope);

CREATE TABLE group_members (
    group_id TEXT COLLATE "C" NOT NULL REFERENCES principals (id) ON DELETE CASCADE,
    member   TEXT COLLATE "C" NOT NULL REFERENCES principals (id) ON DELETE CASCADE,
    PRIMARY KEY (group_id, member)
);
CREATE INDEX group_members_by_member ON group_members (member);

CREATE TABLE applications (
    id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    app_id TEXT COLLATE "C" NOT NULL UNIQUE,
    body   TEXT COLLATE "C" NOT NULL
);

-- `owner`: an application id, or a principal's object id.
CREATE TABLE credentials (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    owner      TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    verifier   TEXT COLLATE "C" NOT NULL,
    expires_ms BIGINT NOT NULL,
    body       TEXT COLLATE "C" NOT NULL
);
CREATE INDEX credentials_by_owner ON credentials (owner, id);

CREATE TABLE identity_changes (
    id BIGINT NOT NULL PRIMARY KEY,
    n  BIGINT NOT NULL
);
INSERT INTO identity_changes (id, n) VALUES (1, 0);
