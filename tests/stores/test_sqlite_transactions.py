"""``store.transaction``: the handler's rows and the operation's outcome commit together, or neither does (5.1)."""

import asyncio
import contextlib
import contextvars
import functools
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest

from grpc_idempotency.errors import FenceRefused, StoreUnavailable, TransactionMisuse
from grpc_idempotency.operation import current_operation
from grpc_idempotency.records import Claim, Code, Outcome, State, Step
from grpc_idempotency.store import Database
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, a_claim, a_step

from .conftest import HandClock, Make
from .operations import keyed, seal


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
    async def test_it_answers_what_the_function_read(self, store: AsyncSQLiteStore) -> None:
        """As often as one likes, in a keyed call too: it is no reply, and the one transaction may still come (5.1)."""
        claim = await claimed(store)
        with keyed(store, claim) as operation:
            assert await store.read(lambda db: db.execute("SELECT count(*) FROM orders").fetchone()) == (0,)
            assert operation.committed is None
            assert await store.transaction(insert("a")) == "a"
            assert await store.read(lambda db: db.execute("SELECT id FROM orders").fetchall()) == [("a",)]
        assert operation.committed is not None

    async def test_one_that_writes_is_rolled_back_and_told(self, store: AsyncSQLiteStore) -> None:
        """A read leaves nothing, and does not pretend that it did."""
        with pytest.raises(TransactionMisuse, match="must not write"):
            await store.read(insert("a"))
        assert await orders(store) == []

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

    async def test_it_disturbs_nobody_in_its_group(self, store: AsyncSQLiteStore) -> None:
        """Reads and transactions of one group each get their own."""
        done = await asyncio.gather(
            store.transaction(insert("a")),
            store.read(insert("b")),
            store.transaction(insert("c")),
            return_exceptions=True,
        )
        assert (done[0], done[2]) == ("a", "c")
        assert isinstance(done[1], TransactionMisuse)
        assert await orders(store) == ["a", "c"]

    async def test_it_has_to_be_a_plain_function(self, store: AsyncSQLiteStore) -> None:
        """It runs on the database's thread."""

        async def fn(_db: Database) -> None: ...

        with pytest.raises(TransactionMisuse, match="plain def"):
            await store.read(fn)  # type: ignore[unused-coroutine]  # the mistake that is told


class TestUnkeyed:
    async def test_it_answers_what_the_function_returned(self, store: AsyncSQLiteStore) -> None:
        """Once its rows are committed."""
        assert await store.transaction(insert("a")) == "a"
        with contextlib.closing(sqlite3.connect(store.database[0])) as db:
            assert db.execute("SELECT id FROM orders").fetchall() == [("a",)]

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

    async def test_it_runs_in_its_callers_context(self, store: AsyncSQLiteStore) -> None:
        """Context variables are there, on another thread."""
        variable = contextvars.ContextVar("variable", default="")
        variable.set("set")
        value, thread = await store.transaction(lambda db: (variable.get(), threading.get_ident()))
        assert value == "set"
        assert thread != threading.get_ident()

    async def test_grouped_transactions_do_not_see_each_others_failures(self, store: AsyncSQLiteStore) -> None:
        """Of 200 in few commits, every third fails; the rows of the others are there, and no others."""

        def fn(n: int) -> Callable[[Database], int]:
            def run(db: Database) -> int:
                insert(f"{n:03}")(db)
                insert(f"{n:03}-item")(db)
                if n % 3 == 0:
                    raise ValueError(n)
                return n

            return run

        answers = await asyncio.gather(*(store.transaction(fn(n)) for n in range(200)), return_exceptions=True)
        assert [n for n, answer in enumerate(answers) if answer == n] == [n for n in range(200) if n % 3]
        kept = [f"{n:03}{suffix}" for n in range(200) if n % 3 for suffix in ("", "-item")]
        assert sorted(await orders(store)) == kept

    async def test_a_cancelled_callers_transaction_is_whole(self, store: AsyncSQLiteStore) -> None:
        """All of its rows or none."""
        tasks = [asyncio.create_task(store.transaction(_two_rows(n))) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        names = await orders(store)
        assert {name[:-1] + "a" for name in names} == {name for name in names if name.endswith("a")}
        assert {name[:-1] + "b" for name in names} == {name for name in names if name.endswith("b")}


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

    async def test_awaiting_is_refused(self, store: AsyncSQLiteStore) -> None:
        """A coroutine function at once, a plain one that returns an awaitable as soon as it does."""

        async def fn(db: Database) -> None: ...

        with pytest.raises(TransactionMisuse, match="plain def"):
            await store.transaction(fn)  # type: ignore[unused-coroutine]  # which is the mistake
        with pytest.raises(TransactionMisuse, match="must not await"):
            await store.transaction(lambda db: fn(db))  # type: ignore[unused-coroutine]  # which is the mistake

    async def test_the_view_is_dead_afterwards(self, store: AsyncSQLiteStore) -> None:
        """Also where the function raised."""
        views: list[Database] = []

        def fn(db: Database) -> None:
            views.append(db)
            if len(views) == 2:
                raise ValueError("over")

        await store.transaction(fn)
        with pytest.raises(ValueError, match="over"):
            await store.transaction(fn)
        for view in views:
            with pytest.raises(TransactionMisuse, match="is over"):
                view.execute("SELECT 1")
            with pytest.raises(TransactionMisuse, match="is over"):
                view.executemany("DELETE FROM orders WHERE id = ?", [("a",)])


class TestKeyed:
    async def test_rows_and_outcome_commit_together(self, store: AsyncSQLiteStore) -> None:
        """The record is completed with the sealed reply, and the operation knows."""
        claim = await claimed(store)
        with keyed(store, claim) as operation:
            assert await store.transaction(insert("a")) == "a"
            assert operation.committed == seal("a")
        record = await store.get(claim.name)
        assert record is not None
        assert (record.state, record.outcome) == (State.COMPLETED, seal("a"))
        assert record.completed_at is not None
        assert record.expires_at == record.completed_at + TTL
        assert await orders(store) == ["a"]

    async def test_what_the_function_raises_leaves_the_record_running(self, store: AsyncSQLiteStore) -> None:
        """Neither rows nor outcome; the handler may try another transaction."""
        claim = await claimed(store)
        with keyed(store, claim) as operation:
            with pytest.raises(ZeroDivisionError):
                await store.transaction(lambda db: (insert("a")(db), 1 // 0))
            assert operation.committed is None
            record = await store.get(claim.name)
            assert record is not None
            assert record.state is State.RUNNING
            assert await store.transaction(insert("b")) == "b"
        assert await orders(store) == ["b"]

    async def test_a_reply_that_is_no_success_is_rolled_back(self, store: AsyncSQLiteStore) -> None:
        """Its value is answered, its rows are gone, and the record is left to the interceptor."""
        claim = await claimed(store)
        with keyed(store, claim, lambda reply: Outcome(status=Code.NOT_FOUND)) as operation:
            assert await store.transaction(insert("a")) == "a"
            assert operation.committed is None
        assert await orders(store) == []
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)

    async def test_an_error_in_sealing_rolls_back(self, store: AsyncSQLiteStore) -> None:
        """A reply that can't be serialized is the function's failure."""
        claim = await claimed(store)

        def no(reply: object) -> Outcome:
            raise TypeError("not a message")

        with keyed(store, claim, no), pytest.raises(TypeError, match="not a message"):
            await store.transaction(insert("a"))
        assert await orders(store) == []

    async def test_sealing_runs_after_the_function_on_the_databases_thread(self, store: AsyncSQLiteStore) -> None:
        """In the caller's context."""
        claim = await claimed(store)
        seen: list[object] = []

        def look(reply: object) -> Outcome:
            seen.append(threading.get_ident())
            operation = current_operation()
            seen.append(operation and operation.name)
            return seal(reply)

        with keyed(store, claim, look):
            thread = await store.transaction(lambda db: threading.get_ident())
        assert seen == [thread, claim.name]

    async def test_a_zombies_transaction_is_refused(self, store: AsyncSQLiteStore, clock: HandClock) -> None:
        """Another has taken over: no rows, no outcome."""
        zombie = await claimed(store)
        clock.elapse(LEASE)
        successor = a_claim(zombie.name)
        assert await store.claim(successor, over=zombie.fence) is None
        with keyed(store, zombie) as operation:
            with pytest.raises(FenceRefused):
                await store.transaction(insert("zombie"))
            assert operation.committed is None
        with keyed(store, successor):
            await store.transaction(insert("successor"))
        assert await orders(store) == ["successor"]

    async def test_in_one_group_only_the_zombie_is_refused(self, store: AsyncSQLiteStore) -> None:
        """Its neighbours commit."""
        claims = [await claimed(store) for _ in range(20)]
        for claim in claims[::4]:
            await store.release(claim.name, claim.fence)

        async def call(n: int) -> str:
            with keyed(store, claims[n]):
                return await store.transaction(insert(f"{n:02}"))

        answers = await asyncio.gather(*(asyncio.create_task(call(n)) for n in range(20)), return_exceptions=True)
        assert [isinstance(answer, FenceRefused) for answer in answers] == [n % 4 == 0 for n in range(20)]
        assert sorted(await orders(store)) == [f"{n:02}" for n in range(20) if n % 4]

    async def test_a_second_transaction_is_misuse(self, store: AsyncSQLiteStore) -> None:
        """The first has committed the reply: one after it is refused, and one beside it too."""
        claim = await claimed(store)
        with keyed(store, claim):
            await store.transaction(insert("a"))
            with pytest.raises(TransactionMisuse, match="one transaction"):
                await store.transaction(insert("b"))
        claim = await claimed(store)
        with keyed(store, claim):
            answers = await asyncio.gather(
                store.transaction(insert("c")), store.transaction(insert("d")), return_exceptions=True
            )
        assert answers[0] == "c"
        assert isinstance(answers[1], TransactionMisuse)
        assert sorted(await orders(store)) == ["a", "c"]

    async def test_a_cancelled_handlers_commit_is_known_to_the_operation(self, store: AsyncSQLiteStore) -> None:
        """So the interceptor does not take it for a handler that answered nothing."""
        claim = await claimed(store)
        ran = asyncio.Event()
        loop = asyncio.get_running_loop()
        with keyed(store, claim) as operation:

            def fn(db: Database) -> str:
                loop.call_soon_threadsafe(ran.set)
                return insert("a")(db)

            task = asyncio.create_task(store.transaction(fn))
            await ran.wait()
            task.cancel()
            await asyncio.wait([task])
        assert await store.get(claim.name) is not None  # answered after the group that stored it
        assert operation.committed == seal("a")
        assert await orders(store) == ["a"]

    async def test_an_operation_of_another_store_is_none_of_ours(self, make: Make, store: AsyncSQLiteStore) -> None:
        """Then it is just a transaction; one of a twin on the same database is ours."""
        claim = await claimed(store)
        with keyed(object(), claim) as operation:
            await store.transaction(insert("a"))
            await store.transaction(insert("b"))
            assert operation.committed is None
        twin = make()
        with keyed(twin, claim) as operation:
            await store.transaction(insert("c"))
            assert operation.committed == seal("c")

    async def test_many_keyed_transactions_share_commits(self, store: AsyncSQLiteStore) -> None:
        """Rows and outcomes of 100 are there, each its own."""
        claims = [await claimed(store) for _ in range(100)]

        async def call(n: int) -> str:
            with keyed(store, claims[n]):
                return await store.transaction(insert(f"{n:03}"))

        answers = await asyncio.gather(*(asyncio.create_task(call(n)) for n in range(100)))
        assert answers == [f"{n:03}" for n in range(100)]
        for n, claim in enumerate(claims):
            record = await store.get(claim.name)
            assert record is not None
            assert record.outcome == seal(f"{n:03}")


class TestSteps:
    """A step whose rows and result commit together (5.2)."""

    async def test_rows_and_step_commit_together(self, store: AsyncSQLiteStore) -> None:
        """Any number of them in one operation, which goes on running, to a transaction with its outcome."""
        claim = await claimed(store)
        with keyed(store, claim) as operation:
            for name in ("a", "b", "c"):
                assert await store.transaction(insert(name), step=make_step(name)) == name
                assert operation.committed is None
            assert await store.transaction(insert("d")) == "d"
            assert operation.committed == seal("d")
        assert await orders(store) == ["a", "b", "c", "d"]
        assert [step.name for step in await store.steps(claim.name)] == ["a", "b", "c"]
        assert (await store.steps(claim.name))[0] == a_step("a", result=b"a")
        record = await store.get(claim.name)
        assert record is not None
        assert record.outcome == seal("d")

    async def test_what_the_function_raises_leaves_no_step(self, store: AsyncSQLiteStore) -> None:
        """Nor does a result that can't be kept; the step's name is free for another run."""
        claim = await claimed(store)

        def no(result: object) -> Step:
            raise TypeError("no result")

        with keyed(store, claim):
            with pytest.raises(ZeroDivisionError):
                await store.transaction(lambda db: (insert("a")(db), 1 // 0), step=make_step("a"))
            with pytest.raises(TypeError, match="no result"):
                await store.transaction(insert("a"), step=no)
            assert list(await store.steps(claim.name)) == []
            assert await store.transaction(insert("a"), step=make_step("a")) == "a"
        assert await orders(store) == ["a"]

    async def test_a_step_that_is_kept_already_is_refused(self, store: AsyncSQLiteStore) -> None:
        """However it was kept; with the rows."""
        claim = await claimed(store)
        assert await store.record_step(claim.name, claim.fence, a_step("a"))
        with keyed(store, claim):
            with pytest.raises(FenceRefused):
                await store.transaction(insert("a"), step=make_step("a"))
            await store.transaction(insert("b"), step=make_step("b"))
            with pytest.raises(FenceRefused):
                await store.transaction(insert("again"), step=make_step("b"))
        assert await orders(store) == ["b"]
        assert list(await store.steps(claim.name)) == [a_step("a"), a_step("b", result=b"b")]

    async def test_a_zombies_step_is_refused(self, store: AsyncSQLiteStore, clock: HandClock) -> None:
        """Its rows are gone; a function that knew so was not even run."""
        zombie = await claimed(store)
        clock.elapse(LEASE)
        successor = a_claim(zombie.name)
        assert await store.claim(successor, over=zombie.fence) is None
        with keyed(store, zombie), pytest.raises(FenceRefused):
            await store.transaction(insert("zombie"), step=make_step("charge"))
        with keyed(store, successor):
            await store.transaction(insert("successor"), step=make_step("charge"))
        assert await orders(store) == ["successor"]
        assert len(await store.steps(zombie.name)) == 1

    async def test_a_waiting_operation_takes_no_step(self, store: AsyncSQLiteStore) -> None:
        """A run that goes on behind its record's back commits nothing."""
        claim = await claimed(store)
        assert await store.wait(claim.name, claim.fence, LEASE, 1, 0)
        with keyed(store, claim), pytest.raises(FenceRefused):
            await store.transaction(insert("a"), step=make_step("a"))
        assert await orders(store) == []

    async def test_a_step_needs_an_operation_of_this_database(self, store: AsyncSQLiteStore) -> None:
        """Without one there is nowhere to keep it; and behind the outcome there is no step."""
        with pytest.raises(TransactionMisuse, match="keyed call"):
            await store.transaction(insert("a"), step=make_step("a"))
        claim = await claimed(store)
        with keyed(object(), claim), pytest.raises(TransactionMisuse, match="keyed call"):
            await store.transaction(insert("a"), step=make_step("a"))
        with keyed(store, claim):
            await store.transaction(insert("outcome"))
            with pytest.raises(TransactionMisuse, match="committed the reply"):
                await store.transaction(insert("a"), step=make_step("a"))
        assert await orders(store) == ["outcome"]

    async def test_in_one_group_each_step_stands_for_itself(self, store: AsyncSQLiteStore) -> None:
        """Of some that fail, some refused and some kept, only these have rows."""
        claims = [await claimed(store) for _ in range(20)]
        for claim in claims[::4]:
            assert await store.record_step(claim.name, claim.fence, a_step("step"))

        async def call(n: int) -> str:
            with keyed(store, claims[n]):
                return await store.transaction(fail if n % 4 == 1 else insert(f"{n:02}"), step=make_step("step"))

        def fail(db: Database) -> str:
            raise ValueError(insert("no")(db))

        answers = await asyncio.gather(*(asyncio.create_task(call(n)) for n in range(20)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [FenceRefused, ValueError, str, str] * 5
        kept = [n for n in range(20) if n % 4 > 1]
        assert sorted(await orders(store)) == [f"{n:02}" for n in kept]
        for n in kept:
            assert list(await store.steps(claims[n].name)) == [a_step("step", result=f"{n:02}".encode())]

    async def test_steps_of_one_operation_side_by_side(self, store: AsyncSQLiteStore) -> None:
        """Concurrent steps are kept, each with its rows; of two of one name, one is."""
        claim = await claimed(store)
        names = ["a", "b", "c", "b"]
        with keyed(store, claim):
            answers = await asyncio.gather(
                *(store.transaction(insert(f"{n}{name}"), step=make_step(name)) for n, name in enumerate(names)),
                return_exceptions=True,
            )
        assert [answers[0], answers[2]] == ["0a", "2c"]
        assert sorted(map(type, answers), key=str) == [FenceRefused, str, str, str]
        assert {step.name for step in await store.steps(claim.name)} == {"a", "b", "c"}
        assert len(await orders(store)) == 3


def make_step(name: str) -> Callable[[object], Step]:
    return lambda result: a_step(name, result=str(result).encode())


def _two_rows(n: int) -> Callable[[Database], None]:
    def fn(db: Database) -> None:
        insert(f"{n:02}a")(db)
        insert(f"{n:02}b")(db)

    return fn


async def _limit_to_what_there_is(store: AsyncSQLiteStore) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def limit(db: sqlite3.Connection) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 10}")
        loop.call_soon_threadsafe(done.set)

    assert store._writer is not None
    assert store._writer._connection is not None
    store._writer._connection.post(limit)
    await done.wait()
