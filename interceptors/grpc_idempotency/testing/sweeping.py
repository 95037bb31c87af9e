"""The contract for sweeps of expired records."""

from grpc_idempotency.records import Swept
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import TICK, TTL, a_claim
from grpc_idempotency.testing.states import (
    assert_refused,
    put_completed,
    put_held,
    put_running,
    put_waiting,
    record_of,
)


class SweepContract:
    """Sweeps of expired records."""

    async def test_a_sweep_deletes_what_is_expired_and_nothing_else(self, harness: AsyncStoreHarness) -> None:
        """A sweep deletes the expired records and no others, and returns their number."""
        store = await harness.store()
        for _ in range(3):
            await put_completed(store)
        await harness.elapse(TTL - TICK)
        assert await store.sweep() == Swept(deleted=0, more=False)
        kept = [await prepare(store) for prepare in (put_completed, put_running, put_held, put_waiting)]
        await harness.elapse(TICK)
        swept = await store.sweep()
        assert (swept.deleted, swept.more) == (3, False)
        assert [(await record_of(store, one)).fence for one in kept] == [one.fence for one in kept]

    async def test_a_sweep_is_one_batch(self, harness: AsyncStoreHarness) -> None:
        """A sweep deletes at most ``limit`` records, and returns whether there are more."""
        store = await harness.store()
        for _ in range(7):
            await put_completed(store)
        await harness.elapse(TTL)
        batches = [await store.sweep(limit=3) for _ in range(4)]
        assert [one.deleted for one in batches] == [3, 3, 1, 0]
        assert [one.more for one in batches] == [True, True, False, False]

    async def test_a_swept_operation_is_as_absent_as_an_expired_one(self, harness: AsyncStoreHarness) -> None:
        """The fence of a swept operation stays invalid, and the operation can be claimed."""
        store = await harness.store()
        claim = await put_completed(store)
        await harness.elapse(TTL)
        assert (await store.sweep()).deleted == 1
        await assert_refused(store, claim.name, claim.fence)
        assert await store.claim(a_claim(claim.name)) is None
