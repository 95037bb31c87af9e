"""The contract for held records."""

from grpc_idempotency.records import State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OUTCOME, TICK, TTL
from grpc_idempotency.testing.states import put_completed, put_held, put_running, put_waiting, record_of


class HeldContract:
    """Held records."""

    async def test_a_held_record_keeps_its_fence(self, harness: AsyncStoreHarness) -> None:
        """A held record keeps its fence, and has a reason, but no lease and no expiry."""
        store = await harness.store()
        claim = await put_running(store)
        assert await store.hold(claim.name, claim.fence, "its server died") is True
        record = await record_of(store, claim)
        assert (record.state, record.fence, record.reason) == (State.HELD, claim.fence, "its server died")
        assert (record.outcome, record.completed_at, record.expires_at) == (None, None, None)
        await harness.elapse(LEASE * 2)
        assert await record_of(store, claim) == record
        assert not record.lapsed

    async def test_a_held_record_is_resolved_by_its_owners_completion(self, harness: AsyncStoreHarness) -> None:
        """The owner was only slow, and its outcome is stored."""
        store = await harness.store()
        claim = await put_held(store)
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL) is not None
        record = await record_of(store, claim)
        assert (record.state, record.outcome, record.reason) == (State.COMPLETED, OUTCOME, "")
        assert not record.resolved

    async def test_only_running_records_are_held(self, harness: AsyncStoreHarness) -> None:
        """``hold`` returns ``False`` for held, waiting and completed records."""
        store = await harness.store()
        for prepare in (put_held, put_waiting, put_completed):
            claim = await prepare(store)
            record = await record_of(store, claim)
            assert await store.hold(claim.name, claim.fence, "another reason") is False
            assert await record_of(store, claim) == record

    async def test_lapsed_only_spares_a_live_lease(self, harness: AsyncStoreHarness) -> None:
        """``hold`` with ``lapsed_only`` returns ``False`` until the lease has run out, and ``True`` from then on."""
        store = await harness.store()
        claim = await put_running(store)
        await harness.elapse(LEASE - TICK)
        assert await store.hold(claim.name, claim.fence, "it seems dead", lapsed_only=True) is False
        assert (await record_of(store, claim)).state is State.RUNNING
        await harness.elapse(TICK)
        assert await store.hold(claim.name, claim.fence, "it seems dead", lapsed_only=True) is True
        assert (await record_of(store, claim)).state is State.HELD
