"""Converts the values of ``records.py`` to columns of the store's tables, and back."""

import functools
import zlib
from datetime import datetime, timedelta, timezone
from typing import Any

from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Note, Outcome, Record, State, Step
from grpc_idempotency.stores._calls.packing import packed, packed_request, unpacked, unpacked_request

RUNNING, COMPLETED, HELD, WAITING, UNDOING = range(5)
STATES = (State.RUNNING, State.COMPLETED, State.HELD, State.WAITING, State.UNDOING)
EFFECTS = (Effects.OPAQUE, Effects.TRANSACTIONAL, Effects.REPEATABLE)
LEASED = (State.RUNNING, State.UNDOING)
OWNED = (State.RUNNING, State.UNDOING, State.HELD)
"""The states in which the owner of the record's fence may change the record."""
OPEN = (State.RUNNING, State.HELD, State.WAITING, State.UNDOING)
"""All states but completed."""
LAPSING = (State.RUNNING, State.UNDOING, State.WAITING)

Row = tuple[Any, ...]
Columns = dict[str, Any]
_RECORD_COLUMNS = 24


def claim_columns(claim: Claim) -> Columns:
    """Returns the values of one operation in the statements ``claim`` and, without its request, ``take_over``."""
    prints = claim.fingerprint
    return {
        "name": claim.name,
        "fence": claim.fence,
        "method": claim.method,
        "method_crc": method_crc(claim.method),
        "trace": claim.trace or None,
        "raw": prints.raw,
        "canonical": None if prints.canonical == prints.raw else prints.canonical,
        "effects": EFFECTS.index(claim.effects),
        "streams": claim.streams,
        "lease": claim.lease,
        "owner": claim.owner,
        "request": None if claim.request is None else packed_request(claim.request),
    }


@functools.lru_cache(maxsize=4096)
def method_crc(method: str) -> int:
    """Returns the CRC-32 of a method's name as a signed number, by which the tables have their indexes."""
    crc = zlib.crc32(method.encode())
    return crc - (crc >> 31 << 32)


def note_columns(note: Note | None) -> Columns:
    """Returns the values of an operator's note; of none, NULLs."""
    if note is None:
        return {"by": None, "action": None, "note": None}
    return {"by": note.by.encode(), "action": note.action, "note": note.reason.encode()}


def note(row: Row) -> Note:
    """Returns the note in a row of the statement ``notes``."""
    at, by, action, reason = row
    return Note(at=utc(at), by=by.decode(), action=action, reason=reason.decode())


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
    reason, resolved, retained, details, trailers, message, trace = row[17:_RECORD_COLUMNS]
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
        trace=trace or b"",
        request=None if request is None else unpacked_request(request),
    )


def utc(at: datetime) -> datetime:
    """Returns the time in UTC: the driver gives it in the time zone of the session."""
    return at if at.tzinfo is timezone.utc else at.astimezone(timezone.utc)
