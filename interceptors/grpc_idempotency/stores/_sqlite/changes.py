"""Writes the less frequent kinds of requests, all requests of a kind at once.

The two kinds that every call makes, claims and completions, are in group.py, beside the transaction.
"""

from collections.abc import Sequence
from typing import Any

from grpc_idempotency.records import Renewal, State
from grpc_idempotency.stores._calls.requests import (
    FencedRequest,
    ForgetRequest,
    HoldRequest,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    ResolveRequest,
    StepRequest,
    UnclaimedRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._sqlite import rows
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.sql import MOST_ROWS, Sql, padded
from grpc_idempotency.stores._sqlite.tables import Tables


class Changes:
    """The writes of one transaction. A method that raises has answered none of its requests."""

    _db: GuardedConnection
    _tables: Tables
    _sql: Sql
    now: int
    """The store's time, in milliseconds."""
    wall: int
    """The time of the wall clock, in milliseconds since 1970."""

    def complete_unclaimed(self, requests: Sequence[UnclaimedRequest]) -> None:
        methods, now, wall = self._tables.methods, self.now, self.wall
        parameters = [
            rows.completed_row(one.claim, methods[one.claim.method], one.outcome, one.ttl, now, wall)
            for one in requests
        ]
        statement = self._sql.inserting("complete_unclaimed", parameters, self.now)
        if self._db.execute(*statement).rowcount == len(requests):
            at = rows.instant(self.wall)
            for one in requests:
                one.value = at
            return
        found = self._read([one.claim.name for one in requests])
        for one in requests:
            standing = found[one.claim.name]
            own = standing.fence == one.claim.fence and standing.outcome == one.outcome
            one.value = standing.completed_at if own else standing

    def release(self, requests: Sequence[ReleaseRequest]) -> None:
        standing = self._standing([one.name for one in requests])
        for one in requests:
            # Removed here, so that a second release of the same record in this group does not find it.
            fence, state = standing.get(one.name, (None, None))
            one.value = fence == one.fence and state in rows.OWNED and standing.pop(one.name) is not None
        self._many("release", [(one.name, one.fence) for one in requests])

    def record_steps(self, requests: Sequence[StepRequest]) -> None:
        kept = self._many("record_step", [rows.step_row(one.name, one.fence, one.step, self.wall) for one in requests])
        if len(requests) == 1 or kept == len(requests):
            for one in requests:
                one.value = kept > 0
            return
        # The table does not show which of them were refused: a step of the same name may have been there before.
        self._db.execute(self._sql["drop_steps"], (kept,))
        for one in requests:
            self.record_steps([one])

    def renew(self, requests: Sequence[RenewRequest]) -> None:
        parameters = [rows.lease_row(one.name, one.fence, one.lease, self.now) for one in requests]
        renewed = self._many("renew", parameters)
        standing = {} if renewed == len(requests) else self._standing([one.name for one in requests])
        for one in requests:
            fence, state = standing.get(one.name, (None, None))
            own = renewed == len(requests) or (fence == one.fence and state in rows.LEASED)
            one.value = Renewal.RENEWED if own else Renewal.LOST

    def change(self, requests: Sequence[FencedRequest[bool]]) -> None:
        (one,) = requests
        one.value = self._is_changed(one)
        if isinstance(one, UndoRequest) and not one.value:
            one.value = self._is_undone_for(one)

    def decide(self, requests: Sequence[ResolveRequest | ForgetRequest]) -> None:
        """Writes what an operator decided together with its note: under a savepoint, since either may fail."""
        (one,) = requests
        self._db.execute("SAVEPOINT grpc_idempotency_note")
        try:
            one.value = self._is_changed(one)
            if one.value and one.note is not None:
                self._db.execute(self._sql["add_note"], rows.note_row(one.name, one.note, self.now, self.wall))
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO grpc_idempotency_note")
                self._db.execute("RELEASE grpc_idempotency_note")
            raise
        self._db.execute("RELEASE grpc_idempotency_note")

    def _is_changed(self, one: FencedRequest[bool]) -> bool:
        statement, parameters = self._statement(one)
        return self._db.execute(self._sql[statement], (*parameters, one.name, one.fence)).rowcount == 1

    def _is_undone_for(self, one: UndoRequest) -> bool:
        """Returns ``True`` if an earlier call, whose answer was lost, has stored this failure."""
        record = self._read([one.name]).get(one.name)
        return record is not None and (record.state, record.fence, record.failure) == (
            State.UNDOING,
            one.fence,
            one.failure,
        )

    def _statement(self, one: FencedRequest[bool]) -> tuple[str, tuple[Any, ...]]:
        """Returns the statement for one of the less frequent kinds, and its parameters before name and fence."""
        if isinstance(one, WaitRequest):
            delay = rows.milliseconds(one.delay) if one.delay else 0
            return "wait", (delay, self.now + delay, one.failed_runs, one.failed_undos)
        if isinstance(one, UndoRequest):
            return "undo", rows.failure_row(one.failure)
        if isinstance(one, HoldRequest):
            return "hold_lapsed" if one.lapsed_only else "hold", (one.reason, *([self.now] * one.lapsed_only))
        if isinstance(one, ReleaseLapsedRequest):
            return "release_lapsed", (self.now,)
        if isinstance(one, ResolveRequest) and one.outcome is not None:
            return "resolve", rows.outcome_row(one.name, one.fence, one.outcome, one.ttl, self.now, self.wall)[2:]
        if isinstance(one, ForgetRequest):
            return "forget", (self.now, self.now)
        return "resolve_absent", ()

    def _many(self, name: str, parameters: list[rows.Row]) -> int:
        """Runs a statement of many rows, and returns how many rows it changed."""
        columns = len(parameters[0])
        size = padded(len(parameters))
        values = rows.flat(parameters) + [None] * (columns * (size - len(parameters)))
        return self._db.execute(self._sql.sized[name, columns, size], values).rowcount

    def _standing(self, names: Sequence[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """Returns fence and state by name."""
        found: dict[bytes, tuple[bytes, int]] = {}
        for at in range(0, len(names), MOST_ROWS):
            sql, parameters = self._sql.by_names("standing", names[at : at + MOST_ROWS])
            found |= {row[0]: row[1:3] for row in self._db.execute(sql, [*parameters, self.now]).fetchall()}
        return found

    def _read(self, names: Sequence[bytes]) -> dict[bytes, Any]:
        found = self._db.execute(*self._sql.by_names("read", names)).fetchall()
        return {row[0]: rows.record(row, self.now) for row in found}
