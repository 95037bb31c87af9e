"""Requests that only read, and the sweep. They run on connections of their own, so that no write waits for them."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import psycopg

from grpc_idempotency.operator_store import NOTES_KEPT
from grpc_idempotency.records import Standing, State, Swept
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
from grpc_idempotency.stores._postgres import faults, rows
from grpc_idempotency.stores._postgres.pool import Lane
from grpc_idempotency.stores._postgres.settings import Connection, Sessions
from grpc_idempotency.stores._postgres.sql import Sql

_READ_AT_ONCE = 32
"""The number of records that one part of a list has at most: each can be some megabytes."""
_TRIES = 3
_BEGINNING = datetime.min.replace(tzinfo=timezone.utc)
_END = datetime.max.replace(tzinfo=timezone.utc)


class Reads:
    """Answers requests that only read, and sweeps."""

    def __init__(self, sql: Sql, sessions: Sessions) -> None:
        self._sql = sql
        self._sessions = sessions

    def answer(self, lane: Lane, request: Request[Any]) -> None:
        """Answers a request. It is made again if the connection was lost, or in conflict with others."""
        for n in range(_TRIES):
            try:
                with lane.connection() as db:
                    request.value = _READS[type(request)](self, db, request)
                return
            except (psycopg.Error, ValueError, TypeError, OverflowError) as error:
                again = faults.is_conflict(error) or faults.is_broken(error) or faults.lost_session(error)
                if n == _TRIES - 1 or not again:
                    raise faults.translated(error, sent=False) from error

    def get(self, db: Connection, request: GetRequest) -> Any:
        """Reads one record."""
        row = self._execute(db, "get", name=[request.name]).fetchone()
        return None if row is None else rows.record(row)

    def standing(self, db: Connection, request: StandingRequest) -> Any:
        """Reads what waiting calls poll."""
        if not request.names:
            return {}
        found = self._execute(db, "standing", name=list(set(request.names))).fetchall()
        return {row[0]: Standing(fence=row[1], state=rows.STATES[row[2]], lapsed=row[3]) for row in found}

    def steps(self, db: Connection, request: StepsRequest) -> Any:
        """Reads the finished steps of one operation."""
        return list(map(rows.step, self._execute(db, "steps", name=request.name).fetchall()))

    def pending(self, db: Connection, request: PendingRequest) -> Any:
        """Reads the records that can be dealt with without their clients."""
        if not request.methods:
            return []
        found = self._execute(db, "pending", methods=list(request.methods), limit=request.limit).fetchall()
        return list(map(rows.record, found))

    def list(self, db: Connection, request: ListRequest) -> Any:
        """Reads one bounded part of a list."""
        statement, parameters = listing(request)
        most = min(request.limit, _READ_AT_ONCE)
        records = list(map(rows.record, self._execute(db, statement, **parameters, limit=most).fetchall()))
        return records, (records[-1].created_at, records[-1].name) if len(records) == most else None

    def find(self, db: Connection, request: FindRequest) -> Any:
        """Reads records by the beginning of their names."""
        bounds = {"low_name": request.least, "high_name": request.most}
        return list(map(rows.record, self._execute(db, "find", **bounds, limit=request.limit).fetchall()))

    def count(self, db: Connection, request: CountRequest) -> Any:
        """Counts records by method and state."""
        found = self._execute(db, "count", completed=request.completed).fetchall()
        return {(method, rows.STATES[state]): number for method, state, number in found}, None

    def methods(self, db: Connection, request: MethodsRequest) -> Any:
        """Reads the names of the methods of operations."""
        return [method for (method,) in self._execute(db, "methods").fetchall()]

    def notes(self, db: Connection, request: NotesRequest) -> Any:
        """Reads what operators did to one operation."""
        return list(map(rows.note, self._execute(db, "notes", name=request.name, kept=NOTES_KEPT).fetchall()))

    def sweep(self, db: Connection, request: SweepRequest) -> Any:
        """Deletes one batch, unless another sweep is under way."""
        row = self._execute(db, "sweep", limit=request.limit, kept=NOTES_KEPT).fetchone()
        assert row is not None
        deleted, more = row
        # If others have locked what is expired, the next sweep looks again.
        return Swept(deleted=deleted, more=more and deleted == request.limit)

    def _execute(self, db: Connection, statement: str, **parameters: Any) -> psycopg.Cursor[Any]:
        if not self._sessions.pooled:
            return db.execute(self._sql[statement], parameters, binary=True)
        with db.pipeline():
            db.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            db.execute(*self._sessions.local(own=True))
            cursor = db.execute(self._sql[statement], parameters, binary=True)
            db.execute("COMMIT")
        return cursor


def listing(request: ListRequest) -> tuple[str, dict[str, Any]]:
    """Returns the statement for a list, and its parameters but for the limit."""
    low, high = (request.since or _BEGINNING, b""), (request.until or _END, b"")
    if request.after is not None:
        low, high = (low, min(high, request.after)) if request.newest_first else (max(low, request.after), high)
    parameters = {
        "low": low[0],
        "low_name": low[1],
        "high": high[0],
        "high_name": high[1],
        "method": request.method,
        "method_crc": None if request.method is None else rows.method_crc(request.method),
    }
    way = "_newest" if request.newest_first else ""
    if not request.stuck and request.state in (None, State.COMPLETED):
        return f"list{way}", parameters | {"completed": request.state is State.COMPLETED}
    states = [rows.STATES.index(state) for state in rows.OPEN if request.state in (None, state)]
    return f"list_open{way}", parameters | {"states": states, "stuck": request.stuck}


_READS: dict[type[Request[Any]], Callable[[Reads, Connection, Any], Any]] = {
    GetRequest: Reads.get,
    StandingRequest: Reads.standing,
    StepsRequest: Reads.steps,
    PendingRequest: Reads.pending,
    ListRequest: Reads.list,
    FindRequest: Reads.find,
    CountRequest: Reads.count,
    MethodsRequest: Reads.methods,
    NotesRequest: Reads.notes,
    SweepRequest: Reads.sweep,
}
READ = frozenset(_READS)
"""The types of requests that are answered here."""
