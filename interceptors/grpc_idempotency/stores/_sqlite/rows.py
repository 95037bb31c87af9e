"""Converts the values of ``records.py`` to rows of the store's tables, and back."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from grpc_idempotency.records import (
    Claim,
    Code,
    Effects,
    Fingerprint,
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


def claim_row(claim: Claim, now: int, wall: int, room: int) -> Row:
    """Returns the parameters of one row of the statement ``claim``, with room for a message of ``room`` bytes."""
    lease, prints = max(1, claim.lease // _MILLISECOND), claim.fingerprint
    return (
        claim.name,
        claim.method,
        claim.fence,
        prints.raw,
        None if prints.canonical == prints.raw else prints.canonical,
        EFFECTS.index(claim.effects),
        claim.streams,
        wall,
        lease,
        now + lease,
        claim.owner,
        *((bytes(room), None) if claim.request is None else (None, packed_request(claim.request))),
    )


def completed_row(claim: Claim, outcome: Outcome, ttl: timedelta, now: int, wall: int) -> Row:
    """Returns the parameters of one row of the statement ``complete_unclaimed``."""
    prints = claim.fingerprint
    return (
        COMPLETED,
        claim.method,
        prints.raw,
        None if prints.canonical == prints.raw else prints.canonical,
        EFFECTS.index(claim.effects),
        claim.streams,
        wall,
        *outcome_row(claim.name, claim.fence, outcome, ttl, now, wall),
    )


CLAIM_COLUMNS = 13
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


def step(row: Row) -> Step:
    """Returns the step in a row of the statement ``steps``."""
    name, position, undoable, recorded, result = row
    return Step(name=name, position=position, undoable=bool(undoable), result=result, recorded_at=instant(recorded))


def record(row: Row, now: int) -> Record:
    """Returns the record in a row of the statements ``read`` and ``pending``."""
    name, state, fence, effects, attempts, failed_runs, failed_undos, created, lease_until, completed = row[:10]
    ttl_ms, _, status = row[10:13]
    owner, method, raw, canonical, streams, reason, resolved, retained, details, trailers, message = row[13:24]
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
        request=unpacked_request(row[24]) if len(row) > 24 and row[24] is not None else None,
    )


def flat(rows: Sequence[Row]) -> list[Any]:
    """Flattens rows into the parameters of a statement of many rows."""
    return [value for row in rows for value in row]
