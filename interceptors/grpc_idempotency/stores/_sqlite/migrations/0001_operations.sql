-- One row per method of which there was ever an operation. Operations have its number in place of its name, which is
-- longer than most other columns. Numbers are never reused or changed, since servers remember them (methods.py).
CREATE TABLE {p}methods (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
-- One row per operation. It is a rowid table, so that rows are appended although their names are random. The small
-- columns come first, so that reading them never reads through a large message. Times are integer milliseconds: leases
-- and expiry by the store's clock (clock.py), created_ms and completed_ms by the wall clock, for people.
CREATE TABLE {p}operations (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,        -- 0 running, 1 completed, 2 held, 3 waiting, 4 undoing
    fence BLOB NOT NULL,
    effects INTEGER NOT NULL,                -- 0 opaque, 1 transactional, 2 repeatable
    streams INTEGER NOT NULL DEFAULT 0,      -- 1 if the method answers with a stream; then message is framed
    attempts INTEGER NOT NULL DEFAULT 1,
    failed_runs INTEGER NOT NULL DEFAULT 0,  -- failed runs of the handler
    failed_undos INTEGER NOT NULL DEFAULT 0, -- failed runs of the undos
    created_ms INTEGER NOT NULL,
    lease_ms INTEGER,                        -- the length of the lease or the wait; NULL if there is none
    lease_until INTEGER,                     -- when the lease or the wait ends; NULL if there is none
    completed_ms INTEGER,                    -- like ttl_ms and expires_at, NULL unless completed
    ttl_ms INTEGER,
    expires_at INTEGER,
    status INTEGER,                          -- with retained, details and trailers: the outcome, or the failure because
                                             -- of which it is undone; NULL if there is neither
    owner TEXT,                              -- host:pid of the process of the last claim; NULL once completed
    method INTEGER NOT NULL,                 -- its number in the table of methods
    raw BLOB NOT NULL,
    canonical BLOB,                          -- NULL if it is the same as raw, which is the usual case
    reason TEXT NOT NULL DEFAULT '',
    resolved INTEGER NOT NULL DEFAULT 0,     -- 1 if an operator has set the outcome
    retained INTEGER NOT NULL DEFAULT 1,     -- 0 if the message was too large to be kept
    details TEXT NOT NULL DEFAULT '',
    trailers BLOB,
    trace BLOB,                              -- the trace context of the last claim; NULL if it had none
    message BLOB,                            -- NULL or zeros until there is an outcome: room for it
    request BLOB                             -- NULL if there is none, and once completed or held
);
-- 16 random bytes per row, and nothing else: the only tree that is written at random places.
CREATE UNIQUE INDEX {p}operations_name ON {p}operations (name);
-- For sweeps. It is appended to as well, as long as operations have similar TTLs.
CREATE INDEX {p}operations_expiry ON {p}operations (expires_at) WHERE expires_at IS NOT NULL;
-- For lists: an operation is either in this index, or in the next one. A list of several methods or states merges ranges.
-- The time of expiry is there so that unexpired operations can be counted by the index alone.
CREATE INDEX {p}operations_done ON {p}operations (method, created_ms, expires_at) WHERE expires_at IS NOT NULL;
-- For lists, counts and recovery: it has no completed operations, which are nearly all rows. Each index makes a call write
-- two more pages, so recovery has no index of its own: it reads all operations of its methods that are running, undoing or
-- waiting, which are never very many.
CREATE INDEX {p}operations_open ON {p}operations (state, method, created_ms, name) WHERE state <> 1;
-- One row per finished step. The ids of an operation's steps are in the order in which the steps were recorded.
CREATE TABLE {p}steps (
    id INTEGER PRIMARY KEY,
    operation INTEGER NOT NULL,
    name TEXT NOT NULL,
    position INTEGER NOT NULL,
    undoable INTEGER NOT NULL,
    recorded_ms INTEGER NOT NULL,            -- by the wall clock
    result BLOB NOT NULL
);
CREATE UNIQUE INDEX {p}steps_name ON {p}steps (operation, name);
-- Steps are deleted with their operation: when it is deleted, and when a claim replaces an expired one, which is the
-- only change of created_ms. Triggers need no extra call; foreign keys would work only if the embedder enables them.
CREATE TRIGGER {p}operations_gone AFTER DELETE ON {p}operations BEGIN
    DELETE FROM {p}steps WHERE operation = old.id;
END;
CREATE TRIGGER {p}operations_anew AFTER UPDATE OF created_ms ON {p}operations BEGIN
    DELETE FROM {p}steps WHERE operation = old.id;
END;
-- One row per change that an operator has made. It stays when the operation's own row is deleted.
CREATE TABLE {p}notes (
    id INTEGER PRIMARY KEY,
    operation BLOB NOT NULL,                 -- its name
    at_ms INTEGER NOT NULL,                  -- by the wall clock
    expires_at INTEGER NOT NULL,             -- by the store's clock
    by TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX {p}notes_operation ON {p}notes (operation);
CREATE INDEX {p}notes_expiry ON {p}notes (expires_at);
-- One row per process that has the file open; seen_ms by the store's clock (turns.py).
CREATE TABLE {p}peers (
    id TEXT PRIMARY KEY,
    seen_ms INTEGER NOT NULL
) WITHOUT ROWID;
