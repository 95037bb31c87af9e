"""A store of one's own: a blocking one, whose entries are pickled values in one SQLite table."""

import pickle
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import (
    Claim,
    Effects,
    Outcome,
    Record,
    Renewal,
    Standing,
    State,
    Step,
    StoredRequest,
    Swept,
)


@dataclass
class Entry:
    record: Record
    until: datetime | None  # when the lease ends, or a waiting record is due
    request: StoredRequest | None
    steps: dict[str, Step] = field(default_factory=dict)
    gone: bool = False

    def seen(self, now: datetime) -> Record:
        expires = self.record.expires_at
        remaining = None if expires is None else expires - now
        return replace(self.record, lapsed=self.until is not None and self.until <= now, remaining=remaining)

    def expired(self, now: datetime) -> bool:
        return self.record.expires_at is not None and self.record.expires_at <= now


LEASED = State.RUNNING, State.UNDOING
LAPSING = *LEASED, State.WAITING
OWNED = *LEASED, State.HELD


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class OwnStore:
    def __init__(self, path: Path, now: Callable[[], datetime] = utc_now) -> None:
        self._path = path
        self._now = now

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction: nobody else changes anything between its first statement and its commit."""
        committing = False
        try:
            with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                self._create(db)
                yield db
                committing = True
                db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error), landed=None if committing else False) from error

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS entries (name BLOB PRIMARY KEY, entry BLOB)")

    @contextmanager
    def _owned(self, name: bytes, fence: bytes, *states: State) -> Iterator[Entry | None]:
        """The entry, if it is in one of the states under the fence; what is changed in it is kept."""
        with self._database() as db:
            entry = self._find(db, name)
            if entry is None or entry.record.fence != fence or entry.record.state not in states:
                yield None
                return
            yield entry
            self._put(db, entry)

    def _find(self, db: sqlite3.Connection, name: bytes) -> Entry | None:
        row = db.execute("SELECT entry FROM entries WHERE name = ?", (name,)).fetchone()
        entry: Entry | None = pickle.loads(row[0]) if row else None  # noqa: S301  # the file is the server's own
        return None if entry is None or entry.expired(self._now()) else entry

    def _put(self, db: sqlite3.Connection, entry: Entry) -> None:
        if entry.gone:
            db.execute("DELETE FROM entries WHERE name = ?", (entry.record.name,))
        else:
            db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (entry.record.name, pickle.dumps(entry)))

    def _all(self, db: sqlite3.Connection) -> list[Entry]:
        """All entries, the oldest claim first; a real store has an index for each question instead."""
        rows = db.execute("SELECT entry FROM entries").fetchall()
        entries: list[Entry] = [pickle.loads(entry) for (entry,) in rows]  # noqa: S301  # as above
        return sorted(entries, key=lambda entry: place(entry.record))

    def _finish(self, entry: Entry, outcome: Outcome, ttl: timedelta, *, resolved: bool = False) -> None:
        now = self._now()
        entry.record = replace(entry.record, state=State.COMPLETED, outcome=outcome, reason="", resolved=resolved)
        entry.record = replace(entry.record, failure=None, owner="", completed_at=now, expires_at=now + ttl)
        entry.until = entry.request = None

    def open(self) -> None:
        with self._database():
            pass

    def close(self) -> None:
        pass

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        with self._database() as db:
            now, entry = self._now(), self._find(db, claim.name)
            if entry is None:
                entry = Entry(_first(claim, now), now + claim.lease, claim.request)
            elif (seen := entry.seen(now)).lapsed and seen.fence == over:
                entry.record = _next(claim, seen)
                entry.until = now + claim.lease
            else:
                own = seen.fence == claim.fence and seen.state in LEASED  # as with a completion: its answer was lost
                return None if own else seen
            self._put(db, entry)
            return None

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Renewal:
        with self._owned(name, fence, *LEASED) as entry:
            if entry is None:
                return Renewal.LOST
            entry.until = self._now() + lease
            return Renewal.RENEWED

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        with self._owned(name, fence, *OWNED, State.COMPLETED) as entry:
            if entry is None:
                return None
            if entry.record.state is not State.COMPLETED:
                self._finish(entry, outcome, ttl)
            elif entry.record.outcome != outcome:  # the same outcome may be tried again: its answer was lost
                return None
            return entry.record.completed_at

    def release(self, name: bytes, fence: bytes, *, lapsed_only: bool = False) -> bool:
        with self._owned(name, fence, *(LAPSING if lapsed_only else OWNED)) as entry:
            if entry is None or (lapsed_only and (entry.steps or not entry.seen(self._now()).lapsed)):
                return False
            entry.gone = True
            return True

    def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> bool:
        with self._owned(name, fence, *LEASED) as entry:
            if entry is not None:
                entry.record = replace(
                    entry.record, state=State.WAITING, failed_runs=failed_runs, failed_undos=failed_undos
                )
                entry.until = self._now() + delay
            return entry is not None

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> bool:
        with self._owned(name, fence, State.RUNNING, State.UNDOING) as entry:
            if entry is None:
                return False
            if entry.record.state is State.UNDOING:  # as with a completion
                return entry.record.failure == failure
            entry.record = replace(entry.record, state=State.UNDOING, failure=failure)
            return True

    def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        with self._owned(name, fence, *OWNED) as entry:
            if entry is None or step.name in entry.steps:
                return False
            entry.steps[step.name] = replace(step, recorded_at=self._now())
            return True

    def steps(self, name: bytes) -> Sequence[Step]:
        with self._database() as db:
            entry = self._find(db, name)
            return [] if entry is None else [*entry.steps.values()]

    def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        with self._database() as db:
            found = [(replace(entry.seen(self._now()), request=entry.request), entry.steps) for entry in self._all(db)]
        lapsed = [(record, steps) for record, steps in found if record.lapsed and record.method in methods]
        doubtful = [record for record, _ in lapsed if _in_doubt(record)]
        to_run = [record for record, _ in lapsed if not _in_doubt(record) and record.request is not None]
        unasked = [(record, steps) for record, steps in lapsed if record.request is None]
        no_effect = [one for one, steps in unasked if one.effects is Effects.TRANSACTIONAL and not steps]
        return [*doubtful, *to_run, *no_effect][:limit]

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        with self._owned(name, fence, *LEASED) as entry:
            if entry is None or (lapsed_only and not entry.seen(self._now()).lapsed):
                return False
            entry.record = replace(entry.record, state=State.HELD, reason=reason)
            entry.until = entry.request = None
            return True

    def get(self, name: bytes) -> Record | None:
        with self._database() as db:
            entry = self._find(db, name)
            return None if entry is None else entry.seen(self._now())

    def standing(self, names: Collection[bytes]) -> Mapping[bytes, Standing]:
        with self._database() as db:
            entries = [entry for name in set(names) if (entry := self._find(db, name)) is not None]
        seen = [entry.seen(self._now()) for entry in entries]
        return {one.name: Standing(fence=one.fence, state=one.state, lapsed=one.lapsed) for one in seen}

    def sweep(self, limit: int = 500) -> Swept:
        with self._database() as db:
            expired = [entry for entry in self._all(db) if entry.expired(self._now())]
            for entry in expired[:limit]:
                db.execute("DELETE FROM entries WHERE name = ?", (entry.record.name,))
        return Swept(deleted=len(expired[:limit]), more=len(expired) > limit)


def _first(claim: Claim, created_at: datetime) -> Record:
    return Record(
        name=claim.name,
        method=claim.method,
        state=State.RUNNING,
        fence=claim.fence,
        fingerprint=claim.fingerprint,
        effects=claim.effects,
        streams=claim.streams,
        owner=claim.owner,
        trace=claim.trace,
        attempts=1,
        created_at=created_at,
    )


def _next(claim: Claim, record: Record) -> Record:
    """The record of a take-over."""
    return replace(
        _first(claim, record.created_at),
        state=State.RUNNING if record.failure is None else State.UNDOING,
        attempts=record.attempts + 1,
        failed_runs=record.failed_runs,
        failed_undos=record.failed_undos,
        failure=record.failure,
    )


def _in_doubt(record: Record) -> bool:
    return record.state in LEASED and record.effects is Effects.OPAQUE


def place(record: Record) -> tuple[datetime, bytes]:
    return record.created_at, record.name
