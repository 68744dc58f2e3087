-- Lists go by `sort_key`: the key, but for names that are numbers (see model::Resource). It begins with the keys of all that is
-- above the resource, so that one index serves a type's lists below a subscription, a group or a parent.

ALTER TABLE resources ADD COLUMN sort_key TEXT NOT NULL DEFAULT '';
UPDATE resources SET sort_key = key;
-- 1.0.10 becomes 0000000001.0000000000.0000000010/1.0.10.
UPDATE resources SET sort_key = substr(key, 1, length(key) - length(name))
    || substr('0000000000' || substr(name, 1, instr(name, '.') - 1), -10) || '.'
    || substr('0000000000' || substr(rtrim(rtrim(name, '0123456789'), '.'), instr(name, '.') + 1), -10) || '.'
    || substr('0000000000' || substr(name, length(rtrim(name, '0123456789')) + 1), -10) || '/' || name
    WHERE kind LIKE 'microsoft.compute/galleries/%/versions' AND name LIKE '%.%.%';
DROP INDEX resources_by_parent;
DROP INDEX resources_by_kind;
DROP INDEX resources_by_group;
CREATE INDEX resources_in_order ON resources (sort_key);
CREATE INDEX resources_by_parent ON resources (parent, sort_key);
CREATE INDEX resources_by_kind ON resources (kind, sort_key);
