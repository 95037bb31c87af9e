"""One group: all requests that wait, in one transaction, with as few SQLite calls as possible.

Each call into SQLite releases the GIL, and getting it back from a busy event loop can take 5 ms. So requests are sorted
by kind: all claims are one statement, all completions another, and the number of changed rows tells whether every one
took effect. Only if not, one more statement finds out which ones did. Any order is correct, because none of the callers
has had an answer yet.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Record
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    ForgetRequest,
    HoldRequest,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StepRequest,
    SweepRequest,
    TransactionRequest,
    UnclaimedRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._sqlite import reads, room, rows
from grpc_idempotency.stores._sqlite.changes import Changes
from grpc_idempotency.stores._sqlite.faults import Fault, fault_of, translated
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.landed import landed, owner
from grpc_idempotency.stores._sqlite.sql import MOST_ROWS, PADDED
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.transactions import Transactions
from grpc_idempotency.stores._sqlite.turns import BEAT, begin

_log = logging.getLogger("grpc_idempotency.stores.sqlite")
BUDGET = 0.05
"""Seconds after which a group starts no further work (5.1)."""
MOST_BYTES = 1 << 20
"""The approximate number of payload bytes that one statement takes at most."""

MOST_ROOM = 1024
"""The maximum number of bytes that a claim reserves in its row for the outcome's message."""

AnyRequest = Request[Any]


class RolledBack(Exception):
    """SQLite has rolled back the whole transaction. The cause is the reason."""


class Group(Changes):
    """The requests of one turn.

    A request that fails does not make others fail. In most cases its savepoint ensures this, or the one that SQLite
    makes for each statement. But some errors roll back the whole transaction, and a deferred constraint fails only at
    the commit. Then the requests at fault get the error or, if several may be at fault, each is run in a group of its
    own. All others are run again without them.
    """

    def __init__(self, db: GuardedConnection, tables: Tables, requests: Sequence[AnyRequest]) -> None:
        self._db = db
        self._tables = tables
        self._sql = tables.sql
        self.now = self.wall = 0
        self._kinds: dict[type[AnyRequest], list[Any]] = {}
        for request in requests:
            kind = type(request)
            if kind in self._kinds:
                self._kinds[kind].append(request)
            else:
                self._kinds[kind] = [request]
        self._done: list[AnyRequest] = []
        self._at_work: Sequence[AnyRequest] = ()
        """The requests that the current work is for: an error that occurs now is theirs."""
        self._transactions: Transactions | None = None

    def run(self) -> list[AnyRequest]:
        """Answers the requests, each with a value or an error.

        Returns:
            The requests that there was no time for, and the flushes.
        """
        kinds, turns = self._kinds, self._tables.turns
        sweeps: list[SweepRequest] = []
        flushes: list[AnyRequest] = []
        if not kinds.keys() <= _WRITTEN:
            sweeps, flushes = reads.answer(self._db, self._tables, kinds)
        self._tell_time()
        if ClaimRequest in kinds:
            self._look()
        left: list[AnyRequest] = []
        new: list[tuple[AnyRequest, Claim]] = []
        methods = self._tables.methods
        for one in chain(
            kinds.get(ClaimRequest, ()), kinds.get(UnclaimedRequest, ()), kinds.get(TransactionRequest, ())
        ):
            asked = one.operation if type(one) is TransactionRequest else one
            claim = asked and asked.claim
            # What is not text may have no hash. It fails when it shall get a number.
            if claim and (type(claim.method) is not str or claim.method not in methods):
                new.append((one, claim))
        if kinds:
            if turns.shared:
                turns.wait()
                self._tell_time()
            if new:
                self._number_methods(new)
            left = self.write() if self._kinds else []
            if turns.shared:
                turns.ended()
            if self.now >= turns.look_at:
                self._look_around()
        for sweep in sweeps:
            reads.each(sweep, reads.sweep, self._db, self._tables)
        return [*left, *flushes] if left else left  # a flush is answered after all requests before it

    def _tell_time(self) -> None:
        clock = self._tables.clock
        self.now = (clock.offset_ns + clock.uptime_ns()) // 1_000_000
        self.wall = clock.wall_ns() // 1_000_000

    def _look(self) -> None:
        """Answers the claims that meet a record, so that a replay begins no transaction.

        A claim that asks for a take-over is left to the transaction. If the look-up fails, all claims are left to it:
        the transaction finds out which one is at fault.
        """
        claims: list[ClaimRequest] = self._kinds[ClaimRequest]
        found: dict[bytes, Record] = {}
        try:
            for at in range(0, len(claims), MOST_ROWS):
                names: list[bytes | int | None] = []
                for one in claims[at : at + MOST_ROWS]:
                    names.append(one.claim.name)
                size = PADDED[len(names)]
                names += [None] * (size - len(names))
                names.append(self.now)
                # Few columns: most claims are of new operations, and sqlite3 takes 9 µs to describe 23 columns.
                standing = self._db.execute(self._sql.sized["standing", 0, size], names).fetchall()
                if standing:
                    found |= self._read([row[0] for row in standing])
        except Exception:
            _log.debug("claims on %s could not be looked for", self._tables.path, exc_info=True)
            return
        if found:
            self._answer_replays(claims, found)

    def _answer_replays(self, claims: list[ClaimRequest], found: dict[bytes, Record]) -> None:
        others: list[ClaimRequest] = []
        for one in claims:
            standing = found.get(one.claim.name)
            if standing is None or one.over is not None:
                others.append(one)
            else:
                one.value = one.met(standing)
        if others:
            self._kinds[ClaimRequest] = others
        else:
            del self._kinds[ClaimRequest]

    def _look_around(self) -> None:
        try:
            self._tables.turns.look(self._db, self.now)
        except sqlite3.Error as error:
            _log.warning("could not look for other processes on %s: %s", self._tables.path, error)

    # -- the methods

    def _number_methods(self, new: Sequence[tuple[AnyRequest, Claim]]) -> None:
        """Gives numbers to the methods of new records that have none. A request whose method can't get one fails."""
        kinds, tables = self._kinds, self._tables
        for one, claim in new:
            try:
                tables.methods.add(self._db, claim.method, tables.patience, tables.path)
            except StoreUnavailable as error:  # the lock was not to be had for long, so nothing else can be written
                self._fail(self._all(), error)
                kinds.clear()
                return
            except Exception as error:
                self._fail([one], error)
                if isinstance(one.error, StoreUnavailable):
                    one.error.landed = False
                kinds[type(one)].remove(one)
        self._kinds = {kind: requests for kind, requests in kinds.items() if requests}
        self._tell_time()

    # -- the transaction

    def write(self) -> list[AnyRequest]:
        """Performs the writes in one transaction, and returns the requests that there was no time for."""
        db, tables = self._db, self._tables
        try:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # most likely another process holds the lock
                begin(db, tables.patience, tables.path)
                self._tell_time()
        except (sqlite3.Error, StoreUnavailable) as error:
            self._fail(self._all(), error)
            return []
        deadline = time.monotonic() + BUDGET
        left: list[AnyRequest] = []
        try:
            for kind, write in _WRITES.items():
                requests = self._kinds.get(kind)
                if requests is None:
                    continue
                if kind is ClaimRequest and tables.unwritten and not room.is_there(db, tables):
                    write = Group.refuse
                for part in [requests] if len(requests) == 1 else _split(requests):
                    if self._done and time.monotonic() > deadline:
                        left += part
                        continue
                    self._done += part
                    self._at_work = part
                    try:
                        write(self, part)
                    except Exception as error:
                        self._write_apart(write, part, error)
                    self._at_work = ()
            if TransactionRequest in self._kinds:
                left += self._transact(self._kinds[TransactionRequest], deadline)
            if not 0 <= self.now - tables.turns.beat_at < BEAT and db.in_transaction:
                self._beat()
            self._at_work = () if self._transactions is None else self._transactions.kept
            if db.in_transaction:  # a lone transaction may have been rolled back
                try:
                    db.execute("COMMIT")
                except sqlite3.Error as error:
                    self._commit_failed(error)
        except Exception as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            return self._run_apart(error.__cause__ if isinstance(error, RolledBack) else error)
        return left

    def _transact(self, requests: list[TransactionRequest], deadline: float) -> list[AnyRequest]:
        """Runs transactions, and returns those that are left for the next group."""
        left: list[AnyRequest] = []
        self._transactions = transactions = Transactions(self._db, self._tables)
        transactions.lone = len(requests) == len(self._kinds) == 1
        for at in range(0, len(requests), MOST_ROWS):
            part = requests[at : at + MOST_ROWS]
            if self._done and time.monotonic() > deadline:
                left += part
                continue
            transactions.expect(part, self.now)
            for one in part:
                if (self._done and time.monotonic() > deadline) or transactions.must_wait(one):
                    left.append(one)
                    continue
                self._done.append(one)
                self._at_work = [one]
                transactions.run(one, self.now, self.wall)
                if not self._db.in_transaction and not transactions.lone:
                    raise RolledBack from transactions.lost_by or one.error
                self._at_work = ()
        self._at_work = transactions.kept
        transactions.store_outcomes(self.now)
        self._at_work = ()
        return left

    def _write_apart(self, write: "Write", requests: list[Any], error: Exception) -> None:
        """Writes each request of a failed statement by itself, so that only the one at fault gets the error."""
        if not self._db.in_transaction:
            raise RolledBack from error
        if len(requests) == 1:
            self._fail(requests, error)
            return
        for one in requests:
            self._at_work = [one]
            try:
                write(self, [one])
            except Exception as its:
                self._write_apart(write, [one], its)

    def _commit_failed(self, error: sqlite3.Error) -> None:
        if fault_of(error) is None:  # a deferred constraint of the embedder's tables failed
            if len(self._at_work) == 1:
                self._at_work[0].error = error
            raise error
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._look_up(error)

    def _beat(self) -> None:
        try:
            self._tables.beat(self._db, self.now)
        except sqlite3.Error as error:
            if not self._db.in_transaction:
                raise RolledBack from error  # otherwise go on: on a full disk, other writes may still fit

    def _all(self) -> list[AnyRequest]:
        return [one for requests in self._kinds.values() for one in requests]

    def _run_apart(self, error: BaseException | None) -> list[AnyRequest]:
        """Fails the requests at fault after a rollback, and runs the others of the group again."""
        done, at_fault = self._done or self._all(), self._at_work
        ids = set(map(id, done))
        left = [one for one in self._all() if id(one) not in ids]
        assert error is not None
        if not at_fault or fault_of(error) not in (None, Fault.FULL):
            self._fail(done, error)  # a failure of the database concerns all requests
            return left
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
                group = Group(self._db, self._tables, requests)
                group.now, group.wall = self.now, self.wall
                left = group.write() + left
        return left

    def _fail(self, requests: Sequence[AnyRequest], error: BaseException) -> None:
        room.remember(self._tables, error, max(map(_weight, requests), default=0))
        for request in requests:
            if request.error is None:
                request.error = translated(error, self._tables.path) if isinstance(error, Exception) else error

    def _look_up(self, error: sqlite3.Error) -> None:
        """Looks up which writes took effect although the commit failed, and fails the others (5.1)."""
        asked = [request for request in self._done if request.error is None]
        try:
            standing = self._standing([owner(request)[0] for request in asked])
            lost = [one for one in asked if not landed(self._db, self._sql, one, standing.get(owner(one)[0]))]
        except Exception:  # a name that makes the look-up fail can't have been written
            lost = asked
        self._fail(lost, error)

    # -- the kinds that every call makes

    def refuse(self, requests: Sequence[ClaimRequest]) -> None:
        self._fail(requests, StoreUnavailable(f"{self._tables.path} has no room left: the disk is full"))

    def claim(self, requests: Sequence[ClaimRequest]) -> None:
        if requests[0].over is not None and self._take_over(requests[0]):
            return
        size = PADDED[len(requests)]
        methods, room_for = self._tables.methods, self._tables.message_size
        row: rows.Row = ()
        values: list[Any] = []
        for one in requests:
            claim = one.claim
            row = rows.claim_row(claim, methods[claim.method], self.now, self.wall, room_for)
            values += row
            one.value = None
        # Copies of the last row fill the statement up. They conflict with it, so they change nothing, are not
        # counted, and need no payload.
        values += (*row[:-1], None) * (size - len(requests))
        values.append(self.now)
        if self._db.execute(self._sql.sized["claim", rows.CLAIM_COLUMNS, size], values).rowcount == len(requests):
            return
        found = self._read([one.claim.name for one in requests])
        for one in requests:
            one.value = one.met(found[one.claim.name])

    def _take_over(self, one: ClaimRequest) -> bool:
        row = rows.claim_row(one.claim, self._tables.methods[one.claim.method], self.now, self.wall, 0)
        parameters = (*row[1:7], *row[8:12], one.claim.name, one.over, self.now)
        one.value = None
        return self._db.execute(self._sql["take_over"], parameters).rowcount == 1

    def complete(self, requests: Sequence[CompleteRequest]) -> None:
        size = PADDED[len(requests)]
        values: list[Any] = []
        least = MOST_ROOM
        for one in requests:
            row = rows.outcome_row(one.name, one.fence, one.outcome, one.ttl, self.now, self.wall)
            values += row
            least = min(least, len(row[-1] or b""))
        # The size falls at once and rises slowly: room that an outcome does not need is wasted.
        usual = self._tables.message_size
        self._tables.message_size = min(least, usual + (least - usual + 7) // 8)
        values += [None] * (rows.OUTCOME_COLUMNS * (size - len(requests)))
        if self._db.execute(self._sql.sized["complete", rows.OUTCOME_COLUMNS, size], values).rowcount == len(requests):
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


Write = Callable[[Group, Any], None]
_WRITES: dict[type[AnyRequest], Write] = {
    RenewRequest: Group.renew,  # first, so that a lease is not left for the next group when this one runs out of time
    ClaimRequest: Group.claim,
    CompleteRequest: Group.complete,
    UnclaimedRequest: Group.complete_unclaimed,
    ReleaseRequest: Group.release,
    StepRequest: Group.record_steps,
    HoldRequest: Group.change,
    ReleaseLapsedRequest: Group.change,
    WaitRequest: Group.change,
    UndoRequest: Group.change,
    ResolveRequest: Group.decide,
    ForgetRequest: Group.decide,
}
"""The method that writes each kind of request, in the order in which a group runs them."""
_ONE_BY_ONE = frozenset(kind for kind, write in _WRITES.items() if write in (Group.change, Group.decide))
"""The kinds of which a write takes one request. Of several, one that fails would leave those before it written."""
_WRITTEN = frozenset([*_WRITES, TransactionRequest])
"""The kinds that need the write lock."""


def _split(requests: list[Any]) -> list[list[Any]]:
    """Splits requests of one kind into parts that fit into one statement. Each take-over is a part of its own."""
    if type(requests[0]) in _ONE_BY_ONE:
        return [[one] for one in requests]
    parts: list[list[Any]] = []
    part: list[Any] = []
    weight = 0
    for one in requests:
        if type(one) is ClaimRequest and one.over is not None:
            parts.insert(0, [one])
            continue
        if part and (len(part) == MOST_ROWS or weight > MOST_BYTES):
            parts.append(part)
            part, weight = [], 0
        part.append(one)
        weight += _weight(one)
    return [*parts, part] if part else parts


def _weight(request: AnyRequest) -> int:
    """Returns the approximate size of what a request stores; 0 if it has values that can't be stored."""
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
