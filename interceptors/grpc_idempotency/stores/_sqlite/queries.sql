-- Every statement of the store. "{p}" is the prefix of its tables; "{rows}" stands for the rows of placeholders, one
-- for each row that a call writes, and "{record}" for the columns of a record. Placeholders are plain question marks in the order in which the statement reads
-- them, because Python 3.12 warns of numbered ones.

-- name: record
-- The columns of a record, but for its request. rows.py reads them in this order.
name, state, fence, effects, attempts, failed_runs, failed_undos, created_ms, lease_until, completed_ms, ttl_ms,
    expires_at, status, owner, ifnull((SELECT m.name FROM {p}methods AS m WHERE m.id = method), ''), raw, canonical,
    streams, reason, resolved, retained, details, trailers, trace, message

-- name: claim
-- Claims operations that are absent or expired; any number of rows at once. A row that conflicts with an unexpired
-- record, also with one that the same statement has inserted, changes nothing and is not counted. The message reserves
-- room for the outcome's.
INSERT INTO {p}operations
    (name, method, fence, raw, canonical, effects, streams, created_ms, lease_ms, lease_until, owner,
    trace, message, request)
VALUES {rows}
ON CONFLICT (name) DO UPDATE SET
    state = 0, method = excluded.method, fence = excluded.fence, raw = excluded.raw, canonical = excluded.canonical,
    effects = excluded.effects, streams = excluded.streams, attempts = 1, failed_runs = 0,
    failed_undos = 0, created_ms = excluded.created_ms, lease_ms = excluded.lease_ms, lease_until = excluded.lease_until,
    owner = excluded.owner, completed_ms = NULL, ttl_ms = NULL, expires_at = NULL, status = NULL, reason = '', resolved = 0, retained = 1,
    details = '', trailers = NULL, trace = excluded.trace, message = excluded.message, request = excluded.request
WHERE {p}operations.expires_at <= ?

-- name: take_over
-- Claims one operation under the fence that the caller has seen: a running or undoing one whose lease has run out, or a
-- waiting one that is due. If it has a failure, it is undoing afterwards.
UPDATE {p}operations SET
    state = CASE WHEN status IS NULL THEN 0 ELSE 4 END, method = ?, fence = ?, raw = ?, canonical = ?, effects = ?,
    streams = ?, attempts = attempts + 1, lease_ms = ?, lease_until = ?, owner = ?, trace = ?
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
-- Stores completed operations that were never claimed and are absent or expired; any number of rows at once. As with
-- "claim", a row that conflicts with an unexpired record changes nothing and is not counted.
INSERT INTO {p}operations
    (state, method, raw, canonical, effects, streams, created_ms, trace, name, fence, completed_ms, ttl_ms, expires_at, status,
    retained, details, trailers, message)
VALUES {rows}
ON CONFLICT (name) DO UPDATE SET
    state = 1, method = excluded.method, fence = excluded.fence, raw = excluded.raw, canonical = excluded.canonical,
    effects = excluded.effects, streams = excluded.streams, attempts = 1, failed_runs = 0, failed_undos = 0,
    created_ms = excluded.created_ms, completed_ms = excluded.completed_ms, ttl_ms = excluded.ttl_ms,
    expires_at = excluded.expires_at, status = excluded.status, reason = '', resolved = 0, retained = excluded.retained,
    details = excluded.details, trailers = excluded.trailers, trace = excluded.trace, message = excluded.message
WHERE {p}operations.expires_at <= ?

-- name: release
-- Deletes running, undoing or held operations; any number of rows at once. A row of NULLs matches nothing.
DELETE FROM {p}operations WHERE id IN (
    SELECT o.id FROM (VALUES {rows}) AS v
    JOIN {p}operations AS o ON o.name = v.column1 AND o.fence = v.column2 AND o.state IN (0, 2, 4)
)

-- name: release_lapsed
-- Deletes one lapsed operation, if it has no finished steps.
DELETE FROM {p}operations
WHERE lease_until <= ? AND name = ? AND fence = ? AND state IN (0, 3, 4)
    AND NOT EXISTS (SELECT 1 FROM {p}steps AS s WHERE s.operation = {p}operations.id)

-- name: count_owned
-- Counts the given names and fences that are running, undoing or held. It returns one row, because each row of a result
-- costs a release of the GIL.
SELECT count(*) FROM (VALUES {rows}) AS v
JOIN {p}operations AS o ON o.name = v.column1 AND o.fence = v.column2 AND o.state IN (0, 2, 4)

-- name: renew
-- Sets the length and the end of leases; any number of rows at once. A row of NULLs matches nothing.
UPDATE {p}operations SET lease_ms = v.column3, lease_until = v.column4
FROM (VALUES {rows}) AS v
WHERE {p}operations.name = v.column1 AND {p}operations.fence = v.column2 AND {p}operations.state IN (0, 4)

-- name: hold
-- Makes one running or undoing operation held. It will not run again, so its request is deleted.
UPDATE {p}operations SET state = 2, lease_ms = NULL, lease_until = NULL, reason = ?, request = NULL
WHERE name = ? AND fence = ? AND state IN (0, 4)

-- name: hold_lapsed
-- The same, if its lease has run out.
UPDATE {p}operations SET state = 2, lease_ms = NULL, lease_until = NULL, reason = ?, request = NULL
WHERE lease_until <= ? AND name = ? AND fence = ? AND state IN (0, 4)

-- name: wait
-- Makes one running or undoing operation waiting.
UPDATE {p}operations SET state = 3, lease_ms = ?, lease_until = ?, failed_runs = ?, failed_undos = ?
WHERE name = ? AND fence = ? AND state IN (0, 4)

-- name: undo
-- Makes one running operation undoing, and stores the failure with it.
UPDATE {p}operations SET state = 4, status = ?, retained = ?, details = ?, trailers = ?, message = NULL
WHERE name = ? AND fence = ? AND state = 0

-- name: record_step
-- Stores finished steps of running, undoing or held operations; any number of rows at once. A row of NULLs matches
-- nothing.
INSERT INTO {p}steps (operation, name, position, undoable, recorded_ms, result)
SELECT o.id, v.column3, v.column4, v.column5, v.column6, v.column7 FROM (VALUES {rows}) AS v
JOIN {p}operations AS o ON o.name = v.column1 AND o.fence = v.column2 AND o.state IN (0, 2, 4)
WHERE true
ON CONFLICT (operation, name) DO NOTHING

-- name: drop_steps
-- Deletes the given number of steps, the last recorded ones.
DELETE FROM {p}steps WHERE id IN (SELECT id FROM {p}steps ORDER BY id DESC LIMIT ?)

-- name: steps
-- Reads the finished steps of one operation, in the order in which they were recorded.
SELECT s.name, s.position, s.undoable, s.recorded_ms, s.result
FROM {p}operations AS o JOIN {p}steps AS s ON s.operation = o.id
WHERE o.name = ? AND (o.expires_at IS NULL OR o.expires_at > ?)
ORDER BY s.id

-- name: has_step
-- 1 if the operation under this fence has this step.
SELECT EXISTS (
    SELECT 1 FROM {p}operations AS o JOIN {p}steps AS s ON s.operation = o.id AND s.name = ?
    WHERE o.name = ? AND o.fence = ?
)

-- name: standing
-- Reads the fences, states and leases of unexpired operations by name; any number at once. A NULL matches nothing.
SELECT name, fence, state, lease_until FROM {p}operations WHERE name IN ({rows}) AND (expires_at IS NULL OR expires_at > ?)

-- name: resolve
-- Completes one held operation with an operator's outcome.
UPDATE {p}operations SET
    state = 1, owner = NULL, reason = '', resolved = 1, completed_ms = ?, ttl_ms = ?, expires_at = ?, status = ?, retained = ?,
    details = ?, trailers = ?, message = ?
WHERE name = ? AND fence = ? AND state = 2

-- name: resolve_absent
-- Deletes one held operation.
DELETE FROM {p}operations WHERE name = ? AND fence = ? AND state = 2

-- name: forget
-- Deletes one unexpired operation that nobody runs.
DELETE FROM {p}operations
WHERE (state IN (2, 3) OR lease_until <= ? OR expires_at > ?) AND name = ? AND fence = ?

-- name: add_note
-- Adds what an operator did.
INSERT INTO {p}notes (operation, at_ms, expires_at, by, action, reason) VALUES (?, ?, ?, ?, ?, ?)

-- name: notes
-- Reads the unexpired notes on one operation, the oldest first.
SELECT at_ms, by, action, reason FROM {p}notes WHERE operation = ? AND expires_at > ? ORDER BY id

-- name: read
-- Reads operations by name, including expired ones; any number at once. A NULL matches nothing.
SELECT {record} FROM {p}operations WHERE name IN ({rows})

-- name: find
-- Reads unexpired operations whose names are between two names, in the order of their names.
SELECT {record} FROM {p}operations WHERE name BETWEEN ? AND ? AND (expires_at IS NULL OR expires_at > ?)
ORDER BY name LIMIT ?

-- name: next_method
-- Reads the method after a given one, of which there are operations in a state other than completed.
SELECT method FROM {p}operations WHERE state = ? AND state <> 1 AND method > ? ORDER BY method LIMIT 1

-- name: next_done_method
-- The same for completed operations.
SELECT method FROM {p}operations WHERE expires_at IS NOT NULL AND method > ? ORDER BY method LIMIT 1

-- name: scan
-- Reads a bounded number of operations of one state and method, without the large columns, the oldest claims first: those
-- that were claimed between two times, and of those that were claimed at a third time only the ones with a larger name
-- than the given one. The caller chooses from them.
SELECT created_ms, name, lease_until, expires_at FROM {p}operations
WHERE state = ? AND state <> 1 AND method = ? AND created_ms BETWEEN ? AND ? AND (created_ms <> ? OR name > ?)
ORDER BY created_ms, name LIMIT ?

-- name: scan_back
-- The same, the latest claims first.
SELECT created_ms, name, lease_until, expires_at FROM {p}operations
WHERE state = ? AND state <> 1 AND method = ? AND created_ms BETWEEN ? AND ? AND (created_ms <> ? OR name < ?)
ORDER BY created_ms DESC, name DESC LIMIT ?

-- name: scan_done
-- The same for completed operations, the oldest claims first.
SELECT created_ms, name, lease_until, expires_at FROM {p}operations
WHERE expires_at IS NOT NULL AND method = ? AND created_ms BETWEEN ? AND ? AND (created_ms <> ? OR name > ?)
ORDER BY created_ms, name LIMIT ?

-- name: scan_done_back
-- The same, the latest claims first.
SELECT created_ms, name, lease_until, expires_at FROM {p}operations
WHERE expires_at IS NOT NULL AND method = ? AND created_ms BETWEEN ? AND ? AND (created_ms <> ? OR name < ?)
ORDER BY created_ms DESC, name DESC LIMIT ?

-- name: count_open
-- Counts the operations of each method and state, without completed ones.
SELECT ifnull((SELECT name FROM {p}methods WHERE id = method), ''), state, count(*) FROM {p}operations
WHERE state <> 1 GROUP BY state, method

-- name: count_until
-- Reads a time so that a bounded number of completed operations of a method were claimed after a given time and until it.
SELECT created_ms FROM {p}operations WHERE expires_at IS NOT NULL AND method = ? AND created_ms > ?
ORDER BY created_ms LIMIT 1 OFFSET ?

-- name: count_done
-- Counts the completed operations of a method that were claimed after one time and until another one: all, and those that
-- have not expired.
SELECT ifnull((SELECT name FROM {p}methods WHERE id = ?), ''), count(*), count(CASE WHEN expires_at > ? THEN 1 END) FROM {p}operations
WHERE expires_at IS NOT NULL AND method = ? AND created_ms > ? AND created_ms <= ?

-- name: pending
-- Reads lapsed operations of the given methods that can be dealt with without their clients: first those in doubt
-- (opaque, and running or undoing), then those that have a request, then those without effect (transactional, and without
-- finished steps); the oldest first in each group. A NULL matches no method.
SELECT {record}, request FROM {p}operations WHERE id IN (
    SELECT id FROM {p}operations
    WHERE state IN (0, 3, 4) AND state <> 1 AND lease_until <= ? AND method IN ({rows}) AND (
        request IS NOT NULL OR (state IN (0, 4) AND effects = 0)
        OR (effects = 1 AND NOT EXISTS (SELECT 1 FROM {p}steps AS s WHERE s.operation = {p}operations.id))
    )
    ORDER BY state IN (0, 4) AND effects = 0 DESC, effects = 1 AND request IS NULL, created_ms, name LIMIT ?
)
ORDER BY state IN (0, 4) AND effects = 0 DESC, effects = 1 AND request IS NULL, created_ms, name

-- name: sweep
-- Deletes up to the given number of expired operations.
DELETE FROM {p}operations
WHERE id IN (SELECT id FROM {p}operations WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)

-- name: sweep_notes
-- Deletes up to the given number of expired notes.
DELETE FROM {p}notes WHERE id IN (SELECT id FROM {p}notes WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)

-- name: any_expired
-- 1 if an expired operation or note is left.
SELECT EXISTS (SELECT 1 FROM {p}operations WHERE expires_at <= ?)
    OR EXISTS (SELECT 1 FROM {p}notes WHERE expires_at <= ?)

-- name: find_method
-- Reads the number of a method.
SELECT id FROM {p}methods WHERE name = ?

-- name: method_name
-- Reads the name of a method by its number.
SELECT name FROM {p}methods WHERE id = ?

-- name: add_method
-- Gives a number to a method, unless it has one.
INSERT INTO {p}methods (name) VALUES (?) ON CONFLICT (name) DO NOTHING

-- name: create_meta
-- Creates the table of the store's own data: its version, its identity and its clock. It is a table, because user_version is the
-- embedder's.
CREATE TABLE IF NOT EXISTS {p}meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID

-- name: read_meta
-- Reads all of that table.
SELECT key, value FROM {p}meta WHERE key <> 'probe'

-- name: write_meta
-- Sets values; any number of rows at once.
INSERT OR REPLACE INTO {p}meta (key, value) VALUES {rows}

-- name: probe
-- Writes a value of a given size, to test whether there is room for it.
INSERT OR REPLACE INTO {p}meta (key, value) VALUES ('probe', zeroblob(?))

-- name: end_probe
-- Deletes that value.
DELETE FROM {p}meta WHERE key = 'probe'

-- name: clamp_leases
-- Shortens leases and waits after the clock got a new anchor, so that none ends later than its length from now.
UPDATE {p}operations SET lease_until = ? + lease_ms WHERE state <> 1 AND lease_until > ? + lease_ms

-- name: beat
-- Announces that this process uses the file.
INSERT OR REPLACE INTO {p}peers (id, seen_ms) VALUES (?, ?)

-- name: forget_peers
-- Deletes the rows of processes that have not been seen for long, and the one with the given id.
DELETE FROM {p}peers WHERE seen_ms <= ? OR id = ?

-- name: any_peer
-- 1 if another process was seen lately.
SELECT EXISTS (SELECT 1 FROM {p}peers WHERE seen_ms > ? AND id <> ?)
