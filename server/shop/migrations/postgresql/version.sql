-- The version of the shop's tables: one row.

-- name: lock_schema
-- Of servers that start at once, one creates the tables, and the others wait until it has committed. The number is any.
SELECT pg_advisory_xact_lock(5007)

-- name: create_version_table
CREATE TABLE IF NOT EXISTS shop_schema (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    version INTEGER NOT NULL
);

-- name: read_version
SELECT version FROM shop_schema;

-- name: write_version
INSERT INTO shop_schema (only_row, version) VALUES (1, ?)
ON CONFLICT (only_row) DO UPDATE SET version = excluded.version;
