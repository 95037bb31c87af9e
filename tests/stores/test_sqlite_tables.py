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
from grpc_idempotency.stores._sqlite import looking
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import TTL, a_claim

from .conftest import Make
from .operations import traced

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


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("state", State)
async def test_a_list_is_a_range_of_an_index(store: AsyncSQLiteStore, state: State, newest_first: bool) -> None:
    """For each method and state; nothing is sorted but what was claimed in one and the same millisecond (6.4)."""
    for method in ("/a.B/One", "/a.B/Two"):
        await put(store, state, method)
    statements = await traced(store)
    assert len(await store.list(state=state, method="/a.B/Two", newest_first=newest_first)) == 1
    (scan,) = [one for one in statements if "BETWEEN" in one]
    details = await plan(store, scan)
    if state is State.COMPLETED:
        assert details[0].startswith(
            "SEARCH grpc_idempotency_operations USING INDEX grpc_idempotency_operations_done "
            "(method=? AND created_ms>? AND created_ms<?)"
        )
        assert len(details) == 2
        assert "LAST TERM" in details[1] or "RIGHT PART" in details[1]
    else:
        assert details == [
            "SEARCH grpc_idempotency_operations USING INDEX grpc_idempotency_operations_open "
            "(state=? AND method=? AND created_ms>? AND created_ms<?)"
        ]


async def test_other_questions_of_operators_use_indexes(store: AsyncSQLiteStore) -> None:
    """Searches, counts and the ranges of a list read an index, or a part of one (6.4)."""
    for state in State:
        await put(store, state, "/a.B/One")
    statements = await traced(store)
    await store.find("ab")
    await store.count()
    await store.list()
    asked = {
        "name BETWEEN": "USING INDEX grpc_idempotency_operations_name (name>? AND name<?)",
        "GROUP BY state, method": "USING COVERING INDEX grpc_idempotency_operations_open",
        "OFFSET": "USING COVERING INDEX grpc_idempotency_operations_done (method=? AND created_ms>?)",
        "count(CASE": "USING COVERING INDEX grpc_idempotency_operations_done (method=? AND created_ms>? AND ",
        "state <> 1 AND method >": "USING COVERING INDEX grpc_idempotency_operations_open (state=? AND method>?)",
        "IS NOT NULL AND method >": "USING COVERING INDEX grpc_idempotency_operations_done (method>?)",
    }
    for words, expected in asked.items():
        statement = next(one for one in statements if words in one)
        assert expected in (await plan(store, statement))[0]


async def put(store: AsyncSQLiteStore, state: State, method: str) -> None:
    claim = a_claim(method=method)
    await store.claim(claim)
    if state is State.COMPLETED:
        await store.complete(claim.name, claim.fence, Outcome(status=Code.OK), TTL)
    elif state is State.HELD:
        await store.hold(claim.name, claim.fence, "its server is gone")
    elif state is State.WAITING:
        await store.wait(claim.name, claim.fence, TTL, 1, 0)
    elif state is State.UNDOING:
        await store.undo(claim.name, claim.fence, Outcome(status=Code.ABORTED))


async def plan(store: AsyncSQLiteStore, statement: str) -> list[str]:
    """How SQLite runs a statement, whose parameters are written out."""
    rows = await store.read(lambda db: db.execute("EXPLAIN QUERY PLAN " + statement).fetchall())
    return [row[3] for row in rows]


async def test_a_list_of_what_is_held_reads_nothing_else(make: Make, path: Path) -> None:
    """It takes SQLite as many steps among ten thousand completed operations as among none, within a few (6.4)."""
    store = make(synchronous="NORMAL")
    for _ in range(3):
        claim = a_claim()
        await store.claim(claim)
        await store.hold(claim.name, claim.fence, "its server is gone")
    alone = _steps_of_a_list(path, _tables(store))
    await complete_many(store, 10_000)
    assert _steps_of_a_list(path, _tables(store)) < alone + 100


def _steps_of_a_list(path: Path, tables: Any) -> int:
    """How many instructions of SQLite's machine a list of the three held operations takes."""
    taken: list[int] = []

    def count() -> None:
        taken.append(1)

    asked = ListRequest(None, 100, state=State.HELD)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.set_progress_handler(count, 1)
        looking.list_part(db, tables, asked)
    records, _behind = asked.value
    assert [record.state for record in records] == [State.HELD] * 3
    return len(taken)


def _tables(store: AsyncSQLiteStore) -> Any:
    assert store._tables is not None
    return store._tables
