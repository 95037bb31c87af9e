-- One row per operation. It is a rowid table, so that rows are appended whatever their random names are, and the small
-- columns come first, so that reading them never walks through a large message. Times are integer milliseconds: those
-- of a lease and of expiry by the store's clock (clock.py), created_ms and completed_ms by the wall clock, for people.
CREATE TABLE {p}operations (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,        -- 0 running, 1 completed, 2 held, 3 waiting, 4 undoing
    fence BLOB NOT NULL,
    effects INTEGER NOT NULL,                -- 0 opaque, 1 transactional, 2 repeatable
    streams INTEGER NOT NULL DEFAULT 0,      -- whether the method answers with a stream; then message is framed
    attempts INTEGER NOT NULL DEFAULT 1,
    tries INTEGER NOT NULL DEFAULT 0,        -- failed runs of the handler, and behind them failed runs of its undos
    undo_tries INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL,
    lease_ms INTEGER,                        -- how long the lease or the wait is; NULL where there is none
    lease_until INTEGER,                     -- when the lease ends, or the wait; as lease_ms
    completed_ms INTEGER,                    -- with ttl_ms and expires_at NULL unless completed
    ttl_ms INTEGER,
    expires_at INTEGER,
    status INTEGER,                          -- with retained, details and trailers the outcome, or the failure that the
                                             -- operation is undone for; NULL where there is neither
    owner TEXT,                              -- host:pid of the process of the last claim; NULL once completed
    method TEXT NOT NULL,
    raw BLOB NOT NULL,
    canonical BLOB,                          -- NULL where it is the same as raw, as it mostly is
    reason TEXT NOT NULL DEFAULT '',
    resolved INTEGER NOT NULL DEFAULT 0,     -- whether the outcome is an operator's word
    retained INTEGER NOT NULL DEFAULT 1,     -- 0 where the message was larger than may be kept
    details TEXT NOT NULL DEFAULT '',
    trailers BLOB,
    message BLOB,                            -- until there is an outcome, NULL or zeros: room for it
    request BLOB                             -- NULL where there is none, and once completed or held
);
-- 16 random bytes a row, and nothing else: the only tree that is written at random places.
CREATE UNIQUE INDEX {p}operations_name ON {p}operations (name);
-- For sweeps. Appended too, as long as operations have much the same ttl.
CREATE INDEX {p}operations_expiry ON {p}operations (expires_at) WHERE expires_at IS NOT NULL;
-- For lists, oldest claim first.
CREATE INDEX {p}operations_age ON {p}operations (created_ms);
-- For recovery, and for lists of one state: they read nothing of what is completed, and that is nearly everything. Each
-- index costs a call two pages: recovery looks through all that runs, is undone or waits, which is never very much.
CREATE INDEX {p}operations_open ON {p}operations (state, created_ms, name) WHERE state <> 1;
-- One row per finished step; the ids of an operation's are in the order in which they were recorded.
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
-- Steps go with their operation: when it is deleted, and when a claim begins anew in the place of an expired one, which
-- is the only change of created_ms. As triggers they cost no call; foreign keys would be the embedder's to switch on.
CREATE TRIGGER {p}operations_gone AFTER DELETE ON {p}operations BEGIN
    DELETE FROM {p}steps WHERE operation = old.id;
END;
CREATE TRIGGER {p}operations_anew AFTER UPDATE OF created_ms ON {p}operations BEGIN
    DELETE FROM {p}steps WHERE operation = old.id;
END;
-- One row per process that has the file open; seen_ms by the store's clock (turns.py).
CREATE TABLE {p}peers (
    id TEXT PRIMARY KEY,
    seen_ms INTEGER NOT NULL
) WITHOUT ROWID;
