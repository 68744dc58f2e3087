-- Same names and columns as migrations/sqlite; JSON is TEXT, times are milliseconds since the Unix epoch.
-- Text is compared byte by byte (COLLATE "C"), as SQLite does.

CREATE TABLE resources (
    key                TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    id                 TEXT COLLATE "C" NOT NULL,
    kind               TEXT COLLATE "C" NOT NULL,
    subscription       TEXT COLLATE "C" NOT NULL,
    resource_group     TEXT COLLATE "C" NOT NULL,
    parent             TEXT COLLATE "C",
    name               TEXT COLLATE "C" NOT NULL,
    location           TEXT COLLATE "C" NOT NULL,
    body               TEXT COLLATE "C" NOT NULL,
    internal           TEXT COLLATE "C" NOT NULL,
    provisioning_state TEXT COLLATE "C" NOT NULL,
    etag               TEXT COLLATE "C" NOT NULL,
    created_ms         BIGINT NOT NULL,
    changed_ms         BIGINT NOT NULL
);
CREATE INDEX resources_by_parent ON resources (parent, key);
CREATE INDEX resources_by_kind ON resources (kind, subscription, resource_group, key);
CREATE INDEX resources_by_group ON resources (subscription, resource_group, key);

CREATE TABLE operations (
    id               TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    kind             TEXT COLLATE "C" NOT NULL,
    resource_key     TEXT COLLATE "C" NOT NULL,
    subscription     TEXT COLLATE "C" NOT NULL,
    location         TEXT COLLATE "C" NOT NULL,
    params           TEXT COLLATE "C" NOT NULL,
    state            TEXT COLLATE "C" NOT NULL,
    cancel_requested BIGINT NOT NULL,
    attempt          BIGINT NOT NULL,
    lease_owner      TEXT COLLATE "C",
    lease_until_ms   BIGINT,
    fence            BIGINT NOT NULL,
    progress_done    BIGINT NOT NULL,
    progress_total   BIGINT NOT NULL,
    phase            TEXT COLLATE "C" NOT NULL,
    error            TEXT COLLATE "C",
    output           TEXT COLLATE "C",
    started_ms       BIGINT NOT NULL,
    ended_ms         BIGINT
);
CREATE INDEX operations_running ON operations (started_ms, id) WHERE state = 'Running';
CREATE INDEX operations_by_resource ON operations (resource_key, started_ms, id);
CREATE INDEX operations_by_time ON operations (started_ms, id);

CREATE TABLE operation_steps (
    operation TEXT COLLATE "C" NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    step      TEXT COLLATE "C" NOT NULL,
    n         BIGINT NOT NULL,
    output    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (operation, step)
);

CREATE TABLE audit (
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    time_ms        BIGINT NOT NULL,
    correlation_id TEXT COLLATE "C" NOT NULL,
    tenant         TEXT COLLATE "C" NOT NULL,
    principal      TEXT COLLATE "C" NOT NULL,
    subscription   TEXT COLLATE "C" NOT NULL,
    resource_key   TEXT COLLATE "C" NOT NULL,
    action         TEXT COLLATE "C" NOT NULL,
    status         TEXT COLLATE "C" NOT NULL,
    detail         TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_by_time ON audit (time_ms, id);
CREATE INDEX audit_by_subscription ON audit (subscription, time_ms, id);
CREATE INDEX audit_by_resource ON audit (resource_key, time_ms, id);

CREATE TABLE content_refs (
    resource_key TEXT COLLATE "C" NOT NULL,
    region       TEXT COLLATE "C" NOT NULL,
    manifest     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (resource_key, region, manifest)
);
CREATE INDEX content_refs_by_region ON content_refs (region, manifest);

CREATE TABLE grants (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    resource_key TEXT COLLATE "C" NOT NULL,
    access       TEXT COLLATE "C" NOT NULL,
    account      TEXT COLLATE "C" NOT NULL UNIQUE,
    container    TEXT COLLATE "C" NOT NULL,
    secret       TEXT COLLATE "C" NOT NULL,
    expires_ms   BIGINT NOT NULL,
    detail       TEXT COLLATE "C" NOT NULL
);
CREATE INDEX grants_by_resource ON grants (resource_key);
CREATE INDEX grants_by_expiry ON grants (expires_ms);

CREATE TABLE settings (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE tenants (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    display_name TEXT COLLATE "C" NOT NULL
);

CREATE TABLE subscriptions (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant       TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    display_name TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL
);
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant, id);

CREATE TABLE principals (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant       TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    app_id       TEXT COLLATE "C" NOT NULL,
    display_name TEXT COLLATE "C" NOT NULL,
    kind         TEXT COLLATE "C" NOT NULL,
    secret_hash  TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX principals_by_app ON principals (tenant, app_id) WHERE app_id <> '';

CREATE TABLE role_assignments (
    id        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    scope     TEXT COLLATE "C" NOT NULL,
    role      TEXT COLLATE "C" NOT NULL,
    principal TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX role_assignments_by_principal ON role_assignments (principal, role, scope);
CREATE INDEX role_assignments_by_scope ON role_assignments (scope);
