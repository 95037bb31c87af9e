"""Converts the values of ``records.py`` to rows of the store's tables, and back."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from grpc_idempotency.operator_store import NOTES_KEPT
from grpc_idempotency.records import (
    Claim,
    Code,
    Effects,
    Fingerprint,
    Note,
    Outcome,
    Record,
    State,
    Step,
)
from grpc_idempotency.stores._calls.packing import packed, packed_request, unpacked, unpacked_request

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
RUNNING, COMPLETED, HELD, WAITING, UNDOING = range(5)
STATES = (State.RUNNING, State.COMPLETED, State.HELD, State.WAITING, State.UNDOING)
EFFECTS = (Effects.OPAQUE, Effects.TRANSACTIONAL, Effects.REPEATABLE)
LEASED = (RUNNING, UNDOING)
OWNED = (RUNNING, UNDOING, HELD)
"""The states in which the owner of the record's fence may change the record."""
EXPIRES_AT = 11
"""The index of the time of expiry in a row of the statement ``read``."""

Row = tuple[Any, ...]


def milliseconds(duration: timedelta) -> int:
    """Converts a duration to the store's unit. Returns at least 1, so that no lease ends before it began."""
    return max(1, duration // _MILLISECOND)


def instant(wall_ms: int) -> datetime:
    """Converts milliseconds of the wall clock to a time."""
    return _EPOCH + timedelta(milliseconds=wall_ms)


def wall_ms(at: datetime) -> int:
    """The inverse of :func:`instant`."""
    return (at - _EPOCH) // _MILLISECOND


def wall_ms_from(at: datetime) -> int:
    """Returns the first millisecond that does not begin before a time."""
    return -((_EPOCH - at) // _MILLISECOND)


def claim_row(claim: Claim, method: int, now: int, wall: int, room: int) -> Row:
    """Returns the parameters of one row of the statement ``claim``.

    Args:
        claim: The claim.
        method: The number of its method.
        now: The store's time.
        wall: The time of the wall clock.
        room: The size of the message that the row is to have room for, in bytes.
    """
    lease, prints = max(1, claim.lease // _MILLISECOND), claim.fingerprint
    return (
        claim.name,
        method,
        claim.fence,
        prints.raw,
        None if prints.canonical == prints.raw else prints.canonical,
        EFFECTS.index(claim.effects),
        claim.streams,
        wall,
        lease,
        now + lease,
        claim.owner,
        claim.trace or None,
        *((bytes(room), None) if claim.request is None else (None, packed_request(claim.request))),
    )


def completed_row(claim: Claim, method: int, outcome: Outcome, ttl: timedelta, now: int, wall: int) -> Row:
    """Returns the parameters of one row of the statement ``complete_unclaimed``; ``method`` is the method's number."""
    prints = claim.fingerprint
    return (
        COMPLETED,
        method,
        prints.raw,
        None if prints.canonical == prints.raw else prints.canonical,
        EFFECTS.index(claim.effects),
        claim.streams,
        wall,
        claim.trace or None,
        *outcome_row(claim.name, claim.fence, outcome, ttl, now, wall),
    )


CLAIM_COLUMNS = 14
"""The number of values in a row of the statement ``claim``."""
OUTCOME_COLUMNS = 10
"""The number of values in a row of the statement ``complete``."""


def outcome_row(name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta, now: int, wall: int) -> Row:
    """Returns the parameters of one row of the statement ``complete``."""
    kept, told = max(1, ttl // _MILLISECOND), outcome.trailers
    trailers = packed(told) if told else None
    status = int(outcome.status)
    return (name, fence, wall, kept, now + kept, status, outcome.retained, outcome.details, trailers, outcome.message)


def failure_row(failure: Outcome) -> Row:
    """Returns the first parameters of the statement ``undo``."""
    return (int(failure.status), failure.retained, failure.details, packed(failure.trailers))


def lease_row(name: bytes, fence: bytes, duration: timedelta, now: int) -> Row:
    """Returns the parameters of one row of the statement ``renew``."""
    lease = milliseconds(duration)
    return (name, fence, lease, now + lease)


def step_row(name: bytes, fence: bytes, step: Step, wall: int) -> Row:
    """Returns the parameters of one row of the statement ``record_step``."""
    return (name, fence, step.name, step.position, step.undoable, wall, step.result)


def note_row(name: bytes, note: Note, now: int, wall: int) -> Row:
    """Returns the parameters of the statement ``add_note``."""
    return (name, wall, now + milliseconds(NOTES_KEPT), note.by, note.action, note.reason)


def note(row: Row) -> Note:
    """Returns the note in a row of the statement ``notes``."""
    at, by, action, reason = row
    return Note(at=instant(at), by=by, action=action, reason=reason)


def step(row: Row) -> Step:
    """Returns the step in a row of the statement ``steps``."""
    name, position, undoable, recorded, result = row
    return Step(name=name, position=position, undoable=bool(undoable), result=result, recorded_at=instant(recorded))


def record(row: Row, now: int) -> Record:
    """Returns the record in a row of a statement that reads records; ``pending`` reads their requests, too."""
    name, state, fence, effects, attempts, failed_runs, failed_undos, created, lease_until, completed = row[:10]
    ttl_ms, _, status = row[10:13]
    owner, method, raw, canonical, streams, reason, resolved, retained, details, trailers, trace, message = row[13:25]
    told = None
    if status is not None:
        told = Outcome(
            status=Code(status),
            message=message,
            details=details,
            trailers=unpacked(trailers),
            retained=bool(retained),
        )
    return Record(
        name=name,
        method=method,
        state=STATES[state],
        fence=fence,
        owner=owner or "",
        fingerprint=Fingerprint(raw=raw, canonical=raw if canonical is None else canonical),
        effects=EFFECTS[effects],
        streams=bool(streams),
        attempts=attempts,
        failed_runs=failed_runs,
        failed_undos=failed_undos,
        created_at=instant(created),
        lapsed=lease_until is not None and lease_until <= now,
        completed_at=None if completed is None else instant(completed),
        expires_at=None if completed is None else instant(completed + ttl_ms),
        remaining=None if completed is None else timedelta(milliseconds=row[EXPIRES_AT] - now),
        outcome=told if state == COMPLETED else None,
        failure=told if state != COMPLETED else None,
        reason=reason,
        resolved=bool(resolved),
        trace=trace or b"",
        request=unpacked_request(row[25]) if len(row) > 25 and row[25] is not None else None,
    )


def flat(rows: Sequence[Row]) -> list[Any]:
    """Flattens rows into the parameters of a statement of many rows."""
    return [value for row in rows for value in row]
