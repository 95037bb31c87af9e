-- One row per operation. Plain SQL, which databases that speak PostgreSQL's protocol take, too: no sequences, no triggers,
-- no partitions. Times are the server's. Texts that a handler chooses are bytea, since text can't hold a NUL.
CREATE TABLE {s}.operations (
    name bytea PRIMARY KEY,
    state smallint NOT NULL,                  -- 0 running, 1 completed, 2 held, 3 waiting, 4 undoing
    fence bytea NOT NULL,
    effects smallint NOT NULL,                -- 0 opaque, 1 transactional, 2 repeatable
    streams boolean NOT NULL,                 -- true if the method answers with a stream; then message is framed
    attempts integer NOT NULL DEFAULT 1,
    failed_runs integer NOT NULL DEFAULT 0,   -- failed runs of the handler
    failed_undos integer NOT NULL DEFAULT 0,  -- failed runs of the undos
    steps integer NOT NULL DEFAULT 0,         -- the number of the step that was recorded last
    created_at timestamptz NOT NULL,
    lease_until timestamptz,                  -- when the lease or the wait ends; NULL if there is none
    completed_at timestamptz,                 -- like expires_at, NULL unless completed
    expires_at timestamptz,
    status smallint,                          -- with retained, details and trailers: the outcome, or the failure because
                                              -- of which it is undone; NULL if there is neither
    owner text,                               -- host:pid of the process of the last claim; NULL once completed
    method text NOT NULL,
    method_crc integer NOT NULL,              -- CRC-32 of the method, which is shorter than the method in indexes
    trace bytea,                              -- the trace context of the last run, NULL if it was not sampled
    raw bytea NOT NULL,
    canonical bytea,                          -- NULL if it is the same as raw, which is the usual case
    reason text NOT NULL DEFAULT '',
    resolved boolean NOT NULL DEFAULT false,  -- true if an operator has set the outcome
    retained boolean NOT NULL DEFAULT true,   -- false if the message was too large to be kept
    details bytea,                            -- UTF-8; NULL if empty
    trailers bytea,
    message bytea,
    request bytea                             -- NULL if there is none, and once completed or held
);
-- For sweeps.
CREATE INDEX operations_expiry ON {s}.operations (expires_at) WHERE expires_at IS NOT NULL;
-- For lists: one range for each method.
CREATE INDEX operations_age ON {s}.operations (method_crc, created_at, name);
-- For recovery, and for lists by state: it has no completed operations, which are nearly all rows.
CREATE INDEX operations_open ON {s}.operations (state, method_crc, created_at, name) WHERE state <> 1;
-- One row per finished step. An expired operation can be claimed anew: its old steps have another "since".
CREATE TABLE {s}.steps (
    operation bytea NOT NULL,
    since timestamptz NOT NULL,               -- the operation's created_at
    name bytea NOT NULL,                      -- UTF-8
    number integer NOT NULL,                  -- in the order in which the operation's steps were recorded
    position integer NOT NULL,
    undoable boolean NOT NULL,
    recorded_at timestamptz NOT NULL,
    result bytea NOT NULL,
    PRIMARY KEY (operation, since, name)
);
-- One row for each thing that an operator did to an operation. It outlives the operation.
CREATE TABLE {s}.notes (
    operation bytea NOT NULL,
    at timestamptz NOT NULL,
    fence bytea NOT NULL,                     -- the operation's fence at that time
    by bytea NOT NULL,                        -- UTF-8, like reason
    action text NOT NULL,
    reason bytea NOT NULL,
    PRIMARY KEY (operation, at, fence, action)
);
-- For sweeps.
CREATE INDEX notes_age ON {s}.notes (at);
