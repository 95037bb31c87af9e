-- Every statement of the store. "{p}" is the prefix of its tables; "{rows}" stands for as many rows of placeholders as a
-- call writes at once. Placeholders are plain question marks in the order in which the statement reads them: Python
-- 3.12 warns of numbered ones.

-- name: claim
-- Claims operations that are absent or expired; any number of rows at once. A row that meets a record in its way, be it
-- of another row of this very statement, changes nothing and is not counted. The message is room for the outcome's.
INSERT INTO {p}operations
    (name, method, fence, raw, canonical, effects, streams, created_ms, lease_ms, lease_until, owner,
    message, request)
VALUES {rows}
ON CONFLICT (name) DO UPDATE SET
    state = 0, method = excluded.method, fence = excluded.fence, raw = excluded.raw, canonical = excluded.canonical,
    effects = excluded.effects, streams = excluded.streams, attempts = 1, tries = 0,
    undo_tries = 0, created_ms = excluded.created_ms, lease_ms = excluded.lease_ms, lease_until = excluded.lease_until,
    owner = excluded.owner, completed_ms = NULL, ttl_ms = NULL, expires_at = NULL, status = NULL, reason = '', resolved = 0, retained = 1,
    details = '', trailers = NULL, message = excluded.message, request = excluded.request
WHERE {p}operations.expires_at <= ?

-- name: take_over
-- Claims one running or undoing operation whose lease, under the fence that the caller has seen, has run out, or a
-- waiting one that is due. One that has a failure goes on being undone.
UPDATE {p}operations SET
    state = CASE WHEN status IS NULL THEN 0 ELSE 4 END, method = ?, fence = ?, raw = ?, canonical = ?, effects = ?,
    streams = ?, attempts = attempts + 1, lease_ms = ?, lease_until = ?, owner = ?
WHERE name = ? AND fence = ? AND state IN (0, 3, 4) AND lease_until <= ?

-- name: complete
-- Stores the outcomes of running, undoing or held operations; any number of rows at once. A row of NULLs matches
-- nothing.
UPDATE {p}operations SET
    state = 1, lease_ms = NULL, lease_until = NULL, owner = NULL, reason = '', completed_ms = v.column3, ttl_ms = v.column4,
    expires_at = v.column5, status = v.column6, retained = v.column7, details = v.column8, trailers = v.column9,
    message = v.column10, request = NULL
FROM (VALUES {rows}) AS v
WHERE {p}operations.name = v.column1 AND {p}operations.fence = v.column2 AND {p}operations.state IN (0, 2, 4)

-- name: complete_unclaimed
-- Stores completed operations that were never claimed, where there is none of the name or an expired one; any number of
-- rows at once. As with "claim", a row that meets a record in its way changes nothing and is not counted.
INSERT INTO {p}operations
    (state, method, raw, canonical, effects, streams, created_ms, name, fence, completed_ms, ttl_ms, expires_at, status,
    retained, details, trailers, message)
VALUES {rows}
ON CONFLICT (name) DO UPDATE SET
    state = 1, method = excluded.method, fence = excluded.fence, raw = excluded.raw, canonical = excluded.canonical,
    effects = excluded.effects, streams = excluded.streams, attempts = 1, tries = 0, undo_tries = 0,
    created_ms = excluded.created_ms, completed_ms = excluded.completed_ms, ttl_ms = excluded.ttl_ms,
    expires_at = excluded.expires_at, status = excluded.status, reason = '', resolved = 0, retained = excluded.retained,
    details = excluded.details, trailers = excluded.trailers, message = excluded.message
WHERE {p}operations.expires_at <= ?

-- name: release
-- Deletes running, undoing or held operations; any number of rows at once. A row of NULLs matches nothing.
DELETE FROM {p}operations WHERE id IN (
    SELECT o.id FROM (VALUES {rows}) AS v
    JOIN {p}operations AS o ON o.name = v.column1 AND o.fence = v.column2 AND o.state IN (0, 2, 4)
)

-- name: count_owned
-- How many of the given names and fences are running, undoing or held; one row, where one for each would cost a turn
-- each.
SELECT count(*) FROM (VALUES {rows}) AS v
JOIN {p}operations AS o ON o.name = v.column1 AND o.fence = v.column2 AND o.state IN (0, 2, 4)

-- name: renew
-- Makes leases end a while from now; any number of rows at once. A row of NULLs matches nothing.
UPDATE {p}operations SET lease_ms = v.column3, lease_until = v.column4
FROM (VALUES {rows}) AS v
WHERE {p}operations.name = v.column1 AND {p}operations.fence = v.column2 AND {p}operations.state IN (0, 4)

-- name: hold
-- Makes one running or undoing operation held. Nobody will run it again, so its request goes.
UPDATE {p}operations SET state = 2, lease_ms = NULL, lease_until = NULL, reason = ?, request = NULL
WHERE name = ? AND fence = ? AND state IN (0, 4)

-- name: hold_lapsed
-- The same, if its lease has run out.
UPDATE {p}operations SET state = 2, lease_ms = NULL, lease_until = NULL, reason = ?, request = NULL
WHERE lease_until <= ? AND name = ? AND fence = ? AND state IN (0, 4)

-- name: wait
-- Makes one running or undoing operation waiting.
UPDATE {p}operations SET state = 3, lease_ms = ?, lease_until = ?, tries = ?, undo_tries = ?
WHERE name = ? AND fence = ? AND state IN (0, 4)

-- name: undo
-- Makes one running operation undoing, with the failure that it is undone for.
UPDATE {p}operations SET state = 4, status = ?, retained = ?, details = ?, trailers = ?, message = NULL
WHERE name = ? AND fence = ? AND state = 0

-- name: record_step
-- Keeps finished steps of running, undoing or held operations; any number of rows at once. A row of NULLs matches
-- nothing.
INSERT INTO {p}steps (operation, name, position, undoable, recorded_ms, result)
SELECT o.id, v.column3, v.column4, v.column5, v.column6, v.column7 FROM (VALUES {rows}) AS v
JOIN {p}operations AS o ON o.name = v.column1 AND o.fence = v.column2 AND o.state IN (0, 2, 4)
WHERE true
ON CONFLICT (operation, name) DO NOTHING

-- name: drop_steps
-- Takes back so many of the steps that were recorded last.
DELETE FROM {p}steps WHERE id IN (SELECT id FROM {p}steps ORDER BY id DESC LIMIT ?)

-- name: steps
-- The finished steps of one operation, in their order.
SELECT s.name, s.position, s.undoable, s.recorded_ms, s.result
FROM {p}operations AS o JOIN {p}steps AS s ON s.operation = o.id
WHERE o.name = ? AND (o.expires_at IS NULL OR o.expires_at > ?)
ORDER BY s.id

-- name: has_step
-- Whether an operation under this fence has this step.
SELECT EXISTS (
    SELECT 1 FROM {p}operations AS o JOIN {p}steps AS s ON s.operation = o.id AND s.name = ?
    WHERE o.name = ? AND o.fence = ?
)

-- name: standing
-- The fences and states of operations by name, expired ones left out; any number at once. A NULL matches nothing.
SELECT name, fence, state FROM {p}operations WHERE name IN ({rows}) AND (expires_at IS NULL OR expires_at > ?)

-- name: resolve
-- Completes one held operation with what an operator says.
UPDATE {p}operations SET
    state = 1, owner = NULL, reason = '', resolved = 1, completed_ms = ?, ttl_ms = ?, expires_at = ?, status = ?, retained = ?,
    details = ?, trailers = ?, message = ?
WHERE name = ? AND fence = ? AND state = 2

-- name: forget_held
-- Deletes one held operation.
DELETE FROM {p}operations WHERE name = ? AND fence = ? AND state = 2

-- name: read
-- Operations by name, expired ones included; any number at once. A NULL matches nothing.
SELECT name, state, fence, effects, attempts, tries, undo_tries, created_ms, lease_until, completed_ms, ttl_ms,
    expires_at, status, owner, method, raw, canonical, streams, reason, resolved, retained, details, trailers, message
FROM {p}operations WHERE name IN ({rows})

-- name: scan
-- What there is to choose from, in the order of age, behind an operation that is given by its age and name: a bounded
-- part, without the large columns.
SELECT name, state, method, created_ms, expires_at FROM {p}operations
WHERE created_ms >= ? AND (created_ms > ? OR name > ?)
ORDER BY created_ms, name LIMIT ?

-- name: scan_open
-- The same of one state, which is not that of the completed ones.
SELECT name, state, method, created_ms, expires_at FROM {p}operations
WHERE state = ? AND state <> 1 AND created_ms >= ? AND (created_ms > ? OR name > ?)
ORDER BY created_ms, name LIMIT ?

-- name: pending
-- Lapsed operations of some methods that can be dealt with without their clients: first those in doubt, opaque and
-- running or undoing, then those that have a request; the oldest first among each. The method's NULLs match nothing.
SELECT name, state, fence, effects, attempts, tries, undo_tries, created_ms, lease_until, completed_ms, ttl_ms,
    expires_at, status, owner, method, raw, canonical, streams, reason, resolved, retained, details, trailers, message, request
FROM {p}operations WHERE id IN (
    SELECT id FROM {p}operations
    WHERE state IN (0, 3, 4) AND state <> 1 AND lease_until <= ? AND (request IS NOT NULL OR (state IN (0, 4) AND effects = 0)) AND method IN ({rows})
    ORDER BY state IN (0, 4) AND effects = 0 DESC, created_ms, name LIMIT ?
)
ORDER BY state IN (0, 4) AND effects = 0 DESC, created_ms, name

-- name: sweep
-- Deletes a few of the operations that are expired.
DELETE FROM {p}operations
WHERE id IN (SELECT id FROM {p}operations WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)

-- name: any_expired
-- Whether an expired operation is left.
SELECT EXISTS (SELECT 1 FROM {p}operations WHERE expires_at <= ?)

-- name: create_meta
-- What the store knows of itself: its version, its clock. Its own table, since user_version is the embedder's.
CREATE TABLE IF NOT EXISTS {p}meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID

-- name: read_meta
-- All of it.
SELECT key, value FROM {p}meta WHERE key <> 'probe'

-- name: write_meta
-- Sets values; any number of rows at once.
INSERT OR REPLACE INTO {p}meta (key, value) VALUES {rows}

-- name: probe
-- Writes a value of a given size, to see whether there is room for it.
INSERT OR REPLACE INTO {p}meta (key, value) VALUES ('probe', zeroblob(?))

-- name: end_probe
-- Takes it away again.
DELETE FROM {p}meta WHERE key = 'probe'

-- name: clamp_leases
-- After a new beginning of the clock: no lease or wait is longer from now on than its own length.
UPDATE {p}operations SET lease_until = ? + lease_ms WHERE state <> 1 AND lease_until > ? + lease_ms

-- name: beat
-- Says that this process uses the file.
INSERT OR REPLACE INTO {p}peers (id, seen_ms) VALUES (?, ?)

-- name: forget_peers
-- Drops the processes that have not been seen for long, and one by its id.
DELETE FROM {p}peers WHERE seen_ms <= ? OR id = ?

-- name: any_peer
-- Whether another process was seen lately.
SELECT EXISTS (SELECT 1 FROM {p}peers WHERE seen_ms > ? AND id <> ?)
