-- The version of the shop's tables: one row.

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
