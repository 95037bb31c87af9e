"""What a store promises (``grpc_idempotency.store``), over one dict and by a clock that the tests move."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from grpc_idempotency.errors import FenceRefused
from grpc_idempotency.records import Claim, Effects, Fingerprint, Outcome, Record, State

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
    lease_until: float = 0.0
    completed: float | None = None
    expires: float | None = None
    outcome: Outcome | None = None
    reason: str = ""


class Store:
    """Each call happens at one instant, or not at all."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rows: dict[bytes, Row] = {}

    def row(self, name: bytes) -> Row | None:
        row = self.rows.get(name)
        return None if row is None or (row.expires is not None and row.expires <= self.now) else row

    def lapsed(self, row: Row) -> bool:
        return row.state is State.RUNNING and row.lease_until <= self.now

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
            created_at=_at(row.created),
            lapsed=self.lapsed(row),
            completed_at=None if row.completed is None else _at(row.completed),
            expires_at=None if row.expires is None else _at(row.expires),
            outcome=row.outcome,
            reason=row.reason,
        )

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
            lease_until=self.now + claim.lease.total_seconds(),
        )
        return None

    def owned(self, name: bytes, fence: bytes, *states: State) -> Row | None:
        row = self.row(name)
        return row if row is not None and row.fence == fence and row.state in states else None

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        row = self.owned(name, fence, State.RUNNING)
        if row is not None:
            self.rows[name] = replace(row, lease_until=self.now + lease.total_seconds())
        return row is not None

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

    def hold(self, name: bytes, fence: bytes, reason: str, lapsed_only: bool) -> bool:
        row = self.owned(name, fence, State.RUNNING)
        if row is None or (lapsed_only and not self.lapsed(row)):
            return False
        self.rows[name] = replace(row, state=State.HELD, reason=reason)
        return True

    def commit(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> None:
        """What a transaction does with the record when it commits (5.1)."""
        if self.owned(claim.name, claim.fence, State.RUNNING, State.HELD) is None:
            raise FenceRefused("another owner")
        Store.complete(self, claim.name, claim.fence, outcome, ttl)

    def crashed(self) -> None:
        """A process of this store has died; a durable store does not notice."""


def _at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)
