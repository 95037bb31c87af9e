"""The contract for the identity of a store, by which a transaction finds its operation (5.1)."""

from grpc_idempotency.testing.handlers import keyed, opened, outcome_of
from grpc_idempotency.testing.harness import AsyncTransactionHarness
from grpc_idempotency.testing.states import put_running, record_of


class IdentityContract:
    """The identity of a store, and operations of another store on the same database."""

    async def test_stores_on_one_database_have_one_identity(self, harness: AsyncTransactionHarness) -> None:
        """It is known from the first opening on, also once the store is closed."""
        one, other = await harness.store(), await harness.store()
        assert (one.identity, other.identity) == (None, None)
        await one.open()
        await other.open()
        identity = one.identity
        assert identity
        assert other.identity == identity
        await one.close()
        assert one.identity == identity

    async def test_a_handler_may_use_a_store_that_is_not_open(self, harness: AsyncTransactionHarness) -> None:
        """The transaction opens it, and then belongs to the operation, whose record another store has claimed."""
        store, orders = await opened(harness)
        claim = await put_running(store)
        handlers = await harness.store()
        async with keyed(store, claim) as operation:
            assert await handlers.transaction(orders.insert("a")) == "a"
        assert operation.committed == outcome_of("a")
        assert (await record_of(store, claim)).outcome == outcome_of("a")
        assert await orders.names(store) == ["a"]
