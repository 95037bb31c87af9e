"""The contract for fences, and for releases, after which a fence is invalid."""

import os

from grpc_idempotency.testing.harness import AsyncStoreHarness
from grpc_idempotency.testing.makers import OUTCOME, a_claim
from grpc_idempotency.testing.states import assert_refused, put_completed, put_held, put_running, put_waiting, record_of


class FenceContract:
    """Fences, and releases, after which a fence is invalid."""

    async def test_another_fence_is_refused_in_every_state(self, harness: AsyncStoreHarness) -> None:
        """A call under another fence than the record's is refused and changes nothing, in every state."""
        store = await harness.store()
        for prepare in (put_running, put_held, put_waiting, put_completed):
            claim = await prepare(store)
            await assert_refused(store, claim.name, os.urandom(16))
        await assert_refused(store, os.urandom(16), os.urandom(16))

    async def test_a_fence_is_refused_under_another_name(self, harness: AsyncStoreHarness) -> None:
        """A fence is valid only for the operation that it was claimed for."""
        store = await harness.store()
        one, other = await put_running(store), await put_running(store)
        await assert_refused(store, one.name, other.fence)

    async def test_a_release_makes_the_operation_absent(self, harness: AsyncStoreHarness) -> None:
        """A released running or held record is absent; its fence stays invalid when the operation is claimed again."""
        store = await harness.store()
        for prepare in (put_running, put_held):
            first = await prepare(store)
            assert await store.release(first.name, first.fence) is True
            assert await store.get(first.name) is None
            await assert_refused(store, first.name, first.fence)
            second = a_claim(first.name)
            assert await store.claim(second) is None
            assert (await record_of(store, second)).attempts == 1
            await assert_refused(store, first.name, first.fence)

    async def test_a_completed_record_is_not_released(self, harness: AsyncStoreHarness) -> None:
        """A completed record is not released under its own fence either."""
        store = await harness.store()
        claim = await put_completed(store)
        assert await store.release(claim.name, claim.fence) is False
        assert (await record_of(store, claim)).outcome == OUTCOME
