"""Methods have numbers in the file (docs/decisions/016)."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable, Unstorable
from grpc_idempotency.records import Claim
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim, keyed

from .conftest import Make
from .operations import on_thread, together, traced

Way = Callable[[], Awaitable[Any]]


async def test_each_method_is_written_once(store: AsyncSQLiteStore, make: Make, path: Path) -> None:
    """However many operations, stores and processes there are; a later claim of it looks for nothing."""
    methods = [f"/a.B/M{n % 3}" for n in range(30)]
    await asyncio.gather(*(store.claim(a_claim(method=method)) for method in methods))
    statements = await traced(store)
    await store.claim(a_claim(method="/a.B/M1"))
    assert not [one for one in statements if "methods" in one]
    await store.close()
    another = make()
    claims = [a_claim(method=method) for method in (*methods, "/a.B/New")]
    await asyncio.gather(*map(another.claim, claims))
    assert [one.method for one in await another.list(limit=100)].count("/a.B/M2") == 20
    for claim in claims:
        record = await another.get(claim.name)
        assert record is not None
        assert record.method == claim.method
    assert names(path) == {"/a.B/M0", "/a.B/M1", "/a.B/M2", "/a.B/New"}


async def test_another_process_may_write_it_first(store: AsyncSQLiteStore, path: Path) -> None:
    """Then its number is used."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO grpc_idempotency_methods (id, name) VALUES (77, '/a.B/Theirs')")
    claim = a_claim(method="/a.B/Theirs")
    await store.claim(claim)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT method FROM grpc_idempotency_operations").fetchall() == [(77,)]
    assert [one.name for one in await store.list(method="/a.B/Theirs")] == [claim.name]


async def test_a_take_over_may_bring_a_new_one(store: AsyncSQLiteStore, clock: Any) -> None:
    """It never does in a server, where the method is a part of the name; the store keeps what it is given."""
    first = a_claim()
    await store.claim(first)
    clock.elapse(first.lease)
    second = replace(a_claim(first.name), method="/a.B/New")
    assert await store.claim(second, over=first.fence) is None
    record = await store.get(first.name)
    assert record is not None
    assert record.method == "/a.B/New"


@pytest.mark.parametrize("method", ["\ud800", [1], None])
@pytest.mark.parametrize("how", ["claim", "complete", "transaction"])
async def test_a_method_that_can_t_be_stored(store: AsyncSQLiteStore, method: Any, how: str) -> None:
    """It is the error of its own request, and nobody else's (5.5)."""
    odd = a_claim(method=method)

    async def pay(claim: Claim) -> str:
        async with keyed(store, claim, unclaimed=True):
            return await store.transaction(lambda db: "paid")

    ways: dict[str, Way] = {
        "claim": lambda: store.claim(odd),
        "complete": lambda: store.complete_unclaimed(odd, OUTCOME, TTL),
        "transaction": lambda: pay(odd),
    }
    others = [a_claim(), a_claim(), a_claim(method="/a.B/New")]
    answers = await together(
        store, lambda: store.claim(others[0]), ways[how], lambda: pay(others[1]), lambda: store.claim(others[2])
    )
    error = answers.pop(1)
    assert isinstance(error, Unstorable)
    assert error.landed is False
    assert answers == [None, "paid", None]
    assert {one.name for one in await store.list()} == {one.name for one in others}


async def test_a_locked_file(store: AsyncSQLiteStore, make: Make, path: Path) -> None:
    """As any other write: after the patience that the store was given, all that waited is refused; later it works."""
    await store.close()
    impatient = make(busy_timeout=(a_claim().lease / 1000))
    await impatient.open()
    claims = [a_claim(method=f"/a.B/M{n}") for n in range(5)]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        answers = await asyncio.gather(*map(impatient.claim, claims), return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable) and one.landed is False for one in answers)
        db.execute("ROLLBACK")
    assert await asyncio.gather(*map(impatient.claim, claims)) == [None] * 5


async def test_a_name_that_is_lost(store: AsyncSQLiteStore) -> None:
    """Somebody has deleted it: its operations are still replayed, and listed without it."""
    claim = a_claim()
    await store.claim(claim)
    await on_thread(store, lambda db: db.execute("DELETE FROM grpc_idempotency_methods"))
    record = await store.claim(a_claim(claim.name))
    assert record is not None
    assert record.method == ""
    assert [one.fence for one in await store.list()] == [claim.fence]


def names(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {name for (name,) in db.execute("SELECT name FROM grpc_idempotency_methods")}
