-- Every statement of the store. "{s}" is the schema of its tables, "{clock}" the server's time, "{record}" the columns of
-- a record, and "{nulls}" a NULL for each of them but its name.
--
-- A statement for many operations takes an array for each column. It names each operation once. It returns a row for each
-- operation that was changed, with NULLs in place of a record, and the records of those that were not changed because of
-- their state or their fence. An operation in neither is absent, or was changed by others in the meantime. The last column
-- is the time.
--
-- Each change first locks its rows, and passes over those that others have locked. So no statement waits for a user's
-- transaction. An insertion can wait only for another insertion of the same name, which is never in a user's transaction.
-- Joins are nested loops over index look-ups: the writer switches all other plans off. "{state}" is the state, as an
-- expression: for a condition on the column the planner would read the index of all open operations, instead of looking one
-- up by its name.

-- name: meta
-- Reads the store's own data: the version of its tables, its identity.
SELECT key, value FROM {s}.meta

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {s}

-- name: create_meta
CREATE TABLE IF NOT EXISTS {s}.meta (key text PRIMARY KEY, value text NOT NULL)

-- name: begin_meta
-- "sweeper" is the row that a sweep locks, so that there is one at a time.
INSERT INTO {s}.meta (key, value) VALUES ('version', '0'), ('identity', %(identity)s), ('sweeper', '')
ON CONFLICT (key) DO NOTHING

-- name: lock_version
SELECT value FROM {s}.meta WHERE key = 'version' FOR UPDATE

-- name: set_version
UPDATE {s}.meta SET value = %(version)s WHERE key = 'version'

-- name: claim
-- Claims operations that are absent or expired. It looks before it inserts, so that a replay writes nothing.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(fence)b::bytea[], %(method)b::text[], %(raw)b::bytea[], %(canonical)b::bytea[],
        %(effects)b::smallint[], %(streams)b::boolean[], %(lease)b::interval[], %(owner)b::text[], %(method_crc)b::integer[],
        %(trace)b::bytea[], %(request)b::bytea[]
    ) AS g (name, fence, method, raw, canonical, effects, streams, lease, owner, method_crc, trace, request)
),
won AS (
    INSERT INTO {s}.operations AS o (
        name, state, fence, effects, streams, created_at, lease_until, owner, method, method_crc, trace, raw, canonical,
        request
    )
    SELECT g.name, 0, g.fence, g.effects, g.streams, c.now, c.now + g.lease, g.owner, g.method, g.method_crc, g.trace,
        g.raw, g.canonical, g.request
    FROM given AS g CROSS JOIN clock AS c LEFT JOIN {s}.operations AS old ON old.name = g.name
    WHERE old.name IS NULL OR old.expires_at <= c.now
    ORDER BY g.name
    ON CONFLICT (name) DO UPDATE SET
        state = 0, fence = excluded.fence, effects = excluded.effects, streams = excluded.streams, attempts = 1,
        failed_runs = 0, failed_undos = 0, steps = 0, created_at = excluded.created_at,
        lease_until = excluded.lease_until, completed_at = NULL, expires_at = NULL, status = NULL,
        owner = excluded.owner, method = excluded.method, method_crc = excluded.method_crc, trace = excluded.trace,
        raw = excluded.raw, canonical = excluded.canonical, reason = '', resolved = false, retained = true,
        details = NULL, trailers = NULL, message = NULL, request = excluded.request
    WHERE o.expires_at <= (SELECT now FROM clock)
    RETURNING o.name
)
SELECT {record}, c.now FROM given AS g CROSS JOIN clock AS c JOIN {s}.operations AS o ON o.name = g.name
WHERE o.expires_at IS NULL OR o.expires_at > c.now
UNION ALL SELECT w.name, {nulls}, c.now FROM won AS w CROSS JOIN clock AS c

-- name: take_over
-- Claims operations under the fences that their callers have seen: running or undoing ones whose leases have run out, and
-- waiting ones that are due. One with a failure is undoing afterwards.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(over)b::bytea[], %(fence)b::bytea[], %(method)b::text[], %(raw)b::bytea[],
        %(canonical)b::bytea[], %(effects)b::smallint[], %(streams)b::boolean[], %(lease)b::interval[],
        %(owner)b::text[], %(method_crc)b::integer[], %(trace)b::bytea[]
    ) AS g (name, over, fence, method, raw, canonical, effects, streams, lease, owner, method_crc, trace)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.over AND {state} IN (0, 3, 4) AND o.lease_until <= (SELECT now FROM clock)
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
done AS (
    UPDATE {s}.operations AS o SET
        state = CASE WHEN o.status IS NULL THEN 0 ELSE 4 END, fence = f.fence, effects = f.effects, streams = f.streams,
        attempts = o.attempts + 1, lease_until = c.now + f.lease, owner = f.owner, method = f.method,
        method_crc = f.method_crc, trace = f.trace, raw = f.raw, canonical = f.canonical
    FROM free AS f CROSS JOIN clock AS c WHERE o.name = f.name
    RETURNING o.name
)
{answer}

-- name: complete
-- Stores the outcomes of running, undoing or held operations.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(fence)b::bytea[], %(ttl)b::interval[], %(status)b::smallint[], %(retained)b::boolean[],
        %(details)b::bytea[], %(trailers)b::bytea[], %(message)b::bytea[]
    ) AS g (name, fence, ttl, status, retained, details, trailers, message)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} IN (0, 2, 4)
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
done AS (
    UPDATE {s}.operations AS o SET
        state = 1, lease_until = NULL, owner = NULL, reason = '', completed_at = c.now, expires_at = c.now + f.ttl,
        status = f.status, retained = f.retained, details = f.details, trailers = f.trailers, message = f.message,
        request = NULL
    FROM free AS f CROSS JOIN clock AS c WHERE o.name = f.name
    RETURNING o.name
)
{answer}

-- name: renew
-- Sets the ends of leases.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(%(name)b::bytea[], %(fence)b::bytea[], %(lease)b::interval[]) AS g (name, fence, lease)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} IN (0, 4)
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
done AS (
    UPDATE {s}.operations AS o SET lease_until = c.now + f.lease
    FROM free AS f CROSS JOIN clock AS c WHERE o.name = f.name
    RETURNING o.name
)
{answer}

-- name: release
-- Deletes running, undoing or held operations, and their steps.
WITH clock AS (SELECT {clock} AS now),
given AS (SELECT * FROM unnest(%(name)b::bytea[], %(fence)b::bytea[]) AS g (name, fence)),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} IN (0, 2, 4)
    ORDER BY o.name FOR UPDATE OF o SKIP LOCKED
),
done AS (DELETE FROM {s}.operations AS o USING free AS f WHERE o.name = f.name RETURNING o.name),
steps AS (DELETE FROM {s}.steps AS s USING done AS d WHERE s.operation = d.name)
{answer}

-- name: release_lapsed
-- Deletes lapsed operations that have no finished steps.
WITH clock AS (SELECT {clock} AS now),
given AS (SELECT * FROM unnest(%(name)b::bytea[], %(fence)b::bytea[]) AS g (name, fence)),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} IN (0, 3, 4) AND o.steps = 0 AND o.lease_until <= (SELECT now FROM clock)
    ORDER BY o.name FOR UPDATE OF o SKIP LOCKED
),
done AS (DELETE FROM {s}.operations AS o USING free AS f WHERE o.name = f.name RETURNING o.name)
{answer}

-- name: forget
-- Deletes operations and their steps as an operator decided: held ones, or any but those whose leases hold. Leaves notes.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(fence)b::bytea[], %(held_only)b::boolean[], %(by)b::bytea[], %(action)b::text[],
        %(note)b::bytea[]
    ) AS g (name, fence, held_only, by, action, note)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND (
        o.state = 2 OR NOT g.held_only AND CASE o.state
            WHEN 1 THEN o.expires_at > (SELECT now FROM clock)
            WHEN 3 THEN true
            ELSE o.lease_until <= (SELECT now FROM clock)
        END
    )
    ORDER BY o.name FOR UPDATE OF o SKIP LOCKED
),
done AS (DELETE FROM {s}.operations AS o USING free AS f WHERE o.name = f.name RETURNING o.name),
steps AS (DELETE FROM {s}.steps AS s USING done AS d WHERE s.operation = d.name),
{noted}
{answer}

-- name: resolve
-- Completes held operations with an operator's outcomes. Leaves notes.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(fence)b::bytea[], %(ttl)b::interval[], %(status)b::smallint[], %(retained)b::boolean[],
        %(details)b::bytea[], %(trailers)b::bytea[], %(message)b::bytea[], %(by)b::bytea[], %(action)b::text[],
        %(note)b::bytea[]
    ) AS g (name, fence, ttl, status, retained, details, trailers, message, by, action, note)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} = 2
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
done AS (
    UPDATE {s}.operations AS o SET
        state = 1, owner = NULL, reason = '', resolved = true, completed_at = c.now, expires_at = c.now + f.ttl,
        status = f.status, retained = f.retained, details = f.details, trailers = f.trailers, message = f.message
    FROM free AS f CROSS JOIN clock AS c WHERE o.name = f.name
    RETURNING o.name
),
{noted}
{answer}

-- name: hold
-- Makes running or undoing operations held. They will not run again, so their requests are deleted.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(%(name)b::bytea[], %(fence)b::bytea[], %(reason)b::text[], %(lapsed_only)b::boolean[])
        AS g (name, fence, reason, lapsed_only)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} IN (0, 4)
        AND (NOT g.lapsed_only OR o.lease_until <= (SELECT now FROM clock))
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
done AS (
    UPDATE {s}.operations AS o SET state = 2, lease_until = NULL, reason = f.reason, request = NULL
    FROM free AS f WHERE o.name = f.name
    RETURNING o.name
)
{answer}

-- name: wait
-- Makes running or undoing operations waiting.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(fence)b::bytea[], %(delay)b::interval[], %(failed_runs)b::integer[],
        %(failed_undos)b::integer[]
    ) AS g (name, fence, delay, failed_runs, failed_undos)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} IN (0, 4)
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
done AS (
    UPDATE {s}.operations AS o SET
        state = 3, lease_until = c.now + f.delay, failed_runs = f.failed_runs, failed_undos = f.failed_undos
    FROM free AS f CROSS JOIN clock AS c WHERE o.name = f.name
    RETURNING o.name
)
{answer}

-- name: undo
-- Makes running operations undoing, and stores their failures.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(fence)b::bytea[], %(status)b::smallint[], %(retained)b::boolean[], %(details)b::bytea[],
        %(trailers)b::bytea[]
    ) AS g (name, fence, status, retained, details, trailers)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} = 0
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
done AS (
    UPDATE {s}.operations AS o SET
        state = 4, status = f.status, retained = f.retained, details = f.details, trailers = f.trailers, message = NULL
    FROM free AS f WHERE o.name = f.name
    RETURNING o.name
)
{answer}

-- name: record_step
-- Stores a finished step for each of these running, undoing or held operations. The lock on an operation gives its steps
-- their numbers. A step whose name is taken returns nothing.
WITH clock AS (SELECT {clock} AS now),
given AS (
    SELECT * FROM unnest(
        %(name)b::bytea[], %(fence)b::bytea[], %(step)b::bytea[], %(position)b::integer[], %(undoable)b::boolean[],
        %(result)b::bytea[]
    ) AS g (name, fence, step, position, undoable, result)
),
free AS (
    SELECT g.* FROM given AS g JOIN {s}.operations AS o ON o.name = g.name
    WHERE o.fence = g.fence AND {state} IN (0, 2, 4)
    ORDER BY o.name FOR NO KEY UPDATE OF o SKIP LOCKED
),
counted AS (
    UPDATE {s}.operations AS o SET steps = o.steps + 1 FROM free AS f WHERE o.name = f.name
    RETURNING o.name, o.created_at, o.steps
),
done AS (
    INSERT INTO {s}.steps (operation, since, name, number, position, undoable, recorded_at, result)
    SELECT f.name, n.created_at, f.step, n.steps, f.position, f.undoable, c.now, f.result
    FROM free AS f JOIN counted AS n ON n.name = f.name CROSS JOIN clock AS c
    ON CONFLICT (operation, since, name) DO NOTHING
    RETURNING operation AS name
)
{answer}

-- name: get
-- Reads unexpired operations by name.
WITH clock AS (SELECT {clock} AS now)
SELECT {record}, c.now FROM clock AS c CROSS JOIN unnest(%(name)b::bytea[]) AS g (name)
JOIN {s}.operations AS o ON o.name = g.name
WHERE o.expires_at IS NULL OR o.expires_at > c.now

-- name: standing
-- Reads the fences, the states and the lapses of unexpired operations by name.
WITH clock AS (SELECT {clock} AS now)
SELECT o.name, o.fence, o.state, coalesce(o.lease_until <= c.now, false)
FROM clock AS c CROSS JOIN unnest(%(name)b::bytea[]) AS g (name) JOIN {s}.operations AS o ON o.name = g.name
WHERE o.expires_at IS NULL OR o.expires_at > c.now

-- name: steps
-- Reads the finished steps of one operation, in the order in which they were recorded.
SELECT s.name, s.position, s.undoable, s.recorded_at, s.result
FROM {s}.operations AS o JOIN {s}.steps AS s ON s.operation = o.name AND s.since = o.created_at
WHERE o.name = %(name)b AND (o.expires_at IS NULL OR o.expires_at > (SELECT {clock}))
ORDER BY s.number

-- name: list
-- Reads unexpired operations by age, between two places, each given by an age and a name. There is one range for each
-- method, found by its CRC. "{way}" is the direction: the statement "list_newest" has the newest ones first.
WITH RECURSIVE present AS (SELECT {clock} AS now),
lanes (crc) AS (
    SELECT coalesce(%(method_crc)b::integer, (SELECT min(o.method_crc) FROM {s}.operations AS o))
    UNION ALL
    SELECT (SELECT min(o.method_crc) FROM {s}.operations AS o WHERE o.method_crc > l.crc) FROM lanes AS l
    WHERE l.crc IS NOT NULL AND %(method_crc)b::integer IS NULL
)
SELECT {record}, c.now FROM present AS c CROSS JOIN lanes AS l CROSS JOIN LATERAL (
    SELECT * FROM {s}.operations AS o
    WHERE o.method_crc = l.crc AND (o.created_at, o.name) > (%(low)b::timestamptz, %(low_name)b::bytea)
        AND (o.created_at, o.name) < (%(high)b::timestamptz, %(high_name)b::bytea)
        AND (o.expires_at IS NULL OR o.expires_at > c.now) AND (%(method)b::text IS NULL OR o.method = %(method)b)
        AND (o.state = 1 OR NOT %(completed)b)
    ORDER BY o.created_at{way}, o.name{way} LIMIT %(limit)b
) AS o ORDER BY o.created_at{way}, o.name{way} LIMIT %(limit)b

-- name: list_open
-- The same for states other than completed: one range for each state and method. If only stuck ones are wanted, it passes
-- over those whose leases or waits have not ended.
WITH RECURSIVE present AS (SELECT {clock} AS now),
lanes (state, crc) AS (
    SELECT s.state, coalesce(%(method_crc)b::integer, (
        SELECT min(o.method_crc) FROM {s}.operations AS o WHERE o.state = s.state AND o.state <> 1
    )) FROM unnest(%(states)b::smallint[]) AS s (state)
    UNION ALL
    SELECT l.state, (
        SELECT min(o.method_crc) FROM {s}.operations AS o
        WHERE o.state = l.state AND o.state <> 1 AND o.method_crc > l.crc
    ) FROM lanes AS l WHERE l.crc IS NOT NULL AND %(method_crc)b::integer IS NULL
)
SELECT {record}, c.now FROM present AS c CROSS JOIN lanes AS l CROSS JOIN LATERAL (
    SELECT * FROM {s}.operations AS o
    WHERE o.state = l.state AND o.state <> 1 AND o.method_crc = l.crc
        AND (o.created_at, o.name) > (%(low)b::timestamptz, %(low_name)b::bytea)
        AND (o.created_at, o.name) < (%(high)b::timestamptz, %(high_name)b::bytea)
        AND (%(method)b::text IS NULL OR o.method = %(method)b)
        AND (o.state = 2 OR o.lease_until <= c.now OR NOT %(stuck)b)
    ORDER BY o.created_at{way}, o.name{way} LIMIT %(limit)b
) AS o ORDER BY o.created_at{way}, o.name{way} LIMIT %(limit)b

-- name: find
-- Reads unexpired operations whose names lie between two.
WITH clock AS (SELECT {clock} AS now)
SELECT {record}, c.now FROM {s}.operations AS o CROSS JOIN clock AS c
WHERE o.name BETWEEN %(low_name)b::bytea AND %(high_name)b::bytea AND (o.expires_at IS NULL OR o.expires_at > c.now)
ORDER BY o.name LIMIT %(limit)b

-- name: count
-- Counts unexpired operations by method and state. For the completed ones it counts all of each method in the index, and
-- subtracts those that are open or expired.
WITH open AS (
    SELECT o.method, o.method_crc AS crc, o.state, count(*) AS n FROM {s}.operations AS o WHERE o.state <> 1
    GROUP BY o.method, o.method_crc, o.state
),
completed (crc, n) AS (
    SELECT o.method_crc, count(*) FROM {s}.operations AS o WHERE %(completed)b GROUP BY o.method_crc
    UNION ALL SELECT crc, -n FROM open WHERE %(completed)b
    UNION ALL SELECT o.method_crc, -count(*) FROM {s}.operations AS o
    WHERE o.expires_at <= (SELECT {clock}) AND %(completed)b GROUP BY o.method_crc
)
SELECT method, state, n FROM open
UNION ALL SELECT (SELECT o.method FROM {s}.operations AS o WHERE o.method_crc = c.crc LIMIT 1), 1, c.n
FROM (SELECT crc, CAST(sum(n) AS bigint) AS n FROM completed GROUP BY crc) AS c WHERE c.n > 0

-- name: methods
-- Reads the methods of operations, one seek for each CRC. Of two methods with the same CRC it finds one.
WITH RECURSIVE lanes (crc) AS (
    SELECT min(o.method_crc) FROM {s}.operations AS o
    UNION ALL
    SELECT (SELECT min(o.method_crc) FROM {s}.operations AS o WHERE o.method_crc > l.crc) FROM lanes AS l
    WHERE l.crc IS NOT NULL
)
SELECT f.method FROM lanes AS l CROSS JOIN LATERAL (
    SELECT o.method FROM {s}.operations AS o WHERE o.method_crc = l.crc ORDER BY o.created_at DESC, o.name DESC LIMIT 1
) AS f

-- name: notes
-- Reads what operators did to one operation.
SELECT n.at, n.by, n.action, n.reason FROM {s}.notes AS n
WHERE n.operation = %(name)b AND n.at > (SELECT {clock}) - %(kept)b::interval
ORDER BY n.at

-- name: pending
-- Reads lapsed operations of the given methods that can be dealt with without their clients: first those in doubt
-- (opaque, and running or undoing), then those that have a request, then those without effect (transactional, and without
-- finished steps); the oldest first in each group.
WITH clock AS (SELECT {clock} AS now)
SELECT {record}, o.request, c.now FROM {s}.operations AS o CROSS JOIN clock AS c
WHERE o.state IN (0, 3, 4) AND o.state <> 1 AND o.lease_until <= c.now AND o.method = ANY(%(methods)b::text[])
    AND (o.request IS NOT NULL OR (o.state IN (0, 4) AND o.effects = 0) OR (o.effects = 1 AND o.steps = 0))
ORDER BY o.state IN (0, 4) AND o.effects = 0 DESC, o.effects = 1 AND o.request IS NULL, o.created_at, o.name
LIMIT %(limit)b

-- name: sweep
-- Deletes up to the given number of expired operations, and their steps, and so many old notes, unless another sweep is
-- under way.
WITH clock AS (SELECT {clock} AS now),
turn AS (SELECT key FROM {s}.meta WHERE key = 'sweeper' FOR UPDATE SKIP LOCKED),
expired AS (
    SELECT o.name FROM {s}.operations AS o
    WHERE o.expires_at <= (SELECT now FROM clock) AND EXISTS (SELECT 1 FROM turn)
    ORDER BY o.expires_at LIMIT %(limit)b FOR UPDATE OF o SKIP LOCKED
),
gone AS (DELETE FROM {s}.operations AS o USING expired AS e WHERE o.name = e.name RETURNING o.name),
steps AS (DELETE FROM {s}.steps AS s USING gone AS g WHERE s.operation = g.name),
old AS (
    SELECT n.operation, n.at, n.fence, n.action FROM {s}.notes AS n
    WHERE n.at <= (SELECT now FROM clock) - %(kept)b::interval AND EXISTS (SELECT 1 FROM turn)
    ORDER BY n.at LIMIT %(limit)b
),
notes AS (
    DELETE FROM {s}.notes AS n USING old AS o
    WHERE n.operation = o.operation AND n.at = o.at AND n.fence = o.fence AND n.action = o.action
)
SELECT (SELECT count(*) FROM gone), EXISTS (
    SELECT 1 FROM {s}.operations WHERE expires_at <= (SELECT now FROM clock) OFFSET %(limit)b
)

-- name: look
-- Reads the fence and the state of one unexpired operation.
SELECT fence, state FROM {s}.operations
WHERE name = %(name)b AND (expires_at IS NULL OR expires_at > (SELECT {clock}))

-- name: look_again
-- The same, after a commit whose result is unknown: it waits until that transaction has ended.
SELECT fence, state FROM {s}.operations WHERE name = %(name)b FOR UPDATE

-- name: has_step
-- One row if the operation under this fence has this step.
SELECT 1 FROM {s}.operations AS o JOIN {s}.steps AS s ON s.operation = o.name AND s.since = o.created_at
WHERE o.name = %(name)b AND o.fence = %(fence)b AND s.name = %(step)b

-- name: complete_one
-- Completes one operation in the transaction of its handler, also on the connections of other drivers. The casts are for
-- drivers that tell the types of parameters.
WITH clock AS (SELECT {clock} AS now)
UPDATE {s}.operations AS o SET
    state = 1, lease_until = NULL, owner = NULL, reason = '', completed_at = c.now,
    expires_at = c.now + CAST(%(ttl)b AS interval), status = CAST(%(status)b AS smallint),
    retained = CAST(%(retained)b AS boolean), details = CAST(%(details)b AS bytea),
    trailers = CAST(%(trailers)b AS bytea), message = CAST(%(message)b AS bytea), request = NULL
FROM clock AS c
WHERE o.name = CAST(%(name)b AS bytea) AND o.fence = CAST(%(fence)b AS bytea) AND {state} IN (0, 2, 4)
RETURNING o.completed_at

-- name: record_one_step
-- Stores a step in the transaction of its handler.
WITH counted AS (
    UPDATE {s}.operations AS o SET steps = o.steps + 1
    WHERE o.name = %(name)b AND o.fence = %(fence)b AND {state} IN (0, 2, 4)
    RETURNING o.name, o.created_at, o.steps
)
INSERT INTO {s}.steps (operation, since, name, number, position, undoable, recorded_at, result)
SELECT n.name, n.created_at, %(step)b, n.steps, %(position)b, %(undoable)b, (SELECT {clock}), %(result)b
FROM counted AS n
ON CONFLICT (operation, since, name) DO NOTHING
RETURNING name
