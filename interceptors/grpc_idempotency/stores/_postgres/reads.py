"""Requests that only read, and the sweep. They run on connections of their own, so that no write waits for them."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import psycopg

from grpc_idempotency.records import Standing, State, Swept
from grpc_idempotency.stores._calls.requests import (
    GetRequest,
    ListRequest,
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
_BEGINNING = datetime(1, 1, 1, tzinfo=timezone.utc)


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
        created_at, name = request.after or (_BEGINNING, b"")
        most = min(request.limit, _READ_AT_ONCE)
        state = None if request.state is None else rows.STATES.index(request.state)
        found = self._execute(
            db,
            "list" if request.state in (None, State.COMPLETED) else "list_open",
            created_at=created_at,
            name=name,
            state=state,
            method=request.method,
            limit=most,
        ).fetchall()
        records = list(map(rows.record, found))
        return records, (records[-1].created_at, records[-1].name) if len(records) == most else None

    def sweep(self, db: Connection, request: SweepRequest) -> Any:
        """Deletes one batch, unless another sweep is under way."""
        row = self._execute(db, "sweep", limit=request.limit).fetchone()
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


_READS: dict[type[Request[Any]], Callable[[Reads, Connection, Any], Any]] = {
    GetRequest: Reads.get,
    StandingRequest: Reads.standing,
    StepsRequest: Reads.steps,
    PendingRequest: Reads.pending,
    ListRequest: Reads.list,
    SweepRequest: Reads.sweep,
}
READ = frozenset(_READS)
"""The types of requests that are answered here."""
