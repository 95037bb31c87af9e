"""Converts the values of ``records.py`` to columns of the store's tables, and back."""

from datetime import datetime, timedelta, timezone
from typing import Any

from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, State, Step
from grpc_idempotency.stores._calls.packing import packed, packed_request, unpacked, unpacked_request

RUNNING, COMPLETED, HELD, WAITING, UNDOING = range(5)
STATES = (State.RUNNING, State.COMPLETED, State.HELD, State.WAITING, State.UNDOING)
EFFECTS = (Effects.OPAQUE, Effects.TRANSACTIONAL, Effects.REPEATABLE)
LEASED = (State.RUNNING, State.UNDOING)
OWNED = (State.RUNNING, State.UNDOING, State.HELD)
"""The states in which the owner of the record's fence may change the record."""
LAPSING = (State.RUNNING, State.UNDOING, State.WAITING)

Row = tuple[Any, ...]
Columns = dict[str, Any]
_RECORD_COLUMNS = 23


def claim_columns(claim: Claim) -> Columns:
    """Returns the values of one operation in the statements ``claim`` and, without its request, ``take_over``."""
    prints = claim.fingerprint
    return {
        "name": claim.name,
        "fence": claim.fence,
        "method": claim.method,
        "raw": prints.raw,
        "canonical": None if prints.canonical == prints.raw else prints.canonical,
        "effects": EFFECTS.index(claim.effects),
        "streams": claim.streams,
        "lease": claim.lease,
        "owner": claim.owner,
        "request": None if claim.request is None else packed_request(claim.request),
    }


def outcome_columns(outcome: Outcome, ttl: timedelta) -> Columns:
    """Returns the values of an outcome that is kept for ``ttl``."""
    return {"ttl": ttl, "message": outcome.message} | failure_columns(outcome)


def failure_columns(outcome: Outcome) -> Columns:
    """Returns the values of an outcome without its message."""
    return {
        "status": int(outcome.status),
        "retained": outcome.retained,
        "details": outcome.details.encode() or None,
        "trailers": packed(outcome.trailers),
    }


def step_columns(step: Step) -> Columns:
    """Returns the values of a step."""
    return {"step": step.name.encode(), "position": step.position, "undoable": step.undoable, "result": step.result}


def step(row: Row) -> Step:
    """Returns the step in a row of the statement ``steps``."""
    name, position, undoable, recorded_at, result = row
    return Step(name=name.decode(), position=position, undoable=undoable, result=result, recorded_at=utc(recorded_at))


def record(row: Row) -> Record:
    """Returns the record in a row. The row's last column is the time; one before it, if there is one, the request."""
    name, state, fence, effects, attempts, failed_runs, failed_undos, created_at, lease_until = row[:9]
    completed_at, expires_at, status, owner, method, raw, canonical, streams = row[9:17]
    reason, resolved, retained, details, trailers, message = row[17:_RECORD_COLUMNS]
    now, told = row[-1], None
    request = row[_RECORD_COLUMNS] if len(row) > _RECORD_COLUMNS + 1 else None
    if status is not None:
        told = Outcome(
            status=Code(status),
            message=message,
            details="" if details is None else details.decode(),
            trailers=unpacked(trailers),
            retained=retained,
        )
    return Record(
        name=name,
        method=method,
        state=STATES[state],
        fence=fence,
        owner=owner or "",
        fingerprint=Fingerprint(raw=raw, canonical=raw if canonical is None else canonical),
        effects=EFFECTS[effects],
        streams=streams,
        attempts=attempts,
        failed_runs=failed_runs,
        failed_undos=failed_undos,
        created_at=utc(created_at),
        lapsed=lease_until is not None and lease_until <= now,
        completed_at=None if completed_at is None else utc(completed_at),
        expires_at=None if expires_at is None else utc(expires_at),
        remaining=None if expires_at is None else expires_at - now,
        outcome=told if state == COMPLETED else None,
        failure=told if state != COMPLETED else None,
        reason=reason,
        resolved=resolved,
        request=None if request is None else unpacked_request(request),
    )


def utc(at: datetime) -> datetime:
    """Returns the time in UTC: the driver gives it in the time zone of the session."""
    return at if at.tzinfo is timezone.utc else at.astimezone(timezone.utc)
