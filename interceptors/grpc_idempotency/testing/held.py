"""The contract for held records, which an operator has to resolve."""

from datetime import timedelta

from grpc_idempotency.records import State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, OTHER_OUTCOME, OUTCOME, TICK, TTL
from grpc_idempotency.testing.states import assert_refused, put_completed, put_held, put_running, put_waiting, record_of


class HeldContract:
    """Held records, which an operator has to resolve."""

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

    async def test_an_operator_can_complete_a_held_record(self, harness: AsyncStoreHarness) -> None:
        """The record is completed with the operator's outcome, and expires ``ttl`` from now."""
        store = await harness.store()
        claim = await put_held(store)
        await harness.elapse(timedelta(days=2))
        assert await store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL) is not None
        record = await record_of(store, claim)
        assert (record.state, record.outcome, record.reason) == (State.COMPLETED, OTHER_OUTCOME, "")
        assert record.resolved
        await harness.elapse(TTL - TICK)
        assert await store.get(claim.name) == record
        await harness.elapse(TICK)
        assert await store.get(claim.name) is None

    async def test_an_operator_can_say_that_it_never_happened(self, harness: AsyncStoreHarness) -> None:
        """The operation is absent again, and its fence is spent."""
        store = await harness.store()
        claim = await put_held(store)
        assert await store.resolve(claim.name, claim.fence, None, TTL) is True
        assert await store.get(claim.name) is None
        await assert_refused(store, claim.name, claim.fence)

    async def test_only_held_records_are_resolved(self, harness: AsyncStoreHarness) -> None:
        """``resolve`` returns ``False`` for running, lapsed, waiting and completed records."""
        store = await harness.store()
        for prepare in (put_running, put_waiting, put_completed):
            claim = await prepare(store)
            await harness.elapse(LEASE * 2)
            record = await record_of(store, claim)
            assert await store.resolve(claim.name, claim.fence, OTHER_OUTCOME, TTL) is False
            assert await store.resolve(claim.name, claim.fence, None, TTL) is False
            assert await record_of(store, claim) == record
