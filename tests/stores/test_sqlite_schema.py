"""Stores that must not create or migrate tables, and the SQL with which an operator does it (6.2)."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from grpc_idempotency.errors import PolicyError, StoreUnusable
from grpc_idempotency.stores._sqlite import sql
from grpc_idempotency.testing import OUTCOME, TTL, a_claim

from .conftest import Make


async def test_a_missing_file_is_not_made(make: Make, path: Path) -> None:
    """Neither by ``open``, nor by a call; the error says what to do."""
    store = make(migrate=False)
    for call in (store.open, store.list):
        with pytest.raises(StoreUnusable, match=r"does not exist.*migrate=False"):
            await call()
    assert not path.exists()  # noqa: ASYNC240  # nothing else runs


async def test_missing_tables_are_refused(make: Make, path: Path) -> None:
    """None is made; the error says how to get the SQL. Another store may make them, and then it opens."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")
    store = make(migrate=False)
    with pytest.raises(StoreUnusable, match=r"holds no operations.*migrate=False.*`grpc-idempotency schema`"):
        await store.open()
    assert tables(path) == {"mine"}
    await make().open()
    await store.open()
    assert await store.list() == []


async def test_old_tables_are_refused(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay as they are until an operator has migrated them."""
    old = make()
    claim = a_claim()
    assert await old.claim(claim) is None
    await old.close()
    statements, scripts = sql._sources()
    newer = (*scripts, "-- A second version; of the tests.\nCREATE TABLE {p}more (x);\n")
    monkeypatch.setattr(sql, "_sources", lambda: (statements, newer))
    store = make(migrate=False)
    with pytest.raises(StoreUnusable, match=r"older version, 1 and not 2.*migrate=False"):
        await store.open()
    assert "grpc_idempotency_more" not in tables(path)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(store.ddl(since=1))
    await store.open()
    assert (await store.list())[0].name == claim.name
    assert "grpc_idempotency_more" in tables(path)


async def test_the_printed_sql_makes_the_same_tables(make: Make, path: Path) -> None:
    """As a store makes them, and no others; with its prefix."""
    made, printed = path.with_name("made.db"), path
    await make(made, table_prefix="idem_").open()
    store = make(migrate=False, table_prefix="idem_")
    with closing(sqlite3.connect(printed)) as db:
        db.executescript(store.ddl())
    assert tables(printed) == tables(made)
    claim = a_claim()
    assert await store.claim(claim) is None
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert store.identity
    with closing(sqlite3.connect(printed)) as one, closing(sqlite3.connect(made)) as other:
        sources = "SELECT name, sql FROM sqlite_schema ORDER BY name"
        assert one.execute(sources).fetchall() == other.execute(sources).fetchall()


def test_a_version_that_there_is_not(make: Make) -> None:
    """It is told, rather than answered with nothing."""
    for since in (-1, 99):
        with pytest.raises(PolicyError):
            make().ddl(since=since)


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        return {name for (name,) in found}
