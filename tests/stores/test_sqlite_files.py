"""Files that can't be used, or not now: each gives one clear error, and loses nothing (6.2)."""

# ruff: noqa: ASYNC240  # nothing else runs while a test prepares its files

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.errors import PolicyError, StoreUnavailable, StoreUnusable
from grpc_idempotency.records import Code, Outcome
from grpc_idempotency.stores._sqlite.connection import _wal_mode
from grpc_idempotency.stores._sqlite.tables import _corrupts
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim, keyed

from .conftest import Make, MakeBlocking
from .operations import on_thread


@contextmanager
def other_connection(path: Path) -> Iterator[sqlite3.Connection]:
    """What an embedder or an operator might do to the file beside the store."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


@pytest.mark.parametrize("path", [":memory:", "", "file:x.db?mode=memory"])
def test_a_database_in_memory_is_refused(path: str) -> None:
    """With a pointer to the store that is made for it."""
    with pytest.raises(PolicyError, match=r"stores\.memory"):
        AsyncSQLiteStore(path)


@pytest.mark.parametrize("options", [{"table_prefix": "x; --"}, {"table_prefix": ""}, {"table_prefix": "sqlite_"}])
def test_a_prefix_that_is_no_name_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="table_prefix"):
        AsyncSQLiteStore("x.db", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"synchronous": "OFF"},
        {"synchronous": "full"},
        *[{"foreign_keys": value} for value in (1, None, "yes")],
        *[{"busy_timeout": value} for value in (-timedelta(seconds=1), timedelta.max, timedelta(days=2), 5, None)],
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        AsyncSQLiteStore("x.db", **options)


@pytest.mark.parametrize("options", [{"synchronous": "NORMAL"}, {"foreign_keys": True}])
async def test_stores_on_one_file_must_agree(make: Make, store: AsyncSQLiteStore, options: dict[str, Any]) -> None:
    """They share one connection, which can have only one setting."""
    with pytest.raises(PolicyError, match="other settings"):
        await make(**options).open()


async def test_two_paths_to_one_file_are_one_writer(
    make: Make, store: AsyncSQLiteStore, path: Path, tmp_path: Path
) -> None:
    """Links of both kinds lead to the same connection."""
    (tmp_path / "soft.db").symlink_to(path)
    (tmp_path / "hard.db").hardlink_to(path)
    others = [make(tmp_path / "soft.db"), make(tmp_path / "hard.db"), make(str(path.parent / "." / path.name))]
    for other in others:
        await other.open()
        assert other._writer is store._writer


async def test_a_foreign_file_is_named(make: Make, path: Path) -> None:
    """And left as it is."""
    path.write_bytes(b"not a database, but long enough to be looked at " * 100)
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=rf"{path.name} is not an SQLite database"):
        await make().open()
    assert path.read_bytes() == before


async def test_a_folder_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="is a folder"):
        await make(tmp_path).open()


async def test_a_missing_folder_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"the folder .*/nowhere does not exist"):
        await make(tmp_path / "nowhere" / "x.db").open()


async def test_a_corrupt_file_is_named(make: Make, path: Path) -> None:
    """Whether it shows at the opening or later."""
    store = make()
    claims = [a_claim() for _ in range(200)]
    await asyncio.gather(*map(store.claim, claims))
    await store.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = os.urandom(len(damaged) - 4096)
    path.write_bytes(damaged)
    store = make()
    with pytest.raises(StoreUnusable, match="is damaged"):
        await store.claim(claims[0])
    with pytest.raises(StoreUnusable, match="is damaged"):
        await store.get(claims[0].name)


async def test_a_store_that_failed_to_open_tries_again(make: Make, path: Path) -> None:
    """Once an operator has made room for it."""
    path.mkdir()
    store = make()
    with pytest.raises(StoreUnusable):
        await store.claim(a_claim())
    path.rmdir()
    assert await store.claim(a_claim()) is None


@pytest.mark.parametrize("started", [0, 1], ids=["the thread that opens it", "the writer's own"])
async def test_a_file_that_no_thread_can_be_started_for(
    make: Make, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be started the store is unavailable, and as good as ever once one can be (5.5)."""
    left, start = [started], threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    store = make()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", scarce)
        with pytest.raises(StoreUnavailable):
            await store.claim(a_claim())
    assert await store.claim(a_claim()) is None


async def test_a_newer_version_is_refused(make: Make, path: Path) -> None:
    """Rather than written to; the older program's operator is told what to do."""
    store = make()
    await store.open()
    await store.close()
    with other_connection(path) as db:
        db.execute("UPDATE grpc_idempotency_meta SET value = 99 WHERE key = 'version'")
    with pytest.raises(StoreUnusable, match=r"tables of version 99.*upgrade grpc-idempotency"):
        await make().open()


async def test_a_locked_file_is_waited_for(
    store: AsyncSQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim waits for the lock, within the busy timeout."""
    waits = threading.Event()

    def jitter(low: float, high: float) -> float:
        waits.set()
        return high

    monkeypatch.setattr("grpc_idempotency.stores._sqlite.turns.uniform", jitter)
    with other_connection(path) as db:
        db.execute("BEGIN IMMEDIATE")
        claiming = asyncio.ensure_future(store.claim(a_claim()))
        assert await asyncio.to_thread(waits.wait, 10)
        db.execute("COMMIT")
        assert await claiming is None


async def test_a_file_that_stays_locked_is_unavailable(make: Make, path: Path) -> None:
    """After the busy timeout, and certainly without effect; what can be read is read."""
    store = make(busy_timeout=timedelta(milliseconds=20))
    first, second = a_claim(), a_claim()
    await store.claim(first)
    with other_connection(path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="stayed locked") as caught:
            await store.claim(second)
        assert caught.value.landed is False
        assert not isinstance(caught.value, StoreUnusable)
        assert await store.get(first.name) is not None
    assert await store.get(second.name) is None
    assert await store.claim(second) is None


async def test_a_file_that_is_locked_at_opening_is_unavailable(make: Make, path: Path) -> None:
    """It can be opened later."""
    with other_connection(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        store = make(busy_timeout=timedelta(milliseconds=20))
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.open()
    await store.open()


async def test_a_full_disk_refuses_claims_until_there_is_room(store: AsyncSQLiteStore) -> None:
    """Once an outcome did not fit, nothing is begun whose outcome would not fit either; then all goes on."""
    claim, large = a_claim(), Outcome(status=Code.OK, message=bytes(1 << 20))
    await store.claim(claim)
    await _limit(store, extra=20)
    with pytest.raises(StoreUnavailable, match="the disk is full") as caught:
        await store.complete(claim.name, claim.fence, large, TTL)
    assert caught.value.landed is False
    refused = a_claim()
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await store.claim(refused)
    assert await store.get(refused.name) is None
    record = await store.get(claim.name)
    assert record is not None
    assert record.fence == claim.fence
    await _limit(store, extra=2000)
    assert store._tables is not None
    store._tables.probe_at = 0.0
    assert await store.claim(refused) is None
    assert await store.complete(claim.name, claim.fence, large, TTL)
    with other_connection(Path(store.path)) as db:
        assert db.execute("SELECT count(*) FROM grpc_idempotency_meta WHERE key = 'probe'").fetchone() == (0,)


async def test_what_does_not_fit_hurts_nobody_else(store: AsyncSQLiteStore) -> None:
    """In one group: the large outcome fails, the small ones beside it are stored."""
    claims = [a_claim() for _ in range(10)]
    await asyncio.gather(*map(store.claim, claims))
    await _limit(store, extra=20)
    outcomes = [Outcome(status=Code.OK, message=bytes(1 << 20)), *[OUTCOME] * 9]
    answers = await asyncio.gather(
        *(store.complete(c.name, c.fence, o, TTL) for c, o in zip(claims, outcomes, strict=True)),
        return_exceptions=True,
    )
    assert isinstance(answers[0], StoreUnavailable)
    assert all(answers[1:])


async def _limit(store: AsyncSQLiteStore, *, extra: int) -> None:
    """Lets the database grow by so many pages and no more, as a full disk does."""

    def limit(db: sqlite3.Connection) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + extra}")

    await on_thread(store, limit)


@contextmanager
def nobody(path: Path) -> Iterator[None]:
    """Without root's rights, where we have them."""
    if os.geteuid() != 0:
        yield
        return
    for folder in path.parents:
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions to test")
async def test_a_read_only_file_is_named(make: Make, path: Path) -> None:
    """With what to do about it."""
    store = make()
    await store.open()
    await store.close()
    path.chmod(0o444)
    with nobody(path), pytest.raises(StoreUnusable, match=r"is read-only: make the file, .* writable"):
        await store.claim(a_claim())
    path.chmod(0o644)
    assert await store.claim(a_claim()) is None


async def test_the_store_lives_in_an_embedders_database(make: Make, path: Path) -> None:
    """Its tables, its user_version and its settings stay as they were."""
    with other_connection(path) as db:
        db.execute("CREATE TABLE operations (id)")
        db.execute("INSERT INTO operations VALUES (1)")
        db.execute("PRAGMA user_version = 42")
    store = make(table_prefix="idem_")
    assert await store.claim(a_claim()) is None
    await store.close()
    with other_connection(path) as db:
        assert db.execute("SELECT * FROM operations").fetchall() == [(1,)]
        assert db.execute("PRAGMA user_version").fetchone() == (42,)
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'")}
        assert {name for name in names if not name.startswith("idem_")} == {"operations"}


async def test_prefixes_keep_stores_apart(make: Make) -> None:
    """Two stores in one file, by one writer, that know nothing of each other."""
    one, other = make(), make(table_prefix="other_")
    claim = a_claim()
    assert not any(await asyncio.gather(one.claim(claim), other.claim(claim)))
    assert one._writer is other._writer
    assert None not in (one.identity, other.identity)
    assert one.identity != other.identity


async def test_each_file_has_an_identity_of_its_own(make: Make, make_blocking: MakeBlocking, path: Path) -> None:
    """It is the same for every store on the file, and in a copy. A store on another file keeps its transaction apart,
    also one that was not open.
    """
    one, elsewhere, twin = make(), make(path.with_name("elsewhere.db")), make_blocking()
    await one.open()
    await asyncio.to_thread(twin.open)
    assert one.identity == twin.identity
    claim = a_claim()
    assert await one.claim(claim) is None
    async with keyed(one, claim) as operation:
        await elsewhere.transaction(lambda db: db.execute("CREATE TABLE t (x)"))
        assert operation.committed is None
    assert None is not elsewhere.identity != one.identity
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(path.with_name("copy.db"))) as copy:
        db.backup(copy)
    copied = make(path.with_name("copy.db"), read_only=True)
    await copied.open()
    assert copied.identity == one.identity


async def test_a_new_file_gives_space_back(store: AsyncSQLiteStore, clock: Any, path: Path) -> None:
    """A file that the store has made shrinks after a sweep, and the sweep says by how much."""
    large = Outcome(status=Code.OK, message=bytes(64 << 10))
    claims = [a_claim() for _ in range(20)]
    await asyncio.gather(*map(store.claim, claims))
    await asyncio.gather(*(store.complete(one.name, one.fence, large, TTL) for one in claims))
    clock.elapse(TTL)
    swept = await store.sweep()
    assert swept.deleted == 20
    assert swept.freed_bytes >= 512 << 10


def test_versions_with_the_wal_bug_are_known() -> None:
    """SQLite has fixed it in 3.51.3, and in 3.44.6 and 3.50.7 (6.2)."""
    assert all(map(_corrupts, [(3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 2)]))
    assert not any(map(_corrupts, [(3, 44, 6), (3, 44, 9), (3, 50, 7), (3, 51, 3), (3, 52, 0), (4, 0, 0)]))


class Beginning(sqlite3.Connection):
    """A connection to a file that another process begins, too: SQLite refuses the first tries at WAL mode at once."""

    refused = 0

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql.startswith("PRAGMA journal_mode") and self.refused < 3:
            self.refused += 1
            raise sqlite3.OperationalError("database is locked")
        return super().execute(sql, parameters)


def test_a_file_that_others_begin_at_the_same_time(tmp_path: Path) -> None:
    """WAL mode is tried again, within the patience that a store has, and not longer (6.2)."""
    with closing(sqlite3.connect(tmp_path / "new.db", factory=Beginning)) as db:
        assert _wal_mode(db, 60.0) == "wal"
        db.refused = 0
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            _wal_mode(db, 0.0)
