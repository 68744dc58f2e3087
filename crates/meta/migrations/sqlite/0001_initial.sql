-- Same names and columns as migrations/postgres; JSON is TEXT, times are milliseconds since the Unix epoch.

CREATE TABLE resources (
    key                TEXT    NOT NULL PRIMARY KEY,
    id                 TEXT    NOT NULL,
    kind               TEXT    NOT NULL,
    subscription       TEXT    NOT NULL,
    resource_group     TEXT    NOT NULL,
    parent             TEXT,
    name               TEXT    NOT NULL,
    location           TEXT    NOT NULL,
    body               TEXT    NOT NULL,
    internal           TEXT    NOT NULL,
    provisioning_state TEXT    NOT NULL,
    etag               TEXT    NOT NULL,
    created_ms         INTEGER NOT NULL,
    changed_ms         INTEGER NOT NULL
) STRICT;
CREATE INDEX resources_by_parent ON resources (parent, key);
CREATE INDEX resources_by_kind ON resources (kind, subscription, resource_group, key);
CREATE INDEX resources_by_group ON resources (subscription, resource_group, key);

CREATE TABLE operations (
    id               TEXT    NOT NULL PRIMARY KEY,
    kind             TEXT    NOT NULL,
    resource_key     TEXT    NOT NULL,
    subscription     TEXT    NOT NULL,
    location         TEXT    NOT NULL,
    params           TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    cancel_requested INTEGER NOT NULL,
    attempt          INTEGER NOT NULL,
    lease_owner      TEXT,
    lease_until_ms   INTEGER,
    fence            INTEGER NOT NULL,
    progress_done    INTEGER NOT NULL,
    progress_total   INTEGER NOT NULL,
    phase            TEXT    NOT NULL,
    error            TEXT,
    output           TEXT,
    started_ms       INTEGER NOT NULL,
    ended_ms         INTEGER
) STRICT;
CREATE INDEX operations_running ON operations (started_ms, id) WHERE state = 'Running';
CREATE INDEX operations_by_resource ON operations (resource_key, started_ms, id);
CREATE INDEX operations_by_time ON operations (started_ms, id);

CREATE TABLE operation_steps (
    operation TEXT    NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    step      TEXT    NOT NULL,
    n         INTEGER NOT NULL,
    output    TEXT    NOT NULL,
    PRIMARY KEY (operation, step)
) STRICT;

CREATE TABLE audit (
    id             TEXT    NOT NULL PRIMARY KEY,
    time_ms        INTEGER NOT NULL,
    correlation_id TEXT    NOT NULL,
    tenant         TEXT    NOT NULL,
    principal      TEXT    NOT NULL,
    subscription   TEXT    NOT NULL,
    resource_key   TEXT    NOT NULL,
    action         TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    detail         TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (time_ms, id);
CREATE INDEX audit_by_subscription ON audit (subscription, time_ms, id);
CREATE INDEX audit_by_resource ON audit (resource_key, time_ms, id);

CREATE TABLE content_refs (
    resource_key TEXT NOT NULL,
    region       TEXT NOT NULL,
    manifest     TEXT NOT NULL,
    PRIMARY KEY (resource_key, region, manifest)
) STRICT;
CREATE INDEX content_refs_by_region ON content_refs (region, manifest);

CREATE TABLE grants (
    id           TEXT    NOT NULL PRIMARY KEY,
    resource_key TEXT    NOT NULL,
    access       TEXT    NOT NULL,
    account      TEXT    NOT NULL UNIQUE,
    container    TEXT    NOT NULL,
    secret       TEXT    NOT NULL,
    expires_ms   INTEGER NOT NULL,
    detail       TEXT    NOT NULL
) STRICT;
CREATE INDEX grants_by_resource ON grants (resource_key);
CREATE INDEX grants_by_expiry ON grants (expires_ms);

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE tenants (
    id           TEXT NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL
) STRICT;

CREATE TABLE subscriptions (
    id           TEXT NOT NULL PRIMARY KEY,
    tenant       TEXT NOT NULL REFERENCES tenants (id),
    display_name TEXT NOT NULL,
    state        TEXT NOT NULL
) STRICT;
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant, id);

CREATE TABLE principals (
    id           TEXT NOT NULL PRIMARY KEY,
    tenant       TEXT NOT NULL REFERENCES tenants (id),
    app_id       TEXT NOT NULL,
    display_name TEXT NOT NULL,
    kind         TEXT NOT NULL,
    secret_hash  TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX principals_by_app ON principals (tenant, app_id) WHERE app_id <> '';

CREATE TABLE role_assignments (
    id        TEXT NOT NULL PRIMARY KEY,
    scope     TEXT NOT NULL,
    role      TEXT NOT NULL,
    principal TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX role_assignments_by_principal ON role_assignments (principal, role, scope);
CREATE INDEX role_assignments_by_scope ON role_assignments (scope);
