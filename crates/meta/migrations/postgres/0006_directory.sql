-- Every client has an application, and its secret in a row of its own; the operator's first client administers the directory
-- (docs/rfd/0008-directory.md).

-- A client that several tenants know is the operator's tenant's; where that one does not know it, nobody's but the operator's.
INSERT INTO applications (id, tenant, app_id, body)
SELECT gen_random_uuid()::text, p.tenant, p.app_id, json_build_object('displayName', p.display_name)::text
FROM principals p
WHERE p.app_id <> '' AND p.kind = 'ServicePrincipal'
    AND NOT EXISTS (SELECT 1 FROM applications a WHERE a.app_id = p.app_id)
    AND (p.tenant = (SELECT value FROM settings WHERE name = 'bootstrapped')
        OR NOT EXISTS (SELECT 1 FROM principals q WHERE q.app_id = p.app_id AND q.tenant <> p.tenant));

-- Until the end of the year 9999: these secrets had no end.
INSERT INTO credentials (id, owner, kind, verifier, expires_ms, body)
SELECT gen_random_uuid()::text, p.app_id, 'Secret', p.secret_hash, 253402300799000, '{}'
FROM principals p
WHERE p.app_id <> '' AND p.secret_hash <> ''
    AND NOT EXISTS (SELECT 1 FROM principals q WHERE q.app_id = p.app_id AND q.secret_hash = p.secret_hash AND q.id < p.id);
UPDATE principals SET secret_hash = '' WHERE app_id <> '';

UPDATE principals SET body = jsonb_set(body::jsonb, '{directoryRoles}', '["62e90394-69f5-4237-9190-012177145e10"]')::text
WHERE display_name = 'lazuli-owner' AND app_id <> '' AND tenant = (SELECT value FROM settings WHERE name = 'bootstrapped');
