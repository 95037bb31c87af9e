"""What the tables cost: how much room a stored key takes, and what a look for the few that are open reads."""

import asyncio
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.records import Code, Fingerprint, Outcome, State
from grpc_idempotency.stores._calls.requests import ListRequest
from grpc_idempotency.stores._sqlite import reads
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import TTL, a_claim

from .conftest import Make

_CALLERS = 64


def same(digest: bytes) -> Fingerprint:
    """The fingerprint of a request whose bytes are in canonical form, as nearly all are."""
    return Fingerprint(raw=digest, canonical=digest)


async def complete_many(store: AsyncSQLiteStore, count: int, message: bytes = b"") -> None:
    """Completes so many operations, as 64 callers do, each one call after another."""
    outcome = Outcome(status=Code.OK, message=message)

    async def call(times: int) -> None:
        for _ in range(times):
            claim = replace(a_claim(), fingerprint=same(os.urandom(32)))
            await store.claim(claim)
            await store.complete(claim.name, claim.fence, outcome, TTL)

    await asyncio.gather(*(call(count // _CALLERS) for _ in range(_CALLERS)))


async def test_a_stored_key_takes_at_most_450_bytes(make: Make, path: Path) -> None:
    """With a reply of 200 bytes and a method's name of 40 characters, all indexes included."""
    store = make(synchronous="NORMAL")
    count = 64 * 200
    await complete_many(store, count, os.urandom(200))
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        (pages,), (size,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    assert pages * size / count <= 450


async def test_the_room_that_a_claim_makes_is_nobodys_message(make: Make) -> None:
    """It shows neither in a record that has no outcome, nor in a failure without a message."""
    store = make()
    first, second = a_claim(), a_claim()
    await store.claim(first)
    await store.complete(first.name, first.fence, Outcome(status=Code.OK, message=bytes(2000)), TTL)
    await store.claim(second)
    assert _tables(store).message_size > 0
    claimed = await store.get(second.name)
    assert claimed is not None
    assert claimed.outcome is None
    failure = Outcome(status=Code.ABORTED, details="no more")
    await store.undo(second.name, second.fence, failure)
    undoing = await store.get(second.name)
    assert undoing is not None
    assert undoing.failure == failure
    await store.complete(second.name, second.fence, failure, TTL)
    completed = await store.get(second.name)
    assert completed is not None
    assert completed.outcome == failure


OPEN = [state for state in State if state is not State.COMPLETED]


@pytest.mark.parametrize("state", OPEN)
async def test_a_list_of_what_is_open_uses_its_index(store: AsyncSQLiteStore, state: State) -> None:
    """In the order of age, without sorting."""
    asked, db = ListRequest(None, state, None, 100), _Listening()
    reads.list_part(db, _tables(store), asked)  # type: ignore[arg-type]  # quacks like a connection
    sql, parameters = db.asked
    plan = await store.transaction(lambda db: db.execute("EXPLAIN QUERY PLAN " + sql, parameters).fetchall())
    assert [row[3].split(" (")[0] for row in plan] == [
        "SEARCH grpc_idempotency_operations USING INDEX grpc_idempotency_operations_open"
    ]


async def test_a_list_of_what_is_held_reads_nothing_else(make: Make, path: Path) -> None:
    """It takes SQLite as many steps among ten thousand completed operations as among none, within a few (6.4)."""
    store = make(synchronous="NORMAL")
    for _ in range(3):
        claim = a_claim()
        await store.claim(claim)
        await store.hold(claim.name, claim.fence, "its server is gone")
    alone = _steps_of_a_list(path, _tables(store))
    await complete_many(store, 10_000)
    assert _steps_of_a_list(path, _tables(store)) < alone + 10


def _steps_of_a_list(path: Path, tables: Any) -> int:
    """How many instructions of SQLite's machine a list of the three held operations takes."""
    taken: list[int] = []

    def count() -> None:
        taken.append(1)

    asked = ListRequest(None, State.HELD, None, 100)
    with closing(sqlite3.connect(path)) as db:
        db.set_progress_handler(count, 1)
        reads.list_part(db, tables, asked)
    records, _behind = asked.value
    assert [record.state for record in records] == [State.HELD] * 3
    return len(taken)


class _Listening:
    """A connection that hears a statement, and has no rows."""

    def execute(self, sql: str, parameters: Any) -> "_Listening":
        self.asked = sql, parameters
        return self

    def fetchall(self) -> list[Any]:
        return []


def _tables(store: AsyncSQLiteStore) -> Any:
    assert store._tables is not None
    return store._tables
