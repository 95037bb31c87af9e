"""What a store promises (``grpc_idempotency.store``), over one dict and by a clock that the tests move."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from grpc_idempotency._protocol.effects import (
    Complete,
    CompleteUnclaimed,
    Effect,
    Get,
    Hold,
    ReadStandings,
    Release,
    Renew,
    TryClaim,
    Wait,
)
from grpc_idempotency.errors import FenceRefused
from grpc_idempotency.records import Claim, Effects, Fingerprint, Outcome, Record, Renewal, Standing, State

NAME = b"operation-name.."
METHOD = "/test.Service/Method"
EPOCH = datetime(2024, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Row:
    state: State
    fence: bytes
    fingerprint: Fingerprint
    effects: Effects
    attempts: int
    created: float
    failed_runs: int = 0
    lease_until: float = 0.0
    completed: float | None = None
    expires: float | None = None
    outcome: Outcome | None = None
    reason: str = ""
    steps: bool = False
    """Whether it has a finished step."""


class Store:
    """Each call happens at one instant, or not at all."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rows: dict[bytes, Row] = {}

    def perform(self, effect: Effect[Any]) -> Any:
        """Does what a plan asks of a store."""
        match effect:
            case TryClaim(claim, over):
                return self.claim(claim, over)
            case Renew(name, fence, lease):
                return self.renew(name, fence, lease)
            case Complete(name, fence, outcome, ttl):
                return self.complete(name, fence, outcome, ttl)
            case CompleteUnclaimed(claim, outcome, ttl):
                return self.complete_unclaimed(claim, outcome, ttl)
            case Release(name, fence, lapsed_only):
                return self.release_lapsed(name, fence) if lapsed_only else self.release(name, fence)
            case Wait(name, fence, delay, failed_runs):
                return self.wait(name, fence, delay, failed_runs)
            case Hold(name, fence, reason, lapsed_only):
                return self.hold(name, fence, reason, lapsed_only)
            case Get(name):
                return self.get(name)
            case ReadStandings(names):
                return self.standing(names)
            case _:
                raise AssertionError(effect)

    def row(self, name: bytes) -> Row | None:
        row = self.rows.get(name)
        return None if row is None or (row.expires is not None and row.expires <= self.now) else row

    def lapsed(self, row: Row) -> bool:
        return row.state in (State.RUNNING, State.WAITING) and row.lease_until <= self.now

    def get(self, name: bytes) -> Record | None:
        row = self.row(name)
        if row is None:
            return None
        return Record(
            name=name,
            method=METHOD,
            state=row.state,
            fence=row.fence,
            fingerprint=row.fingerprint,
            effects=row.effects,
            attempts=row.attempts,
            failed_runs=row.failed_runs,
            created_at=_at(row.created),
            lapsed=self.lapsed(row),
            completed_at=None if row.completed is None else _at(row.completed),
            expires_at=None if row.expires is None else _at(row.expires),
            outcome=row.outcome,
            reason=row.reason,
        )

    def standing(self, names: Collection[bytes]) -> dict[bytes, Standing]:
        rows = {name: row for name in names if (row := self.row(name)) is not None}
        return {name: Standing(fence=row.fence, state=row.state, lapsed=self.lapsed(row)) for name, row in rows.items()}

    def claim(self, claim: Claim, over: bytes | None) -> Record | None:
        row = self.row(claim.name)
        if row is not None and not (over == row.fence and self.lapsed(row)):
            return self.get(claim.name)
        self.rows[claim.name] = Row(
            state=State.RUNNING,
            fence=claim.fence,
            fingerprint=claim.fingerprint,
            effects=claim.effects,
            attempts=1 if row is None else row.attempts + 1,
            created=self.now if row is None else row.created,
            failed_runs=0 if row is None else row.failed_runs,
            lease_until=self.now + claim.lease.total_seconds(),
            steps=row is not None and row.steps,
        )
        return None

    def owned(self, name: bytes, fence: bytes, *states: State) -> Row | None:
        row = self.row(name)
        return row if row is not None and row.fence == fence and row.state in states else None

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Renewal:
        row = self.owned(name, fence, State.RUNNING)
        if row is None:
            return Renewal.LOST
        self.rows[name] = replace(row, lease_until=self.now + lease.total_seconds())
        return Renewal.RENEWED

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        row = self.owned(name, fence, State.RUNNING, State.HELD)
        if row is None:
            row = self.owned(name, fence, State.COMPLETED)
            return None if row is None or row.completed is None else _at(row.completed)
        expires = self.now + ttl.total_seconds()
        self.rows[name] = replace(
            row, state=State.COMPLETED, completed=self.now, expires=expires, outcome=outcome, reason=""
        )
        return _at(self.now)

    def release(self, name: bytes, fence: bytes) -> bool:
        if self.owned(name, fence, State.RUNNING, State.HELD) is None:
            return False
        del self.rows[name]
        return True

    def release_lapsed(self, name: bytes, fence: bytes) -> bool:
        row = self.owned(name, fence, State.RUNNING, State.WAITING)
        if row is None or row.steps or not self.lapsed(row):
            return False
        del self.rows[name]
        return True

    def record_step(self, name: bytes, fence: bytes) -> bool:
        row = self.owned(name, fence, State.RUNNING, State.HELD)
        if row is not None:
            self.rows[name] = replace(row, steps=True)
        return row is not None

    def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int) -> bool:
        row = self.owned(name, fence, State.RUNNING)
        if row is not None:
            until = self.now + delay.total_seconds()
            self.rows[name] = replace(row, state=State.WAITING, lease_until=until, failed_runs=failed_runs)
        return row is not None

    def hold(self, name: bytes, fence: bytes, reason: str, lapsed_only: bool) -> bool:
        row = self.owned(name, fence, State.RUNNING)
        if row is None or (lapsed_only and not self.lapsed(row)):
            return False
        self.rows[name] = replace(row, state=State.HELD, reason=reason)
        return True

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        row = self.row(claim.name)
        if row is None:
            self.insert(claim, outcome, ttl)
        elif (row.fence, row.outcome) != (claim.fence, outcome):
            standing = self.get(claim.name)
            assert standing is not None
            return standing
        return _at(self.rows[claim.name].created)

    def insert(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> None:
        """Makes a completed record; whatever stands there is replaced."""
        self.rows[claim.name] = Row(
            state=State.COMPLETED,
            fence=claim.fence,
            fingerprint=claim.fingerprint,
            effects=claim.effects,
            attempts=1,
            created=self.now,
            completed=self.now,
            expires=self.now + ttl.total_seconds(),
            outcome=outcome,
        )

    def commit(self, claim: Claim, outcome: Outcome, ttl: timedelta, *, claimed: bool) -> None:
        """What a transaction does with the record when it commits (5.1)."""
        if not claimed:
            if self.row(claim.name) is not None:
                raise FenceRefused("there is a record")
            self.insert(claim, outcome, ttl)
            return
        if self.owned(claim.name, claim.fence, State.RUNNING, State.HELD) is None:
            raise FenceRefused("another owner")
        Store.complete(self, claim.name, claim.fence, outcome, ttl)

    def crashed(self) -> None:
        """A process of this store has died; a durable store does not notice."""


def _at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)
