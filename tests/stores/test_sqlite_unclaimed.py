"""What the SQLite stores do of their own in transactions of operations whose claims were not written (5.1)."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from grpc_idempotency.errors import FenceRefused, Unstorable
from grpc_idempotency.records import Claim, Effects
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import a_claim, keyed, outcome_of
from grpc_idempotency.transactions import Database

from .conftest import Make
from .operations import kept, together, traced


@pytest.fixture
async def store(make: Make) -> AsyncSQLiteStore:
    """A store in whose database an embedder has a table."""
    store = make()
    await store.transaction(lambda db: db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)"))
    return store


async def pay(store: AsyncSQLiteStore, claim: Claim, order: str, runs: list[str] | None = None) -> str:
    """A handler whose transaction is its reply."""

    def fn(db: Database) -> str:
        db.execute("INSERT INTO orders VALUES (?)", (order,))
        if runs is not None:
            runs.append(order)
        return order

    async with keyed(store, claim, unclaimed=True):
        return await store.transaction(fn)


async def orders(store: AsyncSQLiteStore) -> list[str]:
    return await store.read(lambda db: [row[0] for row in db.execute("SELECT id FROM orders ORDER BY id").fetchall()])


async def test_rows_and_record_are_one_commit(store: AsyncSQLiteStore) -> None:
    """With one look and one insert beside the handler's own statements."""
    await store.claim(a_claim())
    statements = await traced(store)
    await pay(store, a_claim(effects=Effects.TRANSACTIONAL), "a")
    assert statements[0] == "BEGIN IMMEDIATE"
    assert [one.split()[0] for one in statements[1:]] == ["SELECT", "INSERT", "INSERT", "COMMIT"]


async def test_many_operations_share_a_look_an_insert_and_a_commit(store: AsyncSQLiteStore) -> None:
    """50 at once; only the handlers' own statements, and their savepoints, are one for each."""
    await store.claim(a_claim())
    statements = await traced(store)
    async with kept(store):
        tasks = [asyncio.create_task(pay(store, a_claim(), f"{n:02}")) for n in range(50)]
    await asyncio.gather(*tasks)
    own = ("INSERT INTO orders", "SAVEPOINT", "RELEASE")
    # A statement with a trigger is traced again for each row.
    ours = dict.fromkeys(one for one in statements if not one.lstrip().startswith((*own, "--")))
    assert [one.split()[0] for one in ours] == ["BEGIN", "SELECT", "INSERT", "COMMIT"]


async def test_two_runs_in_one_group_have_one_effect(store: AsyncSQLiteStore, make: Make) -> None:
    """Those of two stores on one file: only the first one's function runs, and the second is refused."""
    other, claim, runs = make(), a_claim(), list[str]()
    await other.open()
    answers = await together(
        store,
        lambda: pay(store, claim, "a", runs),
        lambda: pay(other, a_claim(claim.name), "b", runs),
        lambda: pay(store, a_claim(), "c", runs),
    )
    assert (answers[0], type(answers[1]), answers[2]) == ("a", FenceRefused, "c")
    assert sorted(runs) == ["a", "c"]
    assert await orders(store) == ["a", "c"]


async def test_the_second_run_in_a_group_commits_if_the_first_can_not(store: AsyncSQLiteStore, path: Path) -> None:
    """The first fails when its record is written: no record stands in the second one's way then."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TRIGGER t BEFORE INSERT ON grpc_idempotency_operations WHEN new.message = x'61' "
            "BEGIN SELECT RAISE(ABORT, 'not this'); END"
        )
    claim = a_claim()
    answers = await together(store, lambda: pay(store, claim, "a"), lambda: pay(store, a_claim(claim.name), "b"))
    assert (type(answers[0]), answers[1]) == (Unstorable, "b")
    assert await orders(store) == ["b"]
    record = await store.get(claim.name)
    assert record is not None
    assert record.outcome == outcome_of("b")
