"""A store in memory, for tests and for trying the protocol by hand. The records are lost with the store object."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from grpc_idempotency.errors import PolicyError, StoreUnusable
from grpc_idempotency.operator_store import NOTES_KEPT
from grpc_idempotency.records import (
    Claim,
    Effects,
    Note,
    Outcome,
    Record,
    Renewal,
    Standing,
    State,
    Step,
    StoredRequest,
    Swept,
)
from grpc_idempotency.stores._calls.aio import AsyncCalls
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    CountRequest,
    Counts,
    FencedRequest,
    FindRequest,
    ForgetRequest,
    GetRequest,
    HoldRequest,
    ListRequest,
    MethodsRequest,
    NotesRequest,
    PendingRequest,
    Place,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StandingRequest,
    StepRequest,
    StepsRequest,
    SweepRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._calls.sync import Calls
from grpc_idempotency.urls import StoreUrl

_LEASED = (State.RUNNING, State.UNDOING)
_LAPSING = (State.RUNNING, State.UNDOING, State.WAITING)
_OWNED = (State.RUNNING, State.UNDOING, State.HELD)
"""The states in which the owner of the record's fence may change the record."""


@dataclass(slots=True)
class _Entry:
    record: Record
    lease_until: datetime | None
    """When the lease ends; of a waiting record, when it is due."""
    request: StoredRequest | None
    steps: dict[str, Step] = field(default_factory=dict)


def steady_clock() -> Callable[[], datetime]:
    """Returns a clock that starts at the present wall-clock time and then follows the monotonic clock."""
    began, since = datetime.now(timezone.utc), time.monotonic()
    return lambda: began + timedelta(seconds=time.monotonic() - since)


class _Records:
    """The engine of a store: answers each request at once, in the calling thread.

    Args:
        clock: Returns the store's time, aware and in UTC.
    """

    failure = None

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._now = clock
        self._lock = threading.Lock()
        self._entries: dict[bytes, _Entry] = {}
        self._notes: dict[bytes, Sequence[Note]] = {}

    def submit(self, request: Request[Any]) -> None:
        """Answers a request. No request of another thread is answered in the meantime."""
        with self._lock:
            request.value = _ANSWERS[type(request)](self, request)
        request.settle()

    # -- each kind of request

    def claim(self, asked: ClaimRequest) -> Record | None:
        claim, standing = asked.claim, self._standing(asked.claim.name)
        if standing is None:
            record = _first(claim, self._now())
            self._entries[claim.name] = _Entry(record, self._now() + claim.lease, claim.request)
            return None
        seen = self._seen(standing)
        if asked.over is None or seen.fence != asked.over or not seen.lapsed:
            return asked.met(seen)
        standing.record, standing.lease_until = _next(seen, claim), self._now() + claim.lease
        return None

    def renew(self, asked: RenewRequest) -> Renewal:
        entry = self._owned(asked, *_LEASED)
        if entry is None:
            return Renewal.LOST
        entry.lease_until = self._now() + asked.lease
        return Renewal.RENEWED

    def complete(self, asked: CompleteRequest) -> datetime | None:
        standing = self._owned(asked, State.COMPLETED)
        if standing is not None:
            return standing.record.completed_at if standing.record.outcome == asked.outcome else None
        return self._finish(self._owned(asked, *_OWNED), asked.outcome, asked.ttl)

    def release(self, asked: ReleaseRequest) -> bool:
        return self._delete(self._owned(asked, *_OWNED))

    def release_lapsed(self, asked: ReleaseLapsedRequest) -> bool:
        entry = self._owned(asked, *_LAPSING)
        if entry is None or entry.steps or not self._seen(entry).lapsed:
            return False
        return self._delete(entry)

    def wait(self, asked: WaitRequest) -> bool:
        entry = self._owned(asked, *_LEASED)
        if entry is None:
            return False
        entry.record = replace(
            entry.record, state=State.WAITING, failed_runs=asked.failed_runs, failed_undos=asked.failed_undos
        )
        entry.lease_until = self._now() + asked.delay
        return True

    def undo(self, asked: UndoRequest) -> bool:
        standing = self._owned(asked, State.UNDOING)
        if standing is not None:
            return standing.record.failure == asked.failure
        entry = self._owned(asked, State.RUNNING)
        if entry is None:
            return False
        entry.record = replace(entry.record, state=State.UNDOING, failure=asked.failure)
        return True

    def record_step(self, asked: StepRequest) -> bool:
        entry = self._owned(asked, *_OWNED)
        if entry is None or asked.step.name in entry.steps:
            return False
        entry.steps[asked.step.name] = replace(asked.step, recorded_at=self._now())
        return True

    def steps(self, asked: StepsRequest) -> Sequence[Step]:
        entry = self._standing(asked.name)
        return [] if entry is None else [*entry.steps.values()]

    def pending(self, asked: PendingRequest) -> Sequence[Record]:
        seen = ((replace(self._seen(entry), request=entry.request), entry.steps) for entry in self._entries.values())
        lapsed = [(one, steps) for one, steps in seen if one.lapsed and one.method in asked.methods]
        in_doubt = [one for one, _ in lapsed if _is_in_doubt(one)]
        to_run = [one for one, _ in lapsed if not _is_in_doubt(one) and one.request is not None]
        transactional = (pair for pair in lapsed if pair[0].effects is Effects.TRANSACTIONAL)
        without_effect = [one for one, steps in transactional if one.request is None and not steps]
        return [one for group in (in_doubt, to_run, without_effect) for one in sorted(group, key=_age)][: asked.limit]

    def hold(self, asked: HoldRequest) -> bool:
        entry = self._owned(asked, *_LEASED)
        if entry is None or (asked.lapsed_only and not self._seen(entry).lapsed):
            return False
        entry.record = replace(entry.record, state=State.HELD, reason=asked.reason)
        entry.lease_until = entry.request = None
        return True

    def get(self, asked: GetRequest) -> Record | None:
        entry = self._standing(asked.name)
        return None if entry is None else self._seen(entry)

    def standing(self, asked: StandingRequest) -> Mapping[bytes, Standing]:
        entries = {name: entry for name in asked.names if (entry := self._standing(name)) is not None}
        seen = ((name, self._seen(entry)) for name, entry in entries.items())
        return {name: Standing(fence=one.fence, state=one.state, lapsed=one.lapsed) for name, one in seen}

    def sweep(self, asked: SweepRequest) -> Swept:
        self._notes = {name: kept for name in self._notes if len(kept := self._kept_notes(name))}
        expired = [name for name in self._entries if self._standing(name) is None]
        for name in expired[: asked.limit]:
            del self._entries[name]
        return Swept(deleted=len(expired[: asked.limit]), more=len(expired) > asked.limit)

    # -- for operators

    def list(self, asked: ListRequest) -> tuple[Sequence[Record], None]:
        found = sorted((one for one in self._all() if _is_listed(one, asked)), key=_age, reverse=asked.newest_first)
        return found[: asked.limit], None

    def find(self, asked: FindRequest) -> Sequence[Record]:
        found = (one for one in self._all() if asked.least <= one.name <= asked.most)
        return sorted(found, key=lambda one: one.name)[: asked.limit]

    def count(self, asked: CountRequest) -> tuple[Counts, None]:
        found = Counter((one.method, one.state) for one in self._all())
        return {key: n for key, n in found.items() if asked.completed or key[1] is not State.COMPLETED}, None

    def methods(self, asked: MethodsRequest) -> Collection[str]:
        return {one.method for one in self._all()}

    def notes(self, asked: NotesRequest) -> Sequence[Note]:
        return self._kept_notes(asked.name)

    def resolve(self, asked: ResolveRequest) -> bool:
        entry = self._owned(asked, State.HELD)
        if asked.outcome is None:
            changed = self._delete(entry)
        else:
            changed = self._finish(entry, asked.outcome, asked.ttl, resolved=True) is not None
        return self._noted(asked, changed)

    def forget(self, asked: ForgetRequest) -> bool:
        entry = self._owned(asked, *State)
        if entry is None or (entry.record.state in _LEASED and not self._seen(entry).lapsed):
            return False
        return self._noted(asked, self._delete(entry))

    # -- within

    def _standing(self, name: bytes) -> _Entry | None:
        """Returns the entry, or ``None`` if the operation is absent or expired."""
        entry = self._entries.get(name)
        if entry is None or (entry.record.expires_at is not None and entry.record.expires_at <= self._now()):
            return None
        return entry

    def _owned(self, asked: FencedRequest[Any], *states: State) -> _Entry | None:
        entry = self._standing(asked.name)
        if entry is None or entry.record.fence != asked.fence or entry.record.state not in states:
            return None
        return entry

    def _seen(self, entry: _Entry) -> Record:
        now, expires = self._now(), entry.record.expires_at
        lapsed = entry.lease_until is not None and entry.lease_until <= now
        return replace(entry.record, lapsed=lapsed, remaining=None if expires is None else expires - now)

    def _all(self) -> Iterator[Record]:
        return (self._seen(entry) for name in self._entries if (entry := self._standing(name)) is not None)

    def _noted(self, asked: ResolveRequest | ForgetRequest, changed: bool) -> bool:
        if changed and asked.note is not None:
            self._notes[asked.name] = [*self._kept_notes(asked.name), replace(asked.note, at=self._now())]
        return changed

    def _kept_notes(self, name: bytes) -> Sequence[Note]:
        since = self._now() - NOTES_KEPT
        return [note for note in self._notes.get(name, ()) if note.at is not None and note.at > since]

    def _delete(self, entry: _Entry | None) -> bool:
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
        trace=claim.trace,
        attempts=1,
        created_at=now,
    )


def _next(record: Record, claim: Claim) -> Record:
    """Returns the record of a take-over: a new run of the same operation."""
    return replace(
        _first(claim, record.created_at),
        state=State.RUNNING if record.failure is None else State.UNDOING,
        attempts=record.attempts + 1,
        failed_runs=record.failed_runs,
        failed_undos=record.failed_undos,
        failure=record.failure,
    )


def _is_in_doubt(record: Record) -> bool:
    return record.state in _LEASED and record.effects is Effects.OPAQUE


def _age(record: Record) -> Place:
    return record.created_at, record.name


def _is_listed(record: Record, asked: ListRequest) -> bool:
    return (
        asked.state in (None, record.state)
        and asked.method in (None, record.method)
        and (asked.since is None or record.created_at >= asked.since)
        and (asked.until is None or record.created_at < asked.until)
        and (record.lapsed or record.state is State.HELD or not asked.stuck)
        and (asked.after is None or (_age(record) < asked.after if asked.newest_first else _age(record) > asked.after))
    )


_ANSWERS: dict[type[Request[Any]], Callable[[_Records, Any], Any]] = {
    ClaimRequest: _Records.claim,
    RenewRequest: _Records.renew,
    CompleteRequest: _Records.complete,
    ReleaseRequest: _Records.release,
    ReleaseLapsedRequest: _Records.release_lapsed,
    WaitRequest: _Records.wait,
    UndoRequest: _Records.undo,
    StepRequest: _Records.record_step,
    StepsRequest: _Records.steps,
    PendingRequest: _Records.pending,
    HoldRequest: _Records.hold,
    GetRequest: _Records.get,
    StandingRequest: _Records.standing,
    SweepRequest: _Records.sweep,
    ListRequest: _Records.list,
    FindRequest: _Records.find,
    CountRequest: _Records.count,
    MethodsRequest: _Records.methods,
    NotesRequest: _Records.notes,
    ResolveRequest: _Records.resolve,
    ForgetRequest: _Records.forget,
}


class AsyncMemoryStore(AsyncCalls):
    """The contract of ``grpc_idempotency.store`` on a dict. It has no transactions (5.1).

    Args:
        clock: Returns the store's time, aware and in UTC. By default the time passes by itself.
    """

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._opened = _Records(clock or steady_clock()), None

    async def open(self) -> None:
        """Does nothing."""

    async def close(self) -> None:
        """Does nothing. The records stay, as those of other stores do."""


class MemoryStore(Calls):
    """The same store for threads.

    Args:
        clock: Returns the store's time, aware and in UTC. By default the time passes by itself.
    """

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._opened = _Records(clock or steady_clock()), None

    def open(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing. The records stay, as those of other stores do."""


def from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> MemoryStore:
    """See :class:`grpc_idempotency.urls.StoreFactory`."""
    _check_url(url, migrate)
    return MemoryStore()


def async_from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> AsyncMemoryStore:
    """See :class:`grpc_idempotency.urls.AsyncStoreFactory`."""
    _check_url(url, migrate)
    return AsyncMemoryStore()


def _check_url(url: StoreUrl, migrate: bool) -> None:
    url.settings({})
    if url.address:
        raise PolicyError("the URL of a store in memory is memory: and nothing else")
    if not migrate:
        raise StoreUnusable("a store in memory is new with each process, so there is none that exists already")
