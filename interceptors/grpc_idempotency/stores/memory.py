"""A store in memory: for tests, and to drive the protocol by hand. What it keeps ends with it."""

import threading
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import wraps
from typing import Any, TypeVar, cast

from grpc_idempotency.records import Claim, Effects, Outcome, Record, State, Step, StoredRequest, Swept

T = TypeVar("T")
_Call = TypeVar("_Call", bound=Callable[..., Coroutine[Any, Any, Any]])


_LEASED = (State.RUNNING, State.UNDOING)
_OWNED = (State.RUNNING, State.UNDOING, State.HELD)
"""The states in which its fence has a say over a record."""


@dataclass(slots=True)
class _Entry:
    record: Record
    lease_until: datetime | None
    """Of a waiting record: when it is due."""
    request: StoredRequest | None
    steps: dict[str, Step] = field(default_factory=dict)


def steady_clock() -> Callable[[], datetime]:
    """The time by the wall clock as of now, and from then on by a clock that nobody sets."""
    began, since = datetime.now(timezone.utc), time.monotonic()
    return lambda: began + timedelta(seconds=time.monotonic() - since)


def _whole(call: _Call) -> _Call:
    """Runs a call, which never waits for anything, as one whole: others may come from other threads."""

    @wraps(call)
    async def alone(self: "AsyncMemoryStore", /, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return await call(self, *args, **kwargs)

    return cast(_Call, alone)


class AsyncMemoryStore:
    """The contract of ``grpc_idempotency.store`` on a dict. It has no transactions (5.1).

    Args:
        clock: what tells the store's time, aware and in UTC; by default one that goes by itself.
    """

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._now = clock or steady_clock()
        self._lock = threading.Lock()
        self._entries: dict[bytes, _Entry] = {}

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do: the records stay, as those of other stores do."""

    @_whole
    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """Claims the operation if it is absent, or lapsed under the fence ``over``."""
        standing = self._standing(claim.name)
        if standing is None:
            record = _first(claim, self._now())
            self._entries[claim.name] = _Entry(record, self._now() + claim.lease, claim.request)
            return None
        seen = self._seen(standing)
        if over is None or seen.fence != over or not seen.lapsed:
            return seen
        standing.record, standing.lease_until = _next(seen, claim), self._now() + claim.lease
        return None

    @_whole
    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        """Makes the lease of a running or undoing record end ``lease`` from now."""
        entry = self._owned(name, fence, *_LEASED)
        if entry is None:
            return False
        entry.lease_until = self._now() + lease
        return True

    @_whole
    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        """Stores the outcome of a running, undoing or held record."""
        standing = self._owned(name, fence, State.COMPLETED)
        if standing is not None:
            return standing.record.completed_at if standing.record.outcome == outcome else None
        return self._finish(self._owned(name, fence, *_OWNED), outcome, ttl)

    @_whole
    async def release(self, name: bytes, fence: bytes) -> bool:
        """Deletes a running, undoing or held record."""
        return self._forget(self._owned(name, fence, *_OWNED))

    @_whole
    async def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> bool:
        """Makes a running or undoing record waiting."""
        entry = self._owned(name, fence, *_LEASED)
        if entry is None:
            return False
        entry.record = replace(entry.record, state=State.WAITING, tries=tries, undo_tries=undo_tries)
        entry.lease_until = self._now() + delay
        return True

    @_whole
    async def undo(self, name: bytes, fence: bytes, failure: Outcome) -> bool:
        """Makes a running record undoing, with the failure that it is undone for."""
        standing = self._owned(name, fence, State.UNDOING)
        if standing is not None:
            return standing.record.failure == failure
        entry = self._owned(name, fence, State.RUNNING)
        if entry is None:
            return False
        entry.record = replace(entry.record, state=State.UNDOING, failure=failure)
        return True

    @_whole
    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        """Keeps a finished step of a running, undoing or held record."""
        entry = self._owned(name, fence, *_OWNED)
        if entry is None or step.name in entry.steps:
            return False
        entry.steps[step.name] = replace(step, recorded_at=self._now())
        return True

    @_whole
    async def steps(self, name: bytes) -> Sequence[Step]:
        """The finished steps of an operation, in the order in which they were recorded."""
        entry = self._standing(name)
        return [] if entry is None else [*entry.steps.values()]

    @_whole
    async def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        """Lapsed records of these methods that can be dealt with without their clients."""
        found = [replace(self._seen(entry), request=entry.request) for entry in self._entries.values()]
        lapsed = [one for one in found if one.lapsed and one.method in methods]
        in_doubt = sorted((one for one in lapsed if _is_in_doubt(one)), key=_age)
        others = sorted((one for one in lapsed if not _is_in_doubt(one) and one.request is not None), key=_age)
        return [*in_doubt, *others][:limit]

    @_whole
    async def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """Makes a running or undoing record held."""
        entry = self._owned(name, fence, *_LEASED)
        if entry is None or (lapsed_only and not self._seen(entry).lapsed):
            return False
        entry.record = replace(entry.record, state=State.HELD, reason=reason)
        entry.lease_until = entry.request = None
        return True

    @_whole
    async def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        """An operator's word on a held record."""
        entry = self._owned(name, fence, State.HELD)
        return self._forget(entry) if outcome is None else self._finish(entry, outcome, ttl, resolved=True) is not None

    @_whole
    async def get(self, name: bytes) -> Record | None:
        """The record, or ``None`` where it is absent."""
        entry = self._standing(name)
        return None if entry is None else self._seen(entry)

    @_whole
    async def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Records, oldest claim first."""
        standing = (entry for name in self._entries if (entry := self._standing(name)) is not None)
        found = sorted((self._seen(entry) for entry in standing), key=_age)
        found = [one for one in found if state in (None, one.state) and method in (None, one.method)]
        return [one for one in found if after is None or _age(one) > _age(after)][:limit]

    @_whole
    async def sweep(self, limit: int = 500) -> Swept:
        """Deletes expired records."""
        expired = [name for name in self._entries if self._standing(name) is None]
        for name in expired[:limit]:
            del self._entries[name]
        return Swept(deleted=len(expired[:limit]), more=len(expired) > limit)

    # -- within

    def _standing(self, name: bytes) -> _Entry | None:
        """The record, unless it is absent or expired."""
        entry = self._entries.get(name)
        if entry is None or (entry.record.expires_at is not None and entry.record.expires_at <= self._now()):
            return None
        return entry

    def _owned(self, name: bytes, fence: bytes, *states: State) -> _Entry | None:
        entry = self._standing(name)
        return entry if entry is not None and entry.record.fence == fence and entry.record.state in states else None

    def _seen(self, entry: _Entry) -> Record:
        now, expires = self._now(), entry.record.expires_at
        lapsed = entry.lease_until is not None and entry.lease_until <= now
        return replace(entry.record, lapsed=lapsed, remaining=None if expires is None else expires - now)

    def _forget(self, entry: _Entry | None) -> bool:
        if entry is None:
            return False
        del self._entries[entry.record.name]
        return True

    def _finish(
        self, entry: _Entry | None, outcome: Outcome, ttl: timedelta, *, resolved: bool = False
    ) -> datetime | None:
        if entry is None:
            return None
        now = self._now()
        entry.record = replace(
            entry.record,
            state=State.COMPLETED,
            outcome=outcome,
            failure=None,
            owner="",
            completed_at=now,
            expires_at=now + ttl,
            reason="",
            resolved=resolved,
        )
        entry.lease_until = entry.request = None
        return now


def _first(claim: Claim, now: datetime) -> Record:
    return Record(
        name=claim.name,
        method=claim.method,
        state=State.RUNNING,
        fence=claim.fence,
        owner=claim.owner,
        fingerprint=claim.fingerprint,
        effects=claim.effects,
        streams=claim.streams,
        attempts=1,
        created_at=now,
    )


def _next(record: Record, claim: Claim) -> Record:
    """The record of a take-over: a new run of the same operation."""
    return replace(
        _first(claim, record.created_at),
        state=State.RUNNING if record.failure is None else State.UNDOING,
        attempts=record.attempts + 1,
        tries=record.tries,
        undo_tries=record.undo_tries,
        failure=record.failure,
    )


def _is_in_doubt(record: Record) -> bool:
    return record.state in _LEASED and record.effects is Effects.OPAQUE


def _age(record: Record) -> tuple[datetime, bytes]:
    return record.created_at, record.name


class MemoryStore:
    """The same for threads.

    Args:
        clock: what tells the store's time, aware and in UTC; by default one that goes by itself.
    """

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._store = AsyncMemoryStore(clock=clock)

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do: the records stay, as those of other stores do."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """Claims the operation if it is absent, or lapsed under the fence ``over``."""
        return self._now(self._store.claim(claim, over=over))

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        """Makes the lease of a running or undoing record end ``lease`` from now."""
        return self._now(self._store.renew(name, fence, lease))

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        """Stores the outcome of a running, undoing or held record."""
        return self._now(self._store.complete(name, fence, outcome, ttl))

    def release(self, name: bytes, fence: bytes) -> bool:
        """Deletes a running, undoing or held record."""
        return self._now(self._store.release(name, fence))

    def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> bool:
        """Makes a running or undoing record waiting."""
        return self._now(self._store.wait(name, fence, delay, tries, undo_tries))

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> bool:
        """Makes a running record undoing, with the failure that it is undone for."""
        return self._now(self._store.undo(name, fence, failure))

    def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        """Keeps a finished step of a running, undoing or held record."""
        return self._now(self._store.record_step(name, fence, step))

    def steps(self, name: bytes) -> Sequence[Step]:
        """The finished steps of an operation, in the order in which they were recorded."""
        return self._now(self._store.steps(name))

    def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        """Lapsed records of these methods that can be dealt with without their clients."""
        return self._now(self._store.pending(methods, limit))

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """Makes a running or undoing record held."""
        return self._now(self._store.hold(name, fence, reason, lapsed_only=lapsed_only))

    def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        """An operator's word on a held record."""
        return self._now(self._store.resolve(name, fence, outcome, ttl))

    def get(self, name: bytes) -> Record | None:
        """The record, or ``None`` where it is absent."""
        return self._now(self._store.get(name))

    def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Records, oldest claim first."""
        return self._now(self._store.list(state=state, method=method, after=after, limit=limit))

    def sweep(self, limit: int = 500) -> Swept:
        """Deletes expired records."""
        return self._now(self._store.sweep(limit))

    def _now(self, call: Coroutine[Any, Any, T]) -> T:
        """Runs a call of the other store, which never waits for anything."""
        try:
            call.send(None)
        except StopIteration as done:
            value: T = done.value
            return value
        raise AssertionError("a call of the memory store has waited")
