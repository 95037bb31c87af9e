"""The writes of the contract: the statement of each kind of request, its columns, and the answer to its row."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpc_idempotency.records import Record, Renewal, State
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    FencedRequest,
    ForgetRequest,
    HoldRequest,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StepRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._postgres import rows


class Answer(enum.Enum):
    """The result of one request in a group."""

    GIVEN = enum.auto()
    """The request has its value."""
    BUSY = enum.auto()
    """Another transaction has locked the record. Nothing was changed."""
    AGAIN = enum.auto()
    """The record has appeared or vanished in the meantime: the request has to be made again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of write."""

    statement: str
    """Its name in ``queries.sql``."""
    columns: Callable[[Any], rows.Columns]
    """Returns the values of a request, by the names of the statement's parameters."""
    answer: Callable[[Any, rows.Row | None], Answer]
    """Sets the value of a request from its row: NULLs behind the name if it was done, a record if not, or no row."""
    repeatable: bool = False
    """True if a request that has landed is answered in the same way when it is made again."""


def name_of(request: Request[Any]) -> bytes:
    """Returns the name of the operation that a write is for."""
    if isinstance(request, ClaimRequest):
        return request.claim.name
    assert isinstance(request, FencedRequest)
    return request.name


def kind_of(request: Request[Any], *, fresh: bool = False) -> Kind:
    """Returns the kind of a request; ``fresh`` for a take-over whose record has vanished."""
    if type(request) is ClaimRequest and request.over is not None and not fresh:
        return _TAKE_OVER
    if type(request) is ResolveRequest and request.outcome is None:
        return _NEVER_HAPPENED
    return _KINDS[type(request)]


def is_done(row: rows.Row) -> bool:
    """Returns ``True`` if the row says that its operation was changed."""
    return row[1] is None


# -- the answers


def _claimed(request: ClaimRequest, row: rows.Row | None) -> Answer:
    if row is None:
        return Answer.AGAIN
    request.value = None if is_done(row) else request.met(rows.record(row))
    return Answer.GIVEN


def _taken_over(request: ClaimRequest, row: rows.Row | None) -> Answer:
    if row is not None and not is_done(row):
        record = rows.record(row)
        if record.fence == request.over and record.lapsed and record.state in rows.LAPSING:
            return Answer.BUSY
    return _claimed(request, row)


def _completed(request: CompleteRequest, row: rows.Row | None) -> Answer:
    request.value = None
    if row is None:
        return Answer.GIVEN
    if is_done(row):
        request.value = rows.utc(row[-1])
        return Answer.GIVEN
    record = rows.record(row)
    if record.fence == request.fence and record.outcome == request.outcome:
        request.value = record.completed_at
    return _busy(request, record, rows.OWNED)


def _renewed(request: RenewRequest, row: rows.Row | None) -> Answer:
    request.value = Renewal.LOST
    if row is not None:
        if is_done(row):
            request.value = Renewal.RENEWED
        elif _busy(request, rows.record(row), rows.LEASED) is Answer.BUSY:
            request.value = Renewal.BUSY
    return Answer.GIVEN


def _undone(request: UndoRequest, row: rows.Row | None) -> Answer:
    request.value = row is not None and is_done(row)
    if row is None or request.value:
        return Answer.GIVEN
    record = rows.record(row)
    own = (record.state, record.fence) == (State.UNDOING, request.fence)
    request.value = own and record.failure == request.failure
    return _busy(request, record, (State.RUNNING,))


def _held(request: HoldRequest, row: rows.Row | None) -> Answer:
    answer = _changed(rows.LEASED)(request, row)
    if answer is Answer.BUSY and request.lapsed_only and row is not None and not rows.record(row).lapsed:
        return Answer.GIVEN
    return answer


def _released_lapsed(request: ReleaseLapsedRequest, row: rows.Row | None) -> Answer:
    request.value = row is not None and is_done(row)
    return Answer.GIVEN  # a record that is locked has a live owner


def _forgotten(request: ForgetRequest, row: rows.Row | None) -> Answer:
    request.value = row is not None and is_done(row)
    if row is None or request.value:
        return Answer.GIVEN
    record = rows.record(row)
    free = record.lapsed or record.state in (State.COMPLETED, State.WAITING, State.HELD)
    return Answer.BUSY if record.fence == request.fence and free else Answer.GIVEN


def _changed(states: tuple[State, ...]) -> Callable[[FencedRequest[bool], rows.Row | None], Answer]:
    """Returns the answer of a change of records in these states."""

    def answer(request: FencedRequest[bool], row: rows.Row | None) -> Answer:
        request.value = row is not None and is_done(row)
        if row is None or request.value:
            return Answer.GIVEN
        return _busy(request, rows.record(row), states)

    return answer


def _busy(request: FencedRequest[Any], record: Record, states: tuple[State, ...]) -> Answer:
    """A record that could have been changed, and was not, is locked."""
    return Answer.BUSY if record.fence == request.fence and record.state in states else Answer.GIVEN


# -- the columns


def _fenced(request: FencedRequest[Any]) -> rows.Columns:
    return {"name": request.name, "fence": request.fence}


def _outcome(request: Any) -> rows.Columns:
    return _fenced(request) | rows.outcome_columns(request.outcome, request.ttl)


def _resolved(request: Any) -> rows.Columns:
    return _outcome(request) | rows.note_columns(request.note)


def _removed(request: Any) -> rows.Columns:
    return _fenced(request) | {"held_only": type(request) is ResolveRequest} | rows.note_columns(request.note)


def _take_over(request: ClaimRequest) -> rows.Columns:
    columns = rows.claim_columns(request.claim) | {"over": request.over}
    del columns["request"]
    return columns


def _wait(request: WaitRequest) -> rows.Columns:
    told = {"delay": request.delay, "failed_runs": request.failed_runs, "failed_undos": request.failed_undos}
    return _fenced(request) | told


_TAKE_OVER = Kind("take_over", _take_over, _taken_over, repeatable=True)
_NEVER_HAPPENED = Kind("forget", _removed, _changed((State.HELD,)))
_KINDS: dict[type[Request[Any]], Kind] = {
    RenewRequest: Kind("renew", lambda one: _fenced(one) | {"lease": one.lease}, _renewed, repeatable=True),
    ClaimRequest: Kind("claim", lambda one: rows.claim_columns(one.claim), _claimed, repeatable=True),
    CompleteRequest: Kind("complete", _outcome, _completed, repeatable=True),
    ReleaseRequest: Kind("release", _fenced, _changed(rows.OWNED)),
    ReleaseLapsedRequest: Kind("release_lapsed", _fenced, _released_lapsed),
    StepRequest: Kind("record_step", lambda one: _fenced(one) | rows.step_columns(one.step), _changed(rows.OWNED)),
    HoldRequest: Kind("hold", lambda one: _fenced(one) | {"reason": one.reason, "lapsed_only": one.lapsed_only}, _held),
    WaitRequest: Kind("wait", _wait, _changed(rows.LEASED)),
    UndoRequest: Kind("undo", lambda one: _fenced(one) | rows.failure_columns(one.failure), _undone, repeatable=True),
    ResolveRequest: Kind("resolve", _resolved, _changed((State.HELD,))),
    ForgetRequest: Kind("forget", _removed, _forgotten),
}
WRITTEN = frozenset(_KINDS)
"""The types of requests that the writer answers."""
