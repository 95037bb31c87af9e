"""One group: all that waits, in one transaction, in as few calls of SQLite as can be.

Each call into SQLite lets go of the GIL, and getting it back from a busy event loop can take 5 ms. So requests are
sorted by kind, all claims are one statement, all completions another, and the count of changed rows tells whether every
one took effect; only where not, one more statement tells which. Any order is right, since none of the callers has had
an answer yet.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import State
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    FencedRequest,
    HoldRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StepRequest,
    TransactionRequest,
    UnclaimedRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._sqlite import room, rows
from grpc_idempotency.stores._sqlite.faults import Fault, fault_of, translated
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.landing import landed, owner
from grpc_idempotency.stores._sqlite.sql import MOST_ROWS, padded
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.transactions import Transactions
from grpc_idempotency.stores._sqlite.turns import begin

BUDGET = 0.05
"""Seconds after which a group takes up nothing more (5.1)."""
MOST_BYTES = 1 << 20
"""How much payload one statement takes, about."""

AnyRequest = Request[Any]
R = TypeVar("R", bound=AnyRequest)


class RolledBack(Exception):
    """SQLite has rolled back the whole transaction; the cause is the reason."""


class Group:
    """The writing requests of one turn.

    A request that fails fails alone. Mostly its savepoint, or SQLite's own for each statement, sees to that. But some
    errors take the whole transaction along, and a deferred constraint speaks up at the commit: then those at fault are
    told, or, where several may be, each is run in a group of its own, and all others are run again without them.
    """

    def __init__(self, db: GuardedConnection, tables: Tables, requests: Sequence[AnyRequest]) -> None:
        self._db = db
        self._tables = tables
        self._sql = tables.sql
        self._requests = requests
        self._done: list[AnyRequest] = []
        self._at_work: Sequence[AnyRequest] = ()
        """Those that what is being done is done for: an error now is theirs."""
        self._transactions = Transactions(db, tables)
        self.now = 0
        self.wall = 0

    def run(self) -> list[AnyRequest]:
        """Answers the requests, each with a value or an error; returns those that there was no time for."""
        try:
            begin(self._db, self._tables.patience, self._tables.path)
        except (sqlite3.Error, StoreUnavailable) as error:
            self._fail(self._requests, error)
            return []
        self.now, self.wall = self._tables.clock.now(), self._tables.clock.wall_ms()
        try:
            left = self._take_steps()
            self._at_work = self._transactions.kept
            self._transactions.store_outcomes(self.now)
            self._at_work = ()
            self._beat()
            self._at_work = self._transactions.kept
            self._commit()
        except Exception as error:
            self._roll_back()
            return self._run_apart(error.__cause__ if isinstance(error, RolledBack) else error)
        return left

    # -- the transaction

    def _take_steps(self) -> list[AnyRequest]:
        deadline = time.monotonic() + BUDGET
        for step, requests in self._steps():
            if self._done and time.monotonic() > deadline:
                break
            self._done += requests
            self._at_work = requests
            step(requests)
            self._at_work = ()
        return self._without(self._done)

    def _run_apart(self, error: BaseException | None) -> list[AnyRequest]:
        """The transaction was rolled back: fails those at fault, and runs again what was done beside them."""
        done, at_fault = self._done or self._requests, self._at_work
        assert error is not None
        if not at_fault or fault_of(error) not in (None, Fault.FULL):
            self._fail(done, error)  # the database's failure is everybody's
            return self._without(done)
        left = self._without(done)
        alone = [[one] for one in at_fault if one.error is None]
        if len(at_fault) == 1 or len(done) == 1:
            self._fail(at_fault, error)
            alone = []
        else:
            room.remember(self._tables, error, max(map(_weight, at_fault)))
        ids = set(map(id, at_fault))
        others = [one for one in done if one.error is None and id(one) not in ids]
        for requests in [others, *alone]:
            if requests:
                left = Group(self._db, self._tables, requests).run() + left
        return left

    def _without(self, done: Sequence[AnyRequest]) -> list[AnyRequest]:
        """The requests that are still to be done."""
        if len(done) == len(self._requests):
            return []
        ids = set(map(id, done))
        return [request for request in self._requests if id(request) not in ids]

    def _beat(self) -> None:
        if not self._db.in_transaction or not self._tables.turns.due(self.now):
            return
        try:
            self._tables.beat(self._db, self.now)
        except sqlite3.Error as error:
            if not self._db.in_transaction:
                raise RolledBack from error  # else a full disk must not keep others from what still fits

    def _steps(self) -> Iterator[tuple[Callable[[Any], None], Sequence[AnyRequest]]]:
        kinds: dict[type[AnyRequest], list[Any]] = {}
        for request in self._requests:
            kinds.setdefault(type(request), []).append(request)
        # First, since a lease does not wait for what there may be no time for in this group.
        for chunk in _chunks(kinds.pop(RenewRequest, ())):
            yield self._renewals, chunk
        claims = kinds.pop(ClaimRequest, ())
        has_room = not claims or room.is_there(self._db, self._tables)
        for chunk in _chunks(claims, weigh=_weight):
            yield (self._claims if has_room else self._refuse), chunk
        for chunk in _chunks(kinds.pop(CompleteRequest, ()), weigh=_weight):
            yield self._completions, chunk
        for chunk in _chunks(kinds.pop(UnclaimedRequest, ()), weigh=_weight):
            yield self._unclaimed, chunk
        for chunk in _chunks(kinds.pop(ReleaseRequest, ())):
            yield self._releases, chunk
        for chunk in _chunks(kinds.pop(StepRequest, ()), weigh=_weight):
            yield self._finished, chunk
        transactions = kinds.pop(TransactionRequest, ())
        for others in kinds.values():
            for other in others:
                yield self._other, [other]
        self._transactions.lone = len(transactions) == len(self._requests) == 1
        for group in _chunks(transactions):
            self._transactions.expect(group, self.now)
            for transaction in group:
                if not self._transactions.must_wait(transaction):
                    yield self._transact, [transaction]

    def _commit(self) -> None:
        if not self._db.in_transaction:
            return  # a lone transaction that has been rolled back
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if fault_of(error) is None:  # a deferred constraint of the embedder's
                if len(self._at_work) == 1:
                    self._at_work[0].error = error
                raise
            self._roll_back()
            self._look_up(error)

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _fail(self, requests: Sequence[AnyRequest], error: BaseException) -> None:
        room.remember(self._tables, error, max(map(_weight, requests), default=0))
        for request in requests:
            if request.error is None:
                request.error = translated(error, self._tables.path) if isinstance(error, Exception) else error

    def _look_up(self, error: sqlite3.Error) -> None:
        """The commit failed: what took effect all the same is answered as such (5.1)."""
        asked = [request for request in self._done if request.error is None]
        try:
            standing = self._standing([owner(request)[0] for request in asked])
            lost = [one for one in asked if not landed(self._db, self._sql, one, standing.get(owner(one)[0]))]
        except Exception:  # no name that is odd enough for that can have been written
            lost = asked
        self._fail(lost, error)

    # -- kinds of requests

    def _refuse(self, requests: Sequence[ClaimRequest]) -> None:
        self._fail(requests, StoreUnavailable(f"{self._tables.path} has no room left: the disk is full"))

    def _claims(self, requests: Sequence[ClaimRequest]) -> None:
        for one in requests:
            if one.over is not None:
                self._together([one], self._take_over)
        plain = [one for one in requests if not one.taken_over and one.error is None]
        if plain:
            self._together(plain, self._claim)

    def _claim(self, requests: Sequence[ClaimRequest]) -> None:
        parameters = [rows.claim_row(one.claim, self.now, self.wall) for one in requests]
        if self._db.execute(*self._sql.inserting("claim", parameters, self.now)).rowcount == len(requests):
            for one in requests:
                one.value = None
            return
        found = self._read([one.claim.name for one in requests])
        for one in requests:
            standing = found[one.claim.name]
            one.value = None if standing.fence == one.claim.fence else standing

    def _take_over(self, requests: Sequence[ClaimRequest]) -> None:
        for one in requests:
            row = rows.claim_row(one.claim, self.now, self.wall)
            parameters = (*row[1:7], *row[8:11], one.claim.name, one.over, self.now)
            one.value = None
            one.taken_over = self._db.execute(self._sql["take_over"], parameters).rowcount == 1

    def _completions(self, requests: Sequence[CompleteRequest]) -> None:
        self._together(requests, self._complete)

    def _complete(self, requests: Sequence[CompleteRequest]) -> None:
        parameters = [rows.outcome_row(r.name, r.fence, r.outcome, r.ttl, self.now, self.wall) for r in requests]
        if self._many("complete", parameters) == len(requests):
            at = rows.instant(self.wall)
            for one in requests:
                one.value = at
            return
        standing = self._standing([one.name for one in requests])
        for one in requests:
            one.value = self._kept_at(one) if standing.get(one.name) == (one.fence, rows.COMPLETED) else None

    def _kept_at(self, one: CompleteRequest) -> datetime | None:
        record = self._read([one.name]).get(one.name)
        return None if record is None or record.outcome != one.outcome else record.completed_at

    def _unclaimed(self, requests: Sequence[UnclaimedRequest]) -> None:
        self._together(requests, self._complete_unclaimed)

    def _complete_unclaimed(self, requests: Sequence[UnclaimedRequest]) -> None:
        parameters = [rows.completed_row(r.claim, r.outcome, r.ttl, self.now, self.wall) for r in requests]
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

    def _releases(self, requests: Sequence[ReleaseRequest]) -> None:
        self._together(requests, self._release)

    def _release(self, requests: Sequence[ReleaseRequest]) -> None:
        standing = self._standing([one.name for one in requests])
        for one in requests:
            # Taken out, so that a second release of the same record in this group finds it gone.
            fence, state = standing.get(one.name, (None, None))
            one.value = fence == one.fence and state in rows.OWNED and standing.pop(one.name) is not None
        self._many("release", [(one.name, one.fence) for one in requests])

    def _finished(self, requests: Sequence[StepRequest]) -> None:
        self._together(requests, self._record_steps)

    def _record_steps(self, requests: Sequence[StepRequest]) -> None:
        kept = self._many("record_step", [rows.step_row(one.name, one.fence, one.step, self.wall) for one in requests])
        if len(requests) == 1 or kept == len(requests):
            for one in requests:
                one.value = kept > 0
            return
        # Which of them were refused can't be read off the table: one of the same name may have been there before.
        self._db.execute(self._sql["drop_steps"], (kept,))
        for one in requests:
            self._record_steps([one])

    def _renewals(self, requests: Sequence[RenewRequest]) -> None:
        self._together(requests, self._renew)

    def _renew(self, requests: Sequence[RenewRequest]) -> None:
        parameters = [rows.lease_row(one.name, one.fence, one.lease, self.now) for one in requests]
        renewed = self._many("renew", parameters)
        standing = {} if renewed == len(requests) else self._standing([one.name for one in requests])
        for one in requests:
            fence, state = standing.get(one.name, (None, None))
            one.value = renewed == len(requests) or (fence == one.fence and state in rows.LEASED)

    def _other(self, requests: Sequence[FencedRequest[bool]]) -> None:
        self._together(requests, self._one)

    def _one(self, requests: Sequence[FencedRequest[bool]]) -> None:
        for one in requests:
            statement, parameters = self._statement(one)
            one.value = self._db.execute(self._sql[statement], (*parameters, one.name, one.fence)).rowcount == 1
            if isinstance(one, UndoRequest) and not one.value:
                one.value = self._is_undone_for(one)

    def _is_undone_for(self, one: UndoRequest) -> bool:
        """Whether an earlier call, whose answer was lost, has kept this failure."""
        record = self._read([one.name]).get(one.name)
        return record is not None and (record.state, record.fence, record.failure) == (
            State.UNDOING,
            one.fence,
            one.failure,
        )

    def _statement(self, one: FencedRequest[bool]) -> tuple[str, tuple[Any, ...]]:
        """The statement for one of the rarer kinds, and its parameters before name and fence."""
        if isinstance(one, WaitRequest):
            delay = rows.milliseconds(one.delay) if one.delay else 0
            return "wait", (delay, self.now + delay, one.tries, one.undo_tries)
        if isinstance(one, UndoRequest):
            return "undo", rows.failure_row(one.failure)
        if isinstance(one, HoldRequest):
            return "hold_lapsed" if one.lapsed_only else "hold", (one.reason, *([self.now] * one.lapsed_only))
        if isinstance(one, ResolveRequest) and one.outcome is not None:
            return "resolve", rows.outcome_row(one.name, one.fence, one.outcome, one.ttl, self.now, self.wall)[2:]
        return "forget_held", ()

    def _transact(self, requests: Sequence[TransactionRequest]) -> None:
        self._transactions.run(requests[0], self.now, self.wall)
        if not self._db.in_transaction and not self._transactions.lone:
            raise RolledBack from self._transactions.lost_by or requests[0].error

    # -- statements

    def _together(self, requests: Sequence[R], write: Callable[[Sequence[R]], None]) -> None:
        """Writes all at once; where that fails, each by itself, so that only the one at fault bears it."""
        try:
            write(requests)
            return
        except Exception as error:
            if not self._db.in_transaction:
                self._at_work = requests
                raise RolledBack from error
            if len(requests) == 1:
                self._fail(requests, error)
                return
        for one in requests:
            self._together([one], write)

    def _many(self, name: str, parameters: list[rows.Row]) -> int:
        """Runs a statement of many rows; how many it changed."""
        columns = len(parameters[0])
        size = padded(len(parameters))
        values = rows.flat(parameters) + [None] * (columns * (size - len(parameters)))
        return self._db.execute(self._sql.sized(name, columns, size), values).rowcount

    def _standing(self, names: Sequence[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """Fence and state by name."""
        found: dict[bytes, tuple[bytes, int]] = {}
        for chunk in _chunks(names):
            sql, parameters = self._sql.by_names("standing", chunk)
            found |= {row[0]: row[1:] for row in self._db.execute(sql, [*parameters, self.now]).fetchall()}
        return found

    def _read(self, names: Sequence[bytes]) -> dict[bytes, Any]:
        found = self._db.execute(*self._sql.by_names("read", names)).fetchall()
        return {row[0]: rows.record(row, self.now) for row in found}


T = TypeVar("T")


def _chunks(items: Sequence[T], *, weigh: Callable[[T], int] | None = None) -> Iterator[Sequence[T]]:
    """The items in parts that one statement can take."""
    if weigh is None:
        yield from (items[at : at + MOST_ROWS] for at in range(0, len(items), MOST_ROWS))
        return
    part: list[T] = []
    weight = 0
    for item in items:
        if part and (len(part) == MOST_ROWS or weight > MOST_BYTES):
            yield part
            part, weight = [], 0
        part.append(item)
        weight += weigh(item)
    if part:
        yield part


def _weight(request: AnyRequest) -> int:
    """The size of what a request stores, about; of what can't be stored, whatever it is, nothing."""
    try:
        return _size(request)
    except TypeError:
        return 0


def _size(request: AnyRequest) -> int:
    outcome = step = stored = None
    if isinstance(request, ClaimRequest):
        stored = request.claim.request
    elif isinstance(request, CompleteRequest | UnclaimedRequest | ResolveRequest):
        outcome = request.outcome
    elif isinstance(request, StepRequest):
        step = request.step
    elif isinstance(request, TransactionRequest):
        outcome, step = request.committed, request.step
    weight = len((outcome and outcome.message) or b"") + len(step.result if step else b"")
    return 512 + weight + (sum(map(len, stored.messages)) if stored else 0)
