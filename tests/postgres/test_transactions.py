"""Transactions on PostgreSQL: conflicts, ``async def`` functions, and the locks of others (5.1)."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from grpc_idempotency.errors import FenceRefused, StoreUnavailable, TransactionMisuse
from grpc_idempotency.records import Code, Outcome, Renewal, State
from grpc_idempotency.stores.postgres import AsyncPostgresStore
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, Orders, a_claim, keyed, outcome_of, step_of
from grpc_idempotency.testing.states import put_running, record_of
from grpc_idempotency.transactions import Database, running_operation

from ..harness.waiting import until
from .conftest import Make, MakeBlocking, Place

AsyncFn = Callable[[psycopg.AsyncConnection[Any]], Awaitable[str]]
ORDERS = Orders("%s")


@pytest.fixture
async def store(make: Make, place: Place) -> AsyncPostgresStore:
    place.db.execute("CREATE TABLE orders (id text PRIMARY KEY)")
    store = make()
    await store.open()
    return store


def inserting(*names: str) -> AsyncFn:
    async def fn(connection: psycopg.AsyncConnection[Any]) -> str:
        for name in names:
            await connection.execute("INSERT INTO orders VALUES (%s)", (name,))
        return names[0]

    return fn


# -- conflicts


class Opposite:
    """A function that locks two rows in one of two orders; in the first runs the two wait for each other."""

    def __init__(self, names: tuple[str, str], meeting: threading.Barrier, *, swallows: bool = False) -> None:
        self._names = names
        self._meeting = meeting
        self._swallows = swallows
        self.runs = 0

    def __call__(self, db: Database) -> str:
        self.runs += 1
        first, second = self._names
        db.execute("UPDATE orders SET id = id WHERE id = %s", (first,))
        if self.runs == 1:
            self._meeting.wait(10)
        try:
            db.execute("UPDATE orders SET id = id WHERE id = %s", (second,))
        except db.Error as error:
            if self._swallows:
                raise RuntimeError("wrapped") from error
            raise
        return first


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_deadlock_is_resolved_by_running_one_function_again(store: AsyncPostgresStore, swallows: bool) -> None:
    """Of two functions that lock each other out, one is run again, whatever it makes of the error; both commit."""
    await store.transaction(ORDERS.insert("a", "b"))
    meeting = threading.Barrier(2)
    fns = [Opposite(names, meeting, swallows=swallows) for names in (("a", "b"), ("b", "a"))]
    assert await asyncio.gather(*map(store.transaction, fns)) == ["a", "b"]
    assert sum(fn.runs for fn in fns) > 2  # a function may meet the other one again


async def test_a_serialization_failure_runs_the_function_again(store: AsyncPostgresStore, place: Place) -> None:
    """A function that meets 40001 is run again, with the rows that others have committed in the meantime (5.1)."""
    place.db.execute("CREATE TABLE counters (n integer)")
    place.db.execute("INSERT INTO counters VALUES (0)")
    seen: list[int] = []

    def fn(db: Database) -> int:
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ((n,),) = db.execute("SELECT n FROM counters").fetchall()
        seen.append(n)
        if len(seen) == 1:
            place.db.execute("UPDATE counters SET n = 10")
        db.execute("UPDATE counters SET n = %s", (n + 1,))
        return int(n) + 1

    assert await store.transaction(fn) == 11
    assert seen == [0, 10]


async def test_a_conflict_that_does_not_end_is_unavailable(store: AsyncPostgresStore, place: Place) -> None:
    """After some runs the call is refused; nothing is kept."""
    runs = []

    def fn(db: Database) -> None:
        runs.append(1)
        ORDERS.insert("a")(db)
        db.execute("SELECT conflict()")

    place.db.execute(
        "CREATE FUNCTION conflict() RETURNS integer LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$"
    )
    with pytest.raises(StoreUnavailable) as refused:
        await store.transaction(fn)
    assert refused.value.landed is False
    assert len(runs) > 1
    assert await ORDERS.names(store) == []


# -- what a function may do


@pytest.mark.parametrize(
    "sql",
    [
        "/* a /* nested */ comment */ COMMIT",
        "; COMMIT",
        "END",
        "ABORT",
        "START TRANSACTION",
        "PREPARE TRANSACTION 'x'",
        "SET search_path = public",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "RESET ALL",
        "DISCARD ALL",
    ],
)
async def test_what_would_outlast_the_transaction_is_refused(store: AsyncPostgresStore, sql: str) -> None:
    """Transaction control in any spelling, and settings of the session, which others would inherit."""

    def fn(db: Database) -> None:
        ORDERS.insert("a")(db)
        db.execute(sql)

    with pytest.raises(TransactionMisuse):
        await store.transaction(fn)

    async def async_fn(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(sql.encode())

    with pytest.raises(TransactionMisuse):
        await store.transaction(async_fn)
    assert await ORDERS.names(store) == []


async def test_a_block_of_code_can_not_commit(store: AsyncPostgresStore) -> None:
    """PostgreSQL itself refuses transaction control in procedures and DO blocks."""

    def fn(db: Database) -> None:
        ORDERS.insert("a")(db)
        db.execute("DO $$ BEGIN COMMIT; END $$")

    with pytest.raises(psycopg.errors.InvalidTransactionTermination):
        await store.transaction(fn)
    assert await ORDERS.names(store) == []


async def test_settings_of_the_transaction_are_its_own(store: AsyncPostgresStore) -> None:
    """SET LOCAL is allowed, and gone with the transaction."""

    def fn(db: Database) -> object:
        db.execute("SET LOCAL statement_timeout = '7s'")
        return db.execute("SHOW statement_timeout").fetchone()

    assert await store.transaction(fn) == ("7s",)
    assert await store.read(lambda db: db.execute("SHOW statement_timeout").fetchone()) != ("7s",)


async def test_native_parameters(store: AsyncPostgresStore) -> None:
    """Parameters are psycopg's; without any, a percent sign is a percent sign, and ``?`` an operator."""

    def fn(db: Database) -> object:
        assert db.execute("SELECT id LIKE 'a%' FROM orders").fetchall() == []
        assert db.execute("""SELECT '{"a": 1}'::jsonb ? 'a'""").fetchone() == (True,)
        return db.execute("SELECT %s::int + %s::int", (1, 2)).fetchone()

    assert await store.transaction(fn) == (3,)


async def test_an_error_that_is_caught_without_a_savepoint_has_ended_the_transaction(
    store: AsyncPostgresStore,
) -> None:
    """PostgreSQL goes on only from a savepoint. What the function returns does not count."""
    await store.transaction(ORDERS.insert("there"))

    def fn(db: Database) -> str:
        ORDERS.insert("a")(db)
        try:
            ORDERS.insert("there")(db)
        except db.IntegrityError:
            return "caught"
        return "not reached"

    with pytest.raises(TransactionMisuse, match="savepoint"):
        await store.transaction(fn)
    assert await ORDERS.names(store) == ["there"]


async def test_errors_of_statements_are_the_drivers(store: AsyncPostgresStore) -> None:
    """Of a missing table, a timeout that the function has set, and a value of the wrong type."""
    for sql, error in (
        ("SELECT * FROM missing", psycopg.errors.UndefinedTable),
        ("SELECT pg_sleep(30)", psycopg.errors.QueryCanceled),
        ("SELECT 1 / 0", psycopg.errors.DivisionByZero),
    ):

        def fn(db: Database, sql: str = sql) -> None:
            db.execute("SET LOCAL statement_timeout = 50")
            db.execute(sql)

        with pytest.raises(error):
            await store.transaction(fn)


async def test_a_deferred_constraint_fails_its_own_transaction(store: AsyncPostgresStore, place: Place) -> None:
    """A constraint that fails at the commit raises the driver's error, and nothing is kept."""
    place.db.execute("CREATE TABLE parts (id text REFERENCES orders DEFERRABLE INITIALLY DEFERRED)")
    claim = await put_running(store)
    async with keyed(store, claim) as operation:
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            await store.transaction(lambda db: str(db.execute("INSERT INTO parts VALUES ('none')").rowcount))
        assert (operation.committed, operation.uncommitted) == (None, None)
        assert await store.transaction(ORDERS.insert("a")) == "a"


# -- async functions


async def test_an_async_function_commits_its_rows_with_the_outcome(store: AsyncPostgresStore) -> None:
    """It runs in the caller's loop with the caller's operation; rows and outcome commit together."""
    claim = await put_running(store)
    seen: list[object] = []

    async def fn(connection: psycopg.AsyncConnection[Any]) -> str:
        seen.extend((running_operation(), asyncio.get_running_loop()))
        return await inserting("a")(connection)

    async with keyed(store, claim) as operation:
        assert await store.transaction(fn) == "a"
        assert operation.committed == outcome_of("a")
    assert seen == [operation, asyncio.get_running_loop()]
    assert await ORDERS.names(store) == ["a"]
    assert (await record_of(store, claim)).outcome == outcome_of("a")


async def test_an_async_function_is_rolled_back_like_any_other(store: AsyncPostgresStore) -> None:
    """By an error, an outcome that is no success, a spent fence, and a function that went on after an error."""
    claim = await put_running(store)

    async def failing(connection: psycopg.AsyncConnection[Any]) -> str:
        await inserting("a")(connection)
        raise KeyError("mine")

    async def going_on(connection: psycopg.AsyncConnection[Any]) -> str:
        await inserting("a")(connection)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await inserting("a")(connection)
        return "a"

    async with keyed(store, claim, lambda _: Outcome(status=Code.NOT_FOUND)) as operation:
        with pytest.raises(KeyError):
            await store.transaction(failing)
        with pytest.raises(TransactionMisuse, match="savepoint"):
            await store.transaction(going_on)
        assert await store.transaction(inserting("a")) == "a"
        assert operation.committed is None
    async with keyed(store, a_claim()):
        with pytest.raises(FenceRefused):
            await store.transaction(inserting("a"))
    assert await ORDERS.names(store) == []


async def test_an_async_functions_savepoints(store: AsyncPostgresStore) -> None:
    """A block of ``connection.transaction()`` is a savepoint; commit and rollback are refused."""

    async def fn(connection: psycopg.AsyncConnection[Any]) -> str:
        await inserting("a")(connection)
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with connection.transaction():
                await inserting("b", "a")(connection)
        for ending in (connection.commit, connection.rollback):
            with pytest.raises(TransactionMisuse):
                await ending()
        async with connection.cursor() as cursor:
            await cursor.executemany("INSERT INTO orders VALUES (%s)", [("c",), ("d",)])
            await cursor.execute("SELECT count(*) FROM orders")
            assert await cursor.fetchone() == (3,)
        with pytest.raises(TransactionMisuse):
            await store.get(b"x" * 16)
        return "a"

    assert await store.transaction(fn) == "a"
    assert await ORDERS.names(store) == ["a", "c", "d"]


async def test_several_statements_of_an_async_function_are_refused(store: AsyncPostgresStore) -> None:
    """Of several statements in one text none is run."""

    async def fn(connection: psycopg.AsyncConnection[Any]) -> str:
        with pytest.raises(psycopg.Error):
            async with connection.transaction():
                await connection.execute("INSERT INTO orders VALUES ('a'); COMMIT")
        return "refused"

    assert await store.transaction(fn) == "refused"
    assert await ORDERS.names(store) == []


async def test_an_async_step(store: AsyncPostgresStore) -> None:
    """Rows and step commit together (5.2)."""
    claim = await put_running(store)
    async with keyed(store, claim) as operation:
        assert await store.transaction(inserting("a"), step=step_of("a")) == "a"
        with pytest.raises(FenceRefused):
            await store.transaction(inserting("b"), step=step_of("a"))
        assert operation.committed is None
    assert [one.name for one in await store.steps(claim.name)] == ["a"]
    assert await ORDERS.names(store) == ["a"]


async def test_an_async_function_of_a_handlers_task_commits_no_reply(store: AsyncPostgresStore) -> None:
    """One that returns the method's response there is rolled back, since the reply would be lost."""
    claim = await put_running(store)

    async def beside() -> None:
        with pytest.raises(TransactionMisuse):
            await store.transaction(inserting("stray"))

    async with keyed(store, claim):
        await asyncio.create_task(beside())
    assert await ORDERS.names(store) == []


async def test_a_cancelled_async_function_is_rolled_back(store: AsyncPostgresStore) -> None:
    """Its caller's cancellation reaches it; the connection is not used again, and others work."""
    claim, waits = await put_running(store), asyncio.Event()

    async def fn(connection: psycopg.AsyncConnection[Any]) -> str:
        await inserting("a")(connection)
        waits.set()
        await connection.execute("SELECT pg_sleep(30)")
        return "a"

    async with keyed(store, claim) as operation:
        task = asyncio.create_task(store.transaction(fn))
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert operation.committed is None
    assert await store.transaction(inserting("b")) == "b"
    assert await ORDERS.names(store) == ["b"]


async def test_an_async_function_is_run_again_after_a_conflict(store: AsyncPostgresStore, place: Place) -> None:
    """As a plain one."""
    runs: list[int] = []

    await store.transaction(ORDERS.insert("a"))

    async def counting(connection: psycopg.AsyncConnection[Any]) -> str:
        runs.append(1)
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await (await connection.execute("SELECT * FROM orders")).fetchall()
        if len(runs) == 1:
            place.db.execute("UPDATE orders SET id = 'b' WHERE id = 'a'")
        await connection.execute("UPDATE orders SET id = id || 'c'")
        return "c"

    assert await store.transaction(counting) == "c"
    assert len(runs) == 2
    assert await ORDERS.names(store) == ["bc"]


# -- locks of others


async def test_an_open_transaction_of_a_user_delays_no_other_call(store: AsyncPostgresStore, place: Place) -> None:
    """While one has locked a record, its lease is busy and not lost, and every other operation goes on."""
    locked, others = await put_running(store), [await put_running(store) for _ in range(5)]
    with psycopg.connect(place.url) as user:
        user.execute("UPDATE operations SET owner = 'me' WHERE name = %s", (locked.name,))
        completing = asyncio.ensure_future(store.complete(locked.name, locked.fence, OUTCOME, TTL))
        renewals = [store.renew(one.name, one.fence, LEASE) for one in (locked, *others)]
        assert await asyncio.gather(*renewals) == [Renewal.BUSY] + [Renewal.RENEWED] * 5
        assert await store.claim(a_claim()) is None
        lost_to = await store.claim(a_claim(locked.name))
        assert lost_to is not None
        assert lost_to.state is State.RUNNING
        for one in others:
            assert await store.complete(one.name, one.fence, OUTCOME, TTL)
        assert not completing.done()
        user.rollback()
    assert await completing is not None


async def test_a_record_that_stays_locked_is_unavailable(make: Make, place: Place) -> None:
    """A change waits for the lock no longer than ``lock_timeout``, and has certainly not landed then."""
    store = make(lock_timeout=timedelta(milliseconds=50))
    claim = await put_running(store)
    with psycopg.connect(place.url) as user:
        user.execute("SELECT 1 FROM operations WHERE name = %s FOR UPDATE", (claim.name,))
        for call in (
            store.complete(claim.name, claim.fence, OUTCOME, TTL),
            store.release(claim.name, claim.fence),
            store.hold(claim.name, claim.fence, "held"),
        ):
            with pytest.raises(StoreUnavailable, match="locked") as refused:
                await call
            assert refused.value.landed is False
    assert await store.release(claim.name, claim.fence)


async def test_users_transactions_wait_for_a_connection(make: Make, place: Place) -> None:
    """No more than ``max_connections`` run at a time; other calls do not wait for them."""
    store = make(max_connections=2)
    loop, free, running = asyncio.get_running_loop(), threading.Event(), asyncio.Semaphore(0)

    def fn(_: Database) -> str:
        loop.call_soon_threadsafe(running.release)
        assert free.wait(10)
        return "done"

    calls = [asyncio.ensure_future(store.transaction(fn)) for _ in range(4)]
    for _ in range(2):
        await running.acquire()
    claim = await put_running(store)
    assert await store.renew(claim.name, claim.fence, LEASE) is Renewal.RENEWED
    assert await store.get(claim.name) is not None
    assert running.locked()
    free.set()
    assert await asyncio.gather(*calls) == ["done"] * 4


async def test_the_writer_learns_that_transactions_wait(make: Make) -> None:
    """While functions of either kind wait for a connection, its groups gather (decision 012)."""
    store = make(max_connections=1)
    await store.open()
    assert store._engine is not None
    crowded = store._engine._crowded

    async def awaited(_: Any) -> None:
        running.set()
        await free.wait()

    def plain(_: Database) -> None:
        loop.call_soon_threadsafe(running.set)
        asyncio.run_coroutine_threadsafe(free.wait(), loop).result(20)

    async def waits() -> bool:
        return crowded()

    loop = asyncio.get_running_loop()
    for fn in (awaited, plain):
        running, free = asyncio.Event(), asyncio.Event()
        first: asyncio.Task[Any] = asyncio.ensure_future(store.transaction(fn))
        await running.wait()
        assert not crowded()
        second: asyncio.Task[Any] = asyncio.ensure_future(store.transaction(fn))
        await until(waits)
        free.set()
        await asyncio.gather(first, second)
        assert not crowded()


def test_threads_of_a_server_use_the_pool(make_blocking: MakeBlocking) -> None:
    """On threads a transaction runs in its caller's own thread."""
    store = make_blocking()
    assert store.transaction(lambda _: threading.get_ident()) == threading.get_ident()
