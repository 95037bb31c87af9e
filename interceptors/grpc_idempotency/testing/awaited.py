"""The contract for a keyed call's transaction that is awaited in another task, or not at all."""

import asyncio

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.records import State
from grpc_idempotency.testing.handlers import keyed, opened, outcome_of
from grpc_idempotency.testing.harness import AsyncTransactionHarness
from grpc_idempotency.testing.raising import raises
from grpc_idempotency.testing.states import put_running, record_of
from grpc_idempotency.transactions import Database


class AwaitedContract:
    """A keyed call's transaction that is awaited in another task, or not at all. Only for asyncio stores."""

    async def test_the_handlers_end_waits_for_its_transaction(self, harness: AsyncTransactionHarness) -> None:
        """If a cancelled caller leaves its transaction behind, the operation's outcome in the end is the stored one."""
        store, orders = await opened(harness)
        claim, loop, runs = await put_running(store), asyncio.get_running_loop(), asyncio.Event()

        def fn(db: Database) -> str:
            loop.call_soon_threadsafe(runs.set)
            return orders.insert("a")(db)

        async with keyed(store, claim) as operation:
            task = asyncio.create_task(store.transaction(fn))
            await runs.wait()
            task.cancel()
            await asyncio.wait([task])
        outcome, names = (await record_of(store, claim)).outcome, await orders.names(store)
        assert (operation.committed, outcome, names) in ((outcome_of("a"), outcome_of("a"), ["a"]), (None, None, []))

    async def test_a_transaction_that_comes_too_late_is_refused(self, harness: AsyncTransactionHarness) -> None:
        """A transaction that the handler made, but that is first awaited after the handler has ended, is refused."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim):
            late = store.transaction(orders.insert("late"))
        with raises(TransactionMisuse):
            await late
        assert await orders.names(store) == []
        assert (await record_of(store, claim)).state is State.RUNNING

    async def test_whose_a_transaction_is_is_decided_when_it_is_called(self, harness: AsyncTransactionHarness) -> None:
        """The handler's transaction commits the reply, wherever it is awaited."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        async with keyed(store, claim) as operation:
            assert await asyncio.create_task(store.transaction(orders.insert("a"))) == "a"
        assert operation.committed == outcome_of("a")
