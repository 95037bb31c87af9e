"""The contract for the end of leases, and for their renewal."""

import os

from grpc_idempotency.records import Renewal, State
from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import LEASE, TICK, a_claim
from grpc_idempotency.testing.states import put_completed, put_held, put_running, put_waiting, record_of


class LeaseContract:
    """The end of leases, and their renewal."""

    async def test_a_lease_lapses_at_its_instant(self, harness: AsyncStoreHarness) -> None:
        """A lease is live until just before ``lease`` has passed, and has run out from then on."""
        store = await harness.store()
        claim = await put_running(store)
        await harness.elapse(LEASE - TICK)
        assert not (await record_of(store, claim)).lapsed
        await harness.elapse(TICK)
        assert (await record_of(store, claim)).lapsed
        assert (await record_of(store, claim)).state is State.RUNNING

    async def test_a_renewed_lease_ends_so_long_from_now(self, harness: AsyncStoreHarness) -> None:
        """A renewed lease ends ``lease`` from now, not from its previous end."""
        store = await harness.store()
        claim = await put_running(store)
        await harness.elapse(LEASE / 2)
        assert await store.renew(claim.name, claim.fence, LEASE) is Renewal.RENEWED
        await harness.elapse(LEASE - TICK)
        assert not (await record_of(store, claim)).lapsed
        await harness.elapse(TICK)
        assert (await record_of(store, claim)).lapsed

    async def test_a_lapsed_lease_can_be_renewed(self, harness: AsyncStoreHarness) -> None:
        """A lapsed lease can be renewed as long as nobody took over, and then nobody can take over."""
        store = await harness.store()
        claim = await put_running(store)
        await harness.elapse(LEASE * 2)
        assert await store.renew(claim.name, claim.fence, LEASE) is Renewal.RENEWED
        assert not (await record_of(store, claim)).lapsed
        assert await store.claim(a_claim(claim.name), over=claim.fence) is not None

    async def test_a_renewal_may_shorten_a_lease(self, harness: AsyncStoreHarness) -> None:
        """The lease ends ``lease`` from now, whatever its end was before."""
        store = await harness.store()
        claim = await put_running(store)
        assert await store.renew(claim.name, claim.fence, TICK) is Renewal.RENEWED
        await harness.elapse(TICK)
        assert (await record_of(store, claim)).lapsed

    async def test_only_running_records_are_renewed(self, harness: AsyncStoreHarness) -> None:
        """``renew`` returns ``LOST`` for held, waiting, completed and absent records."""
        store = await harness.store()
        for prepare in (put_held, put_waiting, put_completed):
            claim = await prepare(store)
            record = await record_of(store, claim)
            assert await store.renew(claim.name, claim.fence, LEASE) is Renewal.LOST
            assert await record_of(store, claim) == record
        assert await store.renew(os.urandom(16), os.urandom(16), LEASE) is Renewal.LOST
