-- One row per operation. It is a rowid table, so that rows are appended whatever their random names are, and the small
-- columns come first, so that reading them never walks through a large message. Times are integer milliseconds: those
-- of a lease and of expiry by the store's clock (clock.py), created_ms and completed_ms by the wall clock, for people.
CREATE TABLE {p}operations (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,        -- 0 running, 1 completed, 2 held
    fence BLOB NOT NULL,
    effects TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 1,
    created_ms INTEGER NOT NULL,
    lease_ms INTEGER,                        -- how long the lease is; with lease_until NULL unless running
    lease_until INTEGER,
    completed_ms INTEGER,                    -- with ttl_ms, expires_at and status NULL unless completed
    ttl_ms INTEGER,
    expires_at INTEGER,
    status INTEGER,
    method TEXT NOT NULL,
    raw BLOB NOT NULL,
    canonical BLOB NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    details TEXT NOT NULL DEFAULT '',
    trailers BLOB,
    message BLOB
);
-- 16 random bytes a row, and nothing else: the only tree that is written at random places.
CREATE UNIQUE INDEX {p}operations_name ON {p}operations (name);
-- For sweeps. Appended too, as long as operations have much the same ttl.
CREATE INDEX {p}operations_expiry ON {p}operations (expires_at) WHERE expires_at IS NOT NULL;
-- For lists, oldest claim first.
CREATE INDEX {p}operations_age ON {p}operations (created_ms);
-- One row per process that has the file open; seen_ms by the store's clock (turns.py).
CREATE TABLE {p}peers (
    id TEXT PRIMARY KEY,
    seen_ms INTEGER NOT NULL
) WITHOUT ROWID;
