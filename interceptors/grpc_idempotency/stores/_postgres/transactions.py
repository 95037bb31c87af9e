"""``store.transaction`` and ``store.read`` (5.1): what is sent, in which order, and what each answer means.

A plan is a generator. It yields what it wants of a connection. ``running.py`` runs it on connections of both kinds.
"""

import inspect
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg

from grpc_idempotency.errors import FenceRefused, StoreError, TransactionMisuse
from grpc_idempotency.records import Code
from grpc_idempotency.stores._calls.requests import TransactionRequest
from grpc_idempotency.stores._postgres import faults, rows
from grpc_idempotency.stores._postgres.guard import Guard
from grpc_idempotency.transactions import RunningOperation

T = TypeVar("T")


@dataclass(slots=True)
class Send:
    """Sends one statement, and gives its rows."""

    statement: str
    """Its name in ``queries.sql``."""
    parameters: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Begin:
    """Begins a transaction, and makes its settings where the session has none."""

    statement: str


@dataclass(slots=True)
class Call:
    """Calls the function with a view of the database, and gives whether its rows may stay."""

    guard: Guard


@dataclass(slots=True)
class Commit:
    """Commits the transaction."""


@dataclass(slots=True)
class Rollback:
    """Rolls the transaction back, unless the connection is lost."""


@dataclass(slots=True)
class LookAgain:
    """Sends a statement on another connection: this one is lost."""

    send: Send


_COMMITTED = "a keyed call has one transaction: its first has committed the reply already"
Want = Send | Begin | Call | Commit | Rollback | LookAgain
Plan = Generator[Want, Any, T]


class Unrun(Exception):
    """The connection was lost before the function began: another one may do. The cause is the reason."""


def transacted(request: TransactionRequest) -> Plan[None]:
    """Runs a request's function in one transaction, and commits its rows with the outcome or the step.

    Raises:
        Unrun: Nothing has happened, and the plan can be run again on another connection.
        psycopg.Error: The transaction is rolled back. After a conflict the plan can be run again.
        BaseException: The error of the call.
    """
    request.committed = request.completed_at = request.step = None
    operation, guard = request.operation, Guard(reads=request.reads)
    if operation is not None and operation.committed is not None:
        raise TransactionMisuse(_COMMITTED)
    try:
        yield Begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if request.reads else "BEGIN")
    except psycopg.Error as error:
        raise Unrun from error
    try:
        keeps = yield Call(guard)
        if keeps and operation is not None:
            yield from _keep(request, operation)
    except BaseException as error:
        yield Rollback()
        if guard.lost_by is not None and faults.is_conflict(guard.lost_by) and guard.lost_by is not error:
            raise guard.lost_by from error  # whatever the function made of the conflict, it is run again
        raise
    finally:
        guard.ended = True
    if not keeps or request.reads:
        request.committed = request.step = None
        yield Rollback()
        return
    try:
        yield Commit()
    except psycopg.Error as error:
        if not faults.is_broken(error):
            raise
        yield from _look_up(request, error)


def _refusal(operation: RunningOperation) -> Plan[TransactionMisuse | FenceRefused]:
    """Returns the reason why the outcome of an operation could not be stored."""
    found: list[tuple[bytes, int]] = yield Send("look", {"name": operation.name})
    if found == [(operation.fence, rows.COMPLETED)]:
        return TransactionMisuse(_COMMITTED)
    return FenceRefused("the operation has another owner by now: its transaction was rolled back")


def _keep(request: TransactionRequest, operation: RunningOperation) -> Plan[None]:
    """Stores the outcome or the step in the transaction, if the operation still has its fence.

    This is the last statement before the commit, so that the record is locked for a moment only. Before the function
    there is no check, which would take a round trip: what a spent fence has let run is rolled back.
    """
    own = {"name": operation.name, "fence": operation.fence}
    try:
        if request.step is not None:
            if not (yield Send("record_one_step", own | rows.step_columns(request.step))):
                raise FenceRefused("the operation has another owner by now, or has kept a step of this name")
        elif request.committed is not None:
            columns = own | rows.outcome_columns(request.committed, operation.ttl)
            stored = yield Send("complete_one", columns)
            if not stored:
                raise (yield from _refusal(operation))
            request.completed_at = rows.utc(stored[0][0])
    except (FenceRefused, TransactionMisuse):
        raise
    except Exception as error:
        if faults.is_conflict(error) or faults.is_broken(error):
            raise
        raise faults.translated(error, sent=False) from error


def _look_up(request: TransactionRequest, error: psycopg.Error) -> Plan[None]:
    """Finds out whether a commit has landed whose answer was lost: the record's fence and state tell (5.1)."""
    operation, unknown = request.operation, faults.translated(error)
    if operation is None:
        raise unknown
    try:
        found = yield LookAgain(Send("look_again", {"name": operation.name}))
        landed = bool(found) and found[0] == (operation.fence, rows.COMPLETED)
        if request.step is not None:
            columns = {"name": operation.name, "fence": operation.fence, "step": request.step.name.encode()}
            landed = bool((yield LookAgain(Send("has_step", columns))))
    except (psycopg.Error, StoreError) as lost:
        raise unknown from lost
    if not landed:
        raise faults.translated(error, sent=False)


def finished(request: TransactionRequest) -> bool:
    """Makes the step or the outcome from the function's result, and returns whether its rows may stay."""
    if request.operation is None:
        return True
    if request.make_step is not None:
        request.step = request.make_step(request.value)
        return True
    request.committed = request.operation.make_outcome(request.value)
    return request.committed.status is Code.OK


def refuse_awaitable(value: object) -> None:
    """Raises :class:`TransactionMisuse` if a plain function has returned something to be awaited."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TransactionMisuse("the function must be a plain def, or an async def where the store is for grpc.aio")
