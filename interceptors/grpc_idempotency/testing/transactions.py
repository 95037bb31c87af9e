"""The contract for transactions of un-keyed calls, and for what their functions may do."""

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.testing.handlers import executing, opened
from grpc_idempotency.testing.harness import AsyncTransactionHarness
from grpc_idempotency.testing.raising import raises
from grpc_idempotency.transactions import Database

CONTROL = ("BEGIN", "COMMIT", "commit", " -- a comment\nROLLBACK", "SAVEPOINT x", "RELEASE SAVEPOINT x")


class TransactionContract:
    """Transactions of un-keyed calls, and what their functions may do."""

    async def test_a_transaction_answers_what_its_function_returned(self, harness: AsyncTransactionHarness) -> None:
        """The function's result is returned once its rows are committed, so that others see them."""
        store, orders = await opened(harness)
        assert await store.transaction(orders.insert("a")) == "a"
        assert await orders.names(await harness.store()) == ["a"]

    async def test_whatever_the_function_raises_rolls_back(self, harness: AsyncTransactionHarness) -> None:
        """The error is raised unchanged, even if it is no ``Exception``; the store continues to work."""
        store, orders = await opened(harness)
        for error in (KeyError, _Odd):
            with raises(error):
                await store.transaction(_raising(orders.insert("a"), error("mine")))
            assert await orders.names(store) == []

    async def test_an_error_in_a_savepoint_takes_back_what_was_done_there(
        self, harness: AsyncTransactionHarness
    ) -> None:
        """An error that is caught outside of a savepoint rolls back only the changes in it, at any depth."""
        store, orders = await opened(harness)
        await store.transaction(orders.insert("there"))

        def fn(db: Database) -> str:
            orders.insert("a")(db)
            with db.savepoint():
                orders.insert("b")(db)
                with suppress(db.IntegrityError), db.savepoint():
                    orders.insert("c", "there")(db)
                with suppress(ZeroDivisionError), db.savepoint():
                    orders.insert("d")(db)
                    with db.savepoint():
                        orders.insert("e")(db)
                    raise ZeroDivisionError
                orders.insert("f")(db)
            return "done"

        assert await store.transaction(fn) == "done"
        assert await orders.names(store) == ["a", "b", "f", "there"]

    async def test_an_error_that_leaves_all_savepoints_rolls_back(self, harness: AsyncTransactionHarness) -> None:
        """An error that leaves all savepoints rolls the transaction back; the driver's own error is raised."""
        store, orders = await opened(harness)
        errors: list[type[Exception]] = []

        def fn(db: Database) -> None:
            errors.append(db.IntegrityError)
            orders.insert("a")(db)
            with db.savepoint():
                orders.insert("a")(db)

        answers = await asyncio.gather(store.transaction(fn), return_exceptions=True)
        assert isinstance(answers[0], errors[0])
        assert await orders.names(store) == []

    async def test_the_view_has_the_errors_of_its_driver(self, harness: AsyncTransactionHarness) -> None:
        """The view has all errors of PEP 249, in their hierarchy."""
        store, _ = await opened(harness)

        def fn(db: Database) -> None:
            for error in (db.DataError, db.OperationalError, db.IntegrityError, db.InternalError, db.ProgrammingError):
                assert issubclass(error, db.DatabaseError)
            assert issubclass(db.NotSupportedError, db.DatabaseError)
            assert issubclass(db.DatabaseError, db.Error)
            assert issubclass(db.InterfaceError, db.Error)
            assert issubclass(db.Warning, Exception)

        await store.transaction(fn)

    async def test_rows_are_fetched_already(self, harness: AsyncTransactionHarness) -> None:
        """Rows are tuples, and stay as they were read; ``rowcount`` counts the rows that a statement changed."""
        store, orders = await opened(harness)

        def fn(db: Database) -> None:
            assert db.executemany(orders.insertion, [("a",), ("b",), ("c",), ("d",)]).rowcount == 4
            rows = db.execute("SELECT id FROM orders ORDER BY id")
            assert (db.execute("DELETE FROM orders WHERE id > 'b'").rowcount, rows.rowcount) == (2, -1)
            assert rows.fetchone() == ("a",)
            assert rows.fetchall() == [("b",), ("c",), ("d",)]
            assert (rows.fetchone(), rows.fetchall()) == (None, [])

        await store.transaction(fn)
        assert await orders.names(store) == ["a", "b"]

    async def test_the_function_runs_in_its_callers_context(self, harness: AsyncTransactionHarness) -> None:
        """The function has the caller's context variables, on another thread than the loop's."""
        store, _ = await opened(harness)
        variable = contextvars.ContextVar("variable", default="")
        variable.set("set")
        value, thread = await store.transaction(lambda _: (variable.get(), threading.get_ident()))
        assert value == "set"
        assert thread != threading.get_ident()

    async def test_a_transaction_is_not_harmed_by_others_failures(self, harness: AsyncTransactionHarness) -> None:
        """If every third of 60 concurrent transactions fails, the rows of the others are stored, and no more."""
        store, orders = await opened(harness)
        calls = []
        for n in range(60):
            fn = orders.insert(f"{n:02}", f"{n:02}-item")
            calls.append(store.transaction(fn if n % 3 else _raising(fn, ValueError(n))))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(answer, ValueError) for answer in answers] == [n % 3 == 0 for n in range(60)]
        kept = [f"{n:02}{end}" for n in range(60) if n % 3 for end in ("", "-item")]
        assert await orders.names(store) == kept

    async def test_a_cancelled_callers_transaction_is_whole(self, harness: AsyncTransactionHarness) -> None:
        """Either all rows of a cancelled transaction are stored, or none."""
        store, orders = await opened(harness)
        tasks = [asyncio.create_task(store.transaction(orders.insert(f"{n:02}a", f"{n:02}b"))) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        names = await orders.names(store)
        kept = {name[:-1] for name in names}
        assert names == sorted(name + half for name in kept for half in "ab")
        assert kept >= {f"{n:02}" for n in range(1, 50, 2)}

    async def test_transaction_control_is_refused(self, harness: AsyncTransactionHarness) -> None:
        """Only the store ends a transaction. Earlier changes of a transaction that tries to are rolled back."""
        store, orders = await opened(harness)
        for sql in CONTROL:
            with raises(TransactionMisuse):
                await store.transaction(_both(orders.insert("a"), executing(sql)))
            with raises(TransactionMisuse):
                await store.transaction(_both(orders.insert("a"), _executing_many(sql)))
        assert await orders.names(store) == []

    async def test_several_statements_in_one_are_refused(self, harness: AsyncTransactionHarness) -> None:
        """Several statements in one string raise an error of the driver's, and none of them is run."""
        store, orders = await opened(harness)
        await store.transaction(orders.insert("a"))

        def fn(db: Database) -> None:
            with raises(db.Error, db.Warning, TransactionMisuse), db.savepoint():
                db.execute("DELETE FROM orders; COMMIT")
            raise ZeroDivisionError

        with raises(ZeroDivisionError, TransactionMisuse):
            await store.transaction(fn)
        assert await orders.names(store) == ["a"]

    async def test_a_function_that_awaits_is_refused(self, harness: AsyncTransactionHarness) -> None:
        """A coroutine function is refused, and so is one that returns an awaitable; its rows are rolled back."""
        store, orders = await opened(harness)

        async def fn(_: Database) -> None: ...

        def hidden(db: Database) -> Any:
            orders.insert("a")(db)
            return fn(db)

        with raises(TransactionMisuse):
            await store.transaction(fn)  # type: ignore[unused-coroutine]  # that is the mistake
        with raises(TransactionMisuse):
            await store.transaction(hidden)
        assert await orders.names(store) == []

    async def test_the_view_is_dead_behind_its_function(self, harness: AsyncTransactionHarness) -> None:
        """A view can't be used after its function has ended, also if the function raised, or belonged to a read."""
        store, orders = await opened(harness)
        views: list[Database] = []
        await store.transaction(lambda db: views.append(db))
        await store.read(lambda db: views.append(db))
        with raises(ValueError):
            await store.transaction(_raising(views.append, ValueError("over")))
        assert len(views) == 3
        for view in views:
            with raises(TransactionMisuse):
                view.execute("SELECT id FROM orders")
            with raises(TransactionMisuse):
                view.executemany(orders.insertion, [("a",)])
        assert await orders.names(store) == []

    async def test_calls_of_a_store_within_a_function_are_refused(self, harness: AsyncTransactionHarness) -> None:
        """In an event loop that the function waits for, calls of any store on the database are refused."""
        store, orders = await opened(harness)
        other = await harness.store()
        await other.open()

        def fn(db: Database) -> str:
            for called in (store, other):
                with raises(TransactionMisuse):
                    asyncio.run(_asked(called))
            return orders.insert(os.urandom(8).hex())(db)

        name = await store.transaction(fn)
        assert await orders.names(store) == [name]


class _Odd(BaseException):
    pass


async def _asked(store: Any) -> None:
    await store.get(os.urandom(16))


def _both(one: Callable[[Database], object], other: Callable[[Database], object]) -> Callable[[Database], None]:
    def fn(db: Database) -> None:
        one(db)
        other(db)

    return fn


def _executing_many(sql: str) -> Callable[[Database], object]:
    return lambda db: db.executemany(sql, [()])


def _raising(fn: Callable[[Database], object], error: BaseException) -> Callable[[Database], None]:
    def failing(db: Database) -> None:
        fn(db)
        raise error

    return failing
