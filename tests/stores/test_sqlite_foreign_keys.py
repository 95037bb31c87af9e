"""The foreign keys of the embedder's own tables (6.2)."""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from grpc_idempotency.records import State
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore
from grpc_idempotency.testing import a_claim, a_step, keyed
from grpc_idempotency.transactions import Database

from .conftest import Make
from .operations import together

TABLES = [
    "CREATE TABLE users (id INTEGER PRIMARY KEY)",
    "INSERT INTO users VALUES (1)",
    "CREATE TABLE payments (user INTEGER NOT NULL REFERENCES users (id))",
    "CREATE TABLE notes (user INTEGER NOT NULL REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED)",
]
KINDS = ["payments", "notes"]


def create(db: Database) -> None:
    for sql in TABLES:
        db.execute(sql)


def adds(table: str, user: int) -> Callable[[Database], str]:
    def fn(db: Database) -> str:
        db.execute(f"INSERT INTO {table} VALUES (?)", (user,))
        return f"{table} of {user}"

    return fn


def users(db: Database, table: str) -> list[int]:
    return [row[0] for row in db.execute(f"SELECT user FROM {table}").fetchall()]


@pytest.fixture
async def store(make: Make) -> AsyncSQLiteStore:
    store = make(foreign_keys=True)
    await store.transaction(create)
    return store


@pytest.mark.parametrize("table", KINDS)
async def test_an_orphan_is_refused(store: AsyncSQLiteStore, table: str) -> None:
    """By its own error, at once or at the commit; what is right is kept."""
    await store.transaction(adds(table, 1))
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        await store.transaction(adds(table, 4711))
    await store.transaction(adds(table, 1))
    assert await store.read(lambda db: users(db, table)) == [1, 1]


@pytest.mark.parametrize("table", KINDS)
def test_on_threads(tmp_path: Any, table: str) -> None:
    """The same."""
    store = SQLiteStore(tmp_path / "own.db", foreign_keys=True)
    store.transaction(create)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        store.transaction(adds(table, 4711))
    assert store.read(lambda db: users(db, table)) == []
    store.close()


async def test_they_are_off_by_default(make: Make) -> None:
    """As they are in SQLite."""
    store = make()
    await store.transaction(create)
    await store.transaction(adds("payments", 4711))


@pytest.mark.parametrize("table", KINDS)
async def test_in_a_group_the_others_are_unharmed(store: AsyncSQLiteStore, table: str) -> None:
    """Only those that violate get the error, keep no outcome, no step and no row; claims of the group are won."""
    claims = [a_claim() for _ in range(6)]
    await asyncio.gather(*map(store.claim, claims))
    late = a_claim()

    async def pay(n: int) -> str:
        async with keyed(store, claims[n]):
            make_step = (lambda _: a_step("pay")) if n >= 4 else None
            return await store.transaction(adds(table, 4711 if n % 2 else 1), step=make_step)

    answers = await together(store, *[lambda n=n: pay(n) for n in range(6)], lambda: store.claim(late))
    assert [type(answer) for answer in answers] == [str, sqlite3.IntegrityError] * 3 + [type(None)]
    assert await store.read(lambda db: users(db, table)) == [1, 1, 1]
    records = [await store.get(claim.name) for claim in [*claims, late]]
    done, running = State.COMPLETED, State.RUNNING
    assert [record and record.state for record in records] == [done, running, done] + [running] * 4
    assert [len(await store.steps(claim.name)) for claim in claims[4:]] == [1, 0]


async def test_one_alone_in_its_group_with_claims(store: AsyncSQLiteStore) -> None:
    """A deferred violation is its transaction's, not the claims' beside it."""
    claim = a_claim()
    answers = await together(store, lambda: store.transaction(adds("notes", 4711)), lambda: store.claim(claim))
    assert isinstance(answers[0], sqlite3.IntegrityError)
    assert answers[1] is None
    assert await store.get(claim.name) is not None


async def test_a_deferred_key_may_be_met_later(store: AsyncSQLiteStore) -> None:
    """Within its transaction."""

    def fn(db: Database) -> None:
        adds("notes", 2)(db)
        db.execute("INSERT INTO users VALUES (2)")

    await store.transaction(fn)
    assert await store.read(lambda db: users(db, "notes")) == [2]
