"""The store of ``own_store.py`` with the calls of operators' tools, and its URL."""

import pickle
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

from own_store import LEASED, Entry, OwnStore, place

from grpc_idempotency.errors import StoreUnusable
from grpc_idempotency.operator_store import NOTES_KEPT
from grpc_idempotency.records import Note, Outcome, Record, State, Swept
from grpc_idempotency.urls import StoreUrl


class OwnOperatorStore(OwnStore):
    def list(
        self,
        *,
        state: State | None = None,
        method: str | None = None,
        after: Record | None = None,
        limit: int = 100,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        stuck: bool = False,
    ) -> Sequence[Record]:
        found = [one for one in self._records() if state in (None, one.state) and method in (None, one.method)]
        found = [one for one in found if one.lapsed or one.state is State.HELD or not stuck]
        found = [one for one in found if since is None or one.created_at >= since]
        found = [one for one in found if until is None or one.created_at < until]
        if newest_first:
            return [one for one in found[::-1] if after is None or place(one) < place(after)][:limit]
        return [one for one in found if after is None or place(one) > place(after)][:limit]

    def find(self, prefix: str, limit: int = 2) -> Sequence[Record]:
        if len(prefix) > 32 or not set(prefix.lower()) <= set("0123456789abcdef"):
            raise ValueError(f"no operation's name begins with {prefix!r}")
        found = [one for one in self._records() if one.name.hex().startswith(prefix.lower())]
        return sorted(found, key=lambda record: record.name)[:limit]

    def count(self, *, completed: bool = True) -> Mapping[tuple[str, State], int]:
        return Counter(
            (one.method, one.state) for one in self._records() if completed or one.state is not State.COMPLETED
        )

    def methods(self) -> Collection[str]:
        return {one.method for one in self._records()}

    def notes(self, name: bytes) -> Sequence[Note]:
        with self._database() as db:
            rows = db.execute("SELECT note FROM notes WHERE name = ? ORDER BY rowid", (name,)).fetchall()
        notes: list[Note] = [pickle.loads(note) for (note,) in rows]  # noqa: S301  # the file is the server's own
        return [note for note in notes if note.at is not None and note.at > self._now() - NOTES_KEPT]

    def resolve(
        self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta, note: Note | None = None
    ) -> bool:
        def resolves(entry: Entry) -> bool:
            if outcome is None:
                entry.gone = True
            else:
                self._finish(entry, outcome, ttl, resolved=True)
            return True

        return self._decide(name, fence, note, lambda entry: entry.record.state is State.HELD and resolves(entry))

    def forget(self, name: bytes, fence: bytes, note: Note | None = None) -> bool:
        def forgets(entry: Entry) -> bool:
            entry.gone = entry.record.state not in LEASED or entry.seen(self._now()).lapsed
            return entry.gone

        return self._decide(name, fence, note, forgets)

    def sweep(self, limit: int = 500) -> Swept:
        with self._database() as db:
            db.execute("DELETE FROM notes WHERE at <= ?", ((self._now() - NOTES_KEPT).timestamp(),))
        return super().sweep(limit)

    def _create(self, db: sqlite3.Connection) -> None:
        super()._create(db)
        db.execute("CREATE TABLE IF NOT EXISTS notes (name BLOB, at REAL, note BLOB)")

    def _records(self) -> Sequence[Record]:
        with self._database() as db:
            return [entry.seen(self._now()) for entry in self._all(db) if not entry.expired(self._now())]

    def _decide(self, name: bytes, fence: bytes, note: Note | None, decides: Callable[[Entry], bool]) -> bool:
        """What an operator does, and the note on it, in one transaction."""
        with self._database() as db:
            now, entry = self._now(), self._find(db, name)
            if entry is None or entry.record.fence != fence or not decides(entry):
                return False
            self._put(db, entry)
            if note is not None:
                kept = pickle.dumps(replace(note, at=now))
                db.execute("INSERT INTO notes VALUES (?, ?, ?)", (name, now.timestamp(), kept))
            return True


def from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> OwnOperatorStore:
    """Makes the store of ``own:///FILE`` or ``own:////FOLDER/FILE``."""
    url.settings({})  # it has no options, and refuses all
    path = Path(unquote(url.address.removeprefix("///")))
    if not migrate and not path.is_file():
        raise StoreUnusable(f"{path}: there is no such file")
    return OwnOperatorStore(path)
