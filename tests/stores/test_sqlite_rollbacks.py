"""Transactions that SQLite rolls back as a whole, and parts that a savepoint takes back (5.1)."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from grpc_idempotency.errors import FenceRefused, StoreUnavailable, TransactionMisuse, Unstorable
from grpc_idempotency.records import Effects, State
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim, a_step, keyed, outcome_of
from grpc_idempotency.transactions import Database

from .conftest import Make, MakeBlocking
from .operations import on_thread, together

TABLES = [
    "CREATE TABLE orders (id TEXT PRIMARY KEY)",
    "CREATE TABLE strict (x UNIQUE ON CONFLICT ROLLBACK)",
    "INSERT INTO strict VALUES (1)",
    "CREATE TABLE capped (x)",
    "CREATE TRIGGER cap BEFORE INSERT ON capped BEGIN SELECT RAISE(ROLLBACK, 'no more'); END",
]
CONFLICT = "INSERT INTO strict VALUES (1)"
BREAKING = [CONFLICT, "INSERT INTO capped VALUES (1)", "INSERT OR/**/ROLLBACK INTO orders VALUES ('there')"]


def create(db: Database) -> None:
    for sql in TABLES:
        db.execute(sql)
    insert("there")(db)


@pytest.fixture
async def store(make: Make) -> AsyncSQLiteStore:
    """A store in whose database an embedder has tables that roll everything back."""
    store = make()
    await store.transaction(create)
    return store


def insert(name: str) -> Callable[[Database], str]:
    def fn(db: Database) -> str:
        db.execute("INSERT INTO orders VALUES (?)", (name,))
        return name

    return fn


def swallowing(name: str, sql: str, *, stubborn: bool = False) -> Callable[[Database], str]:
    """A function that goes on after the error, if need be after every one."""

    def fn(db: Database) -> str:
        insert(name)(db)
        for later in (sql, f"INSERT INTO orders VALUES ('{name} again')", "CREATE TABLE made (x)"):
            try:
                db.execute(later)
            except Exception:
                if later is not sql and not stubborn:
                    raise
        return name

    return fn


async def orders(store: AsyncSQLiteStore) -> list[str]:
    return await store.read(lambda db: [row[0] for row in db.execute("SELECT id FROM orders ORDER BY id").fetchall()])


class TestLost:
    @pytest.mark.parametrize("stubborn", [False, True])
    @pytest.mark.parametrize("sql", BREAKING)
    async def test_a_function_can_not_go_on(self, store: AsyncSQLiteStore, sql: str, stubborn: bool) -> None:
        """Whatever it returns, its transaction has failed: no row and no table of it is kept, before or after."""
        with pytest.raises(TransactionMisuse, match="rolled back the whole transaction") as caught:
            await store.transaction(swallowing("a", sql, stubborn=stubborn))
        assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
        assert await orders(store) == ["there"]
        await store.transaction(lambda db: db.execute("CREATE TABLE made (x)"))

    @pytest.mark.parametrize("sql", BREAKING)
    def test_on_threads(self, make_blocking: MakeBlocking, sql: str) -> None:
        """The same."""
        store = make_blocking()
        store.transaction(create)
        with pytest.raises(TransactionMisuse, match="rolled back the whole transaction"):
            store.transaction(swallowing("a", sql, stubborn=True))
        assert store.read(lambda db: db.execute("SELECT id FROM orders").fetchall()) == [("there",)]

    async def test_the_error_itself_is_raised_where_it_is_not_caught(self, store: AsyncSQLiteStore) -> None:
        """And so is what the function raises in its place."""
        with pytest.raises(sqlite3.IntegrityError):
            await store.transaction(lambda db: db.execute(CONFLICT))

        def telling(db: Database) -> None:
            try:
                db.execute(CONFLICT)
            except db.IntegrityError:
                raise LookupError("it is there") from None

        with pytest.raises(LookupError, match="it is there"):
            await store.transaction(telling)

    async def test_many_rows_at_once_do_not_go_on(self, store: AsyncSQLiteStore) -> None:
        """Not even rows from a generator that loses the transaction on its way."""

        def fn(db: Database) -> None:
            def names() -> Any:
                yield ("a",)
                with pytest.raises(sqlite3.IntegrityError):
                    db.execute(CONFLICT)
                yield ("b",)

            db.executemany("INSERT INTO orders VALUES (?)", names())

        with pytest.raises((TransactionMisuse, sqlite3.Error)):
            await store.transaction(fn)
        assert await orders(store) == ["there"]

    async def test_no_outcome_is_kept(self, store: AsyncSQLiteStore) -> None:
        """Of a keyed call, which may try again; and no step."""
        claim = a_claim()
        assert await store.claim(claim) is None
        async with keyed(store, claim) as operation:
            for step in (None, lambda _: a_step("a")):
                with pytest.raises(TransactionMisuse):
                    await store.transaction(swallowing("a", CONFLICT, stubborn=True), step=step)
            assert operation.committed is None
            assert list(await store.steps(claim.name)) == []
            assert await store.transaction(insert("b")) == "b"
        record = await store.get(claim.name)
        assert record is not None
        assert record.outcome == outcome_of("b")
        assert await orders(store) == ["b", "there"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
    def test_whatever_is_raised_rolls_back(self, make_blocking: MakeBlocking, error: type[BaseException]) -> None:
        """Be it no Exception; and the writer lives."""
        store = make_blocking()
        store.transaction(create)

        def fn(db: Database) -> None:
            insert("a")(db)
            raise error

        with pytest.raises(error):
            store.transaction(fn)
        assert store.read(lambda db: db.execute("SELECT id FROM orders").fetchall()) == [("there",)]


class TestNeighbours:
    @pytest.mark.parametrize("sql", BREAKING)
    async def test_the_others_are_unharmed(self, store: AsyncSQLiteStore, sql: str) -> None:
        """Transactions before and behind it, keyed ones, steps, and claims: each has its answer and effect."""
        one, two, three = [a_claim() for _ in range(3)]
        await asyncio.gather(store.claim(one), store.claim(two))
        runs: list[str] = []

        def counted(db: Database) -> str:
            runs.append("pay")
            return insert("paid")(db)

        async def pay() -> str:
            async with keyed(store, one):
                return await store.transaction(counted)

        async def step() -> str:
            async with keyed(store, two):
                return await store.transaction(insert("stepped"), step=lambda _: a_step("step"))

        answers = await together(
            store,
            lambda: store.claim(three),
            lambda: store.transaction(insert("before")),
            pay,
            lambda: store.transaction(swallowing("bad", sql, stubborn=True)),
            step,
            lambda: store.transaction(swallowing("worse", sql)),
            lambda: store.transaction(insert("after")),
        )
        assert [type(answer) for answer in answers[3:6:2]] == [TransactionMisuse] * 2
        assert [*answers[:3], answers[4], answers[6]] == [None, "before", "paid", "stepped", "after"]
        assert await orders(store) == ["after", "before", "paid", "stepped", "there"]
        assert len(runs) <= 2
        records = [await store.get(claim.name) for claim in (one, two, three)]
        assert [record and record.state for record in records] == [State.COMPLETED, State.RUNNING, State.RUNNING]
        assert list(await store.steps(two.name)) == [a_step("step")]

    async def test_each_failure_of_many_is_its_own(self, store: AsyncSQLiteStore) -> None:
        """Every second of 60 loses the group; nobody is run more than twice for the sake of others."""
        runs = [0] * 60

        def call(n: int) -> Callable[[], Awaitable[Any]]:
            def fn(db: Database) -> str:
                runs[n] += 1
                return (swallowing(f"{n:02}", CONFLICT) if n % 2 else insert(f"{n:02}"))(db)

            return lambda: store.transaction(fn)

        answers = await together(store, *map(call, range(60)))
        assert [isinstance(answer, TransactionMisuse) for answer in answers] == [bool(n % 2) for n in range(60)]
        assert await orders(store) == [f"{n:02}" for n in range(0, 60, 2)] + ["there"]
        assert max(runs) <= 2


class TestTriggersOnTheStoresTables:
    """An embedder may have put them there by other means than a transaction's function."""

    async def test_one_that_rolls_back_claims(self, store: AsyncSQLiteStore) -> None:
        """Fails the claims that it objects to, and no others."""
        other = a_claim()
        _directly(
            store,
            "CREATE TRIGGER t BEFORE INSERT ON grpc_idempotency_operations WHEN new.effects = 2 "
            "BEGIN SELECT RAISE(ROLLBACK, 'not here'); END",
        )
        bad = a_claim(effects=Effects.REPEATABLE)
        answers = await together(
            store, lambda: store.claim(bad), lambda: store.claim(other), lambda: store.transaction(insert("a"))
        )
        assert isinstance(answers[0], Unstorable)
        assert answers[1:] == [None, "a"]

    @pytest.mark.parametrize("how", ["ROLLBACK", "ABORT", "FAIL"])
    async def test_one_that_rolls_back_an_outcome(self, store: AsyncSQLiteStore, how: str) -> None:
        """Takes the rows of that operation along, and no others."""
        claims = [a_claim() for _ in range(3)]
        await asyncio.gather(*map(store.claim, claims))
        _directly(
            store,
            "CREATE TRIGGER t BEFORE UPDATE ON grpc_idempotency_operations WHEN new.message = x'31' "
            f"BEGIN SELECT RAISE({how}, 'not this'); END",
        )

        def call(n: int) -> Callable[[], Awaitable[Any]]:
            async def pay() -> str:
                async with keyed(store, claims[n]):
                    return await store.transaction(insert(str(n)))

            return pay

        answers = await together(store, *map(call, range(3)), lambda: store.transaction(insert("x")))
        assert isinstance(answers[1], Unstorable)
        assert [answers[0], *answers[2:]] == ["0", "2", "x"]
        assert await orders(store) == ["0", "2", "there", "x"]
        assert await store.complete(claims[1].name, claims[1].fence, OUTCOME, TTL)

    async def test_one_that_takes_the_record_away(self, store: AsyncSQLiteStore) -> None:
        """Fails that transaction: its outcome would be lost."""
        claim = a_claim()
        await store.claim(claim)
        _directly(store, "CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM grpc_idempotency_operations; END")
        async with keyed(store, claim):
            with pytest.raises((FenceRefused, TransactionMisuse)):
                await store.transaction(insert("a"))
        assert await orders(store) == ["there"]


class TestFull:
    async def test_a_full_disk_fails_the_one_that_it_has_no_room_for(self, store: AsyncSQLiteStore) -> None:
        """Though it catches the error; what fits beside it is kept (5.1)."""
        await store.transaction(lambda db: db.execute("CREATE TABLE files (data)"))
        pages = _directly(store, "PRAGMA page_count")[0][0]
        await _on_its_thread(store, f"PRAGMA max_page_count = {pages + 40}")
        answers = await together(
            store,
            lambda: store.transaction(insert("before")),
            lambda: store.transaction(swallowing("big", "INSERT INTO files VALUES (zeroblob(4000000))", stubborn=True)),
            lambda: store.transaction(insert("after")),
        )
        assert isinstance(answers[1], StoreUnavailable)
        assert "full" in str(answers[1])
        assert (answers[0], answers[2]) == ("before", "after")
        assert await orders(store) == ["after", "before", "there"]


class TestSavepoints:
    async def test_an_error_takes_back_what_was_done_within(self, store: AsyncSQLiteStore) -> None:
        """Caught outside, it passes: what was done before and after stays, at any depth."""

        def fn(db: Database) -> str:
            insert("a")(db)
            with db.savepoint():
                insert("b")(db)
                with suppress(db.IntegrityError), db.savepoint():
                    insert("c")(db)
                    insert("there")(db)
                with suppress(ZeroDivisionError), db.savepoint():
                    insert("d")(db)
                    with db.savepoint():
                        insert("e")(db)
                    raise ZeroDivisionError
                insert("f")(db)
            return "done"

        assert await store.transaction(fn) == "done"
        assert await orders(store) == ["a", "b", "f", "there"]
        assert await store.read(_counting_within) == 4

    async def test_one_that_is_left_uncaught_rolls_back_all(self, store: AsyncSQLiteStore) -> None:
        """As any error."""

        def fn(db: Database) -> None:
            insert("a")(db)
            with db.savepoint():
                insert("there")(db)

        with pytest.raises(sqlite3.IntegrityError):
            await store.transaction(fn)
        assert await orders(store) == ["there"]

    async def test_it_does_not_save_what_sqlite_has_rolled_back(self, store: AsyncSQLiteStore) -> None:
        """The whole transaction is gone, savepoints and all."""

        def fn(db: Database) -> str:
            insert("a")(db)
            with pytest.raises(db.IntegrityError), db.savepoint():
                db.execute(CONFLICT)
            with pytest.raises(TransactionMisuse), db.savepoint():
                insert("b")(db)
            return "done"

        with pytest.raises(TransactionMisuse):
            await store.transaction(fn)
        assert await orders(store) == ["there"]

    async def test_one_that_is_never_left_is_part_of_the_transaction(self, store: AsyncSQLiteStore) -> None:
        """And can't be used behind its end."""
        entered: list[Any] = []

        def fn(db: Database) -> None:
            entered.append(db.savepoint())
            entered[-1].__enter__()
            insert("a")(db)

        await asyncio.gather(store.transaction(fn), store.transaction(insert("b")))
        assert await orders(store) == ["a", "b", "there"]
        entered[0].__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert await orders(store) == ["a", "b", "there"]

    async def test_the_view_has_the_errors_of_its_driver(self, store: AsyncSQLiteStore) -> None:
        """All of PEP 249's."""

        def fn(db: Database) -> None:
            for error in (db.IntegrityError, db.OperationalError, db.ProgrammingError, db.DataError):
                assert issubclass(error, db.DatabaseError)
            assert issubclass(db.DatabaseError, db.Error)

        await store.transaction(fn)


async def test_full_text_tables_work(store: AsyncSQLiteStore) -> None:
    """Their own statements and pragmas, which SQLite runs behind the function's, are let through."""

    def search(db: Database) -> list[Any]:
        return db.execute("SELECT words FROM notes WHERE notes MATCH 'fox'").fetchall()

    def write(db: Database) -> None:
        db.execute("CREATE VIRTUAL TABLE notes USING fts5(words)")
        db.execute("INSERT INTO notes VALUES ('the quick fox')")

    await store.transaction(write)
    assert await store.read(search) == [("the quick fox",)]
    with pytest.raises(TransactionMisuse):
        await store.read(lambda db: db.execute("INSERT INTO notes (notes) VALUES ('rebuild')"))


def _counting_within(db: Database) -> int:
    with db.savepoint():
        count: int = db.execute("SELECT count(*) FROM orders").fetchall()[0][0]
    return count


def _directly(store: AsyncSQLiteStore, sql: str) -> list[Any]:
    """Runs a statement on a connection of its own."""
    db = sqlite3.connect(store.path)
    try:
        found = db.execute(sql).fetchall()
        db.commit()
        return found
    finally:
        db.close()


async def _on_its_thread(store: AsyncSQLiteStore, sql: str) -> None:
    await on_thread(store, lambda db: db.execute(sql).fetchall())
