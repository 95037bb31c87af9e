"""What ``store.transaction`` and ``store.read`` do on SQLite, beside what every store's do (5.1)."""

import asyncio
import functools
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency._operation.running import enter
from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency.errors import StoreUnavailable, StoreUnusable, TransactionMisuse
from grpc_idempotency.records import Claim
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import TTL, a_claim, keyed, outcome_of
from grpc_idempotency.transactions import Database

from .conftest import HandClock, Make
from .operations import on_thread


@pytest.fixture
async def store(make: Make) -> AsyncSQLiteStore:
    """A store in whose database an embedder has a table."""
    store = make()
    await store.transaction(lambda db: db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)"))
    return store


def insert(name: str) -> Callable[[Database], str]:
    def fn(db: Database) -> str:
        db.execute("INSERT INTO orders VALUES (?)", (name,))
        return name

    return fn


async def orders(store: AsyncSQLiteStore) -> list[str]:
    return await store.transaction(lambda db: [row[0] for row in db.execute("SELECT id FROM orders").fetchall()])


async def claimed(store: AsyncSQLiteStore) -> Claim:
    claim = a_claim()
    assert await store.claim(claim) is None
    return claim


class TestReads:
    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO orders VALUES ('b')",
            "UPDATE orders SET id = 'b'",
            "DELETE FROM orders",
            "CREATE TABLE more (x)",
            "CREATE TABLE more AS SELECT * FROM orders",
            "CREATE TEMP TABLE more (x)",
            "CREATE VIEW more AS SELECT * FROM orders",
            "CREATE INDEX more ON orders (id)",
            "ALTER TABLE orders ADD COLUMN more",
            "ALTER TABLE orders RENAME TO more",
            "DROP TABLE orders",
            "ANALYZE",
            "REINDEX",
            "WITH x AS (SELECT 1) INSERT INTO orders SELECT * FROM x",
            "EXPLAIN COMMIT",
        ],
    )
    async def test_nothing_can_be_written(self, store: AsyncSQLiteStore, sql: str) -> None:
        """Neither rows nor tables, caught or not, and although the same statement was run in a transaction before."""

        def schema(db: Database) -> list[Any]:
            return [
                db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
                for table in ("sqlite_master", "sqlite_temp_master")
            ]

        def swallowing(db: Database) -> None:
            with pytest.raises(TransactionMisuse):
                db.execute(sql)

        before = await store.read(schema)
        if "COMMIT" not in sql:
            with pytest.raises(ZeroDivisionError):
                await store.transaction(lambda db: (db.execute(sql), 1 // 0))
        with pytest.raises(TransactionMisuse):
            await store.read(lambda db: db.execute(sql))
        await store.read(swallowing)
        assert await store.read(schema) == before
        assert await orders(store) == []

    async def test_the_schema_may_be_read(self, store: AsyncSQLiteStore) -> None:
        """By those pragmas that only describe it; table-valued functions work."""

        def names(db: Database, sql: str) -> list[Any]:
            return [row[1] for row in db.execute(sql).fetchall()]

        for sql in ("PRAGMA table_info(orders)", "SELECT * FROM pragma_table_info('orders')"):
            assert await store.read(functools.partial(names, sql=sql)) == ["id"]
        assert await store.read(functools.partial(names, sql="SELECT key, value FROM json_each('[7]')")) == [7]
        with pytest.raises(TransactionMisuse, match="user_version"):
            await store.read(functools.partial(names, sql="SELECT * FROM pragma_user_version"))


class TestUnkeyed:
    async def test_what_the_function_raises_rolls_back(self, store: AsyncSQLiteStore) -> None:
        """The very exception comes out, with where it was raised."""

        def fn(db: Database) -> None:
            insert("a")(db)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine") as caught:
            await store.transaction(fn)
        assert caught.traceback[-1].name == "fn"
        assert await orders(store) == []

    async def test_a_statements_own_error_is_the_functions_to_catch(self, store: AsyncSQLiteStore) -> None:
        """A duplicate row is an sqlite3.IntegrityError, inside and outside; what is wrong in SQL is so too."""

        def fn(db: Database) -> str:
            insert("a")(db)
            with pytest.raises(sqlite3.IntegrityError):
                insert("a")(db)
            return "went on"

        assert await store.transaction(fn) == "went on"
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            await store.transaction(insert("a"))
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await store.transaction(lambda db: db.execute("SELECT * FROM nowhere"))

    async def test_a_failing_database_is_unavailable(self, store: AsyncSQLiteStore) -> None:
        """A full disk inside the function is the store's trouble, not the handler's."""
        await store.transaction(lambda db: db.execute("CREATE TABLE big (x)"))
        await _limit_to_what_there_is(store)
        with pytest.raises(StoreUnavailable, match="full"):
            await store.transaction(lambda db: db.execute("INSERT INTO big VALUES (zeroblob(10000000))"))
        assert await store.transaction(insert("small")) == "small"

    async def test_results_are_eager_plain_tuples(self, store: AsyncSQLiteStore) -> None:
        """execute, executemany, rowcount, lastrowid, fetchone and fetchall."""

        def fn(db: Any) -> None:
            many = db.executemany("INSERT INTO orders VALUES (?)", [("a",), ("b",), ("c",)])
            assert many.rowcount == 3
            assert db.execute("INSERT INTO orders VALUES ('d')").lastrowid == 4
            rows = db.execute("SELECT id FROM orders ORDER BY id")
            assert db.execute("DELETE FROM orders WHERE id > ?", ("b",)).rowcount == 2
            assert rows.fetchone() == ("a",)
            assert rows.fetchall() == [("b",), ("c",), ("d",)]
            assert rows.fetchone() is None
            assert rows.fetchall() == []
            assert rows.rowcount == -1

        await store.transaction(fn)


class TestMisuse:
    @pytest.mark.parametrize(
        "sql",
        [
            "BEGIN",
            "commit",
            " ;; END",
            "-- a comment\nROLLBACK",
            "/* a comment */ SAVEPOINT x",
            "RELEASE x",
            "ATTACH 'x' AS x",
            "DETACH x",
            "VACUUM",
            "PRAGMA synchronous = OFF",
            "PRAGMA defer_foreign_keys = ON",
            "\ufeffCOMMIT",
            ";\ufeff-- a comment\n\ufeffROLLBACK",
            "RELEASE grpc_idempotency",
            "ROLLBACK TO grpc_idempotency",
            "DELETE FROM grpc_idempotency_operations",
            "UPDATE GRPC_IDEMPOTENCY_meta SET value = 0",
            "DROP TABLE grpc_idempotency_steps",
            "DROP TRIGGER grpc_idempotency_operations_gone",
            "ALTER TABLE grpc_idempotency_peers ADD COLUMN x",
            "CREATE TEMP TABLE grpc_idempotency_operations (x)",
            "CREATE TRIGGER t AFTER INSERT ON grpc_idempotency_operations BEGIN SELECT 1; END",
        ],
    )
    async def test_transaction_control_is_refused(self, store: AsyncSQLiteStore, sql: str) -> None:
        """The commit is shared with others. What was done before is rolled back."""

        def fn(db: Database) -> None:
            insert("a")(db)
            db.execute(sql)

        with pytest.raises(TransactionMisuse):
            await store.transaction(fn)
        with pytest.raises(TransactionMisuse):
            await store.transaction(lambda db: db.executemany(sql, [()]))
        assert await orders(store) == []

    async def test_scripts_are_refused(self, store: AsyncSQLiteStore) -> None:
        """Two statements in one are not run."""
        with pytest.raises((sqlite3.Warning, sqlite3.ProgrammingError)):
            await store.transaction(lambda db: db.execute("DELETE FROM orders; COMMIT"))
        with pytest.raises(AttributeError):
            await store.transaction(lambda db: db.executescript("COMMIT"))  # type: ignore[attr-defined]  # that's it


class TestKeyed:
    async def test_a_cancelled_handlers_commit_is_known_to_the_operation(self, store: AsyncSQLiteStore) -> None:
        """So the interceptor does not take it for a handler that answered nothing."""
        claim = await claimed(store)
        ran = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with keyed(store, claim) as operation:

            def fn(db: Database) -> str:
                loop.call_soon_threadsafe(ran.set)
                return insert("a")(db)

            task = asyncio.create_task(store.transaction(fn))
            await ran.wait()
            task.cancel()
            await asyncio.wait([task])
        assert await store.get(claim.name) is not None  # answered after the group that stored it
        assert operation.committed == outcome_of("a")
        assert await orders(store) == ["a"]

    async def test_a_transaction_that_can_not_be_asked_ends_for_its_operation(self, tmp_path: Path) -> None:
        """Its store can't be opened: the operation has the error, and its end waits for nothing."""
        store = AsyncSQLiteStore(tmp_path / "nowhere" / "idempotency.db")
        async with keyed(store, a_claim()) as operation:
            with pytest.raises(StoreUnavailable) as raised:
                await store.transaction(insert("a"))
            assert operation.uncommitted is raised.value
        assert operation.committed is None

    async def test_a_transaction_of_a_store_that_only_reads_ends_for_its_operation(
        self, store: AsyncSQLiteStore, path: Path
    ) -> None:
        """It is refused as every write is."""
        reader = AsyncSQLiteStore(path, read_only=True)
        async with keyed(reader, await claimed(store)) as operation:
            with pytest.raises(StoreUnusable, match="read-only"):
                await reader.transaction(insert("a"))
        assert operation.committed is None
        assert await orders(store) == []
        await reader.close()

    def test_a_transaction_whose_callers_loop_has_stopped_ends_for_its_operation(
        self, path: Path, clock: HandClock
    ) -> None:
        """A handler on a thread may have a loop of its own, which nobody runs any more when the store answers."""
        asked, go = threading.Event(), threading.Event()
        store, claim = AsyncSQLiteStore(path, _clock=clock), a_claim()

        def fn(_db: Database) -> str:
            asked.set()
            assert go.wait(30)
            return "a"

        async def give_up() -> None:
            task = asyncio.ensure_future(store.transaction(fn))
            await asyncio.to_thread(asked.wait, 30)
            task.cancel()
            await asyncio.wait([task])

        operation = SyncRunning(
            name=claim.name,
            method=claim.method,
            fence=claim.fence,
            attempt=1,
            principal=b"",
            store=store,
            ttl=TTL,
            make_outcome=outcome_of,
        )
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.claim(claim))
        enter(operation, threading.get_ident())
        try:
            loop.run_until_complete(give_up())
        finally:
            enter(None)
        go.set()
        operation.rest()
        assert operation.committed == outcome_of("a")
        loop.run_until_complete(store.close())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _limit_to_what_there_is(store: AsyncSQLiteStore) -> None:
    def limit(db: sqlite3.Connection) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 10}")

    await on_thread(store, limit)
