"""What needs no write lock, and the sweep, which takes it for itself."""

import sqlite3
from collections.abc import Sequence

from grpc_idempotency.records import Swept
from grpc_idempotency.stores.sqlite import rows
from grpc_idempotency.stores.sqlite.group import by_names
from grpc_idempotency.stores.sqlite.requests import GetRequest, ListRequest, SweepRequest
from grpc_idempotency.stores.sqlite.sql import MOST_ROWS
from grpc_idempotency.stores.sqlite.tables import Tables
from grpc_idempotency.stores.sqlite.turns import begin

_PAGES_AT_ONCE = 256


def get(db: sqlite3.Connection, tables: Tables, requests: Sequence[GetRequest]) -> None:
    """Reads all the records that are asked for."""
    for at in range(0, len(requests), MOST_ROWS):
        part = requests[at : at + MOST_ROWS]
        found = {
            row[0]: row for row in db.execute(*by_names(tables.sql, "read", [one.name for one in part])).fetchall()
        }
        now = tables.clock.now()
        for one in part:
            row = found.get(one.name)
            one.value = None if row is None or _expired(row, now) else rows.record(row, now)


def list_part(db: sqlite3.Connection, tables: Tables, request: ListRequest) -> None:
    """Reads a bounded part of the records in the order of their age."""
    created_ms, name = request.after
    found = db.execute(tables.sql["list"], (created_ms, created_ms, name, request.limit)).fetchall()
    now = tables.clock.now()
    records = [rows.record(row, now) for row in found if not _expired(row, now)]
    end = (found[-1][5], found[-1][0]) if len(found) == request.limit else None
    request.value = records, end


def sweep(db: sqlite3.Connection, tables: Tables, request: SweepRequest) -> None:
    """Deletes one batch in a transaction of its own, and gives space back outside of it."""
    begin(db, tables.patience, tables.path)
    try:
        now = tables.clock.now()
        deleted = db.execute(tables.sql["sweep"], (now, request.limit)).rowcount
        more = bool(db.execute(tables.sql["any_expired"], (now,)).fetchone()[0])
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    freed = _vacuum(db) if tables.vacuums and deleted else 0
    request.value = Swept(deleted=deleted, more=more, freed_bytes=freed)


def _vacuum(db: sqlite3.Connection) -> int:
    """Gives unused pages at the file's end back to the file system; how many bytes."""
    before = db.execute("PRAGMA page_count").fetchone()[0]
    # Through execute the pragma would free one page: it frees one a step (PITFALLS.md).
    db.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
    after = db.execute("PRAGMA page_count").fetchone()[0]
    return int(before - after) * int(db.execute("PRAGMA page_size").fetchone()[0])


def _expired(row: rows.Row, now: int) -> bool:
    expires_at = row[rows.EXPIRES_AT]
    return expires_at is not None and expires_at <= now
