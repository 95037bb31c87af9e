"""The contract for reads of the handler's rows."""

import asyncio
from contextlib import suppress

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.testing.handlers import executing, keyed, opened
from grpc_idempotency.testing.harness import AsyncTransactionHarness
from grpc_idempotency.testing.raising import raises
from grpc_idempotency.testing.states import put_running
from grpc_idempotency.transactions import Database

WRITES = (
    "INSERT INTO orders VALUES ('b')",
    "UPDATE orders SET id = 'b'",
    "DELETE FROM orders",
    "CREATE TABLE more (id INTEGER)",
    "DROP TABLE orders",
)


class ReadContract:
    """Reads of the handler's rows."""

    async def test_a_read_is_no_reply(self, harness: AsyncTransactionHarness) -> None:
        """A keyed call may read as often as it likes, and can still make its one transaction."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim) as operation:
            for _ in range(2):
                assert await store.read(lambda db: db.execute("SELECT count(*) FROM orders").fetchone()) == (0,)
            assert operation.committed is None
            assert await store.transaction(orders.insert("a")) == "a"
            assert await orders.names(store) == ["a"]
        assert operation.committed is not None

    async def test_a_read_does_not_write(self, harness: AsyncTransactionHarness) -> None:
        """A read changes neither rows nor tables, whether its function catches the error or not."""
        store, orders = await opened(harness)
        await store.transaction(orders.insert("a"))
        for sql in WRITES:

            def caught(db: Database, sql: str = sql) -> None:
                with raises(TransactionMisuse):
                    db.execute(sql)

            with raises(TransactionMisuse):
                await store.read(executing(sql))
            with suppress(TransactionMisuse):
                await store.read(caught)
            assert await orders.names(store) == ["a"]
        await store.transaction(executing("CREATE TABLE more (id INTEGER)"))

    async def test_a_read_raises_what_its_function_raises(self, harness: AsyncTransactionHarness) -> None:
        """A read raises its function's error unchanged, and refuses a function that awaits."""
        store, _ = await opened(harness)

        async def fn(_: Database) -> None: ...

        with raises(ZeroDivisionError):
            await store.read(lambda _: 1 // 0)
        with raises(TransactionMisuse):
            await store.read(fn)  # type: ignore[unused-coroutine]  # that is the mistake

    async def test_a_read_disturbs_no_transaction(self, harness: AsyncTransactionHarness) -> None:
        """Concurrent reads and transactions get their own answers, also if a read is refused."""
        store, orders = await opened(harness)
        answers = await asyncio.gather(
            store.transaction(orders.insert("a")),
            store.read(orders.insert("b")),
            store.transaction(orders.insert("c")),
            store.read(lambda _: "d"),
            return_exceptions=True,
        )
        assert isinstance(answers[1], TransactionMisuse)
        assert (answers[0], *answers[2:]) == ("a", "c", "d")
        assert await orders.names(store) == ["a", "c"]
