"""Requests that need no write lock, and the sweep, which takes the lock by itself."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from grpc_idempotency.records import Standing, Swept
from grpc_idempotency.stores._calls.requests import (
    CountRequest,
    FindRequest,
    GetRequest,
    ListRequest,
    MethodsRequest,
    NotesRequest,
    PendingRequest,
    Request,
    StandingRequest,
    StepsRequest,
    SweepRequest,
)
from grpc_idempotency.stores._sqlite import looking, rows
from grpc_idempotency.stores._sqlite.faults import translated
from grpc_idempotency.stores._sqlite.requests import Flush, Prepare
from grpc_idempotency.stores._sqlite.sql import MOST_ROWS, padded
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.turns import begin

_PAGES_AT_ONCE = 256


def answer(
    db: sqlite3.Connection, tables: Tables, kinds: dict[type[Request[Any]], list[Any]]
) -> tuple[list[SweepRequest], list[Request[Any]]]:
    """Answers the requests that need no write lock, and removes them from ``kinds``.

    Returns:
        The sweeps and the flushes, which are answered later. Both are removed from ``kinds``, too.
    """
    if GetRequest in kinds:
        _get(db, tables, kinds.pop(GetRequest))
    for kind, read in _READS.items():
        for one in kinds.pop(kind, ()):
            each(one, read, db, tables)
    for one in kinds.pop(Prepare, ()):
        one.value = None
    return kinds.pop(SweepRequest, []), kinds.pop(Flush, [])


def each(
    request: Any, read: Callable[[sqlite3.Connection, Tables, Any], None], db: sqlite3.Connection, tables: Tables
) -> None:
    """Answers one request with ``read``, or with the error that ``read`` raised."""
    try:
        read(db, tables, request)
    except Exception as error:
        request.error = translated(error, tables.path)


def _get(db: sqlite3.Connection, tables: Tables, requests: Sequence[GetRequest]) -> None:
    """Reads all records at once; if that fails, each by itself, so that only the request at fault gets the error."""
    try:
        get(db, tables, requests)
    except Exception as error:
        if len(requests) == 1:
            requests[0].error = translated(error, tables.path)
        else:
            for one in requests:
                _get(db, tables, [one])


def get(db: sqlite3.Connection, tables: Tables, requests: Sequence[GetRequest]) -> None:
    """Reads all the requested records."""
    for at in range(0, len(requests), MOST_ROWS):
        part = requests[at : at + MOST_ROWS]
        found = {row[0]: row for row in db.execute(*tables.sql.by_names("read", [one.name for one in part])).fetchall()}
        now = tables.clock.now()
        for one in part:
            row = found.get(one.name)
            one.value = None if row is None or _expired(row, now) else rows.record(row, now)


def standing(db: sqlite3.Connection, tables: Tables, request: StandingRequest) -> None:
    """Reads the standings of operations, without their large columns."""
    now, found = tables.clock.now(), {}
    for at in range(0, len(request.names), MOST_ROWS):
        sql, parameters = tables.sql.by_names("standing", request.names[at : at + MOST_ROWS])
        for name, fence, state, lease_until in db.execute(sql, [*parameters, now]).fetchall():
            lapsed = lease_until is not None and lease_until <= now
            found[name] = Standing(fence=fence, state=rows.STATES[state], lapsed=lapsed)
    request.value = found


def steps(db: sqlite3.Connection, tables: Tables, request: StepsRequest) -> None:
    """Reads the finished steps of one operation."""
    found = db.execute(tables.sql["steps"], (request.name, tables.clock.now())).fetchall()
    request.value = [rows.step(row) for row in found]


def pending(db: sqlite3.Connection, tables: Tables, request: PendingRequest) -> None:
    """Reads the records that can be dealt with without their clients."""
    now, found_methods = tables.clock.now(), (tables.methods.find(db, method) for method in request.methods)
    methods = [method for method in found_methods if method is not None]
    size = padded(len(methods))
    parameters = [now, *methods, *([None] * (size - len(methods))), request.limit]
    found = db.execute(tables.sql.sized["pending", 0, size], parameters).fetchall()
    request.value = [rows.record(row, now) for row in found]


def sweep(db: sqlite3.Connection, tables: Tables, request: SweepRequest) -> None:
    """Deletes one batch in a transaction of its own, and returns space to the file system after it."""
    begin(db, tables.patience, tables.path)
    try:
        now = tables.clock.now()
        deleted = db.execute(tables.sql["sweep"], (now, request.limit)).rowcount
        db.execute(tables.sql["sweep_notes"], (now, request.limit))
        more = bool(db.execute(tables.sql["any_expired"], (now, now)).fetchone()[0])
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    freed = _vacuum(db) if tables.vacuums and deleted else 0
    request.value = Swept(deleted=deleted, more=more, freed_bytes=freed)


def _vacuum(db: sqlite3.Connection) -> int:
    """Returns unused pages at the file's end to the file system. The result is their size in bytes."""
    before = db.execute("PRAGMA page_count").fetchone()[0]
    # The pragma frees one page per step of the statement, and execute would make one step only.
    with contextlib.suppress(sqlite3.OperationalError):  # another process has the lock: the next sweep tries again
        db.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
    after = db.execute("PRAGMA page_count").fetchone()[0]
    return int(before - after) * int(db.execute("PRAGMA page_size").fetchone()[0])


def _expired(row: rows.Row, now: int) -> bool:
    expires_at = row[rows.EXPIRES_AT]
    return expires_at is not None and expires_at <= now


_READS: dict[type[Request[Any]], Callable[[sqlite3.Connection, Tables, Any], None]] = {
    StandingRequest: standing,
    StepsRequest: steps,
    PendingRequest: pending,
    ListRequest: looking.list_part,
    FindRequest: looking.find,
    CountRequest: looking.count_part,
    MethodsRequest: looking.methods,
    NotesRequest: looking.notes,
}
