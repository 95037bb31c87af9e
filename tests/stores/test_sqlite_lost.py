"""What is left of a file that vanished harms no other database, and no store makes it anew (6.2)."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim
from grpc_idempotency.transactions import Database

from .conftest import Make, MakeBlocking
from .operations import kept


def beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        beside(path, end).unlink()


def move(path: Path) -> None:
    path.rename(beside(path, ".moved"))


def replace(path: Path) -> None:
    with closing(sqlite3.connect(beside(path, ".new"))) as db:
        db.execute("CREATE TABLE other (x)")
    beside(path, ".new").replace(path)


def empty(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def remove_wal(path: Path) -> None:
    beside(path, "-wal").unlink()


def remove_shm(path: Path) -> None:
    beside(path, "-shm").unlink()


WAYS = [remove, remove_all, move, replace, empty, remove_folder, remove_wal, remove_shm]
GONE = [remove, remove_all, move]


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_acknowledged(store: AsyncSQLiteStore, path: Path, way: Callable[[Path], None]) -> None:
    """Neither writes nor reads, transactions or sweeps, and all that waited are told that nothing was written."""
    claim = a_claim()
    await store.claim(claim)
    async with kept(store):
        way(path)
        asked = asyncio.gather(
            store.complete(claim.name, claim.fence, OUTCOME, TTL),
            store.get(claim.name),
            store.sweep(),
            store.transaction(lambda db: db.execute("SELECT 1").fetchall()),
            return_exceptions=True,
        )
    for answer in await asked:
        assert isinstance(answer, StoreUnavailable)
        assert "while this process used it" in str(answer)
        assert answer.landed is False


@pytest.mark.parametrize("way", WAYS)
async def test_what_goes_during_a_group_is_uncertain(
    store: AsyncSQLiteStore, path: Path, way: Callable[[Path], None]
) -> None:
    """The file may go between the group's begin and its commit: then nobody can know what became of it."""

    def write(db: Database) -> None:
        db.execute("CREATE TABLE mine (x)")
        way(path)

    with pytest.raises(StoreUnavailable) as raised:
        await store.transaction(write)
    assert raised.value.landed is None


@pytest.mark.parametrize("way", GONE)
def test_a_missing_file_is_not_made_anew(make_blocking: MakeBlocking, path: Path, way: Callable[[Path], None]) -> None:
    """All its operations would be forgotten. That goes for every store of the process on it, open or not."""
    store = make_blocking()
    store.open()
    way(path)
    with pytest.raises(StoreUnusable, match="put it back"):
        make_blocking().open()
    with pytest.raises(StoreUnavailable):
        store.claim(a_claim())
    for again in (store, make_blocking()):
        with pytest.raises(StoreUnusable, match="put it back"):
            again.claim(a_claim())
    assert not path.exists()


def test_a_file_that_comes_back_is_used(make_blocking: MakeBlocking, path: Path) -> None:
    """With all that was acknowledged, though the -wal file had it."""
    store, other = make_blocking(), make_blocking()
    claim = a_claim()
    store.claim(claim)
    other.open()
    move(path)
    for one in (store, other):
        with pytest.raises(StoreUnavailable):
            one.get(claim.name)
    beside(path, ".moved").rename(path)
    for one in (store, other):
        record = one.get(claim.name)
        assert record is not None
        assert record.fence == claim.fence
    assert store._writer is other._writer


async def test_what_was_acknowledged_goes_along_with_a_moved_file(store: AsyncSQLiteStore, path: Path) -> None:
    """Out of the -wal file, which stays behind empty and so harms no other database that comes to the path."""
    claim = a_claim()
    await store.claim(claim)
    move(path)
    with pytest.raises(StoreUnavailable):
        await store.get(claim.name)
    assert beside(path, "-wal").stat().st_size == 0
    with closing(sqlite3.connect(beside(path, ".moved"))) as db:
        assert db.execute("SELECT count(*) FROM grpc_idempotency_operations").fetchone() == (1,)


async def test_another_database_in_its_place_is_used(store: AsyncSQLiteStore, path: Path) -> None:
    """It gets the tables that it lacks, and nothing of the database before it."""
    claim = a_claim()
    await store.claim(claim)
    replace(path)
    with pytest.raises(StoreUnavailable, match="was removed, replaced"):
        await store.get(claim.name)
    assert await store.get(claim.name) is None
    assert await store.claim(claim) is None
    assert await store.read(lambda db: db.execute("PRAGMA table_info(other)").fetchall())


async def test_a_foreign_file_in_its_place_is_refused(store: AsyncSQLiteStore, path: Path) -> None:
    beside(path, ".new").write_bytes(b"not a database, but long enough to be looked at " * 100)
    beside(path, ".new").replace(path)
    with pytest.raises(StoreUnavailable, match="was removed, replaced"):
        await store.claim(a_claim())
    with pytest.raises(StoreUnusable, match="is not an SQLite database"):
        await store.claim(a_claim())


def test_a_store_that_opens_first_after_it_waits_for_the_old_one(make_blocking: MakeBlocking, path: Path) -> None:
    """Another store of the process is busy, so that it has not noticed yet, and its -wal file is not emptied."""
    store, claim = make_blocking(), a_claim()
    store.claim(claim)
    writer = store._writer
    assert writer is not None
    busy, opened = threading.Event(), threading.Event()

    def keep_busy(_db: Database) -> None:
        busy.set()
        assert opened.wait(60)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read, keep_busy)
        assert busy.wait(60)
        replace(path)
        with pytest.raises(StoreUnusable, match="belongs to the database before it"):
            make_blocking().open()
        opened.set()
        with pytest.raises(StoreUnavailable, match="was removed, replaced"):
            reading.result()
    assert writer.closed.wait(60)
    assert make_blocking().get(claim.name) is None
    assert store.get(claim.name) is None


async def test_a_wal_file_of_another_database_is_refused(store: AsyncSQLiteStore, path: Path) -> None:
    """SQLite would write it into the one that is there now. A reader has kept the store from emptying it."""
    await store.claim(a_claim())
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM grpc_idempotency_operations").fetchone()
        await store.claim(a_claim())
        replace(path)
        for words in ("was removed, replaced", "the -wal file there belongs to the database before it"):
            with pytest.raises(StoreUnavailable, match=words):
                await store.claim(a_claim())
        remove_wal(path)
        remove_shm(path)
        assert await store.claim(a_claim()) is None


async def test_a_link_that_leads_elsewhere_is_followed(make: Make, path: Path, tmp_path: Path) -> None:
    """The path that the store was given is another file's now."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    store = make(link)
    claim = a_claim()
    await store.claim(claim)
    link.unlink()
    link.symlink_to(tmp_path / "second.db")
    with pytest.raises(StoreUnavailable):
        await store.get(claim.name)
    with pytest.raises(StoreUnusable, match="put it back"):
        await store.get(claim.name)
    sqlite3.connect(tmp_path / "second.db").close()
    with closing(sqlite3.connect(tmp_path / "second.db")) as db:
        db.execute("CREATE TABLE other (x)")
    assert await store.get(claim.name) is None


async def test_the_wal_file_shrinks_again(store: AsyncSQLiteStore, path: Path) -> None:
    """Once whoever read for long is gone, while the process lives."""
    await store.transaction(lambda db: db.execute("CREATE TABLE mine (x)"))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM mine").fetchone()
        await store.transaction(lambda db: db.execute("INSERT INTO mine VALUES (zeroblob(20000000))"))
        assert beside(path, "-wal").stat().st_size > 16 << 20
        reader.execute("ROLLBACK")
        assert store._writer is not None
        store._writer._shrink_at = 0.0
        await store.sweep()
        await store.close()  # waits for the moment in which nothing else was to be done
        assert beside(path, "-wal").stat().st_size <= 8 << 20
